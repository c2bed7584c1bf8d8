//! A chain on one thread: its running version, and those that come and go.
//!
//! A swap makes a new [`Version`] that shares all functions but one with the version before. Exchanges keep the version they began with, so
//! nothing that is under way notices; the last of them takes the old version with it.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use weir_exchange::{Environment, Interests, Origin};
use weir_layout::message::SPARE_BYTES;
use weir_pool::Rooms;
use weir_sandbox::{Fault, Ticking};

use crate::asks::{Answer, Asks, Ready};
use crate::clock;
use crate::context::{Ask, Asked, Effects, NOBODY};
use crate::exchange::Exchange;
use crate::function::{Called, Function, Position, Seat};
use crate::orders::Orders;
use crate::plan::{MessageError, Site, Staged, StagedFunction, States};
use crate::shadow::{Findings, Shadow};
use crate::words;

/// The part of the rooms that one body may hold: one of so many.
const HOLD_SHARE: usize = 4;
/// How long after the last event the clock of deadlines goes on.
const IDLE: Duration = Duration::from_millis(20);

/// Something that an operator should hear of.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A function faulted.
    Fault {
        /// Its name in the chain.
        function: String,
        /// Its version.
        version: String,
        /// What happened.
        fault: Fault,
    },
    /// A version faulted soon after its swap, and the one before is back.
    RolledBack {
        /// Its name in the chain.
        function: String,
        /// The version that faulted.
        version: String,
        /// What happened.
        fault: Fault,
    },
}

/// What is counted of a chain on one thread.
#[derive(Debug, Default)]
pub struct ChainCounters {
    /// Exchanges that were opened.
    pub opened: AtomicU64,
    /// Those that have ended.
    pub ended: AtomicU64,
    /// Times for which there was no room in the pool.
    pub exhausted: AtomicU64,
}

/// The functions that new exchanges get.
pub(crate) struct Version {
    pub(crate) functions: Vec<Rc<Function>>,
    pub(crate) shadow: Option<Rc<Shadow>>,
    canary: Option<Canary>,
}

#[derive(Clone)]
struct Canary {
    place: usize,
    function: Rc<Function>,
    percent: u8,
    findings: Arc<Findings>,
}

/// See [`Version::legs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Events(Range<usize>),
    Service(usize),
}

impl Version {
    pub(crate) fn function(&self, place: usize, canary: bool) -> &Rc<Function> {
        match &self.canary {
            Some(trial) if canary && trial.place == place => &trial.function,
            _ => &self.functions[place],
        }
    }

    /// The parts that an exchange passes: functions of events, by their places, and services between them. None if there are no
    /// services.
    pub(crate) fn legs(&self, canary: bool) -> Option<Vec<Part>> {
        let is_service = |place: &usize| self.function(*place, canary).is_service();
        let services: Vec<usize> = (0..self.functions.len()).filter(is_service).collect();
        if services.is_empty() {
            return None;
        }
        let (mut parts, mut next) = (Vec::new(), 0);
        for place in &services {
            if next < *place {
                parts.push(Part::Events(next..*place));
            }
            parts.push(Part::Service(*place));
            next = *place + 1;
        }
        if next < self.functions.len() {
            parts.push(Part::Events(next..self.functions.len()));
        }
        Some(parts)
    }

    /// All functions that decide something.
    fn all(&self) -> impl Iterator<Item = &Rc<Function>> {
        self.functions.iter().chain(self.canary.as_ref().map(|trial| &trial.function))
    }

