//! Whether a stored response can be used for a request.

use weir_sdk::message::prelude::*;

use super::BESIDE;
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

/// Whether a stored response can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// As it is.
    Fresh,
    /// As it is, and it has to be asked whether it still holds.
    AskBeside,
    /// Not without asking.
    Not,
}

pub(crate) fn use_of(stored: &Stored, wanted: &Wanted, age: u64, now: u64) -> Use {
    let Freshness { control, lifetime, .. } = stored.freshness;
    if wanted.no_cache || control.no_cache || age > wanted.max_age {
        return Use::Not;
    }
    let left = lifetime.saturating_sub(age);
    if left > 0 {
        return if left >= wanted.min_fresh { Use::Fresh } else { Use::Not };
    }
    // RFC 9111, section 4.2.4. What is `s-maxage` is for shared caches, and to be revalidated by them, too.
    if control.must_revalidate
        || control.shared_max_age.is_some_and(|_| control.stale_while_revalidate.is_none())
    {
        return Use::Not;
    }
    let stale = age - lifetime;
    if wanted.min_fresh == 0 && stale < control.stale_while_revalidate.unwrap_or(0) {
        // One asks, the others need not.
        let asks = stored.asking_since != 0 && now < stored.asking_since + 2 * BESIDE.as_secs();
        return if asks { Use::Fresh } else { Use::AskBeside };
    }
    if stale <= wanted.max_stale && wanted.max_stale > 0 { Use::Fresh } else { Use::Not }
}

/// RFC 5861, section 4.
pub(crate) fn may_hide_errors(stored: &Stored, now: u64) -> bool {
    let Freshness { control, lifetime, .. } = stored.freshness;
    let stale = stored.freshness.age(now).saturating_sub(lifetime);
    !control.must_revalidate
        && !control.no_cache
        && stale <= control.stale_if_error.unwrap_or(0)
        && control.stale_if_error.is_some()
}
