//! The control area: what the chain runner and the host tell each other about a burst.
//!
//! It is one 64 KiB [`Memory`] that is mapped into the runner's linear memory and the host, and
//! into no function, so whatever stands in it was written by code we trust. A trap in a function
//! leaves it as it was: that is how the host knows which function it was and which packets had
//! reached it.

use weir_layout::{BURST_AREA, BURST_MAX, Descriptor, FUNCTIONS_MAX, Metadata, WALL};
use weir_pool::Memory;

/// Bytes of the control area.
pub(crate) const CONTROL_BYTES: usize = 0x1_0000;

/// Place of the function that runs now, or [`NOBODY`].
pub(crate) const POSITION: usize = 0x00;
/// Packets in the active vector when the function at `POSITION` was called, or at the chain's end.
pub(crate) const ACTIVE: usize = 0x04;
/// Records in the done list.
pub(crate) const DONE: usize = 0x08;
/// Records in the parked list.
pub(crate) const PARKED: usize = 0x0c;
/// Bytes of a room, for the runner's check of moved descriptors.
pub(crate) const ROOM_BYTES: usize = 0x10;
/// Number of the burst, counted by the host; tells the deadline one burst from the next.
pub(crate) const SEQUENCE: usize = 0x18;
/// 1 when [`FINALS`] has something.
pub(crate) const ANY_FINAL: usize = 0x1c;
/// 1 as long as every packet of the burst has passed every function so far, with the descriptor
/// that it came with.
pub(crate) const EVEN: usize = 0x20;
/// 1 when somebody looks at what each function does with the burst.
pub(crate) const WATCHED: usize = 0x24;
/// 1 when the burst travels from the last function to the first.
pub(crate) const REVERSE: usize = 0x14;
/// One byte for each function: [`RUN`], [`SKIP`] or [`REFUSE`].
pub(crate) const MODES: usize = 0x40;
/// `u64` for each function: packets it was given.
pub(crate) const SEEN: usize = 0x100;
/// `u64` for each function: packets it let jump.
pub(crate) const JUMPED: usize = 0x300;
/// `u64` for each function: packets it had cloned.
pub(crate) const CLONED: usize = 0x500;
/// `u32` for each function: bytes of a packet that it is given, if it gets bursts by value.
pub(crate) const HEADS: usize = 0x700;
/// `u32` for each active packet: its place in the burst as the host made it.
pub(crate) const ORIGINS: usize = 0x1000;
/// Descriptors of the active packets as last checked.
pub(crate) const KEPT: usize = 0x2000;
/// Packets that wait for a later function: `u32 origin, u32 target, descriptor, metadata`.
pub(crate) const PARKED_LIST: usize = 0x3000;
/// Packets that left the chain: `u32 origin, u32 function, u32 verdict, u32 0, descriptor`.
pub(crate) const DONE_LIST: usize = 0x5000;
/// `u64` for each place in the burst: functions, as bits, that let the packet's flow pass for good.
pub(crate) const FINALS: usize = 0x7000;
/// Bytes of a record of either list.
pub(crate) const RECORD: usize = 24;

/// In the window, where no function can write: `u32`, the verdicts below this one are `next`, as a
/// burst finds them. A function may leave others behind: when it traps, from `tick`, and behind the
/// packets that it was given. All chains over a window share it.
pub(crate) const CLEAN: usize = WALL + 8;
/// Verdicts that the runner looks at together.
pub(crate) const TOGETHER: usize = 16;

/// `POSITION` when no function runs.
pub(crate) const NOBODY: u32 = u32::MAX;
/// Mode: call the function.
pub(crate) const RUN: u8 = 0;
/// Mode: pass it by (fail-open while it is out of order).
pub(crate) const SKIP: u8 = 1;
/// Mode: drop what reaches it (fail-closed while it is out of order).
pub(crate) const REFUSE: u8 = 2;

