//! Lanes as the host runs them, for benchmarks of what happens around packets: swaps, memory,
//! neighbours.
//!
//! Owns: chains of the functions that were built, and ports that watch the clock while packets
//! pass. Must not know: what a single benchmark is about.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_chain::Mode;
use weir_packet_plane::{ChainPlan, Clock, FunctionPlan, Lane, LaneConfig, OnFault, Turn};
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Templates};
use weir_port::{Port, PortError, PortStatistics};
use weir_sandbox::{Sandbox, Telemetry, thread_time};

/// Packets of a burst, as the host's lanes have them.
pub const BURST: usize = 64;

/// A function that was built: what `target/functions/NAME.wasm` holds.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn wasm(name: &str) -> Vec<u8> {
    let file = format!("{}/../target/functions/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(Path::new(&file)).unwrap_or_else(|e| panic!("{file}: {e}: run scripts/build"))
}

/// The same function as another upload: its code compiles to the same, but nothing that was cached
/// for the whole of it is found.
#[must_use]
pub fn variant(wasm: &[u8], number: u32) -> Vec<u8> {
    let mut other = wasm.to_vec();
    // A custom section without a name, of four bytes.
    other.extend([0, 5, 0]);
    other.extend(number.to_le_bytes());
    other
}

/// A function of a chain, with ordinary limits.
///
/// # Panics
/// When the upload is refused.
#[must_use]
pub fn function(
    sandbox: &Sandbox,
    name: &str,
    wasm: &[u8],
    config: &str,
    state_bytes: usize,
) -> FunctionPlan {
    let admitted = sandbox.admit(wasm).unwrap_or_else(|e| panic!("{name}: {e}"));
    FunctionPlan {
        name: name.into(),
        version: "1".into(),
        admitted,
        writes: true,
        memory: 64 << 20,
        deadline: Duration::from_millis(100),
        on_fault: OnFault::FailClosed,
        state_bytes,
        state_shared: false,
        state_layout: "1".into(),
        config: config.into(),
        flow_verdicts: false,
        targets: Vec::new(),
        telemetry: Arc::new(Telemetry::default()),
    }
}

/// A linked chain.
#[must_use]
pub fn chain(name: &str, functions: Vec<FunctionPlan>) -> ChainPlan {
    ChainPlan { name: name.into(), functions, mode: Mode::Linked, upward: None }
}

/// A generator of these frames, without end.
///
/// # Panics
/// When the frames are impossible.
#[must_use]
pub fn generator(frames: Vec<Vec<u8>>) -> MemoryPort {
    let templates = Templates::frames(frames).expect("possible frames");
    MemoryPort::new("in", Some(GeneratorConfig::new(templates)), Keep::Nothing)
}

/// A lane between these ports.
///
/// # Panics
/// When the chain cannot be made ready.
#[must_use]
pub fn lane(
    sandbox: &Arc<Sandbox>,
    plan: ChainPlan,
    ports: Vec<Box<dyn Port>>,
    pool: PoolConfig,
) -> Lane {
    between(sandbox, plan, ports, pool, Traffic { symmetric: false, burst: BURST })
}

/// What passes a lane.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// In both directions.
    pub symmetric: bool,
    /// Most packets of a burst.
    pub burst: usize,
}

/// A lane between two ports of DPDK's.
///
/// # Panics
/// When the chain cannot be made ready.
#[must_use]
pub fn dpdk_lane(
    sandbox: &Arc<Sandbox>,
    plan: ChainPlan,
    ports: Vec<Box<dyn Port>>,
    traffic: Traffic,
) -> Lane {
    let pool = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Auto };
    between(sandbox, plan, ports, pool, traffic)
}

