//! What functions cost, by a sample of their bursts that is timed: always, because it costs next to
//! nothing.

use weir_port::monotonic;

use crate::counters::Sample;

/// One burst of so many is timed. A prime, so that it is not always the same of bursts that take
/// turns, as those of two ports.
const EVERY: u32 = 251;
/// Where there are few bursts, one is timed after so many nanoseconds.
const AT_LATEST: u64 = 100_000_000;

/// See the module.
pub(crate) struct Sampler {
    /// Bursts until the next one that is timed.
    left: u32,
    /// Time of the burst before which none has to be timed for want of bursts.
    until: u64,
    /// This burst is timed.
    on: bool,
    /// The function that has it, and since when, ns.
    running: Option<(usize, u64)>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { left: EVERY, until: AT_LATEST, on: false, running: None }
    }
}

impl Sampler {
    /// Whether the burst that begins, at this time, is timed.
    #[inline]
    pub(crate) fn next(&mut self, now: u64) -> bool {
        self.left -= 1;
        self.on = self.left == 0 || now >= self.until;
        if self.on {
            *self = Self { until: now + AT_LATEST, on: true, ..Self::default() };
        }
        self.on
    }

    /// The function at this place begins, if the burst is timed.
    pub(crate) fn begin(&mut self, place: usize) {
        if self.on {
            self.running = Some((place, monotonic()));
        }
    }

    /// It has ended, with so many packets.
    pub(crate) fn end(&mut self, place: usize, packets: usize, sample: &mut Sample) {
        if let Some((running, since)) = self.running.take()
            && running == place
        {
            sample.calls += 1;
            sample.packets += packets as u64;
            sample.nanoseconds += monotonic().saturating_sub(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_bursts_is_timed_and_one_at_times_of_few() {
        let mut sampler = Sampler::default();
        let timed = |sampler: &mut Sampler, bursts: u64, apart: u64, from: u64| {
            (1..=bursts).filter(|n| sampler.next(from + n * apart)).count()
        };
        assert_eq!(timed(&mut sampler, 251 * 4, 10, 0), 4);
        // Ten a second.
        assert_eq!(timed(&mut sampler, 20, AT_LATEST, 20_000), 20);
        assert_eq!(timed(&mut sampler, 20, AT_LATEST / 4, AT_LATEST * 30), 5);
    }

    #[test]
    fn functions_that_do_not_end_are_not_counted() {
        let (mut sampler, mut sample) = (Sampler::default(), Sample::default());
        assert!(sampler.next(AT_LATEST));
        sampler.begin(0);
        // It trapped, and another one goes on.
        sampler.begin(1);
        sampler.end(1, 32, &mut sample);
        sampler.end(1, 32, &mut sample);
        assert_eq!((sample.calls, sample.packets), (1, 32));
        assert!(!sampler.next(AT_LATEST + 1));
        sampler.begin(0);
        sampler.end(0, 32, &mut sample);
        assert_eq!(sample.calls, 1, "this burst is not timed");
    }
}
