//! The same packets through `nat` and through the kernel, and what may differ.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nat::Nat;
use serde_json::json;
use weir_sdk::Verdict;
use weir_sdk::checksum::{fold, sum, update16};
use weir_sdk::testing::{Frame, Harness, Options};

use crate::frames::{End, L3};
use crate::linux::{Linux, Out, Side};

/// The external address of both.
pub(crate) const EXTERNAL: [u8; 4] = [203, 0, 113, 1];

/// How both are configured.
pub(crate) struct Setup {
    /// First and last port to give out.
    pub(crate) ports: (u16, u16),
    /// Protocol, external port, inside endpoint.
    pub(crate) forward: &'static [(&'static str, u16, &'static str)],
    /// Flows that `nat` keeps at most.
    pub(crate) max_flows: usize,
    /// All timeouts, in seconds; each has its own if none.
    pub(crate) timeout: Option<u32>,
    /// `masquerade` instead of `snat`: two ways to ask nftables for the same.
    pub(crate) masquerade: bool,
    /// Whether the kernel takes packets with wrong checksums for part of a connection.
    pub(crate) wrong_checksums: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            ports: (1024, 65_535),
            forward: &[],
            max_flows: 65_536,
            timeout: None,
            masquerade: false,
            wrong_checksums: false,
        }
    }
}

/// Kernel's timeouts.
const TIMEOUTS: [&str; 13] = [
    "icmp_timeout",
    "udp_timeout",
    "udp_timeout_stream",
    "tcp_timeout_syn_sent",
    "tcp_timeout_syn_recv",
    "tcp_timeout_established",
    "tcp_timeout_fin_wait",
    "tcp_timeout_close_wait",
    "tcp_timeout_last_ack",
    "tcp_timeout_time_wait",
    "tcp_timeout_close",
    "tcp_timeout_max_retrans",
    "tcp_timeout_unacknowledged",
];

/// Both NATs.
pub(crate) struct Both {
    pub(crate) nat: Harness<Nat>,
    pub(crate) linux: Linux,
    pub(crate) ports: Ports,
    clock: Instant,
    /// Packets sent in, and come out.
    pub(crate) counts: (usize, usize),
}

impl Both {
    pub(crate) fn new(setup: &Setup) -> Self {
        let ports = format!("{}-{}", setup.ports.0, setup.ports.1);
        let forward: Vec<_> = setup
            .forward
            .iter()
            .map(|(proto, port, to)| json!({"proto": proto, "port": port, "to": to}))
            .collect();
        let mut sysctl =
            json!({"net.netfilter.nf_conntrack_checksum": u8::from(!setup.wrong_checksums)});
        let mut config = json!({"external": ["203.0.113.1"], "ports": ports, "forward": forward, "max-flows": setup.max_flows});
        if let Some(seconds) = setup.timeout {
            for name in TIMEOUTS {
                sysctl[format!("net.netfilter.nf_conntrack_{name}")] = seconds.into();
            }
            config["timeouts"] = json!({"tcp-established": seconds, "tcp-transitory": seconds, "udp": seconds, "icmp": seconds});
        }
        let task = json!({"external": "203.0.113.1", "ports": ports, "masquerade": setup.masquerade,
            "forward": forward, "sysctl": sysctl});
        let options = Options { state_bytes: 8 << 20, ..Options::default() };
        Self {
            nat: Harness::with(options, config).unwrap(),
            linux: Linux::start(&task),
            ports: Ports::default(),
            clock: Instant::now(),
            counts: (0, 0),
        }
    }

