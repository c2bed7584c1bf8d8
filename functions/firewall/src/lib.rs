//! A stateful packet filter.
//!
//! Owns: the verdict for every packet: known flows pass, new ones are judged by the rules. Must not
//! know: where packets go. It changes no byte.

mod classifier;
mod flows;
mod fragments;
mod quotation;
mod reject;
mod rules;
mod track;

use std::mem;

use serde::Deserialize;
use serde_json::Value;
use weir_sdk::BURST_MAX;
use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::{Addresses, Headers, Plain, Unreadable, ethertype, parse, protocol};
use weir_sdk::prelude::*;
use weir_translate::is_icmp_error;

use classifier::Fields;
use flows::{Flows, Known, Sight};
use fragments::{Fragments, Later};
use quotation::Quotation;
use reject::{Budget, Rejected};
pub use rules::Action;
use rules::{Rule, Rules};
pub use track::Timeouts;
use track::{Clock, ticks};

#[cfg(test)]
mod tests;

weir_sdk::export!(Firewall);

/// Reasons for drops, as counted by the host (`firewall:NUMBER`).
pub mod reason {
    /// A rule or the default said so.
    pub const DENIED: u32 = 1;
    /// Truncated or contradictory headers.
    pub const MALFORMED: u32 = 2;
    /// TCP flags that make no sense, or that the flow's state does not allow.
    pub const INVALID: u32 = 3;
    /// A fragment whose first one is not known.
    pub const FRAGMENT: u32 = 4;
    /// No room for another flow.
    pub const TABLE_FULL: u32 = 5;
    /// Not IP.
    pub const NON_IP: u32 = 6;
}

/// Where the acknowledgement number of a plain packet of TCP lies.
const ACKNOWLEDGED: usize = Plain::L4 + 8;
/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;
/// Lines a second that rules may log.
const LOGS_PER_SECOND: u32 = 10;

/// `[function.config]` of `firewall`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// What happens when no rule matches.
    pub default: Action,
    /// First match wins; see the README.
    pub rules: Vec<Value>,
    /// IPv4 flows remembered.
    pub max_flows: usize,
    /// IPv6 flows remembered.
    pub max_flows_v6: usize,
    /// Whether connections may be picked up in their middle.
    pub loose: bool,
    /// Whether flows that rules deny in both directions are denied as a whole.
    pub deny_flows: bool,
    /// What happens to later fragments.
    pub fragments: FragmentPolicy,
    /// What happens to what is not IP.
    pub non_ip: NonIp,
    /// Timeouts.
    pub state: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default: Action::Deny,
            rules: Vec::new(),
            max_flows: 65_536,
            max_flows_v6: 16_384,
            loose: false,
            deny_flows: false,
            fragments: FragmentPolicy::AllowKnown,
            non_ip: NonIp::Arp,
            state: Timeouts::default(),
        }
    }
}

/// What happens to later fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FragmentPolicy {
    /// They pass when the first one did.
    AllowKnown,
    /// No fragment passes.
    Drop,
}

/// What happens to what is not IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonIp {
    /// ARP and IPv6 neighbour discovery pass.
    Arp,
    /// Everything passes.
    Allow,
    /// Nothing does.
    Deny,
}

/// The function.
pub struct Firewall {
    rules: Rules,
    clock: Clock,
    v4: Flows<FlowV4>,
    v6: Flows<FlowV6>,
    fragments: Fragments,
    hasher: Hasher,
    swept: u64,
    budget: Budget,
    logged: (u64, u32),
    loose: bool,
    deny_flows: bool,
    fragment_policy: FragmentPolicy,
    non_ip: NonIp,
    counters: Counters,
    /// Of the burst at hand: plain packets.
    sights: Vec<Option<Sight<FlowV4>>>,
    /// Where their flows' entries are.
    probes: Vec<Probe>,
}

