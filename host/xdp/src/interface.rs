//! What the kernel says about an interface, asked and told by rtnetlink (rtnetlink(7),
//! `Documentation/netlink/specs/rt-link.yaml`). Knows nothing of sockets and rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::config::Mode;

/// Bytes of a message's header (`struct nlmsghdr`), of a link's (`struct ifinfomsg`), of an
/// attribute's (`struct rtattr`).
const MESSAGE: usize = 16;
const LINK: usize = 16;
const ATTRIBUTE: usize = 4;
/// Larger than any message about a link without its statistics; what is longer is read in part.
const ANSWER: usize = 32 << 10;

/// See netdevice(7).
const IFF_LOWER_UP: u32 = 1 << 16;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// "Which offloads are on?" (`linux/ethtool.h`), and the one that takes VLAN tags out of frames.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// Values of `IFLA_XDP_ATTACHED`.
const XDP_ATTACHED_DRV: u8 = 1;
const XDP_ATTACHED_SKB: u8 = 2;

/// An interface as it was when asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    /// Set up by the operator (`IFF_UP`).
    pub(crate) up: bool,
    /// Something is at the other end (`IFF_LOWER_UP`).
    pub(crate) carrier: bool,
    /// Bytes of a packet behind the Ethernet header at most.
    pub(crate) mtu: u32,
    /// Receive queues that it has at most; fewer may be in use.
    pub(crate) queues: u32,
    /// The XDP program on it, by its number.
    pub(crate) program: Option<u32>,
    /// Where that runs, if this host knows of it.
    pub(crate) mode: Option<Mode>,
    /// There is no device: somebody made it (`ip link add`).
    pub(crate) made: bool,
}

/// What became of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It can send and receive packets of so many bytes behind the Ethernet header, if that was
    /// said.
    Up {
        mtu: Option<u32>,
    },
    /// It was set down, or has no carrier.
    Down,
    Gone,
}

impl Interface {
    /// Asks for an interface by its name; `None` when there is none.
    pub(crate) fn find(name: &str) -> io::Result<Option<Self>> {
        Self::ask(0, name)
    }

    /// Asks for an interface that was found before, whatever its name is by now; `None` when it is
    /// gone.
    pub(crate) fn again(index: u32) -> io::Result<Option<Self>> {
        Self::ask(index, "")
    }

    /// Whether packets can leave and come.
    pub(crate) fn is_live(&self) -> bool {
        self.up && self.carrier
    }

    /// Whether its device takes VLAN tags out of what it receives. Nobody else does: where there is
    /// no device the sender leaves them out, and what is said here means nothing.
    pub(crate) fn strips_tags(&self, name: &str) -> bool {
        !self.made && offloads(name).is_ok_and(|flags| flags & ETH_FLAG_RXVLAN != 0)
    }

    fn change(&self) -> Change {
        // Some messages are about other things, and say only whether it is up.
        let mtu = (self.mtu != 0).then_some(self.mtu);
        if self.is_live() { Change::Up { mtu } } else { Change::Down }
    }

