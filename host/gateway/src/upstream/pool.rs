//! A member of an upstream, as one thread and one listener see it: its connections, idle and
//! shared.
//!
//! Owns: which connection a request gets, and how idle ones end. HTTP/1.1 connections are taken out
//! of a stack, the one last used first; what is at its bottom for too long is closed. HTTP/2
//! connections are shared by requests. Must not know: clients, chains.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::connection::stream::{Pulse, Stream};
use crate::connection::timer::Deadline;
use crate::http::request_body::Progress;
use crate::http::rules;
use crate::listen::listener::{HTTP2_WINDOW_MAX, HYPERS_FIELDS, Plan};
use crate::listen::thread::LocalExecutor;
use crate::observe::counters::UpstreamCounters;
use crate::observe::statistics::Failure;
use crate::upstream::dial::{Route, Told, Unconnected};
use crate::upstream::health::Standing;
use crate::upstream::http2::{Connections, OpenStream};
use crate::upstream::link::{Failed, Link, Open, Unanswered, Unsent};
use crate::upstream::members::Member;
use crate::upstream::room::{Entered, Room};
use crate::upstream::rotation::Tried;

/// Bytes of a response that an HTTP/2 upstream may send before its client takes any.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;

/// An HTTP/2 upstream that says nothing for so long while it has requests is asked whether it is
/// there. gRPC's servers take no more than one PING in five minutes, and end the connection after
/// the third that comes before.
const PING: Duration = Duration::from_secs(330);

/// Where there is no room for a connection, so long is waited for another one to end or to become
/// idle.
const NO_ROOM: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Upstream {
    /// Its place in the listener's list.
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    pub(crate) route: Arc<Route>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) counters: Arc<UpstreamCounters>,
    /// What it is told of connections that no client is behind.
    pub(crate) told_of_own: Told,
    /// Bytes of a response that it can send before its client takes any.
    pub(crate) sends_ahead: usize,
    timeouts: Timeouts,
    idle_max: usize,
    builder: http1::Builder,
    #[expect(clippy::vec_box, reason = "a link is large, and goes from hand to hand")]
    idle: RefCell<Vec<Box<Link>>>,
    /// Connections that there may be at a time, of all threads.
    room: Arc<Room>,
    limit: Option<usize>,
    /// Who waits for one that becomes idle, as there is no room for another.
    takers: RefCell<VecDeque<oneshot::Sender<Box<Link>>>>,
    /// A task closes idle connections in time.
    swept: Cell<bool>,
    shared: Connections,
    /// Whoever opens a shared connection has this.
    opening: tokio::sync::Mutex<()>,
    http2_builder: http2::Builder<LocalExecutor>,
}

/// What a response's body comes by.
pub(crate) enum Carrier {
    /// A connection of its own.
    Link(Box<Link>),
    /// A stream of a shared one.
    Stream(#[expect(dead_code, reason = "it counts as long as it is there")] Rc<OpenStream>),
}

/// What there is room for.
enum Place {
    New(Entered),
    /// A connection that became idle.
    Taken(Box<Link>),
}

/// A response, and what its body comes by.
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) link: Carrier,
}

/// Whether it was for want of files, ports or memory here, which says nothing of an upstream.
fn is_our_own(error: &io::Error) -> bool {
    let own = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| own.contains(&number))
}

