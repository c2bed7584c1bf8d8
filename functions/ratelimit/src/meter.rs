//! A token bucket in integer arithmetic.
//!
//! Owns: the arithmetic of one bucket. Must not know: packets, prefixes, tables.
//!
//! The marking rule is that of RFC 2697 with an excess burst of 0: a packet that finds enough
//! tokens is green and takes them, any other is red and takes none. It is computed as the virtual
//! scheduling algorithm of ITU-T I.371 (the "generic cell rate algorithm"), which decides the same
//! and needs one number per bucket, one multiplication per packet and no division: instead of the
//! tokens it keeps the moment at which the bucket will be full again.

/// Fraction bits of a moment: moments count 1/64 ns, modulo 2^64 (9 years).
const MOMENT_BITS: u32 = 6;
/// Further fraction bits of the time that one token takes.
const COST_BITS: u32 = 10;
/// Most tokens that one packet may cost.
const PACKET: u64 = 1 << 16;

/// When a bucket is full; a bucket that is full needs no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// From the burst's clock.
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos << MOMENT_BITS)
    }

    /// How far this lies ahead of `now`; negative when it is past.
    fn ahead_of(self, now: Self) -> i64 {
        self.0.wrapping_sub(now.0).cast_signed()
    }
}

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    /// Time in which one token flows in, in moments with [`COST_BITS`] further bits.
    cost: u64,
    /// Time in which an empty bucket becomes full.
    burst: i64,
}

impl Meter {
    /// `rate` tokens per second flow into a bucket of `burst` tokens. The error says what is
    /// possible.
    pub(crate) fn new(rate: u64, burst: u64) -> Result<Self, String> {
        const SECOND: u128 = 1_000_000_000 << (MOMENT_BITS + COST_BITS);
        let rate = u128::from(rate);
        if rate == 0 {
            return Err("the rate is 0; to stop all traffic use a firewall".into());
        }
        if burst == 0 {
            return Err("the burst is 0, no packet could pass".into());
        }
        let cost = u64::try_from((SECOND + rate / 2) / rate).map_err(|e| e.to_string())?;
        if cost < 1 << COST_BITS {
            return Err("the rate is too high to be measured: at most 500 Gbit or 64 Gpps".into());
        }
        let burst = (u128::from(burst) * u128::from(cost)) >> COST_BITS;
        let burst = i64::try_from(burst)
            .ok()
            .filter(|burst| *burst < i64::MAX / 2)
            .ok_or("the burst takes more than two years to fill at this rate")?;
        Ok(Self { cost, burst })
    }

    /// When the bucket would be full if it gave `tokens` now; `None` if it has not enough.
    #[inline]
    pub(crate) fn offer(&self, full: Moment, now: Moment, tokens: u32) -> Option<Moment> {
        let tokens = u64::from(tokens).min(PACKET);
        let taken = (tokens * self.cost + (1 << (COST_BITS - 1))) >> COST_BITS;
        let after = self.wait(full, now).checked_add_unsigned(taken)?;
        (after <= self.burst).then_some(Moment(now.0.wrapping_add_signed(after)))
    }

    /// Time until the bucket is full; when it is 0, forgetting the bucket changes nothing.
    #[inline]
    pub(crate) fn wait(&self, full: Moment, now: Moment) -> i64 {
        let ahead = full.ahead_of(now);
        // Past: full. Further ahead than a burst: written by another clock or another burst.
        if ahead < 0 || ahead > self.burst { 0 } else { ahead }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition (RFC 2697, section 3, committed bucket only), in floating point.
    struct Bucket {
        rate: f64,
        burst: f64,
        tokens: f64,
        last: u64,
    }

    impl Bucket {
        /// Whether the packet is green, and how far from the border the decision was, in tokens.
        fn offer(&mut self, now: u64, size: f64) -> (bool, f64) {
            // A reference within a tolerance.
            let flowed = (now - self.last) as f64 * 1e-9 * self.rate;
            self.tokens = (self.tokens + flowed).min(self.burst);
            self.last = now;
            let green = self.tokens >= size;
            let margin = (self.tokens - size).abs();
            if green {
                self.tokens -= size;
            }
            (green, margin)
        }
    }

    proptest! {
        #[test]
        fn decides_as_the_definition(
            rate in prop_oneof![1_u32..100, 100_u32..1_000_000, 1_000_000_u32..4_000_000_000],
            burst in 64_u32..1_000_000,
            start in prop_oneof![Just(0_u64), any::<u64>().prop_map(|s| s / 2)],
            packets in prop::collection::vec((0_u64..4_000, 1_u32..1_600), 1..300),
        ) {
            let meter = Meter::new(rate.into(), burst.into()).unwrap();
            let (rate, burst) = (f64::from(rate), f64::from(burst));
            let mut reference = Bucket { rate, burst, tokens: burst, last: start };
            let mut full = Moment::from_nanos(start);
            let mut now = start;
            for (gap, size) in packets {
                // Around the time that a packet of half the size needs.
                now += (gap as f64 * 0.4 / rate * 1e9) as u64;
                let result = meter.offer(full, Moment::from_nanos(now), size);
                let (green, margin) = reference.offer(now, size.into());
                // Close to the border rounding may decide; then both follow the meter.
                if result.is_some() != green {
                    prop_assert!(margin < 1e-3 * burst, "margin {margin}");
                    reference.tokens += if green { f64::from(size) } else { -f64::from(size) };
                }
                full = result.unwrap_or(full);
            }
        }

        #[test]
        fn never_panics(full in any::<u64>(), now in any::<u64>(), tokens in any::<u32>(),
                        rate in any::<u64>(), burst in any::<u64>()) {
            if let Ok(meter) = Meter::new(rate, burst) {
                meter.offer(Moment(full), Moment::from_nanos(now), tokens);
            }
        }
    }

    #[test]
    fn the_rate_holds_over_years() {
        // 1000 packets per second offered 1500 times a second, looked at once a year.
        let meter = Meter::new(1_000, 10).unwrap();
        let mut full = Moment(0);
        for year in 0..40_u64 {
            let start = year * 31_536_000_000_000_000 / 3;
            let mut passed = 0;
            for packet in 0..15_000 {
                let now = Moment::from_nanos(start + packet * 666_667);
                if let Some(next) = meter.offer(full, now, 1) {
                    full = next;
                    passed += 1;
                }
            }
            assert!((10_000..=10_011).contains(&passed), "third of year {year}: {passed}");
        }
    }

    #[test]
    fn a_packet_larger_than_the_burst_never_passes() {
        let meter = Meter::new(1_000_000, 1_000).unwrap();
        assert!(meter.offer(Moment(0), Moment::from_nanos(u64::MAX / 3), 1_001).is_none());
        assert!(meter.offer(Moment(0), Moment::from_nanos(u64::MAX / 3), 1_000).is_some());
    }

    #[test]
    fn a_clock_that_starts_anew_finds_the_bucket_full() {
        let meter = Meter::new(1_000_000, 1_000).unwrap();
        let old = Moment::from_nanos(1_800_000_000_000_000_000);
        assert!(meter.offer(old, Moment::from_nanos(5), 1_000).is_some());
    }

    #[test]
    fn impossible_rates_are_refused() {
        assert!(Meter::new(0, 1).is_err());
        assert!(Meter::new(1, 0).is_err());
        assert!(Meter::new(u64::MAX, 1).unwrap_err().contains("at most 500 Gbit"));
        assert!(Meter::new(1, u64::MAX).unwrap_err().contains("two years"));
        assert!(Meter::new(12_500_000_000, 1 << 31).is_ok(), "100 Gbit/s, 2 GiB");
    }
}
