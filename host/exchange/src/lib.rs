//! What a gateway and a chain of message functions say to each other.
//!
//! Owns: the words that both sides use. Must not know: either side; the gateway knows no Wasm, and
//! chains know no sockets.
//!
//! A [`Chain`] belongs to one thread and one listener. Each request, and each connection
//! ([`Kind`]), is an [`Exchange`]; events of one direction come one after the other, request events
//! first to last function, response events last to first. A body that is not there is not told. A
//! [`Middleware`] is a chain written in Rust.
//!
//! A chain may have services in it ([`Legs`]): functions that take a request whole, with a body
//! that streams, and give a response, and that have the rest of the chain behind them as a client
//! has a server.
//!
//! Both sides count with the same [`Counter`] and [`Histogram`].

mod counters;
mod service;

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response, StatusCode, request, response};
use smallvec::SmallVec;

pub use counters::{Counter, Histogram, Times};
pub use service::{Broken, Leg, Legs, Onward, Service, Stream, copied};

/// Bytes of a body, in order.
pub type Pieces = SmallVec<[Bytes; 2]>;

/// Among the extensions of a response's head: no upstream sent it, the gateway made it in the place
/// of one.
#[derive(Debug, Clone, Copy)]
pub struct MadeByGateway;

/// Among the extensions of a response's head: the listener's upstream that sent it.
#[derive(Debug, Clone, Copy)]
pub struct SentBy(pub usize);

/// Among the extensions of an answer: a head that goes this way is larger than what functions can
/// be shown.
#[derive(Debug, Clone, Copy)]
pub struct HeadTooLarge(pub Direction);

impl HeadTooLarge {
    /// What is answered instead: 431 to a request, 502 of a response.
    #[must_use]
    pub fn answer(of: Direction) -> Response<Pieces> {
        let mut answer = Response::new(Pieces::new());
        *answer.status_mut() = match of {
            Direction::Request => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Direction::Response => StatusCode::BAD_GATEWAY,
        };
        answer.extensions_mut().insert(Self(of));
        answer
    }
}

/// Among the extensions of an answer: no function made it, but the host in place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The chain is not deployed.
    NoChain,
    /// A function is out of order that nothing may go past, or the process that runs the chain is.
    OutOfOrder,
    /// There is no room for it, or a service has as many requests as it may have.
    Busy,
    /// A service gave no response, or not in time.
    NoResponse,
}

/// Bytes of a body that are told in one event, unless the chain says another number.
const PIECE: usize = 65_536;

/// Where an exchange comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The client's address; what the PROXY protocol said, if it is spoken.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The server that the client named in TLS.
    pub server_name: Option<Box<str>>,
    /// Whether the client asks for an upgrade, for instance to WebSocket.
    pub upgrade: bool,
}

/// What an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request with its response.
    Request,
    /// An L4 connection: it is opened, its bytes are shown, and it ends.
    Connection,
    /// A connection that carries requests, which are exchanges of their own: it is opened, and it
    /// ends. Its bytes are not shown.
    HttpConnection,
}

impl Kind {
    /// Whether it counts as an exchange: a connection does not whose requests do.
    #[must_use]
    pub fn counts(self) -> bool {
        self != Self::HttpConnection
    }
}

/// The events that a chain wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interests {
    /// Requests' heads.
    pub request_head: bool,
    /// Pieces of requests' bodies.
    pub request_body: bool,
    /// Responses' heads.
    pub response_head: bool,
    /// Pieces of responses' bodies.
    pub response_body: bool,
    /// L4 connections being opened.
    pub opened: bool,
    /// Bytes of L4 connections.
    pub data: bool,
}

/// A direction of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// From the upstream.
    Response,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of the response was delivered.
    Delivered,
    /// The client went first.
    ClientGone,
    /// No connection, a reset, a timeout.
    UpstreamFailed,
    /// A function answered, or the gateway itself.
    Answered,
    /// It was cut off.
    Reset,
}

/// What a chain says to a head or a new connection.
#[derive(Debug)]
pub enum Step {
    /// Go on.
    Continue,
    /// This is the answer. On L4: close.
    Answer(Response<Pieces>),
    /// End the stream or connection without one.
    Reset,
}

