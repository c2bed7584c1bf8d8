//! A function made with the Rust SDK in the real sandbox: everything it can ask of the host.
//!
//! The tests build these functions with `scripts/build-functions`, which says what is missing if it
//! cannot.

use std::sync::Arc;

use weir_packet_plane::FunctionPlan;
use weir_tests::built::built;
use weir_tests::rig::{Rig, dropped_by_reason, function, plan};

fn probe(config: &str) -> FunctionPlan {
    FunctionPlan {
        state_bytes: 1 << 20,
        state_layout: "1".into(),
        config: config.into(),
        ..function("probe", built("probe"))
    }
}

fn packet(number: u8, command: u8) -> Vec<u8> {
    let mut frame = vec![0; 64];
    (frame[0], frame[3]) = (number, command);
    frame
}

fn counts(frame: &[u8]) -> [u64; 3] {
    [8, 16, 24].map(|at| u64::from_le_bytes(*frame[at..].first_chunk().unwrap()))
}

#[test]
fn the_manifest_lies_in_the_module() {
    let manifest = built("null").manifest.clone().expect("a manifest");
    assert!(manifest.contains("name = \"null\""));
    assert!(!built("null").saves && built("probe").saves);
}

#[test]
fn packets_are_changed_in_place() {
    let mut rig = Rig::new(plan(vec![probe("{}")]));
    for (number, command) in (0..).zip(*b"pslr") {
        rig.inside.push_at(packet(number, command), 5);
    }
    rig.settle();
    let out = Rig::drain(&rig.outside);
    assert_eq!((&out[0][..5], out[0].len()), (&b"head\0"[..], 68));
    assert_eq!(out[1], [0; 60]);
    assert_eq!(out[2], [2, 0, 0, b'l', 0, 0, 0, 0, 0]);
    assert_eq!(Rig::drain(&rig.inside), [packet(3, b'r')]);
    rig.finish();
}

#[test]
fn macswap_swaps() {
    let mut rig = Rig::new(plan(vec![FunctionPlan {
        config: r#"{"verdict": "reply"}"#.into(),
        ..function("macswap", built("macswap"))
    }]));
    let frame: Vec<u8> = (0..64).collect();
    rig.inside.push_at(frame.clone(), 0);
    rig.inside.push_at(vec![1; 11], 0);
    rig.settle();
    assert_eq!(Rig::drain(&rig.inside), [[&frame[6..12], &frame[..6], &frame[12..]].concat()]);
    assert_eq!(rig.finish().functions[0].packets, 2);
}

#[test]
fn a_function_without_a_window_does_the_same() {
    let copying = function("copy-swap", built("copy-swap"));
    let telemetry = Arc::clone(&copying.telemetry);
    let mut rig = Rig::new(plan(vec![function("macswap", built("macswap")), copying]));
    for number in 0..40 {
        let frame: Vec<u8> = (number..number + 64).collect();
        rig.inside.push_at(frame, u64::from(number) * 200_000_000);
        rig.settle();
    }
    rig.inside.push_at(vec![1; 12], 0);
    rig.settle();
    let out = Rig::drain(&rig.outside);
    let expected = (0..40).map(|number| (number..number + 64).collect()).chain([vec![1; 12]]);
    assert_eq!(out, expected.collect::<Vec<Vec<u8>>>(), "swapped twice");
    assert!((38..=41).contains(&telemetry.counters()["swapped"]));
    let copying = function("copy-swap", built("copy-swap"));
    let telemetry = Arc::clone(&copying.telemetry);
    let again = plan(vec![function("macswap", built("macswap")), copying]);
    let staged = rig.lane.site().stage(again, &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(1)).unwrap();
    assert_eq!(telemetry.lines().0[0].message, "41 were swapped before");
    rig.finish();
}

