use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use weir_sdk::checksum;
use weir_sdk::testing::{Frame, Harness, Options, Outcome};

use super::*;
use crate::icmp::{BURST as ERRORS_BURST, BURST_OF_SOURCE};

const SECOND: u64 = 1_000_000_000;

const CONFIG: &str = r#"{
  "addresses": [
    {"ip": "10.0.0.1", "mac": "02:00:00:00:00:01", "port": "a"},
    {"ip": "192.0.2.1", "mac": "02:00:00:00:00:02", "port": "b"},
    {"ip": "2001:db8::1", "mac": "02:00:00:00:00:01", "port": "a"}],
  "hops": {
    "up": {"mac": "02:00:00:00:00:99", "source-mac": "02:00:00:00:00:02", "port": "b", "mtu": 1500},
    "core": {"mac": "02:00:00:00:00:98", "source-mac": "02:00:00:00:00:01"}},
  "table": [["198.51.0.0/16", "up"], ["198.51.100.0/24", "core"], ["2001:db8::/32", "up"],
            ["10.0.0.0/8", "core"], ["192.0.2.0/24", "up"]]}"#;

fn router() -> Harness<Router> {
    Harness::new(CONFIG).unwrap()
}

fn udp(to: [u8; 4], ttl: u8, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], to, ttl);
    step.udp(1000, 2000).write(&mut frame, &vec![7; payload]).unwrap();
    frame
}

fn udp6(to: &str, hops: u8, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let to: std::net::Ipv6Addr = to.parse().unwrap();
    let from: std::net::Ipv6Addr = "2001:db8:9::9".parse().unwrap();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.octets(), to.octets(), hops);
    step.udp(1000, 2000).write(&mut frame, &vec![7; payload]).unwrap();
    frame
}

fn checked_ttl(frame: &[u8]) -> u8 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    header.time_to_live
}

#[test]
fn the_longest_prefix_wins_and_ttl_goes_down() {
    let mut router = router();
    let up = router.run(udp([198, 51, 7, 7], 64, 20));
    assert_eq!(up.verdict, Verdict::Forward(1));
    assert_eq!(up.bytes[..12], [2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 2]);
    assert_eq!(checked_ttl(&up.bytes), 63);
    let core = router.run(udp([198, 51, 100, 7], 2, 20));
    assert_eq!((core.verdict, checked_ttl(&core.bytes)), (Verdict::Next, 1));
    let six = router.run(udp6("2001:db8:1::1", 64, 20));
    assert_eq!((six.verdict, six.bytes[21]), (Verdict::Forward(1), 63));
}

/// The ICMP (IPv4) error that the router sent: type, code, and what it quotes.
fn error(router: &mut Harness<Router>) -> (Icmpv4Type, Vec<u8>) {
    let sent = router.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].verdict, Verdict::Reply, "out where the packet came in");
    assert_eq!(checked_ttl(&sent[0].bytes), 64);
    assert_eq!(sent[0].bytes[26..34], [10, 0, 0, 1, 10, 9, 9, 9], "from the address on that port");
    let packet = SlicedPacket::from_ethernet(&sent[0].bytes).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
    (icmp.icmp_type(), icmp.payload().to_vec())
}

#[test]
fn senders_are_told_why_a_packet_does_not_go_on() {
    use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
    let mut router = router();
    let expired = udp([198, 51, 7, 7], 1, 20);
    assert_eq!(router.run(expired.clone()).verdict, Verdict::Drop(reason::EXPIRED));
    let told = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    assert_eq!(error(&mut router), (told, expired[14..].to_vec()));

    assert_eq!(router.run(udp([8, 8, 8, 8], 9, 20)).verdict, Verdict::Drop(reason::NO_ROUTE));
    let told = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);
    assert_eq!(error(&mut router).0, told);

    let mut big = udp([198, 51, 7, 7], 9, 1600);
    big[20] = 0x40;
    big[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum::internet(&big[14..34]);
    big[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(router.run(big).verdict, Verdict::Drop(reason::TOO_BIG));
    let (told, quoted) = error(&mut router);
    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1500 };
    assert_eq!((told, quoted.len()), (Icmpv4Type::DestinationUnreachable(needed), 548));
}

