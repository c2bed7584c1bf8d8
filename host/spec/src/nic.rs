//! `[[nic]]`: virtual functions of network devices, and how ports and listeners name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::MacAddress;
use crate::invalid::Invalid;
use crate::xdp::check_vlan;

/// What a virtual function's name begins with.
const PREFIX: &str = "vf:";
/// Virtual functions of a device at most, by the PCI specification's 16 bits.
const VFS_MAX: u16 = u16::MAX;
/// Priorities of frames in a VLAN.
const QOS_MAX: u8 = 7;

/// A virtual function by its number; in text `"vf:ens1f0/0"`, with the interface or the PCI address
/// of its physical function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfName {
    /// The physical function.
    pub pf: String,
    /// The number.
    pub index: u16,
}

/// A text begins as a virtual function's name, and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no virtual function; allowed is vf:PF/NUMBER, such as \"vf:ens1f0/0\" or \"vf:0000:01:00.0/0\""
)]
pub struct InvalidVfName(String);

impl VfName {
    /// Reads a device's or an interface's name; none if it is another kind of name. What follows a
    /// comma is for the driver.
    ///
    /// # Errors
    /// When it begins as a virtual function's name, and is none.
    pub fn of(text: &str) -> Result<Option<Self>, InvalidVfName> {
        if !text.starts_with(PREFIX) {
            return Ok(None);
        }
        text.split(',').next().unwrap_or(text).parse().map(Some)
    }
}

impl FromStr for VfName {
    type Err = InvalidVfName;

    fn from_str(text: &str) -> Result<Self, InvalidVfName> {
        let read = || {
            let (pf, index) = text.strip_prefix(PREFIX)?.split_once('/')?;
            let plain = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
            let name = !pf.is_empty() && !pf.contains(|c: char| c.is_whitespace() || c == '\0');
            (plain && name).then(|| Some(Self { pf: pf.to_owned(), index: index.parse().ok()? }))?
        };
        read().ok_or_else(|| InvalidVfName(text.chars().take(64).collect()))
    }
}

impl fmt::Display for VfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}", self.pf, self.index)
    }
}

/// How a virtual function's link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfLink {
    /// As the physical function's.
    Auto,
    /// Always up.
    Up,
    /// Always down.
    Down,
}

/// `[[nic]]`: a physical function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nic {
    /// Its interface or PCI address, as ports and listeners call it behind `vf:`.
    pub pf: String,
    /// How many virtual functions it has. As many as it has, or as are named, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfs: Option<u16>,
    /// How they are set.
    #[serde(rename = "vf", default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<NicVf>,
}

/// `[[nic.vf]]`: a virtual function. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NicVf {
    /// Its number, from 0.
    pub index: u16,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The VLAN that it is in without knowing it; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The priority of its frames there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// Whether it may change its MAC address and see others' frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Whether frames with others' source addresses are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_check: Option<bool>,
    /// Mbit/s that it may send at least; 0: nothing is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_rate: Option<u32>,
    /// Mbit/s that it may send at most; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u32>,
    /// Its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<VfLink>,
}

impl Nic {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.pf.is_empty() {
            return Err(Invalid::at("pf", "no physical function is named")
                .help("name its interface or its PCI address"));
        }
        if self.vfs == Some(0) {
            return Err(Invalid::at("vfs", "0 virtual functions")
                .help(format!("allowed: 1 to {VFS_MAX}, and what the device can; leave it out to keep those that it has")));
        }
        for (place, vf) in self.functions.iter().enumerate() {
            vf.check(self.vfs).map_err(|e| e.within_array("vf", place))?;
            if self.functions[..place].iter().any(|other| other.index == vf.index) {
                return Err(Invalid::at(
                    "index",
                    format!("virtual function {} is named twice", vf.index),
                )
                .help("put both tables into one")
                .within_array("vf", place));
            }
        }
        Ok(())
    }
}

