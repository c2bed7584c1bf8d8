//! What a proxy must do to a message's head: RFC 9110 section 7.6, RFC 9112 section 3, RFC 9113
//! section 8.
//!
//! Owns: fields of one hop, the authority, the target's form, `via`, `x-forwarded-*`, upgrades.
//! Must not know: connections, chains.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Method, Request, StatusCode, Version, request, response};
use http_body::Body;

use crate::config::ForwardedFields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Methods that go through, of those that there are for all; others do, too.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What a request asked of this hop.
#[derive(Default)]
pub(crate) struct Asked {
    /// The protocol it wants to change to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// It takes trailers.
    trailers: bool,
    /// It is to go no further than here, and be answered.
    pub(crate) last_hop: bool,
    /// It says itself what certificate its client showed.
    says_certificate: bool,
}

/// A request that is not forwarded.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) why: &'static str,
}

fn refused<T>(status: StatusCode, why: &'static str) -> Result<T, Refused> {
    Err(Refused { status, why })
}

/// Brings a request into the form that chains see: target in origin form, the authority in `host`,
/// no fields of the last hop.
///
/// # Errors
/// Why it cannot be forwarded, with the status that says so.
pub(crate) fn received(parts: &mut request::Parts) -> Result<Asked, Refused> {
    if parts.method == Method::CONNECT {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not for a gateway");
    }
    if parts.method == Method::TRACE {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "TRACE would show what others added");
    }
    let seen = Seen::of(&parts.headers);
    authority(parts, seen)?;
    origin_form(parts)?;
    if !is_framed(&parts.headers) {
        return refused(StatusCode::NOT_IMPLEMENTED, "an unknown transfer coding");
    }
    let mut asked = Asked { says_certificate: seen.certificate, ..Asked::default() };
    if seen.upgrade
        && parts.version == Version::HTTP_11
        && let Some(upgrade) = parts.headers.get(UPGRADE)
        && names(&parts.headers, "upgrade")
        && !parts.headers.get_all(UPGRADE).iter().any(names_h2c)
    {
        asked.upgrade = Some(upgrade.clone());
    }
    if seen.te {
        let te = parts.headers.get_all(TE);
        asked.trailers =
            te.iter().any(|te| tokens(te).any(|t| t.eq_ignore_ascii_case(b"trailers")));
    }
    if parts.method == Method::OPTIONS {
        asked.last_hop = !goes_on(&mut parts.headers);
    }
    if seen.expect {
        expectation(parts)?;
    }
    seen.strip(&mut parts.headers);
    if seen.cookies > 1 && parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    Ok(asked)
}

/// Takes away the one expectation that there is: that hyper says 100 (RFC 9110 section 10.1.1). An
/// HTTP/1.0 client has none.
fn expectation(parts: &mut request::Parts) -> Result<(), Refused> {
    let known = |value: &HeaderValue| {
        tokens(value).all(|expected| expected.eq_ignore_ascii_case(b"100-continue"))
    };
    if parts.version >= Version::HTTP_11 && !parts.headers.get_all(EXPECT).iter().all(known) {
        return refused(StatusCode::EXPECTATION_FAILED, "an expectation other than 100-continue");
    }
    parts.headers.remove(EXPECT);
    Ok(())
}

/// Whether HTTP/2 is among the protocols: it would go by the chain (RFC 9113 section 3.1).
fn names_h2c(upgrade: &HeaderValue) -> bool {
    tokens(upgrade).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Whether an OPTIONS may go further than here, of which it is one hop less then (RFC 9110 section
/// 7.6.2).
fn goes_on(headers: &mut HeaderMap) -> bool {
    let hops = headers.get(MAX_FORWARDS).and_then(|hops| hops.to_str().ok()?.parse::<u64>().ok());
    match hops {
        Some(0) => false,
        Some(hops) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(hops - 1));
            true
        }
        None => true,
    }
}

/// Whether a body is framed in a way that is not taken away with the fields of this hop:
/// `transfer-encoding` says nothing but `chunked`. Another coding would be dropped, and what it
/// coded go on (RFC 9112 section 7).
pub(crate) fn is_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Joins cookies, which an HTTP/2 client may send in several fields (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookies) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(COOKIE, cookies);
    }
}

