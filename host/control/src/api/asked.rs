//! What the log says of requests that were to change something: as much as is needed to know who
//! did what, and not as much as a tenant likes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode, Uri};
use weir_spec::Name;

use super::problem::Problem;
use crate::auth::Caller;

/// Characters of a path with its query that are told.
pub(super) const PATH_MAX: usize = 200;
/// Characters that are told of why it was refused.
const WHY_MAX: usize = 500;
/// Requests of a tenant that changed nothing, told one by one in each [`TIME`].
const TELL: u32 = 5;
const TIME: Duration = Duration::from_secs(1);
/// How long it is remembered how many of a tenant's were left out.
const REMEMBER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<Mutex<BTreeMap<Option<Name>, Told>>>);

/// What was told of a tenant's requests that changed nothing.
struct Told {
    since: Instant,
    told: u32,
    left_out: u64,
}

impl Asked {
    /// Tells who asked for what, with which status it ended, and why if that is none of success.
    pub(super) fn tell(
        &self,
        caller: &Caller,
        method: &Method,
        uri: &Uri,
        status: StatusCode,
        why: Option<&Problem>,
    ) {
        let own = caller.own_tenant();
        let left_out = match status.is_client_error() {
            true => match self.note(own, Instant::now()) {
                None => return,
                told => told,
            },
            false => None,
        };
        let (caller, tenant) = (caller.name(), own.map_or("", Name::as_str));
        let (uri, status) = (uri.to_string(), status.as_u16());
        let uri = shortened(&uri, PATH_MAX);
        let code = why.map(|why| &*why.code);
        let detail = why.map(|why| shortened(&why.detail, WHY_MAX));
        let detail = detail.as_deref();
        tracing::info!(caller, tenant, %method, %uri, status, code, detail, left_out, "asked");
    }

    /// Whether one that changed nothing is to be told: how many others were not since the last one.
    fn note(&self, tenant: Option<&Name>, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, told| now.duration_since(told.since) < REMEMBER);
        let new = || Told { since: now, told: 0, left_out: 0 };
        let told = all.entry(tenant.cloned()).or_insert_with(new);
        if now.duration_since(told.since) >= TIME {
            (told.since, told.told) = (now, 0);
        }
        if told.told == TELL {
            told.left_out += 1;
            return None;
        }
        told.told += 1;
        Some(std::mem::take(&mut told.left_out))
    }
}

/// The beginning of it, if it is long.
pub(super) fn shortened(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log is everybody's: who fills it has others' lines dropped.
    #[test]
    fn a_tenant_does_not_fill_the_log() {
        let (asked, begun) = (Asked::default(), Instant::now());
        let (acme, beta) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        let told = |tenant: &Name, at: u64| {
            let at = begun + Duration::from_millis(at);
            (0..1000).filter_map(|_| asked.note(Some(tenant), at)).collect::<Vec<_>>()
        };
        assert_eq!(told(&acme, 0), [0; 5]);
        assert!(told(&acme, 900).is_empty());
        assert_eq!(told(&beta, 900), [0; 5], "others' are told");
        assert_eq!(told(&acme, 1000), [1995, 0, 0, 0, 0]);
        assert_eq!(told(&beta, 70_000), [0; 5]);
        assert_eq!(asked.0.lock().unwrap().len(), 1, "the other is forgotten");
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        let long = "ä".repeat(PATH_MAX + 1);
        assert_eq!(shortened(&long[2..], PATH_MAX), &long[2..]);
        assert_eq!(shortened(&long, PATH_MAX), format!("{}...", &long[2..]));
    }
}
