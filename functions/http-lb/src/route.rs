//! Routes: which requests one takes.
//!
//! Owns: reading and checking conditions, whether a request meets them, and whether an earlier
//! route leaves a later one anything. Must not know: upstreams, and how one is chosen.

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_sdk::config::{
    EMPTY, check_authority, check_method, check_path, decimal, is_field_name, is_hop_field,
};
use weir_sdk::message::Head;

/// A value, or several of which one has to match.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What a request has to be for a route to take it.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// One of these; all if there are none.
    hosts: Vec<HostMatch>,
    path: PathMatch,
    /// One of these; all if there are none.
    methods: Vec<String>,
    /// All of these.
    fields: Vec<(String, FieldMatch)>,
}

/// A host, or all below a domain.
#[derive(Debug, PartialEq, Eq)]
struct HostMatch {
    /// In lower case.
    name: String,
    /// The name is the end of more, and begins with a dot.
    below: bool,
    /// Any, if none is named.
    port: Option<u16>,
}

#[derive(Debug)]
enum PathMatch {
    Any,
    Exact(Vec<u8>),
    /// By segments: what is longer goes on with a slash.
    Prefix(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum FieldMatch {
    Present,
    Absent,
    Is(Vec<u8>),
}

/// What routes are asked about: found once for each request.
#[derive(Debug)]
pub(crate) struct Asked<'h> {
    host: &'h [u8],
    port: u16,
    path: &'h [u8],
}

impl<'h> Asked<'h> {
    pub(crate) fn of(head: &'h Head<'_>) -> Self {
        let (host, port) = split_port(head.authority());
        // RFC 9110, section 4.2.3: the scheme's own port is the same as none.
        let port = port.unwrap_or(if head.tls() { 443 } else { 80 });
        Self { host, port, path: head.path_and_query().0 }
    }
}

impl Conditions {
    /// # Errors
    /// Names the key and says what is wrong.
    pub(crate) fn read(
        host: Option<OneOrMany>,
        path: (Option<String>, Option<String>),
        method: Option<OneOrMany>,
        fields: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let methods = list("method", method)?;
        for method in &methods {
            check_method(method).map_err(|error| format!("method: {error}"))?;
        }
        let hosts = list("host", host)?.into_iter().map(|host| HostMatch::read(&host));
        let hosts = hosts.collect::<Result<_, _>>().map_err(|error| format!("host: {error}"))?;
        let fields = fields.into_iter().map(|(name, value)| {
            let read = FieldMatch::read(&name, &value);
            read.map_err(|error| format!("fields.{name}: {error}")).map(|read| (name, read))
        });
        Ok(Self {
            hosts,
            path: PathMatch::read(path)?,
            methods,
            fields: fields.collect::<Result<_, String>>()?,
        })
    }

    /// Whether every request meets them.
    pub(crate) fn is_empty(&self) -> bool {
        let any_path = matches!(self.path, PathMatch::Any);
        any_path && self.hosts.is_empty() && self.methods.is_empty() && self.fields.is_empty()
    }

    /// Whether this request meets them.
    pub(crate) fn matches(&self, asked: &Asked<'_>, head: &Head<'_>) -> bool {
        self.path.matches(asked.path)
            && (self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(asked)))
            && (self.methods.is_empty()
                || self.methods.iter().any(|method| method.as_bytes() == head.method()))
            && self.fields.iter().all(|(name, wanted)| match wanted {
                FieldMatch::Present => head.field(name).is_some(),
                FieldMatch::Absent => head.field(name).is_none(),
                FieldMatch::Is(value) => head.all(name).any(|v| v == &value[..]),
            })
    }

    /// Whether every request that meets `later` meets these, too.
    pub(crate) fn cover(&self, later: &Self) -> bool {
        let hosts = self.hosts.is_empty()
            || !later.hosts.is_empty()
                && later.hosts.iter().all(|host| self.hosts.iter().any(|h| h.covers(host)));
        let methods = self.methods.is_empty()
            || !later.methods.is_empty()
                && later.methods.iter().all(|method| self.methods.contains(method));
        let fields = self.fields.iter().all(|(name, wanted)| {
            let same = later.fields.iter().find(|(n, _)| n == name);
            same.is_some_and(|(_, other)| {
                wanted == other
                    || *wanted == FieldMatch::Present && matches!(other, FieldMatch::Is(_))
            })
        });
        hosts && methods && fields && self.path.covers(&later.path)
    }

