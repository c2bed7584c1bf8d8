//! The packet plane behind the control plane's engine: workers, lanes and ports of this process.
//!
//! A chain has a lane on each of its workers; everything slow (compiling, instantiating,
//! configuring) is done by the calling thread, and the workers only publish.

mod chains;
mod crossing;
mod guard;
mod keeper;
mod lanes;
mod links;
mod ports;
mod status;
mod steering;
mod tap;
mod trace;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_chain::ChainError;
use weir_control::engine::{
    ChainId, Drained, EngineError, EventSink, Published, SwapDirection, TrialKind,
};
use weir_packet_plane::{FunctionPlan, PlaneError, Worker};
use weir_sandbox::{Admitted, CompileError, Given, InstanceError, Sandbox, Telemetry};
use weir_spec::{Chain, CheckReport, HostConfig, Name, ResolvedFunction};

use self::keeper::Keeper;
use self::lanes::Lanes;
use self::ports::Ports;
pub(crate) use self::ports::check as check_ports;
use self::steering::Ends;
use crate::nics::VfMacs;

/// See the module.
pub(crate) struct Packets {
    lanes: Arc<Lanes>,
    keeper: Keeper,
    ports: Arc<Mutex<Ports>>,
    steering: steering::Steering,
    /// Addresses that rules name, at NICs.
    macs: VfMacs,
    /// Whoever has a chain come to its ports or go from there has it.
    arrivals: Mutex<()>,
    pool: weir_pool::PoolConfig,
    seed: u64,
    sink: Arc<OnceLock<EventSink>>,
}

impl Packets {
    /// Starts the workers, and opens ports: those that cannot be opened are down.
    ///
    /// # Errors
    /// When threads cannot be had, or something is wrong with the configuration's ports on whatever
    /// machine.
    pub(crate) fn start(config: &HostConfig, sandbox: Arc<Sandbox>, macs: VfMacs) -> Result<Self> {
        let count = config.workers.number();
        let mut workers = Vec::with_capacity(count);
        for n in 0..count {
            let core = config.workers.cores.get(n).map(|core| usize::from(*core));
            let worker = Worker::start(&format!("weir-worker-{n}"), core, Arc::clone(&sandbox))
                .with_context(|| format!("starting worker {n}"))?;
            workers.push(worker);
        }
        let huge = if config.pool.huge_pages {
            weir_pool::HugePages::Auto
        } else {
            weir_pool::HugePages::Never
        };
        let room_bytes = ports::room_bytes(config);
        weir_xdp::own_pins(&config.store.path);
        let lanes = Arc::new(Lanes::new(sandbox, workers));
        let sink = Arc::<OnceLock<EventSink>>::default();
        let keeper = Keeper::start(Arc::downgrade(&lanes), Arc::clone(&sink))
            .context("starting the keeper")?;
        let is_set_up = |port: &Name| macs.is_set_up(port);
        let ports = Ports::new(&config.ports, room_bytes, is_set_up, Arc::clone(&sink))?;
        Ok(Self {
            lanes,
            keeper,
            ports: Arc::new(Mutex::new(ports)),
            steering: steering::Steering::default(),
            macs,
            arrivals: Mutex::default(),
            pool: weir_pool::PoolConfig { rooms: config.pool.rooms, room_bytes, huge },
            seed: crate::random_seed(),
            sink,
        })
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function's plan for a lane.
    fn function_plan(
        &self,
        tenant: &Name,
        function: &ResolvedFunction,
        lane: usize,
        telemetry: Arc<Telemetry>,
    ) -> Result<FunctionPlan, EngineError> {
        let admitted = admit(&self.lanes.sandbox, function)?;
        let mut plan = weir_assembly::function_plan(function, admitted, telemetry, lane);
        let targets = function.targets.iter();
        plan.targets = targets.map(|chain| chains::lane_key(tenant, chain)).collect();
        Ok(plan)
    }
}

/// Looks at a function of a chain. What is not known now may be known later.
pub(crate) fn admit(
    sandbox: &Sandbox,
    function: &ResolvedFunction,
) -> Result<Arc<Admitted>, EngineError> {
    sandbox.admit(&function.wasm).map_err(|refused| {
        let told = format!("function {}: {refused}", function.label);
        if refused.unknown { EngineError::Exhausted(told) } else { EngineError::Refused(told) }
    })
}

fn refused(error: PlaneError) -> EngineError {
    match error {
        PlaneError::Chain(ChainError::Instance(InstanceError::Refused {
            name,
            what: Given::Configuration,
            message,
        })) => EngineError::Configuration { function: name, message },
        PlaneError::Pool(_)
        | PlaneError::Share(_)
        | PlaneError::Chain(
            ChainError::Link(CompileError::Io { .. })
            | ChainError::Instance(InstanceError::Compile {
                source: CompileError::Io { .. }, ..
            }),
        ) => EngineError::Exhausted(error.to_string()),
        PlaneError::Trial(_) => EngineError::Conflict(error.to_string()),
        PlaneError::Port(_) | PlaneError::Chain(_) | PlaneError::NoFunction(_) => {
            EngineError::Refused(error.to_string())
        }
    }
}

/// What the control plane's `Engine` promises, for chains of packets.
impl Packets {
    /// Whether it has a part of this chain.
    pub(crate) fn has(&self, chain: &ChainId) -> bool {
        self.lanes.chains().contains_key(chain)
    }

