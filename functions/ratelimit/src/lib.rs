//! Token buckets for prefixes and addresses.
//!
//! Owns: which bucket a packet takes from, and whether it has enough. Must not know: what else is done with packets. It
//! changes no byte.

mod limits;
mod meter;
mod units;

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use weir_sdk::flow::Hasher;
use weir_sdk::lpm::Lpm;
use weir_sdk::parse::{Addresses, Plain, Unreadable, parse};
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

/// Most packets of a burst.
const BURST: usize = 256;
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
    /// The packet passes.
    #[default]
    Pass,
    /// It is dropped.
    Drop,
}

/// A bucket's name: the rule and the address's leading bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    address: [u64; 2],
    limit: u64,
}

/// The function.
#[derive(Debug)]
pub struct RateLimit {
    limits: Vec<Limit>,
    sources: Tables,
    destinations: Tables,
    buckets: StateMap<Key, u64>,
    cursor: StateArray<u64>,
    hasher: Hasher,
    when_full: WhenFull,
    counters: Counters,
    swept: u64,
    /// Of the burst at hand: bucket and cost, for source and destination, and where the buckets are.
    takes: Vec<[Option<Take>; 2]>,
    probes: [Vec<Probe>; 2],
}

/// Which limit an address has.
#[derive(Debug)]
struct Tables {
    v4: Lpm<u32>,
    v6: Lpm<u128>,
    used: bool,
}

#[derive(Clone, Copy, Debug)]
struct Take {
    key: Key,
    tokens: u32,
    limit: u32,
}

#[derive(Debug)]
struct Counters {
    passed: host::Counter,
    limited: host::Counter,
    buckets: host::Gauge,
}

impl Tables {
    fn new(limits: &[Limit], side: Side) -> Result<Self, String> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (n, limit) in limits.iter().enumerate().filter(|(_, limit)| limit.side == side) {
            match limit.prefix {
                (IpAddr::V4(address), length) => v4.push((u32::from(address), length, n as u32)),
                (IpAddr::V6(address), length) => v6.push((u128::from(address), length, n as u32)),
            }
        }
        let built = |e: weir_sdk::lpm::Error| format!("config: rules: {e}");
        let used = !(v4.is_empty() && v6.is_empty());
        Ok(Self { v4: Lpm::build(v4).map_err(built)?, v6: Lpm::build(v6).map_err(built)?, used })
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
            sources: Tables::new(&limits, Side::Src)?,
            destinations: Tables::new(&limits, Side::Dst)?,
            limits,
            cursor: region.array("cursor", 1)?,
            buckets: region.map("buckets", config.max_buckets)?,
            hasher: Hasher::new(setup.seed),
            when_full: config.when_full,
            counters: Counters {
                passed: host::counter("passed"),
                limited: host::counter("limited"),
                buckets: host::gauge("buckets"),
            },
            swept: 0,
            takes: vec![[None; 2]; BURST],
            probes: std::array::from_fn(|_| vec![0.into(); BURST]),
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = Moment::from_nanos(burst.now());
        for (i, frame) in burst.frames().enumerate() {
            let takes = self.takes_of(frame);
            for (take, probes) in takes.iter().zip(&mut self.probes) {
                if let Some(take) = take {
                    probes[i] = self.hasher.hash(&take.key).into();
                }
            }
            self.takes[i] = takes;
        }
        for (tables, probes) in
            [&self.sources, &self.destinations].into_iter().zip(&mut self.probes)
        {
            if tables.used {
                self.buckets.look_ahead(&mut probes[..burst.len()]);
            }
        }
        let mut passed = 0;
        for i in 0..burst.len() {
            match self.decide(i, now) {
                None => passed += 1,
                Some(reason) => {
                    self.counters.limited.add(1);
                    burst.set_verdict(i, Verdict::Drop(reason));
                }
            }
        }
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
    /// The buckets that a frame takes from.
    #[inline(always)]
    fn takes_of(&self, frame: &[u8]) -> [Option<Take>; 2] {
        match Plain::of(frame) {
            Some(plain) => {
                let length = (plain.end - Plain::L3) as u32;
                [
                    self.take_v4(&self.sources, plain.source, length),
                    self.take_v4(&self.destinations, plain.destination, length),
                ]
            }
            None => self.takes_of_any(frame),
        }
    }

