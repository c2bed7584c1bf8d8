//! A laboratory: two hosts in network namespaces of their own, and a Weir host in a third between
//! them, a bump in the wire.
//!
//! ```text
//!   left  10.77.0.2, fd77::2           middle              right  10.77.0.1, fd77::1
//!   [ eth0 ]────veth────[ left ] weir run [ right ]────veth────[ eth0 ]
//! ```
//!
//! Everything that it makes ends with it: namespaces, interfaces, and the processes that it
//! started. Needs root, iproute2 and ethtool, and `target/release/weir` and `target/functions` from
//! `scripts/build`.

mod clients;
mod namespace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use namespace::{Namespace, Running};
use namespace::{PATIENCE, run};

/// The place in the source tree's root.
fn root(place: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(place);
    assert!(path.exists(), "{} is missing: run scripts/build", path.display());
    path
}

/// How the host's ports lie on the interfaces `left` and `right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Of kind `xdp`.
    Xdp,
    /// Of kind `dpdk`, over DPDK's `net_af_packet`.
    DpdkAfPacket,
    /// Of kind `dpdk`, over DPDK's `net_af_xdp`.
    DpdkAfXdp,
}

impl PortKind {
    fn table(self, number: usize, side: &str, keys: &str, queues: u8) -> String {
        let of_kind = match self {
            Self::Xdp => format!("kind = \"xdp\"\ninterface = \"{side}\""),
            Self::DpdkAfPacket => {
                format!(
                    "kind = \"dpdk\"\ndevice = \"net_af_packet{number},iface={side},qpairs={queues}\""
                )
            }
            Self::DpdkAfXdp => {
                format!("kind = \"dpdk\"\ndevice = \"net_af_xdp{number},iface={side}\"")
            }
        };
        let keys = keys.replace("SIDE", side);
        format!("[[port]]\nname = \"{side}\"\n{of_kind}\n{keys}\n")
    }
}

/// A wire from a host to the middle, where its end has the side's name.
fn wire(host: &Namespace, middle: &Namespace, side: &str, address: u8, queues: u8) {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    host.sh(&format!(
        "ip link add name eth0 {queues} type veth peer name {side} {queues} netns {}",
        middle.0
    ));
    // What is offloaded to a veth pair is never done: packets would have no checksums, and no size
    // of the wire's.
    host.sh("ethtool -K eth0 tx off txvlan off gro off");
    host.sh(&format!("ip address add 10.77.0.{address}/24 dev eth0"));
    host.sh(&format!("ip address add fd77::{address}/64 dev eth0 nodad"));
    host.sh("ip link set dev eth0 up");
    // The middle has no part in the talk: no addresses, so nothing of its own to say.
    middle.sh(&format!("ip link set dev {side} addrgenmode none up"));
}

/// See the module. Fields are dropped in order: processes before the namespaces that they are in.
#[derive(Debug)]
pub struct Lab {
    host: Option<Running>,
    servers: Vec<Running>,
    /// The host on the left.
    pub left: Namespace,
    /// Where Weir is.
    pub middle: Namespace,
    /// The host on the right.
    pub right: Namespace,
    directory: TempDir,
    /// Queues of each wire's ends.
    queues: u8,
}

impl Drop for Lab {
    /// What failed is often told in the host's log only.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the host's log:\n{}", self.log());
        }
    }
}

impl Lab {
    /// Two hosts with a wire to the middle each, and a host of Weir's there whose ports `left` and
    /// `right` have these further keys.
    #[must_use]
    pub fn new(ports: PortKind, keys: &str) -> Self {
        Self::configured(ports, keys, "")
    }

    /// The same, with further tables in the host's configuration.
    #[must_use]
    pub fn configured(ports: PortKind, keys: &str, tables: &str) -> Self {
        Self::with_queues(1, ports, keys, tables)
    }

    /// The same, over wires whose ends have so many queues.
    #[must_use]
    pub fn with_queues(queues: u8, ports: PortKind, keys: &str, tables: &str) -> Self {
        let mut lab = Self::wired_with(queues);
        lab.configure(ports, keys, tables);
        lab.start();
        lab
    }

    /// The same without a host.
    #[must_use]
    pub fn wired() -> Self {
        Self::wired_with(1)
    }

    /// The same, over wires whose ends have so many queues.
    #[must_use]
    pub fn wired_with(queues: u8) -> Self {
        let [left, middle, right] = ["left", "middle", "right"].map(Namespace::new);
        wire(&left, &middle, "left", 2, queues);
        wire(&right, &middle, "right", 1, queues);
        let directory = tempfile::tempdir().expect("a directory");
        Self { host: None, servers: Vec::new(), left, middle, right, directory, queues }
    }

