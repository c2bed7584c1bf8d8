//! Naming flows: keys of 16 bytes (IPv4) and 40 (IPv6), and a hash for them.
//!
//! Owns: keys and hashing. Must not know: packets' bytes, tables.

use std::fmt;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Maximum size of a key, in bytes.
const KEY_MAX: usize = 64;
/// Words of 32 bits in such a key.
const WORDS: usize = KEY_MAX / 4;

/// Where VLANs lie in a key's last word, and what is before them.
const VLANS: u32 = 40;
const UNTAGGED: u64 = (1 << VLANS) - 1;

/// A keyed hash of short keys.
///
/// It is NH of UMAC (RFC 4418, section 5.2.2), which takes one multiplication per 8 bytes, with a
/// finalizer that spreads the result over all 64 bits. For two different keys the chance to collide
/// over all seeds is 2⁻³² whatever the keys are: senders who do not know the seed cannot aim.
#[derive(Clone, Debug)]
pub struct Hasher {
    keys: [u32; WORDS],
}

impl Hasher {
    /// From [`Setup::seed`](crate::Setup::seed), which all instances of a function share.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        // 2014).
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (crate::hash::mix(state) >> 32) as u32
        });
        Self { keys }
    }

    /// The hash of a key of at most 64 bytes.
    #[must_use]
    #[inline]
    pub fn hash<K: IntoBytes + Immutable>(&self, key: &K) -> u64 {
        const { assert!(size_of::<K>() <= KEY_MAX, "a key has at most 64 bytes") };
        let bytes = key.as_bytes();
        let mut sum = 0_u64;
        for (pair, at) in self.keys.chunks_exact(2).zip((0..size_of::<K>()).step_by(8)) {
            let word = match bytes[at..].first_chunk() {
                Some(word) => u64::from_le_bytes(*word),
                None => {
                    let mut last = [0; 8];
                    last[..bytes.len() - at].copy_from_slice(&bytes[at..]);
                    u64::from_le_bytes(last)
                }
            };
            let low = (word as u32).wrapping_add(pair[0]);
            let high = ((word >> 32) as u32).wrapping_add(pair[1]);
            sum = sum.wrapping_add(u64::from(low) * u64::from(high));
        }
        finish(sum)
    }
}

/// Half of MurmurHash3's finalizer: a bijection, after which every bit depends on many.
#[inline]
fn finish(sum: u64) -> u64 {
    let mixed = (sum ^ (sum >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 32)
}

/// A flow over IPv4: two ends (address and port) and a protocol, in 16 bytes.
///
/// Addresses and ports lie in it as they do in a packet, so that making one of a packet's bytes
/// takes two loads.
#[derive(Clone, Copy, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FlowV4([u64; 2]);

impl FlowV4 {
    /// With the ends in this order: the two directions of a connection are two flows.
    #[must_use]
    #[inline]
    pub fn directed(source: (u32, u16), destination: (u32, u16), protocol: u8) -> Self {
        let addresses = u64::from(source.0.to_be()) | u64::from(destination.0.to_be()) << 32;
        let ports = u32::from(source.1.to_be()) | u32::from(destination.1.to_be()) << 16;
        Self::raw(addresses, ports, protocol)
    }

    /// Of addresses and ports as they lie in a packet, read as little-endian numbers.
    #[inline]
    pub(crate) fn raw(addresses: u64, ports: u32, protocol: u8) -> Self {
        Self([addresses, u64::from(ports) | u64::from(protocol) << 32])
    }

    /// The same for both directions, and whether the ends were exchanged for that: of the two
    /// directions of a flow, one says true and the other false (unless both ends are the same).
    #[must_use]
    #[inline]
    pub fn canonical(source: (u32, u16), destination: (u32, u16), protocol: u8) -> (Self, bool) {
        Self::directed(source, destination, protocol).ordered()
    }

    /// As [`FlowV4::canonical`], of this flow.
    #[must_use]
    #[inline]
    pub fn ordered(self) -> (Self, bool) {
        let [addresses, rest] = self.0;
        // Any order will do: that of the bytes as they lie here needs no swaps.
        let source = addresses & 0xffff_ffff | (rest & 0xffff) << 32;
        let destination = addresses >> 32 | (rest & 0xffff_0000) << 16;
        let exchanged = source > destination;
        (if exchanged { self.reversed() } else { self }, exchanged)
    }

    /// The first end's address and port.
    #[must_use]
    #[inline]
    pub fn source(&self) -> (u32, u16) {
        (u32::from_be(self.0[0] as u32), u16::from_be(self.0[1] as u16))
    }

    /// The second end's address and port.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> (u32, u16) {
        (u32::from_be((self.0[0] >> 32) as u32), u16::from_be((self.0[1] >> 16) as u16))
    }

    /// The IP protocol.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> u8 {
        (self.0[1] >> 32) as u8
    }

    /// The flow of the other direction.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        let [addresses, rest] = self.0;
        let ports = u64::from((rest as u32).rotate_left(16));
        Self([addresses.rotate_left(32), rest >> 32 << 32 | ports])
    }

    /// The VLANs that it is in, as [`parse::vlans`](crate::parse::vlans) has them.
    #[must_use]
    #[inline]
    pub fn vlans(&self) -> u32 {
        (self.0[1] >> VLANS) as u32
    }

    /// The same flow in VLANs, as [`parse::vlans`](crate::parse::vlans) has them: another one than
    /// without, or in others.
    #[must_use]
    #[inline]
    pub fn within(self, vlans: u32) -> Self {
        let [addresses, rest] = self.0;
        Self([addresses, rest & UNTAGGED | u64::from(vlans) << VLANS])
    }
}

