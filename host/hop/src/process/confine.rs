//! What a worker does to itself when it has opened and mapped all it needs, and before it reads the
//! first descriptor: it gives up everything else.

use std::io;
use std::os::fd::RawFd;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use weir_confine::{SystemCalls, drop_capabilities};

use super::inherited::FIRST;
use super::{Confined, Inherited, Namespaces, ProcessError};

/// Directories that are there on every system, one of which becomes the root.
const PLACES: [&str; 3] = ["/tmp", "/dev/shm", "/mnt"];

/// What a worker may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open files, those that are open already included.
    pub files: u64,
    /// Threads of the worker; only where it has a user namespace.
    pub threads: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 64, threads: 16 }
    }
}

impl Inherited {
    /// Shuts this process in, and says which layers are in force. All files are closed but what it
    /// was started with, `keep`, and its standard output and errors. What needs privileges or
    /// namespaces that are not there is left out and said; no new privileges, the system calls and
    /// closed files are always there.
    ///
    /// To be called before there are threads: what they gave up would not be given up here. Event
    /// loops, timers and threads can be made afterwards; files cannot be opened.
    ///
    /// # Errors
    /// If there are threads, or a layer that must be there is not.
    pub fn confine(&self, limits: &Limits, keep: &[RawFd]) -> Result<Confined, ProcessError> {
        confine(self.namespaces, self.memories.len(), limits, keep)
    }
}

fn confine(
    namespaces: Namespaces,
    memories: usize,
    limits: &Limits,
    keep: &[RawFd],
) -> Result<Confined, ProcessError> {
    let failed = |step, problem: &dyn std::fmt::Display| ProcessError::Confine {
        step,
        problem: problem.to_string(),
    };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(failed("threads", &format!("there are {threads}, and there has to be one")));
    }
    // Where the kernel's clock can be read without a system call is found out once, from what will
    // be shut: a worker that was never told makes a system call of each look at it.
    let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Everything but standard output and errors, what it was given, and `keep`.
    weir_confine::close_others(FIRST + 1 + memories as RawFd, keep)
        .map_err(|error| failed("closing files", &error))?;
    let empty_root = namespaces.mounts && empty_root().is_ok();
    let limited = limit(limits, namespaces).is_ok();
    let step = "no new privileges";
    rustix::thread::set_no_new_privs(true).map_err(|error| failed(step, &error))?;
    let no_capabilities = drop_capabilities(!namespaces.user).is_ok();
    // Changing users took back what ends it with its starter, and so did the start of a program
    // with file capabilities. If the starter is gone already, so is the other side of the hop.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| failed("ending with its starter", &error))?;
    // Nobody of the same user looks into it or traces it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let system_calls = SystemCalls::OfAWorker.allow_only_those();
    system_calls.map_err(|error| failed("system calls", &error))?;
    Ok(Confined {
        namespaces,
        empty_root,
        no_new_privileges: true,
        no_capabilities,
        limits: limited,
        system_calls: true,
    })
}

/// A file system of its own with nothing in it, which cannot be written, in place of the root.
fn empty_root() -> io::Result<()> {
    use rustix::mount::{mount, mount_change, mount_remount, unmount};
    let place = PLACES.into_iter().find(|place| std::path::Path::new(place).is_dir());
    let place = place.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mount("none", place, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=0555")?;
    rustix::process::chdir(place)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    mount_remount("/", flags | MountFlags::RDONLY, c"")?;
    Ok(())
}

fn limit(limits: &Limits, namespaces: Namespaces) -> io::Result<()> {
    let to = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Core, to(0))?;
    setrlimit(Resource::Msgqueue, to(0))?;
    setrlimit(Resource::Nofile, to(limits.files))?;
    // Without a user namespace, everybody of the same user would be counted.
    if namespaces.user {
        setrlimit(Resource::Nproc, to(limits.threads))?;
    }
    Ok(())
}