    /// Whether a version is being tried in its part of a chain.
    pub(crate) fn has_trial(&self, chain: &ChainId) -> bool {
        let Ok(deployed) = self.lanes.deployed(chain) else { return false };
        deployed
            .lanes
            .iter()
            .any(|lane| lane.status.lock().unwrap_or_else(PoisonError::into_inner).trial.is_some())
    }

    pub(crate) fn check(&self, wasm: &[u8]) -> CheckReport {
        weir_assembly::check_in(&self.lanes.sandbox, wasm)
    }

    pub(crate) fn compile(&self, admitted: &Admitted) -> Result<Duration, EngineError> {
        let started = Instant::now();
        let manifest = weir_assembly::manifest_of("the upload", admitted).ok();
        let access = manifest.and_then(|manifest| manifest.access).unwrap_or_default();
        let writes = access == weir_spec::Access::ReadWrite;
        weir_chain::compile_upload(&self.lanes.sandbox, admitted, writes)
            .map_err(|error| EngineError::Refused(error.to_string()))?;
        Ok(started.elapsed())
    }

    pub(crate) fn expect(&self, chains: &[(&ChainId, &Chain)]) {
        for (id, chain) in chains {
            self.steering.place(id, Some(Ends::of(chain)));
        }
    }

    pub(crate) fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError> {
        self.undeploy_chain(chain)?;
        self.steering.place(chain, None);
        Ok(())
    }

    pub(crate) fn swap(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        way: SwapDirection,
    ) -> Result<Published, EngineError> {
        let deployed = self.lanes.deployed(chain)?;
        let _turn = deployed.turn();
        let (plans, place) = self.replaced(&chain.tenant, &deployed, &function, false)?;
        let staged = self.lanes.stage(&deployed, plans)?;
        self.lanes.publish(&deployed, staged, Some((place, way)))
    }

    pub(crate) fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        let deployed = self.lanes.deployed(chain)?;
        let _turn = deployed.turn();
        let (plans, place) =
            self.replaced(&chain.tenant, &deployed, &function, kind == TrialKind::Shadow)?;
        match kind {
            TrialKind::Canary(percent) => {
                let staged = self.lanes.stage(&deployed, plans)?;
                self.lanes.begin_canary(&deployed, staged, place, percent)
            }
            TrialKind::Shadow => {
                let mut sides = Vec::with_capacity(plans.len());
                for (lane, plan) in deployed.lanes.iter().zip(&plans) {
                    sides.push(lane.site.stage_shadow(plan, place).map_err(refused)?);
                }
                self.lanes.begin_shadow(&deployed, sides)
            }
        }
    }

    pub(crate) fn change_canary(&self, chain: &ChainId, percent: u8) -> Result<(), EngineError> {
        let deployed = self.lanes.deployed(chain)?;
        let _turn = deployed.turn();
        let changed = self.lanes.with_lanes(&deployed, move |lane| lane.change_canary(percent))?;
        changed.into_iter().collect::<Result<(), _>>().map_err(refused)
    }

    pub(crate) fn promote(&self, chain: &ChainId) -> Result<Published, EngineError> {
        let deployed = self.lanes.deployed(chain)?;
        let _turn = deployed.turn();
        self.lanes.promote(&deployed)
    }

    pub(crate) fn end_trial(&self, chain: &ChainId) -> Result<(), EngineError> {
        let deployed = self.lanes.deployed(chain)?;
        let _turn = deployed.turn();
        self.lanes.end_trial(&deployed)
    }

    pub(crate) fn subscribe(&self, sink: EventSink) {
        // A second call is a bug of the caller's; the first sink stays.
        if self.sink.set(sink).is_ok() {
            links::watch(&self.ports, &self.sink);
            ports::watch(&self.ports);
        }
    }

    pub(crate) fn drain(&self, deadline: Duration) -> Drained {
        let until = Instant::now() + deadline;
        let mut drained = Drained::default();
        {
            // Nothing comes behind this, so the list has all that there is.
            let _arrival = self.arrivals();
            self.ports().close();
        }
        let ids: Vec<ChainId> = self.lanes.chains().keys().cloned().collect();
        for id in ids {
            let Ok(deployed) = self.lanes.deployed(&id) else { continue };
            // Whoever changes it may run code of the tenant's: what is over by then is waited for,
            // and the rest finds that the chain is gone. Its devices must not be kept by that.
            let _turn = deployed.turn_until(until);
            if self.lanes.chains().remove(&id).is_none() {
                // Whoever had the turn has taken it down.
                continue;
            }
            match self.take_down(&id, &deployed) {
                Ok(()) => drained.chains += 1,
                Err(error) => drained.problems.push(format!("chain {}: {error}", id.name)),
            }
        }
        // What is being opened now is left as it was found, too.
        let left = until.saturating_duration_since(Instant::now());
        drop(ports::settled(&self.ports, left, |_| true));
        drained
    }
}

#[cfg(test)]
mod tests;
