//! ARP for IPv4 over Ethernet (RFC 826).

use super::{Error, view};

view! {
    /// An ARP message.
    Arp, 28 bytes, {
        /// 1 asks, 2 answers.
        operation, set_operation: u16 = 6;
        /// The sender's hardware address.
        sender_hardware, set_sender_hardware: [u8; 6] = 8;
        /// The sender's IPv4 address.
        sender_address, set_sender_address: u32 = 14;
        /// The target's hardware address, if known.
        target_hardware, set_target_hardware: [u8; 6] = 18;
        /// The target's IPv4 address.
        target_address, set_target_address: u32 = 24;
    }
}

impl<T: AsRef<[u8]>> Arp<T> {
    fn check(&self) -> Result<(), Error> {
        if self.0.as_ref()[..6] == [0, 1, 8, 0, 6, 4] {
            return Ok(());
        }
        Err(Error::Malformed { header: "Arp", reason: "it is not for IPv4 over Ethernet" })
    }
}
