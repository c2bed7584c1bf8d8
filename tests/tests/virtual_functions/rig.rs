//! The rig: a guest with a NIC whose wire ends in a network namespace of the machine, and Weir in
//! the guest.
//!
//! ```text
//!   outside (namespace)       guest
//!   [ wire ]──────┬── PF    eth0
//!   10.88.0.1     ├── VF 0  vfio-pci  port vf0; its way to the kernel, weir-vf0, has 10.89.0.3
//!   10.89.0.1     ├── VF 1  igbvf     a listener, 10.88.0.2
//!   10.91.0.1     ├── VF 2  vfio-pci  port vf2
//!                 └── VF 3  vfio-pci  port vf3; its way to the kernel, weir-vf3, has 10.91.0.3
//! ```

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weir_tests::in_guest::InGuest;
use weir_tests::lab::Running;
use weir_vm::Process;

/// Hardware addresses of the NIC's functions.
pub(crate) const VF: [&str; 4] =
    ["02:00:00:00:77:00", "02:00:00:00:77:01", "02:00:00:00:77:02", "02:00:00:00:77:03"];
/// The one of the wire's other end.
const WIRE: &str = "02:00:00:00:88:01";

/// See the module. Fields are dropped in order.
pub(crate) struct Rig {
    servers: Vec<Running>,
    pub(crate) guest: InGuest,
}

impl Deref for Rig {
    type Target = InGuest;

    fn deref(&self) -> &InGuest {
        &self.guest
    }
}

impl Rig {
    /// Boots a guest, in which the ways to the kernel are made ready.
    pub(crate) fn boot() -> Self {
        let rig = Self::plugged();
        let outside = rig.outside();
        for address in ["10.88.0.1/24", "10.89.0.1/24", "10.91.0.1/24"] {
            outside.sh(&format!("ip address add {address} dev wire"));
        }
        outside.sh("ip route add 10.90.0.0/24 dev wire src 10.91.0.1");
        for (address, function) in [("10.88.0.2", 1), ("10.89.0.3", 0), ("10.90.0.1", 3)] {
            let mac = VF[function];
            outside.sh(&format!("ip neighbour add {address} lladdr {mac} dev wire"));
        }
        for (function, address) in [(0, "10.89.0.3"), (3, "10.91.0.3")] {
            let (name, mac) = (format!("weir-vf{function}"), VF[function]);
            rig.sh(&format!(
                "ip tuntap add dev {name} mode tap; ip link set {name} address {mac} up; ip address add {address}/24 dev {name}"
            ));
        }
        rig.sh(&format!("ip neighbour add 10.91.0.1 lladdr {WIRE} dev weir-vf3"));
        // Connections to others that come in there are the kernel's own.
        rig.sh("ip rule add iif weir-vf3 ipproto tcp lookup 100; ip route add local default dev lo table 100");
        rig
    }

    /// Boots a guest with nothing but its NIC.
    pub(crate) fn plugged() -> Self {
        let guest = InGuest::plugged(|machine| {
            machine.huge_pages = 128;
            machine.limit = Duration::from_secs(700);
        });
        guest.outside().sh(&format!("ip link set dev wire address {WIRE}"));
        Self { servers: Vec::new(), guest }
    }

    /// Starts the host in the guest with this configuration, and waits until it is ready.
    pub(crate) fn host(&self, config: &str) -> Process<'_> {
        let host = self.guest.host(config);
        // It need not ask who has the address, which all functions of the NIC would hear.
        self.sh(&format!(
            "ip neighbour add 10.88.0.1 lladdr {WIRE} dev $(ls /sys/bus/pci/devices/0000:01:10.2/net)"
        ));
        host
    }

    /// A server outside, with a page that says `hello`, on port 9000.
    pub(crate) fn serve(&mut self) {
        let www = self.path("www");
        fs::create_dir_all(&www).expect("a directory");
        fs::write(www.join("page"), "hello\n").expect("a page");
        let server = format!("python3 -m http.server --directory {} 9000", www.display());
        let server = self.outside().start(&server);
        self.servers.push(server);
        self.guest.wait("the server listens", |rig| {
            rig.outside().sh("ss --listening --tcp --numeric --no-header").contains(":9000 ")
        });
    }

    /// Asks for a page from outside: status (0: no answer), head and body.
    pub(crate) fn get(&self, url: &str) -> (u16, String) {
        let curl = "curl --silent --include --globoff --max-time 8 --write-out \\n%{http_code}";
        let output = self.outside().command(&format!("{curl} {url}")).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0);
        (code, text)
    }

    /// Sends so many numbered datagrams to a function of the NIC, one each `pause` seconds.
    pub(crate) fn frames(&self, mac: &str, count: u32, pause: f32, addresses: [&str; 2]) -> Frames {
        self.padded_frames(mac, count, pause, addresses, 30)
    }

    /// The same with so many bytes behind the number.
    pub(crate) fn padded_frames(
        &self,
        mac: &str,
        count: u32,
        pause: f32,
        [source, destination]: [&str; 2],
        padding: u32,
    ) -> Frames {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virtual_functions/frames.py");
        let script = script.display();
        let arguments = format!("wire {mac} {count} {pause} {source} {destination} {padding}");
        // Its own Python: the one that has scapy.
        let mut command = self.outside().command(&format!("/usr/bin/python3 {script} {arguments}"));
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        Frames(command)
    }
}

/// Frames to be sent.
pub(crate) struct Frames(Command);

impl Frames {
    /// Sends them, does something meanwhile, and tells which came back.
    pub(crate) fn during(mut self, work: impl FnOnce()) -> Vec<Value> {
        let child = self.0.spawn().expect("python3");
        work();
        let output = child.wait_with_output().expect("python3");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test needs python3-scapy: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}
