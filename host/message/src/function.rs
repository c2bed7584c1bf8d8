//! A function of a running chain: calling it, and what becomes of it when it faults.
//!
//! After a fault its instance is gone, and with it what it knew of the exchanges it had seen. A new
//! one is made on a thread of its own, over the same state region, while the function is out of
//! order.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use weir_layout::message::{Outcome, Wants};
use weir_sandbox::{
    FOLLOWING, Fault, Health, InstanceError, Level, OnFault, PROBATION, Record, State,
};

use crate::clock;
use crate::context::Effects;
use crate::instance::{Event, Instance};
use crate::plan::{FunctionPlan, MessageError, Proxy, Site, StagedFunction};

/// How long until a thread for a new instance is asked for again, in nanoseconds, if there was
/// none.
const NO_THREAD: u64 = 200_000_000;

/// What an exchange remembers of a function.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Which instance was called for it, counted from 1; 0 for none.
    generation: Cell<u32>,
    /// It wants no more events of this exchange.
    pub(crate) done: Cell<bool>,
}

impl Seat {
    /// Whether the function was called for the exchange.
    pub(crate) fn called(&self) -> bool {
        self.generation.get() != 0
    }
}

/// What became of a call.
pub(crate) enum Called {
    /// It answered.
    Outcome(Outcome, Option<Box<Effects>>),
    /// It is to be passed by.
    Skip,
    /// Nothing may go past it.
    Refuse,
    /// It faulted just now.
    Fault(Fault),
}

/// Where a function stands.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// The chain's name.
    pub(crate) chain: String,
    /// Names of its functions.
    pub(crate) names: Vec<String>,
    /// This one's place.
    pub(crate) place: usize,
}

/// See the module.
pub(crate) struct Function {
    pub(crate) plan: FunctionPlan,
    pub(crate) state: Option<Arc<State>>,
    site: Site,
    position: Position,
    inner: RefCell<Inner>,
    wants: Cell<Wants>,
    /// New exchanges get it.
    runs: Cell<bool>,
    /// It was told something: one that was not has nothing to tell, and may not be fit to be told
    /// anything.
    began: Cell<bool>,
}

impl Drop for Function {
    fn drop(&mut self) {
        if self.began.get() {
            // A function that faults in its last moment harms nobody.
            drop(self.inner.get_mut().flush(&self.site));
        }
    }
}

struct Inner {
    instance: Option<Instance>,
    record: Record,
    generation: u32,
    repair: Option<Receiver<Result<StagedFunction, MessageError>>>,
    before: Replaced<Rc<Function>>,
}

impl Inner {
    /// Calls `tick` ahead of the time that it asked for, if it asked for one: functions that count
    /// hand over by it what they counted.
    fn flush(&mut self, site: &Site) -> Result<(), Fault> {
        let asked = self.instance.as_mut().filter(|instance| instance.timer() != 0);
        let Some(instance) = asked else { return Ok(()) };
        let _ticking = site.sandbox.ticker().tick();
        // The time as it is: to other times it would forget what a successor has in the same state
        // region.
        instance.tick(clock::monotonic()).map(drop)
    }
}

/// What was replaced, for as long as it may come back, and until when a fault brings it back.
struct Replaced<T>(Option<(T, u64)>);

impl<T> Replaced<T> {
    fn new(what: T, now: u64) -> Self {
        Self(Some((what, now.saturating_add(PROBATION))))
    }

    /// No fault brings it back.
    fn for_undoing(what: T, now: u64) -> Self {
        Self(Some((what, now)))
    }

    fn take_for_fault(&mut self, now: u64) -> Option<T> {
        self.0.take_if(|(_, until)| now < *until).map(|(what, _)| what)
    }

    fn take(&mut self) -> Option<T> {
        self.0.take().map(|(what, _)| what)
    }

    fn forget(&mut self, now: u64) {
        self.0.take_if(|(_, until)| until.saturating_add(FOLLOWING) <= now);
    }
}

