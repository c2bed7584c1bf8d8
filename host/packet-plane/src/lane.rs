//! A lane: one chain, its ports and its pool, driven by one worker.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_chain::board;
use weir_chain::{Executor, Observer, Prepared, Tick};
use weir_layout::Verdict;
use weir_pool::{Accounting, Pool, PoolConfig};
use weir_port::{Port, PortError};
use weir_sandbox::{Fault, Health, OnFault, Record, Sandbox, Shared, Treatment};

use crate::context::{Clock, Context, Disown, Entry, Ledger, Pause};
use crate::counters::{self, Counters, DropReason};
use crate::plan::{ChainPlan, LaneSite, PlaneError, Staged, State, States};
use crate::trial::{Trial, TrialStatus};

/// Bursts a lane handles before its worker looks at other lanes and at commands.
pub(crate) const TURN: u32 = 64;
/// How long after a swap a fault of the new version brings the old one back, in ns of the lane's clock.
const PROBATION: u64 = 10_000_000_000;

/// How a lane's turn went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There were packets.
    Busy,
    /// There were none; ask again when a descriptor of [`Lane::readiness`] is readable, and at the latest after this time.
    Idle(Option<Duration>),
    /// No port will receive anything any more, and nothing is under way.
    Ended,
}

/// Something notable that happened in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A function faulted.
    Fault {
        /// Its name in the chain.
        function: String,
        /// Its version.
        version: String,
        /// What became of it: see [`Health::name`].
        health: &'static str,
        /// What happened.
        message: String,
    },
    /// A version faulted on trial or probation, and the one before runs again.
    RolledBack {
        /// Its name in the chain.
        function: String,
        /// The version that faulted.
        version: String,
        /// What happened.
        message: String,
    },
    /// Anything else.
    Note(String),
}

impl fmt::Display for LaneEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { function, version, health, message } => {
                write!(f, "function {function} {version} faulted ({health}): {message}")
            }
            Self::RolledBack { function, version, message } => {
                write!(f, "function {function} {version} was rolled back: {message}")
            }
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// Told of events as they happen, by the worker: must not block.
pub type EventSink = Arc<dyn Fn(&LaneEvent) + Send + Sync>;

/// What publishing a version cost.
#[derive(Clone, Debug)]
pub struct Published {
    /// Time for which the data path stood still.
    pub pause: Duration,
    /// Functions that started with an empty state although their predecessor had one.
    pub fresh: Vec<String>,
}

/// What is known about a lane beside its counters; changes rarely.
#[derive(Clone, Debug, Default)]
pub struct LaneStatus {
    /// Name and version and health of each function.
    pub functions: Vec<(String, String, Health)>,
    /// Notable things that happened, oldest first, with a number that grows.
    pub events: Vec<(u64, String)>,
    /// The running trial.
    pub trial: Option<TrialStatus>,
}

/// A version of the chain that runs.
pub(crate) struct Version {
    pub(crate) staged: Staged,
    pub(crate) instance: u64,
}

/// What the lane goes back to if the new version faults on probation.
struct Probation {
    previous: ChainPlan,
    function: usize,
    until: u64,
}

/// See the module.
pub struct Lane {
    pub(crate) site: LaneSite,
    /// Lent to the executor while it runs, and to others by the station that the lane belongs to, if it belongs to one. Otherwise
    /// always here between calls.
    pub(crate) context: Option<Box<Context>>,
    /// Its own, while the context is not here; then whatever the context had.
    ledger: Ledger,
    pub(crate) version: Version,
    pub(crate) trial: Option<Trial>,
    records: Vec<Record>,
    probation: Option<Probation>,
    instances: u64,
    /// Usage of executors that are gone, by function.
    used: Vec<board::Usage>,
    status: Arc<Mutex<LaneStatus>>,
    events: u64,
    on_event: Option<EventSink>,
}

