//! A record of what each function of a chain does to some of its packets.
//!
//! Packets are followed by the rooms that they lie in. What is recorded is copied, so a trace costs
//! what it shows: the packets that are not picked cost a look at each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_layout::{self as layout, Descriptor, FLAG_MADE, FLAG_REVERSE, Metadata, Verdict};
use weir_pool::Memory;

use crate::context::{NO_PORT, has_turned};
use crate::observer::Observer;

/// Bytes of packets that a trace keeps.
const BYTES_MAX: usize = 32 << 20;

/// A packet that may be followed.
#[derive(Clone, Copy, Debug)]
pub struct Sighted<'a> {
    /// How many have come to the chain since the trace began, this one included.
    pub number: u64,
    /// A function made it; others have come in by a port.
    pub made: bool,
    /// Number of the port that it came in by.
    pub port: u16,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Says which packets are followed.
pub type Pick = Box<dyn FnMut(Sighted<'_>) -> bool + Send>;

/// A packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// See [`Sighted::number`]; none for a packet that a function made.
    pub number: Option<u64>,
    /// It goes from the last function to the first.
    pub reverse: bool,
    /// The packet as the first of these functions got it.
    pub bytes: Vec<u8>,
    /// Functions that it was given to, one after the other: an answer passes those before the one
    /// that gave it once more.
    pub steps: Vec<Step>,
}

/// What a function did to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The function's place.
    pub place: usize,
    /// What it decided. None if it faulted, or is not done.
    pub outcome: Option<Outcome>,
}

/// See [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its verdict as it was written (`wit/window.md`).
    pub verdict: u32,
    /// The packet then, if it is another than before.
    pub changed: Option<Vec<u8>>,
}

/// See the module. Its other halves, the [`Observer`]s, are the lanes'.
pub struct Trace {
    record: Arc<Mutex<Record>>,
    functions: usize,
}

struct Record {
    pick: Pick,
    /// Packets that are followed at most.
    limit: usize,
    /// Packets that have come to the chain.
    came: u64,
    followed: Vec<Followed>,
    /// Bytes that are kept.
    bytes: usize,
    /// Packets that are followed and have not left the chain.
    under_way: usize,
}

/// See [`Trace`].
struct Watcher {
    record: Arc<Mutex<Record>>,
    /// Bytes of a room, a power of two.
    room: u32,
    /// The last function's place.
    last: usize,
    /// Which of the packets that are followed lies in which room.
    rooms: HashMap<u32, Resident>,
    /// Rooms of the packets that the running function was given, by slot.
    slots: Vec<u32>,
    /// The packet that is looked at.
    bytes: Vec<u8>,
}

/// A packet that is followed, where it is.
struct Resident {
    /// Its place in the record.
    at: usize,
    /// Its bytes before the function that has it.
    bytes: Vec<u8>,
    /// Its direction there.
    reverse: bool,
    /// It goes back to the port that it came in by, and is turned round no more; or it came by
    /// none.
    turned: bool,
}

impl Resident {
    fn new(at: usize, bytes: Vec<u8>, metadata: Metadata) -> Self {
        let reverse = metadata.flags & FLAG_REVERSE != 0;
        let turned = metadata.port == NO_PORT || has_turned(metadata);
        Self { at, bytes, reverse, turned }
    }

    /// Whether a function of the chain gets it next, after this verdict of the one at `place`. A
    /// reply passes those that it has passed before.
    fn stays(&self, place: usize, last: usize, verdict: u32) -> bool {
        let (first, end) = if self.reverse { (last, 0) } else { (0, last) };
        match Verdict::decode_final(verdict) {
            Some((Verdict::Next | Verdict::Clone(_), _)) => place != end,
            Some((Verdict::Jump(_) | Verdict::Hold, _)) => true,
            Some((Verdict::Reply, _)) => !self.turned && place != first,
            _ => false,
        }
    }
}

impl Trace {
    /// Follows at most `limit` of the packets that are picked, through a chain of so many
    /// functions.
    #[must_use]
    pub fn new(limit: usize, functions: usize, pick: Pick) -> Self {
        let record = Record { pick, limit, came: 0, followed: Vec::new(), bytes: 0, under_way: 0 };
        Self { record: Arc::new(Mutex::new(record)), functions }
    }

