//! The examples of TOML in the documentation are what they are shown as.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn pages(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            pages(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            all.push(path);
        }
    }
}

/// The blocks of a page, each with the line that it begins behind.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        match (&mut block, line.trim()) {
            (None, "```toml") => block = Some((number, String::new())),
            (Some(_), "```") => all.extend(block.take()),
            (Some((_, text)), _) => text.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    all
}

fn problem<T: serde::de::DeserializeOwned + Check>(file: &str, text: &str) -> Option<String> {
    Document::<T>::parse(file, text).err().map(|error| error.to_string())
}

#[test]
fn examples_of_the_documentation_are_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = vec![root.join("README.md")];
    for directory in ["docs/guide", "docs/reference", "docs/concepts"] {
        pages(&root.join(directory), &mut all);
    }
    let mut seen = 0;
    for path in all {
        for (line, text) in blocks(&fs::read_to_string(&path).expect("a page")) {
            let file = format!("{}:{line}", path.display());
            // Some are a part of a chain, which is named elsewhere.
            let part = format!("name = \"example\"\n{text}");
            let problems = [
                problem::<HostConfig>(&file, &text),
                problem::<Chain>(&file, &text),
                problem::<Chain>(&file, &part),
                problem::<Steering>(&file, &text),
                problem::<Manifest>(&file, &text),
            ];
            let problems = problems.into_iter().collect::<Option<Vec<_>>>();
            assert!(problems.is_none(), "{}", problems.unwrap_or_default().join("\n"));
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
