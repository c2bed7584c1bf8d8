//! Where `nat` differs from Linux on purpose: what each does with the same packet. README.md says
//! why.

use weir_sdk::checksum::internet;

use crate::both::{Both, EXTERNAL, Setup, comparable};
use crate::connection::Connection;
use crate::frames::{
    L3, Segment, changed, destination, error, fragments, ipv4, query, source, tcp, udp,
};
use crate::linux::Side::{Inside, Outside};
use crate::linux::{Out, Side};
use crate::{FORWARDS, HOST, PEER, ROUTER, SERVER, STRANGER, payload};

/// What comes out of either, without what a router does to each packet.
struct Apart {
    ours: Vec<Out>,
    linux: Vec<Out>,
}

fn apart(both: &mut Both, side: Side, frames: &[Vec<u8>]) -> Apart {
    let plain = |out: Vec<Out>, bump: bool| {
        let plain = |out: Out| Out { bytes: comparable(out.bytes, bump), ..out };
        out.into_iter().map(plain).collect()
    };
    let (ours, linux) = (both.ours(side, frames), both.linux.pass(side, frames));
    Apart { ours: plain(ours, true), linux: plain(linux, false) }
}

/// Of one frame that only `nat` lets through, and of one that only Linux does.
fn only_ours(both: &mut Both, side: Side, frame: &[u8]) -> Vec<u8> {
    let mut out = apart(both, side, &[frame.to_vec()]);
    assert_eq!((out.ours.len(), out.linux.len()), (1, 0));
    out.ours.remove(0).bytes
}

fn only_linux(both: &mut Both, side: Side, frame: &[u8]) -> Vec<u8> {
    let mut out = apart(both, side, &[frame.to_vec()]);
    assert_eq!((out.ours.len(), out.linux.len()), (0, 1));
    out.linux.remove(0).bytes
}

#[test]
fn a_mapping_is_the_same_for_all_peers() {
    let mut both = Both::new(&Setup::default());
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    // Another host's port 5000: Linux gives the same external port to both, as long as their peers
    // differ.
    let frame = udp((SERVER, 5000), (STRANGER, 53), b"question");
    let out = apart(&mut both, Inside, &[frame]);
    let (ours, linux) = (source(&out.ours[0].bytes), source(&out.linux[0].bytes));
    assert_eq!(linux, (EXTERNAL, 5000));
    assert!(ours.0 == EXTERNAL && ours.1 != 5000);
    // The port is all that differs.
    let again = udp(ours, (STRANGER, 53), b"question");
    let again = comparable(changed(&again, |_| {}), true);
    assert_eq!(out.ours[0].bytes, again);
    assert_eq!(out.linux[0].bytes, comparable(udp(linux, (STRANGER, 53), b"question"), true));
    // Its other peers see the external port that it has; Linux's see whichever is free.
    for (n, peer) in [(PEER, 54), (STRANGER, 54), (ROUTER, 53)].into_iter().enumerate() {
        let out = apart(&mut both, Inside, &[udp((SERVER, 5000), peer, &payload(n))]);
        assert_eq!(source(&out.ours[0].bytes), ours);
        assert_eq!(source(&out.linux[0].bytes), (EXTERNAL, 5000));
    }
}

#[test]
fn hosts_reach_each_others_mappings_from_inside() {
    let mut both = Both::new(&Setup::default());
    // Two hosts that tell each other their external ports (RFC 4787, REQ-9; RFC 5128, section 3.3).
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    both.one(Inside, &udp((SERVER, 6000), (PEER, 53), b"question"));
    let (one, other) = ((EXTERNAL, 5000), (EXTERNAL, 6000));
    // The first packet opens the way for the second's. Linux takes both for its own.
    let none = apart(&mut both, Inside, &[udp((HOST, 5000), other, b"knock")]);
    assert_eq!((none.ours, none.linux), (vec![], vec![]));
    let there = only_ours(&mut both, Inside, &udp((SERVER, 6000), one, b"knock"));
    assert_eq!((source(&there), destination(&there)), (other, (HOST, 5000)));
    let back = only_ours(&mut both, Inside, &udp((HOST, 5000), other, b"hello"));
    assert_eq!((source(&back), destination(&back)), (one, (SERVER, 6000)));
}