impl Upstream {
    pub(crate) fn new(
        index: usize,
        plan: &Plan,
        member: &Member,
        counters: &Arc<UpstreamCounters>,
    ) -> Rc<Self> {
        let (timeouts, limits) = (&plan.config.timeouts, &plan.config.limits);
        let http2 = plan.config.upstreams[index].http2;
        let buffer = limits.head.max(8192);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(buffer);
        if limits.fields != HYPERS_FIELDS {
            builder.max_headers(limits.fields);
        }
        let mut http2_builder = http2::Builder::new(LocalExecutor);
        http2_builder
            .timer(TokioTimer::new())
            // None before the upstream has said how many it allows.
            .initial_max_send_streams(0)
            // The connection is everybody's: whoever takes nothing of a response holds up that one
            // only.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_WINDOW_MAX)
            .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
            .keep_alive_interval(PING)
            .keep_alive_timeout(timeouts.connect);
        Rc::new(Self {
            index,
            address: member.address,
            route: Arc::clone(&plan.routes[index]),
            standing: Arc::clone(&member.standing),
            counters: Arc::clone(counters),
            told_of_own: plan.told_of_own(),
            sends_ahead: if http2 { STREAM_WINDOW as usize } else { buffer },
            timeouts: timeouts.clone(),
            idle_max: limits.upstream_idle,
            builder,
            idle: RefCell::new(Vec::new()),
            room: Arc::clone(&member.room),
            limit: limits.upstream_connections,
            takers: RefCell::default(),
            swept: Cell::new(false),
            shared: Connections::default(),
            opening: tokio::sync::Mutex::default(),
            http2_builder,
        })
    }

    /// Whether it is one of these.
    pub(crate) fn is_among(&self, tried: &Tried) -> bool {
        tried.iter().any(|(index, address)| (*index, *address) == (self.index, self.address))
    }

