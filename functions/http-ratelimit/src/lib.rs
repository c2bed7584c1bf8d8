//! Limits how many requests may come.
//!
//! Owns: counting by rules, here or in the tenant's store, and the answer to who comes too often.
//! Must not know: what requests are about.

mod rules;
mod shared;

use serde::Deserialize;
use weir_sdk::bucket::{Answer, Buckets};
use weir_sdk::message::prelude::*;

use rules::{Rule, RuleConfig};
use shared::Asking;

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Limiter);

/// Most rules.
const RULES_MAX: usize = 64;
const SECOND: u64 = 1_000_000_000;

/// `[function.config]` of `http-ratelimit`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    rules: Vec<RuleConfig>,
    /// Buckets that are remembered.
    #[serde(default = "max_keys")]
    max_keys: usize,
    /// Status of who comes too often.
    #[serde(default = "status")]
    status: u16,
    /// Tells in responses how many requests are left.
    #[serde(default = "yes")]
    fields: bool,
}

const fn max_keys() -> usize {
    65_536
}
const fn status() -> u16 {
    429
}
const fn yes() -> bool {
    true
}

/// The function.
#[derive(Debug)]
pub struct Limiter {
    rules: Vec<Rule>,
    buckets: Buckets,
    seed: u64,
    status: u16,
    fields: bool,
    text: Vec<u8>,
    allowed: Counter,
    limited: Counter,
    evicted: Counter,
    unknown: Counter,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct State {
    /// The rule by which the fewest requests are left.
    tightest: Option<(u16, Answer)>,
    /// What the store was asked for.
    asking: Vec<Asking>,
}

impl MessageFunction for Limiter {
    type Config = Config;
    type State = State;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        if config.rules.len() > RULES_MAX {
            return Err(format!("rules: {} are too many, {RULES_MAX} at most", config.rules.len()));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for (n, rule) in config.rules.into_iter().enumerate() {
            let rule = Rule::read(rule).map_err(|error| format!("rules[{n}]: {error}"))?;
            if rules.iter().any(|other| other.name == rule.name) {
                return Err(format!("rules[{n}]: name: there is another \"{}\"", rule.name));
            }
            rules.push(rule);
        }
        if !(400..=599).contains(&config.status) {
            return Err(format!("status: {} is not from 400 to 599", config.status));
        }
        if !(8..=1 << 24).contains(&config.max_keys) {
            return Err(format!("max-keys: {} is not from 8 to {}", config.max_keys, 1 << 24));
        }
        let mut region = setup.region();
        Ok(Self {
            rules,
            buckets: Buckets::new(&mut region, config.max_keys)
                .map_err(|error| format!("max-keys: {error}"))?,
            seed: setup.seed,
            status: config.status,
            fields: config.fields,
            text: Vec::new(),
            allowed: host::counter("allowed"),
            limited: host::counter("limited"),
            evicted: host::counter("evicted"),
            unknown: host::counter("store_unknown"),
        })
    }

