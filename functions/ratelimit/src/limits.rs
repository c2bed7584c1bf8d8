//! From the operator's rules to limits.
//!
//! Owns: the rules' syntax and its error messages. Must not know: packets, buckets, tables.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use weir_sdk::config::{prefix, text};

use crate::meter::Meter;
use crate::units::{self, Unit};

/// Bytes of a packet that every host has to take (RFC 791, section 3.1): no burst is less.
const PACKET_MIN: u64 = 576;

/// Which address of a packet a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Whose addresses it is for; the bits after the length are 0.
    pub(crate) prefix: (IpAddr, u8),
    /// Which address.
    pub(crate) side: Side,
    /// Addresses that agree in this many bits share a bucket.
    pub(crate) per: u8,
    /// Whether they also have to be in the same VLANs for that.
    pub(crate) per_vlan: bool,
    /// What is counted.
    pub(crate) unit: Unit,
    /// Rate and burst.
    pub(crate) meter: Meter,
}

/// A rule as written. Values stay untyped here, so that every message can name rule and key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    prefix: Option<Value>,
    key: Option<Value>,
    per: Option<Value>,
    rate: Option<Value>,
    burst: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "comment")]
    _comment: Option<Value>,
}

/// By what addresses are grouped: lengths, and VLANs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    v4: Option<u8>,
    v6: Option<u8>,
    #[serde(default)]
    vlan: bool,
}

/// Reads all rules; the error names the rule by its place (from 0) and the key.
pub(crate) fn read(rules: Vec<Value>, default: Option<Value>) -> Result<Vec<Limit>, String> {
    let mut limits = Vec::new();
    let mut seen = HashMap::new();
    for (at, rule) in rules.into_iter().enumerate() {
        let limit = parse(rule).and_then(|(written, prefix)| {
            let prefix = prefix.ok_or(
                "prefix: it is missing; it is a prefix such as \"10.0.0.0/8\" (for all others there \
                 is the table `default`)",
            )?;
            limit(&written, prefix)
        });
        let limit = limit.map_err(|error| format!("rules[{at}]: {error}"))?;
        if let Some(earlier) = seen.insert((limit.prefix, limit.side), at) {
            let (address, length) = limit.prefix;
            return Err(format!(
                "rules[{at}]: prefix: rules[{earlier}] is for {address}/{length} and the same key \
                 already"
            ));
        }
        limits.push(limit);
    }
    if let Some(default) = default {
        let both = parse(default).and_then(|(written, prefix)| {
            if prefix.is_some() {
                return Err("prefix: the default is for every address that has no rule".into());
            }
            let zero = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u8; 16])];
            zero.into_iter().map(|address| limit(&written, (address, 0))).collect()
        });
        let both: Vec<Limit> = both.map_err(|error: String| format!("default: {error}"))?;
        limits.extend(both.into_iter().filter(|l| !seen.contains_key(&(l.prefix, l.side))));
    }
    Ok(limits)
}

fn parse(rule: Value) -> Result<(Written, Option<(IpAddr, u8)>), String> {
    let written = Written::deserialize(rule).map_err(|e| e.to_string())?;
    let prefix = text("prefix", written.prefix.as_ref())?.map(|text| prefix(&text)).transpose();
    Ok((written, prefix.map_err(|error| format!("prefix: {error}"))?))
}

fn limit(written: &Written, prefix: (IpAddr, u8)) -> Result<Limit, String> {
    let side = match text("key", written.key.as_ref())?.as_deref() {
        None | Some("src") => Side::Src,
        Some("dst") => Side::Dst,
        Some(other) => return Err(format!("key: \"{other}\" is not \"src\" or \"dst\"")),
    };
    let (per, per_vlan) = per(written.per.as_ref(), prefix)?;
    let rate = text("rate", written.rate.as_ref())?
        .ok_or("rate: it is missing; it is a rate such as \"10Mbit\" or \"1000pps\"")?;
    let (rate, unit) = units::rate(&rate)?;
    let burst = match text("burst", written.burst.as_ref())? {
        Some(burst) => match units::burst(&burst, unit)? {
            // As a burst of 0: what is longer never passes, however slow the rest is.
            bytes @ 1..PACKET_MIN if unit == Unit::Bytes => {
                return Err(format!(
                    "burst: {bytes} bytes are less than a packet may have, which would never pass: {PACKET_MIN} and more"
                ));
            }
            burst => burst,
        },
        // A tenth of a second, and a large packet or a few at least.
        None => (rate / 10).max(if unit == Unit::Bytes { 9_216 } else { 8 }),
    };
    let meter = Meter::new(rate, burst).map_err(|error| format!("rate and burst: {error}"))?;
    Ok(Limit { prefix, side, per, per_vlan, unit, meter })
}

