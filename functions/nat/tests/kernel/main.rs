//! The same packets through this NAT and through Linux's (nftables in a network namespace),
//! compared to the byte. What is not the same on purpose is in `differences`, each with what it is.
//!
//! `kernel.py` drives the kernel; its namespaces end with it. `both` says what may differ in a
//! comparison.

mod both;
mod connection;
mod differences;
mod errors;
mod frames;
mod limits;
mod linux;
mod random;

use both::{Both, EXTERNAL, Setup};
use connection::Connection;
use frames::{End, changed, error, fragments, query, udp, with_options};
use linux::Side::{Inside, Outside};

const HOST: [u8; 4] = [10, 0, 0, 2];
const SERVER: [u8; 4] = [10, 0, 0, 3];
const PEER: [u8; 4] = [198, 51, 100, 7];
const STRANGER: [u8; 4] = [198, 51, 100, 8];
/// A router on the way.
const ROUTER: [u8; 4] = [192, 0, 2, 99];

/// Lengths of payloads: none, odd, even, as much as a frame takes.
const LENGTHS: [usize; 6] = [0, 1, 2, 3, 535, 1400];

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + length) as u8).collect()
}

#[test]
fn tcp_connections() {
    let mut both = Both::new(&Setup::default());
    // The first two once more with the same ports. (Where Linux changed the port it then takes yet
    // another.)
    for (host, peer, sequence) in [
        ((HOST, 40_000), (PEER, 443), 1000),
        ((SERVER, 40_001), (PEER, 80), 1000),
        ((HOST, 40_000), (PEER, 443), 3_000_000),
        ((SERVER, 40_001), (PEER, 80), 3_000_000),
        ((HOST, 123), (STRANGER, 80), u32::MAX - 100),
    ] {
        let mut connection = Connection::open(&mut both, host, peer, sequence);
        for length in LENGTHS {
            connection.out(&mut both, "PA", &payload(length));
            connection.back(&mut both, "A", &[]);
            connection.back(&mut both, "PA", &payload(length + 1));
            connection.out(&mut both, "A", &[]);
        }
        connection.close(&mut both);
    }
    println!("{:?} packets in and out", both.counts);
}

#[test]
fn tcp_connections_that_are_refused_or_reset() {
    let mut both = Both::new(&Setup { masquerade: true, ..Setup::default() });
    let mut refused = Connection::new((HOST, 40_000), (PEER, 81), 7);
    refused.out(&mut both, "S", &[]);
    refused.back(&mut both, "RA", &[]);
    // Again with the same ports.
    refused.out(&mut both, "S", &[]);
    refused.back(&mut both, "RA", &[]);
    for from_inside in [true, false] {
        let mut reset = Connection::open(&mut both, (HOST, 40_002), (PEER, 443), 9);
        if from_inside {
            reset.out(&mut both, "RA", &[]);
        } else {
            reset.back(&mut both, "RA", &[]);
        }
    }
    let mut half_closed = Connection::open(&mut both, (HOST, 40_003), (PEER, 443), 9);
    half_closed.out(&mut both, "FA", &[]);
    for length in LENGTHS {
        half_closed.back(&mut both, "PA", &payload(length));
        half_closed.out(&mut both, "A", &[]);
    }
    half_closed.back(&mut both, "FA", &[]);
    half_closed.out(&mut both, "A", &[]);
}

#[test]
fn tcp_opened_from_both_ends_at_once() {
    let mut both = Both::new(&Setup::default());
    let mut connection = Connection::new((HOST, 40_000), (PEER, 40_001), 7);
    connection.out(&mut both, "S", &[]);
    connection.back(&mut both, "S", &[]);
    connection.resent(&mut both, true, "SA");
    connection.resent(&mut both, false, "SA");
    connection.out(&mut both, "PA", b"hello");
    connection.back(&mut both, "PA", b"hello yourself");
    connection.close(&mut both);
}

