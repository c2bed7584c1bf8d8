//! Reading sysfs. What is not there, or not readable, is none: devices go while they are looked at.

use std::fs;
use std::path::{Path, PathBuf};

use crate::address::PciAddress;
use crate::kernel::Kernel;

/// The directory of a PCI device.
pub(crate) fn device(kernel: &dyn Kernel, address: PciAddress) -> PathBuf {
    kernel.sys().join("bus/pci/devices").join(address.to_string())
}

/// Whether the device is there.
pub(crate) fn is_there(kernel: &dyn Kernel, address: PciAddress) -> bool {
    device(kernel, address).exists()
}

/// A file's text, without the end of its line.
pub(crate) fn text(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim_end().to_owned())
}

/// A file's number.
pub(crate) fn number<T: std::str::FromStr>(file: &Path) -> Option<T> {
    text(file)?.parse().ok()
}

/// The name of what a symbolic link points to.
pub(crate) fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// Names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The driver of a device.
pub(crate) fn driver(kernel: &dyn Kernel, address: PciAddress) -> Option<String> {
    target(&device(kernel, address).join("driver"))
}

/// The interface of a device, in this network namespace.
pub(crate) fn interface(kernel: &dyn Kernel, address: PciAddress) -> Option<String> {
    names(&device(kernel, address).join("net")).into_iter().next()
}

/// The virtual functions that a physical one has.
pub(crate) fn vf_count(kernel: &dyn Kernel, pf: PciAddress) -> Option<u16> {
    number(&device(kernel, pf).join("sriov_numvfs"))
}

/// The address of a virtual function that is there.
pub(crate) fn vf_address(kernel: &dyn Kernel, pf: PciAddress, index: u16) -> Option<PciAddress> {
    target(&device(kernel, pf).join(format!("virtfn{index}")))?.parse().ok()
}
