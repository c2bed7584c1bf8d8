//! Writes the chain runner for a given list of functions: `runner.wat` with its gaps filled.
//!
//! The text is assembled by the `wat` crate; a mistake in it is a bug of ours and shows in the
//! first test, never at a tenant's upload.

use std::fmt::Write as _;

use weir_layout as layout;
use weir_sandbox::World;

use crate::{bursting, control};

/// Address of the control area in the runner's linear memory.
const CONTROL: usize = 0x2_0000;
/// Address of the window's burst area in the runner's linear memory.
const BURST: usize = 0x3_0000;

/// How the runner calls one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// How it gets its packets.
    pub(crate) world: World,
    /// It may change packets and descriptors.
    pub(crate) writes: bool,
}

/// The runner component for these functions, as text.
pub(crate) fn text(steps: &[Step]) -> String {
    let mut gaps = Gaps::default();
    for (k, step) in steps.iter().enumerate() {
        gaps.add(k, *step, steps.len() - 1);
    }
    let back: String = (0..steps.len()).rev().map(|k| visit(k, "i32.ge_u")).collect();
    let forth: String = (0..steps.len()).map(|k| visit(k, "i32.le_u")).collect();
    let text = include_str!("runner.wat")
        .replace("{instance-imports}", &gaps.instance_imports)
        .replace("{lowered-functions}", &gaps.lowered)
        .replace("{function-imports}", &gaps.core_imports)
        .replace("{function-exports}", &gaps.core_exports)
        .replace("{staging}", if gaps.stages { GROW_STAGING } else { "" })
        .replace("{steps}", &gaps.steps)
        .replace("{steps-back}", &back)
        .replace("{steps-forth}", &forth);
    fill(&text)
}

/// The runner visits function `k` when the burst's start is not behind it.
fn visit(k: usize, compare: &str) -> String {
    format!(
        "          (if ({compare} (local.get $start) (i32.const {k}))
            (then (local.set $count (call $step{k} (local.get $count)))))\n"
    )
}

#[derive(Default)]
struct Gaps {
    instance_imports: String,
    lowered: String,
    core_imports: String,
    core_exports: String,
    steps: String,
    /// Whether a function gets bursts by value.
    stages: bool,
}

impl Gaps {
    fn add(&mut self, k: usize, step: Step, last: usize) {
        let (ty, signature, options) = match step.world {
            World::Copy => (
                r#"(type $o (record (field "verdict" u32) (field "packet" (option (list u8)))))
    (export "outcome" (type $outcome (eq $o)))
    (export "process" (func (param "packet" (list u8)) (param "port" u32) (param "now" u64)
      (result $outcome)))"#,
                "(param i32 i32 i32 i64 i32)",
                " (memory $mem) (realloc $realloc)",
            ),
            World::Burst => (
                r#"(type $c (record (field "index" u32) (field "replaced" u32) (field "bytes" (list u8))))
    (export "change" (type $change (eq $c)))
    (type $a (record (field "verdicts" (list u8)) (field "changes" (list $change))))
    (export "answer" (type $answer (eq $a)))
    (export "process" (func (param "burst" (list u8)) (result $answer)))"#,
                "(param i32 i32 i32)",
                " (memory $mem) (realloc $realloc)",
            ),
            _ => (r#"(export "process" (func (param "count" u32)))"#, "(param i32)", ""),
        };
        self.stages |= step.world == World::Burst;
        let _ = writeln!(self.instance_imports, "  (import \"f{k}\" (instance $f{k}\n    {ty}))");
        let _ = writeln!(
            self.lowered,
            "  (core func $f{k} (canon lower (func $f{k} \"process\"){options}))"
        );
        let _ =
            writeln!(self.core_imports, "    (import \"host\" \"f{k}\" (func $f{k} {signature}))");
        let _ = writeln!(self.core_exports, "      (export \"f{k}\" (func $f{k}))");
        let call = match step.world {
            World::Copy => copying_call(k, step),
            World::Burst => burst_call(k, step),
            _ => window_call(k),
        };
        let (writes, seen) = (u8::from(step.writes), k * 8);
        let _ = writeln!(
            self.steps,
            "    (func $step{k} (param $n i32) (result i32)
      (local $i i32) (local $d i64) (local $list i32) (local $length i32)
      (if (i32.load (i32.const {{PARKED}}))
        (then (local.set $n (call $unpark (i32.const {k}) (local.get $n)))))
      (if (i32.eqz (local.get $n)) (then (return (i32.const 0))))
      (if (i32.load8_u (i32.const {{MODES+{k}}})) (then
        (if (i32.eq (i32.load8_u (i32.const {{MODES+{k}}})) (i32.const {{SKIP}}))
          (then (return (local.get $n))))
        (call $refuse (i32.const {k}) (local.get $n))
        (return (i32.const 0))))
      (if (i32.load (i32.const {{WATCHED}}))
        (then (call $look (i32.const {k}) (local.get $n) (i32.const 0))))
      (i32.store (i32.const {{POSITION}}) (i32.const {k}))
      (i32.store (i32.const {{ACTIVE}}) (local.get $n))
      (i64.store (i32.const {{SEEN+{seen}}}) (i64.add
        (i64.load (i32.const {{SEEN+{seen}}})) (i64.extend_i32_u (local.get $n))))
{call}
      ;; The host looks at the time first: the function is still the one that runs. What follows is not its own.
      (if (i32.load (i32.const {{WATCHED}})) (then
        (call $look (i32.const {k}) (local.get $n) (i32.const 1))
        (i32.store (i32.const {{POSITION}}) (i32.const -1))))
      (call $settle (i32.const {k}) (local.get $n) (i32.const {writes}) (i32.const {last})))"
        );
    }
}

