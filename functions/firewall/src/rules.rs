//! From the operator's rules to compiled ones.
//!
//! Owns: the rules' syntax, its error messages, and what a rule means for a packet. Must not know:
//! flows, packets' bytes.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use weir_sdk::config::{decimal, prefix, text};

use crate::classifier::{Address, Area, Classifier, Fields, NO_RULE, Prefix};

/// IP protocol numbers (IANA) that have fields of their own in rules.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Most areas that one rule's comma-separated lists may multiply to.
const AREAS_PER_RULE: u64 = 4_096;
/// Most areas of all rules together; bounds the memory of the compiled rules.
const AREAS: u64 = 1 << 18;

/// What happens to a packet that starts a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let it and its flow pass.
    Allow,
    /// Send its flow to the kernel's stack, where the message plane looks into it.
    Inspect,
    /// Drop it silently.
    #[default]
    Deny,
    /// Drop it and tell the sender: a TCP reset, or ICMP "administratively prohibited".
    Reject,
}

/// A rule as written. Values stay untyped here, so that every message can name rule and key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    action: Option<Value>,
    proto: Option<Value>,
    src: Option<Value>,
    dst: Option<Value>,
    sport: Option<Value>,
    dport: Option<Value>,
    icmp_type: Option<Value>,
    direction: Option<Value>,
    name: Option<Value>,
    comment: Option<Value>,
    log: Option<Value>,
}

/// What to do when a rule matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    pub(crate) log: bool,
    /// For the log: the rule's name, or its place.
    pub(crate) name: String,
}

/// All rules, compiled.
pub(crate) struct Rules {
    rules: Vec<Rule>,
    fallback: Rule,
    v4: Classifier<u32>,
    v6: Classifier<u128>,
    /// Of those that name ICMP types.
    discovery: Classifier<u128>,
}

impl Rules {
    /// Compiles what the operator wrote; the error names the rule by its place (from 0) and the
    /// key.
    pub(crate) fn compile(default: Action, written: Vec<Value>) -> Result<Self, String> {
        let mut areas = Areas::default();
        let rules = written
            .into_iter()
            .enumerate()
            .map(|(at, value)| read(at, value, &mut areas).map_err(|e| format!("rules[{at}]: {e}")))
            .collect::<Result<_, _>>()?;
        let (v4, v6) = (Classifier::new(&areas.v4), Classifier::new(&areas.v6));
        let discovery = Classifier::new(&areas.discovery);
        Ok(Self {
            rules,
            fallback: Rule { action: default, log: false, name: "default".into() },
            v4,
            v6,
            discovery,
        })
    }

    /// The first rule that matches, or the default.
    pub(crate) fn decide_v4(&self, src: u32, dst: u32, fields: Fields) -> &Rule {
        self.rule(self.v4.first_match(src, dst, fields))
    }

    /// As [`Self::decide_v4`].
    pub(crate) fn decide_v6(&self, src: u128, dst: u128, fields: Fields) -> &Rule {
        self.rule(self.v6.first_match(src, dst, fields))
    }

    /// The first rule that matches, of those that name ICMP types: others say nothing about
    /// neighbour discovery.
    pub(crate) fn decide_discovery(&self, src: u128, dst: u128, fields: Fields) -> Option<&Rule> {
        let number = self.discovery.first_match(src, dst, fields);
        (number != NO_RULE).then(|| self.rule(number))
    }

    fn rule(&self, number: u32) -> &Rule {
        if number == NO_RULE { &self.fallback } else { &self.rules[number as usize] }
    }
}

#[derive(Default)]
struct Areas {
    v4: Vec<Area<u32>>,
    v6: Vec<Area<u128>>,
    discovery: Vec<Area<u128>>,
}

