//! Bursts by value (`packet-burst`), for chains that are run one function at a time.
//!
//! Owns: laying a burst out for a function as `wit/burst.md` says, and applying its answer to the
//! window. The runner of a linked chain does the same in Wasm.

use wasmtime::component::{ComponentType, Lift};
use weir_layout::{self as layout, Descriptor, HEADROOM, Metadata, Verdict};
use weir_pool::Memory;

use crate::separate::NOTHING;

/// Bytes in front of the packets' records.
pub(crate) const HEADER: usize = 24;
/// Bytes of a packet's record.
pub(crate) const ROW: usize = 20;
/// Bytes of a burst; one packet may have more.
pub(crate) const STAGED_MAX: usize = 0x1_0000;

/// WIT `packet-burst.answer`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Answer {
    verdicts: Vec<u8>,
    changes: Vec<Change>,
}

/// WIT `packet-burst.change`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Change {
    index: u32,
    replaced: u32,
    bytes: Vec<u8>,
}

/// Lays out as many of these packets as fit; the first is in slot `first` of the window. The second
/// part of the answer is how many.
pub(crate) fn stage(
    window: &Memory,
    kept: &[Descriptor],
    first: usize,
    head: usize,
) -> (Vec<u8>, usize) {
    let mut burst = vec![0; HEADER + kept.len() * ROW];
    let mut staged = 0;
    for (slot, descriptor) in kept.iter().enumerate() {
        let offset = burst.len();
        let given = head.min(descriptor.length as usize);
        if slot > 0 && offset + given > STAGED_MAX {
            break;
        }
        burst.resize(offset + given, 0);
        window.copy_out(descriptor.offset as usize, &mut burst[offset..]);
        let metadata = window.get::<Metadata>(layout::METADATA + (first + slot) * 8);
        let row = &mut burst[HEADER + slot * ROW..][..ROW];
        row[0..4].copy_from_slice(&word(offset).to_le_bytes());
        row[4..8].copy_from_slice(&word(given).to_le_bytes());
        row[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
        row[12..14].copy_from_slice(&metadata.port.to_le_bytes());
        row[14..16].copy_from_slice(&metadata.flags.to_le_bytes());
        row[16..20].copy_from_slice(&metadata.hash.to_le_bytes());
        staged += 1;
    }
    burst[0..4].copy_from_slice(&word(staged).to_le_bytes());
    burst[8..16].copy_from_slice(&window.get::<u64>(layout::CLOCK).to_le_bytes());
    burst[16..24].copy_from_slice(&window.get::<u64>(layout::CLOCK + 8).to_le_bytes());
    (burst, staged)
}

/// The part of a burst that a function was given by one call.
pub(crate) struct Part<'a> {
    pub(crate) window: &'a mut Memory,
    /// Its packets' descriptors.
    pub(crate) kept: &'a [Descriptor],
    /// The first packet's slot in the window.
    pub(crate) first: usize,
    /// Bytes of a packet that the function asked for.
    pub(crate) head: usize,
    pub(crate) room_bytes: u32,
    /// Whether the function may change packets.
    pub(crate) writes: bool,
}

impl Part<'_> {
    /// Writes the answer into the window, where it is settled like any other's.
    pub(crate) fn apply(&mut self, answer: &Answer) {
        if !answer.verdicts.is_empty() {
            let fits = answer.verdicts.len() == self.kept.len() * 4;
            for slot in 0..self.kept.len() {
                let verdict = answer.verdicts.get(slot * 4..slot * 4 + 4).filter(|_| fits);
                let verdict = verdict.map_or(NOTHING, |bytes| {
                    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
                });
                let holds = verdict & 0xff == Verdict::Hold.kind();
                self.set_verdict(slot, if holds { NOTHING } else { verdict });
            }
        }
        for change in &answer.changes {
            self.change(change);
        }
    }

    fn change(&mut self, change: &Change) {
        let slot = change.index as usize;
        let Some(kept) = self.kept.get(slot).copied() else {
            self.set_verdict(0, NOTHING);
            return;
        };
        let (replaced, length) = (change.replaced, word(change.bytes.len()));
        if !self.writes || replaced as usize > self.head.min(kept.length as usize) {
            self.set_verdict(slot, NOTHING);
            return;
        }
        let room = kept.offset & !(self.room_bytes - 1);
        let rest = kept.length - replaced;
        let offset = if rest == 0 {
            room + word(HEADROOM)
        } else {
            (kept.offset + replaced).wrapping_sub(length)
        };
        let moved = Descriptor { offset, length: rest.wrapping_add(length) };
        if moved.lies_in(room, self.room_bytes) {
            self.window.copy_in(offset as usize, &change.bytes);
        }
        self.window.set(layout::DESCRIPTORS + (self.first + slot) * 8, moved);
    }

    fn set_verdict(&mut self, slot: usize, verdict: u32) {
        self.window.set(layout::VERDICTS + (self.first + slot) * 4, verdict);
    }
}

fn word(n: usize) -> u32 {
    u32::try_from(n).expect("bursts are far below 4 GiB")
}
