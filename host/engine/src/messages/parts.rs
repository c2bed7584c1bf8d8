//! A deployed chain: its parts, one on each thread of each of its listeners.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_control::engine::{EngineError, TrialKind};
use weir_message::{
    Chain, ChainCounters, ChainPlan, Change, Findings, FunctionCounters, FunctionPlan, Orders,
    Ready, Remote, Site, StagedChain, StagedFunction, States,
};
use weir_message_worker::{News, RemoteConfig, Reply};
use weir_pool::Accounting;
use weir_sandbox::{Sandbox, Telemetry};
use weir_spec::{Name, ResolvedFunction, Version};

use super::chains::shown;
use super::process::Worker;
use super::refused;
use crate::telemetries::Telemetries;

/// How long exchanges may take to end when their chain is taken down.
const LINGER: Duration = Duration::from_secs(30);

/// How long whoever wants to know how chains are waits for their workers.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is counted on one part, and its functions' gauges there; it outlives versions, and goes on
/// with the part that takes its place.
#[derive(Clone, Default)]
pub(super) struct Tallies {
    pub(super) chain: Arc<ChainCounters>,
    functions: Arc<ByName<FunctionCounters>>,
    telemetries: Arc<ByName<Telemetry>>,
}

/// By the functions' names in the chain.
type ByName<T> = Mutex<BTreeMap<String, Arc<T>>>;

impl Tallies {
    fn telemetries(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Telemetry>>> {
        self.telemetries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted, for instances that have no gauges yet.
    fn without_gauges(&self) -> Self {
        Self { telemetries: Arc::default(), ..self.clone() }
    }

    /// A function's counters.
    pub(super) fn function(&self, label: &str) -> Arc<FunctionCounters> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(functions.entry(label.to_owned()).or_default())
    }

    /// A function's log and counters, which are those of all parts (`shared`), with the gauges that
    /// it has here.
    pub(super) fn telemetry(&self, label: &str, shared: &Telemetry) -> Arc<Telemetry> {
        let mut telemetries = self.telemetries();
        let here = telemetries.entry(label.to_owned());
        Arc::clone(here.or_insert_with(|| Arc::new(shared.beside())))
    }

    /// The functions' instances are gone, and with them what gauges told of.
    pub(super) fn forget_gauges(&self) {
        self.telemetries().values().for_each(|telemetry| telemetry.forget_gauges());
    }
}

/// Where a part's functions run.
pub(super) enum Place {
    /// On the gateway's thread.
    Thread { site: Box<Site>, remote: Remote, ready: Box<Mutex<Ready>> },
    /// In a process.
    Process(Box<Worker>),
}

impl Place {
    pub(super) fn on_thread(site: Site, remote: Remote) -> Self {
        Self::Thread { site: Box::new(site), remote, ready: Box::default() }
    }
}

/// What was made ready.
#[derive(Default)]
pub(super) struct Readied {
    pub(super) compiled_in: Duration,
    /// Functions that start with an empty state region although they had one.
    pub(super) fresh: Vec<Name>,
}

/// What a listener's thread makes its part of the chain of.
pub(super) enum Made {
    /// The chain itself.
    Thread { staged: Box<StagedChain>, orders: Box<Orders>, counters: Arc<ChainCounters> },
    /// The gateway's end of one, and who says that it takes exchanges.
    Process { remote: Box<RemoteConfig>, ready: Receiver<()>, compiled_in: Duration },
}

impl Made {
    pub(super) fn compiled_in(&self) -> Duration {
        match self {
            Self::Thread { staged, .. } => staged.compiled_in(),
            Self::Process { compiled_in, .. } => *compiled_in,
        }
    }
}

/// The listener that a part belongs to, and the thread.
pub(super) type At = (Name, usize);

/// A part.
pub(super) struct Part {
    at: At,
    place: Place,
    tallies: Tallies,
}

impl Part {
    pub(super) fn new(at: At, place: Place, tallies: Tallies) -> Self {
        Self { at, place, tallies }
    }

    /// What is counted of the chain on it.
    pub(super) fn counters(&self) -> &Arc<ChainCounters> {
        &self.tallies.chain
    }

    /// A function's counters.
    pub(super) fn function(&self, label: &str) -> Arc<FunctionCounters> {
        self.tallies.function(label)
    }

    /// A function's log and counters, which are those of all parts (`shared`), with the gauges that
    /// it has here.
    pub(super) fn telemetry(&self, label: &str, shared: &Telemetry) -> Arc<Telemetry> {
        self.tallies.telemetry(label, shared)
    }

