use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use weir_sdk::testing::frames::{End, ipv4, tagged, tcp};
use weir_sdk::testing::{Frame, Harness, Options};

use super::*;

const CLIENT: [u8; 4] = [192, 0, 2, 9];
const VIP: [u8; 4] = [198, 51, 100, 1];

fn config(backends: &str) -> String {
    format!(
        r#"{{"table": 4099, "services": [
            {{"vip": "198.51.100.1", "proto": "tcp", "port": 80, "backends": [{backends}]}},
            {{"vip": "2001:db8::1", "proto": "udp", "backends": [
                {{"ip": "2001:db8::a"}}, {{"ip": "2001:db8::b"}}]}}]}}"#
    )
}

const THREE: &str = r#"{"ip": "10.0.0.1", "port": 8080}, {"ip": "10.0.0.2", "port": 8080}, {"ip": "10.0.0.3", "port": 8080}"#;

fn balancer(backends: &str) -> Harness<LoadBalancer> {
    Harness::with(Options { state_bytes: 16 << 20, ..Options::default() }, config(backends))
        .unwrap()
}

/// A segment in the midst of a connection.
fn data(from: End, to: End) -> Vec<u8> {
    tcp(from, to, "A")
}

/// Opens a connection; the backend that it has.
fn connect(balancer: &mut Harness<LoadBalancer>, port: u16) -> ([u8; 4], u16) {
    let backend = ends(&balancer.run(tcp((CLIENT, port), (VIP, 80), "S")).bytes).1;
    let answer = tcp(backend, (CLIENT, port), "SA");
    assert_eq!(ends(&balancer.run(Frame::new(answer).reverse()).bytes).0, (VIP, 80));
    assert_eq!(ends(&balancer.run(tcp((CLIENT, port), (VIP, 80), "A")).bytes).1, backend);
    backend
}

/// Lets so many seconds pass, and sweeps.
fn wait(balancer: &mut Harness<LoadBalancer>, seconds: u64) {
    balancer.advance(seconds * 1_000_000_000);
    for _ in 0..6000 {
        balancer.advance(1_000_000);
        balancer.run(vec![0; 60]);
    }
}

/// Addresses and ports, after etherparse has verified the checksums.
fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
    let transport = tcp.to_header();
    let sum = transport.calc_checksum_ipv4(&header, tcp.payload()).unwrap();
    assert_eq!(sum, transport.checksum);
    ((header.source, transport.source_port), (header.destination, transport.destination_port))
}

#[test]
fn a_connection_goes_to_one_backend_and_answers_come_from_the_vip() {
    let mut balancer = balancer(THREE);
    let mut used = std::collections::BTreeSet::new();
    for port in 1000..1100 {
        let first = balancer.run(data((CLIENT, port), (VIP, 80)));
        let (from, backend) = ends(&first.bytes);
        assert_eq!((from, backend.1), ((CLIENT, port), 8080));
        let again = balancer.run(data((CLIENT, port), (VIP, 80)));
        assert_eq!(ends(&again.bytes).1, backend);
        let answer = balancer.run(Frame::new(data(backend, (CLIENT, port))).reverse());
        assert_eq!(ends(&answer.bytes), ((VIP, 80), (CLIENT, port)));
        used.insert(backend);
    }
    assert_eq!(used.len(), 3);
    assert_eq!((balancer.counter("forwarded"), balancer.counter("returned")), (200, 100));
}

#[test]
fn connections_stay_when_the_set_changes_and_only_those_of_a_lost_backend_move() {
    let mut balancer = balancer(THREE);
    let before: Vec<_> = (1000..1200)
        .map(|port| ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes).1)
        .collect();
    let four = format!(r#"{{"ip": "10.0.0.4", "port": 8080}}, {THREE}"#);
    assert!(balancer.swap(config(&four)).unwrap());
    for (n, port) in (1000..1200).enumerate() {
        assert_eq!(ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes).1, before[n]);
    }
    let sick = THREE.replacen("8080", r#"8080, "healthy": false"#, 1);
    assert!(balancer.swap(config(&sick)).unwrap());
    for (n, port) in (1000..1200).enumerate() {
        let now = ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes).1;
        if before[n].0 == [10, 0, 0, 1] {
            assert_ne!(now.0, [10, 0, 0, 1]);
        } else {
            assert_eq!(now, before[n]);
        }
    }
}

