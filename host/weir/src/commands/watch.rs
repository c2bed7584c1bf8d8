//! `weir function push --watch`: an author's loop around a host that runs.
//!
//! A version is named after its content, `MANIFEST'S-dev.hHASH`: it never stands before a release
//! of the same number, and what was pushed before is found again. What goes wrong is said, and the
//! version that runs goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use notify::{RecursiveMode, Watcher as _};
use reqwest::Method;
use semver::{Prerelease, Version};
use sha2::{Digest as _, Sha256};
use weir_author::sources::{Fingerprint, Project};
use weir_control::api::SwapRequest;
use weir_control::{Event, EventKind, Function, Pushed};
use weir_spec::{Manifest, Name, SwapReport};

use super::function::{carried, cost, told};
use crate::cli::PushArgs;
use crate::client::{Client, is_unauthorized};
use crate::render::{self, Output};

/// Nothing changes for so long before something is done: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// How often the host is asked whether something faulted.
const LOOK: Duration = Duration::from_secs(1);
/// Characters of the hash in a version.
const HASH: usize = 10;

/// What is watched.
enum Watched {
    Project(Box<Project>),
    File(PathBuf),
}

impl Watched {
    fn sources(&self) -> Fingerprint {
        match self {
            Self::Project(project) => project.sources(),
            Self::File(file) => {
                let seen = fs::metadata(file).and_then(|file| Ok((file.modified()?, file.len())));
                seen.map(|seen| (file.clone(), seen)).into_iter().collect()
            }
        }
    }

    /// Builds what is to be pushed. A project is opened anew: its manifest may be what was changed.
    fn make(&mut self) -> Result<Vec<u8>> {
        let file = match self {
            Self::Project(project) => {
                **project = Project::open(project.directory())?;
                project.build()?;
                &project.wasm()
            }
            Self::File(file) => file,
        };
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))
    }
}

/// What the loop knows.
struct Session<'a> {
    args: &'a PushArgs,
    client: &'a Client,
    output: Output,
    /// The function that was pushed last.
    name: Option<Name>,
    /// Its versions that such loops pushed, the last one last.
    pushed: Vec<Version>,
    /// What the host has of it: what was pushed last, unless the host went back from that.
    current: Option<Version>,
    /// The last event that was told.
    event: u64,
}

