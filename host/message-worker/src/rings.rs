//! The memory between a gateway's thread and a worker: a ring of bytes in each direction, and how
//! the upstreams are.
//!
//! Who writes copies in, and sends a descriptor by the hop; who reads copies out as soon as the
//! descriptor comes, in order, and says how far it has read. So nothing is parsed where the other
//! side can write, no bytes are owned by two, and a worker that dies leaves nothing behind that
//! would have to be given back: its rings go with it.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use bytes::Bytes;
use weir_exchange::Upstreams;
use weir_hop::{Descriptor, End};
use weir_pool::{HugePages, Memory, PoolError};

use crate::protocol::{Message, PREFIX};

/// How far the worker has read, and how far the gateway has.
const READ: [usize; 2] = [0, 64];
/// A word for each upstream.
const UPSTREAMS: usize = 4096;
const UPSTREAMS_MAX: usize = 4096;
/// The ring to the worker, and the one behind it to the gateway.
const RINGS: usize = UPSTREAMS + UPSTREAMS_MAX * 8;
const RING: usize = 512 << 10;
const HEALTHY: u64 = 1 << 32;

/// Longest message: a head and a body of 64 KiB each.
pub(crate) const MESSAGE_MAX: usize = (128 << 10) + 4096;

/// The other side says what it cannot mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Breach(pub(crate) &'static str);

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Gateway,
    Worker,
}

/// New memory for rings.
///
/// # Errors
/// When there is none.
pub(crate) fn memory(name: &str) -> Result<Memory, PoolError> {
    Memory::new(name, RINGS + 2 * RING, HugePages::Never)
}

/// What a message takes while it waits.
fn weight(message: &Message) -> usize {
    size_of_val(message) + message.bytes.len()
}

/// One side of the rings. See the module.
#[derive(Debug)]
pub(crate) struct Rings {
    memory: Memory,
    side: Side,
    written: u64,
    /// How far the other side has read.
    taken: u64,
    read: u64,
    /// Messages that there was no room for.
    backlog: VecDeque<Message>,
    /// Bytes that these take.
    kept: usize,
    /// Messages that were to be sent, so far.
    accepted: u64,
}

impl Rings {
    /// # Errors
    /// When the memory is not large enough for one.
    pub(crate) fn new(memory: Memory, side: Side) -> Result<Self, Breach> {
        if memory.len() < RINGS + 2 * RING {
            return Err(Breach("the rings' memory is too small"));
        }
        let (written, taken, read, accepted) = (0, 0, 0, 0);
        let (backlog, kept) = (VecDeque::new(), 0);
        Ok(Self { memory, side, written, taken, read, backlog, kept, accepted })
    }

    fn own_and_other(&self) -> (usize, usize) {
        match self.side {
            Side::Gateway => (0, 1),
            Side::Worker => (1, 0),
        }
    }

