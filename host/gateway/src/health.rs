//! How an upstream stands: what checks say, and what requests met of late. Shared by all threads.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::statistics::{FAILURES, Failure};

/// Failures in a row after which an upstream is passed by for a while.
const IN_A_ROW: u32 = 3;
/// For so long. Nor is it told more often that it is down.
const PASSED_BY: Duration = Duration::from_secs(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Told whether it is up, and in words how it is; must not block.
pub(crate) type Tell = Box<dyn Fn(bool, &str) + Send + Sync>;

/// See the module. Healthy at first.
pub(crate) struct Standing {
    unhealthy: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds since the start; 0: not passed by.
    until: AtomicU64,
    told: Mutex<Told>,
    tell: Tell,
}

/// What was told last.
#[derive(Default)]
struct Told {
    down: bool,
    /// When it was told last that it is down, in milliseconds since the start; 0: never.
    at: u64,
}

impl Standing {
    pub(crate) fn new(tell: Tell) -> Self {
        Self {
            unhealthy: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            until: AtomicU64::new(0),
            told: Mutex::default(),
            tell,
        }
    }

    pub(crate) fn healthy(&self) -> bool {
        if self.unhealthy.load(Relaxed) {
            return false;
        }
        let until = self.until.load(Relaxed);
        until == 0 || now() >= until
    }

    /// What the checks say, after so many that say the same.
    pub(crate) fn checked(&self, healthy: bool, checks: u32) {
        if self.unhealthy.swap(!healthy, Relaxed) == healthy {
            self.news(|| format!("{checks} checks in a row failed"));
        }
    }

    /// It could not be reached, lost a request, or let it wait for too long.
    pub(crate) fn failed(&self, failure: Failure) {
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        if failures >= IN_A_ROW {
            self.until.store(now() + PASSED_BY.as_millis() as u64, Relaxed);
            let (_, name) = FAILURES[failure as usize];
            self.news(|| {
                format!(
                    "{failures} requests in a row failed, the last with `{name}`; it is passed by for {} s",
                    PASSED_BY.as_secs()
                )
            });
        }
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            if self.until.swap(0, Relaxed) != 0 {
                self.news(String::new);
            }
        }
    }

    /// Tells how it is, if that was not told yet. `why`: if it is down.
    fn news(&self, why: impl FnOnce() -> String) {
        let (up, now) = (self.healthy(), now());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = told.at != 0 && now < told.at + PASSED_BY.as_millis() as u64;
        if told.down != up || (!up && soon) {
            return;
        }
        told.down = !up;
        if up {
            return (self.tell)(true, "healthy again");
        }
        told.at = now;
        (self.tell)(false, &format!("down: {}", why()));
    }
}

fn now() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A standing, and what it told.
    fn standing() -> (Standing, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let standing = Standing::new(Box::new(move |_, what: &str| {
            tell.lock().unwrap().push(what.to_owned());
        }));
        (standing, told)
    }

    #[test]
    fn an_upstream_that_fails_three_times_in_a_row_is_passed_by() {
        let (standing, told) = standing();
        let failed = |times| (0..times).for_each(|_| standing.failed(Failure::Connect));
        failed(2);
        standing.answered();
        failed(2);
        assert!(standing.healthy());
        assert!(told.lock().unwrap().is_empty());
        failed(1);
        assert!(!standing.healthy());
        standing.answered();
        assert!(standing.healthy());
        standing.checked(false, 3);
        assert!(!standing.healthy());
    }

    #[test]
    fn that_it_is_down_is_told_once_and_not_again_too_soon() {
        let (standing, told) = standing();
        let failed = |times| (0..times).for_each(|_| standing.failed(Failure::Reset));
        failed(5);
        let down =
            "down: 3 requests in a row failed, the last with `reset`; it is passed by for 10 s";
        assert_eq!(*told.lock().unwrap(), [down]);
        // It goes to and fro.
        for _ in 0..3 {
            standing.answered();
            failed(3);
        }
        standing.checked(true, 2);
        assert_eq!(*told.lock().unwrap(), [down, "healthy again"]);
        standing.answered();
        // Later on.
        standing.told.lock().unwrap().at = 0;
        standing.checked(false, 3);
        standing.checked(false, 3);
        assert_eq!(told.lock().unwrap()[2..], ["down: 3 checks in a row failed"]);
        // Requests that are still answered do not make it healthy.
        failed(3);
        standing.answered();
        assert_eq!(told.lock().unwrap().len(), 3);
        standing.checked(true, 2);
        assert_eq!(told.lock().unwrap()[3..], ["healthy again"]);
    }
}