    /// A number made of them: the same wherever the route stands, and whatever order its lists
    /// have.
    pub(crate) fn number(&self) -> u64 {
        let mut hosts: Vec<String> = self.hosts.iter().map(|host| format!("{host:?}")).collect();
        let mut methods = self.methods.clone();
        hosts.sort();
        methods.sort();
        let text = format!("{hosts:?} {:?} {methods:?} {:?}", self.path, self.fields);
        weir_sdk::hash::bytes(text.as_bytes(), 2)
    }
}

impl HostMatch {
    fn read(text: &str) -> Result<Self, String> {
        let (name, below) = match text.strip_prefix('*') {
            Some(name) if name.starts_with('.') => (name, true),
            _ => (text, false),
        };
        let whole = name.strip_prefix('.').filter(|_| below).unwrap_or(name);
        if check_authority(whole).is_err() || whole.starts_with('.') || whole.contains('*') {
            return Err(format!(
                "\"{text}\" is no host such as \"example.com\" or \"example.com:8443\", nor all below one, such as \
                 \"*.example.com\""
            ));
        }
        let (name, port) = split_port(name.as_bytes());
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        Ok(Self { name, below, port })
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let name = self.name.as_bytes();
        let Some(more) = asked.host.len().checked_sub(name.len()) else { return false };
        (more > 0) == self.below
            && asked.host[more..].eq_ignore_ascii_case(name)
            && self.port.is_none_or(|port| port == asked.port)
    }

    fn covers(&self, other: &Self) -> bool {
        let name = match (self.below, other.below) {
            (false, false) => self.name == other.name,
            (false, true) => false,
            (true, _) => other.name.ends_with(&self.name),
        };
        name && (self.port.is_none() || self.port == other.port)
    }
}

impl PathMatch {
    fn read(written: (Option<String>, Option<String>)) -> Result<Self, String> {
        let check = |key: &str, path: &str| {
            check_path(path).map_err(|error| format!("{key}: {error}"))?;
            match path.chars().find(|c| c.is_ascii_whitespace() || c.is_ascii_control()) {
                Some(c) => Err(format!(
                    "{key}: \"{path}\" has {c:?}, which no path has: write it as clients send it, such as %20 for a \
                     space"
                )),
                None => Ok(()),
            }
        };
        match written {
            (None, None) => Ok(Self::Any),
            (Some(path), None) => check("path", &path).map(|()| Self::Exact(path.into_bytes())),
            (None, Some(path)) => {
                check("path-prefix", &path).map(|()| Self::Prefix(path.into_bytes()))
            }
            _ => Err("only one of path and path-prefix can be given".into()),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == &exact[..],
            Self::Prefix(prefix) => path
                .strip_prefix(&prefix[..])
                .is_some_and(|more| more.is_empty() || more[0] == b'/' || prefix.ends_with(b"/")),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) | (Self::Exact(_), Self::Prefix(_)) => false,
            // What begins with the other begins with this, if the other itself does.
            (_, Self::Exact(path) | Self::Prefix(path)) => self.matches(path),
        }
    }
}

impl FieldMatch {
    fn read(name: &str, value: &str) -> Result<Self, String> {
        if !is_field_name(name) {
            return Err(format!("\"{name}\" is no name of a field; names are lower case"));
        }
        if name == "host" {
            return Err("`host` is a condition of its own, beside `fields`".into());
        }
        if is_hop_field(name) {
            return Err(format!(
                "`{name}` is for the gateway, which takes it away before a route could see it"
            ));
        }
        match value {
            "*" => Ok(Self::Present),
            "!" => Ok(Self::Absent),
            text if text.starts_with('~') => Err(format!(
                "\"{text}\" is an expression, which routes do not have: a rule of `rewrite` before this function can set a \
                 field by one"
            )),
            text if text.trim() != text || text.chars().any(char::is_control) => {
                Err(format!("{text:?} is no field value"))
            }
            text => Ok(Self::Is(text.into())),
        }
    }
}

fn list(key: &str, listed: Option<OneOrMany>) -> Result<Vec<String>, String> {
    match listed {
        None => Ok(Vec::new()),
        Some(OneOrMany::One(one)) => Ok(vec![one]),
        Some(OneOrMany::Many(many)) if many.is_empty() => Err(format!("{key}: {EMPTY}")),
        Some(OneOrMany::Many(many)) => Ok(many),
    }
}

/// Host and port of an authority.
fn split_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let colon = authority.iter().rposition(|c| *c == b':');
    let port = colon.and_then(|colon| decimal(str::from_utf8(&authority[colon + 1..]).ok()?));
    match (colon, port) {
        (Some(colon), Some(port)) => (&authority[..colon], Some(port)),
        _ => (authority, None),
    }
}
