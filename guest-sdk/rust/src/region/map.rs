//! A hash map of fixed capacity in the state region.
//!
//! Slots lie in buckets of 16. A key may be in one of two buckets, which two halves of its hash
//! name ("balanced allocations", Azar et al., 1999): a probe looks at 32 slots at most whatever an
//! attacker sends, and removing leaves nothing behind. Per slot there is a tag of one byte, 0 for a
//! free slot and else seven bits of the hash (the idea of Swiss tables), compared 16 at a time: a
//! hit reads one line of tags and, but for one time in ten at most, one entry, which lies in one
//! line.
//!
//! An entry goes to its first bucket unless that has filled up to twelve, then to the emptier one.
//! There are 5 slots for 4 entries of capacity; see the tests for how seldom that is not enough.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{HEADER, LINE, Shape, StateRegion};
use crate::memory::Chunk;

/// Slots in a bucket.
const SLOTS: usize = 16;
/// The first bucket is taken as long as so many of its slots are free.
const SPARE: u32 = 5;
/// In a probe: no slot is expected.
const NOWHERE: u32 = u32::MAX;

/// A hash map from `K` to `V`.
///
/// Hashes are the caller's, so that one is computed per packet however many maps are asked; take
/// them from [`flow::Hasher`](crate::flow::Hasher), whose seed senders do not know.
///
/// ```
/// use weir_sdk::flow::Hasher;
/// use weir_sdk::region::StateRegion;
///
/// let mut region = StateRegion::heap();
/// let hasher = Hasher::new(7);
/// let mut seen = region.map::<u64, u64>("seen", 1000)?;
/// let key = 42_u64;
/// let hash = hasher.hash(&key);
/// *seen.insert(hash, key, 0)? += 1;
/// assert_eq!(seen.find(hash, &key), Some(&1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StateMap<K, V> {
    header: NonNull<Header>,
    tags: NonNull<Tags>,
    entries: NonNull<u8>,
    buckets: u32,
    capacity: usize,
    _memory: Chunk,
    _entries: PhantomData<(K, V)>,
}

#[repr(C)]
struct Header {
    shape: Shape,
    /// Entries in the map; only as right as whoever wrote the region.
    len: u64,
}

#[repr(C)]
struct Entry<K, V> {
    key: K,
    value: V,
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Tags([u8; SLOTS]);

/// The map has no free slot for this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map is full")
    }
}

impl std::error::Error for Full {}

/// A hash, and the slot where [`StateMap::look_ahead`] expects its key. A hash alone will do
/// wherever a probe is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    hash: u64,
    slot: u32,
}

impl Probe {
    /// The hash.
    #[must_use]
    #[inline]
    pub fn hash(self) -> u64 {
        self.hash
    }
}

impl From<u64> for Probe {
    #[inline]
    fn from(hash: u64) -> Self {
        Self { hash, slot: NOWHERE }
    }
}

