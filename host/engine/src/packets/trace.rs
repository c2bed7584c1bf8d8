//! Following packets through a chain that runs.

use std::sync::TryLockError;
use std::time::{Duration, Instant};

use weir_control::engine::{ChainId, EngineError};
use weir_packet_plane::{Sighted, Trace};
use weir_spec::{ChainTrace, TraceRequest};
use weir_steering::Key;

use super::Packets;
use super::lanes::Deployed;
use super::watching::{Watching, conditions, function_names};

/// How often it is looked whether there are enough packets.
const LOOK: Duration = Duration::from_millis(5);
/// How long packets may still be under way when there are enough of them.
const LEAVING: Duration = Duration::from_millis(200);

impl Packets {
    pub(crate) fn trace(
        &self,
        id: &ChainId,
        request: &TraceRequest,
    ) -> Result<ChainTrace, EngineError> {
        let Ok(chain) = self.lanes.deployed(id) else {
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
        let names = function_names(&self.lanes, &chain)?;
        let trace = trace_of(&chain, names.len(), request)?;
        let observers = chain.lanes.iter().map(|lane| trace.observer(lane.site.room_bytes()));
        let watching = Watching::begin(&self.lanes, &chain, observers)?;
        wait(&trace, Duration::from_secs(request.seconds.into()));
        drop(watching);
        let (followed, seen) = trace.recorded();
        Ok(ChainTrace { packets: weir_assembly::ways(followed, &names), seen })
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
