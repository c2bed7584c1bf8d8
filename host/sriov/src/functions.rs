//! Which physical and virtual functions there are, and how they are.

use serde::Serialize;

use crate::address::{MacAddress, PciAddress};
use crate::error::SriovError;
use crate::kernel::Kernel;
use crate::setting::LinkState;
use crate::{iommu, sysfs, users};

/// How the physical function has a virtual one set. What is none, the driver does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VfSettings {
    /// Its number there.
    #[serde(skip)]
    pub index: u16,
    /// Its MAC address; all zeros: none was given.
    pub mac: Option<MacAddress>,
    /// The VLAN that it is in; 0: none.
    pub vlan: u16,
    /// The priority of its frames there.
    pub qos: u8,
    /// Whether it may change its MAC address and see others' frames.
    pub trust: Option<bool>,
    /// Whether frames with others' source addresses are dropped.
    pub spoof_check: Option<bool>,
    /// How its link is told to be.
    pub link: Option<LinkState>,
    /// What it may send at least, Mbit/s; 0: nothing is set aside.
    pub min_rate: u32,
    /// What it may send at most, Mbit/s; 0: no limit.
    pub max_rate: u32,
}

/// A virtual function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualFunction {
    /// Its number within the physical function.
    pub index: u16,
    /// Where it is.
    pub address: PciAddress,
    /// Its driver.
    pub driver: Option<String>,
    /// Its interface, in this network namespace.
    pub interface: Option<String>,
    /// Its IOMMU group; none: there is no IOMMU, or it is off.
    pub iommu_group: Option<u32>,
    /// How it is set; none: the physical function has no interface that could be asked.
    #[serde(flatten)]
    pub settings: Option<VfSettings>,
    /// Who uses it, as far as the caller may know.
    pub users: Vec<String>,
}

/// A device that can have virtual functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhysicalFunction {
    /// Its interface, in this network namespace.
    pub interface: Option<String>,
    /// Where it is.
    pub address: PciAddress,
    /// Its driver.
    pub driver: Option<String>,
    /// The NUMA node that it is at.
    pub numa_node: Option<u32>,
    /// Virtual functions that it has.
    pub numvfs: u16,
    /// Virtual functions that it can have.
    pub totalvfs: u16,
    /// Those that it has.
    pub vfs: Vec<VirtualFunction>,
}

impl PhysicalFunction {
    /// How it is called in messages: by its interface, if it has one.
    #[must_use]
    pub fn name(&self) -> String {
        self.interface.clone().unwrap_or_else(|| self.address.to_string())
    }

    /// One of its virtual functions.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn vf(&self, index: u16) -> Result<&VirtualFunction, SriovError> {
        self.vfs.iter().find(|vf| vf.index == index).ok_or_else(|| {
            let name = self.name();
            SriovError::NotFound(match self.numvfs {
                0 => format!(
                    "{name} has no virtual functions; `weir sriov create {name} N` makes some"
                ),
                1 => format!("{name} has no virtual function {index}, only 0"),
                n => format!("{name} has no virtual function {index}, only 0 to {}", n - 1),
            })
        })
    }

    /// How it is now.
    pub(crate) fn at(kernel: &dyn Kernel, address: PciAddress) -> Option<Self> {
        let place = sysfs::device(kernel, address);
        let totalvfs = sysfs::number(&place.join("sriov_totalvfs"))?;
        let interface = sysfs::interface(kernel, address);
        let link = interface.as_deref().and_then(|name| kernel.link(name).ok().flatten());
        let settings = link.map(|link| link.vfs).unwrap_or_default();
        let numvfs = sysfs::vf_count(kernel, address)?;
        let vf = |index| {
            let address = sysfs::vf_address(kernel, address, index)?;
            Some(VirtualFunction {
                index,
                address,
                driver: sysfs::driver(kernel, address),
                interface: sysfs::interface(kernel, address),
                iommu_group: iommu::group(kernel, address),
                settings: settings.iter().find(|vf| vf.index == index).cloned(),
                users: users::of(kernel, address),
            })
        };
        Some(Self {
            interface,
            address,
            driver: sysfs::driver(kernel, address),
            // -1: the machine has no nodes.
            numa_node: sysfs::number(&place.join("numa_node")),
            numvfs,
            totalvfs,
            vfs: (0..numvfs).filter_map(vf).collect(),
        })
    }
}

