//! Wasm in files named by the SHA-256 of their content. A file is there whole or not at all: it is
//! written under another name, fsynced, renamed, and the directory is fsynced.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{State, StoreError};

/// End of the names of files that are not complete.
const PARTIAL: &str = ".partial";

#[derive(Debug)]
pub(super) struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(StoreError::io(format!("making {}", directory.display())))?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(format!("{digest}.wasm"))
    }

    /// Stores content; the answer is its name, and whether it was not there before.
    pub(super) fn write(&self, content: &[u8]) -> Result<(String, bool), StoreError> {
        let digest = hex(&Sha256::digest(content));
        let path = self.path(&digest);
        if self.read(&digest).is_ok() {
            return Ok((digest, false));
        }
        let partial = self.directory.join(format!("{digest}{PARTIAL}"));
        let write = || {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        match write() {
            Ok(()) => Ok((digest, true)),
            Err(error) => {
                drop(fs::remove_file(&partial));
                drop(fs::remove_file(&path));
                Err(StoreError::io(format!("writing {}", path.display()))(error))
            }
        }
    }

    pub(super) fn read(&self, digest: &str) -> Result<Arc<[u8]>, StoreError> {
        let path = self.path(digest);
        let content = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::Blob(format!("blobs/{digest}.wasm is missing")),
            _ => StoreError::io(format!("reading {}", path.display()))(error),
        })?;
        if hex(&Sha256::digest(&content)) != digest {
            return Err(StoreError::Blob(format!(
                "blobs/{digest}.wasm is not what was stored: its SHA-256 is another"
            )));
        }
        Ok(content.into())
    }

    /// Whether there is any content.
    pub(super) fn is_empty(&self) -> Result<bool, StoreError> {
        let io = || StoreError::io(format!("reading {}", self.directory.display()));
        Ok(fs::read_dir(&self.directory).map_err(io())?.next().is_none())
    }

    /// Removes content that nothing refers to any more. What cannot be removed now is removed by
    /// the next [`Self::sweep`].
    pub(super) fn remove(&self, digest: &str) {
        if let Err(error) = fs::remove_file(self.path(digest)) {
            tracing::warn!(digest, "cannot remove Wasm that is not used any more: {error}");
        }
    }

    /// Removes what an earlier host left half done.
    pub(super) fn sweep(&self, state: &State) -> Result<(), StoreError> {
        let used: BTreeSet<_> = state.digests().map(|digest| format!("{digest}.wasm")).collect();
        let io = || StoreError::io(format!("reading {}", self.directory.display()));
        for entry in fs::read_dir(&self.directory).map_err(io())? {
            let entry = entry.map_err(io())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.ends_with(PARTIAL) || name.ends_with(".wasm");
            if ours && !used.contains(&name) {
                tracing::info!(name, "removing Wasm that no function refers to");
                drop(fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