struct Counters {
    allowed: host::Counter,
    new: host::Counter,
    related: host::Counter,
    inspected: host::Counter,
    rejected: host::Counter,
    drops: [host::Counter; 6],
    flows: host::Gauge,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Pass,
    /// To the kernel's stack.
    Inspect,
    Drop(u32),
    /// Denied, and so is whatever else its flow may have.
    DropFlow,
    /// Dropped, and its sender is told if that may be done.
    Reject,
}

impl Function for Firewall {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        for (key, flows) in [("max-flows", config.max_flows), ("max-flows-v6", config.max_flows_v6)]
        {
            if !(64..=1 << 22).contains(&flows) {
                return Err(format!("config: {key}: {flows}; allowed are 64 to 4194304"));
            }
        }
        let rules =
            Rules::compile(config.default, config.rules).map_err(|e| format!("config: {e}"))?;
        let clock = Clock::new(&config.state).map_err(|e| format!("config: {e}"))?;
        let mut region = setup.region();
        let given_up = host::counter("given_up");
        Ok(Self {
            rules,
            clock,
            v4: Flows::new(&mut region, "flows-v4", config.max_flows, given_up)
                .map_err(|error| format!("config: max-flows: {error}"))?,
            v6: Flows::new(&mut region, "flows-v6", config.max_flows_v6, given_up)
                .map_err(|error| format!("config: max-flows-v6: {error}"))?,
            fragments: Fragments::new(&mut region)?,
            hasher: Hasher::new(setup.seed),
            swept: 0,
            budget: Budget::default(),
            logged: (0, 0),
            loose: config.loose,
            deny_flows: config.deny_flows,
            fragment_policy: config.fragments,
            non_ip: config.non_ip,
            counters: Counters {
                allowed: host::counter("allowed"),
                new: host::counter("new"),
                related: host::counter("related"),
                inspected: host::counter("inspected"),
                rejected: host::counter("rejected"),
                drops: ["denied", "malformed", "invalid", "fragment", "table_full", "non_ip"]
                    .map(host::counter),
                flows: host::gauge("flows"),
            },
            sights: vec![None; BURST_MAX],
            probes: vec![0.into(); BURST_MAX],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let (nanos, now) = (burst.now(), ticks(burst.now()));
        // First all keys and hashes, so that fetching the flows' entries overlaps.
        for ((frame, sight), probe) in burst.frames().zip(&mut self.sights).zip(&mut self.probes) {
            *sight = Plain::of(frame).map(|plain| {
                let (key, swapped) = plain.flow.ordered();
                *probe = self.hasher.hash(&key).into();
                let (protocol, flags) = (key.protocol(), plain.tcp_flags);
                let acknowledged = number(frame, ACKNOWLEDGED);
                Sight { key, swapped, protocol, flags, acknowledged }
            });
        }
        self.v4.look_ahead(&mut self.probes[..burst.len()]);
        let mut allowed = 0;
        // Taken out, so that no look at them waits for what is written to entries.
        let (sights, probes) = (mem::take(&mut self.sights), mem::take(&mut self.probes));
        let burst_of = (&sights[..burst.len()], &probes[..burst.len()]);
        for i in 0..burst.len() {
            let (sight, probe) = (&burst_of.0[i], burst_of.1[i]);
            let known = match sight {
                Some(sight) => {
                    let sequence = || number(burst.data(i), Plain::L4 + 4);
                    self.v4.see(sight, sequence, probe, now, &self.clock, self.loose)
                }
                None => Known::New,
            };
            if known == Known::Pass {
                allowed += 1;
                continue;
            }
            let decision = match *sight {
                Some(_) if known == Known::Inspect => Decision::Inspect,
                Some(_) if known == Known::Invalid => Decision::Drop(reason::INVALID),
                Some(sight) => {
                    let sighted = Sighted::V4(sight, probe.hash());
                    self.begin_plain(burst.data(i), burst.reverse(i), sighted, nanos)
                }
                None => self.any(burst.data(i), burst.reverse(i), nanos),
            };
            match decision {
                Decision::Pass => allowed += 1,
                Decision::Inspect => {
                    self.counters.inspected.add(1);
                    burst.set_verdict(i, Verdict::ToKernel);
                }
                Decision::Drop(reason) => self.drop(burst, i, reason),
                Decision::DropFlow => {
                    self.drop(burst, i, reason::DENIED);
                    burst.set_flow_verdict(i, Verdict::Drop(reason::DENIED));
                }
                Decision::Reject => {
                    self.tell(&burst.packet(i), nanos);
                    self.drop(burst, i, reason::DENIED);
                }
            }
        }
        (self.sights, self.probes) = (sights, probes);
        if allowed > 0 {
            self.counters.allowed.add(allowed);
        }
        if nanos.wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = nanos;
            self.v4.sweep(now, &self.clock);
            self.v6.sweep(now, &self.clock);
            self.show_flows();
        }
    }
}