/// How many bits of an address name its bucket, and whether its VLANs do, too.
fn per(written: Option<&Value>, (address, length): (IpAddr, u8)) -> Result<(u8, bool), String> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let (per, vlan) = match written {
        None => (bits, false),
        Some(Value::String(text)) if text == "address" => (bits, false),
        Some(Value::String(text)) if text == "prefix" => (length, false),
        Some(table @ Value::Object(_)) => {
            let Groups { v4, v6, vlan } =
                Groups::deserialize(table).map_err(|e| format!("per: {e}"))?;
            (if address.is_ipv4() { v4 } else { v6 }.unwrap_or(bits), vlan)
        }
        Some(other) => {
            return Err(format!(
                "per: {other} is not \"address\", \"prefix\" or a table such as {{ v4 = 24, v6 = 64 }}"
            ));
        }
    };
    if !(length..=bits).contains(&per) {
        return Err(format!("per: {per} is not from {length}, the prefix's length, to {bits}"));
    }
    Ok((per, vlan))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_one(rule: Value) -> Result<Limit, String> {
        read(vec![rule], None).map(|limits| limits[0])
    }

    #[test]
    fn rules_are_read() {
        let limit = read_one(json!({ "prefix": "10.0.0.0/8", "rate": "10Mbit", "burst": "64KiB",
                                     "per": { "v4": 24 }, "key": "dst", "name": "lab" }))
        .unwrap();
        assert_eq!(limit.prefix, ("10.0.0.0".parse().unwrap(), 8));
        assert_eq!((limit.side, limit.per, limit.unit), (Side::Dst, 24, Unit::Bytes));
        assert_eq!(limit.meter, Meter::new(1_250_000, 65_536).unwrap());
        let rule = json!({ "prefix": "2001:db8::/32", "rate": "10pps", "per": "prefix" });
        let limit = read_one(rule).unwrap();
        assert_eq!((limit.side, limit.per, limit.unit), (Side::Src, 32, Unit::Packets));
        assert_eq!(limit.meter, Meter::new(10, 8).unwrap());
    }

    #[test]
    fn the_default_stands_for_both_families() {
        let limits = read(vec![], Some(json!({ "rate": "1Mbit" }))).unwrap();
        let prefixes: Vec<String> =
            limits.iter().map(|l| format!("{}/{}/{}", l.prefix.0, l.prefix.1, l.per)).collect();
        assert_eq!(prefixes, ["0.0.0.0/0/32", "::/0/128"]);
    }

    #[test]
    fn errors_name_rule_key_and_what_is_allowed() {
        let good = json!({ "prefix": "10.0.0.0/8", "rate": "1Mbit" });
        let cases = [
            (json!({ "rate": "1Mbit" }), "prefix: it is missing"),
            (json!({ "prefix": "10.0.0.0/8" }), "rate: it is missing"),
            (json!({ "prefix": "10.0.0.1/8", "rate": "1Mbit" }), "use \"10.0.0.0/8\""),
            (json!({ "prefix": "10.0.0.0/33", "rate": "1Mbit" }), "its length is 0 to 32"),
            (json!({ "prefix": true, "rate": "1Mbit" }), "prefix: true is neither"),
            (json!({ "prefix": "::/0", "rate": 10 }), "rate: \"10\" is not a rate such as"),
            (json!({ "prefix": "::/0", "rate": "1pps", "burst": "1KiB" }), "different things"),
            (json!({ "prefix": "::/0", "rate": "1pps", "burst": 0 }), "the burst is 0"),
            (
                json!({ "prefix": "::/0", "rate": "1Gbit", "burst": "64B" }),
                "burst: 64 bytes are less",
            ),
            (json!({ "prefix": "::/0", "rate": "1pps", "key": "mac" }), "key: \"mac\" is not"),
            (json!({ "prefix": "::/0", "rate": "1pps", "per": 3 }), "per: 3 is not \"address\""),
            (
                json!({ "prefix": "10.0.0.0/8", "rate": "1pps", "per": { "v4": 7 } }),
                "per: 7 is not from 8, the prefix's length, to 32",
            ),
            (json!({ "prefix": "::/0", "rate": "1pps", "per": { "v5": 7 } }), "per: unknown field"),
            (json!({ "prefix": "::/0", "rait": "1pps" }), "unknown field `rait`"),
            (json!([]), "rules[1]: "),
            (good.clone(), "rules[0] is for 10.0.0.0/8"),
        ];
        for (rule, expected) in cases {
            let error = read(vec![good.clone(), rule], None).unwrap_err();
            assert!(error.starts_with("rules[1]: ") && error.contains(expected), "{error}");
        }
        let error = read(vec![], Some(json!({ "prefix": "::/0", "rate": "1pps" }))).unwrap_err();
        assert!(error.starts_with("default: prefix: "), "{error}");
    }
}
