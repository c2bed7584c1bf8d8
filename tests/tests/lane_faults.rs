//! Hostile and broken functions: each costs at most its own packets, is named, and hurts nobody
//! else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weir_chain::Mode;
use weir_packet_plane::{ChainPlan, FunctionPlan, Health, OnFault};
use weir_tests::rig::{Rig, dropped_by_reason, frame, function, number, plan};
use weir_tests::wat_guest::{self, each, module, upload};

const SECOND: u64 = 1_000_000_000;

fn guest(body: &str) -> FunctionPlan {
    function("guest", wat_guest::admitted(body))
}

/// Pushes frames 0..n, one second apart from `start` seconds, and lets the lane settle.
fn push(rig: &mut Rig, start: u64, n: u32) {
    for i in 0..n {
        assert!(rig.inside.push_at(frame(i), start * SECOND + u64::from(i)));
    }
    rig.settle();
}

fn health(rig: &Rig, place: usize) -> Health {
    rig.lane.status().lock().unwrap().functions[place].2
}

/// Traps on the packet with this number, passes the others.
fn traps_on(n: u32) -> String {
    each(&format!("(if (i32.eq (i32.load (local.get $p)) (i32.const {n})) (then unreachable))"))
}

#[test]
fn a_trap_costs_the_burst_and_is_attributed_to_its_function() {
    let first = function("first", wat_guest::admitted(wat_guest::NULL));
    let last = function("last", wat_guest::admitted(wat_guest::NULL));
    let mut rig = Rig::new(plan(vec![first, guest(&traps_on(40)), last]));
    push(&mut rig, 0, 96);
    let counts = rig.counts();
    let out: Vec<u32> = Rig::drain(&rig.outside).iter().map(|f| number(f)).collect();
    // Packets 32 to 63 were in the burst that trapped; what came in the back-off was refused.
    assert_eq!(out, (0..32).collect::<Vec<_>>());
    assert_eq!(dropped_by_reason(&counts), [("fault", 32), ("out-of-order", 32)]);
    assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [0, 1, 0]);
    assert!(matches!(health(&rig, 1), Health::BackOff { .. }));
    // A second later it is back.
    push(&mut rig, 1, 32);
    assert_eq!(Rig::drain(&rig.outside).len(), 32);
    assert_eq!(health(&rig, 1), Health::Running);
    rig.finish();
}

#[test]
fn a_fail_open_function_is_passed_by() {
    let faulty = FunctionPlan { on_fault: OnFault::FailOpen, ..guest(&traps_on(40)) };
    let last = function("last", wat_guest::admitted(wat_guest::NULL));
    let mut rig = Rig::new(plan(vec![faulty, last]));
    push(&mut rig, 0, 96);
    let out: Vec<u32> = Rig::drain(&rig.outside).iter().map(|f| number(f)).collect();
    assert_eq!(out, (0..96).collect::<Vec<_>>(), "none lost, in order");
    let counts = rig.finish();
    assert_eq!(counts.functions[0].faults, 1);
    assert_eq!(counts.functions[1].packets, 96);
}

/// Takes its verdict from a packet's second word, and traps on one whose third is not 0.
fn obeys_until_it_traps() -> FunctionPlan {
    guest(&each(
        "(if (i32.load offset=8 (local.get $p)) (then unreachable))
         (local.set $verdict (i32.load offset=4 (local.get $p)))",
    ))
}

/// Frames with these words after their number.
fn push_words(rig: &mut Rig, start: u64, words: impl IntoIterator<Item = [u32; 2]>) {
    for (i, [second, third]) in words.into_iter().enumerate() {
        let mut bytes = frame(i as u32);
        bytes[4..8].copy_from_slice(&second.to_le_bytes());
        bytes[8..12].copy_from_slice(&third.to_le_bytes());
        assert!(rig.inside.push_at(bytes, start * SECOND + i as u64));
    }
    rig.settle();
}

#[test]
fn verdicts_that_a_function_had_given_when_it_trapped_are_nobody_elses() {
    // Drop, drop for the whole flow, hold, and what means nothing.
    for verdict in [0x301, 0x381, 6, 0xff] {
        let half_done = (0..12).map(|_| [verdict, 0]).chain([[0, 1]]);
        let null = |name| function(name, wat_guest::admitted(wat_guest::NULL));
        // The next burst meets another function first.
        let mut rig = Rig::new(plan(vec![null("first"), obeys_until_it_traps()]));
        push_words(&mut rig, 0, half_done.clone());
        push(&mut rig, 10, 32);
        assert_eq!(Rig::drain(&rig.outside).len(), 32, "{verdict:#x}");
        let counts = rig.finish();
        assert_eq!(dropped_by_reason(&counts), [("fault", 13)], "{verdict:#x}");
        assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [0, 1]);
        // The very packets go on to another one.
        let open = FunctionPlan { on_fault: OnFault::FailOpen, ..obeys_until_it_traps() };
        let mut rig = Rig::new(plan(vec![open, null("last")]));
        push_words(&mut rig, 0, half_done);
        assert_eq!(Rig::drain(&rig.outside).len(), 13, "{verdict:#x}");
        let counts = rig.finish();
        assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [1, 0]);
    }
}

