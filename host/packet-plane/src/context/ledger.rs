//! What a chain has under way, holds and has counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use weir_layout::BURST_MAX;
use weir_pool::Packet;

use super::ports::ASK_AGAIN;
use crate::counters::{Counters, DropReason, Shared};
use crate::observer::Observers;
use crate::owned::Ownership;
use crate::sampler::Sampler;
use crate::upward::Upward;

/// What becomes of the packets that a function holds when its instance ends. Buffers that it had
/// allocated and not sent are freed, except with `HandOver`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disown {
    /// They go on behind the function.
    Pass,
    /// They are dropped.
    Discard(DropReason),
    /// They are this instance's: its state region tells it about them.
    HandOver {
        /// Its number.
        to: u64,
        /// Another instance took them: this one may know nothing of them.
        inherited: bool,
    },
}

/// A packet that enters the chain at some function, because a function sent it or because a fault
/// interrupted its way.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) packet: Packet,
    pub(crate) start: usize,
    pub(crate) reverse: bool,
    /// How often functions have moved it from chain to chain.
    pub(crate) moves: u8,
}

/// What a chain has under way, holds and has counted, beside the pool and the ports: lanes that
/// share those have one each.
pub(crate) struct Ledger {
    /// Packets that enter the chain somewhere.
    pub(crate) entries: VecDeque<Entry>,
    pub(super) owned: Ownership,
    pub(crate) functions: usize,
    /// Number of the chain's instance that runs; what one instance holds is not the next one's,
    /// unless it is handed over by [`super::Context::disown`].
    pub(crate) instance: u64,
    pub(crate) counters: Counters,
    pub(crate) shared: Arc<Shared>,
    /// A reader was in the way when the counters were to be published last.
    pub(crate) unpublished: bool,
    /// The next time that the lane has to look after a function; 0: never.
    pub(crate) timer: u64,
    /// What of the chain's packets goes up to the kernel's stack.
    pub(crate) upward: Option<Arc<Upward>>,
    /// Who looks at what its functions do.
    pub(crate) observers: Observers,
    /// What its functions cost.
    pub(crate) sampler: Sampler,
}

impl Ledger {
    /// Of a chain with these functions, over a pool of so many rooms.
    pub(crate) fn new(rooms: usize, names: Vec<String>) -> Self {
        let functions = names.len();
        Self {
            entries: VecDeque::with_capacity(BURST_MAX),
            owned: Ownership::new(rooms, functions),
            functions,
            instance: 0,
            counters: Counters::new(names),
            shared: Arc::default(),
            unpublished: false,
            timer: 0,
            upward: None,
            observers: Observers::default(),
            sampler: Sampler::default(),
        }
    }

    /// When the counters are to be published once more: nobody would see the last packets before
    /// the next one comes.
    pub(crate) fn publish_again(&self) -> Option<Duration> {
        self.unpublished.then_some(ASK_AGAIN)
    }
}