/// All network devices that can have virtual functions.
#[must_use]
pub fn list(kernel: &dyn Kernel) -> Vec<PhysicalFunction> {
    let devices = sysfs::names(&kernel.sys().join("bus/pci/devices")).into_iter();
    let addresses = devices.filter_map(|name| name.parse().ok());
    addresses
        .filter(|address| is_network(kernel, *address))
        .filter_map(|address| PhysicalFunction::at(kernel, address))
        .collect()
}

/// NVMe devices have virtual functions too.
fn is_network(kernel: &dyn Kernel, address: PciAddress) -> bool {
    let class = sysfs::text(&sysfs::device(kernel, address).join("class"));
    class.is_some_and(|class| class.starts_with("0x02"))
}

/// The physical function of this name: an interface's, or a PCI address.
///
/// # Errors
/// When there is none, or it can have no virtual functions.
pub fn find(kernel: &dyn Kernel, name: &str) -> Result<PhysicalFunction, SriovError> {
    let address = address_of(kernel, name)?;
    if let Some(pf) = sysfs::target(&sysfs::device(kernel, address).join("physfn")) {
        return Err(SriovError::Unsupported(format!(
            "{name} is a virtual function itself; name its physical function: {pf}"
        )));
    }
    PhysicalFunction::at(kernel, address).ok_or_else(|| {
        SriovError::Unsupported(format!(
            "{name} is not an SR-IOV device: it cannot have virtual functions, or the firmware has turned that off; {}",
            known(kernel)
        ))
    })
}

fn address_of(kernel: &dyn Kernel, name: &str) -> Result<PciAddress, SriovError> {
    if let Ok(address) = name.parse() {
        if sysfs::is_there(kernel, address) {
            return Ok(address);
        }
        return Err(SriovError::NotFound(format!(
            "there is no PCI device {address}; {}",
            known(kernel)
        )));
    }
    let interface = kernel.sys().join("class/net").join(name);
    // A name with a slash in it would be another path.
    if name.contains('/') || !interface.exists() {
        return Err(SriovError::NotFound(format!(
            "there is no interface or PCI device {name}; {}",
            known(kernel)
        )));
    }
    let device = sysfs::target(&interface.join("device"));
    device.as_deref().and_then(|device| device.parse().ok()).ok_or_else(|| {
        SriovError::Unsupported(format!(
            "{name} is not an SR-IOV device: {}; {}",
            device.map_or_else(
                || "it is virtual".to_owned(),
                |d| format!("its device {d} is no PCI device")
            ),
            known(kernel)
        ))
    })
}

fn known(kernel: &dyn Kernel) -> String {
    let names: Vec<String> = list(kernel).iter().map(PhysicalFunction::name).collect();
    if names.is_empty() {
        "this machine has no SR-IOV devices".to_owned()
    } else {
        format!("SR-IOV devices here: {}", names.join(", "))
    }
}

/// Why a device cannot be used any more that was found with this driver; none: it is as it was.
#[must_use]
pub fn lost(kernel: &dyn Kernel, address: PciAddress, driver: Option<&str>) -> Option<String> {
    if !sysfs::is_there(kernel, address) {
        return Some(
            "it was removed (by writing 0 to `sriov_numvfs`, or with its device)".to_owned(),
        );
    }
    let now = sysfs::driver(kernel, address);
    (now.as_deref() != driver).then(|| {
        let (now, was) = (now.as_deref().unwrap_or("none"), driver.unwrap_or("none"));
        format!("its driver is {now} now, and was {was}")
    })
}
