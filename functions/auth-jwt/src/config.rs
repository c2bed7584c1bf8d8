//! The configuration, and what is wrong with one.
//!
//! Owns: keys, defaults, and checks that need nothing but the configuration. Must not know: tokens.

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_sdk::config::{
    check_authority, check_path, is_field_name, is_hop_field, is_token, not_empty,
};
use weir_sdk::message::prelude::*;

use crate::keys::{KEYS_MAX, KeyConfig};

/// Fields that the gateway, or this function, reads or makes, beside those of one hop: a claim
/// there would be taken for something else.
const NOT_FOR_CLAIMS: [&str; 3] = ["authorization", "content-length", "cookie"];
/// `[function.config]` of `auth-jwt`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    #[serde(default)]
    pub(crate) keys: Vec<KeyConfig>,
    pub(crate) jwks: Option<JwksConfig>,
    #[serde(default, deserialize_with = "not_empty")]
    pub(crate) issuers: Vec<String>,
    #[serde(default, deserialize_with = "not_empty")]
    pub(crate) audiences: Vec<String>,
    #[serde(default = "required")]
    pub(crate) required: Vec<String>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    #[serde(default = "leeway")]
    pub(crate) leeway: u64,
    /// Take the token from this cookie if there is no `authorization`.
    pub(crate) cookie: Option<String>,
    /// Claims, and the fields that they go on in.
    #[serde(default)]
    pub(crate) claims: BTreeMap<String, String>,
    /// The upstream sees the token.
    #[serde(default = "yes")]
    pub(crate) forward: bool,
    /// Requests without any token pass, too.
    #[serde(default)]
    pub(crate) optional: bool,
    /// Paths that need no token.
    #[serde(default)]
    pub(crate) public: Vec<String>,
    /// Browsers' questions whether a page of another origin may ask pass without a token, which
    /// they never have.
    #[serde(default)]
    pub(crate) bypass_cors_preflight: bool,
    #[serde(default = "realm")]
    pub(crate) realm: String,
    /// Verified tokens that are remembered.
    #[serde(default = "tokens")]
    pub(crate) cache: usize,
}

/// Where a set of keys is fetched.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JwksConfig {
    pub(crate) upstream: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    /// Whose keys they are.
    pub(crate) issuer: Option<String>,
    /// Seconds after which it is fetched again.
    #[serde(default = "refresh")]
    pub(crate) refresh: u64,
}

fn required() -> Vec<String> {
    vec!["exp".into()]
}
fn realm() -> String {
    "weir".into()
}
const fn leeway() -> u64 {
    30
}
const fn tokens() -> usize {
    4096
}
const fn refresh() -> u64 {
    600
}
const fn yes() -> bool {
    true
}

impl Config {
    /// Checks all but the keys themselves and the upstream's name.
    ///
    /// # Errors
    /// Names the key and says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.keys.is_empty() && self.jwks.is_none() {
            return Err("keys: without keys or jwks no token can be valid".into());
        }
        if self.keys.len() > KEYS_MAX {
            return Err(format!("keys: {} are too many, {KEYS_MAX} at most", self.keys.len()));
        }
        self.check_issuers()?;
        if let Some(jwks) = &self.jwks {
            jwks.check()?;
        }
        self.claims.values().try_for_each(|field| check_claim(field))?;
        if let Some(name) = self.cookie.as_ref().filter(|name| !is_token(name)) {
            return Err(format!("cookie: \"{name}\" is no cookie's name"));
        }
        for (n, path) in self.public.iter().enumerate() {
            // Every path begins with the empty text.
            check_path(path).map_err(|error| format!("public[{n}]: {error}"))?;
        }
        if self.realm.contains(['"', '\\'])
            || !self.realm.bytes().all(|c| (b' '..0x7f).contains(&c))
        {
            return Err(format!("realm: {:?} cannot be told to clients", self.realm));
        }
        if self.leeway > 3600 || self.cache > 1 << 20 {
            return Err("leeway is at most 3600 seconds, cache at most 1048576 tokens".into());
        }
        Ok(())
    }

    /// Keys belong to issuers that are accepted. Where there are several, keys of nobody sign for
    /// each of them: that is what one issuer with several names needs, and what lets each of
    /// several speak for the others.
    fn check_issuers(&self) -> Result<(), String> {
        let fetched = self.jwks.iter().map(|jwks| ("jwks".to_owned(), &jwks.issuer));
        let known =
            (0..).zip(&self.keys).map(|(n, key): (u32, _)| (format!("keys[{n}]"), &key.issuer));
        for (whose, issuer) in known.chain(fetched) {
            match issuer {
                Some(issuer) if !self.issuers.is_empty() && !self.issuers.contains(issuer) => {
                    return Err(format!("{whose}: issuer: \"{issuer}\" is none of `issuers`"));
                }
                None if self.issuers.len() > 1 => {
                    warn!(
                        "{whose} has no `issuer`: it signs for every one of `issuers` (RFC 8725, section 3.8)"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl JwksConfig {
    fn check(&self) -> Result<(), String> {
        check_authority(&self.authority).map_err(|error| format!("jwks.authority: {error}"))?;
        if !self.path.starts_with('/') || !self.path.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(format!(
                "jwks.path: \"{}\" is no path: it begins with `/` and has no space",
                self.path
            ));
        }
        if !(1..=86_400).contains(&self.refresh) {
            return Err(format!("jwks: refresh {} is not from 1 to 86400", self.refresh));
        }
        Ok(())
    }
}

/// Checks the name of a field that a claim goes on in.
fn check_claim(field: &str) -> Result<(), String> {
    if !is_field_name(field) || field == "host" {
        return Err(format!("claims: \"{field}\" is no name of a field; names are lower case"));
    }
    if NOT_FOR_CLAIMS.contains(&field) || is_hop_field(field) {
        return Err(format!("claims: `{field}` has a meaning of its own, and carries none"));
    }
    Ok(())
}
