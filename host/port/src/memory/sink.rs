//! Where packets sent to a `memory` port go: they are counted, and kept if a test wants to see
//! them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use weir_pool::{Packet, Pool};

use crate::statistics::PortCounts;

/// What to keep of the packets sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: count only. This costs least.
    #[default]
    Nothing,
    /// The last so many frames.
    Last(usize),
    /// All frames.
    All,
}

/// Frames that were sent, readable from any thread; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Kept {
    /// Takes the frames kept so far, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.lock().drain(..).collect()
    }

    /// Number of frames kept now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<u8>>> {
        // Frames are whole before they are pushed: a panic elsewhere does not harm them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Sink {
    keep: Keep,
    kept: Kept,
}

impl Sink {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, kept: Kept::default() }
    }

    pub(super) fn kept(&self) -> Kept {
        self.kept.clone()
    }

    pub(super) fn send(&self, pool: &mut Pool, packets: &mut Vec<Packet>, counts: &mut PortCounts) {
        match self.keep {
            Keep::Nothing => {}
            Keep::Last(most) => self.record(pool, packets, most),
            Keep::All => self.record(pool, packets, usize::MAX),
        }
        counts.tx_packets = packets.len() as u64;
        counts.tx_bytes = packets.iter().map(|packet| u64::from(packet.descriptor.length)).sum();
        pool.give_all(packets.drain(..).map(|packet| packet.buffer));
    }

    #[cold]
    fn record(&self, pool: &Pool, packets: &[Packet], most: usize) {
        let mut kept = self.kept.lock();
        for packet in packets {
            // A descriptor outside the pool has no bytes; the frame counts as empty.
            kept.push_back(pool.bytes(packet.descriptor).unwrap_or_default().to_vec());
            if kept.len() > most {
                kept.pop_front();
            }
        }
    }
}
