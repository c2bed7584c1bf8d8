//! A request that hyper could not read, and has answered itself: it is no exchange, so what can be
//! known of it is counted and written down here.

use std::error::Error as _;

use http::StatusCode;
use tokio::time::Instant;

use crate::chain::Ended;
use crate::http::client::Client;
use crate::listen::listener::Site;
use crate::observe::failure_lines::Line;
use crate::observe::record::{self, Record};
use crate::observe::statistics::Failure;

/// Notes what ended a connection of HTTP/1, if that was such a request.
pub(crate) fn http1(client: &Client, site: &Site, error: &hyper::Error) {
    let status = if error.is_parse_too_large() {
        // There are two of these, which hyper tells apart by their texts only.
        match error.to_string().contains("URI") {
            true => StatusCode::URI_TOO_LONG,
            false => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    } else if error.is_parse() {
        StatusCode::BAD_REQUEST
    } else {
        return;
    };
    // Behind a response that has begun hyper says nothing.
    let status = (client.pulse.active.get() == 0).then_some(status);
    note(client, site, status, error);
}

/// The same of HTTP/2: the client did not keep to the protocol. What hyper only resets a stream for
/// is not told.
pub(crate) fn http2(client: &Client, site: &Site, error: &hyper::Error) {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    if cause.is_some_and(h2::Error::is_library) {
        note(client, site, None, error);
    }
}

fn note(client: &Client, site: &Site, status: Option<StatusCode>, error: &hyper::Error) {
    site.counters.failures.count(Failure::Refused);
    if let Some(status) = status {
        site.counters.requests.add(1);
        site.counters.responses.count(status);
    }
    let status = status.map(|status| status.as_u16());
    let (listener, reason) = (&site.plan.config.name, Failure::Refused.name());
    if let Some(left_out) = site.lines.say(Instant::now()) {
        let line = Line {
            listener,
            client: client.origin.client,
            method: "-",
            path: "-",
            status: status.unwrap_or(0),
            reason,
            why: Some(error),
            upstream: None,
            milliseconds: None,
            left_out,
        };
        tracing::info!("{line}");
    }
    if let Some(records) = &site.records {
        records.write(&Record {
            time: record::now(),
            listener,
            client: client.origin.client,
            request: None,
            status,
            received: 0,
            sent: 0,
            seconds: 0.0,
            head_seconds: None,
            upstream: None,
            ended: record::ended(if status.is_some() { Ended::Answered } else { Ended::Reset }),
            failure: Some(reason),
            error: Some(error.to_string()),
        });
    }
}