fn window_call(k: usize) -> String {
    format!("      (call $f{k} (local.get $n))")
}

/// One call for each packet; the runner writes the answer into the window, where it is settled like
/// any other function's. A read-only function that gives a packet back gets a bad verdict.
fn copying_call(k: usize, step: Step) -> String {
    let store = if step.writes {
        "(if (i32.gt_u (local.get $length)
              (i32.sub (i32.load (i32.const {ROOM-BYTES})) (i32.const {HEADROOM})))
            (then (i32.store offset={VERDICTS} (i32.shl (local.get $i) (i32.const 2))
              (i32.const 0xff)))
            (else
              (local.set $d (i64.or
                (i64.shl (i64.extend_i32_u (local.get $length)) (i64.const 32))
                (i64.extend_i32_u (i32.add (i32.const {HEADROOM})
                  (i32.and (i32.wrap_i64 (local.get $d))
                    (i32.sub (i32.const 0) (i32.load (i32.const {ROOM-BYTES}))))))))
              (memory.copy
                (i32.add (global.get $rooms)
                  (i32.sub (i32.wrap_i64 (local.get $d)) (i32.const 0x10000)))
                (local.get $list) (local.get $length))
              (i64.store offset={DESCRIPTORS} (i32.shl (local.get $i) (i32.const 3))
                (local.get $d))))"
    } else {
        "(i32.store offset={VERDICTS} (i32.shl (local.get $i) (i32.const 2)) (i32.const 0xff))"
    };
    format!(
        "      (loop $each
        (call $rewind)
        (local.set $d (i64.load offset={{KEPT}} (i32.shl (local.get $i) (i32.const 3))))
        (call $f{k}
          (i32.add (global.get $rooms)
            (i32.sub (i32.wrap_i64 (local.get $d)) (i32.const 0x10000)))
          (i32.wrap_i64 (i64.shr_u (local.get $d) (i64.const 32)))
          (i32.load16_u offset={{METADATA}} (i32.shl (local.get $i) (i32.const 3)))
          (i64.load (i32.const {{CLOCK}}))
          (i32.const 0x10))
        (i32.store offset={{VERDICTS}} (i32.shl (local.get $i) (i32.const 2))
          (select (i32.const 0xff) (i32.load (i32.const 0x10))
            (i32.eq (i32.and (i32.load (i32.const 0x10)) (i32.const 0xff)) (i32.const {{HOLD}}))))
        (if (i32.load8_u (i32.const 0x14)) (then
          (local.set $list (i32.load (i32.const 0x18)))
          (local.set $length (i32.load (i32.const 0x1c)))
          {store}))
        (br_if $each (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))"
    )
}

