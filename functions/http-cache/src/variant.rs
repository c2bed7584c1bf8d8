//! What responses are stored under.
//!
//! Owns: keys, and variants by `vary` (RFC 9111, section 4.1). Must not know: where they are
//! stored.

use weir_sdk::message::Head;

use crate::store::{Field, Stored};

/// Most fields that a response may vary by.
const VARY_MAX: usize = 16;

/// Scheme, authority in lower case, and target.
pub(crate) fn write_key(key: &mut Vec<u8>, head: &Head<'_>) {
    key.clear();
    key.push(if head.tls() { b's' } else { b'h' });
    key.extend_from_slice(head.authority());
    key.make_ascii_lowercase();
    if !head.path().starts_with(b"/") {
        key.push(b'/');
    }
    key.extend_from_slice(head.path());
}

/// Whether a stored response is for requests with these fields.
pub(crate) fn is_variant(stored: &Stored, head: &Head<'_>) -> bool {
    stored.vary.iter().all(|(name, value)| {
        let mut all = head.all(name);
        match (value, all.next(), all.next()) {
            (None, None, _) => true,
            (Some(value), Some(one), None) => value == one.trim_ascii(),
            (Some(value), Some(_), Some(_)) => {
                let joined: Vec<&[u8]> = head.all(name).map(<[u8]>::trim_ascii).collect();
                *value == joined.join(&b", "[..])
            }
            _ => false,
        }
    })
}

/// The fields that a response varies by, and what they are in the request; none if it varies by
/// more than that.
pub(crate) fn vary(request: &[Field], head: &Head<'_>) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let mut all: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for value in head.all("vary") {
        for name in value.split(|c| *c == b',').map(<[u8]>::trim_ascii) {
            let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
            if name == "*" || all.len() >= VARY_MAX {
                return None;
            }
            if name.is_empty() || all.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let values: Vec<&[u8]> = request
                .iter()
                .filter(|(other, _)| other == name.as_bytes())
                .map(|(_, value)| value.trim_ascii())
                .collect();
            let value = (!values.is_empty()).then(|| values.join(&b", "[..]));
            all.push((name, value));
        }
    }
    all.sort();
    Some(all)
}
