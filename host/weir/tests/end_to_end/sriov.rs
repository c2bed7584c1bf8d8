//! `weir sriov` where there are no virtual functions, and interfaces that the host sets up and
//! leaves as they were. Functions themselves are tested in a guest that has some:
//! `tests/tests/sriov.rs`.

use std::fs;

use rustix::process::Signal;
use weir_tests::lab::Namespace;

use crate::host::{Host, weir};

const HEAD: &str = "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n";

#[test]
fn a_machine_without_virtual_functions_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let none = weir(at, &["sriov", "list"]);
    assert_eq!((none.status, none.out.as_str()), (Some(0), "this machine has no SR-IOV devices\n"));
    assert_eq!(weir(at, &["--output", "json", "sriov", "list"]).out, "[]\n");
    for (arguments, expected) in [
        (&["list", "lo"][..], "lo is not an SR-IOV device: it is virtual"),
        (&["create", "no-such-nic", "2"], "there is no interface or PCI device no-such-nic"),
        (&["remove", "0000:ff:1f.7"], "there is no PCI device 0000:ff:1f.7"),
        (&["remove", "../lo"], "there is no interface or PCI device ../lo"),
        (&["set", "lo", "0", "--vlan", "5"], "is not an SR-IOV device"),
        (&["bind", "lo", "0", "kernel", "--no-iommu"], "--no-iommu is for vfio-pci"),
    ] {
        let answer = weir(at, &[&["sriov"], arguments].concat());
        assert_eq!(
            (answer.status, answer.out.as_str()),
            (Some(1), ""),
            "{arguments:?}: {}",
            answer.err
        );
        assert!(answer.err.contains(expected), "{arguments:?}: {}", answer.err);
    }
    for arguments in [
        &["set", "lo", "0"][..],
        &["set", "lo", "0", "--vlan", "4095"],
        &["set", "lo", "0", "--mac", "2:0:0:0:0:1"],
        &["set", "lo", "0", "--trust", "yes"],
        &["create", "lo", "0"],
        &["bind", "lo", "0", "uio"],
    ] {
        let answer = weir(at, &[&["sriov"], arguments].concat());
        assert_eq!(answer.status, Some(2), "{arguments:?}: {}", answer.err);
    }
    fs::write(at.join("weir.toml"), HEAD).unwrap();
    let restored = weir(at, &["sriov", "restore"]);
    assert_eq!(
        (restored.status, restored.out.as_str()),
        (Some(0), "there is nothing to restore\n")
    );
}

#[test]
fn functions_that_cannot_be_had_are_shown_where_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    for (keys, line, key) in [
        (
            "[[port]]\nname = \"a\"\nkind = \"dpdk\"\ndevice = \"vf:no-such-nic/0\"\n",
            8,
            "port[0].device",
        ),
        (
            "[[port]]\nname = \"a\"\nkind = \"xdp\"\ninterface = \"vf:no-such-nic/0\"\n",
            8,
            "port[0].interface",
        ),
        ("[[nic]]\npf = \"no-such-nic\"\nvfs = 2\n", 6, "nic[0].pf"),
    ] {
        fs::write(directory.path().join("weir.toml"), format!("{HEAD}{keys}")).unwrap();
        for command in [&["run", "--check"][..], &["run"]] {
            let answer = weir(directory.path(), command);
            assert_eq!(answer.status, Some(1), "{keys}");
            for part in [
                "there is no interface or PCI device no-such-nic".to_owned(),
                format!("weir.toml:{line}"),
                format!("= key: {key}"),
            ] {
                assert!(answer.err.contains(&part), "{keys}: {part}: {}", answer.err);
            }
        }
    }
}

/// By the kernel's own netlink, on a veth: up and an address, after a crash, and at the end.
#[test]
fn netns_a_listeners_interface_is_set_up_and_left_as_it_was() {
    let namespace = Namespace::new("listener");
    namespace.sh("ip link add web0 type veth peer name client0");
    let config = format!(
        "{HEAD}[[listener]]\nname = \"web\"\ndevice = \"web0\"\naddress = [\"192.0.2.1:8080\", \"[2001:db8::1]:8080\"]\nprefix = 32\n\
         protocol = \"tcp\"\nupstream = [\"127.0.0.1:9\"]\n"
    );
    let state = || {
        let link = namespace.sh("ip -o link show dev web0");
        (link.contains(",UP") || link.contains("<UP"), namespace.sh("ip -o address show dev web0"))
    };
    let found = state();
    assert_eq!(found, (false, String::new()));
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("weir.toml"), &config).unwrap();
    let command = format!(
        "{} run --config {}/weir.toml --check",
        env!("CARGO_BIN_EXE_weir"),
        directory.path().display()
    );
    let told = namespace.sh(&command);
    assert!(told.contains("the host would set interface web0 up\n"), "{told}");
    assert!(told.contains("would give interface web0 the address 192.0.2.1/32"), "{told}");
    assert_eq!(state(), found);
    let host = Host::start_in_namespace(namespace.name(), directory, &config);
    let made = state();
    assert!(
        made.0 && made.1.contains("192.0.2.1/32") && made.1.contains("2001:db8::1/32"),
        "{made:?}"
    );
    let sockets = namespace.sh("ss -Hltn");
    assert!(sockets.contains("192.0.2.1%web0:8080"), "bound to its interface: {sockets}");
    let (_, directory, _) = host.end(Signal::KILL);
    assert_eq!(state(), made);
    let host = Host::start_in_namespace(namespace.name(), directory, &config);
    assert!(host.log().contains("restored: set interface web0 down"), "{}", host.log());
    // Somebody takes an address away: that is not undone.
    namespace.sh("ip address del 192.0.2.1/32 dev web0");
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert_eq!(state(), found, "{log}");
    assert_eq!(fs::read(directory.path().join("store/sriov.journal")).unwrap(), b"");
}
