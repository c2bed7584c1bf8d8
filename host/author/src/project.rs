//! New projects: a language's template, and the SDK that it builds with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weir_spec::{Name, Plane};

/// A file of `guest-sdk/`.
struct File {
    path: &'static str,
    bytes: &'static [u8],
    executable: bool,
}

static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The capture that projects for packets begin with.
const SAMPLE: &str = "sample.pcap";

/// Other names of languages.
const ALIASES: [(&str, &str); 9] = [
    ("as", "assemblyscript"),
    ("c++", "cpp"),
    ("golang", "go"),
    ("javascript", "js"),
    ("py", "python"),
    ("rs", "rust"),
    ("tinygo", "go"),
    ("typescript", "ts"),
    ("webassembly", "wat"),
];

/// What Rust does not take as a crate's name.
const NOT_IN_RUST: &str = " abstract alloc as async await become box break const continue core crate do dyn else enum extern \
    false final fn for gen if impl in let loop macro match mod move mut override priv proc_macro pub ref return self static std \
    struct super test trait true try type typeof unsafe unsized use virtual where while yield weir_sdk ";

/// A project that was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Project {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub directory: PathBuf,
    /// Its language, as `guest-sdk/` calls it.
    pub language: String,
    /// Its plane.
    pub plane: Plane,
    /// Its files that are the author's, relative to the directory.
    pub files: Vec<String>,
}

/// The languages with their planes.
#[must_use]
pub fn languages() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for file in FILES {
        let mut parts = file.path.split('/');
        if let (Some(language), Some("template"), Some(plane)) =
            (parts.next(), parts.next(), parts.next())
        {
            let planes = all.entry(language).or_default();
            if !planes.contains(&plane) {
                planes.push(plane);
            }
        }
    }
    all.values_mut().for_each(|planes| planes.sort_by_key(|plane| *plane != "packet"));
    all
}

/// The languages as one says them.
struct Offer(BTreeMap<&'static str, Vec<&'static str>>);

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all =
            self.0.iter().map(|(language, planes)| format!("{language} ({})", planes.join(", ")));
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

/// There is no template for a language, or none for the plane in it.
#[derive(Debug)]
pub struct NoTemplate(String);

impl std::error::Error for NoTemplate {}

impl std::fmt::Display for NoTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a project to a directory, whose last part is the function's name.
///
/// # Errors
/// When the name is none, there is no such template ([`NoTemplate`]), or the directory is there and
/// not empty.
pub fn write(directory: &Path, language: &str, plane: Plane) -> Result<Project> {
    let name = directory.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name: Name = name.parse()?;
    ensure!(
        name.as_str().starts_with(|c: char| c.is_ascii_lowercase())
            && !name.as_str().ends_with(['-', '_']),
        "\"{name}\" does not begin with a letter, or ends with `{}`: not every language can call something so",
        &name.as_str()[name.as_str().len() - 1..]
    );
    let lower = language.to_ascii_lowercase();
    let alias = ALIASES.iter().find(|(alias, _)| *alias == lower);
    let language = alias.map_or(lower.as_str(), |(_, language)| *language);
    let offer = languages();
    let planes = offer.get(language);
    if planes.is_none_or(|planes| !planes.contains(&plane.as_str())) {
        let plane = plane.as_str();
        let what = match planes {
            None => format!("no template for the language {language:?}"),
            Some(_) => format!("no template for {plane} functions in {language}"),
        };
        return Err(NoTemplate(format!("there is {what}; there are: {}", Offer(offer))).into());
    }
    let snake = name.as_str().replace('-', "_");
    ensure!(
        language != "rust" || !NOT_IN_RUST.contains(&format!(" {snake} ")),
        "\"{name}\" is a name that Rust keeps for itself; choose another one"
    );
    ensure!(
        language != "go" || snake != "weir",
        "\"{name}\" is the name of the SDK's own module in Go; choose another one"
    );
    if let Ok(mut entries) = fs::read_dir(directory) {
        ensure!(
            entries.next().is_none(),
            "{} is there already, and is not empty",
            directory.display()
        );
    }
    ensure!(!directory.is_file(), "{} is a file", directory.display());

    let mut project = Project {
        name,
        directory: directory.to_owned(),
        language: language.to_owned(),
        plane,
        files: Vec::new(),
    };
    project.write_template(&snake)?;
    if project.builds_with_sdk()? {
        project.write_sdk(language, Path::new("sdk"))?;
        for other in sdks(language) {
            project.write_sdk(other, &Path::new("sdk").join(other))?;
        }
    }
    if plane == Plane::Packet {
        let sample =
            FILES.iter().find(|file| file.path == SAMPLE).context("the sample is built in")?;
        project.put("in.pcap", sample.bytes, false)?;
        project.files.push("in.pcap".into());
    }
    project.files.sort();
    Ok(project)
}

