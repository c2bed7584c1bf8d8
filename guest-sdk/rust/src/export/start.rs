//! What every instance does when it is configured, whatever world it is of.

use std::arch::wasm32::memory_grow;
use std::ptr::NonNull;
use std::slice;

use weir_layout::WASM_PAGE;

use super::bindings::weir::net::host as imports;
pub(super) use super::bindings::weir::net::types::Setup as HostSetup;
use crate::function::Setup;
use crate::host::Level;
use crate::memory::Chunk;
use crate::region::StateRegion;
use crate::sys;

/// From now on a panic's message is a line of the function's log.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| sys::log(Level::Error, &panic.to_string())));
}

/// What the function is told of what the host said.
pub(super) fn told(setup: HostSetup, state: Option<StateRegion>) -> Setup {
    Setup {
        room_bytes: setup.room_bytes,
        seed: setup.seed,
        state,
        ports: setup.ports,
        functions: setup.functions,
        position: setup.position as usize,
        region_taken: false,
    }
}

/// Fresh pages, aligned to 64 KiB.
pub(super) fn grow(bytes: usize, what: &str) -> Result<Chunk, String> {
    let page = memory_grow::<0>(bytes.div_ceil(WASM_PAGE));
    let start = (page != usize::MAX).then(|| NonNull::new((page * WASM_PAGE) as *mut u8)).flatten();
    let start = start.ok_or_else(|| {
        format!("no memory for {what} of {bytes} bytes: raise the function's `memory`")
    })?;
    // SAFETY: fresh pages are zeros, nobody else's, and are never given back.
    Ok(unsafe { Chunk::permanent(start, bytes) })
}

/// The state region, if the function has one.
pub(super) fn attach_state(setup: &HostSetup) -> Result<Option<StateRegion>, String> {
    if setup.state_bytes == 0 {
        return Ok(None);
    }
    let (bytes, align) = (setup.state_bytes as usize, setup.state_align as usize);
    let region = grow(bytes + align, "a state region")?;
    // SAFETY: the region is whole and used by nobody yet; the slice ends before the host's pages
    // are used.
    let offset = imports::attach_state(unsafe {
        slice::from_raw_parts(region.start().as_ptr(), region.len())
    });
    let state = region.part(offset as usize, bytes);
    let state = state.ok_or("the host placed the state region outside of its region")?;
    Ok(Some(StateRegion::attached(state, setup.state_kept)))
}
