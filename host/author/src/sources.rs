//! A project's directory: what is source in it, what it makes, and making it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use weir_spec::{Document, Manifest, Name};

/// What builds write, and what is no source.
const OUTPUTS: [&str; 6] =
    ["build-output", "node_modules", "target", "__pycache__", "venv", "zig-out"];
/// The names of the sources that [`Project::build`] built from, so that one that was deleted is
/// missed.
const BUILT_FROM: &str = "build-output/.weir-sources";
/// Folders within folders that are looked into.
const DEPTH: usize = 16;

/// Files of a project with the time of their last change and their size.
pub type Fingerprint = BTreeMap<PathBuf, (SystemTime, u64)>;

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    directory: PathBuf,
    name: Name,
    manifest: Manifest,
    manifest_text: String,
}

impl Project {
    /// Looks at a directory.
    ///
    /// # Errors
    /// When there is no `function.toml` in it, or it is wrong or gives no name.
    pub fn open(directory: &Path) -> Result<Self> {
        let file = directory.join("function.toml");
        ensure!(
            file.exists(),
            "{} is no project: it has no function.toml (`weir new` makes a project)",
            directory.display()
        );
        let manifest = Document::<Manifest>::read(&file)?.value;
        let manifest_text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = manifest
            .name
            .clone()
            .with_context(|| format!("{}: `name` is missing", file.display()))?;
        Ok(Self { directory: directory.to_owned(), name, manifest, manifest_text })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The function's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The text of its manifest.
    #[must_use]
    pub fn manifest_text(&self) -> &str {
        &self.manifest_text
    }

    /// What `build` makes.
    #[must_use]
    pub fn wasm(&self) -> PathBuf {
        self.directory.join(format!("{}.wasm", self.name))
    }

    /// Its sources as they are now. What cannot be read is left out: it may just be being written.
    #[must_use]
    pub fn sources(&self) -> Fingerprint {
        let mut all = Fingerprint::new();
        walk(&self.directory, DEPTH, &mut all);
        all
    }

    /// Whether what `build` makes is not there, or older than a source.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let Ok(made) = fs::metadata(self.wasm()).and_then(|made| made.modified()) else {
            return true;
        };
        self.sources().iter().any(|(path, (changed, _))| {
            // What tests are about does not go into the function; lock files are what builds write.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let no_input = name == crate::suite::FILE
                || name.ends_with(".pcap")
                || name.ends_with(".lock")
                || name == "package-lock.json";
            !no_input && *changed > made
        }) || self.misses_source(made)
    }

    /// Whether a source is gone of which this was made.
    fn misses_source(&self, made: SystemTime) -> bool {
        let note = self.directory.join(BUILT_FROM);
        let noted = fs::metadata(&note).and_then(|note| note.modified());
        // What was made since then, somebody made by hand.
        noted.is_ok_and(|noted| noted >= made)
            && fs::read_to_string(&note)
                .is_ok_and(|names| names.lines().any(|name| !self.directory.join(name).exists()))
    }

    /// Runs `build`; what it says goes to standard error.
    ///
    /// # Errors
    /// When it cannot be started, fails, or makes nothing.
    pub fn build(&self) -> Result<()> {
        let script = self.directory.join("build");
        ensure!(script.exists(), "{} has no `build` script", self.directory.display());
        let script =
            script.canonicalize().with_context(|| format!("looking for {}", script.display()))?;
        let itself = std::env::current_exe().context("looking for this program")?;
        let mut build = Command::new(&script);
        if std::env::var_os("WEIR").is_none() {
            build.env("WEIR", itself);
        }
        let status = build
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .status()
            .with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(status.success(), "the build failed ({} in {})", status, self.directory.display());
        ensure!(self.wasm().exists(), "the build made no {}", self.wasm().display());
        self.note_sources();
        Ok(())
    }

    /// Notes of what it was built, where builds have a folder of their own.
    fn note_sources(&self) {
        let sources = self.sources();
        let names = sources.keys().filter_map(|path| path.strip_prefix(&self.directory).ok());
        let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
        // Without that folder, nothing is missed.
        let _ = fs::write(self.directory.join(BUILT_FROM), names.join("\n"));
    }
}

fn walk(directory: &Path, depth: usize, all: &mut Fingerprint) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if is_output(&name) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if depth > 0 {
                walk(&path, depth - 1, all);
            }
        } else if let Ok(metadata) = fs::metadata(&path)
            && let Ok(changed) = metadata.modified()
        {
            all.insert(path, (changed, metadata.len()));
        }
    }
}

/// Whether a file or folder of this name is written by builds, editors or version control.
fn is_output(name: &str) -> bool {
    OUTPUTS.contains(&name)
        || (name.starts_with('.') && name != ".cargo")
        || name.ends_with(".wasm")
        || name.ends_with('~')
        || name == "4913"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> (tempfile::TempDir, Project) {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("function.toml", "name = \"gate\"\nversion = \"0.1.0\"\n");
        write("source.txt", "(component)");
        write("build", "#!/bin/sh\ncp source.txt gate.wasm\n");
        let script = directory.path().join("build");
        fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let project = Project::open(directory.path()).unwrap();
        (directory, project)
    }

    #[test]
    fn a_project_is_stale_until_it_is_built_and_again_when_a_source_is_newer() {
        let (directory, project) = project();
        assert!(project.is_stale());
        project.build().unwrap();
        assert!(!project.is_stale());
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let touch = |name: &str| {
            let file =
                fs::File::options().create(true).append(true).open(directory.path().join(name));
            file.unwrap().set_modified(later).unwrap();
        };
        touch("in.pcap");
        touch("Cargo.lock");
        touch("package-lock.json");
        fs::create_dir_all(directory.path().join("venv/lib")).unwrap();
        touch("venv/lib/site.py");
        assert!(!project.is_stale());
        touch("source.txt");
        assert!(project.is_stale());
    }

    #[test]
    fn a_source_that_was_deleted_is_missed() {
        let (directory, project) = project();
        let more = directory.path().join("more.txt");
        fs::write(&more, "").unwrap();
        fs::create_dir(directory.path().join("build-output")).unwrap();
        project.build().unwrap();
        assert!(!project.is_stale());
        fs::remove_file(&more).unwrap();
        assert!(project.is_stale());
        project.build().unwrap();
        assert!(!project.is_stale());
    }

    #[test]
    fn what_builds_write_is_no_source() {
        let (directory, project) = project();
        let before = project.sources();
        assert_eq!(before.len(), 3, "{before:?}");
        fs::create_dir(directory.path().join("build-output")).unwrap();
        fs::write(directory.path().join("build-output/x.txt"), "x").unwrap();
        project.build().unwrap();
        assert_eq!(project.sources(), before);
        fs::write(directory.path().join("source.txt"), "(component )").unwrap();
        assert_ne!(project.sources(), before);
    }

    #[test]
    fn a_build_that_fails_says_so() {
        let (directory, project) = project();
        fs::write(directory.path().join("build"), "#!/bin/sh\nexit 3\n").unwrap();
        let error = project.build().unwrap_err().to_string();
        assert!(error.contains("the build failed (exit status: 3"), "{error}");
        let error = Project::open(&directory.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("no function.toml"), "{error}");
    }
}
