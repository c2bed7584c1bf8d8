//! What is under way to a worker: for each exchange, what its owner has to give back.

use std::collections::HashMap;

/// Exchanges that wait for a worker's word, each with what the owner keeps for it (buffers, who waits). Every one leaves
/// the ledger once: with [`Ledger::answered`] or with [`Ledger::reclaim`].
#[derive(Debug)]
pub struct Ledger<T> {
    waiting: HashMap<u32, T>,
    most: usize,
}

impl<T> Ledger<T> {
    /// A ledger of at most so many exchanges.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { waiting: HashMap::new(), most }
    }

    /// An exchange is about to be sent.
    ///
    /// # Errors
    /// Gives `kept` back if the ledger is full or the exchange waits already.
    pub fn sent(&mut self, exchange: u32, kept: T) -> Result<(), T> {
        if self.waiting.len() >= self.most || self.waiting.contains_key(&exchange) {
            return Err(kept);
        }
        self.waiting.insert(exchange, kept);
        Ok(())
    }

    /// The worker has spoken about it. `None`: nobody asked, or it has spoken before; a worker may say anything.
    pub fn answered(&mut self, exchange: u32) -> Option<T> {
        self.waiting.remove(&exchange)
    }

    /// The worker has died, and all it said was read: everything that is still under way.
    pub fn reclaim(&mut self) -> impl Iterator<Item = (u32, T)> {
        self.waiting.drain()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exchange_leaves_once() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.sent(1, 'a'), Ok(()));
        assert_eq!(ledger.sent(1, 'b'), Err('b'));
        assert_eq!(ledger.sent(2, 'c'), Ok(()));
        assert_eq!(ledger.sent(3, 'd'), Err('d'));
        assert_eq!(ledger.answered(1), Some('a'));
        assert_eq!(ledger.answered(1), None);
        assert_eq!(ledger.reclaim().collect::<Vec<_>>(), [(2, 'c')]);
        assert!(ledger.is_empty());
    }
}
