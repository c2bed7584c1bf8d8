//! The system calls of a process that is shut in, by seccomp: what it needs when everything is
//! open. All others fail with `EPERM`. Threads may be started, processes not.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Who is shut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemCalls {
    /// It reads a question and writes an answer.
    OfAChild,
    /// Beside that it has an event loop, sockets that it was given, and shared memory. Memory may
    /// be made executable in both: a worker's engine maps code that the host has compiled.
    OfAWorker,
}

/// Of both, whatever their arguments.
const COMPUTING: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // memory
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // threads, signals, itself
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Of a worker beside those.
const WORKER: &[libc::c_long] = &[
    // what it speaks through, and memory by its file
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_lseek,
    libc::SYS_dup,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // memory
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
];

/// The same by names that only older machines have.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

impl SystemCalls {
    /// Refuses all others to this thread and to those that it will start. It has to have no new
    /// privileges. By two filters, because one has one answer for all that it refuses: libc tries
    /// `clone` only if `clone3`, whose arguments cannot be looked at, is said not to be there.
    ///
    /// # Errors
    /// When the kernel has no such filters.
    pub fn allow_only_those(self) -> Result<(), String> {
        let program = |rules, otherwise, then| -> Result<BpfProgram, String> {
            let architecture = std::env::consts::ARCH.try_into();
            let architecture =
                architecture.map_err(|error: seccompiler::BackendError| error.to_string())?;
            let filter = SeccompFilter::new(rules, otherwise, then, architecture);
            let filter = filter.map_err(|error| error.to_string())?;
            BpfProgram::try_from(filter).map_err(|error| error.to_string())
        };
        let errno = |number: i32| SeccompAction::Errno(number as u32);
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let absent = program(absent, SeccompAction::Allow, errno(libc::ENOSYS))?;
        let only = program(rules(self)?, errno(libc::EPERM), SeccompAction::Allow)?;
        apply_filter(&absent).map_err(|error| error.to_string())?;
        apply_filter(&only).map_err(|error| error.to_string())
    }
}

fn rules(who: SystemCalls) -> Result<BTreeMap<i64, Vec<SeccompRule>>, String> {
    let more = match who {
        SystemCalls::OfAChild => [].as_slice(),
        SystemCalls::OfAWorker => &[WORKER, OLD],
    };
    let allowed = [COMPUTING].iter().chain(more).copied().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed.map(|number| (*number, Vec::new())).collect();
    let threads = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(threads), threads)?]);
    if who == SystemCalls::OfAWorker {
        let set = [libc::FIONBIO, libc::FIOCLEX];
        rules.insert(libc::SYS_ioctl, each(1, &set)?);
        let fcntl = [
            libc::F_GETFD,
            libc::F_SETFD,
            libc::F_GETFL,
            libc::F_SETFL,
            libc::F_DUPFD_CLOEXEC,
            libc::F_ADD_SEALS,
            libc::F_GET_SEALS,
        ];
        rules.insert(libc::SYS_fcntl, each(1, &fcntl.map(|command| command as u64))?);
    }
    // Reading limits (a thread's stack is one), not setting them.
    let nothing = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    rules.insert(libc::SYS_prlimit64, vec![of(nothing)?]);
    // Signals to itself: how a program aborts.
    rules.insert(libc::SYS_tgkill, each(0, &[std::process::id().into()])?);
    // Names of threads and of memory.
    let prctl = [libc::PR_SET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, each(0, &prctl.map(|what| what as u64))?);
    Ok(rules)
}

/// Allowed if the argument is one of these.
fn each(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, String> {
    values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    of(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value))
}

fn of(
    condition: Result<SeccompCondition, seccompiler::BackendError>,
) -> Result<SeccompRule, String> {
    let condition = condition.map_err(|error| error.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|error| error.to_string())
}
