//! Whether user space can have a device without reaching all of the machine's memory by it.

use crate::address::PciAddress;
use crate::drivers::VFIO;
use crate::error::SriovError;
use crate::kernel::Kernel;
use crate::sysfs;

/// The name of groups without an IOMMU behind them.
const NO_IOMMU: &str = "vfio-noiommu";

/// The number of a device's IOMMU group.
pub(crate) fn group(kernel: &dyn Kernel, device: PciAddress) -> Option<u32> {
    sysfs::target(&sysfs::device(kernel, device).join("iommu_group"))?.parse().ok()
}

/// Whether a device is behind an IOMMU.
pub(crate) fn is_behind(kernel: &dyn Kernel, device: PciAddress) -> bool {
    let group = sysfs::device(kernel, device).join("iommu_group");
    group.exists() && sysfs::text(&group.join("name")).as_deref() != Some(NO_IOMMU)
}

/// Whether `vfio-pci` could have a device. Of one that is not there yet, its physical function is
/// asked.
pub(crate) fn check(
    kernel: &dyn Kernel,
    device: PciAddress,
    no_iommu: bool,
) -> Result<(), SriovError> {
    if !kernel.sys().join("bus/pci/drivers").join(VFIO).exists() {
        return Err(SriovError::Unsupported(format!(
            "{device} cannot be bound to {VFIO}: the kernel has not loaded that driver; `modprobe {VFIO}` loads it"
        )));
    }
    if is_behind(kernel, device) {
        return Ok(());
    }
    let unsafe_mode = kernel.sys().join("module/vfio/parameters/enable_unsafe_noiommu_mode");
    let allowed = matches!(sysfs::text(&unsafe_mode).as_deref(), Some("Y" | "1"));
    if no_iommu {
        return if allowed {
            Ok(())
        } else {
            Err(SriovError::Unsupported(format!(
                "{device} cannot be bound to {VFIO} without an IOMMU: the kernel does not allow it; `modprobe vfio \
                 enable_unsafe_noiommu_mode=1`, or writing 1 to {}, does",
                unsafe_mode.display()
            )))
        };
    }
    Err(SriovError::Unsupported(format!(
        "{device} cannot be bound to {VFIO}: the IOMMU is off (the device is in no group of /sys/kernel/iommu_groups). Turn VT-d or \
         AMD-Vi on in the firmware, boot the kernel with `intel_iommu=on iommu=pt` (AMD: `amd_iommu=on iommu=pt`), and in a virtual \
         machine give it a virtual IOMMU. vfio can do without (noiommu mode), but whoever has the device then reaches all memory: Weir \
         refuses that unless it is asked for (`weir sriov bind --no-iommu`), and its own ports cannot use it"
    )))
}

/// Devices in the same group that keep user space from having it.
pub(crate) fn neighbours(kernel: &dyn Kernel, device: PciAddress) -> Vec<String> {
    let members = sysfs::device(kernel, device).join("iommu_group/devices");
    let others = sysfs::names(&members).into_iter().filter(|name| *name != device.to_string());
    others
        .filter_map(|name| {
            let driver = sysfs::driver(kernel, name.parse().ok()?)?;
            let fine = crate::drivers::hands_out(&driver) || driver == "pcieport";
            (!fine).then(|| format!("{name} ({driver})"))
        })
        .collect()
}
