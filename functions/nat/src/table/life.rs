//! How long a flow is remembered (RFC 5382, RFC 7857; RFC 4787; RFC 5508).
//!
//! Owns: a flow's state. Must not know: tables.

use super::Flow;
use crate::config::Timeouts;

/// Bits of [`Flow::state`].
mod bits {
    /// A packet went out.
    pub(super) const OUT: u8 = 1;
    /// A packet came in.
    pub(super) const IN: u8 = 2;
    /// The inside sent FIN.
    pub(super) const FIN_OUT: u8 = 4;
    /// The outside sent FIN.
    pub(super) const FIN_IN: u8 = 8;
    /// Somebody sent RST, and nobody anything else since.
    pub(super) const RESET: u8 = 16;
    /// Somebody sent what follows a handshake; of UDP, something after both sides had.
    pub(super) const OPEN: u8 = 32;
}

/// Follows a flow's state, and sets when it ends.
pub(super) fn advance(
    flow: &mut Flow,
    protocol: u8,
    outbound: bool,
    flags: u8,
    now: u32,
    timeouts: &Timeouts,
) {
    let answered = flow.state & BOTH == BOTH;
    flow.state |= if outbound { bits::OUT } else { bits::IN };
    // Only TCP's number is even; a `match` becomes a jump table, which costs more than what is
    // behind it.
    let seconds = if protocol & 1 == 0 {
        follow(flow, outbound, flags, timeouts)
    } else if protocol == 17 {
        if answered {
            flow.state |= bits::OPEN;
        }
        timeouts.udp
    } else {
        timeouts.icmp
    };
    flow.expires = now.saturating_add(seconds);
}

/// Follows a TCP connection; the seconds that it has from now on.
#[inline]
fn follow(flow: &mut Flow, outbound: bool, flags: u8, timeouts: &Timeouts) -> u32 {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    if flags & SYN != 0 && is_over(flow.state) {
        // The ports are used for a new connection.
        flow.state &= BOTH;
    }
    if flags & FIN != 0 {
        flow.state |= if outbound { bits::FIN_OUT } else { bits::FIN_IN };
    }
    // Anybody may send a RST that its receiver does not heed; what follows shows that (RFC 6146,
    // section 3.5.2.2).
    flow.state &= !bits::RESET;
    if flags & RST != 0 {
        flow.state |= bits::RESET;
    }
    if flags & (SYN | ACK) == ACK {
        flow.state |= bits::OPEN;
    }
    if is_open(flow.state) && !is_over(flow.state) {
        timeouts.tcp_established
    } else {
        timeouts.tcp_transitory
    }
}

/// Both sides have sent something.
const BOTH: u8 = bits::OUT | bits::IN;

/// Whether both sides are in it.
#[inline]
fn is_open(state: u8) -> bool {
    const ALL: u8 = BOTH | bits::OPEN;
    state & ALL == ALL
}

/// Whether a TCP connection was closed or reset.
#[inline]
fn is_over(state: u8) -> bool {
    const CLOSED: u8 = bits::FIN_OUT | bits::FIN_IN;
    state & CLOSED == CLOSED || state & bits::RESET != 0
}

/// The seconds that a flow is remembered for after a packet, if it may be given up: half-open,
/// closed or a query.
pub(super) fn timeout_unless_under_way(
    flow: &Flow,
    protocol: u8,
    timeouts: &Timeouts,
) -> Option<u32> {
    match protocol {
        6 => (!is_open(flow.state) || is_over(flow.state)).then_some(timeouts.tcp_transitory),
        17 => (!is_open(flow.state)).then_some(timeouts.udp),
        _ => Some(timeouts.icmp),
    }
}
