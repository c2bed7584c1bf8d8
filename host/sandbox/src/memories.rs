//! How many linear memories guests have in this process: each takes 4 GiB of address space,
//! whatever of it is used.

use std::sync::atomic::{AtomicUsize, Ordering};

static ALL: AtomicUsize = AtomicUsize::new(0);

/// Linear memories that guests of this process have, or are about to have.
#[must_use]
pub fn memories() -> usize {
    ALL.load(Ordering::Relaxed)
}

/// Those of one store, counted until it goes.
#[derive(Debug, Default)]
pub struct Memories(usize);

impl Memories {
    /// A memory that has so many bytes is made with, or grows to, so many, of which it may have no
    /// more than the `maximum`: it is allowed to, which it is to be asked before. One that begins
    /// with none and grows counts twice.
    pub fn grows(&mut self, current: usize, desired: usize, maximum: Option<usize>) {
        if current == 0 && maximum.is_none_or(|maximum| desired <= maximum) {
            self.0 += 1;
            ALL.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Memories {
    fn drop(&mut self) {
        ALL.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_no_memory() {
        let mut memories = Memories::default();
        memories.grows(0, 0, None);
        memories.grows(0, 65_536, Some(65_536));
        memories.grows(65_536, 131_072, None);
        for _ in 0..1000 {
            memories.grows(0, 131_072, Some(65_536));
        }
        assert_eq!(memories.0, 2);
    }
}
