//! Lists of tables that end where there are too many: whoever sends millions of them would have the
//! host make them all before it counts.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// At most so many.
///
/// # Errors
/// With this text when there are more.
pub(crate) fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
    max: usize,
    too_many: fmt::Arguments<'_>,
) -> Result<Vec<T>, D::Error> {
    struct Items<'a, T>(usize, fmt::Arguments<'a>, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<'_, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                if all.len() == self.0 {
                    return Err(A::Error::custom(self.1));
                }
                all.push(item);
            }
            Ok(all)
        }
    }

    from.deserialize_seq(Items(max, too_many, PhantomData))
}

/// What is written as a table (of JSON: as an object). Serde takes a list of its values too, by
/// their places, which nobody means.
#[derive(Clone, Debug)]
pub struct Keyed<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Keyed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(table))
            }
        }

        from.deserialize_map(Entries(PhantomData)).map(Self)
    }
}
