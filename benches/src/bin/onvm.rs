//! A chain of small functions beside the way of OpenNetVM: the same work natively in C, handed from
//! function to function by rings (`benches/peers/onvm.c`, which is compiled here). One after the
//! other in each round:
//!
//! - Weir: functions in Wasm, linked, in a lane between two `net_null` ports;
//! - direct: the C functions called in a row, no rings, one thread: what the work itself costs;
//! - rings: the C functions on one core, a ring in front of each;
//! - threads: a thread for receiver, transmitter and each function, over the cores that there are;
//! - processes: the same, each function a process.
//!
//! CPU is that of all threads that take part. Latency is that of a burst's first packet at a rate
//! that all of them can do.
//!
//! What a hop costs is how much each further `null` function adds: less the function itself as
//! `direct` has it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_benches::driver::median;
use weir_benches::lanes::{Traffic, chain, dpdk_lane, function, quantile, wasm};
use weir_benches::paced::{Latency, PacedSource, StampedSink};
use weir_benches::process::on_core;
use weir_dpdk::{DpdkConfig, DpdkPort, Idle};
use weir_packet_plane::FunctionPlan;
use weir_port::Port;
use weir_sandbox::{Sandbox, SandboxConfig, thread_time};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
const BURST: usize = 32;
const LENGTHS: [usize; 4] = [1, 2, 4, 6];
const PEERS: [&str; 4] = ["direct", "rings", "threads", "processes"];
/// Packets a second at which latency is measured.
const RATE: u64 = 1_000_000;

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    /// CPU time of all threads for each packet, in ns.
    cpu: f64,
    /// Millions of packets a second.
    rate: f64,
    /// p50 and p99, in µs.
    latency: [f64; 2],
}

