//! What functions answer passes the functions that the packet has passed, as every answer does.

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpSlice};
use weir_packet_plane::FunctionPlan;
use weir_tests::built::built;
use weir_tests::rig::{Rig, dropped_by_reason, function, plan};
use weir_tests::wat_guest::{self, each};

/// Bytes of a frame: which functions answer it when it comes forward and when it comes in reverse,
/// as bits; how many have seen it; and from the next one on which those were.
const FORWARD: usize = 4;
const SEEN: usize = 6;

/// A function that says in the frame that it has seen it, and in which direction (2 * `number`, 1
/// more in reverse), and answers if it is to.
fn notes(number: usize) -> FunctionPlan {
    let body = format!(
        "(local.set $d (i32.and (i32.const 1) (i32.load16_u offset=0x2002
          (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))))
        (i32.store8 offset={SEEN} (local.get $p)
          (i32.add (i32.const 1) (i32.load8_u offset={SEEN} (local.get $p))))
        (i32.store8 offset={SEEN}
          (i32.add (local.get $p) (i32.load8_u offset={SEEN} (local.get $p)))
          (i32.add (local.get $d) (i32.const {twice})))
        (local.set $verdict (i32.shl (i32.and (i32.const 1) (i32.shr_u
          (i32.load8_u offset={FORWARD} (i32.add (local.get $p) (local.get $d)))
          (i32.const {number}))) (i32.const 1)))",
        twice = 2 * number
    );
    function(&format!("f{number}"), wat_guest::admitted(&each(&body)))
}

/// A frame that these functions answer.
fn answered(forward: u8, reverse: u8) -> Vec<u8> {
    let mut frame = vec![0; 64];
    (frame[FORWARD], frame[FORWARD + 1]) = (forward, reverse);
    frame
}

/// The functions that have seen the one frame that came out.
fn seen(frames: &[Vec<u8>]) -> &[u8] {
    let [frame] = frames else { panic!("{} frames", frames.len()) };
    &frame[SEEN + 1..][..usize::from(frame[SEEN])]
}

#[test]
fn an_answer_turns_round_once_and_leaves_by_the_port_that_the_packet_came_in_by() {
    let mut rig = Rig::new(plan((0..3).map(notes).collect()));
    for (forward, reverse, functions) in [
        // The last one answers, the one in the middle, and the first, which has none before it.
        (0b100, 0, &[0, 2, 4, 3, 1][..]),
        (0b010, 0, &[0, 2, 1]),
        (0b001, 0, &[0]),
        // One answers the answer.
        (0b100, 0b010, &[0, 2, 4, 3]),
        (0b100, 0b001, &[0, 2, 4, 3, 1]),
    ] {
        assert!(rig.inside.push(answered(forward, reverse)));
        rig.settle();
        assert_eq!(seen(&Rig::drain(&rig.inside)), functions, "{forward:b} {reverse:b}");
    }
    for (forward, reverse, functions) in [
        (0, 0b001, &[5, 3, 1, 2, 4][..]),
        (0, 0b100, &[5]),
        (0b100, 0b001, &[5, 3, 1, 2, 4]),
        (0b010, 0b001, &[5, 3, 1, 2]),
    ] {
        assert!(rig.outside.push(answered(forward, reverse)));
        rig.settle();
        assert_eq!(seen(&Rig::drain(&rig.outside)), functions, "{forward:b} {reverse:b}");
    }
    // Among others, which go through.
    for number in 0..40 {
        assert!(rig.inside.push(answered(if number % 4 == 0 { 0b100 } else { 0 }, 0)));
    }
    rig.settle();
    let (back, through) = (Rig::drain(&rig.inside), Rig::drain(&rig.outside));
    assert!(back.iter().all(|frame| seen(std::slice::from_ref(frame)) == [0, 2, 4, 3, 1]));
    assert!(through.iter().all(|frame| seen(std::slice::from_ref(frame)) == [0, 2, 4]));
    assert_eq!((back.len(), through.len()), (10, 30));
    assert!(dropped_by_reason(&rig.finish()).is_empty());
}