impl PartialEq for FlowV4 {
    /// By words, in registers: of an array LLVM makes a vector comparison, for which the key goes
    /// through memory.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]) == 0
    }
}

impl Hash for FlowV4 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for FlowV4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((source, from), (destination, to)) = (self.source(), self.destination());
        let (source, destination) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
        write!(f, "{source}:{from} -> {destination}:{to} protocol {}", self.protocol())?;
        write_vlans(f, self.vlans())
    }
}

/// A flow over IPv6: two ends (address and port) and a protocol, in 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FlowV6([u64; 5]);

impl FlowV6 {
    /// As [`FlowV4::directed`].
    #[must_use]
    #[inline]
    pub fn directed(source: (u128, u16), destination: (u128, u16), protocol: u8) -> Self {
        Self([
            (source.0 >> 64) as u64,
            source.0 as u64,
            (destination.0 >> 64) as u64,
            destination.0 as u64,
            u64::from(source.1) | u64::from(destination.1) << 16 | u64::from(protocol) << 32,
        ])
    }

    /// As [`FlowV4::canonical`].
    #[must_use]
    #[inline]
    pub fn canonical(source: (u128, u16), destination: (u128, u16), protocol: u8) -> (Self, bool) {
        let exchanged = source > destination;
        let (low, high) = if exchanged { (destination, source) } else { (source, destination) };
        (Self::directed(low, high, protocol), exchanged)
    }

    /// The first end's address and port.
    #[must_use]
    #[inline]
    pub fn source(&self) -> (u128, u16) {
        (u128::from(self.0[0]) << 64 | u128::from(self.0[1]), self.0[4] as u16)
    }

    /// The second end's address and port.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> (u128, u16) {
        (u128::from(self.0[2]) << 64 | u128::from(self.0[3]), (self.0[4] >> 16) as u16)
    }

    /// The IP protocol.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> u8 {
        (self.0[4] >> 32) as u8
    }

    /// The flow of the other direction.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        let Self([a, b, c, d, rest]) = *self;
        let ports = u64::from((rest as u32).rotate_left(16));
        Self([c, d, a, b, rest >> 32 << 32 | ports])
    }

    /// As [`FlowV4::vlans`].
    #[must_use]
    #[inline]
    pub fn vlans(&self) -> u32 {
        (self.0[4] >> VLANS) as u32
    }

    /// As [`FlowV4::within`].
    #[must_use]
    #[inline]
    pub fn within(self, vlans: u32) -> Self {
        let Self([a, b, c, d, rest]) = self;
        Self([a, b, c, d, rest & UNTAGGED | u64::from(vlans) << VLANS])
    }
}

impl fmt::Debug for FlowV6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((source, from), (destination, to)) = (self.source(), self.destination());
        let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
        write!(f, "[{source}]:{from} -> [{destination}]:{to} protocol {}", self.protocol())?;
        write_vlans(f, self.vlans())
    }
}

