//! A function of the world `wasi:http/proxy` in its place: what becomes of an exchange that reaches
//! it, and what is counted of it.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use weir_exchange::{Broken, CallFault, Denied, Onward, Origin, Pieces, Service, Stream};
use weir_layout::message::Action;
use weir_proxy_function::{GuestEnd, How, ProxyFunction, Unserved};

use crate::chain::{Chain, Inner};
use crate::exchange::{denied, out_of_order, plain};
use crate::function::{Called, Function};
use crate::plan::Proxy;
use crate::shadow::Shadow;
use crate::tape::Tape;

/// See the module.
pub(crate) struct Station {
    pub(crate) chain: Chain,
    pub(crate) function: Rc<Function>,
    pub(crate) place: usize,
    pub(crate) origin: Origin,
    /// A version on trial that is shown what becomes of its visits.
    pub(crate) shadow: Option<Rc<Shadow>>,
}

impl Service for Station {
    fn serve(
        &self,
        request: Request<Stream>,
        onward: Rc<dyn Onward>,
    ) -> LocalBoxFuture<'static, Response<Stream>> {
        let name = self.function.plan.name.clone();
        let proxy = self.function.plan.proxy.as_ref().and_then(Proxy::here);
        let Some(proxy) = proxy else { return ready(out_of_order(&name)) };
        match self.function.enters() {
            None => self.begin(proxy, request, onward),
            Some(Called::Skip) => Box::pin(pass_by(request, onward)),
            Some(_) => ready(out_of_order(&name)),
        }
    }
}

impl Station {
    fn begin(
        &self,
        proxy: &Arc<ProxyFunction>,
        request: Request<Stream>,
        onward: Rc<dyn Onward>,
    ) -> LocalBoxFuture<'static, Response<Stream>> {
        let fails_open = self.function.fails_open();
        let environment = Rc::clone(self.chain.environment());
        let visit = self.shadow.as_ref().and_then(Shadow::visit);
        let (tape, request, onward) = match &visit {
            Some(_) => {
                let (tape, request, onward) = Tape::begin(request, onward);
                (Some(tape), request, onward)
            }
            None => (None, request, onward),
        };
        let serving = proxy.serve(
            request,
            &self.origin,
            fails_open,
            Rc::clone(&onward),
            Rc::clone(&environment),
        );
        let (chain, function, place) = (self.chain.weak(), Rc::clone(&self.function), self.place);
        let (take, taken) = oneshot::channel();
        let (kept, origin) = (visit.zip(tape.clone()), self.origin.clone());
        let visiting = self.chain.visit();
        self.chain.behind(Box::pin(async move {
            let _visiting = visiting;
            let Some(ended) = serving.ended.await else { return };
            settle(&chain, &function, place, &ended);
            if let Some((visit, tape)) = kept
                && matches!(ended.how, Some(How::Finished))
                && taken.await.is_ok()
            {
                visit.compare(&tape, &origin, &environment).await;
            }
        }));
        let name = self.function.plan.name.clone();
        Box::pin(async move {
            match serving.head.await {
                Ok(response) => match tape {
                    Some(tape) => tape.respond(response, take),
                    None => response,
                },
                Err(Unserved::Busy(request)) if fails_open => pass_by(request, onward).await,
                Err(Unserved::Fault(Some(request))) if fails_open => pass_by(request, onward).await,
                Err(Unserved::Busy(_) | Unserved::Full) => {
                    let busy = denied(StatusCode::SERVICE_UNAVAILABLE, Denied::Busy);
                    says(busy, &format!("function {name} is busy\n"))
                }
                Err(Unserved::Fault(_)) => streamed(out_of_order(&name)),
                Err(Unserved::Failed(why)) => {
                    tracing::debug!(function = name, why, "no response");
                    let failed = denied(StatusCode::BAD_GATEWAY, Denied::NoResponse);
                    says(failed, &format!("function {name} gave no response\n"))
                }
                Err(Unserved::Late) => {
                    let late = denied(StatusCode::GATEWAY_TIMEOUT, Denied::NoResponse);
                    says(late, &format!("function {name} took too long\n"))
                }
            }
        })
    }
}

/// Counts a guest's end, and what was its fault.
fn settle(chain: &Weak<Inner>, function: &Rc<Function>, place: usize, ended: &GuestEnd) {
    let counters = &function.plan.counters;
    let instances =
        if ended.reused { &counters.instances_reused } else { &counters.instances_made };
    instances.add(1);
    let action = match &ended.how {
        Some(How::Fault(fault)) => {
            function.guest_fault(fault);
            if let Some(chain) = Chain::of(chain) {
                chain.faulted(place, function, fault);
            }
            return;
        }
        Some(How::Finished) if ended.called => Action::Continue,
        Some(How::Finished) => Action::Answer,
        Some(How::Failed(_) | How::Late | How::Full) | None => Action::Reset,
    };
    counters.count(action, ended.cpu);
}

/// An exchange as if its service were not there.
pub async fn pass_by(request: Request<Stream>, onward: Rc<dyn Onward>) -> Response<Stream> {
    match onward.send(request, None).await {
        Ok(response) => response,
        Err(CallFault::Timeout) => said(StatusCode::GATEWAY_TIMEOUT, "Gateway Timeout\n"),
        Err(_) => said(StatusCode::BAD_GATEWAY, "Bad Gateway\n"),
    }
}

fn said(status: StatusCode, text: &str) -> Response<Stream> {
    says(plain(status), text)
}

fn says(mut response: Response<Pieces>, text: &str) -> Response<Stream> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.body_mut().push(Bytes::from(text.to_owned()));
    streamed(response)
}

fn ready(response: Response<Pieces>) -> LocalBoxFuture<'static, Response<Stream>> {
    Box::pin(std::future::ready(streamed(response)))
}

/// A response with all of its body there.
pub fn streamed(response: Response<Pieces>) -> Response<Stream> {
    response.map(|mut pieces| -> Stream {
        pieces.reverse();
        Box::pin(Whole(pieces))
    })
}

/// Pieces that are all there, in reverse order.
struct Whole(Pieces);

impl Body for Whole {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}
