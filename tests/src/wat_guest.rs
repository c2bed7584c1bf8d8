//! Functions written by hand in WAT: the smallest guests there are, and the nastiest ones.

use std::path::Path;
use std::sync::Arc;

use weir_sandbox::{Admitted, admit};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// The standard parts of a guest: memory, `cabi_realloc`, a `configure` that attaches the window
/// and leaves its address in the global `$window`, and an empty `tick`.
///
/// `functions` are module fields; they must export `weir:net/packet@0.1.0#process`.
#[must_use]
pub fn module(functions: &str) -> String {
    format!(
        r#"(module
  (import "weir:net/host@0.1.0" "attach-window"
    (func $attach-window (param i32 i32) (result i32)))
  (import "weir:net/host@0.1.0" "attach-state"
    (func $attach-state (param i32 i32) (result i32)))
  (import "weir:net/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "weir:net/host@0.1.0" "counter-add" (func $counter-add (param i32 i32 i64)))
  (import "weir:net/host@0.1.0" "set-timer" (func $set-timer (param i64)))
  (import "weir:net/host@0.1.0" "allocate" (func $allocate (param i32 i32)))
  (import "weir:net/host@0.1.0" "send" (func $send (param i32 i32 i32 i32)))
  (import "weir:net/host@0.1.0" "send-copy" (func $send-copy (param i32 i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 0x8000) "name_in_memory")
  (global $top (mut i32) (i32.const 0x100))
  (global $window (mut i32) (i32.const 0))
  (global $state (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "weir:net/packet@0.1.0#configure")
    (param $bytes i32) (param $align i32) (param $room i32) (param $state-bytes i32)
    (param $state-align i32) (param $kept i32) (param $seed i64) (param i32 i32 i32 i32 i32 i32 i32) (result i32)
    (local $region i32)
    (local.set $region (i32.shl (memory.grow (i32.add (i32.const 1)
      (i32.shr_u (i32.add (local.get $bytes) (local.get $align)) (i32.const 16)))) (i32.const 16)))
    (global.set $window (i32.add (local.get $region) (call $attach-window (local.get $region)
      (i32.add (local.get $bytes) (local.get $align)))))
    (if (local.get $state-bytes) (then
      (local.set $region (i32.shl (memory.grow (i32.add (i32.const 1)
        (i32.shr_u (i32.add (local.get $state-bytes) (local.get $state-align)) (i32.const 16))))
        (i32.const 16)))
      (global.set $state (i32.add (local.get $region) (call $attach-state (local.get $region)
        (i32.add (local.get $state-bytes) (local.get $state-align)))))))
    (i32.store8 (i32.const 0x10) (i32.const 0))
    (i32.const 0x10))
  (func (export "weir:net/packet@0.1.0#tick") (param i64))
{functions}
)"#
    )
}

/// A `process` that runs this body for each packet, with locals `$i` (its index), `$p` (address of
/// its first byte), `$length`, and `$verdict`, which is stored behind the body unless it is `next`,
/// as verdicts are before the call.
#[must_use]
pub fn each(body: &str) -> String {
    format!(
        r#"  (func (export "weir:net/packet@0.1.0#process") (param $count i32)
    (local $i i32) (local $d i32) (local $p i32) (local $length i32) (local $verdict i32)
    (loop $packets
      (local.set $d (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
      (local.set $p (i32.add (global.get $window) (i32.load (local.get $d))))
      (local.set $length (i32.load offset=4 (local.get $d)))
      (local.set $verdict (i32.const 0))
{body}
      (if (local.get $verdict) (then
        (i32.store offset=0x1000 (i32.add (global.get $window)
          (i32.shl (local.get $i) (i32.const 2))) (local.get $verdict))))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $count)))))"#
    )
}

/// A `process` that does nothing.
pub const NULL: &str = r#"  (func (export "weir:net/packet@0.1.0#process") (param i32))"#;

