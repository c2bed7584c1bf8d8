//! Counting in the tenant's store, which all threads of the gateway share.
//!
//! Owns: a sliding window made of two fixed ones: requests of this period, and of the last one as
//! far as it is not over a period ago. Must not know: rules' conditions.

use std::time::Duration;

use weir_sdk::bucket::Answer;
use weir_sdk::host::Refusal;
use weir_sdk::message::prelude::*;

use crate::State;
use crate::rules::Rule;

/// What the store was asked for, for one rule.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) rule: u16,
    key: u64,
    /// Number of the period.
    period: u64,
    now: Asked,
    before: Asked,
}

#[derive(Debug, Default)]
struct Asked {
    token: Option<Token>,
    count: Option<u64>,
}

impl Asking {
    pub(crate) fn new(rule: u16, key: u64, period: u64, now: u64) -> Self {
        Self { rule, key, period: now / period, now: Asked::default(), before: Asked::default() }
    }

    /// Something came back; it may be for this.
    pub(crate) fn answered(&mut self, resumed: &Resumed<'_>) {
        for asked in [&mut self.now, &mut self.before] {
            if asked.token == Some(resumed.token()) {
                // A key that is not there was not counted.
                let count = resumed.number().unwrap_or(0);
                asked.count = Some(u64::try_from(count).unwrap_or(0));
            }
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.now.count.is_some() && self.before.count.is_some()
    }

    /// What the counts come to; the request itself is among them.
    pub(crate) fn answer(&self, (quota, period): (u64, u64), now: u64) -> Answer {
        let passed = now.saturating_sub(self.period * period).min(period);
        let before = self.before.count.unwrap_or(0).min(quota);
        let left_of_before = u128::from(before) * u128::from(period - passed) / u128::from(period);
        let count = self.now.count.unwrap_or(0) + left_of_before as u64;
        Answer {
            allowed: count <= quota,
            remaining: quota.saturating_sub(count),
            wait: period - passed,
        }
    }
}

/// Asks for both counts of each rule.
pub(crate) fn ask(exchange: &mut Exchange<'_, State>, rules: &[Rule]) -> Result<(), Refusal> {
    let mut asking = std::mem::take(&mut exchange.state.asking);
    for asked in &mut asking {
        let rule = &rules[usize::from(asked.rule)];
        let life = Duration::from_nanos(2 * rule.quota.1);
        let before = store_key(rule, asked.key, asked.period.wrapping_sub(1));
        asked.before.token = Some(exchange.store_get(&before)?);
        let now = store_key(rule, asked.key, asked.period);
        asked.now.token = Some(exchange.store_add(&now, 1, life)?);
    }
    exchange.state.asking = asking;
    Ok(())
}

/// The request is refused, so it does not count.
pub(crate) fn take_back(exchange: &mut Exchange<'_, State>, rules: &[Rule], asked: &[Asking]) {
    for asked in asked {
        let rule = &rules[usize::from(asked.rule)];
        let life = Duration::from_nanos(2 * rule.quota.1);
        let key = store_key(rule, asked.key, asked.period);
        if let Err(refusal) = exchange.store_add(&key, -1, life) {
            debug!("a refused request counts: {refusal}");
        }
    }
}

fn store_key(rule: &Rule, key: u64, period: u64) -> Vec<u8> {
    let name = rule.name.as_bytes();
    [&b"http-ratelimit/"[..], name, &key.to_le_bytes(), &period.to_le_bytes()].concat()
}