/// What a chain says to a piece of a body.
#[derive(Debug)]
pub enum BodyStep {
    /// These bytes go on, in place of the piece; none while a function holds them.
    Pass(Pieces),
    /// This is the answer, if the response has not begun, else the exchange is cut off.
    Answer(Response<Pieces>),
    /// End the stream or connection.
    Reset,
}

/// Why a function's own request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// Nobody answered in time.
    Timeout,
    /// The upstream could not be reached, or went away.
    Unreachable,
    /// It answered something that is not HTTP.
    NotHttp,
    /// Its body is longer than the limit.
    TooLong,
}

/// The answer to a function's own request, with all of its body.
pub type CallResult = Result<Response<Bytes>, CallFault>;

/// A thread of the gateway, to a chain on it. Upstreams are told by their place in the listener's
/// list.
pub trait Environment {
    /// Sends a request to an upstream, and gives its answer; of the body at most so many bytes.
    fn call(
        &self,
        upstream: usize,
        request: Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> LocalBoxFuture<'static, CallResult>;

    /// Is ready after this time.
    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()>;

    /// Drives this on the thread until it is done, whatever becomes of the chain.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);
}

/// The upstreams of a listener on one thread, as functions see them: by their places in the
/// listener's list.
pub trait Upstreams: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;
    /// Whether health checks and recent failures allow requests to this upstream.
    fn healthy(&self, upstream: usize) -> bool;
    /// Requests or connections that the upstream has now, from this thread and listener.
    fn active(&self, upstream: usize) -> u32;
}

/// What a chain's thread lends to it.
pub struct Lent {
    /// The thread.
    pub environment: Rc<dyn Environment>,
}

/// The last step in making a chain, done on its thread.
pub type Stage = Box<dyn FnOnce(Lent) -> Result<Chain, String> + Send>;

/// Makes the chains of a listener's threads.
pub trait ChainFactory: Send + Sync {
    /// Does what takes time, on the thread that changes the listener.
    ///
    /// # Errors
    /// Says what is wrong with the chain; the listener keeps the one it has.
    fn stage(&self, thread: usize, upstreams: Arc<dyn Upstreams>) -> Result<Stage, String>;
}

/// A chain written in Rust.
pub trait Middleware {
    /// The events it wants.
    fn interests(&self) -> Interests;

    /// Bytes of a body that one event may have.
    fn piece_max(&self) -> usize {
        PIECE
    }

    /// A new exchange.
    fn open(&self, origin: &Origin, kind: Kind) -> Rc<dyn Passage>;
}

/// What an exchange says to an event: at once, which costs nothing, or when it has waited for
/// something.
pub enum Reply<'a, T> {
    /// Said.
    Now(T),
    /// To be waited for.
    Later(LocalBoxFuture<'a, T>),
}

impl<'a, T> Reply<'a, T> {
    /// What takes its time.
    pub fn later(future: impl Future<Output = T> + 'a) -> Self {
        Self::Later(Box::pin(future))
    }

    /// Waits for it, if need be.
    pub async fn get(self) -> T {
        match self {
            Self::Now(said) => said,
            Self::Later(future) => future.await,
        }
    }
}

impl<T> fmt::Debug for Reply<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Now(_)) { "Now" } else { "Later" })
    }
}

/// An exchange of a chain written in Rust. What is not wanted needs no answer.
pub trait Passage {
    /// See [`Exchange::request_head`].
    fn request_head<'a>(
        &'a self,
        _parts: &'a mut request::Parts,
        _body: Option<u64>,
    ) -> Reply<'a, Step> {
        Reply::Now(Step::Continue)
    }

    /// See [`Exchange::request_body`].
    fn request_body(self: Rc<Self>, piece: Bytes, _last: bool) -> Reply<'static, BodyStep> {
        Reply::Now(BodyStep::Pass(pass(piece)))
    }

    /// See [`Exchange::response_head`].
    fn response_head<'a>(
        &'a self,
        _parts: &'a mut response::Parts,
        _body: Option<u64>,
    ) -> Reply<'a, Step> {
        Reply::Now(Step::Continue)
    }

    /// See [`Exchange::response_body`].
    fn response_body(self: Rc<Self>, piece: Bytes, _last: bool) -> Reply<'static, BodyStep> {
        Reply::Now(BodyStep::Pass(pass(piece)))
    }

    /// See [`Exchange::opened`].
    fn opened(&self) -> Reply<'_, Step> {
        Reply::Now(Step::Continue)
    }

    /// See [`Exchange::data`].
    fn data(
        self: Rc<Self>,
        _from_upstream: bool,
        piece: Bytes,
        _last: bool,
    ) -> Reply<'static, BodyStep> {
        Reply::Now(BodyStep::Pass(pass(piece)))
    }

    /// See [`Exchange::legs`].
    fn legs(self: Rc<Self>) -> Option<Rc<dyn Legs>> {
        None
    }

    /// See [`Exchange::upstream`].
    fn upstream(&self) -> Option<usize> {
        None
    }

    /// See [`Exchange::done`].
    fn done(&self, _from: Direction) -> bool {
        false
    }

    /// See [`Exchange::is_outdated`].
    fn is_outdated(&self) -> bool {
        false
    }

    /// See [`Exchange::end`].
    fn end(&self, _how: Ended, _upstream: Option<usize>, _time: Duration) {}
}

