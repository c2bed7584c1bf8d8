//! Who was heard on the wire with which hardware address.

use std::collections::HashMap;
use std::net::IpAddr;

/// Entries of each half.
const HALF: usize = 1 << 15;

/// An IPv4 or IPv6 address, the former as the latter has it.
pub(crate) type Host = [u8; 16];
pub(crate) type Mac = [u8; 6];

/// Hosts and the hardware addresses by which they were last heard: their own, or their router's. At
/// most 65,536; those that were not heard while half as many others came are forgotten. Hashes have
/// a secret: hosts choose what they are called.
#[derive(Debug, Default)]
pub struct Neighbours {
    young: HashMap<Host, Mac>,
    old: HashMap<Host, Mac>,
    last: Option<(Host, Mac)>,
}

impl Neighbours {
    /// Packets of a host came from this address.
    pub(crate) fn learn(&mut self, host: Host, mac: Mac) {
        // Nobody sends from a group's address.
        if self.last == Some((host, mac)) || mac[0] & 1 != 0 {
            return;
        }
        self.last = Some((host, mac));
        if let Some(known) = self.young.get_mut(&host) {
            *known = mac;
            return;
        }
        if self.young.len() == HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(host, mac);
    }

    /// Where packets for a host go.
    pub(crate) fn find(&self, host: Host) -> Option<Mac> {
        self.young.get(&host).or_else(|| self.old.get(&host)).copied()
    }
}

/// As the table has it.
pub(crate) fn host(address: impl Into<IpAddr>) -> Host {
    match address.into() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_heard_are_known() {
        let mut neighbours = Neighbours::default();
        let name = |n: u32| host(n.to_be_bytes());
        for n in 0..3 * HALF as u32 {
            neighbours.learn(name(n), [2; 6]);
            // Somebody who is heard again and again stays.
            neighbours.learn(name(7), [4; 6]);
        }
        assert_eq!(neighbours.find(name(7)), Some([4; 6]));
        assert_eq!(neighbours.find(name(3 * HALF as u32 - 1)), Some([2; 6]));
        assert_eq!(neighbours.find(name(1)), None);
        assert!(neighbours.young.len() + neighbours.old.len() <= 2 * HALF);
        neighbours.learn(name(7), [6; 6]);
        assert_eq!(neighbours.find(name(7)), Some([6; 6]), "it has moved");
        neighbours.learn(name(7), [1; 6]);
        assert_eq!(neighbours.find(name(7)), Some([6; 6]), "a group sends nothing");
    }
}
