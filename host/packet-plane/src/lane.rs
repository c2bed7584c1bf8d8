//! A lane: one chain, its ports and its pool, driven by one worker.

mod faults;
mod outage;
mod status;
mod swap;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_chain::Tick;
use weir_chain::board;
use weir_pool::{Accounting, PoolConfig};
use weir_port::{Port, PortError};
use weir_sandbox::{Fault, Record, Sandbox, States};

use self::outage::Outage;
pub use self::outage::{Disposer, Missing, Replacement, Restorer};
pub use self::status::{EventSink, LaneEvent, LaneStatus};
pub use self::swap::{Probation, Published, Retired};
use crate::context::{Clock, Context, Disown, Ledger, Pause};
use crate::counters::{self, Counters, DropReason};
use crate::ground::Ground;
use crate::observer::{Observer, Watch};
use crate::plan::{ChainPlan, LaneSite, PlaneError, Staged, Standing};
use crate::trial::Trial;
use crate::upward::Upward;

/// Bursts a lane handles before its worker looks at other lanes and at commands.
pub(crate) const TURN: u32 = 64;

/// How a lane's turn went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There were packets.
    Busy,
    /// There were none; ask again when a descriptor of [`Lane::readiness`] is readable, and at the
    /// latest after this time.
    Idle(Option<Duration>),
    /// No port will receive anything any more, and nothing is under way.
    Ended,
}

/// A version of the chain that runs.
pub(crate) struct Version {
    pub(crate) staged: Staged,
    pub(crate) instance: u64,
}

/// See the module.
pub struct Lane {
    pub(crate) site: LaneSite,
    /// Lent to the executor while it runs, and to others by the station that the lane belongs to,
    /// if it belongs to one. Otherwise always here between calls.
    pub(crate) context: Option<Box<Context>>,
    /// Its own, while the context is not here; then whatever the context had.
    ledger: Ledger,
    pub(crate) version: Version,
    pub(crate) trial: Option<Trial>,
    /// A canary that ended by itself, until somebody takes it: its last tick and its memory are not
    /// for the data path.
    pub(crate) spent: Option<Retired>,
    records: Vec<Record>,
    /// What is under way finishes, and nothing else begins.
    draining: bool,
    /// The version's instances have trapped, and there are no others yet.
    outage: Option<Outage>,
    restorer: Option<Restorer>,
    disposer: Option<Disposer>,
    probation: Option<Probation>,
    /// How often another chain has taken the place of the one that ran.
    chains: u64,
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
    /// Maximum number of packets in a burst.
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

    /// The same for a chain that has another lane with these state regions: functions that share
    /// theirs share them.
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

