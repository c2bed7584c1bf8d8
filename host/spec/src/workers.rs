//! How many workers share a chain's flows.

use std::fmt;
use std::num::NonZeroU16;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Workers of a host at most.
pub(crate) const WORKERS_MAX: u16 = 1024;
const EXPECTED: &str = "a number of workers from 1 to 1024, or \"all\"";

/// A number of workers, or all that the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerCount {
    /// So many.
    Number(NonZeroU16),
    /// One lane on each worker of the host.
    All,
}

impl Default for WorkerCount {
    fn default() -> Self {
        Self::Number(NonZeroU16::MIN)
    }
}

impl WorkerCount {
    /// How many those are in a host with so many workers.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Number(number) => usize::from(number.get()),
            Self::All => all,
        }
    }

    /// Whether it is one, as if nothing had been said.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
    pub(crate) fn is_one(&self) -> bool {
        *self == Self::default()
    }
}

impl Serialize for WorkerCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(number.get()),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for WorkerCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;

        impl Visitor<'_> for Count {
            type Value = WorkerCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WorkerCount, E> {
                u16::try_from(number)
                    .ok()
                    .filter(|number| *number <= WORKERS_MAX)
                    .and_then(NonZeroU16::new)
                    .map(WorkerCount::Number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<WorkerCount, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            /// JSON has one kind of numbers: 2.0 is 2.
            fn visit_f64<E: Error>(self, number: f64) -> Result<WorkerCount, E> {
                if number.fract() == 0.0 && (1.0..=f64::from(WORKERS_MAX)).contains(&number) {
                    self.visit_u64(number as u64)
                } else {
                    Err(E::invalid_value(Unexpected::Float(number), &self))
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WorkerCount, E> {
                match text {
                    "all" => Ok(WorkerCount::All),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Count)
    }
}
