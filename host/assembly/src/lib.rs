//! Puts what operators wrote together with the planes.
//!
//! Owns: making a chain's functions ready from files ([`load_chain`]), lanes and steering tables
//! from specs, functions of both planes, and the two jobs that need no daemon: [`replay`] a capture
//! through a chain, and [`bench`](fn@bench) a chain between a generator and a sink. Must not know:
//! the API, the store, the command line.

mod bench;
mod check;
mod lane;
mod load;
mod plan;
mod replay;
mod steering;
mod ways;

pub use bench::{BenchOptions, bench};
pub use check::{check, check_in};
pub use lane::lane;
pub use load::{LoadError, Loaded, load_chain, manifest_of};
pub use plan::{AdmitError, function_plan, message_function_plan, plan, plan_of};
pub use replay::{ReplayOptions, ReplayOutcome, replay, report_of};
pub use steering::{CompiledSteering, compile_steering};
pub use ways::ways;
