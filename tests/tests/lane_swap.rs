//! New versions while traffic flows: nothing lost, state kept, faults undone.

use std::sync::Arc;
use std::time::Duration;

use weir_packet_plane::{FunctionPlan, TrialKind, Worker};
use weir_sandbox::{Admitted, admit};
use weir_tests::rig::{Rig, dropped_by_reason, frame, function, number, plan};
use weir_tests::wat_guest::{self, each, module, upload};

/// Numbers packets in its state region: adds 1 to the u32 at its start and writes it to bytes 4..8 of the
/// packet, and the version to byte 8.
fn counting(version: u8) -> Arc<Admitted> {
    wat_guest::admitted(&each(&format!(
        "(i32.store (global.get $state) (i32.add (i32.load (global.get $state)) (i32.const 1)))
         (i32.store offset=4 (local.get $p) (i32.load (global.get $state)))
         (i32.store8 offset=8 (local.get $p) (i32.const {version}))"
    )))
}

fn stateful(version: u8) -> FunctionPlan {
    FunctionPlan {
        version: version.to_string(),
        state_bytes: 65_536,
        state_layout: "1".into(),
        ..function("counter", counting(version))
    }
}

fn count_in(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[4..8].try_into().unwrap())
}

fn push(rig: &mut Rig, from: u32, n: u32) {
    for i in from..from + n {
        assert!(rig.inside.push_at(frame(i), u64::from(i)));
    }
    rig.settle();
}

#[test]
fn a_thousand_swaps_under_load_lose_no_packet_and_no_state() {
    const SWAPS: u32 = 1000;
    let rig = Rig::new(plan(vec![stateful(1)]));
    let Rig { lane, inside, outside, sandbox, .. } = rig;
    let site = lane.site();
    let worker = Worker::start("test", None, Arc::clone(&sandbox)).unwrap();
    worker.add("test", lane).unwrap();
    let sent = std::thread::scope(|scope| {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let traffic = scope.spawn(move || {
            let mut n = 0u32;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) || n < 20_000 {
                assert!(inside.push(frame(n)));
                n += 1;
                if n.is_multiple_of(64) {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            n
        });
        let mut pauses = Vec::new();
        for swap in 0..SWAPS {
            let version = 2 + u8::try_from(swap % 2).unwrap();
            let states = worker.with("test", |lane| lane.states()).unwrap().unwrap();
            let staged = site.stage(plan(vec![stateful(version)]), &states).unwrap();
            let (published, retired) = worker
                .with("test", |lane| lane.publish(staged, Some(0)))
                .unwrap()
                .unwrap()
                .unwrap();
            retired.end(&sandbox);
            assert!(published.fresh.is_empty());
            pauses.push(published.pause);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        pauses.sort();
        println!(
            "pause: median {:?}, worst {:?}",
            pauses[pauses.len() / 2],
            pauses[pauses.len() - 1]
        );
        traffic.join().unwrap()
    });
    let mut versions = [0u32; 4];
    for expected in 0..sent {
        let frame = outside.take(Duration::from_secs(5)).expect("every packet comes out");
        assert_eq!(number(&frame), expected, "in order");
        assert_eq!(count_in(&frame), expected + 1, "the state went on");
        versions[usize::from(frame[8])] += 1;
    }
    assert!(versions[2] > 0 && versions[3] > 0, "both versions ran: {versions:?}");
    let mut lane = worker.remove("test").unwrap().unwrap();
    assert_eq!(lane.finish().unwrap().out, 0);
    let (counts, _) = lane.counts();
    assert_eq!((counts.packets_in, counts.packets_out), (sent.into(), sent.into()));
    assert_eq!(counts.functions[0].packets, u64::from(sent));
}

#[test]
fn another_layout_starts_with_a_fresh_region() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    push(&mut rig, 0, 10);
    let other = FunctionPlan { state_layout: "2".into(), ..stateful(2) };
    let staged = rig.lane.site().stage(plan(vec![other]), &rig.lane.states()).unwrap();
    let (published, _) = rig.lane.publish(staged, Some(0)).unwrap();
    assert_eq!(published.fresh, ["counter"]);
    push(&mut rig, 10, 1);
    let out = Rig::drain(&rig.outside);
    assert_eq!(count_in(&out[9]), 10);
    assert_eq!(count_in(&out[10]), 1);
    rig.finish();
}

#[test]
fn a_function_that_writes_to_kept_state_while_configured_gets_a_fresh_region() {
    let writes = module(&each(
        "(i32.store (global.get $state) (i32.add (i32.load (global.get $state)) (i32.const 1)))
         (i32.store offset=4 (local.get $p) (i32.load (global.get $state)))",
    ))
    .replace(
        "(i32.store8 (i32.const 0x10) (i32.const 0))\n    (i32.const 0x10))",
        "(i32.store (global.get $state) (i32.const 500))
         (i32.store8 (i32.const 0x10) (i32.const 0)) (i32.const 0x10))",
    );
    let admitted = Arc::new(admit(&upload(&writes, "packet-function")).unwrap());
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    push(&mut rig, 0, 10);
    let other = FunctionPlan { admitted, ..stateful(2) };
    let staged = rig.lane.site().stage(plan(vec![other]), &rig.lane.states()).unwrap();
    push(&mut rig, 10, 1);
    let (published, _) = rig.lane.publish(staged, Some(0)).unwrap();
    assert_eq!(published.fresh, ["counter"]);
    push(&mut rig, 11, 1);
    let out = Rig::drain(&rig.outside);
    assert_eq!(count_in(&out[10]), 11, "the old version was not disturbed by the new one's start");
    assert_eq!(count_in(&out[11]), 501);
    rig.finish();
}

