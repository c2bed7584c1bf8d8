//! What can be wrong with a request, and what the kernel refuses.

use std::io;
use std::path::Path;

use crate::journal::JournalError;

/// Why something cannot be had or set. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SriovError {
    /// There is no such device or function.
    #[error("{0}")]
    NotFound(String),
    /// The device, its driver or this machine cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The request contradicts itself or how things are.
    #[error("{0}")]
    Conflict(String),
    /// A function is in use.
    #[error("{what} is in use: {}", users.join("; "))]
    InUse {
        /// Which function.
        what: String,
        /// By whom.
        users: Vec<String>,
    },
    /// The caller may not.
    #[error("{0}")]
    Privilege(String),
    /// The kernel or a driver refused.
    #[error("{what}: {why}")]
    Kernel {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        why: String,
    },
    /// What is about to be done cannot be written down, so it is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Writing this file below `/sys` failed.
pub(crate) fn writing(file: &Path, what: &str, error: &io::Error) -> SriovError {
    let file = file.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => SriovError::Privilege(format!(
            "{what}: this needs root (it writes {file}, for which others need CAP_DAC_OVERRIDE or CAP_SYS_ADMIN)"
        )),
        io::ErrorKind::ReadOnlyFilesystem => SriovError::Privilege(format!(
            "{what}: {file} cannot be written, because sysfs is mounted read-only here, as it is in an unprivileged container: \
             run it on the machine itself, or in a privileged container"
        )),
        _ => SriovError::Kernel { what: what.to_owned(), why: error.to_string() },
    }
}

/// A request by netlink failed.
pub(crate) fn asking(what: &str, error: &io::Error) -> SriovError {
    /// `EOPNOTSUPP`, as the kernel says it.
    const NOT_SUPPORTED: i32 = 95;
    if error.kind() == io::ErrorKind::PermissionDenied {
        return SriovError::Privilege(format!(
            "{what}: this needs the capability CAP_NET_ADMIN (root has it)"
        ));
    }
    if error.raw_os_error() == Some(NOT_SUPPORTED) || error.kind() == io::ErrorKind::Unsupported {
        return SriovError::Unsupported(format!("{what}: the device's driver cannot do that"));
    }
    SriovError::Kernel { what: what.to_owned(), why: error.to_string() }
}
