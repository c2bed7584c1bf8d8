//! What most functions want to know of a frame, in one pass.
//!
//! Owns: finding the headers of Ethernet with up to two tags (IEEE 802.1Q), IPv4 (RFC 791), IPv6
//! with extension headers (RFC 8200), and reading ports. Must not know: bursts, policy. It never
//! panics and never reads outside of the frame. For single fields of headers see
//! [`wire`](crate::wire).
//!
//! ```
//! use weir_sdk::parse::{Addresses, parse};
//! # let frame = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
//! #     .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1000, 53);
//! # let frame = { let mut f = Vec::new(); frame.write(&mut f, b"query").unwrap(); f };
//! let headers = parse(&frame).expect("a whole packet");
//! assert_eq!(headers.destination_port, 53);
//! assert_eq!(&frame[headers.l4 + 8..headers.end], b"query");
//! assert!(matches!(headers.addresses, Addresses::V4 { source: 0x0a00_0001, .. }));
//! ```

use std::fmt;

/// Numbers of protocols (IANA, "Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Types of Ethernet frames (IANA, "IEEE 802 Numbers").
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// An outer VLAN tag (IEEE 802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// What outer tags had before IEEE 802.1ad; still in use.
    pub const QINQ_OLD: u16 = 0x9100;
}

use crate::flow::FlowV4;
use ethertype::{IPV4, IPV6, QINQ, QINQ_OLD, VLAN};
use protocol::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDP_LITE};

const ETHERNET: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// Maximum number of extension headers that are followed; no sane packet has more.
const EXTENSIONS_MAX: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Source and destination, as numbers: compare, mask and look them up without byte order in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Who sent it.
        source: u32,
        /// Whom it is for.
        destination: u32,
    },
    /// IPv6.
    V6 {
        /// Who sent it.
        source: u128,
        /// Whom it is for.
        destination: u128,
    },
}

/// A piece of a fragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of the packet's payload before this piece; 0 for the first.
    pub offset: u16,
    /// More pieces follow.
    pub more: bool,
    /// The same in all pieces.
    pub identification: u32,
}

/// Where the headers of an IP packet lie in its frame, and what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins; of a later fragment, where its payload does.
    pub l4: usize,
    /// Where the IP packet ends; padding may follow in the frame.
    pub end: usize,
    /// Source and destination address.
    pub addresses: Addresses,
    /// The transport protocol, behind all extension headers; see [`protocol`].
    pub protocol: u8,
    /// TCP's flags; 0 for other protocols and later fragments.
    pub tcp_flags: u8,
    /// Source port of TCP, UDP, UDP-Lite, SCTP and DCCP; else 0, as of later fragments.
    pub source_port: u16,
    /// Destination port; as `source_port`.
    pub destination_port: u16,
    /// Set when this is a piece of a packet. An IPv6 packet that is whole in spite of its fragment
    /// header (RFC 6946) is no fragment.
    pub fragment: Option<Fragment>,
}

/// Why a frame could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not IPv4 or IPv6 over Ethernet.
    NotIp,
    /// It says that it is, but is cut off or contradicts itself: a length beyond the frame or below
    /// the header's, a wrong version, more than 8 extension headers, or a transport header that is
    /// not all there (in the first fragment: RFC 1858).
    Malformed,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIp => "the frame is neither IPv4 nor IPv6",
            Self::Malformed => "the frame's headers are cut off or contradict themselves",
        })
    }
}

impl std::error::Error for Unreadable {}

impl Headers {
    /// Of a packet that ends where `packet` does, before its transport header is read.
    #[inline]
    fn without_ports(
        packet: &[u8],
        l3: usize,
        l4: usize,
        addresses: Addresses,
        protocol: u8,
        fragment: Option<Fragment>,
    ) -> Self {
        Self {
            l3,
            l4,
            end: packet.len(),
            addresses,
            protocol,
            tcp_flags: 0,
            source_port: 0,
            destination_port: 0,
            fragment,
        }
    }

