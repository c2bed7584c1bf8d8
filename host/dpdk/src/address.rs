//! What a device is called: a PCI address or a virtual device's name, with arguments for its
//! driver.

use std::fmt;
use std::str::FromStr;

/// A device's address. Its text is what DPDK calls "devargs".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pci: bool,
    pub(crate) name: String,
    /// Without the comma in front; empty if there are none.
    pub(crate) arguments: String,
}

impl Address {
    pub(crate) fn is_pci(&self) -> bool {
        self.pci
    }

    /// DPDK's name of the bus.
    pub(crate) fn bus(&self) -> &'static str {
        if self.pci { "pci" } else { "vdev" }
    }

    /// A virtual device's driver: its name without the number.
    pub(crate) fn driver(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    /// The value of an argument.
    pub(crate) fn argument(&self, key: &str) -> Option<&str> {
        self.arguments
            .split(',')
            .find_map(|pair| pair.split_once('=').filter(|p| p.0 == key))
            .map(|p| p.1)
    }

    /// Adds an argument.
    pub(crate) fn push(&mut self, key: &str, value: impl fmt::Display) {
        if !self.arguments.is_empty() {
            self.arguments.push(',');
        }
        self.arguments += &format!("{key}={value}");
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.arguments.is_empty() {
            write!(f, ",{}", self.arguments)?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let arguments = arguments.to_owned();
        if text.contains('\0') {
            return Err(format!("{text:?} contains a zero byte"));
        }
        if let Some(name) = pci(name) {
            return Ok(Self { pci: true, name, arguments });
        }
        let driver = name.strip_prefix("net_").or_else(|| name.strip_prefix("eth_"));
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if driver.is_some_and(|rest| !rest.is_empty() && rest.chars().all(word)) {
            return Ok(Self { pci: false, name: name.to_owned(), arguments });
        }
        Err(format!(
            "{text:?} is no device: allowed are a PCI address such as \"0000:01:10.0\", and a virtual device such \
             as \"net_af_packet0,iface=eth1\" (its driver, a number, and the driver's arguments)"
        ))
    }
}

/// A PCI address with its domain; the domain 0000 may be left out.
fn pci(text: &str) -> Option<String> {
    let (rest, function) = text.split_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [bus, device] => ("0000", bus, device),
        [domain, bus, device] => (domain, bus, device),
        _ => return None,
    };
    let hex = |part: &str, digits| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let fine = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    fine.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address: Address = "0000:01:10.0,representor=0".parse().unwrap();
        assert!(address.is_pci());
        assert_eq!(
            (address.bus(), address.to_string().as_str()),
            ("pci", "0000:01:10.0,representor=0")
        );
        assert_eq!("AF:00.1".parse::<Address>().unwrap().to_string(), "0000:af:00.1");
        let mut address: Address = "net_af_packet0,iface=veth1".parse().unwrap();
        assert!(!address.is_pci());
        assert_eq!((address.driver(), address.argument("iface")), ("net_af_packet", Some("veth1")));
        assert_eq!(address.argument("face"), None);
        address.push("framesz", 1952);
        assert_eq!(address.to_string(), "net_af_packet0,iface=veth1,framesz=1952");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "eth0", "net_", "01:10", "0000:01:10.g", "net_null0;x", "net_null0\0"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("is no device") || error.contains("zero byte"), "{error}");
        }
    }
}
