//! Memory that several address ranges share: one memfd, mapped here read-write, mapped again
//! wherever a guest has its window or state region.
//!
//! Huge pages are the transparent kind (`MADV_HUGEPAGE`, `MADV_COLLAPSE`, see
//! `Documentation/admin-guide/mm/transhuge.rst`), not `MFD_HUGETLB`: the window protects single
//! 4 KiB pages of the burst area, and the kernel refuses that on a hugetlb mapping. It also needs
//! no reservation by an administrator.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use weir_layout::{Descriptor, Metadata, PAGE};

use crate::PoolError;

/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Longest name: the kernel takes 249 bytes.
const NAME_MAX: usize = 200;

/// Whether to ask for huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Use them where the kernel gives them, ordinary pages elsewhere. All the memory is
    /// committed at once.
    #[default]
    Auto,
    /// Ordinary pages, committed when first touched.
    Never,
}

/// Types that any bytes are a valid value of, and that have no padding.
///
/// # Safety
/// Every bit pattern of the type's size must be a valid value, and the type must have no padding
/// bytes and no pointers.
pub unsafe trait Pod: Copy + 'static {}

// SAFETY: integers have neither invalid values nor padding.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}
// SAFETY: `repr(C)` of two u32: 8 bytes, aligned to 8, no padding.
unsafe impl Pod for Descriptor {}
// SAFETY: `repr(C)` of two u16 and a u32: 8 bytes, aligned to 8, no padding.
unsafe impl Pod for Metadata {}

/// Shared memory: a sealed memfd and the host's read-write mapping of it. It starts out zeroed, and
/// goes when this and every other mapping of it is gone.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
    fd: OwnedFd,
    mapping: Arc<Mapping>,
}

// SAFETY: the mapping belongs to this value, not to a thread; it is unmapped once, with the last
// that has it.
unsafe impl Send for Memory {}
// SAFETY: nothing of the value changes through `&Memory`. Of the bytes, which other threads' guests
// may change at any time, no reference is formed through it: `load` and `store` are atomic; `get`,
// `values` and `copy_out` copy values of types for which all bytes are valid, and are for whoever
// has those run that write there (the crate's page). `slice` is for `Pool`, which says the same.
unsafe impl Sync for Memory {}

