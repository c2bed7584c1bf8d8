//! Between the heads that the gateway has and those laid out flat in the window (`wit/message.md`).
//!
//! Owns: what is laid out, and checking all of what a function left there. Must not know: which function that was.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use smallvec::SmallVec;
use weir_layout::message::{
    FLAG_MADE, FLAG_NO_BODY, FLAG_TLS, FLAG_UPGRADE, Head, Part, SPARE_BYTES, SPARE_FIELDS,
};

use weir_exchange::Origin;

/// The head does not fit a room, with what has to be spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head does not fit a room of the message pool")]
pub struct TooLarge;

/// What is wrong with a head that a function left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head is broken: {0}")]
pub struct Broken(String);

fn broken<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(what.into()))
}

/// Fields that are the gateway's own, and are neither shown to functions nor taken from them.
fn is_the_gateways(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | HOST | TE | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Lays out a request.
///
/// # Errors
/// When it does not fit.
pub fn lay_out_request(
    room: &mut [u8],
    parts: &http::request::Parts,
    origin: &Origin,
    body: Option<u64>,
) -> Result<(), TooLarge> {
    let mut head = start(room, &parts.headers, parts.version, origin, body)?;
    let (authority, path) = (authority(parts), path(&parts.uri));
    let put = |head: &mut Head<&mut [u8]>, part, string: &[u8]| head.set_part(part, string);
    put(&mut head, Part::Method, parts.method.as_str().as_bytes())
        .and_then(|()| put(&mut head, Part::Path, path))
        .and_then(|()| put(&mut head, Part::Authority, authority))
        .map_err(|_| TooLarge)?;
    fill(head, &parts.headers)
}

fn authority(parts: &http::request::Parts) -> &[u8] {
    match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(HOST).map_or(&[][..], HeaderValue::as_bytes),
    }
}

fn path(uri: &Uri) -> &[u8] {
    uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes()
}

/// Lays out a response; `made` if a function made it.
///
/// # Errors
/// When it does not fit.
pub fn lay_out_response(
    room: &mut [u8],
    parts: &http::response::Parts,
    origin: &Origin,
    body: Option<u64>,
    made: bool,
) -> Result<(), TooLarge> {
    let mut head = start(room, &parts.headers, parts.version, origin, body)?;
    head.set_status(parts.status.as_u16());
    if made {
        head.set_version(head.version(), head.flags() | FLAG_MADE);
    }
    fill(head, &parts.headers)
}

/// Lays out a connection.
///
/// # Errors
/// When it does not fit.
pub fn lay_out_connection(room: &mut [u8], origin: &Origin) -> Result<(), TooLarge> {
    let headers = HeaderMap::new();
    let mut head = start(room, &headers, Version::HTTP_09, origin, None)?;
    head.set_version(0, head.flags());
    fill(head, &headers)
}

fn start<'a>(
    room: &'a mut [u8],
    headers: &HeaderMap,
    version: Version,
    origin: &Origin,
    body: Option<u64>,
) -> Result<Head<&'a mut [u8]>, TooLarge> {
    let mut head = Head::lay_out(room, headers.len() + SPARE_FIELDS).ok_or(TooLarge)?;
    let version = match version {
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        _ => 11,
    };
    let flags =
        [(FLAG_TLS, origin.tls), (FLAG_UPGRADE, origin.upgrade), (FLAG_NO_BODY, body == Some(0))];
    head.set_version(version, flags.iter().filter(|(_, on)| *on).map(|(flag, _)| flag).sum());
    head.set_addresses(address(origin.client), address(origin.local));
    head.set_body_length(body);
    if let Some(name) = &origin.server_name {
        head.set_part(Part::ServerName, name.as_bytes()).map_err(|_| TooLarge)?;
    }
    Ok(head)
}

