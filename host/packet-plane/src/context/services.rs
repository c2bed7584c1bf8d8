//! What a chain and its functions ask the host for while they run.

use std::mem;

use weir_chain::board;
use weir_layout::{Descriptor, FLAG_MADE, FLAG_REVERSE, HEADROOM, Metadata, Verdict};
use weir_pool::{BufferIndex, Memory, Packet};
use weir_sandbox::{Refusal, Requests, Services};

use super::{Clock, Context, Entry, Ledger, NO_PORT, copy_of};
use crate::counters::DropReason;
use crate::owned::Owned;

impl Requests for Box<Context> {
    fn now(&mut self) -> u64 {
        if self.clock == Clock::Monotonic && self.burst.is_empty() {
            self.read_clock();
        }
        self.now
    }

    fn allocate(&mut self, function: usize, length: u32) -> Option<u32> {
        if length > self.pool.packet_max() || !self.make_share(function) {
            return None;
        }
        let buffer = self.pool.take()?;
        let offset = self.pool.room_offset(buffer) + HEADROOM as u32;
        let packet = self.made_packet(buffer, Descriptor { offset, length });
        self.ledger.owned.insert(Owned {
            function,
            instance: self.ledger.instance,
            made: true,
            inherited: false,
            moves: self.moves_of_burst(),
            packet,
        });
        Some(offset)
    }

    fn send(
        &mut self,
        function: usize,
        offset: u32,
        length: u32,
        verdict: u32,
    ) -> Result<(), Refusal> {
        // Whose it is comes first: so functions learn what they were let hold.
        let buffer = self.pool.index_of(offset).ok_or(Refusal::NotOwned)?;
        let owned = *self
            .ledger
            .owned
            .get(buffer)
            .filter(|o| o.function == function && o.instance == self.ledger.instance)
            .ok_or(Refusal::NotOwned)?;
        let descriptor = Descriptor { offset, length };
        if !descriptor.lies_in(self.pool.room_offset(buffer), self.pool.room_bytes()) {
            return Err(Refusal::OutOfBounds);
        }
        let Metadata { flags, port, .. } = owned.packet.metadata;
        let verdict = self
            .sendable(function, flags & FLAG_REVERSE != 0, port, verdict)
            .ok_or(Refusal::BadVerdict)?;
        self.ledger.owned.remove(buffer);
        self.ledger.counters.packets_made += u64::from(owned.made);
        let packet = Packet { descriptor, ..owned.packet };
        self.release(function, packet, verdict, owned.moves);
        Ok(())
    }

    fn send_copy(&mut self, function: usize, bytes: &[u8], verdict: u32) -> Result<(), Refusal> {
        let port = self.burst.first().map_or(NO_PORT, |packet| packet.metadata.port);
        let verdict =
            self.sendable(function, self.reverse, port, verdict).ok_or(Refusal::BadVerdict)?;
        if bytes.len() > self.pool.packet_max() as usize {
            return Err(Refusal::OutOfBounds);
        }
        let buffer = self.pool.take().ok_or(Refusal::Exhausted)?;
        let Some(descriptor) = self.pool.place(buffer, bytes) else {
            self.pool.give(buffer);
            return Err(Refusal::OutOfBounds);
        };
        let packet = self.made_packet(buffer, descriptor);
        self.ledger.counters.packets_made += 1;
        self.release(function, packet, verdict, self.moves_of_burst());
        Ok(())
    }
}

impl Services for Box<Context> {
    fn window(&mut self) -> &mut Memory {
        self.pool.memory_mut()
    }

    fn clone_packet(&mut self, offset: u32, length: u32, port: u32) -> bool {
        let Some(output) = self.transmit.get_mut(port as usize) else { return false };
        let original = self.pool.index_of(offset);
        let Some(&packet) = self.burst.iter().find(|p| Some(p.buffer) == original) else {
            return false;
        };
        // The runner checked the descriptor.
        let descriptor = Descriptor { offset, length };
        match copy_of(&mut self.pool, Packet { descriptor, ..packet }) {
            Some(copy) => output.push(copy),
            None => self.ledger.counters.drop(DropReason::NoBuffer),
        }
        self.ledger.counters.packets_made += 1;
        true
    }

    fn look(&mut self, place: usize, count: usize, done: bool) {
        let observers = &mut self.ledger.observers;
        if done {
            observers.after(place, self.pool.memory(), count);
        } else {
            observers.before(place, self.pool.memory(), count);
        }
    }

    fn time(&mut self, place: usize, count: usize, done: bool) {
        let Ledger { sampler, counters, .. } = &mut self.ledger;
        if done {
            sampler.end(place, count, &mut counters.functions[place].sample);
        } else {
            sampler.begin(place);
        }
    }

    fn next_burst(&mut self, board: &mut Memory) -> u64 {
        if !self.burst.is_empty() {
            self.end_burst(board);
        }
        self.flush();
        match self.receive() {
            Some(start) => {
                self.fill(board);
                board::pack(self.burst.len(), start, self.reverse)
            }
            None => 0,
        }
    }
}

impl Context {
    /// Checks what a function wants to send: the verdict's meaning, and where it would go.
    fn sendable(&self, function: usize, reverse: bool, port: u16, verdict: u32) -> Option<Verdict> {
        let verdict = Verdict::decode(verdict)?;
        let fine = match verdict {
            Verdict::Next | Verdict::Drop(_) | Verdict::ToKernel => true,
            Verdict::Reply => port != NO_PORT,
            Verdict::Forward(port) => usize::from(port) < self.ports.len(),
            Verdict::Jump(to) if reverse => usize::from(to) < function,
            Verdict::Jump(to) => (function + 1..self.ledger.functions).contains(&usize::from(to)),
            Verdict::Hold | Verdict::Clone(_) | Verdict::Move(_) => false,
        };
        fine.then_some(verdict)
    }

    /// Sends a packet that a function let go of, and that was moved so often; the verdict was
    /// checked.
    fn release(&mut self, function: usize, packet: Packet, verdict: Verdict, moves: u8) {
        let burst = mem::replace(&mut self.moved, moves);
        let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
        self.ledger.counters.sent(function, verdict);
        match verdict {
            Verdict::Next => self.continue_behind(packet, function, reverse),
            Verdict::Jump(to) => {
                let start = usize::from(to);
                self.ledger.entries.push_back(Entry { packet, start, reverse, moves });
            }
            other => {
                self.decide(function, packet, other);
            }
        }
        self.moved = burst;
    }

    /// How often what a function makes was moved: as the packets that it is working on, if it is.
    fn moves_of_burst(&self) -> u8 {
        if self.burst.is_empty() { 0 } else { self.moved }
    }

    /// A packet that a function makes travels in the direction of the burst it is working on.
    fn made_packet(&self, buffer: BufferIndex, descriptor: Descriptor) -> Packet {
        let flags = FLAG_MADE | if self.reverse { FLAG_REVERSE } else { 0 };
        let port = self.burst.first().map_or(NO_PORT, |packet| packet.metadata.port);
        let time = self.burst.first().map_or(self.wall, |packet| packet.time);
        Packet { descriptor, metadata: Metadata { port, flags, hash: 0 }, time, buffer, cut: 0 }
    }
}
