//! What is kept in memory for whoever is next.

use std::collections::VecDeque;

/// Things that were used lately, by what they are known by. Whoever uses one keeps it alive by
/// himself.
#[derive(Debug)]
pub(crate) struct Loaded<K, C> {
    /// With their bytes, the one that was used last behind.
    components: VecDeque<(K, C, usize)>,
}

impl<K, C> Default for Loaded<K, C> {
    fn default() -> Self {
        Self { components: VecDeque::new() }
    }
}

impl<K: PartialEq, C: Clone> Loaded<K, C> {
    pub(crate) fn get(&mut self, by: K) -> Option<C> {
        let at = self.components.iter().position(|(known, ..)| *known == by)?;
        let found = self.components.remove(at)?;
        let component = found.1.clone();
        self.components.push_back(found);
        Some(component)
    }

    /// Keeps one, and lets go of those that were used longest ago until all have `most` bytes.
    pub(crate) fn insert(&mut self, by: K, component: C, bytes: usize, most: usize) {
        self.components.retain(|(known, ..)| *known != by);
        self.components.push_back((by, component, bytes));
        let mut kept: usize = self.components.iter().map(|(.., bytes)| bytes).sum();
        while kept > most
            && let Some((.., bytes)) = self.components.pop_front()
        {
            kept -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_let_go_when_there_are_too_many_bytes() {
        let mut loaded = Loaded::default();
        let by = |n: u8| ([n; 32], false);
        for n in 0..3 {
            loaded.insert(by(n), n, 30, 100);
        }
        assert_eq!(loaded.get(by(0)), Some(0));
        loaded.insert(by(3), 3, 30, 100);
        assert_eq!([0, 1, 2, 3].map(|n| loaded.get(by(n)).is_some()), [true, false, true, true]);
        // Anew, not a second time.
        loaded.insert(by(0), 7, 40, 100);
        assert_eq!([0, 2, 3].map(|n| loaded.get(by(n))), [Some(7), Some(2), Some(3)]);
        loaded.insert(by(4), 4, 101, 100);
        assert!((0..5).all(|n| loaded.get(by(n)).is_none()));
    }
}