#[test]
fn private_state_goes_through_save_and_restore() {
    let saving = |version: u8| {
        let text = module(&format!(
            "{}
  (global $count (mut i32) (i32.const 0))
  (func (export \"weir:net/snapshot@0.1.0#save\") (result i32)
    (i32.store (i32.const 0x40) (global.get $count))
    (i32.store (i32.const 0x20) (i32.const 0x40))
    (i32.store (i32.const 0x24) (i32.const 4))
    (i32.const 0x20))
  (func (export \"weir:net/snapshot@0.1.0#restore\") (param i32 i32) (result i32)
    (global.set $count (i32.load (local.get 0)))
    (i32.store8 (i32.const 0x10) (i32.const 0))
    (i32.const 0x10))",
            each(&format!(
                "(global.set $count (i32.add (global.get $count) (i32.const 1)))
                 (i32.store offset=4 (local.get $p) (global.get $count))
                 (i32.store8 offset=8 (local.get $p) (i32.const {version}))"
            ))
        ));
        let admitted = admit(&upload(&text, "packet-function-saving")).unwrap();
        assert!(admitted.saves);
        function("counter", Arc::new(admitted))
    };
    let mut rig = Rig::new(plan(vec![saving(1)]));
    push(&mut rig, 0, 10);
    let staged = rig.lane.site().stage(plan(vec![saving(2)]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    push(&mut rig, 10, 1);
    let out = Rig::drain(&rig.outside);
    assert_eq!((count_in(&out[10]), out[10][8]), (11, 2));
    rig.finish();
}

#[test]
fn a_version_that_faults_on_probation_is_rolled_back_without_losing_a_packet() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    push(&mut rig, 0, 32);
    let bad = wat_guest::admitted(&each(
        "(if (i32.eq (i32.load (local.get $p)) (i32.const 50)) (then unreachable))
         (i32.store8 offset=8 (local.get $p) (i32.const 9))",
    ));
    let bad = FunctionPlan { admitted: bad, version: "9".into(), ..stateful(2) };
    let staged = rig.lane.site().stage(plan(vec![bad]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    push(&mut rig, 32, 64);
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.iter().map(|f| number(f)).collect::<Vec<_>>(), (0..96).collect::<Vec<_>>());
    assert!(out[64..].iter().all(|f| f[8] == 1), "the old version is back");
    assert_eq!(rig.lane.plan().functions[0].version, "1");
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("counter 9 was rolled back")), "{events:?}");
    assert!(dropped_by_reason(&rig.finish()).is_empty());
}

#[test]
fn a_canary_gets_its_share_of_the_flows_and_is_promoted() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    let staged = rig.lane.site().stage(plan(vec![stateful(2)]), &rig.lane.states()).unwrap();
    rig.lane.begin_canary(staged, 0, 25).unwrap();
    for time in 0..300 {
        rig.inside.push_at(frame(7), time);
    }
    rig.settle();
    let first = Rig::drain(&rig.outside);
    assert_eq!(first.len(), 300);
    // All frames have the same addresses: one flow, one version.
    assert!(first.iter().all(|f| f[8] == first[0][8]), "a flow stays with its version");
    // Frames with different MACs are different flows.
    for i in 0..4000u32 {
        let mut bytes = frame(7);
        bytes[6..10].copy_from_slice(&i.to_be_bytes());
        rig.inside.push_at(bytes, 1000);
        if i % 256 == 255 {
            rig.settle();
        }
    }
    rig.settle();
    let out = Rig::drain(&rig.outside);
    let share = out.iter().filter(|f| f[8] == 2).count();
    assert!((800..1200).contains(&share), "{share} of 4000");
    let status = rig.lane.status().lock().unwrap().trial.clone().unwrap();
    assert_eq!((status.version.as_str(), status.kind), ("2", TrialKind::Canary(25)));
    rig.lane.promote().unwrap();
    push(&mut rig, 500, 40);
    assert!(Rig::drain(&rig.outside).iter().all(|f| f[8] == 2));
    let counts = rig.counts();
    assert_eq!(counts.functions[0].packets, 4340);
    rig.finish();
}

#[test]
fn a_canary_that_faults_ends_and_its_packets_take_the_old_way() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    let bad = FunctionPlan { admitted: wat_guest::admitted(&each("unreachable")), ..stateful(2) };
    let staged = rig.lane.site().stage(plan(vec![bad]), &rig.lane.states()).unwrap();
    rig.lane.begin_canary(staged, 0, 100).unwrap();
    push(&mut rig, 0, 100);
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.len(), 100);
    assert!(out.iter().all(|f| f[8] == 1));
    assert!(rig.lane.status().lock().unwrap().trial.is_none());
    assert!(dropped_by_reason(&rig.finish()).is_empty());
}

