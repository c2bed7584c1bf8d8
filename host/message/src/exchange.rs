//! A request with its response, or a connection, on its way through a chain.
//!
//! Requests pass the functions first to last, responses last to first; what function *k* answers itself passes those before it. An
//! exchange keeps to the versions of functions that it began with.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use weir_exchange::{BodyStep, Direction, Ended, Leg, Legs, Origin, Pieces, Step};
use weir_layout::message::{Action, Outcome, Wants};
use weir_pool::{Part, Room};
use weir_sandbox::Fault;

use crate::chain::{Chain, Part as LegPart, Version};
use crate::context::Effects;
use crate::flow::Flow;
use crate::function::{Called, Function, Seat};
use crate::head;
use crate::instance::{Event, contract};
use crate::service::Station;
use crate::words;

/// How long to wait for a room when all are taken, and how often to look.
const ROOM_WAIT: Duration = Duration::from_millis(2);
const ROOM_WAITS: u32 = 1000;

/// See the module. Its end is told to its functions when the last clone goes.
#[derive(Clone)]
pub struct Exchange(Rc<Inner>);

struct Inner {
    chain: Chain,
    version: Rc<Version>,
    number: u32,
    origin: Origin,
    canary: bool,
    /// Places of the functions that it is told to.
    part: Range<usize>,
    /// It is a part of an exchange, behind a service.
    is_later: bool,
    seats: Box<[Seat]>,
    /// Functions before this place see the response.
    answered_by: Cell<usize>,
    upstream: Cell<Option<usize>>,
    flows: [Flow; 2],
    end: Cell<Option<(Ended, Option<usize>, Duration)>>,
    /// By direction: whether functions changed the head.
    changed: [Cell<bool>; 2],
}

/// See [`Exchange::legs`].
struct Parts {
    first: Exchange,
    parts: Vec<LegPart>,
}

impl Legs for Parts {
    fn leg(&self, place: usize) -> Option<Leg> {
        let inner = &self.first.0;
        let (chain, version) = (inner.chain.clone(), Rc::clone(&inner.version));
        Some(match self.parts.get(place)?.clone() {
            LegPart::Events(_) if place == 0 => {
                Leg::Events(weir_exchange::Exchange::native(Rc::new(self.first.clone())))
            }
            LegPart::Events(part) => {
                let number = chain.number();
                let (origin, later) = (&inner.origin, (part, true));
                let later = Exchange::of_part(chain, version, number, origin, inner.canary, later);
                Leg::Events(weir_exchange::Exchange::native(Rc::new(later)))
            }
            LegPart::Service(place) => {
                let function = Rc::clone(version.function(place, inner.canary));
                let origin = inner.origin.clone();
                Leg::Service(Rc::new(Station { chain, function, place, origin }))
            }
        })
    }
}

/// What became of an event at one function.
enum Told {
    Outcome(Outcome),
    Answer(http::Response<Pieces>),
    Skip,
    Failed,
}

impl Exchange {
    pub(crate) fn new(
        chain: Chain,
        version: Rc<Version>,
        number: u32,
        origin: &Origin,
        canary: bool,
    ) -> Self {
        let legs = version.legs(canary);
        let part = match legs.as_ref().map(|legs| legs[0].clone()) {
            None => 0..version.functions.len(),
            Some(LegPart::Events(part)) => part,
            Some(LegPart::Service(_)) => 0..0,
        };
        Self::of_part(chain, version, number, origin, canary, (part, false))
    }

    /// The part of an exchange for these functions; `is_later`: it is behind a service.
    fn of_part(
        chain: Chain,
        version: Rc<Version>,
        number: u32,
        origin: &Origin,
        canary: bool,
        (part, is_later): (Range<usize>, bool),
    ) -> Self {
        let functions = version.functions.len();
        Self(Rc::new(Inner {
            part,
            is_later,
            chain,
            number,
            origin: origin.clone(),
            canary,
            seats: (0..functions).map(|_| Seat::default()).collect(),
            answered_by: Cell::new(functions),
            upstream: Cell::new(None),
            flows: [Flow::default(), Flow::default()],
            end: Cell::new(None),
            changed: Default::default(),
            version,
        }))
    }

