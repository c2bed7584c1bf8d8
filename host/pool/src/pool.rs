//! Rooms of one security domain: handing out, taking back, and finding a packet's bytes.
//!
//! The free list is a stack, so the buffer that was used last, and is still in the cache, is used
//! next (as the per-core cache of DPDK's `rte_mempool` does).

use std::cell::Cell;
use std::marker::PhantomData;

use weir_layout::{BURST_AREA, Descriptor, HEADROOM, ROOM_MAX, WASM_PAGE};

use crate::loan::{Loan, RemoteRooms};
use crate::{BufferIndex, HugePages, Memory, PoolError};

/// Smallest room, in bytes.
const ROOM_MIN: usize = 512;

/// Maximum size of a pool, in bytes: half of what a 32-bit memory can address.
const POOL_MAX: usize = 2 << 30;

/// What a pool is to be like.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Number of buffers.
    pub rooms: u32,
    /// Bytes of each, a power of two from 512 to 65,536. 128 of them are headroom.
    pub room_bytes: u32,
    /// Whether to ask for huge pages.
    pub huge: HugePages,
}

/// How many buffers there are, and where. `total == free + out` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Buffers of the pool.
    pub total: u32,
    /// Buffers that can be taken.
    pub free: u32,
    /// Buffers that somebody has.
    pub out: u32,
}

/// Where a pool's rooms lie: a copy of its own, so that a loop that writes packets need not ask the
/// pool each time.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    rooms: u32,
    room_bytes: u32,
}

impl Layout {
    /// As [`Pool::index_of`].
    #[must_use]
    #[inline]
    pub fn index_of(self, window_offset: u32) -> Option<BufferIndex> {
        let room =
            window_offset.checked_sub(BURST_AREA as u32)? >> self.room_bytes.trailing_zeros();
        (room < self.rooms).then_some(BufferIndex(room))
    }
}

/// The buffers of one security domain, owned by one worker.
#[derive(Debug)]
pub struct Pool {
    memory: Memory,
    rooms: u32,
    room_bytes: u32,
    /// Free rooms; the last one is handed out next.
    free: Vec<u32>,
    /// Whether each room is out. Bytes, not bits: neighbouring rooms are taken one after the other,
    /// and each change of a shared word would wait for the one before.
    out: Vec<bool>,
    /// Whether each room is lent to another thread, and how many are.
    lent: Vec<bool>,
    lent_rooms: u32,
    /// Counts are meaningful to one thread at a time only: not `Sync`.
    one_worker: PhantomData<Cell<()>>,
}

impl Pool {
    /// Makes a pool, with memory of its own, all buffers free.
    ///
    /// # Errors
    /// When the configuration is impossible or the kernel refuses the memory.
    pub fn new(name: &str, config: &PoolConfig) -> Result<Self, PoolError> {
        let PoolConfig { rooms, room_bytes, huge } = *config;
        let size = room_bytes as usize;
        if !room_bytes.is_power_of_two() || !(ROOM_MIN..=ROOM_MAX).contains(&size) {
            return Err(PoolError::RoomBytes { room_bytes });
        }
        let most = (POOL_MAX - BURST_AREA) / size;
        if rooms == 0 || rooms as usize > most {
            // 2 GiB / 512 fits.
            return Err(PoolError::Rooms { rooms, room_bytes, most: most as u32 });
        }
        // A window is a whole number of Wasm pages.
        let bytes = (BURST_AREA + rooms as usize * size).next_multiple_of(WASM_PAGE);
        Ok(Self {
            memory: Memory::new(name, bytes, huge)?,
            rooms,
            room_bytes,
            free: (0..rooms).rev().collect(),
            out: vec![false; rooms as usize],
            lent: vec![false; rooms as usize],
            lent_rooms: 0,
            one_worker: PhantomData,
        })
    }

    /// The memory: burst area and rooms. Its length is a window's `window-bytes`.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The memory, to write the burst area.
    #[must_use]
    #[inline]
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Number of buffers.
    #[must_use]
    #[inline]
    pub fn rooms(&self) -> u32 {
        self.rooms
    }

