//! What a flow may do next, and how long it is remembered.
//!
//! Owns: the stages of a flow and their timeouts. Must not know: packets' bytes, tables, rules.
//!
//! The TCP stages are those of RFC 9293 section 3.3.2 as a bystander sees them, the timeouts Linux
//! conntrack's (nf_conntrack sysctl documentation). Of sequence numbers only those of RSTs are
//! judged.

use serde::Deserialize;

/// TCP flags (RFC 9293, section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Where a flow is in its life; also the index of its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// TCP: a SYN was seen.
    SynSent,
    /// TCP: it was answered.
    SynReceived,
    /// TCP: the answer was acknowledged.
    Established,
    /// TCP: one side sent FIN.
    FinWait,
    /// TCP: both sides sent FIN.
    TimeWait,
    /// TCP: both sides sent RST, or one of a connection that was not open.
    Closed,
    /// UDP: nothing came back yet.
    Udp,
    /// UDP: both sides sent.
    UdpStream,
    /// An ICMP query.
    Icmp,
    /// Any other protocol.
    Generic,
    /// TCP: picked up in its middle; the other side has sent nothing yet.
    Midway,
    /// TCP: one side of an open connection sent RST.
    Reset,
}

const STAGES: [Stage; 12] = [
    Stage::SynSent,
    Stage::SynReceived,
    Stage::Established,
    Stage::FinWait,
    Stage::TimeWait,
    Stage::Closed,
    Stage::Udp,
    Stage::UdpStream,
    Stage::Icmp,
    Stage::Generic,
    Stage::Midway,
    Stage::Reset,
];

impl Stage {
    /// From its number; `None` for what is no stage.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        STAGES.get(usize::from(number)).copied()
    }
}

/// The table `state` of the configuration: seconds that a flow is remembered after its last packet.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Timeouts {
    /// A SYN was seen.
    pub tcp_syn_sent: u32,
    /// It was answered.
    pub tcp_syn_received: u32,
    /// The connection is open.
    pub tcp_established: u32,
    /// One side sent FIN.
    pub tcp_fin_wait: u32,
    /// Both sides sent FIN.
    pub tcp_time_wait: u32,
    /// Both sides sent RST, or one of a connection that was not open.
    pub tcp_close: u32,
    /// One side of an open connection sent RST.
    pub tcp_reset: u32,
    /// Picked up in its middle, and the other side has sent nothing yet.
    pub tcp_unacknowledged: u32,
    /// UDP, nothing came back yet.
    pub udp: u32,
    /// UDP, both sides sent.
    pub udp_stream: u32,
    /// ICMP queries.
    pub icmp: u32,
    /// Other protocols.
    pub generic: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 120,
            tcp_syn_received: 60,
            tcp_established: 432_000,
            tcp_fin_wait: 120,
            tcp_time_wait: 120,
            tcp_close: 10,
            tcp_reset: 240,
            tcp_unacknowledged: 300,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            generic: 600,
        }
    }
}

/// Longest timeout, in seconds: a year.
const LONGEST: u32 = 31_536_000;
/// Seconds without another packet after a doubtful RST: what RFC 5382 (REQ-5) grants a connection,
/// longer than hosts let one be silent that they keep alive (RFC 9293, section 3.8.4: two hours).
const DOUBTED: u32 = 7440;
/// A tick is 2^27 ns, about 0.13 s.
const TICK_BITS: u32 = 27;

/// A moment in ticks, modulo 2^32 (18 years).
#[must_use]
pub(crate) const fn ticks(now: u64) -> u32 {
    // Moments are compared modulo 2^32.
    (now >> TICK_BITS) as u32
}

/// So many seconds in ticks. One tick more: the moment is rounded down, the timeout must not be
/// shorter than asked.
const fn timeout(seconds: u32) -> u32 {
    ticks(seconds as u64 * 1_000_000_000) + 2
}

/// Timeouts in ticks.
pub(crate) struct Clock {
    ticks: [u32; STAGES.len()],
}

impl Clock {
    /// Checks the configured timeouts.
    pub(crate) fn new(timeouts: &Timeouts) -> Result<Self, String> {
        let named = [
            ("tcp-syn-sent", timeouts.tcp_syn_sent),
            ("tcp-syn-received", timeouts.tcp_syn_received),
            ("tcp-established", timeouts.tcp_established),
            ("tcp-fin-wait", timeouts.tcp_fin_wait),
            ("tcp-time-wait", timeouts.tcp_time_wait),
            ("tcp-close", timeouts.tcp_close),
            ("udp", timeouts.udp),
            ("udp-stream", timeouts.udp_stream),
            ("icmp", timeouts.icmp),
            ("generic", timeouts.generic),
            ("tcp-unacknowledged", timeouts.tcp_unacknowledged),
            ("tcp-reset", timeouts.tcp_reset),
        ];
        if let Some((key, value)) = named.iter().find(|(_, value)| !(1..=LONGEST).contains(value)) {
            return Err(format!("state.{key}: {value} is not from 1 to {LONGEST} seconds"));
        }
        Ok(Self { ticks: named.map(|(_, value)| timeout(value)) })
    }

