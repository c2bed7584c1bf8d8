use std::collections::btree_map::Entry;

use super::*;
use semver::Version;
use sha2::{Digest as _, Sha256};
use weir_spec::{CheckReport, Name};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn id(text: &str) -> FunctionId {
    FunctionId::new(&Name::default_tenant(), &name(text))
}

fn push(store: &Store, function: &str, version: Version, wasm: &[u8]) -> Result<(), StoreError> {
    store.add_wasm(wasm, |state, digest| {
        let record = VersionRecord {
            digest: digest.to_owned(),
            bytes: wasm.len() as u64,
            report: CheckReport::default(),
            created: 1,
            withdrawn: None,
        };
        let slot = state.functions.entry(id(function)).or_default();
        Arc::make_mut(slot).versions.insert(version, record);
        Ok(())
    })
}

fn blob_count(directory: &Path) -> usize {
    fs::read_dir(directory.join("blobs")).unwrap().count()
}

#[test]
fn what_was_changed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"one").unwrap();
    push(&store, "a", Version::new(1, 1, 0), b"two").unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let state = store.state();
    assert!(state.tenants.contains_key("default".parse::<Name>().as_ref().unwrap()));
    let versions = &state.functions[&id("a")].versions;
    assert_eq!(&*store.wasm(&versions[&Version::new(1, 1, 0)].digest).unwrap(), b"two");
    assert_eq!(state.functions[&id("a")].newest(), Some(&Version::new(1, 1, 0)));
}

#[test]
fn wasm_is_stored_once_and_removed_with_its_last_user() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"same").unwrap();
    push(&store, "b", Version::new(1, 0, 0), b"same").unwrap();
    assert_eq!(blob_count(directory.path()), 1);
    let remove = |function: &str| {
        store
            .change(|state| {
                state.functions.remove(&id(function));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    };
    remove("a");
    assert_eq!(blob_count(directory.path()), 1);
    remove("b");
    assert_eq!(blob_count(directory.path()), 0);
}

#[test]
fn a_refused_change_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let refused = store.add_wasm(b"wasm", |state, _| {
        state.functions.insert(id("a"), Arc::default());
        Err::<(), _>(StoreError::Corrupt("no".into()))
    });
    assert!(refused.is_err());
    assert!(store.state().functions.is_empty());
    assert_eq!(blob_count(directory.path()), 0);
}

#[test]
fn what_is_stored_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    // As systemd makes it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"one").unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
    }
}

#[test]
fn two_hosts_do_not_open_the_same_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    let expected = format!(
        "the store {} is in use by another host (process {}); stop that one, or give this one another `[store] path`",
        directory.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    drop(store);
    Store::open(directory.path()).unwrap();
}

#[test]
fn damage_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"wasm").unwrap();
    let digest = store.state().functions[&id("a")].versions[&Version::new(1, 0, 0)].digest.clone();
    let path = directory.path().join("blobs").join(format!("{digest}.wasm"));
    fs::write(&path, b"other").unwrap();
    let error = store.wasm(&digest).unwrap_err().to_string();
    assert!(error.contains("is not what was stored"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = store.wasm(&digest).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path()).unwrap());
    let database = open_database(&directory.path().join(DATABASE)).unwrap();
    let newer = Encoded::from([(FORMAT_KEY.to_owned(), b"4".to_vec())]);
    write(&database, &[], &newer).unwrap();
    drop(database);
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert_eq!(error, "the store has format 4, this version of Weir knows 3: use a newer Weir");
}

#[test]
fn a_store_of_an_older_version_is_read_and_becomes_one_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"wasm").unwrap();
    drop(store);
    let database = open_database(&directory.path().join(DATABASE)).unwrap();
    let older = Encoded::from([(FORMAT_KEY.to_owned(), b"1".to_vec())]);
    write(&database, &[], &older).unwrap();
    drop(database);
    let store = Store::open(directory.path()).unwrap();
    assert!(store.state().functions.contains_key(&id("a")));
    drop(store);
    let database = open_database(&directory.path().join(DATABASE)).unwrap();
    assert_eq!(load(&database).unwrap()[FORMAT_KEY], b"3");
    // What a record says is not asked whether it is of a newer version: the number is.
    let text =
        br#"{"chain":{"name":"a","function":[{"use":"a","colour":1}]},"running":[],"applied":1}"#;
    let later = Encoded::from([("chain/default/a".to_owned(), text.to_vec())]);
    write(&database, &[], &later).unwrap();
    drop(database);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Record { format: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("damaged: record chain/default/a"), "{error}");
    let database = open_database(&directory.path().join(DATABASE)).unwrap();
    write(&database, &[], &Encoded::from([(FORMAT_KEY.to_owned(), b"4".to_vec())])).unwrap();
    drop(database);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 4, known: 3 }), "{error:?}");
}