#[test]
fn a_backend_without_weight_keeps_what_it_has_and_gets_nothing_new() {
    let mut balancer = balancer(THREE);
    let open = |balancer: &mut Harness<LoadBalancer>, ports: std::ops::Range<u16>| {
        ports.map(|port| ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes).1).collect()
    };
    let before: Vec<_> = open(&mut balancer, 1000..1100);
    assert!(before.contains(&([10, 0, 0, 1], 8080)));
    let drained = THREE.replacen("8080", r#"8080, "weight": 0"#, 1);
    assert!(balancer.swap(config(&drained)).unwrap());
    assert_eq!(open(&mut balancer, 1000..1100), before);
    assert!(!open(&mut balancer, 2000..2100).contains(&([10, 0, 0, 1], 8080)));
    let all = THREE.replace("8080", r#"8080, "weight": 0"#);
    assert!(balancer.swap(config(&all)).unwrap());
    assert_eq!(open(&mut balancer, 1000..1100), before);
    let new = balancer.run(data((CLIENT, 3000), (VIP, 80)));
    assert_eq!(new.verdict, Verdict::Drop(reason::NO_BACKEND));
}

#[test]
fn without_a_healthy_backend_packets_are_dropped_and_others_pass() {
    let mut balancer = balancer(r#"{"ip": "10.0.0.1", "healthy": false}"#);
    let dropped = balancer.run(data((CLIENT, 1), (VIP, 80)));
    assert_eq!(dropped.verdict, Verdict::Drop(reason::NO_BACKEND));
    for other in [data((CLIENT, 1), (VIP, 81)), data((CLIENT, 1), ([8, 8, 8, 8], 80)), vec![0; 20]]
    {
        let passed = balancer.run(other.clone());
        assert_eq!((passed.verdict, passed.bytes), (Verdict::Next, other));
    }
}

#[test]
fn ipv6_and_any_port() {
    let mut balancer = balancer(THREE);
    let vip: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    for port in 1..50u16 {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([7; 16], vip.octets(), 64);
        step.udp(5000, port).write(&mut frame, b"data").unwrap();
        let sent = balancer.run(frame).bytes;
        let packet = SlicedPacket::from_ethernet(&sent).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
        let backend = ip.header().destination_addr();
        assert!(backend.to_string().starts_with("2001:db8::") && backend != vip);
        let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP") };
        let header = udp.to_header();
        assert_eq!(header.destination_port, port);
        let sum = header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap();
        assert_eq!(sum, header.checksum);
    }
}

#[test]
fn l2_mode_changes_the_mac_alone() {
    let config = r#"{"table": 7, "services": [{"vip": "198.51.100.1", "proto": "tcp", "port": 80, "mode": "l2",
        "backends": [{"ip": "10.0.0.1", "mac": "aa:bb:cc:dd:ee:ff"}]}]}"#;
    let mut balancer = Harness::<LoadBalancer>::with(
        Options { state_bytes: 16 << 20, ..Options::default() },
        config,
    )
    .unwrap();
    let frame = data((CLIENT, 1), (VIP, 80));
    let sent = balancer.run(frame.clone()).bytes;
    assert_eq!((&sent[..6], &sent[6..]), (&[0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff][..], &frame[6..]));
}

#[test]
fn an_icmp_error_follows_its_connection() {
    let mut balancer = balancer(THREE);
    let (_, backend) = ends(&balancer.run(data((CLIENT, 1000), (VIP, 80))).bytes);
    let answer = balancer.run(Frame::new(data(backend, (CLIENT, 1000))).reverse()).bytes;
    // The network says that the answer, which came from the VIP, was too big.
    let mut error = Vec::new();
    let kind = Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
    );
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], VIP, 64);
    step.icmpv4(kind).write(&mut error, &answer[14..]).unwrap();
    let sent = balancer.run(error).bytes;
    assert_eq!(sent[30..34], backend.0);
    let packet = SlicedPacket::from_ethernet(&sent).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
    let mut quoted = vec![0; 14];
    quoted[12] = 8;
    quoted.extend_from_slice(icmp.payload());
    assert_eq!(ends(&quoted), (backend, (CLIENT, 1000)), "the packet as the backend sent it");
}

