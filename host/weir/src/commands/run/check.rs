//! `weir run --check`: whether a host would start, as far as that can be known without starting it,
//! and beside one that runs.
//!
//! Looked at is what stays as it is until then: files, directories, interfaces. Whether an address
//! is free, a device can be had or the kernel allows it shows at the start. A port that would be
//! down keeps no host from starting.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::Access;
use serde::Serialize;
use weir_control::api::check_socket;
use weir_control::auth::Tokens;
use weir_engine::{Findings, located, nics};
use weir_spec::{DocumentError, Invalid, Listener};

use super::Configuration;
use crate::cli::RunArgs;
use crate::render::Output;

/// What was found, for programs.
#[derive(Serialize)]
struct Report {
    /// The configuration; none: the defaults.
    file: Option<PathBuf>,
    /// Whether a host would start with it.
    accepted: bool,
    #[serde(flatten)]
    found: Found,
    /// What is wrong.
    problem: Option<Problem>,
}

/// What was found of a configuration that a host would start with.
#[derive(Default, Serialize)]
struct Found {
    /// What the host would do to devices.
    steps: Vec<String>,
    /// Why ports would be down.
    down: Vec<Problem>,
    /// What is hardly meant so, and keeps nothing from working.
    notes: Vec<String>,
}

/// What is wrong, and where.
#[derive(Serialize)]
struct Problem {
    /// For people.
    message: String,
    /// The key, if it is about one.
    key: Option<String>,
    /// Line and column in the file, from 1.
    line: Option<usize>,
    column: Option<usize>,
    /// What is allowed, or what to do.
    help: Option<String>,
}

/// Says whether a host would start with this configuration.
pub(in crate::commands) fn check(args: &RunArgs, output: Output) -> Result<()> {
    let read = Configuration::read(args.config.as_deref());
    let looked = read.as_ref().map_or_else(|_| Ok(Found::default()), looked);
    let file = match &read {
        Ok(read) => read.file.clone(),
        Err(_) => args.config.clone(),
    };
    let found = match read.map(|_| ()).and(looked) {
        Ok(found) => found,
        Err(error) => {
            let (found, problem) = (Found::default(), Some(problem(&error)));
            let report = Report { file, accepted: false, found, problem };
            // For people it is the error that says it.
            output.result(&report, |_| String::new())?;
            return Err(error);
        }
    };
    let report = Report { file, accepted: true, found, problem: None };
    output.outcome(&report, |report| {
        let Found { steps, down, notes } = &report.found;
        let steps = steps.iter().map(|step| format!("the host would {step}\n"));
        let down = down.iter().map(|port| format!("down at the start: {}\n", port.message));
        let notes = notes.iter().map(|note| format!("note: {note}\n"));
        let file = report.file.as_ref().map_or_else(
            || "no configuration file: the defaults".to_owned(),
            |file| file.display().to_string(),
        );
        format!("{}{file}: all right\n", steps.chain(down).chain(notes).collect::<String>())
    })
}

/// Looks at all of it.
fn looked(read: &Configuration) -> Result<Found> {
    let config = &read.config;
    let located = |invalid: Invalid| read.locate(invalid.into());
    Tokens::new(&config.api.tokens).map_err(|error| read.locate(error.into()))?;
    let steps = nics::plan(config).map_err(|error| read.locate(error))?;
    check_socket(&config.api.socket).map_err(|error| located(located::api(&error)))?;
    check_directory(&config.store.path).map_err(|error| {
        let message = format!("the store {} cannot be had: {error}", config.store.path.display());
        let invalid = Invalid::at("path", message);
        let invalid = match error.kind() {
            ErrorKind::PermissionDenied => invalid.help(
                "run it as root or as the store's user, or say `[store] path` and `[api] socket`",
            ),
            _ => invalid,
        };
        located(invalid.within("store"))
    })?;
    let Findings { down, mut notes } = weir_engine::check(config).map_err(located)?;
    notes.extend(config.listeners.iter().filter_map(log_note));
    let down = down.into_iter().map(|invalid| problem(&located(invalid))).collect();
    Ok(Found { steps, down, notes })
}

/// What is to be told of the file for a listener's requests, without which the host starts.
fn log_note(listener: &Listener) -> Option<String> {
    let file = &listener.log.as_ref()?.file;
    let error = check_log(file).err()?;
    Some(format!(
        "listener {}: requests would not be written down before {} can be written to: {error}",
        listener.name,
        file.display()
    ))
}

/// Whether a file can be written to, or made.
fn check_log(file: &Path) -> io::Result<()> {
    match fs::metadata(file) {
        Ok(found) if found.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(_) => return Ok(rustix::fs::access(file, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(rustix::fs::access(parent.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Whether there is a directory that can be written to, or one can be made.
fn check_directory(path: &Path) -> io::Result<()> {
    for directory in path.ancestors() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match fs::metadata(directory) {
            Ok(found) if found.is_dir() => {
                let access = Access::WRITE_OK | Access::EXEC_OK;
                return Ok(rustix::fs::access(directory, access)?);
            }
            Ok(_) => return Err(ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn problem(error: &anyhow::Error) -> Problem {
    match error.downcast_ref::<DocumentError>() {
        Some(found) => Problem {
            message: found.message.clone(),
            key: (!found.key.is_empty()).then(|| found.key.clone()),
            line: (found.line > 0).then_some(found.line),
            column: (found.line > 0).then_some(found.column),
            help: found.help.clone(),
        },
        None => Problem {
            message: format!("{error:#}"),
            key: None,
            line: None,
            column: None,
            help: None,
        },
    }
}
