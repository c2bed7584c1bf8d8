//! An exchange's service, as the gateway's thread has it: the guest is elsewhere, its calls are
//! made from here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{HeaderValue, Method, Request, Response, header, request};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use weir_exchange::{Environment, Onward, Origin, Stream, copied};
use weir_sandbox::{Fault, Level};

use crate::body::{Interest, Read, Untouched, Written, is_bodiless, length};
use crate::function::ProxyFunction;
use crate::guest::Call;
use crate::reuse::WayBack;
use crate::run::{Run, Shared};

/// How long an exchange waits for an instance when all are taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a guest ended.
#[derive(Clone, Debug)]
pub enum How {
    /// As it should.
    Finished,
    /// It was at fault.
    Fault(Fault),
    /// It trapped after something outside of it had failed, or when nobody listened any more: why.
    Failed(String),
    /// The exchange's time was up.
    Late,
    /// The host had no room for an instance: functions of all chains have as many as there can be.
    Full,
}

/// A guest's end.
#[derive(Clone, Debug)]
pub struct GuestEnd {
    /// How; none if it was cut off because nobody had an interest in it any more.
    pub how: Option<How>,
    /// CPU time that it used.
    pub cpu: Duration,
    /// Whether it sent a request on.
    pub called: bool,
    /// Whether its instance had served others.
    pub reused: bool,
}

/// Why a guest gave no response.
pub enum Unserved {
    /// No instance was free in time. The request is as it came.
    Busy(Request<Stream>),
    /// It was at fault. The request comes with it if it was to be kept, and is as it came.
    Fault(Option<Request<Stream>>),
    /// It said so, or what it depends on failed.
    Failed(String),
    /// The exchange's time was up.
    Late,
    /// The host had no room for an instance.
    Full,
}

impl Unserved {
    /// After a guest that ended like this without a response. `whole`: the request, if it is as it
    /// came.
    fn after(end: Option<How>, whole: impl FnOnce() -> Option<Request<Stream>>) -> Self {
        match end {
            Some(How::Failed(why)) => Self::Failed(why),
            Some(How::Late) => Self::Late,
            Some(How::Full) => Self::Full,
            Some(How::Finished | How::Fault(_)) | None => Self::Fault(whole()),
        }
    }
}

/// An exchange that is being served.
pub struct Serving {
    /// Its response. Whoever drops it, or later the response's body before its end, has the guest
    /// cut off.
    pub head: LocalBoxFuture<'static, Result<Response<Stream>, Unserved>>,
    /// Its guest's end; none if there was no guest.
    pub ended: LocalBoxFuture<'static, Option<GuestEnd>>,
}

