//! What an operator asks for by hand: functions created and removed, set, given to drivers.

use serde::Serialize;

use crate::address::{MacAddress, PciAddress};
use crate::drivers::{self, VFIO};
use crate::error::{SriovError, writing};
use crate::functions::{PhysicalFunction, VfSettings, VirtualFunction};
use crate::kernel::Kernel;
use crate::kernel_log::Mark;
use crate::setting::{LinkState, Setting, VfValue};
use crate::{iommu, sysfs, users};

/// Numbers of VLANs are less.
const VLAN_END: u16 = 4095;
/// Priorities of frames are less.
const QOS_END: u8 = 8;
/// What the kernel says when a driver does not know of virtual functions (`ENOENT`, `ENOSYS`), and
/// of another number (`EBUSY`).
const NO_SRIOV: [i32; 2] = [2, 38];
const BUSY: i32 = 16;

/// Whether a physical function could be given so many virtual ones, and has none yet. False: it has
/// them already.
pub(crate) fn check_count(pf: &PhysicalFunction, count: u16) -> Result<bool, SriovError> {
    let name = pf.name();
    if count > pf.totalvfs || count == 0 {
        return Err(SriovError::Conflict(match pf.totalvfs {
            0 => format!(
                "{name} can have no virtual functions: its driver or firmware has turned them off"
            ),
            most => format!(
                "{name} cannot have {count} virtual functions; allowed: 1 to {most} (sriov_totalvfs)"
            ),
        }));
    }
    if pf.numvfs == count {
        return Ok(false);
    }
    if pf.numvfs > 0 {
        return Err(SriovError::Conflict(format!(
            "{name} has {} virtual functions already, and the kernel changes their number only from 0: `weir sriov remove {name}` \
             removes them, if nobody uses them",
            pf.numvfs
        )));
    }
    if pf.driver.is_none() {
        return Err(SriovError::Unsupported(format!(
            "{name} has no driver, so it cannot have virtual functions: bind it to its driver first"
        )));
    }
    Ok(true)
}

/// Tells the kernel the number, and waits until the functions are there.
pub(crate) fn set_count(kernel: &dyn Kernel, pf: PciAddress, count: u16) -> Result<(), SriovError> {
    let file = sysfs::device(kernel, pf).join("sriov_numvfs");
    let what = Setting::VfCount { pf, count }.to_string();
    let mut log = Mark::now();
    if let Err(error) = kernel.write(&file, &count.to_string()) {
        let driver = sysfs::driver(kernel, pf).unwrap_or_else(|| "none".to_owned());
        return Err(match error.raw_os_error() {
            Some(code) if NO_SRIOV.contains(&code) => {
                SriovError::Unsupported(format!("{what}: its driver ({driver}) does not do SR-IOV"))
            }
            Some(BUSY) => SriovError::Conflict(format!(
                "{what}: there are some already, and the kernel changes their number only from 0"
            )),
            _ => match writing(&file, &what, &error) {
                SriovError::Kernel { what, why } => {
                    SriovError::Kernel { what, why: log.explain(&why, &[pf]) }
                }
                other => other,
            },
        });
    }
    let there = || {
        sysfs::vf_count(kernel, pf) == Some(count)
            && (0..count).all(|index| {
                sysfs::vf_address(kernel, pf, index).is_some_and(|vf| sysfs::is_there(kernel, vf))
            })
    };
    if drivers::wait(kernel, there) {
        return Ok(());
    }
    Err(SriovError::Kernel { what, why: log.explain("they did not appear", &[pf]) })
}

/// Gives a physical function so many virtual ones; nothing happens if it has them.
///
/// # Errors
/// When it cannot have so many, or has others, or the kernel or this user's rights do not allow it.
pub fn create(kernel: &dyn Kernel, pf: &PhysicalFunction, count: u16) -> Result<(), SriovError> {
    if check_count(pf, count)? {
        set_count(kernel, pf.address, count)?;
    }
    Ok(())
}

/// Removes all virtual functions of a physical one.
///
/// # Errors
/// When somebody uses one of them, or the kernel or this user's rights do not allow it.
pub fn remove(kernel: &dyn Kernel, pf: &PhysicalFunction) -> Result<(), SriovError> {
    for vf in &pf.vfs {
        check_unused(pf, vf, users::of(kernel, vf.address))?;
    }
    if pf.numvfs > 0 { set_count(kernel, pf.address, 0) } else { Ok(()) }
}

fn check_unused(
    pf: &PhysicalFunction,
    vf: &VirtualFunction,
    users: Vec<String>,
) -> Result<(), SriovError> {
    if users.is_empty() {
        return Ok(());
    }
    let what = format!("virtual function {} of {} ({})", vf.index, pf.name(), vf.address);
    Err(SriovError::InUse { what, users })
}

/// What shall be set of a virtual function; the rest stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewSettings {
    /// MAC address; all zeros take it away.
    pub mac: Option<MacAddress>,
    /// VLAN; 0: none.
    pub vlan: Option<u16>,
    /// Priority of its frames in the VLAN.
    pub qos: Option<u8>,
    /// Whether it may change its MAC address and see others' frames.
    pub trust: Option<bool>,
    /// Whether frames with others' source addresses are dropped.
    pub spoof_check: Option<bool>,
    /// Mbit/s at least; 0: nothing is set aside.
    pub min_rate: Option<u32>,
    /// Mbit/s at most; 0: no limit.
    pub max_rate: Option<u32>,
    /// Its link.
    pub link: Option<LinkState>,
}

