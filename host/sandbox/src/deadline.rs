//! Deadlines of guests: what of a thread's CPU time they are charged for, looked at once in each
//! epoch.
//!
//! Owns: what a look remembers for the next one. Must not know: what runs in a store, and what
//! becomes of one whose time is up.

use std::cell::Cell;
use std::time::Duration;

use crate::ticker::{LOOKS, TICK};

/// The looks at the guests of a store.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    watched: Option<Watched>,
    /// The burst that began last while there were [`Self::doubts`], and the thread's CPU time then.
    begun: Option<(u32, Duration)>,
    /// Bursts of which the beginning is still to be noted.
    doubts: u32,
}

/// What a look found.
pub(crate) struct Look {
    /// It has used up its time.
    pub(crate) is_over: bool,
    /// How far it has run beyond its time since the look before, charged or not: for [`Lateness`].
    pub(crate) late: Duration,
}

/// What the last look saw.
#[derive(Debug)]
struct Watched {
    /// None: start code.
    who: Option<usize>,
    burst: u32,
    /// CPU time of the thread at the last look.
    at: Duration,
    /// What it has used up of its time.
    used: Duration,
    /// What it has run, as far as is known, charged or not.
    ran: Duration,
}

impl Watch {
    /// A call begins: nobody was looked at in it.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.watched = None;
        self.begun = None;
    }

    /// Whether [`Self::begin_burst`] wants to be told of bursts.
    #[inline]
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubts > 0
    }

    /// The burst of this number begins.
    pub(crate) fn begin_burst(&mut self, burst: u32) {
        self.doubts = self.doubts.saturating_sub(1);
        self.begun = Some((burst, thread_time()));
    }

    /// `who` begins, in this burst: what it uses from here on is known.
    pub(crate) fn begin_exactly(&mut self, who: usize, burst: u32) {
        let (used, ran) = (Duration::ZERO, Duration::ZERO);
        self.watched = Some(Watched { who: Some(who), burst, at: thread_time(), used, ran });
    }

    /// `who` is found running in this burst, with this much CPU time for it.
    pub(crate) fn look(&mut self, who: Option<usize>, burst: u32, limit: Duration) -> Look {
        let at = thread_time();
        let anybody = LOOKED.replace(at);
        let looked = self.watched.as_ref().filter(|watched| watched.burst == burst);
        let begun = self.begun.filter(|(begun, _)| *begun == burst);
        let time = match (looked, begun) {
            (Some(watched), _) => at.saturating_sub(watched.at),
            (None, Some((_, begun))) => at.saturating_sub(begun),
            (None, None) => {
                // When the burst began is not known. If nobody was looked at for long, the next
                // bursts tell whether it was this one.
                let time = at.saturating_sub(anybody);
                if charged(time, limit) < time / 2 {
                    self.doubts = self.doubts.max(doubts(time));
                }
                Duration::ZERO
            }
        };
        let (mut used, mut ran) = (Duration::ZERO, Duration::ZERO);
        if let Some(watched) = looked.filter(|watched| watched.who == who) {
            used = watched.used + charged(time, limit);
            ran = watched.ran;
        }
        let late = (ran + time).saturating_sub(limit) - ran.saturating_sub(limit);
        self.watched = Some(Watched { who, burst, at, used, ran: ran + time });
        Look { is_over: used > limit, late }
    }
}

thread_local! {
    /// CPU time of this thread when a guest was looked at last.
    static LOOKED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Bursts of which the beginning is noted, once somebody may have run long without being looked at:
/// so many at least, and as many as the thread's time can be read for in that time. Who runs long
/// once in more bursts than that takes no more of the thread than reading it would.
const DOUBTS: u32 = 256;
/// Reading the thread's time takes less.
const READING: Duration = Duration::from_micros(1);

/// How many bursts are watched from their beginning on after nobody was looked at for this long.
fn doubts(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / READING.as_nanos()).unwrap_or(u32::MAX).max(DOUBTS)
}

/// Deadlines that a guest may be late without being charged for it, before it is held against it;
/// and time, since a virtual CPU may be taken away for as long.
const LATE_MAX: u32 = 10;
const LATE_LEAST: Duration = Duration::from_millis(50);
/// Each look forgives this part of a deadline.
const FORGIVES: u32 = 16;

/// CPU time that a guest ran beyond its deadlines and was not charged for ([`charged`]). A little
/// of it is nobody's fault; a guest that is late by much, or again and again, has the engine fill
/// or copy megabytes, which nobody can look at before it is done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lateness(Duration);

impl Lateness {
    /// Takes in how late a look found a guest that has `limit`; true when it is too much, or has
    /// become a habit.
    pub(crate) fn add(&mut self, late: Duration, limit: Duration) -> bool {
        self.0 = (self.0 + late).saturating_sub(limit / FORGIVES);
        self.0 > limit.saturating_mul(LATE_MAX).max(LATE_LEAST)
    }

    /// What is not forgiven.
    pub(crate) fn time(self) -> Duration {
        self.0
    }
}

/// What a guest that has this much time is charged for CPU time between two looks at it: at most a
/// quarter of what it has, or an epoch. A virtual CPU that was taken away for long, and a page
/// fault that had the host work for long, look like CPU time of the guest; but then nobody has
/// looked in the meantime. Functions of chains that are late so again and again are at fault all
/// the same.
#[must_use]
pub fn charged(time: Duration, limit: Duration) -> Duration {
    time.min((limit / LOOKS).max(TICK))
}

/// CPU time of this thread.
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_late_uncharged_is_held_against_a_guest_when_it_is_a_habit() {
        let limit = Duration::from_millis(1);
        let looks = |times: &[u64]| {
            let mut lateness = Lateness::default();
            let looks = times.iter().cycle().take(10_000);
            looks
                .map(|late| lateness.add(Duration::from_micros(*late), limit))
                .position(|over| over)
        };
        // Its virtual CPU is away for 10 ms of each 100.
        let mut storms = [0; 200];
        storms[7] = 10_000;
        assert_eq!(looks(&storms), None);
        // And now and then for longer.
        assert_eq!(looks(&[&[40_000][..], &[0; 1000]].concat()[..]), None);
        // Filling 16 MiB again and again, or much once.
        assert!(looks(&[2000]).is_some_and(|first| first < 30));
        assert!(looks(&[0, 2000]).is_some_and(|first| first < 60));
        assert_eq!(looks(&[200_000]), Some(0));
    }

    #[test]
    fn bursts_are_watched_for_as_long_as_somebody_was_not() {
        assert_eq!(doubts(Duration::from_micros(3)), 256);
        assert_eq!(doubts(Duration::from_millis(200)), 200_000);
    }
}
