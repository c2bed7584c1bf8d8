//! Scenarios, with packets built and checksums verified by etherparse.

use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use weir_sdk::testing::frames::{tagged, tcp, udp};
use weir_sdk::testing::{Frame, Harness, Options, Outcome};

use super::*;

mod vlans;

const INSIDE: [u8; 4] = [10, 0, 0, 2];
const OTHER: [u8; 4] = [10, 0, 0, 3];
const PEER: [u8; 4] = [198, 51, 100, 7];
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
/// The first of many peers.
const PEER_BASE: u32 = 0x0808_0000;

fn nat(config: &str) -> Harness<Nat> {
    let config = format!("{{\"external\": [\"203.0.113.1\"]{config}}}");
    let options = Options { state_bytes: 8 << 20, ..Options::default() };
    Harness::with(options, config).unwrap()
}

fn icmp(from: [u8; 4], to: [u8; 4], kind: Icmpv4Type, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from, to, 64)
        .icmpv4(kind)
        .write(&mut frame, body)
        .unwrap();
    frame
}

fn echo(from: [u8; 4], to: [u8; 4], id: u16, reply: bool) -> Vec<u8> {
    let header = etherparse::IcmpEchoHeader { id, seq: 1 };
    let kind = if reply { Icmpv4Type::EchoReply(header) } else { Icmpv4Type::EchoRequest(header) };
    icmp(from, to, kind, b"ping")
}

/// Addresses and ports of a frame, after etherparse has verified all its checksums.
fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
    let (source, destination) = match packet.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
            assert_eq!(sum, header.checksum, "UDP checksum");
            (header.source_port, header.destination_port)
        }
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap();
            assert_eq!(sum, header.checksum, "TCP checksum");
            (header.source_port, header.destination_port)
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(
                icmp.icmp_type().calc_checksum(icmp.payload()),
                icmp.checksum(),
                "ICMP checksum"
            );
            match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(e) | Icmpv4Type::EchoReply(e) => (e.id, e.id),
                _ => (0, 0),
            }
        }
        other => panic!("not of these tests: {other:?}"),
    };
    ((header.source, source), (header.destination, destination))
}

fn out(nat: &mut Harness<Nat>, frame: Vec<u8>) -> Outcome {
    nat.run(frame)
}

fn back(nat: &mut Harness<Nat>, frame: Vec<u8>) -> Outcome {
    nat.run(Frame::new(frame).port(1).reverse())
}

#[test]
fn udp_goes_out_with_its_port_and_comes_back() {
    let mut nat = nat("");
    let sent = out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    assert_eq!(ends(&sent.bytes), ((EXTERNAL, 5000), (PEER, 53)));
    let answer = back(&mut nat, udp((PEER, 53), (EXTERNAL, 5000)));
    assert_eq!(ends(&answer.bytes), ((PEER, 53), (INSIDE, 5000)));
    assert_eq!((answer.verdict, nat.counter("translated")), (Verdict::Next, 2));
}

#[test]
fn two_hosts_with_the_same_port_get_different_ones_and_a_host_keeps_its_own() {
    let mut nat = nat("");
    let first = ends(&out(&mut nat, udp((INSIDE, 5000), (PEER, 53))).bytes).0;
    let second = ends(&out(&mut nat, udp((OTHER, 5000), (PEER, 53))).bytes).0;
    assert_eq!(first, (EXTERNAL, 5000));
    assert_ne!(second.1, 5000);
    // Endpoint-independent mapping: another peer sees the same port.
    let other_peer = ends(&out(&mut nat, udp((OTHER, 5000), ([198, 51, 100, 8], 99))).bytes).0;
    assert_eq!(other_peer, second);
    let answer = back(&mut nat, udp((PEER, 53), second));
    assert_eq!(ends(&answer.bytes).1, (OTHER, 5000));
}

