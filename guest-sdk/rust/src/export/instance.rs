//! The one instance of a module.

use std::arch::wasm32::memory_grow;
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::slice;

use weir_layout::WASM_PAGE;

use super::bindings::exports::weir::net::packet::Setup as HostSetup;
use super::bindings::weir::net::host as imports;
use crate::burst::Burst;
use crate::function::{Function, Setup, Snapshot, read_config};
use crate::host::{self, Level};
use crate::memory::Chunk;
use crate::region::StateRegion;
use crate::sys;
use crate::window::Window;

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
        std::panic::set_hook(Box::new(|panic| sys::log(Level::Error, &panic.to_string())));
        let (window, room_bytes) = attach_window(&setup)?;
        let state = attach_state(&setup)?;
        // SAFETY: the host lays the window out, and calls `process` only with a burst in it.
        let window = unsafe { Window::new(window, room_bytes) };
        sys::set_window(window.clone());
        let config = read_config::<F>(&setup.config)?;
        let setup = Setup {
            room_bytes,
            seed: setup.seed,
            state,
            ports: setup.ports,
            functions: setup.functions,
            position: setup.position as usize,
        };
        let function = F::configure(setup, config)?;
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

impl<F: Snapshot> Instance<F> {
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

/// Fresh pages, aligned to 64 KiB.
fn grow(bytes: usize, what: &str) -> Result<Chunk, String> {
    let page = memory_grow::<0>(bytes.div_ceil(WASM_PAGE));
    let start = (page != usize::MAX).then(|| NonNull::new((page * WASM_PAGE) as *mut u8)).flatten();
    let start = start.ok_or_else(|| {
        format!("no memory for {what} of {bytes} bytes: raise the function's `memory`")
    })?;
    // SAFETY: fresh pages are zeros, nobody else's, and are never given back.
    Ok(unsafe { Chunk::permanent(start, bytes) })
}

fn attach_window(setup: &HostSetup) -> Result<(Chunk, u32), String> {
    let bytes = setup.window_bytes as usize;
    let region = grow(bytes + setup.window_align as usize, "a window")?;
    // SAFETY: the region is whole and used by nobody yet; the slice ends before the host's pages
    // are used.
    let offset = imports::attach_window(unsafe {
        slice::from_raw_parts(region.start().as_ptr(), region.len())
    });
    let window = region.part(offset as usize, bytes);
    let window = window.ok_or("the host placed the window outside of its region")?;
    Ok((window, setup.room_bytes))
}

fn attach_state(setup: &HostSetup) -> Result<Option<StateRegion>, String> {
    if setup.state_bytes == 0 {
        return Ok(None);
    }
    let region = grow(setup.state_bytes as usize, "a state region")?;
    // SAFETY: as for the window.
    imports::attach_state(unsafe { slice::from_raw_parts(region.start().as_ptr(), region.len()) });
    Ok(Some(StateRegion::attached(region, setup.state_kept)))
}
