//! Upstreams that fail again and again get nothing for a while.
//!
//! Owns: counting, and who is ejected until when; after Envoy's outlier detection. Must not know:
//! requests.

use serde::Deserialize;

/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// When an upstream is ejected, and for how long.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// Responses from 500 on, one after the other; 0 never.
    #[serde(default = "five")]
    consecutive_5xx: u32,
    /// Failures to connect, resets and timeouts, one after the other; 0 never.
    #[serde(default = "three")]
    consecutive_failures: u32,
    /// Seconds of the first ejection; each further one takes twice as long.
    #[serde(default = "thirty")]
    base_seconds: u64,
    /// Seconds of the longest.
    #[serde(default = "three_hundred")]
    max_seconds: u64,
    /// Most upstreams that are ejected at once, in percent, but at least one of several.
    #[serde(default = "half")]
    max_percent: usize,
}

const fn five() -> u32 {
    5
}
const fn three() -> u32 {
    3
}
const fn thirty() -> u64 {
    30
}
const fn three_hundred() -> u64 {
    300
}
const fn half() -> usize {
    50
}

impl Config {
    /// # Errors
    /// When a number makes no sense.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        if self.base_seconds == 0 || self.base_seconds > self.max_seconds {
            return Err(format!(
                "outlier: base-seconds {} has to be from 1 to max-seconds, which is {}",
                self.base_seconds, self.max_seconds
            ));
        }
        if self.max_percent > 100 {
            return Err(format!("outlier: max-percent {} is more than 100", self.max_percent));
        }
        Ok(())
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Result {
    Good,
    ServerError,
    Failure,
}

#[derive(Clone, Debug, Default)]
struct Health {
    errors: u32,
    failures: u32,
    /// Nanoseconds; 0 when it is not ejected.
    until: u64,
    /// How often it was ejected of late.
    ejections: u32,
    /// Since when it is back, or since when one ejection less counts.
    good_since: u64,
}

/// What is known of a group's upstreams.
#[derive(Debug)]
pub(crate) struct Outliers {
    config: Config,
    health: Vec<Health>,
    ejected: usize,
}

impl Outliers {
    pub(crate) fn new(config: Config, upstreams: usize) -> Self {
        Self { config, health: vec![Health::default(); upstreams], ejected: 0 }
    }

    /// Whether this upstream gets nothing now. An ejection that is over ends here.
    pub(crate) fn is_ejected(&mut self, upstream: usize, now: u64) -> bool {
        let Some(health) = self.health.get_mut(upstream).filter(|health| health.until != 0) else {
            return false;
        };
        if now < health.until {
            return true;
        }
        *health = Health { ejections: health.ejections, good_since: now, ..Health::default() };
        self.ejected -= 1;
        false
    }

    /// Counts; gives the seconds for which the upstream is ejected because of it.
    pub(crate) fn count(&mut self, upstream: usize, result: Result, now: u64) -> Option<u64> {
        // A table that is full of ejections that are over would let nobody else be ejected.
        for other in 0..self.health.len() {
            if self.ejected == 0 {
                break;
            }
            self.is_ejected(other, now);
        }
        let most = match self.health.len() * self.config.max_percent / 100 {
            0 if self.config.max_percent > 0 && self.health.len() > 1 => 1,
            most => most,
        };
        let base = self.config.base_seconds.saturating_mul(SECOND);
        let health = self.health.get_mut(upstream).filter(|health| health.until == 0)?;
        match result {
            Result::Good => {
                (health.errors, health.failures) = (0, 0);
                if health.ejections > 0 && now - health.good_since > base {
                    health.ejections -= 1;
                    health.good_since = now;
                }
                return None;
            }
            Result::ServerError => {
                health.errors = health.errors.saturating_add(1);
                health.failures = 0;
            }
            Result::Failure => {
                health.errors = health.errors.saturating_add(1);
                health.failures = health.failures.saturating_add(1);
            }
        }
        let reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        let bad = reached(health.errors, self.config.consecutive_5xx)
            || reached(health.failures, self.config.consecutive_failures);
        if !bad || self.ejected >= most {
            return None;
        }
        let seconds =
            (self.config.base_seconds << health.ejections.min(16)).min(self.config.max_seconds);
        health.ejections += 1;
        health.until = now.saturating_add(seconds.saturating_mul(SECOND)).max(1);
        self.ejected += 1;
        Some(seconds)
    }

    /// How many are ejected.
    pub(crate) fn ejected(&self) -> usize {
        self.ejected
    }
}