const OUTSIDE: ([u8; 4], u16) = ([192, 0, 2, 254], 40_000);
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 2, 0xfe];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A router before a firewall before a translation, in the direction out.
fn edge(rules: &str) -> Rig {
    let router = r#"{
        "addresses": [{"ip": "10.0.0.1", "mac": "02:00:00:00:00:01", "port": "in"},
                      {"ip": "192.0.2.1", "mac": "02:00:00:00:00:02", "port": "out"}],
        "routes": [{"prefix": "10.0.0.7/32", "mac": "02:00:00:00:01:07", "source-mac": "02:00:00:00:00:01", "mtu": 1300},
                   {"prefix": "0.0.0.0/0", "mac": "02:00:00:00:02:fe", "source-mac": "02:00:00:00:00:02"}]}"#;
    let firewall = format!(r#"{{"default": "deny", "rules": {rules}}}"#);
    let nat = r#"{"external": ["203.0.113.1"], "forward": [{"proto": "tcp", "port": 80, "to": "10.0.0.7:8080"}]}"#;
    let functions = [("router", router), ("firewall", &firewall), ("nat", nat)];
    let functions = functions.map(|(name, config)| FunctionPlan {
        config: config.into(),
        state_bytes: 8 << 20,
        ..function(name, built(name))
    });
    Rig::new(plan(functions.into()))
}

/// From outside to this port of the external address, not to be fragmented.
fn syn(port: u16, ttl: u8, payload: usize) -> Vec<u8> {
    let mut ip = Ipv4Header::new(20 + payload as u16, ttl, IpNumber::TCP, OUTSIDE.0, EXTERNAL)
        .expect("a length");
    ip.dont_fragment = true;
    ip.header_checksum = ip.calc_header_checksum();
    let builder =
        PacketBuilder::ethernet2(PEER, ROUTER).ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()));
    let mut frame = Vec::new();
    builder.tcp(OUTSIDE.1, port, 7, 1000).syn().write(&mut frame, &vec![1; payload]).unwrap();
    frame
}

/// Whether a sum over all of this, its checksum included, is right.
fn is_right(bytes: &[u8]) -> bool {
    Sum16BitWords::new().add_slice(bytes).ones_complement() == 0
}

/// What the peer gets of IP's payload in the one frame that comes out: nothing comes out on the
/// inside.
fn to_the_peer(rig: &mut Rig) -> Vec<u8> {
    rig.settle();
    assert!(Rig::drain(&rig.inside).is_empty());
    let [frame] = &Rig::drain(&rig.outside)[..] else {
        panic!("{:?}", dropped_by_reason(&rig.counts()));
    };
    assert_eq!(frame[..14], [&PEER[..], &ROUTER, &[8, 0]].concat());
    assert_eq!(frame[30..34], OUTSIDE.0);
    assert!(is_right(&frame[14..34]));
    frame[14..].to_vec()
}

#[test]
fn errors_from_behind_a_translation_are_translated() {
    let rules = r#"[{"action": "allow", "proto": "tcp", "dport": 8080}]"#;
    let mut rig = edge(rules);
    for (ttl, payload, kind) in [(64, 1400, [3, 4]), (1, 0, [11, 0])] {
        assert!(rig.outside.push(syn(80, ttl, payload)));
        let packet = to_the_peer(&mut rig);
        let error = &packet[20..];
        assert_eq!(error[..2], kind);
        assert!(is_right(error));
        // As the peer had sent it.
        let quoted = &error[8..];
        assert_eq!(quoted[12..24], syn(80, ttl, payload)[26..38], "{quoted:02x?}");
        if kind == [3, 4] {
            assert_eq!(error[6..8], 1300u16.to_be_bytes());
        }
    }
    assert!(dropped_by_reason(&rig.finish()).is_empty());
}

#[test]
fn a_reset_from_behind_a_translation_is_translated() {
    let mut rig = edge(r#"[{"action": "reject", "proto": "tcp", "dport": 8080}]"#);
    assert!(rig.outside.push(syn(80, 64, 0)));
    let packet = to_the_peer(&mut rig);
    assert_eq!((packet[9], &packet[12..16]), (6, &EXTERNAL[..]));
    let segment = TcpSlice::from_slice(&packet[20..]).unwrap();
    assert_eq!((segment.source_port(), segment.destination_port()), (80, OUTSIDE.1));
    assert!(segment.rst() && segment.ack() && segment.acknowledgment_number() == 8);
    let sum = segment.calc_checksum_ipv4(EXTERNAL, OUTSIDE.0).unwrap();
    assert_eq!(segment.checksum(), sum);
}
