//! All that can be set: where it is, how it is read, how it is written.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::{MacAddress, PciAddress};
use crate::drivers;
use crate::error::{SriovError, asking, writing};
use crate::functions::VfSettings;
use crate::kernel::Kernel;
use crate::kernel_log::Mark;
use crate::sysfs;

/// How a virtual function's link is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// As the physical function's.
    Auto,
    /// Always up.
    Up,
    /// Always down.
    Down,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Something that the physical function sets for a virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfValue {
    /// Its MAC address; all zeros: its driver chooses one.
    Mac(MacAddress),
    /// The VLAN that it is in without knowing it (0: none), and the priority of its frames there.
    Vlan {
        /// 0 to 4094.
        vlan: u16,
        /// 0 to 7.
        qos: u8,
    },
    /// Whether it may change its MAC address and see others' frames.
    Trust(bool),
    /// Whether frames with others' source addresses are dropped.
    SpoofCheck(bool),
    /// What it may send, in Mbit/s; 0: no limit.
    Rate {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// Its link.
    Link(LinkState),
}

impl VfValue {
    /// The value in this place now, if the driver tells it.
    fn among(self, settings: &VfSettings) -> Option<Self> {
        Some(match self {
            Self::Mac(_) => Self::Mac(settings.mac?),
            Self::Vlan { .. } => Self::Vlan { vlan: settings.vlan, qos: settings.qos },
            Self::Trust(_) => Self::Trust(settings.trust?),
            Self::SpoofCheck(_) => Self::SpoofCheck(settings.spoof_check?),
            Self::Rate { .. } => Self::Rate { min: settings.min_rate, max: settings.max_rate },
            Self::Link(_) => Self::Link(settings.link?),
        })
    }
}

impl fmt::Display for VfValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on| if on { "on" } else { "off" };
        match *self {
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Vlan { vlan, qos: 0 } => write!(f, "vlan {vlan}"),
            Self::Vlan { vlan, qos } => write!(f, "vlan {vlan}, qos {qos}"),
            Self::Trust(trust) => write!(f, "trust {}", on(trust)),
            Self::SpoofCheck(check) => write!(f, "spoof-check {}", on(check)),
            Self::Rate { min, max } => write!(f, "min-rate {min}, max-rate {max} Mbit/s"),
            Self::Link(state) => write!(f, "link {state}"),
        }
    }
}

/// Which interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// That of this device, whatever it is called now.
    Device(PciAddress),
    /// The one of this name.
    Named(String),
}

impl Interface {
    /// Its name, if it is there.
    pub(crate) fn name(&self, kernel: &dyn Kernel) -> Option<String> {
        match self {
            Self::Device(address) => sysfs::interface(kernel, *address),
            Self::Named(name) => Some(name.clone()),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(address) => write!(f, "the interface of {address}"),
            Self::Named(name) => write!(f, "interface {name}"),
        }
    }
}

/// A place and the value there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "set", rename_all = "kebab-case")]
pub enum Setting {
    /// Whether new virtual functions get drivers by themselves.
    Autoprobe {
        /// Of this physical function.
        pf: PciAddress,
        /// Whether they do.
        on: bool,
    },
    /// How many virtual functions there are.
    VfCount {
        /// Of this physical function.
        pf: PciAddress,
        /// So many.
        count: u16,
    },
    /// Something of a virtual function.
    Vf {
        /// Its physical function.
        pf: PciAddress,
        /// Its number there.
        index: u16,
        /// What, and how it is.
        value: VfValue,
    },
    /// The driver of a device.
    Driver {
        /// The device.
        device: PciAddress,
        /// Its driver; `drivers::OF_THE_KERNEL`: whichever the kernel finds.
        driver: Option<String>,
        /// The only driver that it may have, by its `driver_override`.
        only: Option<String>,
    },
    /// Whether an interface is up.
    Up {
        /// The interface.
        interface: Interface,
        /// Whether it is.
        up: bool,
    },
    /// Whether an interface has an address.
    Address {
        /// The interface.
        interface: Interface,
        /// The address.
        address: IpAddr,
        /// Bits of its network.
        prefix: u8,
        /// Whether it has it.
        present: bool,
    },
}