impl Function {
    pub(crate) fn new(site: Site, position: Position, staged: StagedFunction) -> Self {
        let StagedFunction { plan, instance, state, .. } = staged;
        let wants = Cell::new(instance.as_ref().map(Instance::wants).unwrap_or_default());
        let record = Record::new(plan.on_fault);
        plan.counters.set_health(record.health);
        let inner = Inner { instance, record, generation: 1, repair: None, before: Replaced(None) };
        let (runs, began) = (Cell::new(true), Cell::new(false));
        Self { plan, state, site, position, inner: RefCell::new(inner), wants, runs, began }
    }

    /// Keeps what it replaced for a while.
    pub(crate) fn watch(&self, before: Rc<Self>) {
        self.keep(before, Replaced::new);
    }

    /// Keeps what it replaced for whoever undoes that.
    pub(crate) fn keep_for_undoing(&self, before: Rc<Self>) {
        self.keep(before, Replaced::for_undoing);
    }

    fn keep(&self, before: Rc<Self>, how: impl Fn(Rc<Self>, u64) -> Replaced<Rc<Self>>) {
        // Two steps back are enough: the second is for whoever undoes this one.
        if let Some((second, _)) = &before.inner.borrow().before.0 {
            second.unwatch();
        }
        self.inner.borrow_mut().before = how(before, clock::monotonic());
    }

    /// What it replaced, if a fault brings that back now: that has nothing more to go back to.
    pub(crate) fn before_fault(&self) -> Option<Rc<Self>> {
        let before = self.inner.borrow_mut().before.take_for_fault(clock::monotonic())?;
        before.unwatch();
        Some(before)
    }

    /// What it replaced, if that is still known.
    pub(crate) fn replaced(&self) -> Option<Rc<Self>> {
        self.inner.borrow_mut().before.take()
    }

    /// Lets what it replaced go.
    pub(crate) fn unwatch(&self) {
        drop(self.replaced());
    }

    /// Lets what it replaced go, if nobody can ask for that any more.
    pub(crate) fn forget(&self, now: u64) {
        self.inner.borrow_mut().before.forget(now);
    }

    /// Events that it wants.
    pub(crate) fn wants(&self) -> Wants {
        self.wants.get()
    }

    /// When it wants its `tick`, 0 for never.
    pub(crate) fn timer(&self) -> u64 {
        self.inner.borrow().instance.as_ref().map_or(0, Instance::timer)
    }

    /// Tells it what happened to an exchange that it has this seat in. `at` is when the event
    /// begins (monotonic nanoseconds), and then when it has ended: the next function's begins then,
    /// which saves it a look at the clock.
    pub(crate) fn call(&self, exchange: u32, seat: &Seat, event: Event, at: &mut u64) -> Called {
        let mut inner = self.inner.borrow_mut();
        if !self.can_tell(&mut inner, seat) {
            return self.out_of_order();
        }
        seat.generation.set(inner.generation);
        let Some(instance) = inner.instance.as_mut() else { return self.out_of_order() };
        self.began.set(true);
        match instance.call(exchange, event) {
            Ok((outcome, effects)) => {
                let began = std::mem::replace(at, clock::monotonic());
                let time = Duration::from_nanos(at.saturating_sub(began));
                self.plan.counters.count(outcome.action, time);
                if outcome.forgotten {
                    seat.generation.set(0);
                }
                Called::Outcome(outcome, effects)
            }
            Err(fault) => {
                self.break_down(&mut inner, &fault);
                Called::Fault(fault)
            }
        }
    }

    /// Tells it that an exchange is over.
    pub(crate) fn ended(
        &self,
        exchange: u32,
        seat: &Seat,
        (how, upstream, nanoseconds): (u32, u32, u64),
    ) -> Option<Fault> {
        let mut inner = self.inner.borrow_mut();
        if !self.wants().has(Wants::ENDED) || seat.generation.get() != inner.generation {
            return None;
        }
        let instance = inner.instance.as_mut()?;
        let fault = instance.ended(exchange, how, upstream, nanoseconds).err()?;
        self.break_down(&mut inner, &fault);
        Some(fault)
    }

    /// Calls its `tick` if its time has come: what that asked for.
    pub(crate) fn tick(&self, now: u64) -> Option<Result<Option<Box<Effects>>, Fault>> {
        let mut inner = self.inner.borrow_mut();
        let instance = inner.instance.as_mut()?;
        if instance.timer() == 0 || instance.timer() > now {
            return None;
        }
        self.began.set(true);
        let ticked = instance.tick(now);
        if let Err(fault) = &ticked {
            self.break_down(&mut inner, fault);
        }
        Some(ticked)
    }

