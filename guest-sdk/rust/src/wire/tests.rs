//! Views against etherparse's headers, and with any bytes.

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Icmpv6Type,
    Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder, TcpHeaderSlice, UdpHeaderSlice,
};
use proptest::prelude::*;

use super::{Arp, Error, Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, Tcp, Udp, Vlan};
use crate::parse::{ethertype, protocol};

fn packet(
    v6: bool,
    build: impl FnOnce(etherparse::PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8>,
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    build(if v6 {
        ethernet.ipv6([1; 16], [2; 16], 64)
    } else {
        ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    })
}

fn tcp(v6: bool, data: &[u8]) -> Vec<u8> {
    packet(v6, |ip| {
        let mut frame = Vec::new();
        let options = [etherparse::TcpOptionElement::MaximumSegmentSize(1400)];
        let tcp = ip.tcp(1000, 80, 0x0102_0304, 0x1000).syn().ack(7).options(&options).unwrap();
        tcp.write(&mut frame, data).unwrap();
        frame
    })
}

#[test]
fn tcp_over_ipv4() {
    let mut frame = tcp(false, b"data");
    let ethernet = Ethernet::new_checked(&frame[..]).unwrap();
    assert_eq!(ethernet.source(), [2, 0, 0, 0, 0, 1]);
    assert_eq!(ethernet.destination(), [2, 0, 0, 0, 0, 2]);
    assert_eq!(ethernet.ethertype(), ethertype::IPV4);
    let ip = Ipv4::new_checked(ethernet.payload()).unwrap();
    assert_eq!((ip.source(), ip.destination()), (0x0a00_0001, 0x0a00_0002));
    assert_eq!((ip.ttl(), ip.protocol(), ip.header_len()), (64, protocol::TCP, 20));
    assert_eq!((ip.dont_fragment(), ip.more_fragments(), ip.fragment_offset()), (true, false, 0));
    assert!(ip.verify_checksum() && ip.options().is_empty());
    let tcp = Tcp::new_checked(ip.payload()).unwrap();
    assert_eq!((tcp.source_port(), tcp.destination_port()), (1000, 80));
    assert_eq!((tcp.sequence(), tcp.acknowledgment(), tcp.window()), (0x0102_0304, 7, 0x1000));
    assert_eq!(tcp.flags(), Tcp::SYN | Tcp::ACK);
    assert_eq!((tcp.options(), tcp.payload()), (&[2, 4, 5, 0x78][..], &b"data"[..]));
    assert!(tcp.verify_checksum(ip.pseudo_header()));

    let mut ip = Ipv4::new_checked(&mut frame[14..]).unwrap();
    assert!(ip.decrement_ttl() && ip.verify_checksum() && ip.ttl() == 63);
    ip.set_source(0xc000_0201);
    ip.fill_checksum();
    let pseudo = ip.pseudo_header();
    let mut tcp = Tcp::new_checked(ip.payload_mut()).unwrap();
    tcp.set_source_port(2000);
    tcp.set_flags(Tcp::RST);
    tcp.options_mut()[3] = 0;
    tcp.payload_mut().copy_from_slice(b"DATA");
    tcp.fill_checksum(pseudo);
    let (ip, tcp) = (
        Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap(),
        TcpHeaderSlice::from_slice(&frame[34..]).unwrap(),
    );
    assert_eq!(ip.source(), [192, 0, 2, 1]);
    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
    assert_eq!((tcp.source_port(), tcp.rst(), tcp.syn()), (2000, true, false));
    assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(&ip, b"DATA").unwrap());
}

#[test]
fn a_packet_without_hops_is_left_alone() {
    for hops in [0, 1] {
        let mut frame = tcp(false, b"");
        frame[22] = hops;
        let before = frame.clone();
        assert!(!Ipv4::new_checked(&mut frame[14..]).unwrap().decrement_ttl());
        assert_eq!(frame, before);
        let mut frame = tcp(true, b"");
        frame[21] = hops;
        assert!(!Ipv6::new_checked(&mut frame[14..]).unwrap().decrement_hop_limit());
    }
}

#[test]
fn tcp_over_ipv6() {
    let mut frame = tcp(true, b"abc");
    let mut ip = Ipv6::new_checked(&mut frame[14..]).unwrap();
    ip.set_first_word(0x6ab1_2345);
    assert_eq!((ip.traffic_class(), ip.flow_label()), (0xab, 0x1_2345));
    ip.set_destination(u128::from_be_bytes([3; 16]));
    assert!(ip.decrement_hop_limit());
    assert_eq!(
        (ip.next_header(), ip.extensions().count(), ip.extensions().position()),
        (6, 0, (6, 40))
    );
    let pseudo = ip.pseudo_header(protocol::TCP, ip.payload().len() as u32);
    Tcp::new_checked(ip.payload_mut()).unwrap().fill_checksum(pseudo);
    let (ip, tcp) = (
        Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap(),
        TcpHeaderSlice::from_slice(&frame[54..]).unwrap(),
    );
    assert_eq!((ip.hop_limit(), ip.destination()), (63, [3; 16]));
    assert_eq!((ip.traffic_class(), ip.flow_label().value()), (0xab, 0x1_2345));
    assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(&ip, b"abc").unwrap());
}

