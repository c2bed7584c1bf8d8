use etherparse::{Icmpv4Type, PacketBuilder};
use proptest::prelude::*;
use weir_sdk::testing::frames::{datagram, ipv4, segment, tagged, tcp, udp};
use weir_sdk::testing::{Frame, Harness, Options};

use super::*;

const SECOND: u64 = 1_000_000_000;
const IN: [u8; 4] = [10, 0, 0, 2];
const OUT: [u8; 4] = [192, 0, 2, 7];
const RULES: &str = r#"{"default": "deny", "rules": [
    {"action": "deny", "proto": "tcp", "dst": "192.0.2.66", "name": "blocked", "log": true},
    {"action": "allow", "proto": "tcp", "src": "10.0.0.0/8", "dport": "80,443", "direction": "out"},
    {"action": "allow", "proto": "udp", "src": "10.0.0.0/8", "dport": 53},
    {"action": "allow", "proto": "icmp", "icmp-type": 8, "direction": "out"},
    {"action": "allow", "proto": "tcp", "src": "2001:db8::/32", "dport": 443},
    {"action": "reject", "proto": "tcp", "dport": 25}]}"#;

fn firewall(config: &str) -> Harness<Firewall> {
    Harness::with(Options { state_bytes: 8 << 20, ..Options::default() }, config).unwrap()
}

fn out(fw: &mut Harness<Firewall>, frame: Vec<u8>) -> Verdict {
    fw.run(frame).verdict
}

fn back(fw: &mut Harness<Firewall>, frame: Vec<u8>) -> Verdict {
    fw.run(Frame::new(frame).port(1).reverse()).verdict
}

fn connect(fw: &mut Harness<Firewall>, a: ([u8; 4], u16), b: ([u8; 4], u16)) {
    let verdicts = [out(fw, tcp(a, b, "S")), back(fw, tcp(b, a, "SA")), out(fw, tcp(a, b, "A"))];
    assert_eq!(verdicts, [Verdict::Next; 3], "{a:?}");
}

fn ipv6(next: u8, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next, 64];
    [&[2; 12][..], &[0x86, 0xdd], &header, &from, &to, payload].concat()
}

const DENIED: Verdict = Verdict::Drop(reason::DENIED);
const INVALID: Verdict = Verdict::Drop(reason::INVALID);

#[test]
fn a_connection_passes_in_both_directions_and_nothing_else_does() {
    let mut fw = firewall(RULES);
    let (a, b) = ((IN, 4000), (OUT, 443));
    assert_eq!(back(&mut fw, tcp(b, a, "SA")), INVALID, "nobody asked");
    assert_eq!(out(&mut fw, tcp(a, b, "A")), INVALID, "no handshake");
    assert_eq!(out(&mut fw, tcp(a, b, "S")), Verdict::Next);
    assert_eq!(back(&mut fw, tcp(b, a, "SA")), Verdict::Next);
    assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    assert_eq!(back(&mut fw, tcp(b, a, "A")), Verdict::Next);
    assert_eq!(back(&mut fw, tcp(b, (IN, 4001), "S")), DENIED, "from outside");
    assert_eq!(out(&mut fw, tcp(a, (OUT, 22), "S")), DENIED, "another port");
    assert_eq!(out(&mut fw, tcp(a, ([192, 0, 2, 66], 443), "S")), DENIED, "first match wins");
    assert_eq!(fw.log()[0].1, "blocked: Deny 10.0.0.2:4000 -> 192.0.2.66:443 protocol 6");
    assert_eq!((fw.counter("allowed"), fw.counter("new"), fw.counter("denied")), (4, 1, 3));
}

#[test]
fn an_inspected_flow_goes_to_the_kernel_and_its_answers_pass() {
    let rules = r#"{"default": "deny", "deny-flows": true, "rules": [
        {"action": "inspect", "proto": "tcp", "dport": 80},
        {"action": "allow", "proto": "tcp", "dport": 443}]}"#;
    let mut fw = firewall(rules);
    let (a, b) = ((IN, 4000), (OUT, 80));
    assert_eq!(out(&mut fw, tcp(a, b, "S")), Verdict::ToKernel);
    assert_eq!(back(&mut fw, tcp(b, a, "SA")), Verdict::Next);
    assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::ToKernel);
    assert_eq!(back(&mut fw, tcp(b, a, "FA")), Verdict::Next);
    assert_eq!(out(&mut fw, tcp(a, b, "FA")), Verdict::ToKernel);
    assert_eq!(out(&mut fw, tcp((IN, 1), (OUT, 443), "S")), Verdict::Next);
    // From the other side nobody is inspected, whatever the port.
    assert_eq!(back(&mut fw, tcp((OUT, 9), (IN, 80), "S")), DENIED);
    assert_eq!((fw.counter("inspected"), fw.counter("allowed"), fw.counter("new")), (3, 3, 2));
    // A router on the client's side has something to say about what the kernel sent to it; the
    // server knows nothing of that.
    assert_eq!(out(&mut fw, about(&tcp(b, a, "A"), 3, OUT)), Verdict::ToKernel);
    assert_eq!(out(&mut fw, about(&tcp((OUT, 443), (IN, 1), "A"), 3, OUT)), Verdict::Next);
    assert_eq!((fw.counter("related"), fw.counter("inspected")), (2, 4));
    let wrong = r#"{"rules": [{"action": "inspect", "direction": "in"}]}"#;
    let told = Harness::<Firewall>::new(wrong).unwrap_err();
    assert!(told.contains("rules[0]: direction"), "{told}");
}