#[test]
fn verdicts_for_packets_that_a_function_was_not_given_are_nobody_elses() {
    let null = |name| function(name, wat_guest::admitted(wat_guest::NULL));
    let stray = "(i32.store offset=0x1050 (global.get $window) (i32.const 0xff))";
    let strays = || guest(&each(stray));
    // In a longer burst.
    let mut rig = Rig::new(plan(vec![null("first"), strays()]));
    push(&mut rig, 0, 8);
    push(&mut rig, 1, 16);
    push(&mut rig, 2, 31);
    assert_eq!(Rig::drain(&rig.outside).len(), 55 - 1, "its own it has in a burst of 21 and more");
    assert_eq!(rig.finish().functions[0].faults, 0);
    // Among packets that come to a later function by a jump.
    let jumps = guest(&each("(local.set $verdict (i32.load offset=4 (local.get $p)))"));
    let mut rig = Rig::new(plan(vec![jumps, strays(), null("passed-by"), null("last")]));
    push_words(&mut rig, 0, (0..32).map(|i| [if i < 8 { 0 } else { 0x305 }, 0]));
    assert_eq!(Rig::drain(&rig.outside).len(), 32);
    assert_eq!(rig.finish().functions[3].faults, 0);
    // When it was called for another reason.
    let wakes = each("(call $set-timer (i64.const 1))");
    let text = module(&wakes)
        .replace(r#"#tick") (param i64))"#, &format!(r#"#tick") (param i64) {stray})"#));
    let ticks = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
    let mut rig = Rig::new(plan(vec![null("first"), function("ticks", ticks.into())]));
    for second in 0..3 {
        push(&mut rig, second, 32);
    }
    assert_eq!(Rig::drain(&rig.outside).len(), 96);
    assert_eq!(rig.finish().functions[0].faults, 0);
}

#[test]
fn a_function_that_keeps_faulting_is_quarantined() {
    let mut rig = Rig::new(plan(vec![guest(&traps_on(0))]));
    for second in 0..8 {
        push(&mut rig, second, 1);
    }
    assert_eq!(health(&rig, 0), Health::Quarantined);
    push(&mut rig, 1000, 5);
    let counts = rig.finish();
    assert_eq!(counts.functions[0].faults, 5);
    assert_eq!(dropped_by_reason(&counts), [("fault", 5), ("out-of-order", 8)]);
}

#[test]
fn a_function_that_spins_is_stopped_by_its_deadline() {
    let mut rig = Rig::new(plan(vec![guest(&each("(loop $for-ever (br $for-ever))"))]));
    let started = Instant::now();
    push(&mut rig, 0, 1);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("deadline")), "{events:?}");
    assert_eq!(rig.finish().functions[0].faults, 1);
}

#[test]
fn a_function_that_has_the_engine_fill_its_memory_again_and_again_is_stopped() {
    // Much more than the deadline each time, but no code of its own runs for long: neither way is
    // looked at in between.
    for fills in [1, 4] {
        let fill = "(memory.fill (i32.const 0x10000) (i32.const 7) (i32.const 0x8000000))";
        let text = module(&each(&fill.repeat(fills)))
            .replace(r#"(memory (export "memory") 2)"#, r#"(memory (export "memory") 2064)"#);
        let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
        let mut rig = Rig::new(plan(vec![FunctionPlan {
            memory: 160 << 20,
            deadline: Duration::from_millis(1),
            ..function("fills", admitted.into())
        }]));
        let told = |rig: &Rig| {
            let status = rig.lane.status();
            let status = status.lock().unwrap();
            status.events.iter().any(|(_, event)| event.contains("deadline"))
        };
        // All at one time, so that hardly any burst is timed: in those nobody is looked at behind a
        // function.
        let bursts = (0..500).take_while(|_| {
            push(&mut rig, 0, 1);
            !told(&rig)
        });
        assert!(bursts.count() < 500, "{fills}");
        rig.finish();
    }
}

/// Has the engine work for some tenths of a second, once, and does nothing behind it: it fills 512
/// MiB that it has grown for that.
const BULK: &str = "(if (i32.lt_u (memory.size) (i32.const 8192))
      (then (drop (memory.grow (i32.const 8192)))))
    (memory.fill
      (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 0x20000000))
      (i32.const 7) (i32.const 0x20000000))";

#[test]
fn a_function_that_ends_with_its_bulk_operation_is_looked_at_and_ends_in_quarantine() {
    let last = NULL_WITH_BULK.replace("BULK", BULK);
    let timer = "(call $set-timer (i64.const 1))";
    let in_tick = module(&each(timer))
        .replace(r#"#tick") (param i64))"#, &format!(r#"#tick") (param i64) {timer} {BULK})"#));
    for (what, text) in [("process", module(&last)), ("tick", in_tick)] {
        for mode in [Mode::Linked, Mode::Separate] {
            let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
            let fills = FunctionPlan {
                memory: 600 << 20,
                deadline: Duration::from_millis(1),
                ..function("fills", admitted.into())
            };
            let null = function("null", wat_guest::admitted(wat_guest::NULL));
            let mut rig = Rig::new(ChainPlan { mode, ..plan(vec![fills, null]) });
            // A second apart, so that each burst is timed.
            let calls = (0..30).take_while(|second| {
                push(&mut rig, *second, 1);
                health(&rig, 0) != Health::Quarantined
            });
            assert!(calls.count() < 30, "{what}, {mode:?}");
            let events = rig.lane.status().lock().unwrap().events.clone();
            assert!(events.iter().any(|(_, event)| event.contains("deadline")), "{events:?}");
            let counts = rig.finish();
            assert_eq!(counts.functions[1].faults, 0, "{what}, {mode:?}: it did nothing");
        }
    }
}

/// A `process` that has nothing behind this.
const NULL_WITH_BULK: &str =
    r#"  (func (export "weir:net/packet@0.1.0#process") (param i32) BULK)"#;

#[test]
fn endless_recursion_is_a_stack_fault() {
    let body = format!(
        "(func $deeper (param i64) (result i64) (i64.add (local.get 0)
           (call $deeper (i64.add (local.get 0) (i64.const 1)))))
         {}",
        each("(drop (call $deeper (i64.const 1)))")
    );
    let mut rig = Rig::new(plan(vec![guest(&body)]));
    push(&mut rig, 0, 3);
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("stack")), "{events:?}");
    rig.finish();
}

