//! The examples of TOML in the documentation are what they are shown as.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// What stands around examples that are parts of a listener or a chain: some of it above, some below.
const WHOLES: [(&str, &str); 6] = [
    ("", ""),
    ("[[listener]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n", ""),
    ("", "[[function]]\nuse = \"f\"\n"),
    ("name = \"c\"\nworkers = 2\n", ""),
    ("name = \"c\"\nplane = \"message\"\n[[function]]\nuse = \"f\"\n", ""),
    ("name = \"c\"\n[[function]]\nuse = \"f\"\n[function.config]\n", ""),
];

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
    let (mut seen, mut wrong) = (0, Vec::new());
    for path in all {
        for (line, text) in blocks(&fs::read_to_string(&path).expect("a page")) {
            let file = format!("{}:{line}", path.display());
            if text.starts_with("[[test]]") {
                // Those of `weir test` are another crate's.
                continue;
            }
            let problems = WHOLES.iter().flat_map(|(above, below)| {
                let text = format!("{above}{text}{below}");
                [
                    problem::<HostConfig>(&file, &text),
                    problem::<Chain>(&file, &text),
                    problem::<Steering>(&file, &text),
                    problem::<Manifest>(&file, &text),
                ]
            });
            wrong.extend(problems.collect::<Option<Vec<_>>>());
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat().join("\n"));
    assert!(seen > 20, "{seen}");
}
