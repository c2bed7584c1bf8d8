//! Makes components of core modules, as compilers without a component tool chain give them.
//!
//! Owns: the WIT that this host speaks, embedding a world of it, encoding, and saying what a module
//! lacks in the words of who built it. Must not know: what may run (`weir-sandbox`), files, the
//! command line.

mod lacks;
mod wasi;
mod worlds;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{Resolve, WorldId};

pub use worlds::{PACKAGE, WORLDS, wit};

/// Why no component could be made. Each message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// These bytes are something else.
    #[error(
        "it is not a core module of WebAssembly: it begins with {0:02x?}, expected is `\\0asm` and version 1 (00 61 73 6d 01 00 00 00)"
    )]
    NoModule(Vec<u8>),
    /// It begins as one, and does not go on so.
    #[error("it is damaged, or was cut off: {0}")]
    Broken(String),
    /// It is a component.
    #[error("it is a component already: nothing is left to do (`weir check` looks at it)")]
    Already,
    /// Nobody said which world it is of.
    #[error(
        "it is a core module that does not say which world it implements (no `component-type` section): say it with \
         `weir component FILE --world WORLD`, or build it with a Weir SDK or wit-bindgen. Worlds: {}",
        WORLDS.join(", ")
    )]
    NoWorld,
    /// There is no such world.
    #[error("there is no world `{name}` in {PACKAGE}; there are {}", WORLDS.join(", "))]
    UnknownWorld {
        /// What was asked for.
        name: String,
    },
    /// It was bound to another world than the one asked for.
    #[error(
        "it was built for a world that exports {found}, not for `{asked}`, which exports {expected}: build it with the bindings of \
         `{asked}`, or leave --world out"
    )]
    OtherWorld {
        /// The world that was asked for.
        asked: String,
        /// What that exports.
        expected: String,
        /// What the module's own world exports.
        found: String,
    },
    /// What it does not export, or imports from nobody.
    #[error("{}", .0.join("; "))]
    Lacks(Vec<String>),
    /// What wit-component says.
    #[error("no component can be made of this core module: {0}")]
    Encoding(String),
}

/// Makes a component of a core module. Without `world` the module must carry its component type, as
/// the bindings of `wit-bindgen` have it; with `world`, that world of [`PACKAGE`] is taken when it
/// carries none.
///
/// # Errors
/// What is wrong with the module, and what to do about it.
pub fn encode(module: &[u8], world: Option<&str>) -> Result<Vec<u8>, Error> {
    if Parser::is_component(module) {
        return Err(Error::Already);
    }
    if !Parser::is_core_wasm(module) {
        return Err(Error::NoModule(module.get(..module.len().min(8)).unwrap_or_default().into()));
    }
    let asked = world.map(|name| worlds::find(name).map(|(resolve, world)| (name, resolve, world)));
    let asked = asked.transpose()?;
    let typed = is_typed(module)?;
    let (bound, resolve, world);
    match (typed, asked) {
        (false, None) => return Err(Error::NoWorld),
        (false, Some((_, ours, id))) => {
            let mut with_type = module.to_vec();
            wit_component::embed_component_metadata(
                &mut with_type,
                &ours,
                id,
                StringEncoding::UTF8,
                false,
            )
            .map_err(|error| Error::Encoding(format!("{error:#}")))?;
            (bound, resolve, world) = (with_type, ours, id);
        }
        (true, asked) => {
            let (_, own) = wit_component::metadata::decode(module)
                .map_err(|error| Error::Encoding(format!("{error:#}")))?;
            if let Some((name, ours, id)) = &asked {
                let (expected, found) = (exports(ours, *id), exports(&own.resolve, own.world));
                if expected != found {
                    return Err(Error::OtherWorld {
                        asked: (*name).to_owned(),
                        expected: listed(&expected),
                        found: listed(&found),
                    });
                }
            }
            (bound, resolve, world) = (module.to_vec(), own.resolve, own.world);
        }
    }
    let lacks = lacks::of(&bound, &resolve, world);
    if !lacks.is_empty() {
        return Err(Error::Lacks(lacks));
    }
    let mut encoder = ComponentEncoder::default();
    let mut encode = || {
        encoder.validate(true).module(&bound)?;
        if wasi::is_called(&bound) {
            encoder.adapter(wasi::PREVIEW_1, &wasi::adapter())?;
        }
        encoder.encode()
    };
    encode().map_err(|error| Error::Encoding(format!("{error:#}")))
}

/// Whether a core module carries a component type.
fn is_typed(module: &[u8]) -> Result<bool, Error> {
    let mut typed = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| Error::Broken(error.to_string()))?;
        typed |=
            matches!(payload, Payload::CustomSection(s) if s.name().starts_with("component-type"));
    }
    Ok(typed)
}

