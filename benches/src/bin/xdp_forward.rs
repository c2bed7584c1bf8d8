//! What an `xdp` port forwards beside the kernel: the same frames over the same veth pairs, through
//! a chain of `null`, through the kernel's bridge, through the bridge with an nftables rule set,
//! and by an XDP program that does nothing but redirect to the other interface (`ebpf/xdp-wire`).
//! Packets a second, CPU, how long a sleeping worker lets a packet wait, and what an idle host
//! uses.
//!
//! CPU is what the scheduler has on record for the generator (in whose system calls the kernel
//! forwards), for all threads of the host, and for ksoftirqd: neighbours on the machine do not
//! count. What sending the same packets costs when nobody forwards them is taken off. Packets a
//! second and waiting times need a machine that has nothing else to do.

use std::fs;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::DevMapHash;
use aya::programs::{Xdp, XdpMode};
use weir_benches::driver::median;
use weir_benches::process::on_core;
use weir_benches::wire::{Wire, frame};
use weir_tests::lab::{Lab, Namespace, PortKind};

const ROUNDS: usize = 5;
const FLOOD: Duration = Duration::from_millis(1500);
/// Packets a second at which CPU is compared.
const PACED: f64 = 100_000.0;
const SIZES: [usize; 2] = [64, 1500];
/// Packets sent one at a time, and the time between them: long enough for a worker to sleep, too
/// short for it.
const SINGLE: usize = 500;
const GAPS: [Duration; 2] = [Duration::from_millis(2), Duration::from_micros(15)];
/// The generator's CPU, and the worker's.
const CPUS: [usize; 2] = [0, 1];

/// Who forwards; the last one is nobody.
const PATHS: [&str; 5] = ["Weir, null", "bridge", "bridge + nftables", "XDP redirect", "nobody"];
const WEIR: usize = 0;
const NFTABLES: usize = 2;
const REDIRECT: usize = 3;
const NOBODY: usize = 4;

fn main() {
    let keys = std::env::args().nth(1).unwrap_or_default();
    let mut lab =
        Lab::configured(PortKind::Xdp, &keys, &format!("[workers]\ncores = [{}]\n", CPUS[1]));
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    println!(
        "{}: {ROUNDS} interleaved rounds of {FLOOD:?}, medians",
        lab.port("left")["device"]["driver"]
    );
    let mut wire = None;
    let mut measured: Vec<Vec<Measured>> = PATHS.map(|_| Vec::new()).into();
    for _ in 0..ROUNDS {
        for (path, measured) in measured.iter_mut().enumerate() {
            switch(&mut lab, &mut wire, path);
            measured.push(measure(&lab, path != NOBODY));
        }
    }
    println!(
        "\npackets a second at full speed; ns of CPU for each packet, at full speed and at {PACED} a second"
    );
    println!(
        "{:18} {:>21} {:>21} {:>21}",
        "", "64 / 1500 B", "full, 64 / 1500 B", "paced, 64 / 1500 B"
    );
    for (path, name) in PATHS.iter().enumerate().take(NOBODY) {
        let of = |f: &dyn Fn(&Measured) -> f64| median(measured[path].iter().map(f).collect());
        let less = |f: &dyn Fn(&Measured) -> Cost| {
            let rounds = measured[path].iter().zip(&measured[NOBODY]);
            median(rounds.map(|(m, nobody)| f(m).less(f(nobody))).collect())
        };
        println!(
            "{name:18} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0}",
            of(&|m| m.rate[0]),
            of(&|m| m.rate[1]),
            less(&|m| m.full[0]),
            less(&|m| m.full[1]),
            less(&|m| m.paced[0]),
            less(&|m| m.paced[1])
        );
    }
    println!("\none packet at a time, µs until it is there (p50, p99), with so long between them");
    println!("{:18} {:>8} {:>8} {:>8} {:>8}", "", "2 ms", "", "15 µs", "");
    for (name, rounds) in PATHS.iter().zip(&measured).take(NOBODY) {
        let of = |gap: usize, p: usize| median(rounds.iter().map(|m| m.wait[gap][p]).collect());
        println!(
            "{name:18} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            of(0, 0),
            of(0, 1),
            of(1, 0),
            of(1, 1)
        );
    }
    switch(&mut lab, &mut wire, WEIR);
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks(lab.host());
    std::thread::sleep(Duration::from_secs(5));
    println!("\nidle with both ports open, 5 s: {} ms of CPU", (ticks(lab.host()) - before) * 10);
}