/// Languages that have a stack in linear memory have it at the bottom.
#[test]
fn a_stack_in_linear_memory_that_runs_below_0_is_named() {
    let recurses = format!(
        "(func $deeper (param $stack i32)
           (i32.store (local.get $stack) (i32.const 1))
           (call $deeper (i32.sub (local.get $stack) (i32.const 1024))))
         {}",
        each("(call $deeper (i32.const 32768))")
    );
    let large = each("(i32.store (i32.const -16) (i32.const 1))");
    for (body, named) in [
        (recurses, "stack: it recursed too deeply: its stack has grown below address 0: "),
        (large, "trap: below address 0, by a pointer or because a variable is larger than "),
    ] {
        let mut rig = Rig::new(plan(vec![guest(&body)]));
        push(&mut rig, 0, 1);
        let events = rig.lane.status().lock().unwrap().events.clone();
        assert!(events.iter().any(|(_, e)| e.contains(named)), "{events:?}");
        rig.finish();
    }
}

#[test]
fn memory_beyond_the_limit_is_refused_and_named() {
    let body = each(
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    );
    let mut rig = Rig::new(plan(vec![guest(&body)]));
    push(&mut rig, 0, 1);
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("memory:")), "{events:?}");
    rig.finish();
}

#[test]
fn memory_that_start_code_takes_is_the_functions() {
    // 8 MiB before `configure`, and 9 MiB more, of 16 MiB and the window.
    let body = format!(
        "(func $start (drop (memory.grow (i32.const 128)))) (start $start) {}",
        each("(if (i32.eq (memory.grow (i32.const 144)) (i32.const -1)) (then unreachable))")
    );
    let chain = ChainPlan { mode: Mode::Separate, ..plan(vec![guest(&body)]) };
    let mut rig = Rig::new(chain);
    push(&mut rig, 0, 1);
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("memory:")), "{events:?}");
    rig.finish();
}

#[test]
fn what_is_there_at_the_start_is_of_a_functions_own_memory() {
    // Tables are memory, too.
    let memory = "(memory (export \"memory\") 2)";
    let text =
        module(wat_guest::NULL).replace(memory, &format!("{memory} (table 20000000 funcref)"));
    let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
    let refused = Rig::try_new(plan(vec![function("full", admitted.into())])).err().unwrap();
    let refused = refused.to_string();
    assert!(
        refused.contains("it starts with 156352KiB of memory, its limit is 16MiB"),
        "{refused}"
    );
    // What its state region needs is for that: 40 MiB of 16.
    let grows = format!(
        "(func $start (if (i32.eq (memory.grow (i32.const 640)) (i32.const -1)) (then unreachable)))
         (start $start) {}",
        wat_guest::NULL
    );
    let grows = FunctionPlan { state_bytes: 64 << 20, ..guest(&grows) };
    let refused = Rig::try_new(plan(vec![grows])).err().unwrap().to_string();
    assert!(refused.contains("the start code of guest trapped"), "{refused}");
}

#[test]
fn writing_to_a_read_only_window_is_a_trap() {
    for store in
        ["(i32.store8 (local.get $p) (i32.const 1))", "(i32.store (local.get $d) (i32.const 1))"]
    {
        let read_only = FunctionPlan { writes: false, ..guest(&each(store)) };
        let mut rig = Rig::new(plan(vec![read_only]));
        push(&mut rig, 0, 8);
        let counts = rig.finish();
        assert_eq!((counts.functions[0].faults, counts.packets_out), (1, 0), "{store}");
    }
    // Its verdicts it may write.
    let drops =
        FunctionPlan { writes: false, ..guest(&each("(local.set $verdict (i32.const 0x301))")) };
    let mut rig = Rig::new(plan(vec![drops]));
    push(&mut rig, 0, 8);
    let counts = rig.finish();
    assert_eq!((counts.functions[0].drops[3], counts.functions[0].faults), (8, 0));
}

#[test]
fn metadata_and_clock_are_read_only_for_everybody() {
    for offset in [0x2000, 0x3000, 0xfff8] {
        let body = each(&format!("(i32.store offset={offset} (global.get $window) (i32.const 1))"));
        let mut rig = Rig::new(plan(vec![guest(&body)]));
        push(&mut rig, 0, 1);
        assert_eq!(rig.finish().functions[0].faults, 1, "{offset:#x}");
    }
}

