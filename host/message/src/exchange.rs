//! A request with its response, or a connection, on its way through a chain.
//!
//! Requests pass the functions first to last, responses last to first; what function *k* answers
//! itself passes those before it. An exchange keeps to the versions of functions that it began
//! with. An event that nobody waits in is carried out in the call that brings it; only what has to
//! wait becomes a future.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request, response};
use smallvec::SmallVec;
use weir_exchange::{
    BodyStep, Denied, Direction, Ended, Kind, Leg, Legs, Origin, Passage, Pieces, Reply, Service,
    Step,
};
use weir_layout::message::Wants;
use weir_pool::Room;

use crate::chain::{Chain, Part, Version};
use crate::flow::Flow;
use crate::function::{Function, Seat};
use crate::heads::{Connection, Laid};
use crate::service::Station;
use crate::words;

/// How long to wait for a room when all are taken, and how often to look.
const ROOM_WAIT: Duration = Duration::from_millis(2);
const ROOM_WAITS: u32 = 1000;

/// Places of functions, in the order in which an event passes them.
pub(crate) type Order = SmallVec<[usize; 16]>;

/// See the module. Its end is told to its functions when the last clone goes.
#[derive(Clone)]
pub struct Exchange(pub(crate) Rc<Inner>);

pub(crate) struct Inner {
    pub(crate) chain: Chain,
    pub(crate) version: Rc<Version>,
    pub(crate) number: u32,
    pub(crate) origin: Origin,
    kind: Kind,
    canary: bool,
    /// Places of the functions that it is told to.
    part: Range<usize>,
    /// A part of an exchange behind a service is not counted for itself.
    counts: bool,
    pub(crate) seats: SmallVec<[Seat; 8]>,
    /// Functions before this place see the response.
    answered_by: Cell<usize>,
    pub(crate) upstream: Cell<Option<usize>>,
    pub(crate) flows: [Flow; 2],
    end: Cell<Option<(Ended, Option<usize>, Duration)>>,
    /// By direction: whether functions changed the head.
    pub(crate) changed: [Cell<bool>; 2],
}

impl Exchange {
    pub(crate) fn new(
        chain: Chain,
        version: Rc<Version>,
        number: u32,
        of: (&Origin, Kind),
        canary: bool,
    ) -> Self {
        // Services lie in the way of requests, not of the connection that carries them.
        let legs = version.legs(canary).filter(|_| of.1 == Kind::Request);
        let part = match legs.as_ref().map(|legs| &legs[0]) {
            None => 0..version.functions.len(),
            Some(Part::Events(part)) => part.clone(),
            Some(Part::Service(_)) => 0..0,
        };
        Self::of_part(chain, version, number, of, canary, (part, of.1.counts()))
    }

    /// The part of an exchange for these functions; `counts`: it is no later one, behind a service.
    fn of_part(
        chain: Chain,
        version: Rc<Version>,
        number: u32,
        (origin, kind): (&Origin, Kind),
        canary: bool,
        (part, counts): (Range<usize>, bool),
    ) -> Self {
        let functions = version.functions.len();
        Self(Rc::new(Inner {
            part,
            counts,
            chain,
            number,
            origin: origin.clone(),
            kind,
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

    /// A request's head; `body` is the length of its body, if it is known. What functions change is
    /// changed in `parts`.
    pub async fn request_head(&self, parts: &mut request::Parts, body: Option<u64>) -> Step {
        self.0.request_head(parts, body).get().await
    }

    /// A response's head, as [`Self::request_head`].
    pub async fn response_head(&self, parts: &mut response::Parts, body: Option<u64>) -> Step {
        self.0.response_head(parts, body).get().await
    }

    /// A request's head that was laid out ([`crate::head::lay_out_request`]) by somebody who is
    /// trusted, for a room of this size. What functions make of it lies in its place afterwards, if
    /// [`Self::take_changed`] says so.
    pub async fn laid_request_head(&self, head: &mut Bytes) -> Step {
        self.0.or_answered(self.0.head(Laid::request(head), None, false)).get().await
    }

    /// A response's head, as [`Self::laid_request_head`].
    pub async fn laid_response_head(&self, head: &mut Bytes) -> Step {
        self.0.or_answered(self.0.head(Laid::response(head), None, false)).get().await
    }

    /// A connection that was accepted.
    pub async fn opened(&self) -> Step {
        self.0.opened().get().await
    }

    /// A piece of the request's body; `last` if there is none after it.
    pub async fn request_body(&self, piece: Bytes, last: bool) -> BodyStep {
        Rc::clone(&self.0).request_body(piece, last).get().await
    }

    /// A piece of the response's body.
    pub async fn response_body(&self, piece: Bytes, last: bool) -> BodyStep {
        Rc::clone(&self.0).response_body(piece, last).get().await
    }

    /// Bytes of a connection.
    pub async fn data(&self, from_upstream: bool, piece: Bytes, last: bool) -> BodyStep {
        Rc::clone(&self.0).data(from_upstream, piece, last).get().await
    }

    /// Whether functions changed a head of this direction since this was last asked.
    #[must_use]
    pub fn take_changed(&self, direction: Direction) -> bool {
        self.0.changed[direction as usize].replace(false)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The upstream that a function chose.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.0.upstream.get()
    }

    /// See [`weir_exchange::Exchange::done`].
    #[must_use]
    pub fn done(&self, direction: Direction) -> bool {
        Passage::done(&*self.0, direction)
    }

    /// Whether no function wants to hear of it any more, its end included. To be asked when no head
    /// can come any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let inner = &*self.0;
        let waits = |flow: &Flow| !flow.asks.borrow().is_empty();
        inner.version.shadow.is_none()
            && !inner.seats.iter().any(Seat::called)
            && !inner.flows.iter().any(waits)
            && [Direction::Request, Direction::Response].into_iter().all(|way| self.done(way))
    }

    /// By the places of its parts: whether it is a service that stands there. One part without
    /// services if the chain has none.
    #[must_use]
    pub fn parts(&self) -> Vec<bool> {
        let parts = Inner::parts(&self.0).parts;
        parts.iter().map(|part| matches!(part, Part::Service(_))).collect()
    }

    /// The part at this place, newly begun but for the first, which is the exchange itself; none
    /// behind the last one.
    #[must_use]
    pub fn part(&self, place: usize) -> Option<ExchangePart> {
        Inner::parts(&self.0).part(place)
    }

    /// Says how it ended; told to the functions when the last clone goes. Only the first call
    /// counts.
    pub fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        Passage::end(&*self.0, how, upstream, time);
    }
}

impl Passage for Inner {
    fn request_head<'a>(
        &'a self,
        parts: &'a mut request::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.or_answered(self.head(parts, body, false))
    }

    fn response_head<'a>(
        &'a self,
        parts: &'a mut response::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.or_answered(self.head(parts, body, false))
    }

