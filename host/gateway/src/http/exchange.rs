//! A request's way: rules, chain, upstream, chain, rules.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::chain::{
    Chain, Denied, Direction, Ended, Exchange, HeadTooLarge, Interests, Kind, Legs, MadeByGateway,
    Pieces, SentBy, Step,
};
use crate::http::client::Client;
use crate::http::fault::Fault;
use crate::http::filter::Filtered;
use crate::http::finish::Finish;
use crate::http::flow::{BoxFlow, Flow, Nothing};
use crate::http::forward::{self, Forwarding};
use crate::http::journey::{Journey, Passing, Stop};
use crate::http::request_body::{Progress, RequestBody, Upload};
use crate::http::response_body::{Download, ResponseBody, Source};
use crate::http::rules::{self, Asked};
use crate::http::upgrade::Upgraded;
use crate::listen::listener::Site;
use crate::observe::record::Noted;
use crate::observe::statistics::Failure;
use crate::upstream::link::{Link, Unanswered};
use crate::upstream::pool::{Answered, Carrier, Upstream};
use crate::upstream::rotation::Choice;

/// What becomes of an exchange.
enum Outcome {
    /// An upstream's response.
    Response(response::Parts, Source),
    /// A function's.
    Answer(Response<Pieces>),
    /// The gateway's own.
    Status(StatusCode),
    /// The connection changes to another protocol.
    Upgrade(response::Parts, Box<Upgrading>),
    /// None.
    Reset,
}

/// The upstream's side of a connection that changes to another protocol.
struct Upgrading {
    stream: crate::connection::stream::Stream,
    early: Bytes,
    open: crate::upstream::link::Open,
}

/// Answers a request.
///
/// # Errors
/// The stream or connection is to be cut off.
pub(crate) async fn handle(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Fault> {
    let site = client.listener.site();
    let mut finish = Finish::new(Rc::clone(&site), Rc::clone(&client.pulse));
    let requests = client.requests.get() + 1;
    client.requests.set(requests);
    let (parts, incoming) = request.into_parts();
    finish.asks(client.origin.client, Some((parts.method.clone(), parts.uri.clone())));
    if site.records.is_some() {
        finish.notes(Noted::of(&parts));
    }
    let (version, method) = (parts.version, parts.method.clone());
    let http1 = version != Version::HTTP_2;
    let expects = http1 && parts.headers.contains_key(EXPECT);
    let mut close = requests >= site.plan.config.limits.requests_per_connection;
    client.spent.set(close);
    let (mut parts, mut source) = match pass(&client, &site, &mut finish, parts, incoming).await {
        Outcome::Response(parts, source) => (parts, source),
        Outcome::Answer(answer) => {
            finish.whole_is(Ended::Answered);
            let (parts, pieces) = answer_response(answer);
            (parts, Source::Pieces(pieces))
        }
        Outcome::Status(status) => {
            // After a request that may have been read in another way, or of which some may still
            // come, nothing is read.
            close |= status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED;
            let (parts, text) = status_response(status);
            (parts, Source::Pieces(text))
        }
        Outcome::Upgrade(parts, upgrading) => {
            finish.answered(parts.status);
            let Upgrading { stream, early, open } = *upgrading;
            finish.carries(&client.traffic);
            client.pulse.unread_bodies.refuse();
            *client.upgraded.borrow_mut() = Some(Upgraded::new(stream, early, open, finish));
            return Ok(Response::from_parts(parts, ResponseBody::uncounted()));
        }
        Outcome::Reset => {
            finish.failed(Failure::Function);
            finish.ends(Ended::Reset);
            finish.cut();
            return Err(Fault::Reset);
        }
    };
    if client.is_outdated() {
        close = true;
        client.spent.set(true);
    }
    if let Some(HeadTooLarge(of)) = parts.extensions.remove() {
        finish.head_too_large(of);
    }
    if let Some(why) = parts.extensions.remove::<Denied>() {
        finish.failed(why.into());
    }
    if rules::bodiless(&method, parts.status) {
        source.leave_out(&method, &mut parts.headers);
    }
    // Of a body that will not come only these say how long it would be (RFC 9110 section 8.6).
    let tells_length = method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED;
    if source.is_empty() && !tells_length {
        parts.headers.remove(CONTENT_LENGTH);
    }
    finish.answered(parts.status);
    if !finish.reads_rest(http1, expects, parts.status) {
        finish.reads_no_rest();
        close |= http1;
    }
    let mut body = ResponseBody::new(source, finish);
    if http1 {
        if version == Version::HTTP_10 && !has_length(&parts, &body) {
            body.unframed();
            close = true;
        }
        if close {
            client.pulse.unread_bodies.refuse();
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            // To a client of HTTP/1.0 hyper says that the connection stays, unless the response is
            // of that version, too.
            parts.version = version;
        }
    }
    rules::says_upgrade(&mut parts, version);
    Ok(Response::from_parts(parts, body))
}

/// Whether a response's length is known: HTTP/1.0 has no chunks, so another one ends with its
/// connection.
fn has_length(parts: &response::Parts, body: &ResponseBody) -> bool {
    body.is_end_stream()
        || body.size_hint().exact().is_some()
        || parts.headers.contains_key(CONTENT_LENGTH)
}

/// The gateway's own response with this status: its head, and a line that says so, in reverse
/// order.
pub(crate) fn status_response(status: StatusCode) -> (response::Parts, Pieces) {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        parts.headers.insert(ALLOW, HeaderValue::from_static(rules::METHODS));
    }
    parts.extensions.insert(MadeByGateway);
    let reason = status.canonical_reason().unwrap_or("Error");
    let text = [Bytes::from_static(b"\n"), Bytes::from_static(reason.as_bytes())];
    (parts, Pieces::from_iter(text))
}