    #[inline(never)]
    fn takes_of_any(&self, frame: &[u8]) -> [Option<Take>; 2] {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            // What cannot be read has no address; others drop it.
            Err(Unreadable::NotIp | Unreadable::Malformed) => return [None; 2],
        };
        let length = (headers.end - headers.l3) as u32;
        match headers.addresses {
            Addresses::V4 { source, destination } => [
                self.take_v4(&self.sources, source, length),
                self.take_v4(&self.destinations, destination, length),
            ],
            Addresses::V6 { source, destination } => [
                self.take_v6(&self.sources, source, length),
                self.take_v6(&self.destinations, destination, length),
            ],
        }
    }

    #[inline(always)]
    fn take_v4(&self, tables: &Tables, address: u32, length: u32) -> Option<Take> {
        if !tables.used {
            return None;
        }
        let limit = tables.v4.lookup(address)?;
        let mask =
            u32::MAX.checked_shl(32 - u32::from(self.limits[limit as usize].per)).unwrap_or(0);
        self.take(limit, [u64::from(address & mask), 0], length)
    }

    fn take_v6(&self, tables: &Tables, address: u128, length: u32) -> Option<Take> {
        if !tables.used {
            return None;
        }
        let limit = tables.v6.lookup(address)?;
        let mask =
            u128::MAX.checked_shl(128 - u32::from(self.limits[limit as usize].per)).unwrap_or(0);
        let address = address & mask;
        self.take(limit, [address as u64, (address >> 64) as u64], length)
    }

    #[inline(always)]
    fn take(&self, limit: u32, address: [u64; 2], length: u32) -> Option<Take> {
        let tokens = if self.limits[limit as usize].unit == Unit::Bytes { length } else { 1 };
        let key = Key { address, limit: limit.into() };
        Some(Take { key, tokens, limit })
    }

    /// Whether packet `i` is dropped, and why. It takes from both buckets or from none.
    #[inline(always)]
    fn decide(&mut self, i: usize, now: Moment) -> Option<u32> {
        let takes = self.takes[i];
        let probes = [self.probes[0][i], self.probes[1][i]];
        let mut after = [None; 2];
        for ((take, probe), after) in takes.iter().zip(probes).zip(&mut after) {
            let Some(take) = take else { continue };
            let full = self.buckets.find(probe, &take.key).map_or(now, |full| Moment(*full));
            let meter = &self.limits[take.limit as usize].meter;
            match meter.offer(full, now, take.tokens) {
                Some(moment) => *after = Some(moment),
                None => return Some(reason::LIMITED),
            }
        }
        for ((take, probe), after) in takes.iter().zip(probes).zip(after) {
            let (Some(take), Some(after)) = (take, after) else { continue };
            if !self.store(take, probe, after, now) && self.when_full == WhenFull::Drop {
                return Some(reason::TABLE_FULL);
            }
        }
        None
    }

    /// Remembers when a bucket will be full. False when there is no room.
    #[inline(always)]
    fn store(&mut self, take: &Take, probe: Probe, after: Moment, now: Moment) -> bool {
        match self.buckets.find_mut(probe, &take.key) {
            Some(full) => *full = after.0,
            None => return self.begin(take, probe.hash(), after, now),
        }
        true
    }

    /// A bucket that is not full any more.
    #[cold]
    fn begin(&mut self, take: &Take, hash: u64, after: Moment, now: Moment) -> bool {
        let mut kept = self.buckets.insert(hash, take.key, after.0).is_ok();
        if !kept {
            self.buckets.retain_near(hash, |_, full| !Meter::is_full(Moment(*full), now));
            kept = self.buckets.insert(hash, take.key, after.0).is_ok();
        }
        self.counters.buckets.set(self.buckets.len() as f64);
        kept
    }

    /// A bucket that is full needs no entry.
    fn sweep(&mut self, now: Moment) {
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % self.buckets.slots();
        let next = self.buckets.sweep(from, SWEEP, |_, full| !Meter::is_full(Moment(*full), now));
        self.cursor[0] = next as u64;
    }
}