    /// Sends a request and waits for the response's head. It has the form of this upstream's
    /// connections. `began`: now.
    pub(crate) async fn send(
        self: &Rc<Self>,
        request: &mut Unsent,
        progress: Option<&Progress>,
        told: Told,
        began: Instant,
    ) -> Result<Answered, Failed> {
        self.counters.requests.add(1);
        if self.route.config.http2 {
            return Box::pin(self.send_http2(request, progress)).await;
        }
        if let Some(request) = request {
            *request.version_mut() = Version::HTTP_11;
        }
        loop {
            let mut link = self.take(told).await.map_err(Failed::new)?;
            match link.send(request, progress, began, self.timeouts.response).await {
                Ok(response) => {
                    return match rules::is_framed(response.headers()) {
                        true => Ok(Answered { response, link: Carrier::Link(link) }),
                        false => Err(Failed::new(Unanswered::NotHttp)),
                    };
                }
                // The connection had ended, and nothing was written: as if it had not been there.
                Err(failed) if failed.stale && request.is_some() => (),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// A connection that is idle, or a new one.
    async fn take(&self, told: Told) -> Result<Box<Link>, Unanswered> {
        if told.is_none() && !self.idle.borrow().is_empty() {
            let idle = poll_fn(|cx| Poll::Ready(self.take_idle(cx))).await;
            if let Some(link) = idle {
                return Ok(link);
            }
        }
        // In a box, as all that is rarely done on a request's way: its future is moved when the
        // request comes.
        Box::pin(self.begin(told)).await
    }

    /// A new connection, or, where there is no room for one, the next that becomes idle.
    async fn begin(&self, told: Told) -> Result<Box<Link>, Unanswered> {
        let connected = match self.enter(told).await {
            Ok(Place::Taken(link)) => return Ok(link),
            Ok(Place::New(entered)) => self.connect_in(entered, told).await,
            Err(full) => Err(full),
        };
        let (stream, open) = connected.map_err(|why| Unanswered::Connect(Some(why)))?;
        match Link::new(&self.builder, stream, open).await {
            Ok(link) => Ok(Box::new(link)),
            Err(error) => Err(not_begun(error)),
        }
    }

    /// Room for a connection.
    async fn enter(&self, told: Told) -> Result<Place, Unconnected> {
        if let Some(entered) = self.try_enter() {
            return Ok(Place::New(entered));
        }
        let waiting = self.room.wait();
        let (give, mut given) = oneshot::channel();
        // One that has told its upstream of a client is not another's.
        let _give = if told.is_none() {
            let mut takers = self.takers.borrow_mut();
            while takers.front().is_some_and(oneshot::Sender::is_closed) {
                takers.pop_front();
            }
            takers.push_back(give);
            None
        } else {
            Some(give)
        };
        let until = Instant::now() + NO_ROOM;
        loop {
            // One may have ended before anybody waited.
            if let Some(entered) = self.try_enter() {
                return Ok(Place::New(entered));
            }
            let ended = pin!(waiting.ended());
            match tokio::time::timeout_at(until, select(&mut given, ended)).await {
                Ok(Either::Left((Ok(link), _))) => return Ok(Place::Taken(link)),
                Ok(Either::Right(_)) => (),
                Ok(Either::Left((Err(_), _))) | Err(_) => return Err(full()),
            }
        }
    }

    fn try_enter(&self) -> Option<Entered> {
        self.room.enter(self.limit.unwrap_or(usize::MAX))
    }

    fn take_idle(&self, cx: &mut Context<'_>) -> Option<Box<Link>> {
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            if link.rested() || link.usable(cx) {
                return Some(link);
            }
        }
    }

    /// A new connection's bytes.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn connect(&self, told: Told) -> Result<(Stream, Open), Unconnected> {
        match self.enter(told).await? {
            Place::New(entered) => self.connect_in(entered, told).await,
            // Listeners have connections of one kind only.
            Place::Taken(_) => Err(full()),
        }
    }

    async fn connect_in(
        &self,
        entered: Entered,
        told: Told,
    ) -> Result<(Stream, Open), Unconnected> {
        let Timeouts { connect, response, .. } = self.timeouts;
        let traffic = &self.counters.traffic;
        match self.route.connect(self.address, told, traffic, connect, response).await {
            Ok(stream) => Ok((stream, Open::new(&self.counters, entered))),
            Err(error) => {
                let (upstream, address) = (&self.route.config.address, self.address);
                tracing::debug!(%upstream, %address, %error, "no connection");
                Err(error)
            }
        }
    }

    /// Counts that there was no connection, and holds it against the upstream.
    pub(crate) fn not_connected(&self, why: &Unconnected) {
        self.counters.failures.count(why.failure);
        if why.failure != Failure::UpstreamFull && !is_our_own(&why.error) {
            self.standing.failed(why.failure, Some(&why.error));
        }
    }

    /// Keeps a connection for the next request, if it can have one.
    pub(crate) fn keep(self: &Rc<Self>, mut link: Box<Link>, cx: &mut Context<'_>) {
        // It may have ended while nobody drove it, because its last bytes waited to be taken: that
        // is not noted.
        if !link.usable(cx) {
            return;
        }
        if self.limit.is_some() {
            let takers = std::iter::from_fn(|| self.takers.borrow_mut().pop_front());
            for taker in takers {
                match taker.send(link) {
                    Ok(()) => return,
                    Err(back) => link = back,
                }
            }
            if self.room.is_wanted() {
                return;
            }
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.idle_max {
            return;
        }
        link.rest();
        idle.push(link);
        self.swept();
    }

    /// Idle connections are closed in time from now on.
    fn swept(self: &Rc<Self>) {
        if !self.swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    async fn send_http2(
        self: &Rc<Self>,
        request: &mut Unsent,
        progress: Option<&Progress>,
    ) -> Result<Answered, Failed> {
        loop {
            let (stream, new) = self.stream().await.map_err(Failed::new)?;
            let stream = Rc::new(stream);
            if let Some(progress) = progress {
                progress.stream.replace(Some(Rc::clone(&stream)));
            }
            match self.send_shared(&stream, request, progress).await {
                Ok(response) => return Ok(Answered { response, link: Carrier::Stream(stream) }),
                Err(failed) => {
                    // It may be the connection that is lost; what is under way there has its own
                    // time.
                    if matches!(failed.why, Unanswered::Slow) {
                        self.shared.retire(&stream);
                    }
                    // After a GOAWAY a connection takes no more requests. hyper notices when there
                    // is one, and hands it back unsent.
                    if new || request.is_none() {
                        // It may go on to an upstream that is not asked like this.
                        if let Some(progress) = progress {
                            progress.stream.replace(None);
                        }
                        return Err(failed);
                    }
                }
            }
        }
    }

    async fn send_shared(
        &self,
        stream: &OpenStream,
        request: &mut Unsent,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Failed> {
        let Some(mut message) = request.take() else { return Err(Failed::new(Unanswered::Reset)) };
        *message.version_mut() = Version::HTTP_2;
        let (began, mut deadline) = (Instant::now(), Deadline::default());
        let mut response = pin!(stream.sender().try_send_request(message));
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(|error| Failed::of(error, request, progress)));
            }
            let since = progress.map_or(began, |progress| progress.since().max(began));
            if deadline.expired(cx, since + self.timeouts.response) {
                return Poll::Ready(Err(Failed::new(Unanswered::Slow)));
            }
            Poll::Pending
        })
        .await
    }