/// A number of TCP's header; of what has none, anything.
#[inline(always)]
fn number(frame: &[u8], at: usize) -> u32 {
    let bytes = frame.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A packet's place among the flows of its version of IP, with the key's hash; none when it is no
/// part of any.
#[derive(Clone, Copy)]
enum Sighted {
    V4(Sight<FlowV4>, u64),
    V6(Sight<FlowV6>, u64),
    Alone,
}

impl Firewall {
    #[inline(never)]
    fn drop(&self, burst: &mut Burst, i: usize, reason: u32) {
        self.counters.drops[reason as usize - 1].add(1);
        burst.set_verdict(i, Verdict::Drop(reason));
    }

    fn show_flows(&self) {
        self.counters.flows.set((self.v4.len() + self.v6.len()) as f64);
    }

    /// Everything that is not plain TCP or UDP over IPv4.
    #[inline(never)]
    fn any(&mut self, frame: &[u8], reverse: bool, nanos: u64) -> Decision {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            Err(Unreadable::Malformed) => return Decision::Drop(reason::MALFORMED),
            Err(Unreadable::NotIp) => return self.not_ip(frame),
        };
        let now = ticks(nanos);
        let direction = u16::from(reverse);
        if headers.fragment.is_some() && self.fragment_policy == FragmentPolicy::Drop {
            return Decision::Drop(reason::FRAGMENT);
        }
        if headers.is_later_fragment() {
            return match self.fragments.judge(&self.hasher, frame, &headers, nanos) {
                Later::Follows => Decision::Pass,
                Later::Overlaps => Decision::Drop(reason::MALFORMED),
                Later::Unknown => Decision::Drop(reason::FRAGMENT),
            };
        }
        let icmp = matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
        let message = match frame.get(headers.l4..headers.end) {
            Some([kind, code, _, _, a, b, ..]) if icmp => {
                Some((*kind, *code, u16::from_be_bytes([*a, *b])))
            }
            _ if icmp => return Decision::Drop(reason::MALFORMED),
            _ => None,
        };
        if message.is_some_and(|(kind, ..)| is_error(kind, headers.protocol))
            && let Some(inspected) = self.related(frame, &headers, now)
        {
            self.counters.related.add(1);
            // What it quotes the kernel has sent, in the name of whom the error is for.
            return if inspected && !reverse { Decision::Inspect } else { Decision::Pass };
        }
        let fields = message.map_or((0, 0), |(kind, code, _)| (kind, code));
        if self.non_ip == NonIp::Arp && is_neighbour_discovery(frame, &headers, message) {
            return self.discovery(&headers, fields, direction, nanos);
        }
        let sighted = self.sight(frame, &headers, message);
        let sequence = || number(frame, headers.l4 + 4);
        let known = match &sighted {
            Sighted::V4(sight, hash) => {
                self.v4.see(sight, sequence, (*hash).into(), now, &self.clock, self.loose)
            }
            Sighted::V6(sight, hash) => {
                self.v6.see(sight, sequence, (*hash).into(), now, &self.clock, self.loose)
            }
            Sighted::Alone => Known::New,
        };
        let decision = match known {
            Known::Pass => Decision::Pass,
            Known::Inspect => Decision::Inspect,
            Known::Invalid => Decision::Drop(reason::INVALID),
            Known::New => self.begin(&headers, fields, direction, sighted, nanos),
        };
        if decision == Decision::Pass {
            self.fragments.note(&self.hasher, frame, &headers, nanos);
        }
        decision
    }

    /// The flow that a packet belongs to. ICMP messages that are neither queries nor their answers
    /// stand for themselves.
    fn sight(&self, frame: &[u8], headers: &Headers, message: Option<(u8, u8, u16)>) -> Sighted {
        let ports = match message {
            Some((kind, _, id)) => query_ports(headers.protocol, kind, id),
            None => Some((headers.source_port, headers.destination_port)),
        };
        let Some((from_port, to_port)) = ports else { return Sighted::Alone };
        let (protocol, flags) = (headers.protocol, headers.tcp_flags);
        let vlans = headers.vlans(frame);
        let acknowledged = number(frame, headers.l4 + 8);
        match headers.addresses {
            Addresses::V4 { source, destination } => {
                let (from, to) = ((source, from_port), (destination, to_port));
                let (key, swapped) = FlowV4::canonical(from, to, protocol);
                let key = key.within(vlans);
                let hash = self.hasher.hash(&key);
                Sighted::V4(Sight { key, swapped, protocol, flags, acknowledged }, hash)
            }
            Addresses::V6 { source, destination } => {
                let (from, to) = ((source, from_port), (destination, to_port));
                let (key, swapped) = FlowV6::canonical(from, to, protocol);
                let key = key.within(vlans);
                let hash = self.hasher.hash(&key);
                Sighted::V6(Sight { key, swapped, protocol, flags, acknowledged }, hash)
            }
        }
    }

    /// Judges neighbour discovery: it passes unless a rule that names ICMP types says something
    /// else.
    fn discovery(
        &mut self,
        headers: &Headers,
        (kind, code): (u8, u8),
        direction: u16,
        nanos: u64,
    ) -> Decision {
        let Addresses::V6 { source, destination } = headers.addresses else {
            return Decision::Pass;
        };
        let fields = [headers.protocol.into(), kind.into(), code.into(), direction];
        let Some(rule) = self.rules.decide_discovery(source, destination, fields) else {
            return Decision::Pass;
        };
        let (action, name) = (rule.action, rule.log.then(|| rule.name.clone()));
        if let Some(name) = name {
            self.log(&name, action, headers, nanos);
        }
        match action {
            Action::Allow => Decision::Pass,
            Action::Inspect => Decision::Inspect,
            Action::Deny => Decision::Drop(reason::DENIED),
            Action::Reject => Decision::Reject,
        }
    }

    /// Judges a plain packet that no flow is known for.
    #[inline(never)]
    fn begin_plain(
        &mut self,
        frame: &[u8],
        reverse: bool,
        sighted: Sighted,
        nanos: u64,
    ) -> Decision {
        match parse(frame) {
            Ok(headers) => self.begin(&headers, (0, 0), reverse.into(), sighted, nanos),
            Err(_) => Decision::Drop(reason::MALFORMED),
        }
    }

    /// Judges a packet that no flow is known for, and remembers its flow if it may pass.
    fn begin(
        &mut self,
        headers: &Headers,
        message: (u8, u8),
        direction: u16,
        sighted: Sighted,
        nanos: u64,
    ) -> Decision {
        let icmp = matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
        let (first, second) = if icmp {
            (message.0.into(), message.1.into())
        } else {
            (headers.source_port, headers.destination_port)
        };
        let fields = [headers.protocol.into(), first, second, direction];
        let rule = self.judge(headers.addresses, fields);
        let (action, name) = (rule.action, rule.log.then(|| rule.name.clone()));
        let logged = name.is_some();
        if let Some(name) = name {
            self.log(&name, action, headers, nanos);
        }
        match action {
            Action::Deny if self.deny_flows && !logged && self.is_hopeless(headers) => {
                return Decision::DropFlow;
            }
            Action::Deny => return Decision::Drop(reason::DENIED),
            Action::Reject => return Decision::Reject,
            // What nobody on the chain's side began has nobody there to answer.
            Action::Inspect if direction != 0 => return Decision::Drop(reason::DENIED),
            Action::Allow | Action::Inspect => {}
        }
        let inspect = action == Action::Inspect;
        let now = ticks(nanos);
        let decision = if inspect { Decision::Inspect } else { Decision::Pass };
        let kept = match sighted {
            // An answer that nobody asked for begins nothing.
            _ if icmp && matches!(message.0, 0 | 14 | 18 | 129) => return decision,
            Sighted::Alone => return decision,
            Sighted::V4(sight, hash) => self.v4.open(&sight, hash, now, &self.clock, inspect),
            Sighted::V6(sight, hash) => self.v6.open(&sight, hash, now, &self.clock, inspect),
        };
        if !kept {
            return Decision::Drop(reason::TABLE_FULL);
        }
        self.counters.new.add(1);
        self.show_flows();
        decision
    }

    /// The rule for a packet from the first of the addresses to the second.
    fn judge(&self, addresses: Addresses, fields: Fields) -> &Rule {
        match addresses {
            Addresses::V4 { source, destination } => {
                self.rules.decide_v4(source, destination, fields)
            }
            Addresses::V6 { source, destination } => {
                self.rules.decide_v6(source, destination, fields)
            }
        }
    }

    /// Whether no packet with these ends may ever begin a flow, whoever sends it and whichever way
    /// it travels: a flow that the other side may open is one that this packet would belong to
    /// then. Of TCP and UDP only, whose packets the host tells apart by their ports; fragments have
    /// none.
    fn is_hopeless(&self, headers: &Headers) -> bool {
        let Headers { protocol, source_port: from, destination_port: to, addresses, .. } = *headers;
        let back = match addresses {
            Addresses::V4 { source, destination } => {
                Addresses::V4 { source: destination, destination: source }
            }
            Addresses::V6 { source, destination } => {
                Addresses::V6 { source: destination, destination: source }
            }
        };
        let denied = |addresses, from: u16, to: u16| {
            [0, 1].into_iter().all(|direction| {
                let rule = self.judge(addresses, [protocol.into(), from, to, direction]);
                !matches!(rule.action, Action::Allow | Action::Inspect)
            })
        };
        matches!(protocol, protocol::TCP | protocol::UDP)
            && headers.fragment.is_none()
            && from != 0
            && to != 0
            && denied(addresses, from, to)
            && denied(back, to, from)
    }

    fn not_ip(&self, frame: &[u8]) -> Decision {
        match self.non_ip {
            NonIp::Allow => Decision::Pass,
            NonIp::Arp if is_arp(frame) => Decision::Pass,
            _ => Decision::Drop(reason::NON_IP),
        }
    }

    /// Whether the flow that an ICMP error is about is inspected; none: it is not known, or the
    /// error does not go to who sent the packet that it quotes. To anybody else, it would be a way
    /// in for whatever stands behind the quotation.
    fn related(&self, frame: &[u8], headers: &Headers, now: u32) -> Option<bool> {
        match (headers.addresses, Quotation::of(frame, headers)) {
            (Addresses::V4 { destination, .. }, Some(Quotation::V4(key, sender)))
                if sender == destination =>
            {
                self.v4.knows(self.hasher.hash(&key), &key, now, &self.clock)
            }
            (Addresses::V6 { destination, .. }, Some(Quotation::V6(key, sender)))
                if sender == destination =>
            {
                self.v6.knows(self.hasher.hash(&key), &key, now, &self.clock)
            }
            _ => None,
        }
    }

    /// Answers a rejected packet, if that may be done.
    #[inline(never)]
    fn tell(&mut self, packet: &Packet<'_>, nanos: u64) {
        // Before all work: of a flood hardly anything is answered.
        if self.budget.is_used_up(nanos) {
            return;
        }
        let frame = packet.data();
        let Ok(headers) = parse(frame) else { return };
        let Headers { l3, l4, end, .. } = headers;
        // Nothing about errors (RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e)).
        let quiet = match headers.protocol {
            protocol::ICMP => is_icmp_error(frame, &headers),
            protocol::ICMPV6 => frame.get(l4).is_none_or(|kind| *kind < 128),
            _ => false,
        };
        if quiet || headers.is_later_fragment() {
            return;
        }
        let rejected = Rejected { frame, l3, l4, end, tcp: headers.protocol == protocol::TCP };
        let Some(answer) = rejected.answer() else { return };
        let sent = self.budget.take(nanos) && host::send_copy(&answer, Verdict::Reply).is_ok();
        self.counters.rejected.add(sent.into());
    }

    fn log(&mut self, rule: &str, action: Action, headers: &Headers, nanos: u64) {
        let second = nanos / 1_000_000_000;
        if self.logged.0 != second {
            self.logged = (second, 0);
        }
        self.logged.1 += 1;
        if self.logged.1 > LOGS_PER_SECOND {
            return;
        }
        let (from, to) = match headers.addresses {
            Addresses::V4 { source, destination } => {
                let ip = |n: u32| std::net::Ipv4Addr::from(n).to_string();
                (ip(source), ip(destination))
            }
            Addresses::V6 { source, destination } => {
                let ip = |n: u128| std::net::Ipv6Addr::from(n).to_string();
                (ip(source), ip(destination))
            }
        };
        let Headers { source_port, destination_port, protocol, .. } = headers;
        host::info!(
            "{rule}: {action:?} {from}:{source_port} -> {to}:{destination_port} protocol {protocol}"
        );
    }
}