#[test]
fn garbage_in_descriptors_and_verdicts_costs_only_those_packets() {
    let body = each(
        "(if (i32.eq (i32.and (i32.load (local.get $p)) (i32.const 3)) (i32.const 1)) (then
           (i32.store offset=4 (local.get $d) (i32.const -1))))
         (if (i32.eq (i32.and (i32.load (local.get $p)) (i32.const 3)) (i32.const 2)) (then
           (local.set $verdict (i32.const 0x77))))
         (if (i32.eq (i32.and (i32.load (local.get $p)) (i32.const 3)) (i32.const 3)) (then
           (local.set $verdict (i32.const 0x6303))))",
    );
    let mut rig = Rig::new(plan(vec![guest(&body)]));
    push(&mut rig, 0, 32);
    let out = Rig::drain(&rig.outside);
    assert_eq!(out.len(), 8);
    assert!(out.iter().all(|f| number(f).is_multiple_of(4)));
    let events = rig.lane.status().lock().unwrap().events.clone();
    for told in [
        "bad-descriptor: packet 2 (64 bytes): offset 0x",
        " and length 4294967295: its room begins at offset 0x",
        "bad-verdict: packet 3 (64 bytes): verdict 0x00000077: there is no kind 119",
    ] {
        assert!(events.iter().any(|(_, event)| event.contains(told)), "{told}: {events:?}");
    }
    let counts = rig.finish();
    assert_eq!(dropped_by_reason(&counts), [("bad-descriptor", 8), ("bad-verdict", 16)]);
    assert!(counts.functions[0].faults >= 1);
}

#[test]
fn verdicts_for_which_there_is_nothing_are_told_with_what_there_is() {
    for (verdict, told) in [
        ("0x4d03", "verdict 0x00004d03: `forward` to port 77: the chain has 0 ("),
        (
            "0x0005",
            "`jump` to function 0 from function 0: it has to be one that comes later: 1 to 1",
        ),
        ("0x0907", "`clone` to port 9: the chain has 0 ("),
        ("0xffffff03", "verdict 0xffffff03: `forward` to port 16777215: the chain has 0 ("),
        // What stands for no answer where functions answer by value.
        ("0xff", "verdict 0x000000ff: there is no kind 127"),
    ] {
        let body = each(&format!("(local.set $verdict (i32.const {verdict}))"));
        for mode in [Mode::Linked, Mode::Separate] {
            let last = function("last", wat_guest::admitted(wat_guest::NULL));
            let mut rig = Rig::new(ChainPlan { mode, ..plan(vec![guest(&body), last]) });
            push(&mut rig, 0, 1);
            let events = rig.lane.status().lock().unwrap().events.clone();
            let said = |(_, event): &(_, String)| {
                event.contains("bad-verdict: packet 1 (64 bytes): ") && event.contains(told)
            };
            assert!(events.iter().any(said), "{verdict} {mode:?}: {events:?}");
            let counts = rig.finish();
            assert_eq!(dropped_by_reason(&counts), [("bad-verdict", 1)]);
            // It is none of the verdicts that there are.
            let by_name = counts.functions[0].by_name();
            assert!(by_name.iter().all(|(_, n)| *n == 0), "{verdict} {mode:?}: {by_name:?}");
        }
    }
    // The greatest reason is one like others.
    let drops = each("(local.set $verdict (i32.const 0xffffff01))");
    let mut rig = Rig::new(plan(vec![guest(&drops)]));
    push(&mut rig, 0, 1);
    let counts = rig.finish();
    assert_eq!((counts.functions[0].faults, dropped_by_reason(&counts)), (0, vec![]));
}

#[test]
fn every_verdict_does_what_it_says() {
    let body = each("(local.set $verdict (i32.load offset=4 (local.get $p)))");
    let null = function("null", wat_guest::admitted(wat_guest::NULL));
    let last = function("last", wat_guest::admitted(wat_guest::NULL));
    let mut rig = Rig::new(plan(vec![guest(&body), null, last]));
    let verdicts = [0u32, 0x501, 2, 0x003, 0x103, 4, 0x205, 0x107];
    for (i, verdict) in verdicts.iter().enumerate() {
        let mut bytes = frame(i as u32);
        bytes[4..8].copy_from_slice(&verdict.to_le_bytes());
        rig.inside.push_at(bytes, 1);
    }
    rig.settle();
    let numbers = |wire| Rig::drain(wire).iter().map(|f| number(f)).collect::<Vec<_>>();
    let mut outside = numbers(&rig.outside);
    outside.sort_unstable();
    // 0 passed, 4 forwarded to port 1, 6 jumped and passed, 7 passed and its clone left there too.
    assert_eq!(outside, [0, 4, 6, 7, 7]);
    assert_eq!(numbers(&rig.inside), [2, 3], "replied, and forwarded to port 0");
    let counts = rig.finish();
    assert_eq!(counts.functions[0].drops[5], 1);
    assert_eq!(dropped_by_reason(&counts), [("to-kernel", 1)]);
    assert_eq!(counts.functions[1].packets, 2, "the jump passed function 1 by");
    assert_eq!(counts.functions[2].packets, 3);
    let by_name: std::collections::BTreeMap<_, _> = counts.functions[0].by_name().into();
    assert_eq!((by_name["next"], by_name["jump"], by_name["clone"], by_name["hold"]), (1, 1, 1, 0));
}