#[test]
fn a_flow_is_forgotten_when_its_time_is_over() {
    let mut fw = firewall(RULES);
    let (a, b) = ((IN, 4000), (OUT, 53));
    assert_eq!(out(&mut fw, udp(a, b)), Verdict::Next);
    fw.advance(29 * SECOND);
    assert_eq!(back(&mut fw, udp(b, a)), Verdict::Next);
    fw.advance(119 * SECOND);
    assert_eq!(back(&mut fw, udp(b, a)), Verdict::Next, "a stream lives longer");
    fw.advance(121 * SECOND);
    assert_eq!(back(&mut fw, udp(b, a)), DENIED);
}

/// A ping, and its answer.
fn pings() -> [Vec<u8>; 2] {
    let (mut ping, mut pong) = (Vec::new(), Vec::new());
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(IN, OUT, 64);
    step.icmpv4_echo_request(5, 6).write(&mut ping, b"hello").unwrap();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(OUT, IN, 64);
    step.icmpv4_echo_reply(5, 6).write(&mut pong, b"hello").unwrap();
    [ping, pong]
}

#[test]
fn pings_and_errors_about_known_flows_pass() {
    let mut fw = firewall(RULES);
    let [ping, pong] = pings();
    assert_eq!(back(&mut fw, pong.clone()), DENIED);
    assert_eq!(out(&mut fw, ping), Verdict::Next);
    assert_eq!(back(&mut fw, pong), Verdict::Next);
    let error = |quoted: &[u8]| {
        let mut frame = Vec::new();
        let kind =
            Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([9, 9, 9, 9], IN, 64);
        step.icmpv4(kind).write(&mut frame, &quoted[14..]).unwrap();
        frame
    };
    let asked = udp((IN, 4000), (OUT, 53));
    assert_eq!(back(&mut fw, error(&asked)), DENIED, "about nothing we know");
    out(&mut fw, asked.clone());
    assert_eq!(back(&mut fw, error(&asked)), Verdict::Next);
    assert_eq!(back(&mut fw, error(&tcp((IN, 4000), (OUT, 53), "S"))), DENIED);
    assert_eq!(fw.counter("related"), 1);
}

