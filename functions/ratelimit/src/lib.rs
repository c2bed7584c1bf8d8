//! Token buckets for prefixes and addresses.
//!
//! Owns: which bucket a packet takes from, and whether it has enough. Must not know: what else is
//! done with packets. It changes no byte.

mod limits;
mod meter;
mod units;

use std::mem;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use weir_sdk::BURST_MAX;
use weir_sdk::flow::Hasher;
use weir_sdk::lpm::Lpm;
use weir_sdk::parse::{Addresses, Plain, addresses, parse, vlans};
use weir_sdk::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use limits::{Limit, Side};
use meter::{Meter, Moment};
use units::Unit;

#[cfg(test)]
mod tests;

weir_sdk::export!(RateLimit);

/// Reasons for drops, as counted by the host (`ratelimit:NUMBER`).
pub mod reason {
    /// The bucket has not enough tokens.
    pub const LIMITED: u32 = 1;
    /// No room for another bucket, and `when-full` is `drop`.
    pub const TABLE_FULL: u32 = 2;
}

/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;

/// `[function.config]` of `ratelimit`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Limits; see the README.
    #[serde(default)]
    pub rules: Vec<Value>,
    /// The limit of all other addresses.
    #[serde(default)]
    pub default: Option<Value>,
    /// Buckets that are not full, at most.
    #[serde(default = "max_buckets")]
    pub max_buckets: usize,
    /// What happens to a packet for which there is no room for a bucket.
    #[serde(default)]
    pub when_full: WhenFull,
}

const fn max_buckets() -> usize {
    65_536
}

/// What happens when there is no room for another bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The packet passes if its bucket has enough: the one that is full the soonest makes room for
    /// it.
    #[default]
    Pass,
    /// The packet is dropped.
    Drop,
}

/// A bucket's name: the rule, the address's leading bits, and the VLANs of a rule that tells them
/// apart.
#[derive(Clone, Copy, Debug, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    low: u64,
    high: u64,
    /// The rule's number; above its 32 bits, the VLANs.
    limit: u64,
}

impl Key {
    #[inline(always)]
    fn limit(&self) -> usize {
        self.limit as u32 as usize
    }
}

impl PartialEq for Key {
    /// Without branches; most keys that are compared are equal.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        (self.low ^ other.low) | (self.high ^ other.high) | (self.limit ^ other.limit) == 0
    }
}

/// The function.
#[derive(Debug)]
pub struct RateLimit {
    limits: Vec<Limit>,
    /// Sources and destinations, as far as there are limits for them.
    sides: Vec<Limited>,
    buckets: StateMap<Key, u64>,
    cursor: StateArray<u64>,
    hasher: Hasher,
    when_full: WhenFull,
    counters: Counters,
    swept: u64,
}

/// One address of packets: which limit it has.
#[derive(Debug)]
struct Limited {
    side: Side,
    v4: Lpm<u32>,
    v6: Lpm<u128>,
    /// Of the burst at hand: what packets take, and where the buckets are.
    takes: Vec<Option<Take>>,
    probes: Vec<Probe>,
}

#[derive(Clone, Copy, Debug)]
struct Take {
    key: Key,
    tokens: u32,
}

/// What a packet does to a bucket: when that would have been full, if it was not, and when it will
/// be.
#[derive(Clone, Copy)]
struct Taken {
    before: Option<Moment>,
    after: Moment,
}

#[derive(Debug)]
struct Counters {
    passed: host::Counter,
    limited: host::Counter,
    evicted: host::Counter,
    buckets: host::Gauge,
}

impl Limited {
    /// None when there is no limit for this side.
    fn new(limits: &[Limit], side: Side) -> Result<Option<Self>, String> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (n, limit) in limits.iter().enumerate().filter(|(_, limit)| limit.side == side) {
            match limit.prefix {
                (IpAddr::V4(address), length) => v4.push((u32::from(address), length, n as u32)),
                (IpAddr::V6(address), length) => v6.push((u128::from(address), length, n as u32)),
            }
        }
        let built = |e: weir_sdk::lpm::Error| format!("config: rules: {e}");
        if v4.is_empty() && v6.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            side,
            v4: Lpm::build(v4).map_err(built)?,
            v6: Lpm::build(v6).map_err(built)?,
            takes: vec![None; BURST_MAX],
            probes: vec![0.into(); BURST_MAX],
        }))
    }
}

/// What says which limit an address has.
#[derive(Clone, Copy)]
struct Rules<'a> {
    limits: &'a [Limit],
    side: Side,
    v4: &'a Lpm<u32>,
    v6: &'a Lpm<u128>,
}