fn read(at: usize, value: Value, areas: &mut Areas) -> Result<Rule, String> {
    let written = Written::deserialize(value).map_err(|e| e.to_string())?;
    let action = match text("action", written.action.as_ref())?.as_deref() {
        Some("allow") => Action::Allow,
        Some("inspect") => Action::Inspect,
        Some("deny") => Action::Deny,
        Some("reject") => Action::Reject,
        other => {
            return Err(wrong("action", other, "\"allow\", \"inspect\", \"deny\" or \"reject\""));
        }
    };
    let direction = match text("direction", written.direction.as_ref())?.as_deref() {
        // Who answers for a flow is behind the chain; of others' flows only the chain's beginning
        // is on that way.
        Some("in") if action == Action::Inspect => {
            return Err(wrong("direction", Some("in"), "\"out\", for flows that are inspected"));
        }
        None | Some("any") if action == Action::Inspect => (0, 0),
        None | Some("any") => (0, 1),
        Some("out") => (0, 0),
        Some("in") => (1, 1),
        other => return Err(wrong("direction", other, "\"out\", \"in\" or \"any\"")),
    };
    let log = match written.log {
        None => false,
        Some(Value::Bool(log)) => log,
        Some(other) => return Err(format!("log: {other} is not true or false")),
    };
    let name = text("name", written.name.as_ref())?
        .or(text("comment", written.comment.as_ref())?)
        .unwrap_or_else(|| format!("rules[{at}]"));
    let src = Addresses::read("src", written.src.as_ref())?;
    let dst = Addresses::read("dst", written.dst.as_ref())?;
    let protocols = list("proto", written.proto.as_ref(), protocol)?;
    let sport = list("sport", written.sport.as_ref(), range::<{ u16::MAX }>)?;
    let dport = list("dport", written.dport.as_ref(), range::<{ u16::MAX }>)?;
    let kind = list("icmp-type", written.icmp_type.as_ref(), range::<{ u8::MAX as u16 }>)?;
    let names_types = kind.is_some();
    let headers = Headers::read(protocols, sport, dport, kind)?;

    let before = areas.v4.len() + areas.v6.len();
    let families = [(src.v4.len(), dst.v4.len()), (src.v6.len(), dst.v6.len())];
    let pairs = families.map(|(src, dst)| product(&[src, dst]));
    let many = product(&headers.lengths()).saturating_mul(pairs[0].saturating_add(pairs[1]));
    let all = many.saturating_add(before as u64);
    if many > AREAS_PER_RULE || all > AREAS {
        return Err(format!(
            "its lists multiply to {many} combinations, {all} with the rules before; at most \
             {AREAS_PER_RULE} in a rule and {AREAS} in all are possible: use prefixes and ranges"
        ));
    }
    let headers = headers.combined();
    let rule = u32::try_from(at).map_err(|e| e.to_string())?;
    let v4: Vec<_> = headers.iter().filter(|h| h.proto != only(ICMPV6)).collect();
    let v6: Vec<_> = headers.iter().filter(|h| h.proto != only(ICMP)).collect();
    spread(&mut areas.v4, &src.v4, &dst.v4, &v4, direction, rule);
    spread(&mut areas.v6, &src.v6, &dst.v6, &v6, direction, rule);
    if names_types {
        spread(&mut areas.discovery, &src.v6, &dst.v6, &v6, direction, rule);
    }
    if areas.v4.len() + areas.v6.len() == before {
        return Err("src, dst and proto: they mix IPv4 and IPv6, no packet has both".into());
    }
    Ok(Rule { action, log, name })
}

/// Lowest and highest value, inclusive.
type Range = (u16, u16);

fn only(protocol: u8) -> Range {
    (protocol.into(), protocol.into())
}

/// Protocol and what stands where ports stand (see [`Fields`]).
struct Header {
    proto: Range,
    source: Range,
    destination: Range,
}

/// Lists of them, to be combined.
struct Headers {
    protocols: Vec<Range>,
    sources: Vec<Range>,
    destinations: Vec<Range>,
}

impl Headers {
    /// From protocols, and ports or ICMP types.
    fn read(
        protocols: Option<Vec<Range>>,
        sport: Option<Vec<Range>>,
        dport: Option<Vec<Range>>,
        kind: Option<Vec<Range>>,
    ) -> Result<Self, String> {
        const ALL: Range = (0, u16::MAX);
        const BOTH: [Range; 2] = [(TCP as u16, TCP as u16), (UDP as u16, UDP as u16)];
        const EVERY: [Range; 1] = [(0, u8::MAX as u16)];
        let ports = sport.is_some() || dport.is_some();
        let protocols = match protocols {
            Some(list) if list != EVERY => list,
            _ if ports => BOTH.to_vec(),
            _ => EVERY.to_vec(),
        };
        if ports && !protocols.iter().all(|p| BOTH.contains(p)) {
            return Err(
                "sport and dport: only \"tcp\" and \"udp\" have ports; set proto to one of \
                        them, or leave it out to mean both"
                    .into(),
            );
        }
        let icmp = [only(ICMP), only(ICMPV6)];
        if kind.is_some() && (ports || !protocols.iter().all(|p| icmp.contains(p))) {
            return Err("icmp-type: it needs proto = \"icmp\" or \"icmpv6\", and no ports".into());
        }
        let sources = kind.or(sport).unwrap_or_else(|| vec![ALL]);
        let destinations = dport.unwrap_or_else(|| vec![ALL]);
        Ok(Self { protocols, sources, destinations })
    }

