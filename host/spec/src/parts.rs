//! What a text of JSON consists of, one level deep, without making values of it.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::invalid::Segment;

/// Shows the entries of an object, or the elements of an array, one after the other; of anything
/// else there are none.
pub(crate) fn parts<'t>(text: &'t str, each: impl FnMut(Segment, &'t RawValue)) {
    struct Parts<F>(F);

    impl<'t, F: FnMut(Segment, &'t RawValue)> Visitor<'t> for Parts<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or an array")
        }

        fn visit_map<A: MapAccess<'t>>(mut self, mut table: A) -> Result<(), A::Error> {
            while let Some((key, value)) = table.next_entry()? {
                (self.0)(Segment::Key(key), value);
            }
            Ok(())
        }

        fn visit_seq<A: SeqAccess<'t>>(mut self, mut array: A) -> Result<(), A::Error> {
            let mut index = 0;
            while let Some(value) = array.next_element()? {
                (self.0)(Segment::Index(index), value);
                index += 1;
            }
            Ok(())
        }
    }

    // Numbers and texts have no parts.
    drop(serde_json::Deserializer::from_str(text).deserialize_any(Parts(each)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_is_shown() {
        let shown = |text: &str| {
            let mut shown = Vec::new();
            parts(text, |at, value| shown.push(format!("{at:?} {}", value.get())));
            shown
        };
        let object = shown(r#"{"a": [1, 2], "b": {"c": null}}"#);
        assert_eq!(object, [r#"Key("a") [1, 2]"#, r#"Key("b") {"c": null}"#]);
        assert_eq!(shown("[1, {}]"), ["Index(0) 1", "Index(1) {}"]);
        assert!(shown("7").is_empty() && shown("\"a\"").is_empty());
    }
}