/// The core module with its component type, as a tenant would upload it.
///
/// # Panics
/// When the text is wrong: it is the test's own.
#[must_use]
pub fn upload(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).expect("the test's WAT");
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_dir(&wit).expect("our WIT");
    let world = resolve.select_world(&[package], Some(world)).expect("a world of ours");
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        StringEncoding::UTF8,
        false,
    )
    .expect("metadata fits any module");
    module
}

/// An admitted window function with these fields.
///
/// # Panics
/// When it is refused.
#[must_use]
pub fn admitted(functions: &str) -> Arc<Admitted> {
    Arc::new(admit(&upload(&module(functions), "packet-function")).expect("a good guest"))
}

/// The same with a state region, which refuses its configuration while the region's first word is
/// not 0.
///
/// # Panics
/// When it is refused.
#[must_use]
pub fn refusing(functions: &str) -> Arc<Admitted> {
    configured(
        functions,
        "(i32.store8 (i32.const 0x10) (i32.ne (i32.load (global.get $state)) (i32.const 0)))
         (i32.store (i32.const 0x14) (i32.const 0x8000))
         (i32.store (i32.const 0x18) (i32.const 14))",
    )
}

/// An admitted window function with these fields, whose `configure` ends with this; its answer is
/// at 0x10.
///
/// # Panics
/// When it is refused.
#[must_use]
pub fn configured(functions: &str, end: &str) -> Arc<Admitted> {
    let text = module_configured(functions, end);
    Arc::new(admit(&upload(&text, "packet-function")).expect("a good guest"))
}

/// A [`module`] whose `configure` ends with this; its answer is at 0x10.
#[must_use]
pub fn module_configured(functions: &str, end: &str) -> String {
    const GOOD: &str = "(i32.store8 (i32.const 0x10) (i32.const 0))\n    (i32.const 0x10))";
    module(functions).replacen(GOOD, &format!("{end}\n    (i32.const 0x10))"), 1)
}

/// The end of a `configure` that takes some ten milliseconds while the first word of the state
/// region is not 0.
pub const SLOW_AGAIN: &str = "(if (i32.load (global.get $state)) (then
      (local.set $kept (i32.const 100000000))
      (loop $more (br_if $more
        (local.tee $kept (i32.sub (local.get $kept) (i32.const 1)))))))
    (i32.store8 (i32.const 0x10) (i32.const 0))";

/// An upload of the world that gets bursts by value, of which it wants so many bytes of each
/// packet. A packet's verdict is its first four bytes (without 4 bytes: `next`). If the fifth is
/// odd the packet loses as many bytes as its sixth says; if it is even and not 0, so many zeros are
/// put in front. If the first packet's fifth is 5, the answer has a verdict too few.
#[must_use]
pub fn bursting(head: u32) -> Vec<u8> {
    let text = format!(
        r#"(module
  (memory (export "memory") 16)
  (global $top (mut i32) (i32.const 0x10000))
  (global $change (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top (i32.and (i32.const -16)
      (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 15)))))
  (func (export "weir:net/packet-burst@0.1.0#configure")
    (param i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (i32.store8 (i32.const 0x10) (i32.const 0))
    (i32.const 0x10))
  (func (export "weir:net/packet-burst@0.1.0#head-bytes") (result i32) (i32.const {head}))
  (func (export "weir:net/packet-burst@0.1.0#process")
    (param $burst i32) (param $length i32) (result i32)
    (local $i i32) (local $row i32) (local $p i32) (local $given i32)
    (global.set $top (i32.const 0x10000))
    (global.set $change (i32.const 0x2000))
    (i32.store (i32.const 0x20) (i32.const 0x1000))
    (i32.store (i32.const 0x24) (i32.shl (i32.load (local.get $burst)) (i32.const 2)))
    (i32.store (i32.const 0x28) (i32.const 0x2000))
    (local.set $row (i32.add (local.get $burst) (i32.const 24)))
    (loop $packets
      (local.set $p (i32.add (local.get $burst) (i32.load (local.get $row))))
      (local.set $given (i32.load offset=4 (local.get $row)))
      (i32.store offset=0x1000 (i32.shl (local.get $i) (i32.const 2)) (i32.const 0))
      (if (i32.ge_u (local.get $given) (i32.const 4)) (then
        (i32.store offset=0x1000 (i32.shl (local.get $i) (i32.const 2)) (i32.load (local.get $p)))))
      (if (i32.ge_u (local.get $given) (i32.const 6)) (then
        (if (i32.load8_u offset=4 (local.get $p)) (then
          (i32.store (global.get $change) (local.get $i))
          (i32.store offset=8 (global.get $change) (i32.const 0x8000))
          (if (i32.and (i32.load8_u offset=4 (local.get $p)) (i32.const 1))
            (then
              (i32.store offset=4 (global.get $change) (i32.load8_u offset=5 (local.get $p)))
              (i32.store offset=12 (global.get $change) (i32.const 0)))
            (else
              (i32.store offset=4 (global.get $change) (i32.const 0))
              (i32.store offset=12 (global.get $change) (i32.load8_u offset=5 (local.get $p)))))
          (if (i32.eq (i32.load8_u offset=4 (local.get $p)) (i32.const 0xfe))
            (then (i32.store (global.get $change) (i32.const 0x1000))))
          (global.set $change (i32.add (global.get $change) (i32.const 16)))
          (if (i32.and (i32.eqz (local.get $i))
              (i32.eq (i32.load8_u offset=4 (local.get $p)) (i32.const 5)))
            (then (i32.store (i32.const 0x24) (i32.const 1))))))))
      (local.set $row (i32.add (local.get $row) (i32.const 20)))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (i32.load (local.get $burst)))))
    (i32.store (i32.const 0x2c)
      (i32.shr_u (i32.sub (global.get $change) (i32.const 0x2000)) (i32.const 4)))
    (i32.const 0x20))
  (func (export "weir:net/packet-burst@0.1.0#tick") (param i64)))"#
    );
    upload(&text, "packet-function-burst")
}

