//! The four rings of an AF_XDP socket: single producer, single consumer, in memory shared with the
//! kernel.
//!
//! A ring is a power of two of entries and two counters that only grow (modulo 2^32). The producer
//! owns the entries from `producer` up to `consumer + size`, the consumer those from `consumer` up
//! to `producer`; each writes its own counter and reads the other's. What orders entries and
//! counters (`Documentation/networking/af_xdp.rst`, and `net/xdp/xsk_queue.h` for the kernel's
//! half):
//!
//! | we | then | the kernel |
//! | --- | --- | --- |
//! | write entries, store `producer` with release | ── | loads `producer` with acquire, reads entries |
//! | load `consumer` with acquire, reuse entries | ── | reads entries, stores `consumer` with release |
//! | load `producer` with acquire, read entries | ── | writes entries, stores `producer` with release |
//! | read entries, store `consumer` with release | ── | loads `consumer` with acquire, reuses entries |
//!
//! Our own counters are kept beside the ring: the kernel is trusted, but nothing here depends on a
//! shared word that is ours.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{self, MapFlags, ProtFlags};
use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};

/// What lies in rings: plain data that both sides copy.
///
/// # Safety
/// Every bit pattern of its size must be a valid value.
pub(crate) unsafe trait Entry: Copy {}

// SAFETY: an integer; an address in the umem.
unsafe impl Entry for u64 {}
// SAFETY: `repr(C)` of integers; the options are a bit set that keeps unknown bits.
unsafe impl Entry for XdpDesc {}

/// A mapping of a ring.
#[derive(Debug)]
struct Area {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value, not to a thread.
unsafe impl Send for Area {}
// SAFETY: `&Area` gives no access to the bytes; rings do, and say how.
unsafe impl Sync for Area {}

impl Area {
    fn of_socket<T>(
        socket: BorrowedFd<'_>,
        page: u64,
        at: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Arc<Self>> {
        // Entries come last.
        let entries = usize::try_from(at.desc).map_err(|_| io::ErrorKind::InvalidData)?;
        let bytes = entries + size as usize * size_of::<T>();
        let (access, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mm::mmap(ptr::null_mut(), bytes, access, flags, socket, page) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Arc::new(Self { start, bytes }))
    }

    /// The address of `count` values at `offset`, in bounds and aligned.
    fn locate<T>(&self, offset: u64, count: usize) -> io::Result<NonNull<T>> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidData)?;
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > self.bytes) || !offset.is_multiple_of(align_of::<T>()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: within the mapping, as was just checked.
        Ok(unsafe { self.start.add(offset) }.cast())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that was made; rings, which point into it, keep it alive.
        let unmapped = unsafe { mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// What producer and consumer have in common.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the pointers valid.
    _area: Arc<Area>,
}

// SAFETY: the pointers are into the mapping that the ring keeps alive, which belongs to no thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn new(area: Arc<Area>, at: &XdpRingOffset, size: u32) -> io::Result<Self> {
        if !size.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            producer: area.locate(at.producer, 1)?,
            consumer: area.locate(at.consumer, 1)?,
            flags: at.flags.map(|at| area.locate(at, 1)).transpose()?,
            entries: area.locate(at.desc, size as usize)?,
            size,
            _area: area,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: located in the mapping, which lives as long as self; shared words are only
        // accessed as atomics.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    /// The entry that this count stands for. The mask keeps it in bounds.
    #[inline]
    fn entry(&self, count: u32) -> NonNull<T> {
        // SAFETY: `size` entries were located, and the masked count is less.
        unsafe { self.entries.add((count & (self.size - 1)) as usize) }
    }
}

/// Our end of a ring that the kernel empties: fill, tx.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Entries written, published or not.
    written: u32,
    /// What the kernel had consumed when we last looked.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps a socket's ring, found by its page offset.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        page: u64,
        at: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Self> {
        Self::on(Area::of_socket::<T>(socket, page, at, size)?, at, size)
    }

    fn on(area: Arc<Area>, at: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::new(area, at, size)?;
        let (written, consumed) =
            (ring.producer().load(Ordering::Relaxed), ring.consumer().load(Ordering::Acquire));
        Ok(Self { ring, written, consumed })
    }

    /// Entries that can be written: exact when fewer than `wanted`, else at least `wanted`.
    #[inline]
    pub(crate) fn free(&mut self, wanted: u32) -> u32 {
        let free = self.ring.size - self.written.wrapping_sub(self.consumed);
        if free >= wanted {
            return free;
        }
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.ring.size - self.written.wrapping_sub(self.consumed)
    }

    /// Writes an entry, which the kernel sees after [`Self::publish`]. False when the ring is full.
    #[inline]
    #[must_use]
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        // SAFETY: in bounds; the entry is ours until `producer` passes it, because `free` is not 0.
        unsafe { self.ring.entry(self.written).write(value) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Hands what was written to the kernel.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// Published entries that the kernel has not consumed yet.
    #[inline]
    pub(crate) fn waiting(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.written.wrapping_sub(self.consumed)
    }

    /// The same as it was when the kernel's end was last looked at.
    #[inline]
    pub(crate) fn left(&self) -> u32 {
        self.written.wrapping_sub(self.consumed)
    }

    /// Whether the kernel sleeps and wants a system call to go on. The fence lets it see what was
    /// published before its flag is read; a kernel that goes to sleep at the same moment is found
    /// by asking [`Self::waiting`] later.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        self.ring.flags.is_none_or(|flags| {
            // SAFETY: located in the mapping, which lives as long as self; only accessed as an
            // atomic.
            let flags = unsafe { flags.as_ref() }.load(Ordering::Relaxed);
            flags & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
        })
    }
}