    /// True when this is a piece of a packet, but not the first: it has no transport header.
    #[must_use]
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Some(Fragment { offset: 1.., .. }))
    }

    /// The identifiers of the frame's tags, as [`vlans`] has them.
    #[must_use]
    #[inline]
    pub fn vlans(&self, frame: &[u8]) -> u32 {
        if self.l3 == ETHERNET { 0 } else { vlans(frame) }
    }

    /// Where the part of the packet begins that its fragments are pieces of, and that their offsets
    /// are counted from. In IPv6, what lies between that and `l4` are extension headers, which only
    /// the first piece has.
    #[must_use]
    pub fn fragmentable(&self, frame: &[u8]) -> usize {
        let found = match self.addresses {
            Addresses::V4 { .. } => None,
            Addresses::V6 { .. } => frame
                .get(..self.end)
                .and_then(|packet| extensions(packet, self.l3, *packet.get(self.l3 + 6)?)),
        };
        found.map_or(self.l4, |found| found.fragmentable)
    }
}

impl From<Plain> for Headers {
    #[inline]
    fn from(plain: Plain) -> Self {
        let (source, source_port) = plain.flow.source();
        let (destination, destination_port) = plain.flow.destination();
        Self {
            l3: Plain::L3,
            l4: Plain::L4,
            end: plain.end,
            addresses: Addresses::V4 { source, destination },
            protocol: plain.flow.protocol(),
            tcp_flags: plain.tcp_flags,
            source_port,
            destination_port,
            fragment: None,
        }
    }
}

/// What nearly all packets are: TCP or UDP over IPv4 without options, whole, without a tag. For
/// functions that treat these apart, because reading them takes a few nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Source, destination and protocol ([`protocol::TCP`] or [`protocol::UDP`]).
    pub flow: FlowV4,
    /// TCP's flags, or 0.
    pub tcp_flags: u8,
    /// Where the IP packet ends.
    pub end: usize,
}

impl Plain {
    /// Where the IP header begins.
    pub const L3: usize = ETHERNET;
    /// Where the transport header begins.
    pub const L4: usize = ETHERNET + IPV4_HEADER;

    /// Reads a frame; `None` when it is of another kind or not all right: then [`parse`] knows
    /// more.
    #[must_use]
    #[inline(always)]
    pub fn of(frame: &[u8]) -> Option<Self> {
        const UDP_END: usize = Plain::L4 + UDP_HEADER;
        const TCP_END: usize = Plain::L4 + TCP_HEADER;
        let start = frame.first_chunk::<UDP_END>()?;
        // Loads of whole numbers: of single bytes that are put together, compilers make several.
        let word = |at: usize| u16::from_be_bytes(bytes(start, at));
        let double = |at: usize| u32::from_le_bytes(bytes(start, at));
        // Type and first byte; flags and offset without "don't fragment".
        if double(12) & 0xff_ffff != 0x45_0008 || word(20) & 0x3fff != 0 {
            return None;
        }
        let end = Self::L3 + usize::from(word(16));
        if end > frame.len() {
            return None;
        }
        let protocol = start[23];
        // TCP's number is even, UDP's odd. Of two comparisons compilers make a jump table in Wasm,
        // which costs more than all the rest here.
        let tcp_flags = if protocol & 1 == 0 {
            let header = frame.first_chunk::<TCP_END>()?;
            let length = usize::from(header[Self::L4 + 12] >> 4) * 4;
            if protocol != TCP || length < TCP_HEADER || Self::L4 + length > end {
                return None;
            }
            header[Self::L4 + 13]
        } else {
            let length = usize::from(word(Self::L4 + 4));
            if protocol != UDP || length < UDP_HEADER || Self::L4 + length > end {
                return None;
            }
            0
        };
        let addresses = u64::from_le_bytes(bytes(start, Self::L3 + 12));
        let flow = FlowV4::raw(addresses, double(Self::L4), protocol);
        Some(Self { flow, tcp_flags, end })
    }

    /// Source address.
    #[must_use]
    #[inline]
    pub fn source(&self) -> u32 {
        self.flow.source().0
    }

    /// Destination address.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> u32 {
        self.flow.destination().0
    }
}

/// So many bytes from `at` on, which must lie within.
#[inline(always)]
fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&from[at..at + N]);
    bytes
}

/// Reads a frame.
///
/// # Errors
/// [`Unreadable`] says whether it is no IP packet or a broken one.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, Unreadable> {
    match Plain::of(frame) {
        Some(plain) => Ok(plain.into()),
        None => parse_any(frame),
    }
}