impl Rules<'_> {
    /// What a frame takes from which bucket.
    #[inline(always)]
    fn take(&self, frame: &[u8]) -> Option<Take> {
        let Some(plain) = Plain::of(frame) else { return self.take_any(frame) };
        let address = if self.side == Side::Src { plain.source() } else { plain.destination() };
        self.take_v4(address, (plain.end - Plain::L3) as u32, 0)
    }

    #[inline(never)]
    fn take_any(&self, frame: &[u8]) -> Option<Take> {
        let (addresses, length) = match parse(frame) {
            Ok(headers) => (headers.addresses, headers.end - headers.l3),
            // Routers forward what is broken behind the IP header, so it has to be limited. What
            // has no such header gets past none.
            Err(_) => addresses(frame).map(|(addresses, l3)| (addresses, frame.len() - l3))?,
        };
        let (length, vlans) = (length as u32, vlans(frame));
        let by_source = self.side == Side::Src;
        match addresses {
            Addresses::V4 { source, destination } => {
                self.take_v4(if by_source { source } else { destination }, length, vlans)
            }
            Addresses::V6 { source, destination } => {
                self.take_v6(if by_source { source } else { destination }, length, vlans)
            }
        }
    }

    #[inline(always)]
    fn take_v4(&self, address: u32, length: u32, vlans: u32) -> Option<Take> {
        let limit = self.v4.lookup(address)?;
        let per = self.limits[limit as usize].per;
        let mask = u32::MAX.checked_shl(32 - u32::from(per)).unwrap_or(0);
        let address = (u64::from(address & mask), 0);
        Some(Take::new(self.limits, limit, address, length, vlans))
    }

    fn take_v6(&self, address: u128, length: u32, vlans: u32) -> Option<Take> {
        let limit = self.v6.lookup(address)?;
        let per = self.limits[limit as usize].per;
        let address = address & u128::MAX.checked_shl(128 - u32::from(per)).unwrap_or(0);
        let address = (address as u64, (address >> 64) as u64);
        Some(Take::new(self.limits, limit, address, length, vlans))
    }
}

impl Take {
    #[inline(always)]
    fn new(limits: &[Limit], limit: u32, (low, high): (u64, u64), length: u32, vlans: u32) -> Self {
        let rule = &limits[limit as usize];
        let tokens = if rule.unit == Unit::Bytes { length } else { 1 };
        let vlans = if rule.per_vlan { vlans } else { 0 };
        Self { key: Key { low, high, limit: u64::from(vlans) << 32 | u64::from(limit) }, tokens }
    }

    #[inline(always)]
    fn meter<'a>(&self, limits: &'a [Limit]) -> &'a Meter {
        &limits[self.key.limit()].meter
    }
}

impl Function for RateLimit {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        if !(64..=1 << 22).contains(&config.max_buckets) {
            return Err(format!(
                "config: max-buckets: {}; allowed are 64 to 4194304",
                config.max_buckets
            ));
        }
        let limits =
            limits::read(config.rules, config.default).map_err(|e| format!("config: {e}"))?;
        let mut region = setup.region();
        Ok(Self {
            sides: [Limited::new(&limits, Side::Src)?, Limited::new(&limits, Side::Dst)?]
                .into_iter()
                .flatten()
                .collect(),
            limits,
            cursor: region.array("cursor", 1)?,
            buckets: region
                .map("buckets", config.max_buckets)
                .map_err(|error| format!("max-buckets: {error}"))?,
            hasher: Hasher::new(setup.seed),
            when_full: config.when_full,
            counters: Counters {
                passed: host::counter("passed"),
                limited: host::counter("limited"),
                evicted: host::counter("evicted"),
                buckets: host::gauge("buckets"),
            },
            swept: 0,
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = Moment::from_nanos(burst.now());
        // Taken out, so that no look at them waits for what is written to buckets.
        let mut sides = mem::take(&mut self.sides);
        for side in &mut sides {
            let burst_of = (&mut side.takes[..burst.len()], &mut side.probes[..burst.len()]);
            let rules = Rules { limits: &self.limits, side: side.side, v4: &side.v4, v6: &side.v6 };
            for i in 0..burst.len() {
                let take = rules.take(burst.data(i));
                if let Some(take) = &take {
                    burst_of.1[i] = self.hasher.hash(&take.key).into();
                }
                burst_of.0[i] = take;
            }
            self.buckets.look_ahead(burst_of.1);
        }
        let mut passed = 0;
        for i in 0..burst.len() {
            // Nearly always there are limits for one side.
            let stop = match &*sides {
                [] => None,
                [side] => side.takes[i].as_ref().and_then(|t| self.one(t, side.probes[i], now)),
                sides => self.both(sides, i, now),
            };
            match stop {
                None => passed += 1,
                Some(reason) => {
                    if reason == reason::LIMITED {
                        self.counters.limited.add(1);
                    }
                    burst.set_verdict(i, Verdict::Drop(reason));
                }
            }
        }
        self.sides = sides;
        if passed > 0 {
            self.counters.passed.add(passed);
        }
        if burst.now().wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = burst.now();
            self.sweep(now);
        }
    }
}

