//! Telling a function of an event, and what it asks for along with its answer.

use futures_util::StreamExt as _;
use weir_exchange::{Direction, Pieces};
use weir_layout::message::{Action, Outcome};
use weir_sandbox::Fault;

use crate::context::Effects;
use crate::exchange::Inner;
use crate::function::Called;
use crate::instance::{Event, contract};

/// What became of an event at one function.
pub(crate) enum Told {
    Outcome(Outcome),
    Answer(Box<http::Response<Pieces>>),
    Skip,
    Failed,
}

/// A function waits in an event.
pub(crate) struct Waits {
    place: usize,
    direction: Direction,
    /// What it has answered already.
    answer: Option<Box<http::Response<Pieces>>>,
    /// The last outcome that said something of changes.
    said: Outcome,
}

/// The outcome of an event in which a function has `said` something of changes before it waited:
/// that holds, too, if it lets the head or piece go on and says nothing else.
fn with_changes(said: Outcome, outcome: Outcome) -> Outcome {
    let goes_on = matches!(outcome.action, Action::Continue | Action::Done | Action::Hold);
    if !goes_on || tells_changes(outcome) {
        return outcome;
    }
    let Outcome { changed, replaced, length, .. } = said;
    Outcome { changed, replaced, length, ..outcome }
}

fn tells_changes(outcome: Outcome) -> bool {
    outcome.changed || outcome.replaced
}

impl Inner {
    /// Tells a function. `bytes` reads the head or piece that the event is about, which the
    /// function may write to meanwhile; `at` is when it begins, and then when it has ended.
    pub(crate) fn tell<'r>(
        &self,
        place: usize,
        direction: Direction,
        event: Event,
        bytes: impl Fn() -> &'r [u8],
        at: &mut u64,
    ) -> Result<Told, Waits> {
        let (function, seat) = (self.function(place), &self.seats[place]);
        let shadow = self.version.shadow.as_ref().filter(|shadow| shadow.place == place);
        let shown =
            shadow.and_then(|shadow| shadow.show(self.chain.rooms(), self.number, event, bytes()));
        if shadow.is_some() {
            *at = self.chain.moment();
        }
        let called = function.call(self.number, seat, event, at);
        self.chain.note_timer(function.timer());
        if let (Some(shadow), Some(shown), Called::Outcome(outcome, _)) = (shadow, shown, &called) {
            shadow.compare(&shown, *outcome, bytes());
        }
        let said = Outcome::default();
        self.heed(Waits { place, direction, answer: None, said }, called)
    }

    /// Waits as long as the function does.
    pub(crate) async fn wait(&self, mut waits: Waits) -> Told {
        loop {
            let Waits { place, direction, .. } = waits;
            let flow = &self.flows[direction as usize];
            let next = match flow.take_asks(place) {
                Some(mut asks) => {
                    let next = asks.next().await;
                    flow.asks.borrow_mut().push((place, asks));
                    next
                }
                None => None,
            };
            let function = self.function(place);
            let Some(ready) = next else {
                let fault = contract("it waits, and has asked for nothing".into());
                function.fault(&fault);
                return self.failed(place, &fault);
            };
            let Some(laid) = ready.lay_out(self.chain.rooms(), &self.origin) else {
                self.chain.count_exhausted();
                return Told::Failed;
            };
            let mut at = self.chain.moment();
            let called = function.call(self.number, &self.seats[place], laid.event(), &mut at);
            match self.heed(waits, called) {
                Ok(told) => return told,
                Err(again) => waits = again,
            }
        }
    }

    /// What follows from a call, with what was asked for in it set about.
    fn heed(&self, mut waits: Waits, called: Called) -> Result<Told, Waits> {
        let Waits { place, direction, .. } = waits;
        let outcome = match called {
            Called::Outcome(outcome, effects) => {
                if let Some(effects) = effects {
                    self.carry_out(*effects, &mut waits);
                }
                outcome
            }
            Called::Skip => return Ok(Told::Skip),
            Called::Refuse => return Ok(Told::Failed),
            Called::Fault(fault) => return Ok(self.failed(place, &fault)),
        };
        if outcome.action == Action::Wait {
            if tells_changes(outcome) {
                waits.said = outcome;
            }
            return Err(waits);
        }
        if outcome.action == Action::Answer && waits.answer.is_none() {
            let fault = contract("it says `answer` and has given none".into());
            self.function(place).fault(&fault);
            return Ok(self.failed(place, &fault));
        }
        self.background(place, direction);
        match (outcome.action, waits.answer) {
            (Action::Answer, Some(response)) => Ok(Told::Answer(response)),
            _ => Ok(Told::Outcome(with_changes(waits.said, outcome))),
        }
    }

    /// Notes what an event asked for.
    fn carry_out(&self, effects: Effects, waits: &mut Waits) {
        let Waits { place, direction, .. } = *waits;
        if direction == Direction::Request && effects.route.is_some() {
            self.upstream.set(effects.route);
        }
        if let Some(answer) = effects.answer {
            waits.answer = Some(Box::new(answer));
        }
        if effects.asks.is_empty() {
            return;
        }
        let flow = &self.flows[direction as usize];
        let mut asks = flow.take_asks(place).unwrap_or_default();
        asks.extend(effects.asks.into_iter().map(|ask| self.chain.ask(ask)));
        flow.asks.borrow_mut().push((place, asks));
    }

    /// What a function asked for and does not wait for goes on without the exchange.
    fn background(&self, place: usize, direction: Direction) {
        let asks = self.flows[direction as usize].take_asks(place);
        if let Some(asks) = asks.filter(|asks| !asks.is_empty()) {
            self.chain.go_on(self.number, self.function(place), asks);
        }
    }

    /// A function faulted in an event.
    fn failed(&self, place: usize, fault: &Fault) -> Told {
        self.chain.faulted(place, self.function(place), fault);
        if self.function(place).fails_open() { Told::Skip } else { Told::Failed }
    }

    /// A function broke its contract: whether the exchange cannot go on.
    pub(crate) fn broke(&self, place: usize, what: String) -> bool {
        let fault = contract(what);
        self.function(place).fault(&fault);
        matches!(self.failed(place, &fault), Told::Failed)
    }
}
