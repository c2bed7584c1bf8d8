//! How many attempts beyond the first may be under way at one time, of a listener on a thread.
//!
//! Retries are a share of the requests that are under way, as Envoy's and Linkerd's are: one
//! request that fails is tried again, but when all fail, an upstream that has too much to do does
//! not get it three times. Must not know: what is tried again, and why.

use std::cell::Cell;

/// So many may always be: a share of few requests would be none.
const LEAST: u64 = 10;

/// See the module.
pub(crate) struct RetryBudget {
    percent: u64,
    active: Cell<u64>,
}

impl RetryBudget {
    /// `percent`: of the requests that are under way.
    pub(crate) fn new(percent: u32) -> Self {
        Self { percent: percent.into(), active: Cell::new(0) }
    }

    /// One more, if there may be; `requests`: those that are under way.
    pub(crate) fn begin(&self, requests: u64) -> Option<Retrying<'_>> {
        let may = LEAST.max(requests.saturating_mul(self.percent) / 100);
        (self.active.get() < may).then(|| {
            self.active.set(self.active.get() + 1);
            Retrying(&self.active)
        })
    }
}

/// One that is under way until this is dropped.
pub(crate) struct Retrying<'a>(&'a Cell<u64>);

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_may_be_tried_again_and_a_few_always() {
        let budget = RetryBudget::new(20);
        let few: Vec<_> = (0..LEAST).map(|_| budget.begin(1).unwrap()).collect();
        assert!(budget.begin(1).is_none() && budget.begin(54).is_none());
        let one = budget.begin(55);
        assert!(one.is_some() && budget.begin(55).is_none());
        drop((few, one));
        assert!(budget.begin(1).is_some());
    }
}
