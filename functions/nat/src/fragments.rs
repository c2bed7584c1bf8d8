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
    /// Above the 8 bits of the protocol.
    vlans_and_protocol: u32,
    identification: u16,
    outbound: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    address: u32,
    turned: u32,
    vlans: u32,
    expires: u32,
}

/// How a packet was translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    /// The new address of one end.
    pub(crate) address: u32,
    /// The destination of a packet that was translated twice.
    pub(crate) turned: Option<u32>,
    /// VLANs of an inside endpoint that it is for, else 0.
    pub(crate) vlans: u32,
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

    /// Remembers how a first fragment will be translated, which it is not yet. Does nothing for
    /// whole packets.
    pub(crate) fn note(
        &mut self,
        frame: &[u8],
        headers: &Headers,
        outbound: bool,
        translation: Translation,
        now: u32,
    ) {
        let Some(key) = key(frame, headers, outbound) else { return };
        let Translation { address, turned, vlans } = translation;
        let hash = self.hasher.hash(&key);
        let expires = now.saturating_add(SECONDS);
        let entry = Entry { address, turned: turned.unwrap_or(0), vlans, expires };
        if self.packets.insert(hash, key, entry).is_err() {
            // A packet's fragments follow each other closely: the oldest have long passed, or never
            // will. Of those of one second it is any, or the latest would go again and again.
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn;
            self.packets.evict_near(hash, |key, entry| {
                let identification = u32::from(key.identification);
                Some((entry.expires, (identification ^ turn).wrapping_mul(0x9e37_79b9)))
            });
            let _ = self.packets.insert(hash, key, entry);
        }
    }

    /// How a later fragment is translated.
    pub(crate) fn find(
        &self,
        frame: &[u8],
        headers: &Headers,
        outbound: bool,
        now: u32,
    ) -> Option<Translation> {
        let key = key(frame, headers, outbound)?;
        let entry = self.packets.find(self.hasher.hash(&key), &key)?;
        let Entry { address, turned, vlans, expires } = *entry;
        let turned = Some(turned).filter(|turned| *turned != 0);
        (expires > now).then_some(Translation { address, turned, vlans })
    }
}

fn key(frame: &[u8], headers: &Headers, outbound: bool) -> Option<Key> {
    let Addresses::V4 { source, destination } = headers.addresses else { return None };
    Some(Key {
        source,
        destination,
        vlans_and_protocol: headers.vlans(frame) << 8 | u32::from(headers.protocol),
        // IPv4 has 16 bits.
        identification: headers.fragment?.identification as u16,
        outbound: outbound.into(),
    })
}