    fn opened(&self) -> Reply<'_, Step> {
        // A connection has nobody to answer to; why the host would, is counted.
        let step = |step| match step {
            Step::Answer(answer) if answer.extensions().get::<Denied>().is_none() => Step::Reset,
            step => step,
        };
        match self.connection() {
            Reply::Now((_, said)) => Reply::Now(step(said)),
            Reply::Later(said) => Reply::later(async move { step(said.await.1) }),
        }
    }

    fn request_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        self.piece(Direction::Request, Wants::REQUEST_BODY, piece, last)
    }

    fn response_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        self.piece(Direction::Response, Wants::RESPONSE_BODY, piece, last)
    }

    fn data(
        self: Rc<Self>,
        from_upstream: bool,
        piece: Bytes,
        last: bool,
    ) -> Reply<'static, BodyStep> {
        let direction = if from_upstream { Direction::Response } else { Direction::Request };
        self.piece(direction, Wants::DATA, piece, last)
    }

    fn legs(self: Rc<Self>) -> Option<Rc<dyn Legs>> {
        let parts = self.version.legs(self.canary)?;
        Some(Rc::new(Parts { first: self, parts }))
    }

    fn upstream(&self) -> Option<usize> {
        self.upstream.get()
    }

    fn done(&self, direction: Direction) -> bool {
        let wants = match (self.kind, direction) {
            (Kind::Request, Direction::Request) => Wants::REQUEST_BODY,
            (Kind::Request, Direction::Response) => Wants::RESPONSE_BODY,
            (Kind::Connection | Kind::HttpConnection, _) => Wants::DATA,
        };
        // Of what is never shown it counts who could be asked.
        let asked = |place: &usize| {
            let shown = self.kind != Kind::HttpConnection;
            shown || !self.function(*place).is_passed_by(&self.seats[*place])
        };
        let order = self.order(direction, wants);
        self.flows[direction as usize].holds().1 == 0 && !order.iter().any(asked)
    }

    fn is_outdated(&self) -> bool {
        !self.chain.runs(&self.version)
    }

    fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        if self.end.get().is_none() {
            self.end.set(Some((how, upstream, time)));
        }
    }
}

impl Inner {
    fn parts(this: &Rc<Self>) -> Parts {
        let whole = || vec![Part::Events(this.part.clone())];
        let parts = this.version.legs(this.canary).unwrap_or_else(whole);
        Parts { first: Rc::clone(this), parts }
    }

    /// Functions that want this, in the order of the direction.
    pub(crate) fn order(&self, direction: Direction, wants: Wants) -> Order {
        let wanting = |place: &usize| {
            !self.seats[*place].done.get() && self.function(*place).wants().has(wants)
        };
        match direction {
            Direction::Request => self.part.clone().filter(wanting).collect(),
            Direction::Response => {
                let end = self.answered_by.get().min(self.part.end);
                (self.part.start..end).rev().filter(wanting).collect()
            }
        }
    }