/// An upload of the copying world: takes its verdict from the packet's first four bytes; if the
/// fifth is odd it gives back the packet without its first byte.
#[must_use]
pub fn copying() -> Vec<u8> {
    let text = r#"(module
  (memory (export "memory") 3)
  (global $top (mut i32) (i32.const 0x100))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top (i32.and (i32.const -16)
      (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 15)))))
  (func (export "weir:net/packet-copy@0.1.0#configure")
    (param i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (i32.store8 (i32.const 0x10) (i32.const 0))
    (i32.const 0x10))
  (func (export "weir:net/packet-copy@0.1.0#process")
    (param $p i32) (param $length i32) (param i32 i64) (result i32)
    (global.set $top (i32.const 0x100))
    (i64.store (i32.const 0x20) (i64.const 0))
    (if (i32.ge_u (local.get $length) (i32.const 5)) (then
      (i32.store (i32.const 0x20) (i32.load (local.get $p)))
      (if (i32.and (i32.load8_u offset=4 (local.get $p)) (i32.const 1)) (then
        (i32.store8 (i32.const 0x24) (i32.const 1))
        (i32.store (i32.const 0x28) (i32.add (local.get $p) (i32.const 1)))
        (i32.store (i32.const 0x2c) (i32.sub (local.get $length) (i32.const 1)))))))
    (i32.const 0x20))
  (func (export "weir:net/packet-copy@0.1.0#tick") (param i64)))"#;
    upload(text, "packet-function-copy")
}

