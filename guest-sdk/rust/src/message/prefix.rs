//! Prefixes of client addresses, of both families alike.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::config::decimal;

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
    /// Whether an address lies in it, as [`Head::client_bytes`](super::Head::client_bytes) gives it.
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

    /// The leading bits of an address, `v4` of an IPv4 address or `v6` of another: what clients of one network have
    /// in common.
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
        let wrong = || {
            format!(
                "\"{text}\" is no prefix such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\""
            )
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(decimal::<u32>(length).ok_or_else(wrong)?)),
            None => (text, None),
        };
        let (address, bits, before) = match address.parse::<IpAddr>().map_err(|_| wrong())? {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), BITS - MAPPED, MAPPED),
            IpAddr::V6(address) => (address, BITS, 0),
        };
        let length = length.unwrap_or(bits);
        if length > bits {
            return Err(wrong());
        }
        let (address, length) = (u128::from(address), before + length);
        if cut(address, length) != address {
            return Err(format!("\"{text}\" has bits behind its length"));
        }
        Ok(Self { address, length })
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
        for text in [
            "",
            "10.0.0.0/33",
            "10/8",
            "10.0.0.1/8",
            "::/129",
            "a",
            "10.0.0.0/",
            "1.2.3.4/-1",
            "10.0.0.0/+8",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
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