    /// Writes the configuration that the host will be started with.
    pub fn configure(&self, ports: PortKind, keys: &str, tables: &str) {
        let sides = ["left", "right"].into_iter().enumerate();
        let ports: String =
            sides.map(|(n, side)| ports.table(n, side, keys, self.queues)).collect();
        let config =
            format!("[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n{tables}{ports}");
        self.write("weir.toml", config);
    }

    /// Writes a file into the host's directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("the file is written");
    }

    /// Gives the host on the right a new wire, after the old one was cut.
    pub fn rewire_right(&self) {
        wire(&self.right, &self.middle, "right", 1, 1);
        // The host has another address on the wire now.
        self.left.sh("ip neighbour flush dev eth0");
    }

    fn run_command(&self) -> Command {
        let mut command = self.middle.command(root("target/release/weir").to_str().expect("text"));
        command.arg("run").current_dir(self.directory.path()).env_remove("WEIR_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Starts the host, and waits until it is ready.
    pub fn start(&mut self) {
        let log = fs::File::create(self.path("log")).expect("the log");
        let mut command = self.run_command();
        command.stdout(Stdio::null()).stderr(log);
        self.host = Some(Running(command.spawn().expect("weir starts")));
        self.wait("the host is ready", |lab| lab.log().contains("ready"));
    }

    /// The host's process, if it was started and not ended.
    #[must_use]
    pub fn host_if_running(&self) -> Option<u32> {
        self.host.as_ref().map(Running::id)
    }

    /// Ends the host as a crash would.
    pub fn crash(&mut self) {
        self.host = None;
    }

    /// Ends the host in order: everything that it had has to be given back.
    pub fn stop(&mut self) {
        let host = self.host.take().expect("a host");
        run(Command::new("kill").args(["-TERM", &host.id().to_string()]));
        let output = host.output();
        assert!(output.status.success(), "{}\n{}", output.status, self.log());
    }

    /// The host's process; `ip netns exec` becomes it.
    #[must_use]
    pub fn host(&self) -> u32 {
        self.host.as_ref().expect("a host").id()
    }

    /// A place in the host's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the host wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until something is so, which a host that is no more cannot bring about.
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            let ended = self.host.as_ref().and_then(Running::ended);
            assert!(ended.is_none(), "the host ended ({ended:?}) until {what}:\n{}", self.log());
            assert!(Instant::now() < until, "waiting until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `weir` with the host; the answer is JSON, if it has one.
    pub fn weir(&self, arguments: &[&str]) -> Value {
        let out = run(&mut self.weir_command(arguments));
        if out.is_empty() { Value::Null } else { serde_json::from_str(&out).expect("JSON") }
    }

    /// The same, which must fail; the answer is why.
    #[must_use]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.weir_command(arguments).output().expect("weir");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn weir_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(root("target/release/weir"));
        command.arg("--api").arg(self.path("api.sock")).args(["--output", "json"]).args(arguments);
        command.current_dir(self.directory.path()).env_remove("WEIR_TENANT");
        command
    }

    /// Pushes a function of `target/functions` as this version.
    pub fn push(&self, name: &str, version: &str) {
        self.push_file(&root(&format!("target/functions/{name}.wasm")), name, version);
    }

    /// Pushes a function as this version.
    pub fn push_file(&self, file: &Path, name: &str, version: &str) {
        let file = file.to_str().expect("text");
        self.weir(&["function", "push", file, "--name", name, "--version", version]);
    }

    /// Deploys a chain of one function, `edge`, from the left to the right.
    pub fn chain(&self, function: &str, config: &str) {
        self.deploy(&format!("[[function]]\nuse = \"{function}\"\n{config}\n"));
    }

    /// Deploys a chain of these functions, `edge`, from the left to the right.
    pub fn deploy(&self, functions: &str) {
        self.deploy_with("", functions);
    }

    /// The same, with further keys of the chain.
    pub fn deploy_with(&self, keys: &str, functions: &str) {
        self.write_edge(keys, functions);
        self.weir(&["chain", "apply", "edge.toml"]);
    }

    /// Writes that chain to `edge.toml`.
    pub fn write_edge(&self, keys: &str, functions: &str) {
        let chain =
            format!("name = \"edge\"\nfrom = \"left\"\nto = \"right\"\n{keys}\n{functions}");
        self.write("edge.toml", chain);
    }

    /// What happened so far, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let told = run(&mut self.weir_command(&["events"]));
        told.lines().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    /// The one chain, as `weir status` has it.
    #[must_use]
    pub fn status(&self) -> Value {
        self.weir(&["status"])["chains"][0].clone()
    }

    /// A port, as `weir port list` has it.
    #[must_use]
    pub fn port(&self, name: &str) -> Value {
        let ports = self.weir(&["port", "list"]);
        let ports = ports.as_array().expect("ports");
        ports.iter().find(|port| port["name"] == name).expect("the port").clone()
    }
}
