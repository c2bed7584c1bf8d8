//! `nat` replaced a thousand times while thousands of flows go through it in both directions: no
//! packet is lost, and every flow keeps its external port.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weir_packet_plane::{FunctionPlan, Worker};
use weir_port::memory::Wire;
use weir_sandbox::admit;
use weir_tests::built::{built, workspace};
use weir_tests::rig::{Rig, dropped_by_reason, function, plan};

const SWAPS: usize = 1000;
const HOSTS: u16 = 40;
const PORTS: u16 = 50;
const FLOWS: usize = HOSTS as usize * PORTS as usize;
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
const PEER: ([u8; 4], u16) = ([198, 51, 100, 7], 443);

/// `nat` as it is built, and another build of it: the same code, but not the same file.
fn versions() -> [FunctionPlan; 2] {
    let first = built("nat");
    let mut wasm = std::fs::read(workspace().join("target/functions/nat.wasm")).unwrap();
    // A custom section named `v2`.
    wasm.extend_from_slice(b"\0\x03\x02v2");
    let second = Arc::new(admit(&wasm).unwrap());
    // Each has another forward, which costs the flows nothing.
    [("1", first), ("2", second)].map(|(version, admitted)| FunctionPlan {
        version: version.into(),
        state_bytes: 8 << 20,
        state_layout: "1".into(),
        config: format!(
            r#"{{"external": ["203.0.113.1"], "forward": [{{"proto": "tcp", "port": 8{version}, "to": "10.0.0.1:80"}}]}}"#
        ),
        ..function("nat", admitted)
    })
}

/// An inside host and its port. All hosts use the same ports, so that most of them get another
/// outside.
fn inside(flow: usize) -> ([u8; 4], u16) {
    let (host, port) = (flow as u16 / PORTS, flow as u16 % PORTS);
    ([10, 0, 0, 2 + host as u8], 5000 + port)
}

/// TCP for even flows, UDP for odd ones, with the flow's number and that of the packet.
fn frame(flow: usize, from: ([u8; 4], u16), to: ([u8; 4], u16), number: u32) -> Vec<u8> {
    let (protocol, header) = if flow.is_multiple_of(2) { (6, 20) } else { (17, 8) };
    let length = header + 8;
    let mut packet = vec![0x45, 0, 0, 20 + length as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&from.0);
    packet.extend_from_slice(&to.0);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    if protocol == 6 {
        segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        segment.extend_from_slice(&[0, length as u8, 0, 0]);
    }
    segment.extend_from_slice(&(flow as u32).to_be_bytes());
    segment.extend_from_slice(&number.to_be_bytes());
    let pseudo = [&from.0[..], &to.0, &[0, protocol, 0, length as u8], &segment].concat();
    let at = if protocol == 6 { 16 } else { 6 };
    let sum = match checksum(&pseudo) {
        // UDP's 0 would mean that there is none.
        [0, 0] if protocol == 17 => [0xff, 0xff],
        sum => sum,
    };
    segment[at..at + 2].copy_from_slice(&sum);
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &packet, &segment].concat()
}

/// RFC 1071, section 4.1.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// What a frame's last bytes say: its flow and its number.
fn numbers(frame: &[u8]) -> (usize, u32) {
    let (_, last) = frame.split_last_chunk::<8>().unwrap();
    let word = |at: usize| u32::from_be_bytes(*last[at..].first_chunk().unwrap());
    (word(0) as usize, word(4))
}

/// Both ends of the lane, and what is known of the flows.
struct Traffic {
    inside: Wire,
    outside: Wire,
    external: Vec<u16>,
    /// Packets sent out and back; and seen outside and inside.
    sent: [u32; 2],
    seen: [u32; 2],
}

impl Traffic {
    /// Sends one packet of each of so many flows in each direction, going on where the last call
    /// ended.
    fn send(&mut self, flows: u32) {
        for _ in 0..flows {
            let flow = self.sent[0] as usize % FLOWS;
            assert!(self.inside.push(frame(flow, inside(flow), PEER, self.sent[0])));
            let external = (EXTERNAL, self.external[flow]);
            assert!(self.outside.push(frame(flow, PEER, external, self.sent[1])));
            self.sent = self.sent.map(|sent| sent + 1);
        }
    }

