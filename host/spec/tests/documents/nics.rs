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
