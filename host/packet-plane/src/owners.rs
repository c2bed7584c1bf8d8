//! Which lane has a flow that does not belong to it by its hash: a function there changed the
//! flow's addresses or ports.
//!
//! A translation gives a flow other ends on its other side, and so another hash, by which the
//! answers would come to another lane than the one that knows the translation. So a lane that sends
//! a packet which is of another flow than the one that came in notes itself as the owner, before
//! the packet leaves. (VPP's NAT tells its workers apart by ranges of ports instead, which only it
//! knows; this knows nothing of what functions do.)
//!
//! The table is a cache with eight places for each hash, one cache line, that all lanes read and
//! write without locks. Of a full set the flow goes that was quiet for longest.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Sets, as a power of two: 2 MiB of table, for 262,144 flows.
const SETS_LOG2: u32 = 15;
/// Places of a set: a cache line.
const WAYS: usize = 8;
/// Bits of an entry for the lane, and behind them for the time.
const LANE_BITS: u32 = 12;
const TIME_BITS: u32 = 20;
/// Nanoseconds of a unit of an entry's time, as a power of two: about a second. It wraps after 12
/// days.
const UNIT_LOG2: u32 = 30;
/// Units after which an entry that is used is refreshed.
const REFRESH: u64 = 8;

/// A hash (never 0), the lane, and when it was last used; 0: free.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    fn new(hash: u32, lane: usize, time: u64) -> Self {
        let lane = lane as u64 & ((1 << LANE_BITS) - 1);
        Self(u64::from(hash) << 32 | lane << TIME_BITS | time)
    }

    fn hash(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn lane(self) -> usize {
        (self.0 >> TIME_BITS) as usize & ((1 << LANE_BITS) - 1)
    }

    /// Units since it was last used.
    fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.0) & ((1 << TIME_BITS) - 1)
    }
}

#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// See the module. For all lanes of a chain.
pub(crate) struct Owners {
    sets: Box<[Set]>,
    /// Nothing was ever noted if false: most chains change no addresses.
    any: AtomicBool,
}

/// A packet's time in units.
fn units(time: u64) -> u64 {
    time >> UNIT_LOG2 & ((1 << TIME_BITS) - 1)
}

impl Owners {
    pub(crate) fn new() -> Self {
        let sets = (0..1 << SETS_LOG2).map(|_| Set([const { AtomicU64::new(0) }; WAYS])).collect();
        Self { sets, any: AtomicBool::new(false) }
    }

    fn set(&self, hash: u32) -> &[AtomicU64; WAYS] {
        // The lowest bits choose a lane already.
        &self.sets[(hash >> (u32::BITS - SETS_LOG2)) as usize].0
    }

    /// The lane that noted itself as the owner of the flow with this hash. `time` is the packet's,
    /// in ns.
    #[inline]
    pub(crate) fn find(&self, hash: u32, time: u64) -> Option<usize> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        for place in self.set(hash) {
            let entry = Entry(place.load(Ordering::Relaxed));
            if entry.hash() == hash {
                let now = units(time);
                if entry.age(now) >= REFRESH {
                    refresh(place, entry, now);
                }
                return Some(entry.lane());
            }
        }
        None
    }

    /// Notes a lane as the owner.
    #[cold]
    pub(crate) fn note(&self, hash: u32, lane: usize, time: u64) {
        /// Times that another lane may be quicker before the flow goes without.
        const TRIES: usize = 4;
        let now = units(time);
        self.any.store(true, Ordering::Relaxed);
        for _ in 0..TRIES {
            let set = self.set(hash);
            let entries = set.iter().map(|place| (place, Entry(place.load(Ordering::Relaxed))));
            let worth = |(_, entry): &(&AtomicU64, Entry)| match entry {
                entry if entry.hash() == hash => u64::MAX,
                Entry(0) => u64::MAX - 1,
                entry => entry.age(now),
            };
            let Some((place, before)) = entries.max_by_key(worth) else { return };
            let (before, entry) = (before.0, Entry::new(hash, lane, now).0);
            let order = Ordering::Relaxed;
            if place.compare_exchange(before, entry, order, order).is_ok() {
                return;
            }
        }
    }
}

/// It is in use. Whoever changed it meanwhile knows better.
#[cold]
fn refresh(place: &AtomicU64, entry: Entry, now: u64) {
    let (hash, lane) = (entry.hash(), entry.lane());
    let (before, order) = (entry.0, Ordering::Relaxed);
    let _ = place.compare_exchange(before, Entry::new(hash, lane, now).0, order, order);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1 << UNIT_LOG2;

    #[test]
    fn who_noted_itself_last_is_the_owner() {
        let owners = Owners::new();
        assert_eq!(owners.find(7, 0), None);
        owners.note(7, 1, 0);
        owners.note(8, 3, 0);
        assert_eq!(
            (owners.find(7, 0), owners.find(8, 0), owners.find(9, 0)),
            (Some(1), Some(3), None)
        );
        owners.note(7, 2, 0);
        assert_eq!(owners.find(7, 0), Some(2));
    }

    #[test]
    fn of_a_full_set_the_one_goes_that_was_quiet_for_longest() {
        let owners = Owners::new();
        for hash in 1..=WAYS as u32 {
            owners.note(hash, 1, u64::from(hash) * SECOND);
        }
        // The first is used, so the second is the oldest.
        let now = 20 * SECOND;
        assert_eq!(owners.find(1, now), Some(1));
        owners.note(100, 2, now);
        assert_eq!((owners.find(2, now), owners.find(100, now)), (None, Some(2)));
        assert!((3..=WAYS as u32).all(|hash| owners.find(hash, now) == Some(1)));
        assert_eq!(owners.find(1, now), Some(1));
    }

    #[test]
    fn time_may_wrap() {
        let owners = Owners::new();
        let before = ((1 << TIME_BITS) - 1) * SECOND;
        let age = |now: u64| {
            let places = owners.set(5).iter().map(|place| Entry(place.load(Ordering::Relaxed)));
            places.filter(|entry| entry.hash() == 5).map(|entry| entry.age(units(now))).next()
        };
        owners.note(5, 1, before);
        assert_eq!(age(before + SECOND), Some(1));
        assert_eq!(owners.find(5, before + 100 * SECOND), Some(1));
        assert_eq!(age(before + 100 * SECOND), Some(0));
    }
}
