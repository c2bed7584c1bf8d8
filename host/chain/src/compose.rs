//! Composes the functions of a chain and its runner into one component.
//!
//! Every function becomes a child with its own memories, so the isolation between them is what it
//! was. Calls between siblings go through wasmtime's fused adapters, a few nanoseconds each, and
//! the host enters Wasm once for many bursts. Each child gets an import instance of its own for
//! `weir:net/host`, named after its place, so that the host knows who calls.
//!
//! ```text
//!   f0-host  f1-host     host            imports of the composed component
//!      |        |          |
//!    [f0]     [f1]  <-  [runner]         children
//!      |        |          |
//!     "f0"     "f1"    run, serve        exports
//! ```

use std::collections::HashMap;

use wasm_encoder::{
    ComponentBuilder, ComponentExportKind, ComponentTypeRef, ComponentValType, InstanceType,
    PrimitiveValType, TypeBounds,
};
use weir_sandbox::Admitted;

use crate::runner::{self, Step};

/// Import of the runner.
pub(crate) const RUNNER_IMPORT: &str = "host";

/// Import of the function at this place.
pub(crate) fn function_import(place: usize) -> String {
    format!("f{place}-host")
}

/// Export of the function at this place.
pub(crate) fn function_export(place: usize) -> String {
    format!("f{place}")
}

/// Export of its `snapshot` interface, if it has one.
pub(crate) fn snapshot_export(place: usize) -> String {
    format!("f{place}-snapshot")
}

/// Composes these functions, in this order; `true` where one may write to packets.
pub(crate) fn compose(functions: &[(&Admitted, bool)]) -> Vec<u8> {
    let mut outer = ComponentBuilder::default();
    let types = types_instance(&mut outer);
    let host = outer.type_instance(None, &host_type());
    let mut components = HashMap::new();
    let mut runner_arguments = Vec::new();
    let mut exports = Vec::new();
    let imports: Vec<u32> = (0..functions.len())
        .map(|k| outer.import(function_import(k).as_str(), ComponentTypeRef::Instance(host)))
        .collect();
    let runner_host = outer.type_instance(None, &runner_host_type());
    let runner_import = outer.import(RUNNER_IMPORT, ComponentTypeRef::Instance(runner_host));
    for (k, (admitted, _)) in functions.iter().enumerate() {
        let component = *components
            .entry(admitted.hash)
            .or_insert_with(|| outer.component_raw(None, &admitted.component));
        let instance = outer.instantiate(
            None,
            component,
            [
                ("weir:net/types@0.1.0", ComponentExportKind::Instance, types),
                ("weir:net/host@0.1.0", ComponentExportKind::Instance, imports[k]),
            ],
        );
        let interface =
            outer.alias_export(instance, admitted.world.interface(), ComponentExportKind::Instance);
        runner_arguments.push((function_export(k), ComponentExportKind::Instance, interface));
        exports.push((function_export(k), ComponentExportKind::Instance, interface));
        if admitted.saves {
            let snapshot = outer.alias_export(
                instance,
                "weir:net/snapshot@0.1.0",
                ComponentExportKind::Instance,
            );
            exports.push((snapshot_export(k), ComponentExportKind::Instance, snapshot));
        }
    }
    let steps: Vec<Step> = functions
        .iter()
        .map(|(admitted, writes)| Step { world: admitted.world, writes: *writes })
        .collect();
    let runner = wat::parse_str(runner::text(&steps)).expect("runner.wat assembles");
    let runner = outer.component_raw(None, &runner);
    runner_arguments.push(("host".into(), ComponentExportKind::Instance, runner_import));
    let runner = outer.instantiate(None, runner, runner_arguments);
    for name in ["attach", "run", "serve"] {
        let function = outer.alias_export(runner, name, ComponentExportKind::Func);
        exports.push((name.into(), ComponentExportKind::Func, function));
    }
    for (name, kind, index) in exports {
        outer.export(name.as_str(), kind, index, None);
    }
    outer.finish()
}

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];
const REFUSALS: [&str; 4] = ["not-owned", "out-of-bounds", "bad-verdict", "exhausted"];

