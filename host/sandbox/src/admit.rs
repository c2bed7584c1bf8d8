//! Admission: what is checked before anything of an upload may run.
//!
//! Nothing is compiled here, and nothing of the upload is executed. All reasons against it are
//! collected, so that an author sees them at once.

use std::mem;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload, Validator, WasmFeatures,
};

use crate::exchange::EXCHANGE_IMPORT;
use crate::fault::size;
use crate::starts::Starts;

/// Bytes of an upload.
pub const UPLOAD_MAX: usize = 64 << 20;
/// Linear memory and tables a function may be instantiated with, all together, in bytes.
const MEMORY_AT_START_MAX: u64 = 256 << 20;
/// Core modules in a component; compilers and adapters make a handful.
const MODULES_MAX: usize = 64;
/// Imports of a component, and bytes of the name of one: they are kept, and shown. All of WASI 0.2
/// has forty.
const IMPORTS_MAX: usize = 256;
const IMPORT_NAME_MAX: usize = 256;
/// Exports of one that are named to whoever exports none of ours.
const EXPORTS_NAMED: usize = 16;
/// Reasons that are told, and bytes of one.
const REASONS_MAX: usize = 64;
const REASON_MAX: usize = 4096;

/// What a function may import.
const ADMISSIBLE_IMPORTS: [&str; 3] =
    ["weir:net/types@0.1.0", "weir:net/host@0.1.0", EXCHANGE_IMPORT];

/// What a component of the world `wasi:http/proxy` may import, at any version 0.2: its own world,
/// what `wasm32-wasip2` and the adapters of other toolchains pull in besides. None of it reaches a
/// file or the network.
const PROXY_IMPORTS: [&str; 7] = [
    "wasi:http/",
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
];

/// The export of `wasi:http/proxy`, at any version 0.2.
const PROXY: &str = "wasi:http/incoming-handler@0.2";

const PACKET: &str = "weir:net/packet@0.1.0";
const PACKET_COPY: &str = "weir:net/packet-copy@0.1.0";
const PACKET_BURST: &str = "weir:net/packet-burst@0.1.0";
const MESSAGE: &str = "weir:net/message@0.1.0";
const CONNECTION: &str = "weir:net/connection@0.1.0";
const SNAPSHOT: &str = "weir:net/snapshot@0.1.0";

/// The world a component implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum World {
    /// `packet-function`: sees packets through a window.
    Window,
    /// `packet-function-copy`: gets packets by `list<u8>`.
    Copy,
    /// `packet-function-burst`: gets the first bytes of a burst's packets by `list<u8>`.
    Burst,
    /// `message-function`: sees requests and responses through a window.
    Message,
    /// `connection-function`: sees connections and their bytes through a window.
    Connection,
    /// `wasi:http/proxy`, at any version 0.2: is handed requests, and gives responses.
    Proxy,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Window, Self::Copy, Self::Burst, Self::Message, Self::Connection, Self::Proxy];

    /// Whether its functions work on the message plane, not on packets.
    #[must_use]
    pub const fn of_messages(self) -> bool {
        matches!(self, Self::Message | Self::Connection | Self::Proxy)
    }

    /// Its name in WIT.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Window => "packet-function",
            Self::Copy => "packet-function-copy",
            Self::Burst => "packet-function-burst",
            Self::Message => "message-function",
            Self::Connection => "connection-function",
            Self::Proxy => "wasi:http/proxy",
        }
    }

    /// The interface that a component of this world exports; of `wasi:http` without the last part
    /// of its version.
    #[must_use]
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Window => PACKET,
            Self::Copy => PACKET_COPY,
            Self::Burst => PACKET_BURST,
            Self::Message => MESSAGE,
            Self::Connection => CONNECTION,
            Self::Proxy => PROXY,
        }
    }

    /// Whether a component that exports this interface is of this world.
    fn is_exported_as(self, export: &str) -> bool {
        match self {
            Self::Proxy => is_version_0_2(export, "wasi:http/incoming-handler"),
            _ => export == self.interface(),
        }
    }

    /// Whether its components may import this.
    fn admits(self, import: &str) -> bool {
        match self {
            Self::Proxy => {
                let interface = import.split('@').next().unwrap_or_default();
                PROXY_IMPORTS.iter().any(|package| interface.starts_with(package))
                    && is_version_0_2(import, interface)
            }
            _ => ADMISSIBLE_IMPORTS.contains(&import),
        }
    }
}