    /// A request's head; `body` is the length of its body, if it is known. What functions change is changed in `parts`.
    pub async fn request_head(&self, parts: &mut http::request::Parts, body: Option<u64>) -> Step {
        let order = self.order(Direction::Request, Wants::REQUEST_HEAD);
        if order.is_empty() {
            return Step::Continue;
        }
        let Some(mut room) = self.room().await else { return busy() };
        let origin = &self.0.origin;
        let laid = head::lay_out_request(room.bytes_mut(), parts, origin, body);
        if laid.is_err() {
            return Step::Answer(plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        let mut changed = None;
        for place in order {
            let event = Event::RequestHead { head: room.offset() };
            let stepped = self.show_head(place, Direction::Request, event, &mut room, &mut changed);
            if let Some(step) = stepped.await {
                return self.answered(place, step).await;
            }
        }
        self.0.changed[Direction::Request as usize].set(changed.is_some());
        // What was changed is taken over once, when all have seen it.
        if let Some(place) = changed
            && let Err(broken) = head::take_request(room.bytes(), parts)
        {
            let refused = self.broke(place, broken.to_string()).then(|| self.refused(place));
            return self.answered(place, refused.unwrap_or(Step::Continue)).await;
        }
        Step::Continue
    }

    /// A response's head, as [`Self::request_head`].
    pub async fn response_head(
        &self,
        parts: &mut http::response::Parts,
        body: Option<u64>,
    ) -> Step {
        match self.response_heads(parts, body, false).await {
            (place, Step::Answer(response)) => self.answered(place, Step::Answer(response)).await,
            (_, step) => step,
        }
    }

    /// A connection that was accepted.
    pub async fn opened(&self) -> Step {
        let order = self.order(Direction::Request, Wants::OPENED);
        if order.is_empty() {
            return Step::Continue;
        }
        let Some(mut room) = self.room().await else { return Step::Reset };
        if head::lay_out_connection(room.bytes_mut(), &self.0.origin).is_err() {
            return Step::Reset;
        }
        for place in order {
            let event = Event::RequestHead { head: room.offset() };
            let told = self.tell(place, Direction::Request, event, room.bytes()).await;
            match self.step(place, told) {
                None => {}
                // A connection has nobody to answer to.
                Some(_) => return Step::Reset,
            }
        }
        Step::Continue
    }

    /// A piece of the request's body; `last` if there is none after it.
    pub async fn request_body(&self, piece: Bytes, last: bool) -> BodyStep {
        self.body_answered(Direction::Request, Wants::REQUEST_BODY, piece, last).await
    }

    /// A piece of the response's body.
    pub async fn response_body(&self, piece: Bytes, last: bool) -> BodyStep {
        self.body_answered(Direction::Response, Wants::RESPONSE_BODY, piece, last).await
    }

    /// Bytes of a connection.
    pub async fn data(&self, from_upstream: bool, piece: Bytes, last: bool) -> BodyStep {
        let direction = if from_upstream { Direction::Response } else { Direction::Request };
        match self.body(direction, Wants::DATA, piece, last).await {
            (_, BodyStep::Answer(_)) => BodyStep::Reset,
            (_, step) => step,
        }
    }

    /// Whether functions changed a head of this direction since this was last asked.
    #[must_use]
    pub fn take_changed(&self, direction: Direction) -> bool {
        self.0.changed[direction as usize].replace(false)
    }

    /// The parts of a chain with services.
    #[must_use]
    pub fn legs(&self) -> Option<Rc<dyn Legs>> {
        let parts = self.0.version.legs(self.0.canary)?;
        Some(Rc::new(Parts { first: self.clone(), parts }))
    }

    /// The upstream that a function chose.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.0.upstream.get()
    }

    /// Whether no function wants any more bytes of this direction: they may pass by the chain.
    #[must_use]
    pub fn done(&self, direction: Direction) -> bool {
        let body = match direction {
            Direction::Request => Wants::REQUEST_BODY,
            Direction::Response => Wants::RESPONSE_BODY,
        };
        let none = |wants| self.order(direction, wants).is_empty();
        self.0.flows[direction as usize].holds().1 == 0 && none(body) && none(Wants::DATA)
    }

    /// Says how it ended; told to the functions when the last clone goes. Only the first call counts.
    pub fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        if self.0.end.get().is_none() {
            self.0.end.set(Some((how, upstream, time)));
        }
    }

