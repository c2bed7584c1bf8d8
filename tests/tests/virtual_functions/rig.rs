//! The rig: a guest with a NIC whose wire ends in a network namespace of the machine, and Weir in the guest.
//!
//! ```text
//!   outside (namespace)       guest
//!   [ wire ]──────┬── PF    eth0
//!   10.88.0.1     ├── VF 0  vfio-pci  port vf0; its way to the kernel, weir-vf0, has 10.89.0.3
//!   10.89.0.1     ├── VF 1  igbvf     a listener, 10.88.0.2
//!   10.91.0.1     ├── VF 2  vfio-pci  port vf2
//!                 └── VF 3  vfio-pci  port vf3; its way to the kernel, weir-vf3, has 10.91.0.3
//! ```
//!
//! The guest emulates its CPU: what the compiler made there is kept from one run to the next, in `target/vm/compiled`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::lab::{Namespace, Running};
use weir_vm::{Guest, Machine, Plug, Process};

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hardware addresses of the NIC's functions.
pub(crate) const VF: [&str; 4] =
    ["02:00:00:00:77:00", "02:00:00:00:77:01", "02:00:00:00:77:02", "02:00:00:00:77:03"];
/// The one of the wire's other end.
const WIRE: &str = "02:00:00:00:88:01";

fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    target.canonicalize().expect("a target directory: run scripts/build")
}

/// See the module. Fields are dropped in order.
pub(crate) struct Rig {
    servers: Vec<Running>,
    pub(crate) guest: Guest,
    pub(crate) outside: Namespace,
    directory: TempDir,
}

impl Rig {
    /// Boots a guest, in which the ways to the kernel are made ready.
    pub(crate) fn boot() -> Self {
        let outside = Namespace::new("outside");
        // Every frame is a test's: nobody announces or asks for anything by itself.
        for of in ["all", "default"] {
            outside.sh(&format!("sysctl -qw net.ipv6.conf.{of}.disable_ipv6=1"));
        }
        let directory = tempfile::tempdir().expect("a directory");
        let compiled = target().join("vm/compiled");
        fs::create_dir_all(&compiled).expect("a directory");
        let mut machine = Machine::new(&target());
        machine.nics = vec![Plug::Tap {
            interface: "wire".to_owned(),
            namespace: Some(outside.name().to_owned()),
        }];
        machine.huge_pages = 128;
        machine.limit = Duration::from_secs(240);
        machine.shares = vec![directory.path().to_owned(), compiled];
        let guest = machine.boot().unwrap_or_else(|error| panic!("{error}"));
        outside.sh(&format!("ip link set dev wire address {WIRE}"));
        for address in ["10.88.0.1/24", "10.89.0.1/24", "10.91.0.1/24"] {
            outside.sh(&format!("ip address add {address} dev wire"));
        }
        outside.sh("ip route add 10.90.0.0/24 dev wire src 10.91.0.1");
        for (address, function) in [("10.88.0.2", 1), ("10.89.0.3", 0), ("10.90.0.1", 3)] {
            let mac = VF[function];
            outside.sh(&format!("ip neighbour add {address} lladdr {mac} dev wire"));
        }
        let rig = Self { servers: Vec::new(), guest, outside, directory };
        rig.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        rig.sh("ip link set eth0 up");
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

    /// A place in the directory that machine and guest have in common.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into that directory.
    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the file is written");
    }