    /// Sends frames in on a side, with external ports as `nat` gave them out, and compares all that
    /// comes out, to the byte. Gives it as it came out of `nat`.
    pub(crate) fn pass(&mut self, side: Side, frames: &[Vec<u8>]) -> Vec<Out> {
        let ours = self.ours(side, frames);
        let to_linux: Vec<_> =
            frames.iter().map(|frame| self.ports.translated(frame, Ports::theirs)).collect();
        let theirs = self.linux.pass(side, &to_linux);
        let inside = (side == Side::Inside).then(|| source_port(&frames[0])).flatten();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            self.ports.learn(&ours.bytes, &theirs.bytes, inside);
        }
        let expected: Vec<_> = theirs
            .iter()
            .map(|out| Out {
                side: out.side,
                bytes: comparable(self.ports.translated(&out.bytes, Ports::ours), false),
            })
            .collect();
        let found: Vec<_> = ours
            .iter()
            .map(|out| Out { side: out.side, bytes: comparable(out.bytes.clone(), true) })
            .collect();
        let input: Vec<_> = frames.iter().map(|frame| Out { side, bytes: frame.clone() }).collect();
        assert_eq!(found, expected, "nat and Linux differ on {input:?}");
        self.counts.0 += frames.len();
        self.counts.1 += ours.len();
        ours
    }

    /// As [`Both::pass`], of one frame that becomes one frame on the other side.
    pub(crate) fn one(&mut self, side: Side, frame: &[u8]) -> Vec<u8> {
        let mut out = self.pass(side, &[frame.to_vec()]);
        assert_eq!(out.len(), 1, "{:?} became {out:?}", Out { side, bytes: frame.to_vec() });
        let out = out.remove(0);
        assert_eq!(out.side, side.other());
        out.bytes
    }

    /// As [`Both::pass`], of one frame that neither lets through.
    pub(crate) fn none(&mut self, side: Side, frame: &[u8]) {
        let out = self.pass(side, &[frame.to_vec()]);
        assert_eq!(out, [], "from {:?}", Out { side, bytes: frame.to_vec() });
    }

    /// What comes out of `nat` alone.
    pub(crate) fn ours(&mut self, side: Side, frames: &[Vec<u8>]) -> Vec<Out> {
        self.nat.advance(u64::try_from(self.clock.elapsed().as_nanos()).unwrap());
        self.clock = Instant::now();
        let mut out = Vec::new();
        for frame in frames {
            let sent = Frame::new(frame.clone());
            let sent = if side == Side::Outside { sent.port(1).reverse() } else { sent };
            let outcome = self.nat.run(sent);
            match outcome.verdict {
                Verdict::Next => out.push(Out { side: side.other(), bytes: outcome.bytes }),
                Verdict::Reply => out.push(Out { side, bytes: outcome.bytes }),
                Verdict::Drop(_) => {
                    assert_eq!(&outcome.bytes, frame, "a dropped packet was changed");
                }
                other => panic!("{other:?}"),
            }
        }
        out
    }

    /// Lets time pass for both.
    pub(crate) fn wait(&self, seconds: f64) {
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

/// What may differ between the two: the kernel is a router, so it writes the MACs and takes one
/// from the TTL, with the header's checksum (RFC 1624). `nat` is a bump in the wire. Nothing else
/// is left out of the comparison.
pub(crate) fn comparable(mut frame: Vec<u8>, bump: bool) -> Vec<u8> {
    frame[..12].fill(0);
    if bump {
        let before = word(&frame, L3 + 8);
        frame[L3 + 8] -= 1;
        let checksum = update16(word(&frame, L3 + 10), before, word(&frame, L3 + 8));
        put(&mut frame, L3 + 10, checksum);
    }
    frame
}

/// An external port in use: protocol, port, and the peer.
type Outer = (u8, u16, u32, u16);

/// The external ports that both gave to the same flows. They are the same, unless the kernel chose
/// one at random.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    ours: BTreeMap<Outer, u16>,
    theirs: BTreeMap<Outer, u16>,
    /// Flows of which the kernel changed the port and `nat` did not.
    pub(crate) changed_by_linux_alone: usize,
}

impl Ports {
    /// The port that Linux gave to the flow to which `nat` gave this one.
    pub(crate) fn of_linux(&self, protocol: u8, ours: u16, peer: End) -> u16 {
        self.theirs((protocol, ours, u32::from_be_bytes(peer.0), peer.1))
    }

    fn ours(&self, outer: Outer) -> u16 {
        *self.ours.get(&outer).unwrap_or(&outer.1)
    }

    fn theirs(&self, outer: Outer) -> u16 {
        *self.theirs.get(&outer).unwrap_or(&outer.1)
    }

    /// Joins the ports that one packet from the inside port left by.
    fn learn(&mut self, ours: &[u8], theirs: &[u8], inside: Option<u16>) {
        let (Some(ours), Some(theirs)) = (outer(ours), outer(theirs)) else { return };
        if (ours.0, ours.2, ours.3) != (theirs.0, theirs.2, theirs.3) {
            return;
        }
        let Some(inside) = inside else { return };
        if ours.1 == theirs.1
            && !self.theirs.contains_key(&ours)
            && !self.ours.contains_key(&theirs)
        {
            return;
        }
        assert!(theirs.1 != inside, "Linux kept port {inside}, nat made {} of it", ours.1);
        let first = self.theirs.insert(ours, theirs.1);
        let second = self.ours.insert(theirs, ours.1);
        match (first, second) {
            (None, None) => self.changed_by_linux_alone += usize::from(ours.1 == inside),
            known => assert_eq!(known, (Some(theirs.1), Some(ours.1)), "ports of a flow changed"),
        }
    }