fn pass(piece: Bytes) -> Pieces {
    if piece.is_empty() { Pieces::new() } else { Pieces::from_iter([piece]) }
}

/// A chain on one thread. Clones are the same chain.
#[derive(Clone)]
pub struct Chain(Rc<dyn Middleware>);

impl Chain {
    /// A chain written in Rust.
    #[must_use]
    pub fn native(middleware: Rc<dyn Middleware>) -> Self {
        Self(middleware)
    }

    /// The events that it wants.
    #[must_use]
    pub fn interests(&self) -> Interests {
        self.0.interests()
    }

    /// Bytes of a body that one event may have.
    #[must_use]
    pub fn piece_max(&self) -> usize {
        self.0.piece_max().max(1)
    }

    /// A new exchange.
    #[must_use]
    pub fn open(&self, origin: &Origin, kind: Kind) -> Exchange {
        Exchange(self.0.open(origin, kind))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("interests", &self.interests()).finish_non_exhaustive()
    }
}

/// A request with its response, or a connection, on its way through a chain. Clones are the same
/// exchange; with the last one it is over.
#[derive(Clone)]
pub struct Exchange(Rc<dyn Passage>);

impl Exchange {
    /// An exchange of a chain written in Rust.
    #[must_use]
    pub fn native(passage: Rc<dyn Passage>) -> Self {
        Self(passage)
    }

    /// A request's head: hop-by-hop fields are gone, the target is in origin form, and `host` says
    /// the authority. `body`: bytes of the body, if they are known; 0 if there is none.
    pub fn request_head<'a>(
        &'a self,
        parts: &'a mut request::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.0.request_head(parts, body)
    }

    /// A piece of its body, at most [`Chain::piece_max`] bytes. `last`: there is none after it, and
    /// it may be empty.
    pub fn request_body(&self, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        Rc::clone(&self.0).request_body(piece, last)
    }

    /// A response's head.
    pub fn response_head<'a>(
        &'a self,
        parts: &'a mut response::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.0.response_head(parts, body)
    }

    /// A piece of its body.
    pub fn response_body(&self, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        Rc::clone(&self.0).response_body(piece, last)
    }

    /// A connection was accepted.
    pub fn opened(&self) -> Reply<'_, Step> {
        self.0.opened()
    }

    /// Bytes of a connection. `last`: that side will send nothing more.
    pub fn data(&self, from_upstream: bool, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        Rc::clone(&self.0).data(from_upstream, piece, last)
    }

    /// The parts of the chain, if it has services; then the exchange itself is told nothing but its
    /// end.
    #[must_use]
    pub fn legs(&self) -> Option<Rc<dyn Legs>> {
        Rc::clone(&self.0).legs()
    }

    /// The upstream that a function chose.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.0.upstream()
    }

    /// Whether no function wants any more bytes of this direction. Of a connection that carries
    /// requests, which is asked when it was
    /// [`Self::opened`]: whether none would decide by them.
    #[must_use]
    pub fn done(&self, from: Direction) -> bool {
        self.0.done(from)
    }

    /// Whether new exchanges get another version of the chain than this one.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.0.is_outdated()
    }

    /// It is over. `time`: until the response's head, or of the whole connection.
    pub fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        self.0.end(how, upstream, time);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}