/// Our end of a ring that the kernel fills: rx, completion.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// Entries read, released or not.
    read: u32,
    /// What the kernel had produced when we last looked.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps a socket's ring, found by its page offset.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        page: u64,
        at: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Self> {
        Self::on(Area::of_socket::<T>(socket, page, at, size)?, at, size)
    }

    fn on(area: Arc<Area>, at: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::new(area, at, size)?;
        let (read, produced) =
            (ring.consumer().load(Ordering::Relaxed), ring.producer().load(Ordering::Acquire));
        Ok(Self { ring, read, produced })
    }

    /// Entries that can be read: exact when fewer than `wanted`, else at least `wanted`.
    #[inline]
    pub(crate) fn available(&mut self, wanted: u32) -> u32 {
        let available = self.produced.wrapping_sub(self.read);
        if available >= wanted {
            return available;
        }
        self.produced = self.ring.producer().load(Ordering::Acquire);
        self.produced.wrapping_sub(self.read)
    }

    /// Reads an entry, whose place is the kernel's again after [`Self::release`].
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.available(1) == 0 {
            return None;
        }
        // SAFETY: in bounds; written by the kernel before it stored the `producer` that we
        // acquired, and ours until `consumer` passes it.
        let value = unsafe { self.ring.entry(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(value)
    }

    /// Gives the places that were read back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.read, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const AT: XdpRingOffset =
        XdpRingOffset { producer: 0, consumer: 64, desc: 192, flags: Some(128) };

    /// Both ends of one ring, whose counters start close before they wrap.
    fn ends(size: u32) -> (Producer<u64>, Consumer<u64>) {
        let bytes = 4096 + size as usize * 8;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), bytes, access, flags) }.unwrap();
        let area = Arc::new(Area { start: NonNull::new(start.cast()).unwrap(), bytes });
        let start = u32::MAX - 2;
        let ring: Ring<u64> = Ring::new(Arc::clone(&area), &AT, size).unwrap();
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        let producer = Producer::on(Arc::clone(&area), &AT, size).unwrap();
        (producer, Consumer::on(area, &AT, size).unwrap())
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push,
        Publish,
        Pop,
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Push),
            2 => Just(Step::Publish),
            4 => Just(Step::Pop),
            2 => Just(Step::Release)
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        /// Against a queue with the same rules: what is published comes out once, in order; nothing
        /// else does; places are reused only after they were released.
        #[test]
        fn a_ring_is_a_bounded_queue(size in prop_oneof![Just(1u32), Just(4), Just(16)], steps in steps()) {
            let (mut producer, mut consumer) = ends(size);
            let (mut written, mut published) = (VecDeque::new(), VecDeque::new());
            let (mut next, mut held) = (0u64, 0u32);
            for step in steps {
                match step {
                    Step::Push => {
                        let occupied = (written.len() + published.len()) as u32 + held;
                        prop_assert_eq!(producer.free(size), size - occupied);
                        prop_assert_eq!(producer.push(next), occupied < size);
                        if occupied < size {
                            written.push_back(next);
                            next += 1;
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        published.append(&mut written);
                    }
                    Step::Pop => {
                        prop_assert_eq!(consumer.available(size), published.len() as u32);
                        let expected = published.pop_front();
                        held += u32::from(expected.is_some());
                        prop_assert_eq!(consumer.pop(), expected);
                    }
                    Step::Release => {
                        consumer.release();
                        held = 0;
                    }
                }
            }
        }
    }

    /// Two threads, a ring much smaller than what passes it: nothing is lost, doubled or torn.
    #[test]
    fn two_threads_see_every_entry_once_in_order() {
        const PASSED: u64 = 30_000;
        let (mut producer, mut consumer) = ends(8);
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < PASSED {
                while next < PASSED && producer.push(next << 32 | next) {
                    next += 1;
                }
                producer.publish();
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < PASSED {
            while let Some(value) = consumer.pop() {
                assert_eq!(value, expected << 32 | expected);
                expected += 1;
            }
            consumer.release();
            std::thread::yield_now();
        }
        writer.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn offsets_outside_of_the_mapping_are_refused() {
        let (producer, _) = ends(8);
        let area = Arc::clone(&producer.ring._area);
        let outside = XdpRingOffset { desc: 1 << 20, ..AT };
        assert!(Producer::<u64>::on(Arc::clone(&area), &outside, 8).is_err());
        let misaligned = XdpRingOffset { producer: 2, ..AT };
        assert!(Consumer::<u64>::on(Arc::clone(&area), &misaligned, 8).is_err());
        assert!(Consumer::<u64>::on(area, &AT, 6).is_err());
    }

    #[test]
    fn the_kernel_says_when_it_sleeps() {
        let (producer, _) = ends(8);
        assert!(!producer.needs_wakeup());
        let flags = producer.ring.flags.unwrap();
        // SAFETY: in the mapping that `producer` keeps.
        unsafe { flags.as_ref() }.store(1, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
