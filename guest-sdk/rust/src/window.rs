//! Where the window lies.
//!
//! Owns: turning window offsets (`wit/window.md`) into pointers. Must not know: what packets mean.
//!
//! On Wasm the window is where `configure` put it and stays there for the instance's life. Natively
//! it is memory of the test host, kept alive by whoever holds a handle.

use std::ptr::NonNull;

use weir_layout::{BURST_AREA, WASM_PAGE};

use crate::memory::Chunk;

/// A handle to the window.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    base: NonNull<u8>,
    room_bytes: u32,
    memory: Chunk,
}

impl Window {
    /// A window in this memory.
    ///
    /// # Safety
    /// The chunk must be laid out as a window with rooms of `room_bytes`, a power of two: every
    /// descriptor among the first `count` of a burst names bytes within it. Nothing else may access
    /// the bytes of a buffer while this side owns it.
    pub(crate) unsafe fn new(memory: Chunk, room_bytes: u32) -> Self {
        assert!(memory.len() >= BURST_AREA && memory.len().is_multiple_of(WASM_PAGE));
        assert!(room_bytes.is_power_of_two(), "{room_bytes} bytes are no room");
        Self { base: memory.start(), room_bytes, memory }
    }

    /// Where offset 0 lies.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of a room.
    #[inline]
    pub(crate) fn room_bytes(&self) -> u32 {
        self.room_bytes
    }

    /// The bytes from this offset to the end of its room.
    ///
    /// # Safety
    /// They must be initialised and this side's for `'a`, and no other reference to them may be
    /// used meanwhile.
    ///
    /// # Panics
    /// When the offset lies outside of the window.
    #[inline]
    pub(crate) unsafe fn rest_of_room<'a>(&self, offset: u32) -> &'a mut [u8] {
        let length = self.room_bytes - (offset & (self.room_bytes - 1));
        let end = offset as usize + length as usize;
        assert!(
            offset as usize >= BURST_AREA && end <= self.memory.len(),
            "{offset:#x} is no room"
        );
        // SAFETY: within the window, as checked; the rest is promised by the caller.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(offset as usize).as_ptr(), length as usize)
        }
    }
}
