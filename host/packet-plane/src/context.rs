//! What a lane lends to its chain while it runs: pool, ports, and the packets under way.
//!
//! This is the hot path: [`Services::next_burst`] ends one burst (verdicts become transmissions, drops
//! and holds), sends what has to leave, receives the next burst and puts it in the window. Nothing in it
//! allocates (vectors have a burst's room from the start, and grow once if functions hold or make more), locks, logs or
//! makes a system call; ports may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_chain::board::{self, End};
use weir_layout::{BURST_MAX, Descriptor, FLAG_MADE, FLAG_REVERSE, HEADROOM, Metadata, Verdict};
use weir_pool::{BufferIndex, Memory, Packet, Pool};
use weir_port::{Port, PortError, Received};
use weir_sandbox::{FaultKind, Refusal, Services};

use crate::counters::{Counters, DropReason, Shared};
use crate::owned::{Owned, Ownership};

/// Number of the port by which what passed the chain forward leaves, and reverse packets come in.
pub(crate) const TO: usize = 1;
/// Number of the port by which forward packets come in.
pub(crate) const FROM: usize = 0;
/// When to ask a port again that does not say when it has something.
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// Metadata's port of a packet that a function made.
const NO_PORT: u16 = u16::MAX;

/// The time that functions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's monotonic clock.
    Monotonic,
    /// The packets' own time: for replays, which give the same result each time.
    Capture,
}

/// What becomes of the packets that a function holds when its instance ends. Buffers that it had allocated and not
/// sent are freed, except with `HandOver`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disown {
    /// They go on behind the function.
    Pass,
    /// They are dropped.
    Discard(DropReason),
    /// They are this instance's: its state region tells it about them.
    HandOver {
        /// Its number.
        to: u64,
    },
}

/// A packet that enters the chain at some function, because a function sent it or because a fault
/// interrupted its way.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) packet: Packet,
    pub(crate) start: usize,
    pub(crate) reverse: bool,
}

/// Why [`Services::next_burst`] gave no burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It had its share of bursts.
    #[default]
    Turn,
    /// A function's timer is due.
    Timer,
    /// No packets.
    Idle,
}

/// See the module.
pub(crate) struct Context {
    pub(crate) pool: Pool,
    pub(crate) ports: Vec<Box<dyn Port>>,
    /// Ports that will receive nothing any more.
    pub(crate) ended: Vec<bool>,
    /// Errors of ports, for the lane to report.
    pub(crate) port_errors: Vec<PortError>,
    /// Packets of the burst that the chain has, by place.
    pub(crate) burst: Vec<Packet>,
    /// Direction of that burst.
    pub(crate) reverse: bool,
    /// Packets that enter the chain somewhere.
    pub(crate) entries: VecDeque<Entry>,
    transmit: Vec<Vec<Packet>>,
    owned: Ownership,
    functions: usize,
    /// Number of the chain's instance that runs; what one instance holds is not the next one's, unless it
    /// is handed over by [`Self::disown`].
    pub(crate) instance: u64,
    pub(crate) counters: Counters,
    pub(crate) shared: Arc<Shared>,
    clock: Clock,
    started: Instant,
    /// The time of the burst, ns.
    pub(crate) now: u64,
    wall: u64,
    /// The next time that the lane has to look after a function; 0: never.
    pub(crate) timer: u64,
    /// Bursts until the turn is over.
    pub(crate) budget: u32,
    pub(crate) pause: Pause,
    burst_max: usize,
    /// The port to ask first for the next burst, so that both directions get their share.
    first: usize,
    /// When an idle port said to ask again.
    pub(crate) idle_for: Option<Duration>,
    /// Bad verdicts and descriptors in the last burst: function and kind.
    pub(crate) violations: Vec<(usize, FaultKind)>,
}

impl Context {
    /// `functions`: how many the chain has; `symmetric`: whether port 1 receives too.
    pub(crate) fn new(
        pool: Pool,
        ports: Vec<Box<dyn Port>>,
        functions: usize,
        symmetric: bool,
        clock: Clock,
        burst_max: usize,
        shared: Arc<Shared>,
    ) -> Self {
        // Ports from the third on, and the second of an asymmetric chain, only send.
        let ended = (0..ports.len()).map(|p| p > TO || (p == TO && !symmetric)).collect();
        Self {
            ended,
            port_errors: Vec::with_capacity(ports.len()),
            burst: Vec::with_capacity(BURST_MAX),
            reverse: false,
            entries: VecDeque::with_capacity(BURST_MAX),
            transmit: ports.iter().map(|_| Vec::with_capacity(BURST_MAX)).collect(),
            owned: Ownership::new(pool.rooms() as usize, functions),
            functions,
            instance: 0,
            counters: Counters::new(functions),
            shared,
            clock,
            started: Instant::now(),
            now: 0,
            wall: 0,
            timer: 0,
            budget: 0,
            pause: Pause::Turn,
            burst_max: burst_max.clamp(1, BURST_MAX),
            first: FROM,
            idle_for: None,
            violations: Vec::with_capacity(BURST_MAX),
            pool,
            ports,
        }
    }

