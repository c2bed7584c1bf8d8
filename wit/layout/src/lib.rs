//! The byte layout of the window (`wit/window.md`) as Rust constants and plain types.
//!
//! Owns: the numbers that host and guest must agree on. Must not know: Wasm, pools, ports; it is
//! `no_std`, has no dependencies and no `unsafe`, and is compiled into both sides.
#![no_std]

pub mod message;

/// Maximum number of packets in one burst.
pub const BURST_MAX: usize = 256;
/// Bytes of the burst area at the window's start.
pub const BURST_AREA: usize = 0x1_0000;
/// Offset of the descriptor vector; one page of its own, so that it can be protected.
pub const DESCRIPTORS: usize = 0x0000;
/// Offset of the verdict vector; one page of its own, always writable by the function.
pub const VERDICTS: usize = 0x1000;
/// Offset of the metadata vector; from here to the burst area's end functions may only read.
pub const METADATA: usize = 0x2000;
/// Offset of the burst's clock, `u64` monotonic nanoseconds.
pub const CLOCK: usize = 0x3000;
/// Offset of the burst's wall time, `u64` nanoseconds since 1970, 0 if unknown.
pub const WALL: usize = 0x3008;
/// Granularity of page protection, in bytes.
pub const PAGE: usize = 4096;
/// A Wasm page, in bytes; windows and state regions are multiples of it.
pub const WASM_PAGE: usize = 0x1_0000;
/// Bytes kept free in front of a packet when a port places it.
pub const HEADROOM: usize = 128;
/// Maximum number of functions in one chain.
pub const FUNCTIONS_MAX: usize = 64;

/// Metadata flag: the packet travels in the chain's reverse direction.
pub const FLAG_REVERSE: u16 = 1;
/// Metadata flag: the packet was made by a function, it did not come in by a port.
pub const FLAG_MADE: u16 = 2;

/// Verdict flag: the same holds for all further packets of this flow in this direction. See
/// [`Verdict::decode_final`].
pub const VERDICT_FINAL: u32 = 0x80;

/// Largest room, in bytes. Rooms start at [`BURST_AREA`], so every room is aligned to its size.
pub const ROOM_MAX: usize = BURST_AREA;

/// Names a packet's bytes in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Descriptor {
    /// First byte, from the window's start.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

impl Descriptor {
    /// As it lies in the window, in one word (little-endian): written so it is one store, which a
    /// later read of the whole can be served from.
    #[must_use]
    #[inline]
    pub const fn word(self) -> u64 {
        self.offset as u64 | (self.length as u64) << 32
    }

    /// From its word.
    #[must_use]
    #[inline]
    pub const fn from_word(word: u64) -> Self {
        Self { offset: word as u32, length: (word >> 32) as u32 }
    }

    /// True when the bytes, and at least the offset, lie within one room of `room_bytes` (a power
    /// of two) that is the room at `room` (its offset in the window).
    #[must_use]
    #[inline]
    pub const fn lies_in(self, room: u32, room_bytes: u32) -> bool {
        self.offset >= room
            && self.offset - room < room_bytes
            && self.length <= room_bytes - (self.offset - room)
    }
}

/// What the host says about a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Metadata {
    /// Port it came in by.
    pub port: u16,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// Symmetric flow hash, or 0 when the host did not need one.
    pub hash: u32,
}

impl Metadata {
    /// As it lies in the window, in one word; see [`Descriptor::word`].
    #[must_use]
    #[inline]
    pub const fn word(self) -> u64 {
        self.port as u64 | (self.flags as u64) << 16 | (self.hash as u64) << 32
    }
}

/// What a function decides for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Continue with the next function, or leave by the chain's output.
    #[default]
    Next,
    /// Free it; the reason is the function's own number (24 bits).
    Drop(u32),
    /// Leave by the port it came in by.
    Reply,
    /// Leave by this port.
    Forward(u16),
    /// Give it to the kernel's stack.
    ToKernel,
    /// Continue with the function at this place of the chain.
    Jump(u16),
    /// The function keeps it and sends it later.
    Hold,
    /// As `Next`, and a copy as it is now leaves by this port.
    Clone(u16),
    /// The packet and all further ones of its flow, in both directions, go to this target of the
    /// function instead: 0 is the kernel's stack, others are numbered as in the chain's `targets`.
    Move(u16),
}

/// Names of the verdict kinds, by kind number.
pub const VERDICT_NAMES: [&str; 9] =
    ["next", "drop", "reply", "forward", "to-kernel", "jump", "hold", "clone", "move"];

