//! Services in the worker: requests that visit them, and what they send on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use futures_util::future::{Either, LocalBoxFuture, select};
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;
use weir_exchange::{CallFault, Onward, Service, Stream};
use weir_message::head;

use super::line::Line;
use crate::gateway::nowhere;
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::{Breach, Side};
use crate::streams::{Id, Say, Source, Streams, Way, length, nothing};

type Arrived = Result<Response<Stream>, CallFault>;

/// Visits and calls under way.
pub(super) struct Services {
    line: Rc<Line>,
    say: Say,
    streams: Rc<Streams>,
    /// Dropped, or told, when nobody waits for the response any more.
    visits: RefCell<HashMap<u32, oneshot::Sender<()>, FxBuildHasher>>,
    calls: RefCell<HashMap<u32, oneshot::Sender<Arrived>, FxBuildHasher>>,
    next: Cell<u32>,
}

impl Services {
    pub(super) fn new(line: &Rc<Line>) -> Rc<Self> {
        let of = Rc::clone(line);
        Rc::new(Self {
            line: Rc::clone(line),
            say: Rc::new(move |message| {
                of.send(message);
                0
            }),
            streams: Streams::new(Side::Worker),
            visits: RefCell::default(),
            calls: RefCell::default(),
            next: Cell::new(0),
        })
    }

    /// What the gateway says of visits, calls and bodies.
    pub(super) fn told(&self, message: Message) -> Result<(), Breach> {
        match message.kind {
            say::GONE => {
                self.visits.borrow_mut().remove(&message.exchange);
            }
            say::ARRIVED => self.arrived(&message),
            // The gateway asks for nothing that it has not room for.
            _ => self.streams.told(message, u64::MAX)?,
        }
        Ok(())
    }

    /// A body that the gateway sends.
    fn body(&self, id: Id, message: &Message) -> Stream {
        let length = message.c.checked_sub(1);
        if length == Some(0) {
            return nothing();
        }
        let (stream, comes) = self.streams.receive(id, length, Rc::clone(&self.say));
        self.line.spawn(Box::pin(comes));
        stream
    }

    /// Has a request visit a service; none if there is no such one.
    pub(super) fn serve(self: &Rc<Self>, message: &Message, service: Option<Rc<dyn Service>>) {
        let number = message.exchange;
        let body = self.body((number, Way::Request), message);
        let request = head::read_request(&message.bytes);
        let to_head = request.as_ref().is_ok_and(|parts| parts.method == Method::HEAD);
        let onward = Rc::new(RemoteOnward { services: Rc::clone(self), visit: number });
        let serving = match (service, request) {
            (Some(service), Ok(parts)) => {
                service.serve(Request::from_parts(parts, body), Rc::<RemoteOnward>::clone(&onward))
            }
            (None, _) => refusal(StatusCode::SERVICE_UNAVAILABLE),
            (_, Err(_)) => refusal(StatusCode::BAD_REQUEST),
        };
        let (wanted, given_up) = oneshot::channel();
        self.visits.borrow_mut().insert(number, wanted);
        let services = Rc::clone(self);
        self.line.run(async move {
            let served = match select(serving, given_up).await {
                Either::Left((response, _)) => Some(response),
                Either::Right(_) => None,
            };
            services.visits.borrow_mut().remove(&number);
            if let Some(response) = served {
                services.answer(number, response, to_head);
            }
            // It was held until the response's head is said: then the visit may be over.
            drop(onward);
        });
    }

