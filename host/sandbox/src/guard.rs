//! Read-only guest memory, against writes that the host makes for the guest.
//!
//! A store by Wasm code to a page that the function may only read is a trap. But some writes are
//! made by host code on a guest's behalf: `memory.fill`, `memory.copy` and `memory.init`, and
//! results of host calls, at addresses of the guest's choice. There the fault is in native code,
//! which cannot trap, and would end the process.
//!
//! So the range that the guest may only read is replaced, in the signal handler, by a private copy
//! of itself: the write goes on and reaches nobody but the guest. The range is marked, and the
//! guest is at fault with the next epoch, or as soon as the call is over. It is replaced as a
//! whole, because a process has but so many mappings (`vm.max_map_count`, 65,530): page by page,
//! one guest could take them all, and then the next fault of anybody would end the process.
//!
//! Ranges lie in a fixed table of atomics, because a signal handler may neither lock nor allocate.

use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};

use crate::guest::Shared;

/// Ranges at the same time: one or two of each window, and kept state regions, of all functions.
const SLOTS: usize = 32_768;

struct Slot {
    taken: AtomicBool,
    /// Odd while the range is being changed. Whoever reads the range reads this before and after
    /// it: the two are the same and even, or what it has read is of two ranges.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Where the range begins in the file.
    offset: AtomicUsize,
    fd: AtomicI32,
    trespassed: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        offset: AtomicUsize::new(0),
        fd: AtomicI32::new(-1),
        trespassed: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots below this have been used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Some range is marked.
static ANYBODY: AtomicBool = AtomicBool::new(false);

/// What is watched: addresses onto which a file is mapped, as one mapping of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    range: Range<usize>,
    /// Where it begins in the file.
    offset: usize,
    fd: i32,
}

impl Slot {
    /// For whoever has taken the slot.
    fn set(&self, part: &Part) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(part.range.start, Ordering::Relaxed);
        self.end.store(part.range.end, Ordering::Relaxed);
        self.offset.store(part.offset, Ordering::Relaxed);
        self.fd.store(part.fd, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// What it watches, unless that is being changed: then it is not the slot of whoever asks,
    /// whose store lives.
    fn get(&self) -> Option<Part> {
        let version = self.version.load(Ordering::Acquire);
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let offset = self.offset.load(Ordering::Relaxed);
        let fd = self.fd.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        whole.then_some(Part { range, offset, fd })
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
    /// Watches a range that can only be read, as a whole, and onto which this memory is mapped from
    /// the offset on.
    pub(crate) fn new(
        range: Range<usize>,
        offset: usize,
        memory: &Shared,
    ) -> std::io::Result<Self> {
        let free = TABLE.iter().position(|slot| {
            slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let Some(at) = free else {
            return Err(std::io::Error::other(format!(
                "{SLOTS} parts of windows and state regions are in use, no more can be watched"
            )));
        };
        let slot = &TABLE[at];
        slot.trespassed.store(false, Ordering::Relaxed);
        slot.set(&Part { range, offset, fd: memory.fd().as_raw_fd() });
        USED.fetch_max(at + 1, Ordering::AcqRel);
        Ok(Self { slot: at, _memory: memory.clone() })
    }

    /// Whether the range was trespassed upon since that was taken last.
    pub(crate) fn is_marked(&self) -> bool {
        TABLE[self.slot].trespassed.load(Ordering::Acquire)
    }

    /// The same, and it is told once.
    pub(crate) fn take(&self) -> bool {
        self.is_marked() && TABLE[self.slot].trespassed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &TABLE[self.slot];
        slot.set(&Part { range: 0..0, offset: 0, fd: -1 });
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
    if let Some((slot, part)) = slot_of(address)
        && make_private(&part)
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

/// The slot that watches an address, and what else it watches.
fn slot_of(address: usize) -> Option<(&'static Slot, Part)> {
    TABLE[..USED.load(Ordering::Acquire)].iter().find_map(|slot| {
        let part = slot.get()?;
        part.range.contains(&address).then_some((slot, part))
    })
}

/// Replaces what is watched by a private copy of itself that can be written: one mapping by one.
fn make_private(part: &Part) -> bool {
    // SAFETY: a live store has mapped this file, from this offset on, onto all of the range; its
    // owner runs on this thread, in the middle of a write to it. mmap is a mere system call.
    let mapped = unsafe {
        libc::mmap(
            part.range.start as *mut libc::c_void,
            part.range.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            // Only what is written takes memory, and the guest is stopped soon: none is set aside
            // for all of it.
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            part.fd,
            part.offset as libc::off_t,
        )
    };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use weir_layout::PAGE;
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
                    let guard = Guard::new(at..at + 16 * PAGE, 0, &memory).unwrap();
                    assert_eq!(slot_of(at + 1).map(|(_, part)| part.range.start), Some(at));
                    drop(guard);
                }
            });
            while !comes_and_goes.is_finished() {
                assert!(slot_of(below).is_none());
                if let Some((_, part)) = slot_of(at) {
                    let fd = memory.fd().as_raw_fd();
                    assert_eq!(part, Part { range: at..at + 16 * PAGE, offset: 0, fd });
                }
            }
        });
    }

    /// Mappings that have a part of this range.
    fn mappings(range: &Range<usize>) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ends = maps.lines().filter_map(|line| line.split(' ').next()?.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let ranges = ends.map(|(start, end)| number(start)..number(end));
        ranges.filter(|r| r.start < range.end && range.start < r.end).count()
    }

    #[test]
    fn writes_everywhere_take_no_more_mappings_and_reach_nobody() {
        const PAGES: usize = 64;
        install();
        let mut host = Memory::new("guarded", PAGES * PAGE, HugePages::Never).unwrap();
        for page in 0..PAGES {
            host.set(page * PAGE, page as u64);
        }
        let memory = Shared::new(&host).unwrap();
        // As a guest's window is: a page that can be written before what can only be read.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            let (all, fd) = (libc::PROT_READ | libc::PROT_WRITE, memory.fd().as_raw_fd());
            libc::mmap(std::ptr::null_mut(), PAGES * PAGE, all, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let at = start as usize;
        let (all, closed) = (at..at + PAGES * PAGE, at + PAGE..at + PAGES * PAGE);
        // SAFETY: within the mapping, of which there are no references.
        unsafe { crate::window::close((at + PAGE) as *mut u8, closed.len()) }.unwrap();
        let guard = Guard::new(closed.clone(), PAGE, &memory).unwrap();
        assert!(!guard.take());
        let before = mappings(&all);
        for page in (0..PAGES).step_by(2) {
            let at = (at + page * PAGE) as *mut u64;
            // SAFETY: mapped, and aligned; what cannot be written is made so by the handler.
            unsafe {
                assert_eq!(at.read_volatile(), page as u64, "the copy has what was there");
                at.write_volatile(1000);
            }
        }
        assert_eq!(mappings(&all), before);
        assert!(guard.is_marked() && guard.take() && !guard.take() && anybody());
        assert_eq!(host.get::<u64>(0), 1000, "what may be written is still shared");
        for page in 1..PAGES {
            assert_eq!(host.get::<u64>(page * PAGE), page as u64);
        }
        drop(guard);
        // SAFETY: the mapping made above, which nobody uses any more.
        unsafe { libc::munmap(start, PAGES * PAGE) };
    }
}
