//! A request's body, as it goes to the upstream.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::chain::Pieces;
use crate::connection::stream::Pulse;
use crate::connection::timer::Deadline;
use crate::http::fault::Fault;
use crate::http::filter::Filtered;
use crate::http::flow::{BoxFlow, Flow};
use crate::http::retry_body::{Again, Repeatable};
use crate::http::rules;
use crate::upstream::http2::OpenStream;

/// What the exchange must know of a body that hyper has.
pub(crate) struct Progress {
    /// What ended it before its time.
    pub(crate) fault: Cell<Option<Fault>>,
    /// When a piece came, or one of the response left.
    pub(crate) latest: Cell<Instant>,
    /// The next piece is asked for, and the client has not sent it.
    awaited: Cell<bool>,
    /// The response's head has left: from then on it is the exchange that may be silent for so
    /// long, not the client alone.
    answering: Cell<Option<Duration>>,
    /// The stream of a shared connection that it goes by.
    pub(crate) stream: RefCell<Option<Rc<OpenStream>>>,
    /// What a function answered to a piece.
    pub(crate) answer: RefCell<Option<Response<Pieces>>>,
    /// Some of it came.
    begun: Cell<bool>,
    /// Bytes that came.
    received: Cell<u64>,
    /// Bytes that are still to come from the client, if that is known.
    left: Cell<Option<u64>>,
    /// What is left when nobody wants it is not read.
    cut: Cell<bool>,
}

impl Progress {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            fault: Cell::new(None),
            latest: Cell::new(Instant::now()),
            awaited: Cell::new(false),
            answering: Cell::new(None),
            stream: RefCell::default(),
            answer: RefCell::new(None),
            begun: Cell::new(false),
            received: Cell::new(0),
            left: Cell::new(None),
            cut: Cell::new(false),
        })
    }

    /// Bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether some of it came.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Whether the client has no more than so many bytes to send, as far as is known.
    pub(crate) fn has_at_most(&self, bytes: usize) -> bool {
        self.left.get().is_some_and(|left| left <= bytes as u64)
    }

    /// What is left when nobody wants it is not read.
    pub(crate) fn cut(&self) {
        self.cut.set(true);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Something came, or left.
    pub(crate) fn moved(&self) {
        self.latest.set(Instant::now());
    }

    /// The response's head leaves; without a piece in either direction the exchange may last so
    /// long.
    pub(crate) fn answers(&self, patience: Duration) {
        self.answering.set(Some(patience));
        self.moved();
    }

    /// The time for an answer runs from here: not while the client has not sent the next piece, for
    /// which it has a time of its own.
    pub(crate) fn since(&self) -> Instant {
        if self.awaited.get() { Instant::now() } else { self.latest.get() }
    }

    /// Why a response that is silent for too long is given up: as long as its upstream waits for
    /// the request, that is not its fault.
    pub(crate) fn silence(&self) -> Fault {
        if self.awaited.get() { Fault::ClientSlow } else { Fault::UpstreamSlow }
    }

    /// Notes what came of asking for the next piece.
    fn note(&self, frame: &Poll<Option<Result<Frame<Bytes>, Fault>>>) {
        self.awaited.set(frame.is_pending());
        match frame {
            Poll::Ready(Some(Err(fault))) => self.fault.set(Some(*fault)),
            Poll::Ready(_) => self.moved(),
            Poll::Pending => (),
        }
    }
}

/// The client's body: as long as it may be, and as slow. What is left of it when nobody wants it
/// any more is the connection's to read.
pub(crate) struct Upload {
    /// None when it has ended.
    incoming: Option<Incoming>,
    /// Bytes it may still have.
    left: u64,
    patience: Duration,
    waiting: Option<Instant>,
    deadline: Deadline,
    progress: Rc<Progress>,
    pulse: Rc<Pulse>,
}

impl Upload {
    pub(crate) fn new(
        incoming: Incoming,
        limit: Option<u64>,
        patience: Duration,
        pulse: Rc<Pulse>,
    ) -> Self {
        let (left, deadline) = (limit.unwrap_or(u64::MAX), Deadline::default());
        let progress = Progress::new();
        progress.left.set(incoming.size_hint().exact());
        let incoming = Some(incoming);
        pulse.uploads.set(pulse.uploads.get() + 1);
        Self { incoming, left, patience, waiting: None, deadline, progress, pulse }
    }