    /// No exchange has it any more: if new ones do not get it, either, it is asked for what it has
    /// counted and not told yet.
    pub(crate) fn left(&self) {
        if self.runs.get() || !self.began.get() {
            return;
        }
        let mut inner = self.inner.borrow_mut();
        if let Err(fault) = inner.flush(&self.site) {
            self.note_fault(&mut inner, &fault);
            // It has a new instance when it comes back.
            inner.record.health = Health::BackOff { until: clock::monotonic() };
            self.plan.counters.set_health(inner.record.health);
        }
    }

    /// What it asked for when it was configured.
    pub(crate) fn left_over(&self) -> Option<Box<Effects>> {
        self.inner.borrow_mut().instance.as_mut().and_then(Instance::left_over)
    }

    /// Whether it is a service.
    pub(crate) fn is_service(&self) -> bool {
        self.plan.proxy.is_some()
    }

    /// Whether new exchanges get it; only then the instances of a service serve several.
    pub(crate) fn runs(&self, runs: bool) {
        self.runs.set(runs);
        if let Some(proxy) = self.plan.proxy.as_ref().and_then(Proxy::here) {
            proxy.reuses_instances(runs);
        }
    }

    /// A service begins with an exchange: none if it may, else what becomes of the exchange.
    pub(crate) fn enters(&self) -> Option<Called> {
        let mut inner = self.inner.borrow_mut();
        (!self.is_ready(&mut inner)).then(|| self.out_of_order())
    }

    /// A service's guest ended by a fault of its own. Those that had begun before the first of
    /// several add nothing to its record.
    pub(crate) fn guest_fault(&self, fault: &Fault) {
        if let Some(proxy) = self.plan.proxy.as_ref().and_then(Proxy::here) {
            proxy.forget_instances();
        }
        let mut inner = self.inner.borrow_mut();
        if inner.record.health == Health::Running {
            return self.break_down(&mut inner, fault);
        }
        self.plan.counters.faults.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.log_fault(fault);
    }

    /// It broke its contract in a way that only the chain sees.
    pub(crate) fn fault(&self, fault: &Fault) {
        self.break_down(&mut self.inner.borrow_mut(), fault);
    }

    /// What it saved, if it exports `snapshot` and is not out of order.
    ///
    /// # Errors
    /// When `save` trapped: then it is out of order, and gets a new instance.
    pub(crate) fn save(&self) -> Result<Option<Vec<u8>>, InstanceError> {
        let mut inner = self.inner.borrow_mut();
        let Some(instance) = inner.instance.as_mut() else { return Ok(None) };
        let _ticking = self.site.sandbox.ticker().tick();
        let saved = instance.save();
        if let Err(InstanceError::Fault { fault, .. }) = &saved {
            self.break_down(&mut inner, fault);
        }
        saved
    }

    /// Gives it what its predecessor saved.
    ///
    /// # Errors
    /// When it refuses that, or `restore` trapped: nothing is told to that instance any more.
    pub(crate) fn restore(&self, saved: Vec<u8>) -> Result<(), InstanceError> {
        let mut inner = self.inner.borrow_mut();
        let Some(instance) = inner.instance.as_mut() else { return Ok(()) };
        let _ticking = self.site.sandbox.ticker().tick();
        let restored = instance.restore(saved);
        if let Err(InstanceError::Fault { .. }) = &restored {
            inner.instance = None;
        }
        restored
    }

    /// Whether it fails open.
    pub(crate) fn fails_open(&self) -> bool {
        self.plan.on_fault == OnFault::FailOpen
    }

    /// Whether it would be passed by if something happened to an exchange that it has this seat in.
    pub(crate) fn is_passed_by(&self, seat: &Seat) -> bool {
        self.fails_open() && !self.can_tell(&mut self.inner.borrow_mut(), seat)
    }

