//! Capabilities, and the user of root's processes.

use std::io;
use std::ptr;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Whom a process of root becomes.
const NOBODY: libc::c_long = 65534;

/// Drops those of this thread, which is the only one, and of every program that it could start.
/// `of_root`: a process of root becomes nobody, too; in a user namespace of its own it need not.
///
/// # Errors
/// When it cannot become somebody else, and then the capabilities are dropped all the same; or when
/// these cannot be dropped.
pub fn drop_capabilities(of_root: bool) -> io::Result<()> {
    for number in 0..64 {
        // SAFETY: takes numbers; says that it does not know one, or that there is nothing to drop.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    let changed =
        if of_root && rustix::process::geteuid().is_root() { become_nobody() } else { Ok(()) };
    // Above all of one that could not become somebody else.
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    changed
}

fn become_nobody() -> io::Result<()> {
    // SAFETY: these take numbers, and no groups.
    let changed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
            && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
    };
    if changed { Ok(()) } else { Err(io::Error::last_os_error()) }
}
