//! Reading requests: every way in which one can be malformed ends as a [`Problem`].

use axum::body::{Body, HttpBody as _};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use weir_spec::{Check, Document, DocumentError, Invalid, Segment, explain};

use super::problem::Problem;

/// Bytes of a JSON body: a chain with its configuration of tens of thousands of rules.
const JSON_MAX: usize = 16 << 20;

/// Bytes of a TOML body: while it is read it takes forty times as much memory.
pub const TOML_MAX: usize = 1 << 20;

/// A JSON body of at most so many bytes.
pub(super) struct Json<T, const MAX: usize = JSON_MAX>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync, const MAX: usize> FromRequest<S> for Json<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_type(&parts.headers, &["application/json"])?;
        let bytes = read(body, MAX).await?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            // Where it is wrong is looked for only then: that takes twice the time.
            Err(_) => with_place(&bytes).map(Self),
        }
    }
}

/// A body that is what a file says: TOML as the file has it, or JSON of at most so many bytes.
pub(super) struct FileBody<T, const MAX: usize>(pub(super) T);

impl<T: DeserializeOwned + Check, S: Send + Sync, const MAX: usize> FromRequest<S>
    for FileBody<T, MAX>
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        require_type(request.headers(), &["application/json", "application/toml"])?;
        if require_type(request.headers(), &["application/toml"]).is_err() {
            return Json::<T, MAX>::from_request(request, state)
                .await
                .map(|Json(value)| Self(value));
        }
        let bytes = read(request.into_body(), TOML_MAX).await?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let detail = format!("the body is not UTF-8: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
        })?;
        let document = Document::parse("the body", text).map_err(|error| toml_problem(&error))?;
        Ok(Self(document.value))
    }
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

/// Reads a body of at most so many bytes.
///
/// # Errors
/// When it is larger, or the connection breaks.
pub(super) async fn read(body: Body, max: usize) -> Result<axum::body::Bytes, Problem> {
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