#[test]
fn extension_headers() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 40, 0, 64];
    packet.resize(40, 1);
    packet.extend_from_slice(&[60, 1]);
    packet.resize(56, 0);
    packet.extend_from_slice(&[
        44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 5, 0, 1, 0, 2, 0, 8, 0, 0,
    ]);
    let ip = Ipv6::new_checked(&packet[..]).unwrap();
    let mut extensions = ip.extensions();
    let found: Vec<_> = extensions.by_ref().map(|e| (e.kind, e.offset, e.bytes.len())).collect();
    assert_eq!(found, [(0, 40, 16), (60, 56, 8), (44, 64, 8)]);
    assert_eq!(extensions.position(), (17, 72));
    // A later fragment: what follows is no header.
    packet[64] = 60;
    packet[67] = 9;
    let ip = Ipv6::new_checked(&packet[..]).unwrap();
    assert_eq!((ip.extensions().count(), ip.extensions().last().unwrap().kind), (3, 44));
}

#[test]
fn udp_and_its_missing_checksum() {
    let mut frame = packet(false, |ip| {
        let mut frame = Vec::new();
        ip.udp(1000, 53).write(&mut frame, b"query").unwrap();
        frame
    });
    let pseudo = Ipv4::new_checked(&frame[14..]).unwrap().pseudo_header();
    let mut udp = Udp::new_checked(&mut frame[34..]).unwrap();
    assert_eq!((udp.source_port(), udp.destination_port(), udp.length()), (1000, 53, 13));
    assert!(udp.verify_checksum(pseudo) && udp.payload() == b"query");
    udp.payload_mut()[0] = b'Q';
    assert!(!udp.verify_checksum(pseudo));
    udp.set_checksum(0);
    assert!(udp.verify_checksum(pseudo));
    udp.fill_checksum(pseudo);
    let ip = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    let udp = UdpHeaderSlice::from_slice(&frame[34..]).unwrap().to_header();
    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, b"Query").unwrap());

    // With a surplus area (RFC 9868) behind the datagram, the checksum stays what it is.
    frame.extend([1; 7]);
    let mut ip = Ipv4::new_checked(&mut frame[14..]).unwrap();
    ip.set_total_len(ip.total_len() + 7);
    let pseudo = ip.pseudo_header();
    let mut with_surplus = Udp::new_checked(ip.payload_mut()).unwrap();
    assert!(with_surplus.verify_checksum(pseudo));
    with_surplus.fill_checksum(pseudo);
    assert_eq!(with_surplus.checksum(), udp.checksum);
}

#[test]
fn icmp() {
    let echo = IcmpEchoHeader { id: 7, seq: 9 };
    let mut message =
        etherparse::Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), b"ping")
            .to_bytes()
            .to_vec();
    message.extend_from_slice(b"ping");
    let mut view = Icmpv4::new_checked(&mut message[..]).unwrap();
    assert!(view.verify_checksum() && view.is_query() && !view.is_error());
    assert_eq!((view.kind(), view.code(), view.identifier(), view.sequence()), (8, 0, 7, 9));
    assert_eq!(view.payload(), b"ping");
    view.set_identifier(8);
    view.payload_mut()[0] = b'P';
    view.fill_checksum();
    let slice = Icmpv4Slice::from_slice(&message).unwrap();
    assert_eq!(slice.checksum(), slice.icmp_type().calc_checksum(slice.payload()));

    let kind = Icmpv6Type::EchoReply(echo);
    let header = etherparse::Icmpv6Header::with_checksum(kind, [1; 16], [2; 16], b"ping").unwrap();
    let mut message = header.to_bytes().to_vec();
    message.extend_from_slice(b"ping");
    let pseudo = crate::checksum::pseudo_v6(
        u128::from_be_bytes([1; 16]),
        u128::from_be_bytes([2; 16]),
        58,
        12,
    );
    let mut view = Icmpv6::new_checked(&mut message[..]).unwrap();
    assert!(view.verify_checksum(pseudo) && view.is_query() && !view.is_error());
    view.set_kind(1);
    view.set_identifier(0);
    view.payload_mut()[0] = 0;
    view.fill_checksum(pseudo);
    assert!(view.verify_checksum(pseudo) && view.is_error() && view.payload() == b"\0ing");
    assert!(
        etherparse::Icmpv6Slice::from_slice(&message).unwrap().is_checksum_valid([1; 16], [2; 16])
    );
}

