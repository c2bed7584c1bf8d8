//! Rules, from the configuration to what is asked of each request.
//!
//! Owns: reading and checking rules, and whether one matches. Must not know: what is done to a
//! message.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use weir_sdk::config::{
    EMPTY, check_authority, check_method, check_path, is_field_name, is_hop_field,
    may_be_in_authority,
};
use weir_sdk::message::Head;

use crate::stream::Replacements;
use crate::target::is_target;
use crate::template::{Template, without_port};

/// Largest compiled expression, in bytes.
const REGEX_MAX: usize = 1 << 20;
/// Most rules.
pub(crate) const RULES_MAX: usize = 256;
/// Statuses of a redirect (RFC 9110, section 15.4).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// A value, or several of which one has to match.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(self) -> Result<Vec<String>, String> {
        match self {
            Self::One(one) => Ok(vec![one]),
            Self::Many(many) if many.is_empty() => Err(EMPTY.into()),
            Self::Many(many) => Ok(many),
        }
    }
}

/// A rule as it is written; see the README.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RuleConfig {
    method: Option<OneOrMany>,
    host: Option<OneOrMany>,
    path: Option<String>,
    path_prefix: Option<String>,
    path_regex: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, String>,

    rewrite: Option<String>,
    authority: Option<String>,
    redirect: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    request: EditConfig,
    #[serde(default)]
    response: EditConfig,
    #[serde(default)]
    last: bool,
}

/// What is done to a message's fields and body.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct EditConfig {
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    add: BTreeMap<String, String>,
    #[serde(default)]
    body: Vec<ReplaceConfig>,
    types: Option<Vec<String>>,
}

/// A text and what it becomes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplaceConfig {
    find: String,
    replace: String,
}

#[derive(Debug)]
pub(crate) struct Rule {
    methods: Vec<String>,
    hosts: Vec<String>,
    pub(crate) path: PathMatch,
    fields: Vec<(String, FieldMatch)>,
    pub(crate) rewrite: Option<Template>,
    pub(crate) authority: Option<Template>,
    pub(crate) redirect: Option<(Template, u16)>,
    pub(crate) request: Edit,
    pub(crate) response: Edit,
    pub(crate) last: bool,
    /// Some text may say again what the path was.
    pub(crate) quotes: bool,
}

#[derive(Debug)]
pub(crate) enum PathMatch {
    Any,
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Regex(Regex),
}

#[derive(Debug)]
enum FieldMatch {
    Present,
    Absent,
    Is(Vec<u8>),
    Regex(Regex),
}

/// What is done to a message.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    pub(crate) remove: Vec<String>,
    pub(crate) set: Vec<(String, Template)>,
    pub(crate) add: Vec<(String, Template)>,
    pub(crate) body: Option<Replacements>,
    types: Vec<String>,
}

/// Types of bodies that are text.
const TEXTS: [&str; 6] = [
    "text/",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/xhtml+xml",
    "image/svg+xml",
];

impl Rule {
    /// Checks a rule.
    ///
    /// # Errors
    /// Names the key and says what is wrong.
    pub(crate) fn read(mut config: RuleConfig) -> Result<Self, String> {
        let methods = list("method", config.method.take())?;
        for method in &methods {
            check_method(method).map_err(|error| format!("method: {error}"))?;
        }
        let mut hosts = list("host", config.host.take())?;
        hosts.iter_mut().for_each(|host| host.make_ascii_lowercase());
        let path = PathMatch::read(&mut config)?;
        let groups = path.groups();
        if config.rewrite.is_some() && matches!(path, PathMatch::Any) {
            return Err("rewrite needs path, path-prefix or path-regex".into());
        }
        let rewrite = target(config.rewrite, groups)?;
        let authority = authority(config.authority, groups)?;
        let redirect = redirect(config.redirect, config.status, groups)?;
        let fields = config.fields.into_iter().map(|(name, value)| {
            let matches = FieldMatch::read(&name, &value);
            matches
                .map(|matches| (name.clone(), matches))
                .map_err(|e| format!("fields.{name}: {e}"))
        });
        let request =
            Edit::read(config.request, Some(groups)).map_err(|e| format!("request.{e}"))?;
        let quotes = {
            let to = redirect.iter().map(|(to, _)| to);
            let mut texts = to.chain(&authority).chain(request.texts());
            rewrite.is_some() || texts.any(|text| text.literal().is_none())
        };
        Ok(Self {
            quotes,
            methods,
            hosts,
            path,
            fields: fields.collect::<Result<_, String>>()?,
            rewrite,
            authority,
            redirect,
            request,
            response: Edit::read(config.response, None).map_err(|e| format!("response.{e}"))?,
            last: config.last,
        })
    }

