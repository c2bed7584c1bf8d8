//! The flow cache: what was found out or decided about flows, by their exact [`Key`]. All packets
//! of a flow, in the sense of [`Key::plain`], have one hash.
//!
//! Four places for each hash, one cache line each; the first of them is looked at first, so that a
//! burst of known flows costs a line a packet. [`FlowCache::look_ahead`] reads the lines of a whole
//! burst before they are needed, so that their misses are under way together. What does not fit
//! pushes something else out, which only costs that flow another look at the rules. Raising the
//! epoch makes everything void at once.

use crate::Key;
use crate::hash::{SECRET, fold};

/// What the hash is of: all but what a flow's packets may differ in.
const HASHED: [u64; 7] = Key {
    source: [0xff; 16],
    destination: [0xff; 16],
    source_port: 0xffff,
    destination_port: 0xffff,
    protocol: 0xff,
    dscp: 0,
    vlan: 0xffff,
    ethertype: 0xffff,
    port: 0xffff,
    macs: [[0; 6]; 2],
}
.words();

/// Places for one hash.
const WAYS: usize = 4;

/// Where a flow's packets go, in the words of whoever has the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRoute {
    /// Where to.
    pub target: u16,
    /// Functions, as bits, that do not see them.
    pub skip: u64,
}

/// A flow, in one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
struct Entry {
    key: Key,
    /// 0: the place is free.
    epoch: u32,
    target: u16,
    skips: u16,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// See the module.
pub struct FlowCache {
    entries: Vec<Entry>,
    /// [`FlowRoute::skip`] of entries that have one, by place: most have none, and then it is not
    /// read.
    skips: Vec<u64>,
    seed: u64,
    epoch: u32,
    /// Which place is pushed out next.
    hand: usize,
}

impl FlowCache {
    /// Room for at least so many flows, 64 bytes each and 8 more. `seed` must be unknown to who
    /// sends packets.
    #[must_use]
    pub fn new(flows: usize, seed: u64) -> Self {
        let places = flows.next_power_of_two().max(WAYS);
        Self {
            entries: vec![Entry::default(); places],
            skips: vec![0; places],
            seed,
            epoch: 1,
            hand: 0,
        }
    }

    /// Another one of this size, with the same hashes and nothing in it.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.entries.len(), self.seed)
    }

    /// A flow's hash, for the other methods.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &Key) -> u64 {
        let [a, b, c, d, e, f, g] = key.words();
        // As in `Key::plain`.
        let [.., hashed_f, hashed_g] =
            if key.is_ipv4() || key.is_ipv6() { HASHED } else { [u64::MAX; 7] };
        let (e, f, g) = (e & HASHED[4], f & hashed_f, g & hashed_g);
        let seed = self.seed;
        // Independent of each other, so that the multiplications overlap.
        let source = fold(a ^ SECRET[0], b ^ seed ^ SECRET[1]);
        let destination = fold(c ^ SECRET[2], d ^ seed ^ SECRET[3]);
        let ports = fold(e ^ seed ^ SECRET[1], f ^ SECRET[2]);
        let rest = fold(g ^ seed ^ SECRET[3], e ^ SECRET[0]);
        fold(source ^ ports.rotate_left(32), destination ^ rest.rotate_left(17) ^ seed)
    }

    /// Begins to read the entries of these flows.
    #[inline]
    pub fn look_ahead(&self, hashes: &[u64]) {
        let mut sum = 0u32;
        for hash in hashes {
            sum = sum.wrapping_add(self.entries[self.first(*hash)].epoch);
        }
        std::hint::black_box(sum);
    }

    /// What is known about a flow.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &Key, hash: u64) -> Option<FlowRoute> {
        let place = self.place(key, hash)?;
        let entry = &self.entries[place];
        let skip = if entry.skips == 0 { 0 } else { self.skips[place] };
        Some(FlowRoute { target: entry.target, skip })
    }

    /// Remembers a flow, in place of what was known about it.
    pub fn insert(&mut self, key: &Key, hash: u64, way: FlowRoute) {
        let place = self.place(key, hash).unwrap_or_else(|| self.free(hash));
        self.skips[place] = way.skip;
        self.entries[place] = Entry {
            key: *key,
            epoch: self.epoch,
            target: way.target,
            skips: u16::from(way.skip != 0),
        };
    }

    /// Forgets what is known about any packets of this flow, which is as [`Key::plain`] has it.
    pub fn forget(&mut self, flow: &Key, hash: u64) {
        let first = self.first(hash);
        for place in (0..WAYS).map(|way| first ^ way) {
            if self.entries[place].key.plain() == *flow {
                self.entries[place].epoch = 0;
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.entries.fill(Entry::default());
            self.epoch = 1;
        }
    }

    /// Flows that are remembered now; counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.epoch == self.epoch).count()
    }

    /// Whether no flow is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn first(&self, hash: u64) -> usize {
        // The upper half: a product's lower bits are the weaker ones.
        (hash >> 32) as usize & (self.entries.len() - 1)
    }

    #[inline]
    fn place(&self, key: &Key, hash: u64) -> Option<usize> {
        let first = self.first(hash);
        (0..WAYS).map(|way| first ^ way).find(|place| {
            let entry = &self.entries[*place];
            entry.epoch == self.epoch && entry.key == *key
        })
    }

    /// A place for another flow: a free one, else that of one that is known.
    fn free(&mut self, hash: u64) -> usize {
        let first = self.first(hash);
        let free =
            (0..WAYS).map(|way| first ^ way).find(|place| self.entries[*place].epoch != self.epoch);
        free.unwrap_or_else(|| {
            self.hand = self.hand.wrapping_add(1);
            first ^ (self.hand % WAYS)
        })
    }
}

