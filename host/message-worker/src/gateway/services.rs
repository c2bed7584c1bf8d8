//! Services of a chain whose worker they are in: a request that visits one crosses the rings, and
//! what the service sends on comes back.
//!
//! Who serves is chosen in the worker, as everything of the chain is: it says which parts an
//! exchange has. A visit is over when the worker says so, because a service may go on when its
//! response has gone. What it says is checked like all that a worker says; whoever reads a body
//! that is shorter or longer than its head said sees it broken.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use futures_util::future::{Either, LocalBoxFuture, select};
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode, request};
use tokio::sync::oneshot;
use weir_exchange::{
    CallFault, Direction, Exchange, HeadTooLarge, Leg, Legs, Onward, Reply, Service, Stream, copied,
};
use weir_message::{head, pass_by, streamed};

use super::exchange::{RemoteExchange, gone};
use super::{CALLS_MAX, Inner, Lost, NOT_TOLD, nowhere};
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::Breach;
use crate::streams::{Say, Source, Way, length, nothing};

/// Visits of one worker that may be under way.
const VISITS_MAX: usize = 16_384;
/// Requests that one visit may send on: what a guest may, and the visit's own when its service is
/// passed by.
const ONWARD_MAX: u32 = 65;

/// The parts of an exchange, once the worker has said them.
pub(super) struct RemoteLegs {
    first: Rc<RemoteExchange>,
    parts: OnceCell<Result<Vec<u8>, Lost>>,
}

impl RemoteLegs {
    pub(super) fn new(first: Rc<RemoteExchange>) -> Self {
        Self { first, parts: OnceCell::new() }
    }

    fn known(&self, parts: &Result<Vec<u8>, Lost>, place: usize) -> Option<Leg> {
        let first = &self.first;
        let Ok(parts) = parts else {
            // All functions are passed by, or nobody gets through.
            let open = first.inner.fails_open.load(Ordering::Relaxed);
            return (!open).then(|| Leg::Service(Rc::new(Absent)));
        };
        Some(match *parts.get(place)? {
            0 if place == 0 => Leg::Events(Exchange::native(Rc::<RemoteExchange>::clone(first))),
            0 => Leg::Events(Exchange::native(first.part(place))),
            _ => Leg::Service(Rc::new(RemoteService { first: Rc::clone(first), place })),
        })
    }
}

impl Legs for RemoteLegs {
    fn leg(&self, place: usize) -> Reply<'_, Option<Leg>> {
        if let Some(parts) = self.parts.get() {
            return Reply::Now(self.known(parts, place));
        }
        Reply::later(async move {
            let asked = self.first.ask_parts().await;
            self.known(self.parts.get_or_init(|| asked), place)
        })
    }
}

/// In place of the chain when there is no worker.
struct Absent;

impl Service for Absent {
    fn serve(
        &self,
        _: Request<Stream>,
        _: Rc<dyn Onward>,
    ) -> LocalBoxFuture<'static, Response<Stream>> {
        Box::pin(std::future::ready(streamed(gone())))
    }
}

/// A service of an exchange.
struct RemoteService {
    first: Rc<RemoteExchange>,
    place: usize,
}

/// A request that visits a service.
pub(super) struct Visit {
    /// How many messages were to be sent when the request was.
    sent: Cell<u64>,
    onward: Rc<dyn Onward>,
    to_head: bool,
    /// Requests that it has sent on.
    calls: Cell<u32>,
    answered: Cell<bool>,
    /// Whoever waits for its response has gone.
    given_up: Cell<bool>,
    answer: RefCell<Option<Result<Response<Stream>, Lost>>>,
    waker: RefCell<Option<Waker>>,
}

impl Visit {
    fn answers(&self, answer: Result<Response<Stream>, Lost>) {
        *self.answer.borrow_mut() = Some(answer);
        let waker = self.waker.borrow_mut().take();
        waker.inspect(Waker::wake_by_ref);
    }

