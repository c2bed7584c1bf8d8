//! New versions while traffic flows: nothing lost, state kept, faults undone.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use weir_packet_plane::{ChainPlan, FunctionPlan, Health, OnFault, TrialKind, Worker};
use weir_sandbox::{Admitted, admit};
use weir_tests::rig::{Rig, dropped_by_reason, frame, function, number, plan};
use weir_tests::wat_guest::{self, each, module, upload};

/// Numbers packets in its state region: adds 1 to the u32 at its start and writes it to bytes 4..8
/// of the packet, and the version to byte 8.
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

/// State regions of this function that the process has open.
fn regions(function: &str) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let name = format!("memfd:{function}");
    open.filter(|file| file.to_string_lossy().contains(&name)).count()
}

/// Where the lane puts what it has no use for any more.
fn disposed(rig: &mut Rig) -> Arc<Mutex<Vec<Box<dyn Send>>>> {
    let disposed = Arc::<Mutex<Vec<_>>>::default();
    let into = Arc::clone(&disposed);
    rig.lane.disposed_by(Arc::new(move |spent| into.lock().unwrap().push(spent)));
    disposed
}

#[test]
fn another_layout_starts_with_a_fresh_region() {
    let of = |version| FunctionPlan { name: "relaid".into(), ..stateful(version) };
    let mut rig = Rig::new(plan(vec![of(1)]));
    push(&mut rig, 0, 10);
    let one = regions("relaid");
    assert_ne!(one, 0);
    let other = FunctionPlan { state_layout: "2".into(), ..of(2) };
    let staged = rig.lane.site().stage(plan(vec![other]), &rig.lane.states()).unwrap();
    let (published, retired) = rig.lane.publish(staged, Some(0)).unwrap();
    assert_eq!(published.fresh, ["relaid"]);
    assert_eq!(regions("relaid"), 2 * one);
    drop(retired);
    assert_eq!(
        regions("relaid"),
        one,
        "the version before, to which the lane may go back, has none"
    );
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

/// As [`counting`], but with the number in memory of its own, which goes from version to version by
/// `save` and `restore`, whose first instructions these are; `verdict` is that of each packet.
fn saving(version: u8, save: &str, restored: u32, verdict: u32) -> FunctionPlan {
    let text = module(&format!(
        "{}
  (global $count (mut i32) (i32.const 0))
  (func (export \"weir:net/snapshot@0.1.0#save\") (result i32)
    {save}
    (i32.store (i32.const 0x40) (global.get $count))
    (i32.store (i32.const 0x20) (i32.const 0x40))
    (i32.store (i32.const 0x24) (i32.const 4))
    (i32.const 0x20))
  (func (export \"weir:net/snapshot@0.1.0#restore\") (param i32 i32) (result i32)
    (global.set $count (i32.load (local.get 0)))
    (i32.store8 (i32.const 0x10) (i32.const {restored}))
    (i32.store (i32.const 0x14) (i32.const 0x8000))
    (i32.store (i32.const 0x18) (i32.const 14))
    (i32.const 0x10))",
        each(&format!(
            "(global.set $count (i32.add (global.get $count) (i32.const 1)))
             (i32.store offset=4 (local.get $p) (global.get $count))
             (i32.store8 offset=8 (local.get $p) (i32.const {version}))
             (local.set $verdict (i32.const {verdict}))"
        ))
    ));
    let admitted = admit(&upload(&text, "packet-function-saving")).unwrap();
    assert!(admitted.saves);
    FunctionPlan { version: version.to_string(), ..function("counter", Arc::new(admitted)) }
}

const HOLD: u32 = 6;

#[test]
fn private_state_goes_through_save_and_restore() {
    let mut rig = Rig::new(plan(vec![saving(1, "", 0, 0)]));
    push(&mut rig, 0, 10);
    let staged =
        rig.lane.site().stage(plan(vec![saving(2, "", 0, 0)]), &rig.lane.states()).unwrap();
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
    let staged = rig.lane.site().stage(plan(vec![bad.clone()]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    // The chain is applied again meanwhile, with the version that faults.
    let again = || plan(vec![bad.clone()]);
    let stale = rig.lane.site().stage(again(), &rig.lane.states()).unwrap();
    let disposed = disposed(&mut rig);
    push(&mut rig, 32, 64);
    assert_eq!(disposed.lock().unwrap().len(), 1, "what faulted is unmapped elsewhere");
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.iter().map(|f| number(f)).collect::<Vec<_>>(), (0..96).collect::<Vec<_>>());
    assert!(out[64..].iter().all(|f| f[8] == 1), "the old version is back");
    assert_eq!(rig.lane.plan().functions[0].version, "1");
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("counter 9 was rolled back")), "{events:?}");
    let refused = rig.lane.publish(stale, None).err().unwrap().to_string();
    assert!(refused.contains("changed meanwhile"), "{refused}");
    let staged = rig.lane.site().stage(again(), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
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
    let packets: Vec<_> = counts.by_function().map(|(name, f)| (name, f.packets)).collect();
    assert_eq!(packets, [("null", 10), ("counter", 20), ("last", 10)]);
}

#[test]
fn what_functions_counted_stays_under_their_names_when_the_chain_gets_others() {
    let null = || function("null", wat_guest::admitted(wat_guest::NULL));
    let deny = || acts("deny", "1", "(local.set $verdict (i32.const 0x501))");
    let mut rig = Rig::new(plan(vec![null(), deny()]));
    let shared = rig.lane.counters();
    let mut publish = |functions, sent| {
        let staged = rig.lane.site().stage(plan(functions), &rig.lane.states()).unwrap();
        rig.lane.publish(staged, None).unwrap();
        // Whoever reads now, before the lane has counted anything more, gives each function what is
        // its own.
        let (read, _) = shared.read();
        let named = |name: &str| read.of(name).map_or((0, 0), |f| (f.packets, f.drops[5]));
        assert_eq!((named("null"), named("deny")), sent);
        push(&mut rig, 0, 10);
        // That all packets are accounted for is looked at here.
        let counts = rig.counts();
        counts.by_function().map(|(name, f)| (name.to_owned(), f.packets, f.drops[5])).collect()
    };
    let of = |name: &str, packets, drops| (name.to_owned(), packets, drops);
    let mut expect = |functions, sent, counts: &[(String, u64, u64)]| {
        let seen: Vec<_> = publish(functions, sent);
        assert_eq!(seen, counts);
    };
    expect(vec![null(), deny()], ((0, 0), (0, 0)), &[of("null", 10, 0), of("deny", 10, 10)]);
    let sent = ((10, 0), (10, 10));
    expect(vec![deny(), null()], sent, &[of("deny", 20, 20), of("null", 10, 0)]);
    expect(vec![null()], ((10, 0), (20, 20)), &[of("null", 20, 0), of("deny", 20, 20)]);
    expect(vec![deny()], ((20, 0), (20, 20)), &[of("deny", 30, 30), of("null", 20, 0)]);
    assert_eq!(rig.finish().packets_out, 10);
}

#[test]
fn a_function_that_faults_in_save_gets_new_instances() {
    let mut rig = Rig::new(plan(vec![saving(1, "unreachable", 0, 0)]));
    push(&mut rig, 0, 10);
    let staged =
        rig.lane.site().stage(plan(vec![saving(2, "", 0, 0)]), &rig.lane.states()).unwrap();
    let refused = rig.lane.publish(staged, Some(0)).err().unwrap();
    assert!(refused.to_string().starts_with("function counter failed in `save`"), "{refused}");
    assert!(rig.inside.push_at(frame(10), SECOND));
    rig.settle();
    let out = Rig::drain(&rig.outside);
    assert_eq!((out.len(), count_in(&out[10]), out[10][8]), (11, 1, 1), "version 1, anew");
    let counts = rig.finish();
    assert_eq!(counts.functions[0].faults, 1);
    assert!(dropped_by_reason(&counts).is_empty());
}

#[test]
fn a_canary_that_is_not_promoted_loses_nothing() {
    let mut rig = Rig::new(plan(vec![saving(1, "", 0, 0)]));
    let staged = rig.lane.site().stage(plan(vec![saving(2, "", 1, HOLD)]), &rig.lane.states());
    rig.lane.begin_canary(staged.unwrap(), 0, 100).unwrap();
    push(&mut rig, 0, 10);
    assert!(Rig::drain(&rig.outside).is_empty(), "it holds them");
    let refused = rig.lane.promote().err().unwrap();
    assert_eq!(refused.to_string(), "function counter refused its saved state: name_in_memory");
    push(&mut rig, 10, 1);
    assert_eq!(Rig::drain(&rig.outside).len(), 11);
    let counts = rig.finish();
    assert_eq!(counts.functions[0].packets, 11);
    assert!(dropped_by_reason(&counts).is_empty());
}

const SECOND: u64 = 1_000_000_000;

/// What the function does to its packets, and to the one with this number.
fn acts(name: &str, version: &str, body: &str) -> FunctionPlan {
    FunctionPlan { version: version.into(), ..function(name, wat_guest::admitted(&each(body))) }
}

fn begin_canary(rig: &mut Rig, chain: ChainPlan, place: usize) {
    let staged = rig.lane.site().stage(chain, &rig.lane.states()).unwrap();
    rig.lane.begin_canary(staged, place, 100).unwrap();
}

fn faults_and_health(rig: &mut Rig) -> Vec<(u64, Health)> {
    let counts = rig.counts();
    let status = rig.lane.status();
    let functions = &status.lock().unwrap().functions;
    counts.functions.iter().zip(functions).map(|(counts, known)| (counts.faults, known.2)).collect()
}

fn said(rig: &Rig, text: &str) -> bool {
    rig.lane.status().lock().unwrap().events.iter().any(|(_, event)| event.contains(text))
}

#[test]
fn what_a_canary_violates_is_not_the_running_versions_fault() {
    let mut rig = Rig::new(plan(vec![acts("f", "1", "")]));
    let bad = acts("f", "2", "(local.set $verdict (i32.const 0x77))");
    begin_canary(&mut rig, plan(vec![bad]), 0);
    push(&mut rig, 0, 96);
    assert_eq!(Rig::drain(&rig.outside).len(), 64, "its first burst is lost");
    assert!(rig.lane.status().lock().unwrap().trial.is_none());
    assert!(said(&rig, "f 2 was rolled back: bad-verdict"));
    assert_eq!(faults_and_health(&mut rig), [(1, Health::Running)]);
    assert_eq!(dropped_by_reason(&rig.finish()), [("bad-verdict", 32)]);
}

#[test]
fn a_canary_goes_on_when_another_function_faults_in_it() {
    let trap = "(if (i32.eq (i32.load (local.get $p)) (i32.const 40)) (then unreachable))";
    let rest = |open| FunctionPlan {
        on_fault: if open { OnFault::FailOpen } else { OnFault::FailClosed },
        ..acts("g", "1", trap)
    };
    for open in [false, true] {
        let mut rig = Rig::new(plan(vec![acts("f", "1", ""), rest(open)]));
        let new = acts("f", "2", "(i32.store8 offset=8 (local.get $p) (i32.const 2))");
        begin_canary(&mut rig, plan(vec![new, rest(open)]), 0);
        push(&mut rig, 0, 96);
        let out = Rig::drain(&rig.outside);
        assert!(out.iter().all(|f| f[8] == 2));
        assert_eq!(out.len(), if open { 96 } else { 32 });
        let seen = faults_and_health(&mut rig);
        assert_eq!(seen[0], (0, Health::Running));
        assert!(matches!(seen[1], (1, Health::BackOff { .. })), "{seen:?}");
        // It is back, and the trial goes on.
        rig.inside.push_at(frame(1), SECOND);
        rig.settle();
        assert_eq!(Rig::drain(&rig.outside)[0][8], 2);
        let trial = rig.lane.status().lock().unwrap().trial.clone();
        assert_eq!(trial.unwrap().version, "2");
        rig.finish();
    }
}

#[test]
fn a_canary_passes_by_what_is_out_of_order() {
    let trap = FunctionPlan { on_fault: OnFault::FailOpen, ..acts("g", "1", "unreachable") };
    let mut rig = Rig::new(plan(vec![acts("f", "1", ""), trap.clone()]));
    for second in 0..5 {
        rig.inside.push_at(frame(1), second * SECOND);
        rig.settle();
    }
    assert_eq!(faults_and_health(&mut rig)[1], (5, Health::Quarantined));
    begin_canary(&mut rig, plan(vec![acts("f", "2", ""), trap]), 0);
    rig.inside.push_at(frame(1), 5 * SECOND);
    rig.settle();
    assert!(rig.lane.status().lock().unwrap().trial.is_some());
    assert_eq!(faults_and_health(&mut rig)[1], (5, Health::Quarantined));
    rig.finish();
}

/// Version 2 of function f, which counts its ticks, and how many there were; with this in
/// `configure`.
fn counts_ticks(configure: &str) -> (FunctionPlan, impl Fn() -> u64) {
    let new = wat_guest::module(wat_guest::NULL)
        .replace(
            "(func (export \"weir:net/packet@0.1.0#tick\") (param i64))",
            "(func (export \"weir:net/packet@0.1.0#tick\") (param i64)
               (call $counter-add (i32.const 0x8000) (i32.const 14) (i64.const 1)))",
        )
        .replace(
            "(i32.store8 (i32.const 0x10) (i32.const 0))",
            &format!("{configure} (i32.store8 (i32.const 0x10) (i32.const 0))"),
        );
    let new = Arc::new(admit(&upload(&new, "packet-function")).unwrap());
    let new = FunctionPlan { version: "2".into(), ..function("f", new) };
    let telemetry = Arc::clone(&new.telemetry);
    (new, move || telemetry.counters().get("name_in_memory").copied().unwrap_or(0))
}

#[test]
fn a_canary_is_ticked_and_flushed() {
    let (new, ticks) = counts_ticks("(call $set-timer (i64.const 5))");
    let mut rig = Rig::new(plan(vec![acts("f", "1", "")]));
    begin_canary(&mut rig, plan(vec![new]), 0);
    rig.inside.push_at(frame(1), 10);
    rig.settle();
    assert_eq!(ticks(), 1, "its time has come");
    let canary = rig.lane.end_canary().expect("there is one");
    canary.end(&rig.sandbox);
    assert_eq!(ticks(), 2);
    rig.finish();
}

#[test]
fn what_is_swapped_beside_a_canary_does_not_come_back_with_it() {
    let chain = |f: &str, g: &str| plan(vec![acts("f", f, ""), acts("g", g, "")]);
    let mut rig = Rig::new(chain("1", "1"));
    let stale = rig.lane.site().stage(chain("2", "1"), &rig.lane.states()).unwrap();
    let again = rig.lane.site().stage(chain("2", "1"), &rig.lane.states()).unwrap();
    begin_canary(&mut rig, chain("2", "1"), 0);
    let staged = rig.lane.site().stage(chain("1", "2"), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(1)).unwrap();
    assert!(said(&rig, "the canary of f 2 ends: other functions of the chain are replaced"));
    assert!(rig.lane.promote().is_err());
    // Nor with what was made ready before.
    assert!(rig.lane.begin_canary(stale, 0, 5).is_err());
    assert!(rig.lane.publish(again, Some(0)).is_err());
    push(&mut rig, 0, 10);
    let versions: Vec<_> = rig.lane.plan().functions.iter().map(|f| f.version.clone()).collect();
    assert_eq!(versions, ["1", "2"]);
    rig.finish();
}

#[test]
fn a_version_that_goes_back_takes_a_canary_beside_it_along() {
    let trap = "(if (i32.eq (i32.load (local.get $p)) (i32.const 5)) (then unreachable))";
    let old = || acts("g", "1", "");
    let bad = || acts("g", "2", trap);
    let mut rig = Rig::new(plan(vec![acts("f", "1", ""), old()]));
    let staged = rig.lane.site().stage(plan(vec![acts("f", "1", ""), bad()]), &rig.lane.states());
    rig.lane.publish(staged.unwrap(), Some(1)).unwrap();
    let (new, ticks) = counts_ticks("");
    let staged = rig.lane.site().stage(plan(vec![new, bad()]), &rig.lane.states());
    rig.lane.begin_canary(staged.unwrap(), 0, 0).unwrap();
    push(&mut rig, 0, 40);
    assert_eq!(Rig::drain(&rig.outside).len(), 40);
    assert!(said(&rig, "g 2 was rolled back"));
    assert!(rig.lane.promote().is_err(), "it has the version that went back");
    // Its last tick it has where no packets wait.
    let canary = rig.lane.end_canary().expect("it waits for that");
    assert_eq!(ticks(), 0);
    canary.end(&rig.sandbox);
    assert_eq!(ticks(), 1);
    assert!(rig.lane.end_canary().is_none());
    rig.finish();
}

#[test]
fn packets_held_one_after_the_other_leave_a_chain_that_is_replaced() {
    let holds = |name: &str| acts(name, "1", "(local.set $verdict (i32.const 6))");
    let mut rig = Rig::new(plan(vec![holds("a"), holds("b"), holds("c")]));
    push(&mut rig, 0, 10);
    let mark = "(i32.store8 offset=8 (local.get $p) (i32.const 1))";
    let other = plan(["x", "y", "z"].map(|name| acts(name, "1", mark)).into());
    let staged = rig.lane.site().stage(other, &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    rig.settle();
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.len(), 10);
    assert!(out.iter().all(|f| f[8] == 0), "the new chain is for those that come after it");
    rig.finish();
}

#[test]
fn what_a_version_was_handed_and_knows_nothing_of_makes_room_for_what_it_holds() {
    let holds = |version: &str, layout: &str| FunctionPlan {
        state_bytes: 65_536,
        state_layout: layout.into(),
        ..acts("f", version, "(local.set $verdict (i32.const 6))")
    };
    let mut rig = Rig::new(plan(vec![holds("1", "1")]));
    push(&mut rig, 0, 200);
    assert_eq!(dropped_by_reason(&rig.counts()), [("hold-limit", 200 - 128)], "its share");
    let swap = |rig: &mut Rig, to: FunctionPlan| {
        let staged = rig.lane.site().stage(plan(vec![to]), &rig.lane.states()).unwrap();
        rig.lane.publish(staged, Some(0)).unwrap();
        rig.settle();
    };
    swap(&mut rig, holds("2", "1"));
    assert!(said(&rig, "function f: it was handed 128 packets that an instance before it held"));
    push(&mut rig, 200, 10);
    assert_eq!(dropped_by_reason(&rig.counts()), [("hold-limit", 200 - 128 + 10)]);
    assert!(Rig::drain(&rig.outside).is_empty());
    // Over a region of another layout nothing is handed over: what it holds goes on.
    swap(&mut rig, holds("3", "2"));
    let mut left: Vec<u32> = Rig::drain(&rig.outside).iter().map(|f| number(f)).collect();
    left.sort_unstable();
    assert_eq!(left, (10..128).chain(200..210).collect::<Vec<_>>());
    rig.finish();
}

#[test]
fn errors_go_where_the_flow_is_that_they_quote() {
    let mark = |version: u8| format!("(i32.store8 offset=8 (local.get $p) (i32.const {version}))");
    let mut rig = Rig::new(plan(vec![acts("f", "1", &mark(1))]));
    let staged = rig.lane.site().stage(plan(vec![acts("f", "2", &mark(2))]), &rig.lane.states());
    rig.lane.begin_canary(staged.unwrap(), 0, 50).unwrap();
    let ends = ([10, 0, 0, 1], [192, 0, 2, 7]);
    for flow in 1..=64 {
        let mut request = Vec::new();
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        ethernet().ipv4(ends.0, ends.1, 64).udp(flow, 53).write(&mut request, &[0; 8]).unwrap();
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        let mut error = Vec::new();
        let quoting = ethernet().ipv4([203, 0, 113, 1], ends.0, 64).icmpv4(kind);
        quoting.write(&mut error, &request[14..]).unwrap();
        rig.inside.push_at(request, u64::from(flow));
        rig.outside.push_at(error, u64::from(flow));
    }
    rig.settle();
    // The flow's port, where it is in a request or in an error, and the version.
    let versions = |wire, at: usize| {
        let seen = Rig::drain(wire);
        let seen = seen.iter().map(|f| (u16::from_be_bytes([f[at], f[at + 1]]), f[8]));
        seen.collect::<std::collections::BTreeMap<_, _>>()
    };
    let (requests, errors) = (versions(&rig.outside, 34), versions(&rig.inside, 62));
    assert_eq!(requests.len(), 64);
    assert!([1, 2].iter().all(|version| requests.values().any(|by| by == version)));
    assert_eq!(requests, errors);
    rig.finish();
}

#[test]
fn a_function_that_faults_in_a_canary_is_out_of_order_when_there_are_no_new_instances() {
    // The second `configure` over the same region fails.
    let traps = "(i32.store (global.get $state) (i32.const 1)) unreachable";
    let faulty = FunctionPlan {
        admitted: wat_guest::refusing(&each(traps)),
        on_fault: OnFault::FailOpen,
        state_bytes: 65_536,
        state_layout: "1".into(),
        ..acts("g", "1", "")
    };
    let mut rig = Rig::new(plan(vec![acts("f", "1", ""), faulty.clone()]));
    begin_canary(&mut rig, plan(vec![acts("f", "2", ""), faulty]), 0);
    push(&mut rig, 0, 96);
    assert!(rig.lane.status().lock().unwrap().trial.is_none());
    assert!(said(&rig, "the canary of f 2 ends"));
    let seen = faults_and_health(&mut rig);
    assert!(matches!(seen[1], (1, Health::BackOff { .. })), "it was not called on: {seen:?}");
    assert_eq!(Rig::drain(&rig.outside).len(), 96);
    rig.finish();
}

#[test]
fn a_version_that_writes_verdicts_while_it_is_configured_is_refused_and_they_are_nobodys() {
    let strays = wat_guest::configured(
        &each(""),
        "(i32.store offset=0x1000 (global.get $window) (i32.const 0x301))
         (i32.store8 (i32.const 0x10) (i32.const 0))",
    );
    let mut rig = Rig::new(plan(vec![acts("f", "1", "")]));
    push(&mut rig, 0, 32);
    let new = plan(vec![FunctionPlan { version: "2".into(), ..function("f", strays) }]);
    let refused = rig.lane.site().stage(new, &rig.lane.states()).err().unwrap().to_string();
    assert!(refused.contains("failed in `configure`"), "{refused}");
    push(&mut rig, 32, 32);
    assert_eq!(Rig::drain(&rig.outside).len(), 64);
    rig.finish();
}

#[test]
fn what_goes_back_leaves_other_functions_in_quarantine() {
    let trap = FunctionPlan { on_fault: OnFault::FailOpen, ..acts("g", "1", "unreachable") };
    let chain = |version: &str| plan(vec![acts("f", version, ""), trap.clone()]);
    let mut rig = Rig::new(chain("1"));
    for second in 0..5 {
        rig.inside.push_at(frame(1), second * SECOND);
        rig.settle();
    }
    let staged = rig.lane.site().stage(chain("2"), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    let staged = rig.lane.site().stage(chain("1"), &rig.lane.states()).unwrap();
    rig.lane.publish_rollback(staged, 0).unwrap();
    rig.inside.push_at(frame(1), 5 * SECOND);
    rig.settle();
    assert_eq!(faults_and_health(&mut rig)[1], (5, Health::Quarantined));
    // What an operator wants anew is tried anew.
    let staged = rig.lane.site().stage(chain("1"), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    assert_eq!(faults_and_health(&mut rig)[1], (5, Health::Running));
    rig.finish();
}

#[test]
fn what_is_brought_back_goes_on_with_its_probation() {
    let chain = |version: &str, body: &str| plan(vec![acts("f", version, body)]);
    let traps = chain("2", "(if (i32.load (local.get $p)) (then unreachable))");
    let mut rig = Rig::new(chain("1", ""));
    for next in [traps.clone(), chain("3", "")] {
        let staged = rig.lane.site().stage(next, &rig.lane.states()).unwrap();
        let probation = rig.lane.probation();
        rig.lane.publish(staged, Some(0)).unwrap();
        if probation.is_some() {
            // Another lane refuses it.
            let staged = rig.lane.site().stage(traps.clone(), &rig.lane.states()).unwrap();
            rig.lane.publish_back(staged, probation).unwrap();
        }
    }
    push(&mut rig, 1, 1);
    assert!(said(&rig, "f 2 was rolled back"));
    assert_eq!(rig.lane.plan().functions[0].version, "1");
    rig.finish();
}

#[test]
fn what_goes_back_beside_a_version_that_went_back_by_itself_does_not_bring_that_again() {
    let trap = "(if (i32.eq (i32.load (local.get $p)) (i32.const 5)) (then unreachable))";
    let chain = |f: &str, g: &str| {
        let [f_plan, g_plan] = [(f, "f", ""), (g, "g", if g == "2" { trap } else { "" })]
            .map(|(version, name, body)| acts(name, version, body));
        plan(vec![f_plan, g_plan])
    };
    let mut rig = Rig::new(chain("1", "1"));
    for (next, place) in [(chain("2", "1"), 0), (chain("2", "2"), 1)] {
        let staged = rig.lane.site().stage(next, &rig.lane.states()).unwrap();
        rig.lane.publish(staged, Some(place)).unwrap();
    }
    // Made ready for the chain as it runs now.
    let stale = rig.lane.site().stage(chain("1", "2"), &rig.lane.states()).unwrap();
    push(&mut rig, 0, 10);
    assert!(said(&rig, "g 2 was rolled back"));
    let refused = rig.lane.publish_rollback(stale, 0).err().unwrap();
    assert_eq!(refused.to_string(), "the chain has changed meanwhile: do it again");
    let staged = rig.lane.site().stage(chain("1", "1"), &rig.lane.states()).unwrap();
    rig.lane.publish_rollback(staged, 0).unwrap();
    let versions: Vec<_> = rig.lane.plan().functions.iter().map(|f| f.version.clone()).collect();
    assert_eq!(versions, ["1", "1"]);
    rig.finish();
}

#[test]
fn nothing_is_swapped_beside_a_version_that_is_about_to_go_back() {
    let slow = wat_guest::configured(
        &each("(i32.store (global.get $state) (i32.const 1))"),
        wat_guest::SLOW_AGAIN,
    );
    let trap = "(if (i32.eq (i32.load (local.get $p)) (i32.const 5)) (then unreachable))";
    let chain = |f: &str, g: &str| {
        let slow = function("slow", Arc::clone(&slow));
        let slow = FunctionPlan { state_bytes: 65_536, state_layout: "1".into(), ..slow };
        plan(vec![acts("f", f, ""), acts("g", g, if g == "2" { trap } else { "" }), slow])
    };
    let mut rig = Rig::new(chain("1", "1"));
    rig.lane.restored_by(Arc::new(|| {}));
    push(&mut rig, 0, 5);
    let staged = rig.lane.site().stage(chain("1", "2"), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(1)).unwrap();
    push(&mut rig, 5, 1);
    let made = rig.lane.missing().expect("that takes too long on the worker").make();
    for (f, back) in [("2", false), ("0", true)] {
        let staged = rig.lane.site().stage(chain(f, "2"), &rig.lane.states()).unwrap();
        let published = if back {
            rig.lane.publish_rollback(staged, 0)
        } else {
            rig.lane.publish(staged, Some(0))
        };
        assert!(published.err().unwrap().to_string().contains("has changed meanwhile"));
    }
    rig.lane.restore(made);
    assert!(said(&rig, "g 2 was rolled back"));
    assert_eq!(rig.lane.plan().functions[1].version, "1");
    rig.finish();
}

#[test]
fn a_version_before_is_known_for_longer_than_a_fault_brings_it_back() {
    let bad = || acts("f", "2", "(if (i32.load (local.get $p)) (then unreachable))");
    let mut rig = Rig::new(plan(vec![acts("f", "1", "")]));
    let staged = rig.lane.site().stage(plan(vec![bad()]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    let disposed = disposed(&mut rig);
    for (second, number) in [(11, 0), (12, 0), (13, 1)] {
        rig.inside.push_at(frame(number), second * SECOND);
        rig.settle();
    }
    assert!(!said(&rig, "was rolled back"));
    // Another lane may have rolled back within the ten seconds, and reports it only now.
    assert_eq!(rig.lane.before_swap("f", "2").unwrap().functions[0].version, "1");
    let before = disposed.lock().unwrap().len();
    rig.inside.push_at(frame(0), 200 * SECOND);
    rig.settle();
    rig.inside.push_at(frame(0), 201 * SECOND);
    rig.settle();
    assert!(rig.lane.before_swap("f", "2").is_none());
    assert_eq!(disposed.lock().unwrap().len(), before + 1, "its code is let go of elsewhere");
    rig.finish();
}

#[test]
fn new_instances_after_a_fault_are_made_of_the_code_that_is_there() {
    let traps_on =
        |n| format!("(if (i32.eq (i32.load (local.get $p)) (i32.const {n})) (then unreachable))");
    let chain = |version: &str, n: u32| {
        plan(vec![acts("f", version, &traps_on(n)), acts("g", "1", &traps_on(3))])
    };
    let mut rig = Rig::new(chain("1", 1));
    let fault = |rig: &mut Rig, n: u32| {
        rig.inside.push_at(frame(n), u64::from(n) * SECOND);
        rig.settle();
    };
    // Code that is asked for again comes from the sandbox's memory, in no time; that may not have
    // it any more.
    let first = rig.lane.compiled_in();
    assert!(!first.is_zero());
    fault(&mut rig, 1);
    assert_eq!(rig.lane.compiled_in(), first);
    // The version before.
    let staged = rig.lane.site().stage(chain("2", 2), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    assert_ne!(rig.lane.compiled_in(), first);
    fault(&mut rig, 2);
    assert!(said(&rig, "f 2 was rolled back"));
    assert_eq!(rig.lane.compiled_in(), first);
    // A canary in which another function faults.
    let staged = rig.lane.site().stage(chain("3", 0), &rig.lane.states()).unwrap();
    let third = staged.compiled_in();
    rig.lane.begin_canary(staged, 0, 100).unwrap();
    fault(&mut rig, 3);
    rig.lane.promote().unwrap();
    assert_eq!(rig.lane.compiled_in(), third);
    assert_eq!(faults_and_health(&mut rig).iter().map(|seen| seen.0).collect::<Vec<_>>(), [2, 1]);
    rig.finish();
}
