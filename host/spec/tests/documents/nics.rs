//! Virtual functions.

use super::*;

const NIC: &str = r#"
[[nic]]
pf = "ens1f0"
vfs = 2
[[nic.vf]]
index = 0
mac = "02:00:00:00:00:01"
vlan = 100
qos = 3
trust = false
spoof-check = true
max-rate = 1000
link = "up"
[[port]]
name = "wan"
kind = "dpdk"
device = "vf:ens1f0/0,arg=1"
[[listener]]
name = "web"
device = "vf:ens1f0/1"
address = "192.0.2.1:8080"
prefix = 24
protocol = "http"
upstream = ["127.0.0.1:9000"]
"#;

#[test]
fn virtual_functions_are_named_and_set() {
    let host = Document::<HostConfig>::parse("weir.toml", NIC).unwrap().value;
    assert_eq!(host.nics[0].functions[0].max_rate, Some(1000));
    assert_eq!((host.listeners[0].prefix, host.nics[0].vfs), (Some(24), Some(2)));
    for (from, to, key, expected) in [
        ("vfs = 2", "vfs = 0", "nic[0].vfs", "0 virtual functions"),
        ("index = 0", "index = 2", "nic[0].vf[0].index", "allowed: 0 to 1"),
        ("02:00", "03:00", "nic[0].vf[0].mac", "first byte is even"),
        ("vlan = 100", "vlan = 4095", "nic[0].vf[0].vlan", "there is no VLAN 4095"),
        ("qos = 3", "qos = 8", "nic[0].vf[0].qos", "allowed: 0 to 7"),
        ("vlan = 100\n", "", "nic[0].vf[0].qos", "a priority without a VLAN"),
        ("max-rate", "min-rate = 2000\nmax-rate", "nic[0].vf[0].min-rate", "more than `max-rate`"),
        ("link = \"up\"", "link = \"on\"", "nic[0].vf[0].link", "allowed: auto, up, down"),
        ("ens1f0/0,", "ens1f0/2,", "port[0].device", "raise `vfs` in [[nic]]"),
        ("ens1f0/0,", "ens1f0,", "port[0].device", "names no virtual function"),
        ("ens1f0/1", "ens1f0/0", "listener[0].device", "is port[0]'s already"),
        ("prefix = 24", "prefix = 33", "listener[0].prefix", "allowed: 0 to 32"),
        ("192.0.2.1", "0.0.0.0", "listener[0].address", "cannot be given 0.0.0.0"),
        ("device = \"vf:ens1f0/1\"\n", "", "listener[0].prefix", "add `device`"),
        ("[[port]]", "[[nic]]\npf = \"ens1f0\"\n[[port]]", "nic[1].pf", "named twice"),
    ] {
        let text = NIC.replacen(from, to, 1);
        assert_ne!(text, NIC, "{from}");
        let error = Document::<HostConfig>::parse("weir.toml", &text).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(&format!("= key: {key}")),
            "{to}: {error}"
        );
    }
}

/// A chain's way to the kernel by the switch in a NIC.
const SWITCH: &str = r#"
[[nic]]
pf = "ens1f0"
[[nic.vf]]
index = 1
vlan = 100
[[nic.vf]]
index = 2
vlan = 100
[[port]]
name = "wan"
kind = "dpdk"
device = "vf:ens1f0/0"
kernel-port = "up"
[[port]]
name = "up"
kind = "dpdk"
device = "vf:ens1f0/2"
peer = "vf:ens1f0/1"
[[listener]]
name = "web"
device = "vf:ens1f0/1"
address = "192.0.2.1:8080"
prefix = 24
protocol = "http"
chain = "edge"
upstream = ["127.0.0.1:9000"]
"#;

#[test]
fn a_way_to_the_kernel_is_another_port() {
    let host = Document::<HostConfig>::parse("weir.toml", SWITCH).unwrap().value;
    assert_eq!(host.ports[1].peer.as_deref(), Some("vf:ens1f0/1"));
    assert_eq!(host.vlan_of("vf:ens1f0/2"), Some(100));
    let other = "[[port]]\nname = \"lan\"\nkind = \"xdp\"\ninterface = \"a\"\nkernel-port = \"up\"\n[[listener]]";
    for (from, to, key, expected) in [
        (
            "\"up\"\n[[port]]",
            "\"on\"\n[[port]]",
            "port[0].kernel-port",
            "ports with `peer` are: up",
        ),
        ("peer = \"vf:ens1f0/1\"\n", "", "port[0].kernel-port", "give it `peer`"),
        ("peer", "tenant = \"other\"\npeer", "port[0].kernel-port", "is tenant other's"),
        ("kernel-port", "kernel = \"t\"\nkernel-port", "port[0].kernel-port", "two ways"),
        ("peer", "kernel = \"t\"\npeer", "port[1].kernel", "a way to the kernel's stack itself"),
        ("[[listener]]", other, "port[2].kernel-port", "the way to the kernel of port wan already"),
        ("peer = \"vf:ens1f0/1", "peer = \"vf:ens1f0/2", "port[1].peer", "is port[1]'s already"),
        ("peer = \"vf:ens1f0/1", "peer = \"a/b", "port[1].peer", "is not an interface's name"),
        ("vlan = 100", "vlan = 101", "port[1].peer", "no frame gets from one to the other"),
        (
            "kind = \"dpdk\"\ndevice = \"vf:ens1f0/2\"",
            "kind = \"memory\"",
            "port[1].peer",
            "has no `peer`",
        ),
    ] {
        let text = SWITCH.replacen(from, to, 1);
        assert_ne!(text, SWITCH, "{from}");
        let error = Document::<HostConfig>::parse("weir.toml", &text).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(&format!("= key: {key}")),
            "{to}: {error}"
        );
    }
}
