//! Stretches of time as operators write them: `"10s"`, `"5m"`, `"1h"`, or a number of seconds.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub u32);

impl Period {
    pub(crate) fn nanos(self) -> u64 {
        u64::from(self.0) * 1_000_000_000
    }
}

struct Reader;

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

impl Visitor<'_> for Reader {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds, or one with its unit such as \"10s\", \"5m\", \"1h\"")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Period, E> {
        u32::try_from(seconds)
            .map(Period)
            .map_err(|_| E::custom(format!("{seconds} s is too long")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let number = digits.parse::<u32>().ok();
        let seconds = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        seconds.map(Period).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, StrDeserializer, U64Deserializer};

    use super::*;

    fn read(text: &str) -> Result<Period, Error> {
        Period::deserialize(StrDeserializer::new(text))
    }

    #[test]
    fn units_and_mistakes() {
        assert_eq!(read("10s"), Ok(Period(10)));
        assert_eq!(read("5m"), Ok(Period(300)));
        assert_eq!(read("2h"), Ok(Period(7200)));
        for wrong in ["", "s", "10", "10 s", "-1s", "10d", "99999999h", "1.5s"] {
            assert!(read(wrong).unwrap_err().to_string().contains("\"10s\""), "{wrong}");
        }
        let number = |n: u64| Period::deserialize(U64Deserializer::<Error>::new(n));
        assert_eq!(number(7), Ok(Period(7)));
        assert!(number(1 << 40).is_err());
    }
}
