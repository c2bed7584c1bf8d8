//! An exchange as the gateway has it: each event goes to the worker, and waits for what that says.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request, response};
use weir_exchange::{
    BodyStep, Denied, Direction, Ended, HeadTooLarge, Kind, Legs, Origin, Passage, Pieces, Reply,
    Step,
};
use weir_message::head;

use super::services::RemoteLegs;
use super::{Inner, Lost, Slot, Wait};
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::Breach;

/// A request with its response, or a connection, on its way through a worker.
pub(super) struct RemoteExchange {
    pub(super) inner: Rc<Inner>,
    pub(super) slot: Rc<Slot>,
    pub(super) origin: Origin,
    pub(super) kind: Kind,
    pub(super) end: Cell<Option<(Ended, Option<usize>, Duration)>>,
    /// A part of an exchange behind a service is not counted for itself.
    pub(super) counts: bool,
}

/// An event that the worker was told. It is taken back if nobody waits for it any more.
pub(super) struct Waiting<'a> {
    inner: &'a Inner,
    wait: &'a RefCell<Option<Wait>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.borrow_mut().take() {
            self.inner.let_go.set(self.inner.let_go.get() - wait.let_go());
        }
        self.inner.waiting.set(self.inner.waiting.get() - 1);
    }
}

impl Waiting<'_> {
    /// What the worker says about it.
    pub(super) async fn said(self) -> Result<Said, Lost> {
        let (message, pieces) = std::future::poll_fn(|context| {
            let mut wait = self.wait.borrow_mut();
            let Some(wait) = wait.as_mut() else { return Poll::Ready(Err(Lost)) };
            match wait.said.take() {
                Some(said) => {
                    Poll::Ready(said.map(|said| (said, std::mem::take(&mut wait.pieces))))
                }
                None => {
                    wait.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        let denied = say::why_denied(message.a);
        Ok(Said { step: message.a as u8, denied, bytes: message.bytes, pieces })
    }
}

/// What the worker said about an event.
pub(super) struct Said {
    pub(super) step: u8,
    pub(super) bytes: Bytes,
    /// Why no function made the answer.
    denied: Option<Denied>,
    pieces: Pieces,
}

impl Said {
    /// It, if it is an answer.
    fn answer(self) -> Result<Response<Pieces>, head::Broken> {
        let mut parts = head::new_response(&self.bytes)?;
        if let Some(why) = self.denied {
            parts.extensions.insert(why);
        }
        Ok(Response::from_parts(parts, self.pieces))
    }
}

impl RemoteExchange {
    /// The worker that knows the exchange, or gets to know it now.
    pub(super) fn worker(&self) -> Result<u64, Lost> {
        let live = self.inner.ready().ok_or(Lost)?;
        match self.slot.generation.get() {
            Some(known) if known != live => Err(Lost),
            Some(known) => Ok(known),
            None => Ok(live),
        }
    }

    /// Tells the worker of an event.
    fn tell(
        &self,
        direction: Direction,
        mut message: Message,
        bytes: &[u8],
    ) -> Result<Waiting<'_>, Lost> {
        let (inner, slot) = (&*self.inner, &self.slot);
        let generation = self.worker()?;
        if slot.generation.replace(Some(generation)).is_none() {
            if message.kind == say::BODY {
                let opened = inner.lay_out(|room| head::lay_out_connection(room, &self.origin));
                let bytes = opened.ok_or(Lost)?;
                let (exchange, kind, a) = (slot.number, say::OPEN, say::of_kind(self.kind));
                inner
                    .send(generation, Message { exchange, kind, a, bytes, ..Message::default() })?;
            }
            if let Some(live) = inner.live.borrow_mut().as_mut() {
                slot.replaced.set(live.replaced);
                live.rings.tell_upstreams(&*inner.upstreams, &mut live.upstreams);
            }
        }
        let event = slot.events.get().wrapping_add(1);
        slot.events.set(event);
        (message.exchange, message.b) = (slot.number, event);
        let wait = &slot.waits[direction as usize];
        let (sent, pieces, of_pieces, said, waker) = (u64::MAX, Pieces::new(), 0, None, None);
        *wait.borrow_mut() = Some(Wait { event, sent, pieces, bytes: of_pieces, said, waker });
        inner.waiting.set(inner.waiting.get() + 1);
        let waiting = Waiting { inner, wait };
        inner.send_by(generation, |live| {
            live.rings.send_with(&mut live.end, message, bytes)?;
            if let Some(wait) = wait.borrow_mut().as_mut() {
                wait.sent = live.rings.counts().0;
            }
            Ok(())
        })?;
        Ok(waiting)
    }

    /// Tells it of a head that `lay` lays out; nothing if that does not fit.
    pub(super) fn tell_head(
        &self,
        direction: Direction,
        kind: u8,
        lay: impl FnOnce(&mut [u8]) -> Result<(), head::TooLarge>,
    ) -> Option<Result<Waiting<'_>, Lost>> {
        let mut room = self.inner.head.borrow_mut();
        lay(&mut room).ok()?;
        let used = head::length(&mut room);
        let message = Message { kind, a: say::of_kind(self.kind), ..Message::default() };
        Some(self.tell(direction, message, &room[..used]))
    }

    /// What a head's event comes to; `take` takes over what was changed.
    fn step(&self, said: Result<Said, Lost>, take: impl FnOnce(&[u8]) -> bool) -> Step {
        let Ok(said) = said else { return self.without() };
        match said.step {
            say::CONTINUE => Step::Continue,
            say::RESET => Step::Reset,
            say::CHANGED if take(&said.bytes) => Step::Continue,
            say::ANSWER => match said.answer() {
                Ok(answer) => Step::Answer(answer),
                Err(_) => self.broke(),
            },
            _ => self.broke(),
        }
    }

    fn broke(&self) -> Step {
        self.inner.broke(&Breach("what it makes of a head is none"));
        Step::Answer(gone())
    }

    /// What becomes of a head without a worker.
    fn without(&self) -> Step {
        if self.inner.fails_open.load(Ordering::Relaxed) {
            Step::Continue
        } else {
            Step::Answer(gone())
        }
    }

    async fn piece(&self, direction: Direction, piece: Bytes, last: bool) -> BodyStep {
        let told = self.slot.told[direction as usize].replace(true);
        let a = direction as u32 | if last { say::LAST } else { 0 };
        let message = Message { kind: say::BODY, a, ..Message::default() };
        let said = match self.tell(direction, message, &piece) {
            Ok(waiting) => waiting.said().await,
            Err(lost) => Err(lost),
        };
        let whole = |piece: Bytes| {
            if piece.is_empty() { Pieces::new() } else { Pieces::from_iter([piece]) }
        };
        let Ok(said) = said else {
            let open = self.inner.fails_open.load(Ordering::Relaxed);
            return match self.kind {
                // What the worker had of it is lost.
                _ if open && !told => BodyStep::Pass(whole(piece)),
                // Cut off by the gateway, if the response has begun.
                Kind::Request => BodyStep::Answer(gone()),
                Kind::Connection | Kind::HttpConnection => BodyStep::Reset,
            };
        };
        match said.step {
            say::SAME => BodyStep::Pass(whole(piece)),
            say::CONTINUE => {
                let mut pieces = said.pieces;
                if !said.bytes.is_empty() {
                    pieces.push(said.bytes);
                }
                BodyStep::Pass(pieces)
            }
            say::RESET => BodyStep::Reset,
            say::ANSWER => match said.answer() {
                Ok(answer) => BodyStep::Answer(answer),
                Err(_) => {
                    self.broke();
                    BodyStep::Reset
                }
            },
            _ => {
                self.broke();
                BodyStep::Reset
            }
        }
    }

    fn request<'a>(&'a self, parts: &'a mut request::Parts, body: Option<u64>) -> Reply<'a, Step> {
        let lay = |room: &mut [u8]| head::lay_out_request(room, parts, &self.origin, body);
        match self.tell_head(Direction::Request, say::REQUEST_HEAD, lay) {
            None => Reply::Now(Step::Answer(HeadTooLarge::answer(Direction::Request))),
            Some(Err(Lost)) => Reply::Now(self.without()),
            Some(Ok(waiting)) => Reply::later(async move {
                let said = waiting.said().await;
                self.step(said, |bytes| head::take_request(bytes, parts).is_ok())
            }),
        }
    }

    fn response<'a>(
        &'a self,
        parts: &'a mut response::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        let lay = |room: &mut [u8]| head::lay_out_response(room, parts, &self.origin, body, false);
        match self.tell_head(Direction::Response, say::RESPONSE_HEAD, lay) {
            None => Reply::Now(Step::Answer(HeadTooLarge::answer(Direction::Response))),
            Some(Err(Lost)) => Reply::Now(self.without()),
            Some(Ok(waiting)) => Reply::later(async move {
                let said = waiting.said().await;
                self.step(said, |bytes| head::take_response(bytes, parts).is_ok())
            }),
        }
    }

    fn connection(&self) -> Reply<'_, Step> {
        let step = |said: Result<Said, Lost>| {
            let lost = said.is_err();
            match self.step(said, |_| false) {
                Step::Continue => {
                    if lost {
                        // A later worker has not seen it being opened, and has nothing to do with
                        // its bytes.
                        self.slot.done.iter().for_each(|done| done.set(true));
                    }
                    Step::Continue
                }
                // A connection has nobody to answer to; why the host would, is counted.
                Step::Answer(answer) if answer.extensions().get::<Denied>().is_none() => {
                    Step::Reset
                }
                step => step,
            }
        };
        let lay = |room: &mut [u8]| head::lay_out_connection(room, &self.origin);
        match self.tell_head(Direction::Request, say::OPENED, lay) {
            None => Reply::Now(Step::Reset),
            Some(Err(Lost)) => Reply::Now(step(Err(Lost))),
            Some(Ok(waiting)) => Reply::later(async move { step(waiting.said().await) }),
        }
    }
}