    /// Functions that want this, in the order of the direction.
    fn order(&self, direction: Direction, wants: Wants) -> smallvec::SmallVec<[usize; 16]> {
        let inner = &self.0;
        let wanting = |place: &usize| {
            !inner.seats[*place].done.get() && self.function(*place).wants().has(wants)
        };
        match direction {
            Direction::Request => inner.part.clone().filter(wanting).collect(),
            Direction::Response => {
                let end = inner.answered_by.get().min(inner.part.end);
                (inner.part.start..end).rev().filter(wanting).collect()
            }
        }
    }

    fn function(&self, place: usize) -> &Rc<Function> {
        self.0.version.function(place, self.0.canary)
    }

    /// A free room; waits for one for a while.
    async fn room(&self) -> Option<Room> {
        let rooms = self.0.chain.rooms();
        for _ in 0..ROOM_WAITS {
            if let Some(room) = rooms.take() {
                return Some(room);
            }
            self.0.chain.environment().sleep(ROOM_WAIT).await;
        }
        self.0.chain.count_exhausted();
        None
    }

    async fn response_heads(
        &self,
        parts: &mut http::response::Parts,
        body: Option<u64>,
        made: bool,
    ) -> (usize, Step) {
        let order = self.order(Direction::Response, Wants::RESPONSE_HEAD);
        if order.is_empty() {
            return (0, Step::Continue);
        }
        let Some(mut room) = self.room().await else { return (0, busy()) };
        let origin = &self.0.origin;
        if head::lay_out_response(room.bytes_mut(), parts, origin, body, made).is_err() {
            return (0, Step::Answer(plain(StatusCode::BAD_GATEWAY)));
        }
        let mut changed = None;
        for place in order {
            let event = Event::ResponseHead { head: room.offset() };
            let stepped =
                self.show_head(place, Direction::Response, event, &mut room, &mut changed);
            if let Some(step) = stepped.await {
                return (place, step);
            }
        }
        self.0.changed[Direction::Response as usize].set(changed.is_some());
        if let Some(place) = changed
            && let Err(broken) = head::take_response(room.bytes(), parts)
        {
            let refused = self.broke(place, broken.to_string()).then(|| self.refused(place));
            return (place, refused.unwrap_or(Step::Continue));
        }
        (0, Step::Continue)
    }

    /// Shows a head to a function: what follows, none if it goes on. `changed` is who changed it last.
    async fn show_head(
        &self,
        place: usize,
        direction: Direction,
        event: Event,
        room: &mut Room,
        changed: &mut Option<usize>,
    ) -> Option<Step> {
        // A function that may be passed by may have to be passed by with what it broke undone.
        let before = self.function(place).fails_open();
        let before = before.then(|| head::used(room.bytes()).unwrap_or_default().to_vec());
        let mut told = self.tell(place, direction, event, room.bytes()).await;
        if let Told::Outcome(outcome) = &mut told
            && outcome.changed
        {
            match head::check(room.bytes()) {
                Ok(()) => *changed = Some(place),
                Err(broken) if self.broke(place, broken.to_string()) => told = Told::Failed,
                Err(_) => told = Told::Skip,
            }
        }
        if let (Told::Skip, Some(before)) = (&told, before) {
            room.bytes_mut()[..before.len()].copy_from_slice(&before);
        }
        self.step(place, told)
    }

