//! Hosts in VLANs, which may have the same addresses.

use super::*;

const OTHER_PEER: [u8; 4] = [198, 51, 100, 8];
const VLANS: [&[u16]; 5] = [&[], &[10], &[11], &[100, 10], &[100, 11]];

/// The identifiers of a frame's tags.
fn vlans(frame: &[u8]) -> Vec<u16> {
    let tags = frame[12..].chunks(4).take_while(|chunk| chunk[..2] == [0x81, 0]);
    tags.map(|tag| u16::from_be_bytes([tag[2], tag[3]]) & 0xfff).collect()
}

#[test]
fn hosts_with_one_address_have_ports_of_their_own() {
    let mut nat = nat("");
    let mut ports = Vec::new();
    for host in VLANS {
        let sent = out(&mut nat, tagged(&udp((INSIDE, 5000), (PEER, 53)), host)).bytes;
        let ((address, port), peer) = ends(&sent);
        assert_eq!((address, peer, vlans(&sent)), (EXTERNAL, (PEER, 53), host.to_vec()));
        assert!(!ports.contains(&port), "{port} is another host's");
        ports.push(port);
        let again = out(&mut nat, tagged(&udp((INSIDE, 5000), (OTHER_PEER, 53)), host)).bytes;
        assert_eq!(ends(&again).0, (EXTERNAL, port), "one mapping, whoever the peer is");
    }
    for (host, port) in VLANS.iter().zip(ports) {
        let answer = udp((PEER, 53), (EXTERNAL, port));
        // What comes by other VLANs goes to the host's, if that takes as many tags.
        for by in [*host, &[20], &[200, 20]] {
            let got = back(&mut nat, tagged(&answer, by)).bytes;
            assert_eq!(ends(&got), ((PEER, 53), (INSIDE, 5000)));
            let expected = if by.len() == host.len() { host } else { by };
            assert_eq!(vlans(&got), expected, "{host:?} {by:?}");
        }
    }
    assert_eq!(nat.counter("flows_opened"), 10);
}

#[test]
fn an_answer_keeps_what_else_is_in_its_tags() {
    let mut nat = nat("");
    out(&mut nat, tagged(&tcp((INSIDE, 5000), (PEER, 80), "S"), &[100, 10]));
    let mut answer = tagged(&tcp((PEER, 80), (EXTERNAL, 5000), "SA"), &[200, 20]);
    (answer[12], answer[13]) = (0x88, 0xa8);
    (answer[14], answer[18]) = (0xa0, 0x70);
    let got = back(&mut nat, answer).bytes;
    assert_eq!(got[12..20], [0x88, 0xa8, 0xa0, 100, 0x81, 0, 0x70, 10]);
}

#[test]
fn a_priority_is_no_vlan() {
    let mut nat = nat("");
    out(&mut nat, tagged(&udp((INSIDE, 5000), (PEER, 53)), &[0]));
    out(&mut nat, udp((INSIDE, 5000), (PEER, 53)));
    assert_eq!(nat.counter("flows_opened"), 1);
}

#[test]
fn errors_are_about_the_flow_of_their_vlan() {
    let mut nat = nat("");
    let unreachable = |from, to, quoted: &[u8]| {
        let port = etherparse::icmpv4::DestUnreachableHeader::Port;
        icmp(from, to, Icmpv4Type::DestinationUnreachable(port), quoted)
    };
    for host in [&[10], &[11]] {
        let sent = out(&mut nat, tagged(&udp((INSIDE, 5000), (PEER, 53)), host)).bytes;
        let (_, port) = ends(&sent).0;
        let error = unreachable([192, 0, 2, 99], EXTERNAL, &sent[18..]);
        let got = back(&mut nat, tagged(&error, &[20])).bytes;
        assert_eq!((ends(&got).1.0, vlans(&got)), (INSIDE, host.to_vec()));
        let quoted = [&[0; 12][..], &[8, 0], &got[18 + 20 + 8..]].concat();
        assert_eq!(ends(&quoted), ((INSIDE, 5000), (PEER, 53)));
        // From the inside, it quotes what came in.
        let arrived = back(&mut nat, tagged(&udp((PEER, 53), (EXTERNAL, port)), host)).bytes;
        let error = tagged(&unreachable(INSIDE, PEER, &arrived[18..]), host);
        let got = out(&mut nat, error).bytes;
        let quoted = [&[0; 12][..], &[8, 0], &got[18 + 20 + 8..]].concat();
        assert_eq!(ends(&quoted), ((PEER, 53), (EXTERNAL, port)));
    }
    let of_nobody = unreachable(INSIDE, PEER, &udp((PEER, 53), (INSIDE, 5000))[14..]);
    let got = out(&mut nat, tagged(&of_nobody, &[12]));
    assert_eq!(got.verdict, Verdict::Drop(reason::UNMATCHED));
}