    /// The shortest time that one of its functions has for an event.
    fn deadline(&self) -> Duration {
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.function);
        self.all().chain(shadow).map(|f| f.plan.deadline).min().unwrap_or_default()
    }

    fn interests(&self) -> Interests {
        let all = self.all().map(|f| words::interests(f.wants()));
        all.fold(Interests::default(), words::either)
    }

    fn with(&self, place: usize, function: Rc<Function>) -> Self {
        let mut functions = self.functions.clone();
        functions[place] = function;
        Self { functions, shadow: None, canary: None }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Chain(Rc<Inner>);

pub(crate) struct Inner {
    site: Site,
    name: String,
    version: RefCell<Rc<Version>>,
    interests: Cell<Interests>,
    environment: Rc<dyn Environment>,
    notices: Box<dyn Fn(Notice)>,
    /// Until [`Chain::drive`] has it.
    orders: RefCell<Option<Orders>>,
    counters: Arc<ChainCounters>,
    /// Numbers that are free, and the next one that never was used.
    numbers: RefCell<(Vec<u32>, u32)>,
    background: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    wake: Notify,
    ticking: RefCell<Option<Ticking>>,
    /// The timer that `drive` waits for, 0 for none.
    timer: Cell<u64>,
    /// Monotonic nanoseconds.
    last_event: Cell<u64>,
}

impl Chain {
    /// A chain of what was staged, on this thread. [`Self::drive`] has to be driven along with it.
    #[must_use]
    pub fn new(
        staged: Staged,
        environment: Rc<dyn Environment>,
        orders: Orders,
        counters: Arc<ChainCounters>,
        notices: Box<dyn Fn(Notice)>,
    ) -> Self {
        let Staged { site, name, functions } = staged;
        let version = Rc::new(new_version(&site, &name, functions));
        let chain = Self(Rc::new(Inner {
            interests: Cell::new(version.interests()),
            version: RefCell::new(Rc::clone(&version)),
            site,
            name,
            environment,
            notices,
            orders: RefCell::new(Some(orders)),
            counters,
            numbers: RefCell::default(),
            background: RefCell::default(),
            wake: Notify::new(),
            ticking: RefCell::default(),
            timer: Cell::new(0),
            last_event: Cell::new(clock::monotonic()),
        }));
        version.functions.iter().for_each(|function| chain.started(function));
        chain
    }

    /// Events that some function wants.
    #[must_use]
    pub fn interests(&self) -> Interests {
        self.0.interests.get()
    }

    /// Most bytes of a piece of a body: a room, with some to spare for functions that make it longer.
    #[must_use]
    pub fn piece_max(&self) -> usize {
        self.0.site.rooms.room_bytes() - SPARE_BYTES
    }

    /// The same as the gateway has it.
    #[must_use]
    pub fn passages(&self) -> weir_exchange::Chain {
        weir_exchange::Chain::native(Rc::new(self.clone()))
    }

    /// A new exchange.
    #[must_use]
    pub fn open(&self, origin: &Origin) -> Exchange {
        let inner = &self.0;
        let number = self.number();
        inner.counters.opened.fetch_add(1, Ordering::Relaxed);
        let version = Rc::clone(&inner.version.borrow());
        let canary = version.canary.as_ref().is_some_and(|trial| {
            let mut hasher = DefaultHasher::new();
            (inner.name.as_str(), origin.client.ip()).hash(&mut hasher);
            let chosen = hasher.finish() % 100 < u64::from(trial.percent);
            trial.findings.events.fetch_add(u64::from(chosen), Ordering::Relaxed);
            chosen
        });
        Exchange::new(self.clone(), version, number, origin, canary)
    }

    /// The chain, for what must not keep it.
    pub(crate) fn weak(&self) -> Weak<Inner> {
        Rc::downgrade(&self.0)
    }

    /// The chain, if it is still there.
    pub(crate) fn of(weak: &Weak<Inner>) -> Option<Self> {
        weak.upgrade().map(Self)
    }

    /// A number that no other exchange has.
    pub(crate) fn number(&self) -> u32 {
        let (free, next) = &mut *self.0.numbers.borrow_mut();
        free.pop().unwrap_or_else(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Drives this beside the exchanges.
    pub(crate) fn behind(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.background.borrow_mut().push(work);
        self.0.wake.notify_one();
    }

    /// A function is about to be called: the time, which it is told, in monotonic nanoseconds. The clock of deadlines runs from now
    /// on.
    pub(crate) fn moment(&self) -> u64 {
        let inner = &self.0;
        let now = clock::monotonic();
        inner.last_event.set(now);
        if inner.ticking.borrow().is_none() {
            let deadline = inner.version.borrow().deadline();
            *inner.ticking.borrow_mut() = Some(inner.site.sandbox.ticker().tick_for(deadline));
            inner.wake.notify_one();
        }
        inner.site.clock.tell(&inner.site.rooms, now);
        now
    }

    /// State regions of the running version, to hand over.
    #[must_use]
    pub fn states(&self) -> States {
        let version = self.0.version.borrow();
        let states = version.functions.iter().filter_map(|function| {
            Some((function.plan.name.clone(), Arc::clone(function.state.as_ref()?)))
        });
        States(states.collect())
    }

    /// Names of the functions.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.version.borrow().functions.iter().map(|f| f.plan.name.clone()).collect()
    }

    fn place(&self, name: &str) -> Result<usize, MessageError> {
        let version = self.0.version.borrow();
        let place = version.functions.iter().position(|function| function.plan.name == name);
        place.ok_or_else(|| MessageError::NoFunction(name.to_owned()))
    }

    /// Gives all new exchanges another chain, which was staged for the same site.
    ///
    /// # Errors
    /// When a function does not take what its predecessor saved; the chain stays as it is.
    pub fn publish(&self, staged: Staged) -> Result<(), MessageError> {
        let next = new_version(&self.0.site, &self.0.name, staged.functions);
        let before = Rc::clone(&self.0.version.borrow());
        for function in &next.functions {
            let same = |old: &&Rc<Function>| old.plan.name == function.plan.name;
            if let Some(old) = before.functions.iter().find(same) {
                old.hand_over(function)?;
            }
        }
        next.functions.iter().for_each(|function| self.started(function));
        self.set(next);
        Ok(())
    }

    /// Gives all new exchanges another version of a function. Ends a trial.
    ///
    /// # Errors
    /// When there is no such function, or it does not take what its predecessor saved; the old one stays.
    pub fn swap(&self, staged: StagedFunction) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let function = Rc::new(self.function(place, staged));
        let version = Rc::clone(&self.0.version.borrow());
        version.functions[place].hand_over(&function)?;
        function.watch(Rc::clone(&version.functions[place]));
        self.started(&function);
        self.set(version.with(place, function));
        Ok(())
    }

    /// Brings back what this version of a function replaced, if it runs and that is still kept: another thread's part of the chain
    /// has gone back.
    pub fn go_back(&self, name: &str, version: &str) {
        let current = Rc::clone(&self.0.version.borrow());
        let runs = |f: &Rc<Function>| f.plan.name == name && f.plan.version == version;
        let Some(place) = current.functions.iter().position(runs) else { return };
        if let Some(before) = current.functions[place].before() {
            self.set(current.with(place, before));
        }
    }

    /// Gives a share of the clients, in percent, another version of a function.
    ///
    /// # Errors
    /// When there is no such function, or another trial is on.
    pub fn begin_canary(
        &self,
        staged: StagedFunction,
        percent: u8,
        findings: Arc<Findings>,
    ) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let before = self.without_trial()?;
        let function = Rc::new(self.function(place, staged));
        self.started(&function);
        let canary = Some(Canary { place, function, percent, findings });
        self.set(Version { functions: before.functions.clone(), shadow: None, canary });
        Ok(())
    }

    /// Gives a canary another share of the clients.
    ///
    /// # Errors
    /// When there is none.
    pub fn change_canary(&self, percent: u8) -> Result<(), MessageError> {
        let before = Rc::clone(&self.0.version.borrow());
        let canary = before.canary.clone().ok_or_else(no_canary)?;
        let canary = Some(Canary { percent, ..canary });
        self.set(Version { functions: before.functions.clone(), shadow: None, canary });
        Ok(())
    }

    /// Makes the canary the running version.
    ///
    /// # Errors
    /// When there is none, or it does not take what its predecessor saved; the trial is over then.
    pub fn promote(&self) -> Result<(), MessageError> {
        let before = Rc::clone(&self.0.version.borrow());
        let Canary { place, function, .. } = before.canary.clone().ok_or_else(no_canary)?;
        let handed = before.functions[place].hand_over(&function);
        if handed.is_err() {
            self.end_trial();
            return handed;
        }
        function.watch(Rc::clone(&before.functions[place]));
        self.set(before.with(place, function));
        Ok(())
    }

    /// Shows another version of a function copies of its events.
    ///
    /// # Errors
    /// As for [`Self::begin_canary`].
    pub fn begin_shadow(
        &self,
        staged: StagedFunction,
        findings: Arc<Findings>,
    ) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let before = self.without_trial()?;
        if staged.plan.proxy.is_some() || before.functions[place].is_service() {
            let message = "a wasi:http function cannot be tried in the shadow of another, because a request is handed over once: \
                           try it with a canary";
            return Err(MessageError::Trial(message.into()));
        }
        let function = Rc::new(self.function(place, staged));
        let shadow = Some(Rc::new(Shadow::new(place, function, findings)));
        self.set(Version { functions: before.functions.clone(), shadow, canary: None });
        Ok(())
    }

    /// Ends a trial, if there is one.
    pub fn end_trial(&self) {
        let before = Rc::clone(&self.0.version.borrow());
        if before.shadow.is_some() || before.canary.is_some() {
            let functions = before.functions.clone();
            self.set(Version { functions, shadow: None, canary: None });
        }
    }

    /// Carries out what functions want outside of exchanges (their ticks, and what they asked for and did not wait for) and
    /// orders from other threads. Ends when nobody can give any.
    pub async fn drive(self) {
        let mut running = FuturesUnordered::new();
        let Some(mut orders) = self.0.orders.borrow_mut().take() else { return };
        loop {
            running.extend(self.0.background.borrow_mut().drain(..));
            let timeout = self.due();
            let sleep = async {
                match timeout {
                    Some(timeout) => self.0.environment.sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let notified = pin!(self.0.wake.notified());
            tokio::select! {
                () = notified => {}
                Some(()) = running.next(), if !running.is_empty() => {}
                () = sleep => {}
                order = orders.next() => match order {
                    Some(order) => order(&self),
                    None => return,
                },
            }
            self.tick();
        }
    }

    /// When [`Self::drive`] has something to do by itself.
    fn due(&self) -> Option<Duration> {
        let version = self.0.version.borrow();
        let timer =
            version.all().map(|function| function.timer()).filter(|timer| *timer != 0).min();
        self.0.timer.set(timer.unwrap_or(0));
        let timer = timer.map(|at| Duration::from_nanos(at.saturating_sub(clock::monotonic())));
        let idle = self.0.ticking.borrow().is_some().then_some(IDLE);
        timer.into_iter().chain(idle).min()
    }

    fn tick(&self) {
        let now = clock::monotonic();
        let version = Rc::clone(&self.0.version.borrow());
        if version.all().any(|function| function.timer() != 0 && function.timer() <= now) {
            self.moment();
        }
        let trial = version.canary.iter().map(|canary| (canary.place, &canary.function));
        for (place, function) in version.functions.iter().enumerate().chain(trial) {
            function.forget(now);
            match function.tick(now) {
                None => {}
                Some(Ok(effects)) => self.nobodys(function, effects),
                Some(Err(fault)) => self.faulted(place, function, &fault),
            }
        }
        if now.saturating_sub(self.0.last_event.get()) >= IDLE.as_nanos() as u64 {
            self.0.ticking.borrow_mut().take();
        }
    }

    /// A function has this timer now; what waits for a later one is told.
    pub(crate) fn note_timer(&self, timer: u64) {
        let waited_for = self.0.timer.get();
        if timer != 0 && (waited_for == 0 || timer < waited_for) {
            self.0.timer.set(timer);
            self.0.wake.notify_one();
        }
    }

    /// A function is about to get events: what it asked for in `configure` is carried out.
    fn started(&self, function: &Rc<Function>) {
        let effects = function.left_over();
        self.nobodys(function, effects);
    }

    /// What was asked for outside of exchanges.
    fn nobodys(&self, function: &Rc<Function>, effects: Option<Box<Effects>>) {
        let Some(effects) = effects.filter(|effects| !effects.asks.is_empty()) else { return };
        let asks: Asks = effects.asks.into_iter().map(|ask| self.ask(ask)).collect();
        self.go_on(NOBODY, function, asks);
    }

    /// Has a function resumed with these as they come, its answers unheeded.
    pub(crate) fn go_on(&self, exchange: u32, function: &Rc<Function>, mut asks: Asks) {
        let (chain, function): (Weak<Inner>, _) = (Rc::downgrade(&self.0), Rc::clone(function));
        let seat = Seat::default();
        let nobody = Origin {
            client: ([0, 0, 0, 0], 0).into(),
            local: ([0, 0, 0, 0], 0).into(),
            tls: false,
            server_name: None,
            upgrade: false,
        };
        let going = async move {
            while let Some(ready) = asks.next().await {
                let Some(chain) = chain.upgrade().map(Chain) else { return };
                let Some(laid) = ready.lay_out(chain.rooms(), &nobody) else {
                    chain.count_exhausted();
                    continue;
                };
                let mut at = chain.moment();
                match function.call(exchange, &seat, laid.event(), &mut at) {
                    Called::Outcome(_, None) => {}
                    Called::Outcome(_, Some(effects)) => {
                        asks.extend(effects.asks.into_iter().map(|ask| chain.ask(ask)));
                    }
                    Called::Fault(fault) => {
                        let place = chain.place(&function.plan.name).unwrap_or_default();
                        return chain.faulted(place, &function, &fault);
                    }
                    Called::Skip | Called::Refuse => return,
                }
            }
        };
        self.behind(Box::pin(going));
    }

    /// Sets about what a function asked for.
    pub(crate) fn ask(&self, ask: Ask) -> LocalBoxFuture<'static, Ready> {
        let Ask { token, what } = ask;
        let environment = Rc::clone(&self.0.environment);
        let body_max = self.0.site.rooms.room_bytes();
        Box::pin(async move {
            let answer = match what {
                Asked::Value(value) => Answer::Value(value.get().await),
                Asked::Sleep(time) => {
                    environment.sleep(time).await;
                    Answer::Slept
                }
                Asked::Call { upstream, request, timeout } => {
                    Answer::Called(environment.call(upstream, *request, timeout, body_max).await)
                }
            };
            Ready { token, answer }
        })
    }

    /// A function faulted: the operator is told, and what it replaced a moment ago is brought back.
    pub(crate) fn faulted(&self, place: usize, function: &Rc<Function>, fault: &Fault) {
        let (name, version) = (function.plan.name.clone(), function.plan.version.clone());
        let current = Rc::clone(&self.0.version.borrow());
        let runs = current.functions.get(place).is_some_and(|f| Rc::ptr_eq(f, function));
        let before = if runs { function.before() } else { None };
        let fault = fault.clone();
        let notice = match before {
            Some(before) => {
                self.set(current.with(place, before));
                Notice::RolledBack { function: name, version, fault }
            }
            None => Notice::Fault { function: name, version, fault },
        };
        (self.0.notices)(notice);
    }

    /// An exchange is over; a later part of one is not counted for itself.
    pub(crate) fn closed(&self, number: u32, counts: bool) {
        self.0.counters.ended.fetch_add(u64::from(counts), Ordering::Relaxed);
        self.0.numbers.borrow_mut().0.push(number);
    }

    pub(crate) fn count_exhausted(&self) {
        self.0.counters.exhausted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rooms(&self) -> &Rooms {
        &self.0.site.rooms
    }

    /// Bytes, and pieces, of a body that functions may hold back.
    pub(crate) fn hold(&self) -> (usize, usize) {
        (self.0.site.hold, self.0.site.rooms.lock().rooms() as usize / HOLD_SHARE)
    }

    pub(crate) fn environment(&self) -> &Rc<dyn Environment> {
        &self.0.environment
    }

    fn without_trial(&self) -> Result<Rc<Version>, MessageError> {
        let version = Rc::clone(&self.0.version.borrow());
        if version.canary.is_some() || version.shadow.is_some() {
            let message = "another version is being tried: promote it or end its trial first";
            return Err(MessageError::Trial(message.into()));
        }
        Ok(version)
    }

    fn function(&self, place: usize, staged: StagedFunction) -> Function {
        let position = Position { chain: self.0.name.clone(), names: self.names(), place };
        Function::new(self.0.site.clone(), position, staged)
    }

    fn set(&self, version: Version) {
        self.0.interests.set(version.interests());
        // With the next event, the clock of deadlines is the new version's.
        self.0.ticking.borrow_mut().take();
        *self.0.version.borrow_mut() = Rc::new(version);
        self.0.wake.notify_one();
    }
}

fn new_version(site: &Site, name: &str, functions: Vec<StagedFunction>) -> Version {
    let names: Vec<String> = functions.iter().map(|f| f.plan.name.clone()).collect();
    let functions = functions.into_iter().enumerate().map(|(place, staged)| {
        let position = Position { chain: name.to_owned(), names: names.clone(), place };
        Rc::new(Function::new(site.clone(), position, staged))
    });
    Version { functions: functions.collect(), shadow: None, canary: None }
}

fn no_canary() -> MessageError {
    MessageError::Trial("no canary is on".into())
}