impl NicVf {
    fn check(&self, vfs: Option<u16>) -> Result<(), Invalid> {
        if let Some(vfs) = vfs.filter(|vfs| self.index >= *vfs) {
            return Err(Invalid::at(
                "index",
                format!("there is no virtual function {}", self.index),
            )
            .help(format!("allowed: 0 to {}, or raise `vfs`", vfs - 1)));
        }
        if let Some(mac) = self.mac.filter(|mac| mac.get()[0] & 1 != 0 || mac.get() == [0; 6]) {
            return Err(Invalid::at("mac", format!("{mac} is not the address of one device"))
                .help("allowed: addresses whose first byte is even, and that are not all zeros"));
        }
        check_vlan(self.vlan)?;
        if let Some(qos) = self.qos.filter(|qos| *qos > QOS_MAX) {
            return Err(Invalid::at("qos", format!("there is no priority {qos}"))
                .help(format!("allowed: 0 to {QOS_MAX}")));
        }
        if self.qos.is_some_and(|qos| qos > 0) && self.vlan.unwrap_or(0) == 0 {
            return Err(Invalid::at("qos", "a priority without a VLAN").help("add `vlan`"));
        }
        if let (Some(min), Some(max)) = (self.min_rate, self.max_rate.filter(|max| *max > 0))
            && min > max
        {
            return Err(Invalid::at(
                "min-rate",
                format!("{min} Mbit/s are more than `max-rate`, {max}"),
            )
            .help("lower it, or raise `max-rate`"));
        }
        Ok(())
    }
}

/// A place that names a device: a port's or a listener's number, the key, and the text.
pub(crate) struct Naming<'a> {
    pub(crate) table: &'static str,
    pub(crate) place: usize,
    pub(crate) key: &'static str,
    pub(crate) text: &'a str,
}

/// Looks at virtual functions that ports and listeners name: only such as there shall be, and none
/// for a port and somebody else.
pub(crate) fn check_names<'a>(
    nics: &[Nic],
    names: impl Iterator<Item = Naming<'a>>,
) -> Result<(), Invalid> {
    let mut seen: Vec<(Naming<'_>, VfName)> = Vec::new();
    for naming in names {
        let fail = |message: String, help: String| {
            Invalid::at(naming.key, message).help(help).within_array(naming.table, naming.place)
        };
        let name = match VfName::of(naming.text) {
            Ok(Some(name)) => name,
            Ok(None) => continue,
            Err(error) => {
                let (message, help) = crate::explain(&error.to_string());
                return Err(fail(message, help.unwrap_or_default()));
            }
        };
        let nic = nics.iter().find(|nic| nic.pf == name.pf);
        if let Some(vfs) = nic.and_then(|nic| nic.vfs).filter(|vfs| name.index >= *vfs) {
            return Err(fail(
                format!(
                    "{} shall have {vfs} virtual functions, and this is number {}",
                    name.pf, name.index
                ),
                format!("allowed: 0 to {}, or raise `vfs` in [[nic]]", vfs - 1),
            ));
        }
        // What the kernel has may have listeners, and packets may go up to it.
        let with_kernel = |naming: &Naming| naming.table == "listener" || naming.key == "peer";
        let both = |other: &Naming| {
            with_kernel(other)
                && with_kernel(&naming)
                && (other.key, naming.key) != ("peer", "peer")
        };
        let other = seen.iter().find(|(other, known)| *known == name && !both(other));
        if let Some((other, _)) = other {
            return Err(fail(
                format!("{name} is {}[{}]'s already", other.table, other.place),
                "a virtual function is for one port, or for listeners; name another one".to_owned(),
            ));
        }
        seen.push((naming, name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_virtual_functions_are_read() {
        for (text, pf, index) in [
            ("vf:ens1f0/0", "ens1f0", 0),
            ("vf:0000:01:00.0/12", "0000:01:00.0", 12),
            ("vf:ens1f0/1,no_mac=1", "ens1f0", 1),
        ] {
            let name = VfName::of(text).unwrap().unwrap();
            assert_eq!((name.pf.as_str(), name.index), (pf, index));
        }
        for other in ["eth0", "0000:01:10.0", "net_null0"] {
            assert_eq!(VfName::of(other), Ok(None));
        }
        for bad in [
            "vf:",
            "vf:ens1f0",
            "vf:/0",
            "vf:ens1f0/",
            "vf:ens1f0/x",
            "vf:ens1f0/70000",
            "vf:a b/1",
        ] {
            assert!(VfName::of(bad).is_err(), "{bad}");
        }
    }
}