    pub(crate) fn function(&self, place: usize) -> &Rc<Function> {
        self.version.function(place, self.canary)
    }

    /// A room that is free or becomes so: waits for a while.
    pub(crate) async fn room(&self) -> Option<Room> {
        let rooms = self.chain.rooms();
        for _ in 0..ROOM_WAITS {
            if let Some(room) = rooms.take() {
                return Some(room);
            }
            self.chain.environment().sleep(ROOM_WAIT).await;
        }
        self.chain.count_exhausted();
        None
    }

    fn connection(&self) -> Reply<'_, (usize, Step)> {
        self.head(Connection, None, false)
    }

    /// What was said to a head; an answer, as the functions before leave it.
    fn or_answered<'a>(&'a self, said: Reply<'a, (usize, Step)>) -> Reply<'a, Step> {
        match said {
            Reply::Now((place, Step::Answer(response))) => {
                Reply::later(self.answered(place, response))
            }
            Reply::Now((_, step)) => Reply::Now(step),
            Reply::Later(said) => Reply::later(async move {
                match said.await {
                    (place, Step::Answer(response)) => self.answered(place, response).await,
                    (_, step) => step,
                }
            }),
        }
    }

    /// What a function answered, as those before it leave it.
    pub(crate) async fn answered(
        &self,
        mut place: usize,
        mut response: http::Response<Pieces>,
    ) -> Step {
        // What is held back of the request, or of a response that has another in its place, goes
        // nowhere any more.
        self.flows.iter().for_each(Flow::let_go);
        'again: loop {
            self.answered_by.set(place);
            let (mut parts, pieces) = response.into_parts();
            let length = pieces.iter().map(|piece| piece.len() as u64).sum();
            match self.head(&mut parts, Some(length), true).get().await {
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
}

/// A part of an exchange ([`Exchange::part`]).
pub enum ExchangePart {
    /// Functions that are told of events.
    Events(Exchange),
    /// A service.
    Service(Rc<dyn Service>),
}

/// The parts of a chain with services.
struct Parts {
    first: Rc<Inner>,
    parts: Vec<Part>,
}

impl Parts {
    fn part(&self, place: usize) -> Option<ExchangePart> {
        let first = &self.first;
        let (chain, version) = (first.chain.clone(), Rc::clone(&first.version));
        Some(match self.parts.get(place)?.clone() {
            Part::Events(_) if place == 0 => ExchangePart::Events(Exchange(Rc::clone(first))),
            Part::Events(part) => {
                let (number, later) = (chain.number(), (part, false));
                let (of, canary) = ((&first.origin, first.kind), first.canary);
                let part = Exchange::of_part(chain, version, number, of, canary, later);
                ExchangePart::Events(part)
            }
            Part::Service(place) => {
                let function = Rc::clone(version.function(place, first.canary));
                let origin = first.origin.clone();
                let shadow = version.shadow.as_ref().filter(|shadow| shadow.place == place);
                let shadow = shadow.cloned();
                ExchangePart::Service(Rc::new(Station { chain, function, place, origin, shadow }))
            }
        })
    }
}

impl Legs for Parts {
    fn leg(&self, place: usize) -> Reply<'_, Option<Leg>> {
        Reply::Now(self.part(place).map(|part| match part {
            ExchangePart::Events(Exchange(part)) => {
                Leg::Events(weir_exchange::Exchange::native(part))
            }
            ExchangePart::Service(service) => Leg::Service(service),
        }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (how, upstream, time) =
            self.end.get().unwrap_or((Ended::ClientGone, None, Duration::ZERO));
        let upstream = upstream.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let told = (words::ended(how), upstream, nanoseconds);
        let shadow = self.version.shadow.as_ref();
        if shadow.is_some() || self.seats.iter().any(Seat::called) {
            self.chain.moment();
        }
        for (place, seat) in self.seats.iter().enumerate().filter(|(_, seat)| seat.called()) {
            let function = self.version.function(place, self.canary);
            if let Some(fault) = function.ended(self.number, seat, told) {
                self.chain.faulted(place, function, &fault);
            }
        }
        if let Some(shadow) = shadow {
            shadow.ended(self.number, told);
        }
        self.chain.closed(self.number, self.counts);
    }
}

/// An answer of the chain's own.
pub(crate) fn plain(status: StatusCode) -> http::Response<Pieces> {
    let mut response = http::Response::new(Pieces::new());
    *response.status_mut() = status;
    response
}

/// The same, for this reason.
pub(crate) fn denied(status: StatusCode, why: Denied) -> http::Response<Pieces> {
    let mut response = plain(status);
    response.extensions_mut().insert(why);
    response
}

/// The answer in place of a function that nothing may go past.
pub(crate) fn out_of_order(name: &str) -> http::Response<Pieces> {
    let mut response = denied(StatusCode::SERVICE_UNAVAILABLE, Denied::OutOfOrder);
    let text = format!("function {name} is out of order\n");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.body_mut().push(Bytes::from(text));
    response
}
