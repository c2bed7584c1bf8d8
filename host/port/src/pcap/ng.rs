//! The pcapng format (`draft-ietf-opsawg-pcapng`): sections in either byte order, several
//! interfaces each with its own resolution and offset of time, enhanced, simple and obsolete
//! packet blocks. Blocks that carry no packets are passed over, whatever their size.
//!
//! Section and interface blocks with their options go through `pcap-parser`. Packet blocks are read
//! here: that crate collects a packet's options into a vector, an allocation for each packet, and
//! does not know the obsolete block.

use std::io::Read;

use pcap_parser::pcapng::{
    OptionCode, parse_interfacedescriptionblock_be, parse_interfacedescriptionblock_le,
    parse_sectionheaderblock,
};

use super::ETHERNET;
use super::record::{Flaw, PACKET_MAX, Record};
use super::source::Source;

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
pub(super) const ENHANCED_PACKET: u32 = 6;

/// The byte-order magic of a section whose integers are little-endian, as it lies in the file.
const LITTLE: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];
/// The same of a big-endian section.
const BIG: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

/// Bytes around a block's body: type, length, and the length again.
pub(super) const BLOCK_FRAME: usize = 12;
/// Longest block that is held in memory: a packet with its options, an interface with its filter.
const BLOCK_MAX: u32 = 1 << 20;

/// How to read one interface's timestamps.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: u16,
    /// Bytes of a packet that are captured at most, 0 for all.
    snap_length: u32,
    unit: Unit,
    /// Nanoseconds to add.
    offset: i128,
}

/// How long one tick of an interface's clock is (option `if_tsresol`).
#[derive(Clone, Copy, Debug)]
enum Unit {
    /// So many nanoseconds.
    Nanoseconds(u64),
    /// So many ticks to a nanosecond.
    PerNanosecond(u64),
    /// A second divided by two to this power.
    BinaryFraction(u32),
}

impl Unit {
    /// From the option's value: a power of ten, or of two if the top bit is set.
    fn new(resolution: u8) -> Self {
        let power = u32::from(resolution & 0x7f);
        if resolution & 0x80 != 0 {
            Self::BinaryFraction(power)
        } else if power <= 9 {
            Self::Nanoseconds(10_u64.pow(9 - power))
        } else {
            Self::PerNanosecond(10_u64.saturating_pow(power - 9))
        }
    }

    #[inline]
    fn nanoseconds(self, ticks: u64) -> u64 {
        match self {
            Self::Nanoseconds(each) => ticks.saturating_mul(each),
            Self::PerNanosecond(ticks_each) => ticks / ticks_each,
            Self::BinaryFraction(power) => {
                let scaled = (u128::from(ticks) * 1_000_000_000).checked_shr(power).unwrap_or(0);
                u64::try_from(scaled).unwrap_or(u64::MAX)
            }
        }
    }

    /// True when ticks are shorter than a microsecond.
    fn is_fine(self) -> bool {
        match self {
            Self::Nanoseconds(each) => each < 1000,
            Self::PerNanosecond(_) => true,
            Self::BinaryFraction(power) => power > 20,
        }
    }
}

/// The section being read.
#[derive(Debug, Default)]
pub(super) struct Ng {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// Time of the packet before: simple packet blocks have none of their own.
    last_time: u64,
    fine: bool,
    /// Where the block at hand begins in the file.
    block_at: u64,
}

impl Ng {
    /// True when a file beginning with these bytes is a pcapng capture.
    pub(super) fn claims(start: &[u8]) -> bool {
        start.first_chunk() == Some(&SECTION_HEADER.to_le_bytes())
    }

    /// Reads the first section's header.
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Self, Flaw> {
        let mut ng = Self::default();
        if ng.block(source)?.is_none() {
            return Err(Flaw::new("the section header is missing".to_owned()));
        }
        Ok(ng)
    }

    /// Where the last block looked at begins in the file.
    pub(super) fn block_at(&self) -> u64 {
        self.block_at
    }

    /// True when an interface seen so far has timestamps finer than microseconds.
    pub(super) fn nanoseconds(&self) -> bool {
        self.fine
    }

    /// The next packet, whole in the source's memory; `None` at the file's end.
    #[inline]
    pub(super) fn record<R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Record>, Flaw> {
        loop {
            match self.block(source)? {
                None => return Ok(None),
                Some(Block::Packet(record)) => {
                    self.last_time = record.time;
                    return Ok(Some(record));
                }
                Some(Block::Passed) => {}
            }
        }
    }

