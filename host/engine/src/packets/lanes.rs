//! A chain's lanes, one on each of its workers, and what is done with all of them: on every lane,
//! or on none.
//!
//! All that can fail for want of anything (compiling, instantiating, configuring) is done for every
//! lane before the first one changes. When a lane refuses at its burst boundary, those before it
//! are brought back.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use weir_control::engine::{ChainId, EngineError, Published, SwapDirection};
use weir_packet_plane::{
    ChainPlan, Lane, LaneSite, LaneStatus, PlaneError, Probation, Retired, Shared, Side, Staged,
    States, Station, TrialKind, Worker,
};
use weir_port::PortStatistics;
use weir_sandbox::Sandbox;
use weir_spec::Name;

use super::crossing::Crossing;
use super::refused;
use crate::telemetries::Telemetries;

/// The workers, and the chains that have lanes on them.
pub(super) struct Lanes {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) workers: Vec<Worker>,
    chains: Mutex<BTreeMap<ChainId, Arc<Deployed>>>,
    /// By their key.
    crossings: Mutex<BTreeMap<String, Arc<Crossing>>>,
}

/// A chain that has lanes.
pub(super) struct Deployed {
    /// The lanes' name at their stations.
    pub(super) key: String,
    /// The stations that they belong to, one for each.
    pub(super) crossing: Arc<Crossing>,
    /// At least one; all are alike but for worker, pool and ports.
    pub(super) lanes: Vec<DeployedLane>,
    /// Whoever changes the chain has it.
    turn: Mutex<()>,
    /// Whoever traces the chain has it.
    pub(super) traced: Mutex<()>,
    /// How many taps it has.
    pub(super) taps: Arc<AtomicUsize>,
}

/// What is known about a lane outside its worker.
pub(super) struct DeployedLane {
    /// Place of its worker.
    pub(super) worker: usize,
    pub(super) site: LaneSite,
    pub(super) counters: Arc<Shared>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
    pub(super) ports: Vec<(Name, PortStatistics)>,
    pub(super) telemetry: Telemetries,
}

impl DeployedLane {
    fn has_canary(&self) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.trial.as_ref().is_some_and(|trial| matches!(trial.kind, TrialKind::Canary(_)))
    }
}

impl Deployed {
    pub(super) fn new(key: String, crossing: Arc<Crossing>, lanes: Vec<DeployedLane>) -> Self {
        Self {
            key,
            crossing,
            lanes,
            turn: Mutex::default(),
            traced: Mutex::default(),
            taps: Arc::default(),
        }
    }

    fn is_taken_down(&self) -> EngineError {
        EngineError::Conflict(format!("chain {} is being taken down", self.key))
    }

    /// Keeps everybody else from changing the chain.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same; none if somebody else has it until then.
    pub(super) fn turn_until(&self, until: Instant) -> Option<MutexGuard<'_, ()>> {
        loop {
            match self.turn.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Lanes {
    pub(super) fn new(sandbox: Arc<Sandbox>, workers: Vec<Worker>) -> Self {
        Self { sandbox, workers, chains: Mutex::default(), crossings: Mutex::default() }
    }

    pub(super) fn crossings(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Crossing>>> {
        self.crossings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with one station between two of its turns.
    pub(super) fn with_station<R: Send + 'static>(
        &self,
        crossing: &Crossing,
        station: usize,
        act: impl FnOnce(&mut Station) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let worker = &self.workers[crossing.stations[station].worker];
        match worker.with_station(&crossing.key, act) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(EngineError::Conflict(format!("{} is being taken down", crossing.key))),
            Err(gone) => Err(EngineError::Internal(gone.to_string())),
        }
    }

    pub(super) fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainId, Arc<Deployed>>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deployed(&self, id: &ChainId) -> Result<Arc<Deployed>, EngineError> {
        self.chains()
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::Conflict(format!("chain {} is not deployed", id.name)))
    }

    /// Does something with one lane between two of its turns.
    pub(super) fn with_lane<R: Send + 'static>(
        &self,
        chain: &Deployed,
        lane: usize,
        act: impl FnOnce(&mut Lane) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let key = chain.key.clone();
        let done =
            self.with_station(&chain.crossing, lane, move |station| station.with(&key, act))?;
        done.ok_or_else(|| chain.is_taken_down())
    }