/// What a flood took.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// ns of CPU.
    cpu: f64,
    /// Packets.
    sent: f64,
    arrived: f64,
}

impl Cost {
    /// ns of CPU for each packet that arrived, without what it takes to send them all.
    fn less(self, sending: Self) -> f64 {
        (self.cpu - self.sent * sending.cpu / sending.sent) / self.arrived
    }
}

#[derive(Default)]
struct Measured {
    /// Packets a second, by size.
    rate: [f64; 2],
    /// What it took, by size: at full speed, and paced.
    full: [Cost; 2],
    paced: [Cost; 2],
    /// µs, p50 and p99, by gap.
    wait: [[f64; 2]; 2],
}

/// Has this path forward, and no other.
fn switch(lab: &mut Lab, wire: &mut Option<Ebpf>, path: usize) {
    let _ = lab.middle.command("ip link delete dev br0").output();
    let _ = lab.middle.command("nft flush ruleset").output();
    if lab.host_if_running().is_some() {
        lab.stop();
    }
    if wire.take().is_some() {
        receive_offload(lab, "off");
    }
    if path == NOBODY {
        return;
    }
    if path == WEIR {
        lab.start();
        lab.wait("the chain has its ports", |lab| {
            lab.port("right")["device"]["driver"].is_string()
        });
        return;
    }
    if path == REDIRECT {
        // A veth takes frames from XDP if its other end polls, which it does for this.
        receive_offload(lab, "on");
        *wire = Some(lab.middle.thread(redirect).join().expect("the program is attached"));
        return;
    }
    lab.middle.sh("ip link add name br0 type bridge mcast_snooping 0");
    for side in ["left", "right"] {
        lab.middle.sh(&format!("ip link set dev {side} master br0"));
    }
    lab.middle.sh("ip link set dev br0 up");
    // From listening to forwarding.
    std::thread::sleep(Duration::from_millis(300));
    if path == NFTABLES {
        for rule in [
            "add table bridge weir",
            "add chain bridge weir forward { type filter hook forward priority 0 ; policy drop ; }",
            "add rule bridge weir forward ether type arp accept",
            "add rule bridge weir forward iifname left counter accept",
            "add rule bridge weir forward iifname right counter accept",
        ] {
            lab.middle.sh(&format!("nft {rule}"));
        }
    }
}

/// The hosts' generic receive offload.
fn receive_offload(lab: &Lab, state: &str) {
    for host in [&lab.left, &lab.right] {
        host.sh(&format!("ethtool -K eth0 gro {state}"));
    }
}

/// Has XDP forward between the interfaces `left` and `right`, for as long as the answer lives.
fn redirect() -> Ebpf {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/xdp-wire.o");
    let mut wire =
        Ebpf::load_file(object).unwrap_or_else(|e| panic!("{object}: {e}: run scripts/build-ebpf"));
    let index = |name: &str| {
        // Not /sys, which shows the namespace that it was mounted in.
        let name = std::ffi::CString::new(name).expect("no zero in it");
        // SAFETY: a string that ends with a zero.
        unsafe { libc::if_nametoindex(name.as_ptr()) }
    };
    let [left, right] = ["left", "right"].map(index);
    let map = wire.map_mut("OTHER").expect("the program has it");
    let mut others = DevMapHash::try_from(map).expect("it is one");
    for (from, to) in [(left, right), (right, left)] {
        others.insert(from, to, None, 0).expect("there is room for two");
    }
    let program: &mut Xdp =
        wire.program_mut("wire").expect("it is there").try_into().expect("it is XDP");
    program.load().expect("the kernel takes it");
    for interface in ["left", "right"] {
        program.attach(interface, XdpMode::Driver).expect("nobody else is there");
    }
    wire
}

