//! What is remembered of the exchanges under way, by their numbers.
//!
//! Owns: finding it. The host gives numbers out again, the small ones first, so a table has most of
//! them; who has a larger one is looked up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::handler::Event;

/// Numbers that the table has at most.
const NEAR: usize = 4096;

/// An event in which the function waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) event: Event,
    pub(super) offset: u32,
    /// Of a piece: the length it came with.
    pub(super) length: u32,
    pub(super) last: bool,
    /// Of a head: it was changed before.
    pub(super) changed: bool,
    /// Of a piece: the length it has now.
    pub(super) len: usize,
    pub(super) left_out: bool,
    /// What was asked for in the event.
    pub(super) asked: Vec<u32>,
}

/// An exchange.
#[derive(Debug, Default)]
pub(super) struct Slot<S> {
    pub(super) state: S,
    /// Most exchanges ask for nothing.
    asks: Option<Box<Asks>>,
}

#[derive(Debug, Default)]
struct Asks {
    waiting: [Option<Waiting>; 2],
    /// What was asked for in events that are over. It may come when the exchange is over, too, and
    /// its number another's.
    beside: Vec<u32>,
}

impl<S> Slot<S> {
    /// Nothing was asked for that is still to come.
    pub(super) fn is_at_rest(&self) -> bool {
        let none = |asks: &Asks| asks.beside.is_empty() && asks.waiting.iter().all(Option::is_none);
        self.asks.as_deref().is_none_or(none)
    }

    /// No event waits.
    pub(super) fn waits_for_nothing(&self) -> bool {
        self.asks.as_deref().is_none_or(|asks| asks.waiting.iter().all(Option::is_none))
    }

    /// An event waits.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        let direction = waiting.event.direction();
        self.asks.get_or_insert_default().waiting[direction] = Some(waiting);
    }

    /// These were asked for in an event that is over.
    pub(super) fn asked_beside(&mut self, tokens: &mut Vec<u32>) {
        if !tokens.is_empty() {
            self.asks.get_or_insert_default().beside.append(tokens);
        }
    }

    /// Whether this was asked for.
    pub(super) fn asked_for(&self, token: u32) -> bool {
        self.asks.as_deref().is_some_and(|asks| {
            let mut waiting = asks.waiting.iter().flatten();
            asks.beside.contains(&token) || waiting.any(|waiting| waiting.asked.contains(&token))
        })
    }

    /// What was asked for is there: the event that waits for it.
    pub(super) fn resumed(&mut self, token: u32) -> Option<Waiting> {
        let asks = self.asks.as_deref_mut()?;
        asks.beside.retain(|other| *other != token);
        let is_it = |waiting: &mut Waiting| waiting.asked.contains(&token);
        asks.waiting.iter_mut().find_map(|waiting| waiting.take_if(is_it))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots<S> {
    near: Vec<Option<Slot<S>>>,
    far: HashMap<u32, Slot<S>, BuildHasherDefault<Spread>>,
}

impl<S> Default for Slots<S> {
    fn default() -> Self {
        Self { near: Vec::new(), far: HashMap::default() }
    }
}

impl<S: Default> Slots<S> {
    /// The exchange of this number, which is new if it was not there.
    #[inline]
    pub(super) fn of(&mut self, exchange: u32) -> &mut Slot<S> {
        let number = exchange as usize;
        if number >= NEAR {
            return self.far.entry(exchange).or_default();
        }
        if number >= self.near.len() {
            self.near.resize_with(number + 1, || None);
        }
        self.near[number].get_or_insert_default()
    }

    /// The exchange of this number.
    pub(super) fn get(&mut self, exchange: u32) -> Option<&mut Slot<S>> {
        match self.near.get_mut(exchange as usize) {
            Some(slot) => slot.as_mut(),
            None => self.far.get_mut(&exchange),
        }
    }

    /// Forgets an exchange.
    #[inline]
    pub(super) fn remove(&mut self, exchange: u32) -> Option<Slot<S>> {
        match self.near.get_mut(exchange as usize) {
            Some(slot) => slot.take(),
            None => self.far.remove(&exchange),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.near.iter().flatten().count() + self.far.len()
    }
}

/// Exchange numbers are the host's choice, nobody outside can make them collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far_numbers_are_told_apart() {
        let mut slots = Slots::<u32>::default();
        // It is 4096.
        let near = NEAR as u32;
        let numbers = [7, 0, near - 1, near, near + 7, u32::MAX - 1];
        for number in numbers {
            assert!(slots.get(number).is_none() && slots.remove(number).is_none(), "{number}");
            assert_eq!(slots.of(number).state, 0, "{number}");
            slots.of(number).state = number ^ 1;
        }
        assert_eq!(slots.count(), numbers.len());
        for number in numbers {
            assert_eq!(slots.get(number).map(|slot| slot.state), Some(number ^ 1));
            assert_eq!(slots.remove(number).map(|slot| slot.state), Some(number ^ 1));
            assert!(slots.get(number).is_none());
        }
        assert_eq!(slots.count(), 0);
    }
}
