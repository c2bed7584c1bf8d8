//! ICMP errors and the packets that they quote.

use crate::both::{Both, EXTERNAL, Setup};
use crate::connection::Connection;
use crate::frames::{self, error, fragments, query, udp, with_options};
use crate::linux::Side::{Inside, Outside};
use crate::{HOST, PEER, ROUTER, SERVER, STRANGER, payload};

/// What errors are about: packets out, as they are outside, and packets in, as they are inside.
fn traffic(both: &mut Both) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut out, mut back) = (Vec::new(), Vec::new());
    let none = |mut frame: Vec<u8>| {
        frame[40..42].fill(0);
        frame
    };
    // The second host has the ports of the first.
    for host in [HOST, SERVER] {
        let mut connection = Connection::open(both, (host, 40_000), (PEER, 80), 1);
        out.push(connection.out(both, "PA", &payload(100)));
        back.push(connection.back(both, "PA", &payload(101)));
        let plain = udp((host, 5000), (PEER, 53), &payload(101));
        for frame in [plain.clone(), with_options(&plain), none(plain)] {
            out.push(both.one(Inside, &frame));
        }
        let external = frames::source(out.last().unwrap());
        let plain = udp((PEER, 53), external, &payload(77));
        for frame in [plain.clone(), with_options(&plain), none(plain)] {
            back.push(both.one(Outside, &frame));
        }
        let asked = both.one(Inside, &query(host, PEER, 8, 3000, &payload(56)));
        let id = u16::from_be_bytes([asked[38], asked[39]]);
        out.push(asked);
        back.push(both.one(Outside, &query(PEER, EXTERNAL, 0, id, &payload(56))));
    }
    (out, back)
}

/// Types and codes.
pub(crate) const ERRORS: [(u8, u8); 12] = [
    (3, 0),
    (3, 1),
    (3, 2),
    (3, 3),
    (3, 4),
    (3, 10),
    (3, 13),
    (4, 0),
    (11, 0),
    (11, 1),
    (12, 0),
    (12, 2),
];

#[test]
fn icmp_errors_from_outside() {
    let mut both = Both::new(&Setup::default());
    let (out, _) = traffic(&mut both);
    let before = both.counts;
    for about in &out {
        for kind in ERRORS {
            for from in [PEER, ROUTER] {
                // RFC 792's 8 bytes, parts of TCP's header, RFC 1812's 576 bytes; behind options
                // there is less.
                for quoted in [32, 33, 40, 52, 576] {
                    both.one(Outside, &error(from, EXTERNAL, kind, about, quoted));
                }
            }
        }
    }
    assert_eq!(both.counts.0 - before.0, both.counts.1 - before.1);
    println!("{:?} packets in and out", both.counts);
}

#[test]
fn icmp_errors_from_inside() {
    let mut both = Both::new(&Setup { masquerade: true, ..Setup::default() });
    let (_, back) = traffic(&mut both);
    for about in &back {
        // From the host itself, and from routers inside.
        for from in [frames::destination(about).0, [10, 9, 9, 9], [100, 64, 9, 9]] {
            for kind in ERRORS {
                for quoted in [32, 33, 40, 52, 576] {
                    both.one(Inside, &error(from, PEER, kind, about, quoted));
                }
            }
        }
    }
}

#[test]
fn icmp_errors_that_neither_believes() {
    let mut both = Both::new(&Setup::default());
    let (out, back) = traffic(&mut both);
    for (left, came) in out.iter().zip(&back) {
        let (external, peer) = (frames::source(left), frames::destination(left));
        // Cut off before the ports; about an inside address; about somebody else's packet; a
        // redirect.
        both.none(Outside, &error(ROUTER, EXTERNAL, (3, 1), left, 27));
        both.none(Outside, &error(ROUTER, EXTERNAL, (3, 1), left, 12));
        let inside = udp((HOST, 5000), (PEER, 53), b"question");
        both.none(Outside, &error(ROUTER, EXTERNAL, (3, 1), &inside, 576));
        for (from, to) in [
            (external, (STRANGER, peer.1)),
            ((EXTERNAL, external.1 ^ 1), peer),
            ((STRANGER, 9), external),
        ] {
            both.none(Outside, &error(ROUTER, EXTERNAL, (3, 1), &udp(from, to, b"x"), 576));
        }
        both.none(Outside, &error(ROUTER, EXTERNAL, (5, 1), left, 576));
        both.none(Inside, &error(HOST, PEER, (5, 1), came, 576));
        both.none(Inside, &error(HOST, PEER, (3, 3), &udp((PEER, 53), (HOST, 4999), b"x"), 576));
        both.none(Inside, &error(HOST, PEER, (3, 3), came, 20));
    }
    // About a later fragment, and about a protocol without ports.
    let later = fragments(&udp((EXTERNAL, 5000), (PEER, 53), &payload(64)), 32).remove(1);
    both.none(Outside, &error(ROUTER, EXTERNAL, (11, 1), &later, 576));
    let other = frames::ipv4(EXTERNAL, PEER, 253, &payload(64));
    both.none(Outside, &error(ROUTER, EXTERNAL, (3, 2), &other, 576));
}
