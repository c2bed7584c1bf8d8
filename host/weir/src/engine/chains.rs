//! Deploying chains: lanes, their ports, and what is remembered about them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use weir_chain::Mode;
use weir_control::engine::{ChainId, Deployment, EngineError, EngineEvent, Published};
use weir_packet_plane::{
    ChainPlan, Clock, EventSink, Lane, LaneConfig, LaneEvent, LaneSite, LaneStatus, Shared,
};
use weir_port::{Port, PortStatistics};
use weir_sandbox::Telemetry;
use weir_spec::{Chain, Name, ResolvedFunction};

use super::{PlaneEngine, refused};

/// Most packets of a burst.
const BURST: usize = 64;

/// A chain that has a lane.
pub(super) struct Deployed {
    /// Place of its worker.
    pub(super) worker: usize,
    /// The lane's name at its worker.
    pub(super) key: String,
    pub(super) site: LaneSite,
    pub(super) counters: Arc<Shared>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
    pub(super) ports: Vec<(Name, PortStatistics)>,
    /// Ports and direction that it was deployed with.
    shape: Shape,
    pub(super) telemetry: Mutex<BTreeMap<String, Arc<Telemetry>>>,
}

/// What cannot change without a new lane.
#[derive(Clone, PartialEq, Eq)]
struct Shape {
    from: Option<Name>,
    to: Option<Name>,
    symmetric: bool,
}

impl Shape {
    fn of(chain: &Chain) -> Self {
        Self { from: chain.from.clone(), to: chain.to.clone(), symmetric: chain.symmetric }
    }
}

impl Deployed {
    /// The log and counters of a function; they outlive versions.
    pub(super) fn telemetry(&self, label: &str) -> Arc<Telemetry> {
        let mut all = self.telemetry.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(label.to_owned()).or_default())
    }

    /// Those of a function's shadow, which are not to be mixed with its own; they begin anew with each shadow.
    fn new_shadow_telemetry(&self, label: &str) -> Arc<Telemetry> {
        let mut all = self.telemetry.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(shadow_of(label), Arc::default());
        drop(all);
        self.telemetry(&shadow_of(label))
    }
}

/// The name under which a shadow's log is kept.
pub(super) fn shadow_of(label: &str) -> String {
    format!("{label} (shadow)")
}

impl PlaneEngine {
    pub(super) fn deploy_chain(&self, deployment: &Deployment) -> Result<Published, EngineError> {
        let Deployment { id, chain, functions } = deployment;
        let existing = self.chains().get(id).cloned();
        if let Some(existing) = existing {
            if existing.shape == Shape::of(chain) {
                let plan = self.chain_plan(id, functions, |label| existing.telemetry(label))?;
                self.end_trials(&existing)?;
                let staged = self.stage(&existing, plan)?;
                return self.publish(&existing, staged, None);
            }
            // Other ports: everything that can fail is tried before the old lane goes.
            self.chain_plan(id, functions, |label| existing.telemetry(label))?;
            self.ports().check(chain, Some(&id.name))?;
            self.undeploy_chain(id)?;
        }
        self.new_lane(id, chain, functions)
    }