#[test]
fn held_packets_come_back_later_and_nothing_can_be_sent_twice() {
    // Holds every packet; on a packet numbered 100 it first sends all it was ever given, twice,
    // with offsets and lengths as noted; refusals are counted in a word that the last packet
    // carries out.
    let body = r#"  (global $noted (mut i32) (i32.const 0))
  (func (export "weir:net/packet@0.1.0#process") (param $count i32)
    (local $i i32) (local $j i32) (local $d i32) (local $refused i32) (local $p i32)
    (loop $packets
      (local.set $d (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
      (local.set $p (i32.add (global.get $window) (i32.load (local.get $d))))
      (if (i32.eq (i32.load (local.get $p)) (i32.const 100))
        (then
          (block $end (loop $held
            (br_if $end (i32.eq (local.get $j) (global.get $noted)))
            (call $send (i32.load offset=0xa000 (i32.shl (local.get $j) (i32.const 2)))
              (i32.const 64) (i32.const 0) (i32.const 0x40))
            (local.set $refused (i32.add (local.get $refused) (i32.load8_u (i32.const 0x40))))
            (call $send (i32.load offset=0xa000 (i32.shl (local.get $j) (i32.const 2)))
              (i32.const 64) (i32.const 0) (i32.const 0x40))
            (local.set $refused (i32.add (local.get $refused) (i32.load8_u (i32.const 0x40))))
            (local.set $j (i32.add (local.get $j) (i32.const 1)))
            (br $held)))
          (call $send (i32.const 0x12345) (i32.const 1) (i32.const 0) (i32.const 0x40))
          (local.set $refused (i32.add (local.get $refused) (i32.load8_u (i32.const 0x40))))
          (i32.store offset=8 (local.get $p) (local.get $refused)))
        (else
          (i32.store offset=0xa000 (i32.shl (global.get $noted) (i32.const 2)) (i32.load (local.get $d)))
          (global.set $noted (i32.add (global.get $noted) (i32.const 1)))
          (i32.store offset=0x1000 (i32.add (global.get $window)
            (i32.shl (local.get $i) (i32.const 2))) (i32.const 6))))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $count)))))"#;
    let mut rig = Rig::new(plan(vec![guest(body)]));
    push(&mut rig, 0, 20);
    assert!(Rig::drain(&rig.outside).is_empty());
    let _ = rig.counts();
    rig.inside.push_at(frame(100), SECOND);
    rig.settle();
    let out = Rig::drain(&rig.outside);
    let mut numbers: Vec<u32> = out.iter().map(|f| number(f)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).chain([100]).collect::<Vec<_>>());
    let last = out.iter().find(|f| number(f) == 100).unwrap();
    assert_eq!(
        u32::from_le_bytes(last[8..12].try_into().unwrap()),
        21,
        "every second send is refused"
    );
    rig.finish();
}

#[test]
fn a_function_that_never_lets_go_cannot_drain_the_pool_and_can_learn_so() {
    // Holds every packet, and asks before each burst about those of the one before: a `send` that
    // cannot be says first whose they are. Its own come first.
    let body = r#"  (global $noted (mut i32) (i32.const 0))
  (func (export "weir:net/packet@0.1.0#process") (param $count i32)
    (local $i i32) (local $d i32) (local $lost i32)
    (block $end (loop $held
      (br_if $end (i32.eq (local.get $i) (global.get $noted)))
      (call $send (i32.load offset=0xa000 (i32.shl (local.get $i) (i32.const 2)))
        (i32.const 64) (i32.const 6) (i32.const 0x40))
      (if (i32.eqz (i32.load8_u (i32.const 0x40))) (then (unreachable)))
      (if (i32.load8_u (i32.const 0x41))
        (then
          (if (local.get $lost) (then (unreachable)))
          (call $counter-add (i32.const 0x8000) (i32.const 4) (i64.const 1)))
        (else
          (local.set $lost (i32.const 1))
          (call $counter-add (i32.const 0x8008) (i32.const 6) (i64.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $held)))
    (local.set $i (i32.const 0))
    (loop $packets
      (local.set $d (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
      (i32.store offset=0xa000 (i32.shl (local.get $i) (i32.const 2)) (i32.load (local.get $d)))
      (i32.store offset=0x1000 (i32.add (global.get $window)
        (i32.shl (local.get $i) (i32.const 2))) (i32.const 6))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $count))))
    (global.set $noted (local.get $count)))"#;
    let holder = guest(body);
    let telemetry = Arc::clone(&holder.telemetry);
    let mut rig = Rig::new(plan(vec![holder]));
    push(&mut rig, 0, 400);
    let counts = rig.counts();
    assert_eq!(dropped_by_reason(&counts), [("hold-limit", 400 - 128)]);
    push(&mut rig, 1, 1);
    let known = telemetry.counters();
    assert_eq!((known["name"], known["memory"]), (128, 272), "owned, and not owned");
    let counts = rig.finish();
    assert_eq!(dropped_by_reason(&counts), [("hold-limit", 273), ("held-at-end", 128)]);
}

#[test]
fn a_flood_of_log_lines_is_cut() {
    let body = each(
        "(local.set $length (i32.const 5000))
         (loop $lines
           (call $log (i32.const 2) (i32.const 0x8000) (i32.const 14))
           (br_if $lines (local.tee $length (i32.sub (local.get $length) (i32.const 1)))))",
    );
    let noisy = guest(&body);
    let telemetry = noisy.telemetry.clone();
    let mut rig = Rig::new(plan(vec![noisy]));
    push(&mut rig, 0, 2);
    let (lines, lost) = telemetry.lines();
    assert!(lines.len() <= 1000 && lost > 8000, "{} {lost}", lines.len());
    assert_eq!(lines[0].message, "name_in_memory");
    rig.finish();
}

#[test]
fn a_metric_name_that_is_not_allowed_is_a_contract_fault() {
    let body = each("(call $counter-add (i32.const 0) (i32.const 3) (i64.const 1))");
    let mut rig = Rig::new(plan(vec![guest(&body)]));
    push(&mut rig, 0, 1);
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("contract")), "{events:?}");
    rig.finish();
}

