//! A client's certificate, as upstreams and functions are told of it: Envoy's
//! `x-forwarded-client-cert`.

use std::fmt::Write as _;

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

/// Bytes of the field's value at most: names that do not fit are left out.
const MOST: usize = 4096;

/// `Hash=`, the certificate's SHA-256; `Subject=`, as RFC 4514 writes it; `URI=` and `DNS=` for
/// each name it has.
pub(crate) fn told(certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let mut told = format!("Hash={}", hex(&Sha256::digest(certificate)));
    let mut add = |key: &str, value: &str| {
        if told.len() + key.len() + value.len() + 2 <= MOST {
            let _ = write!(told, ";{key}={value}");
        }
    };
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    add("Subject", &format!("\"{}\"", subject(certificate.subject())));
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => add("URI", &value(uri)),
                GeneralName::DNSName(name) => add("DNS", &value(name)),
                _ => (),
            }
        }
    }
    HeaderValue::from_str(&told).ok()
}

/// A name, its last part first (RFC 4514 section 2.1).
pub(super) fn subject(name: &X509Name<'_>) -> String {
    let all: Vec<_> = name.iter_rdn().collect();
    let parts = all.into_iter().rev().map(|part| {
        let values = part.iter().map(|one| {
            let kind = oid2abbrev(one.attr_type(), oid_registry());
            let kind = kind.map_or_else(|_| one.attr_type().to_id_string(), ToOwned::to_owned);
            match one.as_str() {
                Ok(text) => format!("{kind}={}", escaped(text, ",+\"\\<>;")),
                Err(_) => format!("{kind}=#{}", hex(one.as_slice())),
            }
        });
        values.collect::<Vec<_>>().join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

/// A value of the field, in quotes if it would end before its time without.
fn value(text: &str) -> String {
    let bare = |c: char| c.is_ascii_graphic() && !",;=\"\\".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        return text.to_owned();
    }
    format!("\"{}\"", escaped(text, "\"\\"))
}

/// With a backslash before each of these, and bytes that are not for a field's value in hexadecimal
/// (RFC 4514 section 2.4).
fn escaped(text: &str, special: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (place, c) in text.char_indices() {
        match c {
            ' ' if place == 0 || place == last => escaped.push_str("\\20"),
            '#' if place == 0 => escaped.push_str("\\23"),
            ' ' => escaped.push(c),
            c if special.contains(c) => escaped.extend(['\\', c]),
            c if c.is_ascii_graphic() => escaped.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(escaped, "\\{byte:02x}");
                }
            }
        }
    }
    escaped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_can_be_taken_for_another_field() {
        assert_eq!(value("spiffe://example/a"), "spiffe://example/a");
        assert_eq!(value("a;Subject=\"CN=admin\""), r#""a;Subject=\"CN=admin\"""#);
        assert_eq!(value(""), "\"\"");
        assert_eq!(escaped("a,OU=admin\"\\", ",+\"\\<>;"), r#"a\,OU=admin\"\\"#);
        assert_eq!(escaped(" #ü\r\n ", ""), "\\20#\\c3\\bc\\0d\\0a\\20");
        assert_eq!(escaped("#", ""), "\\23");
    }
}