/// What a lane is made of, beside its chain.
pub struct LaneConfig {
    /// Its pool.
    pub pool: PoolConfig,
    /// Its ports: number 0 is where forward packets come in, number 1 where they leave.
    pub ports: Vec<Box<dyn Port>>,
    /// Whether packets that come in by port 1 pass the chain in reverse.
    pub symmetric: bool,
    /// The time that functions are told.
    pub clock: Clock,
    /// Most packets of a burst.
    pub burst: usize,
    /// For hash seeds.
    pub seed: u64,
    /// Who is told of events.
    pub on_event: Option<EventSink>,
}

impl Lane {
    /// Makes the pool, and the chain's first version.
    ///
    /// # Errors
    /// When there is no memory, or the chain cannot be made ready.
    pub fn new(
        sandbox: Arc<Sandbox>,
        plan: ChainPlan,
        config: LaneConfig,
    ) -> Result<Self, PlaneError> {
        Self::new_beside(sandbox, plan, config, &States::default())
    }

    /// The same for a chain that has another lane with these state regions: functions that share theirs share them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn new_beside(
        sandbox: Arc<Sandbox>,
        plan: ChainPlan,
        mut config: LaneConfig,
        beside: &States,
    ) -> Result<Self, PlaneError> {
        let on_event = config.on_event.take();
        let (context, site) = foundation(sandbox, &plan.name, config)?;
        let mut lane = Self::aside(site, plan, on_event, beside)?;
        lane.lend(Box::new(context));
        Ok(lane)
    }

    /// A lane without pool and ports: those of a station are lent to it. If the chain has another lane, with the state
    /// regions `beside`, functions that share theirs share them.
    ///
    /// # Errors
    /// When the chain cannot be made ready.
    pub fn aside(
        site: LaneSite,
        plan: ChainPlan,
        on_event: Option<EventSink>,
        beside: &States,
    ) -> Result<Self, PlaneError> {
        let functions = plan.functions.len();
        let staged = site.stage_beside(plan, &States::default(), beside)?;
        let records = records(&staged.plan);
        let mut ledger = Ledger::new(site.rooms, functions);
        ledger.upward.clone_from(&staged.plan.upward);
        let mut lane = Self {
            ledger,
            site,
            context: None,
            version: Version { staged, instance: 0 },
            trial: None,
            records,
            probation: None,
            instances: 0,
            used: vec![board::Usage::default(); functions],
            status: Arc::default(),
            events: 0,
            on_event,
        };
        lane.report();
        Ok(lane)
    }

    /// Lends it pool and ports. It has none.
    pub(crate) fn lend(&mut self, mut context: Box<Context>) {
        std::mem::swap(&mut context.ledger, &mut self.ledger);
        self.context = Some(context);
    }

    /// Takes back what was lent to it.
    pub(crate) fn take_back(&mut self) -> Option<Box<Context>> {
        let mut context = self.context.take()?;
        std::mem::swap(&mut context.ledger, &mut self.ledger);
        Some(context)
    }

    /// What it has under way, holds and has counted, whether pool and ports are here or not.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.context.as_ref().map_or(&self.ledger, |context| &context.ledger)
    }

    /// As [`Self::ledger`].
    pub(crate) fn ledger_mut(&mut self) -> &mut Ledger {
        self.context.as_mut().map_or(&mut self.ledger, |context| &mut context.ledger)
    }

    /// Has somebody look at each function's work, until the version that runs is replaced or one of its functions faults; only of a
    /// chain that runs one function at a time ([`weir_chain::Mode::Separate`]).
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.version.staged.executor.set_observer(observer);
    }

    /// What is needed to stage the next version elsewhere.
    #[must_use]
    pub fn site(&self) -> LaneSite {
        self.site.clone()
    }

    /// The state regions of the running version.
    #[must_use]
    pub fn states(&self) -> States {
        States(self.version.staged.states.clone())
    }

    /// The chain as it runs.
    #[must_use]
    pub fn plan(&self) -> &ChainPlan {
        &self.version.staged.plan
    }

    /// Time spent compiling the running version; 0 if everything came from caches.
    #[must_use]
    pub fn compiled_in(&self) -> Duration {
        self.version.staged.compiled_in()
    }

    /// The counters, to read from elsewhere.
    #[must_use]
    pub fn counters(&self) -> Arc<counters::Shared> {
        Arc::clone(&self.ledger().shared)
    }

    /// The status, to read from elsewhere.
    #[must_use]
    pub fn status(&self) -> Arc<Mutex<LaneStatus>> {
        Arc::clone(&self.status)
    }

    /// The ports' counters, to read from elsewhere: name, kind, counters.
    #[must_use]
    pub fn port_statistics(&self) -> Vec<(String, &'static str, weir_port::PortStatistics)> {
        let ports = self.context().ports.iter();
        ports.map(|p| (p.name().to_owned(), p.kind(), p.statistics().clone())).collect()
    }

    pub(crate) fn context(&self) -> &Context {
        self.context.as_ref().expect("the context is home between calls")
    }

    pub(crate) fn context_mut(&mut self) -> &mut Context {
        self.context.as_mut().expect("the context is home between calls")
    }

    /// Handles bursts until the turn is over, there are no packets, or all has ended.
    pub fn turn(&mut self) -> Turn {
        let context = self.context_mut();
        context.budget = TURN;
        context.idle_for = None;
        loop {
            self.wake_functions();
            let ran = if self.trial.as_ref().is_some_and(Trial::splits) {
                self.split_turn()
            } else {
                self.context_mut().ledger.instance = self.version.instance;
                self.version.staged.executor.serve(&mut self.context)
            };
            if let Err(fault) = ran {
                self.handle_fault(&fault, false);
                continue;
            }
            self.handle_violations();
            if self.context().pause != Pause::Timer {
                break;
            }
            self.tick(Tick::Due);
        }
        let idle = self.context().pause == Pause::Idle && !self.context().has_entries();
        self.publish_counters();
        if !idle {
            return Turn::Busy;
        }
        let context = self.context();
        let ended = context.ended.iter().all(|ended| *ended);
        let timer = context.ledger.timer;
        let until_timer =
            (timer != 0).then(|| Duration::from_nanos(timer.saturating_sub(context.now)));
        if ended && (timer == 0 || !context.time_goes_on()) {
            return Turn::Ended;
        }
        Turn::Idle(earlier(until_timer, context.idle_for))
    }

    /// Has the ports do what is due although there are no packets. For before the worker sleeps; the answer is when to take
    /// another turn, if that cannot wait.
    pub fn settle(&mut self) -> Option<Duration> {
        let next = self.context_mut().settle();
        self.publish_counters();
        next
    }

    /// Appends the descriptors that are readable when a port has something.
    pub fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        for port in &self.context().ports {
            port.readiness(fds);
        }
    }

    /// Brings functions back whose back-off is over, and learns when to look again.
    fn wake_functions(&mut self) {
        let now = self.context().now;
        let mut changed = false;
        for (place, record) in self.records.iter_mut().enumerate() {
            if record.recover(now) {
                self.version.staged.executor.set_treatment(place, record.treatment());
                changed = true;
            }
        }
        if changed {
            self.report();
        }
        let back = self.records.iter().filter_map(|record| match record.health {
            Health::BackOff { until } => Some(until),
            _ => None,
        });
        let timers = back.chain([self.version.staged.executor.next_timer()]);
        self.context_mut().ledger.timer = timers.filter(|timer| *timer != 0).min().unwrap_or(0);
        if let Some(probation) = &self.probation
            && now > probation.until
        {
            self.probation = None;
        }
    }

    /// Passes the burst that the context has through the chain, in which it has not been yet, except through the functions in
    /// `skip` (bits).
    pub(crate) fn pass(&mut self, skip: u64) {
        let start = self.context().start();
        self.set_skips(skip, true);
        let ran = if self.trial.as_ref().is_some_and(Trial::splits) {
            self.divide(start)
        } else {
            self.run_main(start)
        };
        if let Err(fault) = ran {
            self.handle_fault(&fault, false);
        }
        self.set_skips(skip, false);
        self.handle_violations();
    }

    fn set_skips(&mut self, mut skip: u64, on: bool) {
        while skip != 0 {
            let place = skip.trailing_zeros() as usize;
            skip &= skip - 1;
            let mode = if on { Treatment::Skip } else { self.records[place].treatment() };
            self.version.staged.executor.set_treatment(place, mode);
            if let Some(Trial::Canary { version, .. }) = &mut self.trial {
                let mode = if on { Treatment::Skip } else { Treatment::Run };
                version.staged.executor.set_treatment(place, mode);
            }
        }
    }

    /// Calls the functions' `tick`.
    fn tick(&mut self, who: Tick) {
        let instance = self.version.instance;
        let context = self.context_mut();
        context.ledger.instance = instance;
        context.reverse = false;
        let now = context.now;
        if let Err(fault) = self.version.staged.executor.tick(&mut self.context, now, who) {
            self.handle_fault(&fault, false);
        }
    }

    /// A function trapped. Its packets get what its policy says, the others go on; the chain gets new instances.
    pub(crate) fn handle_fault(&mut self, fault: &Fault, in_trial: bool) {
        if in_trial {
            return self.end_trial_by(fault);
        }
        let guilty = fault.function;
        let executor = &self.version.staged.executor;
        let context = self.context.as_mut().expect("the context is home between calls");
        let in_burst = !context.burst.is_empty();
        let returns_to_previous = match (&self.probation, guilty) {
            (Some(probation), Some(k)) => probation.function == k,
            _ => false,
        };
        if in_burst {
            board::departed(executor.board(), &mut |origin, descriptor, end| {
                context.end(origin, descriptor, end);
            });
            let reverse = context.reverse;
            let records = &self.records;
            board::stranded(executor.board(), |stranded| {
                let mut packet = context.burst[stranded.origin];
                packet.descriptor = stranded.descriptor;
                let place = stranded.function;
                if !stranded.reached || returns_to_previous {
                    context.ledger.entries.push_back(Entry { packet, start: place, reverse });
                    return;
                }
                if place < records.len() {
                    context.ledger.counters.functions[place].undecided += 1;
                }
                match records.get(place).map(|record| record.policy) {
                    Some(OnFault::FailOpen) => context.continue_behind(packet, place, reverse),
                    _ => context.discard(packet.buffer, DropReason::Fault),
                }
            });
            context.burst.clear();
        }
        if let Some(k) = guilty {
            self.note_fault(k, &fault.to_string());
        } else {
            self.note(format!("the chain failed outside of any function: {fault}"));
        }
        if returns_to_previous {
            self.roll_back(&fault.to_string());
        } else {
            self.reinstantiate();
        }
    }

    /// Bad verdicts and descriptors in the last burst are faults too, one for each function and burst.
    fn handle_violations(&mut self) {
        if self.context().violations.is_empty() {
            return;
        }
        let mut violations = std::mem::take(&mut self.context_mut().violations);
        violations.sort_unstable();
        violations.dedup();
        for (function, kind) in violations.drain(..) {
            let message = format!("{}: see wit/window.md for what may be written", kind.name());
            self.note_fault(function, &message);
            let mode = self.records[function].treatment();
            self.version.staged.executor.set_treatment(function, mode);
        }
        self.context_mut().violations = violations;
    }

    fn note_fault(&mut self, function: usize, message: &str) {
        let now = self.context().now;
        self.context_mut().ledger.counters.functions[function].faults += 1;
        self.records[function].fault(now);
        let plan = &self.version.staged.plan.functions[function];
        plan.telemetry.log(weir_sandbox::Level::Error, &format!("fault: {message}"));
        let event = LaneEvent::Fault {
            function: plan.name.clone(),
            version: plan.version.clone(),
            health: self.records[function].health.name(),
            message: message.to_owned(),
        };
        self.event(event);
        self.report();
    }

    /// New instances of the same version, over the same state regions.
    fn reinstantiate(&mut self) {
        let states = self.states();
        match self.site.stage_beside(self.version.staged.plan.clone(), &states, &states) {
            Ok(staged) => {
                self.install(staged, Disowner::AfterFault);
            }
            Err(error) => {
                // It was instantiated before, so this is memory or a configuration that its kept state
                // does not go with: without instances nothing can pass.
                self.note(format!("the chain cannot be instantiated again: {error}"));
                for record in &mut self.records {
                    record.health = Health::Quarantined;
                }
                self.report();
            }
        }
    }

    /// Back to the version before the last swap.
    fn roll_back(&mut self, why: &str) {
        let Some(probation) = self.probation.take() else { return };
        let states = self.states();
        let faulty = &self.version.staged.plan.functions[probation.function];
        let event = LaneEvent::RolledBack {
            function: faulty.name.clone(),
            version: faulty.version.clone(),
            message: why.to_owned(),
        };
        match self.site.stage_beside(probation.previous, &states, &states) {
            Ok(staged) => {
                self.install(staged, Disowner::AfterFault);
                self.forgive(probation.function);
                self.event(event);
                self.report();
            }
            Err(error) => {
                self.note(format!("rolling back failed: {error}"));
                self.reinstantiate();
            }
        }
    }

    /// Publishes a version that was staged elsewhere, at this burst boundary. With `swapped`, the place of the
    /// one function that is new, a fault of it within ten seconds brings the old version back.
    /// What is replaced is given back, to be dropped off the data path.
    ///
    /// # Errors
    /// When a function refuses the state its predecessor saved; then nothing has changed.
    pub fn publish(
        &mut self,
        mut staged: Staged,
        swapped: Option<usize>,
    ) -> Result<(Published, Retired), PlaneError> {
        let started = Instant::now();
        let same_shape = self.same_names(&staged.plan);
        if same_shape {
            self.hand_over_saved(&mut staged)?;
        } else {
            self.run_dry();
        }
        let fresh = staged.fresh(&self.states()).map(str::to_owned).collect();
        let mut retired = self.install(staged, Disowner::AtSwap { same_shape });
        let now = self.context().now;
        let before = self.probation.take();
        retired.plans.extend(before.map(|probation| probation.previous));
        if let Some(function) = swapped {
            self.forgive(function);
            let until = now.saturating_add(PROBATION);
            let previous = retired.plans.swap_remove(0);
            self.probation = Some(Probation { previous, function, until });
        }
        self.report();
        Ok((Published { pause: started.elapsed(), fresh }, retired))
    }

    /// The chain before the last swap, if that brought this version of the function and it is still on probation.
    #[must_use]
    pub fn before_swap(&self, function: &str, version: &str) -> Option<ChainPlan> {
        let probation = self.probation.as_ref()?;
        let swapped = &self.version.staged.plan.functions[probation.function];
        let same = swapped.name == function && swapped.version == version;
        same.then(|| probation.previous.clone())
    }

    /// Forgets a function's faults: it is another version now.
    fn forgive(&mut self, function: usize) {
        let record = Record::new(self.version.staged.plan.functions[function].on_fault);
        self.version.staged.executor.set_treatment(function, record.treatment());
        self.records[function] = record;
    }

    fn same_names(&self, plan: &ChainPlan) -> bool {
        let running = &self.version.staged.plan.functions;
        plan.functions.iter().map(|f| &f.name).eq(running.iter().map(|f| &f.name))
    }

    /// What functions keep privately goes through `save` and `restore`.
    fn hand_over_saved(&mut self, staged: &mut Staged) -> Result<(), PlaneError> {
        for place in 0..staged.plan.functions.len() {
            if staged.plan.functions[place].admitted.saves
                && let Some(saved) = self.version.staged.executor.save(place)?
            {
                staged.executor.restore(place, &saved)?;
            }
        }
        Ok(())
    }

    /// Lets packets that are on their way between functions finish, because places are about to change.
    fn run_dry(&mut self) {
        for function in 0..self.version.staged.plan.functions.len() {
            let instance = self.version.instance;
            self.context_mut().disown(function, instance, Disown::Pass);
        }
        let ended = self.context().ended.clone();
        self.context_mut().ended.fill(true);
        while self.context().has_entries() {
            self.turn();
        }
        self.context_mut().ended = ended;
    }

    /// Makes a version the running one.
    fn install(&mut self, staged: Staged, disowner: Disowner) -> Retired {
        add_usage(&mut self.used, self.version.staged.executor.board());
        self.instances += 1;
        let instance = self.instances;
        let kept = staged.kept.clone();
        let old = std::mem::replace(&mut self.version, Version { staged, instance });
        for function in 0..old.staged.plan.functions.len() {
            let keeps = kept.get(function).copied().unwrap_or(false);
            let how = match disowner {
                _ if keeps && disowner.same_shape() => Disown::HandOver { to: instance },
                Disowner::AtSwap { .. } => Disown::Pass,
                Disowner::AfterFault => Disown::Discard(DropReason::LostInFault),
            };
            self.context_mut().disown(function, old.instance, how);
        }
        if !disowner.same_shape() {
            let functions = self.version.staged.plan.functions.len();
            self.records = records(&self.version.staged.plan);
            self.used = vec![board::Usage::default(); functions];
            self.context_mut().ledger.counters.functions.clear();
            self.context_mut().set_functions(functions);
        }
        for (place, record) in self.records.iter().enumerate() {
            self.version.staged.executor.set_treatment(place, record.treatment());
        }
        let upward = self.version.staged.plan.upward.clone();
        self.ledger_mut().upward = upward;
        let Staged { plan, prepared, executor, states, .. } = old.staged;
        Retired { executor, plans: vec![plan], _rest: (prepared, states) }
    }

    pub(crate) fn next_instance(&mut self) -> u64 {
        self.instances += 1;
        self.instances
    }

    /// Ends the lane: functions flush what they count, held packets are dropped and counted, ports are
    /// finished. The answer is where the pool's buffers are: none may be out.
    ///
    /// # Errors
    /// When a port cannot write out what it has.
    pub fn finish(&mut self) -> Result<Accounting, PortError> {
        self.context_mut().ended.fill(true);
        self.close();
        let context = self.context_mut();
        context.finish_ports()?;
        Ok(context.pool.accounting())
    }

    /// Lets the chain finish what is under way: functions flush what they count, held packets are dropped and counted. No
    /// packets may come in any more.
    pub(crate) fn close(&mut self) {
        self.tick(Tick::All);
        let instances: Vec<u64> =
            [Some(self.version.instance), self.trial.as_ref().map(Trial::instance)]
                .into_iter()
                .flatten()
                .collect();
        while self.context().has_entries() {
            self.turn();
        }
        for function in 0..self.version.staged.plan.functions.len() {
            for instance in &instances {
                let how = Disown::Discard(DropReason::HeldAtEnd);
                self.context_mut().disown(function, *instance, how);
            }
        }
        self.context_mut().flush();
        self.publish_counters();
    }

    /// Takes the ports out, once the lane has ended.
    #[must_use]
    pub fn into_ports(mut self) -> Vec<Box<dyn Port>> {
        self.context.take().map(|context| context.ports).unwrap_or_default()
    }

    /// Packets received up to now.
    #[must_use]
    pub fn packets_in(&self) -> u64 {
        self.ledger().counters.packets_in
    }

    /// The counts up to now.
    #[must_use]
    pub fn counts(&mut self) -> (Counters, Accounting) {
        self.publish_counters();
        self.context().ledger.shared.read()
    }

    fn publish_counters(&mut self) {
        let context = self.context.as_mut().expect("the context is home between calls");
        let board = self.version.staged.executor.board();
        let trial = self.trial.as_ref().and_then(Trial::board);
        for (place, counts) in context.ledger.counters.functions.iter_mut().enumerate() {
            let mut usage = self.used[place];
            for board in [Some(board), trial].into_iter().flatten() {
                usage.add(board::usage(board, place));
            }
            counts.packets = usage.seen;
            counts.verdicts[Verdict::Jump(0).kind() as usize] = usage.jumped;
            counts.verdicts[Verdict::Clone(0).kind() as usize] = usage.cloned;
        }
        context.publish();
        if !context.port_errors.is_empty() {
            for error in std::mem::take(&mut context.port_errors) {
                self.note(error.to_string());
            }
        }
        if self.trial.is_some() {
            self.report();
        }
    }

    /// Counts what an executor that is about to go was used for.
    pub(crate) fn add_usage(&mut self, board: &weir_pool::Memory) {
        add_usage(&mut self.used, board);
    }

    fn note(&mut self, text: String) {
        self.event(LaneEvent::Note(text));
    }

    pub(crate) fn event(&mut self, event: LaneEvent) {
        /// Events kept.
        const EVENTS: usize = 256;
        if let Some(sink) = &self.on_event {
            sink(&event);
        }
        self.events += 1;
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.events.len() == EVENTS {
            status.events.remove(0);
        }
        status.events.push((self.events, event.to_string()));
    }

    pub(crate) fn report(&mut self) {
        let functions = self.version.staged.plan.functions.iter().zip(&self.records);
        let functions = functions.map(|(f, r)| (f.name.clone(), f.version.clone(), r.health));
        let functions = functions.collect();
        let trial = self.trial.as_ref().map(Trial::status);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.functions = functions;
        status.trial = trial;
    }
}

