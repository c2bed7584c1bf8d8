//! An HTTP/1.1 connection to an upstream.
//!
//! Owns: driving hyper's connection within the task that has the exchange: no task of its own, so
//! no handing over between tasks on a request's way. While idle, nobody drives it; whoever takes it
//! looks first whether it has ended.

use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::connection::stream::Stream;
use crate::connection::timer::Deadline;
use crate::http::request_body::{Progress, RequestBody};
use crate::observe::counters::UpstreamCounters;
use crate::observe::statistics::Failure;
use crate::tls;
use crate::upstream::dial::Unconnected;
use crate::upstream::room::Entered;
use crate::upstream::waker::HeldWaker;

/// A connection is driven so often at one time, as long as it asks for it.
const DRIVES: usize = 8;

/// Why there is no response.
pub(crate) enum Unanswered {
    /// No connection. None: there is nobody to connect to.
    Connect(Option<Unconnected>),
    /// The connection was lost before the response began.
    Reset,
    /// Nothing in time.
    Slow,
    /// What was answered is not HTTP.
    NotHttp,
    /// The request's body ended before its time; its progress says why.
    Body,
}

impl Unanswered {
    /// What it counts as, and what the client is told.
    pub(crate) fn told(&self) -> (Failure, StatusCode) {
        match self {
            Self::Connect(Some(why)) if why.is_slow() => {
                (Failure::Connect, StatusCode::GATEWAY_TIMEOUT)
            }
            Self::Connect(Some(why)) if why.failure == Failure::UpstreamFull => {
                (Failure::UpstreamFull, StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Connect(_) => (Failure::Connect, StatusCode::BAD_GATEWAY),
            Self::Slow => (Failure::UpstreamSlow, StatusCode::GATEWAY_TIMEOUT),
            Self::NotHttp => (Failure::NotHttp, StatusCode::BAD_GATEWAY),
            Self::Reset | Self::Body => (Failure::Reset, StatusCode::BAD_GATEWAY),
        }
    }
}

/// A request on its way. It is left where it is if nothing of it was sent.
pub(crate) type Unsent = Option<Request<RequestBody>>;

/// A failed attempt.
pub(crate) struct Failed {
    pub(crate) why: Unanswered,
    /// The connection had been idle, or was to end: that it is lost says nothing about the
    /// upstream.
    pub(crate) stale: bool,
    /// The upstream says that it did not look at the request (RFC 9113 section 8.7): it may be sent
    /// again, whatever it is.
    pub(crate) unprocessed: bool,
}

impl Failed {
    pub(crate) fn new(why: Unanswered) -> Self {
        Self { why, stale: false, unprocessed: false }
    }

    /// What became of the attempt; the request is put back if hyper gives it back.
    pub(crate) fn of(
        mut error: TrySendError<Request<RequestBody>>,
        request: &mut Unsent,
        progress: Option<&Progress>,
    ) -> Self {
        *request = error.take_message();
        let error = error.into_error();
        // Of HTTP/2 hyper says no more than that the stream was reset then.
        let broke_off = progress.is_some_and(|progress| progress.fault.get().is_some());
        if broke_off || error.is_body_write_aborted() {
            Self::new(Unanswered::Body)
        } else if error.is_parse() || error.is_parse_too_large() {
            Self::new(Unanswered::NotHttp)
        } else if let Some(error) = tls::alert(&error) {
            Self::new(Unanswered::Connect(Some(Unconnected::by_tls(error))))
        } else {
            let refusal = Refusal::of(&error);
            // One that had to wait for a stream, hyper tells as a mistake of who sends it.
            let stale = error.is_user() || matches!(refusal, Some(Refusal::Passed));
            Self { why: Unanswered::Reset, stale, unprocessed: refusal.is_some() }
        }
    }
}

/// How an HTTP/2 upstream says that it has not looked at a request, and will not.
enum Refusal {
    /// It takes no more on this connection, or not so many.
    Passed,
    /// It ends the connection for an error.
    Broken,
}

impl Refusal {
    /// A stream that was refused, or one beyond those that a GOAWAY names: to those that it names
    /// nothing happens with it.
    fn of(error: &hyper::Error) -> Option<Self> {
        let cause =
            error.source()?.downcast_ref::<h2::Error>().filter(|cause| cause.is_remote())?;
        match cause.reason()? {
            h2::Reason::REFUSED_STREAM if cause.is_reset() => Some(Self::Passed),
            h2::Reason::NO_ERROR if cause.is_go_away() => Some(Self::Passed),
            _ if cause.is_go_away() => Some(Self::Broken),
            _ => None,
        }
    }
}

/// See the module.
pub(crate) struct Link {
    sender: http1::SendRequest<RequestBody>,
    connection: http1::Connection<TokioIo<Stream>, RequestBody>,
    waker: HeldWaker,
    /// The connection's future has ended and must not be polled again.
    over: bool,
    deadline: Deadline,
    open: Open,
    /// It has had a request before.
    used: bool,
    /// When it became idle.
    pub(crate) idle_since: Instant,
}

/// A connection that is counted as open.
pub(crate) struct Open {
    counters: Arc<UpstreamCounters>,
    _entered: Entered,
}

impl Open {
    pub(crate) fn new(counters: &Arc<UpstreamCounters>, entered: Entered) -> Self {
        counters.connected.add(1);
        counters.open.add(1);
        Self { counters: Arc::clone(counters), _entered: entered }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open.sub(1);
    }
}

impl Link {
    /// Begins HTTP/1.1 on a connection.
    pub(crate) async fn new(
        builder: &http1::Builder,
        stream: Stream,
        open: Open,
    ) -> hyper::Result<Self> {
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let (deadline, idle_since) = (Deadline::default(), Instant::now());
        let waker = HeldWaker::new();
        Ok(Self { sender, connection, waker, over: false, deadline, open, used: false, idle_since })
    }

    /// Reads and writes what can be.
    pub(crate) fn drive(&mut self, cx: &Context<'_>) {
        self.waker.hold(cx);
        self.poll();
        self.waker.release();
    }

    /// As [`Self::drive`], with the waker held.
    fn poll(&mut self) {
        let cx = &mut Context::from_waker(self.waker.as_waker());
        if !self.over && self.connection.poll_without_shutdown(cx).is_ready() {
            self.over = true;
        }
    }

    /// Polls the body that comes by this connection, driving it as long as that brings something.
    pub(crate) fn poll_body(
        &mut self,
        cx: &Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.waker.hold(cx);
        // Only driving the connection brings a frame: there is nobody to be woken by.
        let nobody = &mut Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut *body).poll_frame(nobody);
        for _ in 0..DRIVES {
            if frame.is_ready() {
                break;
            }
            self.waker.mute();
            self.poll();
            frame = Pin::new(&mut *body).poll_frame(nobody);
            if !self.waker.woken() {
                break;
            }
        }
        if frame.is_ready() {
            // Whoever takes a frame comes back for the next one, and drives the connection then.
            self.waker.mute();
        }
        self.waker.release();
        frame
    }

    /// Whether it can have the next request, as far as is known.
    fn ready(&self) -> bool {
        !self.over && self.sender.is_ready()
    }

    /// Puts it to rest: nobody is woken by what happens to it, but it is noted.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
        self.waker.mute();
    }

