//! A table of any kind, kept as the text that it is handed on as: as values it takes twenty times as much memory.

use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number, Value};

/// A JSON object.
#[derive(Clone)]
pub struct Table(Box<str>);

impl Table {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its keys and values.
    #[must_use]
    pub fn map(&self) -> Map<String, Value> {
        serde_json::from_str(&self.0).expect("the text of a table is one")
    }

    pub(crate) fn is_empty(&self) -> bool {
        &*self.0 == "{}"
    }
}

impl From<&Map<String, Value>> for Table {
    fn from(map: &Map<String, Value>) -> Self {
        let text = serde_json::to_string(map);
        Self(text.expect("a table has text keys and plain values").into())
    }
}

impl Default for Table {
    fn default() -> Self {
        Self("{}".into())
    }
}

/// With the same keys and values, in whatever order.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.map() == other.map()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.map().serialize(serializer)
    }
}

/// Dates of TOML become texts.
impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
                entries(table)
            }
        }

        deserializer.deserialize_map(Entries).map(|map| Self::from(&map))
    }
}

/// A value that JSON has words for: of `nan` and `inf` it would make `null`, which says nothing.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| E::custom(format_args!("{value} is no number; allowed: finite ones")))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Plain(value)) = array.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Value, A::Error> {
        let mut map = entries(table)?;
        Ok(map.remove(DATE).unwrap_or(Value::Object(map)))
    }
}

fn entries<'de, A: MapAccess<'de>>(mut table: A) -> Result<Map<String, Value>, A::Error> {
    let mut map = Map::new();
    while let Some((key, Plain(value))) = table.next_entry()? {
        map.insert(key, value);
    }
    Ok(map)
}

/// Key by which the toml crate passes dates through models that do not know them.
const DATE: &str = "$__toml_private_datetime";
