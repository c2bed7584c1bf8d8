//! A table of any kind, kept as the text that it is handed on as. It is read and written without
//! its values: those take up to a hundred times as much memory, and whoever sends one would have
//! the host take it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::invalid::Segment;
use crate::parts::parts;

/// A JSON object.
#[derive(Clone)]
pub struct Table(Box<str>);

impl Table {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its keys and values, which take much more memory than the text.
    #[must_use]
    pub fn map(&self) -> Map<String, Value> {
        serde_json::from_str(&self.0).expect("the text of a table is one")
    }

    /// Its text, except where another table says otherwise.
    pub(crate) fn with(&self, own: &Self) -> String {
        // With whether it has been written.
        let mut others = BTreeMap::new();
        parts(own.as_str(), |key, value| {
            others.insert(key, (value, false));
        });
        let mut text = String::from("{");
        let mut write = |key: Segment, value: &RawValue| {
            let Segment::Key(key) = key else { return };
            text.push_str(if text.len() > 1 { "," } else { "" });
            text.push_str(&Value::from(key).to_string());
            text.push(':');
            text.push_str(value.get());
        };
        parts(self.as_str(), |key, value| match others.get_mut(&key) {
            Some((other, written)) => {
                *written = true;
                write(key, other);
            }
            None => write(key, value),
        });
        for (key, (value, _)) in others.into_iter().filter(|(_, (_, written))| !written) {
            write(key, value);
        }
        text.push('}');
        text
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

/// As JSON, the only format that its text is one of.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        text.serialize(serializer)
    }
}

/// Dates of TOML become texts. Of a key that is there twice, both stay.
impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Vec<u8>, A::Error> {
                let mut text = Vec::new();
                let first = table.next_key()?;
                entries(first, table, &mut text)?;
                Ok(text)
            }
        }

        let text = deserializer.deserialize_map(Entries)?;
        let text = String::from_utf8(text).map_err(D::Error::custom)?;
        Ok(Self(text.into()))
    }
}

/// Writes a value as JSON, while it is read.
struct Written<'t>(&'t mut Vec<u8>);

impl Written<'_> {
    fn put<E: Error>(self, value: impl Serialize) -> Result<(), E> {
        serde_json::to_writer(self.0, &value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Written<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Written<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.put(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.put(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.put(value)
    }

    /// Of `nan` and `inf` JSON would make `null`, which says nothing.
    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            let message = format_args!("{value} is no number; allowed: finite ones");
            return Err(E::custom(message));
        }
        self.put(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.put(text)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.put(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let begin = self.0.len();
        loop {
            let end = self.0.len();
            if end > begin {
                self.0.push(b',');
            }
            if array.next_element_seed(Written(self.0))?.is_none() {
                self.0.truncate(end);
                self.0.push(b']');
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<(), A::Error> {
        let first = table.next_key::<String>()?;
        if first.as_deref() != Some(DATE) {
            return entries(first, table, self.0);
        }
        table.next_value_seed(self)?;
        while table.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Writes a table whose first key has been read.
fn entries<'de, A: MapAccess<'de>>(
    first: Option<String>,
    mut table: A,
    text: &mut Vec<u8>,
) -> Result<(), A::Error> {
    text.push(b'{');
    let mut next = first;
    while let Some(key) = next {
        Written(text).put(key)?;
        text.push(b':');
        table.next_value_seed(Written(text))?;
        next = table.next_key()?;
        if next.is_some() {
            text.push(b',');
        }
    }
    text.push(b'}');
    Ok(())
}

/// Key by which the toml crate passes dates through models that do not know them.
const DATE: &str = "$__toml_private_datetime";
