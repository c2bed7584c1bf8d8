//! A request's way through a chain with services: leg after leg, to the upstream and back.
//!
//! Owns: the order of legs, and what becomes of heads and bodies between them. Functions that are
//! told of events filter what passes, as in `exchange`; a service is handed the request, and the
//! legs behind it are to it what a server is to a client. Must not know: what a service is.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode, Version, request, response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::chain::{
    CallFault, Direction, Ended, Exchange, Leg, Legs, Onward, Pieces, Step, Stream,
};
use crate::http::client::Client;
use crate::http::exchange::{answer_response, status_response};
use crate::http::fault::Fault;
use crate::http::filter::{Answer, Filtered};
use crate::http::finish::{Trail, Visit};
use crate::http::flow::{BoxFlow, Flow, Nothing, from_afar, hand_over};
use crate::http::forward::{self, Forwarding};
use crate::http::request_body::{Progress, RequestBody};
use crate::http::response_body::Download;
use crate::http::rules::{self, Asked};
use crate::listen::listener::Site;
use crate::observe::statistics::Failure;
use crate::upstream::link::Unanswered;
use crate::upstream::rotation::Choice;

/// Why there is no response.
pub(crate) enum Stop {
    /// The gateway says so.
    Status(StatusCode),
    /// No upstream gave one; what the client is told instead, as the functions leave it.
    Failed(Box<(response::Parts, BoxFlow)>),
    /// A function does not want one.
    Reset,
}

type Arrived = Result<(response::Parts, BoxFlow), Stop>;

/// What stays the same on all of the way. See the module.
pub(crate) struct Journey {
    pub(crate) client: Rc<Client>,
    pub(crate) site: Rc<Site>,
    pub(crate) legs: Rc<dyn Legs>,
    pub(crate) asked: Asked,
    pub(crate) version: Version,
    pub(crate) trail: Rc<Trail>,
}

/// A request between two legs.
pub(crate) struct Passing {
    pub(crate) parts: request::Parts,
    pub(crate) body: BoxFlow,
    /// Bytes of the body, if that is known.
    pub(crate) length: Option<u64>,
    /// The upstream that somebody chose.
    pub(crate) upstream: Option<Choice>,
}