/// Protocols without ports, and IPv6 packets with extension headers, above all pieces of them:
/// whose path is narrower learns that by errors (RFC 1191, RFC 8201).
#[test]
fn errors_about_any_protocol_and_about_fragments_pass() {
    let mut fw =
        firewall(r#"{"default": "deny", "rules": [{"action": "allow", "direction": "out"}]}"#);
    let (from, to) = ([1; 16], [9; 16]);
    let port = |at: u8| [0x10, at, 0, 53];
    let datagram = [&port(1)[..], &[0, 200, 0, 0], &[7; 40]].concat();
    let fragment = |next: u8, word: u8, rest: &[u8]| {
        let header = [next, 0, 0, word, 0, 0, 0, 5];
        ipv6(44, from, to, &[&header[..], rest].concat())
    };
    let options = [&[17, 1, 1, 12][..], &[0; 12], &datagram].concat();
    let sctp = [&port(2)[..], &[3; 24]].concat();
    let sent = [50, 47, 4].map(|protocol| ipv4(protocol, IN, OUT, &[0xab; 32]));
    for sent in sent.into_iter().chain([ipv4(132, IN, OUT, &sctp)]) {
        // Eight bytes behind the header are enough.
        let told = about(&sent[..14 + 28], 3, IN);
        assert_eq!(back(&mut fw, told.clone()), DENIED, "it was not sent");
        assert_eq!(out(&mut fw, sent.clone()), Verdict::Next);
        assert_eq!(back(&mut fw, told), Verdict::Next, "protocol {}", sent[23]);
        assert_eq!(back(&mut fw, about(&sent, 3, [10, 0, 0, 5])), DENIED);
        let mut later = sent.clone();
        later[21] = 3;
        assert_eq!(back(&mut fw, about(&later, 3, IN)), DENIED, "it says nothing of its flow");
    }
    let sent = [50, 47].map(|protocol| ipv6(protocol, from, to, &[0xab; 32])).into_iter();
    let sent = sent.chain([ipv6(132, from, to, &sctp), fragment(17, 1, &datagram)]);
    for sent in sent.chain([fragment(60, 1, &options)]) {
        assert_eq!(out(&mut fw, sent.clone()), Verdict::Next);
        assert_eq!(back(&mut fw, about_v6(&sent, 2, from)), Verdict::Next, "{sent:?}");
        assert_eq!(back(&mut fw, about_v6(&sent, 2, [8; 16])), DENIED);
    }
    assert_eq!(back(&mut fw, about_v6(&fragment(17, 8, &datagram), 2, from)), DENIED);
    // Errors begin no flows, whatever lets them pass.
    let begun = fw.counter("new");
    assert_eq!(out(&mut fw, about(&ipv4(51, OUT, IN, &[0; 32]), 3, OUT)), Verdict::Next);
    assert_eq!((fw.counter("new"), fw.counter("related")), (begun, 9));
}

/// A piece of an IPv4 datagram.
fn piece(id: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut frame = datagram((IN, 4000), (OUT, 53), &[1; 64]);
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame
}

#[test]
fn fragments_follow_their_first_however_many_packets_are_fragmented() {
    let mut fw = firewall(RULES);
    let unknown = Verdict::Drop(reason::FRAGMENT);
    // A link's whole load of them, for longer than any is remembered. They overtake each other a
    // little.
    for (n, pause) in (0..6000_u16).zip([20_000_000, 5_000].into_iter().cycle()) {
        assert_eq!(out(&mut fw, piece(n, 0, true)), Verdict::Next, "{n}");
        fw.advance(pause);
        if let Some(n) = n.checked_sub(20) {
            assert_eq!(out(&mut fw, piece(n, 72, false)), Verdict::Next, "{n}");
        }
    }
    assert_eq!(out(&mut fw, piece(6001, 72, false)), unknown);
    // What the first has told cannot be told once more.
    for offset in [8, 16, 64] {
        assert_eq!(out(&mut fw, piece(5999, offset, true)), Verdict::Drop(reason::MALFORMED));
    }
    fw.advance(31_000_000_000);
    assert_eq!(out(&mut fw, piece(5999, 72, false)), unknown);
}

#[test]
fn fragments_of_ipv6_follow_behind_extension_headers_and_do_not_replace_ports() {
    let mut fw = firewall(r#"{"rules": [{"action": "allow", "proto": "tcp", "dport": 443}]}"#);
    let fragment = |first: &[(u8, usize)], word: u16, payload: &[u8]| {
        // Those before the fragment header, which all pieces have, and it.
        let word = word.to_be_bytes();
        let mut bytes = Vec::new();
        for (n, (_, length)) in first.iter().enumerate() {
            let next = first.get(n + 1).map_or(44, |(kind, _)| *kind);
            bytes.extend([next, (length / 8 - 1) as u8]);
            bytes.resize(bytes.len() + length - 2, 0);
        }
        bytes.extend([60, 0, word[0], word[1], 0, 0, 0, 5]);
        bytes.extend(payload);
        ipv6(first.first().map_or(44, |(kind, _)| *kind), [1; 16], [9; 16], &bytes)
    };
    let tcp = [0x10, 0, 1, 187, 0, 0, 0, 7, 0, 0, 0, 0, 0x60, 2, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let head = [&[6, 2][..], &[0; 22], &tcp].concat();
    for first in [&[][..], &[(0, 16), (43, 24)]] {
        let mut send = |word, payload: &[u8]| out(&mut fw, fragment(first, word, payload));
        assert_eq!(send(48, &[0; 16]), Verdict::Drop(reason::FRAGMENT), "none has come yet");
        assert_eq!(send(1, &head), Verdict::Next);
        assert_eq!(send(48, &[0; 16]), Verdict::Next);
        // Where the ports lie is behind the options.
        assert_eq!(send(25, &[0; 16]), Verdict::Drop(reason::MALFORMED));
        fw.advance(31_000_000_000);
    }
}

/// An ICMP error of this type, to this host, about a frame.
fn about(frame: &[u8], kind: u8, to: [u8; 4]) -> Vec<u8> {
    let mut error = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([9, 9, 9, 9], to, 64);
    step.icmpv4_raw(kind, 0, [0; 4]).write(&mut error, &frame[14..]).unwrap();
    error
}

fn about_v6(frame: &[u8], kind: u8, to: [u8; 16]) -> Vec<u8> {
    let mut error = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([9; 16], to, 64);
    step.icmpv6_raw(kind, 0, [0; 4]).write(&mut error, &frame[14..]).unwrap();
    error
}

#[test]
fn errors_pass_to_who_sent_what_they_quote_and_to_nobody_else() {
    let mut fw = firewall(RULES);
    let (a, b) = ((IN, 4000), (OUT, 443));
    let sent = tcp(a, b, "S");
    out(&mut fw, sent.clone());
    let answer = tcp(b, a, "SA");
    back(&mut fw, answer.clone());
    for kind in [3, 4, 11, 12] {
        assert_eq!(back(&mut fw, about(&sent, kind, IN)), Verdict::Next, "{kind}");
        assert_eq!(out(&mut fw, about(&answer, kind, OUT)), Verdict::Next, "{kind}");
        // By the quotation of one connection, nobody else is reached.
        assert_eq!(back(&mut fw, about(&sent, kind, [10, 0, 0, 5])), DENIED, "{kind}");
        assert_eq!(back(&mut fw, about(&answer, kind, IN)), DENIED, "{kind}");
        assert_eq!(out(&mut fw, about(&sent, kind, OUT)), DENIED, "{kind}");
    }
    assert_eq!(back(&mut fw, about(&sent, 5, IN)), DENIED, "a redirect");
    // Nor by another version's messages.
    let mut odd = about(&sent, 3, IN);
    odd[23] = 58;
    assert_eq!(back(&mut fw, odd), DENIED);
    let (from, to) = ([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], [9; 16]);
    let mut sent = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from, to, 64);
    step.tcp(4000, 443, 1, 1).syn().write(&mut sent, &[]).unwrap();
    out(&mut fw, sent.clone());
    for kind in 0..128 {
        let passes = if (1..=4).contains(&kind) { Verdict::Next } else { DENIED };
        assert_eq!(back(&mut fw, about_v6(&sent, kind, from)), passes, "{kind}");
        assert_eq!(back(&mut fw, about_v6(&sent, kind, [8; 16])), DENIED, "{kind}");
    }
}

#[test]
fn who_is_asked_may_answer_and_not_ask() {
    let mut fw = firewall(RULES);
    let query = |from, to, kind: u8| {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        step.icmpv4_raw(kind, 0, [0, 5, 0, 6]).write(&mut frame, &[0; 12]).unwrap();
        frame
    };
    let ping = query(IN, OUT, 8);
    assert_eq!(out(&mut fw, ping.clone()), Verdict::Next);
    assert_eq!(back(&mut fw, query(OUT, IN, 0)), Verdict::Next);
    for kind in [8, 13, 14, 17, 18] {
        assert_eq!(back(&mut fw, query(OUT, IN, kind)), DENIED, "{kind}");
    }
    assert_eq!(out(&mut fw, query(IN, OUT, 13)), DENIED, "the rule is about another query");
    assert_eq!(back(&mut fw, about(&ping, 11, IN)), Verdict::Next);
    assert_eq!(back(&mut fw, about(&query(IN, OUT, 13), 11, IN)), DENIED);
}

#[test]
fn flows_that_nobody_answers_make_room_and_open_ones_stay() {
    let config = RULES.replacen('{', r#"{"max-flows": 64, "#, 1);
    let mut fw = firewall(&config);
    for port in 0..20 {
        connect(&mut fw, (IN, 1000 + port), (OUT, 443));
    }
    for _ in 0..2 {
        out(&mut fw, udp((IN, 1000), (OUT, 53)));
        back(&mut fw, udp((OUT, 53), (IN, 1000)));
    }
    // Far more than there is room for, of all kinds that wait for something.
    for n in 0..2000 {
        fw.advance(1_000_000_000 / 100);
        let from = ([10, 1, (n >> 8) as u8, n as u8], 5000);
        let first = match n % 4 {
            0 => udp(from, (OUT, 53)),
            _ => tcp(from, (OUT, 443), "S"),
        };
        assert_eq!(out(&mut fw, first), Verdict::Next, "{n}");
        match n % 8 {
            0 => back(&mut fw, udp((OUT, 53), from)),
            1 => back(&mut fw, tcp((OUT, 443), from, "SA")),
            _ => Verdict::Next,
        };
    }
    assert!(fw.counter("given_up") > 1500);
    for port in 0..20 {
        assert_eq!(out(&mut fw, tcp((IN, 1000 + port), (OUT, 443), "A")), Verdict::Next);
    }
    assert_eq!(back(&mut fw, udp((OUT, 53), (IN, 1000))), Verdict::Next);
    connect(&mut fw, (IN, 2000), (OUT, 443));
    // The one that waits for longest goes first: that which has just begun is still there.
    assert_eq!(out(&mut fw, tcp((IN, 3000), (OUT, 443), "S")), Verdict::Next);
    assert_eq!(out(&mut fw, udp((IN, 3001), (OUT, 53))), Verdict::Next);
    assert_eq!(back(&mut fw, tcp((OUT, 443), (IN, 3000), "SA")), Verdict::Next);
    // When all are open, there is no room.
    for port in 4000..4200 {
        let (a, b) = ((IN, port), (OUT, 443));
        out(&mut fw, tcp(a, b, "S"));
        back(&mut fw, tcp(b, a, "SA"));
        out(&mut fw, tcp(a, b, "A"));
    }
    assert!(fw.counter("table_full") > 0);
}

#[test]
fn what_only_one_side_speaks_of_makes_room() {
    let mut fw = firewall(
        r#"{"max-flows": 64, "loose": true, "rules": [
            {"action": "allow", "proto": "tcp", "dport": 443},
            {"action": "allow", "proto": 253, "direction": "out"}]}"#,
    );
    let b = (OUT, 443);
    // Both sides speak of these, one of them with FIN.
    let open = [1000, 1001].map(|port| (IN, port));
    for (a, flags) in open.into_iter().zip(["A", "FA"]) {
        assert_eq!(out(&mut fw, tcp(a, b, flags)), Verdict::Next);
        assert_eq!(back(&mut fw, tcp(b, a, "A")), Verdict::Next);
        assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    }
    assert_eq!(out(&mut fw, ipv4(253, IN, OUT, b"question")), Verdict::Next);
    assert_eq!(back(&mut fw, ipv4(253, OUT, IN, b"answer")), Verdict::Next);
    for n in 0..1000_u32 {
        let from = [10, 1, (n >> 8) as u8, n as u8];
        let frame = match n % 3 {
            0 => ipv4(253, from, OUT, b"question"),
            1 => tcp((from, 5000), b, "A"),
            _ => tcp((from, 5000), b, "FA"),
        };
        for _ in 0..2 {
            assert_eq!(out(&mut fw, frame.clone()), Verdict::Next, "{n}");
        }
    }
    assert!(fw.counter("given_up") > 800);
    for a in open {
        assert_eq!(back(&mut fw, tcp(b, a, "A")), Verdict::Next);
    }
    assert_eq!(back(&mut fw, ipv4(253, OUT, IN, b"answer")), Verdict::Next);
    // Nor is it remembered for long.
    let unheard = (IN, 1002);
    assert_eq!(out(&mut fw, tcp(unheard, b, "A")), Verdict::Next);
    fw.advance(302_000_000_000);
    assert_eq!(back(&mut fw, tcp(b, unheard, "A")), DENIED);
    assert_eq!(back(&mut fw, tcp(b, open[0], "A")), Verdict::Next);
}

#[test]
fn ipv6_neighbours_arp_and_the_rest() {
    let mut fw = firewall(RULES);
    let mut syn = Vec::new();
    let from: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.octets(), [9; 16], 64);
    step.tcp(4000, 443, 1, 1).syn().write(&mut syn, &[]).unwrap();
    assert_eq!(out(&mut fw, syn), Verdict::Next);
    let mut arp = [0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100], &[0x9100, 0x8100]] {
        let tags = tags.iter().flat_map(|kind: &u16| [(kind >> 8) as u8, *kind as u8, 0, 7]);
        let tagged: Vec<u8> =
            arp[..12].iter().copied().chain(tags).chain(arp[12..].to_vec()).collect();
        assert_eq!(out(&mut fw, tagged), Verdict::Next);
    }
    let hidden = [&[0; 12][..], &[0x81, 0, 8, 6, 0x88, 0xb5], &[0; 40]].concat();
    assert_eq!(out(&mut fw, hidden), Verdict::Drop(reason::NON_IP), "a tag of number 0x806");
    assert_eq!(out(&mut fw, vec![0; 60]), Verdict::Drop(reason::NON_IP));
    let mut solicitation = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 255);
    step.icmpv6_raw(135, 0, [0; 4]).write(&mut solicitation, &[0; 16]).unwrap();
    assert_eq!(out(&mut fw, solicitation.clone()), Verdict::Next);
    solicitation[21] = 64;
    assert_eq!(out(&mut fw, solicitation), DENIED, "it came through a router");
}