#[test]
fn a_window_at_a_bad_place_is_refused_when_the_chain_is_made() {
    for (from, to) in [
        ("(call $attach-window (local.get $region)", "(call $attach-window (i32.const 1)"),
        (
            "(i32.add (local.get $bytes) (local.get $align)))))\n    (if",
            "(i32.const 4096))))\n    (if",
        ),
    ] {
        let text = module(wat_guest::NULL).replace(from, to);
        assert_ne!(text, module(wat_guest::NULL));
        let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
        let refused = Rig::try_new(plan(vec![function("bad", admitted.into())])).err().unwrap();
        assert!(refused.to_string().contains("attach-window"), "{refused}");
    }
}

#[test]
fn a_function_that_is_being_configured_writes_nowhere_in_its_window() {
    // Verdicts, a descriptor, a room, and a room by the host's hand: others are at work in all of
    // them.
    for store in [
        "(i32.store offset=0x1000 (global.get $window) (i32.const 0x301))",
        "(i32.store offset=0 (global.get $window) (i32.const 1))",
        "(i32.store offset=0x10000 (global.get $window) (i32.const 1))",
        "(memory.fill (i32.add (global.get $window) (i32.const 0x10000)) (i32.const 7) (local.get $room))",
    ] {
        let end = format!("{store}\n    (i32.store8 (i32.const 0x10) (i32.const 0))");
        let early = wat_guest::configured(wat_guest::NULL, &end);
        let refused = Rig::try_new(plan(vec![function("early", early)])).err().unwrap().to_string();
        assert!(refused.contains("failed in `configure`"), "{store}: {refused}");
    }
}

#[test]
fn a_window_and_a_state_region_at_the_same_place_are_refused() {
    let attach_window = "(global.set $window (i32.add (local.get $region) (call $attach-window";
    for (from, to, import) in [
        // What opens the state region after `configure` would open a window that may only be read.
        (
            attach_window,
            &format!(
                "(drop (call $attach-state (local.get $region)
                   (i32.add (local.get $bytes) (local.get $align))))
                 {attach_window}"
            ),
            "attach-window",
        ),
        (
            "(call $attach-state (local.get $region)",
            &"(call $attach-state (global.get $window)".to_owned(),
            "attach-state",
        ),
    ] {
        let text = module(wat_guest::NULL).replace(from, to);
        assert_ne!(text, module(wat_guest::NULL));
        let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
        let sly =
            FunctionPlan { writes: false, state_bytes: 65_536, ..function("sly", admitted.into()) };
        let refused = Rig::try_new(plan(vec![sly])).err().unwrap().to_string();
        assert!(refused.contains(import) && refused.contains("overlaps"), "{refused}");
    }
}

#[test]
fn a_function_that_refuses_its_configuration_says_why() {
    let text = module(wat_guest::NULL).replace(
        "(i32.store8 (i32.const 0x10) (i32.const 0))",
        "(i32.store8 (i32.const 0x10) (i32.const 1)) (i32.store (i32.const 0x14) (i32.const 0x8000))
         (i32.store (i32.const 0x18) (i32.const 14))",
    );
    let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
    let refused = Rig::try_new(plan(vec![function("picky", admitted.into())])).err().unwrap();
    assert_eq!(refused.to_string(), "function picky refused its configuration: name_in_memory");
}

#[test]
fn writes_that_the_host_makes_for_a_guest_cannot_crash_it_nor_reach_read_only_memory() {
    for write in [
        // By bulk operations, which wasmtime carries out in native code.
        "(memory.fill (i32.add (global.get $window) (i32.const 0x2000)) (i32.const 7) (i32.const 8))",
        "(memory.copy (i32.add (global.get $window) (i32.const 0x3000)) (i32.const 0x8000) (i32.const 8))",
        // By a host call's result, written where the guest says.
        "(call $allocate (i32.const 1) (i32.add (global.get $window) (i32.const 0x2800)))",
    ] {
        let null = function("null", wat_guest::admitted(wat_guest::NULL));
        let mut rig = Rig::new(plan(vec![null, guest(&each(write))]));
        push(&mut rig, 0, 8);
        let counts = rig.counts();
        assert_eq!(
            counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(),
            [0, 1],
            "{write}"
        );
        let events = rig.lane.status().lock().unwrap().events.clone();
        assert!(events.iter().any(|(_, e)| e.contains("may only read")), "{events:?}");
        rig.finish();
    }
}

#[test]
fn a_function_that_has_the_engine_write_everywhere_is_stopped_with_the_next_epoch() {
    // For as long as it may, all over its window; the length is no constant, so that no code of its
    // own writes.
    let everywhere = each(
        "(local.set $length (i32.const 0))
         (loop $more
           (memory.fill (i32.add (global.get $window) (i32.add (i32.const 0x10000) (local.get $length)))
             (i32.const 7) (local.get $count))
           (local.set $length (i32.and (i32.add (local.get $length) (i32.const 0x2000)) (i32.const 0xfffff)))
           (br $more))",
    );
    for mode in [Mode::Linked, Mode::Separate] {
        let deadline = Duration::from_secs(60);
        let spiteful = FunctionPlan { writes: false, deadline, ..guest(&everywhere) };
        let last = function("last", wat_guest::admitted(wat_guest::NULL));
        let mut rig = Rig::new(ChainPlan { mode, ..plan(vec![spiteful, last]) });
        let begun = weir_sandbox::thread_time();
        push(&mut rig, 0, 8);
        let took = weir_sandbox::thread_time() - begun;
        assert!(took < deadline / 4, "{took:?}");
        let events = rig.lane.status().lock().unwrap().events.clone();
        assert!(events.iter().any(|(_, event)| event.contains("may only read")), "{events:?}");
        let counts = rig.finish();
        assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [1, 0]);
    }
}

