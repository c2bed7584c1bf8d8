//! The epoch ticker: the clock that deadlines are checked by.
//!
//! A thread advances the engine's epoch while at least one worker runs guests, and sleeps otherwise,
//! so that an idle host uses no CPU.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::EngineWeak;

/// Time between two epochs. A guest is looked at this often, so this is how precise a deadline is.
pub(crate) const TICK: Duration = Duration::from_micros(500);

/// Counts who needs the epoch to advance.
#[derive(Debug, Clone)]
pub struct Ticker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    users: Mutex<usize>,
    wake: Condvar,
}

/// The epoch advances as long as this lives.
#[derive(Debug)]
pub struct Ticking(Arc<Shared>);

impl Ticker {
    /// Starts the thread; it ends when the engine is gone.
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { users: Mutex::new(0), wake: Condvar::new() });
        let of_thread = Arc::downgrade(&shared);
        std::thread::Builder::new().name("weir-epoch".into()).spawn(move || {
            while let Some(shared) = of_thread.upgrade() {
                let users = shared.users.lock().unwrap_or_else(PoisonError::into_inner);
                if *users == 0 {
                    // Woken by the first user; now and then, to see whether the engine is gone.
                    drop(shared.wake.wait_timeout(users, Duration::from_secs(60)));
                    continue;
                }
                drop(users);
                drop(shared);
                std::thread::sleep(TICK);
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
            }
        })?;
        Ok(Self(shared))
    }

    /// Keeps the epoch advancing until the answer is dropped. Takes a lock: for when a worker wakes up
    /// or goes to sleep, not for each burst.
    #[must_use]
    pub fn tick(&self) -> Ticking {
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        *users += 1;
        if *users == 1 {
            self.0.wake.notify_one();
        }
        Ticking(Arc::clone(&self.0))
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        *self.0.users.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}