    /// Whether nothing has happened to it while it was at rest.
    pub(crate) fn rested(&self) -> bool {
        self.ready() && !self.waker.woken()
    }

    /// Whether it can have the next request, after a look.
    pub(crate) fn usable(&mut self, cx: &Context<'_>) -> bool {
        self.drive(cx);
        self.ready()
    }

    /// Whether so much time has passed.
    pub(crate) fn expired(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        self.deadline.expired(cx, at)
    }

    /// Sends a request and waits for the response's head. `began`: when it was begun to be sent.
    pub(crate) async fn send(
        &mut self,
        request: &mut Unsent,
        progress: Option<&Progress>,
        began: Instant,
        timeout: Duration,
    ) -> Result<Response<Incoming>, Failed> {
        let Some(message) = request.take() else { return Err(Failed::new(Unanswered::Reset)) };
        let used = std::mem::replace(&mut self.used, true);
        self.waker.mute();
        let mut response = pin!(self.sender.try_send_request(message));
        poll_fn(|cx| {
            self.waker.hold(cx);
            let mut answered = Poll::Pending;
            for _ in 0..DRIVES {
                self.waker.mute();
                self.poll();
                // As for bodies.
                answered = response.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if answered.is_ready() || self.over || !self.waker.woken() {
                    break;
                }
            }
            self.waker.release();
            match answered {
                Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
                Poll::Ready(Err(error)) => {
                    let failed = Failed::of(error, request, progress);
                    let stale = used && matches!(failed.why, Unanswered::Reset);
                    return Poll::Ready(Err(Failed { stale, ..failed }));
                }
                Poll::Pending => (),
            }
            if self.over {
                let failed = Failed::new(Unanswered::Reset);
                return Poll::Ready(Err(Failed { stale: used, ..failed }));
            }
            let since = progress.map_or(began, |progress| progress.since().max(began));
            if self.deadline.expired(cx, since + timeout) {
                return Poll::Ready(Err(Failed::new(Unanswered::Slow)));
            }
            Poll::Pending
        })
        .await
    }

    /// After a response with status 101: the connection's bytes.
    pub(crate) async fn upgraded(mut self: Box<Self>) -> (Stream, Bytes, Open) {
        poll_fn(|cx| {
            self.drive(cx);
            if self.over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let Self { connection, open, .. } = *self;
        let parts = connection.into_parts();
        (parts.io.into_inner(), parts.read_buf, open)
    }
}