#[test]
fn the_same_for_ipv6() {
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    let mut router = router();
    for (frame, reason, told) in [
        (
            udp6("2001:db8:1::1", 1, 20),
            reason::EXPIRED,
            Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        ),
        (
            udp6("2002::1", 9, 20),
            reason::NO_ROUTE,
            Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute),
        ),
        (udp6("2001:db8:1::1", 9, 1600), reason::TOO_BIG, Icmpv6Type::PacketTooBig { mtu: 1500 }),
    ] {
        assert_eq!(router.run(frame.clone()).verdict, Verdict::Drop(reason));
        let sent = router.sent().remove(0);
        let packet = SlicedPacket::from_ethernet(&sent.bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMPv6") };
        let (from, to) = (ip.header().source(), ip.header().destination());
        assert!(icmp.is_checksum_valid(from, to));
        assert_eq!(icmp.icmp_type(), told);
        let quoted = icmp.payload();
        assert_eq!(quoted, &frame[14..14 + quoted.len()]);
        assert!(sent.bytes.len() <= 14 + 1280);
    }
}

#[test]
fn errors_are_limited_in_rate_and_never_about_errors() {
    let mut router = router();
    for _ in 0..200 {
        router.run(udp([8, 8, 8, 8], 9, 20));
    }
    assert_eq!(router.sent().len() as u64, BURST_OF_SOURCE);
    router.advance(SECOND / 10);
    router.run(udp([8, 8, 8, 8], 9, 20));
    assert_eq!(router.sent().len(), 1);
    let mut about = Vec::new();
    let kind = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], [8, 8, 8, 8], 9);
    step.icmpv4(kind).write(&mut about, &[0; 28]).unwrap();
    assert_eq!(router.run(about).verdict, Verdict::Drop(reason::NO_ROUTE));
    assert!(router.sent().is_empty());
}

/// Or nobody's connections get through a narrow link while somebody sends what expires.
#[test]
fn a_flood_of_what_expires_leaves_path_mtu_discovery_alone() {
    let mut router = router();
    let mut told = 0;
    for n in 0..1000 {
        router.advance(SECOND / 1000);
        for _ in 0..20 {
            router.run(udp([198, 51, 7, 7], 1, 20));
        }
        assert!(router.sent().len() <= 20);
        if n % 20 == 0 {
            router.run(udp6("2001:db8:1::1", 9, 1600));
            told += router.sent().len();
        }
    }
    assert_eq!(told, 50);
    // It has a limit, too.
    for _ in 0..200 {
        router.run(udp6("2001:db8:1::1", 9, 1600));
    }
    assert_eq!(router.sent().len() as u64, BURST_OF_SOURCE);
}

