//! Taking over what functions left.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use smallvec::SmallVec;
use weir_exchange::Origin;
use weir_layout::message::{FLAG_TLS, FLAG_UPGRADE, Head, Part};

use super::check::{check_status, head, used};
use super::known::Known;
use super::lay::{authority, path};
use super::{Broken, broken, is_the_gateways};

/// Takes a request over that a function changed. Nothing has changed on an error.
///
/// # Errors
/// When what lies there is no head of a request.
pub fn take_request(room: &[u8], parts: &mut http::request::Parts) -> Result<(), Broken> {
    if is_addressed_as(room, parts) {
        return take_fields(room, &mut parts.headers);
    }
    let (method, target) = request_line(room)?;
    // One that functions left alone is the client's own, whatever it is.
    let stays = head(room)?.part(Part::Authority) == Some(authority(parts));
    let moved = if stays { None } else { new_authority(room)? };
    let headers = fields(room, &parts.headers)?;
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(target);
    if let (Some(authority), Some(_)) = (&moved, &uri.authority) {
        uri.authority = Some(authority.clone());
    }
    // An origin-form target has neither; an authority alone is CONNECT's, which keeps its own.
    if uri.authority.is_some() && uri.scheme.is_none() {
        uri.scheme = Some(http::uri::Scheme::HTTP);
    }
    let uri = Uri::from_parts(uri).map_err(|error| Broken(format!("its target: {error}")))?;
    let host = match moved {
        Some(authority) if parts.headers.contains_key(HOST) => {
            let value = HeaderValue::from_str(authority.as_str());
            Some(value.map_err(|_| Broken("its authority is no host".into()))?)
        }
        _ => None,
    };
    (parts.method, parts.uri, parts.headers) = (method, uri, headers);
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    Ok(())
}

/// Whether method, target and authority are those that were laid out.
fn is_addressed_as(room: &[u8], parts: &http::request::Parts) -> bool {
    let Some(head) = Head::new(room) else { return false };
    let (method, path) = (parts.method.as_str().as_bytes(), path(&parts.uri));
    head.part(Part::Method) == Some(method)
        && head.part(Part::Path) == Some(path)
        && head.part(Part::Authority) == Some(authority(parts))
}

/// A request that a function made itself.
///
/// # Errors
/// When what lies there is no head of a request.
pub fn new_request(room: &[u8]) -> Result<http::request::Parts, Broken> {
    let (method, target) = request_line(room)?;
    let authority = new_authority(room)?;
    let headers = fields(room, &HeaderMap::new())?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.headers) = (method, headers);
    parts.uri = Uri::from(target);
    if let Some(authority) = authority {
        let value = HeaderValue::from_str(authority.as_str());
        parts.headers.insert(HOST, value.map_err(|_| Broken("its authority is no host".into()))?);
    }
    Ok(parts)
}

/// A response that a function made itself.
///
/// # Errors
/// When what lies there is no head of a response.
pub fn new_response(room: &[u8]) -> Result<http::response::Parts, Broken> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    take_response(room, &mut parts)?;
    Ok(parts)
}

/// A response as [`super::lay_out_response`] laid it out, for who trusts whoever did: all fields
/// are taken.
///
/// # Errors
/// When what lies there is no head of a response.
pub fn read_response(room: &[u8]) -> Result<http::response::Parts, Broken> {
    let head = head(room)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    let Ok(status) = StatusCode::from_u16(head.status()) else {
        return broken(format!("its status is {}", head.status()));
    };
    (parts.status, parts.version) = (status, version(&head));
    parts.headers = fields(room, &HeaderMap::new())?;
    read_length(room, &mut parts.headers);
    Ok(parts)
}

/// A request as [`super::lay_out_request`] laid it out, for who trusts whoever did: its length is
/// taken, too.
///
/// # Errors
/// When what lies there is no head of a request.
pub fn read_request(room: &[u8]) -> Result<http::request::Parts, Broken> {
    let mut parts = new_request(room)?;
    read_length(room, &mut parts.headers);
    Ok(parts)
}

/// The length that a head says, which a function must not change, for who holds its body to it:
/// `content-length` if it is a number.
#[must_use]
pub fn said_length(room: &[u8]) -> Option<u64> {
    let head = Head::new(room)?;
    let said = std::str::from_utf8(head.field(CONTENT_LENGTH.as_str())?).ok()?;
    said.bytes().all(|byte| byte.is_ascii_digit()).then(|| said.parse().ok()).flatten()
}

