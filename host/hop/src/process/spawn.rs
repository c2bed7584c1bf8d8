//! Starting a worker: `clone3(2)` into namespaces of its own, then the program, with its socket and
//! its memories and nothing else that is open.
//!
//! Between `clone3` and the program only system calls are made on memory that was ready before: the
//! child is a copy of one thread, and whatever locks the others had are held for ever.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal};

use super::inherited::VARIABLE;
use super::{Death, Namespaces, ProcessError, child};
use crate::hub::WorkerSocket;

/// Whom root's workers are outside of their user namespace.
const NOBODY: u32 = 65534;

/// For `oom_score_adj`: before all others.
const FIRST_TO_GO: &str = "1000";

/// What a worker is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its program; found by whoever starts it, so it need not be readable to the worker.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// Its whole environment, but for one variable of the hop's.
    pub environment: Vec<(OsString, OsString)>,
    /// The memories it shares: memfds that are sealed against shrinking, or files that have no
    /// size.
    pub memories: Vec<Arc<OwnedFd>>,
    /// Where its standard output and errors go. None: where this process's go, whose files it
    /// shares then: for programs that are trusted.
    pub output: Option<Arc<OwnedFd>>,
    /// The namespaces it is to have. Those that cannot be had are left out, and said:
    /// [`WorkerProcess::namespaces`].
    pub namespaces: Namespaces,
}

impl Plan {
    /// A program without arguments, environment and memories, in all namespaces.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            memories: Vec::new(),
            output: None,
            namespaces: Namespaces::ALL,
        }
    }
}

/// A worker that runs, or has ended and was not asked about yet. Dropped, it is killed and waited
/// for.
///
/// The worker is also killed when the thread that started it ends: start workers from threads that
/// live as long.
#[derive(Debug)]
pub struct WorkerProcess {
    process: OwnedFd,
    id: i32,
    namespaces: Namespaces,
    ended: Option<Death>,
    generation: u8,
}

impl WorkerProcess {
    /// Starts it. Its standard input is empty. When memory is short, the kernel ends it before
    /// others.
    ///
    /// # Errors
    /// If the program cannot be run, or a memory could be shrunk by the worker.
    pub fn spawn(plan: &Plan, socket: &WorkerSocket) -> Result<Self, ProcessError> {
        let failed = |step| {
            move |problem: io::Error| ProcessError::Start {
                program: plan.program.clone(),
                step,
                problem,
            }
        };
        if let Some(number) = plan.memories.iter().position(|memory| can_shrink(memory)) {
            return Err(ProcessError::NotSealed { program: plan.program.clone(), number });
        }
        let mut refused = None;
        for namespaces in attempts(plan.namespaces) {
            match start(plan, socket, namespaces) {
                Ok(worker) => return Ok(worker),
                Err(Failed::Namespaces(error)) => refused = Some(error),
                Err(Failed::Step(step, error)) => return Err(failed(step)(error)),
                Err(Failed::Zero(what)) => {
                    return Err(ProcessError::Zero { program: plan.program.clone(), what });
                }
            }
        }
        let error = refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EPERM));
        Err(failed("a new process")(error))
    }

    /// Its process id, as this process sees it.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The namespaces it has.
    #[must_use]
    pub fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// Ends it by SIGKILL. Its death is still to be asked for.
    pub fn kill(&self) {
        // An error says that it is dead.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Whether it has died, and how. Does not wait: the pidfd ([`AsFd`]) is readable when it has.
    ///
    /// # Errors
    /// If somebody else waited for it.
    pub fn died(&mut self) -> io::Result<Option<Death>> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn wait(&mut self, how: WaitIdOptions) -> io::Result<Option<Death>> {
        if self.ended.is_none() {
            let of = rustix::process::WaitId::PidFd(self.process.as_fd());
            let generation = self.generation;
            self.ended = rustix::process::waitid(of, how)?.map(|status| Death {
                generation,
                exit: status.exit_status(),
                signal: status.terminating_signal(),
            });
        }
        Ok(self.ended)
    }
}

impl AsFd for WorkerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.wait(WaitIdOptions::EXITED);
        }
    }
}

