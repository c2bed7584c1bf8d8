//! Token buckets in a table of fixed size.
//!
//! Owns: the generic cell rate algorithm (GCRA, ITU-T I.371), and who makes room. Must not know:
//! what is limited. Of a bucket only the time is stored at which it will be full; one that is full
//! already is as good as none, so entries need not be removed. If a row has no place, the one that
//! is full the soonest goes: its key gets a fresh bucket.

use crate::region::{StateArray, StateRegion};

/// Entries of a row, of two words: a key and a time. A row is two cache lines.
const ROW: usize = 8;
type Row = [[u64; 2]; ROW];

/// A rate: so many can come at once, and one more each `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds, at least 1.
    pub interval: u64,
    /// At least 1.
    pub burst: u64,
}

/// What a bucket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether one may come now.
    pub allowed: bool,
    /// Those that could come at once after this.
    pub remaining: u64,
    /// Nanoseconds until one could come if it is not allowed, else until all could.
    pub wait: u64,
}

/// Buckets of keys, in a state region.
#[derive(Debug)]
pub struct Buckets {
    rows: StateArray<Row>,
}

/// Where a bucket lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    row: usize,
    entry: usize,
    key: u64,
    /// The bucket of another key, which was not full, goes for this one.
    pub evicts: bool,
}

impl Buckets {
    /// Room for so many buckets; a successor finds them as they were if it asks for as many.
    ///
    /// # Errors
    /// When the state region has no room for so many.
    pub fn new(region: &mut StateRegion, buckets: usize) -> Result<Self, String> {
        Ok(Self { rows: region.array("buckets", buckets.div_ceil(ROW).max(1))? })
    }

    /// The place of a key's bucket. Keys are hashes.
    #[must_use]
    pub fn place(&self, key: u64, now: u64) -> Place {
        // 0 is no key.
        let key = key.max(1);
        let row = (key as usize) % self.rows.len();
        let entries = &self.rows[row];
        let known = entries.iter().position(|entry| entry[0] == key);
        let entry = known.or_else(|| (0..ROW).min_by_key(|entry| entries[*entry][1])).unwrap_or(0);
        let evicts = known.is_none() && entries[entry][1] > now;
        Place { row, entry, key, evicts }
    }

    /// Asks a bucket; nothing is taken.
    #[must_use]
    pub fn ask(&self, place: Place, rate: Rate, now: u64) -> Answer {
        let [key, full_at] = self.rows[place.row][place.entry];
        // A time further ahead than a whole bucket is not one of this rate.
        let most = rate.interval.saturating_mul(rate.burst);
        let full_at =
            if key == place.key { full_at.clamp(now, now.saturating_add(most)) } else { now };
        let behind = full_at - now;
        let room = most.saturating_sub(behind);
        if room < rate.interval {
            return Answer { allowed: false, remaining: 0, wait: rate.interval - room };
        }
        Answer {
            allowed: true,
            remaining: (room - rate.interval) / rate.interval,
            wait: behind.saturating_add(rate.interval),
        }
    }

    /// Takes one, if the answer allows it.
    pub fn take(&mut self, place: Place, answer: Answer, now: u64) {
        if answer.allowed {
            self.rows[place.row][place.entry] = [place.key, now.saturating_add(answer.wait)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_full_gives_up_who_is_full_soonest() {
        let mut buckets = Buckets::new(&mut StateRegion::heap(), ROW).unwrap();
        let rate = Rate { interval: 10, burst: 3 };
        let mut take = |key, now| {
            let place = buckets.place(key, now);
            let answer = buckets.ask(place, rate, now);
            buckets.take(place, answer, now);
            (place.evicts, answer.remaining)
        };
        for key in 1..=8 {
            assert_eq!(take(key, 100 + key), (false, 2));
        }
        assert_eq!(take(1, 109), (false, 1), "it is known");
        assert_eq!(take(9, 109), (true, 2), "2 goes");
        assert_eq!(take(2, 113), (false, 2), "3 was full by now");
    }

    #[test]
    fn a_time_of_another_rate_does_not_lock_out() {
        let mut buckets = Buckets::new(&mut StateRegion::heap(), ROW).unwrap();
        let place = buckets.place(1, 0);
        buckets.take(place, Answer { allowed: true, remaining: 0, wait: u64::MAX }, 0);
        let rate = Rate { interval: 10, burst: 3 };
        let place = buckets.place(1, 0);
        assert_eq!(buckets.ask(place, rate, 0), Answer { allowed: false, remaining: 0, wait: 10 });
    }
}
