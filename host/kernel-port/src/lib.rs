//! A port's way to the kernel's network stack: a TAP device beside it, what DPDK's documents call
//! an exception path.
//!
//! Owns: the TAP device; [`StackPort`], which is the kernel's stack as a port of its own; and
//! [`KernelPort`], which is any other port with a TAP device beside it, by which what the kernel
//! sends leaves as it is. What functions or rules give to the kernel comes out of the TAP
//! interface. A system call a packet: it is for ARP, routing protocols, management, and for what
//! the message plane serves, whose every packet passes the kernel's TCP anyhow. Must not know:
//! rules, chains, kinds of ports.

#![forbid(unsafe_code)]

mod port;
mod stack;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use weir_pool::{Packet, Pool};
use weir_port::PortCounts;

pub use port::KernelPort;
pub use stack::StackPort;

/// Longest frame that is taken from the kernel, in bytes.
const FRAME_MAX: usize = 65_536;

/// A TAP device of this process, or one of its queues.
pub struct TapDevice {
    device: SyncDevice,
    name: String,
}

impl std::fmt::Debug for TapDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapDevice").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TapDevice {
    /// Opens so many queues of a TAP interface, which is made if it is not there, and goes with the
    /// process if it was made. It is set up. `mac`: its hardware address, else it keeps its own.
    ///
    /// # Errors
    /// What the kernel said: there is no `/dev/net/tun`, or no capability `CAP_NET_ADMIN`; another
    /// program has the interface; it is no TAP interface, or has one queue and several are wanted.
    pub fn open(name: &str, mac: Option<[u8; 6]>, queues: usize) -> io::Result<Vec<Self>> {
        let build = |several| {
            let builder = DeviceBuilder::new().name(name).layer(Layer::L2).with(|device| {
                device.multi_queue(several);
            });
            let builder = match mac {
                Some(mac) => builder.mac_addr(mac),
                None => builder,
            };
            builder.build_sync()
        };
        let several = queues > 1;
        let first = match build(several) {
            // One that was made for several queues has to be told so, also by whoever wants one.
            Err(error) if !several && error.kind() == io::ErrorKind::InvalidInput => build(true),
            built => built,
        }?;
        let mut all = Vec::with_capacity(queues);
        for _ in 1..queues {
            all.push(first.try_clone()?);
        }
        all.push(first);
        for device in &all {
            device.set_nonblocking(true)?;
        }
        Ok(all.into_iter().map(|device| Self { device, name: name.to_owned() }).collect())
    }

    /// The interface's hardware address.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn hardware_address(&self) -> io::Result<[u8; 6]> {
        self.device.mac_address()
    }

    /// Gives a frame to the kernel. False: it has no room for it, or the interface is down.
    ///
    /// # Errors
    /// When the device is gone.
    fn give(&self, frame: &[u8]) -> io::Result<bool> {
        match self.device.send(frame) {
            Ok(_) => Ok(true),
            Err(error) if refused(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives packets to the kernel, and their buffers back. `broken`: the device is gone already,
    /// and they are dropped, as is the rest when that is found.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn give_all(
        &self,
        mut broken: bool,
        pool: &mut Pool,
        packets: &mut Vec<Packet>,
        counts: &mut PortCounts,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for packet in packets.drain(..) {
            let frame = pool.bytes(packet.descriptor).unwrap_or_default();
            let given = if broken { Ok(false) } else { self.give(frame) };
            match given {
                Ok(true) => counts.kernel_received += 1,
                Ok(false) => counts.kernel_dropped_full += 1,
                Err(error) => {
                    counts.kernel_dropped_full += 1;
                    broken = true;
                    result = Err(error);
                }
            }
            pool.give(packet.buffer);
        }
        result
    }

    /// Takes a frame that the kernel sends, if there is one; what does not fit is cut off, which
    /// the answer's being the whole of `into` tells.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn take(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.device.recv(into) {
            Ok(length) => Ok(Some(length)),
            Err(error) if refused(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Whether the device is there, but not ready: nothing to read, no room, down (EIO), or no Ethernet
/// frame (EINVAL).
fn refused(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENOBUFS: i32 = 105;
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput)
        || matches!(error.raw_os_error(), Some(EIO | ENOBUFS))
}
