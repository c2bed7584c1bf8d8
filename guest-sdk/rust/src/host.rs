//! What the host offers to a function (`wit/net.wit`, interface `host`).
//!
//! Owns: the calls, and what saves calls: counters and gauges are kept here and handed over at most
//! ten times a second. Must not know: packets' contents.
//!
//! Natively the calls go to [`testing`](crate::testing)'s host of the current thread.

use std::cell::Cell;
use std::fmt;

use weir_layout::Descriptor;

use crate::buffer::{self, Buffer};
use crate::{Verdict, sys};

pub use crate::{debug, error, info, trace, warn};

/// Counters and gauges are handed over when they are so old, in nanoseconds.
const FLUSH_EVERY: u64 = 100_000_000;
/// Maximum number of names of counters and gauges, by the contract.
const NAMES_MAX: usize = 64;
/// Longest name, by the contract.
const NAME_MAX: usize = 64;

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who debugs the function.
    Trace,
    /// For who debugs a chain.
    Debug,
    /// Good to know.
    Info,
    /// Somebody should look at it.
    Warn,
    /// Something does not work.
    Error,
}

/// Why the host refused. A refusal changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The function does not own that buffer.
    NotOwned,
    /// The bytes do not lie within one buffer, or exceed its room.
    OutOfBounds,
    /// A packet cannot be sent with this verdict, or no such port or later function exists.
    BadVerdict,
    /// The pool has no free buffer, or the function has its share of them.
    Exhausted,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOwned => "the function does not own this buffer",
            Self::OutOfBounds => "the packet does not lie within one buffer",
            Self::BadVerdict => "a packet cannot be sent with this verdict",
            Self::Exhausted => "no buffer is free, or the function has its share of them",
        })
    }
}

impl std::error::Error for Refusal {}

/// Writes a line to the function's log. See also the macros [`info!`](crate::info) and so on.
pub fn log(level: Level, message: &str) {
    sys::log(level, message);
}

/// Monotonic nanoseconds, by a call; within `process`, [`Burst::now`](crate::Burst::now) is the
/// same for free.
#[must_use]
pub fn now() -> u64 {
    sys::now()
}

/// The next of a sequence of random numbers, by a call: for hash seeds, sampling and back-off, not
/// for keys. It begins alike in every instance of the function, and is fixed in `weir replay`.
#[must_use]
pub fn random() -> u64 {
    sys::random()
}

/// Asks for one call of `tick` at or soon after this time, in nanoseconds of [`now`]. A later call
/// replaces an earlier one; 0 cancels.
pub fn set_timer(at: u64) {
    STATE.with(|state| {
        state.own_timer.set(at);
        state.arm();
    });
}

/// A free buffer for a packet of so many bytes, to be filled and sent; what is in it is left over
/// from earlier packets. `None` when the pool is empty or the function has its share.
#[must_use]
pub fn allocate(length: usize) -> Option<Buffer> {
    let length = u32::try_from(length).ok()?;
    let window = sys::window()?;
    buffer::settle();
    let offset = sys::allocate(length)?;
    // SAFETY: the host has just given this buffer, once.
    Some(unsafe { Buffer::new(window, offset, length) })
}

/// Copies these bytes into a new packet and sends it: for rare packets such as ICMP errors.
///
/// # Errors
/// Why the host refused; nothing was sent.
pub fn send_copy(packet: &[u8], verdict: Verdict) -> Result<(), Refusal> {
    sys::send_copy(packet, verdict.encode())
}

/// Whether the function owns a buffer, which stays as it is: with this verdict nothing can be sent,
/// and the host says first whether the buffer is the function's.
pub(crate) fn owns(packet: Descriptor) -> bool {
    release(packet, Verdict::Hold) != Err(Refusal::NotOwned)
}

/// Lets go of a buffer.
pub(crate) fn release(packet: Descriptor, verdict: Verdict) -> Result<(), Refusal> {
    sys::send(packet.offset, packet.length, verdict.encode())
}

