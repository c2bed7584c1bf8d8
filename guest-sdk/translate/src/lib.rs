//! Changing who a packet is from or for, with all checksums (RFC 1624), for functions that
//! translate: NAT, load balancers.
//!
//! Owns: writing addresses and ports into IPv4 and IPv6 frames, and into the packet that an ICMP
//! error quotes. Must not know: why, or to what. Frames must have been read by [`weir_sdk::parse`].

use weir_sdk::checksum::{self, update16, update32, update128};
use weir_sdk::parse::{Headers, Plain, protocol};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Which end of a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who sent it.
    Source,
    /// Whom it is for.
    Destination,
}

#[inline(always)]
fn u16_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[inline(always)]
fn put16(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes an address into the IPv4 header at `l3`, and its header checksum.
///
/// # Panics
/// When there is no whole header.
#[inline]
pub fn address(frame: &mut [u8], l3: usize, end: End, new: u32) -> Change {
    let at = l3 + if end == End::Source { 12 } else { 16 };
    let old = u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    frame[at..at + 4].copy_from_slice(&new.to_be_bytes());
    let checksum = update32(u16_at(frame, l3 + 10), old, new);
    put16(frame, l3 + 10, checksum);
    Change::V4(old, new)
}

/// An address that was changed: old and new, for the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// IPv4.
    V4(u32, u32),
    /// IPv6.
    V6(u128, u128),
}

/// Writes an address into the IPv6 header at `l3`.
///
/// # Panics
/// When there is no whole header.
#[inline]
pub fn address_v6(frame: &mut [u8], l3: usize, end: End, new: u128) -> Change {
    let at = l3 + if end == End::Source { 8 } else { 24 };
    let mut old = [0; 16];
    old.copy_from_slice(&frame[at..at + 16]);
    frame[at..at + 16].copy_from_slice(&new.to_be_bytes());
    Change::V6(u128::from_be_bytes(old), new)
}

/// Writes a port (or an ICMP query's identifier) into the transport header at `l4`, and its
/// checksum for both the port and the address. Parts that the frame does not have (in an ICMP
/// error's quotation) are left out.
#[inline]
pub fn port(frame: &mut [u8], l4: usize, protocol: u8, end: End, change: Change, port: u16) {
    let (port_at, checksum_at, pseudo) = match (protocol, end) {
        (protocol::TCP, End::Source) => (l4, l4 + 16, true),
        (protocol::TCP, End::Destination) => (l4 + 2, l4 + 16, true),
        (protocol::UDP, End::Source) => (l4, l4 + 6, true),
        (protocol::UDP, End::Destination) => (l4 + 2, l4 + 6, true),
        // ICMP for IPv4 has no pseudo header, and an identifier in place of ports.
        (protocol::ICMP, _) => (l4 + 4, l4 + 2, false),
        (protocol::ICMPV6, _) => (l4 + 4, l4 + 2, true),
        _ => return,
    };
    if frame.len() < port_at + 2 {
        return;
    }
    let before = u16_at(frame, port_at);
    put16(frame, port_at, port);
    if frame.len() < checksum_at + 2 {
        return;
    }
    let field = u16_at(frame, checksum_at);
    if protocol == protocol::UDP && field == 0 {
        // The sender computed none (RFC 768).
        return;
    }
    let mut value = update16(field, before, port);
    if pseudo {
        value = match change {
            Change::V4(old, new) => update32(value, old, new),
            Change::V6(old, new) => update128(value, old, new),
        };
    }
    if protocol == protocol::UDP {
        value = checksum::udp(value);
    }
    put16(frame, checksum_at, value);
}

/// What a translation of one end does to the checksums of a flow's packets: computed once, it makes
/// of a checksum the new one by an addition.
///
/// They are kept as checksums lie in packets: their sum is the same in either byte order (RFC 1071,
/// section 2 (B)), so that nothing has to be swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Difference {
    /// To those that cover the address.
    address: u16,
    /// To those that cover address and port.
    both: u16,
}

impl Difference {
    /// For one end, from an address and port to others.
    #[must_use]
    pub fn new(old: (u32, u16), new: (u32, u16)) -> Self {
        let address = u64::from(!old.0) + u64::from(new.0);
        let both = address + u64::from(!old.1) + u64::from(new.1);
        Self { address: checksum::fold(address).to_be(), both: checksum::fold(both).to_be() }
    }

    /// Translates one end of a [`Plain`] frame.
    ///
    /// # Panics
    /// When it is shorter than such a frame is.
    #[inline(always)]
    pub fn translate(self, frame: &mut [u8], protocol: u8, end: End, new: (u32, u16)) {
        const UDP_CHECKSUM: usize = Plain::L4 + 6;
        const TCP_CHECKSUM: usize = Plain::L4 + 16;
        let (address, port) = match end {
            End::Source => (Plain::L3 + 12, Plain::L4),
            End::Destination => (Plain::L3 + 16, Plain::L4 + 2),
        };
        // Its length is checked once, here.
        let (start, rest) = frame.split_at_mut(UDP_CHECKSUM + 2);
        start[address..address + 4].copy_from_slice(&new.0.to_be_bytes());
        start[port..port + 2].copy_from_slice(&new.1.to_be_bytes());
        adjust(&mut start[Plain::L3 + 10..], self.address);
        if protocol == protocol::TCP {
            adjust(&mut rest[TCP_CHECKSUM - (UDP_CHECKSUM + 2)..], self.both);
        } else if start[UDP_CHECKSUM..] != [0, 0] {
            let sum = adjust(&mut start[UDP_CHECKSUM..], self.both);
            if sum == 0 {
                start[UDP_CHECKSUM..].fill(0xff);
            }
        }
    }
}

