//! How much of what the API has a tenant may take at the same time, so that others get some. Who
//! may look at everything counts as a tenant, an administrator not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_spec::Name;

use super::problem::Problem;
use crate::auth::Caller;
use crate::control::by_tenant;

/// Uploads that are read and compiled; further ones wait.
const UPLOADS: usize = 2;
/// Changes that have a thread, on which all but one may wait for their turn; further ones wait
/// without.
const CHANGES: usize = 4;
/// Bodies of more than [`LARGE`] that are read and looked through; further ones wait.
const LARGE_BODIES: usize = 1;
/// Mebibytes of such bodies of all tenants together: while one is looked through it takes a few
/// times its length. Two of the largest.
const LARGE_IN_ALL: u32 = 128;
/// Mebibytes of uploads of all tenants together, which are in memory until they are compiled. Eight
/// of the largest.
const UPLOADS_IN_ALL: u32 = 512;
/// Bytes of a body that may be read beside others. What has no length yet may be any.
const LARGE: u64 = 1 << 20;
/// Traces, which have a thread as long as they last; further ones wait without.
const TRACES: usize = 2;
/// Requests of all kinds, those that wait for a place among them; further ones are refused. Each
/// has one of the connections that there are for all.
const REQUESTS: usize = 64;
/// Logs that are read, of which the lines of faults may be looked up; further ones wait.
const LOGS: usize = 1;
/// Large answers that are made, or not yet taken; further ones wait.
const ANSWERS: usize = 4;
/// Streams of events and taps, which last as long as their client likes; further ones are refused.
const STREAMS: usize = 16;
/// Streams of all tenants together. Each has a connection, and some must be left for requests.
const STREAMS_IN_ALL: usize = 256;

/// Who have places together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Tenant(Name),
    /// Viewers of all tenants.
    Viewers,
}

impl Holder {
    /// None: it is an administrator.
    fn of(caller: &Caller) -> Option<Self> {
        match caller.own_tenant() {
            Some(tenant) => Some(Self::Tenant(tenant.clone())),
            None => (!caller.is_admin()).then_some(Self::Viewers),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant {tenant} has"),
            Self::Viewers => f.write_str("viewers of all tenants have"),
        }
    }
}

/// A place, held until it is dropped; an administrator needs none.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// See the module.
#[derive(Clone)]
pub(super) struct Places {
    requests: ByHolder,
    uploads: ByHolder,
    upload_bytes: Budget,
    changes: ByHolder,
    large: ByHolder,
    large_bytes: Budget,
    traces: ByHolder,
    logs: ByHolder,
    answers: ByHolder,
    streams: ByHolder,
    all_streams: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            requests: ByHolder::new(REQUESTS),
            uploads: ByHolder::new(UPLOADS),
            upload_bytes: Budget::new(UPLOADS_IN_ALL),
            changes: ByHolder::new(CHANGES),
            large: ByHolder::new(LARGE_BODIES),
            large_bytes: Budget::new(LARGE_IN_ALL),
            traces: ByHolder::new(TRACES),
            logs: ByHolder::new(LOGS),
            answers: ByHolder::new(ANSWERS),
            streams: ByHolder::new(STREAMS),
            all_streams: Arc::new(Semaphore::new(STREAMS_IN_ALL)),
        }
    }
}

