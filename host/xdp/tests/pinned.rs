//! A host is killed with SIGKILL while packets come: what steering gave to the kernel or dropped
//! stays decided, everything else is the kernel's. The next host takes over, and no packet is
//! decided otherwise meanwhile.
//!
//! The host is a child (this program with an argument), which is in the same network namespace and
//! sees the same bpffs. Needs root, `ip` and `mount`.

#[path = "port/far.rs"]
#[allow(dead_code, reason = "each test program uses its own part of this")]
mod far;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use far::{Far, PATIENCE, ip, namespace, pair_of, pool, port, receive};
use weir_port::{Moved, Port as _};
use weir_steering::{Key, Rule, Target};
use weir_xdp::{Pinning, XdpConfig, XdpPort};

/// UDP ports: by rule to the kernel, dropped; and to the socket.
const KERNEL: u16 = 1;
const DROP: u16 = 2;
const SOCKET: u16 = 3;

fn main() {
    let argument = |n| std::env::args().nth(n);
    match argument(1).as_deref() {
        Some("host") => {
            let interface = argument(3).expect("an interface");
            host(XdpConfig { interface, ..config(Path::new(&argument(2).expect("a bpffs"))) });
        }
        // What test runners ask of every test program: which tests there are, and which of them to
        // leave out.
        Some("--list") if std::env::args().any(|argument| argument == "--ignored") => {}
        Some("--list") => println!("netns_a_killed_host_leaves_its_decisions_to_the_next: test"),
        _ => parent(),
    }
}

fn config(bpffs: &Path) -> XdpConfig {
    XdpConfig { pin: Pinning::At(bpffs.to_owned()), ..XdpConfig::new("a") }
}

fn to_port(port: u16, target: Target) -> Rule {
    Rule { destination_ports: Some((port, port)), ..Rule::all(target) }
}

/// Attaches, says so, and takes packets until it is told to end.
fn host(config: XdpConfig) {
    let mut pool = pool(512, 2048);
    let mut port = XdpPort::open("lan", config).unwrap();
    let rules = [to_port(KERNEL, Target::Kernel), to_port(DROP, Target::Drop)];
    port.steering().unwrap().replace(&rules, 0).unwrap();
    port.attach(&mut pool).unwrap();
    receive(&mut port, &mut pool, 0);
    let placed = Key::read(&udp(9, SOCKET), 0);
    let mut packets = Vec::new();
    port.receive(&mut pool, &mut packets, 64).unwrap();
    assert!(port.place_flow(&placed, Moved::ToKernel));
    println!("ready");
    std::io::stdout().flush().unwrap();
    let end = std::thread::spawn(|| std::io::stdin().lock().read_line(&mut String::new()));
    while !end.is_finished() {
        port.receive(&mut pool, &mut packets, 64).unwrap();
        pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        std::thread::sleep(Duration::from_micros(200));
    }
    port.finish(&mut pool).unwrap();
}

/// A UDP packet of this flow.
fn udp(source: u8, destination_port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, source], [192, 0, 2, 1], 64)
        .udp(4000, destination_port)
        .write(&mut bytes, &[0; 18])
        .unwrap();
    bytes
}

/// A host that is ready, until it is killed or told to end.
struct Host(Child);

impl Host {
    fn start(bpffs: &Path) -> Self {
        Self::start_on("a", bpffs)
    }

    fn start_on(interface: &str, bpffs: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("host")
            .arg(bpffs)
            .arg(interface)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Does nothing when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of the program on the interface.
fn program() -> Option<u32> {
    let output =
        Command::new("ip").args(["-details", "link", "show", "dev", "a"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("prog/xdp id ").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Mounts a bpffs for this thread and its children.
fn bpffs() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    // SAFETY: changes the calling thread's namespace only.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
    for arguments in [&["--make-rprivate", "/"][..], &["-t", "bpf", "bpf"]] {
        let mut mount = Command::new("mount");
        mount.args(arguments);
        if arguments.len() > 2 {
            mount.arg(directory.path());
        }
        assert!(mount.status().unwrap().success(), "this test mounts a bpffs, which needs root");
    }
    let path = directory.path().to_owned();
    (directory, path)
}

/// Sends one packet of each kind, and looks what the kernel gets: always what rules give it, never
/// what they drop.
fn look(far: &Far, kernel: &Far, socket_is_read: bool) {
    far.send(&udp(1, DROP));
    far.send(&udp(9, SOCKET));
    assert_eq!(kernel.receive(), udp(9, SOCKET));
    if !socket_is_read {
        far.send(&udp(1, SOCKET));
        assert_eq!(kernel.receive(), udp(1, SOCKET));
    }
    far.send(&udp(1, KERNEL));
    assert_eq!(kernel.receive(), udp(1, KERNEL));
}

fn parent() {
    namespace();
    let (_directory, bpffs) = bpffs();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let pins = bpffs.join("weir");
    let pinned = || std::fs::read_dir(&pins).map_or(0, Iterator::count);

    let first = Host::start(&bpffs);
    look(&far, &kernel, true);
    let old = program().expect("a program");
    assert_eq!(pinned(), 1);
    // While it lives, nobody else gets the interface.
    let refused = XdpPort::open("lan", config(&bpffs)).unwrap_err().to_string();
    assert!(refused.contains("another XDP program is on a"), "{refused}");

    first.kill();
    assert_eq!(program(), Some(old));
    look(&far, &kernel, false);

    // Packets go on to come while the next host starts: the kernel gets none that is dropped, and
    // there is always a program.
    let mut second = None;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| Host::start(&bpffs));
        let until = Instant::now() + PATIENCE;
        while !starting.is_finished() && Instant::now() < until {
            far.send(&udp(1, DROP));
            far.send(&udp(1, KERNEL));
            assert_eq!(kernel.receive(), udp(1, KERNEL));
            assert!(program().is_some());
        }
        second = Some(starting.join().unwrap());
    });
    let second = second.expect("started");
    assert!(program().is_some_and(|now| now != old), "its own program");
    look(&far, &kernel, true);
    assert_eq!(pinned(), 1);

    // A host that ends in order leaves nothing.
    second.end();
    assert_eq!((program(), pinned()), (None, 0));
    look_at_everything(&far, &kernel);

    // Without a bpffs where it is to be, the port says so.
    let nowhere = bpffs.join("..");
    let refused = port(config(&nowhere), &mut pool(256, 2048)).unwrap_err().to_string();
    assert!(refused.contains("no bpffs is mounted at"), "{refused}");

    // A pin whose link is for nothing any more is no hindrance.
    let third = Host::start(&bpffs);
    third.kill();
    ip("link delete dev a");
    pair_of("a", 1);
    assert_eq!((program(), pinned()), (None, 1));
    let fourth = Host::start(&bpffs);
    assert!(program().is_some());
    fourth.end();
    assert_eq!((program(), pinned()), (None, 0));

    // The next host removes it, also when its own interface is another one; what is of an interface
    // that is there stays.
    Host::start(&bpffs).kill();
    pair_of("b", 1);
    Host::start_on("b", &bpffs).end();
    assert_eq!(pinned(), 1);
    ip("link delete dev a");
    Host::start_on("b", &bpffs).end();
    assert_eq!(pinned(), 0);
    println!("test netns_a_killed_host_leaves_its_decisions_to_the_next ... ok");
}

/// Nothing is steered any more.
fn look_at_everything(far: &Far, kernel: &Far) {
    for port in [DROP, SOCKET, KERNEL] {
        far.send(&udp(1, port));
        assert_eq!(kernel.receive(), udp(1, port));
    }
}
