//! Answers to rejected packets.
//!
//! Owns: the bytes of TCP resets (RFC 9293, section 3.5.2), ICMP errors (RFC 1812, section 4.3.2;
//! RFC 4443, section 2.4), how often and when they may be sent. Must not know: rules, flows.

use weir_sdk::checksum;

/// Most answers a second, and at once (RFC 4443, section 2.4 (f)).
const ANSWERS_PER_SECOND: u32 = 100;
/// An ICMP error quotes so much of the packet that it is no longer than this (RFC 1812, section
/// 4.3.2.3: 576 bytes with all headers).
const V4_ERROR: usize = 576;
/// The same for IPv6: its minimum MTU (RFC 4443, section 2.4 (c)).
const V6_ERROR: usize = 1280;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Hop limit of answers.
const HOPS: u8 = 64;

/// A bucket of answers, refilled in whole seconds.
#[derive(Default)]
pub(crate) struct Budget {
    second: u64,
    sent: u32,
}

impl Budget {
    /// Whether [`Self::take`] would give none.
    pub(crate) fn is_used_up(&self, now: u64) -> bool {
        now / 1_000_000_000 == self.second && self.sent >= ANSWERS_PER_SECOND
    }

    /// Takes one; false when this second's are used up.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let second = now / 1_000_000_000;
        if second != self.second {
            *self = Self { second, sent: 0 };
        }
        self.sent += 1;
        self.sent <= ANSWERS_PER_SECOND
    }
}

/// A packet to be answered.
pub(crate) struct Rejected<'a> {
    /// All bytes.
    pub(crate) frame: &'a [u8],
    /// Where the IP header begins.
    pub(crate) l3: usize,
    /// Where the transport header begins.
    pub(crate) l4: usize,
    /// Where the IP packet ends (behind may be padding).
    pub(crate) end: usize,
    /// The packet is TCP.
    pub(crate) tcp: bool,
}

impl Rejected<'_> {
    /// The answer, a frame to be sent where the packet came from; `None` when none may be given.
    pub(crate) fn answer(&self) -> Option<Vec<u8>> {
        let (link, ip) = (self.frame.get(..self.l3)?, self.frame.get(self.l3..self.end)?);
        let l4 = self.l4.checked_sub(self.l3)?;
        // A group address would ask many hosts to be answered (RFC 1122, section 3.2.2).
        if link.len() < 14 || link[0] & 1 != 0 || link[6] & 1 != 0 {
            return None;
        }
        let mut answer = Vec::with_capacity(link.len() + V6_ERROR);
        answer.extend_from_slice(&link[6..12]);
        answer.extend_from_slice(&link[..6]);
        answer.extend_from_slice(&link[12..]);
        match ip.first()? >> 4 {
            4 => self.answer_v4(ip, l4, &mut answer)?,
            6 => self.answer_v6(ip, l4, &mut answer)?,
            _ => return None,
        }
        Some(answer)
    }

    fn answer_v4(&self, ip: &[u8], l4: usize, answer: &mut Vec<u8>) -> Option<()> {
        let src: [u8; 4] = *ip.get(12..)?.first_chunk()?;
        let dst: [u8; 4] = *ip.get(16..)?.first_chunk()?;
        let unicast = |a: [u8; 4]| a[0] != 0 && a[0] != 127 && a[0] < 224;
        if !unicast(src) || !unicast(dst) {
            return None;
        }
        let mut payload = if self.tcp {
            reset(ip.get(l4..)?)?
        } else {
            // Destination unreachable, communication administratively prohibited.
            error(3, 13, &ip[..ip.len().min(V4_ERROR - V4_HEADER - ICMP_HEADER)])
        };
        let protocol = if self.tcp { 6 } else { 1 };
        if self.tcp {
            let length = u16::try_from(payload.len()).ok()?;
            let (from, to) = (u32::from_be_bytes(dst), u32::from_be_bytes(src));
            let pseudo = checksum::pseudo_v4(from, to, protocol, length);
            let sum = checksum::transport(pseudo, &payload);
            payload[16..18].copy_from_slice(&sum.to_be_bytes());
        } else {
            let sum = checksum::internet(&payload);
            payload[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let length = u16::try_from(V4_HEADER + payload.len()).ok()?.to_be_bytes();
        // Don't fragment: the identification need not be unique then (RFC 6864).
        let mut header = [
            0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0,
        ];
        header[12..16].copy_from_slice(&dst);
        header[16..20].copy_from_slice(&src);
        let sum = checksum::internet(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        answer.extend_from_slice(&header);
        answer.extend_from_slice(&payload);
        Some(())
    }

    fn answer_v6(&self, ip: &[u8], l4: usize, answer: &mut Vec<u8>) -> Option<()> {
        let src: [u8; 16] = *ip.get(8..)?.first_chunk()?;
        let dst: [u8; 16] = *ip.get(24..)?.first_chunk()?;
        let unicast = |a: [u8; 16]| a[0] != 0xff && a[..15] != [0; 15];
        if !unicast(src) || !unicast(dst) {
            return None;
        }
        let mut payload = if self.tcp {
            reset(ip.get(l4..)?)?
        } else {
            // Destination unreachable, communication administratively prohibited.
            error(1, 1, &ip[..ip.len().min(V6_ERROR - V6_HEADER - ICMP_HEADER)])
        };
        let protocol = if self.tcp { 6 } else { 58 };
        let (from, to) = (u128::from_be_bytes(dst), u128::from_be_bytes(src));
        let pseudo = checksum::pseudo_v6(from, to, protocol, u32::try_from(payload.len()).ok()?);
        let sum = checksum::transport(pseudo, &payload).to_be_bytes();
        let at = if self.tcp { 16 } else { 2 };
        payload[at..at + 2].copy_from_slice(&sum);
        let length = u16::try_from(payload.len()).ok()?.to_be_bytes();
        answer.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol, HOPS]);
        answer.extend_from_slice(&dst);
        answer.extend_from_slice(&src);
        answer.extend_from_slice(&payload);
        Some(())
    }
}

/// The reset for a segment, without checksum.
fn reset(segment: &[u8]) -> Option<Vec<u8>> {
    let header: &[u8; TCP_HEADER] = segment.first_chunk()?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (offset, flags) = (usize::from(header[12] >> 4) * 4, header[13]);
    let (seq, ack, answer_flags) = if flags & 0x10 != 0 {
        (word(8), 0, 0x04)
    } else {
        // SYN and FIN count as one byte each.
        let data = segment.len().checked_sub(offset)?;
        let length = data + usize::from(flags >> 1 & 1) + usize::from(flags & 1);
        (0, word(4).wrapping_add(u32::try_from(length).ok()?), 0x14)
    };
    let mut reset = Vec::with_capacity(TCP_HEADER);
    reset.extend_from_slice(&header[2..4]);
    reset.extend_from_slice(&header[..2]);
    reset.extend_from_slice(&seq.to_be_bytes());
    reset.extend_from_slice(&ack.to_be_bytes());
    reset.extend_from_slice(&[0x50, answer_flags, 0, 0, 0, 0, 0, 0]);
    Some(reset)
}

/// An ICMP error without checksum.
fn error(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut error = vec![kind, code, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(quoted);
    error
}
