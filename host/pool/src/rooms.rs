//! Rooms that are owned one by one: how messages, which live long and end in any order, use a pool.
//!
//! A [`Room`] goes back to its pool when it is dropped, wherever that is: a body's bytes are given
//! to a socket as they lie in the window, and come back when they have been sent.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Accounting, BufferIndex, Pool};

/// A pool whose rooms are owned one by one.
#[derive(Clone, Debug)]
pub struct Rooms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Mutex<Pool>,
    room_bytes: usize,
}

impl Rooms {
    /// All of the pool's free rooms.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let room_bytes = pool.room_bytes() as usize;
        Self(Arc::new(Shared { pool: Mutex::new(pool), room_bytes }))
    }

    /// A room that is free, with whatever its last owner left in it.
    #[must_use]
    pub fn take(&self) -> Option<Room> {
        let mut pool = self.lock();
        let buffer = pool.take()?;
        let offset = pool.room_offset(buffer);
        let start = NonNull::new(pool.room_mut(buffer).as_mut_ptr())?;
        Some(Room { rooms: self.clone(), buffer, offset, start })
    }

    /// Bytes of a room.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.0.room_bytes
    }

    /// Where the rooms are.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        self.lock().accounting()
    }

    /// The pool, for its memory.
    pub fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room that somebody has.
#[derive(Debug)]
pub struct Room {
    rooms: Rooms,
    buffer: BufferIndex,
    offset: u32,
    start: NonNull<u8>,
}

// SAFETY: the bytes are this owner's alone among the host's threads; the pool's memory is `Send`
// and outlives it by `rooms`.
unsafe impl Send for Room {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Room {}

impl Room {
    /// Its first byte's offset in the window.
    #[must_use]
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is the room's, which nobody else in the host has (`Pool::take`); guests
        // that see it run only while their host holds no reference to it (the crate's page), which
        // whoever runs guests on another thread has to see to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.rooms.0.room_bytes) }
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the reference is the only one by `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.rooms.0.room_bytes) }
    }

    /// These of its bytes, given back with the room.
    ///
    /// # Panics
    /// When the range does not lie within the room.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Part {
        assert!(
            range.start <= range.end && range.end <= self.rooms.0.room_bytes,
            "within the room"
        );
        Part { room: self, range }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms.lock().give(self.buffer);
    }
}

/// Bytes of a room, owned.
#[derive(Debug)]
pub struct Part {
    room: Room,
    range: Range<usize>,
}

impl Part {
    /// Where they begin in the window.
    #[must_use]
    pub fn offset(&self) -> u32 {
        self.room.offset + u32::try_from(self.range.start).unwrap_or(u32::MAX)
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Makes them more or fewer, from where they begin; false, with nothing done, if the room is
    /// too small.
    pub fn set_len(&mut self, length: usize) -> bool {
        let end = self.range.start.saturating_add(length);
        let fits = end <= self.room.rooms.0.room_bytes;
        if fits {
            self.range.end = end;
        }
        fits
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.room.bytes()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HugePages, PoolConfig};

    #[test]
    fn rooms_come_back_in_any_order_from_any_thread() {
        let config = PoolConfig { rooms: 4, room_bytes: 1024, huge: HugePages::Never };
        let rooms = Rooms::new(Pool::new("rooms", &config).unwrap());
        let mut taken: Vec<Room> = std::iter::from_fn(|| rooms.take()).collect();
        assert_eq!(taken.len(), 4);
        taken[2].bytes_mut()[..3].copy_from_slice(b"abc");
        let mut part = taken.remove(2).part(1..3);
        assert_eq!((part.as_ref(), part.len()), (&b"bc"[..], 2));
        assert!(!part.set_len(1024) && part.set_len(1023));
        std::thread::spawn(move || drop((part, taken))).join().unwrap();
        assert_eq!(rooms.accounting(), Accounting { total: 4, free: 4, out: 0 });
    }
}
