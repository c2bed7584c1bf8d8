//! The store's disk is full: a clear refusal, nothing that was accepted is lost, and when there is
//! room again it goes on. The disk is a tmpfs of a few megabytes; mounting it needs root.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use semver::Version;
use serde_json::json;
use weir_control::engine::{ChainId, EngineEvent};
use weir_control::store::{FunctionId, Store, StoreError, VersionRecord};
use weir_spec::{CheckReport, Name};

use crate::common::{Answer, CONFIG, Host, config};

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
    let host = Host::on(tempfile::tempdir_in(disk.path()).unwrap(), CONFIG);
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
    let (_, detail) =
        host.ask("PUT", "/v1/steering?tenant=acme", Some(rules.clone())).await.problem(507);
    assert!(detail.contains(host.path("store").to_str().unwrap()), "{detail}");
    // How full the disk is and where the store lies is for who runs the host.
    let answer = host.ask_with("acme-operator-token", "PUT", "/v1/steering", Some(rules)).await;
    let told = "the host's disk is full; nothing was changed. Try again later";
    assert_eq!(answer.problem(507), ("store-full".into(), told.into()));
    assert_eq!(host.engine.calls(), [""; 0]);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
    let metrics = async || host.ask("GET", "/metrics", None).await.text;
    assert!(metrics().await.contains("\nweir_store_writable 0.0\n"), "{}", metrics().await);
    let problem = async |path| host.ask("GET", path, None).await.json()["store_problem"].take();
    let full = problem("/v1/status").await;
    assert!(full.as_str().unwrap().contains("bytes are free"), "{full}");
    assert_eq!(problem("/v1/status?tenant=acme").await, told);

    disk.empty();
    assert!(metrics().await.contains("\nweir_store_writable 1.0\n"), "{}", metrics().await);
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

/// Somebody else fills the disk while the data plane is asked: it is put back to what the store
/// says.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_plane_is_put_back_when_nothing_can_be_written() {
    let disk = Disk::new("16m");
    let host = Host::on(tempfile::tempdir_in(disk.path()).unwrap(), CONFIG);
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

#[tokio::test]
async fn a_start_on_a_full_disk_goes_on_without_tenants_that_are_new() {
    let disk = Disk::new("16m");
    let host = Host::on(tempfile::tempdir_in(disk.path()).unwrap(), CONFIG);
    host.with_chains(&["a"]).await;
    disk.fill(4096);
    let more = format!(
        "{CONFIG}[[api.token]]\nname = \"new\"\ntoken = \"brand-new-customer\"\nrole = \"viewer\"\ntenant = \"new\"\n"
    );
    let host = host.restart_on(&more).restored();
    assert_eq!(host.running().await, ["a=1.0.0"]);
    let problem = host.ask("GET", "/v1/status", None).await.json()["config_problem"].take();
    let problem = problem.as_str().unwrap();
    assert!(problem.starts_with("new tenants are not there"), "{problem}");
    assert!(problem.contains("Make room and try again"), "{problem}");
    host.ask("GET", "/v1/tenants/new", None).await.problem(404);
    disk.empty();
    host.control.know_tenants(&config(&more)).unwrap();
    assert_eq!(host.ask("GET", "/v1/tenants/new", None).await.status, 200);
}

/// The limit on the size of files: no write to the disk is done while it is there.
struct NoWrites(Rlimit);

impl NoWrites {
    fn begin() -> Self {
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for NoWrites {
    fn drop(&mut self) {
        setrlimit(Resource::Fsize, self.0).unwrap();
    }
}

/// The disk takes no writes any more, which nobody sees before the data plane has changed. Whoever
/// asked for a change has what was before; a version that faulted is out of the way at once, and in
/// the store as soon as that can be.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_goes_on_or_is_done_later() {
    // In a process of its own, that is not ended by the signal that comes with the limit.
    if std::env::var_os("WEIR_TEST_NO_WRITES").is_none() {
        let name = "store_full::what_cannot_be_written_goes_on_or_is_done_later";
        let ended = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env("WEIR_TEST_NO_WRITES", "1")
            .status();
        assert!(ended.unwrap().success());
        return;
    }
    const SWAP: &str = "/v1/functions/f/swap";
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let trial = async || host.ask("GET", "/v1/functions/f", None).await.json()["trial"].take();
    let canary = json!({"to": "2.0.0", "canary": 5});
    assert_eq!(host.ask("POST", SWAP, Some(canary)).await.status, 200);
    host.engine.calls();
    let no_writes = NoWrites::begin();
    let begun = "begin_trial default/a f@2.0.0 Canary(5)";
    host.ask("POST", "/v1/functions/f/rollback", None).await.problem(500);
    assert_eq!(host.engine.calls(), ["end_trial default/a f", begun]);
    assert_eq!(trial().await["canary"], 5);
    let shadow = json!({"to": "2.0.0", "shadow": true});
    host.ask("POST", SWAP, Some(shadow)).await.problem(500);
    let calls = host.engine.calls();
    assert_eq!(calls.last().unwrap(), begun, "{calls:?}");
    assert_eq!(trial().await["canary"], 5);

    let fault = || EngineEvent::Fault {
        chain: ChainId::new(&Name::default_tenant(), &"a".parse().unwrap()),
        function: "f".parse().unwrap(),
        version: Some(Version::new(2, 0, 0)),
        kind: "trap".into(),
        message: "unreachable".into(),
        quarantined: false,
    };
    let now = host.last_event();
    let told = |kind: &str| tokio::task::block_in_place(|| host.wait_for(kind, now));
    host.engine.emit(fault());
    let note = told("note");
    assert!(note.starts_with("function f could not be rolled back: "), "{note}");
    assert!(note.ends_with("; it is done as soon as the store takes changes"), "{note}");
    assert_eq!(host.engine.calls(), ["end_trial default/a f"]);
    assert_eq!(trial().await["canary"], 5);
    drop(no_writes);
    let message = told("trial-ended");
    assert_eq!(message, "the trial of version 2.0.0 of function f is over: it faulted (trap)");
    assert_eq!(trial().await, json!(null));

    // A version that is watched; nobody comes to its fault before the watch is over.
    assert_eq!(host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.status, 200);
    host.engine.calls();
    let no_writes = NoWrites::begin();
    let now = host.last_event();
    let told = |kind: &str| tokio::task::block_in_place(|| host.wait_for(kind, now));
    host.engine.emit(fault());
    told("note");
    // It runs on, and what it does again is known.
    host.engine.emit(fault());
    assert_eq!(host.engine.calls(), ["swap_back default/a f@1.0.0", "swap_back default/a f@2.0.0"]);
    drop(no_writes);
    told("rolled-back");
    assert_eq!(host.engine.calls(), ["swap_back default/a f@1.0.0"]);
    assert_eq!(host.running().await, ["a=1.0.0"]);
}

/// A chain of f's version 2, with a configuration that takes some room.
async fn apply(host: &Host, name: &str) -> Answer {
    let config = json!({"text": "x".repeat(4000)});
    let chain =
        json!({"name": name, "function": [{"use": "f", "version": "2.0.0", "config": config}]});
    host.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await
}