    async fn answer(&self) -> Result<Response<Stream>, Lost> {
        poll_fn(|context| match self.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// Tells the worker that nobody waits for a visit's response any more, if that comes before the
/// response.
struct Waits {
    visit: Rc<Visit>,
    say: Say,
    number: u32,
}

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.visit.answered.get() {
            self.visit.given_up.set(true);
            (self.say)(Message { exchange: self.number, kind: say::GONE, ..Message::default() });
        }
        // A response that nobody has heard is not wanted.
        self.visit.answer.borrow_mut().take();
    }
}

impl Service for RemoteService {
    fn serve(
        &self,
        request: Request<Stream>,
        onward: Rc<dyn Onward>,
    ) -> LocalBoxFuture<'static, Response<Stream>> {
        let (first, place) = (Rc::clone(&self.first), self.place);
        Box::pin(async move {
            let inner = Rc::clone(&first.inner);
            let (parts, body) = request.into_parts();
            let copy = inner.fails_open.load(Ordering::Relaxed).then(|| copied(&parts));
            let bytes = length(&body);
            let laid = inner
                .streams
                .lay_out(|room| head::lay_out_request(room, &parts, &first.origin, bytes));
            let Some(laid) = laid else {
                return streamed(HeadTooLarge::answer(Direction::Request));
            };
            let source = Source::new(body);
            let begun = inner.begin(&first, parts.method == Method::HEAD, &onward, |number| {
                let c = say::said_length(bytes);
                let (a, b) = (first.slot.number, place as u32);
                Message { exchange: number, kind: say::SERVE, a, b, c, bytes: laid }
            });
            let (visit, waits) = match begun {
                Ok(begun) => begun,
                Err(Begin::Full) => return streamed(gone()),
                Err(Begin::Lost) => return without(copy, &source, onward).await,
            };
            if bytes != Some(0) {
                let id = (waits.number, Way::Request);
                let sent = inner.streams.send(id, Rc::clone(&source), Rc::clone(&waits.say));
                tokio::task::spawn_local(sent);
            }
            let answer = visit.answer().await;
            drop(waits);
            match answer {
                Ok(response) => response,
                Err(Lost) if visit.calls.get() == 0 => without(copy, &source, onward).await,
                Err(Lost) => streamed(gone()),
            }
        })
    }
}

/// What becomes of a request whose worker is gone: it passes by if all functions fail open, and
/// nothing of its body had left.
async fn without(
    copy: Option<request::Parts>,
    source: &Source,
    onward: Rc<dyn Onward>,
) -> Response<Stream> {
    match copy.zip(source.whole()) {
        Some((parts, body)) => pass_by(Request::from_parts(parts, body), onward).await,
        None => streamed(gone()),
    }
}

enum Begin {
    Lost,
    Full,
}

impl Inner {
    /// Sends messages to the worker of this generation.
    fn sayer(self: &Rc<Self>, generation: u64) -> Say {
        let inner = Rc::clone(self);
        Rc::new(move |message| {
            // A worker that is gone needs not be told.
            let _ = inner.send(generation, message);
            inner.live.borrow().as_ref().map_or(0, |live| live.rings.counts().0)
        })
    }

    fn begin(
        self: &Rc<Self>,
        first: &RemoteExchange,
        to_head: bool,
        onward: &Rc<dyn Onward>,
        message: impl FnOnce(u32) -> Message,
    ) -> Result<(Rc<Visit>, Waits), Begin> {
        let generation = first.worker().map_err(|Lost| Begin::Lost)?;
        if self.visits.borrow().len() >= VISITS_MAX {
            return Err(Begin::Full);
        }
        let number = self.number();
        let visit = Rc::new(Visit {
            sent: Cell::new(u64::MAX),
            onward: Rc::clone(onward),
            to_head,
            calls: Cell::new(0),
            answered: Cell::new(false),
            given_up: Cell::new(false),
            answer: RefCell::default(),
            waker: RefCell::default(),
        });
        self.visits.borrow_mut().insert(number, Rc::clone(&visit));
        let message = message(number);
        let sent = self.send_by(generation, |live| {
            live.rings.send(&mut live.end, message)?;
            visit.sent.set(live.rings.counts().0);
            Ok(())
        });
        if sent.is_err() {
            self.visits.borrow_mut().remove(&number);
            return Err(Begin::Lost);
        }
        let waits = Waits { visit: Rc::clone(&visit), say: self.sayer(generation), number };
        Ok((visit, waits))
    }

