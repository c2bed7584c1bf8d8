//! A visit to a service once more, for a version on trial: where does it do otherwise?
//!
//! It comes when the visit is over and all of its response was taken, so nobody waits for it, and
//! it has nothing to wait for. What the version asks for goes nowhere: a request that the running
//! version sent on, too, gets the answer that that one got. One that it did not send is a
//! difference, and nothing behind that is compared.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use weir_exchange::{Broken, CallFault, Environment, Onward, Origin, Stream};
use weir_proxy_function::{How, ProxyFunction, Unserved};
use weir_sandbox::Fault;

use crate::tape::{Call, RequestHead, Tape, TapedBody};

/// What a replay has shown.
pub(crate) enum Shown {
    /// Nothing: it could not be served, or took more of a body than there is on tape.
    Nothing,
    /// No difference.
    Same,
    /// It does something else.
    Otherwise(String),
    /// It says something else.
    Bytes(&'static str),
    /// It faulted.
    Fault(Fault),
}

/// Asks the version on trial what was asked on the tape.
pub(crate) async fn replay(
    tape: &Tape,
    proxy: &Arc<ProxyFunction>,
    origin: &Origin,
    environment: &Rc<dyn Environment>,
) -> Shown {
    let short = Arc::new(AtomicBool::new(false));
    let again = |body: &TapedBody, broken| -> Stream {
        Box::pin(Again::new(body, broken, Arc::clone(&short)))
    };
    let mut request = Request::new(again(&tape.request.body, Broken::Client));
    let RequestHead { method, uri, headers } = tape.request.head.clone();
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    let calls = Rc::new(Calls {
        left: RefCell::new(tape.calls.borrow().clone()),
        unknown: RefCell::default(),
        bodies: RefCell::default(),
        short: Arc::clone(&short),
        environment: Rc::clone(environment),
    });
    let onward: Rc<dyn Onward> = Rc::<Calls>::clone(&calls);
    let serving = proxy.serve(request, origin, false, onward, Rc::clone(environment));
    let said = match serving.head.await {
        Ok(response) => Some(compare(tape, response).await),
        Err(Unserved::Busy(_) | Unserved::Full) => return Shown::Nothing,
        Err(Unserved::Fault(_) | Unserved::Failed(_) | Unserved::Late) => None,
    };
    let ended = serving.ended.await.and_then(|ended| ended.how);
    if short.load(Relaxed) {
        return Shown::Nothing;
    }
    if let Some(How::Fault(fault)) = ended {
        return Shown::Fault(fault);
    }
    if let Some(unknown) = calls.unknown.take() {
        return Shown::Otherwise(unknown);
    }
    let bodies = calls.bodies.take();
    for body in bodies {
        // It is gone without a word only if the thread is.
        if body.await == Ok(false) {
            return Shown::Bytes("another body of a request that it sends on");
        }
    }
    if let Some(call) = calls.left.borrow().first() {
        return Shown::Otherwise(format!("does not send on {}", told(&call.request.head)));
    }
    said.unwrap_or_else(|| Shown::Otherwise("no response".into()))
}

/// Compares a response with the one on the tape.
async fn compare(tape: &Tape, response: Response<Stream>) -> Shown {
    let (parts, body) = response.into_parts();
    let taped = {
        let taped = tape.response.borrow();
        let Some(taped) = &*taped else { return Shown::Nothing };
        let (one, two) = (parts.status, taped.head.status);
        if one != two {
            return Shown::Otherwise(format!(
                "status {} instead of {}",
                one.as_str(),
                two.as_str()
            ));
        }
        if parts.headers != taped.head.headers {
            return Shown::Bytes("another head");
        }
        taped.body.clone()
    };
    if is_same(body, &taped).await { Shown::Same } else { Shown::Bytes("another body") }
}

/// Takes a body, and says whether it is the one on tape. Of one that nobody took to its end only
/// what was taken is compared.
async fn is_same(mut body: Stream, taped: &TapedBody) -> bool {
    let (mut at, mut trailers, mut end) = (0, None, Ok(()));
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                let taken = taped.taken();
                let rest = &taken.data[at..];
                let whole = taken.end.is_some();
                let amount = if whole { data.len() } else { data.len().min(rest.len()) };
                if rest.get(..amount) != data.get(..amount) {
                    return false;
                }
                at += amount;
            }
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(broken) => {
                end = Err(broken);
                break;
            }
        }
    }
    let taken = taped.taken();
    let Some(taped_end) = taken.end else { return at == taken.data.len() };
    at == taken.data.len()
        && trailers.unwrap_or_default() == taken.trailers.clone().unwrap_or_default()
        && taped_end.is_ok() == end.is_ok()
}

