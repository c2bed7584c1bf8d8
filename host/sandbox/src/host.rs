//! The host interface of `weir:net`.
//!
//! Each function of a store has an import instance of its own, so every call is known to come from
//! that function. What concerns packets is passed on to [`Requests`], unseen.

use std::ops::Range;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmList, WasmStr};
use weir_layout::ROOM_MAX;

use crate::fault::Violation;
use crate::guard::Guard;
use crate::guest::{Guest, Shared};
use crate::said::one_line;
use crate::telemetry::Level;
use crate::window;

/// Why a request of a function is refused (WIT `refusal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum Refusal {
    /// The function does not own a buffer there.
    #[component(name = "not-owned")]
    NotOwned,
    /// Not within one buffer.
    #[component(name = "out-of-bounds")]
    OutOfBounds,
    /// No verdict to send a packet with.
    #[component(name = "bad-verdict")]
    BadVerdict,
    /// No free buffer, or the function's share is used up.
    #[component(name = "exhausted")]
    Exhausted,
}

/// WIT `level`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "`Lift` makes the values")]
enum WitLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl From<WitLevel> for Level {
    fn from(level: WitLevel) -> Self {
        match level {
            WitLevel::Trace => Self::Trace,
            WitLevel::Debug => Self::Debug,
            WitLevel::Info => Self::Info,
            WitLevel::Warn => Self::Warn,
            WitLevel::Error => Self::Error,
        }
    }
}

/// What a function is told by `configure` (WIT `setup`).
#[derive(Clone, Debug, Default, ComponentType, Lower, Lift)]
#[component(record)]
#[expect(missing_docs, reason = "documented in wit/net.wit")]
pub struct Setup {
    #[component(name = "window-bytes")]
    pub window_bytes: u32,
    #[component(name = "window-align")]
    pub window_align: u32,
    #[component(name = "room-bytes")]
    pub room_bytes: u32,
    #[component(name = "state-bytes")]
    pub state_bytes: u32,
    #[component(name = "state-align")]
    pub state_align: u32,
    #[component(name = "state-kept")]
    pub state_kept: bool,
    #[component(name = "seed")]
    pub seed: u64,
    #[component(name = "ports")]
    pub ports: Vec<String>,
    #[component(name = "functions")]
    pub functions: Vec<String>,
    #[component(name = "position")]
    pub position: u32,
    #[component(name = "config")]
    pub config: String,
}

/// What functions of either plane ask their host for while they run.
pub trait Requests: Send + 'static {
    /// Monotonic nanoseconds, or a replay's own time.
    fn now(&mut self) -> u64;
    /// A free buffer for `length` bytes, owned by this function from now on: the offset of the
    /// packet's first byte in the window.
    fn allocate(&mut self, function: usize, length: u32) -> Option<u32>;
    /// The function lets go of a buffer it owns.
    ///
    /// # Errors
    /// When it may not; nothing has happened then.
    fn send(
        &mut self,
        function: usize,
        offset: u32,
        length: u32,
        verdict: u32,
    ) -> Result<(), Refusal>;
    /// The function sends a packet with these bytes.
    ///
    /// # Errors
    /// As for [`Self::send`].
    fn send_copy(&mut self, function: usize, packet: &[u8], verdict: u32) -> Result<(), Refusal>;
}

pub(crate) fn violation<T>(message: String) -> wasmtime::Result<T> {
    Err(wasmtime::Error::new(Violation(message)))
}

/// Offers `weir:net/host` to the function at this place, under this import name.
///
/// # Errors
/// When the name is already defined in the linker.
pub fn link_function<S: Requests>(
    linker: &mut Linker<Guest<S>>,
    import: &str,
    place: usize,
) -> wasmtime::Result<()> {
    type Context<'a, S> = StoreContextMut<'a, Guest<S>>;
    let mut host = linker.instance(import)?;
    host.func_wrap("attach-window", move |mut cx: Context<'_, S>, (region,): (WasmList<u8>,)| {
        attach_window(&mut cx, place, &region).map(|offset| (offset,))
    })?;
    host.func_wrap("attach-state", move |mut cx: Context<'_, S>, (region,): (WasmList<u8>,)| {
        attach_state(&mut cx, place, &region).map(|offset| (offset,))
    })?;
    host.func_wrap("log", move |mut cx: Context<'_, S>, (level, message): (WitLevel, WasmStr)| {
        let message = one_line(&message.to_str(&cx)?).into_owned();
        cx.data_mut().log(place, level.into(), &message);
        Ok(())
    })?;
    host.func_wrap("now", |mut cx: Context<'_, S>, (): ()| {
        Ok((cx.data_mut().services.as_mut().map_or_else(monotonic, Requests::now),))
    })?;
    host.func_wrap("random", move |mut cx: Context<'_, S>, (): ()| {
        Ok((cx.data_mut().functions[place].random(),))
    })?;
    host.func_wrap("counter-add", move |cx: Context<'_, S>, (name, delta): (WasmStr, u64)| {
        let name = name.to_str(&cx)?;
        cx.data().functions[place].telemetry.count(&name, delta).or_else(violation)
    })?;
    host.func_wrap("gauge-set", move |cx: Context<'_, S>, (name, value): (WasmStr, f64)| {
        let name = name.to_str(&cx)?;
        cx.data().functions[place].telemetry.gauge(&name, value).or_else(violation)
    })?;
    host.func_wrap("set-timer", move |mut cx: Context<'_, S>, (at,): (u64,)| {
        cx.data_mut().set_timer(place, at);
        Ok(())
    })?;
    host.func_wrap("allocate", move |mut cx: Context<'_, S>, (length,): (u32,)| {
        let services = cx.data_mut().services.as_mut();
        Ok((services.and_then(|s| s.allocate(place, length)),))
    })?;
    host.func_wrap(
        "send",
        move |mut cx: Context<'_, S>, (offset, length, verdict): (u32, u32, u32)| {
            let services = cx.data_mut().services.as_mut();
            let sent =
                services.map_or(Err(Refusal::NotOwned), |s| s.send(place, offset, length, verdict));
            Ok((sent,))
        },
    )?;
    host.func_wrap(
        "send-copy",
        move |mut cx: Context<'_, S>, (packet, verdict): (WasmList<u8>, u32)| {
            if packet.len() > ROOM_MAX {
                return Ok((Err(Refusal::OutOfBounds),));
            }
            let packet = packet.as_le_slice(&cx).to_vec();
            let services = cx.data_mut().services.as_mut();
            let sent =
                services.map_or(Err(Refusal::Exhausted), |s| s.send_copy(place, &packet, verdict));
            Ok((sent,))
        },
    )
}