    /// Looks at what has come through, waiting for the next packet at most so long: all in order,
    /// and each to the byte what its flow's translation makes of it.
    fn look(&mut self, wait: Duration) {
        while let Some(out) = self.outside.take(wait) {
            let (flow, number) = numbers(&out);
            assert_eq!(number, self.seen[0], "in order, outwards");
            assert_eq!(out, frame(flow, (EXTERNAL, self.external[flow]), PEER, number));
            self.seen[0] += 1;
        }
        while let Some(back) = self.inside.take(wait) {
            let (flow, number) = numbers(&back);
            assert_eq!(number, self.seen[1], "in order, back");
            assert_eq!(back, frame(flow, PEER, inside(flow), number));
            self.seen[1] += 1;
        }
    }
}

#[test]
fn a_thousand_swaps_of_nat_keep_every_flow() {
    let versions = versions();
    let mut rig = Rig::new(plan(vec![versions[0].clone()]));
    // Each flow's first packet, and the port by which it leaves.
    let mut external = Vec::new();
    for flow in 0..FLOWS {
        assert!(rig.inside.push(frame(flow, inside(flow), PEER, u32::MAX)));
        rig.settle();
        let out = rig.outside.take(Duration::ZERO).expect("the flow's first packet");
        external.push(u16::from_be_bytes([out[34], out[35]]));
        assert_eq!(out, frame(flow, (EXTERNAL, external[flow]), PEER, u32::MAX));
    }
    for protocol in 0..2 {
        let ports: BTreeSet<_> = external.iter().skip(protocol).step_by(2).collect();
        assert_eq!(ports.len(), FLOWS / 2, "no two flows share a port");
    }
    let kept = (0..FLOWS).filter(|flow| external[*flow] == inside(*flow).1).count();
    assert!(
        kept < FLOWS / 10,
        "{kept} flows have their inside port; the others are known by the state alone"
    );

    let Rig { lane, inside, outside, sandbox, .. } = rig;
    let site = lane.site();
    let worker = Worker::start("nat", None, Arc::clone(&sandbox)).unwrap();
    worker.add("test", lane).unwrap();
    let stop = AtomicBool::new(false);
    let mut traffic = Traffic { inside, outside, external, sent: [0; 2], seen: [0; 2] };
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                traffic.send(32);
                std::thread::sleep(Duration::from_micros(200));
                traffic.look(Duration::ZERO);
            }
            // And each flow once more, after the last swap.
            traffic.send(FLOWS as u32);
        });
        for swap in 1..=SWAPS {
            if sending.is_finished() {
                // It has something to say.
                break;
            }
            let next = plan(vec![versions[swap % 2].clone()]);
            let states = worker.with("test", |lane| lane.states()).unwrap().unwrap();
            let staged = site.stage(next, &states).unwrap();
            let published = worker.with("test", |lane| lane.publish(staged, Some(0)));
            let (published, retired) = published.unwrap().unwrap().unwrap();
            retired.end(&sandbox);
            assert!(published.fresh.is_empty(), "swap {swap}: the state was not taken over");
        }
        stop.store(true, Ordering::Relaxed);
        sending.join().unwrap();
    });
    while traffic.seen != traffic.sent {
        let before = traffic.seen;
        traffic.look(Duration::from_secs(5));
        assert_ne!(traffic.seen, before, "packets were lost: sent {:?}", traffic.sent);
    }
    println!("{SWAPS} swaps, {FLOWS} flows, {:?} packets out and back", traffic.sent);
    assert!(traffic.sent[0] as usize > 4 * FLOWS, "{:?} packets are too few", traffic.sent);

    let mut lane = worker.remove("test").unwrap().unwrap();
    assert_eq!(lane.finish().unwrap().out, 0);
    let (counts, _) = lane.counts();
    let all = FLOWS as u64 + traffic.sent.iter().map(|sent| u64::from(*sent)).sum::<u64>();
    assert_eq!((counts.packets_in, counts.packets_out), (all, all));
    assert!(dropped_by_reason(&counts).is_empty());
}