/// Whether this names an interface at some version 0.2.
fn is_version_0_2(name: &str, interface: &str) -> bool {
    let version = name.strip_prefix(interface).and_then(|rest| rest.strip_prefix("@0.2."));
    version.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// An upload that may be compiled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admitted {
    /// The component; for an uploaded core module, what was made of it.
    #[serde(skip)]
    pub component: Arc<[u8]>,
    /// SHA-256 of `component`.
    pub hash: [u8; 32],
    /// What it implements.
    pub world: World,
    /// Whether it exports `snapshot`.
    pub saves: bool,
    /// Names of what it imports.
    pub imports: Vec<String>,
    /// Linear memories it is instantiated with.
    pub memories_at_start: u32,
    /// Bytes of linear memory it is instantiated with, and of tables, as far as they are whole Wasm
    /// pages.
    pub memory_at_start: u64,
    /// The text of `function.toml` that it carries.
    pub manifest: Option<String>,
}

/// An upload that may not run, and why.
#[derive(Clone, Debug, Default, thiserror::Error, Serialize, Deserialize)]
#[error("refused: {}", reasons.join("; "))]
pub struct Refused {
    /// What is wrong, and what to do about it; at least one.
    pub reasons: Vec<String>,
    /// The world it seems to implement.
    pub world: Option<World>,
    /// What it imports, as far as it could be read.
    pub imports: Vec<String>,
    /// Nobody has looked at it, or not to the end, which may be for want of memory, time or
    /// processes: it is not known whether it may run.
    #[serde(skip)]
    pub unknown: bool,
}

impl Refused {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], ..Self::default() }
    }

    /// It is not known whether it may run, for this reason.
    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self { unknown: true, ..Self::because(reason) }
    }

    /// The same with no more of each reason than somebody reads: they name what the upload names.
    fn cut(mut self) -> Self {
        self.reasons.truncate(REASONS_MAX);
        for reason in &mut self.reasons {
            reason.truncate(reason.floor_char_boundary(REASON_MAX));
        }
        self
    }
}

/// Looks at an upload: a component, or a core module that carries its component type. To validate
/// one takes time and memory that its author decides about, many times its size: in a host, a child
/// does it ([`crate::Sandbox::admit`]).
///
/// # Errors
/// All the reasons for which it may not run.
pub fn admit(upload: &[u8]) -> Result<Admitted, Refused> {
    look_at(upload).map_err(Refused::cut)
}

fn look_at(upload: &[u8]) -> Result<Admitted, Refused> {
    if upload.len() > UPLOAD_MAX {
        return Err(Refused::because(format!(
            "it has {} bytes; allowed are {UPLOAD_MAX}",
            upload.len()
        )));
    }
    let component: Arc<[u8]> = if Parser::is_component(upload) {
        upload.into()
    } else if Parser::is_core_wasm(upload) {
        weir_component::encode(upload, None)
            .map_err(|error| Refused::because(error.to_string()))?
            .into()
    } else {
        let start = upload.get(..upload.len().min(8)).unwrap_or_default();
        return Err(Refused::because(format!(
            "it is not WebAssembly: it begins with {start:02x?}, expected is `\\0asm` (00 61 73 6d)"
        )));
    };
    let mut validator = Validator::new_with_features(features());
    if let Err(error) = validator.validate_all(&component) {
        return Err(Refused::because(format!("it is not a valid component: {error}")));
    }
    inspect(component)
}

/// The proposals that guests may use: what wasmtime enables by default, less threads (a function is
/// one thread's), 64-bit memories and the component model's asynchronous part.
fn features() -> WasmFeatures {
    let mut features = WasmFeatures::default();
    features.set(WasmFeatures::THREADS, false);
    features.set(WasmFeatures::SHARED_EVERYTHING_THREADS, false);
    features.set(WasmFeatures::MEMORY64, false);
    features.set(WasmFeatures::GC, false);
    features.set(WasmFeatures::FUNCTION_REFERENCES, false);
    features.set(WasmFeatures::EXCEPTIONS, false);
    features.set(WasmFeatures::CM_ASYNC, false);
    features
}

/// What a component is made of, as far as it matters here.
#[derive(Default)]
struct Survey {
    imports: Vec<String>,
    /// Why imports are refused that are no interfaces.
    reasons: Vec<String>,
    /// Interfaces.
    exports: Vec<String>,
    modules: usize,
    starts: Starts,
}

