//! A response's body, as it goes to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::chain::{Ended, Pieces};
use crate::connection::timer::Deadline;
use crate::http::fault::Fault;
use crate::http::filter::Filtered;
use crate::http::finish::Finish;
use crate::http::flow::BoxFlow;
use crate::http::request_body::Progress;
use crate::http::rules;
use crate::observe::statistics::Failure;
use crate::upstream::pool::{Carrier, STREAM_WINDOW, Upstream};

/// An upstream's body. It drives the connection that it comes by, and gives it back when it has
/// ended.
pub(crate) struct Download {
    incoming: Incoming,
    link: Option<Carrier>,
    upstream: Rc<Upstream>,
    /// What becomes of the request's body meanwhile, if it has one.
    upload: Option<Rc<Progress>>,
    patience: std::time::Duration,
    waiting: Option<Instant>,
    /// For bodies of shared connections.
    deadline: Deadline,
    keep: bool,
}

impl Download {
    pub(crate) fn new(
        incoming: Incoming,
        link: Carrier,
        upstream: Rc<Upstream>,
        patience: std::time::Duration,
        keep: bool,
    ) -> Self {
        Self {
            incoming,
            link: Some(link),
            upstream,
            upload: None,
            patience,
            waiting: None,
            deadline: Deadline::default(),
            keep,
        }
    }

    /// While the request's body still comes: what ends that ends the response, and as long as it
    /// moves, the response may be silent.
    pub(crate) fn beside(self, upload: Option<Rc<Progress>>) -> Self {
        Self { upload, ..self }
    }

