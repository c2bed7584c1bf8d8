//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::Invalid;

use crate::engine::EngineError;
use crate::error::ControlError;
use crate::store::StoreError;

/// What went wrong (RFC 9457). `code` tells programs which of the errors of a status it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the problem is what `status` says, `code` and `detail` say more.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// For programs: `not-found`, `conflict`, `invalid`, `refused`, `upload-refused`,
    /// `unauthorized`, `forbidden`, `precondition`, `method`, `media-type`, `too-large`,
    /// `too-many`, `syntax`, `timeout`, `exhausted`, `starting`, `stopping`, `store-full`,
    /// `internal`.
    pub code: String,
    /// For people: what was wrong, and what to do.
    pub detail: String,
    /// The key of the body that is wrong, such as `function[0].version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is allowed there, or what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// All that is wrong with an upload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What a tenant is told in place of `detail`, which says of the host what is none of its
    /// business.
    #[serde(skip)]
    pub(super) public: Option<&'static str>,
}

impl Problem {
    /// A problem without particulars.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            code: code.into(),
            detail: detail.into(),
            ..Self::default()
        }
    }

    /// The body does not say what it must.
    #[must_use]
    pub fn invalid(invalid: &Invalid) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "").at(invalid)
    }

    /// The same about this value of the body.
    fn at(self, invalid: &Invalid) -> Self {
        Self {
            key: (!invalid.path.is_empty()).then(|| invalid.key()),
            help: invalid.help.clone(),
            detail: invalid.to_string(),
            ..self
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let detail = error.to_string();
        let public = match &error {
            ControlError::Store(error) => error.public(),
            _ => None,
        };
        let (status, code) = match error {
            ControlError::Invalid(invalid) => return Self::invalid(&invalid),
            ControlError::At { error, invalid } => return Self::from(*error).at(&invalid),
            ControlError::Engine(EngineError::At(invalid)) => {
                return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "").at(&invalid);
            }
            ControlError::Upload { reasons } => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "upload-refused", detail);
                return Self { reasons, ..problem };
            }
            ControlError::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found"),
            ControlError::Conflict(_) | ControlError::Engine(EngineError::Conflict(_)) => {
                (StatusCode::CONFLICT, "conflict")
            }
            ControlError::TokenGone => (StatusCode::UNAUTHORIZED, "unauthorized"),
            ControlError::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            ControlError::Engine(
                EngineError::Refused(_)
                | EngineError::NoPort { .. }
                | EngineError::Configuration { .. },
            ) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            ControlError::Precondition(_) => (StatusCode::PRECONDITION_FAILED, "precondition"),
            ControlError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            ControlError::Engine(EngineError::Exhausted(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "exhausted")
            }
            ControlError::Store(StoreError::Full { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "store-full")
            }
            ControlError::Engine(EngineError::Internal(_) | EngineError::Lost(_))
            | ControlError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self { public, ..Self::new(status, code, detail) }
    }
}

impl From<ControlError> for Box<Problem> {
    fn from(error: ControlError) -> Self {
        Self::new(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        // For the log, and for who must not see all of it.
        response.extensions_mut().insert(self);
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"weir\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
