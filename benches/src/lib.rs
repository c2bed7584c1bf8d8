//! Benchmarks: each one command (`scripts/bench NAME`), each beside what it is compared with.
//!
//! Owns: what they share. [`driver`] runs the same bursts through Wasm and through the same functions compiled natively,
//! [`lanes`] are lanes as the host runs them, [`paced`] are ports that send at a rate and measure, [`host`] is a whole host,
//! [`http`] are gateways under load, [`process`] reads what the kernel says, [`steady`] sends
//! requests at a rate, [`wire`] frames over an interface, [`rules`] are steering rules. Must not know:
//! what a single benchmark is about.

pub mod driver;
pub mod host;
pub mod http;
pub mod lanes;
pub mod paced;
pub mod process;
pub mod rules;
pub mod steady;
pub mod suite;
pub mod wire;
