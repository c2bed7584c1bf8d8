//! What verdicts do: where packets go when their way through the chain has ended.

use weir_chain::board::{self, End};
use weir_layout::{Descriptor, FLAG_REVERSE, Metadata, VERDICT_FINAL, Verdict};
use weir_pool::{BufferIndex, Memory, Packet};
use weir_sandbox::FaultKind;

use super::{Conclusion, Context, Decision, Disown, Entry, FROM, Ledger, Move, NO_PORT, TO};
use crate::counters::DropReason;
use crate::owned::Owned;
use crate::violation::Violation;

/// Whether a packet travels against the direction in which it came in.
pub(crate) fn has_turned(metadata: Metadata) -> bool {
    let reverse = metadata.flags & FLAG_REVERSE != 0;
    metadata.port != NO_PORT && reverse != (usize::from(metadata.port) != FROM)
}

impl Context {
    /// Ends the burst that the chain has run without a trap.
    #[inline]
    pub(crate) fn end_burst(&mut self, board: &mut Memory) {
        if board::all_passed(board) {
            return self.pass_burst_by();
        }
        board::ends(board, |origin, descriptor, end| self.end(origin, descriptor, end));
        board::take_finals(board, |origin, functions| {
            self.conclude(origin, Decision::Pass(functions));
        });
        self.burst.clear();
    }

    /// Notes what was decided about a packet's flow, if anybody wants to know.
    fn conclude(&mut self, origin: usize, decision: Decision) {
        if let Some(&flow) = self.flows.get(origin) {
            self.conclusions.push(Conclusion { flow, decision });
        }
    }

    /// Does what the end of a packet's way calls for.
    #[inline]
    pub(crate) fn end(&mut self, origin: usize, descriptor: Descriptor, end: End) {
        let mut packet = self.burst[origin];
        packet.descriptor = descriptor;
        match end {
            End::Through => self.leave(packet, self.reverse),
            End::Verdict { function, verdict: Verdict::Move(target), .. } => {
                self.ledger.counters.verdict(function, Verdict::Move(target));
                if self.stationed {
                    let flow = self.flows.get(origin).copied();
                    let (reverse, moves) = (self.reverse, self.moved);
                    self.moves.push(Move { packet, function, target, flow, reverse, moves });
                    if !self.closed {
                        // The station has to know before more packets of the flow come in.
                        self.budget = 0;
                    }
                } else if target == 0 {
                    self.give_to_kernel(packet);
                } else {
                    self.discard(packet.buffer, DropReason::NoTarget);
                }
            }
            End::Verdict { function, verdict, whole_flow } => {
                if !self.decide(function, packet, verdict) {
                    let word = verdict.encode() | if whole_flow { VERDICT_FINAL } else { 0 };
                    self.violate(origin, descriptor, function, FaultKind::BadVerdict, word);
                    self.ledger.counters.functions[function].undecided += 1;
                    return;
                }
                self.ledger.counters.verdict(function, verdict);
                if whole_flow && !(verdict == Verdict::Reply && self.passed(function, self.reverse))
                {
                    self.conclude(origin, Decision::Verdict(function, verdict));
                }
            }
            End::Fault { function, kind, verdict } => {
                self.violate(origin, descriptor, function, kind, verdict);
                self.ledger.counters.functions[function].undecided += 1;
                let reason = if kind == FaultKind::BadDescriptor {
                    DropReason::BadDescriptor
                } else {
                    DropReason::BadVerdict
                };
                self.discard(packet.buffer, reason);
            }
            End::Refused { .. } => self.discard(packet.buffer, DropReason::OutOfOrder),
        }
    }

    /// A packet that passed the chain leaves by its output.
    #[inline]
    pub(crate) fn leave(&mut self, packet: Packet, reverse: bool) {
        // Of others the chain's end is the port that they came in by.
        if self.kernel.is_some() && has_turned(packet.metadata) {
            return self.transmit[usize::from(packet.metadata.port)].push(packet);
        }
        if !reverse && self.ledger.upward.is_some() {
            return self.leave_or_go_up(packet);
        }
        let port = self.output(reverse);
        self.transmit[port].push(packet);
    }

