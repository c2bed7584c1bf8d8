//! Who uses a function: its interface, if it is in service, and the processes that have it by vfio
//! or uio.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::address::PciAddress;
use crate::drivers;
use crate::kernel::Kernel;
use crate::sysfs;

/// Who uses a device, each in a few words. None: nobody, as far as this user may know.
pub(crate) fn of(kernel: &dyn Kernel, device: PciAddress) -> Vec<String> {
    all(kernel, device, true)
}

/// The same without XDP programs, which may be there without anybody.
pub(crate) fn in_service(kernel: &dyn Kernel, device: PciAddress) -> Vec<String> {
    all(kernel, device, false)
}

fn all(kernel: &dyn Kernel, device: PciAddress, xdp: bool) -> Vec<String> {
    let Some(driver) = sysfs::driver(kernel, device) else { return Vec::new() };
    if drivers::hands_out(&driver) {
        return holders(kernel, &nodes(kernel, device));
    }
    let interfaces = sysfs::names(&sysfs::device(kernel, device).join("net"));
    if interfaces.is_empty() {
        return vec![format!(
            "its interface (driver {driver}) is not in this network namespace, but perhaps in another one's"
        )];
    }
    interfaces.iter().flat_map(|interface| of_interface(kernel, interface, xdp)).collect()
}

fn of_interface(kernel: &dyn Kernel, interface: &str, xdp: bool) -> Vec<String> {
    let Ok(Some(link)) = kernel.link(interface) else { return Vec::new() };
    let mut users = Vec::new();
    let addresses = kernel.addresses(interface).unwrap_or_default();
    let given: Vec<String> = addresses
        .iter()
        .filter(|(address, _)| !is_automatic(*address))
        .map(|(address, prefix)| format!("{address}/{prefix}"))
        .collect();
    if link.up && !given.is_empty() {
        users.push(format!("the interface {interface} is up with {}", given.join(", ")));
    }
    // Those that lie on it go with it, whether or not it is a part of them.
    let place = kernel.sys().join("class/net").join(interface);
    let upper: Vec<String> = sysfs::names(&place)
        .iter()
        .filter_map(|name| name.strip_prefix("upper_").map(str::to_owned))
        .collect();
    if !upper.is_empty() {
        users.push(format!("{} lies on the interface {interface}", upper.join(", ")));
    } else if link.enslaved {
        users.push(format!("the interface {interface} is part of another one (a bridge, a bond)"));
    }
    if xdp && link.has_xdp {
        users.push(format!("an XDP program runs on the interface {interface}"));
    }
    users
}

/// Link-local addresses come by themselves.
fn is_automatic(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The files by which processes have a device.
fn nodes(kernel: &dyn Kernel, device: PciAddress) -> Vec<PathBuf> {
    let place = sysfs::device(kernel, device);
    let mut nodes = Vec::new();
    if let Some(group) = sysfs::target(&place.join("iommu_group")) {
        nodes.push(format!("/dev/vfio/{group}").into());
        nodes.push(format!("/dev/vfio/noiommu-{group}").into());
    }
    let own = |kind: &str, directory: &str| -> Vec<PathBuf> {
        sysfs::names(&place.join(kind)).iter().map(|n| Path::new(directory).join(n)).collect()
    };
    nodes.extend(own("vfio-dev", "/dev/vfio/devices"));
    nodes.extend(own("uio", "/dev"));
    nodes
}

/// The processes that have one of these files open.
fn holders(kernel: &dyn Kernel, nodes: &[PathBuf]) -> Vec<String> {
    let numbers =
        sysfs::names(kernel.proc()).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let holder = |number: u32| {
        let process = kernel.proc().join(number.to_string());
        let files = fs::read_dir(process.join("fd")).ok()?;
        let open = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let node = open.into_iter().find(|file| nodes.contains(file))?;
        let name = sysfs::text(&process.join("comm")).unwrap_or_default();
        Some(format!("process {number} ({name}) has {} open", node.display()))
    };
    numbers.filter_map(holder).collect()
}
