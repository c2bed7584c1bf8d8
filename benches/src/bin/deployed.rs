//! What a packet costs in one busy chain, beside other chains of the same worker that have nothing
//! to do.
//!
//! The busy chain has a generator without end. The others are deployed for ten tenants, each with
//! its own pool and instance: half of them have no ports, the other half get a packet a second.
//! They come and go by turns, so that what is compared is measured within a second.

use std::sync::Arc;
use std::time::Duration;

use weir_benches::driver::{flows, median};
use weir_benches::lanes::{chain, function, generator, lane, pool, wasm};
use weir_benches::process::{allow_files, threads};
use weir_packet_plane::{Lane, Worker};
use weir_pool::{HugePages, PoolConfig};
use weir_port::Port;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Templates};
use weir_sandbox::{Sandbox, SandboxConfig};

const NUMBERS: [usize; 4] = [0, 10, 100, 1000];
const ROUNDS: usize = 15;
const SAMPLE: Duration = Duration::from_millis(200);
/// Time for what was added to be looked at, and put aside.
const SETTLE: Duration = Duration::from_millis(50);
const TENANTS: usize = 10;

fn main() {
    allow_files();
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let wasm = wasm("null");
    let plan = |name: &str| chain(name, vec![function(&sandbox, "null", &wasm, "{}", 0)]);

    let source = generator(flows(10_000, [198, 51, 100, 1], 80));
    let sink = MemoryPort::new("out", None, Keep::Nothing);
    let ports: Vec<Box<dyn Port>> = vec![Box::new(source), Box::new(sink)];
    let busy = lane(&sandbox, plan("busy"), ports, pool(HugePages::Never));
    let counters = busy.counters();

    let small = PoolConfig { rooms: 64, ..pool(HugePages::Never) };
    let mut idle: Vec<(String, Option<Lane>)> = (0..NUMBERS[NUMBERS.len() - 1])
        .map(|n| {
            let name = format!("tenant-{}/chain-{n}", n % TENANTS);
            let lane = lane(&sandbox, plan(&name), vec![idle_port(n)], small);
            (name, Some(lane))
        })
        .collect();

    let worker = Worker::start("busy-worker", None, Arc::clone(&sandbox)).expect("a worker");
    worker.add("busy", busy).expect("it runs");
    let sample = || {
        let cpu = || threads(std::process::id()).into_values().find(|(n, _)| n == "busy-worker");
        let now = || (cpu().expect("it runs").1.nanoseconds, counters.read().0.packets_in);
        let before = now();
        std::thread::sleep(SAMPLE);
        let after = now();
        (after.0 - before.0) as f64 / (after.1 - before.1) as f64
    };
    let mut measured = [const { Vec::new() }; NUMBERS.len()];
    for _ in 0..ROUNDS {
        for (number, measured) in NUMBERS.iter().zip(&mut measured) {
            for (name, lane) in &mut idle[..*number] {
                worker.add(name, lane.take().expect("it is here")).expect("it runs");
            }
            std::thread::sleep(SETTLE);
            measured.push(sample());
            for (name, lane) in &mut idle[..*number] {
                *lane = worker.remove(name).expect("it runs");
            }
        }
    }
    println!(
        "ns of the worker's CPU time for a packet of one busy chain beside others that are idle: medians of {ROUNDS}"
    );
    println!("the aim: it does not grow");
    println!("idle chains  ns a packet  more than alone");
    let all = measured.map(median);
    for (number, ns) in NUMBERS.iter().zip(all) {
        println!("{number:11}  {ns:11.2}  {:14.1}%", (ns / all[0] - 1.0) * 100.0);
    }
}

/// A port by which nothing, or next to nothing, comes.
fn idle_port(n: usize) -> Box<dyn Port> {
    if n.is_multiple_of(2) {
        return Box::new(MemoryPort::new("none", None, Keep::Nothing));
    }
    let templates = Templates::frames(flows(1, [198, 51, 100, 1], 80)).expect("possible frames");
    let config = GeneratorConfig { rate: Some(1), ..GeneratorConfig::new(templates) };
    Box::new(MemoryPort::new("slow", Some(config), Keep::Nothing))
}