    /// Runs a script in the guest that must go well; the answer is its standard output.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output =
            self.guest.run(&["sh", "-ec", script]).unwrap_or_else(|e| panic!("{script}: {e}"));
        assert_eq!(
            output.status,
            0,
            "{script}: {}{}\n{}",
            output.stdout,
            output.stderr,
            self.log()
        );
        output.stdout
    }

    /// Starts the host in the guest with this configuration, and waits until it is ready.
    pub(crate) fn host(&self, config: &str) -> Process<'_> {
        let tables = "[api]\nsocket = \"/run/weir/api.sock\"\ntimeout = \"240s\"\ncompile-timeout = \"240s\"\n\
             [store]\npath = \"/run/weir/store\"\n";
        self.write("weir.toml", &format!("{tables}{config}"));
        let compiled = target().join("vm/compiled");
        self.sh(&format!(
            "mkdir -p -m 700 /run/weir/store/cache; cp {}/* /run/weir/store/cache/ || true",
            compiled.display()
        ));
        let (weir, config) = (target().join("release/weir"), self.path("weir.toml"));
        let script = format!(
            "exec {} run --config {} > /run/weir/log 2>&1",
            weir.display(),
            config.display()
        );
        let host = self.guest.start("/", &["sh", "-c", &script]).expect("the guest is there");
        self.wait("the host is ready", |rig| rig.log().contains("ready"));
        // It need not ask who has the address, which all functions of the NIC would hear.
        self.sh(&format!(
            "ip neighbour add 10.88.0.1 lladdr {WIRE} dev $(ls /sys/bus/pci/devices/0000:01:10.2/net)"
        ));
        host
    }

    /// What the host wrote.
    pub(crate) fn log(&self) -> String {
        self.guest.run(&["cat", "/run/weir/log"]).map(|output| output.stdout).unwrap_or_default()
    }

    /// Keeps what the compiler made.
    pub(crate) fn keep_compiled(&self) {
        let compiled = target().join("vm/compiled");
        self.sh(&format!("cp -u /run/weir/store/cache/*.cwasm {}/", compiled.display()));
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "waiting until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `weir` in the guest, in the common directory; the answer is JSON, if it has one.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Value {
        let weir = target().join("release/weir").display().to_string();
        let mut words = vec![&*weir, "--api", "/run/weir/api.sock", "--output", "json"];
        words.extend(arguments);
        let directory = self.directory.path().display().to_string();
        let process = self.guest.start(&directory, &words);
        let output = process.and_then(Process::output).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(output.status, 0, "{arguments:?}: {}\n{}", output.stderr, self.log());
        match &*output.stdout {
            "" => Value::Null,
            text => serde_json::from_str(text).expect("JSON"),
        }
    }

    /// Pushes a function of `target/functions`.
    pub(crate) fn push(&self, name: &str, version: &str) {
        let file = target().join(format!("functions/{name}.wasm")).display().to_string();
        self.weir(&["function", "push", &file, "--name", name, "--version", version]);
    }

    /// Applies a chain.
    pub(crate) fn chain(&self, chain: &str) {
        self.write("chain.toml", chain);
        self.weir(&["chain", "apply", "chain.toml"]);
    }

    /// Applies steering rules.
    pub(crate) fn steer(&self, rules: &str) {
        self.write("steer.toml", rules);
        self.weir(&["steer", "apply", "steer.toml"]);
    }

    /// A server outside, with a page that says `hello`, on port 9000.
    pub(crate) fn serve(&mut self) {
        let www = self.path("www");
        fs::create_dir_all(&www).expect("a directory");
        fs::write(www.join("page"), "hello\n").expect("a page");
        let server = format!("python3 -m http.server --directory {} 9000", www.display());
        self.servers.push(self.outside.start(&server));
        self.wait("the server listens", |rig| {
            rig.outside.sh("ss --listening --tcp --numeric --no-header").contains(":9000 ")
        });
    }

    /// Asks for a page from outside: status (0: no answer), head and body.
    pub(crate) fn get(&self, url: &str) -> (u16, String) {
        let curl = "curl --silent --include --globoff --max-time 4 --write-out \\n%{http_code}";
        let output = self.outside.command(&format!("{curl} {url}")).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0);
        (code, text)
    }

    /// Sends so many numbered datagrams to a function of the NIC, one each `pause` seconds.
    pub(crate) fn frames(
        &self,
        mac: &str,
        count: u32,
        pause: f32,
        [source, destination]: [&str; 2],
    ) -> Frames {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virtual_functions/frames.py");
        let script = script.display();
        let arguments = format!("wire {mac} {count} {pause} {source} {destination}");
        // Its own Python: the one that has scapy.
        let mut command = self.outside.command(&format!("/usr/bin/python3 {script} {arguments}"));
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
