//! A capture through a function, by the packet plane's own engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use weir_assembly::{function_plan, lane, report_of};
use weir_chain::{ChainError, Mode};
use weir_packet_plane::{ChainPlan, Clock, LaneConfig, PlaneError, Turn};
use weir_pool::{HugePages, PoolConfig};
use weir_port::Port;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Templates};
use weir_sandbox::{Given, InstanceError, Sandbox, Telemetry};
use weir_spec::{ReplayReport, ResolvedFunction};

use crate::captures::Frame;
use crate::function::Function;
use crate::recorder::{Recorder, Sent, lock};

/// Buffers of the pool, and packets of a burst, as in `weir replay`.
const ROOMS: u32 = 2048;
const BURST: usize = 32;

/// What came of it.
pub(crate) enum Run {
    /// The function refused its configuration: why, and what it logged.
    Refused(String, Vec<String>),
    /// It faulted while it was configured: how, and what it logged.
    Failed(String, Vec<String>),
    /// It ran.
    Done(Box<Ran>),
}

/// What a function did.
pub(crate) struct Ran {
    pub(crate) report: ReplayReport,
    /// Packets that left, in order.
    pub(crate) sent: Vec<Sent>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) log: Vec<String>,
    /// Faults, in words.
    pub(crate) faults: Vec<String>,
}

impl Ran {
    /// Numbers of the packets that did not leave.
    pub(crate) fn dropped(&self) -> Vec<u64> {
        let left: std::collections::BTreeSet<u64> =
            self.sent.iter().filter_map(|sent| sent.number).collect();
        (1..=self.report.packets_in).filter(|number| !left.contains(number)).collect()
    }
}

/// Runs the packets through the function.
pub(crate) fn run(
    sandbox: &Arc<Sandbox>,
    function: &Function,
    resolved: &ResolvedFunction,
    ports: &[String],
    frames: &Arc<[Frame]>,
) -> Result<Run> {
    let plan = plan(function, resolved);
    let telemetry = Arc::clone(&plan.functions[0].telemetry);
    let version = plan.functions[0].version.clone();
    let record = Arc::default();
    let none: Arc<[Frame]> = Arc::new([]);
    let default = ["in".to_owned()];
    let names = if ports.is_empty() { &default[..] } else { ports };
    let given = names.iter().enumerate().map(|(n, name)| -> Box<dyn Port> {
        Box::new(Recorder::new(
            name,
            if n == 0 { Arc::clone(frames) } else { Arc::clone(&none) },
            &record,
        ))
    });
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let on_event: weir_packet_plane::EventSink = Arc::new(move |event| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(event.to_string());
    });
    let config = LaneConfig {
        pool: pool(frames),
        ports: given.collect(),
        symmetric: false,
        clock: Clock::Capture,
        burst: BURST,
        seed: 0,
        on_event: Some(on_event),
    };
    let mut lane = match lane(sandbox, plan, config) {
        Ok(lane) => lane,
        Err(error) => match error.downcast()? {
            PlaneError::Chain(ChainError::Instance(InstanceError::Refused {
                what: Given::Configuration,
                message,
                ..
            })) => {
                return Ok(Run::Refused(message, lines(&telemetry)));
            }
            PlaneError::Chain(ChainError::Instance(fault @ InstanceError::Fault { .. })) => {
                return Ok(Run::Failed(fault.to_string(), lines(&telemetry)));
            }
            error => bail!(error),
        },
    };
    let ticking = sandbox.ticker().tick();
    while lane.turn() != Turn::Ended {}
    lane.finish()?;
    drop(ticking);
    let report = report_of(&lane.counts().0, &[(function.name().to_owned(), version)]);
    drop(lane);
    let faults = events.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let record = std::mem::take(&mut *lock(&record));
    Ok(Run::Done(Box::new(Ran {
        report: ReplayReport { packets_in: record.given, ..report },
        sent: record.sent,
        counters: telemetry.counters(),
        gauges: telemetry.gauges(),
        log: lines(&telemetry),
        faults,
    })))
}

/// What a function logged.
pub(crate) fn lines(telemetry: &Telemetry) -> Vec<String> {
    telemetry.lines().0.into_iter().map(|line| line.message).collect()
}

/// Nanoseconds that a packet of these takes in memory, over and over for so long.
pub(crate) fn measure(
    sandbox: &Arc<Sandbox>,
    function: &Function,
    resolved: &ResolvedFunction,
    frames: &Arc<[Frame]>,
    time: Duration,
) -> Result<f64> {
    let templates = Templates::frames(frames.iter().map(|frame| &frame.bytes))?;
    let ports: Vec<Box<dyn Port>> = vec![
        Box::new(MemoryPort::new("in", Some(GeneratorConfig::new(templates)), Keep::Nothing)),
        Box::new(MemoryPort::new("out", None, Keep::Nothing)),
    ];
    let config = LaneConfig {
        pool: pool(frames),
        ports,
        symmetric: true,
        clock: Clock::Monotonic,
        burst: BURST,
        seed: 0,
        on_event: None,
    };
    let mut lane = lane(sandbox, plan(function, resolved), config)?;
    let _ticking = sandbox.ticker().tick();
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        lane.turn();
    }
    let (began, before) = (Instant::now(), lane.packets_in());
    while began.elapsed() < time {
        lane.turn();
    }
    let nanoseconds =
        began.elapsed().as_nanos() as f64 / (lane.packets_in() - before).max(1) as f64;
    lane.finish()?;
    Ok(nanoseconds)
}

fn plan(function: &Function, resolved: &ResolvedFunction) -> ChainPlan {
    let plan = function_plan(resolved, Arc::clone(&function.admitted), Arc::default(), 0);
    weir_assembly::plan("test", vec![plan], Mode::Linked)
}

fn pool(frames: &[Frame]) -> PoolConfig {
    let longest = frames.iter().map(|frame| frame.bytes.len()).max().unwrap_or(0);
    let room_bytes = (longest as u32).saturating_add(128).next_power_of_two().clamp(2048, 65_536);
    PoolConfig { rooms: ROOMS, room_bytes, huge: HugePages::Never }
}
