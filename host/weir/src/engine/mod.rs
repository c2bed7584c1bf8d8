//! The data plane behind the control plane's [`Engine`]: workers, lanes and ports of this process.
//!
//! The only place that knows both sides. A chain has one lane on one worker; everything slow (compiling,
//! instantiating, configuring) is done by the calling thread, and the worker only publishes.

mod chains;
mod ports;
mod status;
mod steering;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_chain::{ChainError, Mode};
use weir_control::engine::{
    ChainId, Deployment, Drained, Engine, EngineError, EngineStatus, EventSink, FunctionLog,
    Published, TrialKind,
};
use weir_packet_plane::{ChainPlan, FunctionPlan, PlaneError, Staged, Worker};
use weir_sandbox::{Admitted, Sandbox, Telemetry};
use weir_spec::{CheckReport, HostConfig, Name, ResolvedFunction, SteeringRule};

use self::chains::Deployed;
use self::ports::Ports;

/// See the module.
pub(crate) struct PlaneEngine {
    sandbox: Arc<Sandbox>,
    workers: Vec<Worker>,
    chains: Mutex<BTreeMap<ChainId, Arc<Deployed>>>,
    ports: Mutex<Ports>,
    /// By tenant.
    steering: Mutex<BTreeMap<Name, Arc<weir_assembly::Compiled>>>,
    pool: weir_pool::PoolConfig,
    seed: u64,
    sink: Arc<OnceLock<EventSink>>,
}

impl PlaneEngine {
    /// Starts the workers; ports are opened when a chain first uses them, but checked now.
    ///
    /// # Errors
    /// When threads or the configuration's ports cannot be had.
    pub(crate) fn start(config: &HostConfig, sandbox: Arc<Sandbox>) -> Result<Self> {
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
        let room_bytes = u32::try_from(config.pool.room.get()).unwrap_or(u32::MAX);
        Ok(Self {
            sandbox,
            workers,
            chains: Mutex::default(),
            ports: Mutex::new(Ports::new(&config.ports, room_bytes)?),
            steering: Mutex::default(),
            pool: weir_pool::PoolConfig { rooms: config.pool.rooms, room_bytes, huge },
            seed: random_seed(),
            sink: Arc::default(),
        })
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainId, Arc<Deployed>>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deployed(&self, id: &ChainId) -> Result<Arc<Deployed>, EngineError> {
        self.chains()
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::Conflict(format!("chain {} is not deployed", id.name)))
    }

    fn function_plan(
        &self,
        function: &ResolvedFunction,
        telemetry: Arc<Telemetry>,
    ) -> Result<FunctionPlan, EngineError> {
        let admitted = self.admit(function)?;
        Ok(weir_assembly::function_plan(function, admitted, telemetry))
    }

    fn admit(&self, function: &ResolvedFunction) -> Result<Arc<Admitted>, EngineError> {
        self.sandbox.admit(&function.wasm).map_err(|refused| {
            EngineError::Refused(format!("function {}: {refused}", function.label))
        })
    }

    /// Compiles, instantiates and configures on this thread.
    fn stage(&self, chain: &Deployed, plan: ChainPlan) -> Result<Staged, EngineError> {
        let states = self.with_lane(chain, |lane| lane.states())?;
        chain.site.stage(plan, &states).map_err(refused)
    }

    fn with_lane<R: Send + 'static>(
        &self,
        chain: &Deployed,
        act: impl FnOnce(&mut weir_packet_plane::Lane) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        match self.workers[chain.worker].with(&chain.key, act) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => {
                Err(EngineError::Conflict(format!("chain {} is being taken down", chain.key)))
            }
            Err(gone) => Err(EngineError::Internal(gone.to_string())),
        }
    }

    /// Publishes a staged version on the chain's worker and lets the old one end here.
    fn publish(
        &self,
        chain: &Deployed,
        staged: Staged,
        swapped: Option<usize>,
    ) -> Result<Published, EngineError> {
        let compiled_in = staged.compiled_in();
        let (published, retired) =
            self.with_lane(chain, move |lane| lane.publish(staged, swapped))?.map_err(refused)?;
        retired.end(&self.sandbox);
        Ok(report(&published, compiled_in))
    }
}

/// What the packet plane measured, in the control plane's words. Publishing happens between two bursts, so
/// it loses nothing.
fn report(published: &weir_packet_plane::Published, compiled_in: Duration) -> Published {
    Published {
        pause: published.pause,
        compiled_in,
        fresh: published.fresh.iter().filter_map(|name| name.parse().ok()).collect(),
        packets_lost: 0,
    }
}

fn refused(error: PlaneError) -> EngineError {
    match error {
        PlaneError::Chain(ChainError::Refused { name, what: "configuration", message }) => {
            EngineError::Configuration { function: name, message }
        }
        PlaneError::Pool(_) | PlaneError::Share(_) => EngineError::Exhausted(error.to_string()),
        PlaneError::Trial(_) => EngineError::Conflict(error.to_string()),
        PlaneError::Port(_) | PlaneError::Chain(_) | PlaneError::NoFunction(_) => {
            EngineError::Refused(error.to_string())
        }
    }
}

