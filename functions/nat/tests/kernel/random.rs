//! Thousands of packets of many flows at once, in an order that nobody thought of.

use crate::both::{Both, EXTERNAL, Setup};
use crate::connection::Connection;
use crate::frames::{self, End, changed, error, fragments, query, udp, with_options};
use crate::linux::Side::{Inside, Outside};
use crate::{PEER, ROUTER, STRANGER, payload};

const STEPS: usize = 4000;

/// Numbers that are the same in every run (Knuth, TAOCP, volume 2, 3.3.4).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

#[test]
fn many_flows_at_once() {
    let mut both = Both::new(&Setup { forward: crate::FORWARDS, ..Setup::default() });
    let mut random = Random(11);
    let (mut asked, mut pinged) = (Vec::<(End, End)>::new(), Vec::<u16>::new());
    let mut connections = Vec::new();
    // What went out and came in lately, for errors about it.
    let (mut out, mut back) = (Vec::new(), Vec::new());
    let mut next_port = 20_000;
    for step in 0..STEPS {
        let host = [10, 0, 1, random.below(30) as u8];
        // A peer for each port: where Linux would give one external port to flows to several peers,
        // `nat` would not.
        let port = random.of(&[100, 5000]) + random.below(30) as u16;
        let peer = random_peer(port);
        let length = random.below(300);
        match random.below(12) {
            0 | 1 => {
                let mut frame = udp((host, port), peer, &payload(length));
                if random.below(8) == 0 {
                    frame = with_options(&frame);
                }
                out.push(both.one(Inside, &frame));
                asked.push((frames::source(out.last().unwrap()), peer));
            }
            2 | 3 if !asked.is_empty() => {
                let (external, peer) = random.of(&asked);
                back.push(both.one(Outside, &udp(peer, external, &payload(length))));
            }
            4 => {
                let left = both.one(Inside, &query(host, PEER, 8, port, &payload(length)));
                pinged.push(u16::from_be_bytes([left[38], left[39]]));
                out.push(left);
            }
            5 if !pinged.is_empty() => {
                let id = random.of(&pinged);
                back.push(both.one(Outside, &query(PEER, EXTERNAL, 0, id, &payload(length))));
            }
            6 if connections.len() < 40 => {
                next_port += 1;
                connections.push(Connection::open(&mut both, (host, next_port), (PEER, 443), 1));
            }
            6..=8 if !connections.is_empty() => {
                let at = random.below(connections.len());
                let connection = &mut connections[at];
                match random.below(10) {
                    0 => connections.swap_remove(at).close(&mut both),
                    1..=5 => out.push(connection.out(&mut both, "PA", &payload(length))),
                    _ => back.push(connection.back(&mut both, "PA", &payload(length))),
                }
            }
            9 if out.len() > 8 => {
                let about = out[out.len() - 1 - random.below(8)].clone();
                let kind = random.of(&crate::errors::ERRORS);
                both.one(Outside, &error(ROUTER, EXTERNAL, kind, &about, 40 + random.below(300)));
            }
            9 if back.len() > 8 => {
                let about = back[back.len() - 1 - random.below(8)].clone();
                let (peer, host) = frames::addresses(&about);
                let kind = random.of(&crate::errors::ERRORS);
                both.one(Inside, &error(host, peer, kind, &about, 40 + random.below(300)));
            }
            10 => {
                let whole = udp((host, port), peer, &payload(600 + length));
                let whole = changed(&whole, |header| header.identification = step as u16);
                let pieces = fragments(&whole, 296);
                assert_eq!(both.pass(Inside, &pieces).len(), pieces.len());
            }
            11 => {
                let to = (EXTERNAL, random.below(65_536) as u16);
                if !asked.contains(&(to, (STRANGER, 9))) && to.1 != 53 {
                    both.none(Outside, &udp((STRANGER, 9), to, &payload(length)));
                }
            }
            _ => {}
        }
    }
    println!(
        "{:?} packets in and out; ports that Linux alone changed: {}",
        both.counts, both.ports.changed_by_linux_alone
    );
    // A port that Linux chose for somebody else by chance: about once in 10 runs.
    assert!(both.ports.changed_by_linux_alone <= 2);
    assert!(both.counts.1 > STEPS * 3 / 4);
}

fn random_peer(port: u16) -> End {
    (if port.is_multiple_of(3) { STRANGER } else { PEER }, 7000 + port % 5)
}