#[test]
fn a_shadow_reports_where_it_differs_and_decides_nothing() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    push(&mut rig, 0, 5);
    // The new version drops every fourth packet and otherwise does what the old one does.
    let new = wat_guest::admitted(&each(
        "(i32.store (global.get $state) (i32.add (i32.load (global.get $state)) (i32.const 1)))
         (i32.store offset=4 (local.get $p) (i32.load (global.get $state)))
         (i32.store8 offset=8 (local.get $p) (i32.const 1))
         (if (i32.eqz (i32.and (i32.load (local.get $p)) (i32.const 3)))
           (then (local.set $verdict (i32.const 0x201))))",
    ));
    let trial = plan(vec![FunctionPlan { admitted: new, version: "2".into(), ..stateful(2) }]);
    let side = rig.lane.site().stage_shadow(&trial, 0).unwrap();
    rig.lane.begin_shadow(side).unwrap();
    push(&mut rig, 100, 40);
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.len(), 45, "the shadow drops nothing");
    assert_eq!(count_in(out.last().unwrap()), 45);
    let (status, _) = rig.lane.end_shadow().unwrap();
    let TrialKind::Shadow(report) = status.kind else { panic!("{status:?}") };
    assert_eq!(
        (report.packets, report.verdicts_differ, report.bytes_differ),
        (40, 10, 0),
        "{report:?}"
    );
    assert_eq!(report.samples[0], "packet 1: next -> drop 2");
    push(&mut rig, 200, 1);
    assert_eq!(count_in(&Rig::drain(&rig.outside)[0]), 46);
    rig.finish();
}

#[test]
fn a_chain_can_get_longer_while_packets_flow() {
    let mut rig = Rig::new(plan(vec![stateful(1)]));
    push(&mut rig, 0, 10);
    let null = function("null", wat_guest::admitted(wat_guest::NULL));
    let longer =
        plan(vec![null.clone(), stateful(1), FunctionPlan { name: "last".into(), ..null }]);
    let staged = rig.lane.site().stage(longer, &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    push(&mut rig, 10, 10);
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.iter().map(|f| count_in(f)).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    let counts = rig.finish();
    assert_eq!(counts.functions.iter().map(|f| f.packets).collect::<Vec<_>>(), [10, 10, 10]);
}