/// Added to the function of a done record: the record's descriptor is what the function wrote, and
/// lies outside of the packet's room.
pub(crate) const BAD_DESCRIPTOR: u32 = 0x100;
/// Added to the function of a done record: the record's verdict is what the function wrote, and
/// means nothing here.
pub(crate) const BAD_VERDICT: u32 = 0x200;
/// Added to the function of a done record: it is out of order, and its policy is fail-closed.
pub(crate) const REFUSED: u32 = 0x300;

const _: () = assert!(FUNCTIONS_MAX <= BAD_DESCRIPTOR as usize);

const _: () = assert!(CLEAN + 4 <= BURST_AREA && BURST_MAX.is_multiple_of(TOGETHER));
const _: () = assert!(HEADS + FUNCTIONS_MAX * 4 <= ORIGINS);
const _: () = assert!(DONE_LIST + BURST_MAX * RECORD <= FINALS);
const _: () = assert!(FINALS + BURST_MAX * 8 <= CONTROL_BYTES);
const _: () = assert!(PARKED_LIST + BURST_MAX * RECORD <= DONE_LIST);

/// A packet that left the chain before its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) origin: usize,
    pub(crate) function: usize,
    /// [`BAD_DESCRIPTOR`], [`BAD_VERDICT`], [`REFUSED`], or 0: the verdict is to be carried out.
    pub(crate) mark: u32,
    pub(crate) verdict: u32,
    pub(crate) descriptor: Descriptor,
}

/// A packet that was waiting for a later function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    pub(crate) origin: usize,
    pub(crate) target: usize,
    pub(crate) descriptor: Descriptor,
    pub(crate) metadata: Metadata,
}

pub(crate) fn done(control: &Memory, index: usize) -> Done {
    let at = DONE_LIST + index * RECORD;
    let function = control.get::<u32>(at + 4);
    Done {
        origin: control.get::<u32>(at) as usize,
        function: (function % BAD_DESCRIPTOR) as usize,
        mark: function & !(BAD_DESCRIPTOR - 1),
        verdict: control.get::<u32>(at + 8),
        descriptor: control.get(at + 16),
    }
}

pub(crate) fn parked(control: &Memory, index: usize) -> Parked {
    let at = PARKED_LIST + index * RECORD;
    Parked {
        origin: control.get::<u32>(at) as usize,
        target: control.get::<u32>(at + 4) as usize,
        descriptor: control.get(at + 8),
        metadata: control.get(at + 16),
    }
}

/// Inlined, and read as a word: a descriptor that is returned through memory is written in halves
/// and read as a whole, which no processor forwards; it cost 4 ns a packet (`scripts/bench hop`).
#[inline(always)]
pub(crate) fn kept(control: &Memory, slot: usize) -> (usize, Descriptor) {
    let descriptor = Descriptor::from_word(control.get(KEPT + slot * 8));
    (control.get::<u32>(ORIGINS + slot * 4) as usize, descriptor)
}

pub(crate) fn set_done(
    control: &mut Memory,
    index: usize,
    origin: usize,
    function: u32,
    verdict: u32,
    descriptor: Descriptor,
) {
    let at = DONE_LIST + index * RECORD;
    control.set(at, origin as u32);
    control.set(at + 4, function);
    control.set(at + 8, verdict);
    control.set(at + 16, descriptor);
}

/// The function at `place` lets the flow of this packet pass for good.
pub(crate) fn add_final(control: &mut Memory, origin: usize, place: usize) {
    let at = FINALS + origin * 8;
    control.set(ANY_FINAL, 1u32);
    control.set(at, control.get::<u64>(at) | 1 << place);
}

pub(crate) fn set_parked(control: &mut Memory, index: usize, parked: Parked) {
    let at = PARKED_LIST + index * RECORD;
    control.set(at, parked.origin as u32);
    control.set(at + 4, parked.target as u32);
    control.set(at + 8, parked.descriptor);
    control.set(at + 16, parked.metadata);
}