impl Survey {
    fn of(component: &[u8]) -> Result<Self, Refused> {
        let mut survey = Self::default();
        // How deep we are in nested modules and components; the component's own imports are at 1.
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(component) {
            let payload = match payload {
                Ok(payload) => payload,
                Err(error) => {
                    return Err(Refused::because(format!("it is not a valid component: {error}")));
                }
            };
            survey.starts.read(&payload);
            match payload {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    survey.modules += usize::from(encoding == Encoding::Module);
                }
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section.into_iter().flatten() {
                        survey.import(import.name.name, import.ty)?;
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    let exports = section.into_iter().flatten();
                    let interfaces =
                        exports.filter(|export| export.kind == ComponentExternalKind::Instance);
                    survey.exports.extend(interfaces.map(|export| export.name.name.to_owned()));
                }
                _ => {}
            }
        }
        Ok(survey)
    }

    fn import(&mut self, name: &str, ty: ComponentTypeRef) -> Result<(), Refused> {
        if self.imports.len() == IMPORTS_MAX || name.len() > IMPORT_NAME_MAX {
            return Err(Refused::because(format!(
                "it has more than {IMPORTS_MAX} imports, or one whose name has more than {IMPORT_NAME_MAX} bytes: \
                 no function needs those"
            )));
        }
        if !matches!(ty, ComponentTypeRef::Instance(_)) {
            self.reasons.push(import_reason(name, None));
        }
        self.imports.push(name.to_owned());
        Ok(())
    }

    /// The one world that it implements, or why there is none.
    fn world(&self) -> Result<World, String> {
        let exported =
            |world: &World| self.exports.iter().any(|export| world.is_exported_as(export));
        let mut worlds = World::ALL.into_iter().filter(exported);
        match (worlds.next(), worlds.next()) {
            (Some(world), None) => Ok(world),
            (Some(one), Some(other)) => {
                let (one, other) = (one.interface(), other.interface());
                Err(format!("it exports both {one} and {other}: export one"))
            }
            (None, _) => Err(world_reason(&self.exports)),
        }
    }

    /// Why its imports are not what this world has; what implements none is told what functions of
    /// ours may import.
    fn strange_imports(&self, world: Option<World>) -> Vec<String> {
        let admits = world.unwrap_or(World::Window);
        let strange = self.imports.iter().filter(|import| !admits.admits(import));
        let mut reasons: Vec<_> = strange.map(|import| import_reason(import, world)).collect();
        if world.is_some_and(|world| !world.of_messages())
            && self.imports.iter().any(|import| import == EXCHANGE_IMPORT)
        {
            reasons.push(format!(
                "it imports {EXCHANGE_IMPORT}, which functions for packets do not have: it is for those that export {MESSAGE} or \
                 {CONNECTION}"
            ));
        }
        reasons
    }

    /// Why it is too large.
    fn excesses(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let memory = self.starts.bytes();
        if memory > MEMORY_AT_START_MAX {
            reasons.push(format!(
                "it starts with {} of memory and tables; allowed are {}",
                size(memory),
                size(MEMORY_AT_START_MAX)
            ));
        }
        if self.modules > MODULES_MAX {
            let modules = self.modules;
            reasons.push(format!("it contains {modules} core modules; allowed are {MODULES_MAX}"));
        }
        reasons
    }
}

fn inspect(component: Arc<[u8]>) -> Result<Admitted, Refused> {
    let mut survey = Survey::of(&component)?;
    let mut reasons = mem::take(&mut survey.reasons);
    let world = survey.world().map_err(|reason| reasons.push(reason)).ok();
    reasons.extend(survey.strange_imports(world));
    reasons.extend(survey.excesses());
    let Survey { imports, exports, starts, .. } = survey;
    match world {
        Some(world) if reasons.is_empty() => Ok(Admitted {
            hash: Sha256::digest(&component).into(),
            world,
            saves: exports.iter().any(|export| export == SNAPSHOT),
            imports,
            memories_at_start: u32::try_from(starts.memories()).unwrap_or(u32::MAX),
            memory_at_start: starts.bytes(),
            manifest: crate::manifest::embedded_manifest(&component),
            component,
        }),
        _ => Err(Refused { world, imports, reasons, ..Refused::default() }),
    }
}

fn import_reason(name: &str, world: Option<World>) -> String {
    if world == Some(World::Proxy) {
        let allowed = PROXY_IMPORTS.map(|package| format!("{package}*@0.2.*")).join(", ");
        return format!(
            "it imports {name}, which functions of the world wasi:http/proxy do not have (allowed: {allowed}): build it for \
             WASI 0.2 and that world alone"
        );
    }
    let allowed = ADMISSIBLE_IMPORTS.join(", ");
    if name.starts_with("wasi:") {
        format!(
            "it imports {name}: functions have no files, clocks or sockets of their own; build for \
             wasm32-unknown-unknown, or stub WASI out (allowed: {allowed})"
        )
    } else if name.starts_with("weir:net/") {
        format!(
            "it imports {name}, which this host does not offer (it offers {allowed}): rebuild it with the SDK of this host's version"
        )
    } else {
        format!("it imports {name}, which is not allowed (allowed: {allowed})")
    }
}

