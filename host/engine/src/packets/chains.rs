//! Deploying chains: their lanes, at which stations, on which workers and with which ports.

use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use weir_chain::Mode;
use weir_control::engine::{ChainId, Deployment, EngineError, Published};
use weir_packet_plane::{
    ChainPlan, Clock, Ground, Lane, LaneConfig, LaneSite, PlaneError, Station, Upward, spread,
};
use weir_port::{Port, PortStatistics};
use weir_spec::{Chain, Name, ResolvedFunction};

use super::crossing::{self, Crossing, DeployedStation, Device, Shape};
use super::lanes::{Deployed, DeployedLane};
use super::ports::{self, Slot};
use super::steering::{Ends, Prepared};
use super::{Packets, links, refused};
use crate::telemetries::Telemetries;

/// Maximum number of packets that a lane takes from a port at once; the contract allows more
/// (`BURST_MAX`).
const LANE_BURST: usize = 64;
/// Flows that a station remembers at least, 72 bytes each, once packets have to be told apart.
const FLOWS: usize = 65_536;
/// For how long a chain waits for a port that is being tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Makes the seed by which flows are spread over lanes another than that by which canaries get
/// theirs.
const SPREAD: u64 = 0x5bd1_e995_9e37_79b9;

impl Packets {
    /// `listeners`: where what leaves the chain's end becomes messages of its other part, if it has
    /// one.
    pub(crate) fn deploy(
        &self,
        deployment: &Deployment,
        listeners: Option<&[SocketAddr]>,
    ) -> Result<Published, EngineError> {
        let Deployment { id, chain, functions } = deployment;
        let shape = self.shape(chain)?;
        let existing = self.lanes.chains().get(id).cloned();
        // A port that works no more is opened anew, for which the stations at it have to go.
        let ended = self.ports().ended(chain).is_some();
        let existing = existing.filter(|existing| existing.crossing.shape == shape && !ended);
        let Some(existing) = existing else {
            let mut published = self.new_lanes(deployment, &shape, listeners)?;
            links::tell_again(&mut self.ports(), chain, &self.sink);
            published.notes = self.ports().warnings(chain);
            return Ok(published);
        };
        let _turn = existing.turn();
        self.check_way_up(chain, listeners)?;
        let telemetries: Vec<_> = existing.lanes.iter().map(|lane| &lane.telemetry).collect();
        existing.crossing.check(&id.name, &shape, !chain.steered)?;
        let mut plans = self.chain_plans(id, functions, &telemetries)?;
        // It has its ports: the interface to the kernel was made with them.
        let upward = self.way_up(chain, listeners);
        plans.iter_mut().for_each(|plan| plan.upward.clone_from(&upward));
        // A new deployment replaces whatever was being tried.
        self.lanes.end_canaries(&existing)?;
        let staged = self.lanes.stage(&existing, plans)?;
        let mut published = self.lanes.publish(&existing, staged, None)?;
        self.set_takes_rest(&existing, &id.name, !chain.steered).map_err(lost)?;
        published.notes = self.ports().warnings(chain);
        Ok(published)
    }

    /// Whether what leaves a chain's end can become messages, if it is to. The chain's ports are
    /// open.
    fn check_way_up(
        &self,
        chain: &Chain,
        listeners: Option<&[SocketAddr]>,
    ) -> Result<(), EngineError> {
        if listeners.is_none() {
            return Ok(());
        }
        if chain.from.as_ref().is_some_and(|port| self.ports().kernel_beside(port).is_some()) {
            return Ok(());
        }
        Err(EngineError::Refused(format!(
            "chain {} has functions for messages, and its port no way to the kernel's stack: set `kernel` for the port in the \
             host's configuration",
            chain.name
        )))
    }

    /// What of a chain is for this machine goes up to the kernel's stack, where these listeners
    /// are.
    fn way_up(&self, chain: &Chain, listeners: Option<&[SocketAddr]>) -> Option<Arc<Upward>> {
        let kernel = self.ports().kernel_beside(chain.from.as_ref()?)?;
        Some(Arc::new(Upward::new(kernel, listeners?.iter().copied())))
    }

