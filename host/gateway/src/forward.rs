//! Attempts to have a request answered: which upstream, and which one after it.

use std::rc::Rc;

use http::Request;
use tokio::time::Instant;

use crate::client::Client;
use crate::link::{Failed, Unanswered, Unsent};
use crate::listener::Site;
use crate::place::{Choice, Tried};
use crate::request_body::{Progress, RequestBody};
use crate::rules::{self, Asked};
use crate::spare::Spare;
use crate::statistics::Failure;
use crate::upstream::{Answered, Upstream};

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
    let spare = request.as_ref().and_then(|request| forwarding.spare(request));
    let told = site.told(&forwarding.client.origin);
    let (mut tried, mut left) = (Tried::new(), retry.attempts);
    let nobody = Unanswered::Connect(None);
    let Some(mut upstream) = site.next(chosen, &tried) else { return Err(nobody) };
    loop {
        at(&upstream);
        let config = &upstream.route.config;
        if let Some(request) = request {
            let host = &site.default_hosts[upstream.index];
            rules::address(request, config.http2, config.tls.is_some(), host);
        }
        let began = Instant::now();
        // What is the outcome if there is no other attempt.
        let outcome = match upstream.send(request, forwarding.progress, told, began).await {
            Ok(answered) => {
                let status = answered.response.status();
                upstream.standing.answered();
                upstream.counters.responses.count(status);
                upstream.counters.latency.record(began.elapsed());
                if spare.is_none() || !retry.statuses.contains(&status.as_u16()) {
                    return Ok((upstream, answered));
                }
                tried.push((upstream.index, upstream.address));
                Ok((Rc::clone(&upstream), answered))
            }
            Err(Failed { why, stale }) => {
                note(&upstream, &why, stale);
                let may = match why {
                    Unanswered::Connect(_) => retry.connect,
                    Unanswered::Reset => retry.reset,
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
        if request.is_none() {
            let copy = spare.as_ref().map(Spare::parts);
            *request = copy.map(|parts| Request::from_parts(parts, RequestBody::Empty));
        }
        let following = if left == 0 { None } else { site.next(chosen, &tried) };
        let (Some(_), Some(following)) = (request.as_ref(), following) else { return outcome };
        upstream = following;
        left -= 1;
        site.counters.retries.add(1);
    }
}

impl Forwarding<'_> {
    /// A copy of a request that may be sent again after it has been sent.
    fn spare(&self, request: &Request<RequestBody>) -> Option<Spare> {
        let retry = &self.site.plan.config.retry;
        let repeatable = retry.attempts > 0
            && (retry.reset || !retry.statuses.is_empty())
            && matches!(request.body(), RequestBody::Empty)
            && self.progress.is_none()
            && self.asked.upgrade.is_none()
            && rules::idempotent(request.method());
        repeatable.then(|| Spare::of(request))
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
