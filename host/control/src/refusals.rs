//! Requests to the API that were refused: who guesses tokens leaves a trace, and so does one whose
//! token was taken away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// It is said in the log so often at most.
const TELL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    unauthorized: AtomicU64,
    forbidden: AtomicU64,
    /// When one was said last, and how many were not since.
    told: Mutex<Option<(Instant, u64)>>,
}

impl Refusals {
    /// Counts one with this status, 401 or 403. Whether it is to be said: how many others were not
    /// since the last one.
    pub(crate) fn note(&self, status: u16) -> Option<u64> {
        let count = if status == 401 { &self.unauthorized } else { &self.forbidden };
        count.fetch_add(1, Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *told {
            Some((since, left_out)) if since.elapsed() < TELL => {
                *left_out += 1;
                None
            }
            told => Some(told.replace((Instant::now(), 0)).map_or(0, |(_, left_out)| left_out)),
        }
    }

    /// How many there were, by status.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let of = [("401", &self.unauthorized), ("403", &self.forbidden)];
        of.map(|(status, count)| (status.to_owned(), count.load(Relaxed))).into()
    }
}
