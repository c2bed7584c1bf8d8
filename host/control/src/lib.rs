//! The control plane: what the host remembers, its HTTP API, and how new versions come in.
//!
//! Owns: the durable [`store`], the rules of rolling out versions, tenants and tokens, events,
//! metrics, the API with its OpenAPI document. Must not know: Wasm, pools, ports, workers. What it
//! needs of the data plane is the trait [`engine::Engine`].
//!
//! ```text
//!   api::serve -> api::handlers -> Control --- Store (redb, files)
//!   (axum)        (thin)             |    '--- Events -> SSE
//!                                    '-------- dyn Engine -> data plane
//! ```

pub mod api;
pub mod auth;
mod chains;
mod condition;
mod control;
pub mod engine;
mod error;
mod events;
mod functions;
mod metrics;
mod quota;
mod refusals;
mod rollout;
mod steering;
pub mod store;
mod tenants;
pub mod time;

pub use chains::{Applied, ChainView, RunningFunction};
pub use condition::Condition;
pub use control::{Control, HostState, Status};
pub use error::ControlError;
pub use events::{Event, EventKind, Events};
pub use functions::{Function, FunctionInChain, FunctionTrial, FunctionVersion, Pushed};
pub use rollout::SwapMode;
pub use steering::{CoveredRule, DroppingRule, Steered, SteeringEntry, SteeringStatus, in_force};
pub use tenants::{NewToken, Tenant, TokenView};
