//! The flow hash: a multiply-and-fold hash in the manner of wyhash (Wang Yi, 2019), fed with the
//! two ends of a flow in an order that does not depend on the direction.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::frame::Flow;

/// wyhash's constants: odd, with as many ones as zeros in every byte.
pub(crate) const SECRET: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// The hash of the flow that a frame belongs to: the same for both directions, never 0.
///
/// A flow is named by addresses, ports and protocol (TCP, UDP, SCTP, DCCP, UDP-Lite), by addresses
/// and protocol where there are no ports, and by hardware addresses and type if the frame is
/// not IP. VLAN tags do not count. All fragments of a packet hash alike, by addresses and
/// protocol, and so not like the whole packets of their flow. Any bytes have a hash.
///
/// `seed` should be random where senders are not trusted, so that they cannot aim at one hash.
#[must_use]
#[inline]
pub fn flow_hash(frame: &[u8], seed: u64) -> u32 {
    of_flow(Flow::of(frame), frame.len(), seed)
}

/// The hash of a flow; of a runt, by its length.
#[inline]
pub(crate) fn of_flow(flow: Flow, length: usize, seed: u64) -> u32 {
    let (a, b, kind) = match flow {
        Flow::V4 { source, destination, ports, protocol } => (
            u64::from(source) << 16 | u64::from(ports.0),
            u64::from(destination) << 16 | u64::from(ports.1),
            u64::from(protocol),
        ),
        Flow::V6 { source, destination, ports, protocol } => {
            let end = |address: (u64, u64), port: u16| {
                // Both factors with the seed: who knew one that is 0 would have a hash for any
                // other.
                let high = address.0 ^ seed ^ SECRET[0];
                let low = address.1 ^ seed.rotate_left(32) ^ SECRET[1];
                fold(high, low).wrapping_add(fold_port(port))
            };
            (end(source, ports.0), end(destination, ports.1), 0x100 | u64::from(protocol))
        }
        Flow::Ethernet { source, destination, kind } => {
            (source, destination, 0x1_0000 | u64::from(kind))
        }
        Flow::Runt => (0, 0, 0x2_0000 | length as u64),
    };
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    let mixed = fold(low ^ seed ^ SECRET[2], high ^ SECRET[3] ^ kind << 48);
    let mixed = fold(mixed ^ SECRET[0], SECRET[1] ^ seed ^ kind);
    ((mixed >> 32) as u32).max(1)
}

/// Spreads a port over the whole word before it is added to an address's hash.
#[inline]
fn fold_port(port: u16) -> u64 {
    u64::from(port).wrapping_mul(SECRET[2])
}

/// The product's two halves, folded into one.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// The same hash for tables of rules, with a secret, so that nobody who writes rules can aim at one
/// place of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    state: u64,
    secret: u64,
}

impl Fold {
    /// With a secret that nobody knows.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        Self { state: random.hash_one(0), secret: random.hash_one(1) }
    }
}

impl BuildHasher for Fold {
    type Hasher = Self;

