//! Packets that a function owns beyond a burst: held, or allocated.
//!
//! Owns: which packets of a burst are held, and whether the host let the function have them. Must
//! not know: how a burst lies in the window.
//!
//! The host decides about what is held when the burst is over, and drops what exceeds the
//! function's share: the last ones (`wit/window.md`, verdict 6). Their rooms are soon other
//! packets', which the function may get as well. So the host is asked before that, and before a
//! buffer is used.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::slice;

use weir_layout::{BURST_MAX, Descriptor};

use crate::Verdict;
use crate::host::{self, Refusal};
use crate::window::Window;

/// A burst and a place in it, in one word.
type Key = u64;

fn key(burst: u64, index: usize) -> Key {
    burst * BURST_MAX as u64 + index as u64
}

/// What an instance holds, as far as that is not settled.
#[derive(Debug)]
pub(crate) struct Holds {
    /// Bursts that are over.
    bursts: Cell<u64>,
    /// Something was held in the burst under way.
    holding: Cell<bool>,
    /// Something was held in a burst that is over, and the host has not been asked about it.
    asking: Cell<bool>,
    /// Bits of the packets that were held in the burst under way, and of those of them that still
    /// are to be.
    held: [Cell<u64>; BURST_MAX / 64],
    wanted: [Cell<u64>; BURST_MAX / 64],
    /// What was held in that burst, in order.
    asked: RefCell<Vec<(Key, Descriptor)>>,
    /// What the host did not let the function have, sorted; forgotten with its [`Buffer`].
    lost: RefCell<Vec<Key>>,
}

thread_local! {
    static HOLDS: Holds = const { Holds::new() };
}

impl Default for Holds {
    fn default() -> Self {
        Self::new()
    }
}

impl Holds {
    const fn new() -> Self {
        Self {
            bursts: Cell::new(0),
            holding: Cell::new(false),
            asking: Cell::new(false),
            held: [const { Cell::new(0) }; BURST_MAX / 64],
            wanted: [const { Cell::new(0) }; BURST_MAX / 64],
            asked: RefCell::new(Vec::new()),
            lost: RefCell::new(Vec::new()),
        }
    }

    /// Holds the packet at this place of the burst under way.
    fn hold(&self, index: usize) {
        let (word, bit) = (index / 64, 1 << (index % 64));
        let held = self.held[word].get();
        assert!(held & bit == 0, "packet {index} is held already");
        self.held[word].set(held | bit);
        self.wanted[word].set(self.wanted[word].get() | bit);
        self.holding.set(true);
    }

    /// The handle of a packet that was held in the burst under way is gone.
    fn forget(&self, index: usize) {
        let wanted = &self.wanted[index / 64];
        wanted.set(wanted.get() & !(1 << (index % 64)));
    }

    #[cold]
    fn finish(&self, burst: u64, mut end: impl FnMut(usize, Verdict) -> Descriptor) {
        self.settle();
        let mut asked = self.asked.borrow_mut();
        for (word, (held, wanted)) in self.held.iter().zip(&self.wanted).enumerate() {
            let (mut held, wanted) = (held.take(), wanted.take());
            while held != 0 {
                let bit = held & held.wrapping_neg();
                held &= held - 1;
                let index = word * 64 + bit.trailing_zeros() as usize;
                if wanted & bit == 0 {
                    end(index, Verdict::Drop(0));
                } else {
                    asked.push((key(burst, index), end(index, Verdict::Hold)));
                }
            }
        }
        self.asking.set(!asked.is_empty());
    }

    #[inline]
    fn settle(&self) {
        if self.asking.take() {
            self.ask();
        }
    }

    #[cold]
    fn ask(&self) {
        let mut asked = self.asked.borrow_mut();
        // The first ones are those that the function got. Most often that is all of them, and the
        // last one tells.
        let owned = asked.iter().rposition(|(_, descriptor)| host::owns(*descriptor));
        let first_lost = owned.map_or(0, |last| last + 1);
        self.lost.borrow_mut().extend(asked.drain(..).skip(first_lost).map(|(key, _)| key));
    }

    fn lost(&self, key: Key) -> Result<usize, usize> {
        self.lost.borrow().binary_search(&key)
    }
}

/// The burst is over: calls `end` with the places of packets that were held and their verdicts, to
/// learn where they lie.
#[inline]
pub(crate) fn finish(end: impl FnMut(usize, Verdict) -> Descriptor) {
    HOLDS.with(|holds| {
        let burst = holds.bursts.get();
        holds.bursts.set(burst + 1);
        if holds.holding.take() {
            holds.finish(burst, end);
        }
    });
}

/// Learns from the host what it let the function have of the last burst in which something was
/// held. Before a buffer is allocated.
pub(crate) fn settle() {
    HOLDS.with(Holds::settle);
}

