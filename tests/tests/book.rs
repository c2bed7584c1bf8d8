//! The book in `docs/`: every page has its place in the contents, every link leads somewhere,
//! examples are what they are shown as.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_spec::{Chain, Check, Document, HostConfig, Manifest, Steering};
use weir_tests::built::workspace;

/// Files with this ending in a folder, but for what builds leave behind.
fn files(directory: &Path, extension: &str, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files(&path, extension, all);
        } else if path.extension().is_some_and(|of| of == extension) {
            all.push(path);
        }
    }
}

/// A page with what it includes in its place, as the book has it.
fn with_included(path: &Path) -> String {
    let page = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Some(other) = page.strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}\n"))
    else {
        return page;
    };
    with_included(&path.parent().expect("a folder").join(other))
}

/// Targets of the links and pictures of a page, outside of its code.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        // Between back quotes is code, too.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in text.split("](").skip(1) {
            links.extend(part.split(')').next().map(str::to_owned));
        }
    }
    links
}

/// The name by which a heading can be linked to, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let heading = heading.to_lowercase();
    let letters = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    letters.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut all = BTreeSet::new();
    for line in page.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if let Some(heading) = line.strip_prefix('#').filter(|_| !code) {
            all.insert(anchor(heading.trim_start_matches('#').trim()));
        }
    }
    all
}

#[test]
fn every_link_leads_somewhere() {
    let root = workspace();
    let mut all = vec![root.join("README.md")];
    files(&root.join("docs"), "md", &mut all);
    for place in ["guest-sdk", "functions", "wit"] {
        let mut more = Vec::new();
        files(&root.join(place), "md", &mut more);
        // What builds leave behind and templates are not pages of ours.
        let ours = |path: &PathBuf| {
            let path = path.to_string_lossy();
            !["node_modules", "/template/", "build-output"].iter().any(|part| path.contains(part))
        };
        all.extend(more.into_iter().filter(ours));
    }
    let mut broken = Vec::new();
    for path in &all {
        let page = with_included(path);
        for link in links(&page) {
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with('<') {
                continue;
            }
            let (file, name) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("a folder").join(file)
            };
            // The book is made of docs/ alone: mdBook would leave such a link as it is, also one
            // that comes back by the folder's name.
            let leaves = path.strip_prefix(root.join("docs")).is_ok_and(|page| {
                let up = Path::new(file).components().filter(|part| *part == Component::ParentDir);
                up.count() >= page.components().count()
                    || target.canonicalize().is_ok_and(|to| !to.starts_with(root.join("docs")))
            });
            let there = match fs::read_to_string(&target) {
                _ if leaves => false,
                Ok(_) if !name.is_empty() => anchors(&with_included(&target)).contains(name),
                _ => target.exists(),
            };
            if !there {
                broken.push(format!(
                    "{}: {link}",
                    path.strip_prefix(&root).unwrap_or(path).display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_contents() {
    let docs = workspace().join("docs");
    let contents = fs::read_to_string(docs.join("SUMMARY.md")).expect("the contents");
    let listed: BTreeSet<PathBuf> =
        links(&contents).into_iter().map(|link| docs.join(link)).collect();
    let mut all = Vec::new();
    files(&docs, "md", &mut all);
    let book = all.into_iter().filter(|page| !page.ends_with("SUMMARY.md"));
    let missing: Vec<_> = book.filter(|page| !listed.contains(page)).collect();
    assert!(missing.is_empty(), "pages that SUMMARY.md does not list: {missing:?}");
}

#[test]
fn links_are_found() {
    assert_eq!(
        links("[a](b.md) and ![c](d.svg#e)\n```\n[no](no)\n```\n`[no](no)`\n"),
        ["b.md", "d.svg#e"]
    );
    assert_eq!(anchor("World `packet-function`"), "world-packet-function");
    assert_eq!(anchor("The host (weir.toml)"), "the-host-weirtoml");
}

/// The crates of the host, and the contract's layout, by the rows of docs/architecture.md.
fn rows_of_crates() -> Vec<BTreeSet<String>> {
    let page = fs::read_to_string(workspace().join("docs/architecture.md")).expect("the page");
    let (_, crates) = page.split_once("\n## Crates\n").expect("the heading");
    let (crates, _) = crates.split_once("\n## ").expect("another heading");
    let cells = crates.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.map(|cell| cell.split_whitespace().map(|name| name.replace('`', "")).collect()).collect()
}

#[test]
fn crates_depend_on_those_below_them_only() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let rows = rows_of_crates();
    let row = |name: &str| rows.iter().position(|row| row.contains(name));
    let short = |name: &Value| {
        let name = name.as_str().expect("a name");
        name.strip_prefix("weir-").unwrap_or(name).to_owned()
    };
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let folder = manifest.strip_prefix(workspace()).expect("a package of this workspace");
        if folder.starts_with("host") || folder.starts_with("wit") {
            crates.insert(short(&package["name"]), package);
        }
    }
    let mut wrong = Vec::new();
    for (name, package) in &crates {
        let Some(own) = row(name) else {
            wrong.push(format!("{name} is in no row"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = short(&dependency["name"]);
            // What only tests need is of no concern.
            if dependency["kind"].is_null()
                && crates.contains_key(&on)
                && row(&on).is_none_or(|below| below <= own)
            {
                wrong.push(format!("{name} depends on {on}, which is not below it"));
            }
        }
    }
    let named = rows.iter().flatten().filter(|name| !crates.contains_key(*name));
    wrong.extend(named.map(|name| format!("{name} is no crate")));
    assert!(crates.len() > 20 && wrong.is_empty(), "docs/architecture.md: {wrong:#?}");
}

/// `scripts/test` tests the examples in the documentation of the SDK for Rust, and of no other
/// crate.
#[test]
fn no_other_crate_has_examples_that_nobody_tests() {
    let mut all = Vec::new();
    for directory in ["host", "functions", "tests", "benches"] {
        files(&workspace().join(directory), "rs", &mut all);
    }
    assert!(all.len() > 300, "{}", all.len());
    for path in all {
        let text = fs::read_to_string(&path).expect("a source");
        let fences = text.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("///").or(line.strip_prefix("//!"))?.trim().strip_prefix("```")
        });
        for begin in fences.step_by(2) {
            let is_rust = matches!(begin, "" | "rust" | "no_run" | "should_panic" | "compile_fail");
            assert!(!is_rust, "{}: the example that begins with ```{begin}", path.display());
        }
    }
}

/// What stands around examples that are parts of a listener or a chain: some of it above, some
/// below.
const WHOLES: [(&str, &str); 6] = [
    ("", ""),
    ("[[listener]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n", ""),
    ("", "[[function]]\nuse = \"f\"\n"),
    ("name = \"c\"\nworkers = 2\n", ""),
    ("name = \"c\"\nplane = \"message\"\n[[function]]\nuse = \"f\"\n", ""),
    ("name = \"c\"\n[[function]]\nuse = \"f\"\n[function.config]\n", ""),
];

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

fn problem<T: DeserializeOwned + Check>(file: &str, text: &str) -> Option<String> {
    Document::<T>::parse(file, text).err().map(|error| error.to_string())
}

#[test]
fn examples_of_the_documentation_are_taken() {
    let root = workspace();
    let mut all = vec![root.join("README.md")];
    for directory in ["docs/guide", "docs/reference", "docs/concepts"] {
        files(&root.join(directory), "md", &mut all);
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