#[test]
fn a_redirect_is_left_alone() {
    let mut balancer = balancer(THREE);
    balancer.run(data((CLIENT, 1000), (VIP, 80)));
    let mut redirect = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], VIP, 64);
    let kind = Icmpv4Type::Unknown { type_u8: 5, code_u8: 1, bytes5to8: [192, 0, 2, 66] };
    step.icmpv4(kind).write(&mut redirect, &data((VIP, 80), (CLIENT, 1000))[14..42]).unwrap();
    let passed = balancer.run(redirect.clone());
    assert_eq!((passed.verdict, passed.bytes), (Verdict::Next, redirect));
}

/// ICMPv6's checksum covers the addresses too.
#[test]
fn an_icmpv6_error_follows_its_connection() {
    let mut balancer = balancer(THREE);
    let [vip, client, router] = ["2001:db8::1", "2001:db8:9::9", "2001:db8:9::1"]
        .map(|a| a.parse::<std::net::Ipv6Addr>().unwrap());
    let udp = |from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, ports: (u16, u16)| {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.octets(), to.octets(), 64);
        step.udp(ports.0, ports.1).write(&mut frame, b"data").unwrap();
        frame
    };
    let sent = balancer.run(udp(client, vip, (7, 53))).bytes;
    let backend = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&sent[38..54]).unwrap());
    let answer = balancer.run(Frame::new(udp(backend, client, (53, 7))).reverse()).bytes;
    assert_eq!(answer[22..38], vip.octets());
    let mut error = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(router.octets(), vip.octets(), 64);
    let kind = etherparse::Icmpv6Type::PacketTooBig { mtu: 1280 };
    step.icmpv6(kind).write(&mut error, &answer[14..]).unwrap();
    let sent = balancer.run(error).bytes;
    let packet = SlicedPacket::from_ethernet(&sent).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
    let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMPv6") };
    assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (router, backend));
    assert!(icmp.is_checksum_valid(router.octets(), backend.octets()));
    assert_eq!(
        icmp.payload(),
        &udp(backend, client, (53, 7))[14..],
        "the packet as the backend sent it"
    );
}

#[test]
fn an_icmp_error_from_between_balancer_and_backend_comes_from_the_vip() {
    let mut balancer = balancer(THREE);
    let sent = balancer.run(data((CLIENT, 1000), (VIP, 80))).bytes;
    // A router on the way to the backend says that the client's packet was too big.
    let mut error = Vec::new();
    let kind = Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
    );
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], CLIENT, 64);
    step.icmpv4(kind).write(&mut error, &sent[14..]).unwrap();
    let told = balancer.run(Frame::new(error).reverse()).bytes;
    assert_eq!(told[26..34], [VIP, CLIENT].concat());
    assert_eq!(weir_sdk::checksum::internet(&told[14..34]), 0);
    assert_eq!(weir_sdk::checksum::internet(&told[34..]), 0);
    let quoted = [&[0; 12][..], &[8, 0], &told[42..]].concat();
    assert_eq!(ends(&quoted), ((CLIENT, 1000), (VIP, 80)), "the packet as the client sent it");
}

/// Nobody has to have a connection for that: another balancer may have had it.
#[test]
fn an_icmp_error_without_a_connection_goes_where_the_connection_would() {
    let mut first = balancer(THREE);
    let mut second = balancer(THREE);
    for port in 1000..1020 {
        let (_, backend) = ends(&first.run(data((CLIENT, port), (VIP, 80))).bytes);
        let mut error = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], VIP, 64);
        let kind =
            Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
        step.icmpv4(kind).write(&mut error, &data((VIP, 80), (CLIENT, port))[14..42]).unwrap();
        assert_eq!(second.run(error).bytes[30..34], backend.0);
    }
    assert_eq!(second.counter("connections_opened"), 0);
}