/// Exchanges the current instance's with another's, between bursts. All count the same bursts.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn exchange(other: &Holds) {
    HOLDS.with(|holds| {
        holds.asking.swap(&other.asking);
        holds.asked.swap(&other.asked);
        holds.lost.swap(&other.lost);
    });
}

/// A packet that the function owns: held, or allocated. Dropping it frees it.
///
/// One that was held belongs to the function only when its burst is over: keep it until then. It
/// does not if the function had its share of the pool already ([`Buffer::is_owned`]).
pub struct Buffer {
    window: Window,
    descriptor: Descriptor,
    kept: Kept,
}

/// What the host thinks of a buffer.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// It is the function's.
    Owned,
    /// It was a packet of this burst, at this place, and is the function's when that is over,
    /// unless it is lost.
    Since { burst: u64, index: usize },
    /// It is not the function's any more.
    Released,
}

/// Where a buffer is on its way to the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// At this place in the burst that is still under way, in which it was held.
    InBurst(usize),
    Owned,
    /// The host did not let the function have it.
    Lost,
    Released,
}

impl Buffer {
    /// The buffer whose first byte lies at `offset`.
    ///
    /// # Safety
    /// This side must own it, and no other handle to it may exist.
    pub(crate) unsafe fn new(window: Window, offset: u32, length: u32) -> Self {
        Self { window, descriptor: Descriptor { offset, length }, kept: Kept::Owned }
    }

    /// The packet at this place of the burst under way, to be held.
    pub(crate) fn hold(window: Window, descriptor: Descriptor, index: usize) -> Self {
        let burst = HOLDS.with(|holds| {
            holds.hold(index);
            holds.bursts.get()
        });
        Self { window, descriptor, kept: Kept::Since { burst, index } }
    }

    fn stage(&self) -> Stage {
        let (burst, index) = match self.kept {
            Kept::Owned => return Stage::Owned,
            Kept::Released => return Stage::Released,
            Kept::Since { burst, index } => (burst, index),
        };
        HOLDS.with(|holds| {
            if burst == holds.bursts.get() {
                return Stage::InBurst(index);
            }
            holds.settle();
            if holds.lost(key(burst, index)).is_ok() { Stage::Lost } else { Stage::Owned }
        })
    }

    /// False if it was held when the function had its share of the pool already, a quarter of the
    /// buffers: then the host has dropped it, it is empty, and it cannot be sent. Not known, and
    /// true, while the burst in which it was held is under way.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.stage() != Stage::Lost
    }

    /// Its bytes; none if it is not owned.
    ///
    /// # Panics
    /// When it was held in the burst that is still under way.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let (start, len) = self.bytes();
        // SAFETY: the host gave these bytes to this side, whose only handle this is.
        unsafe { slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Its bytes, to be changed; takes `access = "read-write"`.
    ///
    /// # Panics
    /// As [`Buffer::data`].
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.bytes();
        // SAFETY: as for `data`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Lets go of it: `Next` continues with the following function, `Reply`, `Forward`, `ToKernel`,
    /// `Jump` and `Drop` mean what they mean for packets of a burst.
    ///
    /// # Errors
    /// Why the host refused, [`Refusal::NotOwned`] when it was held in the burst that is still
    /// under way, [`Refusal::Exhausted`] when it is not owned; the packet is freed then.
    pub fn send(mut self, verdict: Verdict) -> Result<(), Refusal> {
        match self.stage() {
            Stage::InBurst(_) => Err(Refusal::NotOwned),
            Stage::Lost => Err(Refusal::Exhausted),
            Stage::Owned | Stage::Released => {
                host::release(self.descriptor, verdict)?;
                self.kept = Kept::Released;
                Ok(())
            }
        }
    }

    fn bytes(&self) -> (NonNull<u8>, usize) {
        let stage = self.stage();
        let early = matches!(stage, Stage::InBurst(_));
        assert!(!early, "a held packet is the function's when its burst is over, not before");
        // SAFETY: descriptors name bytes within the window.
        let start = unsafe { self.window.base().add(self.descriptor.offset as usize) };
        (start, if stage == Stage::Owned { self.descriptor.length as usize } else { 0 })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.stage() {
            Stage::Released => {}
            Stage::InBurst(index) => HOLDS.with(|holds| holds.forget(index)),
            Stage::Lost => HOLDS.with(|holds| {
                if let Kept::Since { burst, index } = self.kept
                    && let Ok(at) = holds.lost(key(burst, index))
                {
                    holds.lost.borrow_mut().remove(at);
                }
            }),
            // Refused only if the host does not know the buffer; then there is nothing to free.
            Stage::Owned => _ = host::release(self.descriptor, Verdict::Drop(0)),
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}