#[test]
fn windows_and_state_regions_of_hundreds_of_mebibytes_are_attached() {
    // In a linked chain the runner has the window, too, for those that copy.
    let copies = Arc::new(weir_sandbox::admit(&wat_guest::copying()).unwrap());
    let last = "(i32.store (i32.add (global.get $state) (i32.const 0xc7ffffc)) (i32.const 1))";
    for mode in [Mode::Linked, Mode::Separate] {
        let large = FunctionPlan { state_bytes: 200 << 20, ..guest(&each(last)) };
        let chain = plan(vec![function("copies", Arc::clone(&copies)), large]);
        let mut rig = Rig::with_rooms(ChainPlan { mode, ..chain }, 100_000).unwrap();
        push(&mut rig, 0, 1);
        assert_eq!(rig.finish().packets_out, 1);
    }
}

#[test]
fn a_call_with_more_than_the_host_copies_is_a_fault() {
    // 8 MiB to be logged, of 16 that it may have.
    let body = each(
        "(local.set $p (i32.shl (memory.grow (i32.const 128)) (i32.const 16)))
         (call $log (i32.const 2) (local.get $p) (i32.const 0x800000))",
    );
    let mut rig = Rig::new(plan(vec![guest(&body)]));
    push(&mut rig, 0, 1);
    let events = rig.lane.status().lock().unwrap().events.clone();
    assert!(events.iter().any(|(_, e)| e.contains("too much data is being copied")), "{events:?}");
    assert_eq!(rig.finish().functions[0].faults, 1);
}

/// With a state region, whose first word it sets before it traps on the packet with this number.
fn sets_and_traps_on(n: u32) -> String {
    each(&format!(
        "(if (i32.eq (i32.load (local.get $p)) (i32.const {n})) (then
           (i32.store (global.get $state) (i32.const 1)) unreachable))"
    ))
}

fn with_state(plan: FunctionPlan) -> FunctionPlan {
    FunctionPlan { state_bytes: 65_536, state_layout: "1".into(), ..plan }
}

#[test]
fn a_chain_that_cannot_be_instantiated_again_waits_for_another_version() {
    for on_fault in [OnFault::FailClosed, OnFault::FailOpen] {
        let picky = function("picky", wat_guest::refusing(&sets_and_traps_on(40)));
        let picky = with_state(FunctionPlan { on_fault, ..picky });
        let last =
            FunctionPlan { on_fault, ..function("last", wat_guest::admitted(wat_guest::NULL)) };
        let mut rig = Rig::new(plan(vec![picky.clone(), last.clone()]));
        push(&mut rig, 0, 96);
        // It is tried now and then, in vain, and said once.
        for second in 1..10 {
            push(&mut rig, second, 1);
        }
        let events = rig.lane.status().lock().unwrap().events.clone();
        let said = "the chain cannot be instantiated again: function picky refused its configuration: name_in_memory";
        assert_eq!(events.iter().filter(|(_, event)| event == said).count(), 1, "{events:?}");
        let counts = rig.counts();
        if on_fault == OnFault::FailOpen {
            assert_eq!(Rig::drain(&rig.outside).len(), 96 + 9, "nobody looks at them");
        } else {
            assert_eq!(Rig::drain(&rig.outside).len(), 32);
            assert_eq!(dropped_by_reason(&counts), [("fault", 32), ("out-of-order", 32 + 9)]);
        }
        assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [1, 0]);
        for place in [0, 1] {
            assert!(matches!(health(&rig, place), Health::BackOff { .. }));
        }
        // Another layout has a fresh region.
        let other = FunctionPlan { state_layout: "2".into(), version: "2".into(), ..picky };
        let staged = rig.lane.site().stage(plan(vec![other, last]), &rig.lane.states()).unwrap();
        rig.lane.publish(staged, None).unwrap();
        push(&mut rig, 20, 32);
        assert_eq!(Rig::drain(&rig.outside).len(), 32);
        assert_eq!((health(&rig, 0), health(&rig, 1)), (Health::Running, Health::Running));
        rig.finish();
    }
}