#[test]
fn when_the_table_is_full_maglev_alone_serves_both_directions() {
    let small = config(THREE).replace("\"table\"", "\"max-connections\": 64, \"table\"");
    let mut balancer = Harness::<LoadBalancer>::new(small).unwrap();
    for port in 1000..3000 {
        let (_, backend) = ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes);
        let (_, again) = ends(&balancer.run(data((CLIENT, port), (VIP, 80))).bytes);
        assert_eq!(again, backend);
        let answer = balancer.run(Frame::new(data(backend, (CLIENT, port))).reverse()).bytes;
        assert_eq!(ends(&answer), ((VIP, 80), (CLIENT, port)));
    }
    assert!(balancer.counter("untracked") > 1000);
    assert!(balancer.gauge("connections").unwrap() <= 120.0);
    // Idle ones make room.
    balancer.advance(7_441_000_000_000);
    let before = balancer.counter("connections_opened");
    balancer.run(data((CLIENT, 5000), (VIP, 80)));
    assert_eq!(balancer.counter("connections_opened"), before + 1);
}

#[test]
fn what_clients_have_with_backends_themselves_passes() {
    let mut balancer = balancer(THREE);
    let backend = ([10, 0, 0, 1], 8080);
    for port in 1000..1020 {
        for (flags, reverse) in [("S", false), ("SA", true), ("A", false), ("A", true)] {
            let (from, to) = ((CLIENT, port), backend);
            let (from, to) = if reverse { (to, from) } else { (from, to) };
            let frame = Frame::new(tcp(from, to, flags));
            let sent = balancer.run(if reverse { frame.reverse() } else { frame });
            assert_eq!(sent.verdict, Verdict::Next);
            assert_eq!(ends(&sent.bytes), (from, to), "not by way of the VIP");
        }
    }
    let other = data(([10, 0, 0, 1], 22), (CLIENT, 1000));
    assert_eq!(balancer.run(Frame::new(other.clone()).reverse()).bytes, other);
}

#[test]
fn what_a_backend_opens_itself_from_its_port_passes() {
    let mut balancer = balancer(THREE);
    let backend = ([10, 0, 0, 1], 8080);
    for port in 1000..1020 {
        let peer = (CLIENT, port);
        for (flags, out) in [("S", true), ("SA", false), ("A", true), ("A", false), ("A", true)] {
            let (from, to) = if out { (backend, peer) } else { (peer, backend) };
            let frame = Frame::new(tcp(from, to, flags));
            let sent = balancer.run(if out { frame.reverse() } else { frame });
            assert_eq!((sent.verdict, ends(&sent.bytes)), (Verdict::Next, (from, to)));
        }
    }
}

/// RFC 5382, REQ-5; and behind that it is not the private address that leaves.
#[test]
fn a_backend_that_speaks_after_a_long_silence_does_so_from_the_vip() {
    for silence in [7000, 8000] {
        let mut balancer = balancer(THREE);
        for port in 1000..1020 {
            let backend = connect(&mut balancer, port);
            wait(&mut balancer, silence);
            let pushed = balancer.run(Frame::new(tcp(backend, (CLIENT, port), "A")).reverse());
            assert_eq!(ends(&pushed.bytes), ((VIP, 80), (CLIENT, port)));
        }
    }
    let mut balancer = balancer(THREE);
    let mut dropped = 0;
    for port in 1000..1100 {
        let unknown = tcp(([10, 0, 0, 1], 8080), (CLIENT, port), "A");
        let sent = balancer.run(Frame::new(unknown).reverse());
        match sent.verdict {
            Verdict::Drop(reason::NO_CONNECTION) => dropped += 1,
            _ => assert_eq!(ends(&sent.bytes).0, (VIP, 80)),
        }
    }
    assert!((40..90).contains(&dropped), "two thirds are for the others: {dropped}");
}

/// Of a service of every port, most of what leaves its backends is their own.
#[test]
fn own_datagrams_of_backends_pass() {
    let mut balancer = balancer(THREE);
    let [client, backend] =
        ["2001:db8:9::9", "2001:db8::a"].map(|a| a.parse::<std::net::Ipv6Addr>().unwrap());
    for port in 1000..1020 {
        let mut frame = Vec::new();
        let step =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(backend.octets(), client.octets(), 64);
        step.udp(port, 53).write(&mut frame, b"query").unwrap();
        let sent = balancer.run(Frame::new(frame.clone()).reverse());
        assert_eq!((sent.verdict, sent.bytes), (Verdict::Next, frame));
    }
}

