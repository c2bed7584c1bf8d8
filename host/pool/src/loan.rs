//! Rooms that another thread writes packets into.

use std::sync::Arc;

use weir_layout::{BURST_AREA, Descriptor, HEADROOM};

use crate::BufferIndex;
use crate::memory::Mapping;

/// A free room of a pool that is lent to another thread. Whoever has it may write the room's bytes;
/// the pool itself gives nobody a reference to them until it has the loan back. A loan that is
/// dropped is a room that is lost.
#[derive(Debug)]
#[must_use = "a loan that is dropped is a room that is lost"]
pub struct Loan {
    pub(crate) buffer: BufferIndex,
    /// Address of the pool's memory: what tells pools apart.
    pub(crate) of: usize,
}

/// A pool as seen by another thread: it can write into rooms that it is lent, and do nothing else.
#[derive(Clone, Debug)]
pub struct RemoteRooms {
    mapping: Arc<Mapping>,
    room_bytes: u32,
}

impl RemoteRooms {
    pub(crate) fn new(mapping: Arc<Mapping>, room_bytes: u32) -> Self {
        Self { mapping, room_bytes }
    }

    /// Maximum size of a packet, in bytes, that [`Self::place`] can place.
    #[must_use]
    #[inline]
    pub fn packet_max(&self) -> usize {
        self.room_bytes as usize - HEADROOM
    }

    /// Copies a packet into a lent room, behind the headroom; `None`, with nothing done, when it is
    /// too long. The answer is where it lies in the pool's window. Guests that have the pool in
    /// their window may see the bytes come.
    ///
    /// # Panics
    /// When the loan is of another pool.
    #[must_use]
    #[inline]
    pub fn place(&self, loan: &mut Loan, packet: &[u8]) -> Option<Descriptor> {
        assert_eq!(loan.of, self.mapping.address(), "host bug: a loan of another pool");
        let length =
            u32::try_from(packet.len()).ok().filter(|_| packet.len() <= self.packet_max())?;
        let room = BURST_AREA as u32 + loan.buffer.get() * self.room_bytes;
        let descriptor = Descriptor { offset: room + HEADROOM as u32, length };
        self.mapping.store(descriptor.offset as usize, packet);
        Some(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use crate::{HugePages, Pool, PoolConfig};

    fn pool() -> Pool {
        let config = PoolConfig { rooms: 4, room_bytes: 512, huge: HugePages::Never };
        Pool::new("lent", &config).unwrap()
    }

    #[test]
    fn a_lent_room_is_written_elsewhere_and_unseen_until_it_is_back() {
        let mut pool = pool();
        let mut loan = pool.lend().unwrap();
        assert_eq!((pool.lent(), pool.accounting().out), (1, 1));
        let remote = pool.remote();
        let packet: Vec<u8> = (0..77).collect();
        let written = std::thread::spawn(move || {
            assert_eq!(remote.place(&mut loan, &[0; 385]), None);
            let descriptor = remote.place(&mut loan, &packet).unwrap();
            (loan, descriptor, packet)
        });
        let (loan, descriptor, packet) = written.join().unwrap();
        assert_eq!(pool.bytes(descriptor), None);
        let at = pool.index_of(descriptor.offset).unwrap();
        assert_eq!(pool.place(at, &packet), None);
        let other = pool.take().unwrap();
        pool.give(other);
        let buffer = pool.redeem(loan);
        assert_eq!(pool.bytes(descriptor).unwrap(), packet);
        pool.give(buffer);
        assert_eq!((pool.lent(), pool.accounting().out), (0, 0));
    }

    #[test]
    #[should_panic(expected = "is not out")]
    fn a_lent_room_is_not_given_back_by_who_has_only_its_number() {
        let mut pool = pool();
        let loan = pool.lend().unwrap();
        pool.give(loan.buffer);
    }

    #[test]
    #[should_panic(expected = "a loan of another pool")]
    fn a_loan_goes_back_to_its_own_pool() {
        let mut one = pool();
        let loan = one.lend().unwrap();
        pool().redeem(loan);
    }

    #[test]
    fn memory_outlives_its_pool_as_long_as_somebody_may_write_there() {
        let mut pool = pool();
        let (remote, mut loan) = (pool.remote(), pool.lend().unwrap());
        drop(pool);
        assert!(remote.place(&mut loan, &[1; 60]).is_some());
    }
}
