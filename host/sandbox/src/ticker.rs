//! The epoch ticker: the clock that deadlines are checked by.
//!
//! A thread advances the engine's epoch while at least one worker runs guests, and sleeps
//! otherwise, so that an idle host uses no CPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::EngineWeak;

/// Time between two epochs, at least. A guest is looked at this often, so this is how precise a
/// deadline is.
pub(crate) const TICK: Duration = Duration::from_micros(500);
/// And at most.
const TICK_MAX: Duration = Duration::from_millis(4);
/// The thread's sleep when nobody needs it: now and then, it sees whether the engine is gone.
const IDLE: Duration = Duration::from_secs(60);
/// Who has a long time is looked at so often in it: every look wakes a thread, which costs as much
/// as handling a request.
pub(crate) const LOOKS: u32 = 4;

/// Counts who needs the epoch to advance.
#[derive(Debug, Clone)]
pub struct Ticker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// How often the epoch was advanced.
    epochs: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    /// The time between two epochs that each wants.
    users: Vec<Duration>,
    /// How long the thread sleeps now, at most.
    sleeps: Duration,
}

/// The epoch advances as long as this lives.
#[derive(Debug)]
pub struct Ticking {
    shared: Arc<Shared>,
    wanted: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticker {
    /// Starts the thread; it ends when the engine is gone.
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let state = Mutex::new(State { users: Vec::new(), sleeps: IDLE });
        let shared = Arc::new(Shared { state, wake: Condvar::new(), epochs: Arc::default() });
        let of_thread = Arc::downgrade(&shared);
        std::thread::Builder::new().name("weir-epoch".into()).spawn(move || {
            let mut lingered = true;
            while let Some(shared) = of_thread.upgrade() {
                let mut state = shared.state();
                state.sleeps = match state.users.iter().min() {
                    Some(period) => {
                        lingered = false;
                        *period
                    }
                    // Whoever comes soon after the last one left, as exchanges do one after the
                    // other, need not wake the thread.
                    None if !lingered => {
                        lingered = true;
                        TICK_MAX
                    }
                    None => IDLE,
                };
                let sleeps = state.sleeps;
                // Woken early by who wants a shorter time: that epoch comes too soon, which hurts
                // nobody.
                drop(shared.wake.wait_timeout(state, sleeps));
                let Some(engine) = engine.upgrade() else { return };
                shared.epochs.fetch_add(1, Ordering::Relaxed);
                engine.increment_epoch();
            }
        })?;
        Ok(Self(shared))
    }

    /// How often the epoch was advanced, for whoever has no use for the engine's callback.
    pub(crate) fn epochs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.epochs)
    }

    /// Keeps the epoch advancing until the answer is dropped, for deadlines of any length. Takes a
    /// lock: for when a worker wakes up or goes to sleep, not for each burst.
    #[must_use]
    pub fn tick(&self) -> Ticking {
        self.tick_for(Duration::ZERO)
    }

    /// As [`Self::tick`], for deadlines of this length and longer ones: who has one is stopped at
    /// most half of it late, or two of the shortest epochs.
    #[must_use]
    pub fn tick_for(&self, deadline: Duration) -> Ticking {
        let wanted = (deadline / LOOKS).clamp(TICK, TICK_MAX);
        let mut state = self.0.state();
        state.users.push(wanted);
        if wanted < state.sleeps {
            // So that only the first of several wakes it.
            state.sleeps = wanted;
            self.0.wake.notify_one();
        }
        Ticking { shared: Arc::clone(&self.0), wanted }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        let users = &mut self.shared.state().users;
        if let Some(this) = users.iter().position(|wanted| *wanted == self.wanted) {
            users.swap_remove(this);
        }
    }
}
