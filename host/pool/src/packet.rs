//! The host's own record of a packet that is under way. Plain data, never mapped into a guest.

use weir_layout::{Descriptor, Metadata};

/// Names a buffer of one pool, by its place: 0 is the first room behind the burst area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BufferIndex(pub(crate) u32);

impl BufferIndex {
    /// The place as a number, for indexing tables that are kept beside a pool.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A packet that is under way: where its bytes are and what is known about it. Laid out as written
/// here, so that ports can have bursts of them filled in and read by code in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The bytes, in the window.
    pub descriptor: Descriptor,
    /// What functions are told about it.
    pub metadata: Metadata,
    /// When it was received, in nanoseconds since 1970 (or of the port's own clock).
    pub time: u64,
    /// The buffer it lies in; owned by whoever owns this record.
    pub buffer: BufferIndex,
    /// Bytes of its end that a capture cut off: 0 for a whole packet. It had
    /// `descriptor.length + cut` on the wire, also after a function changed the front.
    pub cut: u32,
}