#[test]
fn udp_in_both_directions() {
    let mut both = Both::new(&Setup::default());
    let (host, peer) = ((HOST, 5000), (PEER, 53));
    for length in LENGTHS {
        let (question, answer) = (payload(length), payload(length + 3));
        both.one(Inside, &udp(host, peer, &question));
        both.one(Outside, &udp(peer, (EXTERNAL, 5000), &answer));
        both.one(Inside, &with_options(&udp(host, peer, &question)));
        both.one(Outside, &with_options(&udp(peer, (EXTERNAL, 5000), &answer)));
    }
    for (ttl, tos) in [(2, 0x10), (255, 0xb8), (128, 3)] {
        let marked = |frame: Vec<u8>| {
            changed(&frame, |header| {
                header.time_to_live = ttl;
                header.dscp = (tos >> 2).try_into().unwrap();
                header.ecn = (tos & 3).try_into().unwrap();
                header.dont_fragment = false;
                header.identification = 0;
            })
        };
        both.one(Inside, &marked(udp(host, peer, b"question")));
        both.one(Outside, &marked(udp(peer, (EXTERNAL, 5000), b"answer")));
    }
}

#[test]
fn udp_checksums_that_mean_none_or_would() {
    let mut both = Both::new(&Setup::default());
    let (host, external, peer) = ((HOST, 5000), (EXTERNAL, 5000), (PEER, 53));
    let none = |mut frame: Vec<u8>| {
        frame[40..42].fill(0);
        frame
    };
    let out = both.one(Inside, &none(udp(host, peer, b"question")));
    assert_eq!(out[40..42], [0, 0]);
    let back = both.one(Outside, &none(udp(peer, external, b"answer")));
    assert_eq!(back[40..42], [0, 0]);
    // A payload with which the checksum is 0 after translation, so that it is written as 65535.
    let sum =
        |from: End, to: End, payload: [u8; 2]| udp(from, to, &payload)[40..42] == [0xff, 0xff];
    let find = |from, to| {
        (0..=u16::MAX).map(u16::to_be_bytes).find(|payload| sum(from, to, *payload)).unwrap()
    };
    let out = both.one(Inside, &udp(host, peer, &find(external, peer)));
    assert_eq!(out[40..42], [0xff, 0xff]);
    let back = both.one(Outside, &udp(peer, external, &find(peer, host)));
    assert_eq!(back[40..42], [0xff, 0xff]);
    // And one that has it before.
    both.one(Inside, &udp(host, peer, &find(host, peer)));
    both.one(Outside, &udp(peer, external, &find(peer, external)));
}

#[test]
fn icmp_queries() {
    let mut both = Both::new(&Setup { masquerade: true, ..Setup::default() });
    for (ask, answer) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        for length in LENGTHS.map(|length| length.max(12)) {
            let id = 3000 + u16::from(ask);
            both.one(Inside, &query(HOST, PEER, ask, id, &payload(length)));
            both.one(Outside, &query(PEER, EXTERNAL, answer, id, &payload(length)));
        }
    }
    // An answer that nobody asked for, and questions from outside.
    both.none(Outside, &query(STRANGER, EXTERNAL, 0, 3008, b"ping"));
    both.none(Outside, &query(PEER, EXTERNAL, 0, 3009, b"ping"));
    both.none(Outside, &query(PEER, EXTERNAL, 8, 3008, b"ping"));
    both.none(Outside, &query(PEER, EXTERNAL, 13, 3013, &payload(12)));
    both.none(Inside, &query(HOST, PEER, 0, 3999, b"ping"));
}

