//! Reading a frame: addresses, protocol, ports.

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
/// What stands for the ports of a packet that has none: no rule with ports has it.
pub(crate) const NO_PORT: u32 = 0x1_0000;
/// Maximum number of extension headers that are walked.
const EXTENSIONS_MAX: usize = 8;

/// Source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    V4([u32; 2]),
    V6([u64; 4]),
}

/// What rules look at beside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    pub(crate) protocol: u32,
    pub(crate) sport: u32,
    pub(crate) dport: u32,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    NotIp,
    CutShort,
    Ip { addresses: Addresses, rest: Rest },
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Frame {
    #[inline]
    pub(crate) fn read(frame: &[u8]) -> Self {
        let Some(mut kind) = u16_at(frame, 12) else { return Self::NotIp };
        let mut at = 14;
        for _ in 0..2 {
            if kind != 0x8100 && kind != 0x88a8 {
                break;
            }
            let Some(next) = u16_at(frame, at + 2) else { return Self::NotIp };
            kind = next;
            at += 4;
        }
        let packet = &frame[at..];
        let ip = match kind {
            0x0800 => v4(packet),
            0x86dd => v6(packet),
            _ => return Self::NotIp,
        };
        match ip {
            Some((addresses, rest)) => Self::Ip { addresses, rest },
            None => Self::CutShort,
        }
    }
}

#[inline]
fn v4(packet: &[u8]) -> Option<(Addresses, Rest)> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || length > total || total > packet.len() {
        return None;
    }
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let rest = transport(&packet[length..total], header[9], later)?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let addresses = [u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([d0, d1, d2, d3])];
    Some((Addresses::V4(addresses), rest))
}

fn v6(packet: &[u8]) -> Option<(Addresses, Rest)> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let end = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 {
        return None;
    }
    let packet = packet.get(..end)?;
    let (words, _) = header[8..].as_chunks::<8>();
    let addresses = [0, 1, 2, 3].map(|word| u64::from_be_bytes(words[word]));
    let mut protocol = header[6];
    let (mut at, mut walked, mut later) = (40, 0, false);
    while matches!(protocol, 0 | 43 | FRAGMENT | 60) && !later {
        let extension: &[u8; 8] = packet.get(at..)?.first_chunk()?;
        let mut length = 8;
        if protocol == FRAGMENT {
            later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
        } else {
            length += usize::from(extension[1]) * 8;
        }
        at += length;
        walked += 1;
        if at > packet.len() || walked > EXTENSIONS_MAX {
            return None;
        }
        protocol = extension[0];
    }
    Some((Addresses::V6(addresses), transport(&packet[at..], protocol, later)?))
}

/// Ports, if it has some. `later`: it is a piece of a packet, but not the first.
#[inline]
fn transport(segment: &[u8], protocol: u8, later: bool) -> Option<Rest> {
    let (mut sport, mut dport) = (NO_PORT, NO_PORT);
    if (protocol == TCP || protocol == UDP) && !later {
        let ports = segment.first_chunk::<4>()?;
        if segment.len() < if protocol == TCP { 20 } else { 8 } {
            return None;
        }
        sport = u16::from_be_bytes([ports[0], ports[1]]).into();
        dport = u16::from_be_bytes([ports[2], ports[3]]).into();
    }
    Some(Rest { protocol: protocol.into(), sport, dport })
}
