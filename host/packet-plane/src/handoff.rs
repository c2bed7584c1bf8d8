//! Packets from one lane to another, with one copy: from the sender's pool straight into the
//! receiver's.
//!
//! ```text
//!   receiver ──rooms──> sender      free rooms of the receiver's pool, lent
//!   receiver <─packets── sender     the same rooms, with a packet in each
//! ```
//!
//! Two rings with one producer and one consumer each (`rtrb`, after Lamport, "Specifying Concurrent
//! Program Modules", TOPLAS 1983), as AF_XDP has between kernel and program. Nothing in them is
//! allocated, and nobody waits. The sender's ends lie behind a mutex that is the *gate*: the sender
//! takes it for the packets of a burst, and finds it free always but once, when the receiver ends
//! and takes the ends away, with all the rooms that it lent.
//!
//! A receiver that is about to sleep says so at its [`Bell`]; only then a sender makes a system
//! call.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use weir_layout::{Descriptor, Metadata};
use weir_pool::{Loan, Packet, Pool, RemoteRooms};

/// Wakes a receiver that sleeps.
#[derive(Debug)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl Bell {
    /// # Errors
    /// When the system has no descriptor for it.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), fd })
    }

    /// The receiver is about to sleep: whatever is sent from now on rings. What was sent before it
    /// has to look for itself.
    pub(crate) fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // Either the receiver's look behind this sees what was sent, or the sender's look behind
        // its own fence sees this.
        fence(Ordering::SeqCst);
    }

    /// The receiver is awake, and the ringing stops.
    pub(crate) fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }

    /// Something was sent.
    #[inline]
    pub(crate) fn ring_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // It cannot fail: only 2^64 rings without an answer are too many.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Readable while it rings.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A packet that was handed over.
struct Handed {
    loan: Loan,
    descriptor: Descriptor,
    /// Its hash, and when it was received.
    hash: u32,
    time: u64,
}

/// What the sender has.
struct Ends {
    rooms: Consumer<Loan>,
    packets: Producer<Handed>,
    /// There once the receiver has a pool.
    remote: Option<RemoteRooms>,
}

/// The sender's end.
pub(crate) struct Outlet {
    ends: Arc<Mutex<Option<Ends>>>,
    bell: Arc<Bell>,
    ended: Arc<AtomicBool>,
}

/// The receiver's end.
pub(crate) struct Inlet {
    ends: Arc<Mutex<Option<Ends>>>,
    rooms: Producer<Loan>,
    packets: Consumer<Handed>,
    /// Rooms that are lent now, at most, and as long as the receiver's pool is so small.
    lent: usize,
    most: usize,
    share: usize,
    ended: Arc<AtomicBool>,
}

/// A way for packets, to a receiver with this bell, that holds at most so many at a time.
pub(crate) fn handoff(bell: &Arc<Bell>, most: usize) -> (Outlet, Inlet) {
    let (rooms, lent_rooms) = RingBuffer::new(most);
    let (handed, packets) = RingBuffer::new(most);
    let ends = Ends { rooms: lent_rooms, packets: handed, remote: None };
    let ends = Arc::new(Mutex::new(Some(ends)));
    let ended = Arc::<AtomicBool>::default();
    let outlet =
        Outlet { ends: Arc::clone(&ends), bell: Arc::clone(bell), ended: Arc::clone(&ended) };
    (outlet, Inlet { ends, rooms, packets, lent: 0, most, share: most, ended })
}

impl Outlet {
    /// Copies packets over, as far as the receiver has lent rooms for them; the answer is how many.
    /// The packets stay the sender's.
    #[inline]
    pub(crate) fn hand_over<'a>(
        &self,
        pool: &Pool,
        packets: impl Iterator<Item = &'a Packet>,
    ) -> usize {
        let mut gate = match self.ends.try_lock() {
            Ok(gate) => gate,
            Err(TryLockError::Poisoned(gate)) => gate.into_inner(),
            Err(TryLockError::WouldBlock) => return 0,
        };
        let Some(Ends { rooms, packets: handed, remote: Some(remote) }) = &mut *gate else {
            return 0;
        };
        let mut count = 0;
        for packet in packets {
            let bytes = pool.bytes(packet.descriptor);
            let Some(bytes) = bytes.filter(|bytes| bytes.len() <= remote.packet_max()) else {
                continue;
            };
            // As many packets fit into the ring as rooms are lent.
            let Ok(mut loan) = rooms.pop() else { break };
            let descriptor = remote.place(&mut loan, bytes).expect("its length was looked at");
            let (hash, time) = (packet.metadata.hash, packet.time);
            let pushed = handed.push(Handed { loan, descriptor, hash, time });
            debug_assert!(pushed.is_ok(), "the ring has a place for every room");
            count += 1;
        }
        drop(gate);
        self.bell.ring_if_asleep();
        count
    }

    /// Nothing will be handed over any more.
    pub(crate) fn end(&self) {
        if !self.ended.swap(true, Ordering::Release) {
            self.bell.ring_if_asleep();
        }
    }
}

