//! The table of flows of one version of IP, which also finds the heaviest.
//!
//! Owns: counting, and who makes place when there is none. As long as there is room each flow has
//! an entry. Then the entry with the fewest bytes, of those that the new flow's could lie in,
//! becomes the new flow's, and its bytes are kept as a possible error: Space-Saving (Metwally,
//! Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams",
//! ICDT 2005) within sets of 32, which overlap: what it promises holds for one set. Must not know:
//! packets.

use std::fmt::Debug;

use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What is known about a flow. With an IPv4 key it fills a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Entry {
    /// Bytes of frames, `error` included.
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    /// Bytes that may be another flow's, which had this entry before.
    pub(crate) error: u64,
    /// Bytes at the last report.
    reported: u64,
    /// Seconds of the clock.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// All TCP flags seen.
    pub(crate) flags: u32,
    spare: u32,
}

/// A packet to be counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) length: u32,
    pub(crate) flags: u8,
    pub(crate) now: u32,
}

/// Flows with the most bytes since the last report, as they were when their entries were looked at.
#[derive(Debug)]
pub(crate) struct Heaviest<K> {
    most: usize,
    flows: Vec<(u64, K, Entry)>,
}

impl<K: Debug> Heaviest<K> {
    /// So many at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, flows: Vec::with_capacity(most + 1) }
    }

    fn consider(&mut self, bytes: u64, flow: impl FnOnce() -> (K, Entry)) {
        let heavy = self.flows.len() < self.most
            || self.flows.last().is_some_and(|(least, ..)| bytes > *least);
        if bytes > 0 && heavy {
            let (key, entry) = flow();
            let place = self.flows.partition_point(|(other, ..)| *other >= bytes);
            self.flows.insert(place, (bytes, key, entry));
            self.flows.truncate(self.most);
        }
    }

    /// Each flow's bytes, and a line about it; none is left.
    pub(crate) fn take_lines(&mut self) -> impl Iterator<Item = (u64, String)> {
        // Both directions are one entry, whose ends are in the order of their addresses.
        let line = |(bytes, key, entry)| {
            let ends = format!("{key:?}").replacen("->", "<->", 1);
            (bytes, format!("{ends}: {bytes} bytes; {entry}"))
        };
        self.flows.drain(..).map(line)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Flows<K> {
    map: StateMap<K, Entry>,
    /// Flows whose entries others got, flows that ended, and where to sweep.
    totals: StateArray<u64>,
    idle: u32,
}

const EVICTED: usize = 0;
const EXPIRED: usize = 1;
const CURSOR: usize = 2;

/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Slots looked at for a report in one go: some 60 microseconds if all are taken.
const REPORT: usize = 4096;

impl<K: FromBytes + IntoBytes + Immutable + Eq + Copy + Debug> Flows<K> {
    /// Flows without a packet for `idle` seconds are forgotten.
    pub(crate) fn new(
        region: &mut StateRegion,
        name: &str,
        most: usize,
        idle: u32,
    ) -> Result<Self, String> {
        let totals = region.array(&format!("{name}-totals"), 3)?;
        Ok(Self { map: region.map(name, most)?, totals, idle })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.totals[EVICTED]
    }

    pub(crate) fn expired(&self) -> u64 {
        self.totals[EXPIRED]
    }

    #[inline]
    pub(crate) fn look_ahead(&self, probes: &mut [Probe]) {
        self.map.look_ahead(probes);
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, probe: Probe, key: &K, packet: Tally) {
        match self.map.find_mut(probe, key) {
            Some(entry) => count(entry, packet),
            None => self.open(probe.hash(), *key, packet),
        }
    }

    #[cold]
    fn open(&mut self, hash: u64, key: K, packet: Tally) {
        let mut entry = Entry { first: packet.now, ..Entry::default() };
        if self.map.insert(hash, key, entry).is_err() {
            let bytes = self.make_room(hash, packet.now);
            (entry.bytes, entry.error, entry.reported) = (bytes, bytes, bytes);
        }
        if let Ok(entry) = self.map.insert(hash, key, entry) {
            count(entry, packet);
        }
    }

    /// Frees entries of flows that have ended, or else the one with the fewest bytes, which it
    /// gives.
    fn make_room(&mut self, hash: u64, now: u32) -> u64 {
        let idle = self.idle;
        let ended = self.map.retain_near(hash, |_, entry| entry.lives(now, idle));
        self.totals[EXPIRED] += ended as u64;
        if ended > 0 {
            return 0;
        }
        let mut fewest = u64::MAX;
        self.map.retain_near(hash, |_, entry| {
            fewest = fewest.min(entry.bytes);
            true
        });
        let mut gone = false;
        self.map.retain_near(hash, |_, entry| {
            let keep = gone || entry.bytes != fewest;
            gone |= !keep;
            keep
        });
        self.totals[EVICTED] += 1;
        fewest
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&K, &Entry)> {
        (0..self.map.slots()).filter_map(|slot| self.map.at(slot))
    }

    /// Forgets flows that have ended, a few slots at a time.
    pub(crate) fn sweep(&mut self, now: u32) {
        let (before, idle) = (self.map.len(), self.idle);
        let from = usize::try_from(self.totals[CURSOR]).unwrap_or(0) % self.map.slots();
        let next = self.map.sweep(from, SWEEP, |_, entry| entry.lives(now, idle));
        self.totals[CURSOR] = next as u64;
        self.totals[EXPIRED] += before.saturating_sub(self.map.len()) as u64;
    }

    /// Looks for flows with the most bytes since the last report in the slots from this one on, and
    /// gives the next one, or none after the last.
    pub(crate) fn report(&mut self, from: usize, heaviest: &mut Heaviest<K>) -> Option<usize> {
        let end = (from + REPORT).min(self.map.slots());
        for slot in from..end {
            let Some((key, entry)) = self.map.at_mut(slot) else { continue };
            let bytes = entry.bytes.wrapping_sub(entry.reported);
            entry.reported = entry.bytes;
            heaviest.consider(bytes, || (*key, *entry));
        }
        (end < self.map.slots()).then_some(end)
    }
}

impl Entry {
    fn lives(&self, now: u32, idle: u32) -> bool {
        // Not in the future either, as a region from before the machine's start may say.
        now.abs_diff(self.last) < idle
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.last.saturating_sub(self.first);
        write!(f, "in all {} bytes, {} packets in {seconds} s", self.bytes, self.packets)?;
        if self.error > 0 {
            write!(f, ", of which {} bytes may be another flow's", self.error)?;
        }
        if self.flags > 0 {
            f.write_str(", TCP ")?;
            let names = "FSRPAUEC".chars().enumerate();
            names
                .filter(|(bit, _)| self.flags >> bit & 1 != 0)
                .try_for_each(|(_, c)| write!(f, "{c}"))?;
        }
        Ok(())
    }
}

#[inline]
fn count(entry: &mut Entry, packet: Tally) {
    entry.bytes = entry.bytes.wrapping_add(packet.length.into());
    entry.packets = entry.packets.wrapping_add(1);
    entry.last = packet.now;
    entry.flags |= u32::from(packet.flags);
}