fn measure(lab: &Lab, forwarded: bool) -> Measured {
    let mut measured = Measured::default();
    for (n, size) in SIZES.into_iter().enumerate() {
        (measured.rate[n], measured.full[n]) = flood(lab, size, None);
        measured.paced[n] = flood(lab, size, Some(PACED)).1;
    }
    if !forwarded {
        return measured;
    }
    for (n, gap) in GAPS.into_iter().enumerate() {
        measured.wait[n] = single(lab, gap);
    }
    measured
}

/// Floods from the left: packets a second that arrive on the right, and what it took.
fn flood(lab: &Lab, size: usize, rate: Option<f64>) -> (f64, Cost) {
    let hosts = || lab.host_if_running().map_or(0, process_ns) + softirq_ns();
    let (received, cpu, started) = (arrived(&lab.right), hosts(), Instant::now());
    let generator = lab.left.thread(move || {
        on_core(CPUS[0]);
        let wire = Wire::open("eth0", false).expect("a socket on the wire");
        let sent = wire.flood(&frame(size, 0), FLOOD, rate);
        (sent, schedstat("/proc/thread-self/schedstat"))
    });
    let (sent, own) = generator.join().expect("the generator ends");
    let elapsed = started.elapsed().as_secs_f64();
    // What is still in queues.
    std::thread::sleep(Duration::from_millis(20));
    let arrived = (arrived(&lab.right) - received) as f64;
    (arrived / elapsed, Cost { cpu: (hosts() - cpu + own) as f64, sent: sent as f64, arrived })
}

/// Time that a task has run so far, in ns.
fn schedstat(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Time that a process's threads have run so far, in ns.
fn process_ns(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    threads.flatten().map(|t| schedstat(&t.path().join("schedstat").to_string_lossy())).sum()
}

/// Time that the kernel's threads for what interrupts leave have run so far, in ns.
fn softirq_ns() -> u64 {
    let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let ours = processes.filter(|path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd"))
    });
    ours.map(|path| schedstat(&path.join("schedstat").to_string_lossy())).sum()
}

/// Sends packets one at a time: p50 and p99 of the time that they take, in µs.
fn single(lab: &Lab, gap: Duration) -> [f64; 2] {
    let sender =
        lab.left.thread(|| Wire::open("eth0", false).expect("a socket on the wire")).join();
    let receiver =
        lab.right.thread(|| Wire::open("eth0", true).expect("a socket on the wire")).join();
    let (sender, receiver) = (sender.expect("it ends"), receiver.expect("it ends"));
    let measuring = std::thread::spawn(move || {
        on_core(CPUS[0]);
        let mut times: Vec<f64> = Vec::with_capacity(SINGLE);
        for number in 1..=SINGLE as u64 {
            if gap > Duration::from_millis(1) {
                std::thread::sleep(gap);
            } else {
                let until = Instant::now() + gap;
                while Instant::now() < until {}
            }
            let bytes = frame(64, number);
            let started = Instant::now();
            sender.send(&bytes);
            if receiver.spin_for(number, Duration::from_secs(1)) {
                times.push(started.elapsed().as_nanos() as f64 / 1000.0);
            }
        }
        times.sort_by(f64::total_cmp);
        [times[times.len() / 2], times[times.len() * 99 / 100]]
    });
    measuring.join().expect("it ends")
}

/// Packets that arrived at a host.
fn arrived(host: &Namespace) -> u64 {
    let count = host.sh("cat /sys/class/net/eth0/statistics/rx_packets");
    count.trim().parse().expect("a number")
}

/// CPU time of a process so far, in ticks of 10 ms.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace().collect();
    [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum()
}