    /// What is counted on it; whoever takes its place counts on. What instances in a process told
    /// by gauges ends with that.
    pub(super) fn tallies(&self) -> Tallies {
        match &self.place {
            Place::Thread { .. } => self.tallies.clone(),
            Place::Process(_) => self.tallies.without_gauges(),
        }
    }

    /// State regions that whoever takes its place goes on with. Those of a process are not handed
    /// over: it ends when its exchanges have ended, and until then nobody else may write there.
    pub(super) fn states(&self) -> Result<States, EngineError> {
        match &self.place {
            Place::Thread { remote, .. } => remote.run(Chain::states).map_err(gone),
            Place::Process(_) => Ok(States::default()),
        }
    }

    /// Names of the upstreams that its functions see. Processes have no functions that would call
    /// one by name.
    pub(super) fn upstreams(&self) -> &[String] {
        match &self.place {
            Place::Thread { site, .. } => site.upstreams(),
            Place::Process(_) => &[],
        }
    }

    /// Where its rooms are.
    pub(super) fn rooms(&self) -> Accounting {
        match &self.place {
            Place::Thread { site, .. } => site.accounting(),
            Place::Process(worker) => worker.rooms(),
        }
    }

    /// Has what is counted and said in its process told here: it is behind an answer, or the
    /// channel's end.
    fn report(&self) -> Option<Receiver<Reply>> {
        match &self.place {
            Place::Thread { .. } => None,
            Place::Process(worker) => Some(worker.report()),
        }
    }

    /// Whether its process has exchanges under way.
    fn is_busy(&self) -> bool {
        matches!(&self.place, Place::Process(worker) if worker.is_busy())
    }

    /// How often its process was started again.
    pub(super) fn restarts(&self) -> u64 {
        match &self.place {
            Place::Thread { .. } => 0,
            Place::Process(worker) => worker.restarts(),
        }
    }

    /// How often its process was ended for its silence.
    pub(super) fn timeouts(&self) -> u64 {
        match &self.place {
            Place::Thread { .. } => 0,
            Place::Process(worker) => worker.timeouts(),
        }
    }

    /// Whether it is a process, which ends with it.
    fn is_process(&self) -> bool {
        matches!(self.place, Place::Process(_))
    }

    /// Makes another chain ready.
    pub(super) fn stage_chain(
        &self,
        sandbox: &Sandbox,
        plan: ChainPlan,
    ) -> Result<Readied, EngineError> {
        match &self.place {
            Place::Thread { site, remote, ready } => {
                let states = remote.run(Chain::states).map_err(gone)?;
                let staged = site.stage(plan, &states).map_err(refused)?;
                let fresh = fresh(staged.functions(), &states);
                let readied = Readied { compiled_in: staged.compiled_in(), fresh };
                ready.lock().unwrap_or_else(PoisonError::into_inner).chain = Some(staged);
                Ok(readied)
            }
            Place::Process(worker) => worker.stage_chain(sandbox, plan),
        }
    }

    /// Makes another version of a function ready; the chain's name, those of its functions, its
    /// place.
    pub(super) fn stage_function(
        &self,
        sandbox: &Sandbox,
        (chain, names, place): (&str, &[String], usize),
        plan: FunctionPlan,
        shadow: bool,
    ) -> Result<Readied, EngineError> {
        match &self.place {
            Place::Thread { site, remote, ready } => {
                let states = remote.run(Chain::states).map_err(gone)?;
                let state = if shadow { None } else { plan.state_of(&states) };
                let staged = site.stage_function(chain, names, place, plan, state);
                let staged = staged.map_err(refused)?;
                let fresh =
                    if shadow { Vec::new() } else { fresh(std::slice::from_ref(&staged), &states) };
                let readied = Readied { compiled_in: staged.compiled_in, fresh };
                ready.lock().unwrap_or_else(PoisonError::into_inner).function = Some(staged);
                Ok(readied)
            }
            Place::Process(worker) => worker.stage_function(sandbox, plan, shadow),
        }
    }

    /// Does it; the answer is how long that took where functions run.
    fn change(&self, change: Change) -> Result<Duration, EngineError> {
        match &self.place {
            Place::Thread { remote, ready, .. } => {
                let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
                remote.change(change, &mut ready).map_err(refused)
            }
            Place::Process(worker) => worker.change(change),
        }
    }

    /// Lets go what is ready.
    fn forget(&self) {
        match &self.place {
            Place::Thread { ready, .. } => {
                *ready.lock().unwrap_or_else(PoisonError::into_inner) = Ready::default();
            }
            Place::Process(worker) => worker.forget(),
        }
    }