    /// What the chain is deployed with.
    fn shape(&self, chain: &Chain) -> Result<Shape, EngineError> {
        let all = self.lanes.workers.len();
        chain.check_workers(all).map_err(EngineError::At)?;
        let workers = chain.workers.of(all);
        let (from, to) = (chain.from.clone(), chain.to.clone());
        Ok(Shape { from, to, symmetric: chain.symmetric, workers })
    }

    /// What a chain's lanes can be made for, if it gives back what it has.
    fn footing(&self, id: &ChainId, chain: &Chain, shape: &Shape) -> Result<Footing, EngineError> {
        let key = crossing::key(&id.tenant, &id.name, shape);
        let there = self.lanes.crossings().get(&key).cloned();
        if let Some(there) = there {
            there.check(&id.name, shape, !chain.steered)?;
            if there.shape == *shape {
                let Some(port) = self.ports().ended(chain) else {
                    return Ok(Footing::There(there));
                };
                there.check_alone(&id.name, &port)?;
            }
        }
        self.ports().check(chain, &id.tenant, Some(&id.name), shape.workers)?;
        let names = self.ports().names(chain.from.as_ref(), chain.to.as_ref());
        let mine = |slot: &Slot| names.contains(&slot.config.name);
        ports::settled(&self.ports, PATIENCE, mine).open_down(chain, shape.workers)?;
        let ports = self.ports().lane_ports(chain);
        let ground = |_| {
            let config = LaneConfig {
                pool: self.pool,
                symmetric: chain.symmetric && ports.len() > 1,
                ports: Vec::new(),
                clock: Clock::Monotonic,
                burst: LANE_BURST,
                seed: self.seed,
                on_event: None,
            };
            let sandbox = Arc::clone(&self.lanes.sandbox);
            Ground::new(sandbox, &key, config, ports.clone()).map_err(refused)
        };
        (0..shape.workers).map(ground).collect::<Result<_, _>>().map(Footing::New)
    }

    /// Whether the chain has what no rule claims.
    fn set_takes_rest(
        &self,
        deployed: &Deployed,
        chain: &Name,
        takes_rest: bool,
    ) -> Result<(), EngineError> {
        for n in 0..deployed.lanes.len() {
            let key = deployed.key.clone();
            self.lanes.with_station(&deployed.crossing, n, move |station| {
                station.set_takes_rest(&key, takes_rest);
            })?;
        }
        let before = deployed.crossing.has_rest();
        deployed.crossing.enter(chain, takes_rest);
        self.ports().show_holder(&deployed.crossing.shape, deployed.crossing.holder());
        if deployed.crossing.has_rest() != before {
            self.steer_crossing(&deployed.crossing)?;
        }
        Ok(())
    }

    /// The stations between a chain's ports: those that are there, or new ones, and the rules with
    /// which these begin.
    fn crossing(
        &self,
        id: &ChainId,
        chain: &Chain,
        shape: &Shape,
        footing: Footing,
    ) -> Result<(Arc<Crossing>, Option<Prepared>), EngineError> {
        let key = crossing::key(&id.tenant, &id.name, shape);
        let there = self.lanes.crossings().get(&key).cloned();
        let grounds = match (footing, there) {
            (Footing::There(those), Some(there)) if Arc::ptr_eq(&those, &there) => {
                there.check(&id.name, shape, !chain.steered)?;
                return Ok((there, None));
            }
            (Footing::New(grounds), None) => grounds,
            _ => {
                return Err(EngineError::Conflict(format!(
                    "while chain {} was made ready another one came or went between its ports: apply it again",
                    id.name
                )));
            }
        };
        let ports = self.ports().take(chain, &id.tenant, &id.name, shape.workers)?;
        let statistics: Vec<_> = ports.iter().map(|ports| port_statistics(ports)).collect();
        let before: Vec<_> = ports.iter().map(|ports| deciders(ports)).collect();
        // Rules are in force before the first packet comes: in devices before they are opened, in
        // stations before a port is read.
        let prepared = self.prepare_steering(&id.tenant, shape, !chain.steered);
        prepared.give(before.iter().flatten());
        for (_, device) in before.iter().flatten() {
            device.outlive_port(true);
        }
        let devices: Vec<Device> = before.iter().flatten().cloned().collect();
        // Where packets come in by one port only, there is nothing that belongs together.
        let ports = if chain.symmetric { spread(ports, self.seed ^ SPREAD) } else { Ok(ports) };
        let ports = ports.map_err(|error| {
            self.ports().release(chain);
            EngineError::Exhausted(error.to_string())
        })?;
        let workers = self.least_used_workers(shape.workers);
        let mut deployed = Vec::with_capacity(shape.workers);
        let mut stations = Vec::with_capacity(shape.workers);
        let known = statistics.into_iter().zip(before);
        let grounds = workers.iter().zip(grounds).zip(ports);
        for (((worker, ground), ports), (statistics, before)) in grounds.zip(known) {
            match Station::on(ground, ports, FLOWS) {
                Ok(mut station) => {
                    if !prepared.is_empty() {
                        drop(station.steer(Arc::clone(&prepared.rules)));
                    }
                    deployed.push(DeployedStation {
                        worker: *worker,
                        site: station.site(),
                        counters: station.counters(),
                        ports: statistics,
                        before,
                    });
                    stations.push(station);
                }
                Err(error) => {
                    // Whatever went wrong, that is what is told.
                    drop(self.finish(stations));
                    let mut ports = self.ports();
                    ports.release(chain);
                    ports.keep(shape, devices.iter());
                    return Err(match error {
                        PlaneError::Port(error) => ports.not_attached(error),
                        error => refused(error),
                    });
                }
            }
        }
        let crossing =
            Arc::new(Crossing::new(key.clone(), id.tenant.clone(), shape.clone(), deployed));
        for (station, worker) in stations.into_iter().zip(workers) {
            self.lanes.workers[worker]
                .add_station(&key, station)
                .map_err(|gone| EngineError::Internal(gone.to_string()))?;
        }
        self.lanes.crossings().insert(key, Arc::clone(&crossing));
        self.ports().attached(chain);
        Ok((crossing, Some(prepared)))
    }