    /// Messages that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Bytes that they take.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// How many messages were to be sent so far, and how many of them have been.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.accepted, self.accepted - self.backlog.len() as u64)
    }

    /// Writes a message and has its descriptor sent; it waits if there is no room.
    ///
    /// # Errors
    /// When the other side says that it has read what was not written.
    pub(crate) fn send(&mut self, end: &mut End, message: Message) -> Result<(), Breach> {
        debug_assert!(message.bytes.len() + PREFIX <= MESSAGE_MAX, "whoever sends cuts");
        self.accepted += 1;
        if !self.backlog.is_empty() || !self.put(end, &message, &message.bytes)? {
            self.keep(message);
        }
        Ok(())
    }

    /// The same with bytes that are copied out at once, unless the message has to wait.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn send_with(
        &mut self,
        end: &mut End,
        message: Message,
        bytes: &[u8],
    ) -> Result<(), Breach> {
        debug_assert!(bytes.len() + PREFIX <= MESSAGE_MAX, "whoever sends cuts");
        self.accepted += 1;
        if !self.backlog.is_empty() || !self.put(end, &message, bytes)? {
            self.keep(Message { bytes: Bytes::copy_from_slice(bytes), ..message });
        }
        Ok(())
    }

    fn keep(&mut self, message: Message) {
        self.kept += weight(&message);
        self.backlog.push_back(message);
    }

    /// How far the other side has read: it changes as long as that one lives.
    pub(crate) fn progress(&self) -> u64 {
        let mut word = [0; 8];
        self.memory.load(READ[self.own_and_other().0], &mut word);
        u64::from_le_bytes(word)
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn retry(&mut self, end: &mut End) -> Result<(), Breach> {
        while let Some(message) = self.backlog.pop_front() {
            if !self.put(end, &message, &message.bytes)? {
                self.backlog.push_front(message);
                break;
            }
            self.kept -= weight(&message);
        }
        Ok(())
    }

    fn put(&mut self, end: &mut End, message: &Message, bytes: &[u8]) -> Result<bool, Breach> {
        if end.room() == 0 {
            return Ok(false);
        }
        let length = PREFIX + bytes.len();
        let mut at = self.written;
        let within = (at % RING as u64) as usize;
        if within + length > RING {
            at += (RING - within) as u64;
        }
        let next = at + length.next_multiple_of(8) as u64;
        if next - self.taken > RING as u64 {
            self.look()?;
            if next - self.taken > RING as u64 {
                return Ok(false);
            }
        }
        let offset = RINGS + self.own_and_other().0 * RING + (at % RING as u64) as usize;
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&message.a.to_le_bytes());
        prefix[4..8].copy_from_slice(&message.b.to_le_bytes());
        prefix[8..].copy_from_slice(&message.c.to_le_bytes());
        self.memory.store(offset, &prefix);
        self.memory.store(offset + PREFIX, bytes);
        fence(Ordering::Release);
        self.written = next;
        let descriptor = Descriptor {
            exchange: message.exchange,
            kind: message.kind,
            offset: offset as u32,
            length: length as u32,
            ..Descriptor::default()
        };
        // There is room: it was looked at above.
        end.send(&[descriptor]).map_err(|_| Breach("the hop takes no more"))?;
        Ok(true)
    }

    /// Looks how far the other side has read.
    fn look(&mut self) -> Result<(), Breach> {
        let mut word = [0; 8];
        self.memory.load(READ[self.own_and_other().0], &mut word);
        fence(Ordering::Acquire);
        let taken = u64::from_le_bytes(word);
        if taken < self.taken || taken > self.written {
            return Err(Breach("it has read what was not written"));
        }
        self.taken = taken;
        Ok(())
    }

    /// Copies the message out that this descriptor names: the next one of the ring.
    ///
    /// # Errors
    /// When it is another one, or does not lie in the ring.
    pub(crate) fn receive(&mut self, descriptor: Descriptor) -> Result<Message, Breach> {
        let ring = RINGS + self.own_and_other().1 * RING;
        let (offset, length) = (descriptor.offset as usize, descriptor.length as usize);
        let within = (self.read % RING as u64) as usize;
        let mut at = self.read;
        if offset == ring && within + length > RING {
            at += (RING - within) as u64;
        } else if offset != ring + within {
            return Err(Breach("a descriptor does not name the next message"));
        }
        let start = (at % RING as u64) as usize;
        if !(PREFIX..=MESSAGE_MAX).contains(&length) || start + length > RING {
            return Err(Breach("a message is too short, or too long"));
        }
        fence(Ordering::Acquire);
        let mut prefix = [0; PREFIX];
        self.memory.load(offset, &mut prefix);
        let mut bytes = vec![0; length - PREFIX];
        self.memory.load(offset + PREFIX, &mut bytes);
        fence(Ordering::Release);
        self.read = at + length.next_multiple_of(8) as u64;
        self.memory.store(READ[self.own_and_other().1], &self.read.to_le_bytes());
        let (a, rest) = prefix.split_at(4);
        let (b, c) = rest.split_at(4);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
        Ok(Message {
            exchange: descriptor.exchange,
            kind: descriptor.kind,
            a: word(a),
            b: word(b),
            c: c.try_into().map_or(0, u64::from_le_bytes),
            bytes: Bytes::from(bytes),
        })
    }

    /// Writes down how the upstreams are; `before` is what was written.
    pub(crate) fn tell_upstreams(&self, upstreams: &dyn Upstreams, before: &mut Vec<u64>) {
        let count = upstreams.count().min(UPSTREAMS_MAX);
        before.resize(count, u64::MAX);
        for (n, before) in before.iter_mut().enumerate() {
            let healthy = if upstreams.healthy(n) { HEALTHY } else { 0 };
            let now = healthy | u64::from(upstreams.active(n));
            if *before != now {
                *before = now;
                self.memory.store(UPSTREAMS + n * 8, &now.to_le_bytes());
            }
        }
    }
}

