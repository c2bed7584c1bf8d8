//! Tokens: JWS in its compact form (RFC 7515, section 7.1), and the claims in it (RFC 7519).
//!
//! Owns: taking a token apart and checking it. Must not know: where it came from, what becomes of
//! the request.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::keys::{Algorithm, Key};

/// Longest token, in bytes.
pub(crate) const TOKEN_MAX: usize = 16 * 1024;

/// Why a token is not valid. The texts are told to clients and say nothing of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    Malformed,
    Algorithm,
    /// There may be a newer set of keys that has it.
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Claim,
    Scope,
}

impl Invalid {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Malformed => "the token is malformed",
            Self::Algorithm => "the token's algorithm is not accepted",
            Self::UnknownKey => "the token's key is not known",
            Self::Signature => "the token's signature is wrong",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Claim => "the token is not for here",
            Self::Scope => "the token's scope is not enough",
        }
    }
}

/// What claims have to say.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    pub(crate) issuers: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) required: Vec<String>,
    pub(crate) scopes: Vec<String>,
    /// Seconds.
    pub(crate) leeway: u64,
}

/// A token's parts.
#[derive(Debug)]
struct Parts<'a> {
    signed: &'a [u8],
    algorithm: Algorithm,
    key_id: Option<String>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Takes a token apart. Nothing of it is trusted yet.
fn parts(token: &[u8]) -> Result<Parts<'_>, Invalid> {
    if token.len() > TOKEN_MAX {
        return Err(Invalid::Malformed);
    }
    let mut dots = token.iter().enumerate().filter(|(_, c)| **c == b'.').map(|(at, _)| at);
    let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
        return Err(Invalid::Malformed);
    };
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed);
    let header: Map<String, Value> =
        serde_json::from_slice(&decode(&token[..first])?).map_err(|_| Invalid::Malformed)?;
    // An extension that must be understood is not (RFC 7515, section 4.1.11).
    if header.contains_key("crit") {
        return Err(Invalid::Malformed);
    }
    let name = header.get("alg").and_then(Value::as_str).ok_or(Invalid::Malformed)?;
    Ok(Parts {
        signed: &token[..second],
        algorithm: Algorithm::named(name).ok_or(Invalid::Algorithm)?,
        key_id: header.get("kid").and_then(Value::as_str).map(String::from),
        payload: decode(&token[first + 1..second])?,
        signature: decode(&token[second + 1..])?,
    })
}

/// Checks a token's signature: its payload.
pub(crate) fn verified<'k>(
    token: &[u8],
    keys: impl Iterator<Item = &'k Key> + Clone,
) -> Result<Vec<u8>, Invalid> {
    let parts = parts(token)?;
    let has_issuers = keys.clone().any(|key| key.issuer.is_some());
    let issuer = if has_issuers { issuer(&parts.payload) } else { None };
    // What a token says of its issuer only chooses among keys, too: each signs for its own (RFC
    // 8725, section 3.8).
    let of_issuer = keys.filter(|key| key.issuer.is_none() || key.issuer == issuer);
    let of_algorithm = of_issuer.filter(|key| key.algorithm() == parts.algorithm);
    // A key with a name is only for tokens that name it, or none.
    let mut candidates = of_algorithm.filter(|key| match (&key.id, &parts.key_id) {
        (Some(have), Some(want)) => have == want,
        _ => true,
    });
    let Some(first) = candidates.next() else { return Err(Invalid::UnknownKey) };
    let verified = std::iter::once(first)
        .chain(candidates)
        .any(|key| key.verifies(parts.signed, &parts.signature));
    if verified { Ok(parts.payload) } else { Err(Invalid::Signature) }
}

/// Who made a token, as it says itself.
fn issuer(payload: &[u8]) -> Option<String> {
    let claims: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    claims.get("iss")?.as_str().map(String::from)
}

/// Claims that passed their checks, and the second from which on they no longer do.
pub(crate) fn claims(
    payload: &[u8],
    checks: &Checks,
    now: u64,
) -> Result<(Map<String, Value>, u64), Invalid> {
    let claims: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| Invalid::Malformed)?;
    let date = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_f64()
            .filter(|date| (0.0..9e15).contains(date))
            .map(Some)
            .ok_or(Invalid::Malformed),
    };
    let expires = date("exp")?.map_or(u64::MAX, |date| (date.ceil() as u64) + checks.leeway);
    if now >= expires {
        return Err(Invalid::Expired);
    }
    if date("nbf")?.is_some_and(|date| date.floor() as u64 > now + checks.leeway) {
        return Err(Invalid::NotYet);
    }
    if checks.required.iter().any(|name| claims.get(name).is_none_or(Value::is_null)) {
        return Err(Invalid::Claim);
    }
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if !checks.issuers.is_empty()
        && !text("iss").is_some_and(|issuer| checks.issuers.iter().any(|known| known == issuer))
    {
        return Err(Invalid::Claim);
    }
    if !checks.audiences.is_empty() {
        let is_ours =
            |audience: &Value| checks.audiences.iter().any(|ours| audience == ours.as_str());
        let ours = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if !ours {
            return Err(Invalid::Claim);
        }
    }
    // RFC 8693, section 4.2; some issuers write a list, or `scp`.
    let has_scope = |scope: &String| {
        ["scope", "scp"].iter().any(|name| match claims.get(*name) {
            Some(Value::String(all)) => all.split(' ').any(|one| one == scope),
            Some(Value::Array(all)) => all.iter().any(|one| one == scope.as_str()),
            _ => false,
        })
    };
    if !checks.scopes.iter().all(has_scope) {
        return Err(Invalid::Scope);
    }
    Ok((claims, expires))
}
