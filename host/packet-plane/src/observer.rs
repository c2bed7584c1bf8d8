//! Who looks at what each function of a chain does, packet by packet: shadows, traces.

use weir_pool::Memory;

/// Looks at bursts before and after each function. It is called on the worker's thread, which waits for it.
pub trait Observer: Send {
    /// Function `place` is about to see the first `count` packets of the window's vectors.
    fn before(&mut self, place: usize, window: &Memory, count: usize);
    /// It has seen them; its verdicts stand in the window. Not called if it faulted.
    fn after(&mut self, place: usize, window: &Memory, count: usize);
}

/// Names an observer of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(u64);

/// A chain's observers.
#[derive(Default)]
pub(crate) struct Observers {
    all: Vec<(Watch, Box<dyn Observer>)>,
    made: u64,
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Box<dyn Observer>) -> Watch {
        self.made += 1;
        let watch = Watch(self.made);
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

    pub(crate) fn look(&mut self, place: usize, window: &Memory, count: usize, done: bool) {
        for (_, observer) in &mut self.all {
            if done {
                observer.after(place, window, count);
            } else {
                observer.before(place, window, count);
            }
        }
    }
}
