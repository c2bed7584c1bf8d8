//! How an upstream stands: what checks say, and what requests met of late. Shared by all threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::observe::statistics::{FAILURES, Failure};

/// Failures in a row after which an upstream is passed by for a while.
const IN_A_ROW: u32 = 3;
/// For so long. Nor is it told more often that it is down.
const PASSED_BY: Duration = Duration::from_secs(10);
/// Why requests fail is put into words this often at most: all of them may, and each of them would
/// pay for that.
const SAID: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Told whether it is up, and in words how it is; must not block.
pub(crate) type Tell = Box<dyn Fn(bool, &str) + Send + Sync>;

/// See the module. Healthy at first.
pub(crate) struct Standing {
    unhealthy: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds since the start; 0: not passed by.
    until: AtomicU64,
    /// When it was said last why requests fail, in milliseconds since the start; 0: not since it
    /// answered.
    said: AtomicU64,
    told: Mutex<Told>,
    tell: Tell,
}

/// What was told last, and what can be.
#[derive(Default)]
struct Told {
    /// Why the last of its checks, and of its requests, failed.
    check: String,
    request: String,
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
            said: AtomicU64::new(0),
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

    /// It gets a request. The first one behind the time for which it was passed by is a trial: it
    /// is passed by for as long again, unless that one is answered, so that an upstream which hangs
    /// has a request at a time, and not its share of all.
    pub(crate) fn asked(&self) {
        let until = self.until.load(Relaxed);
        if until == 0 {
            return;
        }
        let now = now();
        if now >= until {
            let again = now + PASSED_BY.as_millis() as u64;
            // Another thread may be as fast: two trials do no harm.
            let _ = self.until.compare_exchange(until, again, Relaxed, Relaxed);
        }
    }

