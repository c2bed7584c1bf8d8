//! A version that sees copies of a function's events and decides nothing: where would it have
//! decided otherwise?
//!
//! What it asks for is not carried out, so an event in which it waits is not compared. A service is
//! shown visits that are over ([`crate::replay`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use weir_exchange::{Environment, Origin};
use weir_layout::message::{Action, Head, Outcome, Part};
use weir_pool::{Room, Rooms};

use crate::function::{Called, Function, Seat};
use crate::instance::Event;
use crate::plan::Proxy;
use crate::replay::{Shown, replay};
use crate::tape::Tape;

/// Differences that are told in full.
const SAMPLES: usize = 16;
/// Visits to a service that are kept at a time, on one thread.
const VISITS: u32 = 64;

/// What a trial has shown.
#[derive(Debug, Default)]
pub struct Findings {
    /// Events that the version on trial was told, or visits that it was shown.
    pub events: AtomicU64,
    /// Those that it answered with another action.
    pub actions_differ: AtomicU64,
    /// Those that it answered with the same action, but other bytes.
    pub bytes_differ: AtomicU64,
    samples: Mutex<Vec<String>>,
}

impl Findings {
    /// The first differences, for people. A fault has lines of source in it, if there are any, and
    /// once they are known.
    #[must_use]
    pub fn samples(&self) -> Vec<String> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        samples.into_iter().map(|sample| weir_sandbox::explain_soon(&sample)).collect()
    }

    /// What another process has found since the last time.
    pub fn absorb(&self, [events, actions, bytes]: [u64; 3], samples: Vec<String>) {
        self.events.fetch_add(events, Ordering::Relaxed);
        self.actions_differ.fetch_add(actions, Ordering::Relaxed);
        self.bytes_differ.fetch_add(bytes, Ordering::Relaxed);
        let mut all = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SAMPLES.saturating_sub(all.len());
        all.extend(samples.into_iter().take(room));
    }

    /// What was found since the last time, to pass on to another process.
    #[must_use]
    pub fn take(&self) -> ([u64; 3], Vec<String>) {
        let counters = [&self.events, &self.actions_differ, &self.bytes_differ];
        let samples =
            std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        (counters.map(|counter| counter.swap(0, Ordering::Relaxed)), samples)
    }

    fn differs(&self, counter: &AtomicU64, what: String) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < SAMPLES {
            samples.push(what);
        }
    }
}

/// See the module.
pub(crate) struct Shadow {
    pub(crate) place: usize,
    pub(crate) function: Rc<Function>,
    pub(crate) findings: Arc<Findings>,
    /// Exchanges that it was told of from the first event on, with what it remembers of them.
    seats: RefCell<HashMap<u32, Seat>>,
    /// Visits that are kept now.
    visits: Cell<u32>,
    over: Cell<bool>,
}

/// A visit to a service that is kept for its shadow.
pub(crate) struct Visit(Rc<Shadow>);

/// What the shadow did with its copy.
pub(crate) struct Done {
    outcome: Outcome,
    room: Room,
    head: bool,
}

impl Shadow {
    pub(crate) fn new(place: usize, function: Rc<Function>, findings: Arc<Findings>) -> Self {
        let (seats, visits) = (RefCell::default(), Cell::default());
        Self { place, function, findings, seats, visits, over: Cell::new(false) }
    }