impl<K, V> StateMap<K, V>
where
    K: FromBytes + IntoBytes + Immutable + Eq,
    V: FromBytes + IntoBytes + Immutable,
{
    /// Bytes from one entry to the next: small entries are padded, so that none lies in two cache
    /// lines.
    const STRIDE: usize = match size_of::<Entry<K, V>>() {
        small @ 0..=LINE => small.next_power_of_two(),
        large => large,
    };

    pub(super) fn open(
        region: &mut StateRegion,
        name: &str,
        capacity: usize,
    ) -> Result<Self, String> {
        const { assert!(align_of::<Entry<K, V>>() <= LINE, "at most a cache line's alignment") };
        // One bucket more than that makes small maps as safe as large ones.
        let buckets = capacity.saturating_add(capacity / 4).div_ceil(SLOTS) + 1;
        let buckets = u32::try_from(buckets).ok().filter(|n| *n < 1 << 27).ok_or_else(|| {
            format!("state `{name}`: {capacity} entries are more than a map can have")
        })?;
        let tags = (buckets as usize * SLOTS).next_multiple_of(LINE);
        let entries = Self::STRIDE.checked_mul(buckets as usize * SLOTS);
        let shape = Shape::new(b"weirmap2", name, capacity, [size_of::<K>(), size_of::<V>()]);
        let memory =
            region.carve(name, shape, entries.and_then(|bytes| bytes.checked_add(tags)))?;
        // SAFETY: the chunk has room for the header, then the tags, then the entries.
        let (first, after) = unsafe {
            let tags_at = memory.start().add(HEADER);
            (tags_at, tags_at.add(tags))
        };
        Ok(Self {
            header: memory.start().cast(),
            tags: first.cast(),
            entries: after,
            buckets,
            capacity,
            _memory: memory,
            _entries: PhantomData,
        })
    }

    /// The value of a key.
    #[must_use]
    #[inline(always)]
    pub fn find(&self, at: impl Into<Probe>, key: &K) -> Option<&V> {
        let slot = self.locate(at.into(), key)?;
        // SAFETY: `locate` gives slots of the map.
        Some(unsafe { &self.entry(slot).as_ref().value })
    }

    /// The value of a key, to be changed.
    #[must_use]
    #[inline(always)]
    pub fn find_mut(&mut self, at: impl Into<Probe>, key: &K) -> Option<&mut V> {
        let slot = self.locate(at.into(), key)?;
        // SAFETY: `locate` gives slots of the map; `self` is borrowed mutably.
        Some(unsafe { &mut self.entry(slot).as_mut().value })
    }

    /// The slot of a key, for [`StateMap::at`]; it stays valid until the key is removed.
    #[must_use]
    #[inline]
    pub fn slot(&self, at: impl Into<Probe>, key: &K) -> Option<usize> {
        self.locate(at.into(), key)
    }

    /// Has the processor fetch what finding these probes' keys will read, and notes where they most
    /// likely lie. Do it for all packets of a burst before the first `find`: in these short loops
    /// dozens of fetches are under way at once, while code that decides about a packet in between
    /// has a few. (Wasm has no prefetch instruction.)
    #[inline]
    pub fn look_ahead(&self, probes: &mut [Probe]) {
        for probe in &mut *probes {
            let bucket = self.first(probe.hash);
            // SAFETY: `first` gives one of the map's buckets.
            unsafe { self.tags.add(bucket).cast::<u8>().read_volatile() };
            probe.slot = (bucket * SLOTS) as u32;
        }
        // Without branches, which would be wrong about every key that is not where most are.
        for probe in probes {
            let first = probe.slot as usize;
            let found = matches(self.group(first / SLOTS), tag(probe.hash));
            let slot = first + found.trailing_zeros() as usize % SLOTS;
            // SAFETY: below the number of slots, since `first` is the first of one of the map's
            // buckets.
            unsafe { self.entry(slot).cast::<u8>().read_volatile() };
            probe.slot = slot as u32;
        }
    }

    /// Puts a value there, in place of an earlier one of the same key.
    ///
    /// # Errors
    /// [`Full`]: both of the key's buckets are. [`StateMap::retain_near`] or [`StateMap::evict_near`] may make room.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: K, value: V) -> Result<&mut V, Full> {
        let slot = match self.locate(hash.into(), &key) {
            Some(slot) => slot,
            None => self.claim(hash)?,
        };
        let mut entry = self.entry(slot);
        // SAFETY: the slot is one of the map's; `self` is borrowed mutably.
        unsafe {
            // Field by field: padding between them stays initialised.
            (&raw mut (*entry.as_ptr()).key).write(key);
            (&raw mut (*entry.as_ptr()).value).write(value);
            Ok(&mut entry.as_mut().value)
        }
    }

    /// Takes a key and its value out.
    #[inline]
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let slot = self.locate(hash.into(), key)?;
        self.free(slot);
        // SAFETY: the slot is one of the map's; any bytes are a value.
        Some(unsafe { self.entry(slot).read() }.value)
    }

    /// Number of slots; at least the capacity.
    #[must_use]
    #[inline]
    pub fn slots(&self) -> usize {
        self.buckets as usize * SLOTS
    }

    /// What a slot holds; `None` when it is free or there is none such.
    #[must_use]
    #[inline]
    pub fn at(&self, slot: usize) -> Option<(&K, &V)> {
        self.occupied(slot).then(|| {
            // SAFETY: `occupied` checked the slot.
            let entry = unsafe { self.entry(slot).as_ref() };
            (&entry.key, &entry.value)
        })
    }

    /// What a slot holds, the value to be changed.
    #[must_use]
    #[inline]
    pub fn at_mut(&mut self, slot: usize) -> Option<(&K, &mut V)> {
        self.occupied(slot).then(|| {
            // SAFETY: `occupied` checked the slot; `self` is borrowed mutably.
            let entry = unsafe { self.entry(slot).as_mut() };
            (&entry.key, &mut entry.value)
        })
    }

    /// Frees a slot; false when it was free.
    pub fn remove_at(&mut self, slot: usize) -> bool {
        let occupied = self.occupied(slot);
        if occupied {
            self.free(slot);
        }
        occupied
    }

    /// Sweeps: frees those of `count` slots from `from` on that `keep` says no to, and gives the
    /// slot to go on with, 0 after the last. A tick that sweeps a part keeps deadlines.
    pub fn sweep(
        &mut self,
        from: usize,
        count: usize,
        mut keep: impl FnMut(&K, &mut V) -> bool,
    ) -> usize {
        let end = from.saturating_add(count).min(self.slots());
        for slot in from..end {
            if let Some((key, value)) = self.at_mut(slot)
                && !keep(key, value)
            {
                self.free(slot);
            }
        }
        if end == self.slots() { 0 } else { end }
    }

    /// Frees those slots, of the 32 that this hash's key could lie in, that `keep` says no to, and
    /// tells how many; for when `insert` says [`Full`].
    pub fn retain_near(&mut self, hash: u64, mut keep: impl FnMut(&K, &mut V) -> bool) -> usize {
        let before = self.len();
        for bucket in [self.first(hash), self.second(hash)] {
            self.sweep(bucket * SLOTS, SLOTS, &mut keep);
        }
        before.saturating_sub(self.len())
    }

    /// Frees that one slot, of the 32 that this hash's key could lie in, whose entry has the lowest
    /// `rank`, and tells whether there was one; an entry without a rank stays. For when `insert`
    /// says [`Full`], and what is oldest may go.
    pub fn evict_near<R: Ord>(
        &mut self,
        hash: u64,
        mut rank: impl FnMut(&K, &V) -> Option<R>,
    ) -> bool {
        let buckets = [self.first(hash), self.second(hash)].into_iter();
        let slots = buckets.flat_map(|bucket| bucket * SLOTS..(bucket + 1) * SLOTS);
        let ranked = slots.filter_map(|slot| {
            let (key, value) = self.at(slot)?;
            Some((rank(key, value)?, slot))
        });
        ranked.min().is_some_and(|(_, slot)| self.remove_at(slot))
    }

    /// Frees all slots.
    pub fn clear(&mut self) {
        // SAFETY: the tags of all buckets lie there; `self` is borrowed mutably.
        unsafe {
            self.tags.write_bytes(0, self.buckets as usize);
            (*self.header.as_ptr()).len = 0;
        }
    }

    /// Entries in it.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: the header lies there.
        let len = unsafe { (*self.header.as_ptr()).len };
        usize::try_from(len).map_or(self.slots(), |len| len.min(self.slots()))
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that it was made for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline(always)]
    fn locate(&self, Probe { hash, slot }: Probe, key: &K) -> Option<usize> {
        let slot = slot as usize;
        if slot < self.slots() {
            // SAFETY: both are of a slot of the map.
            let (taken_by, there) = unsafe {
                (self.tags.cast::<u8>().add(slot).read(), &self.entry(slot).as_ref().key)
            };
            if taken_by == tag(hash) && there == key {
                return Some(slot);
            }
        }
        self.search(hash, key)
    }

    /// Looks in both buckets. Apart from [`Self::locate`], so that what finds a key where it was
    /// expected stays small.
    #[cold]
    #[inline(never)]
    fn search(&self, hash: u64, key: &K) -> Option<usize> {
        self.locate_in(self.first(hash), hash, key)
            .or_else(|| self.locate_in(self.second(hash), hash, key))
    }

    #[inline]
    fn locate_in(&self, bucket: usize, hash: u64, key: &K) -> Option<usize> {
        let mut found = matches(self.group(bucket), tag(hash));
        while found != 0 {
            let slot = bucket * SLOTS + found.trailing_zeros() as usize;
            // SAFETY: `bucket` is one of the map's, and `found` has 16 bits.
            if unsafe { &self.entry(slot).as_ref().key } == key {
                return Some(slot);
            }
            found &= found - 1;
        }
        None
    }

    /// Takes a free slot for a key that is not in the map; its entry must be written.
    fn claim(&mut self, hash: u64) -> Result<usize, Full> {
        let mut bucket = self.first(hash);
        let mut free = matches(self.group(bucket), 0);
        if free.count_ones() < SPARE {
            let second = self.second(hash);
            let free_there = matches(self.group(second), 0);
            if free_there.count_ones() > free.count_ones() {
                (bucket, free) = (second, free_there);
            }
        }
        if free == 0 {
            return Err(Full);
        }
        let slot = bucket * SLOTS + free.trailing_zeros() as usize;
        // SAFETY: the slot is one of the map's; `self` is borrowed mutably.
        unsafe {
            self.tags.cast::<u8>().add(slot).write(tag(hash));
            let len = &mut (*self.header.as_ptr()).len;
            *len = len.wrapping_add(1);
        }
        Ok(slot)
    }

    /// `slot` must be one of the map's.
    #[inline]
    fn free(&mut self, slot: usize) {
        debug_assert!(slot < self.slots());
        // SAFETY: all callers have the slot from `locate` or checked it.
        unsafe {
            self.tags.cast::<u8>().add(slot).write(0);
            let len = &mut (*self.header.as_ptr()).len;
            *len = len.saturating_sub(1);
        }
    }

    #[inline]
    fn occupied(&self, slot: usize) -> bool {
        // SAFETY: checked just before.
        slot < self.slots() && unsafe { self.tags.cast::<u8>().add(slot).read() } != 0
    }

    /// Buckets by multiplication (Lemire, "Fast random integer generation in an interval", 2019):
    /// any number of them, without a division.
    #[inline]
    fn first(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * u64::from(self.buckets)) >> 32) as usize
    }

    /// Another bucket than the first, unless there is only one.
    #[inline]
    fn second(&self, hash: u64) -> usize {
        let buckets = self.buckets as usize;
        let further = 1 + (((hash >> 32) * (u64::from(self.buckets) - 1)) >> 32) as usize;
        let bucket = self.first(hash) + further;
        if bucket < buckets { bucket } else { bucket - buckets }
    }

    /// `bucket` must be one of the map's.
    #[inline]
    fn group(&self, bucket: usize) -> Tags {
        debug_assert!(bucket < self.buckets as usize);
        // SAFETY: all callers have it from `first` or `second`, which are below `buckets`.
        unsafe { self.tags.add(bucket).read() }
    }

    /// `slot` must be one of the map's, for the pointer to be of use.
    #[inline]
    fn entry(&self, slot: usize) -> NonNull<Entry<K, V>> {
        debug_assert!(slot < self.slots());
        // SAFETY: all callers have the slot from a bucket of the map, or checked it.
        unsafe { self.entries.add(slot * Self::STRIDE).cast() }
    }
}