fn fill(mut head: Head<&mut [u8]>, headers: &HeaderMap) -> Result<(), TooLarge> {
    for (name, value) in headers {
        if !is_the_gateways(name) {
            head.add(name.as_str().as_bytes(), value.as_bytes()).map_err(|_| TooLarge)?;
        }
    }
    if head.spare() < SPARE_BYTES { Err(TooLarge) } else { Ok(()) }
}

fn address(address: SocketAddr) -> ([u8; 16], u16) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip.octets(), address.port())
}

/// Whether functions may have left this in a head's table; [`take_request`] and [`take_response`] look at the rest, and at
/// all of it once more. Costs a look at each byte, where taking it over makes a map of it.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(room: &[u8]) -> Result<(), Broken> {
    let used = used(room)?;
    let Some(head) = Head::new(used) else { return broken("the room is too small for one") };
    for entry in 0..head.entries() {
        let Some((name, value)) = head.entry(entry) else {
            return broken(format!("field {entry} does not lie within the room"));
        };
        // Without a way out in the middle: good ones are what counts.
        if !name.iter().fold(true, |good, byte| good & NAME[usize::from(*byte)]) {
            let name = String::from_utf8_lossy(name);
            return broken(format!(
                "field {entry} is named {name:?}: allowed are lower-case tokens"
            ));
        }
        let visible = |byte: u8| (byte >= 0x20) & (byte != 0x7f) | (byte == b'\t');
        if !value.iter().fold(true, |good, byte| good & visible(*byte)) {
            let name = String::from_utf8_lossy(name);
            return broken(format!("field {name} has a control character in its value"));
        }
    }
    Ok(())
}

/// Characters of a field's name: those of a token (RFC 9110 section 5.6.2) without upper case.
const NAME: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        allowed[byte] = c.is_ascii_lowercase()
            || c.is_ascii_digit()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    allowed
};

