//! State regions: memory of functions that outlives their instances.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use weir_pool::Memory;

use crate::guest::Shared;

/// What a function left in its state region.
#[derive(Debug)]
pub struct State {
    name: String,
    memory: Memory,
    shared: Shared,
    layout: String,
}

impl State {
    /// A region in this memory, of the function of this name, which lays it out like this.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn of(name: String, memory: Memory, layout: String) -> std::io::Result<Self> {
        let shared = Shared::new(&memory)?;
        Ok(Self { name, memory, shared, layout })
    }

    /// Its bytes.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Its bytes, to be written by who has it alone.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Whether what can go on with the other one could go on with this one.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.fits(&other.name, other.memory.len(), &other.layout)
    }

    fn fits(&self, name: &str, bytes: usize, layout: &str) -> bool {
        self.name == name && self.memory.len() == bytes && self.layout == layout
    }

    /// It, to be mapped into instances.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// The state regions of a chain, to hand over.
#[derive(Clone, Debug, Default)]
pub struct States(Vec<Arc<State>>);

impl States {
    /// One more.
    pub fn add(&mut self, state: Arc<State>) {
        self.0.push(state);
    }

    /// The one that a function could go on with: of the same name, size and layout.
    #[must_use]
    pub fn of(&self, name: &str, bytes: usize, layout: &str) -> Option<&Arc<State>> {
        self.0.iter().find(|state| state.fits(name, bytes, layout))
    }

    /// Whether a function of this name had one.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|state| state.name == name)
    }
}

impl FromIterator<Arc<State>> for States {
    fn from_iter<T: IntoIterator<Item = Arc<State>>>(states: T) -> Self {
        Self(states.into_iter().collect())
    }
}

/// The seed of a function's hashes: the same for all its instances, and unknown to who sends
/// packets, as the host's is.
#[must_use]
pub fn seed_of(host: u64, chain: &str, function: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (host, chain, function).hash(&mut hasher);
    hasher.finish()
}