async fn pass(
    client: &Rc<Client>,
    site: &Rc<Site>,
    finish: &mut Finish,
    mut parts: request::Parts,
    incoming: Incoming,
) -> Outcome {
    let version = parts.version;
    let length = if incoming.is_end_stream() { Some(0) } else { incoming.size_hint().exact() };
    let upload = (length != Some(0)).then(|| upload(site, finish, incoming));
    let mut asked = match rules::received(&mut parts) {
        Ok(asked) => asked,
        Err(refused) => {
            tracing::debug!(client = %client.origin.client, why = refused.why, "request refused");
            finish.failed(Failure::Refused);
            finish.whole_is(Ended::Answered);
            return Outcome::Status(refused.status);
        }
    };
    if length != Some(0) {
        // The connection changes behind the request, and its body may never come (RFC 9110 section
        // 7.8 lets a server ignore it).
        asked.upgrade = None;
    }
    client.forwarded.certificate.tell(&mut parts.headers, &asked);
    if asked.last_hop {
        return Outcome::Answer(Response::new(Pieces::new()));
    }
    // hyper sees to those of HTTP/1.1.
    if version == Version::HTTP_2 && parts.headers.len() > site.plan.config.limits.fields {
        finish.failed(Failure::Refused);
        finish.whole_is(Ended::Answered);
        return Outcome::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    if let (Some(length), Some(limit)) = (length, site.plan.config.limits.body)
        && length > limit
    {
        finish.failed(Failure::Refused);
        finish.whole_is(Ended::Answered);
        return Outcome::Status(StatusCode::PAYLOAD_TOO_LARGE);
    }
    if let Some(chain) = &site.chain {
        let interests = chain.interests();
        let exchange = if asked.upgrade.is_none() {
            chain.open(&client.origin, Kind::Request)
        } else {
            let mut origin = client.origin.clone();
            origin.upgrade = true;
            chain.open(&origin, Kind::Request)
        };
        finish.exchange = Some(exchange.clone());
        if let Some(legs) = exchange.legs() {
            let travelling = (parts, upload, length);
            return Box::pin(travel(client, site, finish, asked, legs, travelling)).await;
        }
        if interests.request_head {
            match exchange.request_head(&mut parts, length).get().await {
                Step::Continue => (),
                Step::Answer(answer) => return Outcome::Answer(answer),
                Step::Reset => return Outcome::Reset,
            }
        }
    }
    let (mut body, mut progress) = (RequestBody::Empty, None);
    if let Some(upload) = upload {
        progress = Some(Rc::clone(upload.progress()));
        match Box::pin(request_body(site, finish, &mut parts, upload)).await {
            Ok(prepared) => body = prepared,
            Err(outcome) => return outcome,
        }
    }
    let policy = site.plan.config.forwarded;
    rules::forward(&mut parts, version, &asked, &client.forwarded, policy);
    let method = parts.method.clone();
    let forwarding = Forwarding { client, site, asked: &asked, progress: progress.as_deref() };
    let mut request = Some(Request::from_parts(parts, body));
    let chosen = finish.exchange.as_ref().and_then(Exchange::upstream).map(Choice::preferred);
    let chosen = chosen.or_else(|| client.chosen(site));
    match forward::send(&forwarding, chosen, |upstream| finish.at(upstream), &mut request).await {
        Ok((upstream, answered)) => {
            respond(client, site, finish, (&asked, progress), &method, upstream, answered).await
        }
        Err(why) => {
            let outcome = unanswered(finish, why, progress.as_deref());
            Box::pin(shown(site, finish, outcome)).await
        }
    }
}

/// A request's way through a chain with services. Protocols are not changed on it: a service sees a
/// request like any other.
async fn travel(
    client: &Rc<Client>,
    site: &Rc<Site>,
    finish: &mut Finish,
    mut asked: Asked,
    legs: Rc<dyn Legs>,
    (parts, upload, length): (request::Parts, Option<Box<Upload>>, Option<u64>),
) -> Outcome {
    asked.upgrade = None;
    let method = parts.method.clone();
    let body: BoxFlow = match upload {
        Some(upload) => upload,
        None => Box::new(Nothing),
    };
    let (client, site, version) = (Rc::clone(client), Rc::clone(site), parts.version);
    let trail = finish.travels();
    let journey = Journey { client, site, legs, asked, version, trail };
    let passing = Passing { parts, body, length, upstream: journey.client.chosen(&journey.site) };
    match Rc::new(journey).pass(0, passing).await {
        Ok((parts, flow)) => {
            if finish.travels().asked_last.get().is_none() {
                finish.whole_is(Ended::Answered);
            }
            let bodiless = rules::bodiless(&method, parts.status);
            Outcome::Response(parts, if bodiless { Source::Empty } else { Source::Flow(flow) })
        }
        Err(Stop::Failed(failed)) => {
            finish.whole_is(Ended::UpstreamFailed);
            let (parts, flow) = *failed;
            Outcome::Response(parts, Source::Flow(flow))
        }
        Err(Stop::Status(status)) => {
            finish.whole_is(Ended::UpstreamFailed);
            Outcome::Status(status)
        }
        Err(Stop::Reset) => Outcome::Reset,
    }
}

fn upload(site: &Site, finish: &mut Finish, incoming: Incoming) -> Box<Upload> {
    let config = &site.plan.config;
    let (limit, patience) = (config.limits.body, config.timeouts.body);
    let upload = Upload::new(incoming, limit, patience, Rc::clone(&finish.pulse));
    finish.uploads(Rc::clone(upload.progress()));
    Box::new(upload)
}

/// What the chain wants now: it changes with its functions.
fn interests(site: &Site) -> Interests {
    site.chain.as_ref().map(Chain::interests).unwrap_or_default()
}

/// The body for the upstream. If the chain wants it, some of it has been let go, or it has ended.
async fn request_body(
    site: &Site,
    finish: &mut Finish,
    parts: &mut request::Parts,
    upload: Box<Upload>,
) -> Result<RequestBody, Outcome> {
    let wanted = finish
        .exchange
        .as_ref()
        .filter(|exchange| interests(site).request_body && !exchange.done(Direction::Request));
    let (Some(exchange), Some(chain)) = (wanted, &site.chain) else {
        return Ok(RequestBody::Upload(upload));
    };
    let progress = Rc::clone(upload.progress());
    let piece_max = chain.piece_max();
    let mut filtered = Filtered::new(*upload, exchange.clone(), Direction::Request, piece_max);
    if let Err(fault) = filtered.prime().await {
        return Err(fault_outcome(finish, fault, filtered.take_answer()));
    }
    parts.headers.remove(CONTENT_LENGTH);
    if filtered.is_end_stream() {
        return Ok(RequestBody::Empty);
    }
    Ok(RequestBody::Filtered(Box::new(filtered), progress))
}

/// What becomes of an exchange whose request's body ended before its time.
fn fault_outcome(finish: &mut Finish, fault: Fault, answer: Option<Response<Pieces>>) -> Outcome {
    finish.whole_is(if fault == Fault::Client { Ended::ClientGone } else { Ended::Answered });
    let (failure, status) = match fault {
        Fault::Answered => return answer.map_or(Outcome::Reset, Outcome::Answer),
        Fault::Reset => return Outcome::Reset,
        Fault::ClientSlow => (Failure::ClientSlow, StatusCode::REQUEST_TIMEOUT),
        Fault::TooLarge => (Failure::Refused, StatusCode::PAYLOAD_TOO_LARGE),
        Fault::Client | Fault::Upstream | Fault::UpstreamSlow => {
            (Failure::Refused, StatusCode::BAD_REQUEST)
        }
    };
    finish.failed(failure);
    Outcome::Status(status)
}

fn unanswered(finish: &mut Finish, why: Unanswered, progress: Option<&Progress>) -> Outcome {
    if let Unanswered::Body = &why {
        let fault = progress.and_then(|p| p.fault.get()).unwrap_or(Fault::Client);
        let answer = progress.and_then(|p| p.answer.borrow_mut().take());
        return fault_outcome(finish, fault, answer);
    }
    finish.whole_is(Ended::UpstreamFailed);
    let (failure, status) = why.told();
    finish.failed(failure);
    if let Unanswered::Connect(Some(why)) = why {
        finish.not_connected(why);
    }
    Outcome::Status(status)
}

/// An upstream's response on its way to the client.
async fn respond(
    client: &Client,
    site: &Site,
    finish: &mut Finish,
    (asked, progress): (&Asked, Option<Rc<Progress>>),
    method: &Method,
    upstream: Rc<Upstream>,
    answered: Answered,
) -> Outcome {
    let Answered { response, link } = answered;
    let (mut parts, incoming) = response.into_parts();
    parts.extensions.insert(SentBy(upstream.index));
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return match (link, &asked.upgrade) {
            (Carrier::Link(link), Some(_)) => Box::pin(upgrade(site, finish, parts, link)).await,
            _ => {
                let outcome = unanswered(finish, Unanswered::NotHttp, None);
                Box::pin(shown(site, finish, outcome)).await
            }
        };
    }
    rules::answered(&mut parts);
    let (patience, keep) =
        (site.plan.config.timeouts.response, site.told(&client.origin).is_none());
    let mut download =
        Download::new(incoming, link, upstream, patience, keep).beside(progress.clone());
    let ended = download.is_end_stream() || rules::bodiless(method, parts.status);
    if ended {
        poll_fn(|cx| Poll::Ready(download.settle(cx))).await;
    }
    let length = if ended { Some(0) } else { download.size_hint().exact() };
    if let Some(step) = response_head(site, finish, &mut parts, length).await {
        return step;
    }
    if ended {
        return Outcome::Response(parts, Source::Empty);
    }
    let mut filtered = match filtered(site, finish, download) {
        Ok(filtered) => Box::new(filtered),
        Err(download) => return Outcome::Response(parts, Source::Download(download)),
    };
    if !rules::streams(&parts.headers)
        && let Err(fault) = filtered.prime().await
    {
        let of_request = || progress?.answer.borrow_mut().take();
        let answer = filtered.take_answer().or_else(of_request);
        return match fault {
            Fault::Upstream => unanswered(finish, Unanswered::Reset, None),
            Fault::UpstreamSlow => unanswered(finish, Unanswered::Slow, None),
            fault => fault_outcome(finish, fault, answer),
        };
    }
    parts.headers.remove(CONTENT_LENGTH);
    Outcome::Response(parts, Source::Filtered(filtered))
}