/// RFC 6105: a rule keeps router advertisements of the outside from getting in.
#[test]
fn rules_that_name_types_decide_about_neighbour_discovery() {
    let mut fw = firewall(
        r#"{"default": "deny", "rules": [
            {"action": "deny", "src": "fe80::/10", "name": "of no type"},
            {"action": "allow", "proto": "icmpv6", "icmp-type": 134, "src": "fe80::1"},
            {"action": "deny", "proto": "icmpv6", "icmp-type": "134,137", "direction": "in", "log": true}]}"#,
    );
    let message = |kind, host| {
        let mut frame = Vec::new();
        let from = [&[0xfe, 0x80][..], &[0; 13], &[host]].concat().try_into().unwrap();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from, [2; 16], 255);
        step.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &[0; 16]).unwrap();
        frame
    };
    for kind in 133..=137 {
        let inward = if kind == 134 || kind == 137 { DENIED } else { Verdict::Next };
        assert_eq!(back(&mut fw, message(kind, 2)), inward, "{kind}");
        assert_eq!(out(&mut fw, message(kind, 2)), Verdict::Next, "{kind}");
    }
    assert_eq!(back(&mut fw, message(134, 1)), Verdict::Next);
    assert_eq!((fw.counter("denied"), fw.log().len()), (2, 2));
}

