//! A capture through a chain, offline: the same engine, no daemon, no root.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use weir_packet_plane::{ChainPlan, Clock, Counters, DROP_REASONS, LaneConfig, Observer, Turn};
use weir_pool::{HugePages, PoolConfig};
use weir_port::Port;
use weir_port::pcap::{PcapConfig, PcapPort, scan};
use weir_sandbox::{LogLine, Sandbox};
use weir_spec::{ReplayReport, ReplayedFunction};

use crate::lane::lane;

/// Buffers of a replay's pool.
const ROOMS: u32 = 2048;

/// How a replay is done.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Maximum number of packets in a burst.
    pub burst: usize,
    /// For hash seeds; a replay gives the same result each time.
    pub seed: u64,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { burst: 32, seed: 0 }
    }
}

/// What a replay did.
#[derive(Clone, Debug)]
pub struct ReplayOutcome {
    /// The counts.
    pub report: ReplayReport,
    /// What is wrong with the capture behind the packets that could be read; they were replayed.
    pub damage: Option<String>,
    /// Notable things that happened (faults).
    pub events: Vec<String>,
    /// What the functions logged, in the chain's order: a function, and its lines.
    pub logs: Vec<(String, Vec<LogLine>)>,
}

/// Runs the packets of `input` forward through the chain; those that reach its end or are forwarded
/// are written to `output`. `progress` is told now and then how many packets of how many are done.
/// What `observer` makes, told how many bytes a room has, looks at each function's work.
///
/// # Errors
/// When a file cannot be opened or written, or the chain cannot be made ready.
pub fn replay(
    sandbox: &Arc<Sandbox>,
    plan: ChainPlan,
    input: &Path,
    output: &Path,
    options: &ReplayOptions,
    observer: Option<&dyn Fn(u32) -> Box<dyn Observer>>,
    mut progress: impl FnMut(u64, u64),
) -> Result<ReplayOutcome> {
    let capture = scan(input)?;
    let from = PcapConfig {
        input: Some(input.to_owned()),
        output: Some(output.to_owned()),
        ..PcapConfig::default()
    };
    let ports: Vec<Box<dyn Port>> = vec![Box::new(PcapPort::open("in", &from)?)];
    let versions: Vec<(String, String)> =
        plan.functions.iter().map(|f| (f.name.clone(), f.version.clone())).collect();
    let telemetries: Vec<_> =
        plan.functions.iter().map(|f| (f.name.clone(), Arc::clone(&f.telemetry))).collect();
    let room = (capture.longest.saturating_add(128)).next_power_of_two().clamp(2048, 65_536);
    let config = LaneConfig {
        pool: PoolConfig { rooms: ROOMS, room_bytes: room, huge: HugePages::Never },
        ports,
        symmetric: false,
        clock: Clock::Capture,
        burst: options.burst,
        seed: options.seed,
        on_event: None,
    };
    let mut lane = lane(sandbox, plan, config)?;
    if let Some(observer) = observer {
        lane.observe(observer(room));
    }
    let ticking = sandbox.ticker().tick();
    let mut turns = 0u32;
    while lane.turn() != Turn::Ended {
        turns += 1;
        if turns.is_multiple_of(64) {
            progress(lane.counts().0.packets_in, capture.packets);
        }
    }
    let finished = lane.finish();
    drop(ticking);
    let (counters, _) = lane.counts();
    progress(counters.packets_in, capture.packets);
    let ports = lane.port_statistics();
    let dropped = ports.iter().map(|(_, _, statistics)| statistics.counts());
    let mut report = report_of(&counters, &versions);
    for counts in dropped {
        report.packets_in += counts.rx_dropped_too_large + counts.rx_dropped_no_buffer;
        for (reason, n) in
            [("too-large", counts.rx_dropped_too_large), ("no-buffer", counts.rx_dropped_no_buffer)]
        {
            if n > 0 {
                *report.drops.entry(reason.into()).or_default() += n;
            }
        }
    }
    let status = lane.status();
    let events = status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).events.clone();
    let events = events.into_iter().map(|(_, text)| weir_sandbox::explain(&text)).collect();
    let damage = capture.damage.map(|error| error.to_string());
    // Damage of the input was reported by the port too: it is not a failure to write.
    if damage.is_none() {
        finished.context("the replay could not be finished")?;
    }
    let logs = telemetries.into_iter().map(|(name, telemetry)| (name, telemetry.lines().0));
    Ok(ReplayOutcome { report, damage, events, logs: logs.collect() })
}

/// Counters as a report; `functions` are names and versions in the chain's order.
#[must_use]
pub fn report_of(counters: &Counters, functions: &[(String, String)]) -> ReplayReport {
    let mut report = ReplayReport {
        packets_in: counters.packets_in,
        packets_out: counters.packets_out,
        ..ReplayReport::default()
    };
    for (reason, name) in DROP_REASONS {
        let n = counters.drops[reason as usize];
        if n > 0 {
            report.drops.insert(name.into(), n);
        }
    }
    // Also of functions that the chain had before.
    for (name, counts) in counters.by_function() {
        for (reason, n) in counts.drops.iter().enumerate().filter(|(_, n)| **n > 0) {
            report.drops.insert(format!("{name}:{reason}"), *n);
        }
    }
    for (name, version) in functions {
        let counts = counters.of(name).copied().unwrap_or_default();
        report.functions.push(ReplayedFunction {
            name: name.clone(),
            version: version.clone(),
            packets: counts.packets,
            verdicts: counts.by_name().map(|(name, n)| (name.to_owned(), n)).into(),
            faults: counts.faults,
        });
    }
    report
}
