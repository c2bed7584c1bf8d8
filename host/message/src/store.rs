//! The key-value store that all functions of a tenant share, on all threads: short values that live
//! for a while.
//!
//! It holds at most so many bytes, and forgets what was used least when it is full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;
use tokio::sync::{mpsc, oneshot};

/// Bytes that an entry costs beside key and value.
const ENTRY_COST: usize = 128;

/// See the module.
#[derive(Debug)]
pub struct Store(Cache<Bytes, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    value: Bytes,
    lives: Option<Duration>,
}

/// Entries live as long as they say.
struct Lives;

impl Expiry<Bytes, Entry> for Lives {
    fn expire_after_create(&self, _: &Bytes, entry: &Entry, _: Instant) -> Option<Duration> {
        entry.lives
    }

    fn expire_after_update(
        &self,
        _: &Bytes,
        entry: &Entry,
        _: Instant,
        left: Option<Duration>,
    ) -> Option<Duration> {
        // A number that grows keeps its end, which `add` shows by leaving out how long it lives.
        entry.lives.or(left)
    }
}

impl Store {
    /// An empty store for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let weight = |key: &Bytes, entry: &Entry| {
            u32::try_from(key.len() + entry.value.len() + ENTRY_COST).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(bytes).weigher(weight).expire_after(Lives).build())
    }

    /// The value under this key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.get(key).map(|entry| entry.value)
    }

    /// Writes a value that lives for so long; without it, until memory is short.
    pub fn set(&self, key: &[u8], value: &[u8], lives: Option<Duration>) {
        self.0.insert(
            Bytes::copy_from_slice(key),
            Entry { value: Bytes::copy_from_slice(value), lives },
        );
    }

    /// Adds to a number, which begins at 0 and lives for so long from then on: the sum. What is no
    /// number counts as 0.
    #[must_use]
    pub fn add(&self, key: &[u8], delta: i64, lives: Option<Duration>) -> i64 {
        let mut sum = delta;
        self.0.entry(Bytes::copy_from_slice(key)).and_compute_with(|before| {
            let before = before.map(moka::Entry::into_value);
            let number = before.as_ref().and_then(|entry| entry.value.as_ref().try_into().ok());
            sum = number.map_or(0, i64::from_le_bytes).saturating_add(delta);
            let lives = if before.is_some() { None } else { lives };
            Op::Put(Entry { value: Bytes::copy_from_slice(&sum.to_le_bytes()), lives })
        });
        sum
    }
}

/// What is asked of a store in another process.
#[derive(Debug)]
pub enum StoreRequest {
    /// [`Store::get`]
    Get {
        /// The key.
        key: Bytes,
        /// Where the value goes.
        answer: oneshot::Sender<Option<Bytes>>,
    },
    /// [`Store::set`]
    Set {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lives.
        lives: Option<Duration>,
    },
    /// [`Store::add`]
    Add {
        /// The key.
        key: Bytes,
        /// What is added.
        delta: i64,
        /// How long the number lives.
        lives: Option<Duration>,
        /// Where the sum goes, as functions are told it.
        answer: oneshot::Sender<Option<Bytes>>,
    },
}

/// A store as a chain has it: in this process, or at the other end of a queue.
#[derive(Clone, Debug)]
pub enum Values {
    /// In this process.
    Here(Arc<Store>),
    /// Somebody who takes requests to it. A full queue refuses them.
    Elsewhere(mpsc::Sender<StoreRequest>),
}

impl From<Arc<Store>> for Values {
    fn from(store: Arc<Store>) -> Self {
        Self::Here(store)
    }
}

/// A value that is there, or will be.
#[derive(Debug)]
pub(crate) enum Stored {
    Here(Option<Bytes>),
    Coming(oneshot::Receiver<Option<Bytes>>),
}

impl Stored {
    /// The value, when it is there; none if nobody can say.
    pub(crate) async fn get(self) -> Option<Bytes> {
        match self {
            Self::Here(value) => value,
            Self::Coming(value) => value.await.ok().flatten(),
        }
    }
}

impl Values {
    /// [`Store::get`]; none if too much is asked at once, as for the others.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Stored> {
        match self {
            Self::Here(store) => Some(Stored::Here(store.get(key))),
            Self::Elsewhere(to) => {
                let (answer, coming) = oneshot::channel();
                let key = Bytes::copy_from_slice(key);
                to.try_send(StoreRequest::Get { key, answer }).ok()?;
                Some(Stored::Coming(coming))
            }
        }
    }

    pub(crate) fn set(&self, key: &[u8], value: &[u8], lives: Option<Duration>) -> Option<()> {
        match self {
            Self::Here(store) => store.set(key, value, lives),
            Self::Elsewhere(to) => {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                to.try_send(StoreRequest::Set { key, value, lives }).ok()?;
            }
        }
        Some(())
    }

    pub(crate) fn add(&self, key: &[u8], delta: i64, lives: Option<Duration>) -> Option<Stored> {
        match self {
            Self::Here(store) => Some(Stored::Here(Some(sum(store.add(key, delta, lives))))),
            Self::Elsewhere(to) => {
                let (answer, coming) = oneshot::channel();
                let key = Bytes::copy_from_slice(key);
                to.try_send(StoreRequest::Add { key, delta, lives, answer }).ok()?;
                Some(Stored::Coming(coming))
            }
        }
    }
}

/// A sum as functions are told it.
#[must_use]
pub fn sum(sum: i64) -> Bytes {
    Bytes::copy_from_slice(&sum.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added_up_by_all_threads() {
        let store = Store::new(1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| assert!(store.add(b"n", 1, None) > 0)));
            }
        });
        assert_eq!(store.add(b"n", -1, None), 3999);
        assert_eq!(store.get(b"n").as_deref(), Some(&3999i64.to_le_bytes()[..]));
    }

    #[test]
    fn a_number_ends_when_it_was_said_to_though_it_grows() {
        let store = Store::new(1 << 20);
        let lives = Some(Duration::from_millis(50));
        assert_eq!(store.add(b"n", 1, lives), 1);
        let until = Instant::now() + Duration::from_secs(5);
        while store.add(b"n", 1, lives) != 1 {
            assert!(Instant::now() < until, "it never ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_holds_as_many_bytes_as_it_was_given() {
        let store = Store::new(100_000);
        for n in 0..10_000u32 {
            store.set(&n.to_le_bytes(), &[0; 100], None);
        }
        store.0.run_pending_tasks();
        assert!(store.0.weighted_size() <= 100_000 && store.0.entry_count() > 100);
    }
}
