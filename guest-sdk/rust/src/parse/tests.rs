//! Frames built and read by etherparse, and damaged ones.

use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6RawExtHeader, PacketBuilder,
    SlicedPacket, TransportSlice, VlanId,
};
use proptest::prelude::*;

use super::{
    Addresses, Fragment, Headers, Plain, Unreadable, addresses, link, parse, parse_any, protocol,
    quoted, vlans,
};

const ETHERNET: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// A frame with so many tags and this behind them.
fn framed(tags: u8, kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [ETHERNET.0, ETHERNET.1].concat();
    for tag in 0..tags {
        let kind: u16 = if tag == 0 && tags == 2 { 0x88a8 } else { 0x8100 };
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&[0, 7 + tag]);
    }
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

fn v4(options: &[u8], protocol: u8, word: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut header =
        Ipv4Header::new(length, 64, IpNumber(protocol), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    header.options = Ipv4Options::try_from(options).unwrap();
    header.set_payload_len(payload.len()).unwrap();
    header.identification = 0x1234;
    let mut packet = Vec::new();
    header.write(&mut packet).unwrap();
    packet[6..8].copy_from_slice(&word.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn v6(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut kinds = extensions.iter().map(|(kind, _)| *kind).chain([last]);
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, kinds.next().unwrap(), 64];
    packet.extend_from_slice(&1_u128.to_be_bytes());
    packet.extend_from_slice(&2_u128.to_be_bytes());
    for (_, body) in extensions {
        let at = packet.len();
        packet.extend_from_slice(body);
        packet[at] = kinds.next().unwrap();
    }
    packet.extend_from_slice(payload);
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

fn tcp(flags: u8, data: usize) -> Vec<u8> {
    let mut segment =
        vec![0x03, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0, 0, 0, 0, 0, 0];
    segment.resize(20 + data, 0);
    segment
}

fn udp(data: usize) -> Vec<u8> {
    let mut datagram = vec![0x03, 0xe8, 0, 53, 0, 8 + data as u8, 0, 0];
    datagram.resize(8 + data, 0);
    datagram
}

#[test]
fn offsets_follow_tags_and_options() {
    for tags in 0..=2 {
        for options in [0, 4, 40] {
            let frame = framed(tags, 0x800, &v4(&vec![1; options], 6, 0x4000, &tcp(0x12, 9)));
            let l3 = 14 + 4 * usize::from(tags);
            let headers = parse(&frame).unwrap();
            assert_eq!((headers.l3, headers.l4), (l3, l3 + 20 + options));
            assert_eq!((headers.end, headers.tcp_flags), (frame.len(), 0x12));
            assert_eq!((headers.source_port, headers.destination_port), (1000, 80));
            assert_eq!(
                headers.addresses,
                Addresses::V4 { source: 0x0a00_0001, destination: 0x0a00_0002 }
            );
            assert_eq!(Plain::of(&frame).is_some(), tags == 0 && options == 0);
        }
    }
}

#[test]
fn padding_lies_behind_the_end() {
    let mut frame = framed(0, 0x800, &v4(&[], 17, 0, &udp(1)));
    let end = frame.len();
    frame.resize(60, 0);
    assert_eq!(parse(&frame).unwrap().end, end);
    frame.truncate(end - 1);
    assert_eq!(parse(&frame), Err(Unreadable::Malformed));
}

#[test]
fn fragments_of_ipv4() {
    let first = parse(&framed(0, 0x800, &v4(&[], 6, 0x2000, &tcp(2, 0)))).unwrap();
    assert_eq!(first.fragment, Some(Fragment { offset: 0, more: true, identification: 0x1234 }));
    assert_eq!((first.destination_port, first.is_later_fragment()), (80, false));
    let later = parse(&framed(0, 0x800, &v4(&[], 6, 0x0003, &tcp(2, 0)))).unwrap();
    assert_eq!(later.fragment, Some(Fragment { offset: 24, more: false, identification: 0x1234 }));
    assert_eq!((later.destination_port, later.tcp_flags, later.is_later_fragment()), (0, 0, true));
    // RFC 1858: a first fragment without all of TCP's header.
    let tiny = framed(0, 0x800, &v4(&[], 6, 0x2000, &tcp(2, 0)[..16]));
    assert_eq!(parse(&tiny), Err(Unreadable::Malformed));
    let piece = framed(0, 0x800, &v4(&[], 6, 0x2002, &[0; 3]));
    assert!(parse(&piece).unwrap().is_later_fragment());
}

#[test]
fn extension_headers_of_ipv6() {
    let options = |kind, units: u8| {
        let mut body = vec![0; 8 + 8 * usize::from(units)];
        body[1] = units;
        (kind, body)
    };
    let fragment = |word: u16| {
        let mut body = vec![0; 8];
        body[2..4].copy_from_slice(&word.to_be_bytes());
        body[7] = 9;
        (44, body)
    };
    let authentication =
        (51, vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let read = |extensions: &[(u8, Vec<u8>)], last, payload: &[u8]| {
        parse(&framed(0, 0x86dd, &v6(extensions, last, payload)))
    };
    let all = [
        options(0, 1),
        options(60, 0),
        options(43, 2),
        fragment(0),
        authentication.clone(),
        options(60, 0),
    ];
    let headers = read(&all, 17, &udp(2)).unwrap();
    assert_eq!((headers.l3, headers.l4), (14, 54 + 16 + 8 + 24 + 8 + 24 + 8));
    assert_eq!((headers.protocol, headers.destination_port), (17, 53));
    assert_eq!(headers.fragment, None, "atomic");
    assert_eq!(headers.addresses, Addresses::V6 { source: 1, destination: 2 });

    let first = read(&[fragment(1)], 6, &tcp(2, 0)).unwrap();
    assert_eq!(first.fragment, Some(Fragment { offset: 0, more: true, identification: 9 }));
    assert_eq!(first.destination_port, 80);
    let later = read(&[options(0, 0), fragment(8)], 60, &[1, 2, 3]).unwrap();
    assert_eq!(later.fragment, Some(Fragment { offset: 8, more: false, identification: 9 }));
    assert_eq!((later.l4, later.protocol), (54 + 16, 60));
    let inner = [options(0, 1), fragment(1), authentication, options(60, 0)];
    let frame = framed(0, 0x86dd, &v6(&inner, 6, &tcp(2, 0)));
    let first = parse(&frame).unwrap();
    assert_eq!((first.fragmentable(&frame), first.l4), (54 + 24, 54 + 24 + 32));

    assert_eq!(read(&[options(60, 0), options(0, 0)], 17, &udp(0)), Err(Unreadable::Malformed));
    assert!(read(&vec![options(60, 0); 8], 17, &udp(0)).is_ok());
    assert_eq!(read(&vec![options(60, 0); 9], 17, &udp(0)), Err(Unreadable::Malformed));
    let mut cut = options(60, 0);
    cut.1[1] = 200;
    assert_eq!(read(&[cut], 17, &udp(0)), Err(Unreadable::Malformed));
    assert_eq!(read(&[], 59, &[]).unwrap().protocol, 59);
}

#[test]
fn what_contradicts_itself_is_malformed() {
    let good = framed(0, 0x800, &v4(&[], 6, 0, &tcp(2, 4)));
    let changed = |at: usize, to: u8| {
        let mut frame = good.clone();
        frame[at] = to;
        parse(&frame)
    };
    assert!(parse(&good).is_ok());
    assert_eq!(changed(14, 0x44), Err(Unreadable::Malformed), "header of 16 bytes");
    assert_eq!(changed(14, 0x65), Err(Unreadable::Malformed), "version 6");
    assert_eq!(changed(17, 19), Err(Unreadable::Malformed), "shorter than its header");
    assert_eq!(changed(17, 200), Err(Unreadable::Malformed), "longer than the frame");
    assert_eq!(changed(46, 0x40), Err(Unreadable::Malformed), "TCP header of 16 bytes");
    assert_eq!(changed(46, 0xf0), Err(Unreadable::Malformed), "TCP header longer than the packet");
    assert_eq!(changed(12, 9), Err(Unreadable::NotIp));
    for end in 0..good.len() {
        let expected = if end < 14 { Unreadable::NotIp } else { Unreadable::Malformed };
        assert_eq!(parse(&good[..end]), Err(expected), "{end} bytes");
        assert_eq!(addresses(&good[..end]).is_some(), end >= 34, "{end} bytes");
    }
    let mut datagram = udp(2);
    datagram[5] = 7;
    assert_eq!(parse(&framed(0, 0x800, &v4(&[], 17, 0, &datagram))), Err(Unreadable::Malformed));
    datagram[5] = 11;
    assert_eq!(parse(&framed(0, 0x800, &v4(&[], 17, 0, &datagram))), Err(Unreadable::Malformed));
    datagram[5] = 9;
    assert!(parse(&framed(0, 0x800, &v4(&[], 17, 0, &datagram))).is_ok());
    assert_eq!(parse(&framed(0, 0x800, &v4(&[], 1, 0, &[8; 7]))), Err(Unreadable::Malformed));
}

/// Offset and number of the transport header, and the ports.
type Known = (usize, u8, Option<(u16, u16)>);

/// What etherparse says about a frame, in our words; `None` when it does not read it.
fn oracle(frame: &[u8]) -> Option<Known> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let payload = sliced.net.as_ref()?.ip_payload_ref()?;
    let at = |part: &[u8]| part.as_ptr() as usize - frame.as_ptr() as usize;
    let ports = match sliced.transport {
        Some(TransportSlice::Tcp(ref tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(ref udp)) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    };
    Some((at(payload.payload), payload.ip_number.0, ports))
}

fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        (any::<u8>(), 0_usize..40).prop_map(|(flags, data)| (6, tcp(flags, data))),
        (0_usize..40).prop_map(|data| (17, udp(data))),
        prop::collection::vec(any::<u8>(), 8..40).prop_map(|body| (1, body)),
        prop::collection::vec(any::<u8>(), 12..40).prop_map(|body| (132, body)),
    ]
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let options = (0_usize..=10).prop_map(|words| vec![1; words * 4]);
    let extensions = prop::collection::vec(
        prop_oneof![
            (0_u8..3).prop_map(|units| {
                let mut header = Vec::new();
                let body = vec![0; 6 + 8 * usize::from(units)];
                Ipv6RawExtHeader::new_raw(IpNumber(0), &body).unwrap().write(&mut header).unwrap();
                (60, header)
            }),
            any::<(u16, bool)>().prop_map(|(offset, more)| {
                let offset = etherparse::IpFragOffset::try_new(offset & 0x1fff).unwrap();
                (44, Ipv6FragmentHeader::new(IpNumber(0), offset, more, 7).to_bytes().to_vec())
            }),
        ],
        0..3,
    );
    prop_oneof![
        (0_u8..=2, options, transport(), prop_oneof![3 => Just(0_u16), 1 => any::<u16>()])
            .prop_map(|(tags, options, (protocol, body), word)| {
                framed(tags, 0x800, &v4(&options, protocol, word & 0x7fff, &body))
            }),
        (0_u8..=2, extensions, transport()).prop_map(|(tags, extensions, (protocol, body))| {
            framed(tags, 0x86dd, &v6(&extensions, protocol, &body))
        }),
    ]
}

fn within(frame: &[u8], headers: &Headers) -> bool {
    headers.l3 >= 14
        && headers.l3 < headers.l4
        && headers.l4 <= headers.end
        && headers.end <= frame.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whole_frames_are_read_as_etherparse_reads_them(
        frame in frame(), cut in any::<prop::sample::Index>(),
    ) {
        let headers = parse(&frame).unwrap();
        prop_assert!(within(&frame, &headers));
        prop_assert_eq!(addresses(&frame), Some((headers.addresses, headers.l3)));
        // And quotations of them as they are.
        let packet = &frame[headers.l3..headers.end];
        for packet in [packet, &packet[..cut.index(packet.len())]] {
            let (l4, end) = (headers.l4 - headers.l3, packet.len());
            match quoted(packet) {
                Some(read) => {
                    prop_assert_eq!(read, Headers { l3: 0, l4, end, tcp_flags: 0, ..headers });
                }
                None => prop_assert!(end < l4 + 4),
            }
        }
        if let Some((l4, protocol, ports)) = oracle(&frame)
            // It goes on behind later fragment headers as if the payload were headers.
            && headers.fragment.is_none()
        {
            prop_assert_eq!((headers.l4, headers.protocol), (l4, protocol));
            if let Some(ports) = ports {
                prop_assert_eq!((headers.source_port, headers.destination_port), ports);
            }
        }
    }

    #[test]
    fn the_short_way_says_what_the_long_one_says(
        mut frame in frame(), changes in prop::collection::vec((0_usize..60, any::<u8>()), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        for (at, to) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = to;
            }
        }
        for frame in [&frame[..], &frame[..cut.index(frame.len())]] {
            let long = parse_any(frame);
            prop_assert_eq!(parse(frame), long);
            if let Ok(headers) = long {
                prop_assert!(within(frame, &headers));
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4) {
        let mut frame = bytes;
        if let (Some(at), 1..) = (frame.get_mut(12..15), kind) {
            at.copy_from_slice(&[[8, 0, 0x45], [8, 0, 0x48], [0x86, 0xdd, 0x60]][kind as usize - 1]);
        }
        if let Ok(headers) = parse(&frame) {
            prop_assert!(within(&frame, &headers));
            prop_assert!((headers.l3..=headers.l4).contains(&headers.fragmentable(&frame)));
        }
        let packet = frame.get(14..).unwrap_or_default();
        if let Some(headers) = quoted(packet) {
            prop_assert!((20..=packet.len()).contains(&headers.l4) && headers.end == packet.len());
        }
    }
}

#[test]
fn tags_of_all_kinds() {
    let builder = PacketBuilder::ethernet2(ETHERNET.0, ETHERNET.1)
        .double_vlan(VlanId::try_new(1).unwrap(), VlanId::try_new(2).unwrap())
        .ipv4([1; 4], [2; 4], 9)
        .udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 9]).unwrap();
    assert_eq!(link(&frame), Some((0x800, 22)));
    frame[12..14].copy_from_slice(&[0x91, 0]);
    assert_eq!(link(&frame), Some((0x800, 22)));
    frame[20..22].copy_from_slice(&[0x81, 0]);
    assert_eq!(parse(&frame), Err(Unreadable::NotIp), "three tags");
    assert_eq!(protocol::UDP, 17);
}

#[test]
fn vlans_are_those_of_two_tags() {
    let frame = |tags: &[u16]| {
        let tags = tags.iter().flat_map(|word| word.to_be_bytes());
        [0; 12].into_iter().chain(tags).chain([8, 0, 0x45]).collect::<Vec<u8>>()
    };
    assert_eq!(vlans(&frame(&[])), 0);
    assert_eq!(vlans(&frame(&[0x8100, 0xe00a])), 10);
    assert_eq!(vlans(&frame(&[0x88a8, 0x1002, 0x8100, 0xffff])), 0x002_fff);
    assert_eq!(vlans(&frame(&[0x9100, 2, 0x8100, 3, 0x8100, 4])), 0x002_003);
    assert_eq!(vlans(&[0; 13]), 0);
    let udp = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut bytes = Vec::new();
    udp.single_vlan(VlanId::try_new(7).unwrap())
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut bytes, b"")
        .unwrap();
    assert_eq!(parse(&bytes).unwrap().vlans(&bytes), 7);
    let untagged = [&bytes[..12], &bytes[16..]].concat();
    assert_eq!(parse(&untagged).unwrap().vlans(&untagged), 0);
}
