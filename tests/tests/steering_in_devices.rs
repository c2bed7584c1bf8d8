//! Steering rules that a device has itself, by rte_flow: a `dpdk` port over `net_tap`, which makes filters of the kernel's (`tc`
//! flower) of them. In a guest (`tests/vm`), because not every kernel has those.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_vm::{Guest, Machine, Process};

/// Longer than anything here takes, with an emulated CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const CONFIG: &str = r#"
[api]
socket = "/run/weir.sock"
timeout = "240s"
compile-timeout = "240s"
[store]
path = "/run/store"
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

fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    target.canonicalize().expect("a target directory: run scripts/build")
}

struct Rig {
    guest: Guest,
    directory: TempDir,
}

impl Rig {
    fn boot() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let compiled = target().join("vm/compiled");
        fs::create_dir_all(&compiled).expect("a directory");
        let mut machine = Machine::new(&target());
        machine.huge_pages = 128;
        machine.limit = Duration::from_secs(300);
        machine.shares = vec![directory.path().to_owned(), compiled];
        let guest = machine.boot().unwrap_or_else(|error| panic!("{error}"));
        let rig = Self { guest, directory };
        // Every frame is a test's.
        rig.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        rig.sh("for m in sch_multiq sch_ingress cls_flower act_gact; do modprobe $m; done");
        for (name, content) in
            [("weir.toml", CONFIG), ("edge.toml", CHAIN), ("rules.toml", RULES), ("send.py", SEND)]
        {
            rig.write(name, content);
        }
        rig
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.directory.path().join(name), content).expect("the file is written");
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let script = format!("cd {}; {script}", self.directory.path().display());
        let output = self.guest.run(&["sh", "-ec", &script]);
        let output = output.unwrap_or_else(|e| panic!("{script}: {e}"));
        assert_eq!(output.status, 0, "{script}: {}{}{}", output.stdout, output.stderr, self.log());
        output.stdout
    }

    #[track_caller]
    fn weir(&self, arguments: &str) -> String {
        self.sh(&format!(
            "{} --api /run/weir.sock {arguments}",
            target().join("release/weir").display()
        ))
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.weir(&format!("--output json {arguments}"))).expect("JSON")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn wait(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < until, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn host(&self) -> Process<'_> {
        let compiled = target().join("vm/compiled");
        self.sh(&format!(
            "mkdir -p -m 700 /run/store/cache; cp {}/* /run/store/cache/ || true; rm -f log",
            compiled.display()
        ));
        let weir = target().join("release/weir");
        let directory = self.directory.path().display().to_string();
        let script = format!("exec {} run --config weir.toml > log 2>&1", weir.display());
        let host = self.guest.start(&directory, &["sh", "-c", &script]);
        let host = host.expect("the guest is there");
        self.wait("the host is ready", |rig| rig.log().contains("ready"));
        host
    }

    /// Packets that the port `in` has received, and those of them that rules dropped.
    fn counts(&self) -> (u64, u64) {
        let ports = self.json("port list");
        let port = &ports[0];
        assert_eq!(port["name"], "in", "{ports}");
        let dropped = port["drops"]["rx-steering"].as_u64().unwrap_or(0);
        (port["rx_packets"].as_u64().expect("a number"), dropped)
    }

    /// Sends ten of each of these, and waits until so many were received and dropped in software.
    #[track_caller]
    fn pass(&self, kinds: &str, received: u64, dropped: u64) {
        let before = self.counts();
        self.sh(&format!("python3 send.py 10 {kinds}"));
        let expected = (before.0 + received, before.1 + dropped);
        let until = Instant::now() + Duration::from_secs(20);
        while self.counts() != expected && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(self.counts(), expected, "{kinds}: {}", self.weir("steer list"));
    }

    /// What `steer list` says of each rule: where it is, and why it is there.
    fn places(&self) -> Vec<(String, String)> {
        let list = self.json("steer list");
        let rules =
            list.as_array().expect("a list").iter().filter(|entry| entry["rule"].is_object());
        let place = |entry: &Value| {
            let place = &entry["places"][0];
            assert_eq!(place["port"], json!("in"), "{entry}");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&place["at"]), text(&place["reason"]))
        };
        rules.map(place).collect()
    }

    /// The kernel's filters in front of the port.
    fn filters(&self) -> usize {
        let filters = self.sh("tc filter show dev in parent 1:");
        filters.lines().filter(|line| line.contains("handle")).count()
    }
}

#[test]
fn guest_a_device_drops_what_rules_say_and_software_the_rest() {
    const ALL: &str = "chain behind source port fragment mac dscp other";
    let rig = Rig::boot();
    let host = rig.host();
    let null = target().join("functions/null.wasm");
    rig.weir(&format!("function push {} --name null --version 1.0.0", null.display()));
    rig.weir("chain apply edge.toml");
    rig.sh("ip link set in up; ip link set out up");
    rig.pass(ALL, 80, 0);
    assert_eq!(rig.filters(), 0);

    rig.weir("steer apply rules.toml");
    let places = rig.places();
    let at: Vec<&str> = places.iter().map(|(at, _)| at.as_str()).collect();
    let expected = ["software", "software", "rte_flow", "rte_flow", "rte_flow", "software"];
    assert_eq!(at, expected, "{places:?}");
    assert_eq!(places[0].1, "");
    assert_eq!(places[1].1, "rule 1 sends some of its packets elsewhere");
    assert!(places[5].1.starts_with("net_tap refuses it: "), "{places:?}");
    let shown = rig.weir("steer list");
    let refused = "in software at port in of tenant default: rule 6: net_tap refuses it: ";
    assert!(shown.contains(refused), "{shown}");
    assert_eq!(rig.filters(), 3, "{}", rig.sh("tc filter show dev in parent 1:"));
    // The device drops three kinds, and no fragment of the second; software drops two.
    rig.pass("source port mac", 0, 0);
    rig.pass(ALL, 50, 20);

    // What is in both tables stays where it is; what is not goes.
    let one = "port = \"in\"\nsrc = \"192.0.2.0/24\"\ndst = \"203.0.113.0/24\"\nto = \"drop\"\n";
    rig.write("fewer.toml", &format!("[[rule]]\n{one}"));
    rig.weir("steer apply fewer.toml");
    assert_eq!(rig.filters(), 1);
    rig.pass(ALL, 70, 0);
    rig.write("none.toml", "");
    rig.weir("steer apply none.toml");
    assert_eq!(rig.filters(), 0);
    rig.pass(ALL, 80, 0);

    // Killed, it leaves nothing; started again, it has all of them again.
    rig.weir("steer apply rules.toml");
    host.signal(Signal::KILL).expect("the guest is there");
    host.output().expect("it ends");
    assert!(!rig.sh("ip -br link").contains("in "), "{}", rig.sh("ip -br link"));
    let host = rig.host();
    rig.sh("ip link set in up; ip link set out up");
    assert_eq!(rig.places(), places);
    rig.pass(ALL, 50, 20);
    host.signal(Signal::TERM).expect("the guest is there");
    assert_eq!(host.output().expect("it ends").status, 0, "{}", rig.log());
}
