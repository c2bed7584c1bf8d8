//! `macswap` on two `net_null` ports, one core, 64-byte frames, bursts of 32: in Wasm, natively
//! between the same ports, and DPDK's own program for it, `dpdk-testpmd --forward-mode=macswap`.
//! One after the other in each round.
//!
//! What is measured is CPU time of the forwarding thread for each packet, so that other work on the
//! machine counts for as little as possible: none of the three ever waits. With `wasm`, `native` or
//! `testpmd` that one alone.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use weir_benches::driver::median;
use weir_benches::lanes::{Traffic, chain, dpdk_lane, forward_for, function, wasm};
use weir_dpdk::{DpdkConfig, DpdkPort};
use weir_packet_plane::Lane;
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::Port;
use weir_sandbox::{Sandbox, SandboxConfig, thread_time};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
const BURST: usize = 32;
/// The core that forwards, in all three.
const CORE: usize = 1;
/// Samples of testpmd, a second apart, between the two that count.
const SAMPLES: usize = 2;

fn main() {
    let mut set = CpuSet::new();
    set.set(CORE);
    weir_dpdk::start(std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
    sched_setaffinity(None, &set).expect("a second core");
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let _ticking = sandbox.ticker().tick();
    let mut wasm = lane(&sandbox);
    let mut native = Native::new();
    println!(
        "macswap, 2 net_null ports, 64-byte frames, burst {BURST}, core {CORE}: ns of CPU time a packet"
    );
    println!("round    Wasm  native  testpmd  Wasm's rate of testpmd's");
    if let Some(only) = std::env::args().nth(1) {
        // One of the three alone: for a profiler.
        for _ in 0..ROUNDS {
            let ns = match &*only {
                "wasm" => forward_for(&mut wasm, ROUND),
                "native" => native.run(),
                "testpmd" => testpmd(),
                other => panic!("wasm, native or testpmd, not {other}"),
            };
            println!("{ns:6.2}");
        }
        return;
    }
    let mut all = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        let measured = [forward_for(&mut wasm, ROUND), native.run(), testpmd()];
        let [wasm, native, testpmd] = measured;
        let share = testpmd / wasm;
        println!("{round:5}  {wasm:6.2}  {native:6.2}  {testpmd:7.2}  {share:.2}");
        for (all, one) in all.iter_mut().zip([wasm, native, testpmd, share]) {
            all.push(one);
        }
    }
    let [wasm_ns, native_ns, testpmd_ns, share] = all.map(median);
    println!("median {wasm_ns:6.2}  {native_ns:6.2}  {testpmd_ns:7.2}  {share:.2}");
    let accounting = wasm.finish().expect("the ports end");
    assert_eq!(accounting.out, 0, "buffers were lost");
    native.finish();
}

fn ports(first: usize) -> Vec<Box<dyn Port>> {
    let open = |n: usize| {
        let config = DpdkConfig::new(&format!("net_null{n}"));
        let port = DpdkPort::open(&format!("null{n}"), &config);
        Box::new(port.unwrap_or_else(|error| panic!("{error}"))) as Box<dyn Port>
    };
    vec![open(first), open(first + 1)]
}

fn lane(sandbox: &Arc<Sandbox>) -> Lane {
    let plan = chain("macswap", vec![function(sandbox, "macswap", &wasm("macswap"), "{}", 0)]);
    dpdk_lane(sandbox, plan, ports(0), Traffic { symmetric: true, burst: BURST })
}

/// The same ports with Rust between them.
struct Native {
    pool: Pool,
    ports: Vec<Box<dyn Port>>,
    packets: Vec<Packet>,
}

impl Native {
    fn new() -> Self {
        let config = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Auto };
        let mut pool = Pool::new("native", &config).expect("memory");
        let mut ports = ports(2);
        for port in &mut ports {
            port.attach(&mut pool).unwrap_or_else(|error| panic!("{error}"));
        }
        Self { pool, ports, packets: Vec::with_capacity(BURST) }
    }

    fn run(&mut self) -> f64 {
        let (began, cpu, mut done) = (Instant::now(), thread_time(), 0);
        while began.elapsed() < ROUND {
            for _ in 0..64 {
                for (from, to) in [(0, 1), (1, 0)] {
                    let Self { pool, ports, packets } = self;
                    ports[from].receive(pool, packets, BURST).expect("net_null works");
                    for packet in packets.iter() {
                        let bytes = pool.bytes_mut(packet.descriptor).expect("in a room");
                        let (destination, source) = bytes.split_at_mut(6);
                        destination.swap_with_slice(&mut source[..6]);
                    }
                    done += packets.len();
                    ports[to].send(pool, packets).expect("net_null works");
                }
            }
        }
        (thread_time() - cpu).as_nanos() as f64 / done as f64
    }

    fn finish(&mut self) {
        for port in &mut self.ports {
            port.finish(&mut self.pool).expect("the port ends");
        }
        assert_eq!(self.pool.accounting().out, 0, "buffers were lost");
    }
}

/// What testpmd says of itself.
fn testpmd() -> f64 {
    let mut child = Command::new("dpdk-testpmd")
        .args(["--lcores", &format!("0@0,1@{CORE}"), "--no-pci", "--in-memory", "--iova-mode=va"])
        .args(["--no-telemetry", "--log-level=4", "--vdev=net_null0", "--vdev=net_null1", "--"])
        .args(["--auto-start", "--forward-mode=macswap", &format!("--burst={BURST}")])
        .args(["--total-num-mbufs=16384", "--stats-period=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dpdk-testpmd (package dpdk-dev)");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let (mut ports, mut packets, mut samples) = (0, 0.0, Vec::new());
    for line in output.lines() {
        let line = line.expect("text");
        // A sample has a line for each port.
        if let Some((_, rest)) = line.split_once("TX-packets:") {
            let count = rest.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
            packets += count.expect("a number");
            ports += 1;
            if ports == 2 {
                samples.push((packets, forwarder_time(child.id())));
                (ports, packets) = (0, 0.0);
            }
        }
        if samples.len() == SAMPLES + 2 {
            break;
        }
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it lives");
    child.wait().expect("it is our child");
    let [_, (packets, cpu), .., (packets_then, cpu_then)] = samples[..] else {
        panic!("dpdk-testpmd did not run: it needs huge pages (`sysctl vm.nr_hugepages=256`)");
    };
    (cpu_then - cpu) / (packets_then - packets)
}

/// CPU time of testpmd's forwarding thread, in ns.
fn forwarder_time(process: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    for thread in threads {
        let path = thread.expect("a thread").path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if ["lcore-worker-1", "rte-worker-1"].contains(&name.trim()) {
            // Documentation/scheduler/sched-stats.rst: the first number is time spent on the CPU,
            // in ns.
            let times = std::fs::read_to_string(path.join("schedstat")).expect("schedstat");
            return times.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        }
    }
    panic!("dpdk-testpmd has no thread lcore-worker-1");
}
