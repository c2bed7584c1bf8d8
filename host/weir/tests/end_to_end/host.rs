//! A host of a test's own, and the command that talks to it.

use std::fs;
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// `weir` without a host, in this directory.
pub(crate) fn weir(directory: &Path, arguments: &[&str]) -> Answer {
    let mut command = Command::new(WEIR);
    command.args(arguments).current_dir(directory).env("NO_COLOR", "1");
    for variable in ["WEIR_API", "WEIR_TOKEN", "WEIR_TENANT", "WEIR_LOG"] {
        command.env_remove(variable);
    }
    command.output().expect("weir starts").into()
}

/// A host in a directory of its own; killed when dropped.
pub(crate) struct Host {
    pub(crate) directory: TempDir,
    child: Child,
}

impl Host {
    /// Starts one with this configuration, and waits until it is ready.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), config)
    }

    /// The same in a directory that was there before.
    pub(crate) fn start_in(directory: TempDir, config: &str) -> Self {
        Self::start_with(directory, config, &[])
    }

    /// The same, but it may not be ready yet.
    pub(crate) fn begin_in(directory: TempDir, config: &str) -> Self {
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let mut command = Command::new(WEIR);
        command.arg("run");
        Self::begun(directory, command)
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_with(
        directory: TempDir,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let mut command = Command::new(WEIR);
        command.arg("run").envs(environment.iter().copied());
        Self::started(directory, command)
    }

    /// The same, of a program that lies elsewhere.
    pub(crate) fn start_program(program: &Path, directory: TempDir, config: &str) -> Self {
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let mut command = Command::new(program);
        command.arg("run");
        Self::started(directory, command)
    }

    /// The same in this network namespace.
    pub(crate) fn start_in_namespace(namespace: &str, directory: TempDir, config: &str) -> Self {
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, WEIR, "run"]);
        Self::started(directory, command)
    }

    /// The same with a store on a disk of this size that is nobody else's; what is on it goes with
    /// the host.
    pub(crate) fn start_on_small_disk(config: &str, size: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("store")).expect("a directory");
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let script = "mount -t tmpfs -o size=$0,mode=700 weir-test store && exec \"$1\" run";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, size, WEIR]);
        Self::started(directory, command)
    }

    /// The same with its log in a pipe; it may not be ready yet.
    pub(crate) fn begin_with_pipe(config: &str) -> (Self, PipeReader) {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("weir.toml"), config).expect("the file is written");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(WEIR);
        command.arg("run");
        (Self::begun_with_log(directory, command, writer.into()), reader)
    }

    fn started(directory: TempDir, command: Command) -> Self {
        let mut host = Self::begun(directory, command);
        host.wait_for("it is ready", |host| host.log().contains("ready"));
        host
    }

    /// One that this command starts; it may not be ready yet.
    pub(crate) fn begun(directory: TempDir, command: Command) -> Self {
        let log = fs::File::create(directory.path().join("log")).expect("the log");
        Self::begun_with_log(directory, command, log.into())
    }

    fn begun_with_log(directory: TempDir, mut command: Command, log: Stdio) -> Self {
        let child = command
            .current_dir(directory.path())
            .env_remove("WEIR_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("weir starts");
        Self { directory, child }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("the file is written");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `weir` with this host.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Answer {
        let socket = self.path("api.sock");
        let mut all = vec!["--api", socket.to_str().expect("text")];
        all.extend(arguments);
        weir(self.directory.path(), &all)
    }

    /// The same; it must go well. The answer is standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.weir(arguments);
        assert_eq!(answer.status, Some(0), "{arguments:?}: {}", answer.err);
        answer.out
    }

    /// The same; it must fail with status 1. The answer is standard error.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let answer = self.weir(arguments);
        assert_eq!(answer.status, Some(1), "{arguments:?}: {}", answer.out);
        assert_eq!(answer.out, "", "{arguments:?}");
        answer.err
    }

    /// The same; the answer is the JSON on standard output.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let out = self.ok(&all);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// Packets that left a chain.
    pub(crate) fn packets_out(&self, chain: &str) -> u64 {
        let status = self.json(&["status"]);
        let chains = status["chains"].as_array().expect("a list");
        let chain = chains.iter().find(|found| found["name"] == chain);
        chain.and_then(|chain| chain["packets_out"].as_u64()).unwrap_or(0)
    }

    /// The version that runs in the first place of the first chain.
    pub(crate) fn running(&self) -> String {
        let status = self.json(&["status"]);
        status["chains"][0]["functions"][0]["version"].as_str().unwrap_or_default().to_owned()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().expect("numbers of processes are small")
    }

    /// Processes that it has started and not waited for.
    pub(crate) fn children(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it lives");
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
        let all = tasks.flatten().filter_map(of).collect::<String>();
        all.split_whitespace().map(str::to_owned).collect()
    }

    /// What the kernel says about its process.
    pub(crate) fn kernel_says(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it lives")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    /// Waits until something is so.
    pub(crate) fn wait_for(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "waiting until {what}: the host ended:\n{}", self.log());
            assert!(Instant::now() < until, "waiting until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it with this signal; gives back how it ended, and its directory.
    pub(crate) fn end(mut self, signal: rustix::process::Signal) -> (ExitStatus, TempDir, String) {
        self.signal(signal);
        let status = self.child.wait().expect("it is our child");
        let log = self.log();
        let directory =
            std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a directory"));
        (status, directory, log)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("what the host said:\n{}", self.log());
        }
    }
}