impl Verdict {
    /// The kind number, an index of [`VERDICT_NAMES`].
    #[must_use]
    #[inline]
    pub const fn kind(self) -> u32 {
        match self {
            Self::Next => 0,
            Self::Drop(_) => 1,
            Self::Reply => 2,
            Self::Forward(_) => 3,
            Self::ToKernel => 4,
            Self::Jump(_) => 5,
            Self::Hold => 6,
            Self::Clone(_) => 7,
            Self::Move(_) => 8,
        }
    }

    /// As written in the window.
    #[must_use]
    #[inline]
    pub const fn encode(self) -> u32 {
        let argument = match self {
            Self::Drop(reason) => reason,
            Self::Forward(n) | Self::Jump(n) | Self::Clone(n) | Self::Move(n) => n as u32,
            _ => 0,
        };
        self.kind() | argument << 8
    }

    /// Reads what a guest wrote; `None` when it means nothing: unknown kind, an argument where none
    /// belongs, or a number above 65,535 for a port or function.
    #[must_use]
    #[inline]
    pub const fn decode(word: u32) -> Option<Self> {
        let argument = word >> 8;
        let small = argument <= 0xffff;
        // Guarded by `small`.
        let number = argument as u16;
        match word & 0xff {
            0 if argument == 0 => Some(Self::Next),
            1 => Some(Self::Drop(argument)),
            2 if argument == 0 => Some(Self::Reply),
            3 if small => Some(Self::Forward(number)),
            4 if argument == 0 => Some(Self::ToKernel),
            5 if small => Some(Self::Jump(number)),
            6 if argument == 0 => Some(Self::Hold),
            7 if small => Some(Self::Clone(number)),
            8 if small => Some(Self::Move(number)),
            _ => None,
        }
    }

    /// Reads what a guest wrote, which may have [`VERDICT_FINAL`]: the verdict, and whether it is
    /// the whole flow's. Only `next`, `drop`, `reply`, `forward` and `to-kernel` can be.
    #[must_use]
    #[inline]
    pub const fn decode_final(word: u32) -> Option<(Self, bool)> {
        if word & VERDICT_FINAL == 0 {
            return match Self::decode(word) {
                Some(verdict) => Some((verdict, false)),
                None => None,
            };
        }
        match Self::decode(word & !VERDICT_FINAL) {
            Some(verdict) if verdict.kind() <= Self::ToKernel.kind() => Some((verdict, true)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_survives_its_encoding() {
        for verdict in [
            Verdict::Next,
            Verdict::Drop(0),
            Verdict::Drop(0xff_ffff),
            Verdict::Reply,
            Verdict::Forward(u16::MAX),
            Verdict::ToKernel,
            Verdict::Jump(63),
            Verdict::Hold,
            Verdict::Clone(1),
            Verdict::Move(2),
        ] {
            let word = verdict.encode();
            assert_eq!(Verdict::decode(word), Some(verdict));
            assert_eq!(Verdict::decode_final(word), Some((verdict, false)));
            let whole = (verdict.kind() <= Verdict::ToKernel.kind()).then_some((verdict, true));
            assert_eq!(Verdict::decode_final(word | VERDICT_FINAL), whole);
            assert_eq!(Verdict::decode(word | VERDICT_FINAL), None);
        }
    }

    #[test]
    fn words_are_what_lies_in_the_window() {
        let descriptor = Descriptor { offset: 0x0403_0201, length: 0x0807_0605 };
        assert_eq!(descriptor.word().to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Descriptor::from_word(descriptor.word()), descriptor);
        let metadata = Metadata { port: 0x0201, flags: 0x0403, hash: 0x0807_0605 };
        assert_eq!(metadata.word().to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn garbage_is_refused() {
        for word in [0x100, 0x102, 0x0100_0003, 0x104, 0x106, 9, 0xff, u32::MAX] {
            assert_eq!(Verdict::decode(word), None, "{word:#x}");
        }
    }

    #[test]
    fn a_descriptor_may_not_leave_its_room() {
        let inside = Descriptor { offset: 0x10800, length: 0x800 };
        assert!(inside.lies_in(0x10800, 0x800));
        assert!(Descriptor { offset: 0x10fff, length: 1 }.lies_in(0x10800, 0x800));
        assert!(!Descriptor { offset: 0x11000, length: 0 }.lies_in(0x10800, 0x800));
        assert!(!Descriptor { offset: 0x10801, length: 0x800 }.lies_in(0x10800, 0x800));
        assert!(!Descriptor { offset: 0x107ff, length: 1 }.lies_in(0x10800, 0x800));
        assert!(!Descriptor { offset: u32::MAX, length: u32::MAX }.lies_in(0x10800, 0x800));
    }
}
