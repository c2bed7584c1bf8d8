//! UDP (RFC 768).

use super::{Error, fits, view};
use crate::checksum;

view! {
    /// A UDP datagram.
    Udp, 8 bytes, {
        /// Source port, 0 for none.
        source_port, set_source_port: u16 = 0;
        /// Destination port.
        destination_port, set_destination_port: u16 = 2;
        /// Bytes of header and payload.
        length, set_length: u16 = 4;
        /// Checksum of pseudo header, header and payload, 0 for none.
        checksum, set_checksum: u16 = 6;
    }
}

impl<T: AsRef<[u8]>> Udp<T> {
    fn check(&self) -> Result<(), Error> {
        if self.length() < 8 {
            let reason = "the length is less than 8 bytes";
            return Err(Error::Malformed { header: "Udp", reason });
        }
        fits("Udp", self.length().into(), self.0.as_ref().len())
    }

    /// True when the checksum is right for this pseudo header, or there is none: over IPv6 such a
    /// datagram is to be discarded (RFC 8200, section 8.1), which the caller has to see to.
    #[must_use]
    pub fn verify_checksum(&self, pseudo: u64) -> bool {
        let datagram = &self.0.as_ref()[..self.length().into()];
        self.checksum() == 0 || checksum::transport(pseudo, datagram) == 0
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[8..self.length().into()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Computes the checksum.
    pub fn fill_checksum(&mut self, pseudo: u64) {
        self.set_checksum(0);
        let sum = checksum::transport(pseudo, &self.0.as_ref()[..self.length().into()]);
        self.set_checksum(checksum::udp(sum));
    }

    /// What follows the header, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = self.length().into();
        &mut self.0.as_mut()[8..end]
    }
}