impl Inlet {
    /// The receiver has its pool now, and lends at most so many rooms of it.
    pub(crate) fn attach(&mut self, pool: &Pool, share: usize) {
        self.share = self.most.min(share.max(1));
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ends) = &mut *ends {
            ends.remote = Some(pool.remote());
        }
    }

    /// Lends rooms until the sender has as many as it may; leaves the pool so many. A few it lends
    /// in any case: what other inlets of the pool have would else keep this one dry for as long as
    /// nothing comes by them.
    #[inline]
    pub(crate) fn lend(&mut self, pool: &mut Pool, leave: usize) {
        // Some at a time: the ring's indices lie in cache lines that the sender reads.
        if self.share - self.lent < (self.share / 4).max(1) {
            return;
        }
        let few = (self.share / 8).max(1);
        while self.lent < self.share && (self.lent < few || pool.available() as usize > leave) {
            let Some(loan) = pool.lend() else { break };
            self.lent += 1;
            let pushed = self.rooms.push(loan);
            debug_assert!(pushed.is_ok(), "the ring has a place for every room");
        }
    }

    /// Whether something is there.
    #[inline]
    pub(crate) fn has_packets(&self) -> bool {
        !self.packets.is_empty()
    }

    /// Whether nothing will come any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) && self.packets.is_empty()
    }

    /// Appends at most so many packets that were handed over.
    #[inline]
    pub(crate) fn take(&mut self, pool: &mut Pool, into: &mut Vec<Packet>, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            let Ok(Handed { loan, descriptor, hash, time }) = self.packets.pop() else { break };
            self.lent -= 1;
            let buffer = pool.redeem(loan);
            let metadata = Metadata { hash, ..Metadata::default() };
            into.push(Packet { descriptor, metadata, time, buffer, cut: 0 });
            count += 1;
        }
        count
    }

    /// Takes back every room that was lent; the answer is how many had a packet that nobody will
    /// see.
    pub(crate) fn close(&mut self, pool: &mut Pool) -> u64 {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut lost = 0;
        while let Ok(handed) = self.packets.pop() {
            self.lent -= 1;
            lost += 1;
            let buffer = pool.redeem(handed.loan);
            pool.give(buffer);
        }
        if let Some(mut ends) = ends {
            while let Ok(loan) = ends.rooms.pop() {
                self.lent -= 1;
                let buffer = pool.redeem(loan);
                pool.give(buffer);
            }
        }
        debug_assert_eq!(self.lent, 0, "rooms that were lent are somewhere else");
        lost
    }
}

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, PoolConfig};

    use super::*;

    const MOST: usize = 64;
    const BURST: usize = 32;

    fn pool() -> Pool {
        let config = PoolConfig { rooms: 256, room_bytes: 512, huge: HugePages::Never };
        Pool::new("handoff", &config).unwrap()
    }

    /// Bytes that belong together: a number, so often as the packet is long.
    fn content(number: u64) -> Vec<u8> {
        let length = 8 * (2 + number as usize % 40) + number as usize % 8;
        number.to_ne_bytes().into_iter().cycle().take(length).collect()
    }

    /// Hands over numbered packets until there is nobody; how many were.
    fn send(outlet: &Outlet) -> u64 {
        let mut pool = pool();
        let mut number = 0;
        loop {
            let packets: Vec<Packet> = (number..number + BURST as u64)
                .map(|number| {
                    let buffer = pool.take().unwrap();
                    let descriptor = pool.place(buffer, &content(number)).unwrap();
                    let metadata = Metadata { hash: number as u32, ..Metadata::default() };
                    Packet { descriptor, metadata, time: number, buffer, cut: 0 }
                })
                .collect();
            let handed = outlet.hand_over(&pool, packets.iter());
            pool.give_all(packets.into_iter().map(|packet| packet.buffer));
            number += handed as u64;
            let gone = outlet.ends.try_lock().is_ok_and(|ends| ends.is_none());
            if gone {
                assert_eq!(pool.accounting().out, 0);
                return number;
            }
        }
    }

    #[test]
    fn packets_come_whole_in_order_and_every_room_is_back() {
        const PACKETS: u64 = 200_000;
        let bell = Arc::new(Bell::new().unwrap());
        let (outlet, mut inlet) = handoff(&bell, MOST);
        let mut pool = pool();
        inlet.attach(&pool, MOST);
        let sender = std::thread::spawn(move || send(&outlet));
        let mut packets = Vec::with_capacity(BURST);
        let mut next = 0;
        while next < PACKETS {
            inlet.lend(&mut pool, 16);
            assert!(pool.lent() as usize <= MOST);
            if inlet.take(&mut pool, &mut packets, BURST) == 0 {
                std::thread::yield_now();
            }
            for packet in packets.drain(..) {
                assert_eq!(pool.bytes(packet.descriptor).unwrap(), content(next));
                assert_eq!((packet.time, packet.metadata.hash), (next, next as u32));
                pool.give(packet.buffer);
                next += 1;
            }
        }
        // In the middle of it.
        let lost = inlet.close(&mut pool);
        assert_eq!(sender.join().unwrap(), next + lost);
        assert_eq!((pool.lent(), pool.accounting().out), (0, 0));
        assert!(!inlet.has_packets());
    }

    #[test]
    fn an_inlet_is_not_kept_dry_by_another_of_the_same_pool() {
        let bell = Arc::new(Bell::new().unwrap());
        let [(_, mut greedy), (_, mut other)] = [handoff(&bell, MOST), handoff(&bell, MOST)];
        let mut pool = pool();
        greedy.attach(&pool, MOST);
        other.attach(&pool, MOST / 2);
        let leave = pool.available() as usize - MOST;
        greedy.lend(&mut pool, leave);
        assert_eq!((greedy.lent, pool.available() as usize), (MOST, leave));
        other.lend(&mut pool, leave);
        assert_eq!(other.lent, MOST / 16);
        other.lend(&mut pool, 0);
        assert_eq!(other.lent, MOST / 2, "no more than its share");
        assert_eq!((greedy.close(&mut pool), other.close(&mut pool)), (0, 0));
        assert_eq!(pool.accounting().out, 0);
    }

    #[test]
    fn without_rooms_or_a_receiver_nothing_is_taken() {
        let bell = Arc::new(Bell::new().unwrap());
        let (outlet, mut inlet) = handoff(&bell, MOST);
        let (mut ours, mut theirs) = (pool(), pool());
        let buffer = ours.take().unwrap();
        let descriptor = ours.place(buffer, &[1; 60]).unwrap();
        let metadata = Metadata::default();
        let packet = [Packet { descriptor, metadata, time: 0, buffer, cut: 0 }];
        assert_eq!(outlet.hand_over(&ours, packet.iter()), 0);
        inlet.attach(&theirs, MOST);
        assert_eq!(outlet.hand_over(&ours, packet.iter()), 0);
        inlet.lend(&mut theirs, 246);
        assert_eq!(theirs.lent(), 10, "the pool keeps what it was to keep");
        for n in 0..12 {
            assert_eq!(outlet.hand_over(&ours, packet.iter()), usize::from(n < 10));
        }
        outlet.end();
        assert!(!inlet.has_ended());
        assert_eq!(inlet.close(&mut theirs), 10);
        assert!(inlet.has_ended());
        assert_eq!(theirs.accounting().out, 0);
    }

    #[test]
    fn only_a_receiver_that_sleeps_is_rung() {
        let bell = Bell::new().unwrap();
        let rung = || rustix::io::read(bell.fd(), &mut [0; 8]).is_ok();
        bell.ring_if_asleep();
        assert!(!rung());
        bell.sleep();
        bell.ring_if_asleep();
        bell.ring_if_asleep();
        assert!(rung() && !rung());
        bell.sleep();
        bell.wake();
        bell.ring_if_asleep();
        assert!(!rung());
    }
}