/// Watches, until it is interrupted.
pub(super) fn run(args: &PushArgs, client: &Client, output: Output) -> Result<()> {
    let mut watched = if args.file.is_dir() {
        Watched::Project(Box::new(Project::open(&args.file)?))
    } else {
        Watched::File(args.file.clone())
    };
    let (sender, changes) = channel();
    let mut watcher = notify::recommended_watcher(move |change| {
        // The receiver is there as long as the program is.
        let _ = sender.send(change);
    })?;
    // Of a file its folder: editors replace files.
    let (root, mode) = match &watched {
        Watched::Project(project) => (project.directory(), RecursiveMode::Recursive),
        Watched::File(file) => {
            (file.parent().unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
        }
    };
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    watcher.watch(root, mode).with_context(|| format!("cannot watch {}", root.display()))?;

    let mut session =
        Session { args, client, output, name: None, pushed: Vec::new(), current: None, event: 0 };
    session.events(false)?;
    let mut seen = Fingerprint::new();
    loop {
        let now = watched.sources();
        if now != seen {
            seen = now;
            if let Err(error) = session.take(&mut watched) {
                render::complain(
                    &error.context("not pushed, what ran before still runs"),
                    crate::cli::Color::Auto,
                );
            }
            session.say(&format!("watching {} ...", args.file.display()));
            continue;
        }
        wait(&changes)?;
        session.events(true)?;
    }
}

/// Waits for a change and for quiet after it, or for a while.
fn wait(changes: &Receiver<notify::Result<notify::Event>>) -> Result<()> {
    let gone = || anyhow::anyhow!("the files are not watched any more");
    match changes.recv_timeout(LOOK) {
        Ok(_) => {}
        Err(RecvTimeoutError::Timeout) => return Ok(()),
        Err(RecvTimeoutError::Disconnected) => return Err(gone()),
    }
    let limit = Instant::now() + LOOK;
    while Instant::now() < limit {
        match changes.recv_timeout(QUIET) {
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        }
    }
    Ok(())
}

impl Session<'_> {
    /// Builds, pushes and swaps.
    fn take(&mut self, watched: &mut Watched) -> Result<()> {
        let mut wasm = watched.make()?;
        let report = weir_assembly::check(&wasm);
        anyhow::ensure!(report.accepted, "it is refused: {}", report.reasons.join("; "));
        let given = match (&self.args.manifest, &*watched) {
            (Some(path), _) => Some(
                fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?,
            ),
            (None, Watched::Project(project)) if report.manifest.is_none() => {
                Some(project.manifest_text().to_owned())
            }
            _ => None,
        };
        if let Some(text) = &given {
            wasm = Manifest::embed(&wasm, text);
        }
        let manifest = given.or(report.manifest).map(|text| carried(&text)).transpose()?;
        let (carried, base) = manifest.map_or((None, None), |it| (it.name, it.version));
        let name = self
            .args
            .name
            .clone()
            .or(carried)
            .context("it has no manifest that names it: say --name")?;
        let version = version(base, &wasm);
        if self.name.as_ref() == Some(&name) && self.current.as_ref() == Some(&version) {
            self.say(&format!("function {name}: nothing changed, {version} stays"));
            return Ok(());
        }
        let path = ["functions", name.as_str(), "versions"];
        let pushed: Pushed = self.client.upload(&path, Some(&version), None, wasm)?;
        self.output.outcome(&pushed, told)?;
        let function: Function = self.client.get(&["functions", name.as_str()])?;
        if function.chains.is_empty() {
            self.say(&format!("function {name}: no chain has it yet (`weir chain apply`)"));
        } else if function.chains.iter().any(|chain| chain.version != version) {
            let request = SwapRequest { to: version.clone(), canary: None, shadow: false };
            let path = ["functions", name.as_str(), "swap"];
            let swapped: SwapReport = self.client.send_json(Method::POST, &path, &request)?;
            self.output.outcome(&swapped, |report| format!("function {name}: {}", cost(report)))?;
        }
        if self.name.as_ref() != Some(&name) {
            // Those of earlier sessions are among them.
            let all = function.versions.into_iter().map(|version| version.version);
            self.pushed = all.filter(is_of_a_loop).collect();
        }
        self.pushed.retain(|old| *old != version);
        self.pushed.push(version.clone());
        self.current = Some(version);
        self.tidy(&name);
        self.name = Some(name);
        Ok(())
    }

    /// Removes what nobody goes back to any more: all but the last two.
    fn tidy(&mut self, name: &Name) {
        while self.pushed.len() > 2 {
            let old = self.pushed.remove(0).to_string();
            // A version that some chain still has stays.
            let _ = self.client.delete(&["functions", name.as_str(), "versions", &old]);
        }
    }

    /// Where the function runs, as events of faults name it.
    fn places(&self) -> Vec<String> {
        let Some(name) = &self.name else { return Vec::new() };
        let function = self.client.get::<Function>(&["functions", name.as_str()]);
        let chains = function.map(|function| function.chains).unwrap_or_default();
        chains.iter().map(|place| format!("{}:{}", place.chain, place.function)).collect()
    }

    /// Tells of the function's faults that were not told yet.
    fn events(&mut self, tell: bool) -> Result<()> {
        let query = [("after", self.event.to_string()), ("follow", "false".to_owned())];
        let mut new = Vec::new();
        let asked = self.client.follow(&["events"], &query, |data| {
            new.extend(serde_json::from_str::<Event>(data).ok());
            Ok(())
        });
        match asked {
            // The host is not there; it may come back. A token does not.
            Err(error) if tell && !is_unauthorized(&error) => return Ok(()),
            asked => asked?,
        }
        let faulted = new.iter().any(|event| event.kind == EventKind::Fault);
        let places = if tell && faulted { self.places() } else { Vec::new() };
        for event in new {
            self.event = event.id;
            let own = match event.kind {
                EventKind::Fault => places.contains(&event.subject),
                EventKind::RolledBack => {
                    self.name.as_ref().is_some_and(|name| name.as_str() == event.subject)
                }
                _ => false,
            };
            if tell && own {
                self.say(&event.message);
                if event.kind == EventKind::RolledBack {
                    // The same content is to be taken again, and is the first that nobody goes back
                    // to.
                    if let Some(bad) = self.current.take() {
                        self.pushed.retain(|old| *old != bad);
                        self.pushed.insert(0, bad);
                    }
                }
            }
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if !self.output.quiet {
            eprintln!("{}", render::plain(text));
        }
    }
}

/// Whether such a loop pushed a version.
fn is_of_a_loop(version: &Version) -> bool {
    version.pre.strip_prefix("dev.h").is_some_and(|hash| hash.len() == HASH)
}

/// A version that says what is in it.
fn version(base: Option<Version>, wasm: &[u8]) -> Version {
    let digest = Sha256::digest(wasm);
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut version = base.unwrap_or(Version::new(0, 0, 0));
    version.pre = Prerelease::new(&format!("dev.h{}", &hash[..HASH])).unwrap_or_default();
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_follows_the_content_and_stands_before_the_release() {
        let one = version(Some(Version::new(1, 2, 0)), b"one");
        assert_eq!(one.to_string(), "1.2.0-dev.h7692c3ad35");
        assert_ne!(one, version(Some(Version::new(1, 2, 0)), b"two"));
        assert!(one < Version::new(1, 2, 0));
        assert!(is_of_a_loop(&one) && !is_of_a_loop(&Version::new(1, 2, 0)));
        assert_eq!(version(None, b"one").to_string(), "0.0.0-dev.h7692c3ad35");
    }
}
