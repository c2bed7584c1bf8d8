//! Packets for the router itself: ARP (RFC 826), neighbour solicitations (RFC 4861), pings (RFC
//! 792, RFC 4443). What else it gets is the kernel's.
//!
//! Must not know: routes.

use std::net::IpAddr;

use weir_sdk::checksum;
use weir_sdk::parse::{ethertype, protocol};
use weir_sdk::prelude::*;

use crate::config::Address;
use crate::{icmp, reason};

const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// From the router's side of a link, solicited, and in place of what was known (RFC 4861, section
/// 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const HOP_LIMIT: u8 = 64;
/// All nodes of the link (RFC 4291, section 2.7.1), and the MAC they listen to (RFC 2464, section
/// 7).
const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Answers a packet for one of the router's addresses, or passes it to the kernel; the network
/// header lies at `l3`.
pub(crate) fn receive(
    packet: &mut Packet<'_>,
    kind: u16,
    l3: usize,
    addresses: &[Address],
) -> Verdict {
    let frame = packet.data_mut();
    match kind {
        ethertype::ARP => answer_arp(frame, l3, addresses),
        ethertype::IPV4 => answer_v4(frame, l3).unwrap_or(Verdict::ToKernel),
        _ => answer_v6(frame, l3, addresses).unwrap_or(Verdict::ToKernel),
    }
}

fn answer_arp(frame: &mut [u8], l3: usize, addresses: &[Address]) -> Verdict {
    let (link, arp) = frame.split_at_mut(l3);
    let Some(arp) = arp.first_chunk_mut::<28>() else { return Verdict::Drop(reason::MALFORMED) };
    // A request, of Ethernet and IPv4.
    if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
        return Verdict::ToKernel;
    }
    let target = IpAddr::from([arp[24], arp[25], arp[26], arp[27]]);
    let Some(own) = addresses.iter().find(|address| address.ip == target) else {
        return Verdict::Drop(reason::NOT_OURS);
    };
    let (sender, asked) = arp[8..].split_at_mut(10);
    sender.swap_with_slice(asked);
    sender[..6].copy_from_slice(&own.mac);
    link[..6].copy_from_slice(&asked[..6]);
    link[6..12].copy_from_slice(&own.mac);
    arp[7] = 2;
    Verdict::Reply
}

/// A ping, answered where it lies; its header and lengths were checked.
fn answer_v4(frame: &mut [u8], l3: usize) -> Option<Verdict> {
    let l4 = l3 + 20;
    let header = frame.get(l3..)?.first_chunk::<20>()?;
    let end = l3 + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let message = frame.get(l4..end).filter(|message| message.len() >= 8)?;
    if header[0] != 0x45 || header[9] != protocol::ICMP || fragment || message[..2] != [ECHO, 0] {
        return None;
    }
    if checksum::internet(message) != 0 {
        return Some(Verdict::Drop(reason::MALFORMED));
    }
    swap(&mut frame[l3 + 12..l3 + 20]);
    let rest = frame[l3 + 9];
    let old = u16::from_be_bytes([frame[l3 + 8], rest]);
    frame[l3 + 8] = HOP_LIMIT;
    update(frame, l3 + 10, old, u16::from_be_bytes([HOP_LIMIT, rest]));
    frame[l4] = ECHO_REPLY;
    update(frame, l4 + 2, u16::from_be_bytes([ECHO, 0]), u16::from_be_bytes([ECHO_REPLY, 0]));
    swap(&mut frame[..12]);
    Some(Verdict::Reply)
}

fn answer_v6(frame: &mut [u8], l3: usize, addresses: &[Address]) -> Option<Verdict> {
    let l4 = l3 + 40;
    let header = frame.get(l3..)?.first_chunk::<40>()?;
    let end = l4 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = frame.get(l4..end).filter(|message| message.len() >= 8)?;
    if header[6] != protocol::ICMPV6 {
        return None;
    }
    let (source, destination) = (address(header, 8)?, address(header, 24)?);
    let pseudo = checksum::pseudo_v6(source, destination, protocol::ICMPV6, message.len() as u32);
    if checksum::transport(pseudo, message) != 0 {
        return Some(Verdict::Drop(reason::MALFORMED));
    }
    match message[..2] {
        [ECHO_V6, 0] if destination >> 120 != 0xff => {
            swap(&mut frame[l3 + 8..l3 + 40]);
            frame[l3 + 7] = HOP_LIMIT;
            frame[l4] = ECHO_REPLY_V6;
            let (old, new) = ([ECHO_V6, 0], [ECHO_REPLY_V6, 0]);
            update(frame, l4 + 2, u16::from_be_bytes(old), u16::from_be_bytes(new));
            swap(&mut frame[..12]);
            Some(Verdict::Reply)
        }
        [SOLICITATION, 0] => {
            // Only from the link itself (RFC 4861, section 7.1.1).
            if header[7] != 255 || message.len() < 24 {
                return Some(Verdict::Drop(reason::MALFORMED));
            }
            let target = IpAddr::V6(address(message, 8)?.into());
            let Some(own) = addresses.iter().find(|address| address.ip == target) else {
                return Some(Verdict::Drop(reason::NOT_OURS));
            };
            let answer = advertisement(frame, l3, source, own, address(message, 8)?);
            Some(match host::send_copy(&answer, Verdict::Reply) {
                Ok(()) => Verdict::Drop(reason::ANSWERED),
                Err(_) => Verdict::ToKernel,
            })
        }
        _ => None,
    }
}

/// The answer to a solicitation (RFC 4861, section 7.2.4); to all when the asker has no address
/// yet.
fn advertisement(frame: &[u8], l3: usize, asker: u128, own: &Address, ip: u128) -> Vec<u8> {
    let mut link = icmp::back(frame, l3);
    link[6..12].copy_from_slice(&own.mac);
    let (target, flags) = if asker == 0 {
        link[..6].copy_from_slice(&ALL_NODES_MAC);
        (ALL_NODES, ROUTER | OVERRIDE)
    } else {
        (asker, ROUTER | SOLICITED | OVERRIDE)
    };
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    body.extend_from_slice(&ip.to_be_bytes());
    // Option: our link-layer address, in units of 8 bytes.
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&own.mac);
    icmp::packet_v6(link, ip, target, 255, &body)
}

fn address(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Changes a checksum for a word that changed.
fn update(frame: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&checksum::update16(sum, old, new).to_be_bytes());
}

/// Exchanges the halves: two addresses side by side.
fn swap(pair: &mut [u8]) {
    let (a, b) = pair.split_at_mut(pair.len() / 2);
    a.swap_with_slice(b);
}
