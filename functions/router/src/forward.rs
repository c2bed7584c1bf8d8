//! Whether an IP packet may go on, and by which hop (RFC 1812, section 5; RFC 8200).
//!
//! Owns: checking headers, the decision, counting TTL and hop limit down. Must not know: bursts,
//! ports, how a sender is told.

use weir_sdk::checksum;
use weir_sdk::parse::ethertype;

use crate::config::Routes;
use crate::icmp::Problem;
use crate::reason;

/// Bytes of Ethernet's header without tags.
pub(crate) const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Most bytes that a hop's MTU of `u32::MAX` stands for in an ICMP error over IPv4.
const WORD: u32 = 0xffff;

/// Options of IPv4 (IANA, "IP Option Numbers").
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// What a first look found: the place of a hop, [`Routes::OWN`], or one of these.
pub(crate) type Found = u32;
/// No prefix matches.
const NO_ROUTE: Found = u32::MAX;
/// The frame has tags, or is no whole IP header.
pub(crate) const UNSEEN: Found = u32::MAX - 1;

/// Why a packet does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// For this reason, of which nobody is told.
    Drop(u32),
    /// For this reason, of which the sender is told; the IP header lies at `l3`.
    Tell { reason: u32, problem: Problem, l3: usize },
    /// It is for the router; its network header lies at `l3`.
    Local { kind: u16, l3: usize },
}

const MALFORMED: Stop = Stop::Drop(reason::MALFORMED);
const MARTIAN: Stop = Stop::Drop(reason::MARTIAN);

/// The route of an untagged frame, and nothing else: done for all packets of a burst first, so that
/// the cache misses of several lookups overlap.
#[inline(always)]
pub(crate) fn find(routes: &Routes, frame: &[u8]) -> Found {
    let Some(start) = frame.first_chunk::<{ ETHERNET + IPV4 }>() else { return UNSEEN };
    match u16::from_be_bytes([start[12], start[13]]) {
        ethertype::IPV4 => {
            let [.., a, b, c, d] = *start;
            routes.v4.lookup(u32::from_be_bytes([a, b, c, d])).unwrap_or(NO_ROUTE)
        }
        ethertype::IPV6 => match frame.first_chunk::<{ ETHERNET + IPV6 }>() {
            Some(start) => routes.v6.lookup(address_v6(start, ETHERNET + 24)).unwrap_or(NO_ROUTE),
            None => UNSEEN,
        },
        _ => UNSEEN,
    }
}

/// The place of the hop that a frame goes to, its header already changed for it.
#[inline(always)]
pub(crate) fn forward(routes: &Routes, frame: &mut [u8], found: Found) -> Result<usize, Stop> {
    if found == UNSEEN {
        return forward_any(routes, frame);
    }
    if frame[12] == 0x08 {
        forward_v4(routes, frame, ETHERNET, found)
    } else {
        forward_v6(routes, frame, ETHERNET, found)
    }
}

/// Frames with tags, or of other kinds.
#[inline(never)]
fn forward_any(routes: &Routes, frame: &mut [u8]) -> Result<usize, Stop> {
    let (kind, l3) = link(frame).ok_or(MALFORMED)?;
    let header = &frame[l3..];
    match kind {
        ethertype::IPV4 if header.len() >= IPV4 => {
            let found = routes.v4.lookup(address_v4(header, 16)).unwrap_or(NO_ROUTE);
            forward_v4(routes, frame, l3, found)
        }
        ethertype::IPV6 if header.len() >= IPV6 => {
            let found = routes.v6.lookup(address_v6(header, 24)).unwrap_or(NO_ROUTE);
            forward_v6(routes, frame, l3, found)
        }
        ethertype::IPV4 | ethertype::IPV6 => Err(MALFORMED),
        ethertype::ARP => Err(Stop::Local { kind, l3 }),
        _ => Err(Stop::Drop(reason::NOT_IP)),
    }
}

