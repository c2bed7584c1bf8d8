//! IPv4 (RFC 791).

use super::{Error, Udp, fits, view};
use crate::checksum;
use crate::parse::protocol;

view! {
    /// An IPv4 packet.
    Ipv4, 20 bytes, {
        /// Differentiated services and congestion notification (RFC 2474, RFC 3168).
        traffic_class, set_traffic_class: u8 = 1;
        /// Bytes of header and payload.
        total_len, set_total_len: u16 = 2;
        /// The same in all fragments of a packet.
        identification, set_identification: u16 = 4;
        /// Flags (3 bits) and fragment offset (13).
        fragment_word, set_fragment_word: u16 = 6;
        /// Hops left.
        ttl, set_ttl: u8 = 8;
        /// What follows; see [`protocol`](crate::parse::protocol).
        protocol, set_protocol: u8 = 9;
        /// Checksum of the header.
        checksum, set_checksum: u16 = 10;
        /// Who sent it.
        source, set_source: u32 = 12;
        /// Whom it is for.
        destination, set_destination: u32 = 16;
    }
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    fn check(&self) -> Result<(), Error> {
        let malformed = |reason| Err(Error::Malformed { header: "Ipv4", reason });
        if self.0.as_ref()[0] >> 4 != 4 {
            return malformed("the version is not 4");
        }
        if self.header_len() < 20 {
            return malformed("the header is shorter than 20 bytes");
        }
        if usize::from(self.total_len()) < self.header_len() {
            return malformed("the total length is less than the header's");
        }
        fits("Ipv4", self.total_len().into(), self.0.as_ref().len())
    }

    /// Bytes of the header with its options.
    #[must_use]
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[0] & 0xf) * 4
    }

    /// The header's options.
    #[must_use]
    pub fn options(&self) -> &[u8] {
        &self.0.as_ref()[20..self.header_len()]
    }

    /// Routers may not fragment it.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.fragment_word() & 0x4000 != 0
    }

    /// More fragments follow.
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.fragment_word() & 0x2000 != 0
    }

    /// Bytes of the packet's payload before this fragment.
    #[must_use]
    pub fn fragment_offset(&self) -> u16 {
        (self.fragment_word() & 0x1fff) << 3
    }

    /// True when the header's checksum is right.
    #[must_use]
    pub fn verify_checksum(&self) -> bool {
        checksum::internet(&self.0.as_ref()[..self.header_len()]) == 0
    }

    /// The sum that TCP and UDP checksums of the payload begin with. Of UDP it has the datagram's
    /// own length (RFC 768), which may be less than the payload's (RFC 9868).
    #[must_use]
    pub fn pseudo_header(&self) -> u64 {
        let payload = self.0.as_ref().get(self.header_len()..self.total_len().into());
        let datagram = payload
            .filter(|_| self.protocol() == protocol::UDP)
            .and_then(|payload| Udp::new_checked(payload).ok());
        let length = match datagram {
            Some(datagram) => datagram.length(),
            None => self.total_len() - self.header_len() as u16,
        };
        checksum::pseudo_v4(self.source(), self.destination(), self.protocol(), length)
    }

    /// What follows the header, without padding.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..self.total_len().into()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Computes the header's checksum.
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let header = &self.0.as_ref()[..self.header_len()];
        self.set_checksum(checksum::internet(header));
    }

    /// Takes one hop away and adjusts the checksum; false when none is left, and nothing is
    /// changed. A router answers then (RFC 1812, section 5.3.1).
    #[inline]
    pub fn decrement_ttl(&mut self) -> bool {
        let ttl = self.ttl();
        if ttl <= 1 {
            return false;
        }
        let word = |ttl: u8, protocol: u8| u16::from_be_bytes([ttl, protocol]);
        let (old, new) = (word(ttl, self.protocol()), word(ttl - 1, self.protocol()));
        self.set_ttl(ttl - 1);
        self.set_checksum(checksum::update16(self.checksum(), old, new));
        true
    }

    /// What follows the header, without padding, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.header_len()..self.total_len().into();
        &mut self.0.as_mut()[range]
    }
}
