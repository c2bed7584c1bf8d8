//! Raw frames on an interface, by AF_PACKET, which knows nothing of XDP: a generator at full speed,
//! and one packet at a time.
//!
//! Must not know: who forwards the frames.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Frames that are sent with one system call.
const BATCH: usize = 64;
/// What a generator that keeps to a rate sleeps when it is ahead.
const BATCH_PAUSE: Duration = Duration::from_micros(100);
/// An EtherType for experiments: no stack takes part.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A socket on an interface of this thread's network namespace.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens it; with `listen` it gets what comes in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(interface: &str, listen: bool) -> io::Result<Self> {
        let name = CString::new(interface)?;
        let protocol = if listen { ALL } else { 0 };
        // SAFETY: a new descriptor; name and address live through the calls and are as long as is
        // said.
        unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                c_int::from(protocol),
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let wire = Self(OwnedFd::from_raw_fd(fd));
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as c_int;
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            if libc::bind(fd, (&raw const address).cast(), length) < 0 {
                return Err(io::Error::last_os_error());
            }
            wire.option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
            wire.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(16 << 20))?;
            Ok(wire)
        }
    }

    unsafe fn option<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let (value, length) =
            ((value as *const T).cast::<c_void>(), size_of::<T>() as libc::socklen_t);
        // SAFETY: the kernel reads so many bytes at the value's address.
        let set = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, length) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends frames of these bytes for this time, at most so many a second; the answer is how many
    /// were sent.
    pub fn flood(&self, frame: &[u8], duration: Duration, rate: Option<f64>) -> u64 {
        let mut vector =
            libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        // SAFETY: zeroes are a valid header, which then names the one vector.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for header in &mut headers {
            header.msg_hdr.msg_iov = &raw mut vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let started = Instant::now();
        let mut sent = 0u64;
        while started.elapsed() < duration {
            if let Some(rate) = rate
                && sent as f64 > started.elapsed().as_secs_f64() * rate
            {
                std::thread::sleep(BATCH_PAUSE);
                continue;
            }
            // SAFETY: headers, vector and frame live through the call; the kernel only reads the
            // frame.
            let done = unsafe {
                libc::sendmmsg(self.0.as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, 0)
            };
            sent += u64::try_from(done).unwrap_or(0);
        }
        sent
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the frame lives through the call.
        unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }

    /// Waits, without sleeping, for a frame that ends with this number. False: none came for so
    /// long.
    pub fn spin_for(&self, number: u64, patience: Duration) -> bool {
        let started = Instant::now();
        let mut bytes = [0u8; 2048];
        while started.elapsed() < patience {
            // SAFETY: the buffer lives through the call, and is as long as is said.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(length @ 8..) = usize::try_from(got)
                && bytes[length - 8..length] == number.to_be_bytes()
            {
                return true;
            }
        }
        false
    }
}

/// A frame of so many bytes, for another host than the one on the wire, that ends with a number.
#[must_use]
pub fn frame(bytes: usize, number: u64) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];
    frame.extend_from_slice(&ETHERTYPE);
    frame.resize(bytes - 8, 0);
    frame.extend_from_slice(&number.to_be_bytes());
    frame
}
