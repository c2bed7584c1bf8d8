//! Frames to run functions on: Ethernet, IPv4, and TCP or UDP, with right checksums.
//!
//! Must not know: what functions do with them.

use crate::checksum;
use crate::parse::{ethertype, protocol};
use crate::wire::Tcp;

/// An address and a port.
pub type End = ([u8; 4], u16);

/// A UDP datagram with four bytes of data.
#[must_use]
pub fn udp(from: End, to: End) -> Vec<u8> {
    datagram(from, to, b"data")
}

/// A UDP datagram with this payload.
///
/// # Panics
/// When it is longer than IPv4 allows.
#[must_use]
pub fn datagram(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let length = length(8 + payload.len()).to_be_bytes();
    let mut datagram = [from.1.to_be_bytes(), to.1.to_be_bytes(), length, [0; 2]].concat();
    datagram.extend_from_slice(payload);
    let sum = checksum::udp(sum(protocol::UDP, from.0, to.0, &datagram));
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4(protocol::UDP, from.0, to.0, &datagram)
}

/// A TCP segment with four bytes of data and the flags that these letters stand for: `F`, `S`, `R`,
/// `P`, `A`, `U`. Its sequence number is 7 and, with `A`, its acknowledgement number 9.
///
/// # Panics
/// At any other letter.
#[must_use]
pub fn tcp(from: End, to: End, flags: &str) -> Vec<u8> {
    let acknowledged = if flags.contains('A') { 9 } else { 0 };
    segment(from, to, flags, (7, acknowledged), b"data")
}

/// As [`tcp`], with this sequence number and acknowledgement number, and this payload.
///
/// # Panics
/// As [`tcp`], and when it is longer than IPv4 allows.
#[must_use]
pub fn segment(
    from: End,
    to: End,
    flags: &str,
    (sequence, acknowledged): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let flags = flags.chars().fold(0, |flags, letter| {
        flags
            | match letter {
                'F' => Tcp::FIN,
                'S' => Tcp::SYN,
                'R' => Tcp::RST,
                'P' => Tcp::PSH,
                'A' => Tcp::ACK,
                'U' => Tcp::URG,
                other => panic!("there is no flag {other:?} of TCP"),
            }
    });
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&acknowledged.to_be_bytes());
    segment.extend_from_slice(&[5 << 4, flags, 2, 0, 0, 0, 0, 0]);
    segment.extend_from_slice(payload);
    let sum = sum(protocol::TCP, from.0, to.0, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(protocol::TCP, from.0, to.0, &segment)
}

/// An IPv4 packet of any protocol, with this behind its header.
///
/// # Panics
/// When it is longer than IPv4 allows.
#[must_use]
pub fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = [[4; 6], [2; 6]].concat();
    frame.extend_from_slice(&ethertype::IPV4.to_be_bytes());
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&length(20 + payload.len()).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&to);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A frame with a tag for each of these VLANs, the outer one first.
///
/// # Panics
/// When it has no whole Ethernet header.
#[must_use]
pub fn tagged(frame: &[u8], vlans: &[u16]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    let tag = |vlan: &u16| [ethertype::VLAN.to_be_bytes(), vlan.to_be_bytes()];
    let tags: Vec<u8> = vlans.iter().flat_map(tag).flatten().collect();
    [macs, &tags, rest].concat()
}

/// The checksum of what is behind an IPv4 header, in which it is 0 so far.
fn sum(protocol: u8, from: [u8; 4], to: [u8; 4], transport: &[u8]) -> u16 {
    let (from, to) = (u32::from_be_bytes(from), u32::from_be_bytes(to));
    let pseudo = checksum::pseudo_v4(from, to, protocol, length(transport.len()));
    checksum::transport(pseudo, transport)
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a packet that IPv4 has room for")
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, VlanId};

    use super::*;
    const FROM: End = ([10, 0, 0, 1], 1000);
    const TO: End = ([192, 0, 2, 7], 443);

    #[test]
    fn frames_are_those_that_etherparse_builds() {
        let step = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(FROM.0, TO.0, 64);
        let mut expected = Vec::new();
        for payload in [&b""[..], b"odd", b"even"] {
            step().udp(FROM.1, TO.1).write(&mut expected, payload).unwrap();
            assert_eq!(datagram(FROM, TO, payload), expected);
            expected.clear();
            let syn = step().tcp(FROM.1, TO.1, 70_000, 512).syn();
            syn.write(&mut expected, payload).unwrap();
            assert_eq!(segment(FROM, TO, "S", (70_000, 0), payload), expected);
            expected.clear();
        }
        let all = step().tcp(FROM.1, TO.1, 7, 512).fin().syn().rst().psh().ack(9).urg(0);
        all.write(&mut expected, b"data").unwrap();
        assert_eq!(tcp(FROM, TO, "FSRPAU"), expected);
        expected.clear();
        step().write(&mut expected, 89.into(), b"hello").unwrap();
        assert_eq!(ipv4(89, FROM.0, TO.0, b"hello"), expected);
    }

    #[test]
    fn tags_are_those_that_etherparse_builds() {
        let [ten, twenty] = [10, 20].map(|vlan| VlanId::try_new(vlan).unwrap());
        let mut expected = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).single_vlan(ten);
        step.ipv4(FROM.0, TO.0, 64).udp(FROM.1, TO.1).write(&mut expected, b"data").unwrap();
        assert_eq!(tagged(&udp(FROM, TO), &[10]), expected);
        expected.clear();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).double_vlan(ten, twenty);
        step.ipv4(FROM.0, TO.0, 64).udp(FROM.1, TO.1).write(&mut expected, b"data").unwrap();
        // etherparse writes 0x88a8 for the outer tag.
        let double = tagged(&udp(FROM, TO), &[10, 20]);
        assert_eq!((&double[..12], &double[14..]), (&expected[..12], &expected[14..]));
    }
}
