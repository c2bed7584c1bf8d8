//! What a second core brings: the same chain on one worker and on two, each pinned to a core, with
//! a lane, a pool and instances of its own and half of the flows.
//!
//! Packets a second are by the clock on the wall: whatever else runs on these cores takes its
//! share. So CPU time is told beside it, which says what the workers do to each other (caches,
//! memory, locks) and nothing of who else is there. One worker is measured on each core, and two
//! are compared with the sum, so that cores of different speed do not matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_benches::driver::{flows, median};
use weir_benches::lanes::{chain, lane, pool};
use weir_benches::process::{allow_files, threads};
use weir_benches::suite::{Entry, VIP, entry, six};
use weir_packet_plane::{FunctionPlan, Lane, Worker, spread};
use weir_pool::{HugePages, Packet, Pool};
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Templates};
use weir_port::{Port, PortError, PortStatistics, Received, Spreading};
use weir_sandbox::{Sandbox, SandboxConfig};

const CORES: usize = 2;
const FLOWS: u32 = 10_000;
const ROUNDS: usize = 15;
const SAMPLE: Duration = Duration::from_millis(300);
/// Time for caches to be filled.
const SETTLE: Duration = Duration::from_millis(100);

/// A port of which it is not known by which rule flows come to it, as with most devices.
struct Scattered(MemoryPort);

impl Port for Scattered {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        self.0.receive(pool, into, max)
    }
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.0.send(pool, packets)
    }
    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.0.finish(pool)
    }
    fn statistics(&self) -> &PortStatistics {
        self.0.statistics()
    }
    fn spreading(&self) -> Spreading {
        Spreading::Anyhow
    }
}

/// What a worker did in a sample.
#[derive(Clone, Copy)]
struct Done {
    /// Packets a second.
    rate: f64,
    /// ns of CPU time a packet.
    cpu: f64,
}

fn main() {
    allow_files();
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let workers: Vec<Worker> = (0..CORES)
        .map(|n| Worker::start(&name(n), Some(n), Arc::clone(&sandbox)).expect("a worker"))
        .collect();
    println!(
        "64-byte packets, {FLOWS} flows in memory, burst 64, one worker on each of {CORES} cores: medians of {ROUNDS} \
         interleaved rounds"
    );
    println!("the aim: two workers do at least 1.9 times what one does");
    println!(
        "{:34}  {:>10}  {:>10}  {:>6}  {:>8}  {:>8}  {:>6}",
        "chain", "Mpps, one", "Mpps, two", "ratio", "ns, one", "ns, two", "ratio"
    );
    let null = || vec![entry::<null::Null>("null", "{}", 0, false)];
    let six = six();
    let firewall = six.into_iter().filter(|entry| entry.name() == "firewall").collect();
    for entries in [null(), firewall, weir_benches::suite::six()] {
        compare(&sandbox, &workers, &entries, false);
    }
    println!("the same with all flows at both workers: half of the packets are handed over");
    for entries in [null(), weir_benches::suite::six()] {
        compare(&sandbox, &workers, &entries, true);
    }
}

fn name(worker: usize) -> String {
    format!("core-worker-{worker}")
}

/// A lane of the chain for so many flows' share; for all flows if they are scattered.
fn lanes(sandbox: &Arc<Sandbox>, entries: &[Entry], count: usize, scattered: bool) -> Vec<Lane> {
    let templates = Templates::frames(flows(FLOWS, VIP, 80)).expect("possible frames");
    let all = GeneratorConfig::new(templates);
    let generators = if scattered { vec![all; count] } else { all.divided(count) };
    let ports = |generator| -> Vec<Box<dyn Port>> {
        let source = MemoryPort::new("in", Some(generator), Keep::Nothing);
        let sink = MemoryPort::new("out", None, Keep::Nothing);
        if scattered {
            vec![Box::new(Scattered(source)), Box::new(Scattered(sink))]
        } else {
            vec![Box::new(source), Box::new(sink)]
        }
    };
    let ports = spread(generators.into_iter().map(ports).collect(), 1).expect("descriptors");
    let make = |ports| {
        let functions: Vec<FunctionPlan> = entries.iter().map(|e| e.plan(sandbox)).collect();
        lane(sandbox, chain("cores", functions), ports, pool(HugePages::Auto))
    };
    ports.into_iter().map(make).collect()
}

fn compare(sandbox: &Arc<Sandbox>, workers: &[Worker], entries: &[Entry], scattered: bool) {
    // All flows for one worker, on each core in turn; half of them for each of two.
    let mut alone: Vec<Option<Lane>> =
        lanes(sandbox, entries, 1, false).into_iter().map(Some).collect();
    let mut both: Vec<Option<Lane>> =
        lanes(sandbox, entries, CORES, scattered).into_iter().map(Some).collect();
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let each: Vec<Done> =
            (0..CORES).map(|core| run(&workers[core..=core], core, &mut alone)[0]).collect();
        let of = |value: fn(&Done) -> f64, all: &[Done]| {
            all.iter().map(value).sum::<f64>() / all.len() as f64
        };
        ones.push((of(|d| d.rate, &each), of(|d| d.cpu, &each)));
        let each = run(workers, 0, &mut both);
        twos.push((each.iter().map(|d| d.rate).sum::<f64>(), of(|d| d.cpu, &each)));
    }
    let of =
        |all: &[(f64, f64)], value: fn(&(f64, f64)) -> f64| median(all.iter().map(value).collect());
    let ratio = |value: fn(&(f64, f64)) -> f64| {
        median(twos.iter().zip(&ones).map(|(two, one)| value(two) / value(one)).collect())
    };
    let names: Vec<&str> = entries.iter().map(Entry::name).collect();
    let title =
        if names.len() > 3 { format!("{} functions", names.len()) } else { names.join(" ") };
    println!(
        "{title:34}  {:10.2}  {:10.2}  {:6.2}  {:8.1}  {:8.1}  {:6.2}",
        of(&ones, |m| m.0) / 1e6,
        of(&twos, |m| m.0) / 1e6,
        ratio(|m| m.0),
        of(&ones, |m| m.1),
        of(&twos, |m| m.1),
        ratio(|m| m.1),
    );
}

/// Runs a lane on each of these workers, the first of which has this number, for a sample.
fn run(workers: &[Worker], first: usize, lanes: &mut [Option<Lane>]) -> Vec<Done> {
    let counters: Vec<_> =
        lanes.iter().map(|lane| lane.as_ref().expect("it is here").counters()).collect();
    for (worker, lane) in workers.iter().zip(&mut *lanes) {
        worker.add("lane", lane.take().expect("it is here")).expect("it runs");
    }
    std::thread::sleep(SETTLE);
    let now = || {
        let threads = threads(std::process::id());
        let cpu = |n: usize| {
            let name = name(first + n);
            threads.values().find(|(own, _)| *own == name).expect("it runs").1.nanoseconds
        };
        let each = counters.iter().enumerate();
        let each = each.map(|(n, counters)| (cpu(n), counters.read().0.packets_in));
        (each.collect::<Vec<_>>(), Instant::now())
    };
    let (before, started) = now();
    std::thread::sleep(SAMPLE);
    let (after, ended) = now();
    for (worker, lane) in workers.iter().zip(&mut *lanes) {
        *lane = worker.remove("lane").expect("it runs");
    }
    let seconds = (ended - started).as_secs_f64();
    let done = |(after, before): (&(u64, u64), &(u64, u64))| {
        let packets = (after.1 - before.1) as f64;
        Done { rate: packets / seconds, cpu: (after.0 - before.0) as f64 / packets }
    };
    after.iter().zip(&before).map(done).collect()
}