    /// Lanes for a chain that has none, or between other ports or on other workers than those that
    /// it has: these go.
    fn new_lanes(
        &self,
        deployment: &Deployment,
        shape: &Shape,
        listeners: Option<&[SocketAddr]>,
    ) -> Result<Published, EngineError> {
        let Deployment { id, chain, functions } = deployment;
        let telemetries: Vec<_> = (0..shape.workers).map(|_| Telemetries::default()).collect();
        let all: Vec<_> = telemetries.iter().collect();
        let plans = self.chain_plans(id, functions, &all)?;
        // What takes long and what can be refused comes first. Code of the tenant's runs here:
        // nobody else waits for it.
        let footing = self.footing(id, chain, shape)?;
        self.check_way_up(chain, listeners)?;
        let lanes = self.make_lanes(id, &footing.sites(), plans)?;
        let is_new = !self.has(id);
        if let Footing::New(_) = footing {
            self.ports().open(chain, shape.workers)?;
        }
        let moved = self.undeploy_chain(id).and_then(|()| {
            self.arrive(deployment, shape, footing, (lanes, telemetries), listeners)
        });
        moved.map_err(|error| {
            self.ports().let_go_of_vfs(chain);
            if is_new { error } else { lost(error) }
        })
    }

    /// Brings lanes that are ready to stations between the chain's ports.
    fn arrive(
        &self,
        deployment: &Deployment,
        shape: &Shape,
        footing: Footing,
        lanes: (Vec<Lane>, Vec<Telemetries>),
        listeners: Option<&[SocketAddr]>,
    ) -> Result<Published, EngineError> {
        let id = &deployment.id;
        let _turn = self.arrivals();
        // Stations that are there take a chain without opening anything.
        self.ports().check_open()?;
        let ends = Some(Ends::of(&deployment.chain));
        let before = self.steering.place(id, ends.clone());
        let arrived = self.settle(deployment, shape, footing, lanes, listeners);
        if arrived.is_err() {
            self.steering.place(id, before);
        } else if let Some(before) = before.filter(|before| Some(before) != ends.as_ref()) {
            // Rules mean packets of other ports from now on.
            self.steer_between(&id.tenant, &before)?;
        }
        arrived
    }