/// The answers that the running version got.
struct Calls {
    /// Requests that nobody sent on again yet.
    left: RefCell<Vec<Rc<Call>>>,
    /// A request that is not on tape.
    unknown: RefCell<Option<String>>,
    /// Whether bodies of requests are those on tape.
    bodies: RefCell<Vec<oneshot::Receiver<bool>>>,
    short: Arc<AtomicBool>,
    environment: Rc<dyn Environment>,
}

impl Onward for Calls {
    fn send(
        &self,
        request: Request<Stream>,
        upstream: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>> {
        let (parts, body) = request.into_parts();
        let head = RequestHead { method: parts.method, uri: parts.uri, headers: parts.headers };
        let known = |call: &Rc<Call>| call.upstream == upstream && call.request.head == head;
        let place = self.left.borrow().iter().position(known);
        let Some(place) = place else {
            let what = format!("sends on {}, which the running version did not", told(&head));
            self.unknown.borrow_mut().get_or_insert(what);
            return Box::pin(std::future::ready(Err(CallFault::Unreachable)));
        };
        let call = self.left.borrow_mut().remove(place);
        let (say, said) = oneshot::channel();
        self.bodies.borrow_mut().push(said);
        let taped = call.request.body.clone();
        self.environment.spawn(Box::pin(async move {
            // Who asks may have seen another difference before.
            let _ = say.send(is_same(body, &taped).await);
        }));
        let short = Arc::clone(&self.short);
        Box::pin(async move {
            let answer = call.answer.borrow();
            match &*answer {
                Some(Ok(taped)) => {
                    let body: Stream = Box::pin(Again::new(&taped.body, Broken::Upstream, short));
                    let mut response = Response::new(body);
                    *response.status_mut() = taped.head.status;
                    response.headers_mut().clone_from(&taped.head.headers);
                    Ok(response)
                }
                Some(Err(fault)) => Err(*fault),
                None => {
                    // The running version did not wait for it.
                    short.store(true, Relaxed);
                    Err(CallFault::Timeout)
                }
            }
        })
    }
}

/// A request, for people.
fn told(head: &RequestHead) -> String {
    const LONGEST: usize = 200;
    let path: String = head.uri.to_string().chars().take(LONGEST).collect();
    let fields = head.headers.len();
    format!("{} {path} ({fields} fields)", head.method)
}

/// A body off the tape.
struct Again {
    data: Bytes,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), Broken>>,
    /// What it says to who takes more than there is on tape.
    broken: Broken,
    short: Arc<AtomicBool>,
}

impl Again {
    fn new(body: &TapedBody, broken: Broken, short: Arc<AtomicBool>) -> Self {
        let taken = body.taken();
        let data = Bytes::copy_from_slice(&taken.data);
        Self { data, trailers: taken.trailers.clone(), end: taken.end, broken, short }
    }
}

impl Body for Again {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(match self.end {
            Some(Ok(())) => None,
            Some(Err(broken)) => Some(Err(broken)),
            None => {
                self.short.store(true, Relaxed);
                Some(Err(self.broken))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none() && self.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        match self.end {
            Some(Ok(())) => SizeHint::with_exact(self.data.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
