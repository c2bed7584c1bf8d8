//! What the host remembers: tenants, functions with their versions, chains, tokens, steering rules.
//!
//! All of it is small but for the Wasm, so it is held in memory as an immutable [`State`] that
//! readers share, and redb holds the same on disk. A change is made on a copy; the records that it
//! touched are written in one transaction, fsynced, and only then does everybody see the copy. So
//! what was acknowledged is on disk, whole, and what was not is nowhere. Wasm lies in files named
//! by its SHA-256 (`blobs`).
//!
//! After a failed write (a full disk) the database is opened anew for the next one, and brought to
//! what memory says. Why redb: `docs/adr/0002-store.md`.

mod blobs;
mod error;
mod records;

pub(crate) use blobs::hex;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::backends::InMemoryBackend;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _, TableDefinition,
};

use blobs::Blobs;
pub use error::StoreError;
pub use records::{
    ChainId, ChainRecord, FunctionId, FunctionRecord, Running, State, SteeringRecord, TenantRecord,
    TokenRecord, Trial, VersionRecord,
};

/// Everything: key `KIND/…`, value JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// Name of the database.
const DATABASE: &str = "weir.redb";
/// Key of the number of the format.
const FORMAT_KEY: &str = "format";
/// Raised when older versions of Weir could not read what we write: 2 has steering rules; 3 has
/// chains of messages and of both planes, `workers`, `per-worker`, `targets`, `flow-verdicts`,
/// `timeout`, and instances of `wasi:http/proxy`. All before it are read. A test knows what records
/// consist of, so that nothing is added without this being thought of.
const FORMAT: u32 = 3;
/// Bytes that must stay free on the disk: the database needs room to change anything at all.
const RESERVE: u64 = 2 << 20;
/// Bytes by which records that are there may grow with a change that takes no room: what goes, or
/// goes back, is to be had on a full disk, too.
const SMALL: usize = 1024;

/// See the module. All methods may be called from any thread; they block on the disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    blobs: Blobs,
    state: RwLock<Arc<State>>,
    /// Bytes that must stay free.
    reserve: u64,
    /// One change at a time. None: has to be opened anew.
    database: Mutex<Option<Database>>,
    /// Whether the last write failed.
    failed: AtomicBool,
    /// Held as long as we live.
    _lock: File,
}

type Encoded = BTreeMap<String, Vec<u8>>;

impl Store {
    /// Opens the store in this directory, or makes it.
    ///
    /// # Errors
    /// When another host has it open, it was written by a newer version, or the disk fails.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let io = |what: &str| StoreError::io(format!("{what} {}", directory.display()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io("making the store's directory"))?;
        let lock = lock(&directory.join("lock"), directory)?;
        let blobs = Blobs::open(&directory.join("blobs"))?;
        let path = directory.join(DATABASE);
        if path.exists() {
            check_database(&path)?;
        } else if blobs.is_empty()? {
            create_database(directory)?;
        } else {
            // A new one knows no function, and all Wasm would be removed.
            return Err(StoreError::Corrupt(format!(
                "{} is missing, but there is Wasm beside it in `blobs` (who wants to begin anew removes that)",
                path.display()
            )));
        }
        let database = open_database(&path)?;
        let records = load(&database)?;
        let written = format(&records)?;
        let state = decode(&records, written)?;
        if written != FORMAT {
            let format = FORMAT.to_string().into_bytes();
            write(&database, &[], &Encoded::from([(FORMAT_KEY.to_owned(), format)]))?;
        }
        blobs.sweep(&state)?;
        Ok(Self {
            directory: directory.to_owned(),
            blobs,
            state: RwLock::new(Arc::new(state)),
            reserve: RESERVE,
            database: Mutex::new(Some(database)),
            failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// What is remembered now.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes it, durably, or not at all.
    ///
    /// # Errors
    /// What `change` says, or why it could not be written.
    pub fn change<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut database = self.database();
        self.commit(&mut database, change)
    }

    /// Whether there is room for changes. Ask before the data plane is changed.
    ///
    /// # Errors
    /// When there is not.
    pub fn has_room(&self) -> Result<(), StoreError> {
        self.check_space(0)
    }

    /// Whether it takes changes, as far as that is known: a disk on which the last write failed is
    /// tried again.
    ///
    /// # Errors
    /// When it does not.
    pub fn takes_changes(&self) -> Result<(), StoreError> {
        self.has_room()?;
        if self.failed.load(Ordering::Relaxed) { self.can_write() } else { Ok(()) }
    }

    /// Whether something can be removed: that takes no room that is kept free, but a write that the
    /// disk takes. As [`Self::has_room`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn can_shrink(&self) -> Result<(), StoreError> {
        if self.has_room().is_ok() {
            return Ok(());
        }
        self.can_write()
    }

