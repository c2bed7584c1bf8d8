//! Names of functions, chains, ports and tenants.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::text::deserialize_text;

/// Characters of a name at most.
const LENGTH_MAX: usize = 63;

/// A name: 1 to 63 characters `a-z`, `0-9`, `-` and `_`, beginning with a letter or digit. Safe in
/// paths, URLs, metric labels and file names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
pub struct Name(String);

/// A text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name; allowed are 1 to {LENGTH_MAX} characters a-z, 0-9, `-` and `_`, beginning with a letter or digit"
)]
pub struct InvalidName(pub String);

impl Name {
    /// The tenant of what belongs to nobody in particular.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let begins = text.bytes().next().is_some_and(|b| b != b'-' && b != b'_');
        if begins && text.len() <= LENGTH_MAX && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidName(text.chars().take(LENGTH_MAX + 1).collect()))
        }
    }
}

deserialize_text!(Name, "a name");

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_is_safe_everywhere() {
        for good in ["a", "0", "http-lb", "my_fn", &"a".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "_a", "A", "a b", "a/b", "..", "a.b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