/// Where an exchange comes from, as its head says.
///
/// # Errors
/// When what lies there is no head.
pub fn read_origin(room: &[u8]) -> Result<Origin, Broken> {
    let head = head(room)?;
    let name = head.part(Part::ServerName).unwrap_or_default();
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
    let socket =
        |(ip, port): ([u8; 16], u16)| SocketAddr::new(IpAddr::from(ip).to_canonical(), port);
    Ok(Origin {
        client: socket(head.client()),
        local: socket(head.local()),
        tls: head.flags() & FLAG_TLS != 0,
        server_name: name.map(Into::into),
        upgrade: head.flags() & FLAG_UPGRADE != 0,
    })
}

fn version(head: &Head<&[u8]>) -> Version {
    match head.version() {
        10 => Version::HTTP_10,
        20 => Version::HTTP_2,
        _ => Version::HTTP_11,
    }
}

/// The length, which [`fields`] takes from nobody.
fn read_length(room: &[u8], headers: &mut HeaderMap) {
    let length = Head::new(room)
        .and_then(|head| HeaderValue::from_bytes(head.field(CONTENT_LENGTH.as_str())?).ok());
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// A part of a head.
fn part<'a>(head: &'a Head<&[u8]>, part: Part, what: &str) -> Result<&'a [u8], Broken> {
    match head.part(part) {
        Some(bytes) => Ok(bytes),
        None => broken(format!("its {what} does not lie within the room")),
    }
}

/// Method and target.
pub(super) fn request_line(room: &[u8]) -> Result<(Method, PathAndQuery), Broken> {
    let head = head(room)?;
    let method = Method::from_bytes(part(&head, Part::Method, "method")?);
    let method = method.map_err(|_| Broken("its method is no token".into()))?;
    let path = part(&head, Part::Path, "path")?;
    let rooted = path.first() == Some(&b'/') || path == b"*" || path.is_empty();
    let target = PathAndQuery::try_from(path).ok().filter(|_| rooted);
    let target = target.ok_or_else(|| {
        Broken("its path does not begin with / or has characters that a path may not have".into())
    })?;
    Ok((method, target))
}

/// The authority, if a function named one.
pub(super) fn new_authority(room: &[u8]) -> Result<Option<Authority>, Broken> {
    let head = head(room)?;
    let authority = part(&head, Part::Authority, "authority")?;
    if authority.is_empty() {
        return Ok(None);
    }
    let parsed = Authority::try_from(authority);
    parsed.map(Some).map_err(|_| Broken("its authority is no host and port".into()))
}

/// Takes a response over that a function changed. Nothing has changed on an error.
///
/// # Errors
/// When what lies there is no head of a response.
pub fn take_response(room: &[u8], parts: &mut http::response::Parts) -> Result<(), Broken> {
    let code = check_status(room, parts.status.as_u16())?;
    take_fields(room, &mut parts.headers)?;
    parts.status = code;
    Ok(())
}

/// Takes over the fields that lie there. Most functions only add some: then those are added, and
/// the others left as they are.
fn take_fields(room: &[u8], headers: &mut HeaderMap) -> Result<(), Broken> {
    let head = head(used(room)?)?;
    let shown = headers.iter().filter(|(name, _)| !is_the_gateways(name));
    let mut entries = 0;
    for (name, value) in shown {
        let same = (name.as_str().as_bytes(), value.as_bytes());
        if entries == head.entries() || head.entry(entries) != Some(same) {
            *headers = fields(room, headers)?;
            return Ok(());
        }
        entries += 1;
    }
    add_fields(&head, entries..head.entries(), headers)
}

/// Takes over fields that functions added, where all others are as they were.
fn add_fields(
    head: &Head<&[u8]>,
    new: Range<usize>,
    headers: &mut HeaderMap,
) -> Result<(), Broken> {
    if new.is_empty() {
        return Ok(());
    }
    // What a function appends lies behind what there was: the values of all are parts of one copy.
    let from = new.clone().filter_map(|entry| head.value_at(entry)).min().unwrap_or_default();
    let copy = Bytes::copy_from_slice(head.bytes().get(from..).unwrap_or_default());
    let mut added: SmallVec<[(HeaderName, HeaderValue); 4]> = SmallVec::new();
    for entry in new {
        let part = head.value_at(entry).unwrap_or_default().saturating_sub(from);
        let shared =
            |value: &[u8]| HeaderValue::from_maybe_shared(copy.slice(part..part + value.len()));
        added.extend(field(head, entry, shared)?);
    }
    // And some to spare for the gateway's.
    headers.reserve(added.len() + 4);
    for (name, value) in added {
        headers.append(name, value);
    }
    Ok(())
}

