//! Rules: which requests they are for, what their key is, and how many may come.
//!
//! Owns: reading and checking them. Must not know: how requests are counted.

use serde::Deserialize;
use weir_sdk::bucket::Rate;
use weir_sdk::config::{check_method, check_path, decimal, is_token, not_empty};
use weir_sdk::hash;
use weir_sdk::message::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// A rule as it is written; see the README.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RuleConfig {
    name: String,
    #[serde(default, deserialize_with = "not_empty")]
    method: Vec<String>,
    host: Option<String>,
    path_prefix: Option<String>,
    #[serde(default = "client", deserialize_with = "not_empty")]
    key: Vec<String>,
    rate: String,
    burst: Option<u64>,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    exempt: Vec<Prefix>,
    #[serde(default)]
    dry_run: bool,
}

fn client() -> Vec<String> {
    vec!["client".into()]
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    methods: Vec<String>,
    host: Option<String>,
    path_prefix: Option<String>,
    key: Vec<Part>,
    pub(crate) rate: Rate,
    /// Requests in a period, and its nanoseconds: the rate as it was written.
    pub(crate) quota: (u64, u64),
    pub(crate) shared: bool,
    exempt: Vec<Prefix>,
    pub(crate) dry_run: bool,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// The client's network: bits of an IPv4 and of an IPv6 address.
    Client(u32, u32),
    Field(String),
    Cookie(String),
    Host,
    Path,
    Method,
}

impl Rule {
    /// Checks a rule.
    ///
    /// # Errors
    /// Names the key and says what is wrong.
    pub(crate) fn read(config: RuleConfig) -> Result<Self, String> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if !(1..=32).contains(&config.name.len()) || !config.name.bytes().all(plain) {
            return Err(format!(
                "name: \"{}\" is no name: 1 to 32 letters, digits, `-`, `_` and `.`",
                config.name
            ));
        }
        let quota = quota(&config.rate)?;
        let (requests, period) = quota;
        let burst = config.burst.unwrap_or(requests);
        if !(1..=1_000_000_000).contains(&burst) {
            return Err(format!("burst: {burst} is not from 1 to 1000000000"));
        }
        if config.shared && config.burst.is_some() {
            return Err("burst: what is shared is counted by period and has no burst".into());
        }
        for method in &config.method {
            check_method(method).map_err(|error| format!("method: {error}"))?;
        }
        if let Some(path) = &config.path_prefix {
            check_path(path).map_err(|error| format!("path-prefix: {error}"))?;
        }
        if config.host.as_ref().is_some_and(String::is_empty) {
            return Err("host: \"\" is no host: leave it out for all".into());
        }
        let key = if config.key == ["all"] {
            Vec::new()
        } else {
            config.key.iter().map(|part| Part::read(part)).collect::<Result<_, _>>()?
        };
        Ok(Self {
            name: config.name,
            methods: config.method,
            host: config.host.map(|host| host.to_ascii_lowercase()),
            path_prefix: config.path_prefix,
            key,
            rate: Rate { interval: (period / requests).max(1), burst },
            quota,
            shared: config.shared,
            exempt: config.exempt,
            dry_run: config.dry_run,
        })
    }

    /// Whether it counts a request.
    pub(crate) fn is_for(&self, head: &Head<'_>) -> bool {
        let method = head.method();
        (self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == method))
            && self.path_prefix.as_ref().is_none_or(|p| head.path().starts_with(p.as_bytes()))
            && self.host.as_ref().is_none_or(|host| {
                let authority = head.authority();
                let end = host.len();
                authority.get(..end).is_some_and(|h| h.eq_ignore_ascii_case(host.as_bytes()))
                    && (authority.len() == end || authority[end] == b':')
            })
            && !self.exempt.iter().any(|prefix| prefix.contains(head.client_bytes()))
    }

    /// The key of a request. Those without a field or cookie have one key together with their
    /// client's address.
    pub(crate) fn key(&self, head: &Head<'_>, seed: u64) -> u64 {
        let mut key = hash::bytes(self.name.as_bytes(), seed);
        for part in &self.key {
            let client = |v4, v6| Prefix::network(head.client_bytes(), v4, v6).to_le_bytes();
            key = match part {
                Part::Client(v4, v6) => hash::bytes(&client(*v4, *v6), key),
                Part::Host => {
                    let mut lower = [0; 256];
                    let host = head.authority();
                    let host = &host[..host.len().min(lower.len())];
                    lower[..host.len()].copy_from_slice(host);
                    lower[..host.len()].make_ascii_lowercase();
                    hash::bytes(&lower[..host.len()], key)
                }
                Part::Path => hash::bytes(head.path_and_query().0, key),
                Part::Method => hash::bytes(head.method(), key),
                Part::Field(name) => match head.field(name) {
                    Some(value) => hash::bytes(value, key),
                    None => hash::bytes(&client(32, 64), key ^ 1),
                },
                Part::Cookie(name) => match head.cookie(name) {
                    Some(value) => hash::bytes(value, key),
                    None => hash::bytes(&client(32, 64), key ^ 1),
                },
            };
        }
        key
    }
}

impl Part {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "key: \"{text}\" is none of \"client\", \"client/24,56\", \"field:NAME\", \"cookie:NAME\", \
                 \"host\", \"path\", \"method\", or \"all\" alone"
            )
        };
        if let Some(lengths) = text.strip_prefix("client/") {
            let (v4, v6) = lengths.split_once(',').unwrap_or((lengths, "64"));
            let (v4, v6) = (decimal(v4).ok_or_else(wrong)?, decimal(v6).ok_or_else(wrong)?);
            return if v4 <= 32 && v6 <= 128 { Ok(Self::Client(v4, v6)) } else { Err(wrong()) };
        }
        match text.split_once(':') {
            Some(("field", name)) if is_token(name) => Ok(Self::Field(name.to_ascii_lowercase())),
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.into())),
            None => match text {
                // Whoever has IPv6 has at least a network of 64 bits.
                "client" => Ok(Self::Client(32, 64)),
                "host" => Ok(Self::Host),
                "path" => Ok(Self::Path),
                "method" => Ok(Self::Method),
                _ => Err(wrong()),
            },
            Some(_) => Err(wrong()),
        }
    }
}

/// Reads a rate such as `10/s`: requests, and nanoseconds of the period.
fn quota(text: &str) -> Result<(u64, u64), String> {
    let wrong =
        || format!("rate: \"{text}\" is no rate such as \"10/s\", \"300/m\", \"1000/h\", \"5/d\"");
    let (requests, period) = text.split_once('/').ok_or_else(wrong)?;
    let requests: u64 = decimal(requests.trim()).ok_or_else(wrong)?;
    let seconds = match period.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if !(1..=1_000_000_000).contains(&requests) {
        return Err(format!("rate: \"{text}\" is not from 1 to 1000000000"));
    }
    Ok((requests, seconds * SECOND))
}
