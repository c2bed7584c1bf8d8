//! Steering rules that a device has itself, by rte_flow: a `dpdk` port over `net_tap`, which makes
//! filters of the kernel's (`tc` flower) of them. In a guest (`tests/vm`), because not every kernel
//! has those.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_tests::in_guest::InGuest;

const CONFIG: &str = r#"
[[port]]
name = "in"
kind = "dpdk"
device = "net_tap0,iface=in"
[[port]]
name = "out"
kind = "dpdk"
device = "net_tap1,iface=out"
"#;

const CHAIN: &str = r#"
name = "edge"
from = "in"
to = "out"
[[function]]
use = "null"
deadline = "1s"
"#;

/// What the device has to do with each, and why not.
const RULES: &str = r#"
[[rule]]
port = "in"
dst = "10.1.0.0/16"
chain = "edge"
[[rule]]
port = "in"
dst = "10.0.0.0/8"
to = "drop"
[[rule]]
port = "in"
src = "192.0.2.0/24"
dst = "203.0.113.0/24"
to = "drop"
[[rule]]
port = "in"
proto = "udp"
dport = 53
dst = "203.0.113.0/24"
to = "drop"
[[rule]]
port = "in"
src-mac = "02:00:00:00:00:07"
dst = "203.0.113.0/24"
to = "drop"
[[rule]]
port = "in"
dscp = 46
dst = "203.0.113.0/24"
to = "drop"
"#;

/// Sends so many of each kind of frame by the interface `in`, past everything but its filters.
const SEND: &str = r#"
import socket, struct, sys
def frame(src, dst, mac=1, tos=0, port=7, fragment=0x4000):
    udp = struct.pack('>HHHH', 4000, port, 26, 0) + bytes(18)
    ip = struct.pack('>BBHHHBBH', 0x45, tos, 20 + len(udp), 1, fragment, 64, 17, 0)
    total = sum(struct.unpack('>10H', ip + socket.inet_aton(src) + socket.inet_aton(dst)))
    total = (total & 0xffff) + (total >> 16)
    check = struct.pack('>H', ~(total + (total >> 16)) & 0xffff)
    ip = ip[:10] + check + socket.inet_aton(src) + socket.inet_aton(dst)
    return bytes([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, mac, 8, 0]) + ip + udp
frames = {
    'chain': frame('198.51.100.1', '10.1.0.1'),
    'behind': frame('198.51.100.1', '10.2.0.1'),
    'source': frame('192.0.2.9', '203.0.113.1'),
    'port': frame('198.51.100.1', '203.0.113.1', port=53),
    'fragment': frame('198.51.100.1', '203.0.113.1', port=53, fragment=0x2000),
    'mac': frame('198.51.100.1', '203.0.113.1', mac=7),
    'dscp': frame('198.51.100.1', '203.0.113.1', tos=46 << 2),
    'other': frame('198.51.100.1', '203.0.113.1'),
}
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(('in', 0))
for name in sys.argv[2:]:
    for _ in range(int(sys.argv[1])):
        try:
            out.send(frames[name])
        except OSError:
            pass  # A filter that drops says so.
"#;

fn boot() -> InGuest {
    let rig = InGuest::boot(|machine| machine.huge_pages = 128);
    rig.sh("for m in sch_multiq sch_ingress cls_flower act_gact; do modprobe $m; done");
    for (name, content) in [("rules.toml", RULES), ("send.py", SEND)] {
        rig.write(name, content);
    }
    rig
}

/// Packets that the port `in` has received, and those of them that rules dropped.
fn counts(rig: &InGuest) -> (u64, u64) {
    let port = rig.port("in");
    let dropped = port["drops"]["rx-steering"].as_u64().unwrap_or(0);
    (port["rx_packets"].as_u64().expect("a number"), dropped)
}

/// Sends ten of each of these, and waits until so many were received and dropped in software.
#[track_caller]
fn pass(rig: &InGuest, kinds: &str, received: u64, dropped: u64) {
    let before = counts(rig);
    rig.sh(&format!("python3 send.py 10 {kinds}"));
    let expected = (before.0 + received, before.1 + dropped);
    let until = Instant::now() + Duration::from_secs(20);
    while counts(rig) != expected && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(counts(rig), expected, "{kinds}: {}", rig.weir("steer list"));
}

/// What `steer list` says of each rule: where it is, and why it is there.
fn places(rig: &InGuest) -> Vec<(String, String)> {
    let list = rig.json("steer list");
    let rules = list.as_array().expect("a list").iter().filter(|entry| entry["rule"].is_object());
    let place = |entry: &Value| {
        let place = &entry["places"][0];
        assert_eq!(place["port"], json!("in"), "{entry}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&place["at"]), text(&place["reason"]))
    };
    rules.map(place).collect()
}

/// The kernel's filters in front of the port.
fn filters(rig: &InGuest) -> usize {
    let filters = rig.sh("tc filter show dev in parent 1:");
    filters.lines().filter(|line| line.contains("handle")).count()
}

#[test]
fn guest_a_device_drops_what_rules_say_and_software_the_rest() {
    const ALL: &str = "chain behind source port fragment mac dscp other";
    let rig = boot();
    let host = rig.host(CONFIG);
    rig.push("null", "1.0.0");
    rig.chain(CHAIN);
    rig.sh("ip link set in up; ip link set out up");
    pass(&rig, ALL, 80, 0);
    assert_eq!(filters(&rig), 0);

    rig.weir("steer apply rules.toml");
    let placed = places(&rig);
    let at: Vec<&str> = placed.iter().map(|(at, _)| at.as_str()).collect();
    let expected = ["software", "software", "rte_flow", "rte_flow", "rte_flow", "software"];
    assert_eq!(at, expected, "{placed:?}");
    assert_eq!(placed[0].1, "");
    assert_eq!(placed[1].1, "rule 1 sends some of its packets elsewhere");
    assert!(placed[5].1.starts_with("net_tap refuses it: "), "{placed:?}");
    let shown = rig.weir("steer list");
    let refused = "in software at port in of tenant default: rule 6: net_tap refuses it: ";
    assert!(shown.contains(refused), "{shown}");
    assert_eq!(filters(&rig), 3, "{}", rig.sh("tc filter show dev in parent 1:"));
    // The device drops three kinds, and no fragment of the second; software drops two.
    pass(&rig, "source port mac", 0, 0);
    pass(&rig, ALL, 50, 20);

    // What is in both tables stays where it is; what is not goes.
    let one = "port = \"in\"\nsrc = \"192.0.2.0/24\"\ndst = \"203.0.113.0/24\"\nto = \"drop\"\n";
    rig.write("fewer.toml", &format!("[[rule]]\n{one}"));
    rig.weir("steer apply fewer.toml");
    assert_eq!(filters(&rig), 1);
    pass(&rig, ALL, 70, 0);
    rig.write("none.toml", "");
    rig.weir("steer apply none.toml");
    assert_eq!(filters(&rig), 0);
    pass(&rig, ALL, 80, 0);

    // Killed, it leaves nothing; started again, it has all of them again.
    rig.weir("steer apply rules.toml");
    rig.kill(host);
    assert!(!rig.sh("ip -br link").contains("in "), "{}", rig.sh("ip -br link"));
    let host = rig.host(CONFIG);
    rig.sh("ip link set in up; ip link set out up");
    assert_eq!(places(&rig), placed);
    pass(&rig, ALL, 50, 20);
    rig.end(host);
}