/// Other languages whose SDKs a language builds with.
fn sdks(language: &str) -> impl Iterator<Item = &'static str> {
    let file = FILES.iter().find(|file| file.path.strip_prefix(language) == Some("/sdk"));
    file.map_or("", |file| str::from_utf8(file.bytes).unwrap_or_default()).split_whitespace()
}

impl Project {
    fn write_template(&mut self, snake: &str) -> Result<()> {
        let from = format!("{}/template/{}/", self.language, self.plane.as_str());
        for file in FILES {
            let Some(path) = file.path.strip_prefix(&from) else { continue };
            let filled = |text: &str| {
                text.replace("{{name}}", self.name.as_str()).replace("{{name_snake}}", snake)
            };
            let path = filled(path);
            match str::from_utf8(file.bytes) {
                Ok(text) => self.put(&path, filled(text).as_bytes(), file.executable)?,
                Err(_) => self.put(&path, file.bytes, file.executable)?,
            }
            self.files.push(path);
        }
        Ok(())
    }

    /// Whether its `build` looks for the SDK: services in JavaScript have all they need of the web.
    fn builds_with_sdk(&self) -> Result<bool> {
        let build = self.directory.join("build");
        let text = fs::read_to_string(&build);
        Ok(text.with_context(|| format!("cannot read {}", build.display()))?.contains("sdk"))
    }

    fn write_sdk(&self, language: &str, to: &Path) -> Result<()> {
        for file in FILES {
            let Some(path) =
                file.path.strip_prefix(language).and_then(|path| path.strip_prefix('/'))
            else {
                continue;
            };
            if path != "sdk" && !path.starts_with("template/") {
                self.put(to.join(path), file.bytes, file.executable)?;
            }
        }
        Ok(())
    }

    fn put(&self, path: impl AsRef<Path>, bytes: &[u8], executable: bool) -> Result<()> {
        let path = self.directory.join(path);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&path, bytes)?;
            if executable {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            std::io::Result::Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_project_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |name: &str, language: &str, plane| {
            write(&directory.path().join(name), language, plane).unwrap_err().to_string()
        };
        assert!(refused("Upper", "rust", Plane::Packet).contains("is not a name"));
        assert!(refused("1st", "rust", Plane::Packet).contains("begin with a letter"));
        assert!(refused("match", "rust", Plane::Packet).contains("Rust keeps"));
        assert!(refused("weir", "go", Plane::Message).contains("the SDK's own module"));
        let cobol = refused("x", "cobol", Plane::Packet);
        assert!(cobol.contains("\"cobol\"") && cobol.contains("rust (packet, message)"), "{cobol}");
        fs::create_dir(directory.path().join("full")).unwrap();
        fs::write(directory.path().join("full/file"), "").unwrap();
        assert!(refused("full", "rust", Plane::Packet).contains("not empty"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was written");
    }

    #[test]
    fn every_template_is_whole() {
        for (language, planes) in languages() {
            for plane in planes {
                let directory = tempfile::tempdir().unwrap();
                let plane = if plane == "packet" { Plane::Packet } else { Plane::Message };
                let project = write(&directory.path().join("my-own"), language, plane).unwrap();
                for file in ["build", "function.toml", "README.md", "weir-test.toml", ".gitignore"]
                {
                    assert!(
                        project.files.iter().any(|f| f == file),
                        "{language}: {file} is missing"
                    );
                }
                let build = fs::metadata(project.directory.join("build")).unwrap();
                assert!(
                    build.permissions().mode() & 0o100 != 0,
                    "{language}: build is not executable"
                );
                for file in &project.files {
                    let bytes = fs::read(project.directory.join(file)).unwrap();
                    let text = String::from_utf8_lossy(&bytes);
                    assert!(!text.contains("{{name"), "{language}: {file} is not filled in");
                }
                let tests = project.directory.join("weir-test.toml");
                weir_spec::Document::<crate::suite::Suite>::read(&tests).unwrap();
                let manifest = project.directory.join("function.toml");
                let manifest = weir_spec::Document::<weir_spec::Manifest>::read(&manifest).unwrap();
                assert_eq!(manifest.value.name, Some(project.name), "{language}");
            }
        }
    }
}
