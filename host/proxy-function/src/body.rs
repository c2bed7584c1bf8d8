//! Bodies between guests and the gateway, in either direction.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::{Error, WasiBody};
use weir_exchange::{Broken, CallFault, Stream};

use crate::reuse::WayBack;

/// What is known of an exchange on both sides.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The guest was told that something outside of it failed; what it does then is not its fault.
    excused: AtomicBool,
    /// It was told that something failed.
    failed: AtomicBool,
    /// It did not end as it should: what it had not finished is not whole.
    broken: AtomicBool,
    /// Nobody has an interest in it any more.
    abandoned: AtomicBool,
    /// Requests that it sent on.
    pub(crate) calls: AtomicU64,
    /// Bodies that it has not read to their end, and requests that it has no answer to.
    open: AtomicU64,
}

/// Something of an exchange that a guest has to do with until this is dropped.
pub(crate) struct Open(Arc<Progress>);

impl Open {
    pub(crate) fn new(progress: &Arc<Progress>) -> Self {
        progress.open.fetch_add(1, Relaxed);
        Self(Arc::clone(progress))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Progress {
    pub(crate) fn excuse(&self) {
        self.excused.store(true, Relaxed);
    }

    /// Something outside of the guest failed, and it is told so.
    pub(crate) fn fails(&self) {
        self.failed.store(true, Relaxed);
        self.excuse();
    }

    /// Whether something failed, or somebody who began with it is no longer there.
    pub(crate) fn has_failed(&self) -> bool {
        [&self.failed, &self.broken, &self.abandoned].iter().any(|what| what.load(Relaxed))
    }

    /// Whether the guest has not come to the end of what it was given.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    pub(crate) fn is_excused(&self) -> bool {
        self.excused.load(Relaxed) || self.is_abandoned()
    }

    pub(crate) fn breaks(&self) {
        self.broken.store(true, Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }
}

/// Ends a guest that nobody has an interest in any more.
pub(crate) struct Interest {
    pub(crate) progress: Arc<Progress>,
    pub(crate) guest: Option<AbortHandle>,
    /// The way back of an instance that may serve again.
    pub(crate) back: Option<Arc<WayBack>>,
}

impl Interest {
    /// The guest may end by itself.
    pub(crate) fn satisfied(&mut self) {
        self.guest = None;
    }

    /// All of the response is there.
    fn is_whole(&mut self) {
        self.satisfied();
        if let Some(back) = self.back.take() {
            back.responded();
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.progress.abandoned.store(true, Relaxed);
            guest.abort();
        }
        if let Some(back) = self.back.take() {
            back.breaks();
        }
    }
}

/// A request's body that somebody else may have as long as the guest has not begun with it.
#[derive(Clone)]
pub(crate) struct Untouched(Arc<Mutex<Option<Stream>>>);

impl Untouched {
    pub(crate) fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    fn is_end(&self) -> bool {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(crate) fn take(&self) -> Option<Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that a guest reads.
pub(crate) struct Read {
    stream: Option<Stream>,
    untouched: Option<Untouched>,
    progress: Arc<Progress>,
    open: Option<Open>,
}

impl Read {
    pub(crate) fn new(stream: Stream, progress: Arc<Progress>) -> Self {
        let open = (!stream.is_end_stream()).then(|| Open::new(&progress));
        Self { stream: Some(stream), untouched: None, progress, open }
    }

    pub(crate) fn untouched(untouched: Untouched, progress: Arc<Progress>) -> Self {
        let open = (!untouched.is_end()).then(|| Open::new(&progress));
        Self { stream: None, untouched: Some(untouched), progress, open }
    }
}

impl Body for Read {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Some(untouched) = this.untouched.take() {
            this.stream = untouched.take();
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        let frame = stream.as_mut().poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) || stream.is_end_stream() {
            this.open = None;
        }
        frame.map(|frame| {
            frame.map(|frame| {
                frame.map_err(|broken| {
                    this.progress.fails();
                    error_of(broken)
                })
            })
        })
    }
}

/// A body that a guest writes. When all of the length that its head says is there, it is whole, and
/// nobody asks for its end: what the guest still has to say (a flush, the end) is heard in the
/// background, for it would take it for an error if nobody did.
pub(crate) struct Written {
    body: Option<WasiBody>,
    progress: Arc<Progress>,
    runners: Handle,
    /// Bytes to come, if its head says how many.
    left: Option<u64>,
    /// Of a response's body.
    interest: Option<Interest>,
}

impl Written {
    pub(crate) fn new(
        body: WasiBody,
        length: Option<u64>,
        progress: Arc<Progress>,
        interest: Option<Interest>,
        runners: Handle,
    ) -> Self {
        let mut this = Self { body: Some(body), progress, runners, left: length, interest };
        if length == Some(0) || this.is_end_stream() {
            this.is_whole();
        }
        this
    }

    /// It has ended: all of it is there, or there will be no more.
    fn ended(&mut self, whole: bool) {
        self.body = None;
        self.left = Some(0);
        match &mut self.interest {
            Some(interest) if whole => interest.is_whole(),
            Some(interest) => interest.satisfied(),
            None => {}
        }
    }

    fn is_whole(&mut self) {
        if let Some(mut body) = self.body.take() {
            self.runners.spawn(async move { while body.frame().await.is_some() {} });
        }
        self.ended(true);
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if this.left == Some(0) || frame.is_trailers() {
                    this.is_whole();
                }
                Some(Ok(frame))
            }
            // A guest that trapped drops its end as one does that has finished.
            None if !this.progress.broken.load(Relaxed) => {
                this.ended(true);
                None
            }
            None | Some(Err(_)) => {
                this.ended(false);
                Some(Err(Broken::Function))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Of a request whose method has no body mostly, its end is not asked for.
        let ended = self.body.as_mut().and_then(|body| body.frame().now_or_never());
        if matches!(ended, Some(None)) {
            self.is_whole();
        }
        // Whoever was to take it went, and the guest will be told so when it goes on writing.
        if self.body.is_some() {
            self.progress.fails();
        }
    }
}

/// The length that a head says.
pub(crate) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a response has no body, whatever its head says of one (RFC 9112, section 6.3).
pub(crate) fn is_bodiless(to_head: bool, status: StatusCode) -> bool {
    to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a guest is told of a body that breaks off.
fn error_of(broken: Broken) -> Error {
    match broken {
        Broken::Client | Broken::Upstream | Broken::Function => Error::ConnectionTerminated,
        Broken::ClientSlow | Broken::UpstreamSlow => Error::ConnectionReadTimeout,
        Broken::TooLarge => Error::HttpRequestBodySize(None),
    }
}

/// What a guest is told of a request that has no response.
pub(crate) fn error_of_call(fault: CallFault) -> Error {
    match fault {
        CallFault::Timeout => Error::ConnectionTimeout,
        CallFault::Unreachable => Error::DestinationUnavailable,
        CallFault::NotHttp => Error::HttpProtocolError,
        CallFault::TooLong => Error::HttpResponseBodySize(None),
    }
}