#[test]
fn a_flow_of_one_vlan_is_none_of_another() {
    let mut fw = firewall(RULES);
    let (a, b) = ((IN, 4000), (OUT, 53));
    let [echo, reply] = pings();
    let error = about(&udp(a, b), 3, IN);
    for there in [&[][..], &[10], &[20], &[10, 20]] {
        assert_eq!(out(&mut fw, tagged(&udp(a, b), there)), Verdict::Next);
        assert_eq!(out(&mut fw, tagged(&echo, there)), Verdict::Next);
        let others: [&[u16]; 4] = [&[11], &[10, 21], &[11, 20], &[20, 10]];
        for (vlans, expected) in
            others.into_iter().map(|other| (other, DENIED)).chain([(there, Verdict::Next)])
        {
            for frame in [udp(b, a), reply.clone(), error.clone()] {
                assert_eq!(back(&mut fw, tagged(&frame, vlans)), expected, "{there:?} {vlans:?}");
            }
        }
    }
    // Nor do fragments follow into another.
    assert_eq!(out(&mut fw, tagged(&piece(1, 0, true), &[10])), Verdict::Next);
    let later = |vlan: u16| tagged(&piece(1, 128, false), &[vlan]);
    assert_eq!(out(&mut fw, later(11)), Verdict::Drop(reason::FRAGMENT));
    assert_eq!(out(&mut fw, later(10)), Verdict::Next);
}

