//! The process at the other side of a hop: how it is started, shut in, watched and started again.
//!
//! Owns: namespaces, what a worker inherits, what it gives up ([`Inherited::confine`]), when it is
//! started again. Must not know: what it computes.

mod child;
mod confine;
mod error;
mod inherited;
mod layers;
mod spawn;
mod supervise;

pub use confine::Limits;
pub use error::ProcessError;
pub use inherited::Inherited;
pub use layers::{Confined, Namespaces};
pub use spawn::{Plan, WorkerProcess};
pub use supervise::{Death, Restart, Supervisor, WorkerEvent};