    /// `index` 0: by its name.
    fn ask(index: u32, name: &str) -> io::Result<Option<Self>> {
        let socket = open(0)?;
        net::send(&socket, &request(index, name), SendFlags::empty())?;
        let mut answer = vec![0; ANSWER];
        let (length, _) = net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
        match messages(&answer[..length.min(ANSWER)]).next() {
            Some((kind, body)) if kind == libc::RTM_NEWLINK => {
                Ok(Some(parse(body).ok_or(io::ErrorKind::InvalidData)?))
            }
            Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => {
                let number = body.first_chunk().map_or(0, |code| -i32::from_ne_bytes(*code));
                match Errno::from_raw_os_error(number) {
                    Errno::NODEV => Ok(None),
                    error => Err(error.into()),
                }
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Offloads of an interface that are on (`ETH_FLAG_*`).
fn offloads(name: &str) -> io::Result<u32> {
    /// `struct ethtool_value`
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let socket =
        net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: zeroes are a valid `ifreq`: it is made of integers and a pointer that nobody reads.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the name, which ends with a zero, and with this command reads and
    // writes one `ethtool_value`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}

/// Listens for what becomes of an interface.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: OwnedFd,
    index: u32,
    buffer: Box<[u8]>,
}

impl Watch {
    pub(crate) fn new(index: u32) -> io::Result<Self> {
        let socket = news()?;
        Ok(Self { socket, index, buffer: vec![0; ANSWER].into() })
    }

    /// Whether the interface is there yet, under whatever name.
    pub(crate) fn is_there(&self) -> bool {
        matches!(Interface::again(self.index), Ok(Some(_)))
    }

    /// What became of it since the last call, if anything: the last thing counts, and gone is for
    /// ever.
    pub(crate) fn change(&mut self) -> io::Result<Option<Change>> {
        let mut change = None;
        loop {
            let length = match net::recv(&self.socket, &mut *self.buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length.min(self.buffer.len()),
                Err(Errno::AGAIN) => return Ok(change),
                Err(Errno::INTR) => continue,
                // Too much happened on the machine at once, and news were lost.
                Err(Errno::NOBUFS) => {
                    let now = Interface::again(self.index)?;
                    change = Some(now.map_or(Change::Gone, |interface| interface.change()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (kind, body) in messages(&self.buffer[..length]) {
                let Some(interface) = parse(body).filter(|i| i.index == self.index) else {
                    continue;
                };
                if kind == libc::RTM_DELLINK {
                    change = Some(Change::Gone);
                } else if kind == libc::RTM_NEWLINK && change != Some(Change::Gone) {
                    change = Some(interface.change());
                }
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A routing socket that is told what becomes of all links.
pub(crate) fn news() -> io::Result<OwnedFd> {
    open(1 << (libc::RTNLGRP_LINK - 1))
}

/// A routing socket that is told of these groups' news.
fn open(groups: u32) -> io::Result<OwnedFd> {
    let socket =
        net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// "What do you know of the link of this number, or else of this name?"
fn request(index: u32, name: &str) -> Vec<u8> {
    let attribute = ATTRIBUTE + name.len() + 1;
    let named = if name.is_empty() { 0 } else { attribute.next_multiple_of(4) };
    let length = MESSAGE + LINK + named;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    bytes.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and port, which only matter to who has several questions; any family and
    // type, no flags.
    bytes.resize(MESSAGE + LINK, 0);
    bytes[MESSAGE + 4..MESSAGE + 8].copy_from_slice(&index.to_ne_bytes());
    if named == 0 {
        return bytes;
    }
    bytes.extend_from_slice(&(attribute as u16).to_ne_bytes());
    bytes.extend_from_slice(&libc::IFLA_IFNAME.to_ne_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(length, 0);
    bytes
}

/// The messages in what was received: kind and body.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    records(bytes, MESSAGE, |header| {
        (read_u32(header, 0) as usize, u16::from_ne_bytes([header[4], header[5]]))
    })
}

/// The attributes in a body: kind and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    records(bytes, ATTRIBUTE, |header| {
        let [length, kind] = [0, 2].map(|at| u16::from_ne_bytes([header[at], header[at + 1]]));
        (usize::from(length), kind & libc::NLA_TYPE_MASK as u16)
    })
}

/// Records that begin with their length, aligned to four bytes.
fn records(
    mut bytes: &[u8],
    header: usize,
    read: impl Fn(&[u8]) -> (usize, u16),
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = read(bytes.get(..header)?);
        let body = bytes.get(header..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

/// A message about a link. Not one about its part in something else, such as a bridge's about a
/// port that it loses: that has the interface's number, but another family.
fn parse(body: &[u8]) -> Option<Interface> {
    let link = body.get(..LINK).filter(|link| i32::from(link[0]) == libc::AF_UNSPEC)?;
    let mut interface = Interface {
        index: read_u32(link, 4),
        up: read_u32(link, 8) & libc::IFF_UP as u32 != 0,
        carrier: read_u32(link, 8) & IFF_LOWER_UP != 0,
        ..Interface::default()
    };
    for (kind, value) in attributes(&body[LINK..]) {
        match kind {
            libc::IFLA_MTU => interface.mtu = read_u32(value, 0),
            libc::IFLA_NUM_RX_QUEUES => interface.queues = read_u32(value, 0),
            libc::IFLA_LINKINFO => {
                interface.made = attributes(value).any(|(kind, _)| kind == libc::IFLA_INFO_KIND);
            }
            libc::IFLA_XDP => {
                interface.program = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_XDP_PROG_ID)
                    .map(|(_, id)| read_u32(id, 0))
                    .filter(|id| *id != 0);
                interface.mode = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_XDP_ATTACHED)
                    .and_then(|(_, mode)| match *mode.first()? {
                        XDP_ATTACHED_DRV => Some(Mode::Native),
                        XDP_ATTACHED_SKB => Some(Mode::Generic),
                        _ => None,
                    });
            }
            _ => {}
        }
    }
    Some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_and_nothing_else() {
        let lo = Interface::find("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.program), (1, None));
        assert!(lo.mtu >= 16_384 && lo.queues >= 1, "{lo:?}");
        assert!(offloads("lo").is_ok() && offloads("weir-none").is_err());
        assert_eq!(Interface::again(1).unwrap(), Some(lo));
        assert_eq!(Interface::find("weir-none").unwrap(), None);
    }

    #[test]
    fn what_a_bridge_says_of_its_port_is_not_about_the_interface() {
        let of = |family: i32| {
            let mut body = [0; LINK];
            body[0] = family as u8;
            body[4] = 7;
            body[8..12].copy_from_slice(&(libc::IFF_UP as u32 | IFF_LOWER_UP).to_ne_bytes());
            parse(&body)
        };
        assert_eq!(of(libc::AF_BRIDGE), None);
        // Without a size: that of before holds.
        let told = of(libc::AF_UNSPEC).unwrap();
        assert_eq!((told.index, told.change()), (7, Change::Up { mtu: None }));
    }

    #[test]
    fn damaged_messages_end_the_reading() {
        let whole = request(0, "lo");
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
        let mut short = whole.clone();
        short[0] = 3;
        assert_eq!(messages(&short).count(), 0);
        short[0] = 16;
        assert!(messages(&short).all(|(_, body)| parse(body).is_none()));
    }
}
