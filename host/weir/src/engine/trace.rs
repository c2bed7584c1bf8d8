//! Following packets through a chain that runs.

use std::sync::TryLockError;
use std::time::{Duration, Instant};

use weir_control::engine::{ChainId, EngineError};
use weir_packet_plane::{Lane, Sighted, Trace, Watch};
use weir_spec::{ChainTrace, SteeringRule, TraceRequest};
use weir_steering::{Key, Rule};

use super::PlaneEngine;
use super::lanes::Deployed;

/// How often it is looked whether there are enough packets.
const LOOK: Duration = Duration::from_millis(5);
/// How long packets may still be under way when there are enough of them.
const LEAVING: Duration = Duration::from_millis(200);

impl PlaneEngine {
    pub(super) fn trace_chain(
        &self,
        id: &ChainId,
        request: &TraceRequest,
    ) -> Result<ChainTrace, EngineError> {
        let Ok(chain) = self.plane.deployed(id) else {
            let text = format!(
                "chain {} has no functions on the packet plane, where packets could be followed",
                id.name
            );
            return Err(EngineError::Conflict(text));
        };
        let _traced = match chain.traced.try_lock() {
            Ok(traced) => traced,
            Err(TryLockError::Poisoned(traced)) => traced.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let text =
                    format!("chain {} is being traced: ask again when that has ended", id.name);
                return Err(EngineError::Conflict(text));
            }
        };
        // Names only: the worker waits for it, and configurations can have megabytes.
        let names: Vec<_> = self.plane.with_lane(&chain, 0, |lane| {
            lane.plan().functions.iter().map(|function| function.name.clone()).collect()
        })?;
        let trace = trace_of(&chain, names.len(), request)?;
        let watches = self.watch(&chain, &trace)?;
        wait(&trace, Duration::from_secs(request.seconds.into()));
        for (n, watch) in watches.into_iter().enumerate() {
            // It has ended if the chain was taken down, or has other functions now.
            drop(self.plane.with_lane(&chain, n, move |lane| lane.end_observing(watch)));
        }
        let (followed, seen) = trace.recorded();
        Ok(ChainTrace { packets: weir_assembly::ways(followed, &names), seen })
    }

    /// Has it look at every lane.
    fn watch(&self, chain: &Deployed, trace: &Trace) -> Result<Vec<Watch>, EngineError> {
        let mut watches = Vec::with_capacity(chain.lanes.len());
        for (n, lane) in chain.lanes.iter().enumerate() {
            let observer = trace.observer(lane.site.room_bytes());
            let watching =
                self.plane.with_lane(chain, n, move |lane: &mut Lane| lane.observe(observer));
            watches.push(watching?);
        }
        Ok(watches)
    }
}

/// A trace of the packets that are asked for.
fn trace_of(
    chain: &Deployed,
    functions: usize,
    request: &TraceRequest,
) -> Result<Trace, EngineError> {
    let rule = conditions(chain, &request.rule())?;
    let pick = move |it: Sighted<'_>| rule.matches(&Key::read(it.bytes, it.port));
    Ok(Trace::new(request.packets as usize, functions, Box::new(pick)))
}

/// What a rule says of packets of the chain.
pub(super) fn conditions(chain: &Deployed, rule: &SteeringRule) -> Result<Rule, EngineError> {
    let ports = chain.lanes[0].site.ports();
    let number = |port: &weir_spec::Name| {
        ports.iter().position(|other| other == port.as_str()).and_then(|n| u16::try_from(n).ok())
    };
    let compiled = weir_assembly::compile_steering(std::slice::from_ref(rule), number, |_| false);
    compiled.rules.into_iter().next().ok_or_else(|| {
        let port = rule.port.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = format!("the chain has no port {port}; it has {}", ports.join(", "));
        EngineError::Refused(text)
    })
}

/// Waits until it is complete, for at most this long.
fn wait(trace: &Trace, time: Duration) {
    let started = Instant::now();
    let mut until = started + time;
    let mut full = false;
    while Instant::now() < until && !trace.is_complete() {
        if !full && trace.is_full() {
            full = true;
            until = until.min(Instant::now() + LEAVING);
        }
        std::thread::sleep(LOOK);
    }
}