    /// The same, once rules know where the chain is.
    fn settle(
        &self,
        deployment: &Deployment,
        shape: &Shape,
        footing: Footing,
        (mut lanes, telemetries): (Vec<Lane>, Vec<Telemetries>),
        listeners: Option<&[SocketAddr]>,
    ) -> Result<Published, EngineError> {
        let Deployment { id, chain, .. } = deployment;
        let (crossing, prepared) = self.crossing(id, chain, shape, footing)?;
        if let Some(upward) = self.way_up(chain, listeners) {
            lanes.iter_mut().for_each(|lane| lane.goes_up(Arc::clone(&upward)));
        }
        let takes_rest = !chain.steered;
        let key = lane_key(&id.tenant, &id.name);
        let shared_ports = !takes_rest;
        let deployed = lanes.iter().zip(&crossing.stations).zip(telemetries);
        let deployed = deployed.map(|((lane, station), telemetry)| DeployedLane {
            worker: station.worker,
            site: lane.site(),
            counters: lane.counters(),
            status: lane.status(),
            ports: if shared_ports { Vec::new() } else { station.ports.clone() },
            telemetry,
        });
        let deployed = Deployed::new(key.clone(), Arc::clone(&crossing), deployed.collect());
        let compiled_in = lanes.iter().map(Lane::compiled_in).sum();
        self.lanes.chains().insert(id.clone(), Arc::new(deployed));
        crossing.enter(&id.name, takes_rest);
        self.ports().show_holder(&crossing.shape, crossing.holder());
        for (n, lane) in lanes.into_iter().enumerate() {
            let key = key.clone();
            self.lanes
                .with_station(&crossing, n, move |station| station.add(key, lane, takes_rest))?;
        }
        match prepared {
            // They are in force.
            Some(prepared) => {
                let mut steered = crossing.steered();
                *steered = self.steered(&crossing, prepared);
            }
            None => drop(self.steer_crossing(&crossing)?),
        }
        Ok(Published { compiled_in, ..Published::default() })
    }

