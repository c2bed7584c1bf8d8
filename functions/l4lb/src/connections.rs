//! Which backend a connection has, in the state region.

use weir_sdk::region::{StateArray, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Slots looked at by each sweep.
const SWEEP: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Connection {
    backend: u32,
    /// Seconds of the clock.
    expires: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connections<K> {
    map: StateMap<K, Connection>,
    cursor: StateArray<u64>,
}

impl<K: FromBytes + IntoBytes + Immutable + Eq + Copy> Connections<K> {
    pub(crate) fn new(region: &mut StateRegion, name: &str, most: usize) -> Result<Self, String> {
        let cursor = region.array(&format!("{name}-cursor"), 1)?;
        Ok(Self { map: region.map(name, most)?, cursor })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    pub(crate) fn touch(&self, hash: u64) {
        self.map.touch(hash);
    }

    /// The backend's id of a connection that has not expired, which is refreshed.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K, now: u32, idle: u32) -> Option<u32> {
        let connection = self.map.find_mut(hash, key)?;
        if connection.expires <= now {
            return None;
        }
        connection.expires = now.saturating_add(idle);
        Some(connection.backend)
    }

    /// Remembers a connection; false when there is no room.
    pub(crate) fn open(&mut self, hash: u64, key: K, backend: u32, expires: u32, now: u32) -> bool {
        let connection = Connection { backend, expires };
        if self.map.insert(hash, key, connection).is_ok() {
            return true;
        }
        self.map.retain_near(hash, |_, connection| connection.expires > now);
        self.map.insert(hash, key, connection).is_ok()
    }

    /// Forgets connections that have expired, a few at a time.
    pub(crate) fn sweep(&mut self, now: u32) {
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % self.map.slots();
        let next = self.map.sweep(from, SWEEP, |_, connection| connection.expires > now);
        if self.cursor[0] != next as u64 {
            self.cursor[0] = next as u64;
        }
    }
}
