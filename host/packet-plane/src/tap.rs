//! Copies of the packets at one place of a chain that runs: where they come to it and leave it, or
//! on both sides of a function.
//!
//! Each lane copies into a buffer of fixed size; whoever reads takes it all at once and gives an
//! empty one. Packets for which there is no room any more are counted. So a reader that is slow, or
//! gone, costs the packets that it does not see, and nothing else.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_layout::{self as layout, Descriptor, Metadata};
use weir_pool::{Memory, Packet};

use crate::observer::Observer;

/// Bytes of packets that wait for the reader, of all lanes together.
const BYTES_MAX: usize = 32 << 20;
/// Bytes that wait in one lane, at most and at least.
const LANE_BYTES: std::ops::RangeInclusive<usize> = 1 << 20..=8 << 20;
/// Bytes of a packet, on average, that a buffer has records for.
const BYTES_OF_ONE: usize = 64;

/// Where a tap looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapPlace {
    /// What comes to the chain, and what leaves it.
    Chain,
    /// What the function at this place is given, and what it makes of it.
    Function(usize),
}

/// What a tap copies.
#[derive(Clone, Copy, Debug)]
pub struct TapConfig {
    /// Where it looks.
    pub place: TapPlace,
    /// Packets that come there.
    pub incoming: bool,
    /// Packets that leave from there.
    pub outgoing: bool,
    /// Bytes of each packet at most.
    pub snap_length: usize,
}

/// Whether packets are copied that have these bytes, by the port with this number.
pub type TapPick = Box<dyn FnMut(&[u8], u16) -> bool + Send>;

/// Which way a packet was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// To the chain, or the function.
    In,
    /// Away from it.
    Out,
    /// To the kernel's stack.
    ToKernel,
}

/// A packet that a tap copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tapped<'a> {
    /// When the packet came in, ns since 1970 (or of its port's own clock).
    pub time: u64,
    /// Number of the port by which it came in; of what leaves the chain, by which it leaves.
    pub port: u16,
    /// Which way it goes.
    pub heading: Heading,
    /// It passes the chain from the last function to the first.
    pub reverse: bool,
    /// What the function decided, as it was written (`wit/window.md`): of what leaves a function.
    pub verdict: Option<u32>,
    /// The same for what a function was given and what it made of that; counted from 1 in each
    /// lane, 0 at a chain's ends.
    pub id: u64,
    /// The lane that copied it.
    pub lane: usize,
    /// Packets that were not copied since the one before, for want of room.
    pub lost: u64,
    /// Its bytes, as far as they are copied.
    pub bytes: &'a [u8],
    /// Bytes that it has.
    pub length: u32,
}

/// See the module. Its other halves, the [`Observer`]s, are the lanes'.
pub struct Tap {
    config: TapConfig,
    lanes: Vec<Arc<Mutex<Buffer>>>,
    /// An empty buffer, to give for a full one.
    spare: Buffer,
    /// Bytes of a lane's buffer.
    room: usize,
}

#[derive(Default)]
struct Buffer {
    records: Vec<Record>,
    bytes: Vec<u8>,
    /// Packets for which there was no room, since the last one that is here.
    lost: u64,
    /// Nobody fills it any more.
    ended: bool,
}

/// A packet in a buffer: all but its bytes, which come one behind the other.
#[derive(Clone, Copy)]
struct Record {
    time: u64,
    id: u64,
    lost: u64,
    length: u32,
    kept: u32,
    verdict: Option<u32>,
    port: u16,
    flags: u16,
    heading: Heading,
}

/// See [`Tap`].
struct Tapper {
    config: TapConfig,
    pick: Option<TapPick>,
    buffer: Arc<Mutex<Buffer>>,
    /// Packets that a function was given, by slot: its number if it was copied, or would have been.
    slots: Vec<Option<u64>>,
    given: u64,
    /// The packet that is looked at.
    bytes: Vec<u8>,
}

impl Buffer {
    fn with_room(bytes: usize) -> Self {
        Self {
            records: Vec::with_capacity(bytes / BYTES_OF_ONE),
            bytes: Vec::with_capacity(bytes),
            ..Self::default()
        }
    }

    fn push(&mut self, record: Record, bytes: &[u8]) {
        let room = self.bytes.capacity() - self.bytes.len();
        if bytes.len() > room || self.records.len() == self.records.capacity() {
            self.lost += 1;
            return;
        }
        self.records.push(Record { lost: mem::take(&mut self.lost), ..record });
        self.bytes.extend_from_slice(bytes);
    }
}

impl Tap {
    /// A tap of a chain with so many lanes.
    #[must_use]
    pub fn new(config: TapConfig, lanes: usize) -> Self {
        let room = (BYTES_MAX / lanes.max(1)).clamp(*LANE_BYTES.start(), *LANE_BYTES.end());
        Self { config, lanes: Vec::new(), spare: Buffer::with_room(room), room }
    }

    /// For the next of its lanes; without `pick` it copies all packets.
    #[must_use]
    pub fn observer(&mut self, pick: Option<TapPick>) -> Box<dyn Observer> {
        let buffer = Arc::new(Mutex::new(Buffer::with_room(self.room)));
        self.lanes.push(Arc::clone(&buffer));
        let config = self.config;
        Box::new(Tapper { config, pick, buffer, slots: Vec::new(), given: 0, bytes: Vec::new() })
    }

