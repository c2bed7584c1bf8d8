//! What the packet plane does with the control area: put a burst in, take the results out.
//!
//! Both ways of running a chain (linked and one by one) use the same area in the same way, so the
//! packet plane does not know which one it has.

use weir_layout::{self as layout, BURST_MAX, Descriptor, FUNCTIONS_MAX, Verdict};
use weir_pool::{Memory, Packet};
use weir_sandbox::{FaultKind, Treatment};

use crate::control as at;

/// How a packet's way through the chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It passed all functions.
    Through,
    /// A function decided: drop, reply, forward, to-kernel, hold or move.
    Verdict {
        /// Place of the function.
        function: usize,
        /// Its verdict.
        verdict: Verdict,
        /// It holds for the packet's flow.
        whole_flow: bool,
    },
    /// A function broke the contract for this packet. Its descriptor is what the function wrote,
    /// and may lie anywhere.
    Fault {
        /// Place of the function.
        function: usize,
        /// `BadDescriptor` or `BadVerdict`.
        kind: FaultKind,
        /// What it wrote as the verdict.
        verdict: u32,
    },
    /// The function is out of order and its policy is fail-closed.
    Refused {
        /// Place of the function.
        function: usize,
    },
}

/// How often a function was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets it was given.
    pub seen: u64,
    /// Packets it let jump.
    pub jumped: u64,
    /// Packets it had cloned.
    pub cloned: u64,
}

impl Usage {
    /// Adds another executor's.
    pub fn add(&mut self, more: Self) {
        self.seen += more.seen;
        self.jumped += more.jumped;
        self.cloned += more.cloned;
    }
}

/// A packet that had not reached the chain's end when a function trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// Its place in the burst.
    pub origin: usize,
    /// Its bytes as last checked.
    pub descriptor: Descriptor,
    /// The function that was running with it, or that it was to jump to.
    pub function: usize,
    /// False if it was only on its way to that function.
    pub reached: bool,
}

/// Origins 0, 1, 2, ... to copy at once.
const ORIGINS: [u32; BURST_MAX] = {
    let mut origins = [0; BURST_MAX];
    let mut i = 0;
    while i < BURST_MAX {
        origins[i] = i as u32;
        i += 1;
    }
    origins
};

/// Verdicts of packets that no function has seen.
const NEXT: [u32; BURST_MAX] = [0; BURST_MAX];

/// Puts a burst of at most [`BURST_MAX`] packets into board and window, `clock` and `wall` in
/// nanoseconds.
///
/// # Panics
/// When there are more.
#[inline]
pub fn fill(board: &mut Memory, window: &mut Memory, packets: &[Packet], clock: u64, wall: u64) {
    assert!(packets.len() <= BURST_MAX, "a burst has at most {BURST_MAX} packets");
    if board.get::<u32>(at::EVEN) == 0 {
        // The burst before left them in disorder.
        board.copy_in(at::ORIGINS, &ORIGINS);
        forget_verdicts(window);
    }
    // Most bursts are no longer than the one before, and find nothing to do.
    let seen = packets.len().next_multiple_of(at::TOGETHER);
    if (window.get::<u32>(at::CLEAN) as usize) < seen {
        window.copy_in(layout::VERDICTS, &NEXT[..seen]);
    }
    window.set(at::CLEAN, seen as u32);
    board.set_columns([at::KEPT], packets.iter().map(|packet| [packet.descriptor.word()]));
    window.set_columns(
        [layout::DESCRIPTORS, layout::METADATA],
        packets.iter().map(|packet| [packet.descriptor.word(), packet.metadata.word()]),
    );
    window.set(layout::CLOCK, clock);
    window.set(layout::WALL, wall);
    board.set(at::SEQUENCE, board.get::<u32>(at::SEQUENCE).wrapping_add(1));
}

/// A function may have written verdicts that nobody has applied: the next burst in this window
/// begins with none.
pub fn forget_verdicts(window: &mut Memory) {
    window.set(at::CLEAN, 0u32);
}

/// Whether [`Services::look`](weir_sandbox::Services::look) is to be told of the burst.
#[inline]
pub fn set_watched(board: &mut Memory, watched: bool) {
    board.set(at::WATCHED, u32::from(watched));
}

/// A burst as the runner's import `next` answers it.
#[must_use]
#[inline]
pub fn pack(count: usize, start: usize, reverse: bool) -> u64 {
    count as u64 | (start as u64) << 16 | u64::from(reverse) << 32
}