fn between(
    sandbox: &Arc<Sandbox>,
    plan: ChainPlan,
    ports: Vec<Box<dyn Port>>,
    pool: PoolConfig,
    Traffic { symmetric, burst }: Traffic,
) -> Lane {
    let config = LaneConfig {
        pool,
        ports,
        symmetric,
        clock: Clock::Monotonic,
        burst,
        seed: 1,
        on_event: None,
    };
    Lane::new(Arc::clone(sandbox), plan, config).unwrap_or_else(|e| panic!("{e}"))
}

/// Has a lane forward for this long between ports that always have packets; the answer is ns of CPU
/// time a packet.
///
/// # Panics
/// When there are no packets.
#[must_use]
pub fn forward_for(lane: &mut Lane, time: Duration) -> f64 {
    let (began, cpu, before) = (Instant::now(), thread_time(), lane.packets_in());
    while began.elapsed() < time {
        assert_eq!(lane.turn(), Turn::Busy, "the ports always have packets");
    }
    (thread_time() - cpu).as_nanos() as f64 / (lane.packets_in() - before) as f64
}

/// A pool with ordinary or huge pages.
#[must_use]
pub fn pool(huge: HugePages) -> PoolConfig {
    PoolConfig { rooms: 1024, room_bytes: 2048, huge }
}

/// A time between two bursts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gap {
    /// Nanoseconds.
    pub wall: u64,
    /// Nanoseconds of the worker's CPU time: what other programs on its core took is not in it.
    pub cpu: u64,
}

impl Gap {
    fn longer(self, other: Self) -> Self {
        Self { wall: self.wall.max(other.wall), cpu: self.cpu.max(other.cpu) }
    }
}

/// What a watched port saw since it was asked last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The gap in which [`Watch::mark`] was called.
    pub marked: Gap,
    /// The longest of the other gaps, in wall time and in CPU time.
    pub longest: Gap,
}

/// Reads what a [`Watched`] port sees.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Watching>);

#[derive(Debug, Default)]
struct Watching {
    /// Written by the port's worker at each burst; somebody else waits for it a few times in a
    /// second.
    seen: Mutex<Seen>,
    mark: AtomicBool,
}

impl Watch {
    /// What was seen; it is forgotten.
    ///
    /// # Panics
    /// When the port panicked.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.0.seen.lock().expect("the port does not panic"))
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        let _ = self.take();
    }

    /// Called by the port's worker: the gap that is under way is the one that matters.
    pub fn mark(&self) {
        self.0.mark.store(true, Relaxed);
    }
}

/// A port that swallows what is sent, and sees how long nothing was.
#[derive(Debug)]
pub struct Watched {
    inner: MemoryPort,
    watch: Watch,
    last: Option<(Instant, Duration)>,
}

impl Watched {
    /// A port, and what reads it.
    #[must_use]
    pub fn new(name: &str) -> (Self, Watch) {
        let watch = Watch::default();
        let inner = MemoryPort::new(name, None, Keep::Nothing);
        (Self { inner, watch: watch.clone(), last: None }, watch)
    }
}

impl Port for Watched {
    weir_port::pass_on!(inner: name, receive);
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let now = (Instant::now(), thread_time());
        if let Some((wall, cpu)) = self.last.replace(now) {
            let nanoseconds = |gap: Duration| u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
            let gap = Gap { wall: nanoseconds(now.0 - wall), cpu: nanoseconds(now.1 - cpu) };
            let mut seen = self.watch.0.seen.lock().expect("nobody panics who has it");
            if self.watch.0.mark.swap(false, Relaxed) {
                seen.marked = gap;
            } else {
                seen.longest = seen.longest.longer(gap);
            }
        }
        self.inner.send(pool, packets)
    }
    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.inner.finish(pool)
    }
    fn statistics(&self) -> &PortStatistics {
        self.inner.statistics()
    }
}

/// Of sorted numbers, the one that so many per thousand are at most.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn quantile(sorted: &[f64], per_mille: usize) -> f64 {
    sorted[(sorted.len() - 1) * per_mille / 1000]
}
