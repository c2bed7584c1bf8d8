//! Functions as `scripts/build-functions` makes them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use weir_sandbox::{Admitted, admit};

/// Set by `scripts/test`, which has built all functions of what is in the tree.
const ALL_BUILT: &str = "WEIR_FUNCTIONS_BUILT";

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
    if std::env::var_os(ALL_BUILT).is_none() {
        let status = Command::new(workspace().join("scripts/build-functions")).arg(name).status();
        assert!(status.expect("a shell").success(), "scripts/build-functions {name} failed");
    }
    let wasm = std::fs::read(module(name)).expect("a module");
    let admitted = Arc::new(admit(&wasm).unwrap_or_else(|refused| panic!("{refused}")));
    all.push((name.to_owned(), Arc::clone(&admitted)));
    admitted
}

/// The `weir` program, as it was built last.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn weir() -> PathBuf {
    let tests = std::env::current_exe().expect("this program has a name");
    let built = tests.ancestors().map(|directory| directory.join("weir"));
    let found = built.into_iter().find(|path| path.is_file());
    found.expect("weir is built before: cargo build --release --bin weir")
}

/// The example `packet-filter` in a language, built from what is in the tree now with its own
/// `build`, which says what is missing if it cannot.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn example(language: &str) -> PathBuf {
    example_of(language, "packet-filter")
}

/// An example of this name in a language, built as [`example`].
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn example_of(language: &str, name: &str) -> PathBuf {
    project(language, &format!("examples/{name}")).join(format!("{name}.wasm"))
}

/// The function for tests in a language, built as [`example`].
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn probe(language: &str) -> PathBuf {
    project(language, "tests/probe").join("probe.wasm")
}

/// The function for tests of messages in a language, built as [`example`].
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn message_probe(language: &str) -> PathBuf {
    project(language, "tests/message-probe").join("message-probe.wasm")
}

/// Builds a project in a language's folder.
fn project(language: &str, path: &str) -> PathBuf {
    let project = workspace().join("guest-sdk").join(language).join(path);
    build(language, &project);
    project
}

/// Runs a project's `build`, with a language's SDK and the tools that `scripts/setup` installed.
fn build(language: &str, project: &Path) {
    let tools = workspace().join("target/languages/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(project.join("build"))
        .env("WEIR", weir())
        .env("WEIR_SDK", workspace().join("guest-sdk").join(language))
        .env("PATH", format!("{}:{path}", tools.display()))
        .status();
    assert!(status.expect("a shell").success(), "{}/build failed", project.display());
}

/// A new project of a language in this directory, as `weir new` makes it from the template, built.
///
/// # Panics
/// When it cannot be made or built.
#[must_use]
pub fn from_template(language: &str, plane: &str, name: &str, directory: &Path) -> PathBuf {
    changed_template(language, plane, name, directory, &[])
}

/// The same with some of its files' texts replaced: file, what stands there, and what shall; all of
/// the file if nothing is said to stand there.
///
/// # Panics
/// When it cannot be made or built, or what is to be replaced is not there.
#[must_use]
pub fn changed_template(
    language: &str,
    plane: &str,
    name: &str,
    directory: &Path,
    changes: &[(&str, &str, &str)],
) -> PathBuf {
    let template = workspace().join("guest-sdk").join(language).join("template").join(plane);
    let project = directory.join(name);
    std::fs::create_dir(&project).expect("a new directory");
    for file in std::fs::read_dir(template).expect("a template") {
        let file = file.expect("an entry").path();
        let target = project.join(file.file_name().expect("a name"));
        // With its permissions.
        std::fs::copy(&file, &target).expect("a copy");
        let mut text = std::fs::read_to_string(&file).expect("text").replace("{{name}}", name);
        for (_, from, to) in changes.iter().filter(|(file, ..)| target.ends_with(file)) {
            assert!(text.contains(from), "{from:?} is not in {}", file.display());
            text = if from.is_empty() { (*to).to_owned() } else { text.replace(from, to) };
        }
        std::fs::write(&target, text).expect("written");
    }
    build(language, &project);
    project.join(format!("{name}.wasm"))
}