#[test]
fn what_belongs_to_no_flow() {
    let mut both = Both::new(&Setup::default());
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    Connection::open(&mut both, (HOST, 40_000), (PEER, 80), 1);
    both.none(Outside, &udp((STRANGER, 53), (EXTERNAL, 5000), b"answer"));
    both.none(Outside, &udp((PEER, 54), (EXTERNAL, 5000), b"answer"));
    both.none(Outside, &udp((PEER, 53), (EXTERNAL, 5001), b"answer"));
    let mut stranger =
        Connection::from_outside((STRANGER, 80), (EXTERNAL, 40_000), (HOST, 40_000), 1);
    assert!(!stranger.try_back(&mut both, "S"));
    let mut nowhere = Connection::from_outside((PEER, 80), (EXTERNAL, 40_001), (HOST, 40_001), 1);
    assert!(!nowhere.try_back(&mut both, "S"));
    assert!(!nowhere.try_back(&mut both, "RA"));
}

#[test]
fn fragments_in_order() {
    let mut both = Both::new(&Setup::default());
    for (n, size) in [1480, 1480, 800, 24].into_iter().enumerate() {
        let named =
            |frame: Vec<u8>| changed(&frame, |header| header.identification = 500 + n as u16);
        let length = 3 * usize::from(size) - 9;
        let question = named(udp((HOST, 5000), (PEER, 53), &payload(length)));
        let pieces = fragments(&question, size);
        assert_eq!((pieces.len(), both.pass(Inside, &pieces).len()), (3, 3));
        let answer = named(udp((PEER, 53), (EXTERNAL, 5000), &payload(length)));
        assert_eq!(both.pass(Outside, &fragments(&answer, size)).len(), 3);
        // The second host's port is another, in the first fragment; the others have none.
        let question = named(udp((SERVER, 5000), (PEER, 53), &payload(length)));
        let out = both.pass(Inside, &fragments(&question, size));
        assert_eq!(out.len(), 3);
        let answer = named(udp((PEER, 53), frames::source(&out[0].bytes), &payload(length)));
        assert_eq!(both.pass(Outside, &fragments(&answer, size)).len(), 3);
        let ping = named(query(HOST, PEER, 8, 3000, &payload(length)));
        assert_eq!(both.pass(Inside, &fragments(&ping, size)).len(), 3);
        let pong = named(query(PEER, EXTERNAL, 0, 3000, &payload(length)));
        assert_eq!(both.pass(Outside, &fragments(&pong, size)).len(), 3);
    }
}

const FORWARDS: &[(&str, u16, &str)] =
    &[("tcp", 80, "10.0.0.3:8080"), ("udp", 53, "10.0.0.3:5353")];

#[test]
fn forwarded_ports() {
    let mut both = Both::new(&Setup { forward: FORWARDS, ..Setup::default() });
    for client in [(PEER, 999), (STRANGER, 999), (PEER, 1000)] {
        for sequence in [1, 9_000_000] {
            let mut connection =
                Connection::from_outside(client, (EXTERNAL, 80), (SERVER, 8080), sequence);
            connection.back(&mut both, "S", &[]);
            connection.out(&mut both, "SA", &[]);
            connection.back(&mut both, "A", &[]);
            connection.back(&mut both, "PA", &payload(99));
            let answer = connection.out(&mut both, "PA", &payload(1400));
            assert_eq!(frames::source(&answer), (EXTERNAL, 80));
            both.one(Outside, &error(ROUTER, EXTERNAL, (3, 4), &answer, 576));
            connection.close(&mut both);
        }
        let asked = both.one(Outside, &udp(client, (EXTERNAL, 53), b"question"));
        assert_eq!(frames::destination(&asked), (SERVER, 5353));
        both.one(Inside, &error(SERVER, client.0, (3, 3), &asked, 576));
        both.one(Inside, &error([10, 9, 9, 9], client.0, (11, 0), &asked, 28));
        let answer = both.one(Inside, &udp((SERVER, 5353), client, b"answer"));
        both.one(Outside, &error(client.0, EXTERNAL, (3, 3), &answer, 28));
    }
    // The other protocol's port is not forwarded.
    both.none(Outside, &udp((PEER, 999), (EXTERNAL, 80), b"question"));
}

