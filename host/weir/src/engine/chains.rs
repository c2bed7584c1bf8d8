//! Deploying chains: their lanes, on which workers and with which ports.

use std::sync::Arc;

use weir_chain::Mode;
use weir_control::engine::{ChainId, Deployment, EngineError, Published};
use weir_packet_plane::{ChainPlan, Clock, Lane, LaneConfig, States, spread};
use weir_port::{Port, PortStatistics};
use weir_spec::{Chain, Name, ResolvedFunction};

use super::lanes::{Deployed, DeployedLane, Shape, Telemetries};
use super::{PlaneEngine, refused};

/// Most packets of a burst.
const BURST: usize = 64;
/// Makes the seed by which flows are spread over lanes another than that by which canaries get theirs.
const SPREAD: u64 = 0x5bd1_e995_9e37_79b9;

impl PlaneEngine {
    pub(super) fn deploy_chain(&self, deployment: &Deployment) -> Result<Published, EngineError> {
        let Deployment { id, chain, functions } = deployment;
        let shape = self.shape(chain)?;
        let existing = self.plane.chains().get(id).cloned();
        if let Some(existing) = existing {
            let turn = existing.turn();
            let telemetries: Vec<_> = existing.lanes.iter().map(|lane| &lane.telemetry).collect();
            if existing.shape == shape {
                let plans = self.chain_plans(id, functions, &telemetries)?;
                // A new deployment replaces whatever was being tried.
                self.plane.with_lanes(&existing, Lane::end_canary)?;
                let staged = self.plane.stage(&existing, plans)?;
                return self.plane.publish(&existing, staged, None);
            }
            // Other ports or workers: everything that can fail is tried before the old lanes go.
            let lanes = (0..shape.workers).map(|lane| telemetries[lane % telemetries.len()]);
            self.chain_plans(id, functions, &lanes.collect::<Vec<_>>())?;
            self.ports().check(chain, Some(&id.name), shape.workers)?;
            drop(turn);
            self.undeploy_chain(id)?;
        }
        self.new_lanes(id, chain, functions, shape)
    }

    /// What the chain is deployed with.
    fn shape(&self, chain: &Chain) -> Result<Shape, EngineError> {
        let all = self.plane.workers.len();
        let workers = chain.workers.of(all);
        if workers > all {
            return Err(EngineError::Refused(format!(
                "the chain wants {workers} workers, and the host has {all}: lower the chain's `workers`, or raise `count` \
                 (or name more `cores`) in [workers] of the host's configuration"
            )));
        }
        let (from, to) = (chain.from.clone(), chain.to.clone());
        Ok(Shape { from, to, symmetric: chain.symmetric, workers })
    }

    fn new_lanes(
        &self,
        id: &ChainId,
        chain: &Chain,
        functions: &[ResolvedFunction],
        shape: Shape,
    ) -> Result<Published, EngineError> {
        let telemetries: Vec<_> = (0..shape.workers).map(|_| Telemetries::default()).collect();
        let plans = self.chain_plans(id, functions, &telemetries.iter().collect::<Vec<_>>())?;
        let ports = self.ports().take(chain, &id.tenant, &id.name, shape.workers)?;
        let statistics: Vec<_> = ports.iter().map(|ports| port_statistics(ports)).collect();
        // Where packets come in by one port only, there is nothing that belongs together.
        let ports = if chain.symmetric { spread(ports, self.seed ^ SPREAD) } else { Ok(ports) };
        let ports = ports.map_err(|error| {
            self.ports().reopen(chain);
            EngineError::Exhausted(error.to_string())
        })?;
        let mut lanes = Vec::with_capacity(shape.workers);
        let mut beside = States::default();
        for (n, (plan, ports)) in plans.into_iter().zip(ports).enumerate() {
            let config = LaneConfig {
                pool: self.pool,
                symmetric: chain.symmetric && ports.len() > 1,
                ports,
                clock: Clock::Monotonic,
                burst: BURST,
                seed: self.seed,
                on_event: Some(self.keeper.ear(id, n)),
            };
            match Lane::new_beside(Arc::clone(&self.plane.sandbox), plan, config, &beside) {
                Ok(lane) => {
                    if n == 0 {
                        beside = lane.states();
                    }
                    lanes.push(lane);
                }
                Err(error) => {
                    // Whatever went wrong, that is what is told.
                    drop(self.finish(lanes));
                    self.ports().reopen(chain);
                    return Err(refused(error));
                }
            }
        }
        let key = format!("{}/{}", id.tenant, id.name);
        let workers = self.least_used_workers(shape.workers);
        let deployed = lanes.iter().zip(&workers).zip(telemetries.into_iter().zip(statistics));
        let deployed = deployed.map(|((lane, worker), (telemetry, ports))| DeployedLane {
            worker: *worker,
            site: lane.site(),
            counters: lane.counters(),
            status: lane.status(),
            ports,
            telemetry,
        });
        let deployed = Arc::new(Deployed::new(key.clone(), deployed.collect(), shape));
        let compiled_in = lanes.iter().map(Lane::compiled_in).sum();
        self.plane.chains().insert(id.clone(), deployed);
        for (lane, worker) in lanes.into_iter().zip(workers) {
            self.plane.workers[worker]
                .add(&key, lane)
                .map_err(|gone| EngineError::Internal(gone.to_string()))?;
        }
        Ok(Published { compiled_in, ..Published::default() })
    }

