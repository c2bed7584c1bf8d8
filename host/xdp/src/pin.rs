//! Where the link of an XDP program is pinned: `weir/INTERFACE-NAMESPACE/link` on a bpffs.
//!
//! The directory is locked (flock(2)) by the process whose program it is, so that a living host's program is told from one
//! that a crashed host left. Knows files; what is done with the link is [`crate::program`]'s.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use rustix::io::Errno;

/// Where the kernel's own file system for BPF is by custom.
const USUAL: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`
const BPFFS: u32 = 0xcafe_4a11;
/// Times that a lock is tried, and the time between: this process may be about to let go of it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Where the XDP program is pinned, so that it outlives a crash of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// On the bpffs at `/sys/fs/bpf`, if there is one.
    #[default]
    Auto,
    /// On this one.
    At(PathBuf),
    /// Nowhere.
    Never,
}

/// Why nothing is pinned.
#[derive(Debug)]
pub(crate) enum Unpinned {
    /// It was not asked for, or cannot be and need not.
    Note(String),
    /// It was asked for, and cannot be.
    Refused(String),
    /// Another process has it.
    Held,
}

/// A directory that is this process's.
#[derive(Debug)]
pub(crate) struct Pin {
    directory: PathBuf,
    /// Holds the lock.
    _lock: OwnedFd,
}

impl Pin {
    /// Takes the directory of an interface.
    pub(crate) fn take(pinning: &Pinning, name: &str, namespace: u64) -> Result<Self, Unpinned> {
        let root = root(pinning)?;
        let directory = directory(root, name, namespace);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        let locked = made.and_then(|()| lock(&directory, TRIES));
        match locked {
            Ok(lock) => Ok(Self { directory, _lock: lock }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Unpinned::Held),
            Err(error) => Err(cannot(pinning, format!("{}: {error}", directory.display()))),
        }
    }

    /// The link that a host left which has crashed.
    pub(crate) fn left(&self) -> Option<FdLink> {
        PinnedLink::from_pin(self.link()).ok().map(FdLink::from)
    }

    /// Where the link is pinned.
    pub(crate) fn link(&self) -> PathBuf {
        self.directory.join("link")
    }

    /// Removes the link's pin, if there is one. What cannot be removed is taken over by the next host.
    pub(crate) fn remove(&self) {
        match fs::remove_file(self.link()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} cannot be removed: {error}", self.link().display());
            }
            _ => {}
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // It stays if a link is in it.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Whether this program on an interface is one that a crashed host left there.
pub(crate) fn is_left(pinning: &Pinning, name: &str, namespace: u64, program: u32) -> bool {
    let Ok(root) = root(pinning) else { return false };
    let directory = directory(root, name, namespace);
    let Ok(_lock) = lock(&directory, 1) else { return false };
    let link = PinnedLink::from_pin(directory.join("link")).ok().map(FdLink::from);
    link.is_some_and(|link| of(&link) == Some(program))
}

/// The program that a link has put on its interface.
pub(crate) fn of(link: &FdLink) -> Option<u32> {
    link.info().ok().map(|info| info.program_id())
}

fn directory(root: &Path, name: &str, namespace: u64) -> PathBuf {
    root.join("weir").join(format!("{name}-{namespace}"))
}

/// The bpffs that is to be used.
fn root(pinning: &Pinning) -> Result<&Path, Unpinned> {
    let path = match pinning {
        Pinning::Auto => Path::new(USUAL),
        Pinning::At(path) => path,
        Pinning::Never => return Err(Unpinned::Note("`pin` is false".into())),
    };
    match statfs(path) {
        Ok(found) if found.f_type as u32 == BPFFS => Ok(path),
        _ => Err(cannot(
            pinning,
            format!("no bpffs is mounted at {0} (`mount -t bpf bpf {0}`)", path.display()),
        )),
    }
}

fn cannot(pinning: &Pinning, problem: String) -> Unpinned {
    match pinning {
        Pinning::At(_) => Unpinned::Refused(problem),
        Pinning::Auto | Pinning::Never => Unpinned::Note(problem),
    }
}

fn lock(directory: &Path, tries: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(directory, flags, Mode::empty())?;
    for _ in 1..tries {
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            done => return Ok(done.map(|()| fd)?),
        }
    }
    flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}
