//! tshark judges the checksums of what leaves `nat`, `router`, `l4lb`, and all three in one chain,
//! in the real sandbox.
//!
//! `packets.py` makes the packets with scapy: links with and without tags, IPv4 with options, IPv6
//! with extension headers, TCP, UDP with and without checksum, ICMP and ICMPv6, fragments, odd
//! lengths; and answers to what left, and ICMP errors about it. What was right has to leave right,
//! and what was wrong has to leave wrong: a checksum is changed with what changed (RFC 1624), not
//! made anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use weir_packet_plane::FunctionPlan;
use weir_tests::built::{built, workspace};
use weir_tests::rig::{Rig, function, plan};

const NAT: &str = r#"{"external": ["203.0.113.1"], "internal": ["10.0.0.0/8"]}"#;

const ROUTER: &str = r#"{
    "icmp-errors-per-second": 1000000,
    "icmp-errors-per-source": 1000000,
    "addresses": [
        {"ip": "10.0.0.1", "mac": "02:00:00:00:10:00", "port": "in"},
        {"ip": "2001:db8:1::ffff", "mac": "02:00:00:00:10:00", "port": "in"},
        {"ip": "192.0.2.1", "mac": "02:00:00:00:20:00", "port": "out"},
        {"ip": "2001:db8:2::ffff", "mac": "02:00:00:00:20:00", "port": "out"}],
    "hops": {
        "inside": {"mac": "02:00:00:00:0a:01", "source-mac": "02:00:00:00:10:00"},
        "outside": {"mac": "02:00:00:00:0b:01", "source-mac": "02:00:00:00:20:00"},
        "narrow": {"mac": "02:00:00:00:0b:01", "source-mac": "02:00:00:00:20:00", "mtu": 1280}},
    "table": [
        ["10.0.0.0/8", "inside"], ["203.0.113.0/24", "inside"], ["2001:db8:1::/48", "inside"],
        ["198.51.100.0/24", "outside"], ["192.0.2.0/24", "outside"], ["2001:db8:100::/48", "outside"],
        ["2001:db8:2::/48", "outside"], ["198.51.101.0/24", "narrow"], ["2001:db8:101::/48", "narrow"]]}"#;

/// One backend for each service, so that it is known where packets go; port 80 becomes another, the
/// others stay.
const L4LB: &str = r#"{
    "table": 251,
    "services": [
        {"vip": "198.51.100.1", "proto": "tcp", "port": 80, "backends": [{"ip": "192.0.2.10", "port": 8080}]},
        {"vip": "198.51.100.1", "proto": "tcp", "backends": [{"ip": "192.0.2.11"}]},
        {"vip": "198.51.100.1", "proto": "udp", "backends": [{"ip": "192.0.2.12"}]},
        {"vip": "2001:db8:100::1", "proto": "tcp", "port": 80, "backends": [{"ip": "2001:db8:2::10", "port": 8080}]},
        {"vip": "2001:db8:100::1", "proto": "tcp", "backends": [{"ip": "2001:db8:2::11"}]},
        {"vip": "2001:db8:100::1", "proto": "udp", "backends": [{"ip": "2001:db8:2::12"}]}]}"#;

/// A function with its configuration; state as its manifest has it.
fn configured(name: &str) -> FunctionPlan {
    let (config, state_bytes, memory) = match name {
        "nat" => (NAT, 8 << 20, 16 << 20),
        "l4lb" => (L4LB, 8 << 20, 32 << 20),
        _ => (ROUTER, 0, 128 << 20),
    };
    FunctionPlan {
        config: config.into(),
        state_bytes,
        state_layout: "1".into(),
        memory,
        ..function(name, built(name))
    }
}

/// Captures of one test.
struct Captures(PathBuf);

impl Captures {
    fn new(test: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("checksums-{test}"));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pcap"))
    }

    /// Runs `packets.py` with these captures.
    fn script(&self, what: &str, captures: &[&str]) {
        let done = Command::new("/usr/bin/python3")
            .arg(workspace().join("tests/tests/checksums/packets.py"))
            .arg(what)
            .args(captures.iter().map(|name| self.path(name)))
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "this test needs python3-scapy (`scripts/setup`): {said}");
    }

    fn read(&self, name: &str) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let (header, mut rest) = bytes.split_at(24);
        assert_eq!(header[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "a capture as scapy writes it");
        let mut frames = Vec::new();
        while let Some((record, after)) = rest.split_at_checked(16) {
            let length = u32::from_le_bytes(*record[8..].first_chunk().unwrap()) as usize;
            let (frame, after) = after.split_at(length);
            frames.push(frame.to_vec());
            rest = after;
        }
        frames
    }

    fn write(&self, name: &str, frames: &[Vec<u8>]) {
        let words = |words: [u32; 4]| words.map(u32::to_le_bytes).concat();
        let mut bytes = words([0xa1b2_c3d4, 0x0004_0002, 0, 0]);
        bytes.extend_from_slice(&[65_535_u32, 1].map(u32::to_le_bytes).concat());
        for (frame, second) in frames.iter().zip(0..) {
            let length = frame.len() as u32;
            bytes.extend_from_slice(&words([second, 0, length, length]));
            bytes.extend_from_slice(frame);
        }
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// What tshark says about each packet of a capture.
    fn judged(&self, name: &str) -> Vec<Judgement> {
        let file = self.path(name);
        let layers = ["ip", "tcp", "udp", "icmp", "icmpv6"];
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&file).args(["-n", "-T", "fields"]);
        for layer in &layers[..3] {
            tshark.args(["-o", &format!("{layer}.check_checksum:TRUE")]);
        }
        for layer in layers {
            tshark.args(["-e", &format!("{layer}.checksum.status")]);
        }
        let done = tshark.output().expect("tshark (`scripts/setup`)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        let all: Vec<_> = text.lines().map(Judgement::read).collect();
        assert_eq!(all.len(), self.read(name).len(), "tshark read all of {}", file.display());
        all
    }

    /// Fails unless tshark finds all these packets' checksums right, and many of each kind.
    fn all_are_right(&self, name: &str) {
        let all = self.judged(name);
        for (n, judgement) in all.iter().enumerate() {
            assert!(
                !judgement.is_wrong(),
                "packet {} of {}: {judgement:?}",
                n + 1,
                self.path(name).display()
            );
        }
        let right =
            |layer: usize| all.iter().filter(|judgement| judgement.0[layer] == [b'1']).count();
        println!(
            "{name}: {} packets, right of each kind: {:?}",
            all.len(),
            [1, 2, 3, 4].map(right)
        );
        assert!((1..5).all(|layer| right(layer) > 40), "{name} has many of each kind");
    }

    /// Fails unless tshark finds each of these packets wrong.
    fn all_are_wrong(&self, name: &str) {
        let all = self.judged(name);
        for (n, judgement) in all.iter().enumerate() {
            assert!(
                judgement.is_wrong(),
                "packet {} of {}: {judgement:?}",
                n + 1,
                self.path(name).display()
            );
        }
        println!("{name}: {} packets, all wrong", all.len());
    }
}