fn main() {
    let peer = Peer::build();
    weir_dpdk::start(std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!(
        "burst {BURST}, 64-byte packets, net_null, {cores} cores; medians of {ROUNDS} interleaved rounds of {ROUND:?}"
    );
    for work in ["null", "macswap"] {
        let mut slopes = Vec::new();
        println!("\n{work}: ns of CPU a packet (millions of packets a second)");
        print_head();
        for n in LENGTHS {
            let measured = rounds(|| {
                let mut all = vec![weir(work, n, None)];
                all.extend(PEERS.map(|mode| peer.run(mode, n, work, 0)));
                all
            });
            print!("{n:9}");
            for m in &measured {
                print!("  {:8.2} ({:6.2})", m.cpu, m.rate);
            }
            println!();
            slopes.push(measured);
        }
        let (first, last) = (&slopes[0], &slopes[LENGTHS.len() - 1]);
        let more = (LENGTHS[LENGTHS.len() - 1] - LENGTHS[0]) as f64;
        let slope = |who: usize| (last[who].cpu - first[who].cpu) / more;
        print!("each more");
        for who in 0..=PEERS.len() {
            print!("  {:8.2}         ", slope(who));
        }
        println!();
        println!(
            "a hop, less the function: Weir {:.2} ns, a ring on the same core {:.2} ns",
            slope(0) - slope(1),
            slope(2) - slope(1)
        );
    }
    let across = rounds(|| vec![peer.run("across", 0, "null", 0)])[0];
    println!(
        "a ring from core to core: {:.2} ns a packet, {:.2} ns of CPU of both",
        1e3 / across.rate,
        across.cpu
    );
    println!("\nmacswap at {RATE} packets a second: µs from receiver to transmitter, p50 / p99");
    print_head();
    for n in LENGTHS {
        let measured = rounds(|| {
            let mut all = vec![weir("macswap", n, Some(RATE))];
            all.extend(PEERS.map(|mode| peer.run(mode, n, "macswap", RATE)));
            all
        });
        print!("{n:9}");
        for Measured { latency: [p50, p99], .. } in measured {
            print!("  {p50:8.1} / {p99:6.1}");
        }
        println!();
    }
}

fn print_head() {
    println!(
        "functions  {:>17}  {:>17}  {:>17}  {:>17}  {:>17}",
        "Weir", "direct", "rings, one core", "threads", "processes"
    );
}

/// Medians of what the rounds measured, place by place.
fn rounds(mut round: impl FnMut() -> Vec<Measured>) -> Vec<Measured> {
    let all: Vec<Vec<Measured>> = (0..ROUNDS).map(|_| round()).collect();
    let of = |place: usize, f: &dyn Fn(&Measured) -> f64| {
        median(all.iter().map(|round| f(&round[place])).collect())
    };
    let places = 0..all[0].len();
    places
        .map(|place| Measured {
            cpu: of(place, &|m| m.cpu),
            rate: of(place, &|m| m.rate),
            latency: [0, 1].map(|n| of(place, &|m| m.latency[n])),
        })
        .collect()
}

/// A lane of so many functions between two ports; at a rate, or as fast as it goes.
fn weir(work: &'static str, functions: usize, rate: Option<u64>) -> Measured {
    let run = move || {
        // The peers' one thread is on the last core too.
        on_core(std::thread::available_parallelism().map_or(0, |n| n.get() - 1));
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
        let _ticking = sandbox.ticker().tick();
        let upload = wasm(work);
        let plans = (0..functions).map(|place| {
            let plan = function(&sandbox, work, &upload, "{}", 0);
            FunctionPlan { name: format!("{work}-{place}"), ..plan }
        });
        let latency = Latency::default();
        let mut ports = ports();
        if let Some(rate) = rate {
            let (to, from) = (ports.pop().expect("two"), ports.pop().expect("two"));
            ports.push(Box::new(PacedSource::new(from, rate, &latency)));
            ports.push(Box::new(StampedSink::new(to, &latency)));
        }
        let traffic = Traffic { symmetric: false, burst: BURST };
        let mut lane = dpdk_lane(&sandbox, chain(work, plans.collect()), ports, traffic);
        for _ in 0..100 {
            lane.turn();
        }
        latency.forget();
        let (began, cpu, before) = (Instant::now(), thread_time(), lane.packets_in());
        while began.elapsed() < ROUND {
            lane.turn();
        }
        let (took, elapsed) = (thread_time() - cpu, began.elapsed());
        let packets = (lane.packets_in() - before) as f64;
        let sorted = latency.sorted();
        let percentile = |per_mille| {
            if sorted.is_empty() { 0.0 } else { quantile(&sorted, per_mille) / 1e3 }
        };
        let accounting = lane.finish().expect("the ports end");
        assert_eq!(accounting.out, 0, "buffers were lost");
        Measured {
            cpu: took.as_nanos() as f64 / packets,
            rate: packets / elapsed.as_secs_f64() / 1e6,
            latency: [percentile(500), percentile(990)],
        }
    };
    std::thread::spawn(run).join().expect("the lane runs")
}

fn ports() -> Vec<Box<dyn Port>> {
    let open = |n: usize| {
        let config =
            DpdkConfig { idle: Some(Idle::Poll), ..DpdkConfig::new(&format!("net_null{n}")) };
        let port = DpdkPort::open(&format!("null{n}"), &config);
        Box::new(port.unwrap_or_else(|error| panic!("{error}"))) as Box<dyn Port>
    };
    vec![open(0), open(1)]
}

/// The peer's program, and where its processes share memory.
struct Peer(PathBuf);

impl Peer {
    /// Compiles it.
    fn build() -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/onvm.c");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/onvm-peer");
        let flags = |what: &str| {
            let output = Command::new("pkg-config").args([what, "libdpdk"]).output();
            let output = output.expect("pkg-config (run scripts/setup)");
            assert!(output.status.success(), "pkg-config finds no libdpdk: run scripts/setup");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let status = Command::new("cc")
            .args(["-O3", "-march=native", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
            .args(flags("--cflags"))
            .arg(source)
            .arg("-o")
            .arg(&program)
            .args(flags("--libs"))
            .arg("-lpthread")
            .status();
        assert!(status.expect("cc (run scripts/setup)").success(), "{source} does not compile");
        Self(program)
    }

    fn run(&self, mode: &str, functions: usize, work: &str, rate: u64) -> Measured {
        let seconds = ROUND.as_secs_f64();
        let call = format!("{} {mode} {functions} {work} {seconds} {rate}", self.0.display());
        // Processes share huge pages by files, and find each other by files: both in a place that
        // goes with them.
        let shell = format!(
            "mkdir -p /run/dpdk && mount -t tmpfs none /run/dpdk && mkdir /run/dpdk/pages && \
             mount -t hugetlbfs none /run/dpdk/pages && exec {call}"
        );
        let mut command = if mode == "processes" {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &shell]);
            command
        } else {
            let mut words = call.split(' ');
            let mut command = Command::new(words.next().expect("the program"));
            command.args(words);
            command
        };
        let output = command.stdin(Stdio::null()).output().expect("the peer starts");
        Self::read(mode, &output)
    }

    fn read(mode: &str, output: &Output) -> Measured {
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [packets, elapsed, cpu, p50, p99] = numbers[..] else {
            panic!("onvm-peer {mode}: {}", String::from_utf8_lossy(&output.stderr));
        };
        Measured {
            cpu: cpu / packets,
            rate: packets / elapsed * 1e3,
            latency: [p50 / 1e3, p99 / 1e3],
        }
    }
}
