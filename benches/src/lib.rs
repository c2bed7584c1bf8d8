//! Benchmarks: each one command (`scripts/bench NAME`), each beside what it is compared with.
//!
//! Owns: what they share. [`bodies`] are clients and servers that send and take bodies, [`driver`]
//! runs the same bursts through Wasm and through the same functions compiled natively, [`gateways`]
//! are programs between the two, [`lanes`] are lanes as the host runs them, [`paced`] are ports
//! that send at a rate and measure, [`host`] is a whole host, [`joined`] are two connections that
//! the kernel joins, [`process`] reads what the kernel says, [`requests`] are requests at a rate,
//! [`wire`] sends frames over an interface, [`wrk`] sends requests as fast as they are answered,
//! [`rules`] are steering rules. Must not know: what a single benchmark is about.

pub mod bodies;
pub mod driver;
pub mod gateways;
pub mod host;
pub mod joined;
pub mod lanes;
pub mod paced;
pub mod process;
pub mod requests;
pub mod rules;
pub mod suite;
pub mod wire;
pub mod wrk;