fn world_reason(exports: &[String]) -> String {
    let ours = weir_component::PACKAGE;
    let (package, version) = ours.split_once('@').unwrap_or((ours, ""));
    let other = exports.iter().find_map(|export| {
        let (interface, other) = export.split_once('@')?;
        (interface.starts_with(&format!("{package}/")) && other != version).then_some(export)
    });
    if let Some(export) = other {
        return format!(
            "it exports {export}, of another version of {package} than this host's, {version}: rebuild it with the SDK of this host's version"
        );
    }
    let mut listed: Vec<String> = exports
        .iter()
        .take(EXPORTS_NAMED)
        .map(|export| export[..export.floor_char_boundary(IMPORT_NAME_MAX)].to_owned())
        .collect();
    if exports.len() > EXPORTS_NAMED {
        listed.push("...".to_owned());
    }
    let listed = if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") };
    let expected = World::ALL.map(World::interface).join(", ");
    format!(
        "it implements no world of weir:net@0.1.0: it exports {listed}, expected is one of {expected}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(upload: &[u8]) -> String {
        admit(upload).unwrap_err().reasons.join("\n")
    }

    #[test]
    fn what_is_not_wasm_is_refused_with_its_first_bytes() {
        assert!(reasons(b"").contains("not WebAssembly"));
        assert!(
            reasons(b"\x7fELF\x02\x01\x01\x00").contains("[7f, 45, 4c, 46"),
            "{}",
            reasons(b"\x7fELF")
        );
    }

    #[test]
    fn a_core_module_without_its_type_is_refused() {
        let module = b"\0asm\x01\0\0\0";
        assert!(reasons(module).contains("component-type"));
    }

    #[test]
    fn an_empty_component_is_refused_for_its_world() {
        let component = b"\0asm\x0d\0\x01\0";
        assert!(reasons(component).contains("it exports nothing"));
    }

    #[test]
    fn a_wasi_http_component_is_known_by_its_export_and_imports_its_world_only() {
        for (export, is) in [
            ("wasi:http/incoming-handler@0.2.0", true),
            ("wasi:http/incoming-handler@0.2.12", true),
            ("wasi:http/incoming-handler@0.3.0", false),
            ("wasi:http/incoming-handler@0.2.", false),
            ("wasi:http/incoming-handler@0.2.0-rc-2023-11-10", false),
            ("wasi:http/incoming-handler", false),
            ("wasi:http/handler@0.2.0", false),
            (MESSAGE, false),
        ] {
            assert_eq!(World::Proxy.is_exported_as(export), is, "{export}");
        }
        for (import, may) in [
            ("wasi:http/types@0.2.3", true),
            ("wasi:io/streams@0.2.0", true),
            ("wasi:filesystem/preopens@0.2.6", true),
            ("wasi:http/types@0.3.0", false),
            ("wasi:keyvalue/store@0.2.0", false),
            ("wasi:config/store@0.2.0", false),
            ("wasi:httpx/types@0.2.0", false),
            ("weir:net/host@0.1.0", false),
            ("wasi:http/types", false),
        ] {
            assert_eq!(World::Proxy.admits(import), may, "{import}");
        }
        assert!(!World::Message.admits("wasi:http/types@0.2.3"));
    }

    #[test]
    fn imports_have_a_number_and_a_length_and_reasons_have_too() {
        let component = |imports: usize, name: usize| {
            let imports: String = (0..imports)
                .map(|n| {
                    let name = "a".repeat(name);
                    format!("(import \"wasi:http/{name}{n}@0.2.0\" (instance $i{n}))")
                })
                .collect();
            wat::parse_str(format!(
                "(component {imports} (export \"wasi:http/incoming-handler@0.2.0\" (instance $i0)))"
            ))
            .unwrap()
        };
        assert_eq!(admit(&component(IMPORTS_MAX, 100)).unwrap().imports.len(), IMPORTS_MAX);
        for component in [component(IMPORTS_MAX + 1, 1), component(1, IMPORT_NAME_MAX)] {
            let refused = admit(&component).unwrap_err();
            assert!(refused.to_string().contains("more than 256 imports"), "{refused}");
        }
        let exports: String = (0..1000)
            .map(|n| format!("(export \"my:own/{}{n}\" (instance $i))", "a".repeat(1000)))
            .collect();
        let component = wat::parse_str(format!("(component (instance $i) {exports})")).unwrap();
        assert!(reasons(&component).len() < 2 * REASON_MAX);
    }

    #[test]
    fn garbage_behind_the_header_is_refused() {
        let component = b"\0asm\x0d\0\x01\0\xff\xff\xff\xff";
        assert!(reasons(component).contains("not a valid component"));
    }
}
