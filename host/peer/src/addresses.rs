//! Frames on their way over the link: which hardware addresses they have on either side.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::discovery;
use crate::neighbours::{Host, Mac, Neighbours, host};

/// EtherTypes that announce a VLAN tag.
const TAGGED: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// How a message of ARP for IPv4 on Ethernet begins (RFC 826).
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Hardware addresses of both sides of a link, see the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// What the wire knows the kernel by: that of the port before the chain.
    pub wire: [u8; 6],
    /// What the kernel knows everybody on the wire by: that of the port on this side of the link.
    pub own: [u8; 6],
    /// That of the kernel's interface.
    pub kernel: [u8; 6],
}

/// Why a frame does not come over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// It is not the kernel's.
    Stranger,
    /// It is for a host that was not heard.
    Unheard,
}

impl Addresses {
    /// A frame of the wire's becomes the kernel's.
    pub(crate) fn up(&self, frame: &mut [u8], neighbours: &mut Neighbours) {
        let Some(from) = mac(frame, 6) else { return };
        let (kind, at) = payload(frame);
        let body = frame.get_mut(at..).unwrap_or_default();
        match kind {
            ARP if body.len() >= 28 && body.starts_with(&ARP_OF_IPV4) => {
                if let (Some(sender), Some(address)) = (mac(body, 8), v4(body, 14)) {
                    neighbours.learn(address, sender);
                }
                body[8..14].copy_from_slice(&self.own);
                if mac(body, 18) == Some(self.wire) {
                    body[18..24].copy_from_slice(&self.kernel);
                }
            }
            IPV4 => {
                if let Some(source) = v4(body, 12) {
                    neighbours.learn(source, from);
                }
            }
            IPV6 => {
                if let Some(source) = v6(body, 8) {
                    neighbours.learn(source, from);
                }
                if let Some(message) = of_discovery(body) {
                    // An advertisement is about its target, whoever sends it.
                    if message[0] == 136
                        && let (Some(target), Some(address)) =
                            (v6(message, 8), discovery::address(message))
                    {
                        neighbours.learn(target, address);
                    }
                    discovery::replace(message, self.own, |_| true);
                }
            }
            _ => {}
        }
        // Nobody else is to hear it, also if it is for many.
        frame[..6].copy_from_slice(&self.kernel);
        frame[6..12].copy_from_slice(&self.own);
    }

    /// A frame of the kernel's becomes one of the wire's.
    pub(crate) fn down(&self, frame: &mut [u8], neighbours: &Neighbours) -> Result<(), Stray> {
        if mac(frame, 6) != Some(self.kernel) {
            return Err(Stray::Stranger);
        }
        let (kind, at) = payload(frame);
        let body = frame.get_mut(at..).unwrap_or_default();
        let mut next = None;
        match kind {
            ARP if body.len() >= 28 && body.starts_with(&ARP_OF_IPV4) => {
                next = v4(body, 24).and_then(|target| neighbours.find(target));
                if mac(body, 8) == Some(self.kernel) {
                    body[8..14].copy_from_slice(&self.wire);
                }
                if let Some(next) = next.filter(|_| mac(body, 18) == Some(self.own)) {
                    body[18..24].copy_from_slice(&next);
                }
            }
            IPV4 => next = v4(body, 16).and_then(|to| neighbours.find(to)),
            IPV6 => {
                next = v6(body, 24).and_then(|to| neighbours.find(to));
                if let Some(message) = of_discovery(body) {
                    discovery::replace(message, self.wire, |is| is == self.kernel);
                }
            }
            _ => {}
        }
        frame[6..12].copy_from_slice(&self.wire);
        if mac(frame, 0) == Some(self.own) {
            frame[..6].copy_from_slice(&next.ok_or(Stray::Unheard)?);
        }
        Ok(())
    }
}

/// What a frame carries, behind at most two VLAN tags, and where that begins.
fn payload(frame: &[u8]) -> (u16, usize) {
    let mut at = 12;
    loop {
        let Some([a, b]) = frame.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok()) else {
            return (0, frame.len());
        };
        let kind = u16::from_be_bytes([a, b]);
        if at == 20 || !TAGGED.contains(&kind) {
            return (kind, at + 2);
        }
        at += 4;
    }
}

/// The message of neighbour discovery that an IPv6 packet is.
fn of_discovery(packet: &mut [u8]) -> Option<&mut [u8]> {
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    // Others are refused by who gets them (RFC 4861, 7.1).
    let is = packet.get(6) == Some(&ICMPV6) && packet.get(7) == Some(&255);
    packet.get_mut(40..40 + length).filter(|message| is && message.len() >= 8)
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    bytes.get(at..at + 6)?.try_into().ok()
}

fn v4(bytes: &[u8], at: usize) -> Option<Host> {
    Some(host(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)))
}

fn v6(bytes: &[u8], at: usize) -> Option<Host> {
    Some(host(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)))
}

#[cfg(test)]
mod tests;
