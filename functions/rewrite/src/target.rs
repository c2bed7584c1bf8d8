//! What can be a request's target and authority.
//!
//! Owns: asking for both what the gateway will ask, by the same parser: what it does not take of a function is the function's
//! fault, and neither a client nor a rule may bring that about. Must not know: rules.

use http::uri::{Authority, PathAndQuery};

/// Whether this is a path, or path and query.
pub(crate) fn is_target(text: &[u8]) -> bool {
    // A fragment would be cut off, with all that follows.
    let whole = |target: PathAndQuery| target.as_str().len() == text.len();
    PathAndQuery::try_from(text).is_ok_and(whole)
}

/// Whether this is a host, or host and port. A user's name before them is for no request (RFC 9110, section 4.2.4).
pub(crate) fn is_authority(text: &[u8]) -> bool {
    text.iter().all(may_be_in_authority) && Authority::try_from(text).is_ok()
}

/// Whether this byte is in some host or port.
pub(crate) fn may_be_in_authority(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b".:-_~[]!$&'()*+,;=".contains(byte)
}
