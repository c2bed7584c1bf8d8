//! Looking at what the functions of a linked chain do, while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weir_packet_plane::{Followed, FunctionPlan, Observer, Pick, Trace, verdict_in_words};
use weir_pool::Memory;
use weir_sandbox::thread_time;
use weir_tests::rig::{Rig, dropped_by_reason, frame, function, number, plan};
use weir_tests::wat_guest::{self, each};

/// Writes this byte to place `at` of each packet; packets whose number ends in 3 bits of 0 it drops
/// with reason 2.
fn marks(name: &str, at: u32, byte: u8) -> FunctionPlan {
    let body = format!(
        "(i32.store8 offset={at} (local.get $p) (i32.const {byte}))
         (if (i32.eqz (i32.and (i32.load (local.get $p)) (i32.const 7)))
           (then (local.set $verdict (i32.const 0x201))))"
    );
    function(name, wat_guest::admitted(&each(&body)))
}

fn passes(name: &str) -> FunctionPlan {
    function(name, wat_guest::admitted(wat_guest::NULL))
}

/// Follows the first so many packets whose number is at least `from`.
fn trace(rig: &mut Rig, limit: usize, functions: usize, from: u32) -> Trace {
    let pick: Pick = Box::new(move |it| it.made || number(it.bytes) >= from);
    let trace = Trace::new(limit, functions, pick);
    rig.lane.observe(trace.observer(2048));
    trace
}

/// Places and verdicts of a packet's way.
fn way(followed: &Followed) -> Vec<(usize, String)> {
    let verdict = |step: &weir_packet_plane::Step| {
        step.outcome.as_ref().map_or("none".to_owned(), |outcome| verdict_in_words(outcome.verdict))
    };
    followed.steps.iter().map(|step| (step.place, verdict(step))).collect()
}

fn words(steps: &[(usize, &str)]) -> Vec<(usize, String)> {
    steps.iter().map(|(place, verdict)| (*place, (*verdict).to_owned())).collect()
}

#[test]
fn packets_are_followed_through_a_linked_chain_in_both_directions() {
    let mut rig = Rig::new(plan(vec![passes("a"), marks("b", 8, 7), passes("c")]));
    let trace = trace(&mut rig, 3, 3, 6);
    for n in 1..40 {
        assert!(rig.inside.push_at(frame(n), u64::from(n)));
    }
    rig.settle();
    assert!(trace.is_complete());
    let (followed, came) = trace.recorded();
    assert_eq!(came, 32, "after the first burst it is full, and nobody is looked at any more");
    let numbers: Vec<_> = followed.iter().map(|way| way.number).collect();
    assert_eq!(numbers, [Some(6), Some(7), Some(8)]);
    let through = words(&[(0, "next"), (1, "next"), (2, "next")]);
    assert_eq!((way(&followed[0]), way(&followed[1])), (through.clone(), through));
    assert_eq!(way(&followed[2]), words(&[(0, "next"), (1, "drop 2")]));
    assert_eq!((followed[0].bytes.clone(), followed[0].reverse), (frame(6), false));
    let changed = |step: usize| followed[0].steps[step].outcome.clone().unwrap().changed;
    let mut marked = frame(6);
    marked[8] = 7;
    assert_eq!((changed(0), changed(1), changed(2)), (None, Some(marked), None));

    let mut other = Rig::new(plan(vec![passes("a"), marks("b", 8, 7), passes("c")]));
    let back = self::trace(&mut other, 2, 3, 0);
    for n in [1, 8] {
        assert!(other.outside.push_at(frame(n), 1));
    }
    other.settle();
    let (followed, _) = back.recorded();
    assert!(followed.iter().all(|way| way.reverse));
    assert_eq!(way(&followed[0]), words(&[(2, "next"), (1, "next"), (0, "next")]));
    assert_eq!(way(&followed[1]), words(&[(2, "next"), (1, "drop 2")]));
    // Whether somebody looked makes no difference.
    assert_eq!(Rig::drain(&rig.outside).len(), 35);
    assert_eq!(Rig::drain(&other.inside).len(), 1);
    rig.finish();
    other.finish();
}

