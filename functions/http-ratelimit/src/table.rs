//! Token buckets in a table of fixed size.
//!
//! Owns: the generic cell rate algorithm (GCRA, ITU-T I.371), and who makes room. Must not know: what is limited. Of a
//! bucket only the time is stored at which it will be full; one that is full already is as good as none, so entries
//! need not be removed. If a row has no place, the one that is full the soonest goes: its key gets a fresh bucket.

use weir_sdk::message::prelude::*;

/// Entries of a row, of two words: a key and a time. A row is two cache lines.
const ROW: usize = 8;
type Row = [[u64; 2]; ROW];

/// A rate: so many requests can come at once, and one more each `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds.
    pub(crate) interval: u64,
    pub(crate) burst: u64,
}

/// What a bucket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    /// Requests that could come at once after this.
    pub(crate) remaining: u64,
    /// Nanoseconds until one could come if it is not allowed, else until all could.
    pub(crate) wait: u64,
}

#[derive(Debug)]
pub(crate) struct Buckets {
    rows: StateArray<Row>,
}

/// Where a bucket lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    row: usize,
    entry: usize,
    key: u64,
    /// The bucket of another key, which was not full, goes for this one.
    pub(crate) evicts: bool,
}

impl Buckets {
    /// # Errors
    /// When the state region has no room for so many.
    pub(crate) fn new(region: &mut StateRegion, buckets: usize) -> Result<Self, String> {
        Ok(Self { rows: region.array("buckets", buckets.div_ceil(ROW).max(1))? })
    }

    /// The place of a key's bucket.
    pub(crate) fn place(&self, key: u64, now: u64) -> Place {
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
    pub(crate) fn ask(&self, place: Place, rate: Rate, now: u64) -> Answer {
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

    /// Takes one.
    pub(crate) fn take(&mut self, place: Place, answer: Answer, now: u64) {
        if answer.allowed {
            self.rows[place.row][place.entry] = [place.key, now.saturating_add(answer.wait)];
        }
    }
}
