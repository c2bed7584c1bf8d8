//! Why there is no result: never to be mistaken for a command that failed.

use std::io;
use std::time::Duration;

/// What went wrong with the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something, or QEMU did not start.
    #[error("the guest cannot be started: {0}")]
    Setup(String),
    /// The guest went away by itself: its kernel died, or QEMU.
    #[error("the guest crashed: {what}\n{console}")]
    Crashed {
        /// The line that says so.
        what: String,
        /// The end of what the guest's kernel wrote.
        console: String,
    },
    /// It took longer than it may.
    #[error("the guest was not done after {limit:?}, and was ended\n{console}")]
    TooLong {
        /// What it had.
        limit: Duration,
        /// The end of what the guest's kernel wrote.
        console: String,
    },
    /// The command is not there, or its directory.
    #[error("the guest cannot run it: {0}")]
    Refused(String),
}

impl Error {
    pub(crate) fn setup(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Setup(format!("{what}: {error}"))
    }
}

/// The line of a kernel's log that tells why it died.
pub(crate) fn cause(console: &str) -> Option<&str> {
    let signs = ["Kernel panic", "Oops", "BUG:", "general protection fault", "init: "];
    let lines = || console.lines().filter(|line| !line.ends_with("init: the guest is up"));
    signs.iter().find_map(|sign| lines().find(|line| line.contains(sign))).map(str::trim)
}

/// The last lines.
pub(crate) fn tail(console: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_cause() {
        let console = "init: the guest is up\n[ 1.2] BUG: unable to handle\n[ 1.3] Kernel panic - not syncing: x\n";
        assert_eq!(cause(console), Some("[ 1.3] Kernel panic - not syncing: x"));
        assert_eq!(cause("init: the guest is up\n"), None);
        assert_eq!(cause("init: no overlay\n"), Some("init: no overlay"));
        assert_eq!(tail(&"line\n".repeat(100)).lines().count(), 30);
    }
}
