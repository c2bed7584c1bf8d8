//! ICMP (RFC 792) and ICMPv6 (RFC 4443). Views must end where the message does.

use super::{Error, view};
use crate::checksum;

view! {
    /// An ICMP message.
    Icmpv4, 8 bytes, {
        /// Type.
        kind, set_kind: u8 = 0;
        /// Code.
        code, set_code: u8 = 1;
        /// Checksum of the message.
        checksum, set_checksum: u16 = 2;
        /// Whose query this is, in queries and answers.
        identifier, set_identifier: u16 = 4;
        /// Which query this is, in queries and answers.
        sequence, set_sequence: u16 = 6;
    }
}

impl<T: AsRef<[u8]>> Icmpv4<T> {
    // Takes `self` and gives a `Result`, as every view does.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// True for messages about another packet, which is their payload (RFC 1122, section 3.2.2).
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self.kind(), 3 | 4 | 5 | 11 | 12)
    }

    /// True for echo, timestamp, information and address mask requests and replies, which have an
    /// identifier.
    #[must_use]
    pub fn is_query(&self) -> bool {
        matches!(self.kind(), 0 | 8 | 13..=18)
    }

    /// True when the checksum is right.
    #[must_use]
    pub fn verify_checksum(&self) -> bool {
        checksum::internet(self.0.as_ref()) == 0
    }

    /// What follows the first 8 bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[8..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv4<T> {
    /// Computes the checksum.
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        self.set_checksum(checksum::internet(self.0.as_ref()));
    }

    /// What follows the first 8 bytes, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut()[8..]
    }
}

view! {
    /// An ICMPv6 message.
    Icmpv6, 8 bytes, {
        /// Type.
        kind, set_kind: u8 = 0;
        /// Code.
        code, set_code: u8 = 1;
        /// Checksum of pseudo header and message.
        checksum, set_checksum: u16 = 2;
        /// Whose query this is, in echo requests and replies.
        identifier, set_identifier: u16 = 4;
        /// Which query this is, in echo requests and replies.
        sequence, set_sequence: u16 = 6;
    }
}

impl<T: AsRef<[u8]>> Icmpv6<T> {
    // Takes `self` and gives a `Result`, as every view does.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// True for messages about another packet, which is their payload.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind() < 128
    }

    /// True for echo requests and replies, which have an identifier.
    #[must_use]
    pub fn is_query(&self) -> bool {
        matches!(self.kind(), 128 | 129)
    }

    /// True when the checksum is right for this pseudo header.
    #[must_use]
    pub fn verify_checksum(&self, pseudo: u64) -> bool {
        checksum::transport(pseudo, self.0.as_ref()) == 0
    }

    /// What follows the first 8 bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[8..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6<T> {
    /// Computes the checksum.
    pub fn fill_checksum(&mut self, pseudo: u64) {
        self.set_checksum(0);
        self.set_checksum(checksum::transport(pseudo, self.0.as_ref()));
    }

    /// What follows the first 8 bytes, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut()[8..]
    }
}
