//! What a service was asked and did during a visit, kept so that a version on trial can be asked
//! the same afterwards.
//!
//! Bodies are copied as they pass, and no faster. A visit with more than a tape has room for is
//! torn: nothing of it is compared.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use weir_exchange::{Broken, CallFault, Onward, Stream};

/// Bytes of heads and bodies that are kept of a visit.
const ROOM: usize = 256 << 10;
/// Requests of its own that are kept of a visit.
const CALLS: usize = 64;

/// A request's head.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

/// A response's head.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// A head with what was taken of its body.
pub(crate) struct Taped<H> {
    pub(crate) head: H,
    pub(crate) body: TapedBody,
}

/// A request that a service sent on, and its answer, if there was one before nobody waited for it
/// any more.
pub(crate) struct Call {
    pub(crate) upstream: Option<usize>,
    pub(crate) request: Taped<RequestHead>,
    pub(crate) answer: RefCell<Option<Result<Taped<ResponseHead>, CallFault>>>,
}

/// See the module.
pub(crate) struct Tape {
    pub(crate) request: Taped<RequestHead>,
    pub(crate) calls: RefCell<Vec<Rc<Call>>>,
    pub(crate) response: RefCell<Option<Taped<ResponseHead>>>,
    room: Arc<Room>,
}

impl Tape {
    /// Begins with a visit: what is to be served instead is kept as it passes.
    pub(crate) fn begin(
        request: Request<Stream>,
        onward: Rc<dyn Onward>,
    ) -> (Rc<Self>, Request<Stream>, Rc<dyn Onward>) {
        let room = Arc::new(Room { left: AtomicUsize::new(ROOM), torn: AtomicBool::new(false) });
        let (request, taped) = room.request(request);
        let tape = Rc::new(Self {
            request: taped,
            calls: RefCell::default(),
            response: RefCell::default(),
            room,
        });
        let onward = Rc::new(Listening { onward, tape: Rc::clone(&tape) });
        (tape, request, onward)
    }

    /// Keeps the response, too. `taken` hears when somebody has taken all of it.
    pub(crate) fn respond(
        &self,
        response: Response<Stream>,
        taken: oneshot::Sender<()>,
    ) -> Response<Stream> {
        let (response, taped) = self.room.response(response, Some(taken));
        *self.response.borrow_mut() = Some(taped);
        response
    }

    /// There was more than it has room for.
    pub(crate) fn is_torn(&self) -> bool {
        self.room.torn.load(Relaxed)
    }
}

/// What is sent on, and what comes back, is kept.
struct Listening {
    onward: Rc<dyn Onward>,
    tape: Rc<Tape>,
}

impl Onward for Listening {
    fn send(
        &self,
        request: Request<Stream>,
        upstream: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>> {
        let tape = Rc::clone(&self.tape);
        if tape.calls.borrow().len() == CALLS {
            tape.room.tear();
        }
        if tape.is_torn() {
            return self.onward.send(request, upstream);
        }
        let (request, taped) = tape.room.request(request);
        let call = Rc::new(Call { upstream, request: taped, answer: RefCell::default() });
        tape.calls.borrow_mut().push(Rc::clone(&call));
        let answer = self.onward.send(request, upstream);
        Box::pin(async move {
            let (answer, taped) = match answer.await {
                Ok(response) => {
                    let (response, taped) = tape.room.response(response, None);
                    (Ok(response), Ok(taped))
                }
                Err(fault) => (Err(fault), Err(fault)),
            };
            *call.answer.borrow_mut() = Some(taped);
            answer
        })
    }
}

/// What is left of a tape.
struct Room {
    left: AtomicUsize,
    torn: AtomicBool,
}

impl Room {
    fn tear(&self) {
        self.torn.store(true, Relaxed);
    }

    /// Whether so many bytes more are kept.
    fn takes(&self, bytes: usize) -> bool {
        let left = self.left.try_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        if left.is_err() {
            self.tear();
        }
        !self.torn.load(Relaxed)
    }

    fn request(
        self: &Arc<Self>,
        request: Request<Stream>,
    ) -> (Request<Stream>, Taped<RequestHead>) {
        let (parts, body) = request.into_parts();
        let head = RequestHead {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: self.headers(&parts.headers),
        };
        let (body, taped) = self.body(body, None);
        (Request::from_parts(parts, body), Taped { head, body: taped })
    }

    fn response(
        self: &Arc<Self>,
        response: Response<Stream>,
        taken: Option<oneshot::Sender<()>>,
    ) -> (Response<Stream>, Taped<ResponseHead>) {
        let (parts, body) = response.into_parts();
        let head = ResponseHead { status: parts.status, headers: self.headers(&parts.headers) };
        let (body, taped) = self.body(body, taken);
        (Response::from_parts(parts, body), Taped { head, body: taped })
    }

    fn headers(&self, headers: &HeaderMap) -> HeaderMap {
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.takes(bytes) { headers.clone() } else { HeaderMap::new() }
    }

    fn body(
        self: &Arc<Self>,
        stream: Stream,
        taken: Option<oneshot::Sender<()>>,
    ) -> (Stream, TapedBody) {
        let taped = TapedBody::default();
        let mut copying = Copying { stream, room: Arc::clone(self), taped: taped.clone(), taken };
        copying.look_for_end();
        (Box::pin(copying), taped)
    }
}

/// What was taken of a body, by whoever was to have it.
#[derive(Clone, Default)]
pub(crate) struct TapedBody(Arc<Mutex<Taken>>);

/// See [`TapedBody`].
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) data: BytesMut,
    pub(crate) trailers: Option<HeaderMap>,
    /// How it ended; none if somebody lost interest in it before.
    pub(crate) end: Option<Result<(), Broken>>,
}

impl TapedBody {
    pub(crate) fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is kept as it passes.
struct Copying {
    stream: Stream,
    room: Arc<Room>,
    taped: TapedBody,
    taken: Option<oneshot::Sender<()>>,
}

impl Copying {
    fn ends(&mut self, how: Result<(), Broken>) {
        self.taped.taken().end.get_or_insert(how);
        if let Some(taken) = self.taken.take() {
            // Nobody may want to know any more.
            let _ = taken.send(());
        }
    }

    /// Whoever takes it may ask for its end before, and then not ask for another frame.
    fn look_for_end(&mut self) {
        if self.stream.is_end_stream() {
            self.ends(Ok(()));
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if self.room.takes(data.len()) {
                self.taped.taken().data.extend_from_slice(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            let trailers = self.room.headers(trailers);
            self.taped.taken().trailers = Some(trailers);
        }
    }
}

impl Body for Copying {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(self.stream.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                self.keep(frame);
                self.look_for_end();
            }
            Some(Err(broken)) => self.ends(Err(*broken)),
            None => self.ends(Ok(())),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}
