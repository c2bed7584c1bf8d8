//! Laying heads out.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri, Version};
use weir_exchange::Origin;
use weir_layout::message::{
    FLAG_MADE, FLAG_NO_BODY, FLAG_TLS, FLAG_UPGRADE, Head, Part, SPARE_BYTES, SPARE_FIELDS,
};

use super::{TooLarge, is_the_gateways};

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

pub(super) fn authority(parts: &http::request::Parts) -> &[u8] {
    match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(HOST).map_or(&[][..], HeaderValue::as_bytes),
    }
}

pub(super) fn path(uri: &Uri) -> &[u8] {
    uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes()
}

/// Lays out a response; `made` if a function made it. What the gateway made says so itself.
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
    if made || parts.extensions.get::<weir_exchange::MadeByGateway>().is_some() {
        head.set_version(head.version(), head.flags() | FLAG_MADE);
    }
    if let Some(weir_exchange::SentBy(upstream)) = parts.extensions.get().filter(|_| !made) {
        head.set_upstream(u32::try_from(*upstream).ok());
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

/// How many of the bytes a head that was laid out there has.
#[must_use]
pub fn length(room: &mut [u8]) -> usize {
    let length = room.len().min(1 << 16);
    Head::new(room).map_or(0, |head| length - head.spare())
}