/// The host's mapping, which lives as long as somebody may write to it.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address range of the process, which no thread has for itself.
unsafe impl Send for Mapping {}
// SAFETY: as above; `store` writes by atomic stores.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Where it begins: what tells mappings apart.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    /// Copies bytes in by atomic stores, so that it is no data race whatever other threads, or
    /// guests, do there.
    ///
    /// # Panics
    /// When the range does not lie within the mapping, or does not begin at a multiple of 8.
    #[inline]
    pub(crate) fn store(&self, offset: usize, bytes: &[u8]) {
        let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.bytes);
        if !inside || !offset.is_multiple_of(8) {
            outside(offset, bytes.len(), 1, self.bytes);
        }
        let (words, rest) = bytes.as_chunks::<8>();
        // SAFETY: within the mapping (checked), which is aligned to pages, so that the words are
        // aligned; it lives as long as self. Nothing but atomic stores is done with the addresses,
        // and no Rust code has a reference to these bytes (see the crate's page).
        unsafe {
            let at = self.start.as_ptr().add(offset);
            for (n, word) in words.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                AtomicU64::from_ptr(at.add(n * 8).cast()).store(word, Relaxed);
            }
            for (n, byte) in rest.iter().enumerate() {
                AtomicU8::from_ptr(at.add(words.len() * 8 + n)).store(*byte, Relaxed);
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping made in `Memory::map`, and nothing borrows it
        // any more.
        let unmapped = unsafe { mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

impl Memory {
    /// Makes zeroed shared memory of at least `bytes` bytes (rounded up to whole pages of 4,096).
    ///
    /// # Errors
    /// When the kernel refuses, `bytes` is 0, or the name is unusable.
    pub fn new(name: &str, bytes: usize, huge: HugePages) -> Result<Self, PoolError> {
        if bytes == 0 {
            return Err(PoolError::Empty { name: name.to_owned() });
        }
        if name.len() > NAME_MAX || name.contains('\0') {
            return Err(PoolError::Name { name: name.to_owned() });
        }
        let failed = |step: &'static str| {
            move |source: rustix::io::Errno| PoolError::System {
                name: name.to_owned(),
                bytes,
                step,
                source: source.into(),
            }
        };
        let bytes = bytes
            .checked_next_multiple_of(PAGE)
            .ok_or_else(|| failed("memfd_create")(rustix::io::Errno::NOMEM))?;
        let page_bytes =
            if huge == HugePages::Auto && bytes >= HUGE_PAGE { HUGE_PAGE } else { PAGE };

        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed("memfd_create"))?;
        ftruncate(&fd, bytes as u64).map_err(failed("ftruncate"))?;
        // A file that shrinks under a mapping turns loads into SIGBUS: forbid it for good.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed("fcntl(F_ADD_SEALS)"))?;
        Self::map(fd, bytes, page_bytes).map_err(failed("mmap"))
    }

    /// Maps memory that [`Self::new`] made, perhaps in another process, once more.
    ///
    /// # Errors
    /// When it is not sealed against becoming smaller, has no whole number of pages, or the kernel
    /// refuses.
    pub fn open(name: &str, fd: OwnedFd) -> Result<Self, PoolError> {
        let failed = |bytes, step: &'static str| {
            move |source: rustix::io::Errno| PoolError::System {
                name: name.to_owned(),
                bytes,
                step,
                source: source.into(),
            }
        };
        let seals = fcntl_get_seals(&fd).map_err(failed(0, "fcntl(F_GET_SEALS)"))?;
        let size = fstat(&fd).map_err(failed(0, "fstat"))?.st_size;
        let bytes = usize::try_from(size).unwrap_or(0);
        if bytes == 0 || !bytes.is_multiple_of(PAGE) || !seals.contains(SealFlags::SHRINK) {
            return Err(failed(bytes, "checking its size and seals")(rustix::io::Errno::INVAL));
        }
        Self::map(fd, bytes, PAGE).map_err(failed(bytes, "mmap"))
    }

    fn map(fd: OwnedFd, bytes: usize, page_bytes: usize) -> Result<Self, rustix::io::Errno> {
        let start = map_aligned(fd.as_fd(), bytes, page_bytes)?;
        let mapping = Arc::new(Mapping { start, bytes });
        let memory = Self { start, bytes, page_bytes, fd, mapping };
        if page_bytes == HUGE_PAGE {
            memory.ask_for_huge_pages();
        }
        Ok(memory)
    }

    /// Bytes, a multiple of 4,096.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Alignment in bytes (4,096 or 2 MiB) that another mapping should have to get the same pages
    /// as this one. Mapping at any multiple of 4,096 is correct; only the huge pages are lost.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Where the host has it mapped, aligned to [`Self::page_bytes`].
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The file, to map it elsewhere. Who may touch the bytes when: see the crate's page.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads a value that a guest may have written. Costs one bounds check and a volatile load.
    ///
    /// # Panics
    /// When the value does not lie within the memory or is not aligned: offsets are the host's own.
    #[must_use]
    #[inline]
    pub fn get<T: Pod>(&self, offset: usize) -> T {
        let at = self.locate::<T>(offset, 1);
        // SAFETY: `locate` checked bounds and alignment of the mapping, which lives as long as
        // self; any bytes are a valid T.
        unsafe { at.read_volatile() }
    }

    /// Writes a value.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn set<T: Pod>(&mut self, offset: usize, value: T) {
        let at = self.locate::<T>(offset, 1);
        // SAFETY: as in `get`; `&mut self` says that no Rust reference to these bytes exists.
        unsafe { at.write_volatile(value) }
    }

    /// Reads `count` values that lie one behind the other, as one [`Self::get`] each with a single
    /// bounds check.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn values<T: Pod>(&self, offset: usize, count: usize) -> impl ExactSizeIterator<Item = T> {
        let at = self.locate::<T>(offset, count);
        // SAFETY: as in `get`, for each of the `count` values; the iterator borrows self.
        (0..count).map(move |i| unsafe { at.add(i).read_volatile() })
    }

    /// Writes rows of values, each column one behind the other from its offset on, as one
    /// [`Self::set`] each with a single bounds check for each column.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn set_columns<T: Pod, const N: usize>(
        &mut self,
        offsets: [usize; N],
        rows: impl ExactSizeIterator<Item = [T; N]>,
    ) {
        let count = rows.len();
        let at = offsets.map(|offset| self.locate::<T>(offset, count));
        for (i, row) in rows.take(count).enumerate() {
            for (at, value) in at.into_iter().zip(row) {
                // SAFETY: as in `set`; at most the `count` values that were checked, whatever the
                // iterator gives.
                unsafe { at.add(i).write_volatile(value) }
            }
        }
    }

    /// Copies values out, as one [`Self::get`] each with a single bounds check.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn copy_out<T: Pod>(&self, offset: usize, into: &mut [T]) {
        let at = self.locate::<T>(offset, into.len());
        // SAFETY: as in `get`, for `into.len()` values; `into` is a distinct allocation, because
        // `&mut` to bytes of this memory cannot be held beside `&self`.
        unsafe { ptr::copy_nonoverlapping(at, into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes out by atomic loads: for memory that other threads' guests may be writing to.
    ///
    /// # Panics
    /// When the range does not lie within the memory.
    pub fn load(&self, offset: usize, into: &mut [u8]) {
        let at = self.locate::<u8>(offset, into.len());
        let ahead = at.align_offset(8).min(into.len());
        let (ahead, rest) = into.split_at_mut(ahead);
        let (words, behind) = rest.as_chunks_mut::<8>();
        // SAFETY: within the mapping (checked), which lives as long as self; the words are aligned,
        // because they begin at the first multiple of 8. Nothing but atomic loads is done with the
        // addresses.
        unsafe {
            let (first, last) = (at.add(ahead.len()), at.add(ahead.len() + words.len() * 8));
            for (n, byte) in ahead.iter_mut().enumerate() {
                *byte = AtomicU8::from_ptr(at.add(n)).load(Relaxed);
            }
            for (n, word) in words.iter_mut().enumerate() {
                *word = AtomicU64::from_ptr(first.add(n * 8).cast()).load(Relaxed).to_ne_bytes();
            }
            for (n, byte) in behind.iter_mut().enumerate() {
                *byte = AtomicU8::from_ptr(last.add(n)).load(Relaxed);
            }
        }
    }

    /// Copies bytes in by atomic stores: for memory that other threads or processes look at, and
    /// may be writing to.
    ///
    /// # Panics
    /// When the range does not lie within the memory, or does not begin at a multiple of 8.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        self.mapping.store(offset, bytes);
    }

    /// Copies values in, as one [`Self::set`] each with a single bounds check.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn copy_in<T: Pod>(&mut self, offset: usize, from: &[T]) {
        let at = self.locate::<T>(offset, from.len());
        // SAFETY: as in `set`, for `from.len()` values; `from` is a distinct allocation, because
        // references to bytes of this memory cannot be held beside `&mut self`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), at, from.len()) }
    }

    /// The bytes themselves; crate-private, so that only [`crate::Pool`] hands out references.
    ///
    /// # Panics
    /// When the range does not lie within the memory.
    #[inline]
    pub(crate) fn slice(&self, offset: usize, length: usize) -> &[u8] {
        let at = self.locate::<u8>(offset, length);
        // SAFETY: in bounds of a mapping that lives as long as self and is always initialised;
        // nothing writes it while the borrow lives (the crate's page says who keeps that).
        unsafe { std::slice::from_raw_parts(at, length) }
    }

    /// As [`Self::slice`], to write.
    #[inline]
    pub(crate) fn slice_mut(&mut self, offset: usize, length: usize) -> &mut [u8] {
        let at = self.locate::<u8>(offset, length);
        // SAFETY: as in `slice`; `&mut self` makes the reference the only one.
        unsafe { std::slice::from_raw_parts_mut(at, length) }
    }

    /// Copies bytes to another place of the memory; the two may overlap.
    ///
    /// # Panics
    /// When one of the ranges does not lie within the memory.
    #[inline]
    pub(crate) fn copy_within(&mut self, from: usize, to: usize, length: usize) {
        let (from, to) = (self.locate::<u8>(from, length), self.locate::<u8>(to, length));
        // SAFETY: both in bounds; `&mut self` says that no reference to these bytes exists.
        unsafe { ptr::copy(from, to, length) }
    }

    /// The mapping, for who writes to rooms that were lent.
    pub(crate) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// The address of `count` values at `offset`, in bounds and aligned.
    #[inline]
    fn locate<T>(&self, offset: usize, count: usize) -> *mut T {
        let inside = count
            .checked_mul(size_of::<T>())
            .and_then(|length| offset.checked_add(length))
            .is_some_and(|end| end <= self.bytes);
        if !inside || !offset.is_multiple_of(align_of::<T>()) {
            outside(offset, count, size_of::<T>(), self.bytes);
        }
        // SAFETY: `offset` is within the mapping.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// Best effort: without huge pages everything works, at more TLB misses.
    fn ask_for_huge_pages(&self) {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is exactly this mapping; the advice changes no contents.
        let _ = unsafe { mm::madvise(start, self.bytes, Advice::LinuxHugepage) };
        // SAFETY: as above; makes the pages now, so that the first packets do not pay for it.
        let _ = unsafe { mm::madvise(start, self.bytes, Advice::LinuxPopulateWrite) };
        // SAFETY: as above. From Linux 6.1 on this makes huge pages of ordinary ones that are
        // there, and of no others, whatever the machine's settings for shared memory are.
        let _ = unsafe { libc::madvise(start, self.bytes, libc::MADV_COLLAPSE) };
    }
}

