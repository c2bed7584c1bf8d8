//! Puts the SDKs and templates of `guest-sdk/` into the binary: `weir new` works without a
//! checkout.
//!
//! Manifests of Rust crates are written out whole, because a project is not in this workspace.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What builds leave behind, and what a project has no use for.
const SKIPPED: [&str; 11] = [
    "__pycache__",
    "build-output",
    "examples",
    "fuzz",
    "node_modules",
    "target",
    "tests",
    "translate",
    ".zig-cache",
    "packet-filter",
    // Linked into templates.
    "wasi",
];

fn main() -> Result<()> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?)
        .join("../../guest-sdk")
        .canonicalize()?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let workspace = root.join("../Cargo.toml");
    println!("cargo::rerun-if-changed={}", workspace.display());
    let workspace: Table = fs::read_to_string(workspace)?.parse()?;
    let mut table = String::from("&[\n");
    let mut files = Vec::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        if path.is_dir() && !skipped(&path) {
            walk(&path, &mut files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    for (number, path) in files.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.strip_prefix(&root)?.to_str().ok_or("a file's name is not UTF-8")?;
        let mode = fs::metadata(path)?.permissions().mode();
        let mut from = path.clone();
        if name.starts_with("rust/") && name.ends_with("Cargo.toml") && !name.contains("template") {
            from = out.join(format!("manifest-{number}.toml"));
            let whole = whole(&fs::read_to_string(path)?, &workspace);
            fs::write(&from, whole.map_err(|error| format!("{}: {error}", path.display()))?)?;
        }
        writeln!(
            table,
            "File {{ path: {name:?}, bytes: include_bytes!({from:?}), executable: {} }},",
            mode & 0o100 != 0
        )?;
    }
    table.push(']');
    fs::write(out.join("files.rs"), table)?;
    Ok(())
}

fn skipped(path: &Path) -> bool {
    path.file_name().is_some_and(|name| SKIPPED.iter().any(|skipped| name == *skipped))
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut clean = true;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if skipped(&path) || path.extension().is_some_and(|e| e == "wasm") {
            clean = false;
        } else if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    // Looked at with everything below it: not where builds write.
    if clean {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    Ok(())
}

/// A manifest with what it takes from the workspace written out; without what only its own tests
/// need.
fn whole(text: &str, workspace: &Table) -> Result<String> {
    let workspace = workspace["workspace"].as_table().ok_or("no workspace")?;
    let mut manifest: Table = text.parse()?;
    manifest.remove("lints");
    manifest.remove("dev-dependencies");
    manifest.insert("workspace".into(), Table::new().into());
    let package = manifest["package"].as_table_mut().ok_or("no package")?;
    inherit(package, &workspace["package"]);
    if let Some(dependencies) = manifest.get_mut("dependencies").and_then(Value::as_table_mut) {
        inherit(dependencies, &workspace["dependencies"]);
    }
    for target in manifest
        .get_mut("target")
        .and_then(Value::as_table_mut)
        .into_iter()
        .flat_map(|t| t.iter_mut())
    {
        if let Some(dependencies) = target.1.get_mut("dependencies").and_then(Value::as_table_mut) {
            inherit(dependencies, &workspace["dependencies"]);
        }
    }
    // Beside the SDK in a project.
    if let Some(layout) =
        manifest.get_mut("dependencies").and_then(|all| all.get_mut("weir-layout"))
    {
        layout["path"] = "wit/layout".into();
    }
    Ok(toml::to_string(&manifest)?)
}

fn inherit(table: &mut Table, from: &Value) {
    for (key, value) in table.iter_mut() {
        if value.get("workspace").and_then(Value::as_bool) == Some(true)
            && let Some(whole) = from.get(key)
        {
            let mut whole = whole.clone();
            if let (Some(features), Value::String(version)) = (value.get("features"), &whole) {
                let mut table = Table::new();
                table.insert("version".into(), version.clone().into());
                table.insert("features".into(), features.clone());
                whole = table.into();
            }
            *value = whole;
        }
    }
}