/// Says in which VLANs a flow is, the outer one first, if in any.
fn write_vlans(f: &mut fmt::Formatter<'_>, vlans: u32) -> fmt::Result {
    match (vlans >> 12, vlans & 0xfff) {
        (0, 0) => Ok(()),
        (0, vlan) => write!(f, " vlan {vlan}"),
        (outer, inner) => write!(f, " vlan {outer}.{inner}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_directions_have_one_canonical_key(
            a in any::<(u32, u16)>(), b in any::<(u32, u16)>(),
            c in any::<(u128, u16)>(), d in any::<(u128, u16)>(), protocol in any::<u8>(),
        ) {
            let (there, exchanged) = FlowV4::canonical(a, b, protocol);
            let (back, exchanged_back) = FlowV4::canonical(b, a, protocol);
            prop_assert_eq!(there, back);
            prop_assert!(a == b || exchanged != exchanged_back);
            let ends = if exchanged { (b, a) } else { (a, b) };
            prop_assert_eq!((there.source(), there.destination(), there.protocol()), (ends.0, ends.1, protocol));

            let (there, exchanged) = FlowV6::canonical(c, d, protocol);
            prop_assert_eq!(there, FlowV6::canonical(d, c, protocol).0);
            let ends = if exchanged { (d, c) } else { (c, d) };
            prop_assert_eq!((there.source(), there.destination(), there.protocol()), (ends.0, ends.1, protocol));
            prop_assert_eq!(FlowV6::directed(c, d, protocol).reversed(), FlowV6::directed(d, c, protocol));
            prop_assert_eq!(FlowV4::directed(a, b, protocol).reversed(), FlowV4::directed(b, a, protocol));
        }
    }

    #[test]
    fn the_same_ends_in_another_vlan_are_another_flow() {
        let vlans = 0xfff_123;
        let four = FlowV4::directed((1, 2), (3, 4), 6);
        let six = FlowV6::directed((1, 2), (3, 4), 6);
        assert_ne!(four.within(vlans), four);
        assert_ne!(six.within(vlans), six);
        assert_eq!((four.within(vlans).within(0), six.within(vlans).within(0)), (four, six));
        assert_eq!(four.within(vlans).reversed(), four.reversed().within(vlans));
        assert_eq!(six.within(vlans).reversed(), six.reversed().within(vlans));
        assert_eq!((four.within(vlans).protocol(), six.within(vlans).protocol()), (6, 6));
        assert_eq!((four.within(vlans).vlans(), six.within(vlans).vlans()), (vlans, vlans));
        assert_eq!(
            four.within(vlans).ordered(),
            (four.ordered().0.within(vlans), four.ordered().1)
        );
    }

    /// Chi-squared over the buckets that a part of the hash names, for keys as networks have them:
    /// one client's ports, a scan of neighbours.
    #[test]
    fn similar_keys_spread_evenly() {
        const BUCKETS: usize = 1 << 12;
        const KEYS: u32 = 1 << 18;
        for seed in 0..8 {
            let hasher = Hasher::new(seed);
            for part in [0, 20, 32, 52] {
                let mut counts = vec![0_u32; BUCKETS];
                for i in 0..KEYS {
                    let flow = FlowV4::directed(
                        (0x0a00_0000 + (i >> 16), i as u16),
                        (0xc0a8_0001, 443),
                        6,
                    );
                    counts[(hasher.hash(&flow) >> part) as usize % BUCKETS] += 1;
                }
                let expected = f64::from(KEYS) / BUCKETS as f64;
                let chi: f64 =
                    counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
                // A uniform choice gives BUCKETS, plus or minus sqrt(2 BUCKETS) = 90; hashing that
                // is more even than chance is welcome.
                assert!(chi < BUCKETS as f64 + 6.0 * 90.0, "seed {seed}, part {part}: {chi}");
            }
        }
    }

    #[test]
    fn keys_of_any_size_count_to_their_last_byte() {
        let hasher = Hasher::new(1);
        assert_ne!(hasher.hash(&[0_u8; 9]), hasher.hash(&[0, 0, 0, 0, 0, 0, 0, 0, 1_u8]));
        assert_ne!(
            hasher.hash(&[0_u32; 16]),
            hasher.hash(&{
                let mut k = [0_u32; 16];
                k[15] = 1;
                k
            })
        );
        assert_ne!(hasher.hash(&7_u64), Hasher::new(2).hash(&7_u64));
    }

    #[test]
    fn flows_print_readably() {
        let flow = FlowV4::directed((0x0a00_0001, 1000), (0x0a00_0002, 80), 6);
        assert_eq!(format!("{flow:?}"), "10.0.0.1:1000 -> 10.0.0.2:80 protocol 6");
        let tagged = format!("{:?}", flow.within(10));
        assert_eq!(tagged, "10.0.0.1:1000 -> 10.0.0.2:80 protocol 6 vlan 10");
        let flow = FlowV6::directed((1, 1000), (2, 80), 17);
        assert_eq!(format!("{flow:?}"), "[::1]:1000 -> [::2]:80 protocol 17");
        let tagged = format!("{:?}", flow.within(100 << 12 | 10));
        assert_eq!(tagged, "[::1]:1000 -> [::2]:80 protocol 17 vlan 100.10");
    }
}
