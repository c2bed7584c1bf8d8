//! Why the control plane did not do what it was asked to.

use weir_spec::Invalid;

use crate::engine::EngineError;
use crate::store::StoreError;

/// See each variant. Nothing has changed when one of these is given back; where that could not be, an event says so.
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
    /// An upload is refused.
    #[error("the upload is refused: {}", reasons.join("; "))]
    Upload {
        /// All that is wrong with it.
        reasons: Vec<String>,
    },
    /// The caller may not do that.
    #[error("{0}")]
    Forbidden(String),
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
