//! Where the link of an XDP program is pinned: `weir/INTERFACE-NAMESPACE/link` on a bpffs. Beside
//! it `owner` says whose it is, a symbolic link, because a bpffs has no files.
//!
//! The directory is locked (flock(2)) by the process whose program it is, so that a living host's
//! program is told from one that a crashed host left; whoever removes it has its lock, and whoever
//! gets the lock looks whether it is still there. Knows files; what is done with the link is
//! [`crate::program`]'s.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat, statfs};
use rustix::io::Errno;

/// Where the kernel's own file system for BPF is by custom.
const USUAL: &str = "/sys/fs/bpf";
/// The directory of all interfaces there.
const ALL: &str = "weir";
/// Says whose a pin is, beside it.
const SIGNATURE: &str = "owner";
/// `BPF_FS_MAGIC`
const BPFFS: u32 = 0xcafe_4a11;
/// Times that a lock is tried, and the time between: this process may be about to let go of it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Whose the pins of this process are.
static OWNER: OnceLock<PathBuf> = OnceLock::new();

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
        // Else others could hold the lock, or put something in the place of the link.
        own(&root.join(ALL)).map_err(|problem| cannot(pinning, problem))?;
        match make_and_lock(&directory, TRIES) {
            Ok(lock) => {
                remove_orphans(&root.join(ALL));
                sign(&directory);
                Ok(Self { directory, _lock: lock })
            }
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

    /// Removes the link's pin, if there is one. What cannot be removed is taken over by the next
    /// host.
    pub(crate) fn remove(&self) {
        remove(&self.link());
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // It stays if a link is in it.
        if !self.link().exists() {
            discard(&self.directory);
        }
    }
}

/// Whose this process's pins are from now on: what only one process at a time has, the store of a
/// host. Once.
pub fn own_pins(owner: &Path) {
    let owner = owner.canonicalize().unwrap_or_else(|_| owner.to_owned());
    let _ = OWNER.set(owner);
}

/// Removes the programs that are pinned on this bpffs, are of the same owner as this process's
/// ([`own_pins`]), and that no process has: a host has crashed, and nothing has taken them over.
/// The answer is where they were pinned.
#[must_use]
pub fn remove_left(pinning: &Pinning) -> Vec<PathBuf> {
    let (Ok(root), Some(owner)) = (root(pinning), OWNER.get()) else { return Vec::new() };
    let mut left = Vec::new();
    for directory in directories(&root.join(ALL)) {
        let Ok(_lock) = lock(&directory, 1) else { continue };
        if fs::read_link(directory.join(SIGNATURE)).is_ok_and(|of| of == *owner) {
            let link = directory.join("link");
            let is_there = link.exists();
            discard(&directory);
            if is_there {
                left.push(link);
            }
        }
    }
    left
}

/// Says in a directory that is this process's whose it is.
fn sign(directory: &Path) {
    let signature = directory.join(SIGNATURE);
    let _ = fs::remove_file(&signature);
    if let Some(owner) = OWNER.get()
        && let Err(error) = symlink(owner, &signature)
    {
        tracing::debug!("{}: {error}", signature.display());
    }
}

/// Removes a directory whose lock this process has, and what is in it.
fn discard(directory: &Path) {
    remove(&directory.join("link"));
    remove(&directory.join(SIGNATURE));
    // What cannot be removed stays for the next host.
    let _ = fs::remove_dir(directory);
}

fn remove(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} cannot be removed: {error}", file.display());
        }
        _ => {}
    }
}

/// Those of interfaces.
fn directories(all: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path())
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
    root.join(ALL).join(format!("{name}-{namespace}"))
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
            format!(
                "no bpffs is mounted at {0} (`mount -t bpf -o mode=0700 bpf {0}`)",
                path.display()
            ),
        )),
    }
}

fn cannot(pinning: &Pinning, problem: String) -> Unpinned {
    match pinning {
        Pinning::At(_) => Unpinned::Refused(problem),
        Pinning::Auto | Pinning::Never => Unpinned::Note(problem),
    }
}

/// Makes a directory, if it is not there, in which nobody but this user can change anything; the
/// error says what it is like else.
fn own(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let found = made.and_then(|()| fs::symlink_metadata(directory));
    let found = found.map_err(|error| format!("{shown}: {error}"))?;
    let (user, mode) = (found.uid(), found.mode() & 0o7777);
    if found.is_dir() && user == rustix::process::geteuid().as_raw() && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(format!(
        "{shown} is of user {user} with mode {mode:o}: remove it, others could change what is pinned there"
    ))
}

/// Removes the pins of hosts that have crashed whose interfaces are gone: nobody else will, and
/// each keeps a program with all its maps.
fn remove_orphans(all: &Path) {
    for directory in directories(all) {
        let Ok(_lock) = lock(&directory, 1) else { continue };
        let pinned = directory.join("link");
        let link = PinnedLink::from_pin(&pinned).ok().map(FdLink::from);
        if link.is_some_and(|link| interface_of(&link) == Some(0)) {
            tracing::info!("{} is removed: its interface is gone", pinned.display());
            discard(&directory);
        }
    }
}

/// The index of the interface that a link is for; 0: it is gone. That is in what the kernel shows
/// of each file of the link.
fn interface_of(link: &FdLink) -> Option<u32> {
    let id = format!("link_id:\t{}\n", link.info().ok()?.id());
    let files = fs::read_dir("/proc/thread-self/fdinfo").ok()?.flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let text = texts.into_iter().find(|text| text.contains(&id))?;
    text.lines().find_map(|line| line.strip_prefix("ifindex:\t")?.parse().ok())
}

/// Makes a directory, if it is not there, and locks it.
fn make_and_lock(directory: &Path, tries: u32) -> io::Result<OwnedFd> {
    for _ in 0..tries {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        match lock(directory, tries) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Locks a directory. `NotFound` also if whoever had the lock has removed it meanwhile: the lock
/// would be of one that is gone.
fn lock(directory: &Path, tries: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(directory, flags, Mode::empty())?;
    let mut tried = 1;
    while let Err(error) = flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK || tried >= tries {
            return Err(error.into());
        }
        std::thread::sleep(PAUSE);
        tried += 1;
    }
    still_there(fd, directory)
}

fn still_there(locked: OwnedFd, directory: &Path) -> io::Result<OwnedFd> {
    let (of, at) = (fstat(&locked)?, stat(directory)?);
    if (of.st_dev, of.st_ino) == (at.st_dev, at.st_ino) {
        Ok(locked)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_for_a_directory_that_is_removed_gets_one_that_is_there() {
        let all = tempfile::tempdir().unwrap();
        let directory = all.path().join("a-1");
        let first = make_and_lock(&directory, 1).unwrap();
        let waits = std::thread::spawn({
            let directory = directory.clone();
            move || make_and_lock(&directory, 1000).map(|lock| (fstat(&lock).unwrap(), lock))
        });
        // It waits for the first by now, or finds its own.
        std::thread::sleep(PAUSE * 10);
        fs::remove_dir(&directory).unwrap();
        drop(first);
        let (of, _lock) = waits.join().unwrap().unwrap();
        assert_eq!(of.st_ino, stat(&directory).unwrap().st_ino);
        assert_eq!(lock(&directory, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_directory_that_others_may_write_is_nobodys_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join(ALL);
        assert_eq!((own(&all), own(&all)), (Ok(()), Ok(())));
        fs::set_permissions(&all, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(own(&all).unwrap_err().contains("mode 1777"));
    }
}