    /// Number of functions of the chain; a swap may change it.
    pub(crate) fn set_functions(&mut self, functions: usize) {
        self.functions = functions;
        self.owned.set_functions(functions);
        self.counters.set_functions(functions);
    }

    /// Ends the burst that the chain has run without a trap.
    #[inline]
    pub(crate) fn end_burst(&mut self, board: &Memory) {
        board::ends(board, |origin, descriptor, end| self.end(origin, descriptor, end));
        self.burst.clear();
    }

    /// Does what the end of a packet's way calls for.
    #[inline]
    pub(crate) fn end(&mut self, origin: usize, descriptor: Descriptor, end: End) {
        let mut packet = self.burst[origin];
        packet.descriptor = descriptor;
        match end {
            End::Through => self.leave(packet, self.reverse),
            End::Verdict { function, verdict } => {
                self.counters.verdict(function, verdict);
                self.decide(function, packet, verdict);
            }
            End::Fault { function, kind } => {
                self.violations.push((function, kind));
                self.counters.functions[function].undecided += 1;
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
        let port = if reverse { FROM } else { TO.min(self.ports.len() - 1) };
        self.transmit[port].push(packet);
    }

    fn decide(&mut self, function: usize, packet: Packet, verdict: Verdict) {
        match verdict {
            Verdict::Drop(reason) => {
                self.counters.function_drop(function, reason);
                self.pool.give(packet.buffer);
            }
            Verdict::Reply if packet.metadata.port != NO_PORT => {
                self.transmit[usize::from(packet.metadata.port)].push(packet);
            }
            Verdict::Forward(port) if usize::from(port) < self.ports.len() => {
                self.transmit[usize::from(port)].push(packet);
            }
            Verdict::ToKernel => self.discard(packet.buffer, DropReason::ToKernel),
            Verdict::Hold if self.has_share(function) => {
                let instance = self.instance;
                self.owned.insert(Owned { function, instance, made: false, packet });
            }
            Verdict::Hold => self.discard(packet.buffer, DropReason::HoldLimit),
            _ => {
                self.violations.push((function, FaultKind::BadVerdict));
                self.discard(packet.buffer, DropReason::BadVerdict);
            }
        }
    }

    /// A function may own a quarter of the pool.
    fn has_share(&self, function: usize) -> bool {
        self.owned.count(function) < (self.pool.rooms() / 4) as usize
    }

    /// Frees a buffer whose packet is dropped by the host.
    pub(crate) fn discard(&mut self, buffer: BufferIndex, reason: DropReason) {
        self.counters.drop(reason);
        self.pool.give(buffer);
    }

    /// Gives the ports what they have to send.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for (port, packets) in self.ports.iter_mut().zip(&mut self.transmit) {
            if packets.is_empty() {
                continue;
            }
            self.counters.packets_out += packets.len() as u64;
            if let Err(error) = port.send(&mut self.pool, packets) {
                self.port_errors.push(error);
            }
        }
    }

    /// Has the ports do what is due before the worker sleeps; the answer is when they want to be asked again.
    pub(crate) fn settle(&mut self) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        for port in &mut self.ports {
            let again = port.settle(&mut self.pool).unwrap_or_else(|error| {
                self.port_errors.push(error);
                // At once: it has ended, and perhaps the lane with it.
                Some(Duration::ZERO)
            });
            next = match (next, again) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        next
    }

