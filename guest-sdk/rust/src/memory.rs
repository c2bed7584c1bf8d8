//! Stretches of memory that the host may see or own.
//!
//! Owns: allocation and lifetime. Must not know: what lies there.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of every chunk: a page, which also is a multiple of a cache line.
pub(crate) const ALIGN: usize = weir_layout::PAGE;

/// An allocation of zeros, freed on drop.
#[derive(Debug)]
struct Allocation {
    start: NonNull<u8>,
    layout: Layout,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated by `Chunk::zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A stretch of initialised memory, page-aligned when it is whole; clones name the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    start: NonNull<u8>,
    len: usize,
    _owner: Option<Rc<Allocation>>,
}

impl Chunk {
    /// Zeros from the heap.
    pub(crate) fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), ALIGN).expect("a length below isize::MAX");
        // SAFETY: the layout's size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        Self { start, len, _owner: Some(Rc::new(Allocation { start, layout })) }
    }

    /// Memory that somebody else frees, or nobody.
    ///
    /// # Safety
    /// `len` bytes from `start` must be initialised, writable (or stores trap), and stay where they
    /// are for as long as the chunk or a part of it is in use.
    pub(crate) unsafe fn permanent(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, _owner: None }
    }

    /// First byte.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A part of it; `None` when it does not lie within.
    pub(crate) fn part(&self, at: usize, len: usize) -> Option<Self> {
        if at > self.len || len > self.len - at {
            return None;
        }
        // SAFETY: `at` is at most the length.
        Some(Self { start: unsafe { self.start.add(at) }, len, _owner: self._owner.clone() })
    }
}

/// Access by the test host, between calls of the function.
#[cfg(not(target_arch = "wasm32"))]
impl Chunk {
    /// A copy of all bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        // SAFETY: all bytes are initialised, and no reference into the chunk is used during the
        // copy.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }.to_vec()
    }

    /// Writes bytes, which must fit.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let part = self.part(at, bytes.len()).expect("bytes within the memory");
        // SAFETY: `part` checked the range; no reference into the chunk is alive between calls.
        unsafe { part.start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Reads a number.
    pub(crate) fn read_u32(&self, at: usize) -> u32 {
        let part = self.part(at, 4).expect("bytes within the memory");
        // SAFETY: `part` checked the range.
        unsafe { part.start.cast::<u32>().read_unaligned() }
    }
}