/// The IPv4 packet at `l3`, of which 20 bytes are there.
#[inline(always)]
fn forward_v4(routes: &Routes, frame: &mut [u8], l3: usize, found: Found) -> Result<usize, Stop> {
    let many = frame[0] & 1 != 0;
    let packet = &mut frame[l3..];
    let available = packet.len();
    let header = packet.first_chunk_mut::<IPV4>().ok_or(MALFORMED)?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let (ttl, may_fragment) = (header[8], header[6] & 0x40 == 0);
    let (source, destination) = (address_v4(header, 12), address_v4(header, 16));
    if header[0] == 0x45 {
        // RFC 1812, section 5.2.2.
        if total < IPV4 || total > available || !checksum::is_right(header) {
            return Err(MALFORMED);
        }
    } else {
        check_options(packet, total)?;
    }
    // Nothing that the link carried to many is forwarded (RFC 1812, section 5.3.4).
    if martian_v4(source) || martian_v4(destination) || many {
        return Err(MARTIAN);
    }
    let tell = |reason, kind, code, word| {
        Err(Stop::Tell { reason, problem: Problem { kind, code, word }, l3 })
    };
    let Some(hop) = routes.hops.get(found as usize) else {
        return if found == Routes::OWN {
            Err(Stop::Local { kind: ethertype::IPV4, l3 })
        } else {
            tell(reason::NO_ROUTE, 3, 0, 0)
        };
    };
    if ttl <= 1 {
        return tell(reason::EXPIRED, 11, 0, 0);
    }
    if total > hop.mtu as usize {
        if may_fragment {
            return Err(Stop::Drop(reason::TOO_BIG));
        }
        return tell(reason::TOO_BIG, 3, 4, hop.mtu.min(WORD));
    }
    let header = &mut frame[l3..l3 + IPV4];
    header[8] = ttl - 1;
    let sum = counted_down(u16::from_be_bytes([header[10], header[11]]));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Ok(found as usize)
}

/// The header checksum after TTL, the upper half of its word, went down by one: RFC 1624, equation
/// 3, with the terms that are constant then.
#[inline]
fn counted_down(checksum: u16) -> u16 {
    let sum = u32::from(checksum) + 0x100;
    (sum + u32::from(sum >= 0xffff)) as u16
}

/// A header that is longer than 20 bytes, or claims to be something else. Source routes are refused
/// (RFC 7126, sections 4.3 and 4.4), other options pass unread.
fn check_options(packet: &[u8], total: usize) -> Result<(), Stop> {
    let length = usize::from(packet[0] & 0xf) * 4;
    let fits = (IPV4..=total).contains(&length) && total <= packet.len();
    if packet[0] >> 4 != 4 || !fits || checksum::internet(&packet[..length]) != 0 {
        return Err(MALFORMED);
    }
    let mut options = &packet[IPV4..length];
    while let [kind, rest @ ..] = options {
        options = match *kind {
            option::END => break,
            option::NOP => rest,
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                return Err(Stop::Drop(reason::SOURCE_ROUTE));
            }
            _ => {
                let length = usize::from(*rest.first().ok_or(MALFORMED)?);
                options.get(length..).filter(|_| length >= 2).ok_or(MALFORMED)?
            }
        };
    }
    Ok(())
}

