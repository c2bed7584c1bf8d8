//! The `weir` command: the host, and the command line that talks to it.
//!
//! Owns: arguments, what is shown, exit statuses, and that configuration, store, engine and API
//! make a host. Everything else is done by the crates below it.

mod cli;
mod client;
mod commands;
mod files;
mod log;
mod manager;
mod numa;
mod patience;
mod render;

use std::io;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};

use cli::Cli;
use client::WrongUsage;

/// A request makes and drops some dozens of small things; with libc's allocator that takes twice as
/// long (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = Cli::command().color(help_color()).mut_args(unless_empty);
    let matches = command.try_get_matches().unwrap_or_else(|error| complaint(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let color = cli.global.color;
    match commands::dispatch(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            render::complain(&error, color);
            // As clap has it.
            if error.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// A variable that is empty says nothing.
fn unless_empty(argument: clap::Arg) -> clap::Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    if argument.get_env().is_some_and(is_empty) {
        return argument.env(clap::builder::Resettable::Reset);
    }
    argument
}

/// What is wrong with the arguments, with a usage line of what was written: clap takes what
/// variables say for written, too.
fn complaint(error: clap::Error) -> clap::Error {
    if !error.use_stderr() {
        return error;
    }
    let command = Cli::command().color(help_color());
    let written = command.mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
    written.try_get_matches().err().unwrap_or(error)
}

/// Whoever read our output wants no more of it (`weir … | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Help is written before arguments are understood, so `--color` is looked for by hand.
fn help_color() -> ColorChoice {
    let arguments: Vec<String> = std::env::args().collect();
    let given =
        arguments.iter().enumerate().find_map(|(place, argument)| match argument.as_str() {
            "--color" => arguments.get(place + 1).cloned(),
            other => other.strip_prefix("--color=").map(str::to_owned),
        });
    match given.as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}