#[test]
fn slow_instances_are_made_elsewhere() {
    let slow = wat_guest::configured(&sets_and_traps_on(0), wat_guest::SLOW_AGAIN);
    let mut rig = Rig::new(plan(vec![with_state(function("slow", slow))]));
    let asked = Arc::new(AtomicU32::new(0));
    let ask = Arc::clone(&asked);
    rig.lane.restored_by(Arc::new(move || {
        ask.fetch_add(1, Ordering::Relaxed);
    }));
    push(&mut rig, 1, 5);
    push(&mut rig, 2, 5);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it asks once");
    assert_eq!(dropped_by_reason(&rig.counts()), [("fault", 5), ("out-of-order", 5)]);
    let missing = rig.lane.missing().expect("it has no instances");
    let made = missing.make();
    assert!(rig.lane.restore(made).is_some());
    assert!(rig.lane.missing().is_none());
    let passes = |rig: &mut Rig, second: u64| {
        rig.inside.push_at(frame(1), second * SECOND);
        rig.settle();
        Rig::drain(&rig.outside).len()
    };
    assert_eq!(passes(&mut rig, 3), 1);
    // The next time it is known to be slow. If somebody publishes another version meanwhile, that
    // one stays.
    push(&mut rig, 4, 1);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let made = rig.lane.missing().expect("it has no instances").make();
    let other = FunctionPlan { version: "2".into(), ..guest(wat_guest::NULL) };
    let staged = rig.lane.site().stage(plan(vec![other]), &rig.lane.states()).unwrap();
    rig.lane.publish(staged, None).unwrap();
    assert!(rig.lane.restore(made).is_some(), "to be dropped");
    assert_eq!(rig.lane.plan().functions[0].version, "2");
    assert_eq!(passes(&mut rig, 5), 1);
    rig.finish();
}

#[test]
fn a_function_in_quarantine_is_not_ticked() {
    let text = module(wat_guest::NULL)
        .replace(
            "(func (export \"weir:net/packet@0.1.0#tick\") (param i64))",
            "(func (export \"weir:net/packet@0.1.0#tick\") (param i64) unreachable)",
        )
        .replace(
            "(i32.store8 (i32.const 0x10) (i32.const 0))",
            "(call $set-timer (i64.const 1)) (i32.store8 (i32.const 0x10) (i32.const 0))",
        );
    let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
    let mut rig = Rig::new(plan(vec![function("ticks", admitted.into())]));
    for second in 1..12 {
        push(&mut rig, second, 1);
    }
    assert_eq!(health(&rig, 0), Health::Quarantined);
    assert_eq!(rig.finish().functions[0].faults, 5);
}

#[test]
fn a_chain_that_is_applied_again_has_its_policies_and_begins_anew() {
    let faulty = |on_fault| FunctionPlan { on_fault, ..guest(&traps_on(0)) };
    let apply = |rig: &mut Rig, on_fault| {
        let staged = rig.lane.site().stage(plan(vec![faulty(on_fault)]), &rig.lane.states());
        rig.lane.publish(staged.unwrap(), None).unwrap();
    };
    let mut rig = Rig::new(plan(vec![faulty(OnFault::FailOpen)]));
    for second in 0..8 {
        push(&mut rig, second, 1);
    }
    assert_eq!(health(&rig, 0), Health::Quarantined);
    assert_eq!(Rig::drain(&rig.outside).len(), 8);
    apply(&mut rig, OnFault::FailClosed);
    assert_eq!(health(&rig, 0), Health::Running);
    push(&mut rig, 9, 1);
    assert!(Rig::drain(&rig.outside).is_empty());
    let counts = rig.finish();
    assert_eq!(counts.functions[0].faults, 6);
    assert_eq!(dropped_by_reason(&counts), [("fault", 1)]);
}

/// Sends so many packets of its own to the next function in each `tick`, and wants the next one at
/// once.
fn restless(packets: u32) -> FunctionPlan {
    let tick = format!(
        r#"#tick") (param $now i64) (local $sent i32)
    (loop $more
      (call $send-copy (i32.const 0x8000) (i32.const 14) (i32.const 0) (i32.const 0x40))
      (br_if $more (i32.lt_u (local.tee $sent (i32.add (local.get $sent) (i32.const 1)))
        (i32.const {packets}))))
    (call $set-timer (i64.const 1)))"#
    );
    let text = module(wat_guest::NULL).replace(r#"#tick") (param i64))"#, &tick);
    let admitted = weir_sandbox::admit(&upload(&text, "packet-function")).unwrap();
    function("restless", admitted.into())
}

#[test]
fn a_function_that_always_has_something_to_do_keeps_no_chain_from_ending() {
    let null = |name| function(name, wat_guest::admitted(wat_guest::NULL));
    let mut rig = Rig::new(plan(vec![restless(1), null("last")]));
    push(&mut rig, 1, 1);
    assert_eq!(rig.finish().packets_out, 2);
    // Nor from being replaced by one whose places are others.
    let holds = guest(&each("(local.set $verdict (i32.const 6))"));
    let mut rig = Rig::new(plan(vec![holds, restless(1), null("last")]));
    push(&mut rig, 1, 1);
    let staged = rig.lane.site().stage(plan(vec![null("other")]), &rig.lane.states()).unwrap();
    let _ticking = rig.sandbox.ticker().tick();
    rig.lane.publish(staged, None).unwrap();
    rig.finish();
}

#[test]
fn what_is_held_by_instances_that_were_made_while_a_chain_ends_is_given_back() {
    let once = "(if (i32.eqz (i32.load (global.get $state))) (then
           (i32.store (global.get $state) (i32.const 1)) unreachable))";
    let traps = FunctionPlan {
        on_fault: OnFault::FailOpen,
        state_bytes: 65_536,
        state_layout: "1".into(),
        ..guest(&each(once))
    };
    let holds = function("holds", wat_guest::admitted(&each("(local.set $verdict (i32.const 6))")));
    // More than a burst: the second one meets new instances.
    let mut rig = Rig::new(plan(vec![restless(40), traps, holds]));
    push(&mut rig, 1, 0);
    let counts = rig.finish();
    assert_eq!(counts.functions.iter().map(|f| f.faults).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(dropped_by_reason(&counts).iter().map(|(_, n)| n).sum::<u64>(), 40);
}