/// What a new version replaced. Dropping it unmaps memory, which is not for the data path.
pub struct Retired {
    executor: Executor<Box<Context>>,
    /// The old version's, and whatever else nobody goes back to. A router's configuration has some megabytes.
    plans: Vec<ChainPlan>,
    _rest: (Prepared, Vec<Option<Arc<State>>>),
}

impl Retired {
    /// Has the old instances flush their counters, then ends them.
    pub fn end(mut self, sandbox: &Sandbox) {
        let _ticking = sandbox.ticker().tick();
        // A function that faults in its last moment harms nobody.
        drop(self.executor.tick(&mut None, u64::MAX, Tick::All));
    }
}

#[derive(Clone, Copy)]
enum Disowner {
    AtSwap { same_shape: bool },
    AfterFault,
}

impl Disowner {
    fn same_shape(self) -> bool {
        !matches!(self, Self::AtSwap { same_shape: false })
    }
}

fn add_usage(used: &mut [board::Usage], board: &weir_pool::Memory) {
    for (place, used) in used.iter_mut().enumerate() {
        used.add(board::usage(board, place));
    }
}

/// Pool and ports of a lane or a station, and what chains are to know of them.
pub(crate) fn foundation(
    sandbox: Arc<Sandbox>,
    name: &str,
    mut config: LaneConfig,
) -> Result<(Context, LaneSite), PlaneError> {
    let mut pool = Pool::new(name, &config.pool)?;
    for port in &mut config.ports {
        port.attach(&mut pool)?;
    }
    let site = LaneSite {
        sandbox,
        window: Shared::new(pool.memory())?,
        room_bytes: pool.room_bytes(),
        huge: config.pool.huge,
        ports: config.ports.iter().map(|port| port.name().to_owned()).collect(),
        seed: config.seed,
        rooms: pool.rooms() as usize,
    };
    let context = Context::new(pool, config.ports, config.symmetric, config.clock, config.burst);
    Ok((context, site))
}

fn records(plan: &ChainPlan) -> Vec<Record> {
    plan.functions.iter().map(|f| Record::new(f.on_fault)).collect()
}

pub(crate) fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
