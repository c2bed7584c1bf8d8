//! What chains are lent: upstreams for requests of their own, timers.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use http_body::Body as _;
use tokio::time::Instant;

use crate::chain::{CallFault, CallResult, Environment, Pieces, Upstreams};
use crate::http::request_body::RequestBody;
use crate::http::response_body::Download;
use crate::http::rules;
use crate::observe::counters::UpstreamCounters;
use crate::upstream::link::Unanswered;
use crate::upstream::members::Members;
use crate::upstream::pool::Upstream;
use crate::upstream::rotation::{Rotation, Tried};

/// The environment of a listener's chain on one thread.
pub(crate) struct ListenerEnvironment {
    rotations: Rc<[Rotation]>,
}

impl ListenerEnvironment {
    pub(crate) fn new(rotations: Rc<[Rotation]>) -> Self {
        Self { rotations }
    }
}

impl Environment for ListenerEnvironment {
    fn call(
        &self,
        upstream: usize,
        request: Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        let rotation = self.rotations.get(upstream);
        let Some(upstream) = rotation.and_then(|rotation| rotation.next(&Tried::new())) else {
            return Box::pin(std::future::ready(Err(CallFault::Unreachable)));
        };
        let called = call(upstream, request, timeout, body_max);
        Box::pin(async move {
            tokio::time::timeout(timeout, called).await.unwrap_or(Err(CallFault::Timeout))
        })
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(Instant::now() + time))
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }
}

/// A listener's upstreams, as one thread of it sees them.
pub(crate) struct ListenerUpstreams(pub(crate) Vec<(Arc<Members>, Arc<UpstreamCounters>)>);

impl Upstreams for ListenerUpstreams {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn healthy(&self, upstream: usize) -> bool {
        self.0.get(upstream).is_some_and(|(members, _)| members.healthy())
    }

    fn active(&self, upstream: usize) -> u32 {
        let active = self.0.get(upstream).map_or(0, |(_, counters)| counters.active.get());
        u32::try_from(active).unwrap_or(u32::MAX)
    }
}

async fn call(
    upstream: Rc<Upstream>,
    request: Request<Pieces>,
    timeout: Duration,
    limit: usize,
) -> CallResult {
    let (mut parts, pieces) = request.into_parts();
    let config = &upstream.route.config;
    let host = http::HeaderValue::from_str(&config.address.to_string())
        .map_err(|_| CallFault::Unreachable)?;
    rules::own(&mut parts);
    let mut request = Request::from_parts(parts, RequestBody::pieces(pieces));
    rules::address(&mut request, config.http2, config.tls.is_some(), &host);
    let told = upstream.told_of_own;
    let sent = upstream.send(&mut Some(request), None, told, Instant::now()).await;
    let answered = sent.map_err(|failed| match failed.why {
        Unanswered::Connect(Some(why)) if why.is_slow() => CallFault::Timeout,
        Unanswered::Slow => CallFault::Timeout,
        Unanswered::NotHttp => CallFault::NotHttp,
        Unanswered::Connect(_) | Unanswered::Reset | Unanswered::Body => CallFault::Unreachable,
    })?;
    let (mut parts, incoming) = answered.response.into_parts();
    upstream.counters.responses.count(parts.status);
    rules::answered(&mut parts);
    let mut body =
        pin!(Download::new(incoming, answered.link, Rc::clone(&upstream), timeout, told.is_none()));
    let mut all = BytesMut::new();
    std::future::poll_fn(|cx| std::task::Poll::Ready(body.settle(cx))).await;
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if all.len() + data.len() > limit {
                        return Err(CallFault::TooLong);
                    }
                    all.extend_from_slice(data);
                }
            }
            Some(Err(_)) => return Err(CallFault::Unreachable),
            None => break,
        }
    }
    let body: Bytes = all.freeze();
    Ok(Response::from_parts(parts, body))
}
