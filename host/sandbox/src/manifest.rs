//! Finding the manifest that a function carries with it.

use wasmparser::{Parser, Payload};

/// Name of the custom section in which the SDK embeds `function.toml`.
const SECTION: &str = "weir:manifest";

/// The text of the embedded manifest, wherever in the component its module carries it. Not checked
/// beyond being UTF-8.
#[must_use]
pub fn embedded_manifest(wasm: &[u8]) -> Option<String> {
    for payload in Parser::new(0).parse_all(wasm) {
        if let Ok(Payload::CustomSection(section)) = payload
            && section.name() == SECTION
        {
            return String::from_utf8(section.data().to_vec()).ok();
        }
    }
    None
}
