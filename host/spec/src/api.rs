//! `[api]` of `weir.toml`: how the host is reached, and by whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::{Name, Period, Size};

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Api {
    /// Unix socket, for the user that runs the host.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// TCP address, for holders of a token.
    #[serde(
        default,
        deserialize_with = "crate::text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub listen: Option<SocketAddr>,
    /// Tokens; more can be made with the API.
    #[serde(rename = "token", default)]
    pub tokens: Vec<Token>,
    /// Largest upload.
    #[serde(default = "default_upload")]
    pub max_upload: Size,
    /// Time for one request.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
    /// Time for one upload to compile.
    #[serde(default = "default_compile_timeout")]
    pub compile_timeout: Period,
}

fn default_socket() -> PathBuf {
    "/run/weir/api.sock".into()
}

const fn default_upload() -> Size {
    Size::mebibytes(64)
}

const fn default_timeout() -> Period {
    Period::milliseconds(120_000)
}

const fn default_compile_timeout() -> Period {
    Period::milliseconds(60_000)
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: default_socket(),
            listen: None,
            tokens: Vec::new(),
            max_upload: default_upload(),
            timeout: default_timeout(),
            compile_timeout: default_compile_timeout(),
        }
    }
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    /// Everything, for every tenant.
    Admin,
    /// Change what belongs to its tenant.
    Operator,
    /// See what belongs to its tenant, or everything if it has none.
    Viewer,
}

/// `[[api.token]]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    /// For logs.
    pub name: Name,
    /// The token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A file that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What its holder may do.
    pub role: Role,
    /// Whose things; none: everybody's. An operator has one, an admin none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
}

/// Where a token's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource<'a> {
    /// Here.
    Inline(&'a str),
    /// In this file.
    File(&'a std::path::Path),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Characters of one at least: 16 random ones cannot be guessed.
    pub const LEAST: usize = 16;

    /// Where its text is.
    #[must_use]
    pub fn source(&self) -> Option<TokenSource<'_>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => Some(TokenSource::Inline(text)),
            (None, Some(path)) => Some(TokenSource::File(path)),
            (None, None) => None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match (&self.token, &self.token_file) {
            (None, None) => {
                return Err(Invalid::whole("the token has no text")
                    .help("add `token-file = \"FILE\"` (better) or `token = \"TEXT\"`"));
            }
            (Some(_), Some(_)) => {
                return Err(Invalid::at("token", "`token` and `token-file` exclude each other")
                    .help("keep one of them"));
            }
            (Some(text), None) if text.chars().count() < Self::LEAST => {
                return Err(Invalid::at(
                    "token",
                    format!("the token has {} characters", text.chars().count()),
                )
                .help(format!("allowed: at least {}, better 32 random ones", Self::LEAST)));
            }
            _ => {}
        }
        match (self.role, &self.tenant) {
            (Role::Admin, Some(_)) => {
                Err(Invalid::at("tenant", "an admin's token is for every tenant")
                    .help("leave `tenant` out, or use `role = \"operator\"`"))
            }
            (Role::Operator, None) => {
                Err(Invalid::at("role", "the token has a role for one tenant, but no tenant")
                    .help("add `tenant = \"NAME\"`"))
            }
            _ => Ok(()),
        }
    }
}
