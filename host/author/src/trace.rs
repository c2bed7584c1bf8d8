//! What each function of a chain did to packets.
//!
//! Owns: following packets from function to function, by the rooms that they lie in. Must not know: where packets come from.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use weir_chain::Observer;
use weir_layout::{self as layout, Descriptor, Verdict};
use weir_packet_plane::verdict_in_words;
use weir_pool::Memory;
use weir_spec::{TracedPacket, TracedStep};

use crate::captures::Frame;
use crate::dissect;

/// What was seen; its other half, an [`Observer`], is the lane's.
#[derive(Debug)]
pub struct Trace(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    /// Numbers of the packets to follow.
    which: RangeInclusive<u64>,
    /// Packets that came to the first function.
    came: u64,
    followed: Vec<Followed>,
    /// Which of them lies in which room; none for a packet that is not to be followed.
    rooms: HashMap<u32, Option<usize>>,
}

#[derive(Debug)]
struct Followed {
    number: Option<u64>,
    first: Frame,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    place: usize,
    before: Frame,
    /// Its verdict, and the packet then. None if it faulted.
    after: Option<(u32, Frame)>,
}

/// See [`Trace`].
struct Watcher {
    record: Arc<Mutex<Record>>,
    /// Bytes of a room.
    room: u32,
    /// The last function's place.
    last: usize,
}

impl Trace {
    /// Follows the packets with these numbers, from 1, through so many functions, and those that functions send while these come in. A
    /// room of the lane's pool has `room` bytes, a power of two.
    #[must_use]
    pub fn new(
        which: RangeInclusive<u64>,
        functions: usize,
        room: u32,
    ) -> (Self, Box<dyn Observer>) {
        let record = Record { which, came: 0, followed: Vec::new(), rooms: HashMap::new() };
        let record = Arc::new(Mutex::new(record));
        let last = functions.saturating_sub(1);
        let watcher = Watcher { record: Arc::clone(&record), room, last };
        (Self(record), Box::new(watcher))
    }

    /// What became of them; `names` are those of the functions.
    ///
    /// # Errors
    /// When a temporary file for tshark cannot be written.
    pub fn packets(&self, names: &[String]) -> Result<Vec<TracedPacket>> {
        let record = lock(&self.0);
        let step = |step: &Step| {
            let (verdict, changes) = match &step.after {
                None => ("fault".into(), Vec::new()),
                Some((verdict, after)) if *after == step.before => {
                    (verdict_in_words(*verdict), Vec::new())
                }
                Some((verdict, after)) => {
                    let changes = dissect::changed(&step.before, after)?;
                    (verdict_in_words(*verdict), changes.lines().map(str::to_owned).collect())
                }
            };
            let function = names.get(step.place).cloned().unwrap_or_default();
            Ok(TracedStep { function, verdict, changes })
        };
        let packet = |packet: &Followed| {
            let steps = packet.steps.iter().map(step).collect::<Result<_>>()?;
            Ok(TracedPacket {
                number: packet.number,
                packet: dissect::summary(&packet.first)?,
                steps,
            })
        };
        record.followed.iter().map(packet).collect()
    }
}

impl Record {
    /// Begins to follow a packet: which of them it is.
    fn follow(&mut self, number: Option<u64>, frame: &Frame) -> usize {
        self.followed.push(Followed { number, first: frame.clone(), steps: Vec::new() });
        self.followed.len() - 1
    }
}

impl Watcher {
    /// The packet in a slot, and the room that it lies in.
    fn packet(&self, window: &Memory, slot: usize) -> (u32, Frame) {
        let descriptor = window.get::<Descriptor>(layout::DESCRIPTORS + slot * 8);
        let (offset, length) = (descriptor.offset as usize, descriptor.length as usize);
        // What a function left there is checked later.
        let inside = offset.saturating_add(length) <= window.len();
        let mut bytes = vec![0; if inside { length } else { 0 }];
        window.load(offset.min(window.len()), &mut bytes);
        (descriptor.offset & !(self.room - 1), Frame { time: 0, bytes, cut: 0 })
    }
}

impl Observer for Watcher {
    fn before(&mut self, place: usize, window: &Memory, count: usize) {
        let mut record = lock(&self.record);
        for slot in 0..count {
            let (room, frame) = self.packet(window, slot);
            if place == 0 {
                // To the first function everything is new, whatever lay there before.
                record.came += 1;
                let number = record.came;
                let at =
                    record.which.contains(&number).then(|| record.follow(Some(number), &frame));
                record.rooms.insert(room, at);
            } else if !record.rooms.contains_key(&room) {
                let at = record.which.contains(&record.came).then(|| record.follow(None, &frame));
                record.rooms.insert(room, at);
            }
            let Some(Some(at)) = record.rooms.get(&room).copied() else { continue };
            record.followed[at].steps.push(Step { place, before: frame, after: None });
        }
    }

    fn after(&mut self, place: usize, window: &Memory, count: usize) {
        let mut record = lock(&self.record);
        for slot in 0..count {
            let (room, frame) = self.packet(window, slot);
            let verdict = window.get::<u32>(layout::VERDICTS + slot * 4);
            let known = record.rooms.get(&room).copied().flatten();
            if let Some(step) = known.and_then(|at| record.followed[at].steps.last_mut())
                && step.place == place
            {
                step.after = Some((verdict, frame));
            }
            let stays = match Verdict::decode_final(verdict) {
                Some((Verdict::Next | Verdict::Clone(_), _)) => place < self.last,
                Some((Verdict::Jump(_) | Verdict::Hold, _)) => true,
                _ => false,
            };
            if !stays {
                record.rooms.remove(&room);
            }
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
