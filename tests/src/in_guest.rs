//! Weir in a guest (`weir_vm`): the guest, what it is plugged into, a directory that machine and
//! guest have in common, and the host that runs in the guest.
//!
//! The guest emulates its CPU: what the compiler made there is kept from one run to the next, in
//! `target/vm/compiled`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use weir_vm::{Guest, Machine, Output, Plug, Process};

use crate::lab::Namespace;

/// Longer than anything here takes, with an emulated CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The host's own tables.
const TABLES: &str = "[api]\nsocket = \"/run/weir/api.sock\"\ntimeout = \"240s\"\ncompile-timeout = \"240s\"\n\
                      [store]\npath = \"/run/weir/store\"\n";
/// Where it has what it compiled.
const CACHE: &str = "/run/weir/store/cache";

/// Where everything is built.
///
/// # Panics
/// When nothing is.
#[must_use]
pub fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    target.canonicalize().expect("a target directory: run scripts/build")
}

/// The same for what the guest's compiler made.
fn compiled() -> PathBuf {
    target().join("vm/compiled")
}

/// See the module. Fields are dropped in order. Nobody in it announces or asks for anything by IPv6
/// by itself: every frame is a test's. All of it panics when something does not go well, and says
/// what the host wrote.
#[derive(Debug)]
pub struct InGuest {
    /// The guest.
    pub guest: Guest,
    outside: Option<Namespace>,
    directory: TempDir,
}

impl InGuest {
    /// Boots a guest without a wire.
    #[must_use]
    pub fn boot(change: impl FnOnce(&mut Machine)) -> Self {
        Self::with(None, change)
    }

    /// Boots a guest with a NIC, whose physical function `eth0` is up, and whose wire is the
    /// interface `wire` of a network namespace.
    #[must_use]
    pub fn plugged(change: impl FnOnce(&mut Machine)) -> Self {
        let outside = Namespace::new("outside");
        for of in ["all", "default"] {
            outside.sh(&format!("sysctl -qw net.ipv6.conf.{of}.disable_ipv6=1"));
        }
        let rig = Self::with(Some(outside), change);
        rig.sh("ip link set eth0 up");
        rig
    }

    fn with(outside: Option<Namespace>, change: impl FnOnce(&mut Machine)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(compiled()).expect("a directory");
        let mut machine = Machine::new(&target());
        machine.limit = Duration::from_secs(300);
        machine.shares = vec![directory.path().to_owned(), compiled()];
        if let Some(outside) = &outside {
            let namespace = Some(outside.name().to_owned());
            machine.nics = vec![Plug::Tap { interface: "wire".to_owned(), namespace }];
        }
        change(&mut machine);
        let guest = machine.boot().unwrap_or_else(|error| panic!("{error}"));
        let rig = Self { guest, outside, directory };
        rig.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        rig
    }

    /// The other end of the wire.
    #[must_use]
    pub fn outside(&self) -> &Namespace {
        self.outside.as_ref().expect("the guest is plugged in")
    }

    /// A place in the directory that machine and guest have in common, at the same place.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into that directory.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the file is written");
    }

    /// Runs a script in the guest, in that directory.
    #[must_use]
    pub fn run(&self, script: &str) -> Output {
        let script = format!("cd {}; {script}", self.directory.path().display());
        self.guest.run(&["sh", "-ec", &script]).unwrap_or_else(|e| panic!("{script}: {e}"))
    }

    /// The same for one that must go well; the answer is its standard output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(output.status, 0, "{script}: {}{}{}", output.stdout, output.stderr, self.log());
        output.stdout
    }

    /// The command line that runs `weir` in the guest.
    fn command(arguments: &str) -> String {
        format!("{} --api /run/weir/api.sock {arguments}", target().join("release/weir").display())
    }

    /// `weir` in the guest, in the common directory; what it shows.
    #[track_caller]
    pub fn weir(&self, arguments: &str) -> String {
        self.sh(&Self::command(arguments))
    }

    /// What it shows as JSON; null if it shows nothing.
    #[track_caller]
    pub fn json(&self, arguments: &str) -> Value {
        match &*self.weir(&format!("--output json {arguments}")) {
            "" => Value::Null,
            text => serde_json::from_str(text).expect("JSON"),
        }
    }

    /// It fails, and says all this.
    #[track_caller]
    pub fn refused(&self, arguments: &str, parts: &[&str]) {
        let output = self.run(&Self::command(arguments));
        assert_eq!(output.status, 1, "{arguments}: {}{}", output.stdout, output.stderr);
        for part in parts {
            assert!(output.stderr.contains(part), "{arguments}: {part}: {}", output.stderr);
        }
    }

    /// Starts the host with this configuration, and waits until it is ready. Its store is the
    /// guest's own.
    pub fn host(&self, config: &str) -> Process<'_> {
        self.write("weir.toml", &format!("{TABLES}{config}"));
        let kept = compiled();
        self.sh(&format!(
            "rm -f log; mkdir -p -m 700 {CACHE}; cp {}/* {CACHE}/ || true",
            kept.display()
        ));
        let directory = self.directory.path().display().to_string();
        let script = format!("exec {} > log 2>&1", Self::command("run --config weir.toml"));
        let host = self.guest.start(&directory, &["sh", "-c", &script]);
        let host = host.expect("the guest is there");
        self.wait("the host is ready", |rig| {
            // What it writes goes to its log: all that is heard of it is its end.
            let ended = host.try_next().expect("it is started");
            assert!(ended.is_none(), "the host has ended: {ended:?}: {}", rig.log());
            rig.log().contains("ready")
        });
        host
    }

    /// Kills the host, which gets to do nothing more.
    pub fn kill(&self, host: Process<'_>) {
        host.signal(Signal::KILL).expect("the guest is there");
        host.output().expect("it ends");
    }

    /// Ends the host in order.
    #[track_caller]
    pub fn end(&self, host: Process<'_>) {
        host.signal(Signal::TERM).expect("the guest is there");
        assert_eq!(host.output().expect("it ends").status, 0, "{}", self.log());
    }

    /// Ends the guest in order.
    #[track_caller]
    pub fn power_off(self) {
        self.guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    }

    /// What the host wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Pushes a function of `target/functions`.
    #[track_caller]
    pub fn push(&self, name: &str, version: &str) {
        let file = target().join(format!("functions/{name}.wasm"));
        self.weir(&format!("function push {} --name {name} --version {version}", file.display()));
    }

    /// Applies a chain.
    #[track_caller]
    pub fn chain(&self, chain: &str) {
        self.write("chain.toml", chain);
        self.weir("chain apply chain.toml");
    }

    /// Applies steering rules.
    #[track_caller]
    pub fn steer(&self, rules: &str) {
        self.write("steer.toml", rules);
        self.weir("steer apply steer.toml");
    }

    /// How a port is.
    #[track_caller]
    #[must_use]
    pub fn port(&self, name: &str) -> Value {
        let ports = self.json("port list");
        let all = ports.as_array().expect("a list").clone();
        all.into_iter().find(|port| port["name"] == name).expect("the port")
    }

    /// Keeps what the compiler made.
    pub fn keep_compiled(&self) {
        let _ = self.run(&format!("cp -u {CACHE}/*.cwasm {}/", compiled().display()));
    }
}
