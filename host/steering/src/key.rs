//! What steering rules look at, read from a frame once.

use std::net::IpAddr;

use zerocopy::{Immutable, IntoBytes};

use crate::affinity::{ICMP, ICMPV6};
use crate::frame::{ETHERNET_HEADER, Flow, IPV4, IPV6, behind_tags, plain};

/// [`Key::vlan`] of a frame without a tag.
pub const UNTAGGED: u16 = u16::MAX;

/// An address as a [`Key`] has it: IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[must_use]
pub const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Everything of a packet that rules look at, and by which its flow is told from others. One
/// direction only: see [`Key::reversed`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, IntoBytes, Immutable)]
pub struct Key {
    /// Source address: IPv6, or IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2); zero if it is not IP.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Source port of TCP, UDP, SCTP, DCCP, UDP-Lite; 0 for others and for fragments.
    pub source_port: u16,
    /// Destination port, likewise.
    pub destination_port: u16,
    /// Number of the protocol behind IP's headers; 0 if it is not IP.
    pub protocol: u8,
    /// Differentiated services code point (RFC 2474), 0 to 63.
    pub dscp: u8,
    /// Number of the outer VLAN, or [`UNTAGGED`].
    pub vlan: u16,
    /// What the frame carries behind at most two VLAN tags.
    pub ethertype: u16,
    /// Number of the port by which it came in.
    pub port: u16,
    /// Hardware addresses: destination, then source.
    pub macs: [[u8; 6]; 2],
}

const _: () = assert!(size_of::<Key>() == 56);