/// Names of what a world exports, in order.
fn exports(resolve: &Resolve, world: WorldId) -> Vec<String> {
    let keys = resolve.worlds[world].exports.keys();
    let mut names: Vec<String> = keys.map(|key| resolve.name_world_key(key)).collect();
    names.sort();
    names
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTS: &str = r#"(memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "weir:net/packet@0.1.0#configure")
          (param i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)
        (func (export "weir:net/packet@0.1.0#process") (param i32))
        (func (export "weir:net/packet@0.1.0#tick") (param i64))"#;

    fn module(imports: &str, exports: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {imports} {exports})")).unwrap()
    }

    fn refused(module: &[u8], world: Option<&str>) -> String {
        encode(module, world).unwrap_err().to_string()
    }

    #[test]
    fn every_world_is_in_the_package() {
        let (resolve, package) = wit();
        let mut names: Vec<_> = resolve.packages[package].worlds.keys().cloned().collect();
        let mut listed = WORLDS.map(str::to_owned).to_vec();
        names.sort();
        listed.sort();
        assert_eq!(names, listed);
        assert_eq!(resolve.packages[package].name.to_string(), PACKAGE);
    }

    #[test]
    fn a_whole_module_becomes_a_component_and_is_not_one_twice() {
        let component = encode(&module("", EXPORTS), Some("packet-function")).unwrap();
        assert!(Parser::is_component(&component));
        assert_eq!(encode(&component, Some("packet-function")), Err(Error::Already));
    }

    #[test]
    fn without_a_world_the_command_is_named() {
        let reason = refused(&module("", EXPORTS), None);
        assert!(reason.contains("component-type") && reason.contains("--world"), "{reason}");
    }

    #[test]
    fn a_module_that_was_cut_off_is_told_as_that() {
        let module = module("", EXPORTS);
        for world in [None, Some("packet-function")] {
            let reason = refused(&module[..module.len() / 2], world);
            assert!(
                reason.starts_with("it is damaged, or was cut off: unexpected end"),
                "{reason}"
            );
        }
    }

    #[test]
    fn an_unknown_world_is_told_with_those_that_there_are() {
        let reason = refused(&module("", EXPORTS), Some("packet"));
        assert!(reason.contains("no world `packet`") && reason.contains("packet-function-copy"));
    }

    #[test]
    fn all_that_is_not_exported_is_told() {
        let reason =
            refused(&module("", r#"(memory (export "memory") 1)"#), Some("packet-function"));
        for part in ["#configure`", "#process`", "#tick`", "`cabi_realloc`"] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn imports_from_nobody_are_told_with_what_to_do() {
        for (from, name, expected) in [
            ("env", "abort", "--use abort="),
            ("wasi_snapshot_preview1", "proc_fork", "no functions of WASI preview 1"),
            ("weir:net/host@0.2.0", "log", "rebuild it with the SDK"),
            ("weir:net/exchange@0.1.0", "route", "does not offer to its world"),
            ("wbg", "f", "not allowed"),
        ] {
            let import = format!(r#"(import "{from}" "{name}" (func))"#);
            let reason = refused(&module(&import, EXPORTS), Some("packet-function"));
            assert!(reason.contains(expected) && reason.contains(from), "{reason}");
        }
    }

    #[test]
    fn what_calls_wasi_imports_our_interfaces_only() {
        let calls = r#"
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
              (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#;
        let component = encode(&module(calls, EXPORTS), Some("packet-function")).unwrap();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(&component) {
            match payload.unwrap() {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        let name = import.unwrap().name.name;
                        assert!(name.starts_with("weir:net/"), "{name}");
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_module_of_another_world_is_told_so() {
        let mut bound = module("", EXPORTS);
        let (resolve, package) = wit();
        let world = resolve.select_world(&[package], Some("packet-function-saving")).unwrap();
        wit_component::embed_component_metadata(
            &mut bound,
            &resolve,
            world,
            StringEncoding::UTF8,
            false,
        )
        .unwrap();
        let reason = refused(&bound, Some("packet-function"));
        assert!(reason.contains("weir:net/snapshot@0.1.0"), "{reason}");
        let reason = refused(&bound, None);
        assert!(reason.contains("does not export `weir:net/snapshot@0.1.0#save`"), "{reason}");
    }

    #[test]
    fn a_function_of_another_type_is_told() {
        let other = EXPORTS.replace(r#"#process") (param i32)"#, r#"#process") (param i64)"#);
        let reason = refused(&module("", &other), Some("packet-function"));
        assert!(reason.contains("process"), "{reason}");
    }

    #[test]
    fn what_is_no_module_is_told_with_its_first_bytes() {
        assert!(refused(b"\x7fELF", Some("packet-function")).contains("7f, 45"));
        assert!(refused(b"", None).contains("not a core module"));
        assert!(!refused(b"\0asm\x01\0\0\0\xff\xff", Some("packet-function")).is_empty());
    }
}
