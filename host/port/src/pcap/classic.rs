//! The classic capture format (`draft-ietf-opsawg-pcap`), in both byte orders, with microseconds
//! or nanoseconds, and the "modified" variant with its longer record headers.

use std::io::Read;

use pcap_parser::pcap::{
    PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use super::ETHERNET;
use super::record::{Flaw, PACKET_MAX, Record};
use super::source::Source;

/// Bytes of the file header.
const FILE_HEADER: usize = 24;

/// What the file header said.
#[derive(Debug)]
pub(super) struct Classic {
    header: PcapHeader,
    /// Bytes of a record header.
    record_header: usize,
    /// Nanoseconds of one unit of a record's fraction of a second.
    unit: u64,
}

impl Classic {
    /// True when a file beginning with these bytes is a classic capture.
    pub(super) fn claims(start: &[u8]) -> bool {
        matches!(
            start.first_chunk().map(|magic| u32::from_le_bytes(*magic)),
            Some(0xa1b2_c3d4 | 0xa1b2_3c4d | 0xa1b2_cd34 | 0xd4c3_b2a1 | 0x4d3c_b2a1)
        )
    }

    /// Reads the file header.
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Self, Flaw> {
        let start = source.peek(FILE_HEADER)?;
        let Ok((_, header)) = parse_pcap_header(start) else {
            return Err(Flaw::new(format!(
                "the file header is {FILE_HEADER} bytes long, {} are there",
                start.len()
            )));
        };
        if header.version_major != 2 {
            return Err(Flaw::new(format!(
                "pcap version {}.{}, only 2.x is known",
                header.version_major, header.version_minor
            )));
        }
        source.pass(FILE_HEADER);
        let record_header = if header.is_modified_format() { 24 } else { 16 };
        let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
        let classic = Self { header, record_header, unit };
        if classic.link_type() != ETHERNET {
            return Err(Flaw::LinkType(classic.link_type()));
        }
        Ok(classic)
    }

    pub(super) fn nanoseconds(&self) -> bool {
        self.unit == 1
    }

    /// The header's whole link type field: the type, and above it what is known of frame check
    /// sequences.
    pub(super) fn link_type_field(&self) -> u32 {
        self.header.network.0.cast_unsigned()
    }

    fn link_type(&self) -> u16 {
        (self.link_type_field() & 0xffff) as u16
    }

    /// The record that the source stands at, whole in its memory; `None` at the file's end.
    #[inline]
    pub(super) fn record<R: Read>(&self, source: &mut Source<R>) -> Result<Option<Record>, Flaw> {
        let ahead = source.peek(self.record_header)?;
        if ahead.is_empty() {
            return Ok(None);
        }
        if ahead.len() < self.record_header {
            return Err(Flaw::new(format!(
                "the file ends inside a record header: {} of {} bytes are there",
                ahead.len(),
                self.record_header
            )));
        }
        let swapped = self.header.is_bigendian();
        let field = |at: usize| {
            let bytes = [ahead[at], ahead[at + 1], ahead[at + 2], ahead[at + 3]];
            if swapped { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let captured = field(8);
        if captured > PACKET_MAX {
            return Err(Flaw::new(format!(
                "a packet of {captured} bytes, more than {PACKET_MAX} is not plausible"
            )));
        }
        let total = self.record_header + captured as usize;
        let there = source.peek(total)?;
        let parsed = if self.record_header == 24 {
            parse_pcap_frame_modified(there)
        } else if swapped {
            parse_pcap_frame_be(there)
        } else {
            parse_pcap_frame(there)
        };
        let Ok((_, frame)) = parsed else {
            return Err(Flaw::new(format!(
                "the file ends inside the packet: {} of {captured} bytes are there",
                there.len() - self.record_header
            )));
        };
        Ok(Some(Record {
            time: u64::from(frame.ts_sec) * 1_000_000_000 + u64::from(frame.ts_usec) * self.unit,
            captured,
            cut: frame.origlen.saturating_sub(captured),
            data_at: self.record_header,
            total,
        }))
    }
}
