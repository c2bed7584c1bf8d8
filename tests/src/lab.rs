//! A laboratory: two hosts in network namespaces of their own, and a Weir host in a third between them, a bump in the wire.
//!
//! ```text
//!   left  10.77.0.2, fd77::2           middle              right  10.77.0.1, fd77::1
//!   [ eth0 ]────veth────[ left ] weir run [ right ]────veth────[ eth0 ]
//! ```
//!
//! Everything that it makes ends with it: namespaces, interfaces, and the processes that it started. Needs root, iproute2
//! and ethtool, and `target/release/weir` and `target/functions` from `scripts/build`.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The place in the source tree's root.
fn root(place: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(place);
    assert!(path.exists(), "{} is missing: run scripts/build", path.display());
    path
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Waits until it ends by itself; the answer is what it wrote.
    #[must_use]
    pub fn output(mut self) -> Output {
        let until = Instant::now() + PATIENCE;
        while self.0.try_wait().expect("it is our child").is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let mut output = Output {
            status: self.0.wait().expect("it is our child"),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        for (from, into) in [
            (self.0.stdout.as_mut().map(|out| out as &mut dyn std::io::Read), &mut output.stdout),
            (self.0.stderr.as_mut().map(|err| err as &mut dyn std::io::Read), &mut output.stderr),
        ] {
            from.map(|from| from.read_to_end(into));
        }
        output
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A network namespace that is removed when this is dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("weir-{}-{number}-{what}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0]));
        namespace.sh("ip link set dev lo up");
        namespace
    }

    /// A command that will run in it: words, separated by spaces.
    #[must_use]
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(words.split_whitespace());
        command
    }

    /// Runs a command in it that must go well; the answer is its standard output.
    pub fn sh(&self, words: &str) -> String {
        run(&mut self.command(words))
    }

    /// Starts a thread of this process in it.
    ///
    /// # Panics
    /// In the thread, when the kernel does not let it in.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/var/run/netns/{}", self.0);
        std::thread::spawn(move || {
            let namespace = fs::File::open(path).expect("the namespace is there");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)
                .expect("the namespace is entered");
            work()
        })
    }

    /// Starts a command in it.
    #[must_use]
    pub fn start(&self, words: &str) -> Running {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap_or_else(|error| panic!("{words}: {error}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "delete", &self.0]).status());
    }
}

/// Runs a command that must go well; the answer is its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// A wire from a host to the middle, where its end has the side's name; each end has so many queues.
fn wire(host: &Namespace, middle: &Namespace, side: &str, address: u8, queues: u8) {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    host.sh(&format!(
        "ip link add name eth0 {queues} type veth peer name {side} {queues} netns {}",
        middle.0
    ));
    // What is offloaded to a veth pair is never done: packets would have no checksums, and no size of the wire's.
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
}

impl Lab {
    /// Two hosts with a wire to the middle each, and a host of Weir's there whose ports `left` and `right` have these further
    /// keys.
    #[must_use]
    pub fn new(kind: &str, keys: &str) -> Self {
        Self::configured(kind, keys, "")
    }

    /// The same, with further tables in the host's configuration.
    #[must_use]
    pub fn configured(kind: &str, keys: &str, tables: &str) -> Self {
        Self::with_queues(1, kind, keys, tables)
    }

    /// The same, over wires whose ends have so many queues. `SIDE` in the keys is the port's interface, `NUMBER` its number.
    #[must_use]
    pub fn with_queues(queues: u8, kind: &str, keys: &str, tables: &str) -> Self {
        let [left, middle, right] = ["left", "middle", "right"].map(Namespace::new);
        wire(&left, &middle, "left", 2, queues);
        wire(&right, &middle, "right", 1, queues);
        let directory = tempfile::tempdir().expect("a directory");
        let port = |side: &str| {
            let number = if side == "left" { "0" } else { "1" };
            let keys = keys.replace("SIDE", side).replace("NUMBER", number);
            let own =
                if kind == "xdp" { format!("interface = \"{side}\"\n") } else { String::new() };
            format!("[[port]]\nname = \"{side}\"\nkind = \"{kind}\"\n{own}{keys}\n")
        };
        let config = format!(
            "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n{tables}{}{}",
            port("left"),
            port("right")
        );
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let mut lab = Self { host: None, servers: Vec::new(), left, middle, right, directory };
        lab.start();
        lab
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

    /// Starts a host that is expected to end by itself.
    #[must_use]
    pub fn try_run(&self) -> Output {
        let mut command = self.run_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("weir starts")).output()
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the host wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "waiting until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `weir` with the host; the answer is JSON, if it has one.
    pub fn weir(&self, arguments: &[&str]) -> Value {
        let out = run(&mut self.weir_command(arguments));
        if out.is_empty() { Value::Null } else { serde_json::from_str(&out).expect("JSON") }
    }

    fn weir_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(root("target/release/weir"));
        command.arg("--api").arg(self.path("api.sock")).args(["--output", "json"]).args(arguments);
        command.current_dir(self.directory.path()).env_remove("WEIR_TENANT");
        command
    }

    /// Pushes a function of `target/functions` as this version.
    pub fn push(&self, name: &str, version: &str) {
        let file = root(&format!("target/functions/{name}.wasm"));
        let file = file.to_str().expect("text");
        self.weir(&["function", "push", file, "--name", name, "--version", version]);
    }

    /// Deploys a chain of one function, `edge`, from the left to the right.
    pub fn chain(&self, function: &str, config: &str) {
        self.chain_of("", function, config);
    }

    /// The same, with further keys of the chain.
    pub fn chain_of(&self, keys: &str, function: &str, config: &str) {
        self.write_chain(keys, function, config);
        self.weir(&["chain", "apply", "edge.toml"]);
    }

    /// The same, which must fail; the answer is why.
    #[must_use]
    pub fn refused_chain(&self, keys: &str, function: &str, config: &str) -> String {
        self.write_chain(keys, function, config);
        let output = self.weir_command(&["chain", "apply", "edge.toml"]).output().expect("weir");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn write_chain(&self, keys: &str, function: &str, config: &str) {
        let chain = format!(
            "name = \"edge\"\nfrom = \"left\"\nto = \"right\"\n{keys}\n[[function]]\nuse = \"{function}\"\n{config}\n"
        );
        fs::write(self.path("edge.toml"), chain).expect("the file is written");
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

    /// Servers on the right: HTTP on port 80 with a file of so many bytes, iperf3 on its port.
    pub fn serve(&mut self, file_bytes: usize) {
        let www = self.path("www");
        fs::create_dir_all(&www).expect("a directory");
        let bytes: Vec<u8> = (0..file_bytes).map(|n| (n * 31 + n / 256) as u8).collect();
        fs::write(www.join("file"), bytes).expect("the file is written");
        let www = www.display();
        self.servers.push(
            self.right.start(&format!("python3 -m http.server --bind :: --directory {www} 80")),
        );
        self.servers.push(self.right.start("iperf3 --server"));
        self.wait("the servers listen", |lab| {
            let listening = lab.right.sh("ss --listening --tcp --numeric --no-header");
            listening.contains(":80 ") && listening.contains(":5201 ")
        });
    }

    /// Fetches the file from the left, and compares it.
    pub fn fetch(&self, url: &str) {
        let fetched = self.path("fetched");
        self.left.sh(&format!(
            "curl --silent --show-error --fail --globoff --max-time 30 --output {} {url}",
            fetched.display()
        ));
        assert_eq!(
            fs::read(fetched).expect("fetched"),
            fs::read(self.path("www/file")).expect("served")
        );
    }

    /// Runs iperf3 from the left; the answer is its report's end.
    pub fn iperf(&self, arguments: &str) -> Value {
        Self::report(self.left.start(&format!("iperf3 --json {arguments}")))
    }

    /// What a client of iperf3 reported at its end.
    #[must_use]
    pub fn report(client: Running) -> Value {
        let output = client.output();
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report of iperf3");
        assert!(output.status.success(), "{}", report["error"]);
        report["end"].clone()
    }
}