    /// The worker is gone, and with it all visits.
    pub(super) fn services_lost(&self) {
        self.onward.borrow_mut().clear();
        self.streams.lost();
        let visits = std::mem::take(&mut *self.visits.borrow_mut());
        for visit in visits.into_values() {
            if !visit.answered.replace(true) {
                visit.answers(Err(Lost));
            }
        }
    }

    /// A body that the worker sends, of a head that says so much of it; and its length, if the head
    /// is to say it.
    fn framed(
        self: &Rc<Self>,
        id: (u32, Way),
        generation: u64,
        message: &Message,
        bodiless: bool,
    ) -> Result<(Stream, Option<u64>), Breach> {
        let (declared, said) = (head::said_length(&message.bytes), message.c.checked_sub(1));
        if bodiless {
            return Ok((nothing(), declared));
        }
        if declared.zip(said).is_some_and(|(declared, said)| declared != said) {
            return Err(Breach("a head says another length than its body has"));
        }
        let left = declared.or(said);
        if left == Some(0) {
            return Ok((nothing(), declared));
        }
        let (stream, comes) = self.streams.receive(id, left, self.sayer(generation));
        tokio::task::spawn_local(comes);
        Ok((stream, declared))
    }

    /// A visit of which it speaks when so many messages had been sent to it; `none`: if there is
    /// none.
    fn visit(&self, number: u32, sent: u64, none: Breach) -> Result<Rc<Visit>, Breach> {
        let visit = self.visits.borrow().get(&number).cloned().ok_or(none)?;
        if visit.sent.get() > sent { Err(NOT_TOLD) } else { Ok(visit) }
    }

