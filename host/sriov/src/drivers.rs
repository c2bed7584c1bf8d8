//! Which driver has a device (`Documentation/ABI/testing/sysfs-bus-pci`: `driver_override`, `bind`,
//! `unbind`, `drivers_probe`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::address::PciAddress;
use crate::error::{SriovError, writing};
use crate::kernel::Kernel;
use crate::kernel_log::Mark;
use crate::sysfs;

/// Stands for whichever driver the kernel finds by itself.
pub(crate) const OF_THE_KERNEL: &str = "kernel";
/// The driver by which user space has devices, behind an IOMMU.
pub(crate) const VFIO: &str = "vfio-pci";
/// Drivers that make no interface of a network device, but keep it for others.
const HANDING_OUT: [&str; 5] = [VFIO, "uio_pci_generic", "igb_uio", "pci-stub", "xen-pciback"];

const STEP: Duration = Duration::from_millis(20);

/// Whether this driver keeps devices for others.
pub(crate) fn hands_out(driver: &str) -> bool {
    HANDING_OUT.contains(&driver)
}

/// The only driver that a device may have.
pub(crate) fn only(kernel: &dyn Kernel, device: PciAddress) -> Option<String> {
    let text = sysfs::text(&sysfs::device(kernel, device).join("driver_override"))?;
    Some(text).filter(|text| !text.is_empty() && text != "(null)")
}

/// Waits until it is so, asking again and again.
pub(crate) fn wait(kernel: &dyn Kernel, mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + kernel.patience();
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(STEP);
    }
}

/// Gives a device this driver, and lets it have only this one.
pub(crate) fn set(
    kernel: &dyn Kernel,
    device: PciAddress,
    wanted: Option<&str>,
    only: Option<&str>,
) -> Result<(), SriovError> {
    // Where virtual functions get no drivers by themselves, they get none that is not their only
    // one either.
    let autoprobe = sysfs::device(kernel, device).join("physfn/sriov_drivers_autoprobe");
    let off = sysfs::text(&autoprobe).as_deref() == Some("0");
    if !off || wanted.is_none() || only.is_some() {
        return put(kernel, device, wanted, only);
    }
    let what = format!("giving {device} a driver, though virtual functions get none by themselves");
    let write = |text| kernel.write(&autoprobe, text).map_err(|e| writing(&autoprobe, &what, &e));
    write("1")?;
    let done = put(kernel, device, wanted, only);
    write("0")?;
    done
}

fn put(
    kernel: &dyn Kernel,
    device: PciAddress,
    wanted: Option<&str>,
    only: Option<&str>,
) -> Result<(), SriovError> {
    let place = sysfs::device(kernel, device);
    let what = match wanted {
        Some(driver) => format!("binding {device} to {}", named(driver)),
        None => format!("taking {device} from its driver"),
    };
    let mut log = Mark::now();
    let mut write = |file: std::path::PathBuf, text: &str| {
        kernel.write(&file, text).map_err(|error| match writing(&file, &what, &error) {
            SriovError::Kernel { what, why } => {
                SriovError::Kernel { what, why: log.explain(&why, &[device]) }
            }
            other => other,
        })
    };
    let name = device.to_string();
    let has = || sysfs::driver(kernel, device);
    if has().is_some() {
        write(place.join("driver/unbind"), &name)?;
        if !wait(kernel, || has().is_none()) {
            let why = "its driver does not let go of it".to_owned();
            return Err(SriovError::Kernel { what, why });
        }
    }
    // A line without a text takes the restriction away.
    write(place.join("driver_override"), only.unwrap_or("\n"))?;
    let Some(wanted) = wanted else { return Ok(()) };
    let bus = kernel.sys().join("bus/pci");
    let bound = if wanted == OF_THE_KERNEL {
        wait(kernel, || {
            // Again and again: its module may be about to be loaded. Who fails to probe says so in
            // the log alone.
            has().is_some()
                || (kernel.write(&bus.join("drivers_probe"), &name).is_ok() && has().is_some())
        })
    } else {
        let driver = bus.join("drivers").join(wanted);
        if !driver.exists() {
            return Err(SriovError::Unsupported(format!(
                "{what}: the kernel has no driver {wanted}; load it with `modprobe {wanted}`"
            )));
        }
        write(driver.join("bind"), &name)?;
        wait(kernel, || has().as_deref() == Some(wanted))
    };
    if bound {
        return Ok(());
    }
    let why = if wanted == OF_THE_KERNEL {
        "no driver took it (is its module loaded? `modprobe -R $(cat /sys/bus/pci/devices/ADDRESS/modalias)` names it)"
            .replace("ADDRESS", &name)
    } else {
        "the driver did not take it".to_owned()
    };
    Err(SriovError::Kernel { what, why: log.explain(&why, &[device]) })
}

fn named(driver: &str) -> &str {
    if driver == OF_THE_KERNEL { "its driver in the kernel" } else { driver }
}

/// The name of a device's interface, as soon as it has one that stays.
pub(crate) fn await_interface(kernel: &dyn Kernel, device: PciAddress) -> Option<String> {
    /// udev gives interfaces names of its own a moment after they appear.
    const SETTLED: u32 = 5;
    let (mut name, mut seen) = (None, 0);
    wait(kernel, || {
        let now = sysfs::interface(kernel, device);
        seen = if now.is_some() && now == name { seen + 1 } else { 0 };
        name = now;
        seen >= SETTLED
    });
    name
}
