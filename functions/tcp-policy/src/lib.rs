//! Decides about connections.
//!
//! Owns: rules by client, port, server name and protocol; limits for each client network. Must not
//! know: what connections carry after their first bytes.

mod first;

use std::collections::hash_map::Entry;

use serde::Deserialize;
use weir_sdk::bucket::{Buckets, Rate};
use weir_sdk::config::not_empty;
use weir_sdk::hash::{self, ByHash};
use weir_sdk::message::prelude::*;

use first::{FIRST_MAX, First, Protocol};

#[cfg(test)]
mod tests;

weir_sdk::export_connection!(Policy);

/// Most rules.
const RULES_MAX: usize = 256;
/// Most pieces that are held: each takes a room, however short it is.
const PIECES_MAX: usize = 32;
const SECOND: u64 = 1_000_000_000;

/// `[function.config]` of `tcp-policy`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    #[serde(default)]
    rules: Vec<RuleConfig>,
    /// When no rule matches.
    #[serde(default)]
    default: Action,
    limits: Option<LimitsConfig>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    #[default]
    Allow,
    Deny,
}

/// A rule as it is written; see the README.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleConfig {
    action: Action,
    #[serde(default, deserialize_with = "not_empty")]
    client: Vec<Prefix>,
    #[serde(default, deserialize_with = "not_empty")]
    port: Vec<u16>,
    #[serde(default, deserialize_with = "not_empty")]
    server_name: Vec<String>,
    #[serde(default, deserialize_with = "not_empty")]
    protocol: Vec<Protocol>,
    upstream: Option<String>,
    #[serde(default)]
    log: bool,
}

/// Limits for each client network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsConfig {
    /// Leading bits of IPv4 and IPv6 addresses that make a network.
    #[serde(default = "network")]
    network: [u32; 2],
    /// New connections a second.
    per_second: Option<u64>,
    /// Of these, at once; as many as in a second if it is not said.
    burst: Option<u64>,
    /// Connections at the same time.
    concurrent: Option<u32>,
    /// Clients without limits.
    #[serde(default)]
    exempt: Vec<Prefix>,
    #[serde(default = "max_networks")]
    max_networks: usize,
}

const fn network() -> [u32; 2] {
    [32, 64]
}
const fn max_networks() -> usize {
    32_768
}

#[derive(Debug)]
struct Rule {
    action: Action,
    clients: Vec<Prefix>,
    ports: Vec<u16>,
    names: Vec<String>,
    protocols: Vec<Protocol>,
    upstream: Option<usize>,
    log: bool,
}

/// What is known of a connection.
struct Known<'a> {
    client: [u8; 16],
    port: u16,
    /// TLS ends at the gateway.
    tls: bool,
    name: Option<&'a [u8]>,
    /// Unknown before the first bytes came.
    protocol: Option<Protocol>,
}

/// Whether a rule is for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// The first bytes will tell.
    Later,
}

impl Rule {
    fn matches(&self, known: &Known<'_>) -> Match {
        let client =
            self.clients.is_empty() || self.clients.iter().any(|p| p.contains(known.client));
        let port = self.ports.is_empty() || self.ports.contains(&known.port);
        if !client || !port {
            return Match::No;
        }
        // What came through TLS is not TLS any more, but has its name.
        let by_bytes = known.protocol.is_none();
        if !self.protocols.is_empty() {
            match known.protocol {
                None => return Match::Later,
                Some(protocol) if !self.protocols.contains(&protocol) => return Match::No,
                Some(_) => {}
            }
        }
        if self.names.is_empty() {
            return Match::Yes;
        }
        match known.name {
            Some(name) if self.names.iter().any(|pattern| is_name(pattern.as_bytes(), name)) => {
                Match::Yes
            }
            None if by_bytes && !known.tls => Match::Later,
            _ => Match::No,
        }
    }
}

/// Whether a server name is the pattern, or ends with what follows its `*`.
fn is_name(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        None => name.eq_ignore_ascii_case(pattern),
        Some(end) => {
            name.len() > end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end)
        }
    }
}

/// The function.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Action,
    limits: Option<Limits>,
    seed: u64,
    wants: Wants,
    allowed: Counter,
    denied: Counter,
    limited: Counter,
}

#[derive(Debug)]
struct Limits {
    network: [u32; 2],
    rate: Option<(Buckets, Rate)>,
    concurrent: Option<u32>,
    exempt: Vec<Prefix>,
    /// Connections of each network, by hash. Networks without any are not in it.
    open: ByHash<u32>,
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    /// Counted as one of this network.
    counted: Option<u64>,
    /// Not decided yet.
    undecided: Option<Box<Undecided>>,
}