impl Journey {
    /// Takes a request through the legs from this place on.
    pub(crate) fn pass(
        self: Rc<Self>,
        place: usize,
        passing: Passing,
    ) -> LocalBoxFuture<'static, Arrived> {
        Box::pin(async move {
            match self.legs.leg(place).get().await {
                None => self.ask(passing).await,
                Some(Leg::Events(exchange)) => self.show(place, exchange, passing).await,
                Some(Leg::Service(service)) => {
                    let Passing { parts, body, upstream, .. } = passing;
                    let request = Request::from_parts(parts, hand_over(body));
                    let behind = Behind { journey: Rc::clone(&self), place: place + 1, upstream };
                    let response = service.serve(request, Rc::new(behind)).await;
                    let (mut parts, stream) = response.into_parts();
                    rules::answered(&mut parts);
                    let bodiless = rules::bodiless(&http::Method::GET, parts.status);
                    Ok((parts, if bodiless { Box::new(Nothing) } else { made(stream) }))
                }
            }
        })
    }

    /// Through functions that are told of events.
    async fn show(self: Rc<Self>, place: usize, exchange: Exchange, passing: Passing) -> Arrived {
        let mut ending = Ending::new(exchange.clone(), place > 0, Rc::clone(&self.trail));
        let Passing { mut parts, mut body, mut length, mut upstream } = passing;
        match exchange.request_head(&mut parts, length).get().await {
            Step::Continue => (),
            Step::Answer(answer) => return Ok(ending.answered(answer)),
            Step::Reset => return Err(Stop::Reset),
        }
        upstream = exchange.upstream().map(Choice::preferred).or(upstream);
        let answer = Answer::default();
        if length != Some(0) && !exchange.done(Direction::Request) {
            let mut filtered = self.filtered(body, &exchange, Direction::Request, &answer);
            if let Err(fault) = filtered.prime().await {
                return match answer.take() {
                    Some(answer) => Ok(ending.answered(answer)),
                    None => Err(self.stop(fault)),
                };
            }
            parts.headers.remove(CONTENT_LENGTH);
            length = filtered.size_hint().exact();
            body = if filtered.is_end_stream() { Box::new(Nothing) } else { Box::new(filtered) };
        }
        let passing = Passing { parts, body, length, upstream };
        let arrived = Rc::clone(&self).pass(place + 1, passing).await;
        if let Some(answer) = answer.take() {
            return Ok(ending.answered(answer));
        }
        let (mut parts, body) = match arrived {
            Ok(arrived) => arrived,
            Err(Stop::Failed(failed)) => {
                ending.whole = Ended::UpstreamFailed;
                *failed
            }
            Err(stop) => {
                ending.how = Ended::UpstreamFailed;
                return Err(stop);
            }
        };
        let failed = ending.whole == Ended::UpstreamFailed;
        let arrive = |parts, flow| match failed {
            true => Err(Stop::Failed(Box::new((parts, flow)))),
            false => Ok((parts, flow)),
        };
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        match exchange.response_head(&mut parts, length).get().await {
            Step::Continue => (),
            Step::Answer(answer) => return Ok(ending.answered(answer)),
            Step::Reset => return Err(Stop::Reset),
        }
        if length == Some(0) || exchange.done(Direction::Response) {
            return arrive(parts, ending.with(body));
        }
        let mut filtered = self.filtered(body, &exchange, Direction::Response, &answer);
        if !rules::streams(&parts.headers)
            && let Err(fault) = filtered.prime().await
        {
            return match answer.take() {
                Some(answer) => Ok(ending.answered(answer)),
                None => Err(self.stop(fault)),
            };
        }
        parts.headers.remove(CONTENT_LENGTH);
        arrive(parts, ending.with(Box::new(filtered)))
    }

    fn filtered(
        &self,
        body: BoxFlow,
        exchange: &Exchange,
        direction: Direction,
        answer: &Answer,
    ) -> Filtered<BoxFlow> {
        let piece_max = self.site.chain.as_ref().map_or(1, crate::chain::Chain::piece_max);
        let answer = Rc::clone(answer);
        Filtered::new(body, exchange.clone(), direction, piece_max).with_answer(answer)
    }

    /// Asks an upstream.
    async fn ask(self: Rc<Self>, passing: Passing) -> Arrived {
        let Passing { mut parts, body, length, upstream } = passing;
        let progress = Progress::new();
        let (forwarded, policy) = (&self.client.forwarded, self.site.plan.config.forwarded);
        rules::forward(&mut parts, self.version, &self.asked, forwarded, policy);
        let method = parts.method.clone();
        let (body, has_body) = if length == Some(0) || body.is_end_stream() {
            (RequestBody::Empty, false)
        } else {
            (RequestBody::Flow(body, Rc::clone(&progress)), true)
        };
        let mut request = Some(Request::from_parts(parts, body));
        let forwarding = Forwarding {
            client: &self.client,
            site: &self.site,
            asked: &self.asked,
            progress: has_body.then_some(&*progress),
        };
        let mut visit = Visit::default();
        let at = |upstream: &Rc<_>| visit.at(upstream);
        let (upstream, answered) =
            match forward::send(&forwarding, upstream, at, &mut request).await {
                Ok(answered) => answered,
                Err(Unanswered::Body) => {
                    return Err(self.stop(progress.fault.get().unwrap_or(Fault::Reset)));
                }
                Err(why) => return Err(self.unanswered(&why)),
            };
        self.trail.asked_last.set(Some(upstream.index));
        let (mut parts, incoming) = answered.response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.unanswered(&Unanswered::NotHttp));
        }
        rules::answered(&mut parts);
        let patience = self.site.plan.config.timeouts.response;
        let keep = self.site.told(&self.client.origin).is_none();
        let mut download = Download::new(incoming, answered.link, upstream, patience, keep)
            .beside(has_body.then_some(progress));
        if download.is_end_stream() || rules::bodiless(&method, parts.status) {
            poll_fn(|cx| Poll::Ready(download.settle(cx))).await;
            return Ok((parts, Box::new(Nothing)));
        }
        Ok((parts, Box::new(Kept { flow: Box::new(download), kept: visit })))
    }

    fn unanswered(&self, why: &Unanswered) -> Stop {
        let (failure, status) = why.told();
        self.failed(failure);
        failed(status)
    }

    /// Something went wrong.
    fn failed(&self, failure: Failure) {
        self.site.counters.failures.count(failure);
        self.trail.failed(failure);
    }

    /// What becomes of an exchange one of whose bodies ended before its time.
    fn stop(&self, fault: Fault) -> Stop {
        let (failure, status) = match fault {
            Fault::Answered | Fault::Reset => return Stop::Reset,
            Fault::ClientSlow => (Failure::ClientSlow, StatusCode::REQUEST_TIMEOUT),
            Fault::TooLarge => (Failure::Refused, StatusCode::PAYLOAD_TOO_LARGE),
            Fault::Client => (Failure::Refused, StatusCode::BAD_REQUEST),
            Fault::Upstream => return self.unanswered(&Unanswered::Reset),
            Fault::UpstreamSlow => return self.unanswered(&Unanswered::Slow),
        };
        self.failed(failure);
        Stop::Status(status)
    }
}