    /// Handles one block: passes it, or leaves the source at it if it is a packet.
    #[inline]
    fn block<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Block>, Flaw> {
        // Twelve bytes: a section's byte order stands behind the length it applies to.
        self.block_at = source.offset();
        let ahead = source.peek(BLOCK_FRAME)?;
        if ahead.is_empty() {
            return Ok(None);
        }
        if ahead.len() < BLOCK_FRAME {
            return Err(Flaw::new(format!(
                "the file ends inside a block's header: {} of at least {BLOCK_FRAME} bytes are there",
                ahead.len()
            )));
        }
        let is_section = Self::claims(ahead);
        if is_section {
            let order = [ahead[8], ahead[9], ahead[10], ahead[11]];
            self.big_endian = order == BIG;
            if order != LITTLE && order != BIG {
                return Err(Flaw::new(format!(
                    "the section header's byte-order magic is {order:02x?}"
                )));
            }
        }
        let kind = if is_section { SECTION_HEADER } else { self.u32_at(ahead, 0) };
        let total = self.u32_at(ahead, 4);
        if total < BLOCK_FRAME as u32 || !total.is_multiple_of(4) {
            return Err(Flaw::new(format!(
                "a block of type {kind:#x} says it is {total} bytes long, it must be a multiple of 4 and at least {BLOCK_FRAME}"
            )));
        }
        let wanted = matches!(
            kind,
            SECTION_HEADER
                | INTERFACE_DESCRIPTION
                | OBSOLETE_PACKET
                | SIMPLE_PACKET
                | ENHANCED_PACKET
        );
        if !wanted {
            self.pass_over(source, kind, total)?;
            return Ok(Some(Block::Passed));
        }
        if total > BLOCK_MAX {
            return Err(Flaw::new(format!(
                "a block of type {kind:#x} says it is {total} bytes long, more than {BLOCK_MAX} is not plausible"
            )));
        }
        let length = total as usize;
        let there = source.peek(length)?;
        let Some(block) = there.get(..length) else {
            return Err(Flaw::new(format!(
                "the file ends inside a block of type {kind:#x}: {} of {total} bytes are there",
                there.len()
            )));
        };
        self.check_trailer(kind, total, self.u32_at(block, length - 4))?;
        let record = match kind {
            ENHANCED_PACKET if length >= 16 => self.timed(block, self.u32_at(block, 8))?,
            OBSOLETE_PACKET if length >= 16 => self.timed(block, self.u16_at(block, 8).into())?,
            SIMPLE_PACKET => self.simple(block)?,
            SECTION_HEADER => {
                self.start_section(block)?;
                source.pass(length);
                return Ok(Some(Block::Passed));
            }
            INTERFACE_DESCRIPTION => {
                let interface = self.interface(block)?;
                self.fine |= interface.unit.is_fine();
                self.interfaces.push(interface);
                source.pass(length);
                return Ok(Some(Block::Passed));
            }
            _ => return Err(Flaw::new(format!("a packet block of only {length} bytes"))),
        };
        Ok(Some(Block::Packet(record)))
    }

    /// Passes a block of no interest without holding it in memory.
    fn pass_over<R: Read>(
        &self,
        source: &mut Source<R>,
        kind: u32,
        total: u32,
    ) -> Result<(), Flaw> {
        let whole = source.skip(u64::from(total) - 4)?;
        let trailer = source.peek(4)?;
        if !whole || trailer.len() < 4 {
            return Err(Flaw::new(format!(
                "the file ends inside a block of type {kind:#x} that is {total} bytes long"
            )));
        }
        self.check_trailer(kind, total, self.u32_at(trailer, 0))?;
        source.pass(4);
        Ok(())
    }

    #[inline]
    fn check_trailer(&self, kind: u32, total: u32, trailer: u32) -> Result<(), Flaw> {
        if trailer == total {
            return Ok(());
        }
        Err(Flaw::new(format!(
            "a block of type {kind:#x} says {total} bytes at its start and {trailer} at its end"
        )))
    }

