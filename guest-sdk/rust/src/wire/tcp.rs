//! TCP (RFC 9293).

use super::{Error, fits, view};
use crate::checksum;

view! {
    /// A TCP segment.
    Tcp, 20 bytes, {
        /// Source port.
        source_port, set_source_port: u16 = 0;
        /// Destination port.
        destination_port, set_destination_port: u16 = 2;
        /// Sequence number of the first byte.
        sequence, set_sequence: u32 = 4;
        /// Sequence number that is expected next.
        acknowledgment, set_acknowledgment: u32 = 8;
        /// Flags, see the constants.
        flags, set_flags: u8 = 13;
        /// Bytes that the sender would take, before scaling.
        window, set_window: u16 = 14;
        /// Checksum of pseudo header, header and payload.
        checksum, set_checksum: u16 = 16;
        /// Where urgent data ends.
        urgent, set_urgent: u16 = 18;
    }
}

/// Bits of [`Tcp::flags`].
impl Tcp<&[u8]> {
    /// The sender has no more data.
    pub const FIN: u8 = 1;
    /// The connection begins.
    pub const SYN: u8 = 2;
    /// The connection is over.
    pub const RST: u8 = 4;
    /// The receiver should be woken.
    pub const PSH: u8 = 8;
    /// The acknowledgment means something.
    pub const ACK: u8 = 16;
    /// The urgent pointer means something.
    pub const URG: u8 = 32;
}

impl<T: AsRef<[u8]>> Tcp<T> {
    fn check(&self) -> Result<(), Error> {
        if self.header_len() < 20 {
            let reason = "the header is shorter than 20 bytes";
            return Err(Error::Malformed { header: "Tcp", reason });
        }
        fits("Tcp", self.header_len(), self.0.as_ref().len())
    }

    /// Bytes of the header with its options.
    #[must_use]
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[12] >> 4) * 4
    }

    /// The header's options.
    #[must_use]
    pub fn options(&self) -> &[u8] {
        &self.0.as_ref()[20..self.header_len()]
    }

    /// True when the checksum is right for this pseudo header.
    #[must_use]
    pub fn verify_checksum(&self, pseudo: u64) -> bool {
        checksum::transport(pseudo, self.0.as_ref()) == 0
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    /// Computes the checksum; the view must end where the segment does.
    pub fn fill_checksum(&mut self, pseudo: u64) {
        self.set_checksum(0);
        self.set_checksum(checksum::transport(pseudo, self.0.as_ref()));
    }

    /// The header's options, to be changed.
    #[must_use]
    pub fn options_mut(&mut self) -> &mut [u8] {
        let end = self.header_len();
        &mut self.0.as_mut()[20..end]
    }

    /// What follows the header, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let start = self.header_len();
        &mut self.0.as_mut()[start..]
    }
}
