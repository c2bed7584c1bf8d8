//! What happens to a function that faults: back-off, quarantine, and what it was to be given gets
//! meanwhile. The same on both planes.
//!
//! After a fault the function is out of order for 10 ms, doubled with each further fault up to 5 s;
//! a minute without a fault forgets them. The fifth fault within ten seconds puts it in quarantine,
//! until an operator swaps or deploys it anew; so does the third within a minute in which faults
//! took a second of CPU time from others. One that faults soon after a swap is gone back from
//! ([`PROBATION`]). Times are nanoseconds of whatever clock the plane goes by.

use std::collections::VecDeque;
use std::time::Duration;

/// Nanoseconds.
const FIRST_BACKOFF: u64 = 10_000_000;
const LONGEST_BACKOFF: u64 = 5_000_000_000;
const FORGET_AFTER: u64 = 60_000_000_000;
const QUARANTINE_FAULTS: usize = 5;
const QUARANTINE_WINDOW: u64 = 10_000_000_000;
/// Faults by which this much time was lost are too many. One or two may be a machine that stood
/// still.
const QUARANTINE_COSTLY: usize = 3;
const QUARANTINE_LOST: Duration = Duration::from_secs(1);
const LOST_WINDOW: u64 = 60_000_000_000;

/// How long after a swap a fault of the new version brings back what it replaced.
pub const PROBATION: u64 = 10_000_000_000;

/// How long after that what was replaced is remembered: another part of the chain may have rolled
/// back, or may refuse the swap, and report it late.
pub const FOLLOWING: u64 = 120_000_000_000;

/// What packets and messages get that reach a function which is out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// They are dropped, or answered with an error.
    #[default]
    FailClosed,
    /// They pass it by.
    FailOpen,
}

/// How a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It is called.
    #[default]
    Running,
    /// It is called again at this time.
    BackOff {
        /// Nanoseconds.
        until: u64,
    },
    /// It is not called until it is replaced.
    Quarantined,
}

impl Health {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::BackOff { .. } => "back-off",
            Self::Quarantined => "quarantined",
        }
    }
}

/// What is done with a function now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is called.
    Run,
    /// It is passed by.
    Skip,
    /// Nothing goes past it.
    Refuse,
}

/// The fault history of one function.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// What holds while it is out of order.
    pub policy: OnFault,
    /// How it is.
    pub health: Health,
    /// When it faulted, and the CPU time that was lost by that.
    times: VecDeque<(u64, Duration)>,
    in_a_row: u32,
}

impl Record {
    /// A function that has not faulted.
    #[must_use]
    pub fn new(policy: OnFault) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Notes a fault, with the CPU time that others lost by it
    /// ([`Fault::lost`](crate::Fault::lost)).
    pub fn fault(&mut self, now: u64, lost: Duration) {
        let ago = |(time, _): &(u64, Duration)| now.saturating_sub(*time);
        if self.times.back().is_some_and(|last| ago(last) > FORGET_AFTER) {
            self.times.clear();
            self.in_a_row = 0;
        }
        self.times.push_back((now, lost));
        while self.times.front().is_some_and(|first| ago(first) > LOST_WINDOW) {
            self.times.pop_front();
        }
        let often = self.times.iter().filter(|time| ago(time) <= QUARANTINE_WINDOW).count();
        let lost =
            self.times.iter().fold(Duration::ZERO, |sum, (_, lost)| sum.saturating_add(*lost));
        let costly = lost >= QUARANTINE_LOST && self.times.len() >= QUARANTINE_COSTLY;
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.in_a_row.min(20)).min(LONGEST_BACKOFF);
        self.in_a_row += 1;
        self.health = if often >= QUARANTINE_FAULTS || costly {
            Health::Quarantined
        } else {
            Health::BackOff { until: now.saturating_add(backoff) }
        };
    }

    /// Whether the back-off is over; the function is then running again.
    pub fn recover(&mut self, now: u64) -> bool {
        let over = matches!(self.health, Health::BackOff { until } if until <= now);
        if over {
            self.health = Health::Running;
        }
        over
    }

    /// How it is treated.
    #[must_use]
    pub fn treatment(&self) -> Treatment {
        match (self.health, self.policy) {
            (Health::Running, _) => Treatment::Run,
            (_, OnFault::FailOpen) => Treatment::Skip,
            (_, OnFault::FailClosed) => Treatment::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn back_off_doubles_and_ends_in_quarantine() {
        let mut record = Record::new(OnFault::FailClosed);
        assert_eq!(record.treatment(), Treatment::Run);
        let mut waits = Vec::new();
        for n in 0..4 {
            let now = n * SECOND;
            record.fault(now, Duration::ZERO);
            let Health::BackOff { until } = record.health else { panic!("{record:?}") };
            waits.push((until - now) / 1_000_000);
            assert_eq!(record.treatment(), Treatment::Refuse);
            assert!(!record.recover(until - 1));
            assert!(record.recover(until));
        }
        assert_eq!(waits, [10, 20, 40, 80]);
        record.fault(4 * SECOND, Duration::ZERO);
        assert_eq!(record.health, Health::Quarantined);
        assert!(!record.recover(u64::MAX));
    }

    #[test]
    fn faults_that_take_a_second_from_others_end_in_quarantine_sooner() {
        let after = |lost: u64, faults: u64| {
            let mut record = Record::new(OnFault::FailClosed);
            for n in 0..faults {
                record.fault(n * 7 * SECOND, Duration::from_millis(lost));
            }
            record.health == Health::Quarantined
        };
        assert!(after(350, 3) && after(130, 8));
        assert!(!after(5000, 2), "a machine may stand still");
        assert!(!after(100, 50), "of a minute there are less than ten");
    }

    #[test]
    fn rare_faults_never_lead_to_quarantine() {
        let mut record = Record::new(OnFault::FailOpen);
        for n in 0..100 {
            record.fault(n * 61 * SECOND, Duration::from_secs(1));
            assert_eq!(record.health, Health::BackOff { until: n * 61 * SECOND + FIRST_BACKOFF });
            assert_eq!(record.treatment(), Treatment::Skip);
        }
    }
}