    /// A stream of an HTTP/2 connection, and whether that was made for it: none had a stream left.
    async fn stream(self: &Rc<Self>) -> Result<(OpenStream, bool), Unanswered> {
        let opened = async {
            if let Some(stream) = self.shared.stream() {
                return Ok((stream, false));
            }
            // Who comes meanwhile waits for the new one, and gets one of its streams.
            let _opening = self.opening.lock().await;
            if let Some(stream) = self.shared.stream() {
                return Ok((stream, false));
            }
            let connected = match self.try_enter() {
                Some(entered) => self.connect_in(entered, None).await,
                None => {
                    // Who waits for this one would wait for it one after the other.
                    drop(self.room.wait());
                    Err(full())
                }
            };
            let (stream, open) = connected.map_err(|why| Unanswered::Connect(Some(why)))?;
            stream.keep_alive();
            let heard = Rc::new(Notify::new());
            let stream = TokioIo::new(stream.with_pulse(Pulse::telling(Some(Rc::clone(&heard)))));
            let handshake = self.http2_builder.handshake(stream).await;
            let (sender, connection) = handshake.map_err(not_begun)?;
            self.swept();
            let stream = self.shared.add(sender, connection, heard, open).await;
            let ended = "the connection ended before it was known how many streams it may have";
            let stream = stream.map_err(|alert| match alert {
                Some(error) => Unanswered::Connect(Some(Unconnected::by_tls(error))),
                None => not_begun(ended),
            });
            Ok((stream?, true))
        };
        match tokio::time::timeout(self.timeouts.connect, opened).await {
            Ok(opened) => opened,
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "no stream in time");
                Err(Unanswered::Connect(Some(Unconnected { error, failure: Failure::Connect })))
            }
        }
    }
}

/// There was no room for a connection.
fn full() -> Unconnected {
    let error = io::Error::other("it has as many connections as `upstream-connections` allows");
    Unconnected { error, failure: Failure::UpstreamFull }
}

/// HTTP could not be begun on a connection.
fn not_begun(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Unanswered {
    Unanswered::Connect(Some(Unconnected {
        error: io::Error::other(error),
        failure: Failure::Connect,
    }))
}

/// Closes connections that were idle for too long or have ended, until there are none; and some
/// that are idle when there is no room for another one.
async fn sweep(upstream: Weak<Upstream>) {
    let Some(mut wanted) = upstream.upgrade().map(|upstream| upstream.room.wanted()) else {
        return;
    };
    loop {
        let Some(period) = upstream.upgrade().map(|u| u.timeouts.upstream_idle) else { return };
        let wanted = tokio::time::timeout(period / 2, wanted.changed()).await.is_ok();
        let Some(upstream) = upstream.upgrade() else { return };
        let mut idle = upstream.idle.borrow_mut();
        if wanted && !idle.is_empty() {
            idle.remove(0);
        }
        idle.retain(|link| link.idle_since.elapsed() < period && link.rested());
        let shared = upstream.shared.sweep(if wanted { Duration::ZERO } else { period });
        if !shared && idle.is_empty() {
            upstream.swept.set(false);
            return;
        }
    }
}
