//! Numbers of hops: each is one worker's, and its successors', until nobody has it any more. A
//! route leads to the worker of a number, so two that had the same would get each other's
//! descriptors.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers that are taken.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    taken: BTreeSet<u16>,
    last: u16,
}

impl Numbers {
    /// The next one that is free; none if all are taken. One that was given back is not given out
    /// again at once.
    pub(crate) fn take(numbers: &Arc<Mutex<Self>>) -> Option<Number> {
        let mut all = numbers.lock().unwrap_or_else(PoisonError::into_inner);
        // All others first, then the last one itself.
        let mut next = (1..=u16::MAX).chain([0]).map(|step| all.last.wrapping_add(step));
        let free = next.find(|number| !all.taken.contains(number))?;
        all.taken.insert(free);
        all.last = free;
        drop(all);
        Some(Number { number: free, numbers: Arc::clone(numbers) })
    }
}

/// A hop's number, nobody else's as long as it is kept.
#[derive(Debug)]
pub struct Number {
    number: u16,
    numbers: Arc<Mutex<Numbers>>,
}

impl Number {
    /// The number.
    #[must_use]
    pub fn get(&self) -> u16 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        all.taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_somebody_has_is_never_given_out_again() {
        let numbers = Arc::default();
        let kept = Numbers::take(&numbers).unwrap();
        for _ in 0..2 * 65_536 {
            assert_ne!(Numbers::take(&numbers).unwrap().get(), kept.get());
        }
        let all: Vec<_> = std::iter::from_fn(|| Numbers::take(&numbers)).collect();
        assert_eq!(all.len(), 65_535);
        let given_back = kept.get();
        drop(kept);
        assert_eq!(Numbers::take(&numbers).map(|number| number.get()), Some(given_back));
    }
}