#[derive(Debug)]
struct Undecided {
    client: [u8; 16],
    port: u16,
    tls: bool,
    name: Option<Vec<u8>>,
    bytes: Vec<u8>,
    pieces: usize,
}

impl ConnectionFunction for Policy {
    type Config = Config;
    type State = State;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        if config.rules.len() > RULES_MAX {
            return Err(format!("rules: {} are too many, {RULES_MAX} at most", config.rules.len()));
        }
        let mut rules = Vec::new();
        for (n, rule) in config.rules.into_iter().enumerate() {
            let upstream = rule.upstream.map(|name| {
                let at = setup.ports.iter().position(|port| *port == name);
                at.ok_or_else(|| {
                    let all = setup.ports.join(", ");
                    format!("rules[{n}]: no upstream is named \"{name}\"; there are {all}")
                })
            });
            let upstream = upstream.transpose()?;
            if rule.server_name.iter().any(String::is_empty) {
                return Err(format!("rules[{n}].server-name: \"\" is no name of a server"));
            }
            if upstream.is_some() && (rule.action == Action::Deny || !rule.protocol.is_empty()) {
                return Err(format!(
                    "rules[{n}]: a connection is sent to its upstream before its first bytes come, so a \
                     rule with `upstream` must allow and cannot have `protocol`"
                ));
            }
            rules.push(Rule {
                action: rule.action,
                clients: rule.client,
                ports: rule.port,
                names: rule.server_name,
                protocols: rule.protocol,
                upstream,
                log: rule.log,
            });
        }
        let by_bytes = rules.iter().any(|r| !r.names.is_empty() || !r.protocols.is_empty());
        let limits = config.limits.map(|limits| Limits::new(limits, &mut setup)).transpose()?;
        let mut wants = if by_bytes { Wants::OPENED.and(Wants::DATA) } else { Wants::OPENED };
        if limits.is_some() {
            // The number of open connections falls when one ends.
            wants = wants.and(Wants::ENDED);
        }
        Ok(Self {
            rules,
            default: config.default,
            limits,
            seed: setup.seed,
            wants,
            allowed: host::counter("allowed"),
            denied: host::counter("denied"),
            limited: host::counter("limited"),
        })
    }

    fn wants(&self) -> Wants {
        self.wants
    }

    fn opened(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        let client = head.client_bytes();
        let name = Some(head.server_name()).filter(|name| !name.is_empty());
        let (port, tls) = (head.local_port(), head.tls());
        let known = Known { client, port, tls, name, protocol: None };
        let decision = self.decide(&known);
        if let Decision::Is(Action::Deny, number) = decision {
            return self.deny(&known, number);
        }
        if !self.within_limits(exchange, client) {
            self.limited.add(1);
            return Outcome::Reset;
        }
        match decision {
            Decision::Is(_, number) => self.allow(exchange, &known, number),
            Decision::Later => {
                let name = name.map(<[u8]>::to_vec);
                let undecided = Undecided { client, port, tls, name, bytes: Vec::new(), pieces: 0 };
                exchange.state.undecided = Some(Box::new(undecided));
                Outcome::Continue
            }
        }
    }

    fn data(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        from_upstream: bool,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        if from_upstream {
            return Outcome::Continue;
        }
        let Some(mut undecided) = exchange.state.undecided.take() else { return Outcome::Done };
        let room = FIRST_MAX - undecided.bytes.len().min(FIRST_MAX);
        undecided.bytes.extend_from_slice(&piece.bytes()[..piece.len().min(room)]);
        undecided.pieces += 1;
        let last = piece.is_last() || undecided.pieces >= PIECES_MAX;
        let (protocol, told) = match first::look(&undecided.bytes, last) {
            First::More => {
                exchange.state.undecided = Some(undecided);
                return Outcome::Hold;
            }
            First::Is(protocol, name) => (protocol, name),
        };
        let Undecided { client, port, tls, ref name, .. } = *undecided;
        let name = name.as_deref().or(told);
        let known = Known { client, port, tls, name, protocol: Some(protocol) };
        match self.decide(&known) {
            Decision::Is(Action::Deny, number) => self.deny(&known, number),
            Decision::Is(Action::Allow, number) => self.allow(exchange, &known, number),
            // Everything is known now.
            Decision::Later => Outcome::Reset,
        }
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, State>, _: End) {
        if let (Some(network), Some(limits)) = (exchange.state.counted, &mut self.limits)
            && let Entry::Occupied(mut open) = limits.open.entry(network)
        {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// This, by the rule of this number, or by default.
    Is(Action, Option<usize>),
    /// The first bytes will tell.
    Later,
}

impl Policy {
    /// The first rule that matches decides; one of which it is not known whether it does holds up
    /// those behind.
    fn decide(&self, known: &Known<'_>) -> Decision {
        for (number, rule) in self.rules.iter().enumerate() {
            match rule.matches(known) {
                Match::Yes => return Decision::Is(rule.action, Some(number)),
                Match::No => {}
                Match::Later => return Decision::Later,
            }
        }
        Decision::Is(self.default, None)
    }

    fn deny(&self, known: &Known<'_>, number: Option<usize>) -> Outcome {
        self.denied.add(1);
        self.log("denied", known, number);
        Outcome::Reset
    }

    fn allow(
        &self,
        exchange: &mut Exchange<'_, State>,
        known: &Known<'_>,
        number: Option<usize>,
    ) -> Outcome {
        self.allowed.add(1);
        self.log("allowed", known, number);
        let upstream = number.and_then(|number| self.rules[number].upstream);
        if let Some(upstream) = upstream {
            // By the name in a ClientHello that passes through, it is too late.
            if known.protocol.is_some() {
                warn!(
                    "a server name came after its connection was sent to an upstream; end TLS here to route by it"
                );
                return Outcome::Reset;
            }
            if let Err(refusal) = exchange.route(upstream) {
                warn!("a connection cannot be routed: {refusal}");
                return Outcome::Reset;
            }
        }
        Outcome::Done
    }

    fn log(&self, what: &str, known: &Known<'_>, number: Option<usize>) {
        let Some(number) = number.filter(|number| self.rules[*number].log) else { return };
        let client = std::net::Ipv6Addr::from(known.client).to_canonical();
        let name = known.name.unwrap_or_default().escape_ascii();
        info!("{what} by rule {number}: {client} to port {} {name}", known.port);
    }

    /// Counts a connection. False if there are too many of its network.
    fn within_limits(&mut self, exchange: &mut Exchange<'_, State>, client: [u8; 16]) -> bool {
        let Some(limits) = &mut self.limits else { return true };
        if limits.exempt.iter().any(|prefix| prefix.contains(client)) {
            return true;
        }
        let [v4, v6] = limits.network;
        let network = Prefix::network(client, v4, v6).to_le_bytes();
        let network = hash::bytes(&network, self.seed);
        let now = exchange.now();
        if let Some(most) = limits.concurrent
            && limits.open.get(&network).is_some_and(|open| *open >= most)
        {
            return false;
        }
        if let Some((buckets, rate)) = &mut limits.rate {
            let place = buckets.place(network, now);
            let answer = buckets.ask(place, *rate, now);
            if !answer.allowed {
                return false;
            }
            buckets.take(place, answer, now);
        }
        if limits.concurrent.is_some() {
            *limits.open.entry(network).or_default() += 1;
            exchange.state.counted = Some(network);
        }
        true
    }
}

impl Limits {
    fn new(config: LimitsConfig, setup: &mut Setup) -> Result<Self, String> {
        let [v4, v6] = config.network;
        if v4 > 32 || v6 > 128 {
            return Err(format!("limits: network [{v4}, {v6}] is more than [32, 128]"));
        }
        if config.burst.is_some() && config.per_second.is_none() {
            return Err("limits: burst needs per-second".into());
        }
        if config.concurrent == Some(0) {
            return Err("limits.concurrent: 0 would refuse all: use `default = \"deny\"`".into());
        }
        if !(8..=1 << 20).contains(&config.max_networks) {
            return Err(format!(
                "limits: max-networks {} is not from 8 to 1048576",
                config.max_networks
            ));
        }
        let rate = config.per_second.map(|rate| {
            let burst = config.burst.unwrap_or(rate);
            if !(1..=1_000_000).contains(&rate) || !(1..=1_000_000).contains(&burst) {
                return Err("limits: per-second and burst are from 1 to 1000000".to_owned());
            }
            let buckets = Buckets::new(&mut setup.region(), config.max_networks)
                .map_err(|error| format!("limits.max-networks: {error}"))?;
            Ok((buckets, Rate { interval: SECOND / rate, burst }))
        });
        Ok(Self {
            network: config.network,
            rate: rate.transpose()?,
            concurrent: config.concurrent,
            exempt: config.exempt,
            open: ByHash::default(),
        })
    }
}
