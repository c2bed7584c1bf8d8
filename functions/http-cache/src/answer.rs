//! Answers from the store.
//!
//! Owns: a client's own conditions, and what is told about a stored response. Must not know:
//! whether it may be used.

use weir_sdk::message::{Exchange, Head, Outcome, Response};

use crate::State;
use crate::date;
use crate::store::Stored;

/// A client's conditions, as it sent them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    if_none_match: Option<Vec<u8>>,
    if_modified_since: Option<Vec<u8>>,
    pub(crate) head_only: bool,
}

impl Conditions {
    pub(crate) fn of(head: &Head<'_>, head_only: bool) -> Self {
        let own = |name: &str| head.field(name).map(<[u8]>::to_vec);
        Self {
            if_none_match: own("if-none-match"),
            if_modified_since: own("if-modified-since"),
            head_only,
        }
    }

    /// Whether the client has a response already (RFC 9110, section 13.2.2).
    fn hold(&self, stored: &Stored, now: u64) -> bool {
        if stored.status != 200 {
            return false;
        }
        if let Some(list) = &self.if_none_match {
            let have = stored.field("etag");
            return list.trim_ascii() == b"*"
                || have.is_some_and(|have| {
                    list.split(|c| *c == b',').any(|tag| weak(tag.trim_ascii()) == weak(have))
                });
        }
        let Some(since) = &self.if_modified_since else { return false };
        let Some(changed) = stored.field("last-modified") else { return false };
        match (date::read(since, now), date::read(changed, now)) {
            (Some(since), Some(changed)) => changed <= since,
            _ => false,
        }
    }
}

/// An entity tag without what says that it is weak.
pub(crate) fn weak(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Answers with a stored response, or that the client has it already; none if there are no rooms
/// for it.
pub(crate) fn answer(
    exchange: &mut Exchange<'_, State>,
    stored: &Stored,
    conditions: &Conditions,
    name: &str,
    now: u64,
    detail: &str,
) -> Option<Outcome> {
    let has_it = conditions.hold(stored, now);
    let age = stored.freshness.age(now);
    let mut response = Response::new(if has_it { 304 } else { stored.status });
    for (name, value) in &stored.fields {
        // RFC 9110, section 15.4.5: what describes the body is not repeated.
        if !has_it || !name.starts_with(b"content-") || name == b"content-location" {
            response = response.field_bytes(&name[..], &value[..]);
        }
    }
    let left = stored.freshness.lifetime as i64 - age as i64;
    let status = match detail {
        "" => [name, "; hit; ttl=", &left.to_string()].concat(),
        detail => [name, detail].concat(),
    };
    response = response.field("age", age.to_string()).field("cache-status", status);
    if !has_it {
        // To HEAD, the gateway says its length and leaves it out.
        response = response.body(&stored.body[..]);
    }
    exchange.try_answer(&response)
}
