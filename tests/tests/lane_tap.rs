//! Copying packets of a chain, while it runs.

use weir_packet_plane::{Heading, Tap, TapConfig, TapPick, TapPlace, verdict_in_words};
use weir_tests::rig::{Rig, frame, function, number, plan};
use weir_tests::wat_guest::{self, each};

const ALL: TapConfig =
    TapConfig { place: TapPlace::Chain, incoming: true, outgoing: true, snap_length: 65_536 };

/// Writes 7 to place 8 of each packet; those whose number ends in 3 bits of 0 it drops with reason
/// 2; for number 3 it sends one of its own.
fn marks() -> weir_packet_plane::FunctionPlan {
    let body = "(i32.store8 offset=8 (local.get $p) (i32.const 7))
         (if (i32.eqz (i32.and (i32.load (local.get $p)) (i32.const 7)))
           (then (local.set $verdict (i32.const 0x201))))
         (if (i32.eq (i32.load (local.get $p)) (i32.const 3)) (then
           (call $send-copy (local.get $p) (i32.const 60) (i32.const 0) (i32.const 0x40))))";
    function("marks", wat_guest::admitted(&each(body)))
}

fn passes(name: &str) -> weir_packet_plane::FunctionPlan {
    function(name, wat_guest::admitted(wat_guest::NULL))
}

/// A packet that was copied, for comparing.
#[derive(Debug, PartialEq, Eq)]
struct Copied {
    heading: Heading,
    port: u16,
    reverse: bool,
    verdict: Option<String>,
    id: u64,
    bytes: Vec<u8>,
}

fn drain(tap: &mut Tap) -> Vec<Copied> {
    let mut all = Vec::new();
    assert!(tap.drain(|packet| {
        assert_eq!((packet.lost, packet.length as usize), (0, packet.bytes.len()));
        all.push(Copied {
            heading: packet.heading,
            port: packet.port,
            reverse: packet.reverse,
            verdict: packet.verdict.map(verdict_in_words),
            id: packet.id,
            bytes: packet.bytes.to_vec(),
        });
    }));
    all
}

fn marked(number: u32) -> Vec<u8> {
    let mut bytes = frame(number);
    bytes[8] = 7;
    bytes
}

#[test]
fn what_comes_to_a_chain_and_what_leaves_it() {
    let mut rig = Rig::new(plan(vec![passes("a"), marks(), passes("c")]));
    let mut tap = Tap::new(ALL, 1);
    let watch = rig.lane.observe(tap.observer(None));
    for n in [2, 3, 8] {
        assert!(rig.inside.push_at(frame(n), 1));
    }
    rig.settle();
    assert!(rig.outside.push_at(frame(5), 2));
    rig.settle();
    let copied = drain(&mut tap);
    let of = |heading: Heading, port: u16| {
        let of = copied.iter().filter(|one| one.heading == heading && one.port == port);
        of.map(|one| one.bytes.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(Heading::In, 0), [frame(2), frame(3), frame(8)]);
    assert_eq!(of(Heading::In, 1), [frame(5)]);
    // What was dropped does not leave; what a function made does.
    let left = of(Heading::Out, 1);
    assert_eq!(left, Rig::drain(&rig.outside));
    assert_eq!(left.len(), 3);
    assert!(left.contains(&marked(2)) && left.contains(&marked(3)));
    assert_eq!(of(Heading::Out, 0), [marked(5)]);
    assert_eq!(of(Heading::Out, 0), Rig::drain(&rig.inside));
    assert!(copied.iter().all(|one| one.id == 0 && one.verdict.is_none()));

    assert!(rig.lane.end_observing(watch).is_some());
    assert!(!tap.drain(|_| panic!("nothing came")));
    rig.finish();
}

#[test]
fn what_a_function_is_given_and_what_it_makes_of_it() {
    let mut rig = Rig::new(plan(vec![passes("a"), marks(), passes("c")]));
    let config = TapConfig { place: TapPlace::Function(1), ..ALL };
    let mut tap = Tap::new(config, 1);
    let pick: TapPick = Box::new(|bytes, _| number(bytes) > 4);
    rig.lane.observe(tap.observer(Some(pick)));
    for n in [4, 5, 8] {
        assert!(rig.inside.push_at(frame(n), 1));
    }
    rig.settle();
    let one = |heading, verdict: Option<&str>, id, bytes| Copied {
        heading,
        port: 0,
        reverse: false,
        verdict: verdict.map(str::to_owned),
        id,
        bytes,
    };
    let expected = [
        one(Heading::In, None, 1, frame(5)),
        one(Heading::In, None, 2, frame(8)),
        one(Heading::Out, Some("next"), 1, marked(5)),
        one(Heading::Out, Some("drop 2"), 2, marked(8)),
    ];
    assert_eq!(drain(&mut tap), expected);

    // One side of it, and less of each.
    let mut left = Tap::new(TapConfig { incoming: false, snap_length: 9, ..config }, 1);
    rig.lane.observe(left.observer(None));
    assert!(rig.inside.push_at(frame(6), 1));
    rig.settle();
    let mut seen = Vec::new();
    left.drain(|packet| seen.push((packet.heading, packet.length, packet.bytes.to_vec())));
    assert_eq!(seen, [(Heading::Out, 64, marked(6)[..9].to_vec())]);
    rig.finish();
}

#[test]
fn what_nobody_takes_is_counted_and_costs_nobody_anything() {
    let mut rig = Rig::new(plan(vec![passes("a")]));
    let mut tap = Tap::new(TapConfig { outgoing: false, ..ALL }, 1);
    rig.lane.observe(tap.observer(None));
    let long = |n: u32| {
        let mut bytes = frame(n);
        bytes.resize(1500, 1);
        bytes
    };
    let packets = 8_000_u32;
    let push = |rig: &mut Rig, from: u32, to: u32| {
        for n in from..to {
            assert!(rig.inside.push_at(long(n), 1));
            if n % 100 == 99 {
                rig.settle();
                assert_eq!(Rig::drain(&rig.outside).len(), 100);
            }
        }
    };
    push(&mut rig, 0, packets);
    let room = (8 << 20) / 1500;
    assert_eq!(tap.lost(), u64::from(packets) - room);
    let (mut kept, mut lost) = (0, 0);
    let mut count = |tap: &mut Tap| {
        tap.drain(|packet| {
            assert_eq!(packet.bytes, long(number(packet.bytes)));
            kept += 1;
            lost += packet.lost;
        })
    };
    assert!(count(&mut tap));
    // The next one tells of those that were lost before it.
    push(&mut rig, packets, packets + 100);
    assert!(count(&mut tap));
    assert_eq!((kept, lost), (room + 100, u64::from(packets) - room));
    assert_eq!(tap.lost(), 0);
    assert_eq!(rig.finish().packets_out, u64::from(packets) + 100);
}

#[test]
fn a_tap_ends_when_the_chain_gets_other_functions() {
    let mut rig = Rig::new(plan(vec![passes("a")]));
    let mut tap = Tap::new(ALL, 1);
    let watch = rig.lane.observe(tap.observer(None));
    assert!(rig.inside.push_at(frame(1), 1));
    rig.settle();
    let staged =
        rig.lane.site().stage(plan(vec![passes("a"), passes("b")]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    assert!(rig.inside.push_at(frame(2), 1));
    rig.settle();
    let mut seen = 0;
    assert!(!tap.drain(|_| seen += 1), "there will be no more");
    assert_eq!(seen, 2);
    assert!(rig.lane.end_observing(watch).is_none());
    rig.finish();
}
