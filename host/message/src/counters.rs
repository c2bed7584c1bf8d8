//! What is counted of a function: by one thread, read by others.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use weir_layout::message::Action;
use weir_sandbox::Health;

/// Buckets for each doubling.
const STEPS: u64 = 4;
/// Buckets of a histogram: from 64 ns to 17 s.
const BUCKETS: usize = 28 * STEPS as usize;
/// Logarithm of the first bucket's nanoseconds.
const FIRST: u64 = 6;

/// A histogram of times, four buckets for each doubling.
#[derive(Debug)]
pub struct Buckets([AtomicU64; BUCKETS]);

impl Default for Buckets {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Buckets {
    /// Counts a time.
    pub fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0[Self::bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
    }

    fn bucket(nanoseconds: u64) -> usize {
        let scaled = (nanoseconds >> FIRST).max(1);
        let doubling = u64::from(scaled.ilog2());
        let within = if doubling == 0 {
            (nanoseconds >> (FIRST - 2)).saturating_sub(STEPS).min(STEPS - 1)
        } else {
            (nanoseconds >> (doubling + FIRST - 2)) - STEPS
        };
        usize::try_from(doubling * STEPS + within).unwrap_or(BUCKETS).min(BUCKETS - 1)
    }

    /// Upper ends of the buckets in nanoseconds, and how many times each has, without those that have none.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().enumerate().filter_map(|(n, count)| {
            let (doubling, within) = (n as u64 / STEPS, n as u64 % STEPS);
            let end = (STEPS + within + 1) << (doubling + FIRST - 2);
            let count = count.load(Ordering::Relaxed);
            (count > 0).then_some((end, count))
        })
    }
}

/// What one thread counts of a function.
#[derive(Debug, Default)]
pub struct FunctionCounters {
    /// Events that it was told, by the action that it answered: see [`Self::NAMES`].
    actions: [AtomicU64; 6],
    /// Times it faulted.
    pub faults: AtomicU64,
    /// Events that passed it by, because it was out of order.
    pub skipped: AtomicU64,
    /// Exchanges that ended there, because it was out of order.
    pub refused: AtomicU64,
    /// How long its events took.
    pub times: Buckets,
    health: AtomicU8,
}

impl FunctionCounters {
    /// Names of actions, in the order of [`Self::actions`].
    pub const NAMES: [&'static str; 6] = ["continue", "answer", "reset", "wait", "hold", "done"];

    pub(crate) fn count(&self, action: Action, time: Duration) {
        self.actions[action as usize].fetch_add(1, Ordering::Relaxed);
        self.times.add(time);
    }

    /// Events by action.
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.actions.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// Events in all.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.actions().map(|(_, n)| n).sum()
    }

    /// Everything since the last time, as words: to pass on to another process.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        let taken = self.all().map(|n| n.swap(0, Ordering::Relaxed));
        taken.chain([u64::from(self.health.load(Ordering::Relaxed))]).collect()
    }

    /// Adds what another process took, whatever it is.
    pub fn absorb(&self, words: &[u64]) {
        for (counter, n) in self.all().zip(words) {
            counter.fetch_add(*n, Ordering::Relaxed);
        }
        if let Some(health) = words.get(self.all().count()) {
            self.health.store((*health).min(2) as u8, Ordering::Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let others = [&self.faults, &self.skipped, &self.refused];
        self.actions.iter().chain(others).chain(&self.times.0)
    }

    pub(crate) fn set_health(&self, health: Health) {
        let health = match health {
            Health::Running => 0,
            Health::BackOff { .. } => 1,
            Health::Quarantined => 2,
        };
        self.health.store(health, Ordering::Relaxed);
    }

    /// How it is: [`Health::name`].
    #[must_use]
    pub fn health(&self) -> &'static str {
        match self.health.load(Ordering::Relaxed) {
            0 => "running",
            1 => "back-off",
            _ => "quarantined",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_below_its_buckets_end_and_not_below_the_one_before() {
        for nanoseconds in (0..2000).chain((11..34).map(|n| (1u64 << n) + 12345)) {
            let buckets = Buckets::default();
            buckets.add(Duration::from_nanos(nanoseconds));
            let (end, count) = buckets.counts().next().unwrap();
            assert_eq!(count, 1);
            assert!(nanoseconds < end, "{nanoseconds} {end}");
            assert!(nanoseconds < 80 || end * 3 / 4 <= nanoseconds, "{nanoseconds} {end}");
        }
    }
}
