//! What a lane lends to its chain while it runs: pool, ports, and the packets under way.
//!
//! This is the hot path: [`Services::next_burst`] ends one burst (verdicts become transmissions,
//! drops and holds), sends what has to leave, receives the next burst and puts it in the window.
//! Nothing in it allocates (vectors have a burst's room from the start, and grow once if functions
//! hold or make more), locks, logs or makes a system call; ports may.

mod ends;
mod ledger;
mod ports;
mod services;

use std::time::Duration;

use weir_chain::board;
use weir_layout::{BURST_MAX, Descriptor, Verdict};
use weir_pool::{BufferIndex, Memory, Packet, Pool};
use weir_port::{Port, PortError};
use weir_steering::Key;

pub(crate) use self::ends::has_turned;
pub(crate) use self::ledger::{Disown, Entry, Ledger};
use self::ports::metadata;
use crate::violation::Violation;

/// Number of the port by which what passed the chain forward leaves, and reverse packets come in.
pub(crate) const TO: usize = 1;
/// Number of the port by which forward packets come in.
pub(crate) const FROM: usize = 0;
/// Metadata's port of a packet that a function made.
pub(crate) const NO_PORT: u16 = u16::MAX;

/// The time that functions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's monotonic clock.
    Monotonic,
    /// The packets' own time: for replays, which give the same result each time.
    Capture,
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
    /// How often it was moved before.
    pub(crate) moves: u8,
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
    /// How often its packets have been moved from chain to chain.
    pub(crate) moved: u8,
    /// What belongs to the chain that runs.
    pub(crate) ledger: Ledger,
    pub(crate) transmit: Vec<Vec<Packet>>,
    /// Packets for the kernel's stack, by the port that gives them to it.
    to_kernel: Vec<Vec<Packet>>,
    /// Belongs to a station, which sees to [`Self::moves`].
    pub(crate) stationed: bool,
    /// Of what `transmit` and `to_kernel` have for each port, so much was counted.
    counted: Vec<[usize; 2]>,
    /// Ports are not asked: only packets that are under way go on.
    pub(crate) closed: bool,
    /// For each packet of the burst its flow: a number that whoever filled the burst knows. Empty:
    /// nobody wants to know what is decided about flows.
    pub(crate) flows: Vec<u32>,
    /// What was decided about flows of the burst.
    pub(crate) conclusions: Vec<Conclusion>,
    /// Packets that leave for another chain.
    pub(crate) moves: Vec<Move>,
    clock: Clock,
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
    /// Bad verdicts and descriptors in the last burst.
    pub(crate) violations: Vec<Violation>,
    /// The burst that came in last.
    arrived: Arrived,
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
            moved: 0,
            transmit: ports.iter().map(|_| Vec::with_capacity(BURST_MAX)).collect(),
            to_kernel: ports.iter().map(|_| Vec::new()).collect(),
            stationed: false,
            counted: vec![[0; 2]; ports.len()],
            closed: false,
            flows: Vec::new(),
            conclusions: Vec::new(),
            moves: Vec::new(),
            ledger: Ledger::new(pool.rooms() as usize, Vec::new()),
            clock,
            now: 0,
            wall: 0,
            budget: 0,
            pause: Pause::Turn,
            burst_max: burst_max.clamp(1, BURST_MAX),
            first: FROM,
            idle_for: None,
            violations: Vec::with_capacity(BURST_MAX),
            arrived: Arrived::default(),
            pool,
            ports,
        }
    }

    /// Names of the chain's functions; a chain that takes its place may have others.
    pub(crate) fn set_functions(&mut self, names: Vec<String>) {
        self.ledger.functions = names.len();
        self.ledger.owned.set_functions(names.len());
        self.ledger.counters.set_functions(names);
    }

    /// Whether time passes without packets.
    pub(crate) fn time_goes_on(&self) -> bool {
        self.clock == Clock::Monotonic
    }

    /// Puts the received burst into board and window.
    #[inline]
    pub(crate) fn fill(&mut self, board: &mut Memory) {
        board::fill(board, self.pool.memory_mut(), &self.burst, self.now, self.wall);
        let timed = self.ledger.sampler.next(self.now);
        board::set_watched(board, timed || self.ledger.observers.watch());
    }

    /// Where the pool and the rest stand, for everybody to read.
    pub(crate) fn publish(&mut self) {
        let Ledger { shared, counters, .. } = &self.ledger;
        self.ledger.unpublished = !shared.publish(counters, self.pool.accounting());
    }

    /// True while packets are under way or held.
    pub(crate) fn has_entries(&self) -> bool {
        !self.ledger.entries.is_empty()
    }
}

/// A burst that came in: enough to know it again when it is passed through the chain.
#[derive(Clone, Copy, Debug, Default)]
struct Arrived {
    first: Option<BufferIndex>,
    packets: usize,
    /// Packets that had come before it.
    before: u64,
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