/// Whether a file has bytes that another process can take away.
fn can_shrink(file: &OwnedFd) -> bool {
    use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
    let regular = fstat(file)
        .map_or(true, |stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    regular && !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

/// What to try: everything wanted, then without a user namespace, then with nothing.
fn attempts(wanted: Namespaces) -> Vec<Namespaces> {
    let mut attempts = vec![wanted];
    for less in [Namespaces { user: false, ..wanted }, Namespaces::default()] {
        if !attempts.contains(&less) {
            attempts.push(less);
        }
    }
    attempts
}

enum Failed {
    /// These namespaces cannot be had.
    Namespaces(io::Error),
    Step(&'static str, io::Error),
    Zero(String),
}

/// Everything the child needs, ready.
pub(super) struct Prepared {
    pub(super) program: OwnedFd,
    pub(super) empty: OwnedFd,
    pub(super) output: Option<RawFd>,
    /// The child waits until it is closed or written.
    pub(super) go: (OwnedFd, OwnedFd),
    /// The child writes an error number, or closes it with its program's start.
    pub(super) report: (OwnedFd, OwnedFd),
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// Socket and memories.
    given: Vec<RawFd>,
    pub(super) user: bool,
}

fn start(
    plan: &Plan,
    socket: &WorkerSocket,
    namespaces: Namespaces,
) -> Result<WorkerProcess, Failed> {
    let prepared = prepare(plan, socket, namespaces)?;
    let pointers = |of: &[CString]| {
        let pointers = of.iter().map(|text| text.as_ptr());
        pointers.chain([ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(&prepared.arguments), pointers(&prepared.environment));
    // The numbers that the files have on the way.
    let mut moved = prepared.given.clone();
    let mut pidfd: RawFd = -1;
    let mut how = clone_args(namespaces, &mut pidfd);
    // SAFETY: without CLONE_VM, this is fork: the child has a copy of everything. It goes on in
    // `child`, and does only what is allowed there.
    let id = unsafe { libc::syscall(libc::SYS_clone3, &raw mut how, size_of_val(&how)) };
    if id == 0 {
        // SAFETY: this is the child; both lists are of texts that `prepared` has, with a null
        // pointer behind them.
        unsafe { child::run(&prepared, &arguments, &environment, &mut moved) };
    }
    if id < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            // `EACCES` is SELinux's.
            Some(
                libc::EPERM
                | libc::EACCES
                | libc::EINVAL
                | libc::ENOSYS
                | libc::ENOSPC
                | libc::EUSERS,
            ) => Failed::Namespaces(error),
            // It may be there the next time, with all of them.
            _ => Failed::Step("a new process", error),
        });
    }
    // SAFETY: the kernel wrote the number of a new file, which is nobody else's.
    let process = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let generation = socket.generation();
    let id = id as i32;
    // From here on, dropping it ends the child.
    let worker = WorkerProcess { process, id, namespaces, ended: None, generation };
    let Prepared { go, report, .. } = prepared;
    drop((go.0, report.1));
    // A process may always be made more likely to go.
    let _ = std::fs::write(format!("/proc/{id}/oom_score_adj"), FIRST_TO_GO);
    if namespaces.user {
        map_users(id).map_err(Failed::Namespaces)?;
    }
    File::from(go.1).write_all(&[1]).map_err(|error| Failed::Step("its start", error))?;
    let mut problem = [0; 4];
    match File::from(report.0).read(&mut problem) {
        Ok(0) => Ok(worker),
        Ok(_) => {
            let problem = io::Error::from_raw_os_error(i32::from_ne_bytes(problem));
            Err(Failed::Step("its program cannot be run", problem))
        }
        Err(error) => Err(Failed::Step("its start", error)),
    }
}

fn prepare(plan: &Plan, socket: &WorkerSocket, namespaces: Namespaces) -> Result<Prepared, Failed> {
    use rustix::fs::{Mode, OFlags, open};
    let zero = |what: &'static str| move |_| Failed::Zero(what.to_owned());
    let step = |step| move |error: rustix::io::Errno| Failed::Step(step, error.into());
    let program = open(&plan.program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let program = program.map_err(step("its program cannot be opened"))?;
    let empty = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let name = CString::new(plan.program.as_os_str().as_bytes()).map_err(zero("its name"))?;
    let mut arguments = vec![name];
    for argument in &plan.arguments {
        arguments.push(CString::new(argument.as_bytes()).map_err(zero("an argument"))?);
    }
    let mut environment = Vec::new();
    for (name, value) in &plan.environment {
        let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
        environment.push(CString::new(entry).map_err(zero("its environment"))?);
    }
    let entry = format!(
        "{VARIABLE}={}:{}:{}:{}:{}",
        socket.hop(),
        socket.generation(),
        u8::from(socket.messages()),
        plan.memories.len(),
        namespaces.flags()
    );
    environment.push(CString::new(entry).map_err(zero("its environment"))?);
    let memories = plan.memories.iter().map(AsRawFd::as_raw_fd);
    Ok(Prepared {
        program,
        empty: empty.map_err(step("/dev/null"))?,
        output: plan.output.as_ref().map(AsRawFd::as_raw_fd),
        go: pipe().map_err(step("a pipe"))?,
        report: pipe().map_err(step("a pipe"))?,
        arguments,
        environment,
        given: [socket.as_fd().as_raw_fd()].into_iter().chain(memories).collect(),
        user: namespaces.user,
    })
}

fn clone_args(namespaces: Namespaces, pidfd: &mut RawFd) -> libc::clone_args {
    libc::clone_args {
        flags: namespaces.flags() | libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    }
}

/// Root in there is nobody out here, or who this process is if it may be nobody else.
fn map_users(id: i32) -> io::Result<()> {
    let write = |name: &str, text: String| std::fs::write(format!("/proc/{id}/{name}"), text);
    if write("uid_map", format!("0 {NOBODY} 1")).is_err() {
        write("uid_map", format!("0 {} 1", rustix::process::geteuid().as_raw()))?;
    }
    if write("gid_map", format!("0 {NOBODY} 1")).is_err() {
        write("setgroups", "deny".into())?;
        write("gid_map", format!("0 {} 1", rustix::process::getegid().as_raw()))?;
    }
    Ok(())
}