    /// Number of the port by which packets of this direction leave.
    #[inline]
    fn output(&self, reverse: bool) -> usize {
        if reverse { FROM } else { self.to }
    }

    /// Notes what a function may not do, for the lane to treat.
    #[cold]
    fn violate(
        &mut self,
        place: usize,
        wrote: Descriptor,
        function: usize,
        kind: FaultKind,
        verdict: u32,
    ) {
        let (packet, wrote) = (self.burst[place], (wrote.offset, wrote.length));
        let number = self.number(place);
        self.violations.push(Violation { function, kind, place, number, packet, wrote, verdict });
    }

    /// Does what a function decided; false if that cannot be done, and is a violation.
    pub(super) fn decide(&mut self, function: usize, packet: Packet, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Drop(reason) => {
                self.ledger.counters.function_drop(function, reason);
                self.pool.give(packet.buffer);
            }
            Verdict::Reply if packet.metadata.port != NO_PORT => self.turn_round(function, packet),
            Verdict::Forward(port) if usize::from(port) < self.ports.len() => {
                self.transmit[usize::from(port)].push(packet);
            }
            Verdict::ToKernel => self.give_to_kernel(packet),
            Verdict::Hold if self.make_share(function) => {
                let (instance, moves) = (self.ledger.instance, self.moved);
                let (made, inherited) = (false, false);
                let owned = Owned { function, instance, made, inherited, moves, packet };
                self.ledger.owned.insert(owned);
            }
            Verdict::Hold => self.discard(packet.buffer, DropReason::HoldLimit),
            _ => {
                self.discard(packet.buffer, DropReason::BadVerdict);
                return false;
            }
        }
        true
    }

    /// Whether packets of this direction have passed functions before they come to this one.
    fn passed(&self, function: usize, reverse: bool) -> bool {
        if reverse { function + 1 < self.ledger.functions } else { function > 0 }
    }

    /// A packet goes back to the port it came in by. The functions that it has passed see it on its
    /// way, in the other direction, as they see every answer; one that has turned round before
    /// leaves at once, or two functions could have it for ever.
    fn turn_round(&mut self, function: usize, mut packet: Packet) {
        let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
        if has_turned(packet.metadata) || !self.passed(function, reverse) {
            return self.transmit[usize::from(packet.metadata.port)].push(packet);
        }
        packet.metadata.flags ^= FLAG_REVERSE;
        self.continue_behind(packet, function, !reverse);
    }

    /// The port by which what came in by this one gets to the kernel's stack, if there is one.
    pub(crate) fn way_to_kernel(&self, port: usize) -> Option<usize> {
        let way = self.kernel.filter(|_| port == FROM).unwrap_or(port);
        self.ports.get(way).is_some_and(|port| port.reaches_kernel()).then_some(way)
    }

    /// Gives the packet to the kernel's stack, as if it had come in there by its port; drops it
    /// where there is no way.
    pub(crate) fn give_to_kernel(&mut self, packet: Packet) {
        let port = usize::from(packet.metadata.port);
        if self.kernel == Some(port) {
            // It comes from there: what it answers went up without functions, and so it goes on
            // without. What answers it goes back.
            let way = if has_turned(packet.metadata) { port } else { FROM };
            return self.transmit[way].push(packet);
        }
        if let Some(way) = self.way_to_kernel(port) {
            if let Some(upward) = &self.ledger.upward {
                upward.readdress(self.pool.bytes_mut(packet.descriptor).unwrap_or_default());
            }
            self.note_answer(packet, way);
            self.to_kernel[way].push(packet);
        } else {
            self.discard(packet.buffer, DropReason::ToKernel);
        }
    }

    /// Whether a function may own one more buffer: it may own a quarter of the pool. Of what an
    /// instance before this one left, which this one may know nothing of, the oldest makes room.
    pub(super) fn make_share(&mut self, function: usize) -> bool {
        let Ledger { owned, instance, .. } = &mut self.ledger;
        if owned.count(function) < (self.pool.rooms() / 4) as usize {
            return true;
        }
        let Some(Owned { packet, made, .. }) = owned.take_inherited(function, *instance) else {
            return false;
        };
        if made {
            self.pool.give(packet.buffer);
        } else {
            self.discard(packet.buffer, DropReason::HoldLimit);
        }
        true
    }

    /// Frees a buffer whose packet is dropped by the host.
    pub(crate) fn discard(&mut self, buffer: BufferIndex, reason: DropReason) {
        self.ledger.counters.drop(reason);
        self.pool.give(buffer);
    }

    /// The burst leaves by the chain's output.
    #[inline]
    pub(crate) fn pass_burst_by(&mut self) {
        let goes_up = !self.reverse && self.ledger.upward.is_some();
        let turned = |packet: &Packet| has_turned(packet.metadata);
        if goes_up || self.kernel.is_some() && self.burst.iter().any(turned) {
            for place in 0..self.burst.len() {
                self.leave(self.burst[place], self.reverse);
            }
            return self.burst.clear();
        }
        let port = self.output(self.reverse);
        let leaving = &mut self.transmit[port];
        if leaving.is_empty() {
            std::mem::swap(leaving, &mut self.burst);
        } else {
            leaving.append(&mut self.burst);
        }
    }

    /// The burst goes to the kernel's stack.
    pub(crate) fn give_burst_to_kernel(&mut self) {
        for place in 0..self.burst.len() {
            self.give_to_kernel(self.burst[place]);
        }
        self.burst.clear();
    }

    /// The burst is dropped by the host.
    pub(crate) fn drop_burst(&mut self, reason: DropReason) {
        while let Some(packet) = self.burst.pop() {
            self.discard(packet.buffer, reason);
        }
    }

    /// Has something done with a burst that no chain has. What is dropped then is noted, if it came
    /// in by the second port.
    pub(crate) fn for_nobody(&mut self, act: impl FnOnce(&mut Self)) {
        if self.came_by != TO || self.kernel == Some(TO) {
            return act(self);
        }
        let before = self.ledger.counters.drops;
        act(self);
        let counters = &mut self.ledger.counters;
        let now = counters.drops.iter().zip(&before);
        for (elsewhere, (now, before)) in counters.drops_elsewhere.iter_mut().zip(now) {
            *elsewhere += now - before;
        }
    }

    /// The burst gets a verdict that was given to its flows before.
    pub(crate) fn apply_to_burst(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(_) => self.drop_burst(DropReason::FlowVerdict),
            Verdict::ToKernel => self.give_burst_to_kernel(),
            Verdict::Reply | Verdict::Forward(_) => {
                for packet in self.burst.drain(..) {
                    let port = match verdict {
                        Verdict::Forward(port) => port,
                        _ => packet.metadata.port,
                    };
                    self.transmit[usize::from(port)].push(packet);
                }
            }
            _ => self.pass_burst_by(),
        }
    }

    /// A packet continues at the function behind `function`, or leaves when there is none.
    pub(crate) fn continue_behind(&mut self, packet: Packet, function: usize, reverse: bool) {
        let start = if reverse { function.checked_sub(1) } else { Some(function + 1) };
        match start.filter(|start| *start < self.ledger.functions) {
            Some(start) => {
                let moves = self.moved;
                self.ledger.entries.push_back(Entry { packet, start, reverse, moves });
            }
            None => self.leave(packet, reverse),
        }
    }

    /// How many packets this instance of a function was handed by one before it, and still has.
    pub(crate) fn inherited(&self, function: usize, instance: u64) -> usize {
        self.ledger.owned.inherited(function, instance)
    }

    /// Takes back what a function of this instance of the chain owned.
    pub(crate) fn disown(&mut self, function: usize, instance: u64, how: Disown) {
        if let Disown::HandOver { to, inherited } = how {
            return self.ledger.owned.hand_over(function, instance, to, inherited);
        }
        let burst = self.moved;
        for Owned { packet, made, moves, .. } in self.ledger.owned.take(function, instance) {
            self.moved = moves;
            let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
            match how {
                _ if made => self.pool.give(packet.buffer),
                Disown::Discard(reason) => self.discard(packet.buffer, reason),
                _ => self.continue_behind(packet, function, reverse),
            }
        }
        self.moved = burst;
    }
}
