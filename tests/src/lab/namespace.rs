//! Network namespaces, and processes in them, that end with whoever has them.

use std::fs;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer than anything here takes, even on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Running(pub(super) Child);

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

    /// How it ended, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let id = WaitId::Pid(Pid::from_child(&self.0));
        // Whoever waits for it later still finds it.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(id, how).expect("it is our child")?;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => format!("{status:?}"),
        })
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
pub struct Namespace(pub(super) String);

impl Namespace {
    /// Makes one.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("weir-{}-{number}-{what}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0]));
        namespace.sh("ip link set dev lo up");
        namespace
    }

    /// As `ip netns` names it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
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
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}
