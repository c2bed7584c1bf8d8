//! Reading what files give as text: with our own words when it is something else.

use std::net::SocketAddr;

use semver::Version;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Implements `Deserialize` by `FromStr`, saying what was expected instead of another type.
macro_rules! deserialize_text {
    ($name:ident, $expected:literal) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}
pub(crate) use deserialize_text;

/// A version by semver.org.
pub(crate) fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Version>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    Version::parse(&text).map(Some).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is not a version: {error}; allowed is MAJOR.MINOR.PATCH, such as \"1.2.0\""
        ))
    })
}

/// An address with a port, if there is one.
pub(crate) fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not an address; allowed is IP:PORT, such as \"127.0.0.1:7300\" or \"[::1]:7300\""
        ))
    })
}

/// Key by which the toml crate passes dates through models that do not know them.
const DATE: &str = "$__toml_private_datetime";

/// A table of any kind. Dates of TOML become texts.
pub(crate) fn table<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    let mut table = Map::deserialize(from)?;
    table.values_mut().for_each(dates_to_text);
    Ok(table)
}

/// Several of them.
pub(crate) fn tables<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<Map<String, Value>>, D::Error> {
    let mut tables = Vec::<Map<_, _>>::deserialize(from)?;
    tables.iter_mut().flat_map(Map::values_mut).for_each(dates_to_text);
    Ok(tables)
}

fn dates_to_text(value: &mut Value) {
    match value {
        Value::Object(table) => match table.remove(DATE) {
            Some(date) => *value = date,
            None => table.values_mut().for_each(dates_to_text),
        },
        Value::Array(values) => values.iter_mut().for_each(dates_to_text),
        _ => {}
    }
}
