//! The inside hosts that have mappings, in the state region: by which external address, and how
//! many.

use weir_sdk::flow::Hasher;
use weir_sdk::region::{StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::table::{Inside, PROTOCOLS};

/// What is known about an inside host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Host {
    /// Place of the external address that all its mappings have (paired pooling, RFC 4787 REQ-2).
    pub(crate) external: u16,
    /// Mappings that are no forwards, of each protocol.
    pub(crate) ports: [u16; PROTOCOLS.len()],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hosts(StateMap<Key, Host>);

/// Address and VLANs.
type Key = [u32; 2];

fn key(inside: Inside) -> Key {
    [inside.address, inside.vlans]
}

impl Hosts {
    /// Room for half as many hosts as there may be flows: few have only one.
    pub(crate) fn new(region: &mut StateRegion, flows: usize) -> Result<Self, String> {
        region.map("hosts", flows / 2).map(Self)
    }

    /// A host that has mappings.
    pub(crate) fn find(&self, hasher: &Hasher, inside: Inside) -> Option<Host> {
        let key = key(inside);
        self.0.find(hasher.hash(&key), &key).copied()
    }

    /// A host has one mapping more of the protocol at this place. If there is no room for another
    /// host, it is not counted.
    pub(crate) fn add(&mut self, hasher: &Hasher, inside: Inside, external: u16, place: usize) {
        let key = key(inside);
        let hash = hasher.hash(&key);
        let mut host = self
            .0
            .find(hash, &key)
            .copied()
            .unwrap_or(Host { external, ports: [0; PROTOCOLS.len()] });
        host.ports[place] = host.ports[place].saturating_add(1);
        let _ = self.0.insert(hash, key, host);
    }

    /// A host has one mapping less.
    pub(crate) fn remove(&mut self, hasher: &Hasher, inside: Inside, place: usize) {
        let key = key(inside);
        let hash = hasher.hash(&key);
        let Some(host) = self.0.find_mut(hash, &key) else { return };
        host.ports[place] = host.ports[place].saturating_sub(1);
        if host.ports == [0; PROTOCOLS.len()] {
            self.0.remove(hash, &key);
        }
    }

    /// Mappings of all hosts.
    #[cfg(test)]
    pub(crate) fn mappings(&self) -> usize {
        let hosts = (0..self.0.slots()).filter_map(|slot| self.0.at(slot));
        hosts.map(|(_, host)| host.ports.iter().map(|n| usize::from(*n)).sum::<usize>()).sum()
    }
}