#[test]
fn what_a_function_makes_is_followed_and_jumps_are_shown() {
    // Sends a packet of its own for the first of each burst, and lets odd ones jump over the next
    // function.
    let makes = function(
        "makes",
        wat_guest::admitted(&each(
            "(if (i32.eqz (local.get $i)) (then
               (call $send-copy (local.get $p) (i32.const 60) (i32.const 0) (i32.const 0x40))))
             (if (i32.and (i32.load (local.get $p)) (i32.const 1))
               (then (local.set $verdict (i32.const 0x205))))",
        )),
    );
    let mut rig = Rig::new(plan(vec![makes, passes("b"), passes("c")]));
    let trace = trace(&mut rig, 10, 3, 0);
    for n in [2, 3] {
        assert!(rig.inside.push_at(frame(n), 1));
    }
    rig.settle();
    let (followed, came) = trace.recorded();
    assert_eq!(came, 2);
    assert_eq!(way(&followed[0]), words(&[(0, "next"), (1, "next"), (2, "next")]));
    assert_eq!(way(&followed[1]), words(&[(0, "jump 2"), (2, "next")]));
    assert_eq!((followed[2].number, followed[2].bytes.len()), (None, 60));
    assert_eq!(way(&followed[2]), words(&[(1, "next"), (2, "next")]));
    assert_eq!(Rig::drain(&rig.outside).len(), 3);
    rig.finish();
}