/// What records consist of, without the words about it. When that is another, older versions of
/// Weir may not be able to read what is written: then [`FORMAT`] is to be raised; in any case the
/// hash here is to be replaced.
#[test]
fn records_are_what_the_format_says() {
    use serde_json::Value;

    const PREFIX: &str = "#/components/schemas/";
    const KNOWN: (u32, &str) =
        (3, "f9e5e32a8622d74baf2d1ea25965263defb1cdb239fc390dadd74f0a82dafa64");
    /// Leaves words out, and finds what else is referred to.
    fn look(schema: &mut Value, others: &mut Vec<String>) {
        match schema {
            Value::Object(table) => {
                table.retain(|key, value| key != "description" || !value.is_string());
                let other = table.get("$ref").and_then(Value::as_str);
                others.extend(other.and_then(|path| path.strip_prefix(PREFIX)).map(str::to_owned));
                table.values_mut().for_each(|value| look(value, others));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| look(value, others)),
            _ => {}
        }
    }
    let document = crate::api::document();
    let mut wanted = ["Chain", "Steering", "CheckReport", "Role"].map(str::to_owned).to_vec();
    let mut schemas = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        let Entry::Vacant(place) = schemas.entry(name) else { continue };
        let mut schema = document["components"]["schemas"][place.key()].clone();
        assert!(schema.is_object(), "there is no {}", place.key());
        look(&mut schema, &mut wanted);
        place.insert(schema);
    }
    let hash = hex(&Sha256::digest(serde_json::to_vec(&schemas).unwrap()));
    assert_eq!((FORMAT, hash.as_str()), KNOWN);
}

#[test]
fn a_file_that_is_no_store_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(DATABASE);
    fs::write(&path, [7; 8192]).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("weir.redb"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), [7; 8192]);
}

#[test]
fn a_database_in_which_a_byte_changed_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(DATABASE);
    let store = Store::open(directory.path()).unwrap();
    push(&store, "firewall", Version::new(1, 0, 0), b"wasm").unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).rposition(|part| part == b"firewall").unwrap();
    bytes[at] = b'F';
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("weir.redb is not what was written"), "{error}");
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn without_its_database_a_store_with_wasm_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join(DATABASE), directory.path().join("away"));
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"wasm").unwrap();
    drop(store);
    fs::rename(&path, &away).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("weir.redb is missing"), "{error}");
    fs::rename(&away, &path).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().state().functions.len(), 1);
    assert_eq!(blob_count(directory.path()), 1);
}

#[test]
fn wasm_that_was_damaged_is_mended_by_who_pushes_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"wasm").unwrap();
    let digest = store.state().digests().next().unwrap().to_owned();
    let blob = directory.path().join(format!("blobs/{digest}.wasm"));
    for damage in [Some(b"WASM"), None] {
        match damage {
            Some(bytes) => fs::write(&blob, bytes).unwrap(),
            None => fs::remove_file(&blob).unwrap(),
        }
        let error = store.wasm(&digest).unwrap_err();
        assert!(matches!(error, StoreError::Blob(_)), "{error:?}");
        // The push itself may be refused.
        let refused =
            store.add_wasm(b"wasm", |_, _| Err::<(), _>(StoreError::Corrupt("no".into())));
        assert!(refused.is_err());
        assert_eq!(*store.wasm(&digest).unwrap(), *b"wasm");
    }
}

#[test]
fn half_written_wasm_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    push(&store, "a", Version::new(1, 0, 0), b"wasm").unwrap();
    drop(store);
    fs::write(directory.path().join("blobs/abc.partial"), b"x").unwrap();
    fs::write(directory.path().join("blobs/abc.wasm"), b"x").unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(blob_count(directory.path()), 1);
    let state = store.state();
    store.wasm(&state.functions[&id("a")].versions[&Version::new(1, 0, 0)].digest).unwrap();
}

#[test]
fn the_newest_is_no_prerelease_and_was_not_withdrawn() {
    let mut record = FunctionRecord::default();
    assert_eq!(record.newest(), None);
    for (text, withdrawn) in
        [("1.2.0", false), ("1.10.0", false), ("1.11.0", true), ("2.0.0-rc.1", false)]
    {
        let version = VersionRecord {
            digest: String::new(),
            bytes: 0,
            report: CheckReport::default(),
            created: 0,
            withdrawn: withdrawn.then(|| "it faulted".to_owned()),
        };
        record.versions.insert(text.parse().unwrap(), version);
    }
    assert_eq!(record.newest().unwrap().to_string(), "1.10.0");
}

/// A directory on a disk of a few megabytes; mounting it needs root.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "weir-test"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs, which needs root");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

/// Somebody else fills the disk between the look at it and the write: the database's own write
/// fails.
#[test]
fn a_failed_write_of_the_database_is_recovered_from() {
    let disk = SmallDisk::new();
    let directory = disk.0.path().join("store");
    let mut store = Store::open(&directory).unwrap();
    store.reserve = 0;
    let describe = |store: &Store, n: usize, length: usize| {
        store.change(|state| {
            let tenant: Name = format!("t{n}").parse().unwrap();
            let description = "x".repeat(length);
            state.tenants.insert(tenant, Arc::new(TenantRecord { description }));
            Ok::<_, StoreError>(())
        })
    };
    let mut accepted = 1;
    let refused = loop {
        match describe(&store, accepted, 100_000) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(accepted > 5, "{accepted}");
    assert_eq!(store.state().tenants.len(), accepted);
    // Still full: still refused, still all there.
    assert!(describe(&store, 1000, 1_000_000).is_err());
    assert_eq!(store.state().tenants.len(), accepted);
    let remount = std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(disk.0.path())
        .status()
        .unwrap();
    assert!(remount.success());
    describe(&store, 1000, 1000).unwrap();
    drop(store);
    let store = Store::open(&directory).unwrap();
    assert_eq!(store.state().tenants.len(), accepted + 1);
}
