//! The table of flows of one version of IP.

use std::fmt::Debug;

use weir_sdk::region::{StateArray, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What is known about a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) bytes: u64,
    pub(crate) packets: u32,
    /// Packets that may be another flow's, which had this entry before.
    pub(crate) error: u32,
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

/// See the module.
#[derive(Debug)]
pub(crate) struct Flows<K> {
    map: StateMap<K, Entry>,
    evicted: StateArray<u64>,
}

impl<K: FromBytes + IntoBytes + Immutable + Eq + Copy + Debug> Flows<K> {
    pub(crate) fn new(region: &mut StateRegion, name: &str, most: usize) -> Result<Self, String> {
        let evicted = region.array(&format!("{name}-evicted"), 1)?;
        Ok(Self { map: region.map(name, most)?, evicted })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted[0]
    }

    #[inline]
    pub(crate) fn touch(&self, hash: u64) {
        self.map.touch(hash);
    }

    #[inline]
    pub(crate) fn add(&mut self, hash: u64, key: K, packet: Tally) {
        match self.map.find_mut(hash, &key) {
            Some(entry) => count(entry, packet),
            None => self.open(hash, key, packet),
        }
    }

    fn open(&mut self, hash: u64, key: K, packet: Tally) {
        let mut entry = Entry { first: packet.now, ..Entry::default() };
        if self.map.insert(hash, key, entry).is_err() {
            // Space-Saving within the entries that this key could lie in.
            let mut least: Option<(u32, Entry)> = None;
            self.map.retain_near(hash, |_, entry| {
                if least.is_none_or(|(packets, _)| entry.packets < packets) {
                    least = Some((entry.packets, *entry));
                }
                true
            });
            let Some((packets, smallest)) = least else { return };
            let mut gone = false;
            self.map.retain_near(hash, |_, entry| {
                let keep = gone || *entry != smallest;
                gone |= !keep;
                keep
            });
            self.evicted[0] += 1;
            entry.packets = packets;
            entry.error = packets;
            if self.map.insert(hash, key, entry).is_err() {
                return;
            }
        }
        if let Some(entry) = self.map.find_mut(hash, &key) {
            count(entry, packet);
        }
    }

    /// The flows with the most bytes, with a line about each.
    pub(crate) fn top(&self, most: usize) -> Vec<(u64, String)> {
        let mut best: Vec<(u64, usize)> = Vec::with_capacity(most + 1);
        for slot in 0..self.map.slots() {
            let Some((_, entry)) = self.map.at(slot) else { continue };
            if best.len() == most && best.last().is_none_or(|(least, _)| entry.bytes <= *least) {
                continue;
            }
            let at = best.partition_point(|(bytes, _)| *bytes >= entry.bytes);
            best.insert(at, (entry.bytes, slot));
            best.truncate(most);
        }
        let line = |(bytes, slot): (u64, usize)| {
            let (key, entry) = self.map.at(slot)?;
            let seconds = entry.last.saturating_sub(entry.first);
            let error = if entry.error > 0 {
                format!(" (at most {} of them another flow's)", entry.error)
            } else {
                String::new()
            };
            Some((
                bytes,
                format!("{key:?}: {bytes} bytes, {} packets{error} in {seconds} s", entry.packets),
            ))
        };
        best.into_iter().filter_map(line).collect()
    }
}

#[inline]
fn count(entry: &mut Entry, packet: Tally) {
    entry.bytes = entry.bytes.wrapping_add(packet.length.into());
    entry.packets = entry.packets.saturating_add(1);
    entry.last = packet.now;
    entry.flags |= u32::from(packet.flags);
}
