//! The clocks that functions are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use weir_layout::{CLOCK, WALL};
use weir_pool::Rooms;

/// How long the difference between the two clocks is believed, in nanoseconds.
const BELIEVED: u64 = 100_000_000;

/// The time since 1970, by the monotonic clock and what the two differ by, so that an event costs
/// one reading less.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<Difference>);

#[derive(Debug, Default)]
struct Difference {
    /// Nanoseconds, as of `read`.
    difference: AtomicU64,
    /// Monotonic nanoseconds; 0 for never.
    read: AtomicU64,
}

impl Clock {
    /// Writes both clocks where functions find them; `now` is monotonic.
    pub(crate) fn tell(&self, rooms: &Rooms, now: u64) {
        let Difference { difference, read } = &*self.0;
        let last = read.load(Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) > BELIEVED {
            difference.store(wall().saturating_sub(now), Ordering::Relaxed);
            read.store(now, Ordering::Relaxed);
        }
        let wall = now.saturating_add(difference.load(Ordering::Relaxed));
        let mut pool = rooms.lock();
        let memory = pool.memory_mut();
        memory.set(CLOCK, now);
        memory.set(WALL, wall);
    }
}

/// Monotonic nanoseconds.
pub(crate) fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds since 1970.
fn wall() -> u64 {
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