    /// Bytes of each buffer.
    #[must_use]
    #[inline]
    pub fn room_bytes(&self) -> u32 {
        self.room_bytes
    }

    /// Maximum size of a packet, in bytes, that [`Self::place`] can place: a room less its
    /// headroom.
    #[must_use]
    #[inline]
    pub fn packet_max(&self) -> u32 {
        self.room_bytes - HEADROOM as u32
    }

    /// Buffers that can be taken now.
    #[must_use]
    #[inline]
    pub fn available(&self) -> u32 {
        // At most `rooms`, a u32.
        self.free.len() as u32
    }

    /// Takes the buffer that was given back last, or `None` when all are out. Its bytes are as
    /// the last owner left them.
    #[inline]
    pub fn take(&mut self) -> Option<BufferIndex> {
        let room = self.free.pop()?;
        self.out[room as usize] = true;
        Some(BufferIndex(room))
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// When the buffer is not out: a host bug that would hand the same bytes to two owners.
    #[inline]
    pub fn give(&mut self, buffer: BufferIndex) {
        let room = buffer.0;
        let lent = self.is_lent(room);
        match self.out.get_mut(room as usize) {
            Some(out) if *out && !lent => *out = false,
            _ => not_out(buffer, self.out.len()),
        }
        // Never grows: at most `rooms` buffers are free, and each once.
        self.free.push(room);
    }

    /// Takes as many buffers as there are, at most `most`, and appends them; as so many
    /// [`Self::take`], at a third of the cost. Allocates nothing if `into` has room.
    #[inline]
    pub fn take_all(&mut self, into: &mut Vec<BufferIndex>, most: usize) {
        let Self { free, out, .. } = self;
        let out = out.as_mut_slice();
        let rest = free.len() - most.min(free.len());
        into.extend(free.drain(rest..).rev().map(move |room| {
            out[room as usize] = true;
            BufferIndex(room)
        }));
    }

    /// Gives buffers back; as so many [`Self::give`], at a third of the cost.
    ///
    /// # Panics
    /// As [`Self::give`].
    #[inline]
    pub fn give_all(&mut self, buffers: impl Iterator<Item = BufferIndex>) {
        if self.lent_rooms > 0 {
            return buffers.for_each(|buffer| self.give(buffer));
        }
        let Self { free, out, .. } = self;
        let out = out.as_mut_slice();
        free.extend(buffers.map(move |buffer| match out.get_mut(buffer.0 as usize) {
            Some(out) if *out => {
                *out = false;
                buffer.0
            }
            _ => not_out(buffer, out.len()),
        }));
    }

    /// Lends a free room to another thread, to write one packet into ([`RemoteRooms::place`]);
    /// `None` when all are out. It counts as out, and nobody here sees its bytes, until
    /// [`Self::redeem`] takes it back.
    pub fn lend(&mut self) -> Option<Loan> {
        let buffer = self.take()?;
        self.lent[buffer.0 as usize] = true;
        self.lent_rooms += 1;
        Some(Loan { buffer, of: self.memory.as_ptr().addr() })
    }

    /// Takes a lent room back: a buffer that is out.
    ///
    /// # Panics
    /// When it is another pool's.
    pub fn redeem(&mut self, loan: Loan) -> BufferIndex {
        assert_eq!(loan.of, self.memory.as_ptr().addr(), "host bug: a loan of another pool");
        self.lent[loan.buffer.0 as usize] = false;
        self.lent_rooms -= 1;
        loan.buffer
    }

    /// Rooms that are lent now.
    #[must_use]
    pub fn lent(&self) -> u32 {
        self.lent_rooms
    }

    /// What another thread needs to write into rooms that it is lent.
    #[must_use]
    pub fn remote(&self) -> RemoteRooms {
        RemoteRooms::new(self.memory.mapping(), self.room_bytes)
    }

    #[inline]
    fn is_lent(&self, room: u32) -> bool {
        self.lent_rooms > 0 && self.lent.get(room as usize) == Some(&true)
    }

    /// True while somebody has this buffer.
    #[must_use]
    #[inline]
    pub fn is_out(&self, buffer: BufferIndex) -> bool {
        self.out.get(buffer.0 as usize) == Some(&true)
    }

    /// Offset of the buffer's first byte in the window.
    #[must_use]
    #[inline]
    pub fn room_offset(&self, buffer: BufferIndex) -> u32 {
        BURST_AREA as u32 + buffer.0 * self.room_bytes
    }

    /// The buffer that this byte of the window lies in; `None` outside the rooms.
    #[must_use]
    #[inline]
    pub fn index_of(&self, window_offset: u32) -> Option<BufferIndex> {
        self.layout().index_of(window_offset)
    }

    /// Where the rooms lie.
    #[must_use]
    #[inline]
    pub fn layout(&self) -> Layout {
        Layout { rooms: self.rooms, room_bytes: self.room_bytes }
    }

    /// A packet's bytes, or `None` when they do not lie within one room.
    #[must_use]
    #[inline]
    pub fn bytes(&self, descriptor: Descriptor) -> Option<&[u8]> {
        self.within_room(descriptor)
            .then(|| self.memory.slice(descriptor.offset as usize, descriptor.length as usize))
    }

    /// A packet's bytes to write, or `None` when they do not lie within one room.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self, descriptor: Descriptor) -> Option<&mut [u8]> {
        self.within_room(descriptor)
            .then(|| self.memory.slice_mut(descriptor.offset as usize, descriptor.length as usize))
    }