    pub(super) fn undeploy_chain(&self, id: &ChainId) -> Result<(), EngineError> {
        let Some(deployed) = self.plane.chains().remove(id) else { return Ok(()) };
        let _turn = deployed.turn();
        let mut lanes = Vec::with_capacity(deployed.lanes.len());
        for lane in &deployed.lanes {
            let lane = self.plane.workers[lane.worker]
                .remove(&deployed.key)
                .map_err(|gone| EngineError::Internal(gone.to_string()))?;
            lanes.extend(lane);
        }
        self.finish(lanes)
    }

    /// Ends lanes that no worker has any more; the error is the first lane's that has one.
    fn finish(&self, lanes: Vec<Lane>) -> Result<(), EngineError> {
        let _ticking = self.plane.sandbox.ticker().tick();
        let mut result = Ok(());
        let mut finish = |mut lane: Lane| {
            match lane.finish() {
                Ok(accounting) if accounting.out > 0 => {
                    tracing::error!("{} buffers of a chain's pool were lost", accounting.out);
                }
                Ok(_) => {}
                Err(error) if result.is_ok() => {
                    result = Err(EngineError::Exhausted(error.to_string()));
                }
                Err(_) => {}
            }
            lane
        };
        // All of them before the first one goes: their ports may have to do with each other.
        let finished: Vec<Lane> = lanes.into_iter().map(&mut finish).collect();
        for lane in finished {
            self.ports().give_back(lane.into_ports());
        }
        result
    }

    /// Each lane's chain as it runs, with one function replaced; by one that only sees copies if `shadow`.
    pub(super) fn replaced(
        &self,
        deployed: &Deployed,
        function: &ResolvedFunction,
        shadow: bool,
    ) -> Result<(Vec<ChainPlan>, usize), EngineError> {
        let label = function.label.as_str();
        let mut plans = self.plane.plans(deployed)?;
        let mut place = 0;
        let lanes = deployed.lanes.len();
        for (n, (plan, lane)) in plans.iter_mut().zip(&deployed.lanes).enumerate() {
            place = plan.functions.iter().position(|f| f.name == label).ok_or_else(|| {
                EngineError::Conflict(format!("chain {} has no function {label}", plan.name))
            })?;
            let telemetry = &lane.telemetry;
            let telemetry = if shadow { telemetry.new_shadow(label) } else { telemetry.of(label) };
            plan.functions[place] = self.function_plan(function, (n, lanes), telemetry)?;
        }
        Ok((plans, place))
    }

    /// The chain for each lane, of which these are the logs and counters.
    fn chain_plans(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
        telemetries: &[&Telemetries],
    ) -> Result<Vec<ChainPlan>, EngineError> {
        let lanes = telemetries.len();
        let plan = |(lane, telemetry): (usize, &&Telemetries)| {
            let functions = functions
                .iter()
                .map(|f| self.function_plan(f, (lane, lanes), telemetry.of(f.label.as_str())))
                .collect::<Result<_, _>>()?;
            Ok(weir_assembly::plan(id.name.as_str(), functions, Mode::Linked))
        };
        telemetries.iter().enumerate().map(plan).collect()
    }

    /// So many workers, those with the fewest lanes.
    fn least_used_workers(&self, count: usize) -> Vec<usize> {
        let mut used = vec![0usize; self.plane.workers.len()];
        for deployed in self.plane.chains().values() {
            deployed.lanes.iter().for_each(|lane| used[lane.worker] += 1);
        }
        let mut workers: Vec<usize> = (0..used.len()).collect();
        workers.sort_by_key(|n| used[*n]);
        workers.truncate(count);
        workers.sort_unstable();
        workers
    }
}

fn port_statistics(ports: &[Box<dyn Port>]) -> Vec<(Name, PortStatistics)> {
    ports
        .iter()
        .filter_map(|port| Some((port.name().parse().ok()?, port.statistics().clone())))
        .collect()
}