#[test]
fn a_forwarded_endpoint_has_its_external_port_as_a_client_too() {
    let mut both = Both::new(&Setup { forward: FORWARDS, ..Setup::default() });
    let out = apart(&mut both, Inside, &[udp((SERVER, 5353), (PEER, 123), b"question")]);
    assert_eq!(source(&out.ours[0].bytes), (EXTERNAL, 53));
    assert_eq!(source(&out.linux[0].bytes), (EXTERNAL, 5353));
}

#[test]
fn who_waits_for_an_answer_makes_room_when_ports_run_out() {
    let setup = Setup { ports: (2000, 2003), max_flows: 64, ..Setup::default() };
    let mut both = Both::new(&setup);
    let asked = |n: u8| {
        let host = ([10, 0, 0, n], 5000);
        let syn = tcp(host, (PEER, 80), &Segment::bare("S", 1));
        [udp(host, (PEER, 53), b"question"), syn, query(host.0, PEER, 8, 5000, b"ping")]
    };
    for frame in (0..4).flat_map(asked) {
        both.one(Inside, &frame);
    }
    for frame in asked(4) {
        let left = only_ours(&mut both, Inside, &frame);
        assert_eq!(left[26..30], EXTERNAL);
    }
}

#[test]
fn connections_are_not_judged() {
    let mut both = Both::new(&Setup::default());
    let mut connection = Connection::open(&mut both, (HOST, 40_000), (PEER, 443), 1000);
    let ends = ((HOST, 40_000), (PEER, 443));
    // Far outside of the window: conntrack calls it invalid, and the rules drop that.
    let wild = Segment {
        flags: "A",
        sequence: 2_000_000_000,
        acknowledged: 2_100_000_000,
        payload: b"wild",
    };
    only_ours(&mut both, Inside, &tcp(ends.0, ends.1, &wild));
    only_ours(&mut both, Outside, &tcp(ends.1, (EXTERNAL, 40_000), &wild));
    // Flags that nobody sends, and segments that cannot be a connection's first.
    let mut odd = connection.frame(true, "A", &[]);
    odd[47] = 0x29;
    only_ours(&mut both, Inside, &odd);
    for flags in ["RA", "SA", "FA"] {
        only_ours(&mut both, Inside, &tcp((HOST, 40_001), ends.1, &Segment::bare(flags, 1)));
    }
}

#[test]
fn checksums_are_not_judged() {
    let mut both = Both::new(&Setup::default());
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    let spoilt = |mut frame: Vec<u8>, at: usize| {
        frame[at] ^= 0x10;
        frame
    };
    // Linux drops these; here they are as wrong afterwards as they were.
    let header =
        only_ours(&mut both, Inside, &spoilt(udp((HOST, 5000), (PEER, 53), b"question"), 25));
    assert_ne!(internet(&header[L3..L3 + 20]), 0);
    only_ours(&mut both, Inside, &spoilt(udp((HOST, 5000), (PEER, 53), b"question"), 45));
    only_ours(&mut both, Outside, &spoilt(udp((PEER, 53), (EXTERNAL, 5000), b"answer"), 45));
    let about = udp((EXTERNAL, 5000), (PEER, 53), b"question");
    let wrong = spoilt(error(ROUTER, EXTERNAL, (3, 1), &about, 28), 36);
    only_ours(&mut both, Outside, &wrong);
    // Also where it is told not to look at the checksums of what it tracks.
    let mut both = Both::new(&Setup { wrong_checksums: true, ..Setup::default() });
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    let told = only_ours(&mut both, Outside, &wrong);
    assert_ne!(internet(&told[L3 + 20..]), 0);
}

