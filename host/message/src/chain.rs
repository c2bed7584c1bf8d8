//! A chain on one thread: its running version, and those that come and go.
//!
//! A swap makes a new [`Version`] that shares all functions but one with the version before.
//! Exchanges keep the version they began with, so nothing that is under way notices; the last of
//! them takes the old version with it.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use weir_exchange::{Counter, Environment, Interests, Kind, Origin};
use weir_layout::message::SPARE_BYTES;
use weir_pool::Rooms;
use weir_sandbox::{Fault, States, Ticking};

use crate::clock;
use crate::exchange::Exchange;
use crate::function::Function;
use crate::orders::Orders;
use crate::plan::{Site, StagedChain};

mod behind;
mod trials;
mod version;

use version::new_version;
pub(crate) use version::{Part, Version};

/// The part of the rooms that one body may hold: one of so many.
const HOLD_SHARE: usize = 4;

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
        /// It has faulted too often, and is not called any more.
        quarantined: bool,
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
    /// Exchanges that were opened, of those that count ([`Kind::counts`]).
    pub opened: Counter,
    /// Those that have ended.
    pub ended: Counter,
    /// Times for which there was no room in the pool.
    pub exhausted: AtomicU64,
}

/// See the module.
#[derive(Clone)]
pub struct Chain(Rc<Inner>);

pub(crate) struct Inner {
    site: Site,
    name: String,
    version: RefCell<Rc<Version>>,
    /// How many versions were replaced.
    replaced_versions: Cell<u32>,
    interests: Cell<Interests>,
    environment: Rc<dyn Environment>,
    notices: Box<dyn Fn(Notice)>,
    /// Until [`Chain::drive`] has it.
    orders: RefCell<Option<Orders>>,
    counters: Arc<ChainCounters>,
    /// Numbers that are free, and the next one that never was used.
    numbers: RefCell<(Vec<u32>, u32)>,
    background: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    /// Nobody can give orders any more.
    replaced: Cell<bool>,
    /// Visits of services whose ends are still to be counted.
    visits: Cell<usize>,
    wake: Notify,
    ticking: RefCell<Option<Ticking>>,
    /// The timer that `drive` waits for, 0 for none.
    timer: Cell<u64>,
    /// Monotonic nanoseconds.
    last_event: Cell<u64>,
    /// Memory for copies of heads: an exchange has one during an event.
    scratch: Cell<Vec<u8>>,
}

impl Chain {
    /// A chain of what was staged, on this thread. [`Self::drive`] has to be driven along with it.
    #[must_use]
    pub fn new(
        staged: StagedChain,
        environment: Rc<dyn Environment>,
        orders: Orders,
        counters: Arc<ChainCounters>,
        notices: Box<dyn Fn(Notice)>,
    ) -> Self {
        let StagedChain { site, name, functions } = staged;
        let version = Rc::new(new_version(&site, &name, functions));
        let chain = Self(Rc::new(Inner {
            interests: Cell::new(version.interests()),
            version: RefCell::new(Rc::clone(&version)),
            replaced_versions: Cell::default(),
            site,
            name,
            environment,
            notices,
            orders: RefCell::new(Some(orders)),
            counters,
            numbers: RefCell::default(),
            background: RefCell::default(),
            replaced: Cell::default(),
            visits: Cell::default(),
            wake: Notify::new(),
            ticking: RefCell::default(),
            timer: Cell::new(0),
            last_event: Cell::new(clock::monotonic()),
            scratch: Cell::default(),
        }));
        version.functions.iter().for_each(|function| chain.started(function));
        chain
    }

    /// Events that some function wants.
    #[must_use]
    pub fn interests(&self) -> Interests {
        self.0.interests.get()
    }

    /// Most bytes of a piece of a body: a room, with some to spare for functions that make it
    /// longer.
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
    pub fn open(&self, origin: &Origin, kind: Kind) -> Exchange {
        let inner = &self.0;
        let number = self.number();
        let counts = kind.counts();
        inner.counters.opened.add(u64::from(counts));
        let version = Rc::clone(&inner.version.borrow());
        let canary = version.canary.as_ref().is_some_and(|trial| {
            let mut hasher = DefaultHasher::new();
            (inner.name.as_str(), origin.client.ip()).hash(&mut hasher);
            let chosen = hasher.finish() % 100 < u64::from(trial.percent);
            trial.findings.events.fetch_add(u64::from(chosen && counts), Ordering::Relaxed);
            chosen
        });
        Exchange::new(self.clone(), version, number, (origin, kind), canary)
    }

    /// How many versions of it were replaced: by swaps, and by trials that began, changed or ended.
    #[must_use]
    pub fn replaced_versions(&self) -> u32 {
        self.0.replaced_versions.get()
    }

    /// Whether new exchanges get this version.
    pub(crate) fn runs(&self, version: &Rc<Version>) -> bool {
        Rc::ptr_eq(&self.0.version.borrow(), version)
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

    /// A function is about to be called: the time, which it is told, in monotonic nanoseconds. The
    /// clock of deadlines runs from now on.
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
        version.functions.iter().filter_map(|function| function.state.clone()).collect()
    }

    /// Names of the functions.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.version.borrow().functions.iter().map(|f| f.plan.name.clone()).collect()
    }

    /// A function faulted: the operator is told, and what it replaced a moment ago is brought back.
    pub(crate) fn faulted(&self, place: usize, function: &Rc<Function>, fault: &Fault) {
        let (name, version) = (function.plan.name.clone(), function.plan.version.clone());
        let current = Rc::clone(&self.0.version.borrow());
        let runs = current.functions.get(place).is_some_and(|f| Rc::ptr_eq(f, function));
        let before = if runs { function.before_fault() } else { None };
        let fault = fault.clone();
        let notice = match before {
            Some(before) => {
                self.set(current.with(place, before));
                Notice::RolledBack { function: name, version, fault }
            }
            None => {
                let quarantined = function.plan.counters.is_quarantined();
                Notice::Fault { function: name, version, fault, quarantined }
            }
        };
        (self.0.notices)(notice);
    }

    /// An exchange is over.
    pub(crate) fn closed(&self, number: u32, counts: bool) {
        self.0.counters.ended.add(u64::from(counts));
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

    /// Memory for a copy of a head; a used one if there is one.
    pub(crate) fn scratch(&self) -> Vec<u8> {
        self.0.scratch.take()
    }

    /// The memory will be used again.
    pub(crate) fn keep_scratch(&self, scratch: Vec<u8>) {
        self.0.scratch.set(scratch);
    }
}
