//! Flows that steering rules move from one plane to the other while packets come: how long that
//! takes, and what it costs.
//!
//! Hosts in network namespaces (see `weir_tests::lab`). A client sends numbered datagrams of one
//! flow; a chain of packets carries them to the host on the right, a chain of both planes up to the
//! kernel of the host in the middle. 1,000 steering rules, of which one is about this flow, are
//! applied with `weir steer apply` and taken back in turn. Needs root, iproute2 and ethtool.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_benches::driver::median;
use weir_tests::lab::{Lab, Namespace, PortKind};

const RULES: usize = 1000;
const MOVES: usize = 40;
/// Datagrams a second.
const RATE: u32 = 10_000;
/// Time between two moves.
const BETWEEN: Duration = Duration::from_millis(150);
const ADDRESS: &str = "10.77.0.9";
const PORT: u16 = 7000;
const RECEIVE_BUFFER: usize = 32 << 20;

/// What came, and when.
type Seen = Vec<(u64, Instant)>;

fn main() {
    println!(
        "one flow of {RATE} datagrams a second, moved {MOVES} times by {RULES} rules; times in ms"
    );
    println!(
        "ports             apply to first packet       between the planes    lost   of these at a move  out of order"
    );
    println!("                    median        max           median      max");
    for (name, ports) in [("xdp", PortKind::Xdp), ("dpdk, af_packet", PortKind::DpdkAfPacket)] {
        measure(name, ports);
    }
}

