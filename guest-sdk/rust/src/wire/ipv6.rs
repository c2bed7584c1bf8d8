//! IPv6 and its extension headers (RFC 8200).

use super::{Error, fits, view};
use crate::checksum;

view! {
    /// An IPv6 packet.
    Ipv6, 40 bytes, {
        /// Version (4 bits), traffic class (8) and flow label (20).
        first_word, set_first_word: u32 = 0;
        /// Bytes behind this header.
        payload_len, set_payload_len: u16 = 4;
        /// What follows: an extension header or a [`protocol`](crate::parse::protocol).
        next_header, set_next_header: u8 = 6;
        /// Hops left.
        hop_limit, set_hop_limit: u8 = 7;
        /// Who sent it.
        source, set_source: u128 = 8;
        /// Whom it is for.
        destination, set_destination: u128 = 24;
    }
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    fn check(&self) -> Result<(), Error> {
        if self.0.as_ref()[0] >> 4 != 6 {
            return Err(Error::Malformed { header: "Ipv6", reason: "the version is not 6" });
        }
        fits("Ipv6", 40 + usize::from(self.payload_len()), self.0.as_ref().len())
    }

    /// Differentiated services and congestion notification (RFC 2474, RFC 3168).
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        (self.first_word() >> 20) as u8
    }

    /// The flow label.
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        self.first_word() & 0xf_ffff
    }

    /// The extension headers; where the iterator ends, the transport header begins.
    #[must_use]
    pub fn extensions(&self) -> Extensions<'_> {
        Extensions { rest: self.payload(), next: self.next_header(), offset: 40 }
    }

    /// The sum that checksums of a segment of this protocol and length begin with.
    #[must_use]
    pub fn pseudo_header(&self, protocol: u8, length: u32) -> u64 {
        checksum::pseudo_v6(self.source(), self.destination(), protocol, length)
    }

    /// What follows the header, without padding.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[40..40 + usize::from(self.payload_len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Takes one hop away; false when none is left, and nothing is changed. A router answers then
    /// (RFC 4443, section 3.3).
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> bool {
        let hops = self.hop_limit();
        if hops <= 1 {
            return false;
        }
        self.set_hop_limit(hops - 1);
        true
    }

    /// What follows the header, without padding, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = 40 + usize::from(self.payload_len());
        &mut self.0.as_mut()[40..end]
    }
}

/// An extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its number (IANA, "IPv6 Extension Header Types").
    pub kind: u8,
    /// Where it begins, from the IPv6 header's first byte.
    pub offset: usize,
    /// Its bytes, of which the first is the next header's number.
    pub bytes: &'a [u8],
}

/// Goes from extension header to extension header. Ends at the transport header, behind the header
/// of a later fragment, and where the packet is cut off.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    next: u8,
    offset: usize,
}

impl Extensions<'_> {
    /// When the iterator has ended: number and offset of what it has come to.
    #[must_use]
    pub fn position(&self) -> (u8, usize) {
        (self.next, self.offset)
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Extension<'a>> {
        let second = usize::from(*self.rest.get(1)?);
        let length = match self.next {
            0 | 43 | 60 | 135 | 139 | 140 => (second + 1) * 8,
            44 => 8,
            51 => (second + 2) * 4,
            _ => return None,
        };
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        let extension = Extension { kind: self.next, offset: self.offset, bytes };
        self.next = bytes[0];
        self.offset += length;
        let later = extension.kind == 44 && u16::from_be_bytes([bytes[2], bytes[3]]) & 0xfff8 != 0;
        self.rest = if later { &[] } else { rest };
        Some(extension)
    }
}
