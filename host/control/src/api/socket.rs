//! Whose the Unix socket is: one host's at a time, also where two start at once, or one hangs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::server::{ServeError, directory_of, io_error, prepare};

/// The right to have the socket: a lock on a file beside it (`NAME.lock`), which stays there. It is
/// had until it is dropped.
#[derive(Debug)]
pub struct SocketLock {
    _file: File,
}

impl SocketLock {
    /// Takes it, before a host does what only one may do.
    ///
    /// # Errors
    /// When another host has it or listens there, or the system says no.
    pub fn take(socket: &Path) -> Result<Self, ServeError> {
        prepare(socket)?;
        warn_of_others(socket);
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let io = |what: &str| io_error(format!("{what} {}", path.display()));
        let file = File::options().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(io("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::InUse(socket.into())),
            Err(TryLockError::Error(error)) => return Err(io("locking")(error)),
        }
        // Who has no lock may listen all the same.
        match is_served(socket) {
            Ok(false) => Ok(Self { _file: file }),
            Ok(true) => Err(ServeError::InUse(socket.into())),
            Err(error) => Err(io_error(format!("connecting to {}", socket.display()))(error)),
        }
    }
}

/// Where everybody may write, only the sticky bit keeps others from putting a socket of theirs in
/// the place of ours.
fn warn_of_others(socket: &Path) {
    let Some(directory) = directory_of(socket) else { return };
    if fs::metadata(directory).is_ok_and(|found| found.permissions().mode() & 0o1002 == 0o002) {
        tracing::warn!(
            "everybody may write to {}, where the API's socket is, and put another one in its place: take that right away (`chmod o-w`), or name another `[api] socket`",
            directory.display()
        );
    }
}

/// Whether somebody listens at this socket. Who does not get round to it does so, too, and is not
/// waited for.
pub(super) fn is_served(socket: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let ours = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&ours, &SocketAddrUnix::new(socket)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Which file it is, whatever is at a path later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self(found.dev(), found.ino()))
    }
}
