//! The configuration, and its checks.

use serde::Deserialize;
use weir_sdk::config::{check_method, check_path, not_empty};

use crate::engine::{Action, Custom, KINDS, RULES_MAX};
use crate::text::Transform;

/// `[function.config]` of `waf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    pub(crate) mode: Mode,
    /// 1 to 4.
    pub(crate) paranoia: u8,
    /// Score from which on a request is an attack.
    pub(crate) threshold: u32,
    /// Status of the answer to one.
    pub(crate) status: u16,
    /// Methods that are allowed.
    #[serde(deserialize_with = "not_empty")]
    pub(crate) methods: Vec<String>,
    /// Most arguments of a request.
    pub(crate) max_args: usize,
    /// Bytes of a body that are held and looked at.
    pub(crate) body_limit: usize,
    /// What happens to a longer one.
    pub(crate) on_long_body: OnLong,
    /// Bytes of bodies held in all.
    pub(crate) max_held: usize,
    /// Numbers of built-in rules that are not used.
    pub(crate) disable: Vec<u32>,
    pub(crate) exclude: Vec<ExcludeConfig>,
    pub(crate) rules: Vec<RuleConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        Self {
            mode: Mode::Block,
            paranoia: 1,
            threshold: 5,
            status: 403,
            methods: methods.map(String::from).to_vec(),
            max_args: 255,
            body_limit: 65_536,
            on_long_body: OnLong::Pass,
            max_held: 16 << 20,
            disable: Vec::new(),
            exclude: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// What is done with attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// They are answered.
    Block,
    /// They are logged and counted only.
    Detect,
}

/// What happens to a body that is longer than what is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnLong {
    /// Its beginning is looked at, the rest passes.
    Pass,
    /// It is answered with 413.
    Reject,
}

/// Rules that are not asked somewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ExcludeConfig {
    /// Numbers of rules; all if there are none.
    #[serde(default, deserialize_with = "not_empty")]
    rules: Vec<u32>,
    /// As in a rule; everything if there is none.
    target: Option<String>,
    path_prefix: Option<String>,
}

/// A rule of the operator's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RuleConfig {
    id: u32,
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "not_empty")]
    targets: Vec<String>,
    pattern: Option<String>,
    #[serde(default)]
    contains: Vec<String>,
    transform: Option<Vec<Transform>>,
    #[serde(default = "critical")]
    score: u32,
    #[serde(default)]
    action: Action,
}

const fn critical() -> u32 {
    5
}

/// An exclusion, checked.
#[derive(Debug)]
pub(crate) struct Exclude {
    pub(crate) rules: Vec<u32>,
    on: u16,
    of: Option<Vec<u8>>,
    path_prefix: Option<Vec<u8>>,
}

impl Exclude {
    pub(crate) fn read(config: ExcludeConfig) -> Result<Self, String> {
        let ExcludeConfig { rules, target, path_prefix } = &config;
        if rules.is_empty() && target.is_none() && path_prefix.is_none() {
            return Err(
                "it would switch all rules off: it needs rules, target or path-prefix".into()
            );
        }
        if let Some(path) = path_prefix {
            check_path(path).map_err(|error| format!("path-prefix: {error}"))?;
        }
        let (on, of) = match config.target.as_deref() {
            Some(target) => self::target(target).map_err(|error| format!("target: {error}"))?,
            None => (u16::MAX, None),
        };
        let path_prefix = config.path_prefix.map(String::into_bytes);
        Ok(Self { rules: config.rules, on, of, path_prefix })
    }

    /// `climbs`: the path may be another one than it begins as.
    pub(crate) fn is_for_path(&self, path: &[u8], climbs: bool) -> bool {
        self.path_prefix.as_ref().is_none_or(|prefix| !climbs && path.starts_with(prefix))
    }

    pub(crate) fn is_for_text(&self, on: u16, name: &[u8]) -> bool {
        self.on & on != 0 && self.of.as_ref().is_none_or(|of| of == name)
    }
}

impl RuleConfig {
    pub(crate) fn read(self) -> Result<Custom, String> {
        if self.id < 10_000 {
            return Err(format!("id: {} is a built-in rule's; take 10000 or more", self.id));
        }
        if self.pattern.is_none() && self.contains.is_empty() {
            return Err("a rule needs a pattern, or what a text contains".into());
        }
        if self.contains.iter().any(String::is_empty) {
            return Err("contains: every text contains nothing".into());
        }
        let (mut on, mut of) = (0, None);
        for target in &self.targets {
            let (kinds, name) =
                self::target(target).map_err(|error| format!("targets: {error}"))?;
            if name.is_some() && self.targets.len() > 1 {
                return Err(format!("targets: \"{target}\" has to be alone"));
            }
            on |= kinds;
            of = name;
        }
        if self.targets.is_empty() {
            on = target("input")?.0;
        }
        let canonical = self.transform.is_none();
        let lower = |text: String| if canonical { text.to_ascii_lowercase() } else { text };
        Ok(Custom {
            id: self.id,
            name: self.name,
            score: self.score,
            action: self.action,
            on,
            of,
            pattern: self.pattern,
            contains: self.contains.into_iter().map(lower).collect(),
            transform: self.transform,
        })
    }
}

/// Kinds of texts, and the name of one.
fn target(text: &str) -> Result<(u16, Option<Vec<u8>>), String> {
    if let Some((_, kinds)) = KINDS.iter().find(|(name, _)| *name == text) {
        return Ok((*kinds, None));
    }
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let kinds = match kind {
        "arg" => "args",
        "cookie" => "cookies",
        "field" => "fields",
        _ => "",
    };
    match KINDS.iter().find(|(name, _)| *name == kinds) {
        Some((_, kinds)) if !name.is_empty() => {
            let name = if kind == "field" { name.to_ascii_lowercase() } else { name.into() };
            Ok((*kinds, Some(name.into_bytes())))
        }
        _ => {
            let names = KINDS.map(|(name, _)| name).join(", ");
            Err(format!("\"{text}\" is none of {names}, arg:NAME, cookie:NAME, field:NAME"))
        }
    }
}

impl Config {
    /// Checks the numbers.
    pub(crate) fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{key}: {value} is not from {least} to {most}"))
            }
        };
        for method in &self.methods {
            check_method(method).map_err(|error| format!("methods: {error}"))?;
        }
        within("paranoia", self.paranoia.into(), 1, 4)?;
        within("threshold", self.threshold as usize, 1, 10_000)?;
        within("status", self.status.into(), 400, 599)?;
        within("body-limit", self.body_limit, 0, 16 << 20)?;
        within("max-args", self.max_args, 1, 100_000)?;
        within("rules", self.rules.len(), 0, RULES_MAX)?;
        within("exclude", self.exclude.len(), 0, RULES_MAX)
    }
}
