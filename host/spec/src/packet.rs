//! What rules say of a packet's headers, as text: prefixes, protocols, ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::deserialize_text;

/// A text is no prefix, protocol or range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct InvalidHeader {
    text: String,
    what: &'static str,
}

fn invalid(text: &str, what: &'static str) -> InvalidHeader {
    InvalidHeader { text: text.chars().take(64).collect(), what }
}

/// Addresses that begin alike; in text `"10.0.0.0/8"`, `"2001:db8::/32"`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

deserialize_text!(IpPrefix, "a prefix such as \"10.0.0.0/8\"");

impl IpPrefix {
    /// The first of the addresses.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Bits that they have in common.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The same of IPv4, if its addresses are such in disguise (`::ffff:10.0.0.0/104`).
    #[must_use]
    pub fn mapped(self) -> Option<Self> {
        let IpAddr::V6(address) = self.address else { return None };
        let (address, length) = (address.to_ipv4_mapped()?, self.length.checked_sub(96)?);
        Some(Self { address: address.into(), length })
    }

    const fn bits(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

impl FromStr for IpPrefix {
    type Err = InvalidHeader;

    fn from_str(text: &str) -> Result<Self, InvalidHeader> {
        let read = || {
            let (address, length) = match text.split_once('/') {
                Some((address, length)) => (address, Some(length)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let most = Self::bits(address);
            let length = length.map_or(Some(most), |length| {
                decimal(length).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= most)
            })?;
            Some(Self { address, length })
        };
        let Some(prefix) = read() else {
            return Err(invalid(
                text,
                "a prefix; allowed is ADDRESS/LENGTH or an address, such as \"10.0.0.0/8\" or \"2001:db8::1\"",
            ));
        };
        let first = prefix.first();
        if first != prefix.address {
            return Err(invalid(
                text,
                "a prefix: bits behind its length are set; clear them, or write a longer one",
            ));
        }
        Ok(prefix)
    }
}

impl IpPrefix {
    /// Its address with the bits behind its length cleared.
    fn first(self) -> IpAddr {
        let behind = u32::from(Self::bits(self.address) - self.length);
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.length < Self::bits(self.address) {
            write!(f, "/{}", self.length)?;
        }
        Ok(())
    }
}

impl From<IpPrefix> for String {
    fn from(value: IpPrefix) -> Self {
        value.to_string()
    }
}

/// A number in decimal digits, and nothing else.
fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Implements `Deserialize` for what is a text or a number.
macro_rules! deserialize_text_or_number {
    ($name:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;

                impl serde::de::Visitor<'_> for Either {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }

                    // As in JSON Schema, `5.0` is a whole number too.
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }

                deserializer.deserialize_any(Either)
            }
        }
    };
}

/// The number of the protocol behind IP's headers; in text a name or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpProtocol(u8);

/// <https://www.iana.org/assignments/protocol-numbers/>
const PROTOCOLS: [(&str, u8); 11] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("icmpv6", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

deserialize_text_or_number!(IpProtocol, "a protocol such as \"tcp\" or 47");

impl IpProtocol {
    /// The number, from 1 on.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether its packets have ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17 | 33 | 132 | 136)
    }

    fn name(self) -> Option<&'static str> {
        PROTOCOLS.iter().find(|(_, number)| *number == self.0).map(|(name, _)| *name)
    }
}

impl FromStr for IpProtocol {
    type Err = InvalidHeader;

    fn from_str(text: &str) -> Result<Self, InvalidHeader> {
        let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let number = || decimal(text).and_then(|n| u8::try_from(n).ok()).filter(|n| *n > 0);
        named.or_else(number).map(Self).ok_or_else(|| {
            invalid(
                text,
                "a protocol; allowed are icmp, igmp, tcp, udp, dccp, gre, esp, icmpv6, ospf, sctp, udplite, or a number from 1 to 255",
            )
        })
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for IpProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

/// Ports of TCP, UDP and their like; in text `"443"` or `"1024-65535"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

deserialize_text_or_number!(PortRange, "ports such as \"443\" or \"1024-65535\"");

impl PortRange {
    /// The first.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last; the same if it is one.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }
}

impl FromStr for PortRange {
    type Err = InvalidHeader;

    fn from_str(text: &str) -> Result<Self, InvalidHeader> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port =
            |text: &str| decimal(text).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(invalid(
                text,
                "a port or a range of ports; allowed are numbers from 1 to 65535, such as \"443\" or \"1024-65535\"",
            )),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

impl From<PortRange> for String {
    fn from(value: PortRange) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "2001:db8::/32", "::/0", "::1"] {
            assert_eq!(text.parse::<IpPrefix>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7/32".parse::<IpPrefix>().unwrap().to_string(), "192.0.2.7");
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10/8",
            "10.0.0.1/8",
            "::1/127",
            "::/129",
        ] {
            assert!(bad.parse::<IpPrefix>().is_err(), "{bad:?}");
        }
        let error = "10.0.0.1/8".parse::<IpPrefix>().unwrap_err().to_string();
        assert!(error.contains("bits behind its length are set"), "{error}");
    }

    #[test]
    fn protocols_are_read_and_written() {
        for (text, number, written) in [("tcp", 6, "tcp"), ("6", 6, "tcp"), ("200", 200, "200")] {
            let protocol: IpProtocol = text.parse().unwrap();
            assert_eq!((protocol.get(), protocol.to_string().as_str()), (number, written));
        }
        for bad in ["", "TCP", "0", "256", "-1", "+6", "0x6"] {
            assert!(bad.parse::<IpProtocol>().is_err(), "{bad:?}");
        }
        let both = r#"["udp",17,200]"#;
        let read: Vec<IpProtocol> = serde_json::from_str(both).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"["udp","udp",200]"#);
    }

    #[test]
    fn ports_are_read_and_written() {
        for text in ["443", "1-65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!("80-80".parse::<PortRange>().unwrap().to_string(), "80");
        for bad in ["", "0", "65536", "2-1", "1-", "-1", "1-2-3", "a", "+1"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?}");
        }
        assert_eq!(serde_json::from_str::<PortRange>("443").unwrap().last(), 443);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f:./+-]{0,20}") {
            let _ = text.parse::<IpPrefix>();
            let _ = text.parse::<IpProtocol>();
            let _ = text.parse::<PortRange>();
        }
    }
}
