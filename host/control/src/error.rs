//! Why the control plane did not do what it was asked to.

use std::collections::BTreeSet;

use weir_spec::{Invalid, Name, did_you_mean};

use crate::engine::EngineError;
use crate::store::StoreError;

/// See each variant. Nothing has changed when one of these is given back; where that could not be,
/// an event says so.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing, or it is another tenant's.
    #[error("there is no {what} {name}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It does not fit with what there is.
    #[error("{0}")]
    Conflict(String),
    /// What was given cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The same as another error, about a value of what was given.
    #[error("{invalid}")]
    At {
        /// What kind of error it is; what it says is said by `invalid`.
        error: Box<Self>,
        /// What is wrong, and where.
        invalid: Invalid,
    },
    /// An upload is refused.
    #[error("the upload is refused: {}", reasons.join("; "))]
    Upload {
        /// All that is wrong with it.
        reasons: Vec<String>,
    },
    /// The caller's token was taken away since it asked.
    #[error("the token was taken away meanwhile; nothing was changed")]
    TokenGone,
    /// The caller may not do that.
    #[error("{0}")]
    Forbidden(String),
    /// It is not what the caller believed it to be.
    #[error("{0}")]
    Precondition(String),
    /// The host ends its chains, and takes no changes any more.
    #[error("the host stops, and takes no changes any more: ask again when it has started")]
    Stopping,
    /// The data plane refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ControlError {
    /// What was given does not fit with what there is, for this reason.
    pub(crate) fn conflict_at(invalid: Invalid) -> Self {
        Self::At { error: Box::new(Self::Conflict(String::new())), invalid }
    }

    /// There is no such thing among these; what may be told of them is told.
    pub(crate) fn not_found<'n>(
        what: &'static str,
        name: &Name,
        there: impl IntoIterator<Item = &'n Name>,
    ) -> Self {
        let there: BTreeSet<&Name> = there.into_iter().collect();
        let names: Vec<&str> = there.iter().map(|name| name.as_str()).collect();
        let mut told = name.to_string();
        if !names.is_empty() {
            let meant = did_you_mean(name.as_str(), &names).map(|meant| meant + " ");
            let there = some(&there);
            told.push_str(&format!(" ({}there are {there})", meant.unwrap_or_default()));
        }
        Self::NotFound { what, name: told }
    }

    /// What is told of it where a tenant reads it, too. The log has the rest from here on.
    pub(crate) fn public(&self) -> String {
        match self {
            Self::Store(error) if let Some(public) = error.public() => {
                tracing::error!("{error}");
                public.to_owned()
            }
            _ => self.to_string(),
        }
    }

    /// Which value of what was given is wrong, if it is about one.
    #[must_use]
    pub fn invalid(&self) -> Option<&Invalid> {
        match self {
            Self::Invalid(invalid)
            | Self::At { invalid, .. }
            | Self::Engine(EngineError::At(invalid)) => Some(invalid),
            _ => None,
        }
    }
}

/// Names in a message: not more than can be read.
pub(crate) fn some(names: &BTreeSet<&Name>) -> String {
    /// Names that are told.
    const TOLD: usize = 20;
    let mut told: Vec<_> = names.iter().take(TOLD).map(|name| name.as_str()).collect();
    if names.len() > TOLD {
        told.push("...");
    }
    told.join(", ")
}
