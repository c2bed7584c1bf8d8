//! Functions as `scripts/build-functions` makes them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use weir_sandbox::{Admitted, admit};

/// Where the workspace is.
///
/// # Panics
/// Never.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").into()
}

/// The file of a function, built from what is in the tree now, for a host that it is pushed to.
///
/// # Panics
/// As [`built`].
#[must_use]
pub fn built_file(name: &str) -> PathBuf {
    drop(built(name));
    module(name)
}

fn module(name: &str) -> PathBuf {
    workspace().join(format!("target/functions/{name}.wasm"))
}

/// A function, built from what is in the tree now. The script says what is missing if it cannot.
///
/// # Panics
/// When it cannot be built, or is refused.
#[must_use]
pub fn built(name: &str) -> Arc<Admitted> {
    static BUILT: Mutex<Vec<(String, Arc<Admitted>)>> = Mutex::new(Vec::new());
    let mut all = BUILT.lock().expect("nobody panicked");
    if let Some((_, admitted)) = all.iter().find(|(known, _)| known == name) {
        return Arc::clone(admitted);
    }
    let status = Command::new(workspace().join("scripts/build-functions")).arg(name).status();
    assert!(status.expect("a shell").success(), "scripts/build-functions {name} failed");
    let wasm = std::fs::read(module(name)).expect("a module");
    let admitted = Arc::new(admit(&wasm).unwrap_or_else(|refused| panic!("{refused}")));
    all.push((name.to_owned(), Arc::clone(&admitted)));
    admitted
}
