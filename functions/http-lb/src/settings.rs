//! How an upstream is chosen of several: the top level's settings, and what routes have of their
//! own.
//!
//! Owns: reading and checking them, and what a route inherits. Must not know: upstreams.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use weir_sdk::config::is_token;
use weir_sdk::hash;
use weir_sdk::message::Head;

use crate::outlier;

/// How an upstream is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests for its weight.
    LeastRequests,
    /// By what `hash` says.
    Hash,
}

/// A cookie that brings a client back to its upstream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Sticky {
    pub(crate) cookie: String,
    /// Seconds; without it the cookie goes with the browser's session.
    pub(crate) max_age: Option<u64>,
    #[serde(default)]
    pub(crate) secure: bool,
}

/// A table of a route's own, or `false` for not even the top level's.
#[derive(Clone, Debug)]
pub(crate) enum Own<T> {
    Table(T),
    Off,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Own<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TableOrFalse<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableOrFalse<T> {
            type Value = Own<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or false for not even the top level's")
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Own<T>, E> {
                if on {
                    Err(E::invalid_type(serde::de::Unexpected::Bool(on), &self))
                } else {
                    Ok(Own::Off)
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Own<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Own::Table)
            }
        }
        from.deserialize_any(TableOrFalse(PhantomData))
    }
}

/// What a request's hash is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum HashOn {
    #[default]
    Client,
    Path,
    Field(String),
    Cookie(String),
}

impl HashOn {
    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "client" => Ok(Self::Client),
            None if text == "path" => Ok(Self::Path),
            Some(("field", name)) if is_token(name) => Ok(Self::Field(name.to_ascii_lowercase())),
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.into())),
            _ => Err(format!(
                "hash: \"{text}\" is none of \"client\", \"path\", \"field:NAME\", \"cookie:NAME\""
            )),
        }
    }

    /// A request without the field or cookie counts as its client.
    pub(crate) fn hash(&self, head: &Head<'_>) -> u64 {
        let value = match self {
            Self::Client => None,
            Self::Path => Some(head.path_and_query().0),
            Self::Field(name) => head.field(name),
            Self::Cookie(name) => head.cookie(name),
        };
        value.map_or_else(|| hash::bytes(&head.client_bytes(), 0), |v| hash::bytes(v, 0))
    }
}

/// How an upstream is chosen, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) hash: Option<HashOn>,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) outlier: Option<outlier::Config>,
}

impl Settings {
    /// What is left out is as in these.
    ///
    /// # Errors
    /// Names the key and says what is wrong.
    pub(crate) fn with(
        &self,
        policy: Option<Policy>,
        hash: Option<&str>,
        sticky: Option<Own<Sticky>>,
        outlier: Option<Own<outlier::Config>>,
    ) -> Result<Self, String> {
        let policy = policy.unwrap_or(self.policy);
        let hash = match (policy, hash) {
            (Policy::Hash, Some(text)) => Some(HashOn::read(text)?),
            (Policy::Hash, None) if self.hash.is_none() => {
                return Err(
                    "hash: policy \"hash\" needs to know what, for example \"client\"".into()
                );
            }
            (Policy::Hash, None) => self.hash.clone(),
            (_, Some(_)) => return Err("hash: only policy \"hash\" has it".into()),
            (_, None) => None,
        };
        let sticky = own(sticky, self.sticky.as_ref());
        if let Some(sticky) = &sticky
            && !is_token(&sticky.cookie)
        {
            return Err(format!("sticky.cookie: \"{}\" is no cookie's name", sticky.cookie));
        }
        let outlier = own(outlier, self.outlier.as_ref());
        if let Some(outlier) = &outlier {
            outlier.check()?;
        }
        Ok(Self { policy, hash, sticky, outlier })
    }
}

fn own<T: Clone>(own: Option<Own<T>>, inherited: Option<&T>) -> Option<T> {
    match own {
        None => inherited.cloned(),
        Some(Own::Off) => None,
        Some(Own::Table(table)) => Some(table),
    }
}
