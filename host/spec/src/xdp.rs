//! Keys of `xdp` ports: where their program runs, and which packets it takes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::invalid::Invalid;
use crate::text::deserialize_text;

/// Maximum number of packets that a port's `leave` and `claim` name together.
const MATCHES_MAX: usize = 16;
/// Numbers of VLANs are less.
const VLAN_END: u16 = 4095;
/// Entries of a ring.
const RING: std::ops::RangeInclusive<u32> = 64..=32_768;

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver where it can, else as `generic`.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver: works everywhere, and costs more.
    Generic,
}

/// Where the XDP program is pinned, so that it outlives a crash of the host; in text a path, or
/// `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpPin {
    /// On the bpffs that is mounted here.
    At(PathBuf),
    /// Nowhere.
    Never,
}

impl Serialize for XdpPin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(path) => path.serialize(serializer),
            Self::Never => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for XdpPin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl serde::de::Visitor<'_> for Either {
            type Value = XdpPin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, or the path of a bpffs such as \"/sys/fs/bpf\"")
            }

            fn visit_bool<E: serde::de::Error>(self, pin: bool) -> Result<XdpPin, E> {
                if pin {
                    return Err(E::invalid_value(serde::de::Unexpected::Bool(pin), &self));
                }
                Ok(XdpPin::Never)
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<XdpPin, E> {
                if !path.starts_with('/') {
                    return Err(E::custom(format!(
                        "{path:?} is not an absolute path; allowed is where a bpffs is mounted, such as \"/sys/fs/bpf\", or false"
                    )));
                }
                Ok(XdpPin::At(path.into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Packets that look so: all that is named has to be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PacketMatch {
    /// What the frame carries, behind VLAN tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<EtherType>,
    /// The outer VLAN's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whom the frame is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<MacAddress>,
}

impl PacketMatch {
    fn check(&self) -> Result<(), Invalid> {
        if *self == Self::default() {
            return Err(Invalid::whole("nothing is named, so every packet would match")
                .help("name at least one of: ethertype, vlan, destination"));
        }
        check_vlan(self.vlan)
    }
}

/// Looks at the number of a VLAN.
pub(crate) fn check_vlan(vlan: Option<u16>) -> Result<(), Invalid> {
    if let Some(vlan) = vlan.filter(|vlan| *vlan >= VLAN_END) {
        return Err(Invalid::at("vlan", format!("there is no VLAN {vlan}"))
            .help(format!("allowed: 0 to {}", VLAN_END - 1)));
    }
    Ok(())
}

/// Looks at a port's `leave` and `claim`.
pub(crate) fn check_matches(leave: &[PacketMatch], claim: &[PacketMatch]) -> Result<(), Invalid> {
    for (key, matches) in [("leave", leave), ("claim", claim)] {
        for (index, one) in matches.iter().enumerate() {
            one.check().map_err(|e| e.within_array(key, index))?;
        }
    }
    if leave.len() + claim.len() > MATCHES_MAX {
        let key = if claim.is_empty() { "leave" } else { "claim" };
        return Err(Invalid::at(
            key,
            format!("{} packets in `leave` and `claim`", leave.len() + claim.len()),
        )
        .help(format!("allowed: {MATCHES_MAX} together")));
    }
    Ok(())
}

/// Looks at the size of a ring.
pub(crate) fn check_ring(key: &str, entries: Option<u32>) -> Result<(), Invalid> {
    match entries {
        Some(entries) if !entries.is_power_of_two() || !RING.contains(&entries) => {
            Err(Invalid::at(key, format!("a ring of {entries}")).help(format!(
                "allowed: a power of two from {} to {}",
                RING.start(),
                RING.end()
            )))
        }
        _ => Ok(()),
    }
}

/// A text is no EtherType or MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct InvalidField {
    text: String,
    what: &'static str,
}

/// The number of what an Ethernet frame carries; in text a name or a number such as `"0x88cc"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct EtherType(u16);

/// <https://www.iana.org/assignments/ieee-802-numbers/>
const ETHERTYPES: [(&str, u16); 6] = [
    ("arp", 0x0806),
    ("ipv4", 0x0800),
    ("ipv6", 0x86dd),
    ("lldp", 0x88cc),
    ("lacp", 0x8809),
    ("eapol", 0x888e),
];
/// Less is a length (IEEE 802.3, 3.2.6).
const ETHERTYPE_MIN: u16 = 0x0600;

deserialize_text!(EtherType, "an EtherType such as \"arp\" or \"0x88cc\"");

impl EtherType {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for EtherType {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let named = ETHERTYPES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let number = || u16::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        named.or_else(number).filter(|number| *number >= ETHERTYPE_MIN).map(Self).ok_or_else(|| InvalidField {
            text: text.chars().take(64).collect(),
            what: "an EtherType; allowed are arp, ipv4, ipv6, lldp, lacp, eapol, or a number from \"0x0600\" to \"0xffff\"",
        })
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ETHERTYPES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "0x{:04x}", self.0),
        }
    }
}

impl From<EtherType> for String {
    fn from(value: EtherType) -> Self {
        value.to_string()
    }
}

/// A MAC address; in text `"02:00:00:00:00:01"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct MacAddress([u8; 6]);

deserialize_text!(MacAddress, "a MAC address such as \"02:00:00:00:00:01\"");

impl MacAddress {
    /// Its bytes, in the order of the wire.
    #[must_use]
    pub const fn get(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let invalid = || InvalidField {
            text: text.chars().take(64).collect(),
            what: "a MAC address; allowed are six bytes in hexadecimal, such as \"02:00:00:00:00:01\"",
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(invalid)?;
        }
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(value: MacAddress) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethertypes_and_addresses_are_read_and_written() {
        for (text, number) in [("arp", 0x0806), ("0x88cc", 0x88cc), ("0x88B5", 0x88b5)] {
            assert_eq!(text.parse::<EtherType>().unwrap().get(), number);
        }
        assert_eq!("0x88cc".parse::<EtherType>().unwrap().to_string(), "lldp");
        assert_eq!("0x88b5".parse::<EtherType>().unwrap().to_string(), "0x88b5");
        for bad in ["", "ARP", "0x", "0x05ff", "2054", "0x10000", "0x-1"] {
            assert!(bad.parse::<EtherType>().is_err(), "{bad:?}");
        }
        let address: MacAddress = "02:00:00:00:00:aB".parse().unwrap();
        assert_eq!((address.get()[5], address.to_string().as_str()), (0xab, "02:00:00:00:00:ab"));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "+2:00:00:00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }
}
