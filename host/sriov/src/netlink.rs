//! Links, their virtual functions and addresses, by rtnetlink (rtnetlink(7)). One question on a socket of its own each.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, LinkVfInfo, LinkXdp, VfInfo,
    VfInfoLinkState, VfInfoMac, VfInfoRate, VfInfoSpoofCheck, VfInfoTrust, VfInfoVlan, VfLinkState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::address::MacAddress;
use crate::functions::VfSettings;
use crate::kernel::Link;
use crate::setting::{LinkState, VfValue};

/// The text of an extended acknowledgement (`NLMSGERR_ATTR_MSG`), and bytes of a message's header before it.
const ACK_TEXT: u16 = 1;
const HEADER: usize = 16;
/// What a driver says of a rate that it does not limit.
const NO_DEVICE: i32 = 19;

/// Asks, and collects the answers.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Kernels that cannot say more leave it at a number.
    let _ = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = (answer.header.length as usize).next_multiple_of(4);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(answers),
                        Some(code) => Err(refusal(-code.get(), &error.header)),
                    };
                }
                NetlinkPayload::InnerMessage(message) => {
                    answers.push(message);
                    if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                        return Ok(answers);
                    }
                }
                _ => {}
            }
            if length == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// An error with what the driver said, if it did.
fn refusal(code: i32, acknowledgement: &[u8]) -> io::Error {
    let error = io::Error::from_raw_os_error(code);
    match text(acknowledgement.get(HEADER..).unwrap_or_default()) {
        Some(text) if error.kind() != io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("{text} ({error})"))
        }
        _ => error,
    }
}

fn text(mut attributes: &[u8]) -> Option<String> {
    while let [l0, l1, t0, t1, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1])).checked_sub(4)?;
        if u16::from_ne_bytes([*t0, *t1]) == ACK_TEXT {
            let text = rest.get(..length)?.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn named(interface: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(interface.to_owned()));
    message
}

pub(crate) fn link(interface: &str) -> io::Result<Option<Link>> {
    let mut message = named(interface);
    let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(mask));
    let answers = match ask(RouteNetlinkMessage::GetLink(message), 0) {
        Err(error) if error.raw_os_error() == Some(NO_DEVICE) => return Ok(None),
        answers => answers?,
    };
    let found = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(found.map(|message| parsed(&message)))
}

fn parsed(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => link.enslaved = *index != 0,
            LinkAttribute::Xdp(xdp) => {
                link.has_xdp = xdp.iter().any(|x| matches!(x, LinkXdp::ProgId(id) if *id != 0));
            }
            LinkAttribute::VfInfoList(vfs) => link.vfs = vfs.iter().map(settings).collect(),
            _ => {}
        }
    }
    link
}

fn settings(vf: &LinkVfInfo) -> VfSettings {
    let mut settings = VfSettings::default();
    for info in &vf.0 {
        match info {
            VfInfo::Mac(mac) => {
                settings.index = mac.vf_id as u16;
                let bytes = mac.mac.first_chunk().copied().unwrap_or_default();
                settings.mac = Some(MacAddress(bytes));
            }
            VfInfo::Vlan(vlan) => {
                (settings.vlan, settings.qos) = (vlan.vlan_id as u16, vlan.qos as u8);
            }
            VfInfo::Rate(rate) => {
                (settings.min_rate, settings.max_rate) = (rate.min_tx_rate, rate.max_tx_rate);
            }
            VfInfo::SpoofCheck(check) => settings.spoof_check = Some(check.enabled),
            VfInfo::Trust(trust) => settings.trust = Some(trust.enabled),
            VfInfo::LinkState(state) => {
                settings.link = match state.state {
                    VfLinkState::Auto => Some(LinkState::Auto),
                    VfLinkState::Enable => Some(LinkState::Up),
                    VfLinkState::Disable => Some(LinkState::Down),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    settings
}

pub(crate) fn set_vf(interface: &str, index: u16, value: &VfValue) -> io::Result<()> {
    let vf = u32::from(index);
    let info = match *value {
        VfValue::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
        VfValue::Vlan { vlan, qos } => {
            VfInfo::Vlan(VfInfoVlan::new(vf, u32::from(vlan), u32::from(qos)))
        }
        VfValue::Rate { min, max } => VfInfo::Rate(VfInfoRate::new(vf, min, max)),
        VfValue::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
        VfValue::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
        VfValue::Link(state) => {
            let state = match state {
                LinkState::Auto => VfLinkState::Auto,
                LinkState::Up => VfLinkState::Enable,
                LinkState::Down => VfLinkState::Disable,
            };
            VfInfo::LinkState(VfInfoLinkState::new(vf, state))
        }
    };
    let mut message = named(interface);
    message.attributes.push(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
}

pub(crate) fn set_up(interface: &str, up: bool) -> io::Result<()> {
    let mut message = named(interface);
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
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
    let answers = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
    let ours = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
        _ => None,
    });
    let address = |message: AddressMessage| {
        // On a link with a peer `Local` is ours; for IPv6 there is only `Address`.
        let all = &message.attributes;
        let local = all.iter().find_map(|a| match a {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let other = all.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        Some((local.or(other)?, message.header.prefix_len))
    };
    Ok(ours.filter_map(address).collect())
}

pub(crate) fn set_address(
    interface: &str,
    address: IpAddr,
    prefix: u8,
    present: bool,
) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = number(interface)?;
    message.header.prefix_len = prefix;
    message.header.family =
        if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if !present {
        return ask(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK).map(drop);
    }
    // Of use at once: until the kernel knows that nobody else has an IPv6 address, nobody can listen there.
    message.header.flags = AddressHeaderFlags::Nodad;
    ask(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
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
}