/// By somebody who sees the connection, or by chance.
#[test]
fn an_idle_connection_outlives_a_reset_that_nobody_heeds() {
    let (a, b) = ((IN, 4000), (OUT, 443));
    let mut fw = firewall(RULES);
    connect(&mut fw, a, b);
    back(&mut fw, segment(b, a, "R", (9, 0), b""));
    fw.advance(200 * SECOND);
    assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    assert_eq!(back(&mut fw, tcp(b, a, "A")), Verdict::Next);
    fw.advance(20_000 * SECOND);
    assert_eq!(back(&mut fw, tcp(b, a, "A")), Verdict::Next, "it is open");
    back(&mut fw, segment(b, a, "R", (9, 0), b""));
    fw.advance(241 * SECOND);
    assert_eq!(out(&mut fw, tcp(a, b, "A")), INVALID);
}

/// Who does not see a connection does not know what is expected next (RFC 5961, section 3).
#[test]
fn a_reset_with_another_number_leaves_a_connection_open() {
    let (a, b) = ((IN, 4000), (OUT, 443));
    for tags in [&[][..], &[10]] {
        let mut fw = firewall(RULES);
        let open = |fw: &mut Harness<Firewall>| {
            out(fw, tagged(&tcp(a, b, "S"), tags));
            back(fw, tagged(&segment(b, a, "SA", (1000, 8), b""), tags));
            out(fw, tagged(&segment(a, b, "A", (8, 1001), b""), tags));
            back(fw, tagged(&segment(b, a, "PA", (1001, 8), b"hello"), tags));
            out(fw, tagged(&segment(a, b, "PA", (8, 1006), b"hi"), tags))
        };
        assert_eq!(open(&mut fw), Verdict::Next);
        for sequence in [0, 1001, 1005, 1007, 1006 + (1 << 31)] {
            for flags in ["R", "RA"] {
                let forged = segment(b, a, flags, (sequence, 8), b"");
                assert_eq!(back(&mut fw, tagged(&forged, tags)), Verdict::Next, "it may be right");
            }
        }
        fw.advance(7200 * SECOND);
        let alive = segment(a, b, "A", (9, 1006), b"");
        assert_eq!(out(&mut fw, tagged(&alive, tags)), Verdict::Next);
        // Who has no other packet after it is forgotten, if later.
        fw.advance(400_000 * SECOND);
        assert_eq!(out(&mut fw, tagged(&alive, tags)), Verdict::Next, "as long as before");
        back(&mut fw, tagged(&segment(b, a, "R", (1007, 0), b""), tags));
        fw.advance(7441 * SECOND);
        assert_eq!(out(&mut fw, tagged(&alive, tags)), INVALID);
        // The number that is expected ends it, from either side.
        for (from, to, sequence) in [(b, a, 1006), (a, b, 8)] {
            open(&mut fw);
            let reset = tagged(&segment(from, to, "R", (sequence, 0), b""), tags);
            if from == b {
                back(&mut fw, reset)
            } else {
                out(&mut fw, reset)
            };
            fw.advance(241 * SECOND);
            assert_eq!(out(&mut fw, tagged(&alive, tags)), INVALID);
        }
    }
}