/// Reads the start of a packet, from its IP header on, that may be cut off anywhere behind its
/// headers, as ICMP errors quote it (RFC 792; RFC 4443, section 2.4 (c)): where headers lie is told
/// from there, and `end` is the end of what was given. Of the transport header there need be no
/// more than the ports, so that `tcp_flags` is 0.
///
/// `None` when it is neither IPv4 nor IPv6, contradicts itself, or is cut off before that.
#[must_use]
pub fn quoted(packet: &[u8]) -> Option<Headers> {
    let (protocol, l4, addresses, fragment) = match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<IPV4_HEADER>()?;
            let l4 = usize::from(header[0] & 0xf) * 4;
            let fits = (IPV4_HEADER..=packet.len()).contains(&l4);
            fits.then(|| (header[9], l4, addresses_v4(header), fragment_v4(header)))?
        }
        6 => {
            let header = packet.first_chunk::<IPV6_HEADER>()?;
            let found = extensions(packet, 0, header[6])?;
            (found.protocol, found.l4, addresses_v6(header), found.fragment)
        }
        _ => return None,
    };
    let mut headers = Headers::without_ports(packet, 0, l4, addresses, protocol, fragment);
    if has_ports(protocol) && !headers.is_later_fragment() {
        headers.source_port = u16_at(packet, l4)?;
        headers.destination_port = u16_at(packet, l4 + 2)?;
    }
    Some(headers)
}

/// Reads a frame of any kind.
fn parse_any(frame: &[u8]) -> Result<Headers, Unreadable> {
    let (kind, l3) = link(frame).ok_or(Unreadable::NotIp)?;
    match kind {
        IPV4 => parse_v4(frame, l3).ok_or(Unreadable::Malformed),
        IPV6 => parse_v6(frame, l3).ok_or(Unreadable::Malformed),
        _ => Err(Unreadable::NotIp),
    }
}

/// The addresses of a frame, and where its IP header begins, whatever is wrong behind them: routers
/// look no further. For functions that care who sends and to whom, also of what [`parse`] says is
/// malformed. `None` when the frame is not IP, or not even IP's fixed header is there.
#[must_use]
pub fn addresses(frame: &[u8]) -> Option<(Addresses, usize)> {
    let (kind, l3) = link(frame)?;
    let packet = frame.get(l3..)?;
    let addresses = match (kind, packet.first()? >> 4) {
        (IPV4, 4) => addresses_v4(packet.first_chunk()?),
        (IPV6, 6) => addresses_v6(packet.first_chunk()?),
        _ => return None,
    };
    Some((addresses, l3))
}

/// The identifiers of a frame's tags, of at most two, 12 bits each, the inner one's below the outer
/// one's; 0 without a tag, or if they only tell a priority (IEEE 802.1Q, section 9.6).
#[must_use]
pub fn vlans(frame: &[u8]) -> u32 {
    let Some((_, l3)) = link(frame) else { return 0 };
    let tags = frame[ETHERNET..l3].chunks_exact(4);
    let tags = tags.map(|tag| u16::from_be_bytes([tag[0], tag[1]]));
    tags.fold(0, |vlans, tag| vlans << 12 | u32::from(tag & 0xfff))
}

/// Type of what follows Ethernet's header and up to two tags, and where.
fn link(frame: &[u8]) -> Option<(u16, usize)> {
    let mut kind = u16_at(frame, 12)?;
    let mut l3 = ETHERNET;
    for _ in 0..2 {
        if !matches!(kind, VLAN | QINQ | QINQ_OLD) {
            break;
        }
        kind = u16_at(frame, l3 + 2)?;
        l3 += 4;
    }
    Some((kind, l3))
}

fn parse_v4(frame: &[u8], l3: usize) -> Option<Headers> {
    let header = frame.get(l3..)?.first_chunk::<IPV4_HEADER>()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let end = l3 + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let l4 = l3 + length;
    if header[0] >> 4 != 4 || length < IPV4_HEADER || l4 > end || end > frame.len() {
        return None;
    }
    transport(&frame[..end], l3, l4, addresses_v4(header), header[9], fragment_v4(header))
}

fn fragment_v4(header: &[u8; IPV4_HEADER]) -> Option<Fragment> {
    let word = u16::from_be_bytes([header[6], header[7]]);
    (word & 0x3fff != 0).then(|| Fragment {
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
        identification: u16::from_be_bytes([header[4], header[5]]).into(),
    })
}