    /// Whether it can be told what happens to an exchange that it has this seat in: a later
    /// instance does not know it.
    fn can_tell(&self, inner: &mut Inner, seat: &Seat) -> bool {
        let known = seat.generation.get();
        self.is_ready(inner) && (known == 0 || known == inner.generation)
    }

    fn is_ready(&self, inner: &mut Inner) -> bool {
        if inner.record.health == Health::Running {
            return true;
        }
        let now = clock::monotonic();
        if !matches!(inner.record.health, Health::BackOff { until } if until <= now) {
            return false;
        }
        if self.plan.proxy.is_some() {
            // The next exchange has an instance of its own.
            inner.record.recover(now);
            self.plan.counters.set_health(inner.record.health);
            return true;
        }
        let Some(repair) = &inner.repair else {
            self.begin_repair(inner, now);
            return false;
        };
        match repair.try_recv() {
            Ok(Ok(staged)) => {
                self.wants.set(staged.instance.as_ref().map(Instance::wants).unwrap_or_default());
                inner.instance = staged.instance;
                inner.generation += 1;
                inner.repair = None;
                inner.record.recover(now);
                self.plan.counters.set_health(inner.record.health);
                true
            }
            Ok(Err(error)) => {
                self.plan.telemetry.fault(&format!("starting anew: {error}"));
                self.repair(inner, now, Duration::ZERO);
                false
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => {
                self.repair(inner, now, Duration::ZERO);
                false
            }
        }
    }

    fn out_of_order(&self) -> Called {
        let counters = &self.plan.counters;
        let (count, called) = if self.fails_open() {
            (&counters.skipped, Called::Skip)
        } else {
            (&counters.refused, Called::Refuse)
        };
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        called
    }

    fn break_down(&self, inner: &mut Inner, fault: &Fault) {
        self.note_fault(inner, fault);
        self.repair(inner, clock::monotonic(), fault.lost);
    }

    fn note_fault(&self, inner: &mut Inner, fault: &Fault) {
        inner.instance = None;
        self.plan.counters.faults.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.log_fault(fault);
    }

    fn log_fault(&self, fault: &Fault) {
        self.plan.telemetry.fault(&format!("fault: {fault}"));
    }

    /// Puts it out of order, and has a new instance made meanwhile.
    fn repair(&self, inner: &mut Inner, now: u64, lost: Duration) {
        inner.record.fault(now, lost);
        self.plan.counters.set_health(inner.record.health);
        inner.repair = None;
        if inner.record.health != Health::Quarantined && self.plan.proxy.is_none() {
            self.begin_repair(inner, now);
        }
    }

    /// Has a new instance made on a thread of its own. If there is none it stays out of order for
    /// now, which is no fault of its own.
    fn begin_repair(&self, inner: &mut Inner, now: u64) {
        let (done, repaired) = channel();
        let (site, plan, state) = (self.site.clone(), self.plan.clone(), self.state.clone());
        let Position { chain, names, place } = self.position.clone();
        let started = std::thread::Builder::new().name("weir-repair".into()).spawn(move || {
            // Nobody waits for it any more if the function was replaced meanwhile.
            let _ = done.send(site.stage_function(&chain, &names, place, plan, state));
        });
        match started {
            Ok(_) => inner.repair = Some(repaired),
            Err(error) => {
                let least = now.saturating_add(NO_THREAD);
                let until = match inner.record.health {
                    Health::BackOff { until } => until.max(least),
                    _ => least,
                };
                inner.record.health = Health::BackOff { until };
                let text = format!("starting anew has to wait: the host has no thread: {error}");
                self.plan.telemetry.log(Level::Error, &text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FOLLOWING, PROBATION, Replaced};

    #[test]
    fn what_was_replaced_is_known_for_longer_than_a_fault_brings_it_back() {
        let mut replaced = Replaced::new("1", 5);
        replaced.forget(5 + PROBATION);
        assert_eq!(replaced.take_for_fault(5 + PROBATION), None);
        assert_eq!(replaced.take(), Some("1"));
        assert_eq!(Replaced::new("1", 5).take_for_fault(4 + PROBATION), Some("1"));
        let mut replaced = Replaced::new("1", 5);
        replaced.forget(5 + PROBATION + FOLLOWING);
        assert_eq!(replaced.take(), None);
    }
}
