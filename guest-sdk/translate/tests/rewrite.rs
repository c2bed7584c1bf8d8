//! Packets after a translation, beside packets that etherparse makes with the new addresses and
//! ports from the start: the same to the byte, checksums included.

use etherparse::checksum::Sum16BitWords;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket};
use proptest::prelude::*;
use weir_sdk::parse::{Plain, parse, protocol};
use weir_translate::{
    Difference, End, Quoted, address, address_v6, icmp_body, is_icmp_error, port,
};

/// TCP, UDP, or an ICMP echo whose identifier is the first port.
const PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::ICMP];

type V4 = ([u8; 4], u16);
type V6 = ([u8; 16], u16);

fn v4(protocol: u8, from: V4, to: V4, payload: &[u8]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
    let mut frame = Vec::new();
    match protocol {
        protocol::TCP => step.tcp(from.1, to.1, 7, 9).ack(3).write(&mut frame, payload),
        protocol::UDP => step.udp(from.1, to.1).write(&mut frame, payload),
        _ => step.icmpv4_echo_request(from.1, 5).write(&mut frame, payload),
    }
    .unwrap();
    frame
}

fn v6(protocol: u8, from: V6, to: V6, payload: &[u8]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.0, to.0, 64);
    let mut frame = Vec::new();
    match protocol {
        protocol::TCP => step.tcp(from.1, to.1, 7, 9).ack(3).write(&mut frame, payload),
        protocol::UDP => step.udp(from.1, to.1).write(&mut frame, payload),
        _ => step.icmpv6(Icmpv6Type::EchoRequest(echo(from.1))).write(&mut frame, payload),
    }
    .unwrap();
    frame
}

fn echo(id: u16) -> etherparse::IcmpEchoHeader {
    etherparse::IcmpEchoHeader { id, seq: 5 }
}

/// An ICMP error from a router to who sent the packet that it quotes.
fn error(to: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 99], to, 64);
    let mut frame = Vec::new();
    step.icmpv4(kind).write(&mut frame, quoted).unwrap();
    frame
}

fn ends() -> impl Strategy<Value = (V4, V4)> {
    (any::<[u8; 4]>(), any::<u16>(), any::<[u8; 4]>(), any::<u16>())
        .prop_map(|(a, b, c, d)| ((a, b), (c, d)))
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// One end of a packet exchanged for another.
fn exchanged<A: Copy>(at: End, from: A, to: A, new: A) -> (A, A) {
    if at == End::Source { (new, to) } else { (from, new) }
}

fn which() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Source), Just(End::Destination)]
}

