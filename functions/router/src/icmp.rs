//! Making ICMP messages: errors (RFC 792, RFC 4443), and answers for the router's own addresses.

use weir_sdk::checksum;

/// What an error says: type, code and the word behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) word: u32,
}

/// Bytes of an ICMP error over IPv4, IP header included (RFC 1812, section 4.3.2.3).
const ERROR_V4: usize = 576;
/// The same over IPv6: the smallest MTU (RFC 4443, section 2.4 (c)).
const ERROR_V6: usize = 1280;
const HOP_LIMIT: u8 = 64;
const ETHERNET: usize = 14;

/// An error about the IPv4 packet at `l3` of a frame; goes back to the MAC it came from.
pub(crate) fn error_v4(frame: &[u8], l3: usize, end: usize, source: u32, problem: Problem) -> Vec<u8> {
    let quoted = &frame[l3..end.min(l3 + ERROR_V4 - 28)];
    let mut packet = back(frame, [8, 0]);
    let length = (28 + quoted.len()) as u16;
    packet.extend_from_slice(&[0x45, 0xc0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, HOP_LIMIT, 1, 0, 0]);
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&frame[l3 + 12..l3 + 16]);
    let sum = checksum::internet(&packet[ETHERNET..ETHERNET + 20]);
    packet[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    let at = packet.len();
    message(&mut packet, problem, quoted);
    let sum = checksum::internet(&packet[at..]);
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An error about the IPv6 packet at `l3` of a frame.
pub(crate) fn error_v6(frame: &[u8], l3: usize, end: usize, source: u128, problem: Problem) -> Vec<u8> {
    let quoted = &frame[l3..end.min(l3 + ERROR_V6 - 48)];
    let mut target = [0; 16];
    target.copy_from_slice(&frame[l3 + 8..l3 + 24]);
    let mut body = Vec::with_capacity(8 + quoted.len());
    message(&mut body, problem, quoted);
    packet_v6(back(frame, [0x86, 0xdd]), source, u128::from_be_bytes(target), HOP_LIMIT, body)
}

/// A neighbour advertisement for `address` (RFC 4861, section 4.4): router, solicited, override.
pub(crate) fn advertisement(frame: &[u8], address: u128, mac: [u8; 6], target: u128) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
    body.extend_from_slice(&address.to_be_bytes());
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac);
    let mut ethernet = back(frame, [0x86, 0xdd]);
    ethernet[6..12].copy_from_slice(&mac);
    // Neighbours only believe messages that no router has forwarded (RFC 4861, section 7.1.2).
    packet_v6(ethernet, address, target, 255, body)
}

fn message(packet: &mut Vec<u8>, problem: Problem, quoted: &[u8]) {
    packet.extend_from_slice(&[problem.kind, problem.code, 0, 0]);
    packet.extend_from_slice(&problem.word.to_be_bytes());
    packet.extend_from_slice(quoted);
}

/// An Ethernet header back to where a frame came from.
fn back(frame: &[u8], kind: [u8; 2]) -> Vec<u8> {
    let mut header = Vec::with_capacity(ETHERNET + ERROR_V6);
    header.extend_from_slice(&frame[6..12]);
    header.extend_from_slice(&frame[..6]);
    header.extend_from_slice(&kind);
    header
}

fn packet_v6(mut packet: Vec<u8>, source: u128, target: u128, hops: u8, body: Vec<u8>) -> Vec<u8> {
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[58, hops]);
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&target.to_be_bytes());
    let at = packet.len();
    let pseudo = checksum::pseudo_v6(source, target, 58, body.len() as u32);
    packet.extend_from_slice(&body);
    let sum = checksum::transport(pseudo, &packet[at..]);
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}