/// A counter, shown in `/metrics`. Adding is a few instructions and no call.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Slot);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(self, delta: u64) {
        STATE.with(|state| {
            let value = &state.values[self.0.index()];
            value.set(value.get().wrapping_add(delta));
            state.mark(self.0);
        });
    }
}

/// A gauge, shown in `/metrics`. Setting is a few instructions and no call.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Slot);

impl Gauge {
    /// Sets its value.
    #[inline]
    pub fn set(self, value: f64) {
        STATE.with(|state| {
            state.values[self.0.index()].set(value.to_bits());
            state.mark(self.0);
        });
    }
}

/// The counter of this name; the same one if it is asked for again. Ask in `configure` and keep it.
///
/// # Panics
/// When the name is not 1 to 64 of `a-z0-9_`, is a gauge's, or would be the 65th: names are the
/// function's code, never input.
#[must_use]
pub fn counter(name: &'static str) -> Counter {
    Counter(STATE.with(|state| state.slot(name, Kind::Counter)))
}

/// The gauge of this name; as [`counter`].
///
/// # Panics
/// As [`counter`].
#[must_use]
pub fn gauge(name: &'static str) -> Gauge {
    Gauge(STATE.with(|state| state.slot(name, Kind::Gauge)))
}

/// Place of a value, below `NAMES_MAX`.
#[derive(Clone, Copy, Debug)]
struct Slot(u8);