#[cold]
#[inline(never)]
fn outside(offset: usize, count: usize, size: usize, bytes: usize) -> ! {
    panic!(
        "host bug: {count} values of {size} bytes at offset {offset:#x} are misaligned or outside {bytes} bytes of shared memory"
    )
}

/// Maps the whole file at an address that is a multiple of `align` (a power of two, at least a
/// page).
fn map_aligned(
    fd: BorrowedFd<'_>,
    bytes: usize,
    align: usize,
) -> Result<NonNull<u8>, rustix::io::Errno> {
    let slack = align - PAGE;
    let reserved = bytes.checked_add(slack).ok_or(rustix::io::Errno::NOMEM)?;
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
    let reservation = unsafe {
        mm::mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE)
    }?;
    let ahead = reservation.align_offset(align);
    // SAFETY: `ahead <= slack`, so the range lies within the reservation, which nobody else knows.
    let mapped = unsafe {
        mm::mmap(
            reservation.byte_add(ahead),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            fd,
            0,
        )
    };
    let start = match mapped {
        Ok(start) => start,
        Err(error) => {
            // SAFETY: the reservation is ours and unused.
            let _ = unsafe { mm::munmap(reservation, reserved) };
            return Err(error);
        }
    };
    let behind = slack - ahead;
    if ahead > 0 {
        // SAFETY: the unused front of the reservation.
        unsafe { mm::munmap(reservation, ahead) }?;
    }
    if behind > 0 {
        // SAFETY: the unused end of the reservation.
        unsafe { mm::munmap(start.byte_add(bytes), behind) }?;
    }
    NonNull::new(start.cast()).ok_or(rustix::io::Errno::INVAL)
}