#[test]
fn hairpins() {
    let mut both = Both::new(&Setup { forward: FORWARDS, ..Setup::default() });
    // The server reaches itself, too.
    for host in [HOST, [10, 0, 0, 4], SERVER] {
        let turned = |both: &mut Both, frame: Vec<u8>| {
            let mut out = both.pass(Inside, &[frame]);
            assert_eq!((out.len(), out[0].side), (1, Inside));
            out.remove(0).bytes
        };
        let mut syn = Connection::new((host, 4000), (EXTERNAL, 80), 1);
        let there = turned(&mut both, syn.frame(true, "S", &[]));
        assert_eq!(frames::destination(&there), (SERVER, 8080));
        let external = frames::source(&there);
        assert_eq!(external.0, EXTERNAL);
        let mut server = Connection::new((SERVER, 8080), external, 500_000);
        server.expect(2);
        let back = turned(&mut both, server.frame(true, "SA", &[]));
        assert_eq!(
            (frames::source(&back), frames::destination(&back)),
            ((EXTERNAL, 80), (host, 4000))
        );
        syn.expect(500_001);
        turned(&mut both, syn.frame(true, "A", &[]));
        let there = turned(&mut both, syn.frame(true, "PA", &payload(333)));
        let back = turned(&mut both, server.frame(true, "PA", &payload(99)));
        // Errors about either, from their receivers and from a router inside, turn back as well.
        for from in [SERVER, [10, 9, 9, 9]] {
            let told = turned(&mut both, error(from, EXTERNAL, (3, 4), &there, 576));
            assert_eq!(frames::addresses(&told), (EXTERNAL, host));
        }
        let told = turned(&mut both, error(host, EXTERNAL, (3, 4), &back, 28));
        assert_eq!(frames::addresses(&told), (EXTERNAL, SERVER));

        let there = turned(&mut both, udp((host, 5000), (EXTERNAL, 53), b"question"));
        turned(&mut both, error(SERVER, EXTERNAL, (3, 3), &there, 28));
        let back = turned(&mut both, udp((SERVER, 5353), frames::source(&there), b"answer"));
        turned(&mut both, error(host, EXTERNAL, (3, 3), &back, 576));
        // Fragments.
        let large = udp((host, 5000), (EXTERNAL, 53), &payload(2500));
        let out = both.pass(Inside, &fragments(&large, 1480));
        assert_eq!(out.iter().map(|out| out.side).collect::<Vec<_>>(), [Inside, Inside]);
    }
    both.none(Inside, &udp((HOST, 5000), (EXTERNAL, 54), b"question"));
}

#[test]
fn wrong_checksums_stay_wrong() {
    let mut both = Both::new(&Setup { wrong_checksums: true, ..Setup::default() });
    let spoilt = |mut frame: Vec<u8>, at: usize, bit: u8| {
        frame[at] ^= bit;
        frame
    };
    let mut connection = Connection::open(&mut both, (HOST, 4000), (PEER, 80), 1);
    both.one(Inside, &udp((HOST, 5000), (PEER, 53), b"question"));
    both.one(Inside, &query(HOST, PEER, 8, 3000, b"ping"));
    for bit in [0x01, 0x40, 0xff] {
        // In the checksum, and in the payload.
        for at in [50, 66] {
            both.one(Inside, &spoilt(connection.frame(true, "A", b"payload"), at, bit));
            both.one(Outside, &spoilt(connection.frame(false, "A", b"payload"), at, bit));
        }
        for at in [40, 41, 43] {
            both.one(Inside, &spoilt(udp((HOST, 5000), (PEER, 53), b"question"), at, bit));
            both.one(Outside, &spoilt(udp((PEER, 53), (EXTERNAL, 5000), b"answer"), at, bit));
        }
        for at in [36, 37, 43] {
            both.one(Inside, &spoilt(query(HOST, PEER, 8, 3000, b"ping"), at, bit));
            both.one(Outside, &spoilt(query(PEER, EXTERNAL, 0, 3000, b"ping"), at, bit));
        }
    }
}