    /// A whole buffer to write, headroom included.
    ///
    /// # Panics
    /// When the buffer is of another, larger pool, or lent.
    #[must_use]
    #[inline]
    pub fn room_mut(&mut self, buffer: BufferIndex) -> &mut [u8] {
        assert!(!self.is_lent(buffer.0), "host bug: buffer {} is lent", buffer.0);
        self.memory.slice_mut(self.room_offset(buffer) as usize, self.room_bytes as usize)
    }

    /// Copies a packet into a buffer behind the headroom; `None`, with nothing done, when it is
    /// longer than [`Self::packet_max`], or the buffer is lent.
    #[must_use]
    #[inline]
    pub fn place(&mut self, buffer: BufferIndex, packet: &[u8]) -> Option<Descriptor> {
        let length = u32::try_from(packet.len()).ok().filter(|&n| n <= self.packet_max())?;
        if self.is_lent(buffer.0) {
            return None;
        }
        let descriptor = Descriptor { offset: self.room_offset(buffer) + HEADROOM as u32, length };
        self.memory.slice_mut(descriptor.offset as usize, packet.len()).copy_from_slice(packet);
        Some(descriptor)
    }

    /// Copies a packet's bytes over those of another place. False, with nothing done, when the
    /// lengths differ or one of them does not lie within one room.
    pub fn copy(&mut self, from: Descriptor, to: Descriptor) -> bool {
        if from.length != to.length || self.bytes(from).is_none() || self.bytes(to).is_none() {
            return false;
        }
        self.memory.copy_within(from.offset as usize, to.offset as usize, from.length as usize);
        true
    }

    /// Where the buffers are. Checked at the end of every test: none may be lost.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        let out = self.out.iter().map(|&out| u32::from(out)).sum();
        Accounting { total: self.rooms, free: self.available(), out }
    }

    #[inline]
    fn within_room(&self, descriptor: Descriptor) -> bool {
        let Descriptor { offset, length } = descriptor;
        let end = BURST_AREA as u32 + self.rooms * self.room_bytes;
        if length == 0 {
            // An empty packet may sit at its room's very end.
            return (BURST_AREA as u32..=end).contains(&offset);
        }
        if self.lent_rooms > 0 && self.index_of(offset).is_some_and(|room| self.is_lent(room.0)) {
            return false;
        }
        // Rooms are aligned to their size, counted from the window's start.
        let left = self.room_bytes - (offset & (self.room_bytes - 1));
        (BURST_AREA as u32..end).contains(&offset) && length <= left
    }
}

#[cold]
#[inline(never)]
fn not_out(buffer: BufferIndex, rooms: usize) -> ! {
    panic!(
        "host bug: buffer {} was given back but is not out (given twice, or of another pool; this one has {rooms})",
        buffer.0
    )
}
