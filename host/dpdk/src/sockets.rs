//! The kernel's sockets that some drivers work with, found among the process's open files: DPDK
//! does not give them away.

use std::ffi::c_int;
use std::fs;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::interface;

/// Longer than the kernel takes to let go of the queue of an AF_XDP socket that was closed: a
/// worker of its own does that, some milliseconds later.
const RELEASE: Duration = Duration::from_millis(250);

/// When the last one was.
static CLOSED: Mutex<Option<Instant>> = Mutex::new(None);

/// The packet sockets on this interface (packet(7)), by their numbers.
pub(crate) fn packet(name: &str) -> Vec<RawFd> {
    let Some(index) = interface::index(name) else { return Vec::new() };
    let on_it = |fd: &RawFd| packet_interface(*fd) == i64::from(index);
    let mut sockets: Vec<_> = open().filter(on_it).collect();
    sockets.sort_unstable();
    sockets
}

/// A driver's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) fd: RawFd,
    /// No other socket has it: descriptors' numbers are used again.
    inode: u64,
}

impl Socket {
    fn of(fd: RawFd) -> Option<Self> {
        // SAFETY: zeroes are a valid `stat`: it is made of integers.
        let mut told: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one `stat`, or says that this is no open file.
        let got = unsafe { libc::fstat(fd, &raw mut told) };
        (got == 0).then_some(Self { fd, inode: told.st_ino })
    }

    /// Closes it if its driver has not. The driver must not have it any more.
    fn close_if_open(self) {
        if Self::of(self.fd) == Some(self) {
            // SAFETY: the same socket still, whose driver is gone.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// Closes those of these AF_XDP sockets that their driver, which must not have them any more, did
/// not.
pub(crate) fn close_xdp(sockets: impl IntoIterator<Item = Socket>) {
    for socket in sockets {
        socket.close_if_open();
        *CLOSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Waits until the kernel has let go of what [`close_xdp`] closed. To try again instead is not
/// possible: `net_af_xdp` goes on with the ring of buffers where a queue that could not be set up
/// left it, and takes zeroes for addresses of frames.
pub(crate) fn wait_for_release() {
    let closed = *CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(closed) = closed {
        thread::sleep(RELEASE.saturating_sub(closed.elapsed()));
    }
}

/// All AF_XDP sockets.
pub(crate) fn xdp() -> Vec<Socket> {
    open().filter(|fd| domain(*fd) == Some(libc::AF_XDP)).filter_map(Socket::of).collect()
}

fn open() -> impl Iterator<Item = RawFd> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten();
    open.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok())
}

/// A socket's family; none for other files.
fn domain(fd: RawFd) -> Option<c_int> {
    let mut domain: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, or says that this is no socket.
    let got = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    (got == 0).then_some(domain)
}

/// The number of the interface that a packet socket is on; 0 for none, and for other files.
fn packet_interface(fd: RawFd) -> i64 {
    if domain(fd) != Some(libc::AF_PACKET) {
        return 0;
    }
    // SAFETY: zeroes are a valid address: it is made of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the address.
    let got = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut length) };
    if got == 0 { address.sll_ifindex.into() } else { 0 }
}