/// A response's body on its way through the chain; itself if the chain does not want it.
fn filtered<S: Flow>(site: &Site, finish: &Finish, source: S) -> Result<Filtered<S>, S> {
    let wanted = finish
        .exchange
        .as_ref()
        .filter(|exchange| interests(site).response_body && !exchange.done(Direction::Response));
    let (Some(exchange), Some(chain)) = (wanted, &site.chain) else { return Err(source) };
    let piece_max = chain.piece_max();
    Ok(Filtered::new(source, exchange.clone(), Direction::Response, piece_max))
}

/// What the chain makes of it that no upstream answered: it sees what the client is told like a
/// response of one.
async fn shown(site: &Site, finish: &Finish, outcome: Outcome) -> Outcome {
    let status = match outcome {
        Outcome::Status(status) if status.is_server_error() => status,
        outcome => return outcome,
    };
    let (mut parts, text) = status_response(status);
    let length = text.iter().map(|piece| piece.len() as u64).sum();
    let answer = match response_head(site, finish, &mut parts, Some(length)).await {
        Some(Outcome::Answer(answer)) => Some(answer),
        Some(outcome) => return outcome,
        None => match filtered(site, finish, RequestBody::Pieces(text)) {
            Err(body) => return Outcome::Response(parts, Source::Flow(Box::new(body))),
            Ok(mut filtered) => match filtered.prime().await {
                Ok(()) => {
                    parts.headers.remove(CONTENT_LENGTH);
                    return Outcome::Response(parts, Source::Flow(Box::new(filtered)));
                }
                Err(_) => filtered.take_answer(),
            },
        },
    };
    // It stays true that the upstream failed.
    answer.map_or(Outcome::Reset, |answer| {
        let (parts, pieces) = answer_response(answer);
        Outcome::Response(parts, Source::Pieces(pieces))
    })
}