    /// Whether a request is one for this rule, as far as everything but the path goes.
    pub(crate) fn matches_but_path(&self, head: &Head<'_>) -> bool {
        let method = head.method();
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m.as_bytes() == method) {
            return false;
        }
        if !self.hosts.is_empty() {
            let host = without_port(head.authority());
            if !self.hosts.iter().any(|pattern| host_matches(pattern.as_bytes(), host)) {
                return false;
            }
        }
        self.fields.iter().all(|(name, wanted)| match wanted {
            FieldMatch::Present => head.field(name).is_some(),
            FieldMatch::Absent => head.field(name).is_none(),
            FieldMatch::Is(value) => head.all(name).any(|v| v == &value[..]),
            FieldMatch::Regex(regex) => head.all(name).any(|v| regex.is_match(v)),
        })
    }
}

impl PathMatch {
    fn read(config: &mut RuleConfig) -> Result<Self, String> {
        let written = (config.path.take(), config.path_prefix.take(), config.path_regex.take());
        Ok(match written {
            (None, None, None) => Self::Any,
            (Some(path), None, None) => Self::Exact(absolute("path", path)?),
            (None, Some(prefix), None) => Self::Prefix(absolute("path-prefix", prefix)?),
            (None, None, Some(text)) => {
                Self::Regex(expression(&text).map_err(|error| format!("path-regex: {error}"))?)
            }
            _ => return Err("only one of path, path-prefix and path-regex can be given".into()),
        })
    }

    /// What templates can name: `$0` is what matched, `$1` what follows, or the expression's
    /// groups.
    fn groups(&self) -> usize {
        if let Self::Regex(regex) = self { regex.captures_len() } else { 2 }
    }
}

impl FieldMatch {
    fn read(name: &str, value: &str) -> Result<Self, String> {
        check_seen(name)?;
        Ok(match value {
            "*" => Self::Present,
            "!" => Self::Absent,
            text => match text.strip_prefix('~') {
                Some(text) => Self::Regex(expression(text)?),
                None => Self::Is(text.into()),
            },
        })
    }
}

impl Edit {
    /// `groups` is none for responses, which have no variables.
    fn read(config: EditConfig, groups: Option<usize>) -> Result<Self, String> {
        for name in config.remove.iter().chain(config.set.keys()).chain(config.add.keys()) {
            check_set(name)?;
        }
        let templates = |key: &str, fields: BTreeMap<String, String>| {
            let read = |(name, text): (String, String)| {
                let trimmed = text.trim_matches([' ', '\t']) == text;
                if !trimmed || text.bytes().any(|c| c < b' ' && c != b'\t' || c == 0x7f) {
                    return Err(format!("{key}.{name}: {text:?} is no field value"));
                }
                let template = Template::read(&text, groups.unwrap_or(0))
                    .map_err(|error| format!("{key}.{name}: {error}"))?;
                if groups.is_none() && template.literal().is_none() {
                    return Err(format!(
                        "{key}.{name}: \"{text}\" has a variable, which are for requests only"
                    ));
                }
                Ok((name, template))
            };
            fields.into_iter().map(read).collect::<Result<Vec<_>, String>>()
        };
        let pairs: Vec<_> = config
            .body
            .into_iter()
            .map(|pair| (pair.find.into_bytes(), pair.replace.into_bytes()))
            .collect();
        let body = (!pairs.is_empty()).then(|| Replacements::new(pairs)).transpose();
        Ok(Self {
            set: templates("set", config.set)?,
            add: templates("add", config.add)?,
            remove: config.remove,
            body: body.map_err(|error| format!("body: {error}"))?,
            types: config.types.unwrap_or_else(|| TEXTS.map(String::from).to_vec()),
        })
    }

    /// What fields become.
    fn texts(&self) -> impl Iterator<Item = &Template> {
        self.set.iter().chain(&self.add).map(|(_, text)| text)
    }

