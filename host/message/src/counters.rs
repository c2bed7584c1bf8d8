//! What is counted of a function: by one thread, read by others.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weir_exchange::{Counter, Histogram};
use weir_layout::message::Action;
use weir_sandbox::Health;

/// What one thread counts of a function.
#[derive(Debug, Default)]
pub struct FunctionCounters {
    /// Events that it was told, by the action that it answered: see [`Self::NAMES`].
    actions: [Counter; 6],
    /// Times it faulted.
    pub faults: AtomicU64,
    /// Events that passed it by, because it was out of order.
    pub skipped: AtomicU64,
    /// Exchanges that ended there, because it was out of order.
    pub refused: AtomicU64,
    /// Requests of a service that had an instance made for them, and those that had one which had
    /// served others.
    pub instances_made: Counter,
    /// See [`Self::instances_made`].
    pub instances_reused: Counter,
    /// How long its events took.
    pub times: Histogram,
    health: AtomicU8,
    /// What [`Self::take`] has given of all these.
    taken: Mutex<Vec<u64>>,
}

impl FunctionCounters {
    /// Names of actions, in the order of [`Self::actions`].
    pub const NAMES: [&'static str; 6] = ["continue", "answer", "reset", "wait", "hold", "done"];

    pub(crate) fn count(&self, action: Action, time: Duration) {
        self.actions[action as usize].add(1);
        self.times.record(time);
    }

    /// Events by action.
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.actions.iter().map(Counter::get))
    }

    /// Events in all.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.actions().map(|(_, n)| n).sum()
    }

    /// Everything since the last time, as words: to pass on to another process.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        let rare = self.rare().map(|n| n.load(Ordering::Relaxed));
        let now: Vec<u64> = rare.into_iter().chain(self.usual().map(Counter::get)).collect();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.resize(now.len(), 0);
        let since: Vec<u64> = now.iter().zip(&*taken).map(|(n, t)| n.wrapping_sub(*t)).collect();
        *taken = now;
        since.into_iter().chain([u64::from(self.health.load(Ordering::Relaxed))]).collect()
    }

    /// Adds what another process took, whatever it is. No thread may count meanwhile.
    pub fn absorb(&self, words: &[u64]) {
        // One after the other: a worker's last report may come with the first one of the worker in
        // its place.
        let _turn = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = words.iter().copied();
        for (counter, n) in self.rare().into_iter().zip(&mut words) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
        for (counter, n) in self.usual().zip(&mut words) {
            counter.add(n);
        }
        if let Some(health) = words.next() {
            self.health.store(health.min(2) as u8, Ordering::Relaxed);
        }
    }

    fn rare(&self) -> [&AtomicU64; 3] {
        [&self.faults, &self.skipped, &self.refused]
    }

    fn usual(&self) -> impl Iterator<Item = &Counter> {
        let instances = [&self.instances_made, &self.instances_reused];
        self.actions.iter().chain(instances).chain(self.times.counters())
    }

    pub(crate) fn set_health(&self, health: Health) {
        let health = match health {
            Health::Running => 0,
            Health::BackOff { .. } => 1,
            Health::Quarantined => 2,
        };
        self.health.store(health, Ordering::Relaxed);
    }

    /// Whether it is not called any more until it is replaced.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.health() == Health::Quarantined.name()
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
    use weir_exchange::Times;

    use super::*;

    #[test]
    fn what_is_taken_is_added_elsewhere_once() {
        let (here, there) = (FunctionCounters::default(), FunctionCounters::default());
        for round in 1..=3 {
            here.count(Action::Done, Duration::from_micros(round));
            here.instances_reused.add(round);
            here.faults.fetch_add(round, Ordering::Relaxed);
            here.set_health(Health::Quarantined);
            there.absorb(&here.take());
            assert_eq!((there.events(), there.health()), (round, "quarantined"));
        }
        there.absorb(&here.take());
        let mut times = Times::default();
        times.add(&there.times);
        assert_eq!((times.count(), times.sum), (3, Duration::from_micros(6)));
        assert_eq!(there.faults.load(Ordering::Relaxed), 6);
        assert_eq!((there.instances_made.get(), there.instances_reused.get()), (0, 6));
        // Words of somebody else are no reason to panic.
        there.absorb(&[1; 7]);
        there.absorb(&[u64::MAX; 500]);
    }
}
