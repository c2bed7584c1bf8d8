//! Chains from files alone: for replays, benchmarks and tests, without a host or a store.

use std::path::Path;
use std::sync::Arc;

use weir_sandbox::{Admitted, Refused, Sandbox};
use weir_spec::{
    Chain, Document, DocumentError, FunctionUse, Invalid, Manifest, Plane, ResolvedFunction,
};

use crate::plan::AdmitError;

/// Why a chain could not be read from files.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The chain file, or an embedded manifest, is wrong.
    #[error(transparent)]
    Document(#[from] Box<DocumentError>),
    /// A function is refused.
    #[error(transparent)]
    Admit(#[from] AdmitError),
}

/// A function of a chain with all its values, and the component.
pub type Loaded = (ResolvedFunction, Arc<Admitted>);

/// Reads a chain file and the functions it names. `path` is relative to the chain file; a function
/// under `use` is looked for as `NAME.wasm` in `functions`, then beside the chain file. Of a chain
/// of both planes the answer has the part for packets. The sandbox remembers the components, so
/// that faults in them are told with lines.
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
    let mut worlds = Vec::new();
    for (place, function) in document.value.functions.iter().enumerate() {
        let label = function.label();
        let located =
            |invalid: Invalid| Box::new(document.locate(invalid.within_array("function", place)));
        let wasm = read(function, beside, functions).map_err(located)?;
        let admitted = sandbox
            .admit(&wasm)
            .map_err(|refused: Refused| AdmitError { label: label.clone(), refused })?;
        worlds.push(Some(crate::check::world(admitted.world)));
        let manifest = manifest_of(&label, &admitted).map_err(Box::new)?;
        check_version(function, &manifest).map_err(located)?;
        let version = function.version.clone().or_else(|| manifest.version.clone());
        let resolved = function.resolve(&manifest, version, wasm).map_err(located)?;
        loaded.push((resolved, admitted));
    }
    let mut chain = document.value.clone();
    chain.settle(&worlds).map_err(|invalid| Box::new(document.locate(invalid)))?;
    if chain.plane() == Plane::Both {
        // Packets pass those that are for packets.
        loaded.retain(|(_, admitted)| !admitted.world.of_messages());
    }
    Ok((chain, loaded))
}

/// A function's file.
fn read(function: &FunctionUse, beside: &Path, functions: &Path) -> Result<Arc<[u8]>, Invalid> {
    let (key, path) = match (&function.path, &function.function) {
        (Some(path), _) => ("path", beside.join(path)),
        (None, name) => {
            let name = format!("{}.wasm", name.as_ref().map_or("", |name| name.as_str()));
            let built = functions.join(&name);
            ("use", if built.exists() { built } else { beside.join(name) })
        }
    };
    let read = std::fs::read(&path);
    read.map(Arc::from).map_err(|error| {
        let message = format!("function {}: {}: {error}", function.label(), path.display());
        let invalid = Invalid::at(key, message);
        if key == "path" {
            return invalid;
        }
        invalid.help(format!(
            "it is looked for in {} (`--functions`), then beside the chain file: build it with scripts/build, or say in the file where it is with `path = \"FILE\"`",
            functions.display()
        ))
    })
}

/// Whether a file is of the version that the chain asks for. Of a file that is named by `path` the
/// chain says which version it is.
fn check_version(function: &FunctionUse, manifest: &Manifest) -> Result<(), Invalid> {
    match (&function.version, &manifest.version) {
        (Some(asked), Some(there)) if function.path.is_none() && asked != there => {
            let message = format!("the file of function {} is version {there}", function.label());
            Err(Invalid::at("version", message).help(
                "leave it out, or say where the file of that version is with `path = \"FILE\"`",
            ))
        }
        _ => Ok(()),
    }
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
