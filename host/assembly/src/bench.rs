//! A chain between a generator and a sink in memory.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weir_packet_plane::{ChainPlan, Clock, Lane, LaneConfig, Turn};
use weir_pool::{HugePages, PoolConfig};
use weir_port::Port;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_sandbox::Sandbox;
use weir_spec::BenchReport;

use crate::lane::lane;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Bytes of a frame.
    pub size: u32,
    /// Flows.
    pub flows: u32,
    /// Packets of a burst.
    pub burst: u32,
    /// How long.
    pub duration: Duration,
    /// Cores; each has its own lane, pool and instances, and its share of the flows.
    pub cores: u32,
    /// Whether each packet's bytes are written anew. Without, as with DPDK's `net_null`, functions
    /// find what they left there.
    pub copy: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            size: 64,
            flows: 10_000,
            burst: 32,
            duration: Duration::from_secs(5),
            cores: 1,
            copy: true,
        }
    }
}

/// Runs the chain as fast as it goes. `plan` is what the worker of this number has, with logs and
/// counters of its own.
///
/// # Errors
/// When the options are impossible, or the chain cannot be made ready.
pub fn bench(
    sandbox: &Arc<Sandbox>,
    plan: impl Fn(usize) -> ChainPlan,
    options: &BenchOptions,
) -> Result<BenchReport> {
    let count = options.cores.max(1) as usize;
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    ensure!(
        count <= cores.len(),
        "--cores {count}: this process may use {} (`taskset -cp $$` says which)",
        cores.len()
    );
    let mut lanes = Vec::new();
    let plans: Vec<ChainPlan> = (0..count).map(plan).collect();
    let functions = plans.first().map_or(0, |plan| plan.functions.len());
    let generators = generator(options)?.divided(count).into_iter();
    for ((generator, core), plan) in generators.zip(cores).zip(plans) {
        lanes.push((bench_lane(sandbox, plan, generator, options)?, core));
    }
    let start = Barrier::new(lanes.len());
    let _ticking = sandbox.ticker().tick();
    let measured: Vec<Measured> = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|(lane, core)| {
                let start = &start;
                scope.spawn(move || pinned_to(core, || measure(lane, options.duration, start)))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow!("a worker panicked"))?)
            .collect::<Result<_>>()
    })?;
    let rate: f64 = measured.iter().map(|m| m.packets as f64 / m.seconds).sum();
    let mean = measured.iter().map(|m| m.seconds * 1e9 / m.packets as f64).sum::<f64>()
        / measured.len() as f64;
    let mut turns: Vec<f64> = measured.into_iter().flat_map(|m| m.turns).collect();
    turns.sort_by(f64::total_cmp);
    let p99 = turns.get(turns.len() * 99 / 100).copied().unwrap_or(mean);
    Ok(BenchReport {
        packets_per_second: rate,
        ns_per_packet: mean,
        ns_per_packet_p99: p99,
        burst: options.burst,
        size: options.size,
        flows: options.flows,
        cores: options.cores,
        functions: u32::try_from(functions).unwrap_or(u32::MAX),
    })
}

/// Has this thread run on one core.
fn pinned_to<R>(core: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)?;
    work()
}

fn generator(options: &BenchOptions) -> Result<GeneratorConfig> {
    ensure!(options.cores <= options.flows, "{} flows for {} cores", options.flows, options.cores);
    let templates = Templates::flows(Shape {
        flows: options.flows,
        frame_bytes: options.size as usize,
        protocol: Protocol::Udp,
    })?;
    Ok(GeneratorConfig { copy: options.copy, ..GeneratorConfig::new(templates) })
}

fn bench_lane(
    sandbox: &Arc<Sandbox>,
    plan: ChainPlan,
    generator: GeneratorConfig,
    options: &BenchOptions,
) -> Result<Lane> {
    let ports: Vec<Box<dyn Port>> = vec![
        Box::new(MemoryPort::new("in", Some(generator), Keep::Nothing)),
        Box::new(MemoryPort::new("out", None, Keep::Nothing)),
    ];
    let room_bytes = (options.size + 128).next_power_of_two().max(2048);
    let config = LaneConfig {
        pool: PoolConfig { rooms: 1024, room_bytes, huge: HugePages::Auto },
        ports,
        symmetric: true,
        clock: Clock::Monotonic,
        burst: options.burst as usize,
        seed: 1,
        on_event: None,
    };
    lane(sandbox, plan, config)
}

struct Measured {
    packets: u64,
    seconds: f64,
    /// ns a packet, by turn.
    turns: Vec<f64>,
}

fn measure(mut lane: Lane, duration: Duration, start: &Barrier) -> Result<Measured> {
    // Flow tables and branch predictors settle before the clock starts.
    start.wait();
    let warm = Instant::now();
    while warm.elapsed() < duration / 10 {
        lane.turn();
    }
    let before = lane.counts().0.packets_in;
    let mut done = before;
    let mut turns = Vec::with_capacity(1 << 20);
    let began = Instant::now();
    let mut last = began;
    while last.duration_since(began) < duration {
        if lane.turn() != Turn::Busy {
            break;
        }
        let now = Instant::now();
        let packets = lane.packets_in();
        if turns.len() < turns.capacity() && packets > done {
            turns.push((now - last).as_nanos() as f64 / (packets - done) as f64);
        }
        done = packets;
        last = now;
    }
    let seconds = began.elapsed().as_secs_f64();
    let accounting = lane.finish()?;
    anyhow::ensure!(accounting.out == 0, "{} buffers were lost", accounting.out);
    Ok(Measured { packets: done - before, seconds, turns })
}