/// Unknown to who sends packets, so that nobody can aim at hash buckets.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

impl Engine for PlaneEngine {
    fn check(&self, wasm: &[u8]) -> CheckReport {
        weir_assembly::check_in(&self.sandbox, wasm)
    }

    fn compile(&self, wasm: &[u8]) -> Result<Duration, EngineError> {
        let started = Instant::now();
        let refused = |error: &dyn std::fmt::Display| EngineError::Refused(error.to_string());
        let admitted = self.sandbox.admit(wasm).map_err(|error| refused(&error))?;
        let manifest = weir_assembly::manifest_of("the upload", &admitted).ok();
        let access = manifest.and_then(|manifest| manifest.access).unwrap_or_default();
        let writes = access == weir_spec::Access::ReadWrite;
        weir_chain::compile_upload(&self.sandbox, &admitted, writes)
            .map_err(|error| refused(&error))?;
        Ok(started.elapsed())
    }

    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError> {
        self.deploy_chain(&deployment)
    }

    fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError> {
        self.undeploy_chain(chain)
    }

    fn swap(&self, chain: &ChainId, function: ResolvedFunction) -> Result<Published, EngineError> {
        let deployed = self.deployed(chain)?;
        let (plan, place) = self.replaced(&deployed, &function, false)?;
        let staged = self.stage(&deployed, plan)?;
        self.publish(&deployed, staged, Some(place))
    }

    fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        let deployed = self.deployed(chain)?;
        let (plan, place) = self.replaced(&deployed, &function, kind == TrialKind::Shadow)?;
        match kind {
            TrialKind::Canary(percent) => {
                let staged = self.stage(&deployed, plan)?;
                let compiled_in = staged.compiled_in();
                let started = Instant::now();
                self.with_lane(&deployed, move |lane| lane.begin_canary(staged, place, percent))?
                    .map_err(refused)?;
                let pause = started.elapsed();
                Ok(Published { pause, compiled_in, ..Published::default() })
            }
            TrialKind::Shadow => {
                let running = self.with_lane(&deployed, |lane| lane.plan().clone())?;
                let side = deployed.site.stage_shadow(&plan, place).map_err(refused)?;
                let separate = ChainPlan { mode: Mode::Separate, ..running };
                let staged = self.stage(&deployed, separate)?;
                let compiled_in = staged.compiled_in();
                let (published, retired) = self
                    .with_lane(&deployed, move |lane| lane.begin_shadow(staged, side))?
                    .map_err(refused)?;
                retired.end(&self.sandbox);
                Ok(report(&published, compiled_in))
            }
        }
    }

    fn change_canary(
        &self,
        chain: &ChainId,
        _function: &Name,
        percent: u8,
    ) -> Result<(), EngineError> {
        let deployed = self.deployed(chain)?;
        self.with_lane(&deployed, move |lane| lane.change_canary(percent))?.map_err(refused)
    }

    fn promote(&self, chain: &ChainId, _function: &Name) -> Result<Published, EngineError> {
        let deployed = self.deployed(chain)?;
        let (published, retired) =
            self.with_lane(&deployed, weir_packet_plane::Lane::promote)?.map_err(refused)?;
        retired.end(&self.sandbox);
        Ok(report(&published, Duration::ZERO))
    }

    fn end_trial(&self, chain: &ChainId, _function: &Name) -> Result<(), EngineError> {
        let deployed = self.deployed(chain)?;
        if self.with_lane(&deployed, weir_packet_plane::Lane::end_canary)? {
            return Ok(());
        }
        let running = self.with_lane(&deployed, |lane| lane.plan().clone())?;
        if running.mode == Mode::Linked {
            return Ok(());
        }
        let staged = self.stage(&deployed, ChainPlan { mode: Mode::Linked, ..running })?;
        let (_, retired, _) =
            self.with_lane(&deployed, move |lane| lane.end_shadow(staged))?.map_err(refused)?;
        retired.end(&self.sandbox);
        Ok(())
    }

    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError> {
        self.replace_steering(tenant, rules)
    }

    fn steering(&self, _tenant: &Name) -> Vec<u64> {
        // Nothing counts them yet.
        Vec::new()
    }

    fn status(&self) -> EngineStatus {
        self.engine_status()
    }

    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        self.function_log(chain, function)
    }

    fn subscribe(&self, sink: EventSink) {
        // A second call is a bug of the caller's; the first sink stays.
        let _ = self.sink.set(sink);
    }

    fn drain(&self, deadline: Duration) -> Drained {
        let until = Instant::now() + deadline;
        let mut drained = Drained::default();
        let ids: Vec<ChainId> = self.chains().keys().cloned().collect();
        for id in ids {
            if Instant::now() >= until {
                drained.problems.push(format!("chain {} was not drained in time", id.name));
                continue;
            }
            match self.undeploy_chain(&id) {
                Ok(()) => drained.chains += 1,
                Err(error) => drained.problems.push(format!("chain {}: {error}", id.name)),
            }
        }
        drained
    }
}