impl std::fmt::Debug for FlowCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowCache").field("places", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> Key {
        let mut key = Key { source_port: n as u16, protocol: 17, ..Key::default() };
        key.source[12..].copy_from_slice(&n.to_be_bytes());
        key
    }

    fn way(n: u32) -> FlowRoute {
        FlowRoute { target: n as u16, skip: u64::from(n % 3) }
    }

    fn remember(cache: &mut FlowCache, n: u32) {
        let hash = cache.hash(&key(n));
        cache.insert(&key(n), hash, way(n));
    }

    fn look(cache: &FlowCache, n: u32) -> Option<FlowRoute> {
        cache.get(&key(n), cache.hash(&key(n)))
    }

    #[test]
    fn what_fits_is_remembered_until_the_cache_is_cleared() {
        let mut cache = FlowCache::new(1 << 16, 7);
        for n in 0..10_000 {
            assert_eq!(look(&cache, n), None);
            remember(&mut cache, n);
            assert_eq!(look(&cache, n), Some(way(n)));
        }
        let kept = (0..10_000).filter(|n| look(&cache, *n) == Some(way(*n))).count();
        assert!(kept > 9_990, "{kept} of 10,000 flows in 65,536 places");
        let hash = cache.hash(&key(3));
        cache.insert(&key(3), hash, FlowRoute { target: 9, skip: 0 });
        assert_eq!(look(&cache, 3), Some(FlowRoute { target: 9, skip: 0 }));
        cache.clear();
        assert!(cache.is_empty());
        assert_eq!(look(&cache, 3), None);
    }

    #[test]
    fn a_cache_that_is_too_small_forgets_but_never_lies() {
        let mut cache = FlowCache::new(256, 7);
        for n in 0..10_000 {
            remember(&mut cache, n);
            assert_eq!(look(&cache, n), Some(way(n)));
            let old = n / 2;
            assert!(look(&cache, old).is_none_or(|found| found == way(old)));
        }
        assert_eq!(cache.len(), 256);
    }

    #[test]
    fn epochs_that_wrap_around_bring_nothing_back() {
        let mut cache = FlowCache::new(16, 7);
        remember(&mut cache, 1);
        cache.epoch = u32::MAX;
        remember(&mut cache, 2);
        cache.clear();
        assert_eq!((look(&cache, 1), look(&cache, 2)), (None, None));
    }

    #[test]
    fn each_field_counts() {
        let cache = FlowCache::new(16, 7);
        let base = key(1);
        let hash = cache.hash(&base);
        let mut others = vec![base; 9];
        others[0].source[0] ^= 1;
        others[1].destination[15] ^= 1;
        others[2].source_port ^= 1;
        others[3].destination_port ^= 1;
        others[4].protocol ^= 1;
        others[5].vlan ^= 1;
        others[6].ethertype ^= 1;
        others[7].port ^= 1;
        others[8].macs[1][5] ^= 1;
        for other in others {
            assert_ne!(cache.hash(&other), hash, "{other:?}");
        }
    }

    #[test]
    fn packets_of_a_flow_are_told_apart_and_forgotten_together() {
        let mut cache = FlowCache::new(1 << 10, 7);
        for ethertype in [0x0800, 0x86dd, 0x88b5] {
            let flow = |dscp, mac| Key { ethertype, dscp, macs: [[mac; 6]; 2], ..key(1) };
            let packets = [flow(0, 1), flow(46, 1), flow(46, 2)];
            for (n, packet) in packets.iter().enumerate() {
                let hash = cache.hash(packet);
                cache.insert(packet, hash, way(n as u32));
            }
            let known = |cache: &FlowCache| packets.map(|p| cache.get(&p, cache.hash(&p)));
            assert_eq!(known(&cache), [0, 1, 2].map(|n| Some(way(n))));
            cache.forget(&packets[0].plain(), cache.hash(&packets[0]));
            // What is not IP is named by its hardware addresses.
            let left = (ethertype == 0x88b5).then(|| way(2));
            assert_eq!(known(&cache), [None, None, left]);
        }
    }

    proptest! {
        /// Whatever is done, an answer is what was remembered last.
        #[test]
        fn answers_are_true(steps in prop::collection::vec((0_u32..200, 0_u32..4), 0..400)) {
            let mut cache = FlowCache::new(64, 1);
            let mut model: HashMap<u32, FlowRoute> = HashMap::new();
            for (n, what) in steps {
                match what {
                    0 => { cache.clear(); model.clear(); }
                    1 | 2 => {
                        let new = way(n.wrapping_mul(what));
                        let hash = cache.hash(&key(n));
                        cache.insert(&key(n), hash, new);
                        model.insert(n, new);
                        prop_assert_eq!(look(&cache, n), Some(new));
                    }
                    _ => {
                        let found = look(&cache, n);
                        prop_assert!(found.is_none() || found == model.get(&n).copied());
                    }
                }
            }
        }
    }
}
