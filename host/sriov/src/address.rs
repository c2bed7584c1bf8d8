//! How functions are called: PCI addresses and MAC addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A PCI function's address; in text `"0000:01:10.0"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PciAddress {
    domain: u32,
    /// Bus, device and function, as the bus has them in one number.
    routing: u16,
}

/// A text is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a PCI address; allowed is DOMAIN:BUS:DEVICE.FUNCTION, such as \"0000:01:10.0\""
)]
pub struct InvalidPciAddress(String);

impl PciAddress {
    /// The function so many numbers behind this one; none if the domain has no such number.
    pub(crate) fn behind(self, numbers: u32) -> Option<Self> {
        let routing = u16::try_from(u32::from(self.routing).checked_add(numbers)?).ok()?;
        Some(Self { routing, ..self })
    }
}

impl FromStr for PciAddress {
    type Err = InvalidPciAddress;

    /// The domain may be left out, and is 0000 then.
    fn from_str(text: &str) -> Result<Self, InvalidPciAddress> {
        let read = || {
            let (rest, function) = text.split_once('.')?;
            let parts: Vec<&str> = rest.split(':').collect();
            let (domain, bus, device) = match parts[..] {
                [bus, device] => ("0000", bus, device),
                [domain, bus, device] => (domain, bus, device),
                _ => return None,
            };
            let hex = |part: &str, digits: std::ops::RangeInclusive<usize>, most| {
                let plain = part.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u32::from_str_radix(part, 16).ok().filter(|n| *n <= most)?;
                (plain && digits.contains(&part.len())).then_some(number)
            };
            // Domains behind virtual bridges have more digits.
            let domain = hex(domain, 4..=8, u32::MAX)?;
            let (bus, device) = (hex(bus, 2..=2, 0xff)?, hex(device, 2..=2, 0x1f)?);
            let routing = bus << 8 | device << 3 | hex(function, 1..=1, 7)?;
            Some(Self { domain, routing: routing as u16 })
        };
        read().ok_or_else(|| InvalidPciAddress(text.chars().take(64).collect()))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) =
            (self.routing >> 8, self.routing >> 3 & 0x1f, self.routing & 7);
        f.pad(&format!("{:04x}:{bus:02x}:{device:02x}.{function}", self.domain))
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for PciAddress {
    type Error = InvalidPciAddress;

    fn try_from(text: String) -> Result<Self, InvalidPciAddress> {
        text.parse()
    }
}

/// A MAC address; in text `"02:00:00:00:00:01"`. All zeros: none was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddress(pub [u8; 6]);

/// A text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a MAC address; allowed are six bytes in hexadecimal, such as \"02:00:00:00:00:01\""
)]
pub struct InvalidMac(String);

impl MacAddress {
    /// Whether a function can have it for its own: no group's, and not all zeros, which takes one
    /// away.
    #[must_use]
    pub fn is_of_one(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::default()
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let mut read = || {
            for byte in &mut bytes {
                let part = parts.next()?;
                let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
                *byte = plain.then(|| u8::from_str_radix(part, 16).ok()).flatten()?;
            }
            parts.next().is_none().then_some(())
        };
        match read() {
            Some(()) => Ok(Self(bytes)),
            None => Err(InvalidMac(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("0000:01:10.0", "0000:01:10.0"),
            ("AF:1f.7", "0000:af:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), written);
        }
        for bad in
            ["", "ens1f0", "01:10", "0000:01:20.0", "0000:01:10.8", "1:01:10.0", "+000:01:10.0"]
        {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
        let pf: PciAddress = "0000:01:00.0".parse().unwrap();
        assert_eq!(pf.behind(128 + 2).unwrap().to_string(), "0000:01:10.2");
        assert_eq!(pf.behind(0xffff), None);
        let mac: MacAddress = "02:00:00:00:00:aB".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:00:00:00:ab");
        assert!(mac.is_of_one() && !MacAddress::default().is_of_one());
        assert!(!MacAddress([1, 0, 0, 0, 0, 1]).is_of_one());
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:1", "+2:00:00:00:00:01"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