    fn lengths(&self) -> [usize; 3] {
        [self.protocols.len(), self.sources.len(), self.destinations.len()]
    }

    /// Every combination: look at their number first.
    fn combined(&self) -> Vec<Header> {
        let mut headers = Vec::new();
        for &proto in &self.protocols {
            for &source in &self.sources {
                for &destination in &self.destinations {
                    headers.push(Header { proto, source, destination });
                }
            }
        }
        headers
    }
}

/// How many combinations lists of these lengths have; not in `usize`, which has 32 bits in a guest.
fn product(lengths: &[usize]) -> u64 {
    lengths.iter().fold(1, |product, &length| product.saturating_mul(length as u64))
}

/// Adds every combination.
fn spread<A: Address>(
    areas: &mut Vec<Area<A>>,
    src: &[Prefix<A>],
    dst: &[Prefix<A>],
    headers: &[&Header],
    direction: Range,
    rule: u32,
) {
    for &src in src {
        for &dst in dst {
            areas.extend(headers.iter().map(|h| Area {
                src,
                dst,
                low: [h.proto.0, h.source.0, h.destination.0, direction.0],
                high: [h.proto.1, h.source.1, h.destination.1, direction.1],
                rule,
            }));
        }
    }
}

/// The prefixes of `src` or `dst`, by family.
struct Addresses {
    v4: Vec<Prefix<u32>>,
    v6: Vec<Prefix<u128>>,
}

impl Addresses {
    fn read(key: &str, value: Option<&Value>) -> Result<Self, String> {
        let mut addresses = Self { v4: Vec::new(), v6: Vec::new() };
        match list(key, value, prefix)? {
            None => (addresses.v4, addresses.v6) = (vec![Prefix::ANY], vec![Prefix::ANY]),
            Some(written) => {
                for (address, length) in written {
                    match address {
                        IpAddr::V4(a) => addresses.v4.push(Prefix::holding(a.to_bits(), length)),
                        IpAddr::V6(a) => addresses.v6.push(Prefix::holding(a.to_bits(), length)),
                    }
                }
            }
        }
        Ok(addresses)
    }
}

/// A protocol's name or number.
fn protocol(item: &str) -> Result<Range, String> {
    match item {
        "any" => Ok((0, u8::MAX.into())),
        "icmp" => Ok(only(ICMP)),
        "tcp" => Ok(only(TCP)),
        "udp" => Ok(only(UDP)),
        "icmpv6" => Ok(only(ICMPV6)),
        number => decimal(number).map(only).ok_or_else(|| {
            format!(
                "\"{item}\" is not \"tcp\", \"udp\", \"icmp\", \"icmpv6\", \"any\" or a number from 0 to 255"
            )
        }),
    }
}

/// A number or a range of numbers up to `MAX`.
fn range<const MAX: u16>(item: &str) -> Result<Range, String> {
    let (low, high) = item.split_once('-').unwrap_or((item, item));
    match (decimal::<u16>(low.trim()), decimal::<u16>(high.trim())) {
        (Some(low), Some(high)) if low <= high && high <= MAX => Ok((low, high)),
        _ => Err(format!(
            "\"{item}\" is not a number from 0 to {MAX}, a range such as \"1-{MAX}\", or a comma-separated list"
        )),
    }
}