    /// Whether the disk takes writes at all.
    ///
    /// # Errors
    /// When it does not.
    pub fn can_write(&self) -> Result<(), StoreError> {
        let (mut slot, state) = (self.database(), self.state());
        let format = Encoded::from([(FORMAT_KEY.to_owned(), FORMAT.to_string().into_bytes())]);
        self.write(&mut slot, &state, &[], &format).inspect_err(|_| *slot = None)
    }

    /// Stores Wasm, and then changes what is remembered, durably, or not at all. `change` is given
    /// the content's name.
    ///
    /// # Errors
    /// What `change` says, or why it could not be written.
    pub fn add_wasm<T, E: From<StoreError>>(
        &self,
        wasm: &[u8],
        change: impl FnOnce(&mut State, &str) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut database = self.database();
        self.check_space(wasm.len() as u64)?;
        let (digest, new) = self.blobs.write(wasm)?;
        let done = self.commit(&mut database, |state| change(state, &digest));
        // What mended a damaged file is wanted whatever became of the change.
        if done.is_err() && new && !self.state().digests().any(|known| known == digest) {
            self.blobs.remove(&digest);
        }
        done
    }

    /// The Wasm of this digest.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was stored.
    pub fn wasm(&self, digest: &str) -> Result<Arc<[u8]>, StoreError> {
        self.blobs.read(digest)
    }

    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit<T, E: From<StoreError>>(
        &self,
        slot: &mut Option<Database>,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.state();
        let mut after = State::clone(&before);
        let answer = change(&mut after)?;
        let (old, new) = before.differences(&after);
        let removed: Vec<_> = old.keys().filter(|key| !new.contains_key(*key)).collect();
        let added: Encoded = new.into_iter().map(|(key, record)| (key, record.encode())).collect();
        if let Err(full) = self.check_space(0) {
            let taken: usize = added.values().map(Vec::len).sum();
            let given: usize = old.values().map(|record| record.encode().len()).sum();
            if taken > given + SMALL || added.keys().any(|key| !old.contains_key(key)) {
                return Err(full.into());
            }
        }
        if let Err(error) = self.write(slot, &before, &removed, &added) {
            *slot = None;
            return Err(error.into());
        }
        let unused = before.digests_not_in(&after);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        for digest in unused {
            self.blobs.remove(&digest);
        }
        Ok(answer)
    }

    fn write(
        &self,
        slot: &mut Option<Database>,
        before: &State,
        removed: &[&String],
        added: &Encoded,
    ) -> Result<(), StoreError> {
        let mut done = || {
            let database = match slot {
                Some(database) => database,
                None => slot.insert(self.reopen(before)?),
            };
            write(database, removed, added)
        };
        let done = done();
        self.failed.store(done.is_err(), Ordering::Relaxed);
        done
    }

    /// Opens the database again after a failure, and makes it say what memory says: a transaction
    /// that failed may have reached the disk nevertheless.
    fn reopen(&self, state: &State) -> Result<Database, StoreError> {
        let database = open_database(&self.directory.join(DATABASE))?;
        let (found, wanted) = (load(&database)?, encode(state));
        let removed: Vec<_> = found.keys().filter(|key| !wanted.contains_key(*key)).collect();
        let added: Encoded = wanted
            .iter()
            .filter(|(k, v)| found.get(*k) != Some(*v))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if !removed.is_empty() || !added.is_empty() {
            write(&database, &removed, &added)?;
        }
        Ok(database)
    }

    fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let stat = rustix::fs::statvfs(&self.directory).map_err(|e| {
            StoreError::io(format!("looking at {}", self.directory.display()))(e.into())
        })?;
        let free = stat.f_bavail * stat.f_frsize;
        let needed = needed.saturating_add(self.reserve);
        if free < needed {
            return Err(StoreError::Full { path: self.directory.clone(), free, needed });
        }
        Ok(())
    }
}

/// Takes the lock file, or says who has it.
fn lock(path: &Path, directory: &Path) -> Result<File, StoreError> {
    let io = |e| StoreError::io(format!("locking {}", path.display()))(e);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(io)?;
            let path = directory.to_owned();
            return Err(StoreError::InUse { path, process: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    // Who we are is for people only: a full disk does not matter here.
    drop(
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id())),
    );
    Ok(file)
}

/// Makes the database under another name, so that a host that is killed here leaves nothing half.
fn create_database(directory: &Path) -> Result<(), StoreError> {
    let (partial, path) = (directory.join("weir.redb.partial"), directory.join(DATABASE));
    let io = || StoreError::io(format!("making {}", path.display()));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io()(error)),
        _ => {}
    }
    // Its owner's alone, whoever may look into the directory.
    File::options().write(true).create_new(true).mode(0o600).open(&partial).map_err(io())?;
    write(&open_database(&partial)?, &[], &encode(&State::new()))?;
    fs::rename(&partial, &path).map_err(io())?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io())
}

/// Looks at a copy in memory whether all that the database has is what was written: opening it does
/// not, and a check of the file itself would repair it, which may go back behind what was
/// acknowledged. After a crash the last change counts as never made if it is not whole.
fn check_database(path: &Path) -> Result<(), StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io(format!("reading {}", path.display())))?;
    let check = || -> Result<(), redb::Error> {
        let copy = InMemoryBackend::new();
        copy.set_len(bytes.len() as u64)?;
        copy.write(0, &bytes)?;
        Database::builder().set_check_integrity_on_open(true).create_with_backend(copy)?;
        Ok(())
    };
    check().map_err(|error| match error {
        redb::Error::Corrupted(what) => {
            StoreError::Corrupt(format!("{} is not what was written: {what}", path.display()))
        }
        error => StoreError::database(path, error),
    })
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    Database::create(path).map_err(|e| StoreError::database(path, e.into()))
}

fn load(database: &Database) -> Result<Encoded, StoreError> {
    let read = || -> Result<Encoded, redb::Error> {
        let transaction = database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Encoded::new()),
            Err(error) => return Err(error.into()),
        };
        let mut records = Encoded::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            records.insert(key.value().to_owned(), value.value().to_owned());
        }
        Ok(records)
    };
    read().map_err(|e| StoreError::database(Path::new(DATABASE), e))
}

fn write(database: &Database, removed: &[&String], added: &Encoded) -> Result<(), StoreError> {
    let write = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for key in removed {
                table.remove(key.as_str())?;
            }
            for (key, value) in added {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    };
    write().map_err(|e| StoreError::database(Path::new(DATABASE), e))
}

/// The whole state as records, for the first write and for repair.
fn encode(state: &State) -> Encoded {
    let nothing = State::default();
    let (_, all) = nothing.differences(state);
    let mut records: Encoded =
        all.into_iter().map(|(key, record)| (key, record.encode())).collect();
    records.insert(FORMAT_KEY.to_owned(), FORMAT.to_string().into_bytes());
    records
}

/// The format in which records were written: one that we know. Nothing else tells a store of a
/// newer version from one that is damaged.
fn format(records: &Encoded) -> Result<u32, StoreError> {
    let format = records.get(FORMAT_KEY).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    match format {
        Some(known @ 1..=FORMAT) => Ok(known),
        Some(found) => Err(StoreError::Format { found, known: FORMAT }),
        None => Err(StoreError::Corrupt("its record `format` is no number, or missing".into())),
    }
}

fn decode(records: &Encoded, format: u32) -> Result<State, StoreError> {
    let mut state = State::default();
    for (key, value) in records {
        if key != FORMAT_KEY {
            let damaged = |why| StoreError::Record { key: key.clone(), format, why };
            state.decode(key, value).map_err(damaged)?;
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