impl Places {
    /// Lets this caller have one request more.
    ///
    /// # Errors
    /// When it has too many.
    #[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
    pub(super) fn request(&self, caller: &Caller) -> Result<Place, Problem> {
        let Some(holder) = Holder::of(caller) else { return Ok(None) };
        self.requests.of(&holder).try_acquire_owned().map(Some).map_err(|_| {
            let detail =
                format!("{holder} {REQUESTS} requests under way already: wait for one of them");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail)
        })
    }

    /// Waits until something of this length may be uploaded for this tenant, by whomever.
    pub(super) async fn upload(&self, tenant: &Name, length: Length) -> [Place; 2] {
        let own = self.uploads.wait(Some(Holder::Tenant(tenant.clone()))).await;
        [own, self.upload_bytes.wait(length).await]
    }

    /// Waits until this caller may change something.
    pub(super) async fn change(&self, caller: &Caller) -> Place {
        self.changes.wait(Holder::of(caller)).await
    }

    /// Waits until this caller may send a body of this length.
    pub(super) async fn large(&self, caller: &Caller, length: Length) -> [Place; 2] {
        let Some(holder) = Holder::of(caller) else { return [None, None] };
        if length.0 <= LARGE {
            return [None, None];
        }
        let own = self.large.wait(Some(holder)).await;
        [own, self.large_bytes.wait(length).await]
    }

    /// Waits until this caller may trace.
    pub(super) async fn trace(&self, caller: &Caller) -> Place {
        self.traces.wait(Holder::of(caller)).await
    }

    /// Waits until this caller may read a log.
    pub(super) async fn log(&self, caller: &Caller) -> Place {
        self.logs.wait(Holder::of(caller)).await
    }

    /// Waits until this caller may be shown something that may be large.
    pub(super) async fn answer(&self, caller: &Caller) -> Place {
        self.answers.wait(Holder::of(caller)).await
    }

    /// Lets this caller have one stream more.
    ///
    /// # Errors
    /// When there are too many.
    #[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
    pub(super) fn stream(&self, caller: &Caller) -> Result<[Place; 2], Problem> {
        let Some(holder) = Holder::of(caller) else { return Ok([None, None]) };
        let too_many = |detail| Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail);
        let own = self.streams.of(&holder).try_acquire_owned().map_err(|_| {
            too_many(format!(
                "{holder} {STREAMS} streams of events and taps already: end one first"
            ))
        })?;
        let any = Arc::clone(&self.all_streams).try_acquire_owned().map_err(|_| {
            too_many(format!(
                "tenants have {STREAMS_IN_ALL} streams of events and taps already: try again later"
            ))
        })?;
        Ok([Some(own), Some(any)])
    }
}

/// Bytes that a body may have.
#[derive(Clone, Copy)]
pub(super) struct Length(u64);

impl Length {
    /// As it is said with the body, if it is; so many at most.
    pub(super) fn of(body: &Body, max: usize) -> Self {
        let max = max as u64;
        Self(body.size_hint().upper().map_or(max, |said| said.min(max)))
    }
}

/// Mebibytes that all tenants have together.
#[derive(Clone)]
struct Budget {
    all: u32,
    free: Arc<Semaphore>,
}

impl Budget {
    fn new(all: u32) -> Self {
        Self { all, free: Arc::new(Semaphore::new(all as usize)) }
    }

    /// Waits for as many as it takes. Small ones need none.
    async fn wait(&self, Length(bytes): Length) -> Place {
        let whole = u32::try_from(bytes >> 20).unwrap_or(u32::MAX).min(self.all);
        let free = Arc::clone(&self.free).acquire_many_owned(whole);
        Some(free.await.expect("nobody closes these semaphores"))
    }
}

/// So many places for each holder.
#[derive(Clone)]
struct ByHolder {
    each: usize,
    all: Arc<Mutex<BTreeMap<Holder, Arc<Semaphore>>>>,
}

impl ByHolder {
    fn new(each: usize) -> Self {
        Self { each, all: Arc::default() }
    }

    fn of(&self, holder: &Holder) -> Arc<Semaphore> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        by_tenant(&mut all, holder, || Semaphore::new(self.each))
    }

    async fn wait(&self, holder: Option<Holder>) -> Place {
        let places = self.of(&holder?);
        Some(places.acquire_owned().await.expect("nobody closes these semaphores"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tenants_that_have_a_place_are_remembered() {
        let places = ByHolder::new(1);
        let tenant = |name: &str| Holder::Tenant(name.parse().unwrap());
        let busy = places.of(&tenant("busy")).try_acquire_owned().unwrap();
        for number in 0..10 {
            drop(places.of(&tenant(&format!("t{number}"))));
        }
        assert_eq!(places.all.lock().unwrap().len(), 2, "that one, and the last one");
        assert!(places.of(&tenant("busy")).try_acquire_owned().is_err());
        drop(busy);
    }
}