/// The IPv6 packet at `l3`, of which 40 bytes are there.
#[inline(never)]
fn forward_v6(routes: &Routes, frame: &mut [u8], l3: usize, found: Found) -> Result<usize, Stop> {
    let many = frame[0] & 1 != 0;
    let packet = &mut frame[l3..];
    let available = packet.len();
    let header = packet.first_chunk_mut::<IPV6>().ok_or(MALFORMED)?;
    let total = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || total > available {
        return Err(MALFORMED);
    }
    let (source, destination) = (address_v6(header, 8), address_v6(header, 24));
    let local = Err(Stop::Local { kind: ethertype::IPV6, l3 });
    // Who looks for the owner of an address may not have one yet (RFC 4861, section 4.3).
    if routes.is_solicited(destination) {
        return local;
    }
    // Unspecified, loopback or multicast (RFC 4291, sections 2.5.2, 2.5.3 and 2.7).
    let martian = |a: u128| a <= 1 || a >> 120 == 0xff;
    if martian(source) || martian(destination) || many {
        return Err(MARTIAN);
    }
    if found == Routes::OWN {
        return local;
    }
    if link_local(destination) {
        return Err(MARTIAN);
    }
    let tell = |reason, kind, code, word| {
        Err(Stop::Tell { reason, problem: Problem { kind, code, word }, l3 })
    };
    let Some(hop) = routes.hops.get(found as usize) else {
        return tell(reason::NO_ROUTE, 1, 0, 0);
    };
    if header[7] <= 1 {
        return tell(reason::EXPIRED, 3, 0, 0);
    }
    if link_local(source) {
        // Beyond the scope of its source address (RFC 4443, section 3.1).
        return tell(reason::MARTIAN, 1, 2, 0);
    }
    if total > hop.mtu as usize {
        return tell(reason::TOO_BIG, 2, 0, hop.mtu);
    }
    header[7] -= 1;
    Ok(found as usize)
}

impl Routes {
    /// Whether this is the solicited-node address of one of ours (RFC 4291, section 2.7.1).
    fn is_solicited(&self, destination: u128) -> bool {
        destination >> 24 == 0x00ff_0200_0000_0000_0000_0000_01ff
            && self.addresses.iter().any(|address| match address.ip {
                std::net::IpAddr::V6(ip) => (u128::from(ip) ^ destination) & 0xff_ffff == 0,
                std::net::IpAddr::V4(_) => false,
            })
    }
}

/// Whether nothing may come from or go to an IPv4 address (RFC 1812, section 5.3.7; RFC 3927,
/// section 7): this network, loopback, link-local, multicast, reserved, broadcast.
#[inline]
fn martian_v4(address: u32) -> bool {
    let first = address >> 24;
    first == 0 || first == 127 || first >= 224 || address >> 16 == 0xa9fe
}

fn link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

#[inline]
fn address_v4(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[inline]
fn address_v6(header: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&header[at..at + 16]);
    u128::from_be_bytes(bytes)
}

/// Type of what follows Ethernet's header and up to two tags, and where it begins.
fn link(frame: &[u8]) -> Option<(u16, usize)> {
    let kind_at = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut at = 12;
    for _ in 0..2 {
        match kind_at(at)? {
            ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => at += 4,
            kind => return Some((kind, at + 2)),
        }
    }
    Some((kind_at(at)?, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_down_is_equation_3_for_every_checksum() {
        for checksum in 0..=u16::MAX {
            for ttl in [2_u16, 64, 255] {
                let (old, new) = (ttl << 8 | 6, (ttl - 1) << 8 | 6);
                assert_eq!(counted_down(checksum), checksum::update16(checksum, old, new));
            }
        }
    }

    #[test]
    fn source_routes_and_broken_options_are_found() {
        let checked = |options: &[u8]| {
            let mut packet = vec![0x40 | (5 + options.len() as u8 / 4); 1];
            packet.extend_from_slice(&[0, 0, 20 + options.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0]);
            packet.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            packet.extend_from_slice(options);
            let sum = checksum::internet(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            check_options(&packet, packet.len())
        };
        assert_eq!(checked(&[1, 1, 1, 0]), Ok(()));
        assert_eq!(checked(&[148, 4, 0, 0]), Ok(()), "router alert");
        assert_eq!(checked(&[0, 131, 3, 4]), Ok(()), "behind the end");
        for kind in [131, 137] {
            assert_eq!(checked(&[1, kind, 3, 4]), Err(Stop::Drop(reason::SOURCE_ROUTE)));
        }
        for broken in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            assert_eq!(checked(&broken), Err(MALFORMED), "{broken:?}");
        }
    }
}