/// The region's address in the host and its length. The address is derived from wasmtime's view of
/// the linear memory and only used for mapping.
pub(crate) fn locate<S>(
    cx: &StoreContextMut<'_, Guest<S>>,
    region: &WasmList<u8>,
) -> (*mut u8, usize)
where
    S: 'static,
{
    let bytes = region.as_le_slice(cx);
    (bytes.as_ptr().cast_mut(), bytes.len())
}

fn attach_window<S: Requests>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    place: usize,
    region: &WasmList<u8>,
) -> wasmtime::Result<u32> {
    let function = &cx.data().functions[place];
    let Some(wanted) = function.window.clone() else {
        return violation("attach-window: a function that copies has no window".into());
    };
    if function.window_attached.is_some() {
        return violation("attach-window: called a second time".into());
    }
    let other = function.state_attached.clone();
    let (start, offset) = map_into(cx, region, &wanted.memory, "window", other)?;
    let bytes = wanted.memory.bytes();
    let range = start as usize..start as usize + bytes;
    let function = &mut cx.data_mut().functions[place];
    if wanted.in_use {
        // SAFETY: `map_into` has just mapped the window there, of a store that is ours by `&mut`.
        unsafe { window::close(start, bytes)? };
        function.guards.push(Guard::new(range.clone(), 0, &wanted.memory)?);
    } else {
        // SAFETY: as above.
        unsafe { function.set_up(start, &wanted)? };
    }
    function.window_attached = Some(range);
    Ok(offset)
}

fn attach_state<S: Requests>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    place: usize,
    region: &WasmList<u8>,
) -> wasmtime::Result<u32> {
    let function = &cx.data().functions[place];
    let Some(state) = function.state.clone() else {
        return violation(
            "attach-state: the function has no state region: say `state = \"4MiB\"` in the chain"
                .into(),
        );
    };
    let kept = function.state_kept;
    if function.state_attached.is_some() {
        return violation("attach-state: called a second time".into());
    }
    let other = function.window_attached.clone();
    let (start, offset) = map_into(cx, region, &state, "state", other)?;
    let bytes = state.bytes();
    let range = start as usize..start as usize + bytes;
    let function = &mut cx.data_mut().functions[place];
    if kept {
        // SAFETY: `map_into` has just mapped the state region there, of a store that is ours by
        // `&mut`.
        unsafe {
            window::close(start, bytes)?;
            window::populate(start, state.fd(), bytes);
        }
        function.guards.push(Guard::new(range.clone(), 0, &state)?);
    }
    function.state_attached = Some(range);
    Ok(offset)
}

/// Maps memory into the region of linear memory that a guest hands over, where its alignment calls
/// for: the address, and the offset from the region's start. `what` is the import's name behind
/// `attach-`. `other` is what the guest has attached already: its pages keep what they are and the
/// protection that they have.
pub(crate) fn map_into<S: 'static>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    region: &WasmList<u8>,
    memory: &Shared,
    what: &str,
    other: Option<Range<usize>>,
) -> wasmtime::Result<(*mut u8, u32)> {
    let (address, length) = locate(cx, region);
    let (bytes, align) = (memory.bytes(), memory.align());
    let Some(offset) = window::place(address as usize, length, bytes, align) else {
        return violation(format!(
            "attach-{what}: a region of {length} bytes is not page-aligned or too small: give {what}-bytes \
             ({bytes}) plus {what}-align ({align}) bytes at a multiple of 4,096"
        ));
    };
    let first = address as usize + offset;
    if other.is_some_and(|other| first < other.end && other.start < first + bytes) {
        return violation(format!(
            "attach-{what}: the region overlaps what is attached already: grow the memory by a region for each"
        ));
    }
    // SAFETY: `place` checked that the range is page-aligned and within the region, which wasmtime
    // checked to be within the guest's linear memory; memories never move; the store is ours by
    // `&mut`, and no reference into the memory is alive here.
    let start = unsafe {
        let start = address.add(offset);
        window::map_over(start, memory.fd(), bytes)?;
        start
    };
    Ok((start, u32::try_from(offset).expect("a 32-bit memory")))
}

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