impl NewSettings {
    /// What has to be told the kernel, where pairs are set together.
    pub(crate) fn values(&self, now: &VfSettings) -> Result<Vec<VfValue>, SriovError> {
        let conflict = |text: String| Err(SriovError::Conflict(text));
        let mut values = Vec::new();
        if let Some(mac) = self.mac {
            if mac != MacAddress::default() && !mac.is_of_one() {
                return conflict(format!(
                    "the MAC address {mac} is a group's: its first byte must be even"
                ));
            }
            values.push(VfValue::Mac(mac));
        }
        if self.vlan.is_some() || self.qos.is_some() {
            let vlan = self.vlan.unwrap_or(now.vlan);
            // Without a VLAN there is no priority.
            let qos = self.qos.unwrap_or(if vlan == 0 { 0 } else { now.qos });
            if vlan >= VLAN_END || qos >= QOS_END {
                return conflict(format!(
                    "there is no VLAN {vlan} with the priority {qos}; allowed: VLANs 0 (none) to {}, qos 0 to {}",
                    VLAN_END - 1,
                    QOS_END - 1
                ));
            }
            if vlan == 0 && qos > 0 {
                return conflict("a qos needs a VLAN: set both".to_owned());
            }
            values.push(VfValue::Vlan { vlan, qos });
        }
        values.extend(self.trust.map(VfValue::Trust));
        values.extend(self.spoof_check.map(VfValue::SpoofCheck));
        if self.min_rate.is_some() || self.max_rate.is_some() {
            let (min, max) =
                (self.min_rate.unwrap_or(now.min_rate), self.max_rate.unwrap_or(now.max_rate));
            if max > 0 && min > max {
                return conflict(format!(
                    "a min-rate of {min} Mbit/s is more than the max-rate of {max}"
                ));
            }
            values.push(VfValue::Rate { min, max });
        }
        values.extend(self.link.map(VfValue::Link));
        Ok(values)
    }
}

/// Sets something of a virtual function, one after the other: what comes before an error is set.
///
/// # Errors
/// When a value cannot be, or the driver or this user's rights do not allow it.
pub fn set(
    kernel: &dyn Kernel,
    pf: &PhysicalFunction,
    index: u16,
    new: &NewSettings,
) -> Result<(), SriovError> {
    let vf = pf.vf(index)?;
    let now = vf.settings.clone().unwrap_or_default();
    for value in new.values(&now)? {
        Setting::Vf { pf: pf.address, index, value }.write(kernel)?;
    }
    Ok(())
}

/// Whom a virtual function is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindTo {
    /// User space, by `vfio-pci`.
    Vfio {
        /// Also where there is no IOMMU.
        no_iommu: bool,
    },
    /// Its driver in the kernel.
    Kernel,
}

/// Who has a virtual function now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// Where it is.
    pub address: PciAddress,
    /// Its driver.
    pub driver: Option<String>,
    /// Its interface, if the driver makes one.
    pub interface: Option<String>,
    /// The file by which user space has it.
    pub node: Option<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Gives a virtual function to a driver, and waits until it has it; nothing happens if it does,
/// unless it shall get it `again`.
///
/// # Errors
/// When somebody uses it, what the driver needs is missing, or the kernel or this user's rights do
/// not allow it.
pub fn bind(
    kernel: &dyn Kernel,
    pf: &PhysicalFunction,
    index: u16,
    to: BindTo,
    again: bool,
) -> Result<Bound, SriovError> {
    let vf = pf.vf(index)?;
    let device = vf.address;
    if let BindTo::Vfio { no_iommu } = to {
        iommu::check(kernel, device, no_iommu)?;
    }
    let wanted = driver_setting(device, matches!(to, BindTo::Vfio { .. }));
    if again || !wanted.now(kernel).is_some_and(|now| now.is(&wanted)) {
        check_unused(pf, vf, users::of(kernel, device))?;
        wanted.write(kernel)?;
    }
    Ok(bound(kernel, device, to))
}

/// A device's driver as it shall be.
pub(crate) fn driver_setting(device: PciAddress, vfio: bool) -> Setting {
    let (driver, only) =
        if vfio { (VFIO, Some(VFIO.to_owned())) } else { (drivers::OF_THE_KERNEL, None) };
    Setting::Driver { device, driver: Some(driver.to_owned()), only }
}

fn bound(kernel: &dyn Kernel, device: PciAddress, to: BindTo) -> Bound {
    let driver = sysfs::driver(kernel, device);
    let mut notes = Vec::new();
    if to == BindTo::Kernel {
        let interface = drivers::await_interface(kernel, device);
        return Bound { address: device, driver, interface, node: None, notes };
    }
    let node = iommu::group(kernel, device).map(|group| match to {
        BindTo::Vfio { no_iommu: true } if !iommu::is_behind(kernel, device) => {
            notes.push("without an IOMMU whoever has the device reaches all memory".to_owned());
            format!("/dev/vfio/noiommu-{group}")
        }
        _ => format!("/dev/vfio/{group}"),
    });
    let neighbours = iommu::neighbours(kernel, device);
    if !neighbours.is_empty() {
        notes.push(format!(
            "nobody can open it as long as other devices of its IOMMU group have drivers of the kernel: {}",
            neighbours.join(", ")
        ));
    }
    if sysfs::number::<u64>(&kernel.proc().join("sys/vm/nr_hugepages")) == Some(0) {
        notes.push(
            "no huge pages are reserved: Weir does without, other DPDK programs may not (`sysctl vm.nr_hugepages=256`)".to_owned(),
        );
    }
    Bound { address: device, driver, interface: None, node, notes }
}
