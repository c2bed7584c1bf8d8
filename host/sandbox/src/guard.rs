//! Read-only guest memory, against writes that the host makes for the guest.
//!
//! A store by Wasm code to a page that the function may only read is a trap. But some writes are made by host code on
//! a guest's behalf: `memory.fill`, `memory.copy` and `memory.init`, and results of host calls, at addresses of the
//! guest's choice. There the fault is in native code, which cannot trap, and would end the process.
//!
//! So the faulting page is replaced, in the signal handler, by a private copy of itself: the write goes on and
//! reaches nobody but the guest. The range is marked, and the guest is at fault as soon as the call is over.
//!
//! Ranges lie in a fixed table of atomics, because a signal handler may neither lock nor allocate.

use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};

use weir_layout::PAGE;

use crate::guest::Shared;

/// Ranges at the same time: windows and kept state regions of all functions.
const SLOTS: usize = 16_384;

struct Slot {
    taken: AtomicBool,
    /// Odd while the range is being changed. Whoever reads the range reads this before and after it: the two are the same and even, or what
    /// it has read is of two ranges.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    fd: AtomicI32,
    trespassed: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        fd: AtomicI32::new(-1),
        trespassed: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots below this have been used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Some range is marked.
static ANYBODY: AtomicBool = AtomicBool::new(false);

impl Slot {
    /// For whoever has taken the slot.
    fn set(&self, range: Range<usize>, fd: i32) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.fd.store(fd, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Its range and file, unless they are being changed: then it is not the slot of whoever asks, whose store lives.
    fn get(&self) -> Option<(Range<usize>, i32)> {
        let version = self.version.load(Ordering::Acquire);
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let fd = self.fd.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        whole.then_some((range, fd))
    }
}

/// A range in the table, as long as this lives.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
    /// Keeps the file open that the handler maps.
    _memory: Shared,
}

impl Guard {
    /// Watches a range onto which this memory is mapped from its beginning.
    pub(crate) fn new(range: Range<usize>, memory: &Shared) -> std::io::Result<Self> {
        let free = TABLE.iter().position(|slot| {
            slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let Some(at) = free else {
            return Err(std::io::Error::other(format!(
                "{SLOTS} windows are in use, no more can be watched"
            )));
        };
        let slot = &TABLE[at];
        slot.trespassed.store(false, Ordering::Relaxed);
        slot.set(range, memory.fd().as_raw_fd());
        USED.fetch_max(at + 1, Ordering::AcqRel);
        Ok(Self { slot: at, _memory: memory.clone() })
    }

    /// Whether the range was trespassed upon since this was asked last.
    pub(crate) fn take(&self) -> bool {
        TABLE[self.slot].trespassed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &TABLE[self.slot];
        slot.set(0..0, -1);
        slot.taken.store(false, Ordering::Release);
    }
}

/// Whether somebody has trespassed; one load.
#[inline]
pub(crate) fn anybody() -> bool {
    ANYBODY.load(Ordering::Relaxed)
}

/// Who handled the signal before us; written once, before the handler is in force.
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// Installs the handler, once for the process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid, and is filled in below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: asks for the action in force; both pointers are valid or null as the call allows.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut previous) };
        let _ = PREVIOUS.set(previous);
        // SAFETY: `handle` is async-signal-safe: it reads atomics and makes system calls.
        unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) };
    });
}

extern "C" fn handle(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo for SIGSEGV.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some((slot, start, fd)) = slot_of(address)
        && make_private(address & !(PAGE - 1), start, fd)
    {
        slot.trespassed.store(true, Ordering::Release);
        ANYBODY.store(true, Ordering::Relaxed);
        return;
    }
    // Not ours: let whoever was there before us have it, when the instruction is tried again.
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: the action was in force before; the call is async-signal-safe.
        unsafe { libc::sigaction(libc::SIGSEGV, previous, std::ptr::null_mut()) };
    }
}

/// The slot of the range that an address is in, the range's start, and its file.
fn slot_of(address: usize) -> Option<(&'static Slot, usize, i32)> {
    TABLE[..USED.load(Ordering::Acquire)].iter().find_map(|slot| {
        let (range, fd) = slot.get()?;
        range.contains(&address).then_some((slot, range.start, fd))
    })
}

/// Replaces a page by a private copy of itself that can be written: of a range that starts there, mapped from this file.
fn make_private(page: usize, start: usize, fd: i32) -> bool {
    let offset = page - start;
    // SAFETY: the page lies in a range that a live store has mapped from this file, at this offset; its owner runs on
    // this thread, in the middle of a write to the page. mmap is a mere system call.
    let mapped = unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            fd,
            offset as libc::off_t,
        )
    };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, Memory};

    use super::*;

    #[test]
    fn a_range_that_comes_and_goes_has_no_other_addresses_meanwhile() {
        let memory = Memory::new("guarded", 16 * PAGE, HugePages::Never).unwrap();
        let memory = Shared::new(&memory).unwrap();
        // Nothing is mapped at either: no handler looks for these.
        let (below, at) = (PAGE, 1 << 40);
        std::thread::scope(|scope| {
            let comes_and_goes = scope.spawn(|| {
                for _ in 0..200_000 {
                    let guard = Guard::new(at..at + 16 * PAGE, &memory).unwrap();
                    assert_eq!(slot_of(at + 1).map(|(_, start, _)| start), Some(at));
                    drop(guard);
                }
            });
            while !comes_and_goes.is_finished() {
                assert!(slot_of(below).is_none());
                if let Some((_, start, fd)) = slot_of(at) {
                    assert_eq!((start, fd), (at, memory.fd().as_raw_fd()));
                }
            }
        });
    }
}