    /// When a flow that is in this stage now is forgotten.
    pub(crate) fn deadline(&self, now: u32, stage: Stage) -> u32 {
        now.wrapping_add(self.ticks[stage as usize])
    }

    /// The deadline of a flow after an RST that need not be its sender's. There are receivers that
    /// heed it.
    pub(crate) fn doubted(&self, now: u32, deadline: u32) -> u32 {
        now.wrapping_add(timeout(DOUBTED).min(deadline.wrapping_sub(now)))
    }

    /// A deadline that lies ahead, or the latest that a flow in this stage may have.
    pub(crate) fn shortened(&self, now: u32, deadline: u32, stage: Stage) -> u32 {
        now.wrapping_add(self.ticks[stage as usize].min(deadline.wrapping_sub(now)))
    }

    /// Ticks since the last packet of a flow that is in this stage and has this deadline, which
    /// lies ahead. None when it lies further ahead than the stage's timeout is long: that was
    /// longer once.
    pub(crate) fn silence(&self, now: u32, deadline: u32, stage: Stage) -> u32 {
        self.ticks[stage as usize].saturating_sub(deadline.wrapping_sub(now))
    }

    /// True when the deadline lies ahead, and not further than any timeout could put it: a deadline
    /// beyond that is from another clock (a restarted machine, another capture). Not than the
    /// timeouts of this configuration: those before it may have been longer.
    pub(crate) fn alive(&self, now: u32, deadline: u32) -> bool {
        const AHEAD: u32 = timeout(LONGEST);
        deadline.wrapping_sub(now).wrapping_sub(1) < AHEAD
    }
}

/// What is remembered of a flow, beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Where it is.
    pub(crate) stage: Stage,
    /// Bits: [`FIN_SEEN`] shifted by the side, [`RESET_BY_RESPONDER`], [`OPENED`].
    pub(crate) marks: u8,
}

/// The originator sent FIN; the bit above it: the responder did.
const FIN_SEEN: u8 = 1;
/// In stages closed and reset: the side that sent RST was the responder.
const RESET_BY_RESPONDER: u8 = 4;
/// The handshake was completed; of UDP, something came after an answer; of other protocols, both
/// sides sent.
const OPENED: u8 = 8;

/// Who sent a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who sent the flow's first packet.
    Originator,
    /// The other.
    Responder,
}

/// What a packet of a known flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Part of the flow.
    Pass,
    /// Impossible at this stage.
    Invalid,
    /// The beginning of another flow with the same addresses and ports: the rules must decide.
    Again,
    /// An RST that need not be its sender's: it passes, and the flow stays where it is.
    Doubtful,
}

/// True for combinations of flags that a sane sender can make. Scanners and evasion tools send
/// others.
pub(crate) fn sane(flags: u8) -> bool {
    // ECE, CWR, URG and PSH say nothing about the connection.
    const SANE: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
    SANE.contains(&(flags & (FIN | SYN | RST | ACK)))
}

/// True for the first packet of a handshake.
pub(crate) fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// True for a packet in the middle of a connection, from which `loose` starts a flow.
pub(crate) fn midway(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == ACK
}

/// True for a segment whose acknowledgement number its sender means. (That of an RST nobody
/// answers.)
pub(crate) fn acknowledges(flags: u8) -> bool {
    flags & (ACK | RST) == ACK
}

/// True for the common packet that changes no stage once a connection is open.
pub(crate) fn plain(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == ACK
}

impl Life {
    /// A flow's beginning.
    pub(crate) fn begin(stage: Stage) -> Self {
        Self { stage, marks: if stage == Stage::Established { OPENED } else { 0 } }
    }

    /// Moves the flow on by a TCP segment with [`sane`] flags.
    pub(crate) fn segment(&mut self, side: Side, flags: u8) -> Step {
        if flags & RST != 0 {
            return self.reset(side);
        }
        if flags & SYN != 0 {
            return self.synchronize(side, flags & ACK != 0);
        }
        match (self.stage, side) {
            // Acknowledging a SYN that was never answered: only a challenge ACK (RFC 5961) makes
            // sense, and that comes from the responder.
            (Stage::SynSent, Side::Originator) => return Step::Invalid,
            (Stage::SynSent, Side::Responder) => return Step::Pass,
            (Stage::SynReceived, Side::Originator) => *self = Self::begin(Stage::Established),
            // Only now it is known that there is a connection, and not only somebody who speaks of
            // one.
            (Stage::Midway, Side::Responder) => {
                self.marks |= OPENED;
                self.stage = self.stage_by_fins();
            }
            (Stage::Reset, _) if self.reset_by(side) => {
                // Who has really sent RST has no connection left to speak for: it was forged.
                self.stage = self.stage_by_fins();
            }
            _ => {}
        }
        if flags & FIN != 0 && !matches!(self.stage, Stage::Closed | Stage::Reset) {
            self.marks |= FIN_SEEN << side as u8;
            if self.stage != Stage::Midway {
                self.stage = self.stage_by_fins();
            }
        }
        Step::Pass
    }

