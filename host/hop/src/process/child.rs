//! The new process, from `clone3` to `execveat`: only system calls, no allocation, no locks, no
//! panics.
//!
//! Owns: giving it its descriptors, user and signals, and starting its program. Must not know: what
//! is prepared for it, and why. The functions below `run` are one call each. They are for this
//! process alone: it is a copy of another one with a single thread, and ends by `_exit` or
//! `execveat`, so that no owner of a descriptor is ever dropped in it, or missed by it.

use std::os::fd::{AsRawFd as _, RawFd};
use std::ptr;

use super::inherited::FIRST;
use super::spawn::Prepared;

/// The new process.
///
/// # Safety
/// It was made by `clone3` without `CLONE_VM` just now. `arguments` and `environment` end with a
/// null pointer; the others are to texts that end with a zero.
pub(super) unsafe fn run(
    prepared: &Prepared,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    moved: &mut [RawFd],
) -> ! {
    // Whoever started it may be gone already, or go while this waits: then nobody has the other end
    // of `go`.
    die_with_parent();
    close(prepared.go.1.as_raw_fd());
    if !can_read_a_byte(prepared.go.0.as_raw_fd()) {
        exit();
    }
    if prepared.user {
        if !become_root() {
            fail(prepared.report.1.as_raw_fd());
        }
        // Changing users took it back.
        die_with_parent();
    }
    leave_session();
    reset_signals();

    // First out of the way of each other, then to their places.
    let last = FIRST + moved.len() as RawFd;
    let report = copy_above(prepared.report.1.as_raw_fd(), last);
    let program = copy_above(prepared.program.as_raw_fd(), last);
    let empty = copy_above(prepared.empty.as_raw_fd(), last);
    let output = prepared.output.map(|fd| copy_above(fd, last));
    for fd in moved.iter_mut() {
        *fd = copy_above(*fd, last);
    }
    if report < 0 {
        exit();
    }
    if program < 0 || !copy_to(empty, 0) {
        fail(report);
    }
    if output.is_some_and(|output| !copy_to(output, 1) || !copy_to(output, 2)) {
        fail(report);
    }
    for (place, fd) in (FIRST..).zip(moved.iter()) {
        if !copy_to(*fd, place) {
            fail(report);
        }
    }
    if !close_from(last) {
        fail(report);
    }
    // SAFETY: the caller's.
    unsafe { execute(program, arguments, environment) };
    fail(report)
}

/// Tells the parent what the last call's error was, and ends.
fn fail(report: RawFd) -> ! {
    // SAFETY: the address of this thread's own number, which is always there.
    let problem = unsafe { *libc::__errno_location() };
    // SAFETY: reads as many bytes as `problem` has.
    unsafe { libc::write(report, ptr::from_ref(&problem).cast(), size_of_val(&problem)) };
    exit()
}

fn exit() -> ! {
    // SAFETY: runs nothing of the process that this is a copy of, and does not return.
    unsafe { libc::_exit(127) }
}

fn die_with_parent() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

fn close(fd: RawFd) {
    // SAFETY: takes a number; its owner is never dropped here.
    unsafe { libc::close(fd) };
}

fn can_read_a_byte(fd: RawFd) -> bool {
    let mut byte = 0_u8;
    // SAFETY: writes one byte at most, and there is room for one.
    unsafe { libc::read(fd, ptr::from_mut(&mut byte).cast(), 1) == 1 }
}

/// By system calls of this one thread: libc's functions would wait for threads that are not here.
fn become_root() -> bool {
    // Where groups cannot be set, there are none that count.
    // SAFETY: a list of no groups, of which nothing is read.
    unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) };
    // SAFETY: takes numbers only.
    let group = unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) };
    // SAFETY: takes numbers only.
    group == 0 && unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } == 0
}

fn leave_session() {
    // SAFETY: takes nothing.
    unsafe { libc::setsid() };
}

/// None is blocked, and a pipe that nobody reads is what it is for programs in C.
fn reset_signals() {
    // SAFETY: zeroes are a valid set: it is made of integers.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes one set.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: reads one set; the null pointer says that the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    // SAFETY: the default is no function of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Copies a descriptor to the first free number from `least` on, where `execveat` closes it;
/// negative: it failed.
fn copy_above(fd: RawFd, least: RawFd) -> RawFd {
    // SAFETY: takes numbers only; what is no descriptor is an error.
    unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) }
}

/// Copies a descriptor to this number, where the program finds it; what was there is closed.
fn copy_to(fd: RawFd, place: RawFd) -> bool {
    // SAFETY: takes numbers only; the owner of what was there is never dropped here.
    unsafe { libc::dup2(fd, place) >= 0 }
}

/// Has `execveat` close all descriptors from this number on.
fn close_from(first: RawFd) -> bool {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) == 0 }
}

/// Becomes the program. Returns only if that fails.
///
/// # Safety
/// `arguments` and `environment` end with a null pointer; the others are to texts that end with a
/// zero.
unsafe fn execute(
    program: RawFd,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) {
    // SAFETY: the caller's; the path is empty, and ends with a zero.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
}
