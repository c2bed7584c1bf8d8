//! The epoch ticker: the clock that deadlines are checked by.
//!
//! A thread advances the engine's epoch while at least one worker runs guests, and sleeps otherwise,
//! so that an idle host uses no CPU.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::EngineWeak;

/// Time between two epochs, at least. A guest is looked at this often, so this is how precise a deadline is.
pub(crate) const TICK: Duration = Duration::from_micros(500);
/// And at most.
const TICK_MAX: Duration = Duration::from_millis(4);
/// Who has a long time is looked at so often in it: every look wakes a thread, which costs as much as handling a request.
pub(crate) const LOOKS: u32 = 4;

/// Counts who needs the epoch to advance.
#[derive(Debug, Clone)]
pub struct Ticker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The time between two epochs that each wants.
    users: Mutex<Vec<Duration>>,
    wake: Condvar,
}

/// The epoch advances as long as this lives.
#[derive(Debug)]
pub struct Ticking {
    shared: Arc<Shared>,
    wanted: Duration,
}

impl Ticker {
    /// Starts the thread; it ends when the engine is gone.
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { users: Mutex::default(), wake: Condvar::new() });
        let of_thread = Arc::downgrade(&shared);
        std::thread::Builder::new().name("weir-epoch".into()).spawn(move || {
            while let Some(shared) = of_thread.upgrade() {
                let users = shared.users.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(period) = users.iter().min().copied() else {
                    // Woken by the first user; now and then, to see whether the engine is gone.
                    drop(shared.wake.wait_timeout(users, Duration::from_secs(60)));
                    continue;
                };
                // Woken early by who wants a shorter time: that epoch comes too soon, which hurts nobody.
                drop(shared.wake.wait_timeout(users, period));
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
            }
        })?;
        Ok(Self(shared))
    }

    /// Keeps the epoch advancing until the answer is dropped, for deadlines of any length. Takes a lock: for when a worker wakes up
    /// or goes to sleep, not for each burst.
    #[must_use]
    pub fn tick(&self) -> Ticking {
        self.tick_for(Duration::ZERO)
    }

    /// As [`Self::tick`], for deadlines of this length and longer ones: who has one is stopped at most half of it late, or two
    /// of the shortest epochs.
    #[must_use]
    pub fn tick_for(&self, deadline: Duration) -> Ticking {
        let wanted = (deadline / LOOKS).clamp(TICK, TICK_MAX);
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        let sooner = users.iter().all(|others| wanted < *others);
        users.push(wanted);
        if sooner {
            self.0.wake.notify_one();
        }
        Ticking { shared: Arc::clone(&self.0), wanted }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        let mut users = self.shared.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(this) = users.iter().position(|wanted| *wanted == self.wanted) {
            users.swap_remove(this);
        }
    }
}
