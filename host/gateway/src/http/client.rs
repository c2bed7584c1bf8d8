//! A client's connection that speaks HTTP: its task, from the first byte to the last.
//!
//! Owns: hyper's server connection, idle and head timeouts, draining, the change to another
//! protocol, and how a connection ends: whole, or cut off. Must not know: what happens to a request
//! (`exchange`).

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::chain::{Ended, Origin};
use crate::config::Target;
use crate::connection::stream::{Pulse, Stream};
use crate::connection::timer::Deadline;
use crate::http::client_chain::Watched;
use crate::http::exchange;
use crate::http::fault::Fault;
use crate::http::rules::Forwarded;
use crate::http::stream_body::StreamBodies;
use crate::http::unread_body::LINGER_BYTES;
use crate::http::unreadable;
use crate::http::upgrade::Upgraded;
use crate::listen::listener::{Admission, Listener, Site};
use crate::observe::counters::Traffic;
use crate::observe::statistics::Failure;
use crate::upstream::rotation::Choice;

/// A connection that the gateway ends is read from for so long, lest the kernel's reset overtake
/// the response.
const LINGER: Duration = Duration::from_secs(1);
/// An HTTP/2 connection ends when so many requests were given up soon after they began, and they
/// are the most of all: each has cost an upstream something (CVE-2023-44487).
const GIVEN_UP: u64 = 200;
const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What all requests of a connection have in common.
pub(crate) struct Client {
    pub(crate) listener: Rc<Listener>,
    pub(crate) pulse: Rc<Pulse>,
    pub(crate) origin: Origin,
    /// What counts its bytes.
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) forwarded: Forwarded,
    /// The mark of the authorities and lists by which its certificate was taken, if it showed one.
    pub(crate) trust: Option<u64>,
    /// Requests so far.
    pub(crate) requests: Cell<u64>,
    /// There is to be none any more.
    pub(crate) spent: Cell<bool>,
    /// What the connection is to become after the response that is being sent.
    pub(crate) upgraded: RefCell<Option<Upgraded>>,
    /// Where requests go that no function sends elsewhere, if a function for connections said so.
    pub(crate) upstream: Option<Target>,
    /// What functions for connections know of it.
    pub(crate) watched: RefCell<Option<Watched>>,
}

/// Why the task stops driving the connection.
enum Stop {
    Done(hyper::Result<()>),
    Idle,
    SlowHead,
    /// An upstream that has answered does not take what is left of its request.
    Untaken,
    /// Exchanges are under way and nothing moves.
    Stalled,
    /// The client does not take what was written, and the room is wanted.
    Full,
    /// The client begins requests and gives them up.
    Flood,
    Killed,
}

impl Stop {
    /// How the connection ends by this. `cut`: the client has to see that something is missing.
    fn ends(&self, cut: bool) -> Ended {
        match self {
            Self::Stalled | Self::Full | Self::Flood | Self::Killed => Ended::Reset,
            _ if cut => Ended::Reset,
            Self::Done(Err(_)) => Ended::ClientGone,
            Self::Done(Ok(())) | Self::Idle | Self::SlowHead | Self::Untaken => Ended::Delivered,
        }
    }
}

impl Client {
    /// The upstream that a function chose for the whole connection, if the listener still has it.
    pub(crate) fn chosen(&self, site: &Site) -> Option<Choice> {
        let chosen = self.upstream.as_ref()?;
        let place = site.plan.config.upstreams.iter().position(|u| u.address == *chosen);
        place.map(Choice::preferred)
    }

    /// Whether it ends with the next response, because functions for connections know of it that
    /// new ones do not get, or because clients' certificates are taken by other authorities and
    /// lists now: a new connection shows whether its own is.
    pub(crate) fn is_outdated(&self) -> bool {
        self.trust.is_some_and(|trust| self.listener.site().plan.trusted() != Some(trust))
            || self
                .watched
                .borrow()
                .as_ref()
                .is_some_and(|watched| watched.is_outdated(&self.listener))
    }

    /// Whether the connection is to be ended now, or has been silent for too long.
    fn stop(&self, deadline: &mut Deadline, cx: &mut std::task::Context<'_>) -> Option<Stop> {
        if self.listener.killed() {
            return Some(Stop::Killed);
        }
        let pulse = &self.pulse;
        if pulse.active.get() > 0 || !pulse.unread_bodies.is_empty() || pulse.has_unsent() {
            return None;
        }
        let site = self.listener.site();
        let timeouts = &site.plan.config.timeouts;
        let quiet_since = pulse.quiet_since.get();
        let (at, stop) = match pulse.heard.get() {
            // The client is slow only where it has a time of its own: the body's.
            _ if pulse.uploads.get() > 0 => (quiet_since + timeouts.stall(), Stop::Untaken),
            // What came while an exchange was under way has its time from the end of that.
            Some(heard) => (heard.max(quiet_since) + timeouts.header, Stop::SlowHead),
            None => (quiet_since + timeouts.idle, Stop::Idle),
        };
        deadline.expired(cx, at).then_some(stop)
    }

    /// Reads what is left of requests' bodies.
    fn throw_away(&self, cx: &mut std::task::Context<'_>) {
        let (ended, slow) = self.pulse.unread_bodies.poll(cx);
        if ended > 0 {
            // What was heard was theirs.
            self.pulse.heard.set(None);
            self.pulse.quiet_since.set(Instant::now());
        }
        for _ in 0..slow {
            self.listener.site().counters.failures.count(Failure::ClientSlow);
        }
    }