    /// Looks at one lane between two of its turns. What was decided about flows stays decided.
    pub(super) fn look<R: Send + 'static>(
        &self,
        chain: &Deployed,
        lane: usize,
        look: impl FnOnce(&mut Lane) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let key = chain.key.clone();
        let seen =
            self.with_station(&chain.crossing, lane, move |station| station.look(&key, look))?;
        seen.ok_or_else(|| chain.is_taken_down())
    }

    /// Does the same with every lane, one after the other.
    pub(super) fn with_lanes<R: Send + 'static>(
        &self,
        chain: &Deployed,
        act: impl Fn(&mut Lane) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, EngineError> {
        (0..chain.lanes.len()).map(|n| self.with_lane(chain, n, act.clone())).collect()
    }

    /// Looks at every lane, one after the other.
    fn look_at_all<R: Send + 'static>(
        &self,
        chain: &Deployed,
        look: impl Fn(&mut Lane) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, EngineError> {
        (0..chain.lanes.len()).map(|n| self.look(chain, n, look.clone())).collect()
    }

    /// The chain as each lane runs it.
    pub(super) fn plans(&self, chain: &Deployed) -> Result<Vec<ChainPlan>, EngineError> {
        self.look_at_all(chain, |lane| lane.plan().clone())
    }

    /// Makes each lane's next version ready, on this thread.
    pub(super) fn stage(
        &self,
        chain: &Deployed,
        plans: Vec<ChainPlan>,
    ) -> Result<Vec<Staged>, EngineError> {
        let mut beside = States::default();
        let mut all = Vec::with_capacity(plans.len());
        for (n, plan) in plans.into_iter().enumerate() {
            let staged = self.stage_one(chain, n, plan, &beside)?;
            if n == 0 {
                beside = staged.states();
            }
            all.push(staged);
        }
        Ok(all)
    }

    /// The same for one lane, beside one that has these state regions.
    pub(super) fn stage_one(
        &self,
        chain: &Deployed,
        lane: usize,
        plan: ChainPlan,
        beside: &States,
    ) -> Result<Staged, EngineError> {
        let states = self.look(chain, lane, |lane| lane.states())?;
        chain.lanes[lane].site.stage_beside(plan, &states, beside).map_err(refused)
    }

    /// Publishes staged versions, each at its lane's burst boundary, and lets the old ones end
    /// here.
    pub(super) fn publish(
        &self,
        chain: &Deployed,
        staged: Vec<Staged>,
        swapped: Option<(usize, SwapDirection)>,
    ) -> Result<Published, EngineError> {
        let compiled_in = compiled_in(&staged);
        let mut published =
            self.each_or_none(chain, staged, move |lane, staged| match swapped {
                None => lane.publish(staged, None),
                Some((place, SwapDirection::Forward)) => lane.publish(staged, Some(place)),
                Some((place, SwapDirection::Back)) => lane.publish_rollback(staged, place),
            })?;
        published.compiled_in = compiled_in;
        Ok(published)
    }

    /// Makes the canary the running version.
    pub(super) fn promote(&self, chain: &Deployed) -> Result<Published, EngineError> {
        let all = vec![(); chain.lanes.len()];
        self.each_or_none(chain, all, |lane, ()| lane.promote())
    }

    /// Publishes something on each lane; if one refuses, the lanes before it go back to what they
    /// ran.
    fn each_or_none<T: Send + 'static>(
        &self,
        chain: &Deployed,
        what: Vec<T>,
        act: impl Fn(&mut Lane, T) -> Result<(weir_packet_plane::Published, Retired), PlaneError>
        + Clone
        + Send
        + 'static,
    ) -> Result<Published, EngineError> {
        // One lane has none before it.
        let before = match what.len() {
            0 | 1 => Vec::new(),
            _ => self.look_at_all(chain, |lane| (lane.plan().clone(), lane.probation()))?,
        };
        let mut all = Published::default();
        for (n, what) in what.into_iter().enumerate() {
            let act = act.clone();
            let done = self
                .with_lane(chain, n, move |lane| act(lane, what))
                .and_then(|done| done.map_err(refused));
            match done {
                Ok((published, retired)) => {
                    retired.end(&self.sandbox);
                    all.pause = all.pause.max(published.pause);
                    for name in published.fresh.iter().filter_map(|name| name.parse().ok()) {
                        if !all.fresh.contains(&name) {
                            all.fresh.push(name);
                        }
                    }
                }
                Err(error) => {
                    self.bring_back(chain, before.into_iter().take(n).collect());
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// The first lanes run these chains again, as they did.
    fn bring_back(&self, chain: &Deployed, before: Vec<(ChainPlan, Option<Probation>)>) {
        let mut beside = States::default();
        for (n, (plan, probation)) in before.into_iter().enumerate() {
            let back = self.stage_one(chain, n, plan, &beside).and_then(|staged| {
                if n == 0 {
                    beside = staged.states();
                }
                let back = move |lane: &mut Lane| lane.publish_back(staged, probation);
                self.with_lane(chain, n, back)?.map_err(refused)
            });
            match back {
                Ok((_, retired)) => retired.end(&self.sandbox),
                Err(error) => tracing::error!(
                    chain = chain.key,
                    lane = n,
                    "it could not be brought back to what it ran: {error}"
                ),
            }
        }
    }

    /// Gives this share of the flows to staged versions, which differ in one function.
    pub(super) fn begin_canary(
        &self,
        chain: &Deployed,
        staged: Vec<Staged>,
        place: usize,
        percent: u8,
    ) -> Result<Published, EngineError> {
        let compiled_in = compiled_in(&staged);
        let mut pause = Duration::ZERO;
        for (n, staged) in staged.into_iter().enumerate() {
            let started = Instant::now();
            let begun = self
                .with_lane(chain, n, move |lane| lane.begin_canary(staged, place, percent))
                .and_then(|begun| begun.map_err(refused));
            if let Err(error) = begun {
                for n in 0..n {
                    // A lane that is gone has no canary.
                    if let Ok(Some(canary)) = self.with_lane(chain, n, Lane::end_canary) {
                        canary.end(&self.sandbox);
                    }
                }
                return Err(error);
            }
            pause = pause.max(started.elapsed());
        }
        Ok(Published { pause, compiled_in, ..Published::default() })
    }

    /// Has new versions see copies on every lane.
    pub(super) fn begin_shadow(
        &self,
        chain: &Deployed,
        sides: Vec<Side>,
    ) -> Result<Published, EngineError> {
        let compiled_in = sides.iter().map(Side::compiled_in).sum();
        let mut pause = Duration::ZERO;
        for (n, side) in sides.into_iter().enumerate() {
            let started = Instant::now();
            let begun = self
                .with_lane(chain, n, move |lane| lane.begin_shadow(side))
                .and_then(|begun| begun.map_err(refused));
            if let Err(error) = begun {
                for n in 0..n {
                    // A lane that is gone has no shadow.
                    drop(self.with_lane(chain, n, Lane::end_shadow));
                }
                return Err(error);
            }
            pause = pause.max(started.elapsed());
        }
        Ok(Published { pause, compiled_in, ..Published::default() })
    }

    /// Ends whatever is on trial.
    pub(super) fn end_trial(&self, chain: &Deployed) -> Result<(), EngineError> {
        self.end_canaries(chain)?;
        self.with_lanes(chain, Lane::end_shadow).map(drop)
    }

    /// Ends the canary on each lane that has one.
    pub(super) fn end_canaries(&self, chain: &Deployed) -> Result<(), EngineError> {
        for (n, lane) in chain.lanes.iter().enumerate() {
            // Where there is none, nothing is decided anew.
            if lane.has_canary()
                && let Some(canary) = self.with_lane(chain, n, Lane::end_canary)?
            {
                canary.end(&self.sandbox);
            }
        }
        Ok(())
    }

    /// Makes the instances that a lane's chain is without, on this thread.
    pub(super) fn restore(&self, id: &ChainId, lane: usize) -> Result<(), EngineError> {
        let chain = self.deployed(id)?;
        let Some(missing) = self.look(&chain, lane, |lane| lane.missing())? else {
            return Ok(());
        };
        let made = missing.make();
        drop(self.with_lane(&chain, lane, move |lane| lane.restore(made))?);
        Ok(())
    }

    /// A lane has gone back from this version by itself; the others follow. The answer is what an
    /// operator has to hear of those that cannot.
    pub(super) fn follow_back(
        &self,
        id: &ChainId,
        first: usize,
        function: &str,
        version: &str,
    ) -> Vec<String> {
        let Ok(chain) = self.deployed(id) else { return Vec::new() };
        if chain.lanes.len() == 1 {
            return Vec::new();
        }
        let _turn = chain.turn();
        let others = (0..chain.lanes.len()).filter(|n| *n != first);
        let followed = others.filter_map(|n| {
            let error = self.follow_one(&chain, n, first, function, version).err()?;
            let worker = chain.lanes[n].worker;
            Some(format!("chain {} did not go back on worker {worker}: {error}", id.name))
        });
        followed.collect()
    }

    fn follow_one(
        &self,
        chain: &Deployed,
        lane: usize,
        first: usize,
        function: &str,
        version: &str,
    ) -> Result<(), EngineError> {
        let (f, v) = (function.to_owned(), version.to_owned());
        let (before, runs, canary) = self.with_lane(chain, lane, move |lane| {
            let canary = on_canary(lane, &f, &v).then(|| lane.end_canary()).flatten();
            (lane.before_swap(&f, &v), runs_version(lane, &f, &v), canary)
        })?;
        if let Some(canary) = canary {
            canary.end(&self.sandbox);
        }
        let Some(before) = before else {
            let (f, v) = (function.to_owned(), version.to_owned());
            if runs && !self.look(chain, first, move |lane| runs_version(lane, &f, &v))? {
                return Err(EngineError::Conflict(format!(
                    "it runs {function} {version}, and what it ran before is not known any more: deploy the chain again"
                )));
            }
            return Ok(());
        };
        let beside = self.look(chain, first, |lane| lane.states())?;
        let staged = self.stage_one(chain, lane, before, &beside)?;
        let back = move |lane: &mut Lane| lane.publish_back(staged, None);
        let (_, retired) = self.with_lane(chain, lane, back)?.map_err(refused)?;
        retired.end(&self.sandbox);
        Ok(())
    }
}

/// Whether this version is the lane's canary.
fn on_canary(lane: &Lane, function: &str, version: &str) -> bool {
    let status = lane.status();
    let status = status.lock().unwrap_or_else(PoisonError::into_inner);
    status.trial.as_ref().is_some_and(|trial| {
        matches!(trial.kind, TrialKind::Canary(_))
            && trial.function == function
            && trial.version == version
    })
}

/// Whether the lane runs this version of a function.
fn runs_version(lane: &Lane, function: &str, version: &str) -> bool {
    lane.plan().functions.iter().any(|f| f.name == function && f.version == version)
}

/// Time that was spent compiling for all lanes.
fn compiled_in(staged: &[Staged]) -> Duration {
    staged.iter().map(Staged::compiled_in).sum()
}
