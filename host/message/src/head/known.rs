//! A head as it is known to be good, where no function can reach it.
//!
//! Most functions add fields and change nothing else. Then what lies in the room is the same as
//! before up to where it ended, which one comparison of bytes tells, and only what was added has to
//! be looked at, and be taken over.

use std::ops::Range;

use weir_layout::message::Head;

use super::Broken;
use super::check::{check_fields, head, used};

/// A head as it was laid out, and then as each function left it, once that was found good.
pub(crate) struct Known {
    bytes: Vec<u8>,
    /// Fields that were laid out.
    laid: usize,
    /// They are as they were, and so is all but the status.
    adds: bool,
}

impl Known {
    /// What was laid out in a room; `bytes` are to be used again.
    pub(crate) fn of(room: &[u8], mut bytes: Vec<u8>) -> Self {
        let head = Head::new(room);
        let (used, laid) = head.map_or((0, 0), |head| (head.used(), head.entries()));
        bytes.clear();
        bytes.extend_from_slice(&room[..used]);
        Self { bytes, laid, adds: true }
    }

    /// Looks at what a function left in the room: at a copy of it, because other instances that
    /// have the room in their windows may be running on other threads (one that is being
    /// configured, say), and what was looked at has to be what is taken over.
    ///
    /// # Errors
    /// What is wrong with its fields. Nothing is different here then.
    pub(crate) fn follow(&mut self, room: &[u8]) -> Result<(), Broken> {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(used(room)?);
        let (known, left) = self.bytes.split_at(before);
        match check(known, left) {
            Ok(adds) => {
                self.adds &= adds;
                self.bytes.drain(..before);
                Ok(())
            }
            Err(broken) => {
                self.bytes.truncate(before);
                Err(broken)
            }
        }
    }

    /// Puts it back into the room.
    pub(crate) fn undo(&self, room: &mut [u8]) {
        room[..self.bytes.len()].copy_from_slice(&self.bytes);
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields that were added, if nothing else but the status is different.
    pub(crate) fn added(&self) -> Option<Range<usize>> {
        let entries = Head::new(&self.bytes[..])?.entries();
        self.adds.then_some(self.laid..entries)
    }

    /// The memory, to be used again.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Whether a function only added to what is known, if it may have left this at all.
fn check(known: &[u8], left: &[u8]) -> Result<bool, Broken> {
    let (now, before) = (head(used(left)?)?, head(known)?);
    let adds = now.only_adds_to(known);
    let new = if adds { before.entries() } else { 0 };
    check_fields(&now, new..now.entries())?;
    Ok(adds)
}