    /// Does what undoes another change.
    pub(super) fn change_or_tell(&self, change: Change) {
        if let Err(error) = self.change(change) {
            let (listener, thread) = &self.at;
            tracing::error!("listener {listener}, thread {thread}: it is not as before: {error}");
        }
    }
}

/// Has what is counted and said in these parts' processes told here: by all of them at once, so
/// that some that do not answer hold up nobody for long. Of these, what they said last is known.
pub(super) fn refresh<'a>(parts: impl IntoIterator<Item = &'a Part>) {
    let asked: Vec<_> = parts.into_iter().filter_map(Part::report).collect();
    let until = Instant::now() + PATIENCE;
    for answer in asked {
        let _ = answer.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Does something with each; when that fails with one, it is undone with those before it.
fn each_or_none<T, R, E>(
    all: &[T],
    mut act: impl FnMut(usize, &T) -> Result<R, E>,
    undo: impl Fn(&T),
) -> Result<Vec<R>, E> {
    let mut done = Vec::with_capacity(all.len());
    for (n, one) in all.iter().enumerate() {
        match act(n, one) {
            Ok(result) => done.push(result),
            Err(error) => {
                all[..n].iter().for_each(undo);
                return Err(error);
            }
        }
    }
    Ok(done)
}

fn gone(gone: weir_message::ThreadGone) -> EngineError {
    refused(gone.into())
}

fn fresh(functions: &[StagedFunction], before: &States) -> Vec<Name> {
    let fresh = functions.iter().filter(|function| function.is_fresh(before));
    fresh.filter_map(|function| function.name().parse().ok()).collect()
}

/// A version that is being tried.
#[derive(Clone)]
pub(super) struct Trial {
    pub(super) function: Name,
    pub(super) version: Option<Version>,
    /// What replaces the running one if it is promoted.
    pub(super) resolved: ResolvedFunction,
    pub(super) kind: TrialKind,
    /// By part.
    pub(super) findings: Vec<Arc<Findings>>,
}

/// What runs.
#[derive(Default)]
pub(super) struct Running {
    pub(super) functions: Vec<ResolvedFunction>,
    pub(super) trial: Option<Trial>,
    /// What the last swap of each function replaced, which a fault brings back.
    pub(super) before: BTreeMap<Name, ResolvedFunction>,
    /// Another one has taken its place, and what happens to this one is not what happens to the
    /// chain.
    pub(super) replaced: bool,
}

impl Running {
    /// A function takes the place of the one of its name.
    pub(super) fn put(&mut self, function: ResolvedFunction) {
        if let Some(place) = self.functions.iter_mut().find(|f| f.label == function.label) {
            let label = function.label.clone();
            self.before.insert(label, std::mem::replace(place, function));
        }
    }
}

/// See the module.
pub(super) struct Deployed {
    pub(super) parts: Vec<Part>,
    running: Mutex<Running>,
    pub(super) telemetries: Telemetries,
    /// Whoever changes the chain has it.
    turn: Mutex<()>,
}

impl Deployed {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let (running, telemetries, turn) =
            (Mutex::default(), Telemetries::default(), Mutex::default());
        Self { parts, running, telemetries, turn }
    }

    /// One without parts, whose functions go on with what was said and counted of them.
    pub(super) fn after(before: Option<&Self>) -> Self {
        let telemetries = before.map(|before| before.telemetries.clone()).unwrap_or_default();
        Self { telemetries, ..Self::new(Vec::new()) }
    }

    /// The same with these parts.
    pub(super) fn with_parts(self, parts: Vec<Part>) -> Self {
        Self { parts, ..self }
    }

    /// Keeps everybody else from changing the chain.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its part on a thread of a listener.
    pub(super) fn part(&self, at: &At) -> Option<&Part> {
        self.parts.iter().find(|part| part.at == *at)
    }

    /// A function's log and counters.
    pub(super) fn telemetry(&self, label: &str) -> Arc<Telemetry> {
        self.telemetries.of(label)
    }

    /// Whether all of it can go back as one of its parts has. Not if it was replaced meanwhile, or
    /// if it was put in force anew and what faulted runs again: then nobody knows a version before.
    pub(super) fn can_go_back(&self, news: &News) -> bool {
        let running = self.running();
        let runs = |f: &ResolvedFunction| shown(f) == (news.function.clone(), news.version.clone());
        let again = running.functions.iter().find(|f| runs(f));
        !running.replaced && again.is_none_or(|f| running.before.contains_key(&f.label))
    }

    /// A function of the chain has gone back to the version before, on one of its parts: now on
    /// all, and in what is said to run. The turn is taken. The answer is what an operator has to
    /// hear of those parts that could not.
    pub(super) fn went_back(&self, label: &str, version: &str) -> Vec<String> {
        let change = Change::GoBack { name: label.into(), version: version.into() };
        let back = |part: &Part| {
            let error = part.change(change.clone()).err()?;
            let (listener, thread) = &part.at;
            Some(format!("listener {listener}, thread {thread} did not go back: {error}"))
        };
        let missed = self.parts.iter().filter_map(back).collect();
        let mut running = self.running();
        let Running { functions, before, .. } = &mut *running;
        let function = functions.iter_mut().find(|f| f.label.as_str() == label);
        if let Some(function) = function.filter(|f| shown(f).1 == version)
            && let Some(before) = before.remove(&function.label)
        {
            *function = before;
        }
        missed
    }

    /// Changes each part; the longest time that took where its functions run. When one refuses,
    /// those that were changed before it are undone.
    pub(super) fn change(
        &self,
        mut change: impl FnMut(usize) -> Change,
        undo: impl Fn(&Part),
    ) -> Result<Duration, EngineError> {
        let pauses = each_or_none(&self.parts, |n, part| part.change(change(n)), undo)?;
        Ok(pauses.into_iter().max().unwrap_or_default())
    }

    /// Does the same with each part as far as it can be done, and says what could not.
    pub(super) fn change_all(&self, change: impl Fn() -> Change) {
        self.parts.iter().for_each(|part| part.change_or_tell(change()));
    }

    /// Nobody begins with it any more: processes end when those under way have, or after a while.
    pub(super) fn let_end(self: Arc<Self>) {
        if !self.parts.iter().any(Part::is_process) {
            return;
        }
        let ending = std::thread::Builder::new().name("weir-drain".into()).spawn(move || {
            let until = Instant::now() + LINGER;
            while self.parts.iter().any(Part::is_busy) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            // What they have counted and said since is that of the parts that took their place.
            refresh(&self.parts);
        });
        if let Err(error) = ending {
            tracing::error!("a chain's processes end at once: {error}");
        }
    }
}

/// What the parts of a chain have ready, or are making: with this it goes, unless it was put in
/// force.
pub(super) struct MadeReady(Option<Arc<Deployed>>);

impl MadeReady {
    pub(super) fn on(deployed: &Arc<Deployed>) -> Self {
        Self(Some(Arc::clone(deployed)))
    }

    /// It has been put in force.
    pub(super) fn in_force(mut self) {
        self.0 = None;
    }
}

impl Drop for MadeReady {
    fn drop(&mut self) {
        if let Some(deployed) = self.0.take() {
            deployed.parts.iter().for_each(Part::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use std::sync::Arc;

    use weir_sandbox::{Telemetry, TelemetryReport};

    use super::{Tallies, each_or_none};

    #[test]
    fn what_is_counted_goes_on_and_gauges_end_with_their_instances() {
        let (tallies, shared) = (Tallies::default(), Telemetry::default());
        let says = |gauge| {
            let (counters, gauges) = ([("counted".into(), 1)].into(), [("g".into(), gauge)].into());
            let said = TelemetryReport { counters, gauges, ..TelemetryReport::default() };
            tallies.telemetry("f", &shared).absorb(said);
        };
        says(1.0);
        let after = tallies.without_gauges();
        let telemetry = after.telemetry("f", &shared);
        // Those of before say something to the last.
        says(2.0);
        assert_eq!((telemetry.counters()["counted"], telemetry.gauges().len()), (2, 0));
        assert_eq!(tallies.telemetry("f", &shared).gauges()["g"], 2.0);
        assert!(Arc::ptr_eq(&tallies.function("f"), &after.function("f")));
    }

    #[test]
    fn what_one_refuses_is_undone_with_those_before_it() {
        let all = [Cell::new(0), Cell::new(0), Cell::new(0)];
        let act = |refuses: usize| {
            each_or_none(
                &all,
                |n, one| {
                    one.set(one.get() + 1);
                    if n == refuses { Err(n) } else { Ok(n) }
                },
                |one| one.set(0),
            )
        };
        assert_eq!(act(2), Err(2));
        assert_eq!(all.each_ref().map(Cell::get), [0, 0, 1]);
        assert_eq!(act(3), Ok(vec![0, 1, 2]));
    }
}