impl ProxyFunction {
    /// Serves an exchange. `keeps`: the request is given back after a fault if the guest had not
    /// begun with it.
    #[must_use]
    pub fn serve(
        self: &Arc<Self>,
        request: Request<Stream>,
        origin: &Origin,
        keeps: bool,
        onward: Rc<dyn Onward>,
        environment: Rc<dyn Environment>,
    ) -> Serving {
        let (began, begun) = oneshot::channel::<(Arc<Shared>, oneshot::Receiver<()>)>();
        let ended = async move {
            let (shared, over) = begun.await.ok()?;
            // Ready when the run's future is gone, whether it has ended or was cut off.
            let _ = over.await;
            let called = shared.progress.calls.load(Relaxed) > 0;
            let (how, cpu, reused) = (shared.end(), shared.meter.total(), shared.reused);
            Some(GuestEnd { how, cpu, called, reused })
        };
        let (function, local, tls) = (Arc::clone(self), origin.local, origin.tls);
        let head = async move {
            let Some(permit) = function.instance(&*environment).await else {
                return Err(Unserved::Busy(request));
            };
            let instance = function.idle.as_ref().and_then(|idle| idle.take());
            let back = function.idle.clone().map(WayBack::new);
            let shared = Arc::new(Shared::of(instance.is_some()));
            let progress = &shared.progress;
            let (mut parts, body) = request.into_parts();
            let is_head = parts.method == Method::HEAD;
            let kept = keeps.then(|| copied(&parts));
            let untouched = Untouched::new(body);
            let authority = authority_of(&mut parts, local);
            let read = Read::untouched(untouched.clone(), Arc::clone(progress));
            let ((calls, called), (given, gives)) = (mpsc::channel(1), oneshot::channel());
            let (over, when_over) = oneshot::channel::<()>();
            let run = Run {
                request: Request::from_parts(parts, read),
                authority,
                tls,
                calls,
                given,
                shared: Arc::clone(&shared),
                function: Arc::clone(&function),
                instance,
            };
            let way = back.clone();
            let guest = function.runners.handle().spawn(async move {
                let _over = over;
                if let (Some(instance), Some(way)) = (run.run().await, way) {
                    way.returned(instance, permit);
                }
            });
            // Nobody has to hear of it.
            let _ = began.send((Arc::clone(&shared), when_over));
            let guest = Some(guest.abort_handle());
            let mut interest = Interest { progress: Arc::clone(progress), guest, back };
            environment.spawn(Box::pin(attend(called, onward)));
            match gives.await {
                Ok(Ok(response)) if !(200..600).contains(&response.status().as_u16()) => {
                    Err(function
                        .unserved(format!("{} is no status of a response", response.status())))
                }
                Ok(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    let bodiless = is_bodiless(is_head, parts.status);
                    let length = if bodiless { Some(0) } else { length(&parts.headers) };
                    let (progress, runners) = (Arc::clone(progress), function.runners.handle());
                    let body =
                        Written::new(body, length, progress, Some(interest), runners.clone());
                    let body: Stream = Box::pin(body);
                    Ok(Response::from_parts(parts, body))
                }
                Ok(Err(error)) => {
                    interest.satisfied();
                    Err(function.unserved(name_of(&error)))
                }
                Err(_) => {
                    interest.satisfied();
                    let whole = || {
                        let untouched =
                            (progress.calls.load(Relaxed) == 0).then(|| untouched.take());
                        let (parts, body) = kept.zip(untouched.flatten())?;
                        Some(Request::from_parts(parts, body))
                    };
                    Err(Unserved::after(shared.end(), whole))
                }
            }
        };
        Serving { head: Box::pin(head), ended: Box::pin(ended) }
    }
}

/// The authority of a request, which it has from here on: the address that it came to, if it names
/// none.
fn authority_of(parts: &mut request::Parts, local: SocketAddr) -> HeaderValue {
    let authority = parts.headers.get(header::HOST).cloned();
    let authority = authority.or_else(|| HeaderValue::from_str(&local.to_string()).ok());
    let authority = authority.unwrap_or_else(|| HeaderValue::from_static("localhost"));
    parts.headers.insert(header::HOST, authority.clone());
    authority
}

impl ProxyFunction {
    /// What it said is no response, which its log says, too.
    fn unserved(&self, why: String) -> Unserved {
        self.config().telemetry.log(Level::Warn, &format!("it gave no response: {why}"));
        Unserved::Failed(why)
    }

    /// Room for an instance; none if there was none for too long.
    async fn instance(&self, environment: &dyn Environment) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.instances).try_acquire_owned() {
            return Some(permit);
        }
        tokio::select! {
            permit = Arc::clone(&self.instances).acquire_owned() => permit.ok(),
            () = environment.sleep(PATIENCE) => None,
        }
    }
}

/// Makes a guest's calls, until it can make none any more.
async fn attend(mut calls: mpsc::Receiver<Call>, onward: Rc<dyn Onward>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => under_way.push(make(call, &onward)),
                None => return,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}

async fn make(call: Call, onward: &Rc<dyn Onward>) {
    let Call { request, upstream, mut answer } = call;
    tokio::select! {
        answered = onward.send(request, upstream) => {
            // The guest may have lost its interest just now.
            let _ = answer.send(answered);
        }
        () = answer.closed() => {}
    }
}

fn name_of(error: &ErrorCode) -> String {
    format!("it answered with an error: {error:?}")
}
