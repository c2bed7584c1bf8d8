//! Links, their virtual functions and addresses, by rtnetlink (rtnetlink(7),
//! `Documentation/netlink/specs/rt-link.yaml`). One question on a socket of its own each.

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::address::MacAddress;
use crate::functions::VfSettings;
use crate::kernel::Link;
use crate::message::{HEADER, Message, attributes, messages, word};
use crate::setting::{LinkState, VfValue};

/// Kinds of messages.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// Flags of messages.
const REQUEST: u16 = 0x001;
const ACK: u16 = 0x004;
const EXCLUSIVE: u16 = 0x200;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
/// Attributes of links.
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Values of `IFLA_EXT_MASK`: with virtual functions, without their counters.
const VFS_WITHOUT_COUNTERS: u32 = 1 | 8;
/// Attributes of virtual functions.
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
/// Bytes of a MAC address there: the longest of any kind of link.
const MAC_ROOM: usize = 32;
/// Attributes of addresses.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Of use at once: it is not asked whether somebody else has it.
const IFA_F_NODAD: u8 = 2;
/// Bytes of the fixed parts (`struct ifinfomsg`, `struct ifaddrmsg`).
const LINK: usize = 16;
const ADDRESS: usize = 8;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The text of an extended acknowledgement (`NLMSGERR_ATTR_MSG`).
const ACK_TEXT: u16 = 1;
const ENODEV: i32 = 19;

/// Asks; the answers, kind and body.
fn ask(message: Message, until_done: bool) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Kernels that cannot say more leave it at a number.
    let _ = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true));
    socket.send(&message.bytes(), 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&datagram) {
            match kind {
                NLMSG_DONE => return Ok(answers),
                NLMSG_ERROR => {
                    let code = word(body, 0).map_or(0, |code| -code.cast_signed());
                    return if code == 0 { Ok(answers) } else { Err(refusal(code, &body[4..])) };
                }
                _ => answers.push((kind, body.to_vec())),
            }
        }
        if !until_done {
            return Ok(answers);
        }
    }
}

/// An error with what the driver said, if it did. An acknowledgement has the header of what was
/// asked before its attributes.
fn refusal(code: i32, acknowledgement: &[u8]) -> io::Error {
    let error = io::Error::from_raw_os_error(code);
    let mut said = attributes(acknowledgement.get(HEADER..).unwrap_or_default());
    let text = said.find(|(kind, _)| *kind == ACK_TEXT).map(|(_, text)| text);
    let text = text.and_then(|text| text.split(|byte| *byte == 0).next());
    match text.map(String::from_utf8_lossy) {
        Some(text) if error.kind() != io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("{text} ({error})"))
        }
        _ => error,
    }
}

/// A message about the link of this name.
fn about(kind: u16, flags: u16, interface: &str, (change, value): (u32, u32)) -> Message {
    let mut fixed = [0; LINK];
    fixed[8..12].copy_from_slice(&value.to_ne_bytes());
    fixed[12..].copy_from_slice(&change.to_ne_bytes());
    let mut message = Message::new(kind, REQUEST | flags, &fixed);
    message.attribute(IFLA_IFNAME, &[interface.as_bytes(), &[0]].concat());
    message
}

