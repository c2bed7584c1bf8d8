//! Looking at a chain that runs: an observer on each of its lanes, for as long as somebody looks.

use std::sync::Arc;

use weir_control::engine::EngineError;
use weir_packet_plane::{Lane, Observer, Watch};
use weir_spec::SteeringRule;
use weir_steering::Rule;

use super::lanes::{Deployed, Lanes};

/// The observers of a chain's lanes; they end with it.
pub(super) struct Watching {
    lanes: Arc<Lanes>,
    chain: Arc<Deployed>,
    watches: Vec<Watch>,
}

impl Watching {
    /// Has these look, one at each lane. Should a lane be gone, those before it end.
    pub(super) fn begin(
        lanes: &Arc<Lanes>,
        chain: &Arc<Deployed>,
        observers: impl IntoIterator<Item = Box<dyn Observer>>,
    ) -> Result<Self, EngineError> {
        let mut watching = Self {
            lanes: Arc::clone(lanes),
            chain: Arc::clone(chain),
            watches: Vec::with_capacity(chain.lanes.len()),
        };
        for (n, observer) in observers.into_iter().enumerate() {
            let observe = move |lane: &mut Lane| lane.observe(observer);
            watching.watches.push(lanes.look(chain, n, observe)?);
        }
        Ok(watching)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for (n, watch) in self.watches.drain(..).enumerate() {
            // It has ended if the chain was taken down, or has other functions now.
            drop(self.lanes.look(&self.chain, n, move |lane| lane.end_observing(watch)));
        }
    }
}

/// The names of a chain's functions, in their order.
pub(super) fn function_names(lanes: &Lanes, chain: &Deployed) -> Result<Vec<String>, EngineError> {
    // Names only: the worker waits for it, and configurations can have megabytes.
    lanes.look(chain, 0, |lane| {
        lane.plan().functions.iter().map(|function| function.name.clone()).collect()
    })
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
