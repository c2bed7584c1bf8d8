//! Ethernet II and VLAN tags (IEEE 802.1Q).

use super::{Error, view};

view! {
    /// An Ethernet frame.
    Ethernet, 14 bytes, {
        /// Whom it is for.
        destination, set_destination: [u8; 6] = 0;
        /// Who sent it.
        source, set_source: [u8; 6] = 6;
        /// What follows; see [`ethertype`](crate::parse::ethertype).
        ethertype, set_ethertype: u16 = 12;
    }
}

impl<T: AsRef<[u8]>> Ethernet<T> {
    // Takes `self` and gives a `Result`, as every view does.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[14..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ethernet<T> {
    /// What follows the header, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut()[14..]
    }
}

view! {
    /// A tag, from behind the type that announces it to the type of what follows.
    Vlan, 4 bytes, {
        /// Priority (3 bits), drop eligibility (1) and number (12).
        control, set_control: u16 = 0;
        /// What follows; see [`ethertype`](crate::parse::ethertype).
        ethertype, set_ethertype: u16 = 2;
    }
}

impl<T: AsRef<[u8]>> Vlan<T> {
    // Takes `self` and gives a `Result`, as every view does.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The VLAN's number.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.control() & 0xfff
    }

    /// Priority, 0 to 7.
    #[must_use]
    pub fn priority(&self) -> u8 {
        (self.control() >> 13) as u8
    }

    /// What follows the tag.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[4..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Vlan<T> {
    /// Sets the VLAN's number, of which the lower 12 bits count.
    pub fn set_id(&mut self, id: u16) {
        self.set_control(self.control() & 0xf000 | id & 0xfff);
    }

    /// What follows the tag, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut()[4..]
    }
}