    /// Gives the connection back if the body has ended.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let ended = self.incoming.is_end_stream();
        if ended {
            self.release(cx);
        }
        ended
    }

    /// Reads and writes what can be by the connection.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(Carrier::Link(link)) = &mut self.link {
            link.drive(cx);
        }
    }

    /// Bytes that the upstream can have sent ahead.
    fn holds(&self) -> usize {
        if self.link.is_some() { self.upstream.sends_ahead } else { 0 }
    }

    fn release(&mut self, cx: &mut Context<'_>) {
        if let Some(Carrier::Link(link)) = self.link.take()
            && self.keep
        {
            self.upstream.keep(link, cx);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.link {
            Some(Carrier::Link(link)) => link.poll_body(cx, &mut self.incoming),
            _ => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        match this.poll_incoming(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.waiting = None;
                this.settle(cx);
                if let Some(trailers) = frame.trailers_mut() {
                    rules::trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.release(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => {
                this.link = None;
                let fault = this.upload.as_ref().and_then(|upload| upload.fault.get());
                Poll::Ready(Some(Err(fault.unwrap_or(Fault::Upstream))))
            }
            Poll::Pending => {
                let waiting = *this.waiting.get_or_insert_with(Instant::now);
                let upload = this.upload.as_ref();
                let at = upload.map_or(waiting, |upload| upload.latest.get().max(waiting))
                    + this.patience;
                let expired = match &mut this.link {
                    Some(Carrier::Link(link)) => link.expired(cx, at),
                    _ => this.deadline.expired(cx, at),
                };
                if expired {
                    this.link = None;
                    let fault = upload.map_or(Fault::UpstreamSlow, |upload| upload.silence());
                    return Poll::Ready(Some(Err(fault)));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Where a response's bytes come from.
pub(crate) enum Source {
    Empty,
    /// In reverse order.
    Pieces(Pieces),
    Download(Download),
    Filtered(Box<Filtered<Download>>),
    /// Out of a chain with services.
    Flow(BoxFlow),
}

impl Source {
    /// There is nothing, and never was.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Nothing of it is sent: the response has no body, whatever function or gateway made one. To
    /// HEAD its length is said (RFC 9110 section 8.6).
    pub(crate) fn leave_out(&mut self, method: &Method, headers: &mut HeaderMap) {
        let length = match std::mem::replace(self, Self::Empty) {
            Self::Empty => return,
            Self::Pieces(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Self::Flow(flow) => flow.size_hint().exact().unwrap_or(0),
            _ => 0,
        };
        headers.remove(CONTENT_LENGTH);
        if method == Method::HEAD && length > 0 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
}

/// See the module.
pub(crate) struct ResponseBody {
    source: Source,
    finish: Option<Finish>,
    /// It has neither length nor chunks: it ends with its connection.
    unframed: bool,
    broken: Option<Broken>,
}

/// That it has broken off, until hyper is told: what it has not sent by then it throws away.
struct Broken {
    fault: Fault,
    /// When, and how often all had been sent by then.
    since: Instant,
    flushes: u64,
    deadline: Deadline,
}

impl ResponseBody {
    /// The body of a response whose head leaves now.
    pub(crate) fn new(source: Source, finish: Finish) -> Self {
        let mut this = Self { source, finish: Some(finish), unframed: false, broken: None };
        if this.is_end_stream() {
            this.delivered();
        }
        this
    }

    /// One that needs no end: it is not counted.
    pub(crate) fn uncounted() -> Self {
        Self { source: Source::Empty, finish: None, unframed: false, broken: None }
    }

    /// It has neither length nor chunks, so only its connection can show that something is missing.
    pub(crate) fn unframed(&mut self) {
        self.unframed = true;
    }

    /// The client does not take it, and it is given up for this reason.
    pub(crate) fn not_taken(mut self, why: Failure) {
        if let Some(finish) = &mut self.finish {
            finish.slow(why);
        }
    }

    /// Bytes that may lie here, or have been sent here, and that nobody has asked for: no more than
    /// are to come.
    pub(crate) fn holds(&self) -> usize {
        let most = match &self.source {
            Source::Empty => 0,
            Source::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
            Source::Download(download) => download.holds(),
            Source::Filtered(filtered) => filtered.source().holds() + filtered.keeps(),
            Source::Flow(_) => STREAM_WINDOW as usize,
        };
        let to_come = self.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        to_come.map_or(most, |to_come| to_come.min(most))
    }

    fn delivered(&mut self) {
        if let Some(mut finish) = self.finish.take() {
            finish.delivered();
        }
    }

    /// Counts that it has broken off.
    fn breaks(&mut self, fault: Fault) {
        let Some(finish) = &mut self.finish else { return };
        let (since, flushes) = (Instant::now(), finish.pulse.flushes());
        self.broken = Some(Broken { fault, since, flushes, deadline: Deadline::default() });
        if self.unframed || !of_upstream(fault) {
            finish.cut();
        }
        let (how, failure) = match fault {
            Fault::Answered | Fault::Reset => (Ended::Reset, Failure::Function),
            Fault::UpstreamSlow => (Ended::UpstreamFailed, Failure::UpstreamSlow),
            Fault::Upstream => (Ended::UpstreamFailed, Failure::Broken),
            Fault::TooLarge => (Ended::Reset, Failure::Refused),
            // As if it had gone.
            Fault::Client => return,
            Fault::ClientSlow => return finish.slow(Failure::ClientSlow),
        };
        finish.failed(failure);
        finish.ends(how);
    }

    /// Ready with the fault when what came before it has been sent.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let Some(Broken { fault, since, flushes, deadline }) = &mut self.broken else {
            return Poll::Ready(Fault::Reset);
        };
        if let Some(finish) = self.finish.as_ref().filter(|_| of_upstream(*fault)) {
            let until = *since + finish.site.plan.config.timeouts.body;
            let sent = finish.pulse.poll_flushed(cx, *flushes).is_ready();
            if !sent && !deadline.expired(cx, until) {
                return Poll::Pending;
            }
        }
        self.finish = None;
        Poll::Ready(*fault)
    }
}

/// Whether what came before was as good as any.
fn of_upstream(fault: Fault) -> bool {
    matches!(fault, Fault::Upstream | Fault::UpstreamSlow)
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if this.broken.is_some() {
            return this.poll_broken(cx).map(|fault| Some(Err(fault)));
        }
        let frame = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Pieces(pieces) => Poll::Ready(pieces.pop().map(|piece| Ok(Frame::data(piece)))),
            Source::Download(download) => Pin::new(download).poll_frame(cx),
            Source::Filtered(filtered) => Pin::new(&mut **filtered).poll_frame(cx),
            Source::Flow(flow) => Pin::new(flow).poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(finish) = &this.finish {
                    finish.moved(frame.data_ref().map_or(0, Bytes::len));
                }
                if this.is_end_stream() {
                    this.delivered();
                }
            }
            Poll::Ready(Some(Err(fault))) => {
                this.breaks(*fault);
                return this.poll_broken(cx).map(|fault| Some(Err(fault)));
            }
            Poll::Ready(None) => this.delivered(),
            Poll::Pending => (),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Pieces(pieces) => pieces.is_empty(),
            Source::Download(download) => download.is_end_stream(),
            Source::Filtered(filtered) => filtered.is_end_stream(),
            Source::Flow(flow) => flow.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Pieces(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Source::Download(download) => download.size_hint(),
            Source::Filtered(filtered) => filtered.size_hint(),
            Source::Flow(flow) => flow.size_hint(),
        }
    }
}