fn measure(name: &str, ports: PortKind) {
    let lab = lab(ports);
    let stop = Arc::new(AtomicBool::new(false));
    let receivers = [&lab.right, &lab.middle].map(|host| receive(host, &stop));
    let sender = send(&lab.left, &stop);
    std::thread::sleep(BETWEEN);
    let mut commands = Vec::new();
    for n in 0..MOVES {
        let file = if n.is_multiple_of(2) { "up.toml" } else { "out.toml" };
        commands.push(Instant::now());
        lab.weir(&["steer", "apply", file]);
        std::thread::sleep(BETWEEN);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().expect("it sent");
    let seen = receivers.map(|receiver| receiver.join().expect("it received"));
    report(name, sent, &seen, &commands);
    for port in ["left", "right"] {
        let drops = &lab.port(port)["drops"];
        if drops.as_object().is_some_and(|drops| !drops.is_empty()) {
            println!("                 port {port} counts {drops}");
        }
    }
}

fn report(name: &str, sent: u64, seen: &[Seen; 2], commands: &[Instant]) {
    let received: usize = seen.iter().map(Vec::len).sum();
    // All that came, by number: who had it, and when.
    let mut all: Vec<(u64, usize, Instant)> = Vec::with_capacity(received);
    for (place, seen) in seen.iter().enumerate() {
        all.extend(seen.iter().map(|(number, when)| (*number, place, *when)));
    }
    all.sort_unstable_by_key(|(number, ..)| *number);
    // At one place in order, and back and forth only as often as the rules said.
    let disordered = seen.iter().flat_map(|seen| seen.windows(2)).filter(|w| w[0].0 >= w[1].0);
    let mut disordered = disordered.count();
    let changes: Vec<_> = all.windows(2).filter(|pair| pair[0].1 != pair[1].1).collect();
    disordered += changes.len().abs_diff(commands.len());
    // What is missing between one that came here and one that came there was lost by the move.
    let missing = |pair: &&[(u64, usize, Instant)]| pair[1].0 - pair[0].0 - 1;
    let by_moves: u64 = changes.iter().map(missing).sum();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let first: Vec<f64> = commands
        .iter()
        .zip(&changes)
        .map(|(command, change)| milliseconds(change[1].2.saturating_duration_since(*command)))
        .collect();
    let gaps: Vec<f64> = changes
        .iter()
        .map(|change| milliseconds(change[1].2.saturating_duration_since(change[0].2)))
        .collect();
    let max = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    let (first_max, gaps_max) = (max(&first), max(&gaps));
    println!(
        "{name:16} {:9.2} {first_max:10.2} {:16.3} {gaps_max:8.3} {:7} {by_moves:21} {disordered:13}",
        median(first),
        median(gaps),
        sent - received as u64,
    );
}

/// Both chains between the same ports, and one address on both sides.
fn lab(ports: PortKind) -> Lab {
    let mut lab = Lab::wired();
    let middle = &lab.middle;
    middle.sh("ip tuntap add dev weir-left mode tap");
    middle.sh("ip link set dev weir-left addrgenmode none up");
    middle.sh(&format!("ip address add {ADDRESS}/24 dev weir-left"));
    let listener = "[[listener]]\nname = \"web\"\naddress = \"10.77.0.9:80\"\nprotocol = \"http\"\nchain = \"web\"\n\
                    upstream = [\"127.0.0.1:9\"]\n";
    lab.configure(ports, "kernel = \"weir-SIDE\"", listener);
    lab.start();
    let mac = lab.middle.sh("cat /sys/class/net/weir-left/address").trim().to_owned();
    lab.right.sh(&format!("ip link set dev eth0 address {mac}"));
    lab.right.sh(&format!("ip address add {ADDRESS}/24 dev eth0"));
    lab.left.sh(&format!("ip neighbour add {ADDRESS} lladdr {mac} dev eth0"));
    for function in ["null", "waf"] {
        lab.push(function, "1.0.0");
    }
    lab.chain("null", "");
    let both = "name = \"web\"\nfrom = \"left\"\nto = \"right\"\nsteered = true\n[[function]]\nuse = \"null\"\n[[function]]\nuse = \"waf\"\n";
    lab.write("web.toml", both);
    lab.weir(&["chain", "apply", "web.toml"]);
    let mut rules = String::new();
    for n in 1..RULES {
        let (a, b) = (n / 250, n % 250);
        let to = if n.is_multiple_of(3) { "to = \"drop\"" } else { "chain = \"edge\"" };
        let _ = write!(
            rules,
            "[[rule]]\nsrc = \"198.{a}.{b}.0/24\"\nproto = \"tcp\"\ndport = {n}\n{to}\n"
        );
    }
    let one = |chain: &str| {
        format!("{rules}[[rule]]\nproto = \"udp\"\ndport = {PORT}\nchain = \"{chain}\"\n")
    };
    lab.write("up.toml", one("web"));
    lab.write("out.toml", one("edge"));
    lab.weir(&["steer", "apply", "out.toml"]);
    lab
}

fn send(host: &Namespace, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    host.thread(move || {
        let socket = UdpSocket::bind("0.0.0.0:7001").expect("a socket");
        socket.connect((ADDRESS, PORT)).expect("an address");
        let started = Instant::now();
        let mut number = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let due = Duration::from_secs(1) / RATE * u32::try_from(number).unwrap_or(u32::MAX);
            if let Some(early) = due.checked_sub(started.elapsed()) {
                std::thread::sleep(early);
            }
            // A queue that is full says so: then it is not sent yet.
            if socket.send(&number.to_be_bytes()).is_ok() {
                number += 1;
            }
        }
        number
    })
}

fn receive(host: &Namespace, stop: &Arc<AtomicBool>) -> JoinHandle<Seen> {
    let stop = Arc::clone(stop);
    host.thread(move || {
        let socket = UdpSocket::bind((ADDRESS, PORT)).expect("a socket");
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let mut seen = Vec::with_capacity(1 << 18);
        let mut bytes = [0; 8];
        loop {
            match socket.recv(&mut bytes) {
                Ok(8) => seen.push((u64::from_be_bytes(bytes), Instant::now())),
                Ok(_) => {}
                Err(_) if stop.load(Ordering::Relaxed) => return seen,
                Err(_) => {}
            }
        }
    })
}
