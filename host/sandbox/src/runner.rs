//! What the chain runner is given: the board, the burst area, and calls for the next burst.
//!
//! Owns: the interface of the one guest of a store that is ours and not a tenant's, and mapping its
//! memory. It lies here, not with the chains, because the mapping is the sandbox's. Must not know:
//! what stands on the board but who runs and the burst's number; what a verdict means.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList};
use weir_layout::{BURST_AREA, PAGE};
use weir_pool::Memory;

use crate::guest::{Guest, Shared};
use crate::host::{Requests, locate, map_into, violation};
use crate::window;

/// What the packet plane does beside that for a chain while it runs it.
pub trait Services: Requests {
    /// The window's memory: burst area and rooms.
    fn window(&mut self) -> &mut Memory;
    /// The runner wants a copy of a packet to leave by this port. False: there is no such port.
    fn clone_packet(&mut self, offset: u32, length: u32, port: u32) -> bool;
    /// Function `place` is about to see the first `count` packets of the window's vectors, or has
    /// seen them (`done`): its verdicts stand in the window then. Only told of bursts for which the
    /// board says that somebody wants to know.
    fn look(&mut self, place: usize, count: usize, done: bool) {
        let _ = (place, count, done);
    }
    /// The same, with nothing between this and the function.
    fn time(&mut self, place: usize, count: usize, done: bool) {
        let _ = (place, count, done);
    }
    /// The runner is done with a burst, whose results stand on the board, and asks for the next
    /// one: `count | start << 16 | reverse << 32`, or 0 to end.
    fn next_burst(&mut self, board: &mut Memory) -> u64;
}

/// Where a linked chain's runner notes who runs and the host notes the burst's number.
#[derive(Debug)]
pub(crate) struct Board {
    memory: Memory,
    window: Shared,
    position: usize,
    sequence: usize,
}

impl Board {
    /// The place of the function that runs, as the runner has noted it.
    pub(crate) fn who(&self) -> usize {
        self.memory.get::<u32>(self.position) as usize
    }

    /// Number of the burst.
    pub(crate) fn burst(&self) -> u32 {
        self.memory.get::<u32>(self.sequence)
    }
}

impl<S> Guest<S> {
    /// For a linked chain: the memory, and the offsets in it, where the runner notes (`u32`) the
    /// place of the function that runs, and the host the number of the burst; and the window that
    /// the runner works on.
    pub fn set_board(&mut self, memory: Memory, window: Shared, position: usize, sequence: usize) {
        self.board = Some(Board { memory, window, position, sequence });
    }

    /// The memory of [`Self::set_board`].
    ///
    /// # Panics
    /// When there is none: only linked chains have one.
    #[must_use]
    #[inline]
    pub fn board(&self) -> &Memory {
        &self.board.as_ref().expect("a linked chain has a board").memory
    }

    /// As [`Self::board`], with what the packet plane lent.
    ///
    /// # Panics
    /// As [`Self::board`].
    #[inline]
    pub fn board_mut(&mut self) -> (&mut Memory, &mut Option<S>) {
        let board = self.board.as_mut().expect("a linked chain has a board");
        (&mut board.memory, &mut self.services)
    }
}

/// Offers the chain runner what it needs, under this import name.
///
/// # Errors
/// When the name is already defined in the linker.
pub fn link_runner<S: Services>(
    linker: &mut Linker<Guest<S>>,
    import: &str,
) -> wasmtime::Result<()> {
    type Context<'a, S> = StoreContextMut<'a, Guest<S>>;
    let mut host = linker.instance(import)?;
    host.func_wrap("attach", |mut cx: Context<'_, S>, (region,): (WasmList<u8>,)| {
        attach_board(&mut cx, &region)
    })?;
    host.func_wrap("attach-rooms", |mut cx: Context<'_, S>, (region,): (WasmList<u8>,)| {
        attach_rooms(&mut cx, &region).map(|offset| (offset,))
    })?;
    host.func_wrap("clone", |mut cx: Context<'_, S>, (offset, length, port): (u32, u32, u32)| {
        let services = cx.data_mut().services.as_mut();
        let exists = services.is_some_and(|s| s.clone_packet(offset, length, port));
        Ok((u32::from(exists),))
    })?;
    host.func_wrap("look", |mut cx: Context<'_, S>, (place, count, done): (u32, u32, bool)| {
        let (guest, place, count) = (cx.data_mut(), place as usize, count as usize);
        if done {
            if let Some(services) = guest.services.as_mut() {
                services.time(place, count, done);
            }
            // Who looks takes its own time, not the function's.
            guest.end_watched()?;
        }
        if let Some(services) = guest.services.as_mut() {
            services.look(place, count, done);
        }
        if !done {
            guest.begin_watched(place);
            if let Some(services) = guest.services.as_mut() {
                services.time(place, count, done);
            }
        }
        Ok(())
    })?;
    host.func_wrap("next", |mut cx: Context<'_, S>, (): ()| {
        let guest = cx.data_mut();
        let (board, services) = guest.board_mut();
        let burst = services.as_mut().map_or(0, |s| s.next_burst(board));
        guest.begin_burst();
        Ok((burst,))
    })
}

/// Maps the board and behind it the burst area into the runner's memory.
fn attach_board<S: Services>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    region: &WasmList<u8>,
) -> wasmtime::Result<()> {
    let (address, length) = locate(cx, region);
    let Some(board) = &cx.data().board else {
        return violation("attach: there is no board".into());
    };
    let bytes = board.memory.len();
    if window::place(address as usize, length, bytes + BURST_AREA, PAGE) != Some(0) {
        return violation(format!("attach: a region of {length} bytes does not fit"));
    }
    // SAFETY: as in `map_into`, for both halves.
    unsafe {
        window::map_over(address, board.memory.fd(), bytes)?;
        window::map_over(address.add(bytes), board.window.fd(), BURST_AREA)?;
        window::populate(address, board.memory.fd(), bytes);
        window::populate(address.add(bytes), board.window.fd(), BURST_AREA);
    }
    Ok(())
}

/// Maps the whole window into the runner's memory, for chains with functions that copy.
fn attach_rooms<S: Services>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    region: &WasmList<u8>,
) -> wasmtime::Result<u32> {
    let Some(window) = cx.data().board.as_ref().map(|board| board.window.clone()) else {
        return violation("attach-rooms: there is no board".into());
    };
    let (start, offset) = map_into(cx, region, &window, "window", None)?;
    // SAFETY: `map_into` has just mapped the window there.
    unsafe { window::populate(start, window.fd(), window.bytes()) };
    Ok(offset)
}