/// An instance with the types of `weir:net/types`, which children import by name.
fn types_instance(outer: &mut ComponentBuilder) -> u32 {
    let (level, ty) = outer.type_defined(None);
    ty.enum_type(LEVELS);
    let (refusal, ty) = outer.type_defined(None);
    ty.enum_type(REFUSALS);
    let (names, ty) = outer.type_defined(None);
    ty.list(PrimitiveValType::String);
    let (setup, ty) = outer.type_defined(None);
    let word = ComponentValType::Primitive(PrimitiveValType::U32);
    let names = ComponentValType::Type(names);
    ty.record([
        ("window-bytes", word),
        ("window-align", word),
        ("room-bytes", word),
        ("state-bytes", word),
        ("state-align", word),
        ("state-kept", ComponentValType::Primitive(PrimitiveValType::Bool)),
        ("seed", ComponentValType::Primitive(PrimitiveValType::U64)),
        ("ports", names),
        ("functions", names),
        ("position", word),
        ("config", ComponentValType::Primitive(PrimitiveValType::String)),
    ]);
    outer.instantiate_exports(
        None,
        [
            ("level", ComponentExportKind::Type, level),
            ("refusal", ComponentExportKind::Type, refusal),
            ("setup", ComponentExportKind::Type, setup),
        ],
    )
}

/// A function type under construction in an instance type.
fn function(
    ty: &mut InstanceType,
    name: &str,
    parameters: &[(&str, ComponentValType)],
    result: Option<ComponentValType>,
) {
    let index = ty.type_count();
    ty.ty().function().params(parameters.iter().copied()).result(result);
    ty.export(name, ComponentTypeRef::Func(index));
}

/// The type of `weir:net/host`.
fn host_type() -> InstanceType {
    use ComponentValType::{Primitive, Type};
    use PrimitiveValType::{F64, String, U8, U32, U64};
    let mut ty = InstanceType::new();
    ty.ty().defined_type().enum_type(LEVELS);
    ty.export("level", ComponentTypeRef::Type(TypeBounds::Eq(0)));
    let level = Type(1);
    ty.ty().defined_type().enum_type(REFUSALS);
    ty.export("refusal", ComponentTypeRef::Type(TypeBounds::Eq(2)));
    let refusal = Type(3);
    ty.ty().defined_type().list(U8);
    let bytes = Type(4);
    ty.ty().defined_type().option(U32);
    let maybe = Type(5);
    ty.ty().defined_type().result(None, Some(refusal));
    let sent = Type(6);
    let word = Primitive(U32);
    function(&mut ty, "attach-window", &[("region", bytes)], Some(word));
    function(&mut ty, "attach-state", &[("region", bytes)], Some(word));
    function(&mut ty, "log", &[("level", level), ("message", Primitive(String))], None);
    function(&mut ty, "now", &[], Some(Primitive(U64)));
    let named = ("name", Primitive(String));
    function(&mut ty, "random", &[], Some(Primitive(U64)));
    function(&mut ty, "counter-add", &[named, ("delta", Primitive(U64))], None);
    function(&mut ty, "gauge-set", &[named, ("value", Primitive(F64))], None);
    function(&mut ty, "set-timer", &[("at", Primitive(U64))], None);
    function(&mut ty, "allocate", &[("length", word)], Some(maybe));
    let place = [("offset", word), ("length", word), ("verdict", word)];
    function(&mut ty, "send", &place, Some(sent));
    function(&mut ty, "send-copy", &[("packet", bytes), ("verdict", word)], Some(sent));
    ty
}

/// The type of what the runner imports.
fn runner_host_type() -> InstanceType {
    use ComponentValType::{Primitive, Type};
    use PrimitiveValType::{Bool, U8, U32, U64};
    let mut ty = InstanceType::new();
    ty.ty().defined_type().list(U8);
    let bytes = Type(0);
    let word = Primitive(U32);
    function(&mut ty, "attach", &[("region", bytes)], None);
    function(&mut ty, "attach-rooms", &[("region", bytes)], Some(word));
    let place = [("offset", word), ("length", word), ("port", word)];
    function(&mut ty, "clone", &place, Some(word));
    let look = [("place", word), ("count", word), ("done", Primitive(Bool))];
    function(&mut ty, "look", &look, None);
    function(&mut ty, "next", &[], Some(Primitive(U64)));
    ty
}
