//! Hearing that devices go away or lose their drivers, by the kernel's own messages about devices
//! (`NETLINK_KOBJECT_UEVENT`).

use std::io;
use std::thread;

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{Socket, SocketAddr};

use crate::address::PciAddress;

/// Calls this for each of these devices that goes away or loses its driver, on a thread of its own,
/// as long as the process lives.
///
/// # Errors
/// When there is no socket or no thread for it.
pub fn watch(
    devices: Vec<PciAddress>,
    mut tell: impl FnMut(PciAddress) + Send + 'static,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.bind(&SocketAddr::new(0, 1))?;
    let listen = move || {
        loop {
            match socket.recv_from_full() {
                // 0: the kernel; udev and others use the same socket.
                Ok((message, from)) if from.port_number() == 0 => {
                    if let Some(device) = lost(&message).filter(|d| devices.contains(d)) {
                        tell(device);
                    }
                }
                Ok(_) => {}
                // Too much happened at once: what is gone is seen when somebody asks.
                Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    };
    thread::Builder::new().name("weir-sriov".to_owned()).spawn(listen).map(drop)
}

/// `ENOBUFS`
const NO_BUFFERS: i32 = 105;

/// The PCI device that a message says is gone, or without a driver.
fn lost(message: &[u8]) -> Option<PciAddress> {
    let line = message.split(|byte| *byte == 0).next()?;
    let line = std::str::from_utf8(line).ok()?;
    let path = line.strip_prefix("remove@").or_else(|| line.strip_prefix("unbind@"))?;
    path.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_removed_devices_count() {
        let text =
            b"remove@/devices/pci0000:00/0000:00:1c.0/0000:01:10.0\0ACTION=remove\0SUBSYSTEM=pci\0";
        assert_eq!(lost(text).unwrap().to_string(), "0000:01:10.0");
        for other in [
            &b"add@/devices/pci0000:00/0000:01:10.0\0"[..],
            b"remove@/devices/pci0000:00/0000:01:10.0/net/eth1\0",
            b"libudev\0\xfe\xed",
            b"",
        ] {
            assert_eq!(lost(other), None);
        }
    }
}