/// An upload of a function for requests that changes what it sees and waits, and says nothing of
/// that any more when it goes on: paths begin with `/w`, pieces are half as long, and those that
/// begin with `x` are left out.
#[must_use]
pub fn changes_and_waits() -> Vec<u8> {
    const TEXT: &str = r#"(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (import "weir:net/exchange@0.1.0" "sleep" (func $sleep (param i32 i64 i32)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 0x1000))
  (global $window (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "weir:net/message@0.1.0#configure")
    (param $bytes i32) (param $align i32) (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (local $region i32)
    (local.set $region (i32.shl (memory.grow (i32.add (i32.const 1)
      (i32.shr_u (i32.add (local.get $bytes) (local.get $align)) (i32.const 16)))) (i32.const 16)))
    (global.set $window (i32.add (local.get $region) (call $attach-window (local.get $region)
      (i32.add (local.get $bytes) (local.get $align)))))
    ;; It wants the heads and bodies of requests.
    (i32.store (i32.const 4) (i32.const 3))
    (i32.const 0))
  (func (export "weir:net/message@0.1.0#request-head") (param $exchange i32) (param $offset i32) (result i64)
    (local $head i32)
    (local.set $head (i32.add (global.get $window) (local.get $offset)))
    (i32.store8 offset=1 (i32.add (local.get $head) (i32.load16_u offset=16 (local.get $head))) (i32.const 0x77))
    (call $sleep (local.get $exchange) (i64.const 1) (i32.const 16))
    (i64.const 0x103))
  (func (export "weir:net/message@0.1.0#request-body")
    (param $exchange i32) (param $offset i32) (param $length i32) (param $last i32) (result i64)
    (call $sleep (local.get $exchange) (i64.const 1) (i32.const 16))
    (if (i32.eq (i32.load8_u (i32.add (global.get $window) (local.get $offset))) (i32.const 0x78))
      (then (return (i64.const 0x203))))
    (i64.or (i64.const 0x103)
      (i64.shl (i64.extend_i32_u (i32.shr_u (local.get $length) (i32.const 1))) (i64.const 32))))
  (func (export "weir:net/message@0.1.0#response-head") (param i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#resume") (param i32 i32 i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#ended") (param i32 i32 i32 i64))
  (func (export "weir:net/message@0.1.0#tick") (param i64)))"#;
    upload(TEXT, "message-function")
}

/// An upload for messages that counts requests in its state region, and writes version and count, a
/// digit each, into their path behind the first character. It traps at `/t`. After `/r` it saves
/// that its successor is to refuse what it saved, which one does that `refuses`.
#[must_use]
pub fn counts_requests(version: u8, refuses: bool) -> Vec<u8> {
    const TEXT: &str = r#"(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (import "weir:net/host@0.1.0" "attach-state" (func $attach-state (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0x800) "it was asked to")
  (global $top (mut i32) (i32.const 0x1000))
  (global $window (mut i32) (i32.const 0))
  (global $state (mut i32) (i32.const 0))
  (global $asked (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func $region (param $bytes i32) (result i32)
    (i32.shl (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $bytes) (i32.const 16)))) (i32.const 16)))
  (func (export "weir:net/message@0.1.0#configure")
    (param $bytes i32) (param $align i32) (param i32) (param $state-bytes i32) (param $state-align i32)
    (param i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (local $region i32)
    (local.set $bytes (i32.add (local.get $bytes) (local.get $align)))
    (local.set $region (call $region (local.get $bytes)))
    (global.set $window (i32.add (local.get $region) (call $attach-window (local.get $region) (local.get $bytes))))
    (local.set $bytes (i32.add (local.get $state-bytes) (local.get $state-align)))
    (local.set $region (call $region (local.get $bytes)))
    (global.set $state (i32.add (local.get $region) (call $attach-state (local.get $region) (local.get $bytes))))
    ;; It wants the heads of requests.
    (i32.store (i32.const 4) (i32.const 1))
    (i32.const 0))
  (func (export "weir:net/message@0.1.0#request-head") (param $exchange i32) (param $offset i32) (result i64)
    (local $path i32) (local $first i32)
    (local.set $path (i32.add (global.get $window) (local.get $offset)))
    (local.set $path (i32.add (local.get $path) (i32.load16_u offset=16 (local.get $path))))
    (local.set $first (i32.load8_u offset=1 (local.get $path)))
    (if (i32.eq (local.get $first) (i32.const 0x74)) (then (unreachable)))
    (if (i32.eq (local.get $first) (i32.const 0x72)) (then (global.set $asked (i32.const 1))))
    (i32.store (global.get $state) (i32.add (i32.load (global.get $state)) (i32.const 1)))
    (i32.store8 offset=1 (local.get $path) (i32.const VERSION))
    (i32.store8 offset=2 (local.get $path) (i32.add (i32.const 0x30) (i32.load (global.get $state))))
    (i64.const 0x100))
  (func (export "weir:net/message@0.1.0#request-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-head") (param i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#resume") (param i32 i32 i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#ended") (param i32 i32 i32 i64))
  (func (export "weir:net/message@0.1.0#tick") (param i64))
  (func (export "weir:net/snapshot@0.1.0#save") (result i32)
    (i32.store8 (i32.const 0x40) (global.get $asked))
    (i32.store (i32.const 0x20) (i32.const 0x40))
    (i32.store (i32.const 0x24) (i32.const 1))
    (i32.const 0x20))
  (func (export "weir:net/snapshot@0.1.0#restore") (param i32 i32) (result i32)
    (global.set $asked (i32.load8_u (local.get 0)))
    (i32.store8 (i32.const 0x10) (i32.and (global.get $asked) (i32.const REFUSES)))
    (i32.store (i32.const 0x14) (i32.const 0x800))
    (i32.store (i32.const 0x18) (i32.const 15))
    (i32.const 0x10)))"#;
    let text = TEXT.replace("VERSION", &(u32::from(b'0') + u32::from(version)).to_string());
    upload(&text.replace("REFUSES", if refuses { "1" } else { "0" }), "message-function-saving")
}

/// How a module for this interface begins whose `configure` attaches a window, and that wants these
/// events.
fn attached(interface: &str, wants: u32) -> String {
    const TEXT: &str = r#"(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 0x1000))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "weir:net/INTERFACE@0.1.0#configure")
    (param $bytes i32) (param $align i32) (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (local $region i32)
    (local.set $bytes (i32.add (local.get $bytes) (local.get $align)))
    (local.set $region (i32.shl (memory.grow (i32.add (i32.const 1)
      (i32.shr_u (local.get $bytes) (i32.const 16)))) (i32.const 16)))
    (drop (call $attach-window (local.get $region) (local.get $bytes)))
    (i32.store (i32.const 4) (i32.const WANTS))
    (i32.const 0))
"#;
    TEXT.replace("INTERFACE", interface).replace("WANTS", &wants.to_string())
}

/// An upload for messages that lets everything pass, with these bodies of `save` and `restore`; the
/// latter leaves its answer at 0x10.
#[must_use]
pub fn saving_messages(save: &str, restore: &str) -> Vec<u8> {
    const TEXT: &str = r#"  (func (export "weir:net/message@0.1.0#request-head") (param i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#request-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-head") (param i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#resume") (param i32 i32 i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#ended") (param i32 i32 i32 i64))
  (func (export "weir:net/message@0.1.0#tick") (param i64))
  (func (export "weir:net/snapshot@0.1.0#save") (result i32)
    SAVE
    (i32.store (i32.const 0x20) (i32.const 0x40))
    (i32.store (i32.const 0x24) (i32.const 1))
    (i32.const 0x20))
  (func (export "weir:net/snapshot@0.1.0#restore") (param i32 i32) (result i32)
    RESTORE
    (i32.const 0x10)))"#;
    let text = TEXT.replace("SAVE", save).replace("RESTORE", restore);
    // It wants the heads of requests.
    upload(&(attached("message", 1) + &text), "message-function-saving")
}

/// An upload of a function for connections that wants these events, and answers their being opened
/// with what this leaves on the stack. It traps when it sees bytes.
#[must_use]
pub fn for_connections(wants: u32, opened: &str) -> Vec<u8> {
    const TEXT: &str = r#"  (func (export "weir:net/connection@0.1.0#opened") (param i32 i32) (result i64) OPENED)
  (func (export "weir:net/connection@0.1.0#data") (param i32 i32 i32 i32 i32) (result i64) (unreachable))
  (func (export "weir:net/connection@0.1.0#resume") (param i32 i32 i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/connection@0.1.0#ended") (param i32 i32 i32 i64))
  (func (export "weir:net/connection@0.1.0#tick") (param i64)))"#;
    let text = attached("connection", wants) + &TEXT.replace("OPENED", opened);
    upload(&text, "connection-function")
}