#[test]
fn a_quoted_checksum_is_changed_if_it_is_there() {
    let mut both = Both::new(&Setup::default());
    let mut connection = Connection::open(&mut both, (HOST, 40_000), (PEER, 443), 1000);
    let inside = connection.frame(true, "PA", &payload(9));
    let about = both.one(Inside, &inside);
    for quoted in 38..=40 {
        let told = error(ROUTER, EXTERNAL, (3, 1), &about, quoted);
        let out = apart(&mut both, Outside, &[told]);
        let checksum = |out: &[Out]| out[0].bytes[78..80].to_vec();
        // The segment as the host sent it. Linux looks at whole TCP headers only.
        assert_eq!(checksum(&out.ours), inside[50..52]);
        assert_eq!(checksum(&out.linux) == inside[50..52], quoted == 40);
    }
}

#[test]
fn protocols_without_ports_are_refused() {
    let mut both = Both::new(&Setup::default());
    let left = only_linux(&mut both, Inside, &ipv4(HOST, PEER, 253, &payload(40)));
    assert_eq!(left, comparable(ipv4(EXTERNAL, PEER, 253, &payload(40)), true));
}

#[test]
fn fragments_are_not_put_together() {
    let mut both = Both::new(&Setup::default());
    let whole = udp((HOST, 5000), (PEER, 53), &payload(3000));
    let mut pieces = fragments(&whole, 1480);
    pieces.swap(0, 2);
    // Linux reassembles what it translates; here a fragment has to come after the first.
    let out = apart(&mut both, Inside, &pieces);
    assert_eq!((out.ours.len(), out.linux.len()), (1, 3));
    assert_eq!(out.ours[0], out.linux[0]);
    // Fragments go on at once, not when the packet is whole.
    let first = fragments(&changed(&whole, |header| header.identification = 9), 1480).remove(0);
    only_ours(&mut both, Inside, &first);
    // And a first one has all of its transport header (RFC 1858).
    let segment = tcp((HOST, 4000), (PEER, 80), &Segment::bare("S", 1));
    let out = apart(&mut both, Inside, &fragments(&segment, 8));
    assert_eq!((out.ours.len(), out.linux.len()), (0, 5));
}

#[test]
fn padding_stays() {
    let mut both = Both::new(&Setup::default());
    let mut padded = udp((HOST, 5000), (PEER, 53), b"q");
    let length = padded.len();
    padded.resize(60, 0);
    let out = apart(&mut both, Inside, &[padded]);
    assert_eq!((out.ours[0].bytes.len(), out.linux[0].bytes.len()), (60, length));
    assert_eq!(out.ours[0].bytes[..length], out.linux[0].bytes);
}

#[test]
fn a_closed_connections_ports_stay_with_it() {
    let mut both = Both::new(&Setup::default());
    // Below the ports to give out, so that both choose another.
    let mut connection = Connection::open(&mut both, (HOST, 123), (PEER, 80), 1000);
    connection.close(&mut both);
    let before = connection.external();
    let before_in_linux = both.ports.of_linux(6, before.1, (PEER, 80));
    let syn = tcp((HOST, 123), (PEER, 80), &Segment::bare("S", 3_000_000));
    let out = apart(&mut both, Inside, &[syn]);
    assert_eq!(source(&out.ours[0].bytes), before);
    assert_ne!(source(&out.linux[0].bytes).1, before_in_linux);
}

#[test]
fn the_external_address_answers_no_ping() {
    let mut both = Both::new(&Setup::default());
    let input = query(HOST, EXTERNAL, 8, 7, b"ping");
    // Linux would, if `kernel.py` let it.
    both.none(Inside, &input);
    both.none(Outside, &query(PEER, EXTERNAL, 8, 7, b"ping"));
}