#[test]
fn strangers_are_filtered_unless_asked_for() {
    let stranger = ([192, 0, 2, 1], 53);
    let mut strict = nat("");
    out(&mut strict, udp((INSIDE, 5000), (PEER, 53)));
    let refused = back(&mut strict, udp(stranger, (EXTERNAL, 5000)));
    assert_eq!(refused.verdict, Verdict::Drop(reason::UNMATCHED));
    let mut open = nat(r#", "filtering": "endpoint-independent""#);
    out(&mut open, udp((INSIDE, 5000), (PEER, 53)));
    let let_in = back(&mut open, udp(stranger, (EXTERNAL, 5000)));
    assert_eq!(ends(&let_in.bytes), (stranger, (INSIDE, 5000)));
}

#[test]
fn tcp_lives_by_its_state() {
    const SECOND: u64 = 1_000_000_000;
    let mut nat = nat("");
    let (a, b) = ((INSIDE, 4000), (PEER, 80));
    assert_eq!(ends(&out(&mut nat, tcp(a, b, "S")).bytes).0, (EXTERNAL, 4000));
    assert_eq!(ends(&back(&mut nat, tcp(b, (EXTERNAL, 4000), "SA")).bytes).1, a);
    out(&mut nat, tcp(a, b, "A"));
    nat.advance(7000 * SECOND);
    assert_eq!(ends(&back(&mut nat, tcp(b, (EXTERNAL, 4000), "A")).bytes).1, a, "established");
    out(&mut nat, tcp(a, b, "FA"));
    back(&mut nat, tcp(b, (EXTERNAL, 4000), "FA"));
    nat.advance(241 * SECOND);
    let late = back(&mut nat, tcp(b, (EXTERNAL, 4000), "A"));
    assert_eq!(late.verdict, Verdict::Drop(reason::UNMATCHED), "closed");
    // A half-open connection goes after four minutes, and so does one whose handshake stopped
    // before its end.
    out(&mut nat, tcp((INSIDE, 4001), b, "S"));
    out(&mut nat, tcp((INSIDE, 4002), b, "S"));
    back(&mut nat, tcp(b, (EXTERNAL, 4002), "SA"));
    nat.advance(241 * SECOND);
    for port in [4001, 4002] {
        let late = back(&mut nat, tcp(b, (EXTERNAL, port), "SA"));
        assert_eq!(late.verdict, Verdict::Drop(reason::UNMATCHED));
    }
}

/// RFC 6146, section 3.5.2.2: what follows a RST shows that nobody heeded it.
#[test]
fn a_connection_goes_on_after_a_reset_that_nobody_heeds() {
    const SECOND: u64 = 1_000_000_000;
    let (a, b) = ((INSIDE, 4000), (PEER, 80));
    for fast in [false, true] {
        let mut nat = nat("");
        out(&mut nat, tcp(a, b, "S"));
        back(&mut nat, tcp(b, (EXTERNAL, 4000), "SA"));
        out(&mut nat, tcp(a, b, "A"));
        back(&mut nat, tcp(b, (EXTERNAL, 4000), "R"));
        if fast {
            out(&mut nat, tcp(a, b, "A"));
        } else {
            back(&mut nat, tcp(b, (EXTERNAL, 4000), "A"));
        }
        nat.advance(7000 * SECOND);
        assert_eq!(ends(&back(&mut nat, tcp(b, (EXTERNAL, 4000), "A")).bytes).1, a);
        // After one that somebody heeds nothing comes, and after the ends of both sides a segment
        // changes nothing.
        back(&mut nat, tcp(b, (EXTERNAL, 4000), "R"));
        nat.advance(241 * SECOND);
        let late = back(&mut nat, tcp(b, (EXTERNAL, 4000), "A"));
        assert_eq!(late.verdict, Verdict::Drop(reason::UNMATCHED));
    }
    let mut nat = nat("");
    out(&mut nat, tcp(a, b, "S"));
    for (flags, outward) in [("SA", false), ("A", true), ("FA", true), ("FA", false), ("R", true)] {
        match outward {
            true => out(&mut nat, tcp(a, b, flags)),
            false => back(&mut nat, tcp(b, (EXTERNAL, 4000), flags)),
        };
    }
    back(&mut nat, tcp(b, (EXTERNAL, 4000), "A"));
    nat.advance(241 * SECOND);
    let late = back(&mut nat, tcp(b, (EXTERNAL, 4000), "A"));
    assert_eq!(late.verdict, Verdict::Drop(reason::UNMATCHED));
}

/// A host with answered flows.
fn talk(nat: &mut Harness<Nat>, host: [u8; 4], port: u16) -> Outcome {
    let sent = out(nat, udp((host, port), (PEER, 53)));
    if sent.verdict == Verdict::Next {
        back(nat, udp((PEER, 53), ends(&sent.bytes).0));
        out(nat, udp((host, port), (PEER, 53)));
    }
    sent
}

#[test]
fn a_host_may_not_have_all_ports() {
    let limit = |most: u16| {
        format!(
            r#"{{"external": ["203.0.113.1"], "ports": "2000-2007", "max-ports-per-host": {most}}}"#
        )
    };
    let options = Options { state_bytes: 8 << 20, ..Options::default() };
    let mut nat = Harness::<Nat>::with(options, limit(3)).unwrap();
    settled(&mut nat);
    for port in 7000..7003 {
        assert_eq!(talk(&mut nat, INSIDE, port).verdict, Verdict::Next);
    }
    assert_eq!(talk(&mut nat, INSIDE, 7003).verdict, Verdict::Drop(reason::HOST));
    assert_eq!(talk(&mut nat, INSIDE, 7002).verdict, Verdict::Next, "it has that one");
    assert_eq!(out(&mut nat, udp((INSIDE, 7002), (OTHER, 1))).verdict, Verdict::Next);
    assert_eq!(out(&mut nat, tcp((INSIDE, 7003), (PEER, 53), "S")).verdict, Verdict::Next);
    for port in 7000..7003 {
        assert_eq!(talk(&mut nat, OTHER, port).verdict, Verdict::Next);
    }
    assert!(nat.swap(limit(4)).unwrap());
    assert_eq!(talk(&mut nat, INSIDE, 7003).verdict, Verdict::Next);
    assert_eq!(talk(&mut nat, INSIDE, 7004).verdict, Verdict::Drop(reason::HOST));
    // What it has had for long, it has no more.
    nat.advance(301_000_000_000);
    for _ in 0..6000 {
        nat.advance(1_000_000);
        a_burst(&mut nat);
    }
    for port in 8000..8004 {
        assert_eq!(talk(&mut nat, INSIDE, port).verdict, Verdict::Next);
    }
    assert!(nat.function().table.counts_right());
}

#[test]
fn a_new_host_gets_an_address_that_has_ports_and_keeps_it() {
    let config = r#"{"external": ["203.0.113.1", "203.0.113.2"], "ports": "2000-2003"}"#;
    let options = Options { state_bytes: 12 << 20, ..Options::default() };
    let mut nat = Harness::<Nat>::with(options, config).unwrap();
    settled(&mut nat);
    let external = |sent: &Outcome| ends(&sent.bytes).0.0;
    let first = external(&talk(&mut nat, INSIDE, 7000));
    for port in 7001..7004 {
        assert_eq!(external(&talk(&mut nat, INSIDE, port)), first);
    }
    assert_eq!(
        talk(&mut nat, INSIDE, 7004).verdict,
        Verdict::Drop(reason::PORTS),
        "a host has one address"
    );
    for host in 10..14 {
        let sent = talk(&mut nat, [10, 0, 0, host], 7000);
        assert_eq!(sent.verdict, Verdict::Next, "{host}");
        assert_ne!(external(&sent), first, "{host}");
    }
    assert_eq!(talk(&mut nat, OTHER, 7000).verdict, Verdict::Drop(reason::PORTS));
}

/// RFC 6598: what a carrier's NAT has inside.
#[test]
fn shared_addresses_are_inside() {
    let mut nat = nat("");
    let sent = out(&mut nat, udp(([100, 64, 0, 5], 5000), (PEER, 53)));
    assert_eq!(ends(&sent.bytes).0, (EXTERNAL, 5000));
}

#[test]
fn pings_are_told_apart_by_their_identifier() {
    let mut nat = nat("");
    assert_eq!(ends(&out(&mut nat, echo(INSIDE, PEER, 2000, false)).bytes).0, (EXTERNAL, 2000));
    let second = ends(&out(&mut nat, echo(OTHER, PEER, 2000, false)).bytes).0;
    assert_ne!(second.1, 2000);
    assert_eq!(ends(&back(&mut nat, echo(PEER, EXTERNAL, 2000, true)).bytes).1, (INSIDE, 2000));
    assert_eq!(ends(&back(&mut nat, echo(PEER, EXTERNAL, second.1, true)).bytes).1, (OTHER, 2000));
}

#[test]
fn errors_from_outside_are_translated_with_what_they_quote() {
    let mut nat = nat("");
    let sent = out(&mut nat, tcp((INSIDE, 4000), (PEER, 80), "S")).bytes;
    out(&mut nat, udp((OTHER, 4000), (PEER, 80)));
    let second = out(&mut nat, tcp((OTHER, 4000), (PEER, 80), "S")).bytes;
    for (sent, host) in [(sent, INSIDE), (second, OTHER)] {
        let unreachable =
            Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Host);
        // A router on the way quotes the whole packet.
        let error = icmp([192, 0, 2, 99], EXTERNAL, unreachable, &sent[14..]);
        let got = back(&mut nat, error);
        assert_eq!(got.verdict, Verdict::Next);
        assert_eq!(ends(&got.bytes).1.0, host);
        // What is quoted is the packet as the host sent it, checksums included.
        let mut quoted = vec![0; 14];
        quoted[12] = 8;
        quoted.extend_from_slice(&got.bytes[14 + 20 + 8..]);
        assert_eq!(ends(&quoted), ((host, 4000), (PEER, 80)));
    }
    let about_nobody = tcp((EXTERNAL, 4999), (PEER, 80), "S");
    let error = icmp(
        PEER,
        EXTERNAL,
        Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit),
        &about_nobody[14..],
    );
    assert_eq!(back(&mut nat, error).verdict, Verdict::Drop(reason::UNMATCHED));
}