    /// A lane for each station that is there or is to be.
    fn make_lanes(
        &self,
        id: &ChainId,
        sites: &[LaneSite],
        plans: Vec<ChainPlan>,
    ) -> Result<Vec<Lane>, EngineError> {
        let mut lanes: Vec<Lane> = Vec::with_capacity(plans.len());
        for (n, (plan, site)) in plans.into_iter().zip(sites).enumerate() {
            let beside = lanes.first().map(Lane::states).unwrap_or_default();
            let ear = self.keeper.ear(id, n);
            let lane = Lane::aside(site.clone(), plan, Some(ear), &beside);
            let mut lane = lane.map_err(refused)?;
            lane.restored_by(self.keeper.restorer(id, n));
            lane.disposed_by(self.keeper.disposer());
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// One chain at a time comes and goes between ports. For no longer than that takes: no code of
    /// a chain that is made ready runs meanwhile.
    pub(super) fn arrivals(&self) -> MutexGuard<'_, ()> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn undeploy_chain(&self, id: &ChainId) -> Result<(), EngineError> {
        let Some(deployed) = self.lanes.chains().remove(id) else { return Ok(()) };
        let _turn = deployed.turn();
        self.take_down(id, &deployed)
    }

    /// The same for whoever has the chain's turn, when it is not in the list any more.
    pub(super) fn take_down(&self, id: &ChainId, deployed: &Deployed) -> Result<(), EngineError> {
        let _arrival = self.arrivals();
        let _ticking = self.lanes.sandbox.ticker().tick();
        for n in 0..deployed.lanes.len() {
            let key = deployed.key.clone();
            // Unmapping its memory is not for the data path: it ends here.
            drop(
                self.lanes
                    .with_station(&deployed.crossing, n, move |station| station.remove(&key))?,
            );
        }
        self.leave(&deployed.crossing, &id.name)
    }

    /// A chain has no lanes at these stations any more; the last one takes them with it.
    fn leave(&self, crossing: &Crossing, chain: &Name) -> Result<(), EngineError> {
        if !crossing.leave(chain) {
            self.ports().show_holder(&crossing.shape, crossing.holder());
            self.steer_crossing(crossing)?;
            return Ok(());
        }
        self.bring_nothing(crossing);
        crossing.keep_counts(&crossing.steered());
        self.lanes.crossings().remove(&crossing.key);
        let mut stations = Vec::with_capacity(crossing.stations.len());
        for station in &crossing.stations {
            let station = self.lanes.workers[station.worker]
                .remove_station(&crossing.key)
                .map_err(|gone| EngineError::Internal(gone.to_string()))?;
            stations.extend(station);
        }
        let finished = self.finish(stations);
        self.ports().keep(&crossing.shape, crossing.devices());
        finished
    }

    /// Ends stations that no worker has any more; the error is the first one's that has one.
    fn finish(&self, stations: Vec<Station>) -> Result<(), EngineError> {
        let _ticking = self.lanes.sandbox.ticker().tick();
        let mut result = Ok(());
        let mut finish = |mut station: Station| {
            match station.finish() {
                Ok(accounting) if accounting.out > 0 => {
                    tracing::error!("{} buffers of a chain's pool were lost", accounting.out);
                }
                Ok(_) => {}
                Err(error) if result.is_ok() => {
                    result = Err(EngineError::Exhausted(error.to_string()));
                }
                Err(_) => {}
            }
            station
        };
        // All of them before the first one goes: their ports may have to do with each other.
        let finished: Vec<Station> = stations.into_iter().map(&mut finish).collect();
        for station in finished {
            self.ports().give_back(station.into_ports());
        }
        result
    }

    /// Each lane's chain as it runs, with one function replaced; by one that only sees copies if
    /// `shadow`.
    pub(super) fn replaced(
        &self,
        tenant: &Name,
        deployed: &Deployed,
        function: &ResolvedFunction,
        shadow: bool,
    ) -> Result<(Vec<ChainPlan>, usize), EngineError> {
        let label = function.label.as_str();
        let mut plans = self.lanes.plans(deployed)?;
        let mut place = 0;
        for (n, (plan, lane)) in plans.iter_mut().zip(&deployed.lanes).enumerate() {
            place = plan.functions.iter().position(|f| f.name == label).ok_or_else(|| {
                EngineError::Conflict(format!("chain {} has no function {label}", plan.name))
            })?;
            let telemetry = &lane.telemetry;
            let telemetry = if shadow { telemetry.new_shadow(label) } else { telemetry.of(label) };
            plan.functions[place] = self.function_plan(tenant, function, n, telemetry)?;
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
        let plan = |(lane, telemetry): (usize, &&Telemetries)| {
            let functions = functions
                .iter()
                .map(|f| {
                    let telemetry = telemetry.of(f.label.as_str());
                    self.function_plan(&id.tenant, f, lane, telemetry)
                })
                .collect::<Result<_, _>>()?;
            Ok(weir_assembly::plan(id.name.as_str(), functions, Mode::Linked))
        };
        telemetries.iter().enumerate().map(plan).collect()
    }

    /// So many workers, those with the fewest stations.
    fn least_used_workers(&self, count: usize) -> Vec<usize> {
        let mut used = vec![0usize; self.lanes.workers.len()];
        for crossing in self.lanes.crossings().values() {
            crossing.stations.iter().for_each(|station| used[station.worker] += 1);
        }
        let mut workers: Vec<usize> = (0..used.len()).collect();
        workers.sort_by_key(|n| used[*n]);
        workers.truncate(count);
        workers.sort_unstable();
        workers
    }
}

/// What new lanes are made for.
enum Footing {
    /// Stations that are there.
    There(Arc<Crossing>),
    /// Stations that are to be, for which there are no ports yet.
    New(Vec<Ground>),
}

impl Footing {
    fn sites(&self) -> Vec<LaneSite> {
        match self {
            Self::There(crossing) => {
                crossing.stations.iter().map(|station| station.site.clone()).collect()
            }
            Self::New(grounds) => grounds.iter().map(Ground::site).collect(),
        }
    }
}

/// What ran before does not run any more.
fn lost(error: EngineError) -> EngineError {
    EngineError::Lost(Box::new(error))
}

/// The name of a chain's lanes at their stations.
pub(super) fn lane_key(tenant: &Name, chain: &Name) -> String {
    format!("{tenant}/{chain}")
}

/// What decides in front of a station's ports, with the number that rules have for each.
fn deciders(ports: &[Box<dyn Port>]) -> Vec<Device> {
    (0..).zip(ports).filter_map(|(number, port)| Some((number, port.steering()?))).collect()
}

fn port_statistics(ports: &[Box<dyn Port>]) -> Vec<(Name, PortStatistics)> {
    // The kernel's stack counts at the port beside which it is.
    ports
        .iter()
        .filter(|port| !port.is_kernel())
        .filter_map(|port| Some((port.name().parse().ok()?, port.statistics().clone())))
        .collect()
}
