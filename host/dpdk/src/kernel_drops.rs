//! Frames that the kernel drops between one of its interfaces and a device of DPDK's that lies on
//! it, and of which DPDK tells nothing: they found no room in the receive ring of `net_af_packet`,
//! or the interface took them and did not send them.

use std::fs;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::sockets;

/// See the module.
#[derive(Debug)]
pub(crate) struct KernelDrops {
    interface: String,
    /// Frames that the interface had not sent before.
    not_sent: u64,
    /// The driver's sockets, open as long as the device is.
    pub(crate) sockets: Vec<RawFd>,
    /// The kernel forgets what it has told.
    not_received: AtomicU64,
}

impl KernelDrops {
    /// Of a device that was just opened on this interface.
    pub(crate) fn of(interface: &str, driver: &str) -> Self {
        let sockets =
            if driver == "net_af_packet" { sockets::packet(interface) } else { Vec::new() };
        Self {
            interface: interface.to_owned(),
            not_sent: not_sent(interface).unwrap_or(0),
            sockets,
            not_received: AtomicU64::new(0),
        }
    }

    /// Frames that there was no room for. Not for two threads at a time, nor when the device is
    /// closed.
    pub(crate) fn not_received(&self) -> u64 {
        let dropped: u64 = self.sockets.iter().map(|socket| packet_drops(*socket)).sum();
        self.not_received.fetch_add(dropped, Relaxed) + dropped
    }

    /// What there was no room for so far does not count.
    pub(crate) fn forget_not_received(&self) {
        self.not_received();
        self.not_received.store(0, Relaxed);
    }

    /// Frames that the interface dropped instead of sending them.
    pub(crate) fn not_sent(&self) -> u64 {
        not_sent(&self.interface).unwrap_or(0).saturating_sub(self.not_sent)
    }
}

/// What the interface has not sent so far, as the kernel counts.
fn not_sent(interface: &str) -> Option<u64> {
    // Of the thread's own network namespace.
    let all = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    dropped(&all, interface)
}

/// The `drop` of the second half of an interface's line.
fn dropped(table: &str, interface: &str) -> Option<u64> {
    /// Numbers of a half: bytes, packets, errs, drop, ...
    const HALF: usize = 8;
    let line = table.lines().find_map(|line| {
        line.trim_start().strip_prefix(interface).and_then(|rest| rest.strip_prefix(':'))
    })?;
    line.split_whitespace().nth(HALF + 3)?.parse().ok()
}

/// Frames that a packet socket had no room for since it was asked last (packet(7),
/// `PACKET_STATISTICS`).
fn packet_drops(socket: RawFd) -> u64 {
    // SAFETY: zeroes are valid: it is made of integers.
    let mut told: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let got = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut told).cast(),
            &raw mut length,
        )
    };
    if got == 0 { told.tp_drops.into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                     lo:       0       1    2    3    0     0          0         0        4       5    6    7    0     0       0          0\n \
                     eth0:1504       9    0    0    0     0          0         0      100      10    0   11    0     0       0          0\n";
        assert_eq!(dropped(table, "lo"), Some(7));
        assert_eq!(dropped(table, "eth0"), Some(11));
        assert_eq!(dropped(table, "eth"), None);
        assert_eq!(dropped("", "lo"), None);
    }
}
