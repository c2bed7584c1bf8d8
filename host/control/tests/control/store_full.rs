//! The store's disk is full: a clear refusal, nothing that was accepted is lost, and when there is room again
//! it goes on. The disk is a tmpfs of a few megabytes; mounting it needs root.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use semver::Version;
use serde_json::json;
use weir_control::engine::{ChainId, EngineEvent};
use weir_control::store::{FunctionId, Store, StoreError, VersionRecord};
use weir_spec::{CheckReport, Name};

use crate::common::{Answer, Host};

struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "weir-test"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs, which needs root");
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room but this much.
    fn fill(&self, leave: u64) {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let ballast = usize::try_from(free.saturating_sub(leave)).unwrap();
        fs::write(self.path().join("ballast"), vec![0; ballast]).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

fn push(store: &Store, n: u64, bytes: usize) -> Result<(), StoreError> {
    let wasm: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(bytes).collect();
    store.add_wasm(&wasm, |state, digest| {
        let record = VersionRecord {
            digest: digest.to_owned(),
            bytes: wasm.len() as u64,
            report: CheckReport::default(),
            created: n,
            withdrawn: None,
        };
        let id = FunctionId::new(&Name::default_tenant(), &"f".parse().unwrap());
        let slot = state.functions.entry(id).or_default();
        Arc::make_mut(slot).versions.insert(Version::new(n, 0, 0), record);
        Ok(())
    })
}

fn versions(store: &Store) -> Vec<u64> {
    let state = store.state();
    let all = state.functions.values().flat_map(|f| f.versions.iter());
    all.map(|(version, record)| {
        store.wasm(&record.digest).unwrap();
        version.major
    })
    .collect()
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let disk = Disk::new("16m");
    let directory = disk.path().join("store");
    let store = Store::open(&directory).unwrap();
    let mut accepted = Vec::new();
    let refused = (0..1000).find_map(|n| match push(&store, n, 300_000) {
        Ok(()) => {
            accepted.push(n);
            None
        }
        Err(error) => Some(error),
    });
    let refused = refused.expect("16 MiB hold no 300 MB");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(refused.to_string().contains("Make room and try again"), "{refused}");
    assert!(accepted.len() > 10, "{accepted:?}");
    assert_eq!(versions(&store), accepted);
    drop(store);
    let store = Store::open(&directory).unwrap();
    assert_eq!(versions(&store), accepted);
}

/// The database itself meets the full disk: nothing is written ahead of it that could tell.
#[test]
fn when_there_is_room_again_it_goes_on() {
    let disk = Disk::new("16m");
    let directory = disk.path().join("store");
    let store = Store::open(&directory).unwrap();
    push(&store, 1, 1000).unwrap();
    for leave in [3 << 20, 1 << 20, 200_000, 8192, 0] {
        disk.fill(leave);
        let before = versions(&store);
        let mut n = 1000;
        let refused = loop {
            match push(&store, n, 100_000) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
        assert!(versions(&store).len() >= before.len());
        disk.empty();
        push(&store, n, 1000).unwrap();
        store
            .change(|state| {
                let id = FunctionId::new(&Name::default_tenant(), &"f".parse().unwrap());
                let record = Arc::make_mut(state.functions.get_mut(&id).unwrap());
                record.versions.retain(|version, _| version.major == 1);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert_eq!(versions(&store), [1]);
    }
    drop(store);
    assert_eq!(versions(&Store::open(&directory).unwrap()), [1]);
}

/// Over the API: 507, and the data plane is not asked. What takes no room can be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_the_data_plane_alone_and_what_frees_room_is_done() {
    let disk = Disk::new("16m");
    let host = Host::on(tempfile::tempdir_in(disk.path()).unwrap(), crate::common::CONFIG);
    host.with_chains(&["a", "b"]).await;
    disk.fill(4096);
    let (code, detail) = host.push("/v1/functions/g/versions", "g").await.problem(507);
    assert_eq!(code, "store-full");
    assert!(detail.contains("nothing was changed. Make room and try again"), "{detail}");
    host.engine.calls();

    let swap = || host.ask("POST", "/v1/functions/f/swap", Some(json!({"to": "2.0.0"})));
    assert_eq!(swap().await.problem(507).0, "store-full");
    let canary = json!({"to": "2.0.0", "canary": 5});
    host.ask("POST", "/v1/functions/f/swap", Some(canary)).await.problem(507);
    apply(&host, "new").await.problem(507);
    apply(&host, "a").await.problem(507);
    let rules = json!({"rule": [{"proto": "udp", "to": "drop"}]});
    host.ask("PUT", "/v1/steering", Some(rules)).await.problem(507);
    assert_eq!(host.engine.calls(), [""; 0]);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);

    disk.empty();
    assert_eq!(swap().await.status, 200);
    disk.fill(4096);
    let back = host.ask("POST", "/v1/functions/f/rollback", None).await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
    // So can what a canary's fault calls for, with however long a text.
    disk.empty();
    let canary = json!({"to": "2.0.0", "canary": 5});
    assert_eq!(host.ask("POST", "/v1/functions/f/swap", Some(canary)).await.status, 200);
    disk.fill(4096);
    let (now, fault) = (host.last_event(), "trap: \"ö\"; ".repeat(500));
    host.engine.emit(EngineEvent::RolledBack {
        chain: ChainId::new(&Name::default_tenant(), &"a".parse().unwrap()),
        function: "f".parse().unwrap(),
        version: Some(Version::new(2, 0, 0)),
        message: fault.clone(),
    });
    let told = tokio::task::block_in_place(|| host.wait_for("trial-ended", now));
    let why = format!("it faulted: {fault}");
    assert!(told.ends_with(&why), "{told}");
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"], json!(null));
    let withdrawn = function["versions"][1]["withdrawn"].as_str().unwrap();
    assert!(why.starts_with(withdrawn) && withdrawn.len() > 400, "{withdrawn}");
    let removed = host.ask("DELETE", "/v1/functions/f/versions/2.0.0", None).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    let removed = host.ask("DELETE", "/v1/chains/a", None).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    assert_eq!(host.running().await, ["b=1.0.0"]);
}

/// Somebody else fills the disk while the data plane is asked: it is put back to what the store says.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_plane_is_put_back_when_nothing_can_be_written() {
    let disk = Disk::new("16m");
    let host = Host::on(tempfile::tempdir_in(disk.path()).unwrap(), crate::common::CONFIG);
    host.with_chains(&["a", "b"]).await;
    host.engine.calls();
    for (name, calls) in [
        ("new", ["deploy default/new f@2.0.0", "undeploy default/new"]),
        ("a", ["deploy default/a f@2.0.0", "deploy default/a f@1.0.0"]),
    ] {
        let held = host.engine.hold(calls[0]);
        let filled = async {
            tokio::task::block_in_place(|| host.engine.wait_for(calls[0], 1));
            disk.fill(4096);
            drop(held);
        };
        let (answer, ()) = tokio::join!(apply(&host, name), filled);
        answer.problem(507);
        assert_eq!(host.engine.calls(), calls);
        disk.empty();
    }
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
}

/// A chain of f's version 2, with a configuration that takes some room.
async fn apply(host: &Host, name: &str) -> Answer {
    let config = json!({"text": "x".repeat(4000)});
    let chain =
        json!({"name": name, "function": [{"use": "f", "version": "2.0.0", "config": config}]});
    host.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await
}