impl Passage for RemoteExchange {
    fn request_head<'a>(
        &'a self,
        parts: &'a mut request::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.request(parts, body)
    }

    fn request_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        Reply::later(async move { self.piece(Direction::Request, piece, last).await })
    }

    fn response_head<'a>(
        &'a self,
        parts: &'a mut response::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.response(parts, body)
    }

    fn response_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        Reply::later(async move { self.piece(Direction::Response, piece, last).await })
    }

    fn opened(&self) -> Reply<'_, Step> {
        self.connection()
    }

    fn data(
        self: Rc<Self>,
        from_upstream: bool,
        piece: Bytes,
        last: bool,
    ) -> Reply<'static, BodyStep> {
        let direction = if from_upstream { Direction::Response } else { Direction::Request };
        Reply::later(async move { self.piece(direction, piece, last).await })
    }

    fn legs(self: Rc<Self>) -> Option<Rc<dyn Legs>> {
        let services = self.inner.services.load(Ordering::Relaxed);
        services.then(|| -> Rc<dyn Legs> { Rc::new(RemoteLegs::new(self)) })
    }

    fn upstream(&self) -> Option<usize> {
        self.slot.upstream.get()
    }

    fn done(&self, from: Direction) -> bool {
        self.slot.done[from as usize].get()
    }

    fn is_outdated(&self) -> bool {
        let Some(generation) = self.slot.generation.get() else { return false };
        let known = (generation, self.slot.replaced.get());
        let live = self.inner.live.borrow();
        live.as_ref().is_none_or(|live| (live.generation, live.replaced) != known)
    }

    fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        if self.end.get().is_none() {
            self.end.set(Some((how, upstream, time)));
        }
    }
}

impl Drop for RemoteExchange {
    fn drop(&mut self) {
        let (inner, slot) = (&self.inner, &self.slot);
        inner.exchanges.borrow_mut().remove(&slot.number);
        let counted = u64::from(self.counts);
        inner.counters.ended.add(counted);
        inner.under_way.sub(counted);
        let keeps = !slot.over.get() || slot.parted.get();
        let Some(generation) = slot.generation.get().filter(|_| keeps) else { return };
        let (how, upstream, time) =
            self.end.get().unwrap_or((Ended::ClientGone, None, Duration::ZERO));
        let message = Message {
            exchange: slot.number,
            kind: say::END,
            a: say::how(how),
            b: upstream.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX - 1) + 1),
            c: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            bytes: Bytes::new(),
        };
        // A worker that is gone needs not be told.
        let _ = inner.send(generation, message);
    }
}

/// The answer when there is no worker.
pub(super) fn gone() -> Response<Pieces> {
    let mut response = Response::new(Pieces::new());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.body_mut().push(Bytes::from_static(b"the chain's worker is out of order\n"));
    response.extensions_mut().insert(Denied::OutOfOrder);
    response
}