/// The upstreams as a worker sees them.
#[derive(Debug)]
pub(crate) struct Table {
    memory: Memory,
    count: usize,
}

impl Table {
    pub(crate) fn new(memory: Memory, count: usize) -> Self {
        Self { memory, count }
    }

    fn word(&self, upstream: usize) -> u64 {
        let mut word = [0; 8];
        if upstream < self.count.min(UPSTREAMS_MAX) {
            self.memory.load(UPSTREAMS + upstream * 8, &mut word);
        }
        u64::from_le_bytes(word)
    }
}

impl Upstreams for Table {
    fn count(&self) -> usize {
        self.count
    }

    fn healthy(&self, upstream: usize) -> bool {
        self.word(upstream) & HEALTHY != 0
    }

    fn active(&self, upstream: usize) -> u32 {
        self.word(upstream) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use weir_hop::Hub;

    fn both_sides() -> ((Rings, End), (Rings, End)) {
        let memory = memory("rings").unwrap();
        let other = Memory::open("rings", memory.fd().try_clone_to_owned().unwrap()).unwrap();
        let (end, worker) = Hub::unix().connect_worker(1, 1).unwrap();
        let gateway = Rings::new(memory, Side::Gateway).unwrap();
        let rings = Rings::new(other, Side::Worker).unwrap();
        assert!(end.as_fd().try_clone_to_owned().is_ok());
        ((gateway, end), (rings, worker.open()))
    }

    fn message(n: u32, length: usize) -> Message {
        let bytes = Bytes::from(vec![n as u8; length]);
        Message { exchange: n, kind: 9, a: n, b: n + 1, c: u64::from(n) << 32, bytes }
    }

    #[test]
    fn messages_of_all_lengths_come_out_as_they_went_in_however_slow_the_reader_is() {
        let ((mut gateway, mut end), (mut worker, mut other)) = both_sides();
        let lengths = [0, 1, 7, 8, 100, 16_384, 65_536, 100_000];
        let all: Vec<_> = (0..2000).map(|n| message(n, lengths[n as usize % 8])).collect();
        for message in &all {
            gateway.send(&mut end, message.clone()).unwrap();
        }
        assert!(gateway.waiting() > 0 && gateway.kept() > 1 << 20);
        let (mut descriptors, mut got) = (Vec::new(), 0);
        while got < all.len() {
            gateway.retry(&mut end).unwrap();
            end.flush().unwrap();
            let _ = end.receive(&mut Vec::new());
            let _ = other.receive(&mut descriptors);
            for descriptor in descriptors.drain(..) {
                let read = worker.receive(descriptor).unwrap();
                let sent = &all[got];
                assert_eq!(
                    (read.a, read.b, read.c, &read.bytes),
                    (sent.a, sent.b, sent.c, &sent.bytes)
                );
                got += 1;
            }
            let _ = other.flush();
        }
        assert_eq!((gateway.waiting(), gateway.kept()), (0, 0));
    }

    #[test]
    fn what_the_other_side_cannot_mean_is_found() {
        let ((mut gateway, mut end), (mut worker, mut other)) = both_sides();
        worker.send(&mut other, message(1, 10)).unwrap();
        other.flush().unwrap();
        let mut descriptors = Vec::new();
        end.receive(&mut descriptors).unwrap();
        let good = descriptors[0];
        for bad in [
            Descriptor { offset: good.offset + 8, ..good },
            Descriptor { offset: 0, ..good },
            Descriptor { offset: u32::MAX, ..good },
            Descriptor { length: 15, ..good },
            Descriptor { length: u32::MAX, ..good },
        ] {
            assert!(gateway.receive(bad).is_err(), "{bad:?}");
        }
        assert!(gateway.receive(good).is_ok());
        assert!(gateway.receive(good).is_err(), "twice");
        worker.memory.store(READ[0], &u64::MAX.to_le_bytes());
        let filled = (0..100).try_for_each(|n| gateway.send(&mut end, message(n, 65_536)));
        assert!(filled.is_err());
    }
}
