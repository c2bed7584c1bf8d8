//! Numbers that one thread changes and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only one thread changes: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Takes away.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(less), Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets in which a time doubles.
const SUB_BUCKETS: u32 = 4;
/// Times below 2 to the power of this, in nanoseconds, share a bucket: 64 ns.
const FIRST_POWER: u32 = 6;
/// Times of 2 to the power of this and more share the last one: 137 s.
const LAST_POWER: u32 = 37;
/// Buckets of a histogram.
const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * SUB_BUCKETS) as usize + 2;

/// Times in buckets that grow by a quarter of an octave.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    /// Nanoseconds.
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    /// Counts a time.
    #[inline]
    pub fn record(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanoseconds)].add(1);
        self.sum.add(nanoseconds);
    }

    /// All that is counted: to pass it on to another process.
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.buckets.iter().chain([&self.sum])
    }
}

/// The bucket of a time.
#[inline]
fn bucket(nanoseconds: u64) -> usize {
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
fn upper_bound(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    let bucket = bucket as u32;
    let power = FIRST_POWER + bucket / SUB_BUCKETS;
    Some((1 << power) + u64::from(bucket % SUB_BUCKETS) * (1 << (power - SUB_BUCKETS.ilog2())))
}

/// What histograms have counted, those of several threads together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    counts: Vec<u64>,
    /// All of them together.
    pub sum: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum: Duration::ZERO }
    }
}

impl Times {
    /// Adds what a histogram has counted so far.
    pub fn add(&mut self, histogram: &Histogram) {
        for (count, counter) in self.counts.iter_mut().zip(&histogram.buckets) {
            *count += counter.get();
        }
        self.sum += Duration::from_nanos(histogram.sum.get());
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Bound of each bucket (`None`: without one), and the times below it that are in no bucket
    /// before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .map(|(bucket, &count)| (upper_bound(bucket).map(Duration::from_nanos), count))
    }

    /// The time that this part (0 to 1) of all are below, to a quarter of an octave; `None` without
    /// any.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bound, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return Some(bound.unwrap_or(Duration::MAX));
            }
        }
        None
    }
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

    #[test]
    fn histograms_of_several_threads_add_up() {
        let histograms = [Histogram::default(), Histogram::default()];
        for (n, histogram) in histograms.iter().enumerate() {
            for time in 1..=100 {
                histogram.record(Duration::from_micros(time * (n as u64 + 1)));
            }
        }
        let mut times = Times::default();
        histograms.iter().for_each(|histogram| times.add(histogram));
        assert_eq!((times.count(), times.sum), (200, Duration::from_micros(3 * 5050)));
        // Two of three are below 100 µs at least, to a quarter of an octave.
        let found = times.quantile(0.75).unwrap();
        assert!(
            found > Duration::from_micros(95) && found <= Duration::from_micros(128),
            "{found:?}"
        );
        assert_eq!(Times::default().quantile(0.5), None);
    }
}