    /// Serves HTTP/1; how the connection ended.
    pub(crate) async fn http1(self: Rc<Self>, stream: Stream, admission: Admission) -> Ended {
        let site = self.listener.site();
        let this = Rc::clone(&self);
        let service = service_fn(move |request| exchange::handle(Rc::clone(&this), request));
        let mut connection = site.http1.serve_connection(TokioIo::new(stream), service);
        let (mut deadline, mut told) = (Deadline::default(), false);
        let stop = poll_fn(|cx| {
            admission.task(cx);
            if self.listener.draining() && !told {
                told = true;
                self.pulse.unread_bodies.refuse();
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Stop::Done(done));
            }
            self.throw_away(cx);
            self.stop(&mut deadline, cx).map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner();
        if let Some(upgraded) = self.upgraded.take() {
            stream.unread(parts.read_buf);
            return upgraded.relay(stream, &self.listener, &admission).await;
        }
        let how = stop.ends(self.pulse.cut.get());
        match stop {
            Stop::Done(done) => {
                if let Err(error) = &done {
                    tracing::debug!(client = %self.origin.client, %error, "a connection ended");
                    unreadable::http1(&self, &site, error);
                }
                if self.pulse.cut.get() {
                    stream.abort();
                } else {
                    linger(stream, &self.pulse).await;
                }
            }
            Stop::SlowHead => {
                site.counters.failures.count(Failure::ClientSlow);
                if stream.write_all(TIMEOUT).await.is_ok() {
                    linger(stream, &self.pulse).await;
                }
            }
            Stop::Untaken => {
                site.counters.failures.count(Failure::UpstreamSlow);
                linger(stream, &self.pulse).await;
            }
            Stop::Idle => {
                let _ = stream.shutdown().await;
            }
            Stop::Stalled | Stop::Full | Stop::Flood | Stop::Killed => stream.abort(),
        }
        how
    }

    /// Serves HTTP/2, as [`Self::http1`].
    pub(crate) async fn http2(self: Rc<Self>, stream: Stream, admission: Admission) -> Ended {
        let site = self.listener.site();
        let this = Rc::clone(&self);
        let bodies = StreamBodies::new(&self.listener.buffers, &self.pulse);
        let of_streams = Rc::clone(&bodies);
        let service = service_fn(move |request| {
            let (this, bodies) = (Rc::clone(&this), Rc::clone(&of_streams));
            async move {
                let response = exchange::handle(this, request).await?;
                Ok::<_, Fault>(response.map(|body| bodies.add(body)))
            }
        });
        let mut connection = pin!(site.http2.serve_connection(TokioIo::new(stream), service));
        let (mut deadline, mut told) = (Deadline::default(), false);
        let timeouts = &site.plan.config.timeouts;
        // No exchange may take as long as this without that anything moves; so it is the client
        // that takes nothing.
        let stall = timeouts.stall();
        let (mut moves, mut moved) = (0, Instant::now());
        let (mut watch, mut watched) = (Deadline::default(), Instant::now());
        // Bytes between exchanges are the protocol's own: only time without an exchange counts.
        let stop = poll_fn(|cx| {
            admission.task(cx);
            if (self.listener.draining() || self.spent.get()) && !told {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(done) = connection.as_mut().poll(cx) {
                return Poll::Ready(Stop::Done(done));
            }
            self.throw_away(cx);
            let given_up = self.pulse.given_up.get();
            if given_up > GIVEN_UP && given_up > self.requests.get() / 2 {
                return Poll::Ready(Stop::Flood);
            }
            self.pulse.heard.set(None);
            if moves != self.pulse.moves.get() {
                (moves, moved) = (self.pulse.moves.get(), Instant::now());
            }
            let busy = self.pulse.active.get() > 0 || !bodies.is_empty();
            if busy && deadline.expired(cx, moved + stall) {
                return Poll::Ready(Stop::Stalled);
            }
            if bodies.is_full() {
                return Poll::Ready(Stop::Full);
            }
            while !bodies.is_empty() && watch.expired(cx, watched + timeouts.body / 4) {
                watched = Instant::now();
                bodies.give_up(timeouts.body);
            }
            match self.stop(&mut deadline, cx) {
                Some(Stop::Killed) => Poll::Ready(Stop::Killed),
                Some(_) if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                    self.pulse.quiet_since.set(Instant::now());
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(stop) => Poll::Ready(stop),
                None => Poll::Pending,
            }
        })
        .await;
        let how = stop.ends(false);
        match stop {
            Stop::Done(Err(error)) => {
                tracing::debug!(client = %self.origin.client, %error, "a connection ended");
                unreadable::http2(&self, &site, &error);
            }
            Stop::Flood => {
                tracing::debug!(client = %self.origin.client, "a connection of requests given up");
                site.counters.failures.count(Failure::Refused);
            }
            Stop::Untaken => site.counters.failures.count(Failure::UpstreamSlow),
            // What is still under way ends with the connection, which goes now.
            Stop::Stalled => self.pulse.stalled.set(true),
            Stop::Full => {
                self.pulse.stalled.set(true);
                site.counters.failures.count(Failure::BuffersFull);
            }
            _ => (),
        }
        how
    }
}

/// Ends a connection so that the client gets all that was sent.
async fn linger(mut stream: Stream, pulse: &Pulse) {
    if stream.shutdown().await.is_err() || pulse.ended.get() {
        return;
    }
    let drained = async {
        let (mut buffer, mut left) = ([0; 4096], LINGER_BYTES);
        while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}