/// Changes the checksum at the front; it is given as it lies there.
#[inline(always)]
fn adjust(bytes: &mut [u8], difference: u16) -> u16 {
    let sum = checksum::adjust(u16::from_ne_bytes([bytes[0], bytes[1]]), difference);
    bytes[..2].copy_from_slice(&sum.to_ne_bytes());
    sum
}

/// Changes the ICMP message from `l4` to `end` with `change`, and its checksum with it.
///
/// # Panics
/// When the message is shorter than 4 bytes.
pub fn icmp_body(frame: &mut [u8], l4: usize, end: usize, change: impl FnOnce(&mut [u8])) {
    let before = checksum::fold(checksum::sum(&frame[l4 + 4..end]));
    change(&mut frame[..end]);
    let after = checksum::fold(checksum::sum(&frame[l4 + 4..end]));
    let value = update16(u16_at(frame, l4 + 2), before, after);
    put16(frame, l4 + 2, value);
}

/// The packet that an ICMP error quotes: its IP header and at least 8 bytes behind it (RFC 792).
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    l3: usize,
    l4: usize,
    /// Its protocol.
    pub protocol: u8,
    /// Who sent it.
    pub source: u32,
    /// Whom it was for.
    pub destination: u32,
    /// Source port; of an ICMP query its identifier.
    pub source_port: u16,
    /// Destination port; of an answer to an ICMP query its identifier.
    pub destination_port: u16,
}

impl Quoted {
    /// Reads what the ICMP error (of IPv4) with these headers quotes; none if that is cut off, a
    /// later fragment, or of a protocol without ports.
    #[must_use]
    pub fn of(frame: &[u8], headers: &Headers) -> Option<Self> {
        let l3 = headers.l4 + 8;
        // What lies behind the packet in its frame is padding.
        let quoted = frame.get(l3..headers.end)?;
        let header = quoted.first_chunk::<20>()?;
        let l4 = l3 + usize::from(header[0] & 0xf) * 4;
        let ports = quoted.get(l4 - l3..)?.first_chunk::<8>()?;
        if header[0] >> 4 != 4
            || l4 < l3 + 20
            || u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0
        {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let (source_port, destination_port) = match header[9] {
            protocol::TCP | protocol::UDP => (word(0), word(2)),
            // A query from our inside, or an answer to one from the outside.
            protocol::ICMP if matches!(ports[0], 8 | 13 | 17) => (word(4), 0),
            protocol::ICMP if matches!(ports[0], 0 | 14 | 18) => (0, word(4)),
            _ => return None,
        };
        let address = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (source, destination) = (address(12), address(16));
        Some(Self {
            l3,
            l4,
            protocol: header[9],
            source,
            destination,
            source_port,
            destination_port,
        })
    }

    /// Changes one end of it. Call it within [`icmp_body`].
    pub fn rewrite(&self, frame: &mut [u8], end: End, new: u32, new_port: u16) {
        let change = address(frame, self.l3, end, new);
        port(frame, self.l4, self.protocol, end, change, new_port);
    }
}

/// Writes the identifiers of a frame's tags, as [`vlans`](weir_sdk::parse::vlans) has them, and
/// keeps the rest of the tags, if these are for as many tags as the frame has.
pub fn vlans(frame: &mut [u8], headers: &Headers, new: u32) {
    const TAGS: usize = Plain::L3;
    let tags = (headers.l3 - TAGS) / 4;
    let wanted = match new {
        0 => 0,
        1..0x1000 => 1,
        _ => 2,
    };
    if tags != wanted {
        return;
    }
    let identifiers = [new & 0xfff, new >> 12];
    for (tag, identifier) in frame[TAGS..headers.l3].rchunks_exact_mut(4).zip(identifiers) {
        let rest = u16_at(tag, 0) & 0xf000;
        put16(tag, 0, rest | identifier as u16);
    }
}

/// Whether these are the headers of an ICMP (IPv4) message that quotes a packet.
#[must_use]
pub fn is_icmp_error(frame: &[u8], headers: &Headers) -> bool {
    headers.protocol == protocol::ICMP && matches!(frame.get(headers.l4), Some(3 | 4 | 5 | 11 | 12))
}

/// Swaps source and destination MAC, for packets that go back to where they came from.
pub fn swap_macs(frame: &mut [u8]) {
    if let Some((destination, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some(source) = rest.first_chunk_mut::<6>()
    {
        std::mem::swap(destination, source);
    }
}
