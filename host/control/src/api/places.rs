//! How much of what the API has a tenant may take at the same time, so that others get some. Administrators are not counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_spec::Name;

use super::problem::Problem;
use crate::auth::Caller;
use crate::control::by_tenant;

/// Uploads that are read and compiled; further ones wait.
const UPLOADS: usize = 2;
/// Changes that have a thread, on which all but one may wait for their turn; further ones wait without.
const CHANGES: usize = 4;
/// Bodies of more than [`LARGE`] that are read and looked through; further ones wait.
const LARGE_BODIES: usize = 1;
/// Bytes of a body that may be read beside others. What has no length yet may be any.
const LARGE: u64 = 1 << 20;
/// Traces, which have a thread as long as they last; further ones wait without.
const TRACES: usize = 2;
/// Requests of all kinds, those that wait for a place among them; further ones are refused. Each has one of the connections that there are
/// for all.
const REQUESTS: usize = 64;
/// Logs that are read, of which the lines of faults may be looked up; further ones wait.
const LOGS: usize = 1;
/// Large answers that are made, or not yet taken; further ones wait.
const ANSWERS: usize = 4;
/// Streams of events and taps, which last as long as their client likes; further ones are refused.
const STREAMS: usize = 16;
/// Streams of all tenants together. Each has a connection, and some must be left for requests.
const STREAMS_IN_ALL: usize = 256;

/// A tenant's place, held until it is dropped; an administrator needs none.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// See the module.
#[derive(Clone)]
pub(super) struct Places {
    requests: ByTenant,
    uploads: ByTenant,
    changes: ByTenant,
    large: ByTenant,
    traces: ByTenant,
    logs: ByTenant,
    answers: ByTenant,
    streams: ByTenant,
    all_streams: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            requests: ByTenant::new(REQUESTS),
            uploads: ByTenant::new(UPLOADS),
            changes: ByTenant::new(CHANGES),
            large: ByTenant::new(LARGE_BODIES),
            traces: ByTenant::new(TRACES),
            logs: ByTenant::new(LOGS),
            answers: ByTenant::new(ANSWERS),
            streams: ByTenant::new(STREAMS),
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
        let Some(tenant) = caller.own_tenant() else { return Ok(None) };
        self.requests.of(tenant).try_acquire_owned().map(Some).map_err(|_| {
            let detail = format!(
                "tenant {tenant} has {REQUESTS} requests under way already: wait for one of them"
            );
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail)
        })
    }

    /// Waits until something may be uploaded for this tenant, by whomever.
    pub(super) async fn upload(&self, tenant: &Name) -> Place {
        self.uploads.wait(Some(tenant)).await
    }

    /// Waits until this caller may change something.
    pub(super) async fn change(&self, caller: &Caller) -> Place {
        self.changes.wait(caller.own_tenant()).await
    }

    /// Waits until this caller may send a body of so many bytes.
    pub(super) async fn large(&self, caller: &Caller, bytes: Option<u64>) -> Place {
        if bytes.is_some_and(|bytes| bytes <= LARGE) {
            return None;
        }
        self.large.wait(caller.own_tenant()).await
    }

    /// Waits until this caller may trace.
    pub(super) async fn trace(&self, caller: &Caller) -> Place {
        self.traces.wait(caller.own_tenant()).await
    }

    /// Waits until this caller may read a log.
    pub(super) async fn log(&self, caller: &Caller) -> Place {
        self.logs.wait(caller.own_tenant()).await
    }

    /// Waits until this caller may be shown something that may be large.
    pub(super) async fn answer(&self, caller: &Caller) -> Place {
        self.answers.wait(caller.own_tenant()).await
    }

    /// Lets this caller have one stream more.
    ///
    /// # Errors
    /// When there are too many.
    #[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
    pub(super) fn stream(&self, caller: &Caller) -> Result<[Place; 2], Problem> {
        let Some(tenant) = caller.own_tenant() else { return Ok([None, None]) };
        let too_many = |detail| Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail);
        let own = self.streams.of(tenant).try_acquire_owned().map_err(|_| {
            too_many(format!(
                "tenant {tenant} has {STREAMS} streams of events and taps already: end one first"
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

/// So many places for each tenant.
#[derive(Clone)]
struct ByTenant {
    each: usize,
    all: Arc<Mutex<BTreeMap<Name, Arc<Semaphore>>>>,
}

impl ByTenant {
    fn new(each: usize) -> Self {
        Self { each, all: Arc::default() }
    }

    fn of(&self, tenant: &Name) -> Arc<Semaphore> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        by_tenant(&mut all, tenant, || Semaphore::new(self.each))
    }

    async fn wait(&self, tenant: Option<&Name>) -> Place {
        let places = self.of(tenant?);
        Some(places.acquire_owned().await.expect("nobody closes these semaphores"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tenants_that_have_a_place_are_remembered() {
        let places = ByTenant::new(1);
        let busy = places.of(&"busy".parse().unwrap()).try_acquire_owned().unwrap();
        for number in 0..10 {
            drop(places.of(&format!("t{number}").parse().unwrap()));
        }
        assert_eq!(places.all.lock().unwrap().len(), 2, "that one, and the last one");
        assert!(places.of(&"busy".parse().unwrap()).try_acquire_owned().is_err());
        drop(busy);
    }
}