impl<K, V> fmt::Debug for StateMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMap").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Never 0, which marks free slots. The low bits: `first` and `second` depend on the high ones of
/// each half.
#[inline]
fn tag(hash: u64) -> u8 {
    hash as u8 | 0x80
}

/// Bit `i` is set when tag `i` equals `wanted`.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn matches(tags: Tags, wanted: u8) -> u32 {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_splat, v128};
    // SAFETY: both are 16 bytes without padding, and any bits are a vector.
    let tags = unsafe { std::mem::transmute::<Tags, v128>(tags) };
    u32::from(u8x16_bitmask(u8x16_eq(tags, u8x16_splat(wanted))))
}

/// Bit `i` is set when tag `i` equals `wanted`.
#[cfg(target_arch = "x86_64")]
#[inline]
fn matches(tags: Tags, wanted: u8) -> u32 {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: both are 16 bytes without padding, and any bits are a vector; SSE2 is part of x86-64.
    unsafe {
        let tags = std::mem::transmute::<Tags, __m128i>(tags);
        let equal = _mm_cmpeq_epi8(tags, _mm_set1_epi8(wanted.cast_signed()));
        _mm_movemask_epi8(equal).cast_unsigned()
    }
}

/// Bit `i` is set when tag `i` equals `wanted`.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
#[inline]
fn matches(tags: Tags, wanted: u8) -> u32 {
    tags.0.iter().rev().fold(0, |bits, &tag| bits << 1 | u32::from(tag == wanted))
}
