//! When a burst came in, by one reading of the clock.
//!
//! Owns: both times of a burst, the monotonic one and nanoseconds since 1970. Must not know:
//! packets.

use rustix::time::{ClockId, clock_gettime};

/// After so many ns the two clocks are compared again: the wall's may have been set.
const COMPARE_AFTER: u64 = 1_000_000;

/// A port's clock, for ports whose packets do not bring their own time.
#[derive(Debug, Default)]
pub struct BurstClock {
    /// The last reading of the monotonic clock, ns.
    read: u64,
    /// By how much the wall's is ahead of it, modulo 2^64.
    ahead: u64,
    compare_at: u64,
}

impl BurstClock {
    /// Reads the clock; the answer is the time in nanoseconds since 1970.
    #[inline]
    pub fn read(&mut self) -> u64 {
        self.read = monotonic();
        if self.read >= self.compare_at {
            self.ahead = nanoseconds(ClockId::Realtime).wrapping_sub(self.read);
            self.compare_at = self.read + COMPARE_AFTER;
        }
        self.read.wrapping_add(self.ahead)
    }

    /// The same moment by the monotonic clock, in ns.
    #[must_use]
    #[inline]
    pub fn last(&self) -> u64 {
        self.read
    }
}

/// The monotonic clock, in ns. Not a system call: the vDSO reads the time-stamp counter.
#[must_use]
#[inline]
pub fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

#[inline]
fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Until 2554 it fits, and no clock that is read here is negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_times_are_of_one_moment() {
        /// Less than anybody sets a clock by, more than a thread waits for its turn.
        const HOUR: u64 = 3_600_000_000_000;
        let mut clock = BurstClock::default();
        for _ in 0..1000 {
            let (before, wall) = (monotonic(), nanoseconds(ClockId::Realtime));
            assert!(clock.read().abs_diff(wall) < HOUR);
            assert!((before..=monotonic()).contains(&clock.last()));
        }
    }
}
