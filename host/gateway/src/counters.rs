//! Counters that one thread writes and any thread reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::statistics::{FAILURES, Failure};

/// A number that only one thread changes: a load and a store, no locked instruction.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    #[inline]
    pub(crate) fn sub(&self, less: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(less), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets in which a time doubles.
pub(crate) const SUB_BUCKETS: u32 = 4;
/// Times below 2 to the power of this, in nanoseconds, share a bucket: 1.024 µs.
pub(crate) const FIRST_POWER: u32 = 10;
/// Times of 2 to the power of this and more share the last one: 137 s.
pub(crate) const LAST_POWER: u32 = 37;
/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * SUB_BUCKETS) as usize + 2;

/// Times in buckets that grow by a quarter of an octave.
pub(crate) struct Histogram {
    pub(crate) buckets: [Counter; BUCKETS],
    /// Nanoseconds.
    pub(crate) sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    pub(crate) fn record(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanoseconds)].add(1);
        self.sum.add(nanoseconds);
    }
}

/// The bucket of a time.
pub(crate) fn bucket(nanoseconds: u64) -> usize {
    let power = nanoseconds.checked_ilog2().unwrap_or(0);
    if power < FIRST_POWER {
        return 0;
    }
    if power >= LAST_POWER {
        return BUCKETS - 1;
    }
    let sub = (nanoseconds >> (power - SUB_BUCKETS.ilog2())) as u32 & (SUB_BUCKETS - 1);
    ((power - FIRST_POWER) * SUB_BUCKETS + sub) as usize + 1
}

/// Times below this, in nanoseconds, are in this bucket or one before it; `None` for the last.
pub(crate) fn upper_bound(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    let bucket = bucket as u32;
    let power = FIRST_POWER + bucket / SUB_BUCKETS;
    Some((1 << power) + u64::from(bucket % SUB_BUCKETS) * (1 << (power - SUB_BUCKETS.ilog2())))
}

/// Bytes of connections, TLS's own not counted.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
}

/// What is counted of responses by the first digit of their status.
#[derive(Default)]
pub(crate) struct Classes([Counter; 5]);

impl Classes {
    pub(crate) fn count(&self, status: http::StatusCode) {
        if let Some(class) = self.0.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.add(1);
        }
    }

    pub(crate) fn get(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.0[class].get())
    }
}

/// What is counted of failures.
#[derive(Default)]
pub(crate) struct Failures([Counter; FAILURES.len()]);

impl Failures {
    pub(crate) fn count(&self, failure: Failure) {
        self.0[failure as usize].add(1);
    }

    pub(crate) fn get(&self) -> [u64; FAILURES.len()] {
        std::array::from_fn(|failure| self.0[failure].get())
    }
}

/// A listener's counters on one thread.
#[derive(Default)]
pub(crate) struct ListenerCounters {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) open: Counter,
    pub(crate) requests: Counter,
    pub(crate) active: Counter,
    pub(crate) responses: Classes,
    pub(crate) retries: Counter,
    pub(crate) spliced: Counter,
    pub(crate) failures: Failures,
    pub(crate) latency: Histogram,
    pub(crate) traffic: Arc<Traffic>,
}

/// An upstream's counters on one thread.
#[derive(Default)]
pub(crate) struct UpstreamCounters {
    pub(crate) connected: Counter,
    pub(crate) open: Counter,
    pub(crate) requests: Counter,
    pub(crate) active: Counter,
    pub(crate) responses: Classes,
    pub(crate) failures: Failures,
    pub(crate) latency: Histogram,
    pub(crate) traffic: Arc<Traffic>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_below_its_buckets_bound_and_not_below_the_one_before() {
        for shift in 0..64 {
            for around in [-1_i64, 0, 1] {
                let time = (1_u64 << shift).wrapping_add_signed(around);
                let bucket = bucket(time);
                assert!(upper_bound(bucket).is_none_or(|bound| time < bound), "{time}");
                if bucket > 0 {
                    assert!(upper_bound(bucket - 1).is_some_and(|bound| time >= bound), "{time}");
                }
            }
        }
    }
}
