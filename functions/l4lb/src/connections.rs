//! Which backend a connection has, in the state region.

use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Seconds that a single packet is remembered, so that floods of them do not fill the table for long.
const FIRST: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Connection {
    backend: u32,
    /// Seconds of the clock.
    expires: u32,
}

/// What became of connections since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) kept: u64,
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

    /// The backend's id of a connection that has not expired, which is refreshed.
    #[inline(always)]
    pub(crate) fn find(
        &mut self,
        at: impl Into<Probe>,
        key: &K,
        now: u32,
        idle: u32,
    ) -> Option<u32> {
        let connection = self.map.find_mut(at, key)?;
        if connection.expires <= now {
            return None;
        }
        let expires = now.saturating_add(idle);
        if connection.expires != expires {
            connection.expires = expires;
        }
        Some(connection.backend)
    }

    /// Remembers a connection; false when there is no room.
    pub(crate) fn open(&mut self, hash: u64, key: K, backend: u32, now: u32, idle: u32) -> bool {
        let connection = Connection { backend, expires: now.saturating_add(idle.min(FIRST)) };
        let mut kept = self.map.insert(hash, key, connection).is_ok();
        if !kept {
            self.map.retain_near(hash, |_, connection| connection.expires > now);
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