    /// The frame with each external port exchanged.
    fn translated(&self, frame: &[u8], exchange: impl Fn(&Self, Outer) -> u16) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let Some(packet) = Packet::of(&frame, L3) else { return frame };
        let Some(quoted) = packet.quoted(&frame) else {
            for at in packet.external() {
                let port = exchange(self, at.0);
                packet.put_port(&mut frame, at.1, port);
            }
            return frame;
        };
        let message = packet.l4 + 4;
        let before = fold(sum(&frame[message..]));
        for at in quoted.external() {
            let port = exchange(self, at.0);
            quoted.put_port(&mut frame, at.1, port);
        }
        let after = fold(sum(&frame[message..]));
        let checksum = update16(word(&frame, packet.l4 + 2), before, after);
        put(&mut frame, packet.l4 + 2, checksum);
        frame
    }
}

/// What is needed to find external ports.
struct Packet {
    l4: usize,
    protocol: u8,
    ends: [(u32, u16, usize); 2],
}

impl Packet {
    /// None without a transport header, or with one that has no ports.
    fn of(frame: &[u8], l3: usize) -> Option<Self> {
        let l4 = l3 + usize::from(frame.get(l3)? & 0xf) * 4;
        if frame.len() < l4 + 8 || word(frame, l3 + 6) & 0x1fff != 0 {
            return None;
        }
        let address = |at: usize| u32::from(word(frame, at)) << 16 | u32::from(word(frame, at + 2));
        let (source, destination) = (address(l3 + 12), address(l3 + 16));
        let protocol = frame[l3 + 9];
        let port = |at: usize| (word(frame, at), at);
        let nowhere = (0, 0);
        let (from, to) = match (protocol, frame[l4]) {
            (6 | 17, _) => (port(l4), port(l4 + 2)),
            (1, 8 | 13 | 15 | 17) => (port(l4 + 4), nowhere),
            (1, 0 | 14 | 16 | 18) => (nowhere, port(l4 + 4)),
            (1, _) => (nowhere, nowhere),
            _ => return None,
        };
        Some(Self { l4, protocol, ends: [(source, from.0, from.1), (destination, to.0, to.1)] })
    }

    fn quoted(&self, frame: &[u8]) -> Option<Self> {
        let is_error = self.protocol == 1 && matches!(frame[self.l4], 3 | 4 | 5 | 11 | 12);
        is_error.then(|| Self::of(frame, self.l4 + 8)).flatten()
    }

    /// The ends with an external port: what it is used for, and where it lies.
    fn external(&self) -> Vec<(Outer, usize)> {
        let [source, destination] = self.ends;
        let ends = [(source, destination), (destination, source)];
        let external = u32::from_be_bytes(EXTERNAL);
        let found = ends.iter().filter(|(own, _)| own.0 == external && own.2 != 0);
        found.map(|(own, peer)| ((self.protocol, own.1, peer.0, peer.1), own.2)).collect()
    }

    fn put_port(&self, frame: &mut [u8], at: usize, port: u16) {
        let checksum_at = self.l4
            + match self.protocol {
                6 => 16,
                17 => 6,
                _ => 2,
            };
        let before = word(frame, at);
        put(frame, at, port);
        if frame.len() < checksum_at + 2 || self.protocol == 17 && word(frame, checksum_at) == 0 {
            return;
        }
        let mut checksum = update16(word(frame, checksum_at), before, port);
        if self.protocol == 17 && checksum == 0 {
            checksum = 0xffff;
        }
        put(frame, checksum_at, checksum);
    }
}

/// The external port that a packet left by.
fn outer(frame: &[u8]) -> Option<Outer> {
    let packet = Packet::of(frame, L3)?;
    let (outer, at) = *packet.external().first()?;
    (at == packet.ends[0].2).then_some(outer)
}

fn source_port(frame: &[u8]) -> Option<u16> {
    let packet = Packet::of(frame, L3)?;
    (packet.ends[0].2 != 0).then_some(packet.ends[0].1)
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
