//! Attempts to have a request answered: which upstream, and which one after it.

use std::rc::Rc;

use http::Request;
use tokio::time::Instant;

use crate::http::client::Client;
use crate::http::request_body::{Progress, RequestBody};
use crate::http::retry_body::Repeatable;
use crate::http::retry_head::RetryHead;
use crate::http::rules::{self, Asked};
use crate::listen::listener::Site;
use crate::observe::statistics::Failure;
use crate::upstream::link::{Failed, Unanswered, Unsent};
use crate::upstream::pool::{Answered, Upstream};
use crate::upstream::rotation::{Choice, Tried};

/// What stays the same over all attempts.
pub(crate) struct Forwarding<'a> {
    pub(crate) client: &'a Client,
    pub(crate) site: &'a Site,
    pub(crate) asked: &'a Asked,
    pub(crate) progress: Option<&'a Progress>,
}

/// Sends a request until it is answered or may not be sent again; `at` hears of each attempt.
///
/// # Errors
/// Why the last attempt failed.
pub(crate) async fn send(
    forwarding: &Forwarding<'_>,
    chosen: Option<Choice>,
    mut at: impl FnMut(&Rc<Upstream>),
    request: &mut Unsent,
) -> Result<(Rc<Upstream>, Answered), Unanswered> {
    let site = forwarding.site;
    let retry = &site.plan.config.retry;
    let bodiless = request.as_ref().is_some_and(|r| matches!(r.body(), RequestBody::Empty));
    // It may be sent again after it has been sent; a copy of it is there then.
    let repeatable = bodiless && request.as_ref().is_some_and(|r| forwarding.may_repeat(r));
    let mut head = request.as_ref().filter(|_| repeatable).map(RetryHead::of);
    let told = site.told(&forwarding.client.origin);
    let (mut tried, mut left) = (Tried::new(), retry.attempts);
    let nobody = Unanswered::Connect(None);
    let Some(mut upstream) = site.next(chosen, &tried) else { return Err(nobody) };
    let mut retrying = None;
    loop {
        at(&upstream);
        upstream.standing.asked();
        let config = &upstream.route.config;
        let mut lent = None;
        if let Some(request) = request {
            if config.http2 && left > 0 {
                // It may be refused, whatever it is, when some of it has been sent.
                head.get_or_insert_with(|| RetryHead::of(request));
                lent = Repeatable::lend(request.body_mut());
            }
            let host = &site.default_hosts[upstream.index];
            rules::address(request, config.http2, config.tls.is_some(), host);
            rules::frame(request, config.http2);
        }
        let (began, mut unprocessed) = (Instant::now(), false);
        // What is the outcome if there is no other attempt.
        let outcome = match upstream.send(request, forwarding.progress, told, began).await {
            Ok(answered) => {
                if let Some(lent) = &lent {
                    lent.let_go();
                }
                let status = answered.response.status();
                upstream.standing.answered();
                upstream.counters.responses.count(status);
                upstream.counters.latency.record(began.elapsed());
                if !repeatable || !retry.statuses.contains(&status.as_u16()) {
                    return Ok((upstream, answered));
                }
                tried.push((upstream.index, upstream.address));
                Ok((Rc::clone(&upstream), answered))
            }
            Err(failed) => {
                unprocessed = failed.unprocessed;
                let Failed { why, stale, .. } = failed;
                note(&upstream, &why, stale);
                let may = match why {
                    Unanswered::Connect(_) => retry.connect,
                    Unanswered::Reset => retry.reset || unprocessed,
                    Unanswered::Slow | Unanswered::NotHttp | Unanswered::Body => false,
                };
                if !may {
                    return Err(why);
                }
                if !stale {
                    tried.push((upstream.index, upstream.address));
                }
                Err(why)
            }
        };
        drop(retrying.take());
        // An attempt of which no upstream has seen anything has cost none anything.
        let was_sent = request.is_none();
        let body = lent.and_then(|lent| lent.take_back());
        if let Some(request) = request {
            // Nothing of it was sent.
            if let Some(body) = body {
                *request.body_mut() = body;
            }
        } else if bodiless && (repeatable || unprocessed) {
            let copy = head.as_ref().map(RetryHead::parts);
            *request = copy.map(|parts| Request::from_parts(parts, RequestBody::Empty));
        } else if unprocessed {
            let whole = head.as_ref().zip(body);
            *request = whole.map(|(head, body)| Request::from_parts(head.parts(), body));
        }
        let following = if left == 0 { None } else { site.next(chosen, &tried) };
        let (Some(_), Some(following)) = (request.as_ref(), following) else { return outcome };
        if was_sent {
            retrying = site.retries.begin(site.counters.active.get());
            if retrying.is_none() {
                site.counters.retries_denied.add(1);
                return outcome;
            }
        }
        upstream = following;
        left -= 1;
        site.counters.retries.add(1);
    }
}

impl Forwarding<'_> {
    /// Whether a request without a body may be sent again after it has been sent, when an upstream
    /// may have seen it.
    fn may_repeat(&self, request: &Request<RequestBody>) -> bool {
        let retry = &self.site.plan.config.retry;
        retry.attempts > 0
            && (retry.reset || !retry.statuses.is_empty())
            && self.progress.is_none()
            && self.asked.upgrade.is_none()
            && rules::idempotent(request.method())
    }
}

/// Counts a failure, and holds it against the upstream if it is the upstream's.
fn note(upstream: &Upstream, why: &Unanswered, stale: bool) {
    let failure = match why {
        Unanswered::Connect(Some(why)) => return upstream.not_connected(why),
        Unanswered::Connect(None) => Failure::Connect,
        Unanswered::Reset => Failure::Reset,
        Unanswered::Slow => Failure::UpstreamSlow,
        Unanswered::NotHttp => Failure::NotHttp,
        Unanswered::Body => return,
    };
    upstream.counters.failures.count(failure);
    if !stale {
        upstream.standing.failed(failure, None);
    }
}