#[test]
fn half_open_connections_make_room() {
    let small = config(THREE).replace("\"table\"", "\"max-connections\": 64, \"table\"");
    let mut balancer = Harness::<LoadBalancer>::new(small).unwrap();
    // Each request twice, and the backends answer.
    for port in 1000..1500 {
        for _ in 0..2 {
            let syn = tcp((CLIENT, port), (VIP, 80), "S");
            let backend = ends(&balancer.run(syn).bytes).1;
            let answer = tcp(backend, (CLIENT, port), "SA");
            balancer.run(Frame::new(answer).reverse());
        }
    }
    for port in 2000..2040 {
        connect(&mut balancer, port);
    }
    assert_eq!(balancer.counter("untracked"), 0);
    assert!(balancer.counter("given_up") > 300);
    // And go by themselves, while those under way stay.
    wait(&mut balancer, 31);
    assert_eq!(balancer.gauge("connections"), Some(40.0));
}

#[test]
fn ended_connections_are_forgotten_early_and_a_lone_reset_ends_none() {
    let mut balancer = balancer(THREE);
    let backend = connect(&mut balancer, 1000);
    balancer.run(Frame::new(tcp(backend, (CLIENT, 1000), "FA")).reverse());
    balancer.run(tcp((CLIENT, 1000), (VIP, 80), "A"));
    connect(&mut balancer, 1001);
    balancer.run(tcp((CLIENT, 1001), (VIP, 80), "R"));
    connect(&mut balancer, 1002);
    balancer.run(tcp((CLIENT, 1002), (VIP, 80), "R"));
    balancer.run(tcp((CLIENT, 1002), (VIP, 80), "A"));
    wait(&mut balancer, 200);
    assert_eq!(balancer.gauge("connections"), Some(3.0));
    wait(&mut balancer, 41);
    assert_eq!(balancer.gauge("connections"), Some(1.0));
    connect(&mut balancer, 1000);
    wait(&mut balancer, 300);
    assert_eq!(balancer.gauge("connections"), Some(2.0), "the ports were used again");
}

/// Nobody sees answers of `mode = "l2"`.
#[test]
fn with_l2_the_client_alone_tells_a_connection() {
    let config = r#"{"table": 7, "services": [{"vip": "198.51.100.1", "proto": "tcp", "port": 80, "mode": "l2",
        "backends": [{"ip": "10.0.0.1", "mac": "aa:bb:cc:dd:ee:ff"}]}]}"#;
    let options = Options { state_bytes: 16 << 20, ..Options::default() };
    let mut balancer = Harness::<LoadBalancer>::with(options, config).unwrap();
    for (port, flags) in [(1000, "S"), (1000, "A"), (1001, "S"), (1001, "S")] {
        balancer.run(tcp((CLIENT, port), (VIP, 80), flags));
    }
    wait(&mut balancer, 31);
    assert_eq!(balancer.gauge("connections"), Some(1.0));
    wait(&mut balancer, 7000);
    assert_eq!(balancer.gauge("connections"), Some(1.0));
}

#[test]
fn one_backend_may_serve_two_addresses() {
    let config = r#"{"table": 7, "services": [
        {"vip": "198.51.100.1", "proto": "tcp", "port": 80, "backends": [{"ip": "10.0.0.1", "port": 8080}]},
        {"vip": "198.51.100.2", "proto": "tcp", "port": 80, "backends": [{"ip": "10.0.0.1", "port": 8080}]}]}"#;
    let mut balancer = Harness::<LoadBalancer>::with(
        Options { state_bytes: 16 << 20, ..Options::default() },
        config,
    )
    .unwrap();
    for (last, port) in [(1, 1000), (2, 1001), (1, 1002)] {
        let vip = [198, 51, 100, last];
        assert_eq!(
            ends(&balancer.run(data((CLIENT, port), (vip, 80))).bytes).1,
            ([10, 0, 0, 1], 8080)
        );
        let answer = Frame::new(data(([10, 0, 0, 1], 8080), (CLIENT, port))).reverse();
        assert_eq!(ends(&balancer.run(answer).bytes).0, (vip, 80));
    }
}