    /// What follows from an event with a head; none if it goes on.
    fn step(&self, place: usize, told: Told) -> Option<Step> {
        let outcome = match told {
            Told::Skip => return None,
            Told::Failed => return Some(self.refused(place)),
            Told::Answer(response) => return Some(Step::Answer(response)),
            Told::Outcome(outcome) => outcome,
        };
        match outcome.action {
            Action::Continue => None,
            Action::Done => {
                self.0.seats[place].done.set(true);
                None
            }
            Action::Reset => Some(Step::Reset),
            Action::Answer | Action::Wait | Action::Hold => {
                let what = format!("{:?} means nothing for a head", outcome.action);
                self.broke(place, what).then(|| self.refused(place))
            }
        }
    }

    /// What a function answered, as those before it leave it.
    async fn answered(&self, place: usize, step: Step) -> Step {
        let Step::Answer(mut response) = step else { return step };
        let mut place = place;
        // What is held back of the request, or of a response that has another in its place, goes nowhere any more.
        self.0.flows.iter().for_each(Flow::let_go);
        'again: loop {
            self.0.answered_by.set(place);
            let (mut parts, pieces) = response.into_parts();
            let length = pieces.iter().map(|piece| piece.len() as u64).sum();
            match self.response_heads(&mut parts, Some(length), true).await {
                (_, Step::Continue) => {}
                (_, Step::Reset) => return Step::Reset,
                (by, Step::Answer(other)) => {
                    (place, response) = (by, other);
                    continue 'again;
                }
            }
            if self.order(Direction::Response, Wants::RESPONSE_BODY).is_empty() {
                return Step::Answer(http::Response::from_parts(parts, pieces));
            }
            let mut passed = Pieces::new();
            let count = pieces.len().max(1);
            let pieces = pieces.into_iter().chain(std::iter::repeat(Bytes::new()));
            for (n, piece) in pieces.take(count).enumerate() {
                let wants = Wants::RESPONSE_BODY;
                match self.body(Direction::Response, wants, piece, n + 1 == count).await {
                    (_, BodyStep::Pass(more)) => passed.extend(more),
                    (_, BodyStep::Reset) => return Step::Reset,
                    (by, BodyStep::Answer(other)) => {
                        (place, response) = (by, other);
                        continue 'again;
                    }
                }
            }
            parts.headers.remove(header::CONTENT_LENGTH);
            return Step::Answer(http::Response::from_parts(parts, passed));
        }
    }

    async fn body_answered(
        &self,
        direction: Direction,
        wants: Wants,
        piece: Bytes,
        last: bool,
    ) -> BodyStep {
        match self.body(direction, wants, piece, last).await {
            (place, BodyStep::Answer(response)) => {
                match self.answered(place, Step::Answer(response)).await {
                    Step::Answer(response) => BodyStep::Answer(response),
                    _ => BodyStep::Reset,
                }
            }
            (_, step) => step,
        }
    }

    /// Shows a piece to all functions that want it: what goes on, and which function decided otherwise.
    async fn body(
        &self,
        direction: Direction,
        wants: Wants,
        piece: Bytes,
        last: bool,
    ) -> (usize, BodyStep) {
        let order = self.order(direction, wants);
        let mut passed = Pieces::new();
        if order.is_empty() {
            passed.push(piece);
            return (0, BodyStep::Pass(passed));
        }
        let most = self.0.chain.piece_max();
        let mut rest = piece;
        loop {
            let chunk = rest.split_to(rest.len().min(most));
            let ends = rest.is_empty();
            let Some(mut room) = self.room().await else { return (0, BodyStep::Reset) };
            room.bytes_mut()[..chunk.len()].copy_from_slice(&chunk);
            let part = room.part(0..chunk.len());
            let ended = self.chunk(direction, &order, part, last && ends, &mut passed).await;
            if let Some(ended) = ended {
                return ended;
            }
            if ends {
                return (0, BodyStep::Pass(passed));
            }
        }
    }

    /// The same for what fits a room; the answer is how the body ends before its time.
    async fn chunk(
        &self,
        direction: Direction,
        order: &[usize],
        part: Part,
        last: bool,
        passed: &mut Pieces,
    ) -> Option<(usize, BodyStep)> {
        let flow = &self.0.flows[direction as usize];
        // What is to be shown next, to the function at which place of the order.
        let mut queue = VecDeque::from([(0, part, last)]);
        while let Some((n, mut part, last)) = queue.pop_front() {
            let Some(&place) = order.get(n) else {
                if !part.is_empty() {
                    passed.push(Bytes::from_owner(part));
                }
                continue;
            };
            if self.0.seats[place].done.get() {
                queue.push_front((n + 1, part, last));
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "a room has at most 65,536 bytes")]
            let (offset, length) = (part.offset(), part.len() as u32);
            let event = match direction {
                Direction::Request => Event::RequestBody { offset, length, last },
                Direction::Response => Event::ResponseBody { offset, length, last },
            };
            let outcome = match self.tell(place, direction, event, part.as_ref()).await {
                Told::Outcome(outcome) => outcome,
                Told::Skip => Outcome::default(),
                Told::Answer(response) => return Some((place, BodyStep::Answer(response))),
                Told::Failed => return Some((place, self.cut_off(place, direction))),
            };
            let wrong = if outcome.changed && !part.set_len(outcome.length as usize) {
                Some(format!(
                    "it makes a piece {} bytes long, which its room is not",
                    outcome.length
                ))
            } else if matches!(outcome.action, Action::Answer | Action::Wait) {
                Some(format!("{:?} without an answer", outcome.action))
            } else {
                None
            };
            if let Some(wrong) = wrong
                && self.broke(place, wrong)
            {
                return Some((place, self.cut_off(place, direction)));
            }
            if outcome.action == Action::Reset {
                return Some((place, BodyStep::Reset));
            }
            if outcome.replaced && !part.set_len(0) {
                return Some((place, BodyStep::Reset));
            }
            if outcome.action == Action::Hold && !last {
                let ((bytes, pieces), (most_bytes, most_pieces)) =
                    (flow.holds(), self.0.chain.hold());
                if bytes + part.len() > most_bytes || pieces >= most_pieces {
                    let status = match direction {
                        Direction::Request => StatusCode::PAYLOAD_TOO_LARGE,
                        Direction::Response => StatusCode::BAD_GATEWAY,
                    };
                    return Some((place, BodyStep::Answer(plain(status))));
                }
                flow.hold(place, part);
                continue;
            }
            if outcome.action == Action::Done {
                self.0.seats[place].done.set(true);
            }
            let held = flow.release(place);
            queue.push_front((n + 1, part, last));
            for part in held.into_iter().rev() {
                queue.push_front((n + 1, part, false));
            }
        }
        None
    }

    /// Tells a function, and waits as long as it does. `bytes` are the head or piece that the event is about.
    async fn tell(&self, place: usize, direction: Direction, event: Event, bytes: &[u8]) -> Told {
        let inner = &self.0;
        let (function, seat) = (self.function(place), &inner.seats[place]);
        let shadow = inner.version.shadow.as_ref().filter(|shadow| shadow.place == place);
        let shown =
            shadow.and_then(|shadow| shadow.show(inner.chain.rooms(), inner.number, event, bytes));
        let mut called = function.call(inner.number, seat, event);
        inner.chain.note_timer(function.timer());
        if let (Some(shadow), Some(shown), Called::Outcome(outcome, _)) = (shadow, shown, &called) {
            shadow.compare(&shown, *outcome, bytes);
        }
        let mut answer = None;
        loop {
            let outcome = match called {
                Called::Outcome(outcome, effects) => {
                    self.carry_out(place, direction, effects, &mut answer);
                    outcome
                }
                Called::Skip => return Told::Skip,
                Called::Refuse => return Told::Failed,
                Called::Fault(fault) => return self.failed(place, &fault),
            };
            match (outcome.action, answer.take()) {
                (Action::Wait, answered) => answer = answered,
                (Action::Answer, Some(response)) => {
                    self.background(place, direction);
                    return Told::Answer(response);
                }
                (Action::Answer, None) => {
                    let fault = contract("it says `answer` and has given none".into());
                    function.fault(&fault);
                    return self.failed(place, &fault);
                }
                _ => {
                    self.background(place, direction);
                    return Told::Outcome(outcome);
                }
            }
            let flow = &inner.flows[direction as usize];
            let next = match flow.take_asks(place) {
                Some(mut asks) => {
                    let next = asks.next().await;
                    flow.asks.borrow_mut().push((place, asks));
                    next
                }
                None => None,
            };
            let Some(ready) = next else {
                let fault = contract("it waits, and has asked for nothing".into());
                function.fault(&fault);
                return self.failed(place, &fault);
            };
            let Some(laid) = ready.lay_out(inner.chain.rooms(), &inner.origin) else {
                inner.chain.count_exhausted();
                return Told::Failed;
            };
            called = function.call(inner.number, seat, laid.event());
        }
    }

    /// Notes what an event asked for.
    fn carry_out(
        &self,
        place: usize,
        direction: Direction,
        effects: Effects,
        answer: &mut Option<http::Response<Pieces>>,
    ) {
        if direction == Direction::Request && effects.route.is_some() {
            self.0.upstream.set(effects.route);
        }
        if effects.answer.is_some() {
            *answer = effects.answer;
        }
        if effects.asks.is_empty() {
            return;
        }
        let flow = &self.0.flows[direction as usize];
        let mut asks = flow.take_asks(place).unwrap_or_default();
        asks.extend(effects.asks.into_iter().map(|ask| self.0.chain.ask(ask)));
        flow.asks.borrow_mut().push((place, asks));
    }

    /// What a function asked for and does not wait for goes on without the exchange.
    fn background(&self, place: usize, direction: Direction) {
        let asks = self.0.flows[direction as usize].take_asks(place);
        if let Some(asks) = asks.filter(|asks| !asks.is_empty()) {
            self.0.chain.go_on(self.0.number, self.function(place), asks);
        }
    }

    /// A function faulted in an event.
    fn failed(&self, place: usize, fault: &Fault) -> Told {
        self.0.chain.faulted(place, self.function(place), fault);
        if self.function(place).fails_open() { Told::Skip } else { Told::Failed }
    }

    /// A function broke its contract: whether the exchange cannot go on.
    fn broke(&self, place: usize, what: String) -> bool {
        let fault = contract(what);
        self.function(place).fault(&fault);
        matches!(self.failed(place, &fault), Told::Failed)
    }

    fn refused(&self, place: usize) -> Step {
        Step::Answer(out_of_order(&self.function(place).plan.name))
    }

    fn cut_off(&self, place: usize, direction: Direction) -> BodyStep {
        match direction {
            Direction::Request => BodyStep::Answer(out_of_order(&self.function(place).plan.name)),
            Direction::Response => BodyStep::Reset,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (how, upstream, time) =
            self.end.get().unwrap_or((Ended::ClientGone, None, Duration::ZERO));
        let upstream = upstream.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let told = (words::ended(how), upstream, nanoseconds);
        for (place, seat) in self.seats.iter().enumerate().filter(|(_, seat)| seat.called()) {
            let function = self.version.function(place, self.canary);
            if let Some(fault) = function.ended(self.number, seat, told) {
                self.chain.faulted(place, function, &fault);
            }
        }
        if let Some(shadow) = &self.version.shadow {
            shadow.ended(self.number, told);
        }
        self.chain.closed(self.number, !self.is_later);
    }
}

/// An answer of the chain's own.
pub(crate) fn plain(status: StatusCode) -> http::Response<Pieces> {
    let mut response = http::Response::new(Pieces::new());
    *response.status_mut() = status;
    response
}

fn busy() -> Step {
    Step::Answer(plain(StatusCode::SERVICE_UNAVAILABLE))
}

pub(crate) fn out_of_order(name: &str) -> http::Response<Pieces> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    let text = format!("function {name} is out of order\n");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.body_mut().push(Bytes::from(text));
    response
}