#[test]
fn an_answer_is_followed_past_the_functions_that_it_passes_on_its_way_back() {
    // Answers what comes to it with a 1 behind its number; the one before it drops what was
    // answered with a 2 there.
    let answers = each(
        "(if (i32.load8_u offset=4 (local.get $p)) (then (local.set $verdict (i32.const 2))))",
    );
    let filters = each(
        "(local.set $d (i32.load8_u offset=4 (local.get $p)))
         (if (i32.load16_u offset=0x2002
               (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
           (then (if (i32.eq (local.get $d) (i32.const 2))
             (then (local.set $verdict (i32.const 0x101))))))",
    );
    let of = |name, body: &str| function(name, wat_guest::admitted(body));
    let mut rig =
        Rig::new(plan(vec![passes("a"), of("filters", &filters), of("answers", &answers)]));
    let trace = trace(&mut rig, 3, 3, 1);
    for answer in 0..3 {
        let mut bytes = frame(1);
        bytes[4] = answer;
        assert!(rig.inside.push_at(bytes, 1));
        rig.settle();
    }
    let (followed, came) = trace.recorded();
    assert_eq!(came, 3);
    let there = [(0, "next"), (1, "next")];
    let ways = [
        &[(2, "next")][..],
        &[(2, "reply"), (1, "next"), (0, "next")],
        &[(2, "reply"), (1, "drop 1")],
    ];
    for (followed, then) in followed.iter().zip(ways) {
        assert_eq!(way(followed), words(&[&there[..], then].concat()));
        assert!(!followed.reverse, "it came forward");
    }
    assert!(trace.is_complete(), "all of them have left");
    assert_eq!((Rig::drain(&rig.outside).len(), Rig::drain(&rig.inside).len()), (1, 1));
    rig.finish();
}

#[test]
fn a_trace_goes_on_when_versions_come_and_ends_with_the_chain() {
    let mut rig = Rig::new(plan(vec![marks("m", 8, 1)]));
    let trace = Trace::new(10, 1, Box::new(|_| true));
    let watch = rig.lane.observe(trace.observer(2048));
    let push = |rig: &mut Rig, n| {
        assert!(rig.inside.push_at(frame(n), 1));
        rig.settle();
    };
    push(&mut rig, 1);
    let next = FunctionPlan { version: "2".into(), ..marks("m", 8, 2) };
    let staged = rig.lane.site().stage(plan(vec![next.clone()]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, Some(0)).unwrap();
    push(&mut rig, 2);
    let staged = rig.lane.site().stage(plan(vec![marks("m", 8, 3)]), &rig.lane.states()).unwrap();
    rig.lane.begin_canary(staged, 0, 100).unwrap();
    push(&mut rig, 3);
    let (followed, _) = trace.recorded();
    let marked: Vec<_> = followed
        .iter()
        .map(|way| way.steps[0].outcome.clone().unwrap().changed.unwrap()[8])
        .collect();
    assert_eq!(marked, [1, 2, 3], "the old version, the new one, the canary");

    rig.lane.end_canary();
    let longer = plan(vec![next, passes("last")]);
    let staged = rig.lane.site().stage(longer, &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    push(&mut rig, 4);
    assert_eq!(trace.recorded().1, 3);
    let other = rig.lane.observe(trace.observer(2048));
    assert!(rig.lane.end_observing(watch).is_none(), "it has ended, and is nobody else");
    assert!(rig.lane.end_observing(other).is_some());
    rig.finish();
}

#[test]
fn faults_show_and_leave_the_trace_in_order() {
    let bad = each("(if (i32.eq (i32.load (local.get $p)) (i32.const 2)) (then unreachable))");
    let mut rig =
        Rig::new(plan(vec![passes("a"), function("bad", wat_guest::admitted(&bad)), passes("c")]));
    let trace = trace(&mut rig, 10, 3, 0);
    for n in 1..4 {
        assert!(rig.inside.push_at(frame(n), 1));
        rig.settle();
    }
    let (followed, _) = trace.recorded();
    assert_eq!(way(&followed[1]), words(&[(0, "next"), (1, "none")]));
    assert_eq!(way(&followed[2])[..1], words(&[(0, "next")])[..]);
    assert_eq!(followed.len(), 3);
    assert_eq!(dropped_by_reason(&rig.finish())[0].0, "fault");
}

/// Uses up CPU time.
struct Slow(Arc<AtomicU64>);

impl Observer for Slow {
    fn before(&mut self, _: usize, _: &Memory, count: usize) {
        self.after(0, &Memory::new("x", 4096, weir_pool::HugePages::Never).unwrap(), count);
    }

    fn after(&mut self, _: usize, _: &Memory, count: usize) {
        let until = thread_time() + Duration::from_millis(60);
        while thread_time() < until {
            std::hint::spin_loop();
        }
        self.0.fetch_add(count as u64, Relaxed);
    }
}

/// Functions have 20 ms here.
#[test]
fn who_looks_does_not_use_up_a_functions_time() {
    let mut rig = Rig::new(plan(vec![passes("a"), marks("b", 8, 7)]));
    let looked = Arc::new(AtomicU64::new(0));
    let watch = rig.lane.observe(Box::new(Slow(Arc::clone(&looked))));
    for n in 1..6 {
        assert!(rig.inside.push_at(frame(n), 1));
        rig.settle();
    }
    assert_eq!(looked.load(Relaxed), 4 * 5, "two functions, before and after");
    assert!(rig.lane.end_observing(watch).is_some());
    assert!(rig.inside.push_at(frame(6), 1));
    rig.settle();
    assert_eq!(looked.load(Relaxed), 4 * 5);
    let counts = rig.finish();
    assert_eq!(counts.functions.iter().map(|f| f.faults).sum::<u64>(), 0);
    assert_eq!(counts.packets_out, 6);
}

#[test]
fn what_functions_cost_is_told_by_a_sample() {
    // The second one has a thousand rounds of a loop to do for each packet.
    let slow = each(
        "(local.set $d (i32.const 1000))
         (loop $rounds (br_if $rounds (local.tee $d (i32.sub (local.get $d) (i32.const 1)))))",
    );
    let mut rig = Rig::new(plan(vec![passes("a"), function("slow", wat_guest::admitted(&slow))]));
    // By the capture's clock: a hundred bursts of 32 within 100 ms, then one after that time.
    for n in 0..3200 {
        assert!(rig.inside.push_at(frame(n), u64::from(n / 32) * 1_000_000));
        if n % 32 == 31 {
            rig.settle();
            assert_eq!(Rig::drain(&rig.outside).len(), 32);
        }
    }
    let sample = |rig: &mut Rig, place: usize| rig.counts().functions[place].sample;
    assert_eq!(sample(&mut rig, 0).calls, 0, "too few bursts, too early");
    assert!(rig.inside.push_at(frame(1), 200_000_000));
    rig.settle();
    let (first, second) = (sample(&mut rig, 0), sample(&mut rig, 1));
    assert_eq!((first.calls, first.packets), (1, 1));
    assert_eq!((second.calls, second.packets), (1, 1));
    assert!(second.nanoseconds > 100, "{second:?}");
    // 251 bursts later, whatever the time.
    for n in 0..251 {
        assert!(rig.inside.push_at(frame(n), 200_000_001));
        rig.settle();
    }
    assert_eq!(sample(&mut rig, 1).calls, 2);
    rig.finish();
}