    /// Shows it a copy of an event before the function itself has it; none if there is nothing to
    /// compare.
    pub(crate) fn show(
        &self,
        rooms: &Rooms,
        exchange: u32,
        event: Event,
        bytes: &[u8],
    ) -> Option<Done> {
        if self.over.get() {
            return None;
        }
        let mut room = rooms.take()?;
        room.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let start = room.offset();
        let (event, head) = match event {
            Event::RequestHead { .. } => (Event::RequestHead { head: start }, true),
            Event::ResponseHead { .. } => (Event::ResponseHead { head: start }, true),
            Event::RequestBody { length, last, .. } => {
                (Event::RequestBody { offset: start, length, last }, false)
            }
            Event::ResponseBody { length, last, .. } => {
                (Event::ResponseBody { offset: start, length, last }, false)
            }
            Event::Resume { .. } => return None,
        };
        let first = matches!(event, Event::RequestHead { .. });
        let mut seats = self.seats.borrow_mut();
        if !first && !seats.contains_key(&exchange) {
            return None;
        }
        let seat = seats.entry(exchange).or_default();
        // Its time is its own.
        let mut at = crate::clock::monotonic();
        match self.function.call(exchange, seat, event, &mut at) {
            Called::Outcome(outcome, _) => {
                self.findings.events.fetch_add(1, Ordering::Relaxed);
                (outcome.action != Action::Wait).then_some(Done { outcome, room, head })
            }
            Called::Fault(fault) => {
                self.over.set(true);
                self.findings.differs(&self.findings.actions_differ, format!("fault: {fault}"));
                None
            }
            Called::Skip | Called::Refuse => None,
        }
    }

    /// Compares with what the function itself did.
    pub(crate) fn compare(&self, done: &Done, outcome: Outcome, bytes: &[u8]) {
        let Done { outcome: other, room, head } = done;
        if outcome.action == Action::Wait {
            return;
        }
        if outcome.action != other.action {
            let what = format!("{:?} instead of {:?}", other.action, outcome.action);
            return self.findings.differs(&self.findings.actions_differ, what);
        }
        let same = if *head {
            content(bytes) == content(room.bytes())
        } else {
            let length = |outcome: &Outcome| {
                if outcome.changed { outcome.length as usize } else { bytes.len() }
            };
            let (one, two) = (length(&outcome), length(other));
            outcome.replaced == other.replaced && bytes.get(..one) == room.bytes().get(..two)
        };
        if !same {
            let what = if *head { "another head" } else { "another piece of a body" };
            self.findings.differs(&self.findings.bytes_differ, what.into());
        }
    }

    /// A visit to the service that it shadows begins: none if as many are kept as may be.
    pub(crate) fn visit(self: &Rc<Self>) -> Option<Visit> {
        let visits = self.visits.get();
        if self.over.get() || visits == VISITS {
            return None;
        }
        self.visits.set(visits + 1);
        Some(Visit(Rc::clone(self)))
    }

    /// Forgets an exchange.
    pub(crate) fn ended(&self, exchange: u32, how: (u32, u32, u64)) {
        if let Some(seat) = self.seats.borrow_mut().remove(&exchange) {
            self.function.ended(exchange, &seat, how);
        }
    }
}

impl Visit {
    /// The visit is over: what does the version on trial do?
    pub(crate) async fn compare(
        &self,
        tape: &Tape,
        origin: &Origin,
        environment: &Rc<dyn Environment>,
    ) {
        let Self(shadow) = self;
        let Some(proxy) = shadow.function.plan.proxy.as_ref().and_then(Proxy::here) else { return };
        if tape.is_torn() || shadow.over.get() {
            return;
        }
        let shown = replay(tape, proxy, origin, environment).await;
        let findings = &shadow.findings;
        if !matches!(shown, Shown::Nothing) {
            findings.events.fetch_add(1, Ordering::Relaxed);
        }
        match shown {
            Shown::Nothing | Shown::Same => {}
            Shown::Otherwise(what) => findings.differs(&findings.actions_differ, what),
            Shown::Bytes(what) => findings.differs(&findings.bytes_differ, what.into()),
            Shown::Fault(fault) => {
                shadow.over.set(true);
                shadow.function.guest_fault(&fault);
                findings.differs(&findings.actions_differ, format!("fault: {fault}"));
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Self(shadow) = self;
        shadow.visits.set(shadow.visits.get() - 1);
    }
}

/// What a head says, wherever its strings lie.
fn content(bytes: &[u8]) -> Option<(u16, Vec<Vec<u8>>)> {
    let head = Head::new(bytes)?;
    let parts =
        [Part::Method, Part::Path, Part::Authority].map(|part| head.part(part).unwrap_or_default());
    let fields = head.fields().flat_map(|(name, value)| [name, value]);
    Some((head.status(), parts.into_iter().chain(fields).map(<[u8]>::to_vec).collect()))
}