#[test]
fn idle_connections_end() {
    let mut balancer = balancer(THREE);
    connect(&mut balancer, 1000);
    for _ in 0..2 {
        balancer.run(data((CLIENT, 1001), (VIP, 80)));
    }
    assert_eq!(balancer.gauge("connections"), Some(2.0));
    wait(&mut balancer, 60);
    assert_eq!(balancer.gauge("connections"), Some(1.0), "packets of one side are none");
    wait(&mut balancer, 7440);
    assert_eq!(balancer.gauge("connections"), Some(0.0));
}

#[test]
fn impossible_configurations_are_explained() {
    let refused = |config: &str| Harness::<LoadBalancer>::new(config).unwrap_err();
    assert!(refused(r#"{"table": 100, "services": []}"#).contains("100 is no prime"));
    let few = config(THREE).replace("\"table\": 4099", "\"table\": 2");
    assert!(refused(&few).contains("services[0]: backends: 3 are more than the table's 2"));
    assert!(refused(r#"{"services": []}"#).contains("services: 0; allowed are 1 to 256"));
    let mixed =
        r#"{"services": [{"vip": "1.2.3.4", "proto": "tcp", "backends": [{"ip": "::1"}]}]}"#;
    assert_eq!(
        refused(mixed),
        "config: services[0]: backends[0]: ip: ::1 is not of the vip's version of IP"
    );
    let l2 = r#"{"services": [{"vip": "1.2.3.4", "proto": "tcp", "mode": "l2", "backends": [{"ip": "1.1.1.1"}]}]}"#;
    assert!(refused(l2).contains("mac: needed"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..90), at in 0usize..90, reverse: bool) {
        thread_local!(static BALANCER: std::cell::RefCell<Harness<LoadBalancer>> = std::cell::RefCell::new(balancer(THREE)));
        let mut frame = data((CLIENT, 1), (VIP, 80));
        for (n, byte) in bytes.iter().enumerate() {
            let len = frame.len();
            frame[(at + n) % len] ^= byte;
        }
        for frame in [Frame::new(frame), Frame::new(bytes)] {
            let frame = if reverse { frame.reverse() } else { frame };
            BALANCER.with_borrow_mut(|balancer| balancer.run(frame));
        }
    }
}

/// A client of the same address in another VLAN is another client, which keeps its backend by
/// itself.
#[test]
fn connections_are_told_apart_by_their_vlans() {
    let vlans: [&[u16]; 4] = [&[10], &[11], &[100, 10], &[100, 11]];
    let (client, service) = ((CLIENT, 1000), (VIP, 80));
    // The first one's backend is drained: only who is known stays with it.
    let mut balancer = balancer(THREE);
    let sent = balancer.run(tagged(&tcp(client, service, "S"), vlans[0])).bytes;
    let (_, backend) = ends(&sent);
    let answer = tagged(&tcp(backend, client, "SA"), vlans[0]);
    let answered = balancer.run(Frame::new(answer).reverse()).bytes;
    assert_eq!((ends(&answered).0, &answered[12..16]), (service, &[0x81, 0, 0, 10][..]));
    balancer.run(tagged(&tcp(client, service, "A"), vlans[0]));
    let ip = format!("\"10.0.0.{}\"", backend.0[3]);
    let drained = THREE.replace(&ip, &format!("{ip}, \"weight\": 0"));
    assert!(balancer.swap(config(&drained)).unwrap());
    for vlans in vlans {
        let sent = balancer.run(tagged(&tcp(client, service, "A"), vlans)).bytes;
        assert_eq!(ends(&sent).1 == backend, vlans == [10], "{vlans:?}");
        assert_eq!(sent[12..12 + vlans.len() * 4], tagged(&[0; 12], vlans)[12..]);
    }
    // An error about one of them goes where that one's packets go.
    let quoted = tcp(service, client, "A");
    for vlans in vlans {
        let message = [&[3, 1, 0, 0, 0, 0, 0, 0], &quoted[14..42]].concat();
        let error = ipv4(1, [192, 0, 2, 77], VIP, &message);
        let sent = balancer.run(tagged(&error, vlans)).bytes;
        let to = [sent[30 + vlans.len() * 4], sent[33 + vlans.len() * 4]];
        assert_eq!(to == [backend.0[0], backend.0[3]], vlans == [10], "{vlans:?}");
    }
}
