//! Exchanging one address and port for another in a packet, and in what an ICMP error quotes.
//!
//! Owns: bytes and checksums. What a translation does to a checksum is the same for all packets
//! (RFC 1624), so it is computed once. Must not know: why. Frames must have been read by
//! [`weir_sdk::parse`].

use std::net::IpAddr;

use weir_sdk::checksum;
use weir_sdk::parse::{Addresses, Headers, protocol};

const IPV4: usize = 20;
const IPV6: usize = 40;
/// What an ICMP error has in front of the packet that it quotes.
const ICMP: usize = 8;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Where the headers of a packet lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) l3: usize,
    pub(crate) l4: usize,
    pub(crate) protocol: u8,
}

/// From one address and port to another.
#[derive(Clone, Debug)]
pub(crate) struct Translation {
    address: IpAddr,
    /// None when it stays.
    port: Option<[u8; 2]>,
    /// Sums of the complements of the old words and of the new ones, for [`checksum::adjust`]: of
    /// the address, of both.
    address_difference: u16,
    difference: u16,
}

impl Translation {
    /// Both addresses are of one version; port 0 stands for any, which stays.
    pub(crate) fn new(old: (IpAddr, u16), new: (IpAddr, u16)) -> Self {
        let address_difference = complement(old.0) + sum(new.0);
        let port = (old.1 != new.1 && new.1 != 0).then_some(new.1);
        let ports = port.map_or(0, |port| u64::from(!old.1) + u64::from(port));
        Self {
            address: new.0,
            port: port.map(u16::to_be_bytes),
            address_difference: checksum::fold(address_difference),
            difference: checksum::fold(address_difference + ports),
        }
    }

    /// Translates one end of a TCP or UDP packet. Parts that a quoted packet does not have are left
    /// out.
    #[inline(always)]
    pub(crate) fn packet(&self, frame: &mut [u8], at: At, end: End) {
        self.address(frame, at.l3, end, self.address_difference);
        let place = at.l4 + if end == End::Source { 0 } else { 2 };
        if let (Some(port), Some(field)) = (self.port, frame.get_mut(place..place + 2)) {
            field.copy_from_slice(&port);
        }
        let udp = at.protocol == protocol::UDP;
        let place = at.l4 + if udp { 6 } else { 16 };
        let Some(field) = frame.get_mut(place..place + 2) else { return };
        let old = u16::from_be_bytes([field[0], field[1]]);
        let new = checksum::adjust(old, self.difference);
        let new = match (udp, old) {
            // The sender computed none (RFC 768).
            (true, 0) => return,
            (true, _) => checksum::udp(new),
            (false, _) => new,
        };
        field.copy_from_slice(&new.to_be_bytes());
    }

    #[inline(always)]
    fn address(&self, frame: &mut [u8], l3: usize, end: End, difference: u16) {
        match self.address {
            IpAddr::V4(new) => {
                let Some(header) = frame.get_mut(l3..l3 + IPV4) else { return };
                let place = if end == End::Source { 12 } else { 16 };
                header[place..place + 4].copy_from_slice(&new.octets());
                let sum = u16::from_be_bytes([header[10], header[11]]);
                let sum = checksum::adjust(sum, difference);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(new) => {
                let place = l3 + if end == End::Source { 8 } else { 24 };
                if let Some(field) = frame.get_mut(place..place + 16) {
                    field.copy_from_slice(&new.octets());
                }
            }
        }
    }

    /// Translates one end of an ICMP error, and the other end of the packet that it quotes.
    pub(crate) fn icmp_error(
        &self,
        frame: &mut [u8],
        headers: &Headers,
        quoted: &Quoted,
        end: End,
    ) {
        let (l4, stop) = (headers.l4, headers.end);
        let before = checksum::fold(checksum::sum(&frame[l4 + 4..stop]));
        self.packet(&mut frame[..stop], quoted.at, end.other());
        let after = checksum::fold(checksum::sum(&frame[l4 + 4..stop]));
        // It may come from a router on the way, and then has another address than the packets.
        let old = match (headers.addresses, end) {
            (Addresses::V4 { source, .. }, End::Source) => IpAddr::from(source.to_be_bytes()),
            (Addresses::V4 { destination, .. }, _) => IpAddr::from(destination.to_be_bytes()),
            (Addresses::V6 { source, .. }, End::Source) => IpAddr::from(source.to_be_bytes()),
            (Addresses::V6 { destination, .. }, _) => IpAddr::from(destination.to_be_bytes()),
        };
        let address_difference = checksum::fold(complement(old) + sum(self.address));
        self.address(frame, headers.l3, end, address_difference);
        let mut difference = u64::from(!before) + u64::from(after);
        if self.address.is_ipv6() {
            // Of the pseudo header, which ICMP for IPv4 has not.
            difference += u64::from(address_difference);
        }
        let sum = u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]);
        frame[l4 + 2..l4 + 4].copy_from_slice(&checksum::update(sum, difference).to_be_bytes());
    }
}

/// The packet that an ICMP error quotes: addresses and ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    pub(crate) at: At,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

impl Quoted {
    /// What the packet with these headers quotes, if it is an ICMP error about TCP or UDP that
    /// quotes the ports. A redirect is none: it tells the sender of a packet, not who is behind it,
    /// about the way.
    pub(crate) fn of(frame: &[u8], headers: &Headers) -> Option<Self> {
        let kind = *frame.get(headers.l4)?;
        let l3 = headers.l4 + ICMP;
        let packet = frame.get(l3..headers.end)?;
        let (length, protocol, source, destination) = match headers.protocol {
            protocol::ICMP if matches!(kind, 3 | 4 | 11 | 12) => {
                let header = packet.first_chunk::<IPV4>()?;
                let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
                let length = usize::from(header[0] & 0xf) * 4;
                if header[0] >> 4 != 4 || length < IPV4 || later {
                    return None;
                }
                let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
                let ends = (IpAddr::from([s0, s1, s2, s3]), IpAddr::from([d0, d1, d2, d3]));
                (length, header[9], ends.0, ends.1)
            }
            protocol::ICMPV6 if kind < 128 => {
                let header = packet.first_chunk::<IPV6>()?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let address = |at: usize| header[at..].first_chunk::<16>().copied();
                (IPV6, header[6], IpAddr::from(address(8)?), IpAddr::from(address(24)?))
            }
            _ => return None,
        };
        if !matches!(protocol, protocol::TCP | protocol::UDP) {
            return None;
        }
        let [a, b, c, d] = *packet.get(length..)?.first_chunk::<4>()?;
        Some(Self {
            at: At { l3, l4: l3 + length, protocol },
            source,
            destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
        })
    }
}

fn words(ip: IpAddr) -> impl Iterator<Item = u32> {
    let number = match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.into(),
    };
    let count = if ip.is_ipv4() { 1 } else { 4 };
    (0..count).map(move |n| (number >> (n * 32)) as u32)
}

fn sum(ip: IpAddr) -> u64 {
    words(ip).map(u64::from).sum()
}

fn complement(ip: IpAddr) -> u64 {
    words(ip).map(|word| u64::from(!word)).sum()
}