pub(crate) fn link(interface: &str) -> io::Result<Option<Link>> {
    let mut message = about(RTM_GETLINK, 0, interface, (0, 0));
    message.attribute(IFLA_EXT_MASK, &VFS_WITHOUT_COUNTERS.to_ne_bytes());
    match ask(message, false) {
        Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(answers) => {
            let found = answers.iter().find(|(kind, _)| *kind == RTM_NEWLINK);
            let link = found.and_then(|(_, body)| parsed(body));
            link.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

fn parsed(body: &[u8]) -> Option<Link> {
    let up = word(body, 8)? & IFF_UP != 0;
    let mut link = Link { index: word(body, 4)?, up, ..Link::default() };
    for (kind, value) in attributes(body.get(LINK..)?) {
        match kind {
            IFLA_MASTER => link.enslaved = word(value, 0) != Some(0),
            IFLA_XDP => {
                let program = |(kind, id)| kind == IFLA_XDP_PROG_ID && word(id, 0) != Some(0);
                link.has_xdp = attributes(value).any(program);
            }
            IFLA_VFINFO_LIST => {
                let vfs = attributes(value).filter(|(kind, _)| *kind == IFLA_VF_INFO);
                link.vfs = vfs.map(|(_, vf)| settings(vf)).collect();
            }
            _ => {}
        }
    }
    Some(link)
}

/// How a virtual function is set. Each attribute begins with its number; all ones: the driver does
/// not tell.
fn settings(vf: &[u8]) -> VfSettings {
    let mut settings = VfSettings::default();
    for (kind, value) in attributes(vf) {
        let number = |place: usize| word(value, 4 * place).filter(|number| *number != u32::MAX);
        let switch = number(1).map(|on| on != 0);
        match kind {
            IFLA_VF_MAC => {
                settings.index = number(0).unwrap_or_default() as u16;
                let mac = value.get(4..).and_then(<[u8]>::first_chunk);
                settings.mac = mac.copied().map(MacAddress);
            }
            IFLA_VF_VLAN => {
                settings.vlan = number(1).unwrap_or_default() as u16;
                settings.qos = number(2).unwrap_or_default() as u8;
            }
            IFLA_VF_RATE => {
                settings.min_rate = number(1).unwrap_or_default();
                settings.max_rate = number(2).unwrap_or_default();
            }
            IFLA_VF_SPOOFCHK => settings.spoof_check = switch,
            IFLA_VF_TRUST => settings.trust = switch,
            IFLA_VF_LINK_STATE => {
                settings.link = match number(1) {
                    Some(0) => Some(LinkState::Auto),
                    Some(1) => Some(LinkState::Up),
                    Some(2) => Some(LinkState::Down),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    settings
}

pub(crate) fn set_vf(interface: &str, index: u16, value: &VfValue) -> io::Result<()> {
    let words = |numbers: &[u32]| -> Vec<u8> {
        let all = [u32::from(index)].into_iter().chain(numbers.iter().copied());
        all.flat_map(u32::to_ne_bytes).collect()
    };
    let (kind, bytes) = match *value {
        VfValue::Mac(mac) => {
            let mut bytes = words(&[]);
            bytes.extend_from_slice(&mac.0);
            bytes.resize(4 + MAC_ROOM, 0);
            (IFLA_VF_MAC, bytes)
        }
        VfValue::Vlan { vlan, qos } => (IFLA_VF_VLAN, words(&[vlan.into(), qos.into()])),
        VfValue::Rate { min, max } => (IFLA_VF_RATE, words(&[min, max])),
        VfValue::SpoofCheck(on) => (IFLA_VF_SPOOFCHK, words(&[on.into()])),
        VfValue::Trust(on) => (IFLA_VF_TRUST, words(&[on.into()])),
        VfValue::Link(state) => {
            let state = match state {
                LinkState::Auto => 0,
                LinkState::Up => 1,
                LinkState::Down => 2,
            };
            (IFLA_VF_LINK_STATE, words(&[state]))
        }
    };
    let mut message = about(RTM_SETLINK, ACK, interface, (0, 0));
    message.within(IFLA_VFINFO_LIST, |list| {
        list.within(IFLA_VF_INFO, |vf| vf.attribute(kind, &bytes));
    });
    ask(message, true).map(drop)
}

pub(crate) fn set_up(interface: &str, up: bool) -> io::Result<()> {
    let value = if up { IFF_UP } else { 0 };
    ask(about(RTM_SETLINK, ACK, interface, (IFF_UP, value)), true).map(drop)
}

/// The number of an interface that there must be.
fn number(interface: &str) -> io::Result<u32> {
    match link(interface)? {
        Some(link) => Ok(link.index),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no interface {interface}"),
        )),
    }
}

pub(crate) fn addresses(interface: &str) -> io::Result<Vec<(IpAddr, u8)>> {
    let index = number(interface)?;
    let answers = ask(Message::new(RTM_GETADDR, REQUEST | DUMP, &[0; ADDRESS]), true)?;
    let ours = answers.iter().filter(|(_, body)| word(body, 4) == Some(index));
    Ok(ours.filter_map(|(_, body)| address(body)).collect())
}

fn address(body: &[u8]) -> Option<(IpAddr, u8)> {
    let all = || attributes(body.get(ADDRESS..).unwrap_or_default());
    let of = |wanted| all().find(|(kind, _)| *kind == wanted).and_then(|(_, bytes)| ip(bytes));
    // On a link with a peer the local one is ours; for IPv6 there is one only.
    Some((of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?, *body.get(1)?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(crate) fn set_address(
    interface: &str,
    address: IpAddr,
    prefix: u8,
    present: bool,
) -> io::Result<()> {
    let (kind, flags) = if present { (RTM_NEWADDR, CREATE | EXCLUSIVE) } else { (RTM_DELADDR, 0) };
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut fixed = [family, prefix, if present { IFA_F_NODAD } else { 0 }, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&number(interface)?.to_ne_bytes());
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut message = Message::new(kind, REQUEST | ACK | flags, &fixed);
    message.attribute(IFA_LOCAL, &bytes);
    message.attribute(IFA_ADDRESS, &bytes);
    ask(message, true).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known() {
        let link = link("lo").unwrap().unwrap();
        assert_eq!((link.index, link.enslaved, link.vfs.len()), (1, false, 0));
        assert!(addresses("lo").unwrap().contains(&("127.0.0.1".parse().unwrap(), 8)));
        assert_eq!(super::link("no-such-link").unwrap(), None);
    }

    #[test]
    fn a_refusal_says_what_the_driver_said() {
        let mut acknowledgement = vec![0; HEADER];
        acknowledgement.extend([8, 0, 2, 0, 0, 0, 0, 0]);
        acknowledgement.extend([9, 0, 1, 0]);
        acknowledgement.extend(b"busy\0\0\0\0");
        let error = refusal(16, &acknowledgement);
        assert!(error.to_string().starts_with("busy ("), "{error}");
        assert_eq!(refusal(95, &[0; 3]).raw_os_error(), Some(95));
    }

    #[test]
    fn what_a_driver_does_not_tell_is_not_told() {
        let mut message = Message::new(RTM_NEWLINK, 0, &[0; LINK]);
        let words = |numbers: &[u32]| -> Vec<u8> {
            numbers.iter().copied().flat_map(u32::to_ne_bytes).collect()
        };
        message.within(IFLA_VFINFO_LIST, |list| {
            list.within(IFLA_VF_INFO, |vf| {
                vf.attribute(
                    IFLA_VF_MAC,
                    &[&words(&[3])[..], &[2, 0, 0, 0, 0, 7], &[0; 26]].concat(),
                );
                vf.attribute(IFLA_VF_VLAN, &words(&[3, 100, 5]));
                vf.attribute(IFLA_VF_SPOOFCHK, &words(&[3, u32::MAX]));
                vf.attribute(IFLA_VF_TRUST, &words(&[3, 1]));
            });
        });
        let bytes = message.bytes();
        let vfs = messages(&bytes).find_map(|(_, body)| parsed(body)).unwrap().vfs;
        let expected = VfSettings {
            index: 3,
            mac: Some(MacAddress([2, 0, 0, 0, 0, 7])),
            vlan: 100,
            qos: 5,
            trust: Some(true),
            ..VfSettings::default()
        };
        assert_eq!(vfs, [expected]);
    }
}
