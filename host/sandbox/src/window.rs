//! Mapping shared memory into a guest's linear memory.
//!
//! The guest names a region of its memory; the host maps a memfd over it (`MAP_FIXED`), with the
//! protection that the function's access calls for. Wasmtime maps each linear memory on its own
//! (on-demand allocator) and unmaps it whole when the store is dropped, so nothing of a window
//! survives the instance (docs/adr/0003).

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};
use weir_layout::{BURST_AREA, DESCRIPTORS, METADATA, PAGE, VERDICTS};

/// Where in the region the mapping has to start so that it is aligned to `align` (a power of two,
/// at least a page), if region and mapping fit.
pub(crate) fn place(address: usize, region: usize, bytes: usize, align: usize) -> Option<usize> {
    let offset = address.next_multiple_of(align.max(PAGE)) - address;
    (address.is_multiple_of(PAGE) && offset.checked_add(bytes)? <= region).then_some(offset)
}

/// Maps `bytes` of the file over guest memory at `address`.
///
/// # Safety
/// `[address, address + bytes)` must be page-aligned and lie within the accessible part of one
/// linear memory of a store that the caller holds exclusively, and no Rust reference to it may be
/// alive.
pub(crate) unsafe fn map_over(
    address: *mut u8,
    fd: BorrowedFd<'_>,
    bytes: usize,
) -> std::io::Result<()> {
    // SAFETY: the caller's contract; the range is replaced as a whole.
    unsafe {
        mm::mmap(
            address.cast(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            fd,
            0,
        )?;
    }
    Ok(())
}

/// Enters what the file holds into the page table at once, so that the first packets do not wait
/// for a page fault each (a new instance's first bursts took 0.3 ms longer without it:
/// `scripts/bench swap`). Pages that nobody has written yet are not made. After [`protect`], which
/// takes huge pages out of the page table again. Best effort: without it everything works.
///
/// # Safety
/// The file must have been mapped at `address` by [`map_over`].
pub(crate) unsafe fn populate(address: *mut u8, fd: BorrowedFd<'_>, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        let Ok(data) = seek(fd, SeekFrom::Data(at as u64)) else { return };
        let Ok(hole) = seek(fd, SeekFrom::Hole(data)) else { return };
        let (data, hole) = (data as usize, (hole as usize).min(bytes));
        if data >= hole {
            return;
        }
        // SAFETY: the range lies within the mapping; the advice changes no contents.
        let _ = unsafe {
            mm::madvise(address.add(data).cast(), hole - data, Advice::LinuxPopulateRead)
        };
        at = hole;
    }
}

/// The parts of a window of `bytes`, by offset, that its function may only read: each one mapping.
pub(crate) fn read_only(bytes: usize, writes: bool) -> Vec<Range<usize>> {
    if writes {
        let host_only = METADATA..BURST_AREA;
        return vec![host_only];
    }
    vec![DESCRIPTORS..VERDICTS, METADATA..bytes]
}

/// Takes write access away from the parts of a window that its function may only read
/// ([`read_only`]).
///
/// # Safety
/// A window of `bytes` must have been mapped at `address` by [`map_over`].
pub(crate) unsafe fn protect(address: *mut u8, bytes: usize, writes: bool) -> std::io::Result<()> {
    read_only(bytes, writes).into_iter().try_for_each(|part| {
        // SAFETY: the part lies within the window that the caller mapped.
        unsafe { close(address.add(part.start), part.len()) }
    })
}

/// Makes a mapping read-only.
///
/// # Safety
/// As for [`protect`], of any mapping made by [`map_over`].
pub(crate) unsafe fn close(address: *mut u8, bytes: usize) -> std::io::Result<()> {
    // SAFETY: the caller's contract.
    Ok(unsafe { mm::mprotect(address.cast(), bytes, MprotectFlags::READ) }?)
}

/// Makes a mapping writable again.
///
/// # Safety
/// As for [`close`].
pub(crate) unsafe fn open(address: *mut u8, bytes: usize) -> std::io::Result<()> {
    // SAFETY: the caller's contract.
    Ok(unsafe { mm::mprotect(address.cast(), bytes, MprotectFlags::READ | MprotectFlags::WRITE) }?)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_window_is_aligned_within_its_region() {
        assert_eq!(place(0x10000, 0x40000, 0x20000, 0x1000), Some(0));
        assert_eq!(place(0x10000, 0x40000, 0x20000, 0x20000), Some(0x10000));
        assert_eq!(place(0x10000, 0x20000, 0x20000, 0x20000), None);
        assert_eq!(place(0x10001, 0x40000, 0x20000, 0x1000), None);
        assert_eq!(place(0x10000, 0x40000, usize::MAX, 0x20000), None);
    }
}
