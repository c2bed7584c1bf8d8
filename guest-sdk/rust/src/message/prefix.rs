//! Prefixes of client addresses, of both families alike.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::config::prefix;

/// Bits of an address in which IPv4 is `::ffff:a.b.c.d`.
const BITS: u32 = 128;
/// Of these, those before an IPv4 address.
const MAPPED: u32 = 96;

/// A prefix such as `10.0.0.0/8` or `2001:db8::/32`; an address alone is one of all its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: u128,
    length: u32,
}

impl Prefix {
    /// Whether an address lies in it, as [`Head::client_bytes`](super::Head::client_bytes) gives
    /// it.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: [u8; 16]) -> bool {
        cut(u128::from_be_bytes(address), self.length) == self.address
    }

    /// Its length, counted as for an IPv6 address.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The leading bits of an address, `v4` of an IPv4 address or `v6` of another: what clients of
    /// one network have in common.
    #[must_use]
    #[inline]
    pub fn network(address: [u8; 16], v4: u32, v6: u32) -> u128 {
        let mapped = address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let length = if mapped { MAPPED + v4 } else { v6 };
        cut(u128::from_be_bytes(address), length)
    }
}

fn cut(address: u128, length: u32) -> u128 {
    let keep = u128::MAX.checked_shl(BITS.saturating_sub(length)).unwrap_or(0);
    address & keep
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = prefix(text)?;
        let (address, before) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED),
            IpAddr::V6(address) => (address, 0),
        };
        Ok(Self { address: address.into(), length: before + u32::from(length) })
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Prefix;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prefix such as \"10.0.0.0/8\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prefix, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(address: &str) -> [u8; 16] {
        match address.parse().unwrap() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }

    #[test]
    fn families_do_not_mix() {
        let is_in =
            |prefix: &str, address| prefix.parse::<Prefix>().unwrap().contains(bytes(address));
        assert!(is_in("10.0.0.0/8", "10.255.0.1") && !is_in("10.0.0.0/8", "11.0.0.1"));
        assert!(is_in("0.0.0.0/0", "1.2.3.4") && !is_in("0.0.0.0/0", "2001:db8::1"));
        assert!(is_in("::/0", "2001:db8::1") && is_in("::/0", "1.2.3.4"));
        assert!(is_in("192.0.2.1", "192.0.2.1") && !is_in("192.0.2.1", "192.0.2.2"));
        assert!(is_in("2001:db8::/32", "2001:db8:1::") && !is_in("2001:db8::/32", "2001:db9::"));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        assert!("10.0.0.1/8".parse::<Prefix>().unwrap_err().contains("behind its length"));
        assert!(serde_json::from_str::<Prefix>("\"10/8\"").is_err());
    }

    #[test]
    fn networks_are_cut_by_family() {
        let network = |address| Prefix::network(bytes(address), 24, 56);
        assert_eq!(network("192.0.2.1"), network("192.0.2.200"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8::1"), network("2001:db8:0:ff::1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:100::1"));
    }
}