    fn answer(&self, visit: u32, response: Response<Stream>, to_head: bool) {
        let (mut parts, body) = response.into_parts();
        let bytes = length(&body);
        if bytes == Some(0) && !to_head && parts.status != StatusCode::NOT_MODIFIED {
            // A head that says more than there is was said by the guest alone.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let lay = |room: &mut [u8]| head::lay_out_response(room, &parts, &nowhere(), bytes, true);
        let (kind, c) = (say::SERVED, say::said_length(bytes));
        let a = say::denied(parts.extensions.get());
        let said = Message { exchange: visit, kind, a, c, ..Message::default() };
        let Some(laid) = self.streams.lay_out(lay) else {
            return self.answer(visit, plain(StatusCode::BAD_GATEWAY), to_head);
        };
        self.line.send(Message { bytes: laid, ..said });
        if bytes != Some(0) {
            self.send((visit, Way::Response), body);
        }
    }

    fn send(&self, id: Id, body: Stream) {
        let sent = self.streams.send(id, Source::new(body), Rc::clone(&self.say));
        self.line.spawn(Box::pin(sent));
    }

    fn arrived(&self, message: &Message) {
        let waits = self.calls.borrow_mut().remove(&message.exchange);
        let arrived = match head::read_response(&message.bytes) {
            _ if message.a != 0 => Err(say::fault(message.a)),
            Ok(parts) => {
                let body = self.body((message.exchange, Way::CallResponse), message);
                Ok(Response::from_parts(parts, body))
            }
            Err(_) => Err(CallFault::NotHttp),
        };
        if let Some(waits) = waits {
            // Whoever waited may be gone; then nobody wants the body.
            let _ = waits.send(arrived);
        }
    }
}

fn plain(status: StatusCode) -> Response<Stream> {
    let mut response = Response::new(nothing());
    *response.status_mut() = status;
    response
}

fn refusal(status: StatusCode) -> LocalBoxFuture<'static, Response<Stream>> {
    Box::pin(std::future::ready(plain(status)))
}

/// The rest of the chain behind a visit: where the gateway is. When nobody has it any more, the
/// visit is over.
struct RemoteOnward {
    services: Rc<Services>,
    visit: u32,
}

impl Drop for RemoteOnward {
    fn drop(&mut self) {
        let (exchange, kind) = (self.visit, say::LEFT);
        self.services.line.send(Message { exchange, kind, ..Message::default() });
    }
}

/// Calls a request off if nobody waits for its response any more.
struct Called {
    services: Rc<Services>,
    number: u32,
}

impl Drop for Called {
    fn drop(&mut self) {
        if self.services.calls.borrow_mut().remove(&self.number).is_some() {
            let (exchange, kind) = (self.number, say::CALLED_OFF);
            self.services.line.send(Message { exchange, kind, ..Message::default() });
        }
    }
}

impl Onward for RemoteOnward {
    fn send(
        &self,
        request: Request<Stream>,
        upstream: Option<usize>,
    ) -> LocalBoxFuture<'static, Arrived> {
        let services = Rc::clone(&self.services);
        let (mut parts, body) = request.into_parts();
        let bytes = length(&body);
        if bytes == Some(0) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let lay = |room: &mut [u8]| head::lay_out_request(room, &parts, &nowhere(), bytes);
        let Some(laid) = services.streams.lay_out(lay) else {
            return Box::pin(std::future::ready(Err(CallFault::NotHttp)));
        };
        let number = services.number();
        let (answer, answered) = oneshot::channel();
        services.calls.borrow_mut().insert(number, answer);
        services.line.send(Message {
            exchange: number,
            kind: say::ONWARD,
            a: self.visit,
            b: upstream.map_or(0, |upstream| upstream as u32 + 1),
            c: say::said_length(bytes),
            bytes: laid,
        });
        if bytes != Some(0) {
            services.send((number, Way::CallRequest), body);
        }
        let called = Called { services, number };
        Box::pin(async move {
            let _called = called;
            answered.await.unwrap_or(Err(CallFault::Unreachable))
        })
    }
}

impl Services {
    /// A number that no call has now.
    fn number(&self) -> u32 {
        loop {
            let number = self.next.get();
            self.next.set(number.wrapping_add(1));
            if !self.calls.borrow().contains_key(&number) {
                return number;
            }
        }
    }
}