    /// Takes the next burst into `self.burst`; the answer is where it enters the chain. None: `pause` says why.
    #[inline]
    pub(crate) fn receive(&mut self) -> Option<usize> {
        if self.budget == 0 {
            self.pause = Pause::Turn;
            return None;
        }
        self.budget -= 1;
        if !self.entries.is_empty() {
            let start = self.take_entries();
            self.read_clock();
            return Some(start);
        }
        let mut moved = false;
        for turn in 0..2 {
            let port = (self.first + turn) % 2;
            if port >= self.ports.len() || self.ended[port] {
                continue;
            }
            match self.ports[port].receive(&mut self.pool, &mut self.burst, self.burst_max) {
                // Perhaps none for this lane, but the port has something to do.
                Ok(Received::Packets) => moved = true,
                Ok(Received::Idle { next }) => {
                    let next = next.unwrap_or(ASK_AGAIN);
                    self.idle_for = Some(self.idle_for.map_or(next, |other| other.min(next)));
                }
                Ok(Received::Waiting) => {}
                Ok(Received::End) => self.ended[port] = true,
                Err(error) => {
                    self.port_errors.push(error);
                }
            }
            if self.burst.is_empty() {
                continue;
            }
            self.reverse = port == TO;
            let flags = if self.reverse { FLAG_REVERSE } else { 0 };
            for packet in &mut self.burst {
                packet.metadata = Metadata { port: port as u16, flags, hash: packet.metadata.hash };
            }
            self.first = (port + 1) % 2;
            self.counters.packets_in += self.burst.len() as u64;
            self.read_clock();
            if self.timer != 0 && self.timer <= self.now {
                // The functions' timers come first; the burst waits among the entries.
                let (start, reverse) = (self.start(), self.reverse);
                for packet in self.burst.drain(..) {
                    self.entries.push_back(Entry { packet, start, reverse });
                }
                self.pause = Pause::Timer;
                return None;
            }
            return Some(self.start());
        }
        if self.clock == Clock::Monotonic {
            self.read_clock();
        }
        let due = self.timer != 0 && self.timer <= self.now;
        self.pause = match (due, moved) {
            (true, _) => Pause::Timer,
            (false, true) => Pause::Turn,
            (false, false) => Pause::Idle,
        };
        None
    }

    /// Where a burst of this direction enters the chain.
    fn start(&self) -> usize {
        if self.reverse { self.functions - 1 } else { 0 }
    }

    /// Takes entries that belong together: same direction, same function, at most a burst.
    fn take_entries(&mut self) -> usize {
        let Some(&Entry { start, reverse, .. }) = self.entries.front() else { return 0 };
        while let Some(entry) = self.entries.front()
            && entry.start == start
            && entry.reverse == reverse
            && self.burst.len() < self.burst_max
        {
            self.burst.push(entry.packet);
            self.entries.pop_front();
        }
        self.reverse = reverse;
        start
    }

    /// A packet continues at the function behind `function`, or leaves when there is none.
    pub(crate) fn continue_behind(&mut self, packet: Packet, function: usize, reverse: bool) {
        let start = if reverse { function.checked_sub(1) } else { Some(function + 1) };
        match start.filter(|start| *start < self.functions) {
            Some(start) => self.entries.push_back(Entry { packet, start, reverse }),
            None => self.leave(packet, reverse),
        }
    }

    /// Whether time passes without packets.
    pub(crate) fn time_goes_on(&self) -> bool {
        self.clock == Clock::Monotonic
    }

    #[inline]
    fn read_clock(&mut self) {
        match self.clock {
            Clock::Monotonic => {
                // Not a system call: the vDSO reads the time-stamp counter.
                let now = self.started.elapsed().as_nanos();
                self.now = u64::try_from(now).unwrap_or(u64::MAX).saturating_add(1);
                self.wall = self.burst.first().map_or(self.wall, |packet| packet.time);
            }
            Clock::Capture => {
                if let Some(packet) = self.burst.first() {
                    self.now = self.now.max(packet.time);
                    self.wall = self.now;
                }
            }
        }
    }

    /// Puts the received burst into board and window.
    #[inline]
    pub(crate) fn fill(&mut self, board: &mut Memory) {
        board::fill(board, self.pool.memory_mut(), &self.burst, self.now, self.wall);
    }

    /// Where the pool and the rest stand, for everybody to read.
    pub(crate) fn publish(&mut self) {
        self.shared.publish(&self.counters, self.pool.accounting());
    }

    /// Takes back what a function of this instance of the chain owned.
    pub(crate) fn disown(&mut self, function: usize, instance: u64, how: Disown) {
        if let Disown::HandOver { to } = how {
            return self.owned.hand_over(function, instance, to);
        }
        for Owned { packet, made, .. } in self.owned.take(function, instance) {
            let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
            match how {
                _ if made => self.pool.give(packet.buffer),
                Disown::Discard(reason) => self.discard(packet.buffer, reason),
                _ => self.continue_behind(packet, function, reverse),
            }
        }
    }