/// Whether, after a run without a trap, every packet passed all functions, none moved its
/// descriptor, and none decided for a flow: there is nothing more to learn from the board then.
/// False if nobody kept an eye on it.
#[must_use]
#[inline]
pub fn all_passed(board: &Memory) -> bool {
    board.get::<u32>(at::EVEN) != 0
}

/// Calls `take` with place in the burst, descriptor and end of every packet, after a run without a
/// trap: first those that left on the way, then those that passed, each in the burst's order.
#[inline]
pub fn ends(board: &Memory, mut take: impl FnMut(usize, Descriptor, End)) {
    departed(board, &mut take);
    let count = (board.get::<u32>(at::ACTIVE) as usize).min(BURST_MAX);
    // A descriptor is read as the word as which it was written; see `at::kept`.
    let kept = board.values::<u64>(at::KEPT, count).map(Descriptor::from_word);
    for (origin, descriptor) in board.values::<u32>(at::ORIGINS, count).zip(kept) {
        take(origin as usize, descriptor, End::Through);
    }
}

/// Calls `take` with each place in the burst whose flow functions let pass for good, and with these
/// functions as bits; then forgets it. Before the next burst.
#[inline]
pub fn take_finals(board: &mut Memory, mut take: impl FnMut(usize, u64)) {
    if board.get::<u32>(at::ANY_FINAL) == 0 {
        return;
    }
    board.set(at::ANY_FINAL, 0u32);
    for origin in 0..BURST_MAX {
        let functions = board.get::<u64>(at::FINALS + origin * 8);
        if functions != 0 {
            board.set(at::FINALS + origin * 8, 0u64);
            take(origin, functions);
        }
    }
}

/// As [`ends`], after a trap: only those that had left before.
pub fn departed(board: &Memory, take: &mut impl FnMut(usize, Descriptor, End)) {
    for index in 0..(board.get::<u32>(at::DONE) as usize).min(BURST_MAX) {
        let done = at::done(board, index);
        let function = done.function;
        let fault = |kind| End::Fault { function, kind, verdict: done.verdict };
        let end = match done.mark {
            0 => match Verdict::decode_final(done.verdict) {
                Some((verdict, whole_flow)) => End::Verdict { function, verdict, whole_flow },
                None => fault(FaultKind::BadVerdict),
            },
            at::BAD_DESCRIPTOR => fault(FaultKind::BadDescriptor),
            at::REFUSED => End::Refused { function },
            _ => fault(FaultKind::BadVerdict),
        };
        take(done.origin, done.descriptor, end);
    }
}

/// After a trap: the packets that were still under way.
pub fn stranded(board: &Memory, mut take: impl FnMut(Stranded)) {
    let function = board.get::<u32>(at::POSITION) as usize;
    for slot in 0..(board.get::<u32>(at::ACTIVE) as usize).min(BURST_MAX) {
        let (origin, descriptor) = at::kept(board, slot);
        take(Stranded { origin, descriptor, function, reached: true });
    }
    for index in 0..(board.get::<u32>(at::PARKED) as usize).min(BURST_MAX) {
        let parked = at::parked(board, index);
        take(Stranded {
            origin: parked.origin,
            descriptor: parked.descriptor,
            function: parked.target,
            reached: false,
        });
    }
}

/// How often the function at this place was used since the board was made.
#[must_use]
pub fn usage(board: &Memory, function: usize) -> Usage {
    assert!(function < FUNCTIONS_MAX, "a chain has at most {FUNCTIONS_MAX} functions");
    Usage {
        seen: board.get(at::SEEN + function * 8),
        jumped: board.get(at::JUMPED + function * 8),
        cloned: board.get(at::CLONED + function * 8),
    }
}

/// Whether the function at this place is called.
pub(crate) fn runs(board: &Memory, function: usize) -> bool {
    board.get::<u8>(at::MODES + function) == at::RUN
}

/// Sets whether the function at this place is called.
pub fn set_treatment(board: &mut Memory, function: usize, treatment: Treatment) {
    assert!(function < FUNCTIONS_MAX, "a chain has at most {FUNCTIONS_MAX} functions");
    let byte = match treatment {
        Treatment::Run => at::RUN,
        Treatment::Skip => at::SKIP,
        Treatment::Refuse => at::REFUSE,
    };
    board.set(at::MODES + function, byte);
}
