//! Reading requests: every way in which one can be malformed ends as a [`Problem`].

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use weir_spec::{Check, Document, DocumentError, Invalid, Keyed, Segment, explain};

use super::problem::Problem;
use crate::condition::Condition;

/// Bytes of a JSON body, but for what is said otherwise.
const SMALL: usize = 64 << 10;

/// Bytes of a chain as JSON: with its configuration of tens of thousands of rules.
pub const CHAIN_MAX: usize = 16 << 20;

/// Bytes of a TOML body: while it is read it takes forty times as much memory.
pub const TOML_MAX: usize = 1 << 20;

/// A small JSON body. Large ones are [`File`]s.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_type(&parts.headers, &[JSON])?;
        json(&read(body, SMALL).await?).map(Self)
    }
}

const JSON: &str = "application/json";
const TOML: &str = "application/toml";

/// A large body. What it says is found out on a thread that may block; whoever sends it has a place
/// by then.
pub(super) struct File {
    toml: bool,
    bytes: Bytes,
}

impl File {
    /// Reads JSON of at most so many bytes.
    ///
    /// # Errors
    /// When it has another type, is larger, or the connection breaks.
    pub(super) async fn json(headers: &HeaderMap, body: Body, max: usize) -> Result<Self, Problem> {
        require_type(headers, &[JSON])?;
        Ok(Self { toml: false, bytes: read(body, max).await? })
    }

    /// Reads TOML as files have it, or JSON of at most so many bytes.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(super) async fn any(headers: &HeaderMap, body: Body, max: usize) -> Result<Self, Problem> {
        require_type(headers, &[JSON, TOML])?;
        let toml = require_type(headers, &[TOML]).is_ok();
        Ok(Self { toml, bytes: read(body, if toml { TOML_MAX } else { max }).await? })
    }

    /// What it says.
    ///
    /// # Errors
    /// When that is wrong.
    pub(super) fn parse<T: DeserializeOwned + Check>(self) -> Result<T, Box<Problem>> {
        if !self.toml {
            return Ok(json(&self.bytes)?);
        }
        let text = std::str::from_utf8(&self.bytes).map_err(|error| {
            let detail = format!("the body is not UTF-8: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
        })?;
        let document = Document::parse("the body", text).map_err(|error| toml_problem(&error))?;
        Ok(document.value)
    }
}

#[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Where it is wrong is looked for only then: that takes twice the time.
    let value = serde_json::from_slice::<Keyed<T>>(bytes).or_else(|_| with_place(bytes));
    value.map(|Keyed(value)| value)
}

fn toml_problem(error: &DocumentError) -> Problem {
    let (message, help) = (error.message.clone(), error.help.clone());
    if let Some(path) = Invalid::path_of(&error.key) {
        return Problem::invalid(&Invalid { path, message, help });
    }
    let detail = format!("line {}, column {}: {message}", error.line, error.column);
    Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
}

/// Reads JSON; the error says at which key it is wrong.
#[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
fn with_place<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| json_problem(&error))?;
    deserializer.end().map_err(|error| syntax(&error))?;
    Ok(value)
}

fn syntax(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "syntax", format!("the body is not JSON: {error}"))
}

fn json_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    use serde_path_to_error::Segment as Theirs;
    if !error.inner().is_data() {
        return syntax(error.inner());
    }
    let path = error.path().iter().filter_map(|segment| match segment {
        Theirs::Seq { index } => Some(Segment::Index(*index)),
        Theirs::Map { key } => Some(Segment::Key(key.clone())),
        Theirs::Enum { variant } => Some(Segment::Key(variant.clone())),
        Theirs::Unknown => None,
    });
    let text = error.inner().to_string();
    // The place in the text: the path says it better.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let (message, help) = explain(text);
    Problem::invalid(&Invalid { path: path.collect(), message, help })
}

/// # Errors
/// When the body is said to be something else.
#[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
pub(super) fn require_type(headers: &HeaderMap, allowed: &[&str]) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.and_then(|value| value.split(';').next()).map(str::trim);
    if essence.is_some_and(|found| allowed.iter().any(|a| a.eq_ignore_ascii_case(found))) {
        return Ok(());
    }
    let given = given.unwrap_or("not given");
    let detail = format!("the body's type is {given}; allowed: {}", allowed.join(", "));
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail))
}

/// What has to be there for a change, as the headers say it.
///
/// # Errors
/// When they cannot be read.
#[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let wrong = |header: &str, allowed: &str| {
        let detail = format!("the header {header} is wrong: allowed is {allowed}");
        Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
    };
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let strong = strong_tags(value.as_bytes());
        let allowed = "`*`, or what the header ETag of an answer had";
        tags.extend(strong.ok_or_else(|| wrong("If-Match", allowed))?);
    }
    let is_new = headers.contains_key(header::IF_NONE_MATCH);
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|value| value != "*") {
        return Err(wrong("If-None-Match", "`*`"));
    }
    let matches = headers.contains_key(header::IF_MATCH).then_some(tags);
    Ok(Condition { matches, is_new })
}

/// Those of a list of tags (RFC 9110 section 8.8.3), in their quotes, that can match: a weak one
/// (`W/"..."`) never does (section 13.1.1). None: it is no list of tags.
fn strong_tags(list: &[u8]) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return Some(vec!["*".to_owned()]);
    }
    loop {
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = inner.iter().position(|byte| *byte == b'"')?;
        if !inner[..end].iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) {
            return None;
        }
        let (tag, behind) = quoted.split_at(end + 2);
        if !weak {
            tags.push(String::from_utf8_lossy(tag).into_owned());
        }
        let behind = behind.trim_ascii_start();
        if behind.is_empty() {
            return Some(tags);
        }
        rest = behind.strip_prefix(b",")?.trim_ascii_start();
    }
}

/// The headers that [`condition`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "says in the OpenAPI document what `condition` reads")]
pub(super) struct Conditions {
    /// It is done only if what is there has this `ETag`.
    #[param(rename = "if-match", nullable = false, pattern = r#"^(\*|"[0-9a-f]{32}")$"#)]
    if_match: Option<String>,
    /// `*`: it is done only if nothing is there.
    #[param(rename = "if-none-match", nullable = false, pattern = r"^\*$")]
    if_none_match: Option<String>,
}

/// Names what an answer is about for `If-Match`.
pub(super) fn etag(tag: Option<&str>) -> HeaderMap {
    let value = tag.and_then(|tag| HeaderValue::try_from(format!("\"{tag}\"")).ok());
    value.map(|value| (header::ETAG, value)).into_iter().collect()
}

/// Reads a body of at most so many bytes.
///
/// # Errors
/// When it is larger, or the connection breaks.
pub(super) async fn read(body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is too large: allowed are {max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    };
    // Who says at once how much it is need not send it.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Err(error) => {
            let detail = format!("the body could not be read: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "syntax", detail))
        }
    }
}

/// Parts of the path.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            // Nothing can have such a name.
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let detail = match error.kind() {
                    ErrorKind::DeserializeError { key, message, .. } => {
                        format!("there can be no such {key}: {message}")
                    }
                    other => format!("there can be no such path: {other}"),
                };
                Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail))
            }
            Err(error) => Err(Problem::new(error.status(), "internal", error.body_text())),
        }
    }
}

/// The query.
pub(super) struct InQuery<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|error| {
            let text = error.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let detail = format!("the query is wrong: {text}");
            Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
        })
    }
}