fn failed(status: StatusCode) -> Stop {
    let (parts, text) = status_response(status);
    Stop::Failed(Box::new((parts, Box::new(RequestBody::Pieces(text)))))
}

fn made(stream: Stream) -> BoxFlow {
    Box::new(crate::http::flow::Made(stream))
}

/// The legs behind a service.
struct Behind {
    journey: Rc<Journey>,
    place: usize,
    /// The upstream that was chosen before the service.
    upstream: Option<Choice>,
}

impl Onward for Behind {
    fn send(
        &self,
        request: Request<Stream>,
        upstream: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>> {
        let (mut parts, stream) = request.into_parts();
        let host = parts.headers.get(http::header::HOST).cloned();
        let length = parts.headers.get(CONTENT_LENGTH).cloned();
        rules::own(&mut parts);
        // The length is the service's to say: its body is held to it.
        for (name, value) in [(http::header::HOST, host), (CONTENT_LENGTH, length)] {
            if let Some(value) = value {
                parts.headers.insert(name, value);
            }
        }
        let body = from_afar(stream);
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let upstream = upstream.map(Choice::only).or(self.upstream);
        let passing = Passing { parts, body, length, upstream };
        let passed = Rc::clone(&self.journey).pass(self.place, passing);
        Box::pin(async move {
            match passed.await {
                Ok((parts, flow)) => Ok(Response::from_parts(parts, hand_over(flow))),
                Err(Stop::Failed(failed)) if failed.0.status == StatusCode::GATEWAY_TIMEOUT => {
                    Err(CallFault::Timeout)
                }
                Err(_) => Err(CallFault::Unreachable),
            }
        })
    }
}

/// What lasts as long as a body, and hears of its end.
trait Keeps: Unpin {
    fn ends(&mut self, how: Ended);
}

impl Keeps for Visit {
    fn ends(&mut self, _: Ended) {
        self.leave();
    }
}

impl Keeps for Ending {
    fn ends(&mut self, how: Ended) {
        self.how = if how == Ended::Delivered { self.whole } else { how };
    }
}

/// A body that something is kept for.
struct Kept<K> {
    flow: BoxFlow,
    kept: K,
}

impl<K: Keeps> Body for Kept<K> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.flow).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Err(_))) => this.kept.ends(Ended::Reset),
            Poll::Ready(frame) if frame.is_none() || this.flow.is_end_stream() => {
                this.kept.ends(Ended::Delivered);
            }
            _ => (),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.flow.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.flow.size_hint()
    }
}

impl<K: Keeps> Flow for Kept<K> {
    fn drive(&mut self, cx: &mut Context<'_>) {
        self.flow.drive(cx);
    }
}

/// Tells the functions of a leg how their part of the exchange ended. The first leg's are told by
/// the exchange's own end.
struct Ending {
    exchange: Exchange,
    tells: bool,
    how: Ended,
    /// How it ends if all of the response is delivered, whoever made it.
    whole: Ended,
    trail: Rc<Trail>,
    began: Instant,
    head: Option<Duration>,
}

impl Ending {
    fn new(exchange: Exchange, tells: bool, trail: Rc<Trail>) -> Self {
        Self {
            exchange,
            tells,
            how: Ended::ClientGone,
            whole: Ended::Delivered,
            trail,
            began: Instant::now(),
            head: None,
        }
    }

    /// A function's own answer is the response.
    fn answered(mut self, answer: Response<Pieces>) -> (response::Parts, BoxFlow) {
        self.how = match self.whole {
            Ended::UpstreamFailed => Ended::UpstreamFailed,
            _ => Ended::Answered,
        };
        let (parts, pieces) = answer_response(answer);
        if pieces.is_empty() {
            return (parts, Box::new(Nothing));
        }
        (parts, Box::new(RequestBody::Pieces(pieces)))
    }

    /// The response's body; it has ended when that has.
    fn with(mut self, flow: BoxFlow) -> BoxFlow {
        self.head = Some(self.began.elapsed());
        if flow.is_end_stream() {
            self.how = self.whole;
        }
        if self.tells { Box::new(Kept { flow, kept: self }) } else { flow }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.tells {
            let time = self.head.unwrap_or_else(|| self.began.elapsed());
            self.exchange.end(self.how, self.trail.asked_last.get(), time);
        }
    }
}