    fn wants(&self) -> Wants {
        if self.fields {
            Wants::REQUEST_HEAD.and(Wants::RESPONSE_HEAD)
        } else {
            Wants::REQUEST_HEAD
        }
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        let now = exchange.now();
        // All are asked before anything is taken: who is refused by one rule takes nothing from the
        // others.
        let mut places = [None; RULES_MAX];
        let mut refused = None;
        for (number, (rule, place)) in (0u16..).zip(self.rules.iter().zip(&mut places)) {
            if !rule.is_for(head) {
                continue;
            }
            let key = rule.key(head, self.seed);
            if rule.shared {
                exchange.state.asking.push(Asking::new(number, key, rule.quota.1, now));
                continue;
            }
            let at = self.buckets.place(key, now);
            let answer = self.buckets.ask(at, rule.rate, now);
            if answer.allowed || rule.dry_run {
                *place = Some((at, answer));
                exchange.state.consider(number, answer);
            } else if refused.is_none() {
                refused = Some((number, answer));
            }
            if !answer.allowed && rule.dry_run {
                self.limited.add(1);
            }
        }
        if let Some((rule, answer)) = refused {
            exchange.state.asking.clear();
            return self.refuse(exchange, rule, answer);
        }
        for (place, answer) in places.into_iter().take(self.rules.len()).flatten() {
            self.evicted.add(u64::from(place.evicts && answer.allowed));
            self.buckets.take(place, answer, now);
        }
        if exchange.state.asking.is_empty() {
            return self.let_pass(exchange);
        }
        match shared::ask(exchange, &self.rules) {
            Ok(()) => Outcome::Wait,
            Err(refusal) => {
                self.unknown.add(1);
                debug!("the store cannot be asked: {refusal}");
                exchange.state.asking.clear();
                self.let_pass(exchange)
            }
        }
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        for asking in &mut exchange.state.asking {
            asking.answered(resumed);
        }
        if matches!(pending, Pending::None) {
            return Outcome::Continue;
        }
        if !exchange.state.asking.iter().all(Asking::is_complete) {
            return Outcome::Wait;
        }
        let now = exchange.now();
        let asking = std::mem::take(&mut exchange.state.asking);
        let mut refused = None;
        for asked in &asking {
            let rule = &self.rules[usize::from(asked.rule)];
            let answer = asked.answer(rule.quota, now);
            if answer.allowed || rule.dry_run {
                exchange.state.consider(asked.rule, answer);
            } else if refused.is_none() {
                refused = Some((asked.rule, answer));
            }
            if !answer.allowed && rule.dry_run {
                self.limited.add(1);
            }
        }
        match refused {
            Some((rule, answer)) => {
                shared::take_back(exchange, &self.rules, &asking);
                self.refuse(exchange, rule, answer)
            }
            None => self.let_pass(exchange),
        }
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        if let Some((rule, answer)) = exchange.state.tightest {
            let rule = &self.rules[usize::from(rule)];
            self.text.clear();
            write_policy(&mut self.text, rule);
            let policy = self.text.len();
            write_limit(&mut self.text, rule, answer);
            let (policy, limit) = self.text.split_at(policy);
            let added = head.add("ratelimit-policy", policy);
            if added.and_then(|()| head.add("ratelimit", limit)).is_err() {
                debug!("no room for the fields that tell how many requests are left");
            }
        }
        Outcome::Done
    }
}

impl State {
    fn consider(&mut self, rule: u16, answer: Answer) {
        if self.tightest.is_none_or(|(_, tightest)| answer.remaining < tightest.remaining) {
            self.tightest = Some((rule, answer));
        }
    }
}

impl Limiter {
    fn let_pass(&self, exchange: &Exchange<'_, State>) -> Outcome {
        self.allowed.add(1);
        if self.fields && exchange.state.tightest.is_some() {
            Outcome::Continue
        } else {
            Outcome::Done
        }
    }

    /// RFC 6585, section 4.
    fn refuse(&mut self, exchange: &mut Exchange<'_, State>, rule: u16, answer: Answer) -> Outcome {
        self.limited.add(1);
        let rule = &self.rules[usize::from(rule)];
        let mut response = Response::new(self.status)
            .field("retry-after", seconds(answer.wait).to_string())
            .field("cache-control", "no-store")
            .text("Too many requests.\n");
        if self.fields {
            let (mut policy, mut limit) = (Vec::new(), Vec::new());
            write_policy(&mut policy, rule);
            write_limit(&mut limit, rule, answer);
            response = response
                .field_bytes(&b"ratelimit-policy"[..], policy)
                .field_bytes(&b"ratelimit"[..], limit);
        }
        exchange.answer(&response)
    }
}

/// Whole seconds, rounded up.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(SECOND)
}

/// As in draft-ietf-httpapi-ratelimit-headers-10, section 3: `"name";q=quota;w=seconds`.
fn write_policy(out: &mut Vec<u8>, rule: &Rule) {
    let (quota, period) = rule.quota;
    write_item(out, rule, (b";q=", quota), (b";w=", seconds(period)));
}

/// The same, section 4: `"name";r=remaining;t=seconds`.
fn write_limit(out: &mut Vec<u8>, rule: &Rule, answer: Answer) {
    write_item(out, rule, (b";r=", answer.remaining), (b";t=", seconds(answer.wait)));
}

fn write_item(out: &mut Vec<u8>, rule: &Rule, first: (&[u8], u64), second: (&[u8], u64)) {
    out.push(b'"');
    out.extend_from_slice(rule.name.as_bytes());
    out.push(b'"');
    for (name, number) in [first, second] {
        out.extend_from_slice(name);
        write_number(out, number);
    }
}

/// Decimal, without the machinery of formatting.
fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