/// Whether an ICMP message of this type is an error. Redirects, which quote packets, too, are none:
/// they change a host's routes, and are nobody's business behind a router.
fn is_error(kind: u8, protocol: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 11 | 12),
        _ => matches!(kind, 1..=4),
    }
}

/// What stands for the ports of an ICMP query or an answer to one: its identifier on the side that
/// asks, the query's type on the other. So an answer is of the query's flow, and a query the other
/// way is not.
fn query_ports(protocol: u8, kind: u8, id: u16) -> Option<(u16, u16)> {
    match (protocol, kind) {
        (protocol::ICMP, 8 | 13 | 17) | (protocol::ICMPV6, 128) => Some((id, kind.into())),
        (protocol::ICMP, 0) => Some((8, id)),
        (protocol::ICMP, 14 | 18) | (protocol::ICMPV6, 129) => Some((u16::from(kind) - 1, id)),
        _ => None,
    }
}

/// Whether a frame is ARP, behind up to two tags.
fn is_arp(frame: &[u8]) -> bool {
    let words = frame.get(12..).unwrap_or_default().chunks_exact(4).take(3);
    let mut kinds = words.map(|word| u16::from_be_bytes([word[0], word[1]]));
    let tag = |kind: &u16| matches!(*kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD);
    kinds.find(|kind| !tag(kind)) == Some(ethertype::ARP)
}

/// Router and neighbour solicitations, advertisements and redirects that no router has forwarded
/// (RFC 4861).
fn is_neighbour_discovery(frame: &[u8], headers: &Headers, message: Option<(u8, u8, u16)>) -> bool {
    headers.protocol == protocol::ICMPV6
        && matches!(message, Some((133..=137, 0, _)))
        && frame.get(headers.l3 + 7) == Some(&255)
}