proptest! {
    #[test]
    fn ipv4((from, to) in ends(), (new, _) in ends(), at in which(), n in 0..3usize, payload in payload()) {
        let protocol = PROTOCOLS[n];
        let mut frame = v4(protocol, from, to, &payload);
        let change = address(&mut frame, Plain::L3, at, u32::from_be_bytes(new.0));
        port(&mut frame, Plain::L4, protocol, at, change, new.1);
        let (mut from, to) = exchanged(at, from, to, new);
        if protocol == protocol::ICMP {
            // An identifier belongs to both ends.
            from.1 = new.1;
        }
        prop_assert_eq!(frame, v4(protocol, from, to, &payload));
    }

    #[test]
    fn ipv6(
        from in any::<([u8; 16], u16)>(), to in any::<([u8; 16], u16)>(), new in any::<([u8; 16], u16)>(),
        at in which(), n in 0..3usize, payload in payload(),
    ) {
        let named = [protocol::TCP, protocol::UDP, protocol::ICMPV6][n];
        let mut frame = v6(named, from, to, &payload);
        let change = address_v6(&mut frame, Plain::L3, at, u128::from_be_bytes(new.0));
        port(&mut frame, Plain::L3 + 40, named, at, change, new.1);
        let (mut from, to) = exchanged(at, from, to, new);
        if named == protocol::ICMPV6 {
            from.1 = new.1;
        }
        prop_assert_eq!(frame, v6(named, from, to, &payload));
    }

    #[test]
    fn by_a_difference(
        (from, to) in ends(), (new, _) in ends(), udp: bool, source: bool, payload in payload(),
    ) {
        let protocol = if udp { protocol::UDP } else { protocol::TCP };
        let at = if source { End::Source } else { End::Destination };
        let number = |(address, port): V4| (u32::from_be_bytes(address), port);
        let mut frame = v4(protocol, from, to, &payload);
        let old = if source { from } else { to };
        Difference::new(number(old), number(new)).translate(&mut frame, protocol, at, number(new));
        let (from, to) = exchanged(at, from, to, new);
        prop_assert_eq!(frame, v4(protocol, from, to, &payload));
    }

    #[test]
    fn what_an_icmp_error_quotes(
        (from, to) in ends(), (new, _) in ends(), at in which(), n in 0..3usize, payload in payload(), kept in 28..320usize,
    ) {
        // As much of the packet as a router likes; of a query only the asking end has an
        // identifier.
        let protocol = PROTOCOLS[n];
        let at = if protocol == protocol::ICMP { End::Source } else { at };
        // Half a checksum stays.
        let kept = if kept == 37 { 38 } else { kept };
        let cut = |packet: Vec<u8>| packet[Plain::L3..packet.len().min(Plain::L3 + kept)].to_vec();
        let mut frame = error([10, 0, 0, 1], &cut(v4(protocol, from, to, &payload)));
        let headers = parse(&frame).unwrap();
        prop_assert!(is_icmp_error(&frame, &headers));
        let quoted = Quoted::of(&frame, &headers).unwrap();
        prop_assert_eq!((quoted.source.to_be_bytes(), quoted.source_port), from);
        prop_assert_eq!(quoted.destination.to_be_bytes(), to.0);
        icmp_body(&mut frame, headers.l4, headers.end, |frame| {
            quoted.rewrite(frame, at, u32::from_be_bytes(new.0), new.1);
        });
        let (from, to) = exchanged(at, from, to, new);
        // A checksum that is quoted is changed, though what it covers is not all there.
        let expected = error([10, 0, 0, 1], &cut(v4(protocol, from, to, &payload)));
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn a_wrong_checksum_is_as_wrong_afterwards(
        (from, to) in ends(), (new, _) in ends(), n in 0..3usize, payload in payload(), error in 1..u16::MAX,
    ) {
        let protocol = PROTOCOLS[n];
        let at = Plain::L4 + [16, 6, 2][n];
        let right = v4(protocol, from, to, &payload);
        let mut frame = right.clone();
        let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let spoilt = sum(&[field, error]);
        // UDP's 0 is none.
        prop_assume!(spoilt != 0);
        frame[at..at + 2].copy_from_slice(&spoilt.to_be_bytes());
        let change = address(&mut frame, Plain::L3, End::Source, u32::from_be_bytes(new.0));
        port(&mut frame, Plain::L4, protocol, End::Source, change, new.1);
        let after = v4(protocol, new, to, &payload);
        let after = u16::from_be_bytes([after[at], after[at + 1]]);
        // In one's complement, where 0 and 65535 are the same.
        let found = u16::from_be_bytes([frame[at], frame[at + 1]]);
        prop_assert_eq!(sum(&[found]) % 0xffff, sum(&[after, error]) % 0xffff);
    }

    #[test]
    fn no_bytes_panic(
        quoted in prop::collection::vec(any::<u8>(), 0..80), at in 0..28usize, value: u8, new: u32, new_port: u16,
    ) {
        let mut frame = error([10, 0, 0, 1], &quoted);
        if let Some(byte) = frame.get_mut(Plain::L4 + at) {
            *byte = value;
        }
        if let Ok(headers) = parse(&frame)
            && is_icmp_error(&frame, &headers)
            && let Some(quoted) = Quoted::of(&frame, &headers)
        {
            icmp_body(&mut frame, headers.l4, headers.end, |frame| {
                quoted.rewrite(frame, End::Source, new, new_port);
                quoted.rewrite(frame, End::Destination, new, new_port);
            });
        }
    }
}

/// RFC 1071's sum of words.
fn sum(words: &[u16]) -> u16 {
    let mut sum = Sum16BitWords::new();
    for word in words {
        sum = sum.add_2bytes(word.to_be_bytes());
    }
    !sum.ones_complement().to_be()
}

#[test]
fn a_udp_checksum_that_is_none_stays_none() {
    let mut frame = v4(protocol::UDP, ([10, 0, 0, 2], 5000), ([198, 51, 100, 7], 53), b"question");
    frame[Plain::L4 + 6..Plain::L4 + 8].fill(0);
    let mut other = frame.clone();
    let change = address(&mut frame, Plain::L3, End::Source, 0xcb00_7101);
    port(&mut frame, Plain::L4, protocol::UDP, End::Source, change, 6000);
    Difference::new((0x0a00_0002, 5000), (0xcb00_7101, 6000)).translate(
        &mut other,
        protocol::UDP,
        End::Source,
        (0xcb00_7101, 6000),
    );
    assert_eq!(frame[Plain::L4 + 6..Plain::L4 + 8], [0, 0]);
    assert_eq!(frame, other);
    SlicedPacket::from_ethernet(&frame).unwrap();
}

#[test]
fn a_quotation_needs_its_ports() {
    let packet = v4(protocol::UDP, ([10, 0, 0, 2], 5000), ([198, 51, 100, 7], 53), b"question");
    let read = |quoted: &[u8]| {
        let mut frame = error([10, 0, 0, 1], quoted);
        // Padding that would be the rest of it does not count.
        frame.extend_from_slice(packet.get(Plain::L3 + quoted.len()..).unwrap_or_default());
        Quoted::of(&frame, &parse(&frame).unwrap()).is_some()
    };
    for length in 0..40 {
        assert_eq!(
            read(&packet[Plain::L3..][..length.min(packet.len() - Plain::L3)]),
            length >= 28
        );
    }
    // A later fragment, another version, a header that is too short, a protocol without ports.
    for (at, value) in [(7, 1), (0, 0x65), (0, 0x44), (9, 50)] {
        let mut quoted = packet[Plain::L3..].to_vec();
        quoted[at] = value;
        assert!(!read(&quoted), "byte {at} is {value:#x}");
    }
}
