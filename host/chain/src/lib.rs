//! Chains: functions in a row, run as one.
//!
//! Owns: composing functions and a chain runner into one component ([`LinkedChain`]), running the
//! same chain one function at a time ([`Separate`], for comparison, and for one function apart from
//! its chain), applying verdicts, and telling how each packet's way ended ([`board`]). Must not
//! know: ports, buffers' owners, what happens to a packet after its verdict, or who deploys chains.
//!
//! ```text
//!   fill(burst) -> board + window -> run: f0 -> f1 -> ... -> ends(board)
//!                                         |     |
//!                       verdicts applied and descriptors checked in between
//! ```

pub mod board;
mod bursting;
mod compose;
mod control;
mod executor;
mod linked;
mod runner;
mod separate;

pub use executor::{
    ChainError, ChainSpec, Executor, FunctionSpec, Mode, Part, Prepared, Tick, compile_upload,
};
pub use linked::LinkedChain;
pub use separate::Separate;
