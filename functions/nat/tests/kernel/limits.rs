//! What there is only so much of: ports, and time.

use crate::both::{Both, EXTERNAL, Ports, Setup};
use crate::connection::Connection;
use crate::frames::{self, Segment, query, udp};
use crate::linux::Side::{Inside, Outside};
use crate::{HOST, PEER};

#[test]
fn hosts_with_the_same_port() {
    let mut both = Both::new(&Setup { masquerade: true, ..Setup::default() });
    for n in 0..20 {
        let host = [10, 0, n, 9];
        let mut connection = Connection::open(&mut both, (host, 40_000), (PEER, 443), 1);
        connection.out(&mut both, "PA", b"hello");
        connection.back(&mut both, "PA", b"hello yourself");
        let left = both.one(Inside, &udp((host, 5000), (PEER, 53), b"question"));
        both.one(Outside, &udp((PEER, 53), frames::source(&left), b"answer"));
        let asked = both.one(Inside, &query(host, PEER, 8, 3000, b"ping"));
        let id = u16::from_be_bytes([asked[38], asked[39]]);
        both.one(Outside, &query(PEER, EXTERNAL, 0, id, b"ping"));
    }
    // And all of them once more: each has kept what it got.
    for n in 0..20 {
        let host = [10, 0, n, 9];
        let left = both.one(Inside, &udp((host, 5000), (PEER, 53), b"question"));
        both.one(Outside, &udp((PEER, 53), frames::source(&left), b"answer"));
        both.one(Inside, &query(host, PEER, 8, 3000, b"ping"));
    }
}

#[test]
fn ports_run_out() {
    // All of a small table is swept at once when there is no room.
    let setup =
        Setup { ports: (2000, 2003), max_flows: 1000, timeout: Some(3), ..Setup::default() };
    let mut both = Both::new(&setup);
    // Both sides are in all flows: of others, `nat` gives one up for a new one (see
    // `differences.rs`).
    let question = |n: u8| udp(([10, 0, 0, n], 5000), (PEER, 53), b"question");
    let talk = |both: &mut Both, n: u8| {
        let left = both.one(Inside, &question(n));
        both.one(Outside, &udp((PEER, 53), frames::source(&left), b"answer"));
        both.one(Inside, &question(n));
        Connection::open(both, ([10, 0, 0, n], 5000), (PEER, 80), 1)
    };
    let syn = |n: u8| frames::tcp(([10, 0, 0, n], 5000), (PEER, 80), &Segment::bare("S", 1));
    let mut open: Vec<_> = (0..4).map(|n| talk(&mut both, n)).collect();
    for n in 4..10 {
        both.none(Inside, &question(n));
        both.none(Inside, &syn(n));
    }
    // Those that have one keep it.
    for (n, connection) in (0..4).zip(&mut open) {
        both.one(Inside, &question(n));
        connection.out(&mut both, "PA", b"hello");
    }
    // When the flows have ended, there are ports again.
    both.wait(4.2);
    both.ports = Ports::default();
    for n in 4..8 {
        talk(&mut both, n);
    }
    both.none(Inside, &question(8));
    both.none(Inside, &syn(8));
}

#[test]
fn flows_end() {
    let mut both = Both::new(&Setup { timeout: Some(5), ..Setup::default() });
    let peer = (PEER, 80);
    // UDP out alone, UDP both ways, a ping, and connections: half open, open, closed, reset.
    let asked = udp((HOST, 5000), (PEER, 53), b"question");
    let answered = udp((HOST, 5001), (PEER, 53), b"question");
    let ping = query(HOST, PEER, 8, 3000, b"ping");
    for frame in [&asked, &answered, &ping] {
        both.one(Inside, frame);
    }
    both.one(Outside, &udp((PEER, 53), (EXTERNAL, 5001), b"answer"));
    let mut half = Connection::new((HOST, 4000), peer, 1);
    half.out(&mut both, "S", &[]);
    let open = Connection::open(&mut both, (HOST, 4001), peer, 1);
    let mut closed = Connection::open(&mut both, (HOST, 4002), peer, 1);
    closed.close(&mut both);
    let mut reset = Connection::open(&mut both, (HOST, 4003), peer, 1);
    reset.out(&mut both, "RA", &[]);
    let mut inward = vec![
        udp((PEER, 53), (EXTERNAL, 5000), b"answer"),
        udp((PEER, 53), (EXTERNAL, 5001), b"answer"),
        query(PEER, EXTERNAL, 0, 3000, b"ping"),
    ];
    for mut connection in [open, closed, reset] {
        inward.push(connection.frame(false, "A", &[]));
    }
    // Each packet in gives them another five seconds.
    for _ in 0..4 {
        both.wait(1.5);
        for frame in &inward {
            both.one(Outside, frame);
        }
    }
    both.wait(6.2);
    for frame in &inward {
        both.none(Outside, frame);
    }
    assert!(!half.try_back(&mut both, "SA"));
    // And packets out open new ones.
    for frame in [&asked, &answered, &ping] {
        both.one(Inside, frame);
    }
    both.one(Outside, &inward[0]);
}
