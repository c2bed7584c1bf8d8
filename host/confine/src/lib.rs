//! What a process gives up for good before it works on what strangers made.
//!
//! Owns: open files, capabilities, the user of root's processes, system calls. Must not know: what
//! the process is for, nor its namespaces, which it has from whoever started it.

mod privileges;
mod system_calls;

use std::fmt;
use std::io;
use std::os::fd::RawFd;

pub use privileges::drop_capabilities;
pub use system_calls::SystemCalls;

/// A layer that is not in force, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub layer: &'static str,
    /// What the system said.
    pub problem: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.layer, self.problem)
    }
}

/// The first file behind standard input, output and errors.
const BEHIND_STANDARD: libc::c_uint = 3;

/// Leaves this process its standard input, output and errors, memory and threads, and nothing else:
/// it opens no file, makes no socket, starts no program, signals nobody, and has no capabilities.
/// The answer is what cannot be had; the rest is in force all the same.
///
/// To be called before there are threads, which keep what they have, and before a file is opened,
/// which is closed.
#[must_use]
pub fn shut_in() -> Vec<Missing> {
    type Layer = fn() -> Result<(), String>;
    let layers: [(_, Layer); 4] = [
        ("closed files", || close(BEHIND_STANDARD, libc::c_uint::MAX).map_err(|e| e.to_string())),
        ("no new privileges", || {
            rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())
        }),
        ("no capabilities", || {
            let changed = drop_capabilities(true).map_err(|error| error.to_string());
            // Nobody of the same user looks into it or traces it.
            let hidden = rustix::process::DumpableBehavior::NotDumpable;
            let hidden = rustix::process::set_dumpable_behavior(hidden);
            changed.and(hidden.map_err(|error| error.to_string()))
        }),
        ("system calls", || SystemCalls::OfAChild.allow_only_those()),
    ];
    let missing = layers.into_iter().filter_map(|(layer, put_in_force)| {
        put_in_force().err().map(|problem| Missing { layer, problem })
    });
    missing.collect()
}

/// Closes the files of these numbers, both included.
///
/// # Errors
/// When the kernel cannot: it is older than 5.9.
pub fn close(from: libc::c_uint, to: libc::c_uint) -> io::Result<()> {
    // SAFETY: the caller says which files are in use; all others are nobody's, or belong to values
    // that this process is to lose.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes all files from number `given` on but those of `keep`.
///
/// # Errors
/// As [`close`].
pub fn close_others(given: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= given).collect();
    kept.sort_unstable();
    let mut from = given as libc::c_uint;
    for fd in kept {
        let fd = fd as libc::c_uint;
        if fd > from {
            close(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close(from, libc::c_uint::MAX)
}
