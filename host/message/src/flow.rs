//! What an exchange has of one direction: pieces that functions hold back, and what they wait for.

use std::cell::{Cell, RefCell};

use weir_pool::Part;

use crate::asks::Asks;

/// One direction. Few exchanges have anything here.
#[derive(Default)]
pub(crate) struct Flow {
    /// By function: what it holds back.
    held: RefCell<Vec<(usize, Vec<Part>)>>,
    held_bytes: Cell<usize>,
    /// By function: what it waits for.
    pub(crate) asks: RefCell<Vec<(usize, Asks)>>,
}

impl Flow {
    /// Nothing of it goes anywhere any more.
    pub(crate) fn let_go(&self) {
        self.held.borrow_mut().clear();
        self.held_bytes.set(0);
    }

    /// Bytes and pieces that are held back.
    pub(crate) fn holds(&self) -> (usize, usize) {
        (self.held_bytes.get(), self.held.borrow().iter().map(|(_, parts)| parts.len()).sum())
    }

    /// Keeps a piece back for this function.
    pub(crate) fn hold(&self, place: usize, part: Part) {
        self.held_bytes.set(self.held_bytes.get() + part.len());
        let mut held = self.held.borrow_mut();
        match held.iter_mut().find(|(of, _)| *of == place) {
            Some((_, parts)) => parts.push(part),
            None => held.push((place, vec![part])),
        }
    }

    /// What this function holds back, which it does no longer.
    pub(crate) fn release(&self, place: usize) -> Vec<Part> {
        let mut held = self.held.borrow_mut();
        let found = held.iter().position(|(of, _)| *of == place);
        let parts = found.map(|n| held.swap_remove(n).1).unwrap_or_default();
        let bytes: usize = parts.iter().map(Part::len).sum();
        self.held_bytes.set(self.held_bytes.get() - bytes);
        parts
    }

    /// What this function waits for.
    pub(crate) fn take_asks(&self, place: usize) -> Option<Asks> {
        let mut asks = self.asks.borrow_mut();
        let found = asks.iter().position(|(of, _)| *of == place)?;
        Some(asks.swap_remove(found).1)
    }
}
