//! DPDK's log, in ours; and its last complaints, which say more than an error number.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_char;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Complaints kept.
const KEPT: usize = 4;
/// DPDK's level of a warning; lower ones are worse (`RTE_LOG_WARNING`).
const WARNING: u32 = 5;
/// `RTE_LOG_DEBUG - 1`: what is told when somebody asks for much.
const DEBUG: u32 = 7;

static COMPLAINTS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

fn complaints() -> MutexGuard<'static, VecDeque<String>> {
    COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Calls what may fail without anything being wrong: this thread's complaints are for those who
/// debug.
pub(crate) fn quietly<R>(call: impl FnOnce() -> R) -> R {
    QUIET.set(true);
    let result = call();
    QUIET.set(false);
    result
}

/// Takes what DPDK writes.
pub(crate) unsafe extern "C" fn sink(level: u32, text: *const c_char, length: usize) {
    // SAFETY: the shim gives the address and length of what is written, alive during the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let level = if QUIET.get() { level.max(DEBUG) } else { level };
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|l| !l.is_empty()) {
        match level {
            0..=4 => tracing::error!(target: "dpdk", "{line}"),
            WARNING => tracing::warn!(target: "dpdk", "{line}"),
            6 => tracing::info!(target: "dpdk", "{line}"),
            7 => tracing::debug!(target: "dpdk", "{line}"),
            _ => tracing::trace!(target: "dpdk", "{line}"),
        }
        if level <= WARNING {
            let mut kept = complaints();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(line.to_owned());
        }
    }
}

/// Forgets earlier complaints, before something that may fail.
pub(crate) fn forget() {
    complaints().clear();
}

/// An error of DPDK's (a negative errno) in words, with what it complained about since [`forget`].
pub(crate) fn explain(error: i32) -> String {
    let system = io::Error::from_raw_os_error(-error);
    let said: Vec<String> = complaints().drain(..).collect();
    if said.is_empty() {
        system.to_string()
    } else {
        format!("{system}; DPDK says: {}", said.join("; "))
    }
}
