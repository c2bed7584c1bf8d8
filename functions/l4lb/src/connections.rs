//! Which backend a connection has, in the state region.

use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use weir_sdk::wire::Tcp;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Seconds that a connection is remembered of which one side was seen only, so that floods do not
/// fill the table for long.
const HALF: u32 = 30;
/// Seconds that a connection is remembered after its end (RFC 5382, REQ-5: the transitory timeout).
const OVER: u32 = 240;

/// Whether TCP's flags (0 of UDP) are those of a segment that may begin or end a connection.
#[inline(always)]
pub(crate) fn is_turn(flags: u8) -> bool {
    flags & (Tcp::FIN | Tcp::SYN | Tcp::RST) != 0
}

/// Whether a segment asks for a new connection.
pub(crate) fn is_request(flags: u8) -> bool {
    flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Client,
    /// A client whose backend answers by another way.
    ClientAlone,
    Backend,
}

/// Bits of [`Connection::state`].
mod bits {
    /// The client sent what is no request for a connection.
    pub(super) const OPEN: u32 = 1;
    /// The backend sent something.
    pub(super) const ANSWERED: u32 = 2;
    /// Somebody sent FIN.
    pub(super) const FIN: u32 = 4;
    /// Somebody sent RST, and nobody anything else since.
    pub(super) const RESET: u32 = 8;
}

/// In place of a backend's id: the connection is with a backend's own address, and of no service.
pub(crate) const DIRECT: u32 = u32::MAX;

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Connection {
    /// Its backend's id, or [`DIRECT`].
    pub(crate) backend: u32,
    /// Seconds of the clock.
    expires: u32,
    /// See [`bits`].
    state: u32,
}

impl Connection {
    /// A packet with these flags of TCP, or 0, belongs to it.
    pub(crate) fn advance(&mut self, flags: u8, by: By, now: u32, idle: u32) {
        if is_request(flags) && self.state & (bits::FIN | bits::RESET) != 0 {
            // The ports are used for a new connection.
            self.state = 0;
        }
        match by {
            By::Backend => self.state |= bits::ANSWERED,
            By::Client | By::ClientAlone if flags & Tcp::SYN == 0 => self.state |= bits::OPEN,
            By::Client | By::ClientAlone => {}
        }
        if flags & Tcp::FIN != 0 {
            self.state |= bits::FIN;
        }
        // Anybody may send a RST that its receiver does not heed.
        self.state &= !bits::RESET;
        if flags & Tcp::RST != 0 {
            self.state |= bits::RESET;
        }
        let seconds = match self.state {
            over if over & (bits::FIN | bits::RESET) != 0 => idle.min(OVER),
            UNDER_WAY => idle,
            bits::OPEN if by == By::ClientAlone => idle,
            _ => idle.min(HALF),
        };
        self.expires = now.saturating_add(seconds);
    }
}

/// The state of a connection of which both sides take part.
const UNDER_WAY: u32 = bits::OPEN | bits::ANSWERED;

/// What became of connections since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) kept: u64,
    /// Others made room for so many of them.
    pub(crate) given_up: u64,
    /// There was no room for them.
    pub(crate) untracked: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connections<K> {
    map: StateMap<K, Connection>,
    cursor: StateArray<u64>,
    opened: Opened,
}

impl<K: FromBytes + IntoBytes + Immutable + Eq + Copy> Connections<K> {
    pub(crate) fn new(region: &mut StateRegion, name: &str, most: usize) -> Result<Self, String> {
        let cursor = region.array(&format!("{name}-cursor"), 1)?;
        Ok(Self { map: region.map(name, most)?, cursor, opened: Opened::default() })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    pub(crate) fn look_ahead(&self, probes: &mut [Probe]) {
        self.map.look_ahead(probes);
    }

    /// The backend's id of a connection to which a packet from the client belongs that changes no
    /// more than when it expires: the common case, for which [`Connection::advance`] is too long.
    /// `None` means no more than to use [`Self::find`].
    #[inline(always)]
    pub(crate) fn refresh(&mut self, probe: Probe, key: &K, now: u32, idle: u32) -> Option<u32> {
        let connection = self.map.find_mut(probe, key)?;
        let (expires, state) = (connection.expires, connection.state);
        if expires <= now || state & !bits::ANSWERED != bits::OPEN {
            return None;
        }
        let seconds = if state == UNDER_WAY { idle } else { idle.min(HALF) };
        let until = now.saturating_add(seconds);
        if expires != until {
            connection.expires = until;
        }
        Some(connection.backend)
    }

    /// A connection that has not expired.
    #[inline]
    pub(crate) fn find(
        &mut self,
        at: impl Into<Probe>,
        key: &K,
        now: u32,
    ) -> Option<&mut Connection> {
        self.map.find_mut(at, key).filter(|connection| connection.expires > now)
    }

    /// Remembers a connection by its first packet, in place of one that is not under way if there
    /// is no room; false when there is none such.
    pub(crate) fn open(
        &mut self,
        hash: u64,
        key: K,
        backend: u32,
        (flags, by): (u8, By),
        now: u32,
        idle: u32,
    ) -> bool {
        let mut connection = Connection { backend, expires: 0, state: 0 };
        connection.advance(flags, by, now, idle);
        let mut kept = self.map.insert(hash, key, connection).is_ok();
        if !kept {
            let soonest = |_: &K, c: &Connection| (c.state != UNDER_WAY).then_some(c.expires);
            let freed = self.map.retain_near(hash, |_, connection| connection.expires > now);
            if freed == 0 && self.map.evict_near(hash, soonest) {
                self.opened.given_up += 1;
            }
            kept = self.map.insert(hash, key, connection).is_ok();
        }
        self.opened.kept += u64::from(kept);
        self.opened.untracked += u64::from(!kept);
        kept
    }

    pub(crate) fn take_opened(&mut self) -> Opened {
        std::mem::take(&mut self.opened)
    }

    /// Forgets connections that have expired, a few at a time.
    pub(crate) fn sweep(&mut self, now: u32) {
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % self.map.slots();
        let next = self.map.sweep(from, SWEEP, |_, connection| connection.expires > now);
        self.cursor[0] = next as u64;
    }
}