    /// True for an RST of an open connection with another sequence number than the one that its
    /// receiver expects. (RFC 5961, section 3.2: a receiver then asks its sender, who answers with
    /// the right one, if he meant it.)
    pub(crate) fn doubts(self, flags: u8, sequence: impl FnOnce() -> u32, expected: u32) -> bool {
        let open = matches!(self.stage, Stage::Established | Stage::FinWait | Stage::Reset);
        flags & RST != 0 && open && sequence() != expected
    }

    fn reset(&mut self, side: Side) -> Step {
        if self.stage == Stage::Closed || self.stage == Stage::Reset && self.reset_by(side) {
            return Step::Pass;
        }
        // Anybody may send a RST that its receiver does not heed: an open connection is not over by
        // one.
        self.stage = match self.stage {
            Stage::Established | Stage::FinWait => Stage::Reset,
            _ => Stage::Closed,
        };
        self.marks &= !RESET_BY_RESPONDER;
        if side == Side::Responder {
            self.marks |= RESET_BY_RESPONDER;
        }
        Step::Pass
    }

    fn synchronize(&mut self, side: Side, ack: bool) -> Step {
        match (self.stage, side, ack) {
            (Stage::TimeWait | Stage::Closed | Stage::Reset | Stage::Midway, _, false) => {
                Step::Again
            }
            // Also a SYN from the other side: both open at once (RFC 9293, figure 8).
            (Stage::SynSent, Side::Responder, _) => {
                self.stage = Stage::SynReceived;
                Step::Pass
            }
            (Stage::SynSent, Side::Originator, true) => Step::Invalid,
            // Repeated, or an answer to be given with a challenge ACK: the ends deal with it.
            _ => Step::Pass,
        }
    }

    fn reset_by(self, side: Side) -> bool {
        (self.marks & RESET_BY_RESPONDER != 0) == (side == Side::Responder)
    }

    fn stage_by_fins(self) -> Stage {
        match self.marks & (FIN_SEEN | FIN_SEEN << 1) {
            0 => Stage::Established,
            3 => Stage::TimeWait,
            _ => Stage::FinWait,
        }
    }

    /// Moves a flow of another protocol on.
    pub(crate) fn datagram(&mut self, side: Side) {
        match (self.stage, side) {
            (Stage::Udp, Side::Responder) => self.stage = Stage::UdpStream,
            (Stage::UdpStream, _) | (Stage::Generic, Side::Responder) => self.marks |= OPENED,
            _ => {}
        }
    }

