//! What a module lacks to become a component of its world.
//!
//! `wit-component` stops at the first thing that is missing and names it in its own words; this
//! finds all of it, and says what whoever built the module can do.

use std::collections::BTreeMap;

use wasmparser::{Parser, Payload};
use wit_parser::{Resolve, WorldId, WorldItem};

use crate::PACKAGE;
use crate::wasi::{self, PREVIEW_1};

/// The package's name in the names of interfaces.
const OURS: &str = "weir:net/";

/// What is missing, or too much; nothing if the module can be encoded as far as names tell.
pub(crate) fn of(module: &[u8], resolve: &Resolve, world: WorldId) -> Vec<String> {
    let (mut imports, exports) = names(module);
    if let Some(calls) = imports.get_mut(PREVIEW_1) {
        let adapter = wasi::adapter();
        calls.retain(|name| !wasi::answers(&adapter, name));
        if calls.is_empty() {
            imports.remove(PREVIEW_1);
        }
    }
    let mut reasons = Vec::new();
    let offered: Vec<String> = resolve.worlds[world]
        .imports
        .iter()
        .filter(|(_, item)| matches!(item, WorldItem::Interface { .. }))
        .map(|(key, _)| resolve.name_world_key(key))
        .collect();
    for (from, functions) in imports {
        // Of the form `[export]…`, `[resource-drop]…`, `$root`: for `wit-component`, which knows
        // them.
        let marked = from.starts_with('[') || from.starts_with('$');
        if !marked && !offered.contains(&from) {
            reasons.push(import(&from, &functions, &offered));
        }
    }
    let mut missing: Vec<String> = Vec::new();
    for (key, item) in &resolve.worlds[world].exports {
        if let WorldItem::Interface { id, .. } = item {
            let interface = resolve.name_world_key(key);
            let wanted =
                resolve.interfaces[*id].functions.keys().map(|name| format!("{interface}#{name}"));
            missing.extend(wanted.filter(|name| !exports.contains(name)));
        }
    }
    if !missing.is_empty() {
        reasons.push(format!(
            "it does not export `{}`, which its world `{}` asks for: link the SDK's code for this world, and see that the linker keeps \
             its exports (it exports {})",
            missing.join("`, `"),
            resolve.worlds[world].name,
            shown(&exports)
        ));
    }
    for (name, why) in [
        ("memory", "the host reads arguments there"),
        ("cabi_realloc", "the host asks it for room for strings and lists"),
    ] {
        if !exports.iter().any(|export| export == name) {
            reasons
                .push(format!("it does not export `{name}`: {why}; the SDKs have it, export it"));
        }
    }
    reasons
}

/// Modules that it imports from with the names, and names that it exports.
fn names(module: &[u8]) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(module).flatten() {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports().flatten() {
                    imports
                        .entry(import.module.to_owned())
                        .or_default()
                        .push(import.name.to_owned());
                }
            }
            Payload::ExportSection(section) => {
                exports.extend(section.into_iter().flatten().map(|export| export.name.to_owned()));
            }
            _ => {}
        }
    }
    (imports, exports)
}

fn import(from: &str, functions: &[String], offered: &[String]) -> String {
    let functions = shown(functions);
    let offered = offered.join(", ");
    if from == PREVIEW_1 {
        format!(
            "it imports {functions} from {PREVIEW_1}, which are no functions of WASI preview 1: build it for that version"
        )
    } else if from == "env" {
        format!(
            "it imports {functions} from `env`, which nobody offers: the linker found no definition. Define them, link the library that \
             does, or do not call them (AssemblyScript: `--use abort=`)"
        )
    } else if from.starts_with(OURS) {
        format!(
            "it imports {from}, which this host does not offer to its world (it offers {offered}, of {PACKAGE}): rebuild it with the SDK \
             of this host's version"
        )
    } else {
        format!(
            "it imports {functions} from `{from}`, which is not allowed (allowed: {offered}): do not link what calls it"
        )
    }
}

/// At most eight names.
fn shown(names: &[String]) -> String {
    const MOST: usize = 8;
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let more = names.len().saturating_sub(MOST);
    let first =
        names.iter().take(MOST).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}
