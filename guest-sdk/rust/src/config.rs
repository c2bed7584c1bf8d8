//! What the configurations of several functions have in common.
//!
//! Owns: reading what more than one of them has. Must not know: what it is for.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

pub use weir_layout::message::{HOP_FIELDS, is_hop_field};

/// Methods that clients send (RFC 9110, section 9; RFC 5789). Their names are case-sensitive.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Reads a list of what something is for, where leaving it out is for all: `#[serde(default,
/// deserialize_with = "weir_sdk::config::not_empty")]`. So that what a template left empty does not
/// open a door.
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

/// An IP prefix such as `10.0.0.0/8` or `2001:db8::/32`: its address and length. An address alone
/// is one of all its bits.
///
/// # Errors
/// When it is none, or when bits are set behind its length.
pub fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        format!(
            "\"{text}\" is no prefix such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\""
        )
    };
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length: u8 = match length {
        None => bits,
        Some(length) => decimal(length).ok_or_else(wrong)?,
    };
    if length > bits {
        return Err(format!("\"{text}\" is no prefix: its length is 0 to {bits}"));
    }
    let free = u32::from(bits - length);
    let first = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(free).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(free).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    if first != address {
        return Err(format!("\"{text}\" has bits set behind its length: use \"{first}/{length}\""));
    }
    Ok((address, length))
}

/// Whether requests may be for this: a host, or host and port (RFC 9110, section 7.2), as the
/// gateway takes it of clients and of functions. A user's name before them is for no request
/// (section 4.2.4).
#[must_use]
pub fn is_authority(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    let ends = |close: usize| (&text[..close], &text[close..]);
    let (host, port) = match text.iter().position(|c| matches!(c, b':' | b'[')) {
        Some(0) if text[0] == b'[' => match text.iter().position(|c| *c == b']') {
            Some(close) => ends(close + 1),
            None => return false,
        },
        Some(colon) => ends(colon),
        None => (text, &text[text.len()..]),
    };
    let host = match host {
        [b'[', v6 @ .., b']'] => str::from_utf8(v6).is_ok_and(|v6| v6.parse::<Ipv6Addr>().is_ok()),
        name => !name.is_empty() && name.iter().all(|c| may_be_in_authority(c) && *c != b']'),
    };
    let port = match port {
        [] => true,
        [b':', digits @ ..] => {
            !digits.is_empty()
                && str::from_utf8(digits).is_ok_and(|text| decimal::<u16>(text).is_some())
        }
        _ => false,
    };
    host && port
}

/// Whether this byte is in some host or port. A comma is in none: lists of fields would become
/// others.
#[must_use]
pub fn may_be_in_authority(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b".:-_~[]!$&'()*+;=".contains(byte)
}

/// As [`is_authority`].
///
/// # Errors
/// When it is none.
pub fn check_authority(text: impl AsRef<[u8]>) -> Result<(), String> {
    let text = text.as_ref();
    if is_authority(text) {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no host, nor a host and port such as \"backend:8080\"",
        text.escape_ascii()
    ))
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

/// Whether this is a token (RFC 9110, section 5.6.2), as the names of fields, cookies and methods
/// are.
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
    fn an_address_alone_is_a_prefix_of_its_full_length() {
        for (text, address, length) in [
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("192.0.2.1", "192.0.2.1", 32),
            ("192.0.2.1/32", "192.0.2.1", 32),
            ("0.0.0.0/0", "0.0.0.0", 0),
            ("2001:db8::/32", "2001:db8::", 32),
            ("2001:db8::1", "2001:db8::1", 128),
            ("::/0", "::", 0),
        ] {
            assert_eq!(prefix(text), Ok((address.parse().unwrap(), length)));
        }
        for text in ["", "10/8", "a", "10.0.0.0/", "10.0.0.0/+8", "1.2.3.4/-1", "10.0.0.0/8/9"] {
            assert!(prefix(text).unwrap_err().contains("is no prefix such as"), "{text}");
        }
        for (text, part) in [
            ("10.0.0.0/33", "its length is 0 to 32"),
            ("::/129", "its length is 0 to 128"),
            ("10.0.0.1/8", "use \"10.0.0.0/8\""),
            ("10.0.0.1/0", "use \"0.0.0.0/0\""),
            ("2001:db8::1/64", "use \"2001:db8::/64\""),
        ] {
            let error = prefix(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for text in
            ["a", "auth.example.com:8443", "192.0.2.1", "192.0.2.1:0", "[::1]", "[2001:db8::1]:443"]
        {
            assert_eq!(check_authority(text), Ok(()), "{text}");
        }
        for text in [
            "", ":80", "a:", "a:b", "a:65536", "a:+1", "a:1:2", "::1", "[::1", "[::1]1", "[::1]:",
            "[]", "[a]", "a]", "a[", "u@a", "a/b", "a b", "a,b", "a%20b", "\u{e4}",
        ] {
            let error = check_authority(text).unwrap_err();
            assert!(error.contains("is no host, nor a host and port"), "{error}");
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