    /// Whether nothing is done to heads.
    pub(crate) fn leaves_heads(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a body of this kind is searched: the whole of a text, not compressed.
    pub(crate) fn searches(&self, head: &Head<'_>) -> bool {
        if self.body.is_none() {
            return false;
        }
        let plain = head.field("content-encoding").is_none_or(|coding| coding == b"identity");
        let kind = head.field("content-type").unwrap_or_default();
        plain
            && head.status() != 206
            && self.types.iter().any(|prefix| {
                kind.get(..prefix.len()).is_some_and(|k| k.eq_ignore_ascii_case(prefix.as_bytes()))
            })
    }
}

fn list(key: &str, listed: Option<OneOrMany>) -> Result<Vec<String>, String> {
    let list = listed.map_or(Ok(Vec::new()), OneOrMany::list);
    list.map_err(|error| format!("{key}: {error}"))
}

/// A text without spaces, in which variables and so many groups may stand.
fn template(key: &str, text: Option<String>, groups: usize) -> Result<Option<Template>, String> {
    let read = |text: String| {
        let template = Template::read(&text, groups)?;
        match text.bytes().find(|c| !c.is_ascii_graphic()) {
            Some(c) => Err(format!("\"{text}\" has the character {:?}", char::from(c))),
            None => Ok(template),
        }
    };
    text.map(read).transpose().map_err(|error| format!("{key}: {error}"))
}

/// What paths become.
fn target(text: Option<String>, groups: usize) -> Result<Option<Template>, String> {
    let target = template("rewrite", text, groups)?;
    // Where a query begins may be known only when all is filled in.
    let whole = target.as_ref().is_some_and(|text| text.literal().is_some());
    let before: &[&[u8]] = if whole { &[b"/"] } else { &[b"/", b"/?"] };
    for text in target.iter().flat_map(Template::literals) {
        if !before.iter().any(|before| is_target(&[before, text].concat())) {
            return Err(format!(
                "rewrite: \"{}\" has a character that no path has",
                text.escape_ascii()
            ));
        }
    }
    Ok(target)
}

/// What authorities become.
fn authority(text: Option<String>, groups: usize) -> Result<Option<Template>, String> {
    let authority = template("authority", text, groups)?;
    for text in authority.iter().flat_map(Template::literals) {
        if !text.iter().all(may_be_in_authority) {
            return Err(format!(
                "authority: \"{}\" has a character that neither a host nor a port has",
                text.escape_ascii()
            ));
        }
    }
    if let Some(text) = authority.as_ref().and_then(Template::literal) {
        check_authority(text).map_err(|error| format!("authority: {error}"))?;
    }
    Ok(authority)
}

/// Where clients are sent, and by which status.
fn redirect(
    to: Option<String>,
    status: Option<u16>,
    groups: usize,
) -> Result<Option<(Template, u16)>, String> {
    match (template("redirect", to, groups)?, status.unwrap_or(302)) {
        (Some(to), status) if REDIRECTS.contains(&status) => Ok(Some((to, status))),
        (Some(_), status) => {
            Err(format!("status: {status} is no redirect; 301, 302, 303, 307 or 308"))
        }
        (None, _) if status.is_some() => Err("status needs redirect".into()),
        (None, _) => Ok(None),
    }
}

/// Whether a host is the pattern, or ends with what follows its `*`.
fn host_matches(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        None => host.eq_ignore_ascii_case(pattern),
        Some(end) => {
            host.len() > end.len() && host[host.len() - end.len()..].eq_ignore_ascii_case(end)
        }
    }
}

/// Whether a path is one that a request target can begin with.
fn absolute(key: &str, path: String) -> Result<Vec<u8>, String> {
    check_path(&path).map_err(|error| format!("{key}: {error}"))?;
    Ok(path.into_bytes())
}

fn expression(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text).unicode(false).size_limit(REGEX_MAX).build();
    regex.map_err(|error| error.to_string())
}

/// Checks the name of a field that a rule looks at.
fn check_seen(name: &str) -> Result<(), String> {
    check_name(name)?;
    match name {
        "host" => Err("`host` is a condition of its own, beside `fields`".into()),
        _ if is_hop_field(name) => Err(format!(
            "`{name}` is for the gateway, which takes it away before a rule could see it"
        )),
        _ => Ok(()),
    }
}

/// Checks the name of a field that a rule sets or removes: one whose edit would have no effect,
/// whatever the listener, is a mistake.
fn check_set(name: &str) -> Result<(), String> {
    check_name(name)?;
    match name {
        "host" => Err("`host` is not edited as a field: use `authority`".into()),
        "content-length" => {
            Err("`content-length` is the gateway's own, and follows from the body".into())
        }
        _ if is_hop_field(name) => {
            Err(format!("`{name}` is the gateway's own: an edit of it would have no effect"))
        }
        _ => Ok(()),
    }
}

/// Checks a field's name (RFC 9110, section 5.1).
fn check_name(name: &str) -> Result<(), String> {
    if !is_field_name(name) {
        return Err(format!("\"{name}\" is no name of a field; names are lower case"));
    }
    Ok(())
}