impl Slot {
    /// Masked so that the compiler sees that it is in range.
    #[inline]
    fn index(self) -> usize {
        usize::from(self.0) % NAMES_MAX
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// What has not been handed over, and the timer that two parties share.
#[derive(Debug)]
struct State {
    names: [Cell<(&'static str, Kind)>; NAMES_MAX],
    /// Names in use.
    count: Cell<usize>,
    /// Counters: what was added since the last flush. Gauges: the value's bits.
    values: [Cell<u64>; NAMES_MAX],
    /// Bit per value that has to be handed over.
    dirty: Cell<u64>,
    /// When the values have to be handed over; 0 when none has to.
    flush_at: Cell<u64>,
    /// When the function wants its tick; 0 for never.
    own_timer: Cell<u64>,
    /// What the host was told.
    armed: Cell<u64>,
}

thread_local! {
    static STATE: State = const { State::new() };
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    const fn new() -> Self {
        Self {
            names: [const { Cell::new(("", Kind::Counter)) }; NAMES_MAX],
            count: Cell::new(0),
            values: [const { Cell::new(0) }; NAMES_MAX],
            dirty: Cell::new(0),
            flush_at: Cell::new(0),
            own_timer: Cell::new(0),
            armed: Cell::new(0),
        }
    }

    fn slot(&self, name: &'static str, kind: Kind) -> Slot {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        assert!(
            (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(legal),
            "`{name}` is no name for a counter or gauge: 1 to 64 of a-z0-9_"
        );
        let count = self.count.get();
        let known = self.names[..count].iter().position(|entry| entry.get().0 == name);
        let at = known.unwrap_or_else(|| {
            assert!(count < NAMES_MAX, "`{name}` is the 65th counter or gauge; 64 are allowed");
            self.names[count].set((name, kind));
            self.count.set(count + 1);
            count
        });
        assert!(self.names[at].get().1 == kind, "`{name}` cannot be both a counter and a gauge");
        // Below NAMES_MAX.
        Slot(at as u8)
    }

    #[inline]
    fn mark(&self, slot: Slot) {
        self.dirty.set(self.dirty.get() | 1 << slot.index());
    }

    fn flush(&self) {
        let mut dirty = self.dirty.replace(0);
        while dirty != 0 {
            let at = dirty.trailing_zeros() as usize;
            dirty &= dirty - 1;
            let (name, kind) = self.names[at].get();
            match kind {
                Kind::Counter => sys::counter_add(name, self.values[at].take()),
                Kind::Gauge => sys::gauge_set(name, f64::from_bits(self.values[at].get())),
            }
        }
        self.flush_at.set(0);
    }

    /// Tells the host the earlier of both times, if it does not know it.
    fn arm(&self) {
        let at = match (self.own_timer.get(), self.flush_at.get()) {
            (0, at) | (at, 0) => at,
            (own, flush) => own.min(flush),
        };
        if self.armed.replace(at) != at {
            sys::set_timer(at);
        }
    }
}

/// After each burst: hands values over when it is time to, or has the host call when it will be.
#[inline]
pub(crate) fn after_burst(now: u64) {
    STATE.with(|state| {
        if state.dirty.get() != 0 {
            hand_over(state, now);
        }
    });
}

#[inline]
fn hand_over(state: &State, now: u64) {
    match state.flush_at.get() {
        0 => {
            state.flush_at.set(now.saturating_add(FLUSH_EVERY));
            state.arm();
        }
        due if now >= due => {
            state.flush();
            state.arm();
        }
        _ => {}
    }
}

/// After `configure`, which may have set values too.
pub(crate) fn after_configure() {
    STATE.with(|state| {
        state.flush();
        state.arm();
    });
}

/// A tick came: hands values over, and tells whether the function wants to be called. Call
/// [`after_tick`] when it was. The last tick of all comes before the values are due, when a replay
/// has ended.
pub(crate) fn before_tick(now: u64) -> bool {
    STATE.with(|state| {
        state.armed.set(0);
        if state.flush_at.get() != 0 {
            state.flush();
        }
        let own = state.own_timer.get();
        let due = own != 0 && now >= own;
        if due {
            state.own_timer.set(0);
        }
        due
    })
}

/// The function's tick is over: what it counted is handed over with the next flush.
pub(crate) fn after_tick(now: u64) {
    STATE.with(|state| {
        if state.dirty.get() != 0 {
            hand_over(state, now);
        }
        state.arm();
    });
}

/// What one instance has not handed over, and what it holds; the thread's functions take turns.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug, Default)]
pub(crate) struct Parked(State, buffer::Holds);

/// Exchanges the current instance's with another's.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn exchange(parked: &Parked) {
    STATE.with(|state| {
        let other = &parked.0;
        let used = state.count.get().max(other.count.get());
        state.count.swap(&other.count);
        for at in 0..used {
            state.names[at].swap(&other.names[at]);
            state.values[at].swap(&other.values[at]);
        }
        state.dirty.swap(&other.dirty);
        state.flush_at.swap(&other.flush_at);
        state.own_timer.swap(&other.own_timer);
        state.armed.swap(&other.armed);
    });
    buffer::exchange(&parked.1);
}

/// Hands everything over now, for tests that look at it.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn flush() {
    STATE.with(State::flush);
}

/// Writes a line of level `trace` to the function's log, formatted as by [`format!`].
#[macro_export]
macro_rules! trace {
    ($($arg:tt)+) => { $crate::host::log($crate::host::Level::Trace, &::std::format!($($arg)+)) };
}
/// Writes a line of level `debug` to the function's log, formatted as by [`format!`].
#[macro_export]
macro_rules! debug {
    ($($arg:tt)+) => { $crate::host::log($crate::host::Level::Debug, &::std::format!($($arg)+)) };
}
/// Writes a line of level `info` to the function's log, formatted as by [`format!`].
#[macro_export]
macro_rules! info {
    ($($arg:tt)+) => { $crate::host::log($crate::host::Level::Info, &::std::format!($($arg)+)) };
}
/// Writes a line of level `warn` to the function's log, formatted as by [`format!`].
#[macro_export]
macro_rules! warn {
    ($($arg:tt)+) => { $crate::host::log($crate::host::Level::Warn, &::std::format!($($arg)+)) };
}
/// Writes a line of level `error` to the function's log, formatted as by [`format!`].
#[macro_export]
macro_rules! error {
    ($($arg:tt)+) => { $crate::host::log($crate::host::Level::Error, &::std::format!($($arg)+)) };
}
