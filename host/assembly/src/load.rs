//! Chains from files alone: for replays, benchmarks and tests, without a host or a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_sandbox::{Admitted, Refused, Sandbox};
use weir_spec::{Chain, Document, DocumentError, Invalid, Manifest, Plane, ResolvedFunction};

use crate::plan::AdmitError;

/// Why a chain could not be read from files.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The chain file, or an embedded manifest, is wrong.
    #[error(transparent)]
    Document(#[from] Box<DocumentError>),
    /// A function's file cannot be read.
    #[error("function {label}: {path}: {source}{help}")]
    File {
        /// Its name in the chain.
        label: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        help: &'static str,
    },
    /// A function is refused.
    #[error(transparent)]
    Admit(#[from] AdmitError),
}

/// A function of a chain with all its values, and the component.
pub type Loaded = (ResolvedFunction, Arc<Admitted>);

/// Reads a chain file and the functions it names. `path` is relative to the chain file; a function under `use` is
/// looked for as `NAME.wasm` in `functions`, then beside the chain file. Of a chain of both planes the answer has the part for
/// packets. The sandbox remembers the components, so that faults in them are told with lines.
///
/// # Errors
/// When the file is wrong, or a function is missing or refused.
pub fn load_chain(
    sandbox: &Sandbox,
    file: &Path,
    functions: &Path,
) -> Result<(Chain, Vec<Loaded>), LoadError> {
    let document = Document::<Chain>::read(file).map_err(Box::new)?;
    let beside = file.parent().unwrap_or(Path::new("."));
    let mut loaded = Vec::new();
    let mut messages = Vec::new();
    for (place, function) in document.value.functions.iter().enumerate() {
        let label = function.label();
        let (path, help) = match (&function.path, &function.function) {
            (Some(path), _) => (beside.join(path), ""),
            (None, name) => {
                let name = format!("{}.wasm", name.as_ref().map_or("", |name| name.as_str()));
                let built = functions.join(&name);
                let path = if built.exists() { built } else { beside.join(name) };
                (path, " (build it with scripts/build, or say where it is with `path = \"FILE\"`)")
            }
        };
        let wasm: Arc<[u8]> = std::fs::read(&path)
            .map_err(|source| LoadError::File { label: label.clone(), path, source, help })?
            .into();
        let admitted = sandbox
            .admit(&wasm)
            .map_err(|refused: Refused| AdmitError { label: label.clone(), refused })?;
        messages.push(admitted.world.of_messages());
        let manifest = manifest_of(&label, &admitted).map_err(Box::new)?;
        let version = function.version.clone().or_else(|| manifest.version.clone());
        let resolved = function.resolve(&manifest, version, wasm).map_err(|invalid: Invalid| {
            Box::new(document.locate(invalid.within_array("function", place)))
        })?;
        loaded.push((resolved, admitted));
    }
    let mut chain = document.value.clone();
    chain.settle(&messages).map_err(|invalid| Box::new(document.locate(invalid)))?;
    if chain.plane() == Plane::Both {
        // Packets pass those that are for packets.
        loaded.truncate(messages.iter().filter(|of| !**of).count());
    }
    Ok((chain, loaded))
}

/// The manifest that a function carries; an empty one if it carries none.
///
/// # Errors
/// When it is wrong.
pub fn manifest_of(label: &str, admitted: &Admitted) -> Result<Manifest, DocumentError> {
    let manifest = match &admitted.manifest {
        Some(text) => {
            let name = format!("function.toml in {label}");
            Document::<Manifest>::parse(&name, text)?.value
        }
        None => Manifest::default(),
    };
    Ok(manifest.of_world(Some(crate::check::world(admitted.world))))
}