#[test]
fn errors_from_inside_are_translated_with_what_they_quote() {
    let mut nat = nat("");
    out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    let arrived = back(&mut nat, udp((PEER, 53), (EXTERNAL, 5000))).bytes;
    let unreachable =
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let got = out(&mut nat, icmp(INSIDE, PEER, unreachable, &arrived[14..]));
    assert_eq!(ends(&got.bytes).0.0, EXTERNAL);
    let mut quoted = vec![0; 14];
    quoted[12] = 8;
    quoted.extend_from_slice(&got.bytes[14 + 20 + 8..]);
    assert_eq!(ends(&quoted), ((PEER, 53), (EXTERNAL, 5000)));
}

#[test]
fn when_ports_run_out_packets_are_dropped_and_never_mixed_up() {
    let mut nat = nat(r#", "ports": "2000-2003", "max-flows": 1000"#);
    settled(&mut nat);
    for port in 7000..7004 {
        let sent = out(&mut nat, udp((INSIDE, port), (PEER, 53)));
        // Under way, or it would be given up for another.
        back(&mut nat, udp((PEER, 53), ends(&sent.bytes).0));
        assert_eq!(out(&mut nat, udp((INSIDE, port), (PEER, 53))).verdict, Verdict::Next);
    }
    let refused = out(&mut nat, udp((INSIDE, 7004), (PEER, 53)));
    assert_eq!(refused.verdict, Verdict::Drop(reason::PORTS));
    assert_eq!(ends(&refused.bytes).0, (INSIDE, 7004), "it is as it was");
    // TCP has ports of its own; and when flows end, theirs are free again.
    assert_eq!(out(&mut nat, tcp((INSIDE, 7004), (PEER, 53), "S")).verdict, Verdict::Next);
    nat.advance(301_000_000_000);
    assert_eq!(out(&mut nat, udp((INSIDE, 7004), (PEER, 53))).verdict, Verdict::Next);
}

#[test]
fn flows_that_nobody_answers_make_room_when_ports_run_out() {
    let mut nat = nat(r#", "ports": "2000-2063", "max-flows": 1000"#);
    settled(&mut nat);
    let open = |nat: &mut Harness<Nat>, port| {
        let (a, b) = ((INSIDE, port), (PEER, 443));
        let external = ends(&out(nat, tcp(a, b, "S")).bytes).0;
        assert_eq!(ends(&back(nat, tcp(b, external, "SA")).bytes).1, a);
        assert_eq!(out(nat, tcp(a, b, "A")).verdict, Verdict::Next);
        (a, external)
    };
    let flows: Vec<_> = (2000..2020).map(|port| open(&mut nat, port)).collect();
    // One of these has its port with two flows: to give up either would give nothing.
    let twice = [PEER, [198, 51, 100, 8]].map(|peer| {
        let peer = (peer, 80);
        (peer, ends(&out(&mut nat, tcp((INSIDE, 1999), peer, "S")).bytes).0)
    });
    for n in 0..3000_u32 {
        nat.advance(1_000_000);
        let from = ([10, 1, (n >> 8) as u8, n as u8], 40_000);
        let sent = out(&mut nat, tcp(from, (PEER, 443), "S"));
        assert_eq!(sent.verdict, Verdict::Next, "{n}");
        let (external, _) = ends(&sent.bytes);
        assert!(
            (2000..=2063).contains(&external.1) && flows.iter().all(|(_, had)| *had != external)
        );
        if n % 100 == 0 {
            // Somebody opens a connection meanwhile, and closes it again.
            let (a, _) = open(&mut nat, 4000);
            out(&mut nat, tcp(a, (PEER, 443), "RA"));
        }
    }
    assert!(nat.counter("given_up") > 2900);
    assert!(nat.function().table.counts_right());
    for (a, external) in &flows {
        assert_eq!(ends(&back(&mut nat, tcp((PEER, 443), *external, "A")).bytes).1, *a);
    }
    for (peer, external) in twice {
        assert_eq!(ends(&back(&mut nat, tcp(peer, external, "SA")).bytes).1, (INSIDE, 1999));
    }
    // When all are open, there is no port.
    for port in 5000..5100 {
        let sent = ends(&out(&mut nat, tcp((INSIDE, port), (PEER, 443), "S")).bytes).0;
        back(&mut nat, tcp((PEER, 443), sent, "SA"));
        out(&mut nat, tcp((INSIDE, port), (PEER, 443), "A"));
    }
    let refused = out(&mut nat, tcp((INSIDE, 6000), (PEER, 443), "S"));
    assert_eq!(refused.verdict, Verdict::Drop(reason::PORTS));
}

/// What a burst does after a swap must fit its deadline, though each page of ports that is looked
/// at for the first time is a fault.
#[test]
fn a_swap_counts_ports_only_for_another_range_and_a_few_in_each_burst() {
    let config = |ports: &str| format!(r#"{{"external": ["203.0.113.1"], "ports": "{ports}"}}"#);
    let mut nat = nat("");
    out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    assert!(nat.swap(config("1024-65535")).unwrap(), "the state was taken over");
    a_burst(&mut nat);
    assert!(nat.function().table.is_settled() && nat.function().table.counts_right());
    assert!(nat.swap(config("1025-65535")).unwrap(), "the state was taken over");
    let bursts = (1..200).find(|_| {
        a_burst(&mut nat);
        nat.function().table.is_settled()
    });
    // 64,511 ports of three protocols, 4,096 at a time.
    assert_eq!(bursts, Some(48));
    assert!(nat.function().table.counts_right());
    // A swap in the middle goes on where the one before was.
    assert!(nat.swap(config("1026-65535")).unwrap(), "the state was taken over");
    for _ in 0..40 {
        a_burst(&mut nat);
    }
    assert!(!nat.function().table.is_settled());
    assert!(nat.swap(config("1026-65535")).unwrap(), "the state was taken over");
    for _ in 0..9 {
        a_burst(&mut nat);
    }
    assert!(nat.function().table.is_settled() && nat.function().table.counts_right());
}

/// A flood that has all ports in use costs a burst a bounded search, also when they are counted
/// anew.
#[test]
fn a_full_range_is_not_searched_for_each_packet_of_a_burst() {
    let config = |ports: &str| format!(r#"{{"external": ["203.0.113.1"], "ports": "{ports}"}}"#);
    let mut nat = nat("");
    for port in 1024..=65535 {
        assert_eq!(out(&mut nat, udp((INSIDE, port), (PEER, 53))).verdict, Verdict::Next);
    }
    assert!(nat.swap(config("1025-65535")).unwrap(), "the state was taken over");
    let flood: Vec<_> = (0..200).map(|port| udp((OTHER, 2000 + port), (PEER, 53))).collect();
    for packet in nat.run_burst(&flood) {
        assert_eq!(packet.verdict, Verdict::Drop(reason::PORTS));
    }
    assert_eq!(nat.function().table.search_left(), 0);
    settled(&mut nat);
    // Of flows that nobody answers there is one to give up then.
    assert_eq!(out(&mut nat, udp((OTHER, 2000), (PEER, 53))).verdict, Verdict::Next);
}

#[test]
fn with_another_range_ports_are_given_out_at_once() {
    let config = |ports: &str| format!(r#"{{"external": ["203.0.113.1"], "ports": "{ports}"}}"#);
    let mut nat = nat(r#", "ports": "2000-2063""#);
    settled(&mut nat);
    let talk = |nat: &mut Harness<Nat>, port| {
        let sent = out(nat, udp((INSIDE, port), (PEER, 53)));
        if sent.verdict == Verdict::Next {
            back(nat, udp((PEER, 53), ends(&sent.bytes).0));
            out(nat, udp((INSIDE, port), (PEER, 53)));
        }
        sent.verdict
    };
    for port in 3000..3064 {
        assert_eq!(talk(&mut nat, port), Verdict::Next);
    }
    let refused = Verdict::Drop(reason::PORTS);
    assert_eq!(talk(&mut nat, 4000), refused);
    for (ports, free) in [("2060-2069", 6), ("2050-2079", 10), ("2000-2079", 0)] {
        assert!(nat.swap(config(ports)).unwrap(), "the state was taken over");
        settled(&mut nat);
        let first = 5000 + free * 100;
        for port in first..first + free {
            assert_eq!(talk(&mut nat, port), Verdict::Next, "{port} of {ports}");
        }
        assert_eq!(talk(&mut nat, first + free), refused, "{ports}");
    }
    // Those that had a port go on with it.
    assert_eq!(talk(&mut nat, 3000), Verdict::Next);
}

#[test]
fn inside_hosts_reach_each_other_by_their_external_addresses() {
    let mut nat = nat(r#", "forward": [{"proto": "tcp", "port": 80, "to": "10.0.0.3:8080"}]"#);
    let got = out(&mut nat, tcp((INSIDE, 4000), (EXTERNAL, 80), "S"));
    assert_eq!(got.verdict, Verdict::Reply);
    assert_eq!(ends(&got.bytes), ((EXTERNAL, 4000), (OTHER, 8080)));
    assert_eq!((&got.bytes[..6], &got.bytes[6..12]), (&[2; 6][..], &[4; 6][..]), "MACs swapped");
    let answer = out(&mut nat, tcp((OTHER, 8080), (EXTERNAL, 4000), "SA"));
    assert_eq!(answer.verdict, Verdict::Reply);
    assert_eq!(ends(&answer.bytes), ((EXTERNAL, 80), (INSIDE, 4000)));
}

#[test]
fn a_forwarded_port_is_open_to_everybody() {
    let mut nat = nat(r#", "forward": [{"proto": "udp", "port": 53, "to": "10.0.0.3:5353"}]"#);
    let got = back(&mut nat, udp((PEER, 999), (EXTERNAL, 53)));
    assert_eq!(ends(&got.bytes), ((PEER, 999), (OTHER, 5353)));
    let answer = out(&mut nat, udp((OTHER, 5353), (PEER, 999)));
    assert_eq!(ends(&answer.bytes), ((EXTERNAL, 53), (PEER, 999)));
    assert_eq!((nat.counter("flows_opened"), nat.gauge("flows")), (1, Some(1.0)));
}

#[test]
fn of_two_ports_that_lead_to_one_endpoint_a_flow_has_one() {
    let mut nat = nat(r#", "forward": [{"proto": "tcp", "port": 80, "to": "10.0.0.3:8080"},
                                       {"proto": "tcp", "port": 81, "to": "10.0.0.3:8080"}]"#);
    for (port, client) in [(80, 999), (81, 1000)] {
        back(&mut nat, tcp((PEER, client), (EXTERNAL, port), "S"));
        let answer = out(&mut nat, tcp((OTHER, 8080), (PEER, client), "SA"));
        assert_eq!(ends(&answer.bytes), ((EXTERNAL, port), (PEER, client)));
    }
    // The server could not tell this connection from the first, and its answers would leave by port
    // 80.
    let twin = back(&mut nat, tcp((PEER, 999), (EXTERNAL, 81), "S"));
    assert_eq!(twin.verdict, Verdict::Drop(reason::UNMATCHED));
}

#[test]
fn a_mapping_has_as_many_flows_as_it_can_count() {
    const MOST: u32 = 65_534;
    let options = Options { state_bytes: 16 << 20, ..Options::default() };
    let config = r#"{"external": ["203.0.113.1"], "max-flows": 131072}"#;
    let mut nat = Harness::<Nat>::with(options, config).unwrap();
    let peer = |n: u32| ((PEER_BASE + n / 1000).to_be_bytes(), 1000 + (n % 1000) as u16);
    for n in 0..MOST {
        assert_eq!(out(&mut nat, udp((INSIDE, 5000), peer(n))).verdict, Verdict::Next, "{n}");
    }
    let refused = out(&mut nat, udp((INSIDE, 5000), peer(MOST)));
    assert_eq!(refused.verdict, Verdict::Drop(reason::FLOWS));
    // All but one end, and the port is still taken.
    nat.advance(290_000_000_000);
    out(&mut nat, udp((INSIDE, 5000), peer(7)));
    for _ in 0..20_000 {
        nat.advance(10_000_000);
        nat.run_burst::<Frame>(&[]);
    }
    assert_eq!(nat.gauge("flows"), Some(1.0));
    assert_ne!(ends(&out(&mut nat, udp((OTHER, 5000), peer(7))).bytes).0.1, 5000);
    assert_eq!(nat.gauge("flows"), Some(2.0));
    assert_eq!(ends(&back(&mut nat, udp(peer(7), (EXTERNAL, 5000))).bytes).1, (INSIDE, 5000));
}

#[test]
fn a_new_instance_goes_on_with_the_flows() {
    let mut nat = nat("");
    out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    let second = ends(&out(&mut nat, udp((OTHER, 5000), (PEER, 53))).bytes).0;
    assert!(nat.swap(r#"{"external": ["203.0.113.1"]}"#).unwrap(), "the state was taken over");
    assert_eq!(ends(&back(&mut nat, udp((PEER, 53), second)).bytes).1, (OTHER, 5000));
    assert_eq!(ends(&out(&mut nat, udp((OTHER, 5000), (PEER, 53))).bytes).0, second);
}

fn forwards(list: &str) -> String {
    format!(r#"{{"external": ["203.0.113.1"], "ports": "1-65535", "forward": [{list}]}}"#)
}

/// So many bursts that the table is all this configuration's.
fn settled(nat: &mut Harness<Nat>) {
    for _ in 0..200 {
        a_burst(nat);
        if nat.function().table.is_settled() {
            break;
        }
    }
    assert!(nat.function().table.counts_right());
}

/// What belongs to no flow that is looked at.
fn a_burst(nat: &mut Harness<Nat>) {
    nat.run_burst::<Frame>(&[]);
}

const WEB: &str = r#"{"proto": "tcp", "port": 80, "to": "10.0.0.3:8080"}"#;

#[test]
fn a_port_is_closed_when_its_forward_is_taken_out() {
    let both = format!(r#"{WEB}, {{"proto": "tcp", "port": 81, "to": "10.0.0.3:8080"}}"#);
    let mut nat = nat(&format!(r#", "ports": "1-65535", "forward": [{both}]"#));
    let [first, second] = [80, 81].map(|port| tcp((PEER, 900 + port), (EXTERNAL, port), "S"));
    for syn in [&first, &second] {
        assert_eq!(ends(&back(&mut nat, syn.clone()).bytes).1, (OTHER, 8080));
    }
    out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    assert!(nat.swap(forwards(WEB)).unwrap(), "the state was taken over");
    assert_eq!(ends(&back(&mut nat, first.clone()).bytes).1, (OTHER, 8080));
    assert_eq!(back(&mut nat, second.clone()).verdict, Verdict::Drop(reason::UNMATCHED));
    // What the target opens leaves by the forward that is left.
    let opened = out(&mut nat, tcp((OTHER, 8080), (PEER, 7), "S"));
    assert_eq!(ends(&opened.bytes).0, (EXTERNAL, 80));
    assert!(nat.swap(forwards("")).unwrap());
    for syn in [first, second, tcp(([192, 0, 2, 1], 1), (EXTERNAL, 80), "S")] {
        assert_eq!(back(&mut nat, syn).verdict, Verdict::Drop(reason::UNMATCHED));
    }
    a_burst(&mut nat);
    let answer = out(&mut nat, tcp((OTHER, 8080), (PEER, 980), "SA"));
    assert_eq!(ends(&answer.bytes).0, (EXTERNAL, 8080), "it is a host as any other");
    let answer = back(&mut nat, udp((PEER, 53), (EXTERNAL, 5000)));
    assert_eq!(ends(&answer.bytes).1, (INSIDE, 5000), "other flows go on");
    // All ports can be had again.
    assert_eq!(ends(&out(&mut nat, tcp((INSIDE, 80), (PEER, 7), "S")).bytes).0, (EXTERNAL, 80));
}

#[test]
fn a_forward_may_lead_elsewhere() {
    let mut nat = nat(&format!(r#", "ports": "1-65535", "forward": [{WEB}]"#));
    let syn = tcp((PEER, 999), (EXTERNAL, 80), "S");
    assert_eq!(ends(&back(&mut nat, syn.clone()).bytes).1, (OTHER, 8080));
    assert!(nat.swap(forwards(&WEB.replace("0.3", "0.2"))).unwrap(), "the state was taken over");
    a_burst(&mut nat);
    assert_eq!(ends(&back(&mut nat, syn).bytes).1, (INSIDE, 8080));
    let answer = out(&mut nat, tcp((INSIDE, 8080), (PEER, 999), "SA"));
    assert_eq!(ends(&answer.bytes).0, (EXTERNAL, 80));
    // The old target's packets are not mixed up with the new one's.
    assert_ne!(ends(&out(&mut nat, tcp((OTHER, 8080), (PEER, 999), "SA")).bytes).0.1, 80);
    let two = format!("{WEB}, {}", WEB.replace("0.3", "0.2"));
    assert!(nat.swap(forwards(&two)).unwrap_err().contains("port 80 is forwarded twice"));
    assert!(nat.swap(forwards(&format!("{WEB}, {WEB}"))).unwrap());
    let many = (1..4100).map(|port| WEB.replace("80,", &format!("{port},")));
    let many = forwards(&many.collect::<Vec<_>>().join(", "));
    assert!(nat.swap(many).unwrap_err().contains("more than 4096"));
}

#[test]
fn a_new_forward_gets_its_port_and_ends_only_what_had_it() {
    let mut nat = nat(r#", "ports": "1-65535""#);
    out(&mut nat, tcp((INSIDE, 80), (PEER, 443), "S"));
    out(&mut nat, tcp((INSIDE, 5000), (PEER, 443), "S"));
    out(&mut nat, udp((INSIDE, 80), (PEER, 53)));
    // The target has another port so far, and goes on with it there.
    assert_eq!(ends(&out(&mut nat, tcp((OTHER, 8080), (PEER, 443), "S")).bytes).0.1, 8080);
    assert!(nat.swap(forwards(WEB)).unwrap(), "the state was taken over");
    a_burst(&mut nat);
    for _ in 0..2 {
        let got = back(&mut nat, tcp((PEER, 999), (EXTERNAL, 80), "S"));
        assert_eq!(ends(&got.bytes).1, (OTHER, 8080));
        let got = back(&mut nat, tcp((PEER, 443), (EXTERNAL, 5000), "SA"));
        assert_eq!(ends(&got.bytes).1, (INSIDE, 5000));
        let got = back(&mut nat, tcp((PEER, 443), (EXTERNAL, 8080), "SA"));
        assert_eq!(ends(&got.bytes).1, (OTHER, 8080));
        let got = back(&mut nat, udp((PEER, 53), (EXTERNAL, 80)));
        assert_eq!(ends(&got.bytes).1, (INSIDE, 80));
        assert_ne!(ends(&out(&mut nat, tcp((INSIDE, 80), (PEER, 443), "A")).bytes).0.1, 80);
    }
    // When its own port has ended, it still leaves by the forwarded one.
    nat.advance(241_000_000_000);
    for _ in 0..20 {
        out(&mut nat, udp((INSIDE, 9), (PEER, 9)));
        nat.advance(1_000_000_000);
    }
    let opened = out(&mut nat, tcp((OTHER, 8080), (PEER, 444), "S"));
    assert_eq!(ends(&opened.bytes).0, (EXTERNAL, 80));
}

#[test]
fn flows_that_nobody_answers_make_room_and_open_ones_stay() {
    let mut nat = nat(&format!(
        r#", "max-flows": 64, "forward": [{WEB}, {{"proto": "udp", "port": 53, "to": "10.0.0.3:53"}}]"#
    ));
    let open = |nat: &mut Harness<Nat>, port| {
        let (a, b) = ((INSIDE, port), (PEER, 443));
        assert_eq!(out(nat, tcp(a, b, "S")).verdict, Verdict::Next, "{port}");
        assert_eq!(back(nat, tcp(b, (EXTERNAL, port), "SA")).verdict, Verdict::Next, "{port}");
        assert_eq!(out(nat, tcp(a, b, "A")).verdict, Verdict::Next, "{port}");
    };
    for port in 2000..2010 {
        open(&mut nat, port);
    }
    let talk = |nat: &mut Harness<Nat>| {
        out(nat, udp((INSIDE, 3000), (PEER, 443)));
        back(nat, udp((PEER, 443), (EXTERNAL, 3000)))
    };
    talk(&mut nat);
    talk(&mut nat);
    // To the forwards, from everywhere, some with an answer; and from inside to everywhere.
    for n in 0..2000_u32 {
        nat.advance(10_000_000);
        let peer = ((PEER_BASE + n).to_be_bytes(), 1000);
        let (first, answer) = match n % 3 {
            0 => (tcp(peer, (EXTERNAL, 80), "S"), tcp((OTHER, 8080), peer, "SA")),
            1 => (udp(peer, (EXTERNAL, 53)), udp((OTHER, 53), peer)),
            _ => (udp(peer, (EXTERNAL, 53)), echo(OTHER, peer.0, 7, false)),
        };
        assert_eq!(back(&mut nat, first).verdict, Verdict::Next, "{n}");
        assert_eq!(out(&mut nat, answer).verdict, Verdict::Next, "{n}");
        if n % 100 == 0 {
            open(&mut nat, 4000);
            out(&mut nat, tcp((INSIDE, 4000), (PEER, 443), "RA"));
        }
    }
    assert!(nat.counter("given_up") > 1500);
    for port in 2000..2010 {
        let got = back(&mut nat, tcp((PEER, 443), (EXTERNAL, port), "A"));
        assert_eq!(ends(&got.bytes).1, (INSIDE, port));
    }
    assert_eq!(ends(&talk(&mut nat).bytes).1, (INSIDE, 3000));
    // When all are open, there is no room.
    for port in 5000..5100 {
        out(&mut nat, tcp((INSIDE, port), (PEER, 443), "S"));
        back(&mut nat, tcp((PEER, 443), (EXTERNAL, port), "SA"));
        out(&mut nat, tcp((INSIDE, port), (PEER, 443), "A"));
    }
    let refused = out(&mut nat, tcp((INSIDE, 6000), (PEER, 443), "S"));
    assert_eq!(refused.verdict, Verdict::Drop(reason::FLOWS));
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let mut nat = nat("");
    let public = udp(([8, 8, 8, 8], 1), (PEER, 2));
    assert_eq!(out(&mut nat, public.clone()).bytes, public);
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(out(&mut nat, arp.clone()).bytes, arp);
    let cut_off_ipv6 = [&[2; 12][..], &[0x81, 0, 0, 7, 0x86, 0xdd, 0x60], &[0; 20]].concat();
    assert_eq!(out(&mut nat, cut_off_ipv6.clone()).bytes, cut_off_ipv6);
    assert_eq!(out(&mut nat, cut_off_ipv6).verdict, Verdict::Next);
    let through = udp((PEER, 1), ([8, 8, 8, 8], 2));
    assert_eq!(
        back(&mut nat, through.clone()),
        Outcome { verdict: Verdict::Next, whole_flow: false, bytes: through }
    );
}

#[test]
fn a_udp_checksum_of_zero_stays() {
    let mut nat = nat("");
    let mut frame = udp((INSIDE, 5000), (PEER, 53));
    frame[40..42].copy_from_slice(&[0, 0]);
    assert_eq!(out(&mut nat, frame).bytes[40..42], [0, 0]);
}

fn piece(id: u16, offset: u16, more: bool, mut frame: Vec<u8>) -> Vec<u8> {
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = weir_sdk::checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn fragments_follow_their_first_however_many_packets_are_fragmented() {
    let mut nat = nat("");
    let whole = udp((INSIDE, 5000), (PEER, 53));
    let mut lost = 0;
    // A hundred a second for a minute, then many at once.
    for n in 0..12_000 {
        nat.advance(if n < 6000 { 10_000_000 } else { 1000 });
        assert_eq!(out(&mut nat, piece(n, 0, true, whole.clone())).verdict, Verdict::Next, "{n}");
        let Some(n) = n.checked_sub(4) else { continue };
        let later = out(&mut nat, piece(n, 16, false, whole.clone()));
        lost += u32::from(later.verdict != Verdict::Next);
    }
    // Of those of one second it is any that goes.
    assert!(lost < 120, "{lost}");
}

#[test]
fn later_fragments_follow_their_first() {
    let mut nat = nat("");
    let whole = udp((INSIDE, 5000), (PEER, 53));
    let fragment = |offset, more, frame: Vec<u8>| piece(77, offset, more, frame);
    let orphan = out(&mut nat, fragment(16, false, whole.clone()));
    assert_eq!(orphan.verdict, Verdict::Drop(reason::FRAGMENT));
    assert_eq!(out(&mut nat, fragment(0, true, whole.clone())).bytes[26..30], EXTERNAL);
    let later = out(&mut nat, fragment(16, false, whole));
    assert_eq!(later.bytes[26..30], EXTERNAL);
    assert_eq!(weir_sdk::checksum::internet(&later.bytes[14..34]), 0);
    // Where a first one of nobody's passes, the others do.
    let of_nobody = fragment(16, false, udp((PEER, 53), (EXTERNAL, 5000)));
    assert_eq!(back(&mut nat, of_nobody.clone()).verdict, Verdict::Drop(reason::FRAGMENT));
    let mut open = self::nat(r#", "unmatched-inbound": "pass""#);
    let passed = back(&mut open, of_nobody.clone());
    assert_eq!((passed.verdict, passed.bytes), (Verdict::Next, of_nobody));
}

#[test]
fn an_error_that_cannot_be_hairpinned_is_dropped() {
    let mut nat = nat("");
    out(&mut nat, udp((INSIDE, 5000), (EXTERNAL, 6000)));
    let asked = out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    let answered = back(&mut nat, udp((PEER, 53), ends(&asked.bytes).0)).bytes;
    let unreachable =
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    // A router of another range says something of the answer, but not to who sent that.
    let router = [192, 0, 2, 99];
    let error = icmp(router, EXTERNAL, unreachable.clone(), &answered[14..]);
    assert_eq!(out(&mut nat, error).verdict, Verdict::Drop(reason::UNMATCHED));
    let about_nobody = icmp(router, EXTERNAL, unreachable, &udp((PEER, 1), (OTHER, 2))[14..]);
    let passed = out(&mut nat, about_nobody.clone());
    assert_eq!((passed.verdict, passed.bytes), (Verdict::Next, about_nobody));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn ports_in_use_are_counted_whatever_the_range_was(
        steps in prop::collection::vec((0usize..4, 0usize..3, 0usize..40, prop::collection::vec(75u16..90, 0..12)), 1..8)) {
        let config = |(ports, forwards): (usize, usize)| {
            let ports = ["70-79", "80-82", "75-85", "1-65535"][ports];
            let forward = [String::new(), WEB.to_owned(), WEB.replace("80,", "81,")];
            let limits = r#""max-flows": 256, "hairpin": false"#;
            format!(r#"{{"external": ["203.0.113.1"], "ports": "{ports}", "forward": [{}], {limits}}}"#, forward[forwards])
        };
        let mut nat = Harness::<Nat>::new(config((0, 0))).unwrap();
        for (ports, forwards, bursts, hosts) in steps {
            prop_assert!(nat.swap(config((ports, forwards))).unwrap());
            // Some go on before all is counted, or the next configuration comes.
            for _ in 0..bursts {
                a_burst(&mut nat);
            }
            // What began two steps ago ends, what began with the last one stays.
            nat.advance(150_000_000_000);
            for _ in 0..30 {
                nat.advance(1_000_000);
                a_burst(&mut nat);
            }
            let right = |nat: &mut Harness<Nat>| {
                let table = &nat.function().table;
                !table.is_settled() || table.counts_right()
            };
            prop_assert!(right(&mut nat));
            for port in hosts {
                out(&mut nat, tcp((INSIDE, port), (PEER, 443), "S"));
                back(&mut nat, tcp((PEER, 443), (EXTERNAL, port), "S"));
            }
            prop_assert!(right(&mut nat));
        }
        settled(&mut nat);
    }
}

#[test]
fn mistakes_are_named() {
    let refused = |config: &str| Harness::<Nat>::new(config).unwrap_err();
    for (config, part) in [
        (r#"{"external": []}"#, "external: there are 0"),
        (
            r#"{"external": ["192.0.2.1", "192.0.2.2", "192.0.2.1"]}"#,
            "external[2]: 192.0.2.1 is in",
        ),
        (r#"{"external": ["0.0.0.0"]}"#, "external[0]: 0.0.0.0 is no host's"),
        (r#"{"external": ["224.0.0.1"]}"#, "external[0]: 224.0.0.1 is no host's"),
        (r#"{"external": ["192.0.2.1"], "timeouts": {"udp": 0}}"#, "timeouts.udp: 0"),
        (r#"{"external": ["192.0.2.1"], "timeouts": {"icmp": 4294967295}}"#, "timeouts.icmp: 4294"),
        (
            r#"{"external": ["192.0.2.1"], "forward": [{"proto": "tcp", "port": 0, "to": "10.0.0.5:1"}]}"#,
            "forward[0].port: no packet",
        ),
        (
            r#"{"external": ["192.0.2.1"], "forward": [{"proto": "tcp", "port": 1, "to": "10.0.0.5:0"}]}"#,
            "forward[0].to: no packet",
        ),
        (
            r#"{"external": ["192.0.2.1"], "forward": [{"proto": "tcp", "port": 1, "to": "192.0.2.9:1"}]}"#,
            "forward[0].to: 192.0.2.9 is in no prefix of `internal`",
        ),
        (r#"{"external": ["192.0.2.1"], "max-ports-per-host": 0}"#, "max-ports-per-host: 0"),
    ] {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #[test]
    fn every_translation_is_undone_and_no_two_flows_share_a_port(
        flows in prop::collection::vec((0u8..4, 1u16..50, any::<bool>(), 0u8..3), 1..80)) {
        let mut nat = nat(r#", "ports": "1-65535""#);
        let mut seen = std::collections::HashMap::new();
        for (host, port, is_tcp, peer) in flows {
            let inside = ([10, 0, 0, host], port);
            let peer = ([198, 51, 100, peer], 443);
            let make = |a, b| if is_tcp { tcp(a, b, "A") } else { udp(a, b) };
            let sent = out(&mut nat, make(inside, peer));
            let (external, to) = ends(&sent.bytes);
            prop_assert_eq!((external.0, to), (EXTERNAL, peer));
            let owner = seen.entry((external.1, is_tcp)).or_insert(inside);
            prop_assert_eq!(*owner, inside);
            let answer = back(&mut nat, make(peer, external));
            prop_assert_eq!(ends(&answer.bytes), (peer, inside));
        }
    }

    #[test]
    fn no_bytes_panic(frames in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..120), any::<bool>(), 0usize..60, any::<u8>()), 1..20)) {
        let mut nat = nat("");
        for (bytes, reverse, at, value) in frames {
            let mut real = icmp(INSIDE, PEER, Icmpv4Type::TimeExceeded(
                etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit), &bytes);
            let at = at.min(real.len() - 1);
            real[at] = value;
            for frame in [bytes, real] {
                let frame = Frame::new(frame);
                nat.run(if reverse { frame.reverse() } else { frame });
            }
        }
    }
}