    /// True while packets are under way or held.
    pub(crate) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Checks what a function wants to send: the verdict's meaning, and where it would go.
    fn sendable(&self, function: usize, reverse: bool, port: u16, verdict: u32) -> Option<Verdict> {
        let verdict = Verdict::decode(verdict)?;
        let fine = match verdict {
            Verdict::Next | Verdict::Drop(_) | Verdict::ToKernel => true,
            Verdict::Reply => port != NO_PORT,
            Verdict::Forward(port) => usize::from(port) < self.ports.len(),
            Verdict::Jump(to) if reverse => usize::from(to) < function,
            Verdict::Jump(to) => (function + 1..self.functions).contains(&usize::from(to)),
            Verdict::Hold | Verdict::Clone(_) => false,
        };
        fine.then_some(verdict)
    }

    /// Sends a packet that a function let go of; the verdict was checked.
    fn release(&mut self, function: usize, packet: Packet, verdict: Verdict) {
        let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
        self.counters.sent(function, verdict);
        match verdict {
            Verdict::Next => self.continue_behind(packet, function, reverse),
            Verdict::Jump(to) => {
                self.entries.push_back(Entry { packet, start: usize::from(to), reverse });
            }
            other => self.decide(function, packet, other),
        }
    }

    /// A packet that a function makes travels in the direction of the burst it is working on.
    fn made_packet(&self, buffer: BufferIndex, descriptor: Descriptor) -> Packet {
        let flags = FLAG_MADE | if self.reverse { FLAG_REVERSE } else { 0 };
        let port = self.burst.first().map_or(NO_PORT, |packet| packet.metadata.port);
        let time = self.burst.first().map_or(self.wall, |packet| packet.time);
        Packet { descriptor, metadata: Metadata { port, flags, hash: 0 }, time, buffer, cut: 0 }
    }
}

impl Services for Box<Context> {
    fn window(&mut self) -> &mut Memory {
        self.pool.memory_mut()
    }

    fn now(&mut self) -> u64 {
        if self.clock == Clock::Monotonic && self.burst.is_empty() {
            self.read_clock();
        }
        self.now
    }

    fn allocate(&mut self, function: usize, length: u32) -> Option<u32> {
        if length > self.pool.packet_max() || !self.has_share(function) {
            return None;
        }
        let buffer = self.pool.take()?;
        let offset = self.pool.room_offset(buffer) + HEADROOM as u32;
        let packet = self.made_packet(buffer, Descriptor { offset, length });
        self.owned.insert(Owned { function, instance: self.instance, made: true, packet });
        Some(offset)
    }

    fn send(
        &mut self,
        function: usize,
        offset: u32,
        length: u32,
        verdict: u32,
    ) -> Result<(), Refusal> {
        let buffer = self.pool.index_of(offset).ok_or(Refusal::NotOwned)?;
        let owned = *self
            .owned
            .get(buffer)
            .filter(|o| o.function == function && o.instance == self.instance)
            .ok_or(Refusal::NotOwned)?;
        let descriptor = Descriptor { offset, length };
        if !descriptor.lies_in(self.pool.room_offset(buffer), self.pool.room_bytes()) {
            return Err(Refusal::OutOfBounds);
        }
        let Metadata { flags, port, .. } = owned.packet.metadata;
        let verdict = self
            .sendable(function, flags & FLAG_REVERSE != 0, port, verdict)
            .ok_or(Refusal::BadVerdict)?;
        self.owned.remove(buffer);
        self.counters.packets_made += u64::from(owned.made);
        self.release(function, Packet { descriptor, ..owned.packet }, verdict);
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
        self.counters.packets_made += 1;
        self.release(function, packet, verdict);
        Ok(())
    }

    fn clone_packet(&mut self, offset: u32, length: u32, port: u32) -> bool {
        let Some(output) = self.transmit.get_mut(port as usize) else { return false };
        let original = self.pool.index_of(offset);
        let Some(&packet) = self.burst.iter().find(|p| Some(p.buffer) == original) else {
            return false;
        };
        let Some(buffer) = self.pool.take() else {
            self.counters.drop(DropReason::NoBuffer);
            self.counters.packets_made += 1;
            return true;
        };
        // Same place in its room as the original, so that it fits for certain.
        let moved = offset - self.pool.room_offset(packet.buffer) + self.pool.room_offset(buffer);
        let copy = Descriptor { offset: moved, length };
        let copied = self.pool.copy(Descriptor { offset, length }, copy);
        debug_assert!(copied, "the runner checked the descriptor");
        self.counters.packets_made += 1;
        output.push(Packet { descriptor: copy, buffer, ..packet });
        true
    }

    #[inline]
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