#[test]
fn arp() {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: [1; 6],
        sender_ipv4: [10, 0, 0, 1],
        target_mac: [0; 6],
        target_ipv4: [10, 0, 0, 2],
    };
    let mut bytes = packet.to_bytes();
    let mut arp = Arp::new_checked(&mut bytes[..]).unwrap();
    assert_eq!(
        (arp.operation(), arp.sender_hardware(), arp.sender_address()),
        (1, [1; 6], 0x0a00_0001)
    );
    assert_eq!((arp.target_hardware(), arp.target_address()), ([0; 6], 0x0a00_0002));
    arp.set_operation(2);
    arp.set_target_hardware([9; 6]);
    let expected =
        ArpEthIpv4Packet { operation: ArpOperation::REPLY, target_mac: [9; 6], ..packet };
    assert_eq!(bytes, expected.to_bytes());
    bytes[4] = 8;
    let error = Arp::new_checked(&bytes[..]).unwrap_err();
    assert_eq!(error.to_string(), "Arp: it is not for IPv4 over Ethernet");
}

#[test]
fn tags() {
    let mut bytes = [0xe1, 0x23, 8, 0, 5];
    let mut tag = Vlan::new_checked(&mut bytes[..]).unwrap();
    assert_eq!(
        (tag.priority(), tag.id(), tag.ethertype(), tag.payload()),
        (7, 0x123, 0x800, &[5][..])
    );
    tag.set_id(0xf456);
    tag.payload_mut()[0] = 6;
    assert_eq!(bytes, [0xe4, 0x56, 8, 0, 6]);
}

#[test]
fn errors_say_what_is_wrong() {
    let frame = tcp(false, b"data");
    let error = |result: Result<_, Error>| match result {
        Ok(()) => panic!("no error"),
        Err(error) => error.to_string(),
    };
    let v4 = |change: (usize, u8), end: usize| {
        let mut bytes = frame[14..].to_vec();
        bytes[change.0] = change.1;
        error(Ipv4::new_checked(&bytes[..end]).map(|_| ()))
    };
    assert_eq!(v4((0, 0x45), 19), "Ipv4: 19 bytes where there should be 20");
    assert_eq!(v4((0, 0x45), 30), "Ipv4: 30 bytes where there should be 48");
    assert_eq!(v4((0, 0x55), 48), "Ipv4: the version is not 4");
    assert_eq!(v4((0, 0x44), 48), "Ipv4: the header is shorter than 20 bytes");
    assert_eq!(v4((3, 19), 48), "Ipv4: the total length is less than the header's");
    assert_eq!(
        error(Tcp::new_checked(&[0; 20]).map(|_| ())),
        "Tcp: the header is shorter than 20 bytes"
    );
    assert_eq!(
        error(Udp::new_checked(&[0; 8]).map(|_| ())),
        "Udp: the length is less than 8 bytes"
    );
    assert_eq!(error(Ipv6::new_checked(&[0; 40]).map(|_| ())), "Ipv6: the version is not 6");
}

proptest! {
    /// A view that was made can be read wholly.
    #[test]
    fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0..3) {
        if let (Some(first), 1..) = (bytes.first_mut(), version) {
            *first = if version == 1 { 0x40 | *first & 0xf } else { 0x60 };
        }
        if let Some(second) = bytes.get_mut(4..6) {
            second.copy_from_slice(&[0, second[1] % 80]);
        }
        if let Ok(ip) = Ipv4::new_checked(&mut bytes[..]) {
            let _ = (ip.options(), ip.payload(), ip.verify_checksum(), ip.pseudo_header());
        }
        if let Ok(ip) = Ipv6::new_checked(&bytes[..]) {
            let length = ip.payload().len() + 40;
            let mut extensions = ip.extensions();
            prop_assert!(extensions.by_ref().all(|e| e.offset + e.bytes.len() <= length));
            prop_assert!(extensions.position().1 <= length);
        }
        if let Ok(tcp) = Tcp::new_checked(&bytes[..]) {
            let _ = (tcp.options(), tcp.payload(), tcp.verify_checksum(0));
        }
        if let Ok(mut udp) = Udp::new_checked(&mut bytes[..]) {
            let _ = (udp.payload_mut().len(), udp.verify_checksum(0));
        }
        let _ = (Arp::new_checked(&bytes[..]), Vlan::new_checked(&bytes[..]), Ethernet::new_checked(&bytes[..]));
    }
}
