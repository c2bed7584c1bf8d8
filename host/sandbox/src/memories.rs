//! How many linear memories guests have in this process: each takes 4 GiB of address space, whatever of it is used.

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
    /// A memory is made, or grows, from so many bytes on. One that begins with none and grows counts twice.
    pub fn grows(&mut self, current: usize) {
        if current == 0 {
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