/// Puts the one authority that counts into `host` (RFC 9112 section 3.2).
fn authority(parts: &mut request::Parts, seen: Seen) -> Result<(), Refused> {
    if let Some(authority) = parts.uri.authority() {
        if authority.as_str().contains('@') {
            return refused(StatusCode::BAD_REQUEST, "the target names a user");
        }
        if !is_authority(authority.as_str().as_bytes()) {
            return refused(StatusCode::BAD_REQUEST, "the authority is not one");
        }
        let differs = |host: &HeaderValue| {
            !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
        };
        // HTTP/1's target counts instead of the field (RFC 9112 section 3.2.2), which must be there
        // all the same; with HTTP/2 a client does not say both by accident (RFC 9113 section
        // 8.3.1).
        if parts.version <= Version::HTTP_11 {
            one_host(parts.version, seen)?;
        }
        if parts.version == Version::HTTP_2
            && seen.hosts > 0
            && parts.headers.get_all(HOST).iter().any(differs)
        {
            return refused(StatusCode::BAD_REQUEST, "host contradicts the authority");
        }
        let Ok(host) = HeaderValue::from_str(authority.as_str()) else {
            return refused(StatusCode::BAD_REQUEST, "the authority is not one");
        };
        parts.headers.insert(HOST, host);
        return Ok(());
    }
    one_host(parts.version, seen)
}

/// RFC 9112 section 3.2.
fn one_host(version: Version, seen: Seen) -> Result<(), Refused> {
    match seen.hosts {
        1 if !seen.bad_host => Ok(()),
        1 => refused(StatusCode::BAD_REQUEST, "host is not a host"),
        0 if version <= Version::HTTP_10 => Ok(()),
        0 => refused(StatusCode::BAD_REQUEST, "no host"),
        _ => refused(StatusCode::BAD_REQUEST, "several hosts"),
    }
}

/// Whether it is a host, with a port or without, for all that take it for one; a client may say
/// that there is none (RFC 9112 section 3.2).
fn is_authority(host: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b".:-_~[]!$&'()*+;=%".contains(b);
    host.is_empty() || (host.iter().all(allowed) && Authority::try_from(host).is_ok())
}

fn origin_form(parts: &mut request::Parts) -> Result<(), Refused> {
    let target = parts.uri.path_and_query();
    if parts.uri.scheme().is_none() && parts.uri.authority().is_none() {
        // In origin form, or `*`.
        return match target.map(PathAndQuery::as_str) {
            Some("*") if parts.method == Method::OPTIONS => Ok(()),
            Some(path) if path.starts_with('/') => Ok(()),
            _ => refused(StatusCode::BAD_REQUEST, "the target is no path"),
        };
    }
    let target = match target {
        None => PathAndQuery::from_static("/"),
        Some(target) if target.as_str().starts_with('/') => target.clone(),
        Some(target) if target.as_str() == "*" => match parts.method {
            Method::OPTIONS => target.clone(),
            _ => return refused(StatusCode::BAD_REQUEST, "the target is no path"),
        },
        Some(target) => match PathAndQuery::try_from(format!("/{}", target.as_str())) {
            Ok(target) => target,
            Err(_) => return refused(StatusCode::BAD_REQUEST, "the target is no path"),
        },
    };
    parts.uri = Uri::from(target);
    Ok(())
}

/// What stands between commas, without parameters. Whatever else is in the value, each counts.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let bare = |t: &u8| *t == b';';
    value
        .as_bytes()
        .split(|b| *b == b',')
        .map(move |t| t.split(bare).next().unwrap_or(t).trim_ascii())
}

/// Whether `connection` has this option.
fn names(headers: &HeaderMap, option: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case(option.as_bytes())))
}

