//! Weir beside Open vSwitch with DPDK: the same two `net_null` ports, both directions, 64-byte
//! frames, one core. Open vSwitch forwards from port to port by a flow each (its shortest path, a
//! "simple match"); Weir passes chains of `null` and `macswap`.
//!
//! Needs the Debian package openvswitch-switch-dpdk and huge pages. Database, sockets and log lie
//! in a directory that goes with the benchmark; no service is started or asked.
//!
//! What is measured is CPU time of the forwarding thread for each packet received; neither ever
//! waits.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use weir_benches::driver::median;
use weir_benches::lanes::{Traffic, chain, dpdk_lane, forward_for, function, wasm};
use weir_benches::process::{on_core, threads};
use weir_dpdk::{DpdkConfig, DpdkPort, Idle};
use weir_packet_plane::Lane;
use weir_port::Port;
use weir_sandbox::{Sandbox, SandboxConfig};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);
const BURST: usize = 32;
/// The core that forwards, in both.
const CORE: usize = 1;
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    assert!(
        Path::new(SWITCH).exists(),
        "there is no {SWITCH}: `apt-get install --no-install-recommends openvswitch-switch-dpdk`"
    );
    weir_dpdk::start(std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
    let switch = Switch::start();
    on_core(CORE);
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let _ticking = sandbox.ticker().tick();
    let mut lanes = ["null", "macswap"].map(|name| lane(&sandbox, name));
    println!(
        "2 net_null ports, both directions, 64-byte frames, burst {BURST}, core {CORE}: ns of CPU time a packet"
    );
    println!("round     null  macswap  Open vSwitch");
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        let [null, macswap] = &mut lanes;
        switch.pause();
        let ours = [forward_for(null, ROUND), forward_for(macswap, ROUND)];
        let [null, macswap, switch] = [ours[0], ours[1], switch.run()];
        println!("{round:5}  {null:7.2}  {macswap:7.2}  {switch:12.2}");
        for (all, one) in all.iter_mut().zip([null, macswap, switch]) {
            all.push(one);
        }
    }
    let [null, macswap, switched] = all.map(median);
    println!("median {null:7.2}  {macswap:7.2}  {switched:12.2}");
    println!(
        "of Open vSwitch's rate on a core: null {:.2}, macswap {:.2}",
        switched / null,
        switched / macswap
    );
    for mut lane in lanes {
        assert_eq!(lane.finish().expect("the ports end").out, 0, "buffers were lost");
    }
}

fn lane(sandbox: &Arc<Sandbox>, name: &str) -> Lane {
    let port = |n: usize| {
        let device = format!("net_null{}", n + if name == "null" { 0 } else { 2 });
        let config = DpdkConfig { idle: Some(Idle::Poll), ..DpdkConfig::new(&device) };
        let port = DpdkPort::open(&format!("null{n}"), &config);
        Box::new(port.unwrap_or_else(|error| panic!("{error}"))) as Box<dyn Port>
    };
    let plan = chain(name, vec![function(sandbox, name, &wasm(name), "{}", 0)]);
    dpdk_lane(sandbox, plan, vec![port(0), port(1)], Traffic { symmetric: true, burst: BURST })
}

/// Open vSwitch with a database of its own.
struct Switch {
    directory: TempDir,
    /// The switch, then the database.
    children: Vec<Child>,
}

impl Switch {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut this = Self { directory, children: Vec::new() };
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        this.must("ovsdb-tool", &["create", &this.path("conf.db"), schema]);
        let socket = format!("punix:{}", this.path("db.sock"));
        let control = this.path("db.ctl");
        let database = ["--remote", &socket, "--unixctl", &control, "--no-chdir"];
        let file = this.path("conf.db");
        this.spawn("ovsdb-server", &[&[file.as_str()], &database[..]].concat(), "db.sock");
        this.vsctl(&["--no-wait", "init"]);
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1 << CORE);
        this.vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-socket-mem=128",
            "other_config:dpdk-extra=--in-memory --no-pci --iova-mode=va --no-telemetry",
            "other_config:dpdk-lcore-mask=0x1",
            &mask,
        ]);
        let database = format!("unix:{}", this.path("db.sock"));
        let [log, control] = [("log-file", "log"), ("unixctl", "ctl")]
            .map(|(option, name)| format!("--{option}={}", this.path(name)));
        let arguments = [database.as_str(), &log, &control, "-vconsole:off", "--no-chdir"];
        this.spawn(SWITCH, &arguments, "ctl");
        this.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]);
        this.vsctl(&["set", "bridge", "br0", "fail-mode=secure"]);
        for n in 0..2 {
            let (port, device) = (format!("p{n}"), format!("options:dpdk-devargs=net_null{n}"));
            this.vsctl(&[
                "add-port",
                "br0",
                &port,
                "--",
                "set",
                "Interface",
                &port,
                "type=dpdk",
                &device,
            ]);
        }
        let bridge = this.path("br0.mgmt");
        for (from, to) in [(0, 1), (1, 0)] {
            let flow = format!("in_port=p{from},actions=output:p{to}");
            this.must("ovs-ofctl", &["add-flow", &bridge, &flow]);
        }
        this
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.directory.path());
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().expect(program);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn vsctl(&self, arguments: &[&str]) {
        let database = format!("--db=unix:{}", self.path("db.sock"));
        self.must("ovs-vsctl", &[&[database.as_str(), "--timeout=30"], arguments].concat());
    }

    fn spawn(&mut self, program: &str, arguments: &[&str], appears: &str) {
        let mut command = self.command(program, arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.children.insert(0, command.spawn().expect(program));
        let (until, file) = (Instant::now() + PATIENCE, PathBuf::from(self.path(appears)));
        while !file.exists() {
            assert!(Instant::now() < until, "{program} is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.children[0]), signal).expect("it lives");
    }

    /// It stands still from now on.
    fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// ns of CPU time of its forwarding thread for each packet received, for a round.
    fn run(&self) -> f64 {
        self.signal(Signal::CONT);
        let before = self.sample();
        std::thread::sleep(ROUND);
        let after = self.sample();
        (after.0 - before.0) as f64 / (after.1 - before.1) as f64
    }

    /// CPU time of the forwarding thread in ns, and packets that it has received.
    fn sample(&self) -> (u64, u64) {
        let shown = self.must(
            "ovs-appctl",
            &["-t", &self.path("ctl"), "dpif-netdev/pmd-stats-show", "-pmd", &CORE.to_string()],
        );
        let packets = shown.lines().find_map(|line| line.trim().strip_prefix("packets received:"));
        let packets = packets.and_then(|n| n.trim().parse().ok());
        let threads = threads(self.children[0].id());
        let forwarder = threads.values().find(|(name, _)| name.starts_with("pmd"));
        let (_, used) = forwarder.expect("a forwarding thread");
        (used.nanoseconds, packets.unwrap_or_else(|| panic!("{shown}")))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in &mut self.children {
            // They may have ended before.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
