//! The disk of the store is full: changes are refused with a message that names it, what runs runs
//! on, and when there is room again all goes on. The disk is a small tmpfs in a mount namespace of
//! the host's own.

use std::fs;
use std::path::PathBuf;

use crate::guests::{self, pass};
use crate::host::Host;

/// The host's store as it sees it.
fn store(host: &Host) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", host.pid()));
    root.join(host.path("store").strip_prefix("/").expect("an absolute path"))
}

/// Takes all the room but this much.
fn fill(host: &Host, leave: u64) {
    let stat = rustix::fs::statvfs(store(host)).unwrap();
    let free = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
    fs::write(store(host).join("ballast"), vec![0; usize::try_from(free).unwrap()]).unwrap();
}

#[test]
fn a_full_disk_refuses_changes_and_stops_no_packet() {
    let mut host = Host::start_on_small_disk(guests::TRAFFIC, "24m");
    guests::push(&host, "1.0.0", &pass(1));
    guests::deploy(&host, "1.1.0", &pass(2));
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    let before = host.json(&["function", "list"]);
    for leave in [1 << 20, 100_000, 0] {
        fill(&host, leave);
        host.write("f.wasm", pass(3));
        let changes: [&[&str]; 3] = [
            &["function", "push", "f.wasm", "--name", "gate", "--version", "2.0.0"],
            &["function", "swap", "gate", "--to", "1.0.0"],
            &["tenant", "add", "acme"],
        ];
        for change in changes {
            let error = host.fails(change);
            assert!(error.contains("store is full: "), "{change:?}: {error}");
            assert!(error.contains("nothing was changed. Make room and try again"), "{error}");
            let before = host.packets_out("edge");
            host.wait_for("packets flow", |host| host.packets_out("edge") > before);
            assert_eq!(host.running(), "1.1.0", "{change:?}");
        }
        assert_eq!(host.json(&["function", "list"]), before);
        fs::remove_file(store(&host).join("ballast")).unwrap();
    }
    host.ok(&["function", "swap", "gate", "--to", "1.0.0"]);
    guests::push(&host, "2.0.0", &pass(3));
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    assert_eq!(host.running(), "2.0.0");
    // What takes no room.
    fill(&host, 100_000);
    host.ok(&["function", "rollback", "gate"]);
    assert_eq!(host.running(), "1.0.0");
    host.ok(&["chain", "remove", "edge"]);
    host.ok(&["function", "remove", "gate"]);
}