/// Fields that are there and mean something to a proxy, found in one pass: most messages have few
/// of them.
#[derive(Clone, Copy, Default)]
struct Seen {
    connection: bool,
    /// `connection` names a field.
    names: bool,
    te: bool,
    upgrade: bool,
    expect: bool,
    /// Others of one hop.
    others: bool,
    /// What a client's certificate says, or seems to.
    certificate: bool,
    cookies: usize,
    /// Values of `content-length`.
    lengths: usize,
    hosts: u8,
    /// A host is none.
    bad_host: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            if name == HOST {
                seen.hosts = seen.hosts.saturating_add(1);
                seen.bad_host |= !is_authority(value.as_bytes());
            } else if name == CONNECTION {
                let usual: [&[u8]; 2] = [b"keep-alive", b"close"];
                seen.names |= !usual.iter().any(|u| u.eq_ignore_ascii_case(value.as_bytes()));
                seen.connection = true;
            } else if name == TE {
                seen.te = true;
            } else if name == UPGRADE {
                seen.upgrade = true;
            } else if name == COOKIE {
                seen.cookies += 1;
            } else if name == CONTENT_LENGTH {
                seen.lengths += value.as_bytes().split(|b| *b == b',').count();
            } else if name == EXPECT {
                seen.expect = true;
            } else if name == TRANSFER_ENCODING
                || [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS].contains(name)
            {
                seen.others = true;
            } else if is_read_as(name, &CLIENT_CERTIFICATE) {
                seen.certificate = true;
            }
        }
        seen
    }

    /// Takes away the fields of one hop: those that are always, and those that `connection` names.
    fn strip(self, headers: &mut HeaderMap) {
        if self.names {
            let named: smallvec::SmallVec<[HeaderName; 4]> = headers
                .get_all(CONNECTION)
                .iter()
                .flat_map(tokens)
                .filter_map(|token| HeaderName::from_bytes(token).ok())
                .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
        if self.connection {
            headers.remove(CONNECTION);
        }
        if self.te {
            headers.remove(TE);
        }
        if self.upgrade {
            headers.remove(UPGRADE);
        }
        if self.others {
            for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, HTTP2_SETTINGS] {
                headers.remove(name);
            }
        }
    }
}

/// Field values that are the same for all requests of a connection.
pub(crate) struct Forwarded {
    /// The client's address.
    pub(crate) client: HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: HeaderValue,
    pub(crate) certificate: Shown,
    /// `via` for HTTP/1.0, 1.1, 2.
    pub(crate) via: [HeaderValue; 3],
}

/// Where a client's certificate is shown.
pub(crate) enum Shown {
    /// Before this gateway, if at all: what the request says of it stays.
    Before,
    /// Here, and what it says.
    Here(Option<HeaderValue>),
}

impl Shown {
    /// Says in a request what certificate its client showed.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, asked: &Asked) {
        let Self::Here(certificate) = self else { return };
        if asked.says_certificate {
            take_away(headers, |name| is_read_as(name, &CLIENT_CERTIFICATE));
        }
        if let Some(certificate) = certificate {
            headers.insert(CLIENT_CERTIFICATE, certificate.clone());
        }
    }
}

/// Makes a request ready for an upstream. `version` is the one that the client spoke.
pub(crate) fn forward(
    parts: &mut request::Parts,
    version: Version,
    asked: &Asked,
    forwarded: &Forwarded,
    policy: ForwardedFields,
) {
    let headers = &mut parts.headers;
    headers.reserve(4);
    let via = match version {
        Version::HTTP_2 => 2,
        Version::HTTP_11 => 1,
        _ => 0,
    };
    headers.append(VIA, forwarded.via[via].clone());
    tell_client(headers, forwarded, policy);
    if asked.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = &asked.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.clone());
    }
}

/// Says for whom a request is forwarded, beside or instead of what the client said.
fn tell_client(headers: &mut HeaderMap, forwarded: &Forwarded, policy: ForwardedFields) {
    if policy != ForwardedFields::Keep {
        take_away(headers, is_like_ours);
    }
    let mut client = forwarded.client.clone();
    if policy != ForwardedFields::Replace && headers.contains_key(FORWARDED_FOR) {
        // One list: who looks at one line of several would miss the end of it, which alone is not
        // the client's word.
        let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let lines: Vec<&[u8]> =
            lines.filter(|l| !l.is_empty()).chain([client.as_bytes()]).collect();
        if let Ok(list) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
            client = list;
        }
    }
    headers.insert(FORWARDED_FOR, client);
    let kept =
        |headers: &HeaderMap, name| policy == ForwardedFields::Keep && headers.contains_key(name);
    if !kept(headers, FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, forwarded.scheme.clone());
    }
    if !kept(headers, FORWARDED_HOST) {
        match headers.get(HOST).cloned() {
            Some(host) => headers.insert(FORWARDED_HOST, host),
            None => headers.remove(FORWARDED_HOST),
        };
    }
}

