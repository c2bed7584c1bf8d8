//! The kernel's interfaces, which some virtual devices lie on.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketType, socket};

/// The number of the interface of this name, which another one that comes after it has not; none:
/// the process sees none.
pub(crate) fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string that ends with a zero, which the call only reads.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

/// An interface's MTU, in bytes.
pub(crate) fn mtu(name: &str) -> io::Result<u32> {
    let answer = ask(name, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU writes this member.
    let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// Whether packets can leave and come by an interface: it is up, and has a carrier.
pub(crate) fn has_link(name: &str) -> io::Result<bool> {
    const LIVE: i32 = libc::IFF_UP | libc::IFF_RUNNING;
    let answer = ask(name, libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS writes this member.
    let flags = unsafe { answer.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & LIVE == LIVE)
}

/// Asks for something of an interface (netdevice(7)).
fn ask(name: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: zeroes are a valid `ifreq`: it is made of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: calls that ask read the name, which ends with a zero, and write a member of
    // `ifr_ifru`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}