fn parse_v6(frame: &[u8], l3: usize) -> Option<Headers> {
    let header = frame.get(l3..)?.first_chunk::<IPV6_HEADER>()?;
    let end = l3 + IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > frame.len() {
        return None;
    }
    let packet = &frame[..end];
    let Extensions { protocol, l4, fragment, .. } = extensions(packet, l3, header[6])?;
    transport(packet, l3, l4, addresses_v6(header), protocol, fragment)
}

fn addresses_v4(header: &[u8; IPV4_HEADER]) -> Addresses {
    let word = |at: usize| u32::from_be_bytes(bytes(header, at));
    Addresses::V4 { source: word(12), destination: word(16) }
}

fn addresses_v6(header: &[u8; IPV6_HEADER]) -> Addresses {
    let half = |at: usize| u128::from_be_bytes(bytes(header, at));
    Addresses::V6 { source: half(8), destination: half(24) }
}

/// What IPv6 has between its header and the transport header.
struct Extensions {
    /// What follows.
    protocol: u8,
    /// Where it does.
    l4: usize,
    fragment: Option<Fragment>,
    /// Where the part begins that fragments are pieces of: behind the fragment header, if there is
    /// one.
    fragmentable: usize,
}

/// Follows the extension headers of an IPv6 packet, of which the first is of this kind.
#[inline]
fn extensions(packet: &[u8], l3: usize, first: u8) -> Option<Extensions> {
    let mut l4 = l3 + IPV6_HEADER;
    let mut protocol = first;
    let (mut fragment, mut fragmentable) = (None, l4);
    for count in 0.. {
        let units = match protocol {
            HOP_BY_HOP if count == 0 => 8,
            ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 | FRAGMENT => 8,
            AUTHENTICATION => 4,
            HOP_BY_HOP => return None,
            _ => break,
        };
        let extension = packet.get(l4..)?.first_chunk::<8>()?;
        if count == EXTENSIONS_MAX {
            return None;
        }
        l4 += match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * units,
            _ => (usize::from(extension[1]) + 1) * units,
        };
        if l4 > packet.len() {
            return None;
        }
        let was_fragment = protocol == FRAGMENT;
        protocol = extension[0];
        if was_fragment {
            fragmentable = l4;
            let word = u16::from_be_bytes([extension[2], extension[3]]);
            if word & 0xfff9 != 0 {
                let [.., a, b, c, d] = *extension;
                let identification = u32::from_be_bytes([a, b, c, d]);
                fragment =
                    Some(Fragment { offset: word & 0xfff8, more: word & 1 != 0, identification });
            }
            if word & 0xfff8 != 0 {
                // What follows is payload.
                break;
            }
        }
    }
    Some(Extensions { protocol, l4, fragment, fragmentable })
}

/// Reads the transport header of a packet that ends where `packet` does.
fn transport(
    packet: &[u8],
    l3: usize,
    l4: usize,
    addresses: Addresses,
    protocol: u8,
    fragment: Option<Fragment>,
) -> Option<Headers> {
    let mut headers = Headers::without_ports(packet, l3, l4, addresses, protocol, fragment);
    if headers.is_later_fragment() {
        return Some(headers);
    }
    let payload = packet.get(l4..)?;
    let least = match protocol {
        TCP => TCP_HEADER,
        UDP | UDP_LITE | ICMP => 8,
        SCTP | DCCP => 12,
        ICMPV6 => 4,
        _ => 0,
    };
    if payload.len() < least {
        return None;
    }
    if !has_ports(protocol) {
        return Some(headers);
    }
    headers.source_port = u16_at(payload, 0)?;
    headers.destination_port = u16_at(payload, 2)?;
    let whole = fragment.is_none();
    match protocol {
        TCP => {
            headers.tcp_flags = payload[13];
            let length = usize::from(payload[12] >> 4) * 4;
            (length >= TCP_HEADER && (length <= payload.len() || !whole)).then_some(headers)
        }
        UDP => {
            let length = usize::from(u16_at(payload, 4)?);
            (length >= UDP_HEADER && (length <= payload.len() || !whole)).then_some(headers)
        }
        _ => Some(headers),
    }
}

/// Whether ports are the first four bytes of the transport header.
#[inline]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | UDP_LITE | SCTP | DCCP)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