/// Room for a burst that is given by value: [`bursting::STAGED_MAX`] bytes, or one packet.
const GROW_STAGING: &str =
    "(global.set $staging (i32.shl (memory.grow (i32.const 2)) (i32.const 16)))";

/// One call for as many packets as can be laid out at once.
fn burst_call(k: usize, step: Step) -> String {
    let (heads, writes) = (k * 4, u8::from(step.writes));
    format!(
        "      (loop $parts
        (call $rewind)
        (local.set $length (call $stage (local.get $i) (local.get $n)
          (i32.load (i32.const {{HEADS+{heads}}}))))
        (call $f{k} (global.get $staging) (global.get $staged) (i32.const 0x10))
        (call $answer (local.get $i) (local.get $length) (i32.const {writes}))
        (br_if $parts (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (local.get $length))) (local.get $n))))"
    )
}

/// Puts numbers in the place of `{NAME}`, `{NAME+n}` and `{NAME-n}`.
fn fill(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').expect("runner.wat: a brace is not closed");
        out.push_str(before);
        let _ = write!(out, "{}", value(name));
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn value(expression: &str) -> i64 {
    let number = |text: &str| text.parse::<i64>().ok();
    for (at, sign) in [('+', 1), ('-', -1)] {
        if let Some((name, n)) = expression.rsplit_once(at)
            && let Some(n) = number(n)
        {
            return value(name) + sign * n;
        }
    }
    let address = match expression {
        "CONTROL" => CONTROL,
        "POSITION" => CONTROL + control::POSITION,
        "ACTIVE" => CONTROL + control::ACTIVE,
        "DONE" => CONTROL + control::DONE,
        "PARKED" => CONTROL + control::PARKED,
        "ROOM-BYTES" => CONTROL + control::ROOM_BYTES,
        "WATCHED" => CONTROL + control::WATCHED,
        "REVERSE" => CONTROL + control::REVERSE,
        "MODES" => CONTROL + control::MODES,
        "SEEN" => CONTROL + control::SEEN,
        "JUMPED" => CONTROL + control::JUMPED,
        "CLONED" => CONTROL + control::CLONED,
        "HEADS" => CONTROL + control::HEADS,
        "ORIGINS" => CONTROL + control::ORIGINS,
        "KEPT" => CONTROL + control::KEPT,
        "ANY-FINAL" => CONTROL + control::ANY_FINAL,
        "EVEN" => CONTROL + control::EVEN,
        "FINALS" => CONTROL + control::FINALS,
        "PARKED-LIST" => CONTROL + control::PARKED_LIST,
        "DONE-LIST" => CONTROL + control::DONE_LIST,
        "DESCRIPTORS" => BURST + layout::DESCRIPTORS,
        "VERDICTS" => BURST + layout::VERDICTS,
        "METADATA" => BURST + layout::METADATA,
        "CLOCK" => BURST + layout::CLOCK,
        "CLEAN" => BURST + control::CLEAN,
        "HEADER" => bursting::HEADER,
        "ROW" => bursting::ROW,
        "STAGED-MAX" => bursting::STAGED_MAX,
        "HEADROOM" => layout::HEADROOM,
        "SKIP" => control::SKIP.into(),
        "HOLD" => layout::Verdict::Hold.kind() as usize,
        "BAD-DESCRIPTOR" => control::BAD_DESCRIPTOR as usize,
        "BAD-VERDICT" => control::BAD_VERDICT as usize,
        "REFUSED" => control::REFUSED as usize,
        other => panic!("runner.wat: {{{other}}} has no value"),
    };
    i64::try_from(address).expect("addresses are small")
}