    /// Why it may have no requests; none if it may.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.healthy() {
            return None;
        }
        let told = self.told();
        Some(match self.unhealthy.load(Relaxed) {
            true => format!("check: {}", told.check),
            false => told.request.clone(),
        })
    }

    /// Checks are well, or there are none.
    pub(crate) fn well(&self) {
        if self.unhealthy.swap(false, Relaxed) {
            self.news(String::new);
        }
    }

    /// So many checks in a row failed, the last of them for this.
    pub(crate) fn ill(&self, checks: u32, why: &str) {
        self.told().check = why.to_owned();
        if !self.unhealthy.swap(true, Relaxed) {
            self.news(|| format!("{checks} checks in a row failed, the last: {why}"));
        }
    }

    /// It could not be reached, lost a request, or let it wait for too long. `error`: what there is
    /// to say about it beyond that.
    pub(crate) fn failed(&self, failure: Failure, error: Option<&io::Error>) {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < IN_A_ROW {
            return;
        }
        let now = now();
        self.until.store(now + PASSED_BY.as_millis() as u64, Relaxed);
        let said = self.said.load(Relaxed);
        let soon = said != 0 && now < said + SAID.as_millis() as u64;
        if soon || self.said.compare_exchange(said, now, Relaxed, Relaxed).is_err() {
            return;
        }
        let (_, name) = FAILURES[failure as usize];
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        self.told().request = format!("{name}{error}");
        self.news(|| {
            let time = PASSED_BY.as_secs();
            format!(
                "{failures} requests in a row failed, the last with `{name}`{error}; it is passed by for {time} s"
            )
        });
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            if self.until.swap(0, Relaxed) != 0 {
                self.said.store(0, Relaxed);
                self.news(String::new);
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how it is, if that was not told yet. `why`: if it is down.
    fn news(&self, why: impl FnOnce() -> String) {
        let (up, now) = (self.healthy(), now());
        let mut told = self.told();
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
        let failed = |times| (0..times).for_each(|_| standing.failed(Failure::Connect, None));
        failed(2);
        standing.answered();
        failed(2);
        assert!(standing.healthy());
        assert!(told.lock().unwrap().is_empty());
        failed(1);
        assert!(!standing.healthy());
        standing.answered();
        assert!(standing.healthy());
        standing.ill(3, "status 500");
        assert!(!standing.healthy());
    }

    #[test]
    fn an_upstream_that_was_passed_by_has_one_request_at_a_time_until_it_answers() {
        let (standing, _) = standing();
        (0..3).for_each(|_| standing.failed(Failure::UpstreamSlow, None));
        let time_is_over = || standing.until.store(1, Relaxed);
        assert!(!standing.healthy());
        // Who asks it all the same, because there is no other, is no trial.
        let until = standing.until.load(Relaxed);
        standing.asked();
        assert_eq!(standing.until.load(Relaxed), until);
        for _ in 0..3 {
            time_is_over();
            assert!(standing.healthy());
            standing.asked();
            assert!(!standing.healthy(), "the first request waits for its answer");
        }
        standing.answered();
        standing.asked();
        assert!(standing.healthy());
    }

    /// Counts how often it is put into words.
    #[derive(Debug)]
    struct Worded(Arc<AtomicU32>);

    impl std::fmt::Display for Worded {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fetch_add(1, Relaxed);
            f.write_str("no route")
        }
    }

    impl std::error::Error for Worded {}

    #[test]
    fn a_flood_of_failures_is_put_into_words_once_in_a_while() {
        let (standing, told) = standing();
        let words = Arc::new(AtomicU32::new(0));
        let error = io::Error::other(Worded(Arc::clone(&words)));
        let began = Instant::now();
        (0..10_000).for_each(|_| standing.failed(Failure::Connect, Some(&error)));
        let periods = began.elapsed().as_secs() as u32;
        assert!((1..=1 + periods).contains(&words.load(Relaxed)), "{words:?}");
        assert_eq!(standing.failures.load(Relaxed), 10_000);
        assert_eq!(standing.problem().as_deref(), Some("connect: no route"));
        // Another reason is told when the time has come, and at once when it has answered
        // meanwhile.
        standing.said.store(1, Relaxed);
        while now() <= 1 + SAID.as_millis() as u64 {
            std::thread::sleep(Duration::from_millis(10));
        }
        standing.failed(Failure::Reset, None);
        assert_eq!(standing.problem().as_deref(), Some("reset"));
        standing.answered();
        (0..3).for_each(|_| standing.failed(Failure::UpstreamSlow, None));
        assert_eq!(standing.problem().as_deref(), Some("upstream-slow"));
        assert_eq!(told.lock().unwrap().len(), 2);
    }

    #[test]
    fn that_it_is_down_is_told_once_and_not_again_too_soon() {
        let (standing, told) = standing();
        let failed = |times| (0..times).for_each(|_| standing.failed(Failure::Reset, None));
        failed(5);
        assert_eq!(standing.problem().as_deref(), Some("reset"));
        let down =
            "down: 3 requests in a row failed, the last with `reset`; it is passed by for 10 s";
        assert_eq!(*told.lock().unwrap(), [down]);
        // It goes to and fro.
        for _ in 0..3 {
            standing.answered();
            failed(3);
        }
        standing.well();
        assert_eq!(*told.lock().unwrap(), [down, "healthy again"]);
        standing.answered();
        // Later on.
        standing.told.lock().unwrap().at = 0;
        standing.ill(3, "status 500");
        standing.ill(4, "status 503");
        let down = "down: 3 checks in a row failed, the last: status 500";
        assert_eq!(told.lock().unwrap()[2..], [down]);
        assert_eq!(standing.problem().as_deref(), Some("check: status 503"));
        // Requests that are still answered do not make it healthy.
        failed(3);
        standing.answered();
        assert_eq!(told.lock().unwrap().len(), 3);
        standing.well();
        assert_eq!(told.lock().unwrap()[3..], ["healthy again"]);
    }
}
