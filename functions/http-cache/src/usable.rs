//! Whether a stored response can be used for a request.

use weir_sdk::message::prelude::*;

use super::control::{Control, Freshness};
use super::store::Stored;

/// What a request asks of a stored response.
pub(crate) struct Wanted {
    no_cache: bool,
    max_age: u64,
    min_fresh: u64,
    max_stale: u64,
    pub(crate) only_if_cached: bool,
}

impl Wanted {
    pub(crate) fn of(control: Control, head: &Head<'_>, heed: bool) -> Self {
        let Control { only_if_cached, .. } = control;
        if !heed {
            return Self {
                no_cache: false,
                max_age: u64::MAX,
                min_fresh: 0,
                max_stale: 0,
                only_if_cached,
            };
        }
        // RFC 9111, section 5.4.
        let pragma = head.field("cache-control").is_none()
            && head.all("pragma").any(|value| value.eq_ignore_ascii_case(b"no-cache"));
        Self {
            no_cache: control.no_cache || pragma,
            max_age: control.max_age.unwrap_or(u64::MAX),
            min_fresh: control.min_fresh.unwrap_or(0),
            max_stale: control.max_stale.unwrap_or(0),
            only_if_cached,
        }
    }
}

/// Whether a stored response can be used without asking.
pub(crate) fn is_usable(stored: &Stored, wanted: &Wanted, age: u64, now: u64) -> bool {
    let Freshness { control, lifetime, .. } = stored.freshness;
    if wanted.no_cache || control.no_cache || age > wanted.max_age {
        return false;
    }
    let left = lifetime.saturating_sub(age);
    if left > 0 {
        return left >= wanted.min_fresh;
    }
    // RFC 9111, section 4.2.4. What is `s-maxage` is for shared caches, and to be revalidated by
    // them, too.
    if control.must_revalidate
        || control.shared_max_age.is_some_and(|_| control.stale_while_revalidate.is_none())
    {
        return false;
    }
    let stale = age - lifetime;
    // One asks, the others need not wait for it (RFC 5861, section 3). Nor can who must not ask.
    let others_ask = stored.is_asked_about(now) || wanted.only_if_cached;
    if others_ask && wanted.min_fresh == 0 && stale < control.stale_while_revalidate.unwrap_or(0) {
        return true;
    }
    stale <= wanted.max_stale && wanted.max_stale > 0
}

/// The directive that lets a stored response be used in place of an error (RFC 5861): who asked
/// while others get what is stale need not fare worse than they do.
pub(crate) fn hides_errors(stored: &Stored, now: u64) -> Option<&'static str> {
    let Freshness { control, lifetime, .. } = stored.freshness;
    if control.must_revalidate || control.no_cache {
        return None;
    }
    let stale = stored.freshness.age(now).saturating_sub(lifetime);
    if control.stale_if_error.is_some_and(|most| stale <= most) {
        return Some("stale-if-error");
    }
    (stale < control.stale_while_revalidate.unwrap_or(0)).then_some("stale-while-revalidate")
}
