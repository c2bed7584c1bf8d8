//! Later fragments have no ports: they follow the first one of their packet.
//!
//! Owns: which packets' first fragments passed. Must not know: rules, flows.

use weir_sdk::flow::Hasher;
use weir_sdk::parse::{Addresses, Headers};
use weir_sdk::region::{StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Packets whose fragments are remembered: the latest.
const PACKETS: usize = 1024;
/// Seconds for which they are (RFC 791 suggests 15 for reassembly, Linux takes 30).
const SECONDS: u32 = 30;
/// No protocol's number (IANA: reserved).
const ANY: u32 = 0xff;

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    ends: [u64; 4],
    identification: u32,
    /// [`ANY`] for IPv6, where only the first fragment tells it (RFC 8200, section 4.5); above its
    /// 8 bits, the VLANs.
    protocol: u32,
}

/// A first fragment that passed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct First {
    /// The second in which it is forgotten, and the part of that, in 1/65536.
    until: u32,
    fraction: u16,
    /// Where it ends, as the others' offsets are counted.
    end: u16,
}

/// What a later fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Later {
    /// Part of a packet whose first fragment passed.
    Follows,
    /// In place of what the first fragment has told, or of where a TCP header lies (RFC 1858, RFC
    /// 3128, RFC 5722).
    Overlaps,
    /// Part of a packet whose first fragment was not seen.
    Unknown,
}

/// See the module.
pub(crate) struct Fragments {
    packets: StateMap<Key, First>,
}

impl Fragments {
    pub(crate) fn new(region: &mut StateRegion) -> Result<Self, String> {
        Ok(Self { packets: region.map("fragments", PACKETS)? })
    }

    /// Remembers a first fragment. Does nothing for whole packets.
    pub(crate) fn note(&mut self, hasher: &Hasher, frame: &[u8], headers: &Headers, nanos: u64) {
        let Some(key) = key(frame, headers) else { return };
        let hash = hasher.hash(&key);
        let (seconds, fraction) = parts(nanos);
        let length = headers.end.saturating_sub(headers.fragmentable(frame));
        let first = First {
            until: seconds.saturating_add(SECONDS),
            fraction,
            end: u16::try_from(length).unwrap_or(u16::MAX),
        };
        if self.packets.insert(hash, key, first).is_err() {
            // A packet's fragments follow each other closely: the oldest have long passed, or never
            // will.
            self.packets.evict_near(hash, |_, first| Some((first.until, first.fraction)));
            let _ = self.packets.insert(hash, key, first);
        }
    }

    pub(crate) fn judge(
        &self,
        hasher: &Hasher,
        frame: &[u8],
        headers: &Headers,
        nanos: u64,
    ) -> Later {
        let now = parts(nanos);
        let first = key(frame, headers)
            .and_then(|key| self.packets.find(hasher.hash(&key), &key))
            .filter(|first| (first.until, first.fraction) > now);
        let least = first.map_or(0, |first| first.end).max(16);
        match first {
            _ if headers.fragment.is_some_and(|fragment| fragment.offset < least) => {
                Later::Overlaps
            }
            Some(_) => Later::Follows,
            None => Later::Unknown,
        }
    }
}

/// A moment in seconds and 1/65536 of them.
// Seconds of 136 years, and a fraction below 1.
fn parts(nanos: u64) -> (u32, u16) {
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    (seconds as u32, ((rest << 16) / 1_000_000_000) as u16)
}

fn key(frame: &[u8], headers: &Headers) -> Option<Key> {
    let fragment = headers.fragment?;
    let halves = |n: u128| [n as u64, (n >> 64) as u64];
    let (source, destination, protocol) = match headers.addresses {
        Addresses::V4 { source, destination } => {
            (source.into(), destination.into(), headers.protocol.into())
        }
        Addresses::V6 { source, destination } => (source, destination, ANY),
    };
    let ([a, b], [c, d]) = (halves(source), halves(destination));
    let protocol = protocol | headers.vlans(frame) << 8;
    Some(Key { ends: [a, b, c, d], identification: fragment.identification, protocol })
}