    #[inline]
    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Fold {
    #[inline]
    fn write_u128(&mut self, pair: u128) {
        self.state = fold(self.state ^ (pair >> 64) as u64, self.secret ^ pair as u64);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u128(u128::from(*byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::flow_hash;

    /// A UDP or TCP frame over IPv4 or IPv6, with so many VLAN tags.
    fn frame(ends: [([u8; 16], u16); 2], tcp: bool, v6: bool, tags: u8) -> Vec<u8> {
        let [(from, from_port), (to, to_port)] = ends;
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let id = |n| etherparse::VlanId::try_new(n).expect("id");
        let four = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
        macro_rules! ip {
            ($below:expr) => {
                if v6 { $below.ipv6(from, to, 64) } else { $below.ipv4(four(from), four(to), 64) }
            };
        }
        let ip = match tags {
            0 => ip!(ethernet),
            1 => ip!(ethernet.single_vlan(id(7))),
            _ => ip!(ethernet.double_vlan(id(7), id(8))),
        };
        let mut bytes = Vec::new();
        if tcp {
            ip.tcp(from_port, to_port, 1, 2).write(&mut bytes, b"payload")
        } else {
            ip.udp(from_port, to_port).write(&mut bytes, b"payload")
        }
        .expect("frame");
        bytes
    }

    const ENDS: [([u8; 16], u16); 2] = [([10; 16], 1234), ([11; 16], 443)];

    #[test]
    fn no_half_of_an_address_hides_the_other() {
        let address =
            |high: u64, low: u64| (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        let hash = |from| flow_hash(&frame([(from, 1234), ENDS[1]], true, true, 0), 7);
        // What they have in common is no secret.
        let [one, other] = [1, 2].map(|high| address(high, super::SECRET[1]));
        assert_ne!(hash(one), hash(other));
    }

    #[test]
    fn everything_that_names_a_flow_counts() {
        let base = frame(ENDS, true, false, 0);
        let hash = flow_hash(&base, 1);
        let [a, b] = ENDS;
        for other in [
            frame([(a.0, 1235), b], true, false, 0),
            frame([a, (b.0, 444)], true, false, 0),
            frame([([9; 16], a.1), b], true, false, 0),
            frame([(a.0, b.1), (b.0, a.1)], true, false, 0),
            frame(ENDS, false, false, 0),
            frame(ENDS, true, true, 0),
        ] {
            assert_ne!(flow_hash(&other, 1), hash);
        }
        assert_ne!(flow_hash(&base, 2), hash);
    }

    #[test]
    fn fragments_go_along() {
        // Of one UDP datagram: the first has ports, the others payload where they were.
        let mut first = frame(ENDS, false, false, 0);
        first[20] |= 0x20;
        let mut second = first.clone();
        (second[20], second[21]) = (0, 185);
        second[34..].fill(0xee);
        assert_eq!(flow_hash(&first, 1), flow_hash(&second, 1));
        assert_ne!(flow_hash(&first, 1), flow_hash(&frame(ENDS, false, false, 0), 1));
        // "Don't fragment" makes no fragment.
        let mut whole = frame(ENDS, false, false, 0);
        whole[20] ^= 0x40;
        assert_eq!(flow_hash(&whole, 1), flow_hash(&frame(ENDS, false, false, 0), 1));
    }

    /// An IPv6 UDP frame with this extension header in front of UDP.
    fn extended(kind: u8, header: &[u8]) -> Vec<u8> {
        let mut bytes = frame(ENDS, false, true, 0);
        bytes[20] = kind;
        bytes.splice(54..54, header.iter().copied());
        bytes
    }

    #[test]
    fn extension_headers_are_passed() {
        let plain = flow_hash(&frame(ENDS, false, true, 0), 1);
        let long = [[17, 1, 0, 0, 0, 0, 0, 0], [0; 8]].concat();
        for kind in [0, 43, 60, 135] {
            assert_eq!(flow_hash(&extended(kind, &long), 1), plain, "{kind}");
        }
        let authentication = [[17, 2, 0, 0, 0, 0, 0, 0], [0; 8]].concat();
        assert_eq!(flow_hash(&extended(51, &authentication), 1), plain);
        // An atomic fragment is the whole packet; others go by addresses.
        assert_eq!(flow_hash(&extended(44, &[17, 0, 0, 0, 1, 2, 3, 4]), 1), plain);
        let first = extended(44, &[17, 0, 0, 1, 1, 2, 3, 4]);
        let mut later = extended(44, &[17, 0, 5, 0, 1, 2, 3, 4]);
        later[62..].fill(0xee);
        assert_eq!(flow_hash(&first, 1), flow_hash(&later, 1));
        assert_ne!(flow_hash(&first, 1), plain);
    }

    #[test]
    fn flows_spread_evenly() {
        const BUCKETS: usize = 64;
        const FLOWS: u32 = 64_000;
        for v6 in [false, true] {
            let mut buckets = [0_i64; BUCKETS];
            let mut low = [0_i64; BUCKETS];
            for flow in 0..FLOWS {
                let mut from = [10; 16];
                from[..2].copy_from_slice(&(flow as u16 / 16).to_be_bytes());
                let ends = [(from, 1024 + (flow % 16) as u16), ([11; 16], 53)];
                let hash = flow_hash(&frame(ends, false, v6, 0), 42);
                buckets[hash as usize >> 26] += 1;
                low[hash as usize % BUCKETS] += 1;
            }
            for counts in [buckets, low] {
                let mean = i64::from(FLOWS) / BUCKETS as i64;
                let chi: i64 = counts.iter().map(|n| (n - mean) * (n - mean)).sum::<i64>() / mean;
                // 63 degrees of freedom: more than 120 happens once in 50,000.
                assert!(chi < 120, "chi square {chi}: {counts:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn both_directions_hash_alike(
            ends: [([u8; 16], u16); 2], tcp: bool, v6: bool, tags in 0_u8..3, seed: u64,
        ) {
            let there = flow_hash(&frame(ends, tcp, v6, tags), seed);
            let [a, b] = ends;
            prop_assert_eq!(there, flow_hash(&frame([b, a], tcp, v6, 0), seed));
        }

        #[test]
        fn hardware_addresses_are_symmetric(
            mut frame in prop::collection::vec(any::<u8>(), 14..64), seed: u64,
        ) {
            (frame[12], frame[13]) = (0x08, 0x06);
            let there = flow_hash(&frame, seed);
            frame[..12].rotate_left(6);
            prop_assert_eq!(there, flow_hash(&frame, seed));
        }

        #[test]
        fn any_bytes_have_a_hash(frame in prop::collection::vec(any::<u8>(), 0..200), seed: u64) {
            prop_assert_ne!(flow_hash(&frame, seed), 0);
        }

        #[test]
        fn any_damage_has_a_hash(
            ends: [([u8; 16], u16); 2], v6: bool, tags in 0_u8..3, kind: u8,
            length in 0_usize..100, at in 0_usize..100, byte: u8,
        ) {
            let mut bytes = frame(ends, true, v6, tags);
            if v6 {
                bytes[20 + 4 * usize::from(tags)] = kind;
            }
            if let Some(hit) = bytes.get_mut(at) {
                *hit = byte;
            }
            bytes.truncate(length);
            prop_assert_ne!(flow_hash(&bytes, 7), 0);
        }
    }
}
