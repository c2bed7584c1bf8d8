//! Sizes (`"16MiB"`) and periods (`"1ms"`): a whole number and a unit, nothing else.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::text::deserialize_text;

/// A text is no size or period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a {what}; allowed is a whole number with one of the units {units}, such as {example:?}"
)]
pub struct InvalidQuantity {
    text: String,
    what: &'static str,
    units: &'static str,
    example: &'static str,
}

/// Reads `<digits><unit>`; spaces between the two are allowed.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let scale = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

/// Writes with the largest unit that loses nothing.
fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let best = units.iter().rev().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale));
    let (unit, scale) = best.unwrap_or(&units[0]);
    write!(f, "{}{unit}", value / scale)
}

macro_rules! quantity {
    ($name:ident, $what:literal, $units:ident, $listed:literal, $example:literal) => {
        impl FromStr for $name {
            type Err = InvalidQuantity;

            fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
                let invalid = || InvalidQuantity {
                    text: text.chars().take(64).collect(),
                    what: $what,
                    units: $listed,
                    example: $example,
                };
                read(text, &$units).map(Self).ok_or_else(invalid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(f, self.0, &$units)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// A number of bytes; in text `"64B"`, `"16KiB"`, `"4MiB"` or `"1GiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9]{1,9} ?(B|KiB|MiB|GiB)$"))]
pub struct Size(u64);

const BYTES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
deserialize_text!(Size, "a size such as \"16MiB\"");
quantity!(Size, "size", BYTES, "B, KiB, MiB, GiB", "16MiB");

impl Size {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 2^20 bytes.
    #[must_use]
    pub const fn mebibytes(n: u64) -> Self {
        Self(n << 20)
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A length of time with nanosecond resolution; in text `"100ns"`, `"50us"`, `"1ms"`, `"10s"`,
/// `"5m"` or `"1h"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9]{1,6} ?(ns|us|ms|s|m|h)$"))]
pub struct Period(u64);

const TIMES: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
deserialize_text!(Period, "a period such as \"1ms\"");
quantity!(Period, "period", TIMES, "ns, us, ms, s, m, h", "1ms");

impl Period {
    /// So many milliseconds.
    #[must_use]
    pub const fn milliseconds(n: u64) -> Self {
        Self(n * 1_000_000)
    }

    /// As a duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_periods_are_read() {
        assert_eq!("16MiB".parse::<Size>().unwrap().get(), 16 << 20);
        assert_eq!("16 MiB".parse::<Size>().unwrap().get(), 16 << 20);
        assert_eq!("0B".parse::<Size>().unwrap().get(), 0);
        assert_eq!("1ms".parse::<Period>().unwrap().get(), Duration::from_millis(1));
        assert_eq!("5m".parse::<Period>().unwrap().get(), Duration::from_secs(300));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for bad in ["", "16", "MiB", "16MB", "16mib", "-1B", "1.5MiB", "16MiB ", "99999999999GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "16MB".parse::<Size>().unwrap_err().to_string(),
            "\"16MB\" is not a size; allowed is a whole number with one of the units B, KiB, MiB, GiB, such as \"16MiB\""
        );
        assert_eq!(
            "1 day".parse::<Period>().unwrap_err().to_string(),
            "\"1 day\" is not a period; allowed is a whole number with one of the units ns, us, ms, s, m, h, such as \"1ms\""
        );
    }

    proptest! {
        #[test]
        fn text_and_back(value: u64) {
            prop_assert_eq!(Size(value).to_string().parse(), Ok(Size(value)));
            prop_assert_eq!(Period(value).to_string().parse(), Ok(Period(value)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Period>();
        }
    }
}
