//! Attempts to have a request answered: which upstream, and which one after it.

use std::rc::Rc;

use http::{Request, request};

use crate::balance::Tried;
use crate::chain::Exchange;
use crate::client::Client;
use crate::finish::Finish;
use crate::link::{Failed, Unanswered};
use crate::listener::Site;
use crate::request_body::{Progress, RequestBody};
use crate::rules::{self, Asked};
use crate::statistics::Failure;
use crate::upstream::{Answered, Upstream};

/// What stays the same over all attempts.
pub(crate) struct Forwarding<'a> {
    pub(crate) client: &'a Client,
    pub(crate) site: &'a Site,
    pub(crate) asked: &'a Asked,
    pub(crate) progress: Option<&'a Progress>,
}

/// Sends a request until it is answered or may not be sent again.
///
/// # Errors
/// Why the last attempt failed.
pub(crate) async fn send(
    forwarding: &Forwarding<'_>,
    finish: &mut Finish,
    parts: request::Parts,
    body: RequestBody,
) -> Result<(Rc<Upstream>, Answered), Unanswered> {
    let site = forwarding.site;
    let retry = &site.plan.config.retry;
    let repeatable = retry.attempts > 0
        && (retry.reset || !retry.statuses.is_empty())
        && matches!(body, RequestBody::Empty)
        && forwarding.progress.is_none()
        && forwarding.asked.upgrade.is_none()
        && rules::idempotent(&parts.method);
    let spare = repeatable.then(|| parts.clone());
    let told = site.told(&forwarding.client.origin);
    let chosen = finish.exchange.as_ref().and_then(Exchange::upstream);
    let (mut tried, mut left) = (Tried::new(), retry.attempts);
    let (mut parts, mut body) = (parts, body);
    let nobody = Unanswered::Connect { slow: false };
    let Some(mut upstream) = next(site, chosen, &tried) else { return Err(nobody) };
    loop {
        finish.at(upstream);
        let config = &upstream.route.config;
        let host = &site.default_hosts[upstream.index];
        rules::address(&mut parts, config.http2, config.tls.is_some(), host);
        let began = tokio::time::Instant::now();
        let sent = upstream.send(Request::from_parts(parts, body), forwarding.progress, told).await;
        // What may be sent now, and what is the outcome if there is no other attempt.
        let (unsent, outcome) = match sent {
            Ok(answered) => {
                let status = answered.response.status();
                upstream.standing.answered();
                upstream.counters.responses.count(status);
                upstream.counters.latency.record(began.elapsed());
                if spare.is_none() || !retry.statuses.contains(&status.as_u16()) {
                    return Ok((Rc::clone(upstream), answered));
                }
                tried.push(upstream.index);
                (None, Ok((Rc::clone(upstream), answered)))
            }
            Err(Failed { why, unsent, stale }) => {
                note(upstream, &why, stale);
                let may = match why {
                    Unanswered::Connect { .. } => retry.connect,
                    Unanswered::Reset => retry.reset,
                    Unanswered::Slow | Unanswered::NotHttp | Unanswered::Body => false,
                };
                if !may {
                    return Err(why);
                }
                if !stale {
                    tried.push(upstream.index);
                }
                (unsent, Err(why))
            }
        };
        let again = unsent.map(Request::into_parts);
        let again = again.or_else(|| spare.clone().map(|parts| (parts, RequestBody::Empty)));
        let following = if left == 0 { None } else { next(site, None, &tried) };
        let (Some(again), Some(following)) = (again, following) else { return outcome };
        (parts, body) = again;
        upstream = following;
        left -= 1;
        site.counters.retries.add(1);
    }
}

fn next<'a>(site: &'a Site, chosen: Option<usize>, tried: &Tried) -> Option<&'a Rc<Upstream>> {
    if let Some(upstream) = chosen.and_then(|chosen| site.upstreams.get(chosen)) {
        return Some(upstream);
    }
    let next = site.balance.next(tried, |i| site.upstreams[i].standing.healthy());
    next.map(|next| &site.upstreams[next])
}

/// Counts a failure, and holds it against the upstream if it is the upstream's.
fn note(upstream: &Upstream, why: &Unanswered, stale: bool) {
    let failure = match why {
        Unanswered::Connect { .. } => Failure::Connect,
        Unanswered::Reset => Failure::Reset,
        Unanswered::Slow => Failure::UpstreamSlow,
        Unanswered::NotHttp => Failure::NotHttp,
        Unanswered::Body => return,
    };
    upstream.counters.failures.count(failure);
    if !stale {
        upstream.standing.failed();
    }
}