/// Reads a comma-separated list; `None` when the key is absent or stands for everything.
fn list<T>(
    key: &str,
    value: Option<&Value>,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let Some(text) = text(key, value)?.filter(|text| text.trim() != "any") else {
        return Ok(None);
    };
    text.split(',')
        .map(|part| item(part.trim()).map_err(|error| format!("{key}: {error}")))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn wrong(key: &str, found: Option<&str>, wanted: &str) -> String {
    match found {
        None => format!("{key}: it is missing; it is {wanted}"),
        Some(found) => format!("{key}: \"{found}\" is not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    fn rules(written: Value) -> Result<Rules, String> {
        Rules::compile(Action::Deny, serde_json::from_value(written).unwrap())
    }

    fn v4(rules: &Rules, src: &str, dst: &str, fields: Fields) -> String {
        let bits = |text: &str| text.parse::<Ipv4Addr>().unwrap().to_bits();
        rules.decide_v4(bits(src), bits(dst), fields).name.clone()
    }

    #[test]
    fn the_first_match_wins() {
        let rules = rules(json!([
            { "action": "deny", "src": "10.1.0.0/16", "name": "lab" },
            { "action": "allow", "proto": "tcp", "src": "10.0.0.0/8", "dport": "80, 443,8000-8080" },
            { "action": "reject", "proto": "icmp", "icmp-type": 8, "direction": "in" },
            { "action": "allow", "dport": 53, "comment": "dns" },
            { "action": "allow", "proto": "47,50" },
        ]))
        .unwrap();
        assert_eq!(v4(&rules, "10.1.2.3", "1.1.1.1", [6, 9, 443, 0]), "lab");
        assert_eq!(v4(&rules, "10.2.2.3", "1.1.1.1", [6, 9, 443, 0]), "rules[1]");
        assert_eq!(v4(&rules, "10.2.2.3", "1.1.1.1", [6, 9, 8081, 0]), "default");
        assert_eq!(v4(&rules, "10.2.2.3", "1.1.1.1", [17, 9, 8080, 0]), "default");
        assert_eq!(v4(&rules, "9.2.2.3", "1.1.1.1", [1, 8, 0, 1]), "rules[2]");
        assert_eq!(v4(&rules, "9.2.2.3", "1.1.1.1", [1, 8, 0, 0]), "default");
        assert_eq!(v4(&rules, "9.2.2.3", "1.1.1.1", [17, 9, 53, 1]), "dns");
        assert_eq!(v4(&rules, "9.2.2.3", "1.1.1.1", [50, 0, 0, 1]), "rules[4]");
        assert_eq!(rules.decide_v6(1, 2, [6, 0, 53, 0]).name, "dns");
        assert_eq!(rules.decide_v6(1, 2, [1, 8, 0, 1]).name, "default");
    }

    #[test]
    fn errors_name_rule_key_and_what_is_allowed() {
        let cases = [
            (json!({}), "rules[1]: action: it is missing; it is \"allow\""),
            (json!({ "action": "permit" }), "rules[1]: action: \"permit\" is not"),
            (json!({ "action": "allow", "src": "10.0.0.1/8" }), "src: \"10.0.0.1/8\" has bits set"),
            (json!({ "action": "allow", "dst": "10.0.0.0/33" }), "its length is 0 to 32"),
            (json!({ "action": "allow", "dst": "::1/129" }), "its length is 0 to 128"),
            (json!({ "action": "allow", "dst": "host" }), "is no prefix such as"),
            (json!({ "action": "allow", "dst": [] }), "dst: [] is neither"),
            (json!({ "action": "allow", "dport": "70000" }), "dport: \"70000\" is not a number"),
            (json!({ "action": "allow", "dport": -1 }), "dport: \"-1\" is not"),
            (json!({ "action": "allow", "sport": "9-8" }), "sport: \"9-8\" is not"),
            (json!({ "action": "allow", "sport": "" }), "sport: \"\" is not"),
            (json!({ "action": "allow", "proto": "icmp", "dport": 1 }), "have ports"),
            (json!({ "action": "allow", "proto": 256 }), "a number from 0 to 255"),
            (json!({ "action": "allow", "icmp-type": 8 }), "icmp-type: it needs proto"),
            (json!({ "action": "allow", "direction": "up" }), "direction: \"up\" is not"),
            (json!({ "action": "allow", "log": 1 }), "log: 1 is not true or false"),
            (json!({ "action": "allow", "sorce": "::" }), "unknown field `sorce`, expected"),
            (json!({ "action": "allow", "src": "::/0", "dst": "1.2.3.4" }), "mix IPv4 and IPv6"),
            (json!({ "action": "allow", "src": "::/0", "proto": "icmp" }), "mix IPv4 and IPv6"),
            (json!("allow"), "rules[1]: invalid type"),
        ];
        for (rule, expected) in cases {
            let error = rules(json!([{ "action": "allow" }, rule])).err().unwrap();
            assert!(error.starts_with("rules[1]: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn lists_may_not_multiply_without_end() {
        let ports = (1..100).map(|p| p.to_string()).collect::<Vec<_>>().join(",");
        let error = rules(json!([{ "action": "allow", "sport": ports, "dport": ports }])).err();
        assert!(error.unwrap().contains("multiply to"));
        // Nor are they multiplied to find that out.
        let ports = (0..=u16::MAX).map(|p| p.to_string()).collect::<Vec<_>>().join(",");
        let rule = json!([{ "action": "allow", "proto": "tcp", "sport": ports, "dport": ports }]);
        assert!(rules(rule).err().unwrap().contains("multiply to 8589934592 combinations"));
    }
}