/// An IPv4 address as IPv6 has it.
pub(crate) const fn mapped(address: u32) -> [u8; 16] {
    let [a, b, c, d] = address.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

fn address((high, low): (u64, u64)) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

impl Key {
    /// Reads a frame that came in by this port. Any bytes have a key.
    #[must_use]
    #[inline]
    pub fn read(frame: &[u8], port: u16) -> Self {
        match plain(frame) {
            Some(start) => {
                let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *start;
                let four = |at: usize| [start[at], start[at + 1], start[at + 2], start[at + 3]];
                let two = |at: usize| u16::from_be_bytes([start[at], start[at + 1]]);
                Self {
                    source: mapped(u32::from_be_bytes(four(26))),
                    destination: mapped(u32::from_be_bytes(four(30))),
                    source_port: two(34),
                    destination_port: two(36),
                    protocol: start[23],
                    dscp: start[15] >> 2,
                    vlan: UNTAGGED,
                    ethertype: IPV4,
                    port,
                    macs: [[d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]],
                }
            }
            None => Self::any(frame, port),
        }
    }

    /// Reads a frame of any kind.
    fn any(frame: &[u8], port: u16) -> Self {
        let mut key = Self { port, vlan: UNTAGGED, ..Self::default() };
        let Some(header) = frame.first_chunk::<ETHERNET_HEADER>() else { return key };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
        key.macs = [[d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]];
        let (tag, ethertype, packet) = behind_tags(header, &frame[ETHERNET_HEADER..]);
        key.vlan = tag.unwrap_or(UNTAGGED);
        key.ethertype = ethertype;
        let flow = Flow::of(frame);
        key.dscp = match (flow, packet) {
            (Flow::V4 { .. }, [_, second, ..]) => second >> 2,
            // The traffic class lies across two bytes (RFC 8200, section 3).
            (Flow::V6 { .. }, [first, second, ..]) => (first & 0xf) << 2 | second >> 6,
            _ => 0,
        };
        key.of(flow)
    }

    /// The same with the ends and the protocol of this flow, if it is of IP.
    pub(crate) fn of(self, flow: Flow) -> Self {
        let (source, destination, (source_port, destination_port), protocol) = match flow {
            Flow::V4 { source, destination, ports, protocol } => {
                (mapped(source), mapped(destination), ports, protocol)
            }
            Flow::V6 { source, destination, ports, protocol } => {
                (address(source), address(destination), ports, protocol)
            }
            Flow::Ethernet { .. } | Flow::Runt => return self,
        };
        Self { source, destination, source_port, destination_port, protocol, ..self }
    }

    /// What all packets of its flow have in this direction, whatever their code point is and
    /// whichever of several routers they pass: without that and, of IP, without hardware addresses.
    #[must_use]
    pub const fn plain(&self) -> Self {
        let ip = self.is_ipv4() || self.is_ipv6();
        Self { dscp: 0, macs: if ip { [[0; 6]; 2] } else { self.macs }, ..*self }
    }

    /// Whether it is ICMP of either version of IP.
    #[must_use]
    pub const fn is_icmp(&self) -> bool {
        matches!((self.ethertype, self.protocol), (IPV4, ICMP) | (IPV6, ICMPV6))
    }

    /// The same flow in the other direction, as it comes in by this port.
    #[must_use]
    pub const fn reversed(&self, port: u16) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            macs: [self.macs[1], self.macs[0]],
            port,
            ..*self
        }
    }

    /// All of it, as words of memory: for hashing and masking.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> [u64; 7] {
        zerocopy::transmute!(*self)
    }

    /// Whether it is an IPv4 packet.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.ethertype == IPV4
    }

    /// Whether it is an IPv6 packet.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.ethertype == IPV6
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

    fn udp4(dscp: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(MACS[1], MACS[0])
            .ipv4([10, 0, 0, 1], [192, 0, 2, 7], 64)
            .udp(1234, 53)
            .write(&mut bytes, b"payload")
            .expect("a frame");
        bytes[15] = dscp << 2;
        bytes
    }

    #[test]
    fn an_ipv4_frame_is_read() {
        let key = Key::read(&udp4(46), 3);
        assert_eq!(key.source, mapped(0x0a00_0001));
        assert_eq!(key.destination, mapped(0xc000_0207));
        assert_eq!((key.source_port, key.destination_port), (1234, 53));
        assert_eq!((key.protocol, key.dscp, key.vlan), (17, 46, UNTAGGED));
        assert_eq!((key.ethertype, key.port, key.macs), (0x0800, 3, MACS));
        assert!(key.is_ipv4() && !key.is_ipv6());
    }

    #[test]
    fn a_tagged_ipv6_frame_is_read() {
        let mut bytes = Vec::new();
        let [from, to] = [[0x20; 16], [0x21; 16]];
        PacketBuilder::ethernet2(MACS[1], MACS[0])
            .double_vlan(7.try_into().expect("an id"), 8.try_into().expect("an id"))
            .ipv6(from, to, 64)
            .tcp(1, 443, 0, 0)
            .write(&mut bytes, b"")
            .expect("a frame");
        bytes[22] |= 0xb;
        bytes[23] |= 0x80;
        let key = Key::read(&bytes, 0);
        assert_eq!((key.source, key.destination), (from, to));
        assert_eq!((key.source_port, key.destination_port, key.protocol), (1, 443, 6));
        assert_eq!((key.vlan, key.ethertype, key.dscp), (7, 0x86dd, 46));
        assert!(key.is_ipv6());
    }

    #[test]
    fn what_is_not_ip_has_its_addresses_and_type() {
        let mut arp = [0; 42];
        arp[..6].copy_from_slice(&MACS[0]);
        arp[6..12].copy_from_slice(&MACS[1]);
        (arp[12], arp[13]) = (8, 6);
        let expected = Key { macs: MACS, ethertype: 0x0806, vlan: UNTAGGED, ..Key::default() };
        assert_eq!(Key::read(&arp, 0), expected);
        assert_eq!(Key::read(&arp[..13], 1), Key { vlan: UNTAGGED, port: 1, ..Key::default() });
    }

    #[test]
    fn the_other_direction_is_what_the_answer_has() {
        let key = Key::read(&udp4(0), 0);
        let mut answer = udp4(0);
        let frame = udp4(0);
        answer[..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&frame[..6]);
        answer[26..30].copy_from_slice(&frame[30..34]);
        answer[30..34].copy_from_slice(&frame[26..30]);
        answer[34..36].copy_from_slice(&frame[36..38]);
        answer[36..38].copy_from_slice(&frame[34..36]);
        assert_eq!(Key::read(&answer, 1), key.reversed(1));
        assert_eq!(key.reversed(1).reversed(0), key);
    }

    proptest! {
        /// The short way is only shorter.
        #[test]
        fn both_ways_read_the_same(
            mut frame in prop::collection::vec(any::<u8>(), 30..60),
            version in prop_oneof![Just(0x45), Just(0x46), Just(0x65)],
            protocol in prop_oneof![Just(6), Just(17), Just(1)],
            fragment in prop_oneof![Just([0, 0]), Just([0x40, 0]), Just([0x20, 0]), Just([0, 1])],
        ) {
            frame[12..15].copy_from_slice(&[8, 0, version]);
            frame[20..22].copy_from_slice(&fragment);
            frame[23] = protocol;
            prop_assert_eq!(Key::read(&frame, 5), Key::any(&frame, 5));
        }

        #[test]
        fn any_bytes_have_a_key(frame in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Key::read(&frame, 0);
        }
    }
}
