//! What a lane lends to its chain while it runs: pool, ports, and the packets under way.
//!
//! This is the hot path: [`Services::next_burst`] ends one burst (verdicts become transmissions, drops
//! and holds), sends what has to leave, receives the next burst and puts it in the window. Nothing in it
//! allocates (vectors have a burst's room from the start, and grow once if functions hold or make more), locks, logs or
//! makes a system call; ports may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use weir_chain::board::{self, End};
use weir_layout::{BURST_MAX, Descriptor, FLAG_MADE, FLAG_REVERSE, HEADROOM, Metadata, Verdict};
use weir_pool::{BufferIndex, Memory, Packet, Pool};
use weir_port::{Port, PortError, Received, monotonic};
use weir_sandbox::{FaultKind, Refusal, Requests, Services};
use weir_steering::Key;

use crate::counters::{Counters, DropReason, Shared};
use crate::owned::{Owned, Ownership};
use crate::upward::Upward;

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

/// What a function decided about the flow of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Conclusion {
    /// As in [`Context::flows`].
    pub(crate) flow: u32,
    pub(crate) decision: Decision,
}

/// See [`Conclusion`].
#[derive(Clone, Copy)]
pub(crate) enum Decision {
    /// These functions, as bits, let it pass for good.
    Pass(u64),
    /// This function has given it a verdict for good.
    Verdict(usize, Verdict),
}

/// A packet that leaves for another chain, with its flow.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) packet: Packet,
    /// The function that wants it, and the number of its target.
    pub(crate) function: usize,
    pub(crate) target: u16,
    /// As in [`Context::flows`], if it is known.
    pub(crate) flow: Option<u32>,
    pub(crate) reverse: bool,
}

/// What [`Context::receive_from_ports`] has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// A burst.
    Burst,
    /// Nothing for this lane, but a port had something to do.
    Others,
    /// Nothing.
    Nothing,
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

/// What a chain has under way, holds and has counted, beside the pool and the ports: lanes that share those
/// have one each.
pub(crate) struct Ledger {
    /// Packets that enter the chain somewhere.
    pub(crate) entries: VecDeque<Entry>,
    owned: Ownership,
    functions: usize,
    /// Number of the chain's instance that runs; what one instance holds is not the next one's, unless it
    /// is handed over by [`Context::disown`].
    pub(crate) instance: u64,
    pub(crate) counters: Counters,
    pub(crate) shared: Arc<Shared>,
    /// The next time that the lane has to look after a function; 0: never.
    pub(crate) timer: u64,
    /// What of the chain's packets goes up to the kernel's stack.
    pub(crate) upward: Option<Arc<Upward>>,
}

impl Ledger {
    /// Of a chain with so many functions, over a pool of so many rooms.
    pub(crate) fn new(rooms: usize, functions: usize) -> Self {
        Self {
            entries: VecDeque::with_capacity(BURST_MAX),
            owned: Ownership::new(rooms, functions),
            functions,
            instance: 0,
            counters: Counters::new(functions),
            shared: Arc::default(),
            timer: 0,
            upward: None,
        }
    }
}

