//! What HTTP/2 clients leave of their responses, of all connections of a thread.
//!
//! Owns: how much that is, and who gives way when it is too much: those that have waited longest. A
//! client pays next to nothing for a response that it does not take, so without a bound few of them
//! fill the host's memory. What hyper has and has not written is counted as it is; what an upstream
//! may have sent behind it, as the most that it can be. Must not know: how a body is given up.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use slab::Slab;
use tokio::time::Instant;

use crate::http::stream_body::{Shared, StreamBodies};

/// See the module.
pub(crate) struct ResponseBuffers {
    limit: usize,
    held: Cell<usize>,
    /// Of these, what goes soon.
    going: Cell<usize>,
    connections: RefCell<Slab<Weak<StreamBodies>>>,
}

impl ResponseBuffers {
    /// `limit`: bytes.
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self {
            limit,
            held: Cell::new(0),
            going: Cell::new(0),
            connections: RefCell::default(),
        })
    }

    /// A connection's; its place.
    pub(crate) fn add(&self, bodies: Weak<StreamBodies>) -> usize {
        self.connections.borrow_mut().insert(bodies)
    }

    pub(crate) fn remove(&self, place: usize) {
        self.connections.borrow_mut().remove(place);
    }

    /// Somebody held so many bytes, and holds so many now.
    pub(crate) fn change(&self, before: usize, now: usize) {
        self.held.set(self.held.get() - before + now);
    }

    /// So many of them go soon.
    pub(crate) fn goes(&self, bytes: usize) {
        self.going.set(self.going.get() + bytes);
    }

    /// They have gone.
    pub(crate) fn gone(&self, bytes: usize) {
        self.going.set(self.going.get() - bytes);
    }

    pub(crate) fn are_full(&self) -> bool {
        self.held.get() - self.going.get() > self.limit
    }

    /// Gives up those that have waited longest, until a quarter is free: who fills the rest again
    /// pays for the next look at all.
    #[cold]
    pub(crate) fn make_room(&self) {
        let mut waiting: Vec<(Instant, Rc<Shared>)> = Vec::new();
        for (_, bodies) in &*self.connections.borrow() {
            if let Some(bodies) = bodies.upgrade() {
                bodies.waiting(&mut waiting);
            }
        }
        waiting.sort_unstable_by_key(|(since, _)| *since);
        let mut left = self.held.get() - self.going.get();
        for (_, shared) in &waiting {
            if left <= self.limit - self.limit / 4 {
                break;
            }
            left = left.saturating_sub(shared.holds());
            shared.make_room();
        }
    }
}