/// Takes a request over that a function changed. Nothing has changed on an error.
///
/// # Errors
/// When what lies there is no head of a request.
pub fn take_request(room: &[u8], parts: &mut http::request::Parts) -> Result<(), Broken> {
    if is_addressed_as(room, parts) {
        return take_fields(room, &mut parts.headers);
    }
    let (method, target, authority) = request_line(room)?;
    let headers = fields(room, &parts.headers)?;
    let before = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes);
    let moved = authority.as_ref().filter(|a| Some(a.as_str().as_bytes()) != before.or(host));
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(target);
    if let (Some(authority), Some(_)) = (moved, &uri.authority) {
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
    let (method, target, authority) = request_line(room)?;
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

/// A response as [`lay_out_response`] laid it out, for who trusts whoever did: all fields are taken.
///
/// # Errors
/// When what lies there is no head of a response.
pub fn read_response(room: &[u8]) -> Result<http::response::Parts, Broken> {
    let Some(head) = Head::new(room) else { return broken("there are too few bytes for one") };
    let (mut parts, ()) = http::Response::new(()).into_parts();
    let Ok(status) = StatusCode::from_u16(head.status()) else {
        return broken(format!("its status is {}", head.status()));
    };
    (parts.status, parts.version) = (status, version(room)?);
    parts.headers = fields(room, &HeaderMap::new())?;
    read_length(room, &mut parts.headers);
    Ok(parts)
}

/// A request as [`lay_out_request`] laid it out, for who trusts whoever did: its length is taken, too.
///
/// # Errors
/// When what lies there is no head of a request.
pub fn read_request(room: &[u8]) -> Result<http::request::Parts, Broken> {
    let mut parts = new_request(room)?;
    read_length(room, &mut parts.headers);
    Ok(parts)
}

/// The length that a head says, which a function must not change, for who holds its body to it: `content-length` if it is a number.
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
    let Some(head) = Head::new(room) else { return broken("there are too few bytes for one") };
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

/// How many of the bytes a head that was laid out there has.
#[must_use]
pub fn length(room: &mut [u8]) -> usize {
    let length = room.len().min(1 << 16);
    Head::new(room).map_or(0, |head| length - head.spare())
}

fn version(room: &[u8]) -> Result<Version, Broken> {
    match Head::new(room).map(|head| head.version()) {
        Some(10) => Ok(Version::HTTP_10),
        Some(20) => Ok(Version::HTTP_2),
        Some(_) => Ok(Version::HTTP_11),
        None => broken("there are too few bytes for one"),
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

fn request_line(room: &[u8]) -> Result<(Method, PathAndQuery, Option<Authority>), Broken> {
    let Some(head) = Head::new(room) else { return broken("the room is too small for one") };
    let part = |part, what: &str| match head.part(part) {
        Some(bytes) => Ok(bytes),
        None => broken(format!("its {what} does not lie within the room")),
    };
    let method = Method::from_bytes(part(Part::Method, "method")?);
    let method = method.map_err(|_| Broken("its method is no token".into()))?;
    let path = part(Part::Path, "path")?;
    let rooted = path.first() == Some(&b'/') || path == b"*" || path.is_empty();
    let target = PathAndQuery::try_from(path).ok().filter(|_| rooted);
    let target = target.ok_or_else(|| {
        Broken("its path does not begin with / or has characters that a path may not have".into())
    })?;
    let authority = part(Part::Authority, "authority")?;
    let authority = if authority.is_empty() {
        None
    } else {
        let parsed = Authority::try_from(authority);
        Some(parsed.map_err(|_| Broken("its authority is no host and port".into()))?)
    };
    Ok((method, target, authority))
}

/// Takes a response over that a function changed. Nothing has changed on an error.
///
/// # Errors
/// When what lies there is no head of a response.
pub fn take_response(room: &[u8], parts: &mut http::response::Parts) -> Result<(), Broken> {
    let code = check_status(room)?;
    take_fields(room, &mut parts.headers)?;
    parts.status = code;
    Ok(())
}

/// The status, if functions may have left it.
pub(crate) fn check_status(room: &[u8]) -> Result<StatusCode, Broken> {
    let Some(head) = Head::new(room) else { return broken("the room is too small for one") };
    let status = head.status();
    match StatusCode::from_u16(status) {
        Ok(code) if (200..600).contains(&status) => Ok(code),
        _ => broken(format!("its status is {status}, allowed are 200 to 599")),
    }
}

/// Whether functions may have left this as method, target and authority of a request that was laid out as `before`.
pub(crate) fn check_request_line(room: &[u8], before: &[u8]) -> Result<(), Broken> {
    if let (Some(head), Some(before)) = (Head::new(room), Head::new(before)) {
        let same = |part| head.part(part).is_some_and(|now| before.part(part) == Some(now));
        if [Part::Method, Part::Path, Part::Authority].into_iter().all(same) {
            return Ok(());
        }
    }
    request_line(room).map(drop)
}

/// What is used of a room with a head in it.
pub(crate) fn used(room: &[u8]) -> Result<&[u8], Broken> {
    match Head::new(room) {
        Some(head) => Ok(&room[..head.used()]),
        None => broken("the room is too small for one"),
    }
}

/// Takes over the fields that lie there. Most functions only add some: then those are added, and the others left as they are.
fn take_fields(room: &[u8], headers: &mut HeaderMap) -> Result<(), Broken> {
    let Some(head) = Head::new(used(room)?) else { return broken("the room is too small for one") };
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
    let mut added: SmallVec<[(HeaderName, HeaderValue); 4]> = SmallVec::new();
    let new = entries..head.entries();
    if new.is_empty() {
        return Ok(());
    }
    // What a function appends lies behind what there was: the values of all are parts of one copy.
    let from = new.clone().filter_map(|entry| head.value_at(entry)).min().unwrap_or_default();
    let copy = Bytes::copy_from_slice(used(room)?.get(from..).unwrap_or_default());
    for entry in new {
        let part = head.value_at(entry).unwrap_or_default().saturating_sub(from);
        let shared =
            |value: &[u8]| HeaderValue::from_maybe_shared(copy.slice(part..part + value.len()));
        added.extend(field(&head, entry, shared)?);
    }
    // And some to spare for the gateway's.
    headers.reserve(added.len() + 4);
    for (name, value) in added {
        headers.append(name, value);
    }
    Ok(())
}

thread_local! {
    /// Names that functions used of late: there are few, and they come again with every message.
    static NAMES: RefCell<[Option<HeaderName>; 64]> = const { RefCell::new([const { None }; 64]) };
}

/// A field's name, if it is a lower-case token.
fn named(name: &[u8]) -> Option<HeaderName> {
    let made = || {
        let lower = !name.iter().any(u8::is_ascii_uppercase);
        HeaderName::from_bytes(name).ok().filter(|_| lower)
    };
    // Long ones would take more memory than they save time.
    if name.len() > 64 {
        return made();
    }
    let mix = |hash: usize, byte: &u8| hash.wrapping_mul(31).wrapping_add(usize::from(*byte));
    let place = name.iter().fold(name.len(), mix) % 64;
    NAMES.with_borrow_mut(|names| {
        let known = &mut names[place];
        if known.as_ref().is_none_or(|known| known.as_str().as_bytes() != name) {
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
    let Some(name) = named(name) else {
        let name = String::from_utf8_lossy(name);
        return broken(format!("field {entry} is named {name:?}: allowed are lower-case tokens"));
    };
    let Ok(value) = value_of(value) else {
        return broken(format!("field {name} has a control character in its value"));
    };
    Ok((!is_the_gateways(&name) && name != CONTENT_LENGTH).then_some((name, value)))
}

/// The fields that lie there, with the gateway's own as they were before. Their values are parts of one copy.
fn fields(room: &[u8], before: &HeaderMap) -> Result<HeaderMap, Broken> {
    let copy = Bytes::copy_from_slice(used(room)?);
    let Some(head) = Head::new(&copy) else { return broken("the room is too small for one") };
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

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 4096;

    fn origin() -> Origin {
        Origin {
            client: ([192, 0, 2, 1], 1000).into(),
            local: ([192, 0, 2, 2], 80).into(),
            tls: false,
            server_name: Some("example.org".into()),
            upgrade: false,
        }
    }

    fn request(fields: &[(String, Vec<u8>)]) -> http::request::Parts {
        let mut request = Request::builder().method("PUT").uri("/a/b?c=%64").header("host", "h:81");
        for (name, value) in fields {
            request = request.header(name, value.as_slice());
        }
        request.header("te", "trailers").body(()).unwrap().into_parts().0
    }

    proptest! {
        #[test]
        fn a_request_comes_back_as_it_was_laid_out(
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", prop::collection::vec(0x21u8..0x7f, 0..30)), 0..20),
        ) {
            let before = request(&fields);
            let mut room = vec![0; ROOM];
            lay_out_request(&mut room, &before, &origin(), Some(7)).unwrap();
            let mut after = request(&fields);
            take_request(&room, &mut after).unwrap();
            prop_assert_eq!(&before.uri, &after.uri);
            prop_assert_eq!(&before.method, &after.method);
            let mut all: Vec<_> = before.headers.iter().collect();
            let mut back: Vec<_> = after.headers.iter().collect();
            all.sort_by_key(|(name, _)| name.as_str());
            back.sort_by_key(|(name, _)| name.as_str());
            prop_assert_eq!(all, back);
        }

        #[test]
        fn what_is_added_changed_or_deleted_is_so_afterwards(
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,4}", prop::collection::vec(0x21u8..0x7f, 0..9)), 0..12),
            edits in prop::collection::vec((0u8..3, "[a-z][a-z0-9-]{0,4}", "[a-z]{0,9}"), 0..6),
        ) {
            let before = request(&fields);
            let mut room = vec![0; ROOM];
            lay_out_request(&mut room, &before, &origin(), Some(7)).unwrap();
            let mut head = Head::new(&mut room[..]).unwrap();
            for (edit, name, value) in &edits {
                match edit {
                    0 => head.add(name.as_bytes(), value.as_bytes()).unwrap(),
                    1 => head.set(name, value.as_bytes()).unwrap(),
                    _ => { head.remove(name); }
                }
            }
            // As if all had been read anew.
            let anew = super::fields(&room, &before.headers).unwrap();
            let mut parts = request(&fields);
            take_request(&room, &mut parts).unwrap();
            prop_assert_eq!(&parts.headers, &anew);
        }

        #[test]
        fn whatever_lies_there_is_taken_whole_or_not_at_all(
            bytes in prop::collection::vec(any::<u8>(), 0..ROOM),
            places in prop::collection::vec((0usize..200, any::<u16>()), 0..20),
            laid in any::<bool>(),
        ) {
            let mut room = bytes;
            if laid {
                room.resize(ROOM, 0);
                lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
            }
            for (at, value) in places {
                if let Some(place) = room.get_mut(at..at + 2) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            let before = request(&[]);
            let mut parts = request(&[]);
            let fields_are_good = check(&room).is_ok();
            let (mut answer, ()) = Response::new(()).into_parts();
            // A status apart, both say the same of fields.
            if let Some(mut head) = Head::new(&mut room[..]) {
                let status = head.status();
                head.set_status(200);
                let taken = take_response(&room, &mut answer).is_ok();
                prop_assert_eq!(taken, fields_are_good);
                Head::new(&mut room[..]).unwrap().set_status(status);
            }
            if take_request(&room, &mut parts).is_err() {
                prop_assert_eq!((&parts.uri, &parts.headers), (&before.uri, &before.headers));
            }
            // The gateway's own are as they were.
            prop_assert_eq!(&parts.headers["te"], "trailers");
            let (mut parts, ()) = Response::new(()).into_parts();
            if take_response(&room, &mut parts).is_ok() {
                prop_assert!((200..600).contains(&parts.status.as_u16()));
            }
            let _ = new_request(&room);
        }
    }

    #[test]
    fn a_head_that_does_not_fit_is_refused() {
        let long = vec![("long".to_owned(), vec![b'x'; ROOM])];
        let mut room = vec![0; ROOM];
        assert_eq!(lay_out_request(&mut room, &request(&long), &origin(), None), Err(TooLarge));
    }

    #[test]
    fn lines_cannot_be_smuggled_into_fields_or_targets() {
        let mut room = vec![0; ROOM];
        for edit in [
            (|head| head.add(b"x", b"a\r\nset-cookie: b")) as fn(&mut Head<&mut [u8]>) -> _,
            |head| head.add(b"x: y\r\nz", b"a"),
            |head| head.add(b"Upper", b"a"),
            |head| head.set_part(Part::Path, b"/a HTTP/1.1\r\nx: y"),
            |head| head.set_part(Part::Path, b"http://elsewhere/"),
            |head| head.set_part(Part::Method, b"GET /"),
            |head| head.set_part(Part::Authority, b"a b"),
        ] {
            lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
            edit(&mut Head::new(&mut room[..]).unwrap()).unwrap();
            let line = Head::new(&room[..]).unwrap().entries() == 0;
            assert!(line || check(&room).is_err());
            let mut parts = request(&[]);
            assert!(take_request(&room, &mut parts).is_err());
            assert_eq!(parts.uri, "/a/b?c=%64");
        }
    }

    #[test]
    fn a_changed_authority_moves_host_with_it() {
        let mut room = vec![0; ROOM];
        lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
        Head::new(&mut room[..]).unwrap().set_part(Part::Authority, b"other:8080").unwrap();
        let mut parts = request(&[]);
        take_request(&room, &mut parts).unwrap();
        assert_eq!(parts.headers["host"], "other:8080");
    }
}