    /// A lane without pool and ports: those of a station are lent to it. If the chain has another
    /// lane, with the state regions `beside`, functions that share theirs share them.
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
        let staged = site.stage_beside(plan, &Standing::default(), beside)?;
        let records = records(&staged.plan);
        let mut ledger = Ledger::new(site.rooms, names(&staged.plan));
        ledger.upward.clone_from(&staged.plan.upward);
        let mut lane = Self {
            ledger,
            site,
            context: None,
            version: Version { staged, instance: 0 },
            trial: None,
            spent: None,
            records,
            draining: false,
            outage: None,
            restorer: None,
            disposer: None,
            probation: None,
            chains: 0,
            instances: 0,
            used: vec![board::Usage::default(); functions],
            status: Arc::default(),
            events: 0,
            on_event,
        };
        lane.report();
        Ok(lane)
    }

    /// Has what is for this machine go up to the kernel's stack at the chain's end: for a lane that
    /// was made ready before the way there was.
    pub fn goes_up(&mut self, upward: Arc<Upward>) {
        self.ledger_mut().upward = Some(Arc::clone(&upward));
        self.version.staged.plan.upward = Some(upward);
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

    /// Has somebody look at each function's work, from the next burst on, whichever version runs;
    /// until the chain gets other functions.
    pub fn observe(&mut self, observer: Box<dyn Observer>) -> Watch {
        self.ledger_mut().observers.add(observer)
    }

    /// Ends that. None: the chain got other functions, and it had ended.
    pub fn end_observing(&mut self, watch: Watch) -> Option<Box<dyn Observer>> {
        self.ledger_mut().observers.remove(watch)
    }

    /// What is needed to stage the next version elsewhere.
    #[must_use]
    pub fn site(&self) -> LaneSite {
        self.site.clone()
    }

    /// The running version's state regions, and what tells whether it is still this one that runs.
    #[must_use]
    pub fn states(&self) -> Standing {
        Standing { states: self.version.staged.states(), chain: self.chains }
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
            let splits = self.trial.as_ref().is_some_and(Trial::splits);
            let ran = if splits || self.outage.is_some() {
                self.split_turn()
            } else {
                self.context_mut().ledger.instance = self.version.instance;
                self.version.staged.executor.serve(&mut self.context)
            };
            if let Err(fault) = ran {
                self.handle_fault(&fault, false);
                continue;
            }
            self.handle_violations(false);
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

    /// Has the ports do what is due although there are no packets. For before the worker sleeps;
    /// the answer is when to take another turn, if that cannot wait.
    pub fn settle(&mut self) -> Option<Duration> {
        let next = self.context_mut().settle();
        self.publish_counters();
        earlier(next, self.ledger().publish_again())
    }

    /// Appends the descriptors that are readable when a port has something.
    pub fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        for port in &self.context().ports {
            port.readiness(fds);
        }
    }

    /// Passes the burst that the context has through the chain, in which it has not been yet,
    /// except through the functions in `skip` (bits).
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
        self.handle_violations(false);
    }

    /// Calls the functions' `tick`, of the running version and of the canary.
    fn tick(&mut self, who: Tick) {
        self.context_mut().reverse = false;
        if self.outage.is_none()
            && let Err(fault) = tick(&mut self.context, &mut self.version, who)
        {
            self.handle_fault(&fault, false);
        }
        if let Some(Trial::Canary { version, .. }) = &mut self.trial
            && let Err(fault) = tick(&mut self.context, version, who)
        {
            self.handle_fault(&fault, true);
        }
    }

    /// Ends the lane: functions flush what they count, held packets are dropped and counted, ports
    /// are finished. The answer is where the pool's buffers are: none may be out.
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

    /// Lets the chain finish what is under way: functions flush what they count, held packets are
    /// dropped and counted. No packets may come in any more.
    pub(crate) fn close(&mut self) {
        self.tick(Tick::All);
        self.drain();
        // A fault meanwhile may have made new instances.
        let instances: Vec<u64> =
            [Some(self.version.instance), self.trial.as_ref().map(Trial::instance)]
                .into_iter()
                .flatten()
                .collect();
        for function in 0..self.version.staged.plan.functions.len() {
            for instance in &instances {
                let how = Disown::Discard(DropReason::HeldAtEnd);
                self.context_mut().disown(function, *instance, how);
            }
        }
        self.context_mut().flush();
        self.publish_counters();
    }

    /// Has what is under way between functions finish. No function's timer comes due meanwhile:
    /// with one that it sets anew each time and a packet that it sends it could go on for ever.
    fn drain(&mut self) {
        self.draining = true;
        while self.context().has_entries() {
            self.turn();
        }
        self.draining = false;
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
            counts.set_usage(usage);
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
}

fn tick(lent: &mut Option<Box<Context>>, version: &mut Version, who: Tick) -> Result<(), Fault> {
    let context = lent.as_mut().expect("the context is home between calls");
    context.ledger.instance = version.instance;
    let now = context.now;
    version.staged.executor.tick(lent, now, who)
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
    let ports = std::mem::take(&mut config.ports);
    let names = ports.iter().map(|port| port.name().to_owned()).collect();
    Ground::new(sandbox, name, config, names)?.with_ports(ports)
}

/// Names of a chain's functions.
fn names(plan: &ChainPlan) -> Vec<String> {
    plan.functions.iter().map(|function| function.name.clone()).collect()
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
