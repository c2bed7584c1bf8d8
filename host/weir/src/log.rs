//! The host's log, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Color, Global};

/// Variable that says more exactly than `-v` what is logged, such as `weir_control=debug`.
const VARIABLE: &str = "WEIR_LOG";

/// Starts logging; once.
pub(crate) fn start(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(VARIABLE)
        .from_env_lossy();
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(global.verbose > 0)
        .with_ansi(global.color == Color::Always || (global.color == Color::Auto && terminal))
        .with_writer(std::io::stderr)
        .init();
}