    /// What the exchange must know of it.
    pub(crate) fn progress(&self) -> &Rc<Progress> {
        &self.progress
    }

    fn ended(&mut self) {
        self.take();
        self.progress.left.set(Some(0));
    }

    /// What is left of it; it is not on its way any more.
    fn take(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.take()?;
        self.pulse.upload_ended();
        Some(incoming)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.waiting = None;
                self.pulse.uploaded();
                self.progress.begun.set(true);
                self.progress.left.set(incoming.size_hint().exact());
                let ended = incoming.is_end_stream();
                if let Some(data) = frame.data_ref() {
                    self.progress.received.set(self.progress.received.get() + data.len() as u64);
                    match self.left.checked_sub(data.len() as u64) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(Some(Err(Fault::TooLarge))),
                    }
                }
                if let Some(trailers) = frame.trailers_mut() {
                    rules::request_trailers(trailers);
                }
                // Nothing follows trailers, and not everybody asks.
                if ended || frame.is_trailers() {
                    self.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                self.take();
                Poll::Ready(Some(Err(Fault::Client)))
            }
            Poll::Ready(None) => {
                self.ended();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let waiting = *self.waiting.get_or_insert_with(Instant::now);
                let at = match self.progress.answering.get() {
                    None => waiting + self.patience,
                    Some(patience) => {
                        waiting.max(self.progress.latest.get()) + patience.max(self.patience)
                    }
                };
                if self.deadline.expired(cx, at) {
                    self.take();
                    return Poll::Ready(Some(Err(Fault::ClientSlow)));
                }
                Poll::Pending
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let frame = this.poll(cx);
        this.progress.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.stream.replace(None);
        if let Some(incoming) = self.take()
            && !incoming.is_end_stream()
        {
            self.pulse.unread_bodies.add(incoming, &self.progress, self.patience);
        }
    }
}

/// See the module.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// The client's, as it comes.
    Upload(Box<Upload>),
    /// The client's, through the chain.
    Filtered(Box<Filtered<Upload>>, Rc<Progress>),
    /// Out of a chain with services.
    Flow(BoxFlow, Rc<Progress>),
    /// A function's own, in reverse order.
    Pieces(Pieces),
    /// One of these that may be taken back.
    Lent(Rc<Repeatable>),
    /// One of which some was sent before.
    Again(Box<Again>),
}

impl RequestBody {
    /// The body of a function's own request.
    pub(crate) fn pieces(mut pieces: Pieces) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        pieces.reverse();
        if pieces.is_empty() { Self::Empty } else { Self::Pieces(pieces) }
    }
}

impl Flow for RequestBody {}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(upload) => Pin::new(&mut **upload).poll_frame(cx),
            Self::Filtered(filtered, progress) => {
                let frame = Pin::new(&mut **filtered).poll_frame(cx);
                if let Poll::Ready(Some(Err(fault))) = &frame {
                    progress.fault.set(Some(*fault));
                    *progress.answer.borrow_mut() = filtered.take_answer();
                }
                frame
            }
            Self::Flow(flow, progress) => {
                let frame = Pin::new(flow).poll_frame(cx);
                progress.note(&frame);
                frame
            }
            Self::Pieces(pieces) => Poll::Ready(pieces.pop().map(|piece| Ok(Frame::data(piece)))),
            Self::Lent(lent) => lent.poll_frame(cx),
            Self::Again(again) => again.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => upload.is_end_stream(),
            Self::Filtered(filtered, _) => filtered.is_end_stream(),
            Self::Flow(flow, _) => flow.is_end_stream(),
            Self::Pieces(pieces) => pieces.is_empty(),
            Self::Lent(lent) => lent.is_end_stream(),
            Self::Again(again) => again.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.size_hint(),
            Self::Filtered(filtered, _) => filtered.size_hint(),
            Self::Flow(flow, _) => flow.size_hint(),
            Self::Pieces(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Self::Lent(lent) => lent.size_hint(),
            Self::Again(again) => again.size_hint(),
        }
    }
}
