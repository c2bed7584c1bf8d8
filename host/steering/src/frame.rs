//! The few fields of a frame that name its flow. Reads Ethernet with up to two VLAN tags
//! (IEEE 802.1Q), IPv4 (RFC 791) and IPv6 with extension headers (RFC 8200). Never panics, and
//! takes what is cut off or malformed for the layer below.

/// What names the flow, per layer that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// IPv4.
    V4 { source: u32, destination: u32, ports: (u16, u16), protocol: u8 },
    /// IPv6; addresses as two halves.
    V6 { source: (u64, u64), destination: (u64, u64), ports: (u16, u16), protocol: u8 },
    /// Neither: the hardware addresses and the type behind the tags.
    Ethernet { source: u64, destination: u64, kind: u16 },
    /// Not even an Ethernet header.
    Runt,
}

pub(crate) const ETHERNET_HEADER: usize = 14;
/// Bytes up to the ports of TCP or UDP over IPv4 without options.
const PLAIN: usize = 14 + 20 + 4;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
/// The type that QinQ had before IEEE 802.1ad, still in use.
const QINQ_OLD: u16 = 0x9100;
/// Types of VLAN tags.
pub(crate) const TAGS: [u16; 3] = [VLAN, QINQ, QINQ_OLD];
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Maximum number of extension headers that are followed; no sane packet has more.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// The start of a frame that is what most are: IPv4 without options, no fragment, TCP or UDP, no
/// tag.
#[inline]
pub(crate) fn plain(frame: &[u8]) -> Option<&[u8; PLAIN]> {
    frame.first_chunk::<PLAIN>().filter(|start| {
        start[12..15] == [8, 0, 0x45]
            && matches!(start[23], 6 | 17)
            && (start[20] & 0x3f) | start[21] == 0
    })
}

impl Flow {
    /// Reads a frame: what most frames are with one check of the length, others by [`Self::any`].
    #[inline]
    pub(crate) fn of(frame: &[u8]) -> Self {
        match plain(frame) {
            Some(start) => {
                let [.., s0, s1, s2, s3, d0, d1, d2, d3, a, b, c, d] = *start;
                Self::V4 {
                    source: u32::from_be_bytes([s0, s1, s2, s3]),
                    destination: u32::from_be_bytes([d0, d1, d2, d3]),
                    ports: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
                    protocol: start[23],
                }
            }
            None => Self::any(frame),
        }
    }

    /// Reads a frame of any kind.
    fn any(frame: &[u8]) -> Self {
        Self::with_payload(frame).0
    }

    /// The same, and what an IP packet carries: nothing if it is a fragment.
    pub(crate) fn with_payload(frame: &[u8]) -> (Self, &[u8]) {
        let Some(header) = frame.first_chunk::<ETHERNET_HEADER>() else {
            return (Self::Runt, &[]);
        };
        let (_, kind, packet) = behind_tags(header, &frame[ETHERNET_HEADER..]);
        let ip = match kind {
            IPV4 => v4(packet),
            IPV6 => v6(packet),
            _ => None,
        };
        ip.unwrap_or_else(|| {
            let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
            let flow = Self::Ethernet {
                source: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
                destination: u64::from_be_bytes([0, 0, d0, d1, d2, d3, d4, d5]),
                kind,
            };
            (flow, &[])
        })
    }

    /// The flow of an IP packet, and what it carries, without a frame around it.
    pub(crate) fn of_packet(packet: &[u8]) -> Option<(Self, &[u8])> {
        match packet.first()? >> 4 {
            4 => v4(packet),
            6 => v6(packet),
            _ => None,
        }
    }
}

/// Number of the outer VLAN if there is one, and type and bytes of what stands behind at most two
/// tags.
#[inline]
pub(crate) fn behind_tags<'a>(
    header: &[u8; ETHERNET_HEADER],
    mut packet: &'a [u8],
) -> (Option<u16>, u16, &'a [u8]) {
    let mut kind = u16::from_be_bytes([header[12], header[13]]);
    let mut outer = None;
    for _ in 0..2 {
        if !TAGS.contains(&kind) {
            break;
        }
        let Some((tag, rest)) = packet.split_first_chunk::<4>() else { break };
        outer.get_or_insert(u16::from_be_bytes([tag[0], tag[1]]) & 0xfff);
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        packet = rest;
    }
    (outer, kind, packet)
}

#[inline]
fn v4(packet: &[u8]) -> Option<(Flow, &[u8])> {
    let header = packet.first_chunk::<IPV4_HEADER>()?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < IPV4_HEADER {
        return None;
    }
    // More fragments to come, or this is not the first: only the addresses are in all of them.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let protocol = header[9];
    let payload = if fragment { &[] } else { packet.get(length..).unwrap_or_default() };
    let flow = Flow::V4 {
        source: u32::from_be_bytes([header[12], header[13], header[14], header[15]]),
        destination: u32::from_be_bytes([header[16], header[17], header[18], header[19]]),
        ports: ports(protocol, payload),
        protocol,
    };
    Some((flow, payload))
}

#[inline]
fn v6(packet: &[u8]) -> Option<(Flow, &[u8])> {
    let (header, mut payload) = packet.split_first_chunk::<IPV6_HEADER>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut protocol = header[6];
    let mut fragment = false;
    for _ in 0..EXTENSIONS_MAX {
        let Some(extension) = payload.first_chunk::<8>() else { break };
        let length = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => (usize::from(extension[1]) + 1) * 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            FRAGMENT => 8,
            _ => break,
        };
        // An atomic fragment (RFC 6946) is the whole packet.
        if protocol == FRAGMENT && u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0 {
            fragment = true;
        }
        protocol = extension[0];
        payload = payload.get(length..).unwrap_or_default();
        if fragment {
            // What follows is only in the first one.
            break;
        }
    }
    let half =
        |at: usize| header[at..at + 8].iter().fold(0, |half, &byte| half << 8 | u64::from(byte));
    let payload = if fragment { &[] } else { payload };
    let flow = Flow::V6 {
        source: (half(8), half(16)),
        destination: (half(24), half(32)),
        ports: ports(protocol, payload),
        protocol,
    };
    Some((flow, payload))
}

/// Source and destination port, of protocols that begin with them: TCP, UDP, DCCP, SCTP, UDP-Lite.
#[inline]
fn ports(protocol: u8, payload: &[u8]) -> (u16, u16) {
    match (protocol, payload.first_chunk::<4>()) {
        (6 | 17 | 33 | 132 | 136, Some(&[a, b, c, d])) => {
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Flow;

    proptest! {
        /// The short way is only shorter.
        #[test]
        fn both_ways_read_the_same(
            mut frame in prop::collection::vec(any::<u8>(), 30..60),
            version in prop_oneof![Just(0x45), Just(0x46), Just(0x65)],
            protocol in prop_oneof![Just(6), Just(17), Just(1), Just(132)],
            fragment in prop_oneof![Just([0, 0]), Just([0x40, 0]), Just([0x20, 0]), Just([0, 1])],
        ) {
            frame[12..15].copy_from_slice(&[8, 0, version]);
            frame[20..22].copy_from_slice(&fragment);
            frame[23] = protocol;
            prop_assert_eq!(Flow::of(&frame), Flow::any(&frame));
        }
    }
}