    /// A service's response.
    pub(super) fn served(
        self: &Rc<Self>,
        message: &Message,
        generation: u64,
        sent: u64,
    ) -> Result<(), Breach> {
        let none = Breach("it serves who is not there");
        let visit = self.visit(message.exchange, sent, none)?;
        if visit.answered.get() {
            return Err(Breach("it serves twice"));
        }
        let parts = head::new_response(&message.bytes);
        let mut parts = parts.map_err(|_| Breach("a service's response is none"))?;
        let bodiless = visit.to_head
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let id = (message.exchange, Way::Response);
        let (body, declared) = self.framed(id, generation, message, bodiless)?;
        if let Some(length) = declared {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
        if let Some(why) = say::why_denied(message.a) {
            parts.extensions.insert(why);
        }
        visit.answered.set(true);
        if !visit.given_up.get() {
            visit.answers(Ok(Response::from_parts(parts, body)));
        }
        Ok(())
    }

    /// A service has no more to do with a visit.
    pub(super) fn left(&self, number: u32, sent: u64) -> Result<(), Breach> {
        let visit = self.visit(number, sent, Breach("it leaves who is not there"))?;
        if !visit.answered.get() && !visit.given_up.get() {
            return Err(Breach("it leaves without a response"));
        }
        self.visits.borrow_mut().remove(&number);
        Ok(())
    }

    /// A service sends a request on.
    pub(super) fn onward(
        self: &Rc<Self>,
        message: &Message,
        generation: u64,
        sent: u64,
    ) -> Result<(), Breach> {
        let visit = self.visit(message.a, sent, Breach("it sends on what nobody asked for"))?;
        visit.calls.set(visit.calls.get() + 1);
        if visit.calls.get() > ONWARD_MAX {
            return Err(Breach("it sends too many requests on"));
        }
        let upstream = (message.b as usize).checked_sub(1);
        if upstream.is_some_and(|upstream| upstream >= self.upstreams.count()) {
            return Err(Breach("it sends on to an upstream that there is not"));
        }
        let parts = head::new_request(&message.bytes);
        let mut parts = parts.map_err(|_| Breach("the head of what it sends on is broken"))?;
        let number = message.exchange;
        let say = self.sayer(generation);
        let fault = move |fault| Message {
            exchange: number,
            kind: say::ARRIVED,
            a: say::why(fault),
            ..Message::default()
        };
        if self.onward.borrow().len() >= CALLS_MAX {
            self.reply(generation, fault(CallFault::Unreachable));
            return Ok(());
        }
        let id = (number, Way::CallRequest);
        let (body, declared) = self.framed(id, generation, message, false)?;
        if let Some(length) = declared {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
        let (cancel, cancelled) = oneshot::channel::<()>();
        if self.onward.borrow_mut().insert((generation, number), cancel).is_some() {
            return Err(Breach("it sends two requests on under one number"));
        }
        let sent = visit.onward.send(Request::from_parts(parts, body), upstream);
        let inner = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let arrived = match select(sent, cancelled).await {
                Either::Left((arrived, _)) => arrived,
                // The worker wants it no more, or is gone.
                Either::Right(_) => return,
            };
            // It may have answered because its worker is gone, and another one have the number.
            if inner.onward.borrow_mut().remove(&(generation, number)).is_none() {
                return;
            }
            let response = match arrived {
                Ok(response) => response,
                Err(why) => {
                    say(fault(why));
                    return;
                }
            };
            let (parts, body) = response.into_parts();
            let bytes = length(&body);
            let lay =
                |room: &mut [u8]| head::lay_out_response(room, &parts, &nowhere(), bytes, false);
            let Some(laid) = inner.streams.lay_out(lay) else {
                say(fault(CallFault::NotHttp));
                return;
            };
            let (kind, c) = (say::ARRIVED, say::said_length(bytes));
            say(Message { exchange: number, kind, c, bytes: laid, ..Message::default() });
            if bytes != Some(0) {
                let id = (number, Way::CallResponse);
                inner.streams.send(id, Source::new(body), say).await;
            }
        });
        Ok(())
    }

    /// Nobody in the worker waits for this response any more.
    pub(super) fn called_off(&self, number: u32, generation: u64) {
        self.onward.borrow_mut().remove(&(generation, number));
    }
}

impl RemoteExchange {
    /// Asks the worker which parts it has.
    async fn ask_parts(&self) -> Result<Vec<u8>, Lost> {
        let lay = |room: &mut [u8]| head::lay_out_connection(room, &self.origin);
        let asked = self.tell_head(Direction::Request, say::PARTS, lay).ok_or(Lost)?;
        self.slot.parted.set(true);
        let said = asked?.said().await?;
        if said.step != say::PARTED || said.bytes.iter().any(|part| *part > 1) {
            self.inner.broke(&Breach("what it says of an exchange's parts is nothing"));
            return Err(Lost);
        }
        Ok(said.bytes.to_vec())
    }

    /// A later part of it, of functions that are told of events.
    fn part(&self, place: usize) -> Rc<Self> {
        let inner = &self.inner;
        let slot = inner.slot();
        let generation = self.slot.generation.get();
        slot.generation.set(generation);
        if let Some(generation) = generation {
            let (exchange, kind) = (slot.number, say::PART);
            let (a, b) = (self.slot.number, place as u32);
            // If the worker is gone, its events find that.
            let _ = inner.send(generation, Message { exchange, kind, a, b, ..Message::default() });
        }
        Rc::new(Self {
            inner: Rc::clone(inner),
            slot,
            origin: self.origin.clone(),
            kind: self.kind,
            end: Cell::new(None),
            counts: false,
        })
    }
}

#[cfg(test)]
mod tests;
