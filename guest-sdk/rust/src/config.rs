//! What the configurations of several functions have in common.
//!
//! Owns: reading what more than one of them has. Must not know: what it is for.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

pub use weir_layout::message::{HOP_FIELDS, is_hop_field};

/// Methods that clients send (RFC 9110, section 9; RFC 5789). Their names are case-sensitive.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Reads a list of what something is for, where leaving it out is for all: `#[serde(default, deserialize_with =
/// "weir_sdk::config::not_empty")]`. So that what a template left empty does not open a door.
///
/// # Errors
/// When the list is empty.
pub fn not_empty<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let list = Vec::deserialize(from)?;
    if list.is_empty() { Err(de::Error::custom(EMPTY)) } else { Ok(list) }
}

/// What is wrong with an empty list, as [`not_empty`] says it.
pub const EMPTY: &str = "the list is empty, which is for none: leave it out for all";

/// A number in decimal digits and nothing else: no sign, which `str::parse` takes.
#[must_use]
pub fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|c| c.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A string, or a number as a string: for keys with values such as `"10Mbit"` and `443`.
///
/// # Errors
/// When it is neither; they begin with the key.
pub fn text(key: &str, value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("{key}: {other} is neither a string nor a number")),
    }
}

/// A MAC such as `aa:bb:cc:dd:ee:ff`.
#[must_use]
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        let hex = part.bytes().all(|c| c.is_ascii_hexdigit());
        *byte = hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Whether this is a token (RFC 9110, section 5.6.2), as the names of fields, cookies and methods are.
#[must_use]
pub fn is_token(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    let token = |c: &u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.iter().all(token)
}

/// Whether this is the name of a field as heads have it: a token without capitals.
#[must_use]
pub fn is_field_name(name: impl AsRef<[u8]>) -> bool {
    is_token(&name) && !name.as_ref().iter().any(u8::is_ascii_uppercase)
}

/// Checks a method that requests are compared with.
///
/// # Errors
/// When no request can have it, or when it is one that clients send, but in another case.
pub fn check_method(text: &str) -> Result<(), String> {
    if !is_token(text) {
        return Err(format!("\"{text}\" is no method such as \"POST\""));
    }
    match METHODS.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        Some(known) if *known != text => {
            Err(format!("\"{text}\" is no method that clients send: write \"{known}\""))
        }
        _ => Ok(()),
    }
}

/// Checks what requests' paths are compared with.
///
/// # Errors
/// When no path can be it, or begin with it.
pub fn check_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') || text.contains(['?', '#']) {
        return Err(format!("\"{text}\" is no path: it begins with `/` and has no query"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_macs_are_digits_only() {
        assert_eq!(decimal("08"), Some(8u8));
        for text in ["", "+8", "-1", " 8", "256"] {
            assert_eq!(decimal::<u8>(text), None, "{text}");
        }
        assert_eq!(mac("02:00:00:00:aB:09"), Some([2, 0, 0, 0, 0xab, 9]));
        for text in ["", "+2:00:00:00:00:09", "02:00:00:00:00", "02:00:00:00:00:09:00"] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_may_stand_for_a_text() {
        assert_eq!(text("a", None), Ok(None));
        assert_eq!(text("a", Some(&Value::from("1Mbit"))), Ok(Some("1Mbit".into())));
        assert_eq!(text("a", Some(&Value::from(443))), Ok(Some("443".into())));
        assert!(text("a", Some(&Value::from(true))).unwrap_err().starts_with("a: true is"));
    }

    #[test]
    fn methods_are_those_that_clients_send() {
        for text in ["POST", "PROPFIND", "purge"] {
            assert_eq!(check_method(text), Ok(()), "{text}");
        }
        assert!(check_method("post").unwrap_err().contains("write \"POST\""));
        assert!(check_method("").is_err() && check_method("GET /").is_err());
    }
}