/// See the module.
pub(crate) struct Context {
    pub(crate) pool: Pool,
    pub(crate) ports: Vec<Box<dyn Port>>,
    /// Number of the port that is the kernel's stack.
    pub(crate) kernel: Option<usize>,
    /// Number of the port by which what passed the chain forward leaves.
    pub(crate) to: usize,
    /// Ports that are asked for packets: the first so many.
    asked: usize,
    /// The port by which the burst came in.
    pub(crate) came_by: usize,
    /// Whether somebody wants to know of flows that the kernel will answer.
    pub(crate) notes_answers: bool,
    /// Flows of which a packet went to the kernel, as its answers will come in.
    pub(crate) answers: Vec<Key>,
    /// Ports that will receive nothing any more.
    pub(crate) ended: Vec<bool>,
    /// Ports whose packets come with their metadata.
    stamped: Vec<bool>,
    /// Errors of ports, for the lane to report.
    pub(crate) port_errors: Vec<PortError>,
    /// Packets of the burst that the chain has, by place.
    pub(crate) burst: Vec<Packet>,
    /// Direction of that burst.
    pub(crate) reverse: bool,
    /// What belongs to the chain that runs.
    pub(crate) ledger: Ledger,
    pub(crate) transmit: Vec<Vec<Packet>>,
    /// Packets for the kernel's stack, by the port that gives them to it.
    to_kernel: Vec<Vec<Packet>>,
    /// Belongs to a station, which sees to [`Self::moves`].
    pub(crate) stationed: bool,
    /// Of what `transmit` and `to_kernel` have, so much was counted.
    counted: [usize; 2],
    /// Ports are not asked: only packets that are under way go on.
    pub(crate) closed: bool,
    /// For each packet of the burst its flow: a number that whoever filled the burst knows. Empty: nobody wants to know what
    /// is decided about flows.
    pub(crate) flows: Vec<u32>,
    /// What was decided about flows of the burst.
    pub(crate) conclusions: Vec<Conclusion>,
    /// Packets that leave for another chain.
    pub(crate) moves: Vec<Move>,
    clock: Clock,
    /// When it was made, ns of the monotonic clock.
    started: u64,
    /// The time of the burst, ns.
    pub(crate) now: u64,
    wall: u64,
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
    /// `symmetric`: whether port 1 receives too.
    pub(crate) fn new(
        pool: Pool,
        mut ports: Vec<Box<dyn Port>>,
        symmetric: bool,
        clock: Clock,
        burst_max: usize,
    ) -> Self {
        let kernel = ports.iter().position(|port| port.is_kernel());
        // Others from the third on, and the second of an asymmetric chain, only send.
        let sends_only = |p| Some(p) != kernel && (p > TO || (p == TO && !symmetric));
        let ended: Vec<bool> = (0..ports.len()).map(sends_only).collect();
        let stamped = ports.iter_mut().enumerate().map(|(p, port)| port.stamp(metadata(p, 0)));
        Self {
            stamped: stamped.collect(),
            asked: ended.iter().rposition(|ended| !ended).map_or(0, |last| last + 1),
            // What is for the kernel a chain says; without another port packets go back.
            to: if kernel == Some(TO) { FROM } else { TO.min(ports.len().saturating_sub(1)) },
            kernel,
            came_by: FROM,
            notes_answers: false,
            answers: Vec::new(),
            ended,
            port_errors: Vec::with_capacity(ports.len()),
            burst: Vec::with_capacity(BURST_MAX),
            reverse: false,
            transmit: ports.iter().map(|_| Vec::with_capacity(BURST_MAX)).collect(),
            to_kernel: ports.iter().map(|_| Vec::new()).collect(),
            stationed: false,
            counted: [0; 2],
            closed: false,
            flows: Vec::new(),
            conclusions: Vec::new(),
            moves: Vec::new(),
            ledger: Ledger::new(pool.rooms() as usize, 0),
            clock,
            started: monotonic(),
            now: 0,
            wall: 0,
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
        self.ledger.functions = functions;
        self.ledger.owned.set_functions(functions);
        self.ledger.counters.set_functions(functions);
    }

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
                    let reverse = self.reverse;
                    self.moves.push(Move { packet, function, target, flow, reverse });
                } else if target == 0 {
                    self.give_to_kernel(packet);
                } else {
                    self.discard(packet.buffer, DropReason::NoTarget);
                }
            }
            End::Verdict { function, verdict, whole_flow } => {
                self.ledger.counters.verdict(function, verdict);
                if whole_flow {
                    self.conclude(origin, Decision::Verdict(function, verdict));
                }
                self.decide(function, packet, verdict);
            }
            End::Fault { function, kind } => {
                self.violations.push((function, kind));
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

    fn decide(&mut self, function: usize, packet: Packet, verdict: Verdict) {
        match verdict {
            Verdict::Drop(reason) => {
                self.ledger.counters.function_drop(function, reason);
                self.pool.give(packet.buffer);
            }
            Verdict::Reply if packet.metadata.port != NO_PORT => {
                self.transmit[usize::from(packet.metadata.port)].push(packet);
            }
            Verdict::Forward(port) if usize::from(port) < self.ports.len() => {
                self.transmit[usize::from(port)].push(packet);
            }
            Verdict::ToKernel => self.give_to_kernel(packet),
            Verdict::Hold if self.has_share(function) => {
                let instance = self.ledger.instance;
                self.ledger.owned.insert(Owned { function, instance, made: false, packet });
            }
            Verdict::Hold => self.discard(packet.buffer, DropReason::HoldLimit),
            _ => {
                self.violations.push((function, FaultKind::BadVerdict));
                self.discard(packet.buffer, DropReason::BadVerdict);
            }
        }
    }

    /// Gives the packet to the kernel's stack, as if it had come in there by its port; drops it where there is no way.
    pub(crate) fn give_to_kernel(&mut self, packet: Packet) {
        let port = usize::from(packet.metadata.port);
        if self.kernel == Some(port) {
            // It comes from there: what it answers went up without functions, and so it goes on without.
            return self.transmit[FROM].push(packet);
        }
        let way = self.kernel.filter(|_| port == FROM).unwrap_or(port);
        if self.ports.get(way).is_some_and(|port| port.reaches_kernel()) {
            if let Some(upward) = &self.ledger.upward {
                upward.readdress(self.pool.bytes_mut(packet.descriptor).unwrap_or_default());
            }
            self.note_answer(packet, way);
            self.to_kernel[way].push(packet);
        } else {
            self.discard(packet.buffer, DropReason::ToKernel);
        }
    }

    /// A function may own a quarter of the pool.
    fn has_share(&self, function: usize) -> bool {
        self.ledger.owned.count(function) < (self.pool.rooms() / 4) as usize
    }

    /// Frees a buffer whose packet is dropped by the host.
    pub(crate) fn discard(&mut self, buffer: BufferIndex, reason: DropReason) {
        self.ledger.counters.drop(reason);
        self.pool.give(buffer);
    }

    /// Gives the ports what they have to send.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.count_out();
        self.counted = [0; 2];
        for (port, packets) in self.ports.iter_mut().zip(&mut self.transmit) {
            if packets.is_empty() {
                continue;
            }
            if let Err(error) = port.send(&mut self.pool, packets) {
                self.port_errors.push(error);
            }
        }
        for (port, packets) in self.ports.iter_mut().zip(&mut self.to_kernel) {
            if packets.is_empty() {
                continue;
            }
            if let Err(error) = port.to_kernel(&mut self.pool, packets) {
                self.port_errors.push(error);
            }
        }
    }

    /// Counts what has to leave and was not counted yet: it is this ledger's.
    #[inline]
    pub(crate) fn count_out(&mut self) {
        let waiting = |all: &[Vec<Packet>]| all.iter().map(Vec::len).sum::<usize>();
        let now = [waiting(&self.transmit), waiting(&self.to_kernel)];
        let [out, kernel] = [now[0] - self.counted[0], now[1] - self.counted[1]];
        self.ledger.counters.packets_out += out as u64;
        self.ledger.counters.packets_to_kernel += kernel as u64;
        self.counted = now;
    }

    /// The burst leaves by the chain's output.
    #[inline]
    pub(crate) fn pass_burst_by(&mut self) {
        if !self.reverse && self.ledger.upward.is_some() {
            for place in 0..self.burst.len() {
                self.leave_or_go_up(self.burst[place]);
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

    /// Has the ports write out what they have, and give back their buffers.
    pub(crate) fn finish_ports(&mut self) -> Result<(), PortError> {
        let mut result = Ok(());
        for port in &mut self.ports {
            if let Err(error) = port.finish(&mut self.pool) {
                result = Err(error);
            }
        }
        if let Some(error) = self.port_errors.pop() {
            result = Err(error);
        }
        result
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
        if !self.ledger.entries.is_empty() {
            let start = self.take_entries();
            self.read_clock();
            return Some(start);
        }
        let mut got = if self.closed { Got::Nothing } else { self.receive_from_ports() };
        if got == Got::Burst && self.is_kernels() && self.ledger.upward.is_none() {
            self.send_for_kernel();
            got = Got::Others;
        }
        if got == Got::Burst {
            self.ledger.counters.packets_in += self.burst.len() as u64;
            let start = self.start();
            if self.ledger.timer != 0 && self.ledger.timer <= self.now {
                // The functions' timers come first; the burst waits among the entries.
                let reverse = self.reverse;
                for packet in self.burst.drain(..) {
                    self.ledger.entries.push_back(Entry { packet, start, reverse });
                }
                self.pause = Pause::Timer;
                return None;
            }
            return Some(start);
        }
        if self.clock == Clock::Monotonic {
            self.read_clock();
        }
        let due = self.ledger.timer != 0 && self.ledger.timer <= self.now;
        self.pause = match (due, got) {
            (true, _) => Pause::Timer,
            (false, Got::Nothing) => Pause::Idle,
            _ => Pause::Turn,
        };
        None
    }

    /// Takes a burst of one port into `self.burst`, and the time.
    #[inline]
    pub(crate) fn receive_from_ports(&mut self) -> Got {
        let mut got = Got::Nothing;
        for turn in 0..self.asked {
            let mut port = self.first + turn;
            if port >= self.asked {
                port -= self.asked;
            }
            if self.ended[port] {
                continue;
            }
            match self.ports[port].receive(&mut self.pool, &mut self.burst, self.burst_max) {
                // Perhaps none for this lane, but the port has something to do.
                Ok(Received::Packets) => got = Got::Others,
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
            (self.reverse, self.came_by) = (port != FROM, port);
            if !self.stamped[port] {
                for packet in &mut self.burst {
                    packet.metadata = metadata(port, packet.metadata.hash);
                }
            }
            self.first = if port + 1 < self.asked { port + 1 } else { FROM };
            self.set_clock(self.ports[port].received_at());
            return Got::Burst;
        }
        got
    }

    /// Where a burst of this direction enters the chain.
    pub(crate) fn start(&self) -> usize {
        if self.reverse { self.ledger.functions - 1 } else { 0 }
    }

    /// Takes entries that belong together: same direction, same function, at most a burst.
    fn take_entries(&mut self) -> usize {
        let Some(&Entry { start, reverse, .. }) = self.ledger.entries.front() else { return 0 };
        while let Some(entry) = self.ledger.entries.front()
            && entry.start == start
            && entry.reverse == reverse
            && self.burst.len() < self.burst_max
        {
            self.burst.push(entry.packet);
            self.ledger.entries.pop_front();
        }
        self.reverse = reverse;
        start
    }

    /// A packet continues at the function behind `function`, or leaves when there is none.
    pub(crate) fn continue_behind(&mut self, packet: Packet, function: usize, reverse: bool) {
        let start = if reverse { function.checked_sub(1) } else { Some(function + 1) };
        match start.filter(|start| *start < self.ledger.functions) {
            Some(start) => self.ledger.entries.push_back(Entry { packet, start, reverse }),
            None => self.leave(packet, reverse),
        }
    }

    /// Whether time passes without packets.
    pub(crate) fn time_goes_on(&self) -> bool {
        self.clock == Clock::Monotonic
    }

    #[inline]
    fn read_clock(&mut self) {
        self.set_clock(None);
    }

    /// Takes this for the time, if somebody has read the monotonic clock a moment ago.
    #[inline]
    fn set_clock(&mut self, read: Option<u64>) {
        match self.clock {
            Clock::Monotonic => {
                self.now = read.unwrap_or_else(monotonic).saturating_sub(self.started) + 1;
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
        self.ledger.shared.publish(&self.ledger.counters, self.pool.accounting());
    }

    /// Takes back what a function of this instance of the chain owned.
    pub(crate) fn disown(&mut self, function: usize, instance: u64, how: Disown) {
        if let Disown::HandOver { to } = how {
            return self.ledger.owned.hand_over(function, instance, to);
        }
        for Owned { packet, made, .. } in self.ledger.owned.take(function, instance) {
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
        !self.ledger.entries.is_empty()
    }

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

    /// Sends a packet that a function let go of; the verdict was checked.
    fn release(&mut self, function: usize, packet: Packet, verdict: Verdict) {
        let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
        self.ledger.counters.sent(function, verdict);
        match verdict {
            Verdict::Next => self.continue_behind(packet, function, reverse),
            Verdict::Jump(to) => {
                self.ledger.entries.push_back(Entry { packet, start: usize::from(to), reverse });
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

/// Another packet with the same bytes, if there is a buffer.
pub(crate) fn copy_of(pool: &mut Pool, packet: Packet) -> Option<Packet> {
    let buffer = pool.take()?;
    // Same place in its room as the original, so that it fits for certain.
    let Descriptor { offset, length } = packet.descriptor;
    let offset = offset - pool.room_offset(packet.buffer) + pool.room_offset(buffer);
    let copy = Descriptor { offset, length };
    let copied = pool.copy(packet.descriptor, copy);
    debug_assert!(copied, "a packet lies in its room");
    Some(Packet { descriptor: copy, buffer, ..packet })
}

/// Of a packet that came in by this port.
fn metadata(port: usize, hash: u32) -> Metadata {
    Metadata { port: port as u16, flags: if port == FROM { 0 } else { FLAG_REVERSE }, hash }
}

impl Requests for Box<Context> {
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
        self.ledger.owned.insert(Owned {
            function,
            instance: self.ledger.instance,
            made: true,
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
        self.ledger.counters.packets_made += 1;
        self.release(function, packet, verdict);
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
