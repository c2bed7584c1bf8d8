//! Mapping shared memory into a guest's linear memory.
//!
//! The guest names a region of its memory; the host maps a memfd over it (`MAP_FIXED`), with the
//! protection that the function's access calls for. Wasmtime maps each linear memory on its own
//! (on-demand allocator) and unmaps it whole when the store is dropped, so nothing of a window
//! survives the instance (docs/adr/0003).

use std::os::fd::BorrowedFd;

use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use weir_layout::{BURST_AREA, DESCRIPTORS, METADATA, PAGE};

/// Where in the region the mapping has to start so that it is aligned to `align` (a power of two,
/// at least a page), if region and mapping fit.
pub(crate) fn place(address: usize, region: usize, bytes: usize, align: usize) -> Option<usize> {
    let offset = address.next_multiple_of(align.max(PAGE)) - address;
    (address.is_multiple_of(PAGE) && offset.checked_add(bytes)? <= region).then_some(offset)
}

/// Maps `bytes` of the file over guest memory at `address`.
///
/// # Safety
/// `[address, address + bytes)` must be page-aligned and lie within the accessible part of one linear memory
/// of a store that the caller holds exclusively, and no Rust reference to it may be alive.
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

/// Takes write access away from the parts of a window that its function may only read.
///
/// # Safety
/// A window of `bytes` must have been mapped at `address` by [`map_over`].
pub(crate) unsafe fn protect(address: *mut u8, bytes: usize, writes: bool) -> std::io::Result<()> {
    let read_only = |offset: usize, length: usize| {
        // SAFETY: the range lies within the window that the caller mapped.
        unsafe { close(address.add(offset), length) }
    };
    read_only(METADATA, BURST_AREA - METADATA)?;
    if !writes {
        read_only(DESCRIPTORS, PAGE)?;
        read_only(BURST_AREA, bytes - BURST_AREA)?;
    }
    Ok(())
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