#[test]
fn held_made_and_copied_packets_leave() {
    let mut rig = Rig::new(plan(vec![probe("{}")]));
    rig.inside.push_at(packet(1, b'h'), 10);
    rig.inside.push_at(packet(2, b'a'), 11);
    rig.settle();
    assert_eq!(Rig::drain(&rig.inside), [b"copied"]);
    assert_eq!(Rig::drain(&rig.outside), [b"allocated!".to_vec(), packet(2, b'a')]);
    rig.inside.push_at(packet(3, b'-'), 10_000_000);
    rig.settle();
    assert_eq!(Rig::drain(&rig.outside), [packet(1, b'h'), packet(3, b'-')]);
    rig.finish();
}

#[test]
fn state_survives_a_swap_and_one_that_does_not_fit_is_fresh() {
    let mut rig = Rig::new(plan(vec![probe("{}")]));
    let push = |rig: &mut Rig, from: u8, n: u8, time: u64| {
        for number in from..from + n {
            rig.inside.push_at(packet(number, b'c'), time);
        }
        rig.settle();
        Rig::drain(&rig.outside)
    };
    assert_eq!(counts(&push(&mut rig, 0, 100, 1)[99]), [1, 100, 100]);
    let staged = rig.lane.site().stage(plan(vec![probe("{}")]), &rig.lane.states()).unwrap();
    let (published, _) = rig.lane.publish(staged, Some(0)).unwrap();
    assert!(published.fresh.is_empty(), "opening wrote to the region");
    assert_eq!(counts(&push(&mut rig, 0, 10, 2)[9]), [2, 110, 110]);

    let other = probe(r#"{"capacity": 2000}"#);
    let staged = rig.lane.site().stage(plan(vec![other]), &rig.lane.states()).unwrap();
    let (published, _) = rig.lane.publish(staged, Some(0)).unwrap();
    assert_eq!(published.fresh, ["probe"]);
    assert_eq!(counts(&push(&mut rig, 0, 10, 3)[9]), [1, 10, 120], "the snapshot went on");
    rig.finish();
}

#[test]
fn telemetry_arrives() {
    let one = probe("{}");
    let telemetry = Arc::clone(&one.telemetry);
    let mut rig = Rig::new(plan(vec![one]));
    for time in 0..4 {
        rig.inside.push_at(packet(time, b'c'), u64::from(time) * 60_000_000);
        rig.settle();
    }
    // Handed over when 100 ms had passed, before the third packet.
    assert_eq!(telemetry.counters()["packets"], 2);
    assert_eq!(telemetry.gauges()["entries"], 2.0);
    let (lines, lost) = telemetry.lines();
    assert_eq!((&lines[0].message[..], lost), (r#"place 0 of ["probe"], kept false"#, 0));
    rig.finish();
}

#[test]
fn errors_reach_the_operator() {
    let error = |config: &str| Rig::try_new(plan(vec![probe(config)])).err().unwrap().to_string();
    let misspelt = error(r#"{"capasity": 3}"#);
    assert!(misspelt.contains("unknown field `capasity`, expected `capacity`"), "{misspelt}");
    let large = error(r#"{"capacity": 3000000}"#);
    assert!(large.contains("state `seen` takes 63750336 bytes"), "{large}");
    assert!(large.contains("raise `state`"), "{large}");
    let own = error(r#"{"refuse": true}"#);
    assert!(own.ends_with("as asked; no port is named `nowhere`; ports: in, out"), "{own}");
}

#[test]
fn a_panic_is_logged_and_counts_as_a_fault() {
    let one = probe("{}");
    let telemetry = Arc::clone(&one.telemetry);
    let mut rig = Rig::new(plan(vec![one]));
    rig.inside.push_at(packet(9, b'x'), 1);
    rig.settle();
    let (lines, _) = telemetry.lines();
    let panic = lines.iter().find(|line| line.message.starts_with("panicked at"));
    let panic = &panic.expect("the panic's message").message;
    assert!(panic.contains("tests/guests/probe/src/lib.rs:"), "{panic}");
    assert!(panic.ends_with("as asked by packet 9"), "{panic}");
    assert_eq!(dropped_by_reason(&rig.finish()), [("fault", 1)]);
}
