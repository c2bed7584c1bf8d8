//! What a tenant can upload that must not run, and what is said about it.

use proptest::prelude::*;
use weir_sandbox::{Refused, admit};
use weir_tests::wat_guest::{self, module, upload};

fn refused(upload: &[u8]) -> Refused {
    admit(upload).expect_err("must be refused")
}

fn reason(upload: &[u8]) -> String {
    refused(upload).reasons.join("\n")
}

#[test]
fn a_good_guest_is_admitted_as_core_module_and_as_component() {
    let core = upload(&module(wat_guest::NULL), "packet-function");
    let admitted = admit(&core).unwrap();
    assert_eq!(admitted.world.name(), "packet-function");
    assert_eq!(admitted.imports, ["weir:net/types@0.1.0", "weir:net/host@0.1.0"]);
    assert!(!admitted.saves);
    let again = admit(&admitted.component).unwrap();
    assert_eq!(again.hash, admitted.hash);
    assert_eq!(admit(&wat_guest::copying()).unwrap().world.name(), "packet-function-copy");
}

#[test]
fn forbidden_imports_are_named() {
    let text = r#"(component
      (import "wasi:filesystem/types@0.2.6" (instance))
      (import "evil:kernel/modules" (instance))
      (import "weir:net/host@0.9.0" (instance)))"#;
    let refused = refused(&wat::parse_str(text).unwrap());
    let all = refused.reasons.join("\n");
    assert!(all.contains("wasi:filesystem/types@0.2.6: functions have no files"), "{all}");
    assert!(all.contains("evil:kernel/modules, which is not allowed"), "{all}");
    assert!(all.contains("weir:net/host@0.9.0, which this host does not offer"), "{all}");
    assert!(all.contains("implements no world of weir:net"), "all reasons at once: {all}");
    assert_eq!(refused.imports.len(), 3);
}

#[test]
fn a_component_for_an_older_contract_is_told_to_be_rebuilt() {
    let text = r#"(component
      (core module $m (func (export "run")))
      (core instance $i (instantiate $m))
      (func $run (canon lift (core func $i "run")))
      (instance $e (export "process" (func $run)))
      (export "weir:net/packet@0.0.9" (instance $e)))"#;
    let said = reason(&wat::parse_str(text).unwrap());
    assert!(said.contains("weir:net/packet@0.0.9, of another version of weir:net"), "{said}");
    assert!(said.contains("rebuild it"), "{said}");
}

#[test]
fn a_component_of_another_world_is_refused() {
    let text = r#"(component
      (core module $m (func (export "run")))
      (core instance $i (instantiate $m))
      (func $run (canon lift (core func $i "run")))
      (instance $e (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $e)))"#;
    let said = reason(&wat::parse_str(text).unwrap());
    assert!(
        said.contains("it exports wasi:cli/run@0.2.0, expected is one of weir:net/packet@0.1.0"),
        "{said}"
    );
}

#[test]
fn a_huge_memory_or_table_at_the_start_is_refused() {
    let memory = "(memory (export \"memory\") 2)";
    for huge in [
        "(memory (export \"memory\") 8192)",
        // Which is eight bytes an element.
        "(memory (export \"memory\") 2) (table 67092480 funcref)",
    ] {
        let text = module(wat_guest::NULL).replace(memory, huge);
        let said = reason(&upload(&text, "packet-function"));
        assert!(
            said.contains("starts with 512MiB of memory and tables; allowed are 256MiB"),
            "{said}"
        );
    }
}

#[test]
fn an_upload_that_is_too_large_is_refused_unread() {
    let said = reason(&vec![0; weir_sandbox::UPLOAD_MAX + 1]);
    assert!(said.contains("67108865 bytes; allowed are 67108864"), "{said}");
}

#[test]
fn shared_memories_and_threads_are_refused() {
    let text = module(wat_guest::NULL)
        .replace("(export \"memory\") 2)", "(export \"memory\") 2 9 shared)");
    let said = reason(&upload(&text, "packet-function"));
    assert!(said.contains("shared"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn mutated_uploads_never_panic(cuts in any::<prop::sample::Index>(), flips in prop::collection::vec(
        (any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = upload(&module(wat_guest::NULL), "packet-function");
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        bytes.truncate(cuts.index(bytes.len()) + 1);
        let _ = admit(&bytes);
        let component = admit(&upload(&module(wat_guest::NULL), "packet-function")).unwrap().component;
        let mut bytes = component.to_vec();
        let at = cuts.index(bytes.len());
        bytes[at] = bytes[at].wrapping_add(1);
        let _ = admit(&bytes);
    }
}