    fn start_section(&mut self, block: &[u8]) -> Result<(), Flaw> {
        let Ok((_, header)) = parse_sectionheaderblock(block) else {
            return Err(Flaw::new("a malformed section header".to_owned()));
        };
        if header.major_version != 1 {
            return Err(Flaw::new(format!(
                "pcapng version {}.{}, only 1.x is known",
                header.major_version, header.minor_version
            )));
        }
        self.interfaces.clear();
        Ok(())
    }

    fn interface(&self, block: &[u8]) -> Result<Interface, Flaw> {
        let parsed = if self.big_endian {
            parse_interfacedescriptionblock_be(block)
        } else {
            parse_interfacedescriptionblock_le(block)
        };
        let Ok((_, description)) = parsed else {
            return Err(Flaw::new("a malformed interface description".to_owned()));
        };
        // The crate reads this option in one byte order only.
        let seconds = description
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset)
            .and_then(|option| option.value.first_chunk())
            .map_or(0, |bytes| {
                if self.big_endian {
                    i64::from_be_bytes(*bytes)
                } else {
                    i64::from_le_bytes(*bytes)
                }
            });
        Ok(Interface {
            // 16 bits in the file.
            link_type: description.linktype.0 as u16,
            snap_length: description.snaplen,
            unit: Unit::new(description.if_tsresol),
            offset: i128::from(seconds) * 1_000_000_000,
        })
    }

    /// An enhanced packet block (section 4.3), or the obsolete one (appendix A), which differs in
    /// where the interface's number stands.
    #[inline]
    fn timed(&self, block: &[u8], interface: u32) -> Result<Record, Flaw> {
        let Interface { link_type, unit, offset, .. } = *self.known(interface)?;
        if link_type != ETHERNET {
            return Err(Flaw::LinkType(link_type));
        }
        if block.len() < 28 + 4 {
            return Err(Flaw::new(format!("a packet block of only {} bytes", block.len())));
        }
        let ticks = u64::from(self.u32_at(block, 12)) << 32 | u64::from(self.u32_at(block, 16));
        let captured = self.u32_at(block, 20);
        let original = self.u32_at(block, 24);
        let time = i128::from(unit.nanoseconds(ticks)) + offset;
        let time = u64::try_from(time).unwrap_or(if offset < 0 { 0 } else { u64::MAX });
        Self::record_in(block, 28, time, captured, original)
    }

    /// A simple packet block (section 4.4): of the first interface, without a time.
    fn simple(&self, block: &[u8]) -> Result<Record, Flaw> {
        let Interface { link_type, snap_length, .. } = *self.known(0)?;
        if link_type != ETHERNET {
            return Err(Flaw::LinkType(link_type));
        }
        if block.len() < 12 + 4 {
            return Err(Flaw::new(format!("a packet block of only {} bytes", block.len())));
        }
        let original = self.u32_at(block, 8);
        let captured = if snap_length == 0 { original } else { original.min(snap_length) };
        Self::record_in(block, 12, self.last_time, captured, original)
    }

    /// A packet of `captured` bytes at `data_at`, if they are within the block.
    #[inline]
    fn record_in(
        block: &[u8],
        data_at: usize,
        time: u64,
        captured: u32,
        original: u32,
    ) -> Result<Record, Flaw> {
        let room = block.len() - data_at - 4;
        if captured > PACKET_MAX || captured as usize > room {
            return Err(Flaw::new(format!(
                "a packet of {captured} bytes in a block that has room for {room} (at most {PACKET_MAX} are plausible)"
            )));
        }
        let cut = original.saturating_sub(captured);
        Ok(Record { time, captured, cut, data_at, total: block.len() })
    }

    #[inline]
    fn known(&self, interface: u32) -> Result<&Interface, Flaw> {
        self.interfaces.get(interface as usize).ok_or_else(|| {
            Flaw::new(format!(
                "a packet of interface {interface}, but {} were described before it",
                self.interfaces.len()
            ))
        })
    }

    /// The integer at `at`, which the caller knows to be within `bytes`.
    #[inline]
    fn u32_at(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// As [`Self::u32_at`].
    #[inline]
    fn u16_at(&self, bytes: &[u8], at: usize) -> u16 {
        let bytes = [bytes[at], bytes[at + 1]];
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }
}

/// What a block was.
enum Block {
    /// A packet; the source stands at its block.
    Packet(Record),
    /// Something else, which was passed.
    Passed,
}