#[test]
fn a_rejected_connection_is_reset() {
    let mut fw = firewall(RULES);
    assert_eq!(out(&mut fw, tcp((IN, 4000), (OUT, 25), "S")), DENIED);
    let sent = fw.sent();
    assert_eq!(sent.len(), 1);
    let packet = etherparse::SlicedPacket::from_ethernet(&sent[0].bytes).unwrap();
    let Some(etherparse::TransportSlice::Tcp(reset)) = &packet.transport else { panic!("no TCP") };
    assert!(reset.rst() && reset.ack() && reset.acknowledgment_number() == 7 + 1 + 4);
    assert_eq!((reset.source_port(), reset.destination_port()), (25, 4000));
    // A hundred a second.
    for second in 1..3 {
        fw.advance(1_000_000_000);
        for _ in 0..150 {
            assert_eq!(out(&mut fw, tcp((IN, 4000), (OUT, 25), "S")), DENIED);
        }
        assert_eq!((fw.sent().len(), fw.counter("rejected")), (100, 1 + second * 100));
    }
}

#[test]
fn flows_outlive_the_instance() {
    let mut fw = firewall(RULES);
    let (a, b) = ((IN, 4000), (OUT, 443));
    out(&mut fw, tcp(a, b, "S"));
    back(&mut fw, tcp(b, a, "SA"));
    assert!(fw.swap(r#"{"default": "deny"}"#).unwrap(), "the state was taken over");
    assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    assert_eq!(out(&mut fw, tcp((IN, 4001), b, "S")), DENIED);
}

#[test]
fn shorter_timeouts_end_no_connection_that_goes_on() {
    let config = |seconds: u32| {
        let changed = format!(r#"{{"max-flows": 64, "state": {{"tcp-established": {seconds}}}, "#);
        RULES.replacen('{', &changed, 1)
    };
    let mut fw = firewall(&config(432_000));
    let (a, silent, b) = ((IN, 4000), (IN, 4001), (OUT, 443));
    connect(&mut fw, a, b);
    connect(&mut fw, silent, b);
    assert!(fw.swap(config(7200)).unwrap(), "the state was taken over");
    // In a full table neither is in the way of the other, nor given up.
    for n in 0..200 {
        out(&mut fw, udp(([10, 1, 0, n], 5000), (OUT, 53)));
    }
    for _ in 0..10 {
        fw.advance(720 * SECOND);
        assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    }
    assert_eq!(fw.gauge("flows"), Some(2.0), "those that ended were swept");
    for _ in 0..7 {
        fw.advance(720 * SECOND);
        assert_eq!(out(&mut fw, tcp(a, b, "A")), Verdict::Next);
    }
    assert_eq!(out(&mut fw, tcp(silent, b, "A")), INVALID);
}

#[test]
fn ten_thousand_rules_decide_like_a_list() {
    let mut rules = Vec::new();
    for n in 0..10_000u32 {
        let action = if n % 3 == 0 { "deny" } else { "allow" };
        let (a, b) = (n % 200, n / 200);
        rules.push(format!(
            r#"{{"action": "{action}", "proto": "udp", "src": "10.{a}.0.0/16", "dst": "192.0.{b}.0/24", "dport": {}}}"#,
            1 + n % 7
        ));
    }
    let config = format!(r#"{{"rules": [{}]}}"#, rules.join(","));
    let mut fw = firewall(&config);
    for n in (0..10_000u32).step_by(97) {
        let (a, b) = ((n % 200) as u8, (n / 200) as u8);
        let verdict = out(&mut fw, udp(([10, a, 1, 1], 9), ([192, 0, b, 5], 1 + (n % 7) as u16)));
        assert_eq!(verdict, if n % 3 == 0 { DENIED } else { Verdict::Next }, "rule {n}");
        let other = out(&mut fw, udp(([10, a, 1, 1], 9), ([192, 0, b, 5], 99)));
        assert_eq!(other, DENIED);
    }
}

#[test]
fn mistakes_name_rule_and_key() {
    let refused = |config: &str| Harness::<Firewall>::new(config).unwrap_err();
    assert!(
        refused(r#"{"rules": [{"action": "allow"}, {"action": "alow"}]}"#)
            .contains("rules[1]: action")
    );
    assert!(refused(r#"{"defualt": "deny"}"#).contains("defualt"));
    assert!(refused(r#"{"max-flows": 1}"#).contains("max-flows: 1; allowed are 64 to 4194304"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 1..120), at in 14usize..60, reverse: bool) {
        let mut fw = firewall(r#"{"default": "reject"}"#);
        let mut frame = tcp((IN, 1), (OUT, 2), "S");
        for (n, byte) in bytes.iter().enumerate() {
            let len = frame.len();
            frame[(at + n) % len] ^= byte & bytes[0];
        }
        for frame in [Frame::new(frame), Frame::new(bytes)] {
            fw.run(if reverse { frame.reverse() } else { frame });
        }
    }
}

#[test]
fn a_flow_is_denied_as_a_whole_only_if_nobody_may_open_it() {
    let rules = RULES.replacen('{', r#"{"deny-flows": true, "#, 1);
    let mut fw = firewall(&rules);
    let whole = |fw: &mut Harness<Firewall>, frame: Vec<u8>, reverse: bool| {
        let frame = Frame::new(frame);
        let outcome = fw.run(if reverse { frame.port(1).reverse() } else { frame });
        assert!(outcome.verdict != Verdict::Next, "{outcome:?}");
        outcome.whole_flow
    };
    let outside = ([192, 0, 2, 9], 4000);
    assert!(whole(&mut fw, tcp(outside, (OUT, 22), "S"), false));
    assert!(whole(&mut fw, udp(outside, (OUT, 53)), true));
    // The other side may open it, and then this one has a say.
    assert!(!whole(&mut fw, udp((OUT, 53), (IN, 4000)), true));
    assert_eq!(out(&mut fw, udp((IN, 4000), (OUT, 53))), Verdict::Next);
    assert_eq!(back(&mut fw, udp((OUT, 53), (IN, 4000))), Verdict::Next);
    // It may be opened in the other direction of the chain.
    assert!(!whole(&mut fw, tcp((IN, 4000), (OUT, 443), "S"), true));
    // Every packet is to be logged, or answered.
    assert!(!whole(&mut fw, tcp(outside, ([192, 0, 2, 66], 22), "S"), false));
    assert!(!whole(&mut fw, tcp(outside, (OUT, 25), "S"), false));
    // Fragments have ports of 0 to the host.
    assert!(!whole(&mut fw, udp((outside.0, 0), (OUT, 9)), false));
    // Nobody asked for it.
    let mut fw = firewall(RULES);
    assert!(!whole(&mut fw, tcp(outside, (OUT, 22), "S"), false));
}

proptest! {
    #[test]
    fn whatever_comes_later_a_flow_that_was_denied_as_a_whole_never_passes(
        first in (0..4_usize, any::<bool>(), any::<bool>()),
        later in prop::collection::vec((0..4_usize, any::<bool>(), any::<bool>()), 0..20),
    ) {
        let rules = RULES.replacen('{', r#"{"deny-flows": true, "loose": true, "#, 1);
        let mut fw = firewall(&rules);
        let ends = [(IN, OUT, 53), (IN, OUT, 22), ([192, 0, 2, 9], OUT, 53), (IN, [192, 0, 2, 8], 443)];
        let frame = |(of, swap, reverse): (usize, bool, bool)| {
            let (from, to, port) = ends[of];
            let (from, to) = ((from, 4000), (to, port));
            let (from, to) = if swap { (to, from) } else { (from, to) };
            let frame = Frame::new(if of % 2 == 0 { udp(from, to) } else { tcp(from, to, "A") });
            if reverse { frame.port(1).reverse() } else { frame }
        };
        if fw.run(frame(first)).whole_flow {
            for one in later {
                let outcome = fw.run(frame(one));
                prop_assert!(one.0 != first.0 || outcome.verdict != Verdict::Next);
            }
        }
    }
}
