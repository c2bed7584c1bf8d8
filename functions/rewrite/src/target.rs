//! What can be a request's target.
//!
//! Owns: asking for both what the gateway will ask, by the same parser: what it does not take of a
//! function is the function's fault, and neither a client nor a rule may bring that about. Must not
//! know: rules.

use http::uri::PathAndQuery;

/// Whether this is a path, or path and query.
pub(crate) fn is_target(text: &[u8]) -> bool {
    // A fragment would be cut off, with all that follows.
    let whole = |target: PathAndQuery| target.as_str().len() == text.len();
    PathAndQuery::try_from(text).is_ok_and(whole)
}
