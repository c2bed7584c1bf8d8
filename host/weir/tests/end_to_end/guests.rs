//! Functions that these tests upload.

use std::fmt::Write as _;

use weir_tests::wat_guest;

use crate::host::Host;

/// Lets every packet pass; the number makes it another content.
pub(crate) fn pass(number: u32) -> Vec<u8> {
    let body = format!("      (local.set $verdict (i32.mul (i32.const {number}) (i32.const 0)))");
    wat_guest::upload(&wat_guest::module(&wat_guest::each(&body)), "packet-function")
}

/// Traps on the first packet.
pub(crate) fn trap() -> Vec<u8> {
    wat_guest::upload(&wat_guest::module(&wat_guest::each("      unreachable")), "packet-function")
}

/// Logs `name_in_memory` and traps: while it is configured, or on the first packet.
pub(crate) fn log_and_trap(configured: bool) -> Vec<u8> {
    const LOGS: &str =
        "(call $log (i32.const 4) (i32.const 0x8000) (i32.const 14)) (unreachable)\n";
    let text = if configured {
        let local = "(local $region i32)\n";
        wat_guest::module(wat_guest::NULL).replace(local, &format!("{local}{LOGS}"))
    } else {
        wat_guest::module(&wat_guest::each(LOGS))
    };
    wat_guest::upload(&text, "packet-function")
}

/// Refuses its configuration, in two lines, of which the second clears the terminal.
pub(crate) fn refuse() -> Vec<u8> {
    let module = wat_guest::module(wat_guest::NULL)
        .replace("name_in_memory", "no\\0a\\1b[2Jway")
        .replace(
            "(i32.store8 (i32.const 0x10) (i32.const 0))",
            "(i32.store8 (i32.const 0x10) (i32.const 1))
             (i32.store (i32.const 0x14) (i32.const 0x8000)) (i32.store (i32.const 0x18) (i32.const 10))",
        );
    wat_guest::upload(&module, "packet-function")
}

/// Lets every packet pass, and thinks for about a second of CPU before it takes its configuration.
pub(crate) fn slow_to_configure() -> Vec<u8> {
    const SLOW: &str = "(local $region i32) (local $n i32)
    (local.set $n (i32.const -1000000000))
    (loop $on (br_if $on (local.tee $n (i32.add (local.get $n) (i32.const 1)))))\n";
    let text = wat_guest::module(wat_guest::NULL);
    wat_guest::upload(&text.replace("(local $region i32)\n", SLOW), "packet-function")
}

/// Small, good, and slow to compile: one loop in which very many values live at the same time. The
/// number makes it another content.
pub(crate) fn slow_to_compile(number: u32) -> Vec<u8> {
    const LOCALS: usize = 1000;
    const BRANCHES: usize = 60_000;
    let mut text =
        r#"(func (export "weir:net/packet@0.1.0#process") (param $count i32)"#.to_owned();
    for local in 0..LOCALS {
        let _ = write!(text, "(local $l{local} i32)");
    }
    let _ = write!(text, "(local.set $l0 (i32.const {number}))(loop $again");
    for branch in 0..BRANCHES {
        let (a, b, c) = (branch % LOCALS, branch * 7 % LOCALS, branch * 13 % LOCALS);
        let _ = write!(
            text,
            "(if (local.get $l{a}) (then (local.set $l{b} (i32.add (local.get $l{c}) (local.get $count)))))"
        );
    }
    text.push_str("(br_if $again (local.get $l1))))");
    wat_guest::upload(&wat_guest::module(&text), "packet-function")
}

/// Two ports in memory; packets come in for ever.
pub(crate) const TRAFFIC: &str = r#"
[api]
socket = "api.sock"
[store]
path = "store"
[[port]]
name = "in"
kind = "memory"
generate = { flows = 100, rate = 20000 }
[[port]]
name = "out"
kind = "memory"
"#;

/// A chain of the function `gate` between them.
pub(crate) const CHAIN: &str =
    "name = \"edge\"\nfrom = \"in\"\nto = \"out\"\n[[function]]\nuse = \"gate\"\n";

/// Pushes a version of `gate`.
pub(crate) fn push(host: &Host, version: &str, wasm: &[u8]) -> serde_json::Value {
    host.write("f.wasm", wasm);
    host.json(&["function", "push", "f.wasm", "--name", "gate", "--version", version])
}

/// Pushes a version of `gate`, and deploys the chain of it.
pub(crate) fn deploy(host: &Host, version: &str, wasm: &[u8]) {
    push(host, version, wasm);
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
}