/// For each of IPv4, TCP, UDP, ICMP, ICMPv6, and for each such header in the packet: `0` wrong, `1`
/// right, `2` not known, `3` none.
#[derive(Debug)]
struct Judgement([Vec<u8>; 5]);

impl Judgement {
    fn read(line: &str) -> Self {
        let mut layers = line.split('\t').map(|all| {
            all.split(',').filter_map(|status| status.bytes().next()).collect::<Vec<u8>>()
        });
        Self(std::array::from_fn(|_| layers.next().unwrap_or_default()))
    }

    fn is_wrong(&self) -> bool {
        let [ip, tcp, udp, icmp, icmpv6] = &self.0;
        let wrong = |statuses: &[u8]| statuses.contains(&b'0');
        // Of a segment that is quoted in part tshark thinks that it is wrong; see `quoted` for
        // those that are whole.
        let quotes = !icmp.is_empty() || !icmpv6.is_empty();
        wrong(ip) || wrong(icmp) || wrong(icmpv6) || !quotes && (wrong(tcp) || wrong(udp))
    }
}

/// Sends frames in on the inside or the outside; gives what leaves inside, and outside.
fn through(rig: &mut Rig, inside: bool, frames: &[Vec<u8>], clock: &mut u64) -> [Vec<Vec<u8>>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    for some in frames.chunks(64) {
        for frame in some {
            *clock += 1_000_000;
            let wire = if inside { &rig.inside } else { &rig.outside };
            assert!(wire.push_at(frame.clone(), *clock));
        }
        rig.settle();
        out[0].append(&mut Rig::drain(&rig.inside));
        out[1].append(&mut Rig::drain(&rig.outside));
    }
    out
}

fn judge(test: &str, functions: &[&str]) {
    let captures = Captures::new(test);
    captures.script("corpus", &["right", "wrong"]);
    captures.all_are_right("right");
    captures.all_are_wrong("wrong");
    let mut rig = Rig::new(plan(functions.iter().map(|name| configured(name)).collect()));
    let mut clock = 1_700_000_000_000_000_000;

    let sent = captures.read("right");
    let [told, out] = through(&mut rig, true, &sent, &mut clock);
    captures.write("out", &out);
    captures.all_are_right("out");
    let routed = functions.contains(&"router");
    // A router drops those that have expired, go nowhere or are too large, and says so.
    assert_eq!(told.is_empty(), !routed);
    assert_eq!(out.len() + told.len(), sent.len(), "packets left, or the sender was told");
    if routed {
        captures.write("told", &told);
        assert!(captures.judged("told").iter().all(|judgement| !judgement.is_wrong()));
    }

    captures.script("answers", &["out", "answers", "wrong-answers"]);
    captures.all_are_right("answers");
    captures.all_are_wrong("wrong-answers");
    let answers = captures.read("answers");
    let [back, turned] = through(&mut rig, false, &answers, &mut clock);
    assert_eq!((back.len(), turned.len()), (answers.len(), 0));
    captures.write("back", &back);
    captures.all_are_right("back");
    captures.script("quoted", &["back", "quoted"]);
    captures.all_are_right("quoted");

    let wrong = captures.read("wrong");
    let [told, out] = through(&mut rig, true, &wrong, &mut clock);
    assert_eq!(out.len() + told.len(), wrong.len());
    captures.write("wrong-out", &out);
    captures.all_are_wrong("wrong-out");
    let wrong = captures.read("wrong-answers");
    let [back, _] = through(&mut rig, false, &wrong, &mut clock);
    captures.write("wrong-back", &back);
    captures.all_are_wrong("wrong-back");
    assert_eq!(back.len(), wrong.len());
    rig.finish();
}

#[test]
fn of_nat() {
    judge("nat", &["nat"]);
}

#[test]
fn of_router() {
    judge("router", &["router"]);
}

#[test]
fn of_l4lb() {
    judge("l4lb", &["l4lb"]);
}

#[test]
fn of_all_in_one_chain() {
    judge("chain", &["nat", "router", "l4lb"]);
}