impl Setting {
    /// The value in this setting's place now. None: the place is not there, or does not tell.
    pub(crate) fn now(&self, kernel: &dyn Kernel) -> Option<Self> {
        Some(match self {
            Self::Autoprobe { pf, .. } => {
                let file = sysfs::device(kernel, *pf).join("sriov_drivers_autoprobe");
                Self::Autoprobe { pf: *pf, on: sysfs::number::<u8>(&file)? != 0 }
            }
            Self::VfCount { pf, .. } => {
                Self::VfCount { pf: *pf, count: sysfs::vf_count(kernel, *pf)? }
            }
            Self::Vf { pf, index, value } => {
                let link = kernel.link(&sysfs::interface(kernel, *pf)?).ok()??;
                let vf = link.vfs.iter().find(|vf| vf.index == *index)?;
                Self::Vf { pf: *pf, index: *index, value: value.among(vf)? }
            }
            Self::Driver { device, .. } => {
                if !sysfs::is_there(kernel, *device) {
                    return None;
                }
                let driver = sysfs::driver(kernel, *device);
                Self::Driver { device: *device, driver, only: drivers::only(kernel, *device) }
            }
            Self::Up { interface, .. } => {
                let link = kernel.link(&interface.name(kernel)?).ok()??;
                Self::Up { interface: interface.clone(), up: link.up }
            }
            Self::Address { interface, address, prefix, .. } => {
                let addresses = kernel.addresses(&interface.name(kernel)?).ok()?;
                Self::Address {
                    interface: interface.clone(),
                    address: *address,
                    prefix: *prefix,
                    present: addresses.contains(&(*address, *prefix)),
                }
            }
        })
    }

    /// Whether this is how it shall be.
    pub(crate) fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (
                Self::Driver { device, driver: Some(driver), only },
                Self::Driver { device: other, driver: Some(any), only: wanted },
            ) if any == drivers::OF_THE_KERNEL => {
                device == other && only == wanted && !drivers::hands_out(driver)
            }
            _ => self == wanted,
        }
    }

    /// Makes it so, and waits until it is.
    pub(crate) fn write(&self, kernel: &dyn Kernel) -> Result<(), SriovError> {
        let what = self.to_string();
        match self {
            Self::Autoprobe { pf, on } => {
                let file = sysfs::device(kernel, *pf).join("sriov_drivers_autoprobe");
                kernel
                    .write(&file, if *on { "1" } else { "0" })
                    .map_err(|e| writing(&file, &what, &e))
            }
            Self::VfCount { pf, count } => crate::operations::set_count(kernel, *pf, *count),
            Self::Vf { pf, index, value } => {
                let Some(interface) = sysfs::interface(kernel, *pf) else {
                    return Err(SriovError::Unsupported(format!(
                        "{what}: the physical function {pf} has no interface here, by which it could be asked (its driver is {}; or the \
                         interface is in another network namespace)",
                        sysfs::driver(kernel, *pf).unwrap_or_else(|| "none".to_owned())
                    )));
                };
                let mut log = Mark::now();
                kernel.set_vf(&interface, *index, value).map_err(|error| {
                    match asking(&what, &error) {
                        SriovError::Kernel { what, why } => {
                            SriovError::Kernel { what, why: log.explain(&why, &[*pf]) }
                        }
                        other => other,
                    }
                })
            }
            Self::Driver { device, driver, only } => {
                drivers::set(kernel, *device, driver.as_deref(), only.as_deref())
            }
            Self::Up { interface, up } => {
                let name = there(kernel, interface, &what)?;
                kernel.set_up(&name, *up).map_err(|e| asking(&what, &e))
            }
            Self::Address { interface, address, prefix, present } => {
                let name = there(kernel, interface, &what)?;
                kernel
                    .set_address(&name, *address, *prefix, *present)
                    .map_err(|e| asking(&what, &e))
            }
        }
    }
}

fn there(kernel: &dyn Kernel, interface: &Interface, what: &str) -> Result<String, SriovError> {
    interface.name(kernel).ok_or_else(|| {
        SriovError::NotFound(format!(
            "{what}: {interface} is not there (in this network namespace)"
        ))
    })
}

/// What is done, as in "cannot ...".
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Autoprobe { pf, on: true } => {
                write!(f, "give new virtual functions of {pf} drivers")
            }
            Self::Autoprobe { pf, on: false } => {
                write!(f, "give new virtual functions of {pf} no drivers")
            }
            Self::VfCount { pf, count: 0 } => write!(f, "remove the virtual functions of {pf}"),
            Self::VfCount { pf, count } => write!(f, "create {count} virtual functions on {pf}"),
            Self::Vf { pf, index, value } => {
                write!(f, "set {value} for virtual function {index} of {pf}")
            }
            Self::Driver { device, driver: None, .. } => write!(f, "take {device} from its driver"),
            Self::Driver { device, driver: Some(driver), .. }
                if driver == drivers::OF_THE_KERNEL =>
            {
                write!(f, "bind {device} to its driver in the kernel")
            }
            Self::Driver { device, driver: Some(driver), .. } => {
                write!(f, "bind {device} to {driver}")
            }
            Self::Up { interface, up } => {
                write!(f, "set {interface} {}", if *up { "up" } else { "down" })
            }
            Self::Address { interface, address, prefix, present: true } => {
                write!(f, "give {interface} the address {address}/{prefix}")
            }
            Self::Address { interface, address, prefix, .. } => {
                write!(f, "take the address {address}/{prefix} from {interface}")
            }
        }
    }
}

/// A setting, as it was found and as it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As it was found.
    pub before: Setting,
    /// As it is made.
    pub after: Setting,
}
