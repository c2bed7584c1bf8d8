//! Who looks at what comes to a chain, what its functions do and what leaves it, packet by packet:
//! shadows, traces, taps.

use std::sync::atomic::{AtomicU64, Ordering};

use weir_pool::{Memory, Packet};

/// Looks at bursts before and after each function, and at the chain's ends. It is called on the
/// worker's thread, which waits for it.
pub trait Observer: Send {
    /// Function `place` is about to see the first `count` packets of the window's vectors.
    fn before(&mut self, place: usize, window: &Memory, count: usize) {
        let _ = (place, window, count);
    }

    /// It has seen them; its verdicts stand in the window. Not called if it faulted.
    fn after(&mut self, place: usize, window: &Memory, count: usize) {
        let _ = (place, window, count);
    }

    /// These packets have come to the chain, whether its functions will see them or not.
    fn came(&mut self, window: &Memory, packets: &[Packet]) {
        let _ = (window, packets);
    }

    /// These packets leave the chain by the port with this number, or to the kernel's stack by it.
    fn leaving(&mut self, port: u16, to_kernel: bool, window: &Memory, packets: &[Packet]) {
        let _ = (port, to_kernel, window, packets);
    }
}

/// Names an observer; no other one has the same name, on whatever lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(u64);

/// A chain's observers.
#[derive(Default)]
pub(crate) struct Observers {
    all: Vec<(Watch, Box<dyn Observer>)>,
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Box<dyn Observer>) -> Watch {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let watch = Watch(MADE.fetch_add(1, Ordering::Relaxed));
        self.all.push((watch, observer));
        watch
    }

    pub(crate) fn remove(&mut self, watch: Watch) -> Option<Box<dyn Observer>> {
        let at = self.all.iter().position(|(other, _)| *other == watch)?;
        Some(self.all.remove(at).1)
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn watch(&self) -> bool {
        !self.all.is_empty()
    }

    pub(crate) fn before(&mut self, place: usize, window: &Memory, count: usize) {
        self.all.iter_mut().for_each(|(_, observer)| observer.before(place, window, count));
    }

    pub(crate) fn after(&mut self, place: usize, window: &Memory, count: usize) {
        self.all.iter_mut().for_each(|(_, observer)| observer.after(place, window, count));
    }

    #[cold]
    pub(crate) fn came(&mut self, window: &Memory, packets: &[Packet]) {
        self.all.iter_mut().for_each(|(_, observer)| observer.came(window, packets));
    }

    #[cold]
    pub(crate) fn leaving(
        &mut self,
        port: usize,
        to_kernel: bool,
        window: &Memory,
        packets: &[Packet],
    ) {
        for (_, observer) in &mut self.all {
            observer.leaving(port as u16, to_kernel, window, packets);
        }
    }
}
