//! A port's way to the driver of a device that other ports share: see [`crate::shared`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU8);

impl Gate {
    const OPEN: u8 = 0;
    const BUSY: u8 = 1;
    const CLOSED: u8 = 2;

    /// Goes in, unless it is closed. Whoever is in is [`Inside`].
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        let went =
            self.0.compare_exchange(Self::OPEN, Self::BUSY, Ordering::Acquire, Ordering::Relaxed);
        went.is_ok()
    }

    #[inline]
    fn leave(&self) {
        self.0.store(Self::OPEN, Ordering::Release);
    }

    /// Closes it for good, as soon as nobody is in.
    pub(crate) fn close(&self) {
        let (open, closed) = (Self::OPEN, Self::CLOSED);
        while let Err(Self::BUSY) =
            self.0.compare_exchange(open, closed, Ordering::Acquire, Ordering::Acquire)
        {
            std::thread::yield_now();
        }
    }
}

/// A gate that somebody is in: left also if a panic ends the call.
pub(crate) struct Inside(Option<Arc<Gate>>);

impl Inside {
    /// The caller has entered it.
    #[inline]
    pub(crate) fn of(gate: Arc<Gate>) -> Self {
        Self(Some(gate))
    }

    /// Leaves it, and gives it back.
    #[inline]
    pub(crate) fn leave(mut self) -> Option<Arc<Gate>> {
        let gate = self.0.take();
        gate.iter().for_each(|gate| gate.leave());
        gate
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        self.0.iter().for_each(|gate| gate.leave());
    }
}
