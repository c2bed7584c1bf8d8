//! A ring of descriptors in shared memory, for one writer and one reader: the floor that hops are
//! measured against.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use weir_hop::Descriptor;

const SLOTS: u64 = 1024;
/// Words of a ring: written, read, asleep on lines of their own, then the slots.
const WORDS: usize = 24 + 2 * SLOTS as usize;
/// Bytes of a memory with two rings.
pub(crate) const BYTES: usize = 2 * WORDS * 8;

pub(crate) struct Ring {
    words: &'static [AtomicU64],
}

impl Ring {
    /// Both rings of a memory.
    pub(crate) fn pair(memory: impl AsFd) -> [Self; 2] {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping of a memory of this size, which nobody shrinks and which stays;
        // atomics may be shared.
        let words = unsafe {
            let at = mmap(std::ptr::null_mut(), BYTES, prot, flags, memory, 0).expect("mmap");
            std::slice::from_raw_parts(at.cast::<AtomicU64>(), 2 * WORDS)
        };
        let (a, b) = words.split_at(WORDS);
        [Self { words: a }, Self { words: b }]
    }

    fn written(&self) -> &AtomicU64 {
        &self.words[0]
    }

    fn read(&self) -> &AtomicU64 {
        &self.words[8]
    }

    fn asleep(&self) -> &AtomicU64 {
        &self.words[16]
    }

    fn slot(&self, n: u64) -> &[AtomicU64] {
        let at = 24 + 2 * (n % SLOTS) as usize;
        &self.words[at..at + 2]
    }

    /// There has to be room. Whether the reader has to be woken.
    pub(crate) fn push(&self, descriptors: &[Descriptor]) -> bool {
        let mut at = self.written().load(Ordering::Relaxed);
        assert!(at - self.read().load(Ordering::Acquire) + descriptors.len() as u64 <= SLOTS);
        for descriptor in descriptors {
            let word = u128::from_ne_bytes(descriptor.to_bytes());
            let [low, high] = self.slot(at) else { unreachable!("a slot is two words") };
            low.store(word as u64, Ordering::Relaxed);
            high.store((word >> 64) as u64, Ordering::Relaxed);
            at += 1;
        }
        self.written().store(at, Ordering::Release);
        fence(Ordering::SeqCst);
        self.asleep().load(Ordering::Relaxed) == 1 && self.asleep().swap(0, Ordering::AcqRel) == 1
    }

    /// Whether there was anything.
    pub(crate) fn pop(&self, into: &mut Vec<Descriptor>) -> bool {
        let mut at = self.read().load(Ordering::Relaxed);
        let end = self.written().load(Ordering::Acquire);
        let there = at != end;
        while at != end {
            let [low, high] = self.slot(at) else { unreachable!("a slot is two words") };
            let (low, high) = (low.load(Ordering::Relaxed), high.load(Ordering::Relaxed));
            let word = u128::from(low) | u128::from(high) << 64;
            into.push(Descriptor::from_bytes(word.to_ne_bytes()));
            at += 1;
        }
        self.read().store(at, Ordering::Release);
        there
    }

    /// The same; if there was nothing, the writer rings next time.
    pub(crate) fn pop_or_sleep(&self, into: &mut Vec<Descriptor>) -> bool {
        self.asleep().store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let there = self.pop(into);
        // A bell that rings all the same is read the next time.
        if there {
            self.asleep().store(0, Ordering::Relaxed);
        }
        there
    }
}