    /// Takes what was copied since the last time. The answer is whether there will be more: not
    /// when its observers are gone.
    pub fn drain(&mut self, mut each: impl FnMut(Tapped<'_>)) -> bool {
        let mut more = false;
        for (lane, shared) in self.lanes.iter().enumerate() {
            let mut buffer = lock(shared);
            more |= !buffer.ended;
            if buffer.records.is_empty() {
                continue;
            }
            mem::swap(&mut buffer.records, &mut self.spare.records);
            mem::swap(&mut buffer.bytes, &mut self.spare.bytes);
            drop(buffer);
            let mut rest = &self.spare.bytes[..];
            for record in &self.spare.records {
                let bytes;
                (bytes, rest) = rest.split_at(record.kept as usize);
                each(Tapped {
                    time: record.time,
                    port: record.port,
                    heading: record.heading,
                    reverse: record.flags & layout::FLAG_REVERSE != 0,
                    verdict: record.verdict,
                    id: record.id,
                    lane,
                    lost: record.lost,
                    bytes,
                    length: record.length,
                });
            }
            self.spare.records.clear();
            self.spare.bytes.clear();
        }
        more
    }

    /// Packets that were not copied and that no packet of [`Self::drain`] has told of yet.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lanes.iter().map(|lane| lock(lane).lost).sum()
    }
}

impl Tapper {
    /// Reads the packet with this descriptor, which a function may have written.
    fn read(&mut self, window: &Memory, descriptor: Descriptor) {
        let (offset, length) = (descriptor.offset as usize, descriptor.length as usize);
        let inside = offset.saturating_add(length) <= window.len();
        self.bytes.resize(if inside { length } else { 0 }, 0);
        window.load(offset.min(window.len()), &mut self.bytes);
    }

    fn is_picked(&mut self, port: u16) -> bool {
        self.pick.as_mut().is_none_or(|pick| pick(&self.bytes, port))
    }

    /// Keeps the packet that was read.
    fn keep(&self, mut record: Record) {
        let kept = self.bytes.len().min(self.config.snap_length);
        record.kept = kept as u32;
        lock(&self.buffer).push(record, &self.bytes[..kept]);
    }

    /// Keeps those of these packets that are wanted.
    fn keep_all(
        &mut self,
        window: &Memory,
        packets: &[Packet],
        heading: Heading,
        port: Option<u16>,
    ) {
        for packet in packets {
            let port = port.unwrap_or(packet.metadata.port);
            self.read(window, packet.descriptor);
            if self.is_picked(port) {
                self.keep(Record {
                    time: packet.time,
                    id: 0,
                    lost: 0,
                    length: (self.bytes.len() as u32).saturating_add(packet.cut),
                    kept: 0,
                    verdict: None,
                    port,
                    flags: packet.metadata.flags,
                    heading,
                });
            }
        }
    }

    /// The packet in a slot of the window's vectors, which was read.
    fn in_slot(&self, window: &Memory, slot: usize, id: u64) -> Record {
        let metadata = window.get::<Metadata>(layout::METADATA + slot * 8);
        Record {
            time: window.get(layout::WALL),
            id,
            lost: 0,
            length: self.bytes.len() as u32,
            kept: 0,
            verdict: None,
            port: metadata.port,
            flags: metadata.flags,
            heading: Heading::In,
        }
    }

    fn read_slot(&mut self, window: &Memory, slot: usize) {
        self.read(window, window.get::<Descriptor>(layout::DESCRIPTORS + slot * 8));
    }
}

impl Observer for Tapper {
    fn before(&mut self, place: usize, window: &Memory, count: usize) {
        if self.config.place != TapPlace::Function(place) {
            return;
        }
        self.slots.clear();
        for slot in 0..count {
            self.read_slot(window, slot);
            let record = self.in_slot(window, slot, self.given + 1);
            let picked = self.is_picked(record.port);
            if picked {
                self.given += 1;
                if self.config.incoming {
                    self.keep(record);
                }
            }
            self.slots.push(picked.then_some(record.id));
        }
    }

    fn after(&mut self, place: usize, window: &Memory, count: usize) {
        if self.config.place != TapPlace::Function(place) || !self.config.outgoing {
            return;
        }
        for slot in 0..count.min(self.slots.len()) {
            let Some(id) = self.slots[slot] else { continue };
            self.read_slot(window, slot);
            let verdict = Some(window.get::<u32>(layout::VERDICTS + slot * 4));
            let record = self.in_slot(window, slot, id);
            self.keep(Record { verdict, heading: Heading::Out, ..record });
        }
    }

    fn came(&mut self, window: &Memory, packets: &[Packet]) {
        if self.config.place == TapPlace::Chain && self.config.incoming {
            self.keep_all(window, packets, Heading::In, None);
        }
    }

    fn leaving(&mut self, port: u16, to_kernel: bool, window: &Memory, packets: &[Packet]) {
        if self.config.place == TapPlace::Chain && self.config.outgoing {
            let heading = if to_kernel { Heading::ToKernel } else { Heading::Out };
            self.keep_all(window, packets, heading, Some(port));
        }
    }
}

impl Drop for Tapper {
    fn drop(&mut self) {
        lock(&self.buffer).ended = true;
    }
}

fn lock(buffer: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}