impl RateLimit {
    /// Whether a packet that takes from one bucket is dropped, and why.
    #[inline(always)]
    fn one(&mut self, take: &Take, probe: Probe, now: Moment) -> Option<u32> {
        let meter = take.meter(&self.limits);
        let Some(full) = self.buckets.find_mut(probe, &take.key) else {
            return self.first(take, probe, now);
        };
        match meter.offer(Moment(*full), now, take.tokens) {
            Some(after) => *full = after.0,
            None => return Some(reason::LIMITED),
        }
        None
    }

    /// As [`Self::one`], of a bucket that was full.
    #[cold]
    fn first(&mut self, take: &Take, probe: Probe, now: Moment) -> Option<u32> {
        let Some(after) = take.meter(&self.limits).offer(now, now, take.tokens) else {
            return Some(reason::LIMITED);
        };
        let kept = self.begin(take.key, probe.hash(), after, now);
        (!kept).then_some(reason::TABLE_FULL)
    }

    /// Whether packet `i` is dropped, and why. It takes from both buckets or from none.
    fn both(&mut self, sides: &[Limited], i: usize, now: Moment) -> Option<u32> {
        let mut taken = [None; 2];
        for (side, taken) in sides.iter().zip(&mut taken) {
            let (Some(take), probe) = (side.takes[i], side.probes[i]) else { continue };
            let before = self.buckets.find(probe, &take.key).map(|full| Moment(*full));
            match take.meter(&self.limits).offer(before.unwrap_or(now), now, take.tokens) {
                Some(after) => *taken = Some(Taken { before, after }),
                None => return Some(reason::LIMITED),
            }
        }
        for (n, (side, taken_here)) in sides.iter().zip(taken).enumerate() {
            let (Some(take), Some(Taken { after, .. })) = (side.takes[i], taken_here) else {
                continue;
            };
            if !self.store(take.key, side.probes[i], after, now) {
                self.give_back(&sides[..n], &taken, i, now);
                return Some(reason::TABLE_FULL);
            }
        }
        None
    }

    /// Makes these sides' buckets what they were before packet `i`.
    #[cold]
    fn give_back(&mut self, sides: &[Limited], taken: &[Option<Taken>], i: usize, now: Moment) {
        for (side, taken) in sides.iter().zip(taken) {
            let (Some(take), Some(taken)) = (side.takes[i], taken) else { continue };
            match taken.before {
                Some(before) => {
                    self.store(take.key, side.probes[i], before, now);
                }
                None => {
                    self.buckets.remove(side.probes[i].hash(), &take.key);
                }
            }
        }
    }

    /// Remembers when a bucket will be full. False when there is no room.
    #[inline(always)]
    fn store(&mut self, key: Key, probe: Probe, after: Moment, now: Moment) -> bool {
        match self.buckets.find_mut(probe, &key) {
            Some(full) => *full = after.0,
            None => return self.begin(key, probe.hash(), after, now),
        }
        true
    }

    /// A bucket that is not full any more. False when there is no room, and none may be made.
    #[cold]
    fn begin(&mut self, key: Key, hash: u64, after: Moment, now: Moment) -> bool {
        if self.buckets.insert(hash, key, after.0).is_ok() {
            return true;
        }
        let limits = &self.limits;
        let wait = |key: &Key, full: u64| wait(limits, key, full, now);
        if self.buckets.retain_near(hash, |key, full| wait(key, *full) > 0) == 0 {
            // The one that is full the soonest loses the least.
            let makes_room = self.when_full == WhenFull::Pass
                && self.buckets.evict_near(hash, |key, full| Some(wait(key, *full)));
            if !makes_room {
                return false;
            }
            self.counters.evicted.add(1);
        }
        self.buckets.insert(hash, key, after.0).is_ok()
    }

    /// A bucket that is full needs no entry.
    fn sweep(&mut self, now: Moment) {
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % self.buckets.slots();
        let limits = &self.limits;
        let keep = |key: &Key, full: &mut u64| wait(limits, key, *full, now) > 0;
        self.cursor[0] = self.buckets.sweep(from, SWEEP, keep) as u64;
        self.counters.buckets.set(self.buckets.len() as f64);
    }
}

/// Time until a bucket is full; that of a rule which is no more is as good as full.
fn wait(limits: &[Limit], key: &Key, full: u64, now: Moment) -> i64 {
    limits.get(key.limit()).map_or(0, |limit| limit.meter.wait(Moment(full), now))
}