    fn new_lane(
        &self,
        id: &ChainId,
        chain: &Chain,
        functions: &[ResolvedFunction],
    ) -> Result<Published, EngineError> {
        let telemetry = Mutex::new(BTreeMap::<String, Arc<Telemetry>>::new());
        let plan = self.chain_plan(id, functions, |label| {
            let mut all = telemetry.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(label.to_owned()).or_default())
        })?;
        let ports = self.ports().take(chain, &id.tenant, &id.name)?;
        let statistics = port_statistics(&ports);
        let symmetric = chain.symmetric && ports.len() > 1;
        let config = LaneConfig {
            pool: self.pool,
            ports,
            symmetric,
            clock: Clock::Monotonic,
            burst: BURST,
            seed: self.seed,
            on_event: Some(self.lane_events(id)),
        };
        let lane = match Lane::new(Arc::clone(&self.sandbox), plan, config) {
            Ok(lane) => lane,
            Err(error) => {
                self.ports().reopen(chain);
                return Err(refused(error));
            }
        };
        let key = format!("{}/{}", id.tenant, id.name);
        let worker = self.least_used_worker();
        let deployed = Arc::new(Deployed {
            worker,
            key: key.clone(),
            site: lane.site(),
            counters: lane.counters(),
            status: lane.status(),
            ports: statistics,
            shape: Shape::of(chain),
            telemetry,
        });
        let compiled_in = lane.compiled_in();
        self.chains().insert(id.clone(), deployed);
        self.workers[worker]
            .add(&key, lane)
            .map_err(|gone| EngineError::Internal(gone.to_string()))?;
        Ok(Published { compiled_in, ..Published::default() })
    }

    pub(super) fn undeploy_chain(&self, id: &ChainId) -> Result<(), EngineError> {
        let Some(deployed) = self.chains().remove(id) else { return Ok(()) };
        let lane = self.workers[deployed.worker]
            .remove(&deployed.key)
            .map_err(|gone| EngineError::Internal(gone.to_string()))?;
        let Some(mut lane) = lane else { return Ok(()) };
        let _ticking = self.sandbox.ticker().tick();
        let finished = lane.finish();
        self.ports().give_back(lane.into_ports());
        match finished {
            Ok(_) => Ok(()),
            Err(error) => Err(EngineError::Exhausted(error.to_string())),
        }
    }

    /// The chain as it runs, with one function replaced; by one that only sees copies if `shadow`.
    pub(super) fn replaced(
        &self,
        deployed: &super::Deployed,
        function: &ResolvedFunction,
        shadow: bool,
    ) -> Result<(ChainPlan, usize), EngineError> {
        let mut plan = self.with_lane(deployed, |lane| lane.plan().clone())?;
        let label = function.label.as_str();
        let place = plan.functions.iter().position(|f| f.name == label).ok_or_else(|| {
            EngineError::Conflict(format!("chain {} has no function {label}", plan.name))
        })?;
        let telemetry =
            if shadow { deployed.new_shadow_telemetry(label) } else { deployed.telemetry(label) };
        plan.functions[place] = self.function_plan(function, telemetry)?;
        Ok((plan, place))
    }

    fn chain_plan(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
        telemetry: impl Fn(&str) -> Arc<Telemetry>,
    ) -> Result<ChainPlan, EngineError> {
        let functions = functions
            .iter()
            .map(|f| self.function_plan(f, telemetry(f.label.as_str())))
            .collect::<Result<_, _>>()?;
        Ok(weir_assembly::plan(id.name.as_str(), functions, Mode::Linked))
    }

    /// A new deployment replaces whatever was being tried.
    fn end_trials(&self, deployed: &super::Deployed) -> Result<(), EngineError> {
        self.with_lane(deployed, Lane::end_canary)?;
        Ok(())
    }

    fn least_used_worker(&self) -> usize {
        let mut used = vec![0usize; self.workers.len()];
        for deployed in self.chains().values() {
            used[deployed.worker] += 1;
        }
        (0..used.len()).min_by_key(|n| used[*n]).unwrap_or(0)
    }

    /// Passes a lane's events on to the control plane.
    fn lane_events(&self, id: &ChainId) -> EventSink {
        let (sink, chain) = (Arc::clone(&self.sink), id.clone());
        Arc::new(move |event| {
            let Some(sink) = sink.get() else { return };
            let chain = chain.clone();
            let note = |message: &str| EngineEvent::Note {
                chain: chain.clone(),
                message: message.to_owned(),
            };
            sink(match event {
                LaneEvent::Fault { function, version, health, message } => match function.parse() {
                    Ok(function) => EngineEvent::Fault {
                        chain: chain.clone(),
                        function,
                        version: version.parse().ok(),
                        kind: (*health).to_owned(),
                        message: message.clone(),
                    },
                    Err(_) => note(message),
                },
                LaneEvent::RolledBack { function, version, message } => match function.parse() {
                    Ok(function) => EngineEvent::RolledBack {
                        chain: chain.clone(),
                        function,
                        version: version.parse().ok(),
                        message: message.clone(),
                    },
                    Err(_) => note(message),
                },
                LaneEvent::Note(text) => note(text),
            });
        })
    }
}

fn port_statistics(ports: &[Box<dyn Port>]) -> Vec<(Name, PortStatistics)> {
    ports
        .iter()
        .filter_map(|port| Some((port.name().parse().ok()?, port.statistics().clone())))
        .collect()
}
