//! The `dpdk` port: packets enter and leave by a device that DPDK drives, a PCI function or a vdev.
//!
//! Owns: starting DPDK (once in a process), adding, configuring and removing devices, the mempool
//! over the lane's pool, and the port itself. Must not know: chains, functions, configuration
//! files.
//!
//! ```text
//!   lane's Pool   | burst area | room 0 | room 1 | room 2 | ...   memfd: guests see it
//!                                  ^        ^        ^
//!   mempool            headers:  mbuf 0   mbuf 1   mbuf 2   ...   DPDK's memory: guests do not
//!                      free rooms: the Pool's own stack
//! ```
//!
//! The mempool of every queue *is* the lane's pool: each room has an mbuf that points to it, and
//! taking one from the mempool takes its room from the pool. So a received packet lies where
//! functions see it, a packet that came in by any port of the lane can leave by this one, and
//! nothing is copied. What lies in a device's ring or in DPDK's per-thread cache counts as out. See
//! `docs/adr/0010-dpdk.md`.
//!
//! Some drivers insist on memory of their own (`net_af_xdp`, `net_virtio_user`, mlx4 and mlx5):
//! frames are copied between their memory and the rooms, and the port's details say `memory:
//! copied`.
//!
//! When libdpdk was not there at build time, [`DpdkPort::open`] says so.

mod config;

pub use config::{DpdkConfig, Idle};

#[cfg(dpdk)]
mod address;
#[cfg(dpdk)]
mod bounce;
#[cfg(dpdk)]
mod device;
#[cfg(dpdk)]
mod eal;
#[cfg(dpdk)]
mod fit;
#[cfg(dpdk)]
mod flow;
#[cfg(dpdk)]
mod gate;
#[cfg(dpdk)]
mod idle;
#[cfg(dpdk)]
mod interface;
#[cfg(dpdk)]
mod kernel_drops;
#[cfg(dpdk)]
mod log;
#[cfg(dpdk)]
mod mempool;
#[cfg(dpdk)]
mod port;
#[cfg(dpdk)]
mod rss;
#[cfg(dpdk)]
mod shared;
#[cfg(dpdk)]
mod sockets;

#[cfg(dpdk)]
pub use eal::{Eal, EalConfig, EalMemory};
#[cfg(dpdk)]
pub use port::DpdkPort;

#[cfg(not(dpdk))]
mod absent;
#[cfg(not(dpdk))]
pub use absent::DpdkPort;

/// Why this build has no DPDK, and what to do; none: it has.
pub const ABSENT: Option<&str> = {
    #[cfg(dpdk)]
    {
        None
    }
    #[cfg(not(dpdk))]
    {
        Some(absent::ABSENT)
    }
};

/// By what a device is known, whatever is said to its driver.
///
/// # Errors
/// When the text is no device's, or this build has no DPDK.
pub fn name(device: &str) -> Result<String, String> {
    #[cfg(dpdk)]
    {
        device.parse().map(|address: address::Address| address.name)
    }
    #[cfg(not(dpdk))]
    {
        let _ = device;
        Err(absent::ABSENT.to_owned())
    }
}

/// The kernel's interface that a device lies on, if it lies on one.
#[must_use]
pub fn interface(device: &str) -> Option<String> {
    #[cfg(dpdk)]
    {
        let address = device.parse().ok()?;
        device::on_interface(&address).map(str::to_owned)
    }
    #[cfg(not(dpdk))]
    {
        let _ = device;
        None
    }
}

/// Whether there is such a device that DPDK may have, as far as that can be seen without touching
/// it, and while somebody has it.
///
/// # Errors
/// What is not so, and what to do.
pub fn look(device: &str) -> Result<(), String> {
    #[cfg(dpdk)]
    {
        device::check(&device.parse()?)
    }
    #[cfg(not(dpdk))]
    {
        let _ = device;
        Err(absent::ABSENT.to_owned())
    }
}

/// Starts DPDK for a host that will open these devices: DPDK must know all its PCI devices when it
/// starts. Without this the first [`DpdkPort::open`] starts it, with its own device.
///
/// # Errors
/// What is wrong, and what to do.
pub fn start<'a>(devices: impl Iterator<Item = &'a str>) -> Result<(), String> {
    #[cfg(dpdk)]
    {
        let pci = pci(devices).map(|address| address.to_string()).collect();
        Eal::start(&EalConfig { pci, ..EalConfig::default() }).map(drop)
    }
    #[cfg(not(dpdk))]
    {
        drop(devices);
        Err(absent::ABSENT.to_owned())
    }
}

/// Takes from DPDK those of these devices that it has opened when it started and no port has: a
/// host that does not open them leaves them to others.
pub fn release<'a>(devices: impl Iterator<Item = &'a str>) {
    #[cfg(dpdk)]
    if Eal::runs() {
        pci(devices).for_each(|address| device::release(&address));
    }
    #[cfg(not(dpdk))]
    drop(devices);
}

/// The PCI devices among these.
#[cfg(dpdk)]
fn pci<'a>(devices: impl Iterator<Item = &'a str>) -> impl Iterator<Item = address::Address> {
    devices.filter_map(|device| device.parse().ok()).filter(address::Address::is_pci)
}
