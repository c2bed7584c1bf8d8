//! How an upstream stands: what checks say, and what requests met of late. Shared by all threads.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row after which an upstream is passed by for a while.
const FAILURES: u32 = 3;
/// For so long.
const PASSED_BY: Duration = Duration::from_secs(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// See the module. Healthy at first.
#[derive(Default)]
pub(crate) struct Standing {
    unhealthy: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds since the start; 0: not passed by.
    until: AtomicU64,
}

impl Standing {
    pub(crate) fn healthy(&self) -> bool {
        if self.unhealthy.load(Relaxed) {
            return false;
        }
        let until = self.until.load(Relaxed);
        until == 0 || now() >= until
    }

    /// What the checks say.
    pub(crate) fn checked(&self, healthy: bool) {
        self.unhealthy.store(!healthy, Relaxed);
    }

    /// It could not be reached, lost a request, or let it wait for too long.
    pub(crate) fn failed(&self) {
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        if failures >= FAILURES {
            self.until.store(now() + PASSED_BY.as_millis() as u64, Relaxed);
        }
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.until.store(0, Relaxed);
        }
    }
}

fn now() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_fails_three_times_in_a_row_is_passed_by() {
        let standing = Standing::default();
        standing.failed();
        standing.failed();
        standing.answered();
        standing.failed();
        standing.failed();
        assert!(standing.healthy());
        standing.failed();
        assert!(!standing.healthy());
        standing.answered();
        assert!(standing.healthy());
        standing.checked(false);
        assert!(!standing.healthy());
    }
}
