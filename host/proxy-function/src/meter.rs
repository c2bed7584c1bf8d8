//! CPU time of a guest, which goes from thread to thread.
//!
//! A deadline is for one stretch of running: from when the guest was woken until it waits for
//! something. That an epoch made it yield to others is no wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use wasmtime::UpdateDeadline;
use weir_sandbox::{Overdue, charged, thread_time};

/// Written by the thread that runs the guest now. Times in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// In all.
    total: AtomicU64,
    /// What it was charged for the stretch.
    stretch: AtomicU64,
    /// The thread's time when it was last taken up, or looked at.
    since: AtomicU64,
    yielded: AtomicBool,
}

impl Meter {
    /// CPU time in all.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.total.load(Relaxed))
    }

    /// Called with every epoch while the guest runs.
    pub(crate) fn look(&self, limit: Duration) -> wasmtime::Result<UpdateDeadline> {
        let now = now();
        let time = Duration::from_nanos(now.saturating_sub(self.since.swap(now, Relaxed)));
        let used = Duration::from_nanos(self.stretch.load(Relaxed)) + charged(time, limit);
        self.stretch.store(nanoseconds(used), Relaxed);
        if used > limit {
            return Err(wasmtime::Error::new(Overdue { limit, lost: Duration::ZERO }));
        }
        self.yielded.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    }

    /// Measures a guest.
    pub(crate) async fn measure<F: Future>(&self, guest: F) -> F::Output {
        Metered { meter: self, guest: Box::pin(guest) }.await
    }
}

struct Metered<'a, F> {
    meter: &'a Meter,
    guest: Pin<Box<F>>,
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let meter = self.meter;
        let since = now();
        meter.since.store(since, Relaxed);
        let polled = self.guest.as_mut().poll(cx);
        meter.total.fetch_add(now().saturating_sub(since), Relaxed);
        // Who yielded was looked at just before.
        if !meter.yielded.swap(false, Relaxed) {
            meter.stretch.store(0, Relaxed);
        }
        polled
    }
}

fn now() -> u64 {
    nanoseconds(thread_time())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    fn burn(time: Duration) {
        let began = Instant::now();
        let used = now();
        while Duration::from_nanos(now() - used) < time && began.elapsed() < time * 100 {}
    }

    #[test]
    fn yielding_goes_on_with_the_stretch_and_waiting_begins_another() {
        let meter = Meter::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut overdue = Vec::new();
        runtime.block_on(meter.measure(async {
            for waits in [true, true, true, true, false, false, false, false, false] {
                burn(LIMIT * 9 / 40);
                overdue.push(meter.look(LIMIT).is_err());
                if waits {
                    meter.yielded.store(false, Relaxed);
                }
                tokio::task::yield_now().await;
            }
        }));
        assert_eq!(overdue, [false, false, false, false, false, false, false, false, true]);
        assert!(meter.total() >= LIMIT * 2, "{:?}", meter.total());
    }

    #[test]
    fn time_in_which_nobody_looked_is_charged_a_quarter_of_the_limit_at_most() {
        let meter = Meter::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let overdue = runtime.block_on(meter.measure(async {
            [(); 5].map(|()| {
                burn(LIMIT * 2);
                meter.look(LIMIT).is_err()
            })
        }));
        assert_eq!(overdue, [false, false, false, false, true]);
    }
}