#[test]
fn fragments_follow_the_first_of_their_vlan_and_into_that_of_their_host() {
    let mut nat = nat("");
    let whole = udp((INSIDE, 5000), (PEER, 53));
    let first = out(&mut nat, tagged(&piece(7, 0, true, whole.clone()), &[10]));
    assert_eq!(first.bytes[30..34], EXTERNAL);
    let later = piece(7, 16, false, whole);
    let got = out(&mut nat, tagged(&later, &[11]));
    assert_eq!(got.verdict, Verdict::Drop(reason::FRAGMENT));
    assert_eq!(out(&mut nat, tagged(&later, &[10])).bytes[30..34], EXTERNAL);
    let answer = udp((PEER, 53), (EXTERNAL, 5000));
    for (offset, more) in [(0, true), (16, false)] {
        let piece = piece(8, offset, more, answer.clone());
        let got = back(&mut nat, tagged(&piece, &[20])).bytes;
        assert_eq!((&got[34..38], vlans(&got)), (&INSIDE[..], vec![10]));
    }
}

#[test]
fn hosts_reach_each_other_across_vlans_by_their_external_addresses() {
    let mut nat = nat(r#", "filtering": "endpoint-independent""#);
    let [mine, other] = [10, 11].map(|host| {
        ends(&out(&mut nat, tagged(&udp((INSIDE, 5000), (PEER, 53)), &[host])).bytes).0
    });
    for (from, to, port, vlan) in [(10, other, mine, 11), (11, mine, other, 10)] {
        let got = out(&mut nat, tagged(&udp((INSIDE, 5000), to), &[from]));
        assert_eq!((got.verdict, vlans(&got.bytes)), (Verdict::Reply, vec![vlan]));
        assert_eq!(ends(&got.bytes), (port, (INSIDE, 5000)));
    }
}

#[test]
fn a_forward_leads_into_its_vlan_or_stays_in_the_packets() {
    let mut nat = nat(r#", "forward": [
        {"proto": "tcp", "port": 80, "to": "10.0.0.3:8080"},
        {"proto": "tcp", "port": 81, "to": "10.0.0.3:8081", "vlans": [11]},
        {"proto": "tcp", "port": 82, "to": "10.0.0.3:8081", "vlans": [100, 11]}]"#);
    let cases: [(u16, u16, &[u16], &[u16]); 6] = [
        (80, 8080, &[], &[]),
        (80, 8080, &[10], &[10]),
        (80, 8080, &[100, 10], &[100, 10]),
        (81, 8081, &[11], &[11]),
        (81, 8081, &[20], &[11]),
        (82, 8081, &[200, 20], &[100, 11]),
    ];
    for (client, (port, inside, by, target)) in (1000..).zip(cases) {
        let syn = tcp((PEER, client), (EXTERNAL, port), "S");
        let got = back(&mut nat, tagged(&syn, by)).bytes;
        assert_eq!((ends(&got).1, vlans(&got)), ((OTHER, inside), target.to_vec()));
        let answer = out(&mut nat, tagged(&tcp((OTHER, inside), (PEER, client), "SA"), target));
        assert_eq!(ends(&answer.bytes), ((EXTERNAL, port), (PEER, client)));
        // What it opens itself leaves by the port, too.
        let opened = tcp((OTHER, inside), (OTHER_PEER, client), "S");
        assert_eq!(ends(&out(&mut nat, tagged(&opened, target)).bytes).0, (EXTERNAL, port));
    }
    // The same address in another VLAN is somebody else.
    let stranger = tagged(&tcp((OTHER, 8081), (PEER, 7), "S"), &[12]);
    let (_, port) = ends(&out(&mut nat, stranger).bytes).0;
    assert!(![80, 81, 82].contains(&port), "{port}");
}

#[test]
fn a_limit_of_ports_is_for_each_of_them() {
    let mut nat = nat(r#", "max-ports-per-host": 2"#);
    for host in VLANS {
        for (port, verdict) in
            [(1, Verdict::Next), (2, Verdict::Next), (3, Verdict::Drop(reason::HOST))]
        {
            let sent = out(&mut nat, tagged(&udp((INSIDE, port), (PEER, 53)), host));
            assert_eq!(sent.verdict, verdict, "{host:?} {port}");
        }
    }
    assert!(nat.function().table.counts_right());
}

#[test]
fn a_wrong_vlan_of_a_forward_is_named() {
    for vlans in ["[0]", "[4095]", "[1, 2, 3]"] {
        let config = format!(
            r#"{{"external": ["192.0.2.1"], "forward": [{{"proto": "tcp", "port": 1, "to": "10.0.0.5:1", "vlans": {vlans}}}]}}"#
        );
        let error = Harness::<Nat>::new(config).unwrap_err();
        assert!(error.contains("forward[0].vlans: ") && error.contains("1 to 4094"), "{error}");
    }
}
