//! What a lane counts: plain numbers on the hot path, published to everybody at the end of a turn.

use std::sync::{Mutex, PoisonError};

use weir_layout::{VERDICT_NAMES, Verdict};
use weir_pool::Accounting;

/// Reasons of a function's own that are counted apart; higher numbers share the last place.
pub(crate) const REASONS: usize = 64;

/// Why the host dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A function moved the descriptor out of the packet's room.
    BadDescriptor,
    /// A function gave a verdict that means nothing, or named a port or function that does not exist.
    BadVerdict,
    /// A function that faulted had it, and its policy is fail-closed.
    Fault,
    /// The function is in back-off or quarantine, and its policy is fail-closed.
    OutOfOrder,
    /// It was for the kernel's stack, and its port has no way there.
    ToKernel,
    /// The function holds as many packets as it may.
    HoldLimit,
    /// There was no free buffer for a copy.
    NoBuffer,
    /// A function held it when it faulted or was replaced.
    LostInFault,
    /// A function still held it when the input ended or the chain was taken down.
    HeldAtEnd,
    /// A function moved it to a target that it does not have, or that is not deployed on these ports.
    NoTarget,
    /// Functions moved it from chain to chain, more often than there are chains.
    MoveLoop,
    /// A function had decided so for its whole flow.
    FlowVerdict,
    /// A steering rule says so.
    Steering,
    /// No steering rule claims it, and no chain takes what is left.
    Unclaimed,
    /// A steering rule sends it to a chain that is not deployed.
    NoChain,
}

/// All reasons with their names.
pub const DROP_REASONS: [(DropReason, &str); 15] = [
    (DropReason::BadDescriptor, "bad-descriptor"),
    (DropReason::BadVerdict, "bad-verdict"),
    (DropReason::Fault, "fault"),
    (DropReason::OutOfOrder, "out-of-order"),
    (DropReason::ToKernel, "to-kernel"),
    (DropReason::HoldLimit, "hold-limit"),
    (DropReason::NoBuffer, "no-buffer"),
    (DropReason::LostInFault, "lost-in-fault"),
    (DropReason::HeldAtEnd, "held-at-end"),
    (DropReason::NoTarget, "no-target"),
    (DropReason::MoveLoop, "move-loop"),
    (DropReason::FlowVerdict, "flow-verdict"),
    (DropReason::Steering, "steering"),
    (DropReason::Unclaimed, "unclaimed"),
    (DropReason::NoChain, "no-chain"),
];

/// Counts of one function.
#[derive(Clone, Copy, Debug)]
pub struct FunctionCounts {
    /// Packets it was given.
    pub packets: u64,
    /// Verdicts by kind, in the order of [`VERDICT_NAMES`]; the place of `next` stays 0.
    pub verdicts: [u64; VERDICT_NAMES.len()],
    /// Packets it made, or let go of later, by verdict kind.
    pub sent: [u64; VERDICT_NAMES.len()],
    /// Its own drops, by its reason number; the last place counts all higher ones.
    pub drops: [u64; REASONS],
    /// Packets that got no valid verdict of it: bad ones, and those it had when it trapped.
    pub undecided: u64,
    /// Faults: traps, and bursts with bad verdicts or descriptors.
    pub faults: u64,
    /// Those of its calls that were timed.
    pub sample: Sample,
}

/// Calls of a function that were timed: one burst of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Calls.
    pub calls: u64,
    /// Packets that it was given in them.
    pub packets: u64,
    /// How long they took.
    pub nanoseconds: u64,
}

impl Default for FunctionCounts {
    fn default() -> Self {
        Self {
            packets: 0,
            verdicts: [0; VERDICT_NAMES.len()],
            sent: [0; VERDICT_NAMES.len()],
            drops: [0; REASONS],
            undecided: 0,
            faults: 0,
            sample: Sample::default(),
        }
    }
}

impl FunctionCounts {
    /// Verdicts by name, `next` included.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, u64); VERDICT_NAMES.len()] {
        let others: u64 = self.verdicts.iter().sum();
        let mut all = [("", 0); VERDICT_NAMES.len()];
        for (kind, slot) in all.iter_mut().enumerate() {
            *slot = (VERDICT_NAMES[kind], self.verdicts[kind]);
        }
        all[0].1 = self.packets.saturating_sub(others + self.undecided);
        all
    }
}

/// Counts of a lane. Every packet that came in or was made went out, was dropped, or is in the pool's `out`.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Packets received by the chain's ports.
    pub packets_in: u64,
    /// Packets given to ports to send.
    pub packets_out: u64,
    /// Packets given to the kernel's stack.
    pub packets_to_kernel: u64,
    /// Packets that functions moved to other chains, with their flows.
    pub packets_moved: u64,
    /// Packets that functions made or had cloned.
    pub packets_made: u64,
    /// Packets the host dropped, in the order of [`DROP_REASONS`].
    pub drops: [u64; DROP_REASONS.len()],
    /// By function, in the chain's order.
    pub functions: Vec<FunctionCounts>,
}

impl Counters {
    /// Adds the counts of another lane of the same chain.
    pub fn add(&mut self, other: &Self) {
        fn each(ours: &mut [u64], theirs: &[u64]) {
            ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| *ours += theirs);
        }
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.packets_to_kernel += other.packets_to_kernel;
        self.packets_moved += other.packets_moved;
        self.packets_made += other.packets_made;
        each(&mut self.drops, &other.drops);
        if self.functions.len() < other.functions.len() {
            self.set_functions(other.functions.len());
        }
        for (ours, theirs) in self.functions.iter_mut().zip(&other.functions) {
            ours.packets += theirs.packets;
            each(&mut ours.verdicts, &theirs.verdicts);
            each(&mut ours.sent, &theirs.sent);
            each(&mut ours.drops, &theirs.drops);
            ours.undecided += theirs.undecided;
            ours.faults += theirs.faults;
            ours.sample.calls += theirs.sample.calls;
            ours.sample.packets += theirs.sample.packets;
            ours.sample.nanoseconds += theirs.sample.nanoseconds;
        }
    }

    pub(crate) fn new(functions: usize) -> Self {
        let mut counters = Self::default();
        counters.set_functions(functions);
        counters
    }

    pub(crate) fn set_functions(&mut self, functions: usize) {
        self.functions.resize_with(functions, FunctionCounts::default);
    }

    #[inline]
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    #[inline]
    pub(crate) fn verdict(&mut self, function: usize, verdict: Verdict) {
        self.functions[function].verdicts[verdict.kind() as usize] += 1;
    }

    #[inline]
    pub(crate) fn sent(&mut self, function: usize, verdict: Verdict) {
        self.functions[function].sent[verdict.kind() as usize] += 1;
    }

    #[inline]
    pub(crate) fn function_drop(&mut self, function: usize, reason: u32) {
        let slot = (reason as usize).min(REASONS - 1);
        self.functions[function].drops[slot] += 1;
    }
}

/// The lane's counts as last published.
#[derive(Debug, Default)]
pub struct Shared(Mutex<(Counters, Accounting)>);

impl Shared {
    /// Called once a turn; a reader in the middle of copying makes the lane skip that turn, not wait.
    pub(crate) fn publish(&self, counters: &Counters, pool: Accounting) {
        if let Ok(mut shared) = self.0.try_lock() {
            shared.0.clone_from(counters);
            shared.1 = pool;
        }
    }

    /// The counts, at most a turn old.
    #[must_use]
    pub fn read(&self) -> (Counters, Accounting) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
