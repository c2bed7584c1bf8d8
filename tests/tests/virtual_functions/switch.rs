//! One chain of both planes on three virtual functions, whose parts are joined by the switch in the
//! NIC.
//!
//! ```text
//!   outside (namespace)    guest
//!   [ wire ]──────┬── VF 0  vfio-pci  port wan ── firewall ── nat ── port up
//!   10.92.0.1     │                                                     │
//!                 ├── VF 2  vfio-pci  VLAN 100 ─────────────────────────┘
//!                 └── VF 1  igbvf     VLAN 100: a listener, 10.92.0.2 ── waf ── http-cache ── 127.0.0.1:9000
//! ```

use std::fs;

use crate::rig::{Rig, VF};

const CONFIG: &str = r#"
[[nic]]
pf = "eth0"
vfs = 3
[[nic.vf]]
index = 0
mac = "02:00:00:00:77:00"
[[nic.vf]]
index = 1
mac = "02:00:00:00:77:01"
vlan = 100
[[nic.vf]]
index = 2
mac = "02:00:00:00:77:02"
vlan = 100
[[port]]
name = "wan"
kind = "dpdk"
device = "vf:eth0/0"
kernel-port = "up"
[[port]]
name = "up"
kind = "dpdk"
device = "vf:eth0/2"
peer = "vf:eth0/1"
[[listener]]
name = "web"
device = "vf:eth0/1"
address = "10.92.0.2:8080"
prefix = 24
protocol = "http"
chain = "edge"
upstream = ["127.0.0.1:9000"]
"#;

// Deadlines are for an emulated CPU on a busy machine.
const EDGE: &str = r#"
name = "edge"
from = "wan"
[[function]]
use = "firewall"
version = "1.0.0"
deadline = "5s"
[function.config]
default = "deny"
rules = [ { action = "allow", proto = "tcp", dst = "10.92.0.2", dport = 8080, direction = "out" } ]
[[function]]
use = "waf"
version = "1.0.0"
deadline = "5s"
[[function]]
use = "http-cache"
deadline = "5s"
"#;

/// Packets that the kernel's interface has received and sent.
fn kernel_counts(rig: &Rig) -> [u64; 2] {
    ["rx", "tx"].map(|way| {
        let file = format!("/sys/bus/pci/devices/0000:01:10.2/net/*/statistics/{way}_packets");
        rig.sh(&format!("cat {file}")).trim().parse().expect("a number")
    })
}

/// The listener serves, as soon as everybody knows everybody's address and the first request has
/// been through.
fn served(rig: &Rig) {
    rig.guest.wait("the page comes", |_| rig.get("http://10.92.0.2:8080/page").0 == 200);
    crate::served(rig, "10.92.0.2:8080");
}

#[test]
fn guest_a_chain_of_both_planes_crosses_by_the_nics_switch() {
    let rig = Rig::plugged();
    let outside = rig.outside();
    outside.sh("ip address add 10.92.0.1/24 dev wire");
    let www = rig.path("www");
    fs::create_dir_all(&www).expect("a directory");
    fs::write(www.join("page"), "hello\n").expect("a page");
    let host = rig.guest.host(CONFIG);
    let directory = www.display().to_string();
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "9000"];
    let server = rig.guest.guest.start(&directory, &server).expect("the guest is there");
    let name = rig.sh("ls /sys/bus/pci/devices/0000:01:10.2/net").trim().to_owned();
    // One function for packets: code of several as one would be compiled here, on an emulated CPU.
    // They are in `both_planes`.
    for (function, versions) in [("firewall", 2), ("waf", 2), ("http-cache", 1)] {
        for version in 1..=versions {
            rig.push(function, &format!("{version}.0.0"));
        }
    }
    rig.chain(EDGE);
    rig.keep_compiled();
    rig.wait("the server listens", |rig| rig.sh("ss -ltnH").contains(":9000 "));

    // Nobody was told who has which address: the wire and the kernel ask each other, through the
    // chain.
    served(&rig);
    let known = outside.sh("ip neighbour show 10.92.0.2 dev wire");
    assert!(known.contains(VF[0]), "the wire knows the kernel by the first function: {known}");
    let known = rig.sh(&format!("ip neighbour show 10.92.0.1 dev {name}"));
    assert!(known.contains(VF[2]), "the kernel knows the wire by the third: {known}");
    // All of it went up and down by the NIC: there is no TAP interface, and what one side sent the
    // other has.
    assert_eq!(rig.sh("ip -o link show type tun"), "");
    let (up, [received, sent]) = (rig.port("up"), kernel_counts(&rig));
    assert!(received > 8 && sent > 8, "{received} {sent}");
    // The emulated NIC lets a function hear its own broadcasts, by which the kernel asks for
    // addresses.
    let heard = received - up["tx_packets"].as_u64().expect("a number");
    assert!(heard <= 2 && up["rx_packets"].as_u64() >= Some(8), "{received} {sent} {up}");
    assert_eq!((&up["chain"], &up["device"]["peer"]), (&"edge".into(), &"vf:eth0/1".into()));
    // The firewall is in between: another port is closed, though the kernel would answer.
    assert_eq!(rig.get("http://10.92.0.2:8081/page").0, 0);
    let status = rig.json("status");
    let firewall = &crate::chain(&status, "edge")["functions"][0];
    assert!(firewall["verdicts"]["drop"].as_u64() > Some(0), "{firewall}");

    // Functions of both parts are replaced while clients come.
    let codes = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let get = |_| rig.get("http://10.92.0.2:8080/page").0;
            (0..30).map(get).collect::<Vec<u16>>()
        });
        for function in ["firewall", "waf"] {
            let swap = rig.json(&format!("function swap {function} --to 2.0.0"));
            assert_eq!(swap["packets_lost"], 0, "{swap}");
        }
        clients.join().expect("curl")
    });
    assert_eq!(codes, [200; 30], "{}", rig.log());

    // Who names the kernel's function is not heard: it is in a VLAN that the wire does not have.
    outside.sh(&format!("ip neighbour replace 10.92.0.2 lladdr {} dev wire", VF[1]));
    assert_eq!(rig.get("http://10.92.0.2:8080/page").0, 0);
    outside.sh("ip neighbour delete 10.92.0.2 dev wire");
    served(&rig);

    // What the kernel begins by itself passes the chain in reverse, and is dropped by it or not:
    // here the firewall denies it.
    let ping = format!(
        "ping -c 1 -W 1 -I {name} 10.92.0.1 > /dev/null 2>&1 && echo answered || echo none"
    );
    assert_eq!(rig.sh(&ping), "none\n");

    server.signal(rustix::process::Signal::TERM).expect("the guest is there");
    server.output().expect("it ends");
    rig.end(host);
}
