//! Reading what files give as text: with our own words when it is something else.

use std::fmt;
use std::net::SocketAddr;

use semver::Version;
use serde::{Deserialize, Deserializer};

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

/// So many of something whose name is regular.
#[must_use]
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    if n == N::from(1) { format!("1 {what}") } else { format!("{n} {what}s") }
}

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

/// A whole number; as in JSON Schema, `5.0` is one too.
#[derive(Clone, Copy)]
pub(crate) struct Whole(pub(crate) u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;

        impl serde::de::Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number, not negative")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole, E> {
                let unexpected = serde::de::Unexpected::Signed(number);
                u64::try_from(number).map(Whole).map_err(|_| E::invalid_value(unexpected, &self))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
                if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
                    return Ok(Whole(number as u64));
                }
                Err(E::invalid_value(serde::de::Unexpected::Float(number), &self))
            }
        }

        from.deserialize_any(Number)
    }
}

/// A small whole number, if there is one.
pub(crate) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let Some(number) = Option::<Whole>::deserialize(from)? else { return Ok(None) };
    let small = T::try_from(number.0).map(Some);
    small.map_err(|_| serde::de::Error::custom(format!("{} is too large", number.0)))
}

/// A small whole number.
pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let number = Whole::deserialize(from)?.0;
    u32::try_from(number).map_err(|_| serde::de::Error::custom(format!("{number} is too large")))
}
