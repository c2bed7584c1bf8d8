//! What the two capture formats have in common: a packet's record, and what can be wrong with it.

use std::io;

/// Longest packet that is believed, in bytes; as Wireshark's `WTAP_MAX_PACKET_SIZE_STANDARD`.
/// Without a bound one damaged length would swallow the rest of a file.
pub(super) const PACKET_MAX: u32 = 262_144;

/// A packet that lies whole in the source's memory, not yet passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Bytes captured.
    pub(super) captured: u32,
    /// Bytes that the capture cut off.
    pub(super) cut: u32,
    /// Where the packet's bytes begin, from the record's start.
    pub(super) data_at: usize,
    /// Bytes of the record.
    pub(super) total: usize,
}

/// What is wrong with a record; the reader adds where.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Reading the file failed.
    Io(io::Error),
    /// The packets are not Ethernet frames but of this link type.
    LinkType(u16),
    /// The bytes contradict the format.
    Damage(String),
}

impl Flaw {
    pub(super) fn new(problem: String) -> Self {
        Self::Damage(problem)
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
