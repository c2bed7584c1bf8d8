//! The one instance of a module that exports a function with a window.

use std::cell::UnsafeCell;
use std::slice;

use super::bindings::weir::net::host as imports;
use super::start::{self, HostSetup};
use crate::burst::Burst;
use crate::function::{Function, Snapshot, read_config};
use crate::memory::Chunk;
use crate::{host, sys, window::Window};

/// Where the function lives.
#[derive(Debug)]
pub struct Instance<F>(UnsafeCell<Option<Live<F>>>);

// SAFETY: a module has one thread.
unsafe impl<F> Sync for Instance<F> {}

#[derive(Debug)]
struct Live<F> {
    function: F,
    burst: Burst,
}

impl<F: Function> Instance<F> {
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    #[inline]
    fn live(&self) -> &mut Live<F> {
        // SAFETY: only the exports reach this, each once, and the host makes no call while another
        // is under way.
        unsafe { (*self.0.get()).as_mut() }.expect("configured")
    }

    /// # Errors
    /// What the operator is to read.
    pub fn configure(&self, setup: HostSetup) -> Result<(), String> {
        start::log_panics();
        let window = attach_window(&setup)?;
        let state = start::attach_state(&setup)?;
        // SAFETY: the host lays the window out, and calls `process` only with a burst in it.
        let window = unsafe { Window::new(window, setup.room_bytes) };
        sys::set_window(window.clone());
        let config = read_config::<F::Config>(&setup.config)?;
        let function = F::configure(start::told(setup, state), config)?;
        // SAFETY: the burst is empty until `process` says how long it is.
        let burst = unsafe { Burst::new(window, 0) };
        // SAFETY: as in `live`.
        unsafe { *self.0.get() = Some(Live { function, burst }) };
        host::after_configure();
        Ok(())
    }

    #[inline]
    pub fn process(&self, count: u32) {
        let live = self.live();
        // SAFETY: the host has put so many packets there.
        unsafe { live.burst.set_len(count as usize) };
        live.function.process(&mut live.burst);
        live.burst.finish();
    }

    pub fn tick(&self, now: u64) {
        if host::before_tick(now) {
            self.live().function.tick(now);
        }
        host::after_tick(now);
    }
}

impl<F: Function + Snapshot> Instance<F> {
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.live().function.save()
    }

    /// # Errors
    /// What the operator is to read.
    pub fn restore(&self, saved: &[u8]) -> Result<(), String> {
        self.live().function.restore(saved)
    }
}

pub(super) fn attach_window(setup: &HostSetup) -> Result<Chunk, String> {
    let bytes = setup.window_bytes as usize;
    let region = start::grow(bytes + setup.window_align as usize, "a window")?;
    // SAFETY: the region is whole and used by nobody yet; the slice ends before the host's pages
    // are used.
    let offset = imports::attach_window(unsafe {
        slice::from_raw_parts(region.start().as_ptr(), region.len())
    });
    let window = region.part(offset as usize, bytes);
    window.ok_or_else(|| "the host placed the window outside of its region".into())
}
