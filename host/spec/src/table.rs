//! A table of any kind, kept as the text that it is handed on as: as values it takes twenty times as much memory.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

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
        let mut map = Map::deserialize(deserializer)?;
        map.values_mut().for_each(dates_to_text);
        Ok(Self::from(&map))
    }
}

/// Key by which the toml crate passes dates through models that do not know them.
const DATE: &str = "$__toml_private_datetime";

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
