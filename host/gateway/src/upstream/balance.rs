//! Whose turn it is: weighted round robin (nginx's smooth one, which spreads the turns of a heavy
//! upstream), passing by those that are not healthy as long as there are others.

use std::cell::RefCell;

/// The turns of one thread.
pub(crate) struct Balance {
    weights: Vec<i64>,
    turns: RefCell<Vec<i64>>,
}

impl Balance {
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights: Vec<i64> = weights.map(i64::from).collect();
        let turns = RefCell::new(vec![0; weights.len()]);
        Self { weights, turns }
    }

    /// The next one. If none is healthy, one of them all: checks may err, and an answer that says
    /// so is no better than an attempt. `None`: there is none that was not tried.
    pub(crate) fn next(
        &self,
        untried: impl Fn(usize) -> bool,
        healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if let [_] = self.weights.as_slice() {
            return (self.weights[0] > 0 && untried(0)).then_some(0);
        }
        self.turn(|i| untried(i) && healthy(i)).or_else(|| self.turn(untried))
    }

    fn turn(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let mut turns = self.turns.borrow_mut();
        let (mut best, mut total) = (None, 0);
        for (i, &weight) in self.weights.iter().enumerate() {
            if weight == 0 || !may(i) {
                continue;
            }
            turns[i] += weight;
            total += weight;
            if best.is_none_or(|best: usize| turns[i] > turns[best]) {
                best = Some(i);
            }
        }
        let best = best?;
        turns[best] -= total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(balance: &Balance, count: usize, healthy: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..count).filter_map(|_| balance.next(|_| true, &healthy)).collect()
    }

    #[test]
    fn turns_follow_the_weights_and_are_spread() {
        let balance = Balance::new([5, 1, 1].into_iter());
        assert_eq!(turns(&balance, 7, |_| true), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn the_sick_are_passed_by_unless_all_are() {
        let balance = Balance::new([1, 1, 0].into_iter());
        assert_eq!(turns(&balance, 3, |i| i == 1), [1, 1, 1]);
        assert_eq!(turns(&balance, 4, |_| false).len(), 4);
        assert_eq!(balance.next(|i| i > 1, |_| true), None);
    }

    #[test]
    fn an_upstream_of_weight_0_has_no_turns_also_when_it_is_the_only_one() {
        assert!(turns(&Balance::new([0].into_iter()), 3, |_| true).is_empty());
    }
}
