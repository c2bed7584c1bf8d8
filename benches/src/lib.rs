//! Benchmarks: each one command (`scripts/bench NAME`), each beside what it is compared with.
//!
//! Owns: the driver that all of them share, which runs the same bursts through Wasm or through the same
//! functions compiled natively. Must not know: what a single benchmark is about.

pub mod driver;
pub mod suite;
pub mod wire;