/// The same from somebody else, with right checksums.
fn from(mut frame: Vec<u8>, last: u8) -> Vec<u8> {
    frame[29] = last;
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// RFC 4443, section 2.4 (f): whether it floods with what expires, has no route or is too big.
#[test]
fn who_floods_takes_errors_from_nobody_else() {
    for (to, ttl, payload) in
        [([198, 51, 7, 7], 1, 20), ([8, 8, 8, 8], 9, 20), ([198, 51, 7, 7], 9, 1500)]
    {
        let mut router = router();
        let (mut told, mut flooder) = (0, 0);
        for n in 0..1000 {
            router.advance(SECOND / 1000);
            for _ in 0..20 {
                router.run(udp(to, ttl, payload));
            }
            flooder += router.sent().len();
            if n % 20 == 0 {
                router.run(from(udp(to, ttl, payload), 8));
                told += router.sent().len();
            }
        }
        assert_eq!(told, 50, "of 50");
        assert!((100..=110).contains(&flooder), "{flooder}");
    }
}

#[test]
fn all_together_have_a_limit() {
    let mut router = router();
    for last in 0..200 {
        router.run(from(udp([8, 8, 8, 8], 9, 20), last));
    }
    assert_eq!(router.sent().len() as u64, ERRORS_BURST);
    assert_eq!(router.counter("icmp_suppressed"), 200 - ERRORS_BURST);
    // An IPv6 sender has all addresses of its network.
    for last in 0..200 {
        let mut frame = udp6("2001:db8:1::1", 9, 1600);
        frame[37] = last;
        router.run(frame);
    }
    assert_eq!(router.sent().len() as u64, BURST_OF_SOURCE);
}

#[test]
fn errors_to_a_source_may_be_set() {
    let with = |keys: &str| CONFIG.replacen('{', &format!("{{{keys},"), 1);
    let text = Harness::<Router>::new(with("\"icmp-errors-per-source\": 0")).unwrap_err();
    assert!(text.contains("icmp-errors-per-source: 0; allowed are 1"), "{text}");
    let mut router: Harness<Router> = Harness::new(with("\"icmp-errors-per-source\": 2")).unwrap();
    for _ in 0..100 {
        router.run(udp([8, 8, 8, 8], 9, 20));
    }
    assert_eq!(router.sent().len() as u64, BURST_OF_SOURCE);
    router.advance(3 * SECOND);
    for _ in 0..100 {
        router.run(udp([8, 8, 8, 8], 9, 20));
    }
    assert_eq!(router.sent().len(), 6);
    let mut alone: Harness<Router> =
        Harness::new(with("\"icmp-errors-per-source\": 1000")).unwrap();
    for _ in 0..100 {
        alone.run(udp([8, 8, 8, 8], 9, 20));
    }
    assert_eq!(alone.sent().len() as u64, ERRORS_BURST);
    let mut silent: Harness<Router> = Harness::new(with("\"icmp-errors-per-second\": 0")).unwrap();
    silent.run(udp([8, 8, 8, 8], 9, 20));
    assert!(silent.sent().is_empty());
}

/// RFC 4443, section 3.2: a sender is told whatever it has behind IP's header.
#[test]
fn errors_do_not_depend_on_what_is_behind_the_ipv6_header() {
    let mut router = router();
    let mut wrong_length = udp6("2001:db8:1::1", 9, 1600);
    wrong_length[58..60].copy_from_slice(&[0xff, 0xff]);
    let mut extended = udp6("2001:db8:1::1", 9, 1600);
    extended[20] = 60;
    for n in 0..12 {
        extended[54 + n * 8..62 + n * 8].copy_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
    }
    let mut cut = udp6("2001:db8:1::1", 1, 20);
    cut.truncate(54 + 2);
    cut[18..20].copy_from_slice(&[0, 2]);
    for (frame, kind) in [(wrong_length, 2), (extended, 2), (cut, 3)] {
        router.run(frame.clone());
        let sent = router.sent();
        assert_eq!((sent.len(), sent[0].bytes[54]), (1, kind));
        let quoted = &sent[0].bytes[62..];
        assert_eq!(quoted, &frame[14..14 + quoted.len()]);
    }
    // Nothing about errors, though, also behind extension headers.
    let mut about = udp6("2001:db8:1::1", 1, 40);
    (about[20], about[54], about[55], about[62]) = (60, 58, 0, 3);
    about[56..62].copy_from_slice(&[1, 4, 0, 0, 0, 0]);
    router.run(about.clone());
    (about[20], about[54]) = (58, 3);
    router.run(about.clone());
    assert!(router.sent().is_empty());
    about[54] = 128;
    router.run(about);
    assert_eq!(router.sent().len(), 1);
}

#[test]
fn its_own_addresses_answer() {
    let mut router = router();
    let mut ping = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], [10, 0, 0, 1], 7);
    step.icmpv4_echo_request(5, 6).write(&mut ping, b"hello").unwrap();
    let Outcome { verdict, bytes, .. } = router.run(ping);
    assert_eq!((verdict, checked_ttl(&bytes)), (Verdict::Reply, 64));
    let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)));
    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());

    let mut arp = vec![0xff; 6];
    arp.extend_from_slice(&[4, 4, 4, 4, 4, 4, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend_from_slice(&[4, 4, 4, 4, 4, 4, 10, 9, 9, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let Outcome { verdict, bytes, .. } = router.run(arp);
    assert_eq!(verdict, Verdict::Reply);
    assert_eq!(bytes[..12], [4, 4, 4, 4, 4, 4, 2, 0, 0, 0, 0, 1]);
    assert_eq!(bytes[20..42], [0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 4, 4, 4, 4, 4, 4, 10, 9, 9, 9]);
    assert_eq!(router.run(udp([10, 0, 0, 1], 9, 20)).verdict, Verdict::ToKernel);

    let mut solicitation = Vec::new();
    let (from, to): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("fe80::9".parse().unwrap(), "ff02::1:ff00:1".parse().unwrap());
    let mut body = vec![0; 4];
    body.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    let step = PacketBuilder::ethernet2([4; 6], [0x33; 6]).ipv6(from.octets(), to.octets(), 255);
    step.icmpv6_raw(135, 0, [0; 4]).write(&mut solicitation, &body[4..]).unwrap();
    router.run(solicitation);
    let answer = router.sent().remove(0).bytes;
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
    let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    assert_eq!(
        (answer[54], ip.header().hop_limit(), ip.header().destination_addr()),
        (136, 255, from)
    );
}

/// Somebody is about to take our address (RFC 4862, section 5.4): all are told that it is taken.
#[test]
fn addresses_are_defended() {
    let mut router = router();
    let target: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let to: std::net::Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let mut probe = Vec::new();
    let step = PacketBuilder::ethernet2([4; 6], [0x33; 6]).ipv6([0; 16], to.octets(), 255);
    step.icmpv6_raw(135, 0, [0; 4]).write(&mut probe, &target.octets()).unwrap();
    assert_eq!(router.run(probe.clone()).verdict, Verdict::Drop(reason::ANSWERED));
    let answer = router.sent().remove(0).bytes;
    assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!((answer[54], answer[58]), (136, 0xa0), "not solicited");
    assert_eq!(answer[38..54], "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    probe[21] = 254;
    assert_eq!(router.run(probe.clone()).verdict, Verdict::Drop(reason::MALFORMED), "forwarded");
    assert!(router.sent().is_empty());
}

#[test]
fn what_must_not_be_forwarded_is_not() {
    let mut router = router();
    for to in [[224, 0, 0, 1], [255, 255, 255, 255], [127, 0, 0, 1], [169, 254, 1, 1]] {
        let verdict = router.run(udp(to, 9, 20)).verdict;
        assert_eq!(verdict, Verdict::Drop(reason::MARTIAN), "{to:?}");
    }
    let mut wrong = udp([198, 51, 7, 7], 9, 20);
    wrong[24] ^= 1;
    assert_eq!(router.run(wrong).verdict, Verdict::Drop(reason::MALFORMED));
    assert_eq!(router.run(vec![0; 60]).verdict, Verdict::Drop(reason::NOT_IP));
    assert_eq!(router.run(udp6("ff02::5", 9, 20)).verdict, Verdict::Drop(reason::MARTIAN));
    assert!(router.sent().is_empty());
    // What comes from a link must stay there, and its sender may know (RFC 4443, section 3.1, code
    // 2).
    let mut near = udp6("2001:db8:1::1", 9, 20);
    near[22..24].copy_from_slice(&[0xfe, 0x80]);
    assert_eq!(router.run(near).verdict, Verdict::Drop(reason::MARTIAN));
    assert_eq!(router.sent().remove(0).bytes[54..56], [1, 2]);
}

/// 100,000 IPv4 and 50,000 IPv6 prefixes.
#[test]
fn a_full_table_is_compiled_and_right() {
    let mut table = Vec::new();
    let mut random = 1u64;
    let mut next = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 16
    };
    for n in 0..150_000 {
        let length = 12 + next() % 13;
        let prefix = if n % 3 < 2 {
            let address = (next() as u32) & (u32::MAX << (32 - length));
            format!("{}/{length}", std::net::Ipv4Addr::from(address))
        } else {
            let address = u128::from(next() << 16 | next()) << 64 & (u128::MAX << (104 - length));
            format!("{}/{}", std::net::Ipv6Addr::from(address), 24 + length)
        };
        table.push(format!("[\"{prefix}\",\"up\"]"));
    }
    let config = CONFIG.replace("\"table\": [", &format!("\"table\": [{},", table.join(",")));
    let mut router = Harness::<Router>::new(config).unwrap();
    assert_eq!(router.run(udp([198, 51, 100, 7], 2, 20)).verdict, Verdict::Next);
    assert_eq!(router.run(udp6("2001:db8:1::1", 64, 20)).verdict, Verdict::Forward(1));
}

#[test]
fn neighbours_give_hops_their_mac_and_port() {
    let mut router = Harness::<Router>::new(r#"{
        "addresses": [{"ip": "10.0.0.1", "mac": "02:00:00:00:00:01", "port": "a"},
                      {"ip": "192.0.2.1", "mac": "02:00:00:00:00:02", "port": "b"}],
        "neighbours": [{"ip": "192.0.2.9", "mac": "02:00:00:00:00:99", "port": "b"}],
        "routes": [{"prefix": "198.51.0.0/16", "next-hop": "192.0.2.9"},
                   {"prefix": "203.0.113.0/24", "via": "192.0.2.9", "port": "a", "mac": "02:00:00:00:00:77"},
                   {"prefix": "192.0.2.0/24", "port": "b", "mac": "02:00:00:00:00:66"}]}"#)
    .unwrap();
    for (to, port, macs) in [
        ([198, 51, 7, 7], 1, [2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 2]),
        ([192, 0, 2, 9], 1, [2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 2]),
        ([192, 0, 2, 8], 1, [2, 0, 0, 0, 0, 0x66, 2, 0, 0, 0, 0, 2]),
        ([203, 0, 113, 7], 0, [2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 1]),
    ] {
        let out = router.run(udp(to, 9, 20));
        assert_eq!((out.verdict, &out.bytes[..12]), (Verdict::Forward(port), &macs[..]), "{to:?}");
    }
    assert_eq!(router.run(udp([192, 0, 2, 1], 9, 20)).verdict, Verdict::ToKernel);
}

#[test]
fn tags_stay_and_lead_errors_back() {
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 42], &frame[12..]].concat();
    let mut router = router();
    let forwarded = router.run(tagged(udp([198, 51, 7, 7], 64, 20)));
    assert_eq!(
        (forwarded.verdict, &forwarded.bytes[12..18]),
        (Verdict::Forward(1), &[0x81, 0, 0, 42, 8, 0][..])
    );
    assert_eq!(checked_ttl(&forwarded.bytes), 63);
    let expired = tagged(udp([198, 51, 7, 7], 1, 20));
    assert_eq!(router.run(expired.clone()).verdict, Verdict::Drop(reason::EXPIRED));
    let told = router.sent().remove(0).bytes;
    assert_eq!((&told[..6], &told[12..16]), (&expired[6..12], &expired[12..16]));
    assert_eq!(checked_ttl(&told), 64);
    let packet = SlicedPacket::from_ethernet(&told).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
    assert_eq!(
        (icmp.icmp_type().calc_checksum(icmp.payload()), icmp.payload()),
        (icmp.checksum(), &expired[18..])
    );
}

#[test]
fn nobody_is_told_about_what_many_got_or_a_function_made() {
    let mut router = router();
    let mut broadcast = udp([8, 8, 8, 8], 9, 20);
    broadcast[..6].fill(0xff);
    assert_eq!(router.run(broadcast).verdict, Verdict::Drop(reason::MARTIAN));
    let mut later = udp([8, 8, 8, 8], 9, 20);
    later[21] = 7;
    later[24..26].fill(0);
    let sum = checksum::internet(&later[14..34]);
    later[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(router.run(later).verdict, Verdict::Drop(reason::NO_ROUTE));
    let made = Frame::new(udp([8, 8, 8, 8], 9, 20)).made();
    assert_eq!(router.run(made).verdict, Verdict::Drop(reason::NO_ROUTE));
    assert!(router.sent().is_empty());
    router.run(udp([8, 8, 8, 8], 9, 20));
    assert_eq!(router.sent().len(), 1);
}

#[test]
fn mistakes_are_named() {
    let refused =
        |from: &str, to: &str| Harness::<Router>::new(CONFIG.replacen(from, to, 1)).unwrap_err();
    for (from, to, error) in [
        (
            "198.51.0.0/16",
            "198.51.0.0/33",
            "table[0]: \"198.51.0.0/33\" is no prefix: its length is 0 to 32",
        ),
        (
            "198.51.0.0/16",
            "198.51.0.0/15",
            "table[0]: \"198.51.0.0/15\" has bits set behind its length: use \"198.50.0.0/15\"",
        ),
        ("\"core\"]", "\"nowhere\"]", "there is no hop \"nowhere\""),
        (
            "\"port\": \"b\", \"mtu\"",
            "\"port\": \"z\", \"mtu\"",
            "hops.up: port: no port is named `z`",
        ),
        ("02:00:00:00:00:99", "02:00", "hops.up: \"02:00\" is no MAC"),
        ("02:00:00:00:00:99", "+2:00:00:00:00:99", "hops.up: \"+2:00:00:00:00:99\" is no MAC"),
        (
            "02:00:00:00:00:99",
            "ff:ff:ff:ff:ff:ff",
            "hops.up: \"ff:ff:ff:ff:ff:ff\" is the MAC of a",
        ),
        ("1500", "67", "hops.up: mtu: 67; allowed are 68"),
        ("1500", "1279", "table[2]: the hop's mtu is 1279; IPv6 needs 1280"),
        ("\"mac\": \"02:00:00:00:00:98\", ", "", "hops.core: mac: needed"),
        (
            "\"mac\": \"02:00:00:00:00:98\"",
            "\"via\": \"10.0.0.9\"",
            "hops.core: via: 10.0.0.9 is not among neighbours",
        ),
        (
            "\"mac\": \"02:00:00:00:00:98\"",
            "\"via\": \"10.0.0.9\", \"mac\": \"02:00:00:00:00:98\"",
            "hops.core: via: 10.0.0.9 is not among neighbours, which would give the port",
        ),
    ] {
        let text = refused(from, to);
        assert!(text.contains(error), "{text}");
    }
}

/// What leaves is right whatever came in: forwarded packets differ from theirs by MACs, TTL and
/// checksum only.
fn check(router: &mut Harness<Router>, frame: &[u8]) {
    let Outcome { verdict, bytes, .. } = router.run(Frame::new(frame));
    router.sent();
    if matches!(verdict, Verdict::Forward(_) | Verdict::Next) {
        let l3 = 14 + 4 * usize::from(frame[12] == 0x81);
        let mut expected = frame.to_vec();
        if expected[l3] >> 4 == 4 {
            expected[l3 + 8] -= 1;
            let end = l3 + usize::from(expected[l3] & 0xf) * 4;
            expected[l3 + 10..l3 + 12].fill(0);
            let sum = checksum::internet(&expected[l3..end]);
            expected[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            expected[l3 + 7] -= 1;
        }
        assert_eq!(bytes[12..], expected[12..]);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..100), at in 12usize..60, kind in 0usize..4, mend: bool,
    ) {
        thread_local!(static ROUTER: std::cell::RefCell<Harness<Router>> = std::cell::RefCell::new(
            Harness::with(Options { rooms: 8, ..Options::default() }, CONFIG).unwrap()));
        let tagged = udp([10, 0, 0, 1], 9, 40);
        let tagged = [&tagged[..12], &[0x81, 0, 0, 42], &tagged[12..]].concat();
        let frames = [udp([198, 51, 7, 7], 9, 40), udp6("2001:db8::7", 9, 40), vec![0; 80], tagged];
        let mut frame = frames[kind].clone();
        for (at, byte) in frame[at..].iter_mut().zip(&bytes) {
            *at ^= byte & bytes[0];
        }
        let ends = 14 + usize::from(frame[14] & 0xf) * 4;
        if mend && frame[12..14] == [8, 0] && (34..=frame.len()).contains(&ends) {
            frame[24..26].fill(0);
            let sum = checksum::internet(&frame[14..ends]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        ROUTER.with_borrow_mut(|router| {
            check(router, &frame);
            check(router, &bytes);
        });
    }
}
