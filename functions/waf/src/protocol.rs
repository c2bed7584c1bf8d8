//! Requests that no honest client sends, whatever is in them.
//!
//! Owns: what is checked of the protocol. Must not know: texts and their rules. What makes a
//! message ambiguous is the gateway's to refuse.

use weir_sdk::message::Head;

/// Something is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) level: u8,
    pub(crate) score: u32,
}

const fn violation(id: u32, name: &'static str, level: u8, score: u32) -> Violation {
    Violation { id, name, level, score }
}

pub(crate) const METHOD: Violation = violation(1001, "method-not-allowed", 1, 5);
pub(crate) const NULL_BYTE: Violation = violation(1002, "null-byte", 1, 5);
pub(crate) const ENCODING: Violation = violation(1003, "broken-encoding", 2, 3);
pub(crate) const NO_HOST: Violation = violation(1004, "no-host", 1, 3);
pub(crate) const ADDRESS_AS_HOST: Violation = violation(1005, "address-as-host", 2, 3);
pub(crate) const NO_AGENT: Violation = violation(1006, "no-user-agent", 2, 2);
pub(crate) const BODY_OF_GET: Violation = violation(1007, "get-with-body", 2, 3);
pub(crate) const NO_TYPE: Violation = violation(1008, "body-without-type", 2, 2);
pub(crate) const MANY_RANGES: Violation = violation(1009, "many-ranges", 1, 5);
pub(crate) const MANY_ARGS: Violation = violation(1010, "too-many-arguments", 1, 5);
pub(crate) const DEEP_JSON: Violation = violation(1011, "json-too-deep", 1, 5);
pub(crate) const ENCODED_BODY: Violation = violation(1012, "compressed-body", 2, 5);
pub(crate) const TWO_TYPES: Violation = violation(1013, "two-content-types", 1, 5);
pub(crate) const UTF8: Violation = violation(1014, "no-utf-8", 3, 3);
pub(crate) const CONTROLS: Violation = violation(1015, "control-characters", 1, 5);

pub(crate) const ODD_TYPE: Violation = violation(1016, "ambiguous-content-type", 1, 5);
pub(crate) const ODD_FORM: Violation = violation(1017, "ambiguous-multipart", 1, 5);

/// All of them, for checking what is disabled.
pub(crate) const ALL: [Violation; 17] = [
    METHOD,
    NULL_BYTE,
    ENCODING,
    NO_HOST,
    ADDRESS_AS_HOST,
    NO_AGENT,
    BODY_OF_GET,
    NO_TYPE,
    MANY_RANGES,
    MANY_ARGS,
    DEEP_JSON,
    ENCODED_BODY,
    TWO_TYPES,
    UTF8,
    CONTROLS,
    ODD_TYPE,
    ODD_FORM,
];

/// Most ranges of a request.
const RANGES_MAX: usize = 6;

/// What is wrong with a request's head.
pub(crate) fn check(head: &Head<'_>, methods: &[String], mut wrong: impl FnMut(Violation)) {
    let method = head.method();
    if !methods.iter().any(|allowed| allowed.as_bytes() == method) {
        wrong(METHOD);
    }
    let host = head.authority();
    if host.is_empty() {
        wrong(NO_HOST);
    } else if host.iter().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b':')) || host[0] == b'['
    {
        wrong(ADDRESS_AS_HOST);
    }
    let (mut agent, mut kind, mut types) = (false, false, 0);
    for (name, value) in head.fields() {
        match name {
            b"user-agent" => agent = !value.is_empty(),
            b"content-type" => {
                kind = true;
                types += 1;
            }
            b"range" | b"request-range"
                if value.iter().filter(|c| **c == b',').count() >= RANGES_MAX =>
            {
                wrong(MANY_RANGES);
            }
            _ => {}
        }
    }
    if !agent {
        wrong(NO_AGENT);
    }
    if types > 1 {
        wrong(TWO_TYPES);
    }
    if !head.no_body() {
        if matches!(method, b"GET" | b"HEAD") {
            wrong(BODY_OF_GET);
        }
        if !kind {
            wrong(NO_TYPE);
        }
    }
    check_encoding(head.path(), &mut wrong);
}

/// What is wrong with a text that is percent-encoded.
pub(crate) fn check_encoding(text: &[u8], wrong: &mut impl FnMut(Violation)) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|c| *c == b'%') {
        rest = &rest[at + 1..];
        let digit = |at: usize| rest.get(at).and_then(|c| char::from(*c).to_digit(16));
        match (digit(0), digit(1)) {
            (Some(0), Some(0)) => wrong(NULL_BYTE),
            // Tab, line feed and carriage return come out of forms.
            (Some(0), Some(low)) if !matches!(low, 9 | 10 | 13) => wrong(CONTROLS),
            (Some(1), Some(_)) => wrong(CONTROLS),
            (Some(_), Some(_)) => {}
            _ => wrong(ENCODING),
        }
    }
}