/// A function's answer: its head, and its body in reverse order.
pub(crate) fn answer_response(answer: Response<Pieces>) -> (response::Parts, Pieces) {
    let (parts, mut pieces) = answer.into_parts();
    pieces.retain(|piece| !piece.is_empty());
    pieces.reverse();
    (parts, pieces)
}

/// An upstream's consent to change to another protocol.
async fn upgrade(
    site: &Site,
    finish: &Finish,
    mut parts: response::Parts,
    link: Box<Link>,
) -> Outcome {
    let protocol = parts.headers.get(UPGRADE).cloned();
    rules::answered(&mut parts);
    if let Some(step) = response_head(site, finish, &mut parts, Some(0)).await {
        return step;
    }
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        // A function made another response of it.
        return Outcome::Response(parts, Source::Empty);
    }
    let (stream, early, open) = link.upgraded().await;
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(UPGRADE, protocol);
    }
    Outcome::Upgrade(parts, Box::new(Upgrading { stream, early, open }))
}

/// Shows the chain a response's head, if it wants to see it.
async fn response_head(
    site: &Site,
    finish: &Finish,
    parts: &mut response::Parts,
    length: Option<u64>,
) -> Option<Outcome> {
    let exchange = finish.exchange.as_ref().filter(|_| interests(site).response_head)?;
    match exchange.response_head(parts, length).get().await {
        Step::Continue => None,
        Step::Answer(answer) => Some(Outcome::Answer(answer)),
        Step::Reset => Some(Outcome::Reset),
    }
}
