//! What a lane counts: plain numbers on the hot path, published to everybody at the end of a turn.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use weir_chain::board::Usage;
use weir_layout::{VERDICT_NAMES, Verdict};
use weir_pool::Accounting;

/// Reasons of a function's own that are counted apart; higher numbers share the last place.
pub(crate) const REASONS: usize = 64;
/// Functions that are in the chain no more, of which counts are kept under their names.
const GONE: usize = 64;

/// Why the host dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A function moved the descriptor out of the packet's room.
    BadDescriptor,
    /// A function gave a verdict that means nothing, or named a port or function that does not
    /// exist.
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
    /// A function moved it to a target that it does not have, or that is not deployed on these
    /// ports.
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
    /// A function did that has not been in the chain for so long that its name is not kept.
    FormerFunction,
}

/// All reasons with their names.
pub const DROP_REASONS: [(DropReason, &str); 16] = [
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
    (DropReason::FormerFunction, "former-function"),
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

    /// What executors have counted for it, up to now.
    pub(crate) fn set_usage(&mut self, usage: Usage) {
        self.packets = usage.seen;
        self.verdicts[Verdict::Jump(0).kind() as usize] = usage.jumped;
        self.verdicts[Verdict::Clone(0).kind() as usize] = usage.cloned;
    }

    /// As it was set last.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            seen: self.packets,
            jumped: self.verdicts[Verdict::Jump(0).kind() as usize],
            cloned: self.verdicts[Verdict::Clone(0).kind() as usize],
        }
    }

    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        each(&mut self.verdicts, &other.verdicts);
        each(&mut self.sent, &other.sent);
        each(&mut self.drops, &other.drops);
        self.undecided += other.undecided;
        self.faults += other.faults;
        self.sample.calls += other.sample.calls;
        self.sample.packets += other.sample.packets;
        self.sample.nanoseconds += other.sample.nanoseconds;
    }
}

/// Adds up, place by place.
fn each(ours: &mut [u64], theirs: &[u64]) {
    ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| *ours += theirs);
}

/// Whose a chain's counts are: another one with each list of functions, so that it can be published
/// with the counts at no cost.
#[derive(Clone, Debug, Default)]
struct Roll {
    /// Names of the functions, in the chain's order.
    names: Vec<String>,
    /// What functions had that are not in the chain any more, the last to go behind the others.
    gone: Vec<(String, FunctionCounts)>,
}

/// Counts of a lane. Every packet that came in or was made went out, was dropped, or is in the
/// pool's `out`.
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
    /// Those among them of packets that no chain had and that came in by the second port.
    pub drops_elsewhere: [u64; DROP_REASONS.len()],
    /// By function, in the chain's order.
    pub functions: Vec<FunctionCounts>,
    roll: Arc<Roll>,
}

impl Counters {
    /// Of a chain with these functions.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let mut counters = Self::default();
        counters.set_functions(names);
        counters
    }

    /// The counts of each function under its name: of those of the chain in order, and then of
    /// those that it had before.
    pub fn by_function(&self) -> impl Iterator<Item = (&str, &FunctionCounts)> {
        let named = self.roll.names.iter().zip(&self.functions);
        let gone = self.roll.gone.iter().map(|(name, counts)| (name, counts));
        named.chain(gone).map(|(name, counts)| (name.as_str(), counts))
    }

    /// The counts of a function that the chain has, or had.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&FunctionCounts> {
        self.by_function().find(|(other, _)| *other == name).map(|(_, counts)| counts)
    }

    /// Adds the counts of another lane of the same chain. It may have other functions for a moment.
    pub fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.packets_to_kernel += other.packets_to_kernel;
        self.packets_moved += other.packets_moved;
        self.packets_made += other.packets_made;
        each(&mut self.drops, &other.drops);
        each(&mut self.drops_elsewhere, &other.drops_elsewhere);
        if self.functions.is_empty() {
            // The first of them.
            self.functions.clone_from(&other.functions);
            self.roll = Arc::clone(&other.roll);
            return;
        }
        let roll = Arc::make_mut(&mut self.roll);
        for (name, counts) in other.by_function() {
            let place = roll.names.iter().position(|other| other == name);
            let gone = roll.gone.iter_mut().find(|(other, _)| other == name);
            match (place, gone) {
                (Some(place), _) => self.functions[place].add(counts),
                (None, Some((_, ours))) => ours.add(counts),
                (None, None) => roll.gone.push((name.to_owned(), *counts)),
            }
        }
    }

    /// The chain has these functions from now on. Those that it has, or had, go on with their
    /// counts.
    pub(crate) fn set_functions(&mut self, names: Vec<String>) {
        let mut gone = self.roll.gone.clone();
        gone.extend(self.roll.names.iter().cloned().zip(self.functions.drain(..)));
        self.functions.extend(names.iter().map(|name| {
            let place = gone.iter().position(|(other, _)| other == name);
            place.map_or_else(FunctionCounts::default, |place| gone.remove(place).1)
        }));
        let too_many = gone.len().saturating_sub(GONE);
        for (_, counts) in gone.drain(..too_many) {
            self.drops[DropReason::FormerFunction as usize] += counts.drops.iter().sum::<u64>();
        }
        self.roll = Arc::new(Roll { names, gone });
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
    /// Called once a turn; a reader in the middle of copying makes the lane skip that turn, not
    /// wait. Whether it was done.
    pub(crate) fn publish(&self, counters: &Counters, pool: Accounting) -> bool {
        let mut shared = match self.0.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(shared)) => shared.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        shared.0.clone_from(counters);
        shared.1 = pool;
        true
    }

    /// The counts, at most a turn old.
    #[must_use]
    pub fn read(&self) -> (Counters, Accounting) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reader in the middle of copying.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> std::sync::MutexGuard<'_, (Counters, Accounting)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn faults(counters: &Counters) -> Vec<(&str, u64)> {
        counters.by_function().map(|(name, counts)| (name, counts.faults)).collect()
    }

    #[test]
    fn lanes_of_which_one_has_other_functions_already_are_added_by_name() {
        let mut one = Counters::new(named(&["a", "b", "c"]));
        let mut other = one.clone();
        for (place, faults) in [1, 2, 3].into_iter().enumerate() {
            one.functions[place].faults = faults;
            other.functions[place].faults = 10 * faults;
        }
        other.set_functions(named(&["c", "d", "a"]));
        other.functions[1].faults = 4;
        let mut sum = Counters::default();
        sum.add(&one);
        sum.add(&other);
        assert_eq!(faults(&sum), [("a", 11), ("b", 22), ("c", 33), ("d", 4)]);
        assert_eq!(sum.functions.len(), 3);
        assert_eq!(faults(&one), [("a", 1), ("b", 2), ("c", 3)], "what was read stays as it was");
    }

    #[test]
    fn what_functions_dropped_is_counted_when_their_names_are_not_kept_any_more() {
        let mut counters = Counters::new(named(&["f0"]));
        for number in 0..=GONE + 2 {
            counters.function_drop(0, 5);
            counters.set_functions(vec![format!("f{}", number + 1)]);
        }
        let kept: u64 = counters.by_function().flat_map(|(_, counts)| counts.drops).sum();
        let former = counters.drops[DropReason::FormerFunction as usize];
        assert_eq!((kept, former), (GONE as u64, 3));
        assert!(counters.of("f2").is_none() && counters.of("f3").is_some());
    }
}
