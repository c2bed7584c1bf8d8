//! Later fragments have no ports: they follow the first one of their packet.

use weir_sdk::flow::Hasher;
use weir_sdk::parse::{Addresses, Headers};
use weir_sdk::region::{StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Packets whose fragments are remembered: the latest.
const PACKETS: usize = 1024;
/// Seconds for which they are (RFC 791 suggests 15 for reassembly, Linux takes 30).
const SECONDS: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    source: u32,
    destination: u32,
    identification: u32,
    protocol: u16,
    outbound: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    address: u32,
    /// The destination of a packet that was translated twice, else 0.
    turned: u32,
    expires: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fragments {
    packets: StateMap<Key, Entry>,
    hasher: Hasher,
    /// Counts those that made room for others.
    turn: u32,
}

impl Fragments {
    pub(crate) fn new(region: &mut StateRegion, seed: u64) -> Result<Self, String> {
        let packets = region.map("fragments", PACKETS)?;
        Ok(Self { packets, hasher: Hasher::new(seed), turn: 0 })
    }

    /// Remembers how a first fragment was translated: to which address, and if hairpinned to which destination. Does
    /// nothing for whole packets.
    pub(crate) fn note(
        &mut self,
        headers: &Headers,
        outbound: bool,
        (address, turned): (u32, Option<u32>),
        now: u32,
    ) {
        let Some(key) = key(headers, outbound) else { return };
        let hash = self.hasher.hash(&key);
        let expires = now.saturating_add(SECONDS);
        let entry = Entry { address, turned: turned.unwrap_or(0), expires };
        if self.packets.insert(hash, key, entry).is_err() {
            // A packet's fragments follow each other closely: the oldest have long passed, or never will. Of those of one second it
            // is any, or the latest would go again and again.
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn;
            self.packets.evict_near(hash, |key, entry| {
                Some((entry.expires, (key.identification ^ turn).wrapping_mul(0x9e37_79b9)))
            });
            let _ = self.packets.insert(hash, key, entry);
        }
    }

    /// What a later fragment gets: as in [`Self::note`].
    pub(crate) fn find(
        &self,
        headers: &Headers,
        outbound: bool,
        now: u32,
    ) -> Option<(u32, Option<u32>)> {
        let key = key(headers, outbound)?;
        let entry = self.packets.find(self.hasher.hash(&key), &key)?;
        let turned = Some(entry.turned).filter(|turned| *turned != 0);
        (entry.expires > now).then_some((entry.address, turned))
    }
}

fn key(headers: &Headers, outbound: bool) -> Option<Key> {
    let Addresses::V4 { source, destination } = headers.addresses else { return None };
    Some(Key {
        source,
        destination,
        identification: headers.fragment?.identification,
        protocol: headers.protocol.into(),
        outbound: outbound.into(),
    })
}