    /// For a lane of the chain; a room of its pool has `room` bytes, a power of two.
    #[must_use]
    pub fn observer(&self, room: u32) -> Box<dyn Observer> {
        let last = self.functions.saturating_sub(1);
        Box::new(Watcher {
            record: Arc::clone(&self.record),
            room,
            last,
            rooms: HashMap::new(),
            slots: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Whether it follows as many as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        lock(&self.record).is_full()
    }

    /// Whether it follows as many as it may, and all of them have left the chain.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let record = lock(&self.record);
        record.is_full() && record.under_way == 0
    }

    /// What was recorded, and how many packets came to the chain meanwhile. Its observers may go
    /// on.
    #[must_use]
    pub fn recorded(&self) -> (Vec<Followed>, u64) {
        let record = lock(&self.record);
        (record.followed.clone(), record.came)
    }
}

impl Record {
    fn is_full(&self) -> bool {
        self.followed.len() >= self.limit || self.bytes >= BYTES_MAX
    }

    /// Begins to follow a packet, if it is one of those: which of them it is.
    fn sight(&mut self, bytes: &[u8], metadata: Metadata) -> Option<usize> {
        let made = metadata.flags & FLAG_MADE != 0;
        if !made {
            self.came += 1;
        }
        let number = self.came;
        let sighted = Sighted { number, made, port: metadata.port, bytes };
        if self.is_full() || !(self.pick)(sighted) {
            return None;
        }
        self.bytes += bytes.len();
        self.under_way += 1;
        self.followed.push(Followed {
            number: (!made).then_some(number),
            reverse: metadata.flags & FLAG_REVERSE != 0,
            bytes: bytes.to_vec(),
            steps: Vec::new(),
        });
        Some(self.followed.len() - 1)
    }
}

impl Watcher {
    /// Reads the packet in a slot; the answer is the room that its descriptor names.
    fn read(&mut self, window: &Memory, slot: usize) -> u32 {
        let descriptor = window.get::<Descriptor>(layout::DESCRIPTORS + slot * 8);
        let (offset, length) = (descriptor.offset as usize, descriptor.length as usize);
        // What a function left there is checked later.
        let inside = offset.saturating_add(length) <= window.len();
        self.bytes.resize(if inside { length } else { 0 }, 0);
        window.load(offset.min(window.len()), &mut self.bytes);
        descriptor.offset & !(self.room - 1)
    }
}

impl Observer for Watcher {
    fn before(&mut self, place: usize, window: &Memory, count: usize) {
        let record = Arc::clone(&self.record);
        let mut record = lock(&record);
        self.slots.clear();
        if record.is_full() && self.rooms.is_empty() {
            return;
        }
        for slot in 0..count {
            let room = self.read(window, slot);
            self.slots.push(room);
            let metadata = window.get::<Metadata>(layout::METADATA + slot * 8);
            let first = if metadata.flags & FLAG_REVERSE != 0 { self.last } else { 0 };
            let made = metadata.flags & FLAG_MADE != 0;
            let known = self.rooms.remove(&room).map(|resident| resident.at);
            let at = match known {
                // To the first function everything is new, whatever lay there before.
                Some(at) if place != first && record.followed[at].number.is_none() == made => at,
                other => {
                    record.under_way -= usize::from(other.is_some());
                    // Elsewhere only what a function made was not seen before, or what came before
                    // the trace began.
                    let new = place == first || made;
                    match new.then(|| record.sight(&self.bytes, metadata)).flatten() {
                        Some(at) => at,
                        None => continue,
                    }
                }
            };
            record.followed[at].steps.push(Step { place, outcome: None });
            self.rooms.insert(room, Resident::new(at, self.bytes.clone(), metadata));
        }
    }

    fn after(&mut self, place: usize, window: &Memory, count: usize) {
        let record = Arc::clone(&self.record);
        let mut record = lock(&record);
        for slot in 0..count.min(self.slots.len()) {
            let room = self.slots[slot];
            let Some(resident) = self.rooms.remove(&room) else { continue };
            self.read(window, slot);
            let verdict = window.get::<u32>(layout::VERDICTS + slot * 4);
            let changed = (resident.bytes != self.bytes).then(|| self.bytes.clone());
            record.bytes += changed.as_ref().map_or(0, Vec::len);
            let followed = &mut record.followed[resident.at];
            if let Some(step) = followed.steps.last_mut().filter(|step| step.place == place) {
                step.outcome = Some(Outcome { verdict, changed });
            }
            if resident.stays(place, self.last, verdict) {
                self.rooms.insert(room, resident);
            } else {
                record.under_way -= 1;
            }
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