/// Takes a request over that functions changed. Nothing has changed on an error.
///
/// # Errors
/// When it is no head of a request.
pub(crate) fn take_known_request(
    known: &Known,
    parts: &mut http::request::Parts,
) -> Result<(), Broken> {
    match known.added() {
        Some(new) => add_fields(&head(known.bytes())?, new, &mut parts.headers),
        None => take_request(known.bytes(), parts),
    }
}

/// The same for a response.
///
/// # Errors
/// When it is no head of a response.
pub(crate) fn take_known_response(
    known: &Known,
    parts: &mut http::response::Parts,
) -> Result<(), Broken> {
    let Some(new) = known.added() else { return take_response(known.bytes(), parts) };
    let code = check_status(known.bytes(), parts.status.as_u16())?;
    add_fields(&head(known.bytes())?, new, &mut parts.headers)?;
    parts.status = code;
    Ok(())
}

/// A field's name, and whether it is not the functions' to set.
type Named = (HeaderName, bool);

thread_local! {
    /// Names that functions used of late: there are few, and they come again with every message.
    static NAMES: RefCell<[Option<Named>; 64]> = const { RefCell::new([const { None }; 64]) };
}

/// A field's name, if it is a lower-case token.
fn named(name: &[u8]) -> Option<Named> {
    let made = || {
        let lower = !name.iter().any(u8::is_ascii_uppercase);
        let made = HeaderName::from_bytes(name).ok().filter(|_| lower)?;
        let is_ours = is_the_gateways(&made) || made == CONTENT_LENGTH;
        Some((made, is_ours))
    };
    // Long ones would take more memory than they save time.
    if name.len() > 64 {
        return made();
    }
    let (first, last) = (*name.first()?, *name.last()?);
    let mixed = [name.len(), first.into(), name[name.len() / 2].into(), last.into()];
    let place = mixed.iter().fold(0, |mixed: usize, part| mixed * 7 + part) % 64;
    NAMES.with_borrow_mut(|names| {
        let known = &mut names[place];
        if known.as_ref().is_none_or(|(known, _)| known.as_str().as_bytes() != name) {
            *known = Some(made()?);
        }
        known.clone()
    })
}

/// A field that lies there, none if it is the gateway's own or deleted.
fn field<B: AsRef<[u8]>, E>(
    head: &Head<B>,
    entry: usize,
    value_of: impl FnOnce(&[u8]) -> Result<HeaderValue, E>,
) -> Result<Option<(HeaderName, HeaderValue)>, Broken> {
    let Some((name, value)) = head.entry(entry) else {
        return broken(format!("field {entry} does not lie within the room"));
    };
    if name.is_empty() {
        return Ok(None);
    }
    let Some((name, is_ours)) = named(name) else {
        let name = String::from_utf8_lossy(name);
        return broken(format!("field {entry} is named {name:?}: allowed are lower-case tokens"));
    };
    let Ok(value) = value_of(value) else {
        return broken(format!("field {name} has a control character in its value"));
    };
    Ok((!is_ours).then_some((name, value)))
}

/// The fields that lie there, with the gateway's own as they were before. Their values are parts of
/// one copy.
pub(super) fn fields(room: &[u8], before: &HeaderMap) -> Result<HeaderMap, Broken> {
    let copy = Bytes::copy_from_slice(used(room)?);
    let head = head(&copy)?;
    let mut headers = HeaderMap::with_capacity(head.entries() + 4);
    for entry in 0..head.entries() {
        let shared = |value: &[u8]| HeaderValue::from_maybe_shared(copy.slice_ref(value));
        if let Some((name, value)) = field(&head, entry, shared)? {
            headers.append(name, value);
        }
    }
    for (name, value) in before {
        if is_the_gateways(name) || name == CONTENT_LENGTH {
            headers.append(name, value.clone());
        }
    }
    Ok(headers)
}
