//! Network namespaces that a test makes: its thread's own, and hosts on the other side of veth
//! pairs. All of it goes with the test's process.

use std::process::{Child, Command, Output, Stdio};

/// Whether namespaces can be made here; says why not.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: network namespaces and packet sockets need root");
    }
    root
}

/// Moves this thread, and what it starts from now on, to an empty namespace.
pub(crate) fn enter_new() {
    // SAFETY: changes which interfaces this thread sees, and nothing in memory.
    let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(moved, 0, "unshare: {}", std::io::Error::last_os_error());
    run("ip link set lo up");
}

/// Runs a command, which must go well.
pub(crate) fn run(command: &str) -> String {
    let output = try_run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

pub(crate) fn try_run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().expect("a command")).args(words).output().expect("it starts")
}

/// A host with an interface `eth0`, whose other end is here.
pub(crate) struct Host(Child);

impl Host {
    /// `here` becomes an interface of the test's namespace; the host's address is this one.
    pub(crate) fn new(here: &str, address: &str) -> Self {
        let child = Command::new("unshare")
            .args(["--net", "--kill-child", "sleep", "120"])
            .stdin(Stdio::null())
            .spawn()
            .expect("`unshare` (package util-linux)");
        let host = Self(child);
        let id = host.0.id();
        // It has its namespace once its shows another number than ours.
        let ours = std::fs::read_link("/proc/thread-self/ns/net").expect("ours");
        let theirs = format!("/proc/{id}/ns/net");
        while std::fs::read_link(&theirs).is_ok_and(|theirs| theirs == ours) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        run(&format!("ip link add {here} type veth peer name eth0 netns {id}"));
        host.run("ip link set lo up");
        host.run(&format!("ip address add {address} dev eth0"));
        host.run("ip link set eth0 up");
        run(&format!("ip link set {here} up"));
        // What the other side's kernel would leave for a NIC to do nobody does here.
        host.run("ethtool -K eth0 tx off rx off");
        host
    }

    /// A command on the host.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&self.command(command))
    }

    pub(crate) fn command(&self, command: &str) -> String {
        format!("nsenter -t {} -n {command}", self.0.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