/// Whether an upstream may take it for one of the fields that are set here: RFC 7239's, or another
/// name that CGI and its like write in the same way.
fn is_like_ours(name: &HeaderName) -> bool {
    let ours = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];
    name == FORWARDED
        || name.as_str().contains('_') && ours.iter().any(|ours| is_read_as(name, ours))
}

/// Whether this is a name, or one that CGI and its like write in the same way.
fn is_read_as(name: &HeaderName, ours: &HeaderName) -> bool {
    let (name, ours) = (name.as_str().bytes(), ours.as_str().bytes());
    name.len() == ours.len()
        && ours.zip(name).all(|(our, their)| our == their || our == b'-' && their == b'_')
}

/// Takes away the fields of names like these.
fn take_away(headers: &mut HeaderMap, of: impl Fn(&HeaderName) -> bool) {
    let names: smallvec::SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| of(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Puts a request into the form of the connection it goes by: for HTTP/1.1 the host is a field, and
/// `te` is this hop's; for HTTP/2 it is part of the target. A request that had the other form
/// before, for another upstream, stays the same.
pub(crate) fn address<B>(
    request: &mut Request<B>,
    http2: bool,
    tls: bool,
    default_host: &HeaderValue,
) {
    let authority = request.uri().authority().cloned();
    if http2 {
        let headers = request.headers_mut();
        headers.remove(CONNECTION);
        let host = headers.remove(HOST).filter(|host| !host.is_empty());
        let host = host.unwrap_or_else(|| default_host.clone());
        let target = request.uri().path_and_query().cloned();
        let uri = Uri::builder().scheme(if tls { "https" } else { "http" });
        let uri = match authority {
            Some(authority) => uri.authority(authority),
            None => uri.authority(host.as_bytes()),
        };
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if let Ok(uri) = uri.path_and_query(target).build() {
            *request.uri_mut() = uri;
        }
        return;
    }
    if let Some(authority) = authority {
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
    }
    let headers = request.headers_mut();
    if headers.contains_key(TE) && !names(headers, "te") {
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, default_host.clone());
    }
}

/// Says how a body is framed whose length is not known. hyper sends none with GET or HEAD unless
/// the head says that there is one; HTTP/2 frames all bodies by itself.
pub(crate) fn frame<B: Body>(request: &mut Request<B>, http2: bool) {
    let chunked =
        !http2 && !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    if chunked {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else {
        request.headers_mut().remove(TRANSFER_ENCODING);
    }
}

/// Takes away what trailers may not say to another hop (RFC 9110 section 6.5.1).
pub(crate) fn trailers(fields: &mut HeaderMap) {
    Seen::of(fields).strip(fields);
    fields.remove(CONTENT_LENGTH);
    fields.remove(HOST);
}

/// The same of a request's, which may not say either for whom it is sent, nor who sends it: who
/// reads them as if they were in the head, believes that.
pub(crate) fn request_trailers(fields: &mut HeaderMap) {
    trailers(fields);
    let of_head = [
        FORWARDED_FOR,
        FORWARDED_PROTO,
        FORWARDED_HOST,
        CLIENT_CERTIFICATE,
        FORWARDED,
        COOKIE,
        AUTHORIZATION,
    ];
    take_away(fields, |name| of_head.iter().any(|of_head| is_read_as(name, of_head)));
}

/// Brings a response into the form that chains see.
pub(crate) fn answered(parts: &mut response::Parts) {
    let mut seen = Seen::of(&parts.headers);
    // The body is read by its chunks then, and would be cut to the length (RFC 9112 section 6.3).
    if seen.others && seen.lengths > 0 && parts.headers.contains_key(TRANSFER_ENCODING) {
        parts.headers.remove(CONTENT_LENGTH);
        seen.lengths = 0;
    }
    // Of this hop, but the client has to learn what the upstream wants (RFC 9110 section 15.5.22).
    let wanted = (parts.status == StatusCode::UPGRADE_REQUIRED)
        .then(|| parts.headers.get(UPGRADE).cloned())
        .flatten();
    seen.strip(&mut parts.headers);
    if let Some(wanted) = wanted {
        parts.headers.insert(UPGRADE, wanted);
    }
    if seen.lengths > 1 {
        one_length(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
}

/// Makes what a response says of other protocols true for this hop: HTTP/2 does not change to one.
pub(crate) fn says_upgrade(parts: &mut response::Parts, version: Version) {
    if parts.status != StatusCode::UPGRADE_REQUIRED || !parts.headers.contains_key(UPGRADE) {
        return;
    }
    if version == Version::HTTP_2 {
        parts.headers.remove(UPGRADE);
    } else {
        parts.headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Leaves one length of those that are equal, or the response is not read with them (RFC 9110
/// section 8.6): clients of HTTP/2 take no more.
fn one_length(headers: &mut HeaderMap) {
    let first = headers.get(CONTENT_LENGTH).and_then(|value| tokens(value).next());
    if let Some(Ok(first)) = first.map(HeaderValue::from_bytes) {
        headers.insert(CONTENT_LENGTH, first);
    }
}

/// Whether the response of this request and status has no body, whatever its fields say (RFC 9112
/// section 6.3).
pub(crate) fn bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Whether a response is a stream whose head must not wait for its body.
pub(crate) fn streams(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"application/grpc") || kind.starts_with(b"text/event-stream")
    })
}

/// Whether a request may be sent again (RFC 9110 section 9.2.2).
pub(crate) fn idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Brings a function's own request into the form of an upstream's.
pub(crate) fn own(parts: &mut request::Parts) {
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    if let Some(target) = parts.uri.path_and_query().cloned() {
        parts.uri = Uri::from(target);
    }
    Seen::of(&parts.headers).strip(&mut parts.headers);
    parts.headers.remove(CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_says_its_length_twice_says_it_once_behind_the_gateway() {
        for lengths in [&["3"][..], &["3", "3"], &["3, 3"], &["3 ,3", "3"]] {
            let (mut parts, ()) = http::Response::new(()).into_parts();
            for length in lengths {
                parts.headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            answered(&mut parts);
            let said: Vec<_> = parts.headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(said, ["3"], "{lengths:?}");
        }
    }

    #[test]
    fn no_field_of_one_hop_goes_through() {
        for name in weir_layout::message::HOP_FIELDS {
            let request = Request::get("/").header(HOST, "a").header(name, "chunked");
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            received(&mut parts).unwrap();
            assert!(!parts.headers.contains_key(name), "{name}");
            let (mut parts, ()) =
                http::Response::builder().header(name, "a").body(()).unwrap().into_parts();
            answered(&mut parts);
            assert!(!parts.headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_request_stays_the_same_over_upstreams_of_both_versions() {
        let default = HeaderValue::from_static("127.0.0.1:1");
        let mut request = Request::get("/a?b").body(()).unwrap();
        request.headers_mut().insert(HOST, HeaderValue::from_static("example.org"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        for http2 in [false, true, true, false, false, true] {
            address(&mut request, http2, false, &default);
            if http2 {
                assert_eq!(request.uri(), "http://example.org/a?b");
                assert!(!request.headers().contains_key(HOST));
            } else {
                assert_eq!(request.uri(), "/a?b");
                assert_eq!(request.headers()[HOST], "example.org");
                assert_eq!(request.headers().get_all(CONNECTION).iter().count(), 1);
            }
        }
    }

    #[test]
    fn http2_names_a_target_and_an_authority_as_http1_does() {
        let refused = |method: Method, authority: &str, target: &str| {
            let uri = Uri::builder().scheme("https").authority(authority).path_and_query(target);
            let request = Request::builder().version(Version::HTTP_2).method(method);
            let request = request.uri(uri.build().unwrap()).body(()).unwrap();
            received(&mut request.into_parts().0).map(drop).map_err(|refused| refused.status).err()
        };
        let bad = Some(StatusCode::BAD_REQUEST);
        assert_eq!(refused(Method::GET, "a.example", "/"), None);
        assert_eq!(refused(Method::OPTIONS, "a.example", "*"), None);
        assert_eq!(refused(Method::GET, "a.example", "*"), bad);
        assert_eq!(refused(Method::GET, "a,b", "/"), bad);
    }
}