    /// Whether both sides have to do with the flow, now: else it may be given up for another one
    /// when there is no room. One question and one answer are over; of other protocols it is known
    /// only whether both sides sent.
    pub(crate) fn is_under_way(self) -> bool {
        match self.stage {
            Stage::Established | Stage::FinWait => true,
            Stage::UdpStream | Stage::Generic => self.marks & OPENED != 0,
            Stage::SynSent | Stage::SynReceived | Stage::TimeWait | Stage::Closed => false,
            Stage::Udp | Stage::Icmp | Stage::Midway | Stage::Reset => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use Side::{Originator, Responder};

    use super::*;

    fn run(steps: &[(Side, u8, Step, Stage)]) {
        let mut life = Life::begin(Stage::SynSent);
        for (at, &(side, flags, step, stage)) in steps.iter().enumerate() {
            assert_eq!(life.segment(side, flags), step, "step {at}");
            assert_eq!(life.stage, stage, "after step {at}");
        }
    }

    #[test]
    fn a_connection_opens_and_closes() {
        run(&[
            (Originator, SYN, Step::Pass, Stage::SynSent),
            (Originator, ACK, Step::Invalid, Stage::SynSent),
            (Originator, SYN | ACK, Step::Invalid, Stage::SynSent),
            (Responder, SYN | ACK, Step::Pass, Stage::SynReceived),
            (Responder, SYN | ACK, Step::Pass, Stage::SynReceived),
            (Originator, ACK, Step::Pass, Stage::Established),
            (Responder, ACK, Step::Pass, Stage::Established),
            (Originator, SYN, Step::Pass, Stage::Established),
            (Originator, FIN | ACK, Step::Pass, Stage::FinWait),
            (Originator, FIN | ACK, Step::Pass, Stage::FinWait),
            (Responder, ACK, Step::Pass, Stage::FinWait),
            (Responder, FIN | ACK, Step::Pass, Stage::TimeWait),
            (Originator, ACK, Step::Pass, Stage::TimeWait),
            (Responder, SYN, Step::Again, Stage::TimeWait),
        ]);
    }

    #[test]
    fn both_sides_may_open_at_once() {
        run(&[
            (Responder, SYN, Step::Pass, Stage::SynReceived),
            (Originator, SYN | ACK, Step::Pass, Stage::SynReceived),
            (Originator, ACK, Step::Pass, Stage::Established),
        ]);
    }

    #[test]
    fn a_reset_closes_and_a_forged_one_is_undone() {
        run(&[
            (Responder, SYN | ACK, Step::Pass, Stage::SynReceived),
            (Originator, ACK, Step::Pass, Stage::Established),
            (Responder, RST, Step::Pass, Stage::Reset),
            (Responder, RST, Step::Pass, Stage::Reset),
            // Data that was on its way to the side that reset.
            (Originator, ACK, Step::Pass, Stage::Reset),
            (Originator, FIN | ACK, Step::Pass, Stage::Reset),
            (Responder, ACK, Step::Pass, Stage::Established),
            (Originator, RST | ACK, Step::Pass, Stage::Reset),
            (Responder, RST, Step::Pass, Stage::Closed),
            (Originator, SYN, Step::Again, Stage::Closed),
        ]);
    }

    #[test]
    fn a_refused_connection_is_soon_forgotten() {
        run(&[
            (Responder, RST | ACK, Step::Pass, Stage::Closed),
            // Not undone: there was no connection.
            (Responder, ACK, Step::Pass, Stage::Closed),
        ]);
    }

    #[test]
    fn who_is_picked_up_midway_is_believed_when_the_other_side_speaks() {
        let picked_up = |steps: &[(Side, u8)]| {
            let mut life = Life::begin(Stage::Midway);
            for (side, flags) in steps {
                assert_eq!(life.segment(*side, *flags), Step::Pass);
            }
            (life.stage, life.is_under_way())
        };
        let spoken = [(Originator, ACK), (Originator, FIN | ACK), (Responder, SYN | ACK)];
        assert_eq!(picked_up(&spoken[..1]), (Stage::Midway, false));
        assert_eq!(picked_up(&spoken), (Stage::Midway, false));
        assert_eq!(picked_up(&[(Responder, RST)]), (Stage::Closed, false));
        assert_eq!(picked_up(&[(Responder, RST), (Responder, ACK)]), (Stage::Closed, false));
        assert_eq!(picked_up(&[(Responder, ACK)]), (Stage::Established, true));
        assert_eq!(picked_up(&[spoken[1], (Responder, ACK)]), (Stage::FinWait, true));
        let both = [spoken[1], (Responder, FIN | ACK)];
        assert_eq!(picked_up(&both), (Stage::TimeWait, false));
        for side in [Originator, Responder] {
            assert_eq!(Life::begin(Stage::Midway).segment(side, SYN), Step::Again);
        }
    }

    #[test]
    fn only_flags_that_make_sense_are_sane() {
        let sane: Vec<u8> = (0..32).filter(|&flags| sane(flags) && flags & 8 == 0).collect();
        assert_eq!(sane, [SYN, RST, ACK, FIN | ACK, SYN | ACK, RST | ACK]);
    }

    #[test]
    fn deadlines_hold_at_least_as_long_as_asked_even_when_ticks_wrap() {
        let clock = Clock::new(&Timeouts::default()).unwrap();
        for start in [0, 1, (1 << 27) - 1, (u64::from(u32::MAX) << 27) + 5, 1_800_000_000 << 30] {
            let deadline = clock.deadline(ticks(start), Stage::Udp);
            assert!(clock.alive(ticks(start), deadline));
            assert!(clock.alive(ticks(start + 30_000_000_000), deadline));
            assert!(!clock.alive(ticks(start + 30_500_000_000), deadline));
        }
    }

    #[test]
    fn a_deadline_of_another_clock_is_over() {
        let clock = Clock::new(&Timeouts::default()).unwrap();
        let deadline = clock.deadline(ticks(50_000_000_000_000_000), Stage::Established);
        assert!(!clock.alive(ticks(5), deadline));
    }

    #[test]
    fn impossible_timeouts_are_refused() {
        let error = Clock::new(&Timeouts { udp: 0, ..Timeouts::default() }).err().unwrap();
        assert!(error.contains("state.udp: 0 is not from 1 to"), "{error}");
    }
}
