//! Chains of message functions, on one thread of a gateway or in a worker process.
//!
//! Owns: the message pool of a chain, laying heads out flat and reading them back, telling
//! functions what happens to an exchange, carrying out what they ask for, their faults, and
//! versions that come and go. Must not know: sockets, a protocol's parser, or which runtime drives
//! its futures; all of that is behind [`weir_exchange`].
//!
//! ```text
//!   gateway ── request parts ──> Exchange ── head in a room ──> function 0, 1, … n     one call into Wasm each
//!           <─ response parts ──         <── head in a room ── function n, … 1, 0
//! ```
//!
//! A function of the world `wasi:http/proxy` is no function of events: it is a
//! [`service`](weir_exchange::Service), which `weir-proxy-function` runs. Its place in the chain,
//! its versions and its faults are kept here, like those of all others.
//!
//! All that an event asks for (a route, an answer, a call) is noted by [`context`](self) while the
//! function runs, and carried out when it has returned: so nothing of the gateway runs inside of a
//! guest's call.

mod asks;
mod bodies;
mod chain;
mod change;
mod clock;
mod context;
mod counters;
mod exchange;
mod flow;
mod function;
pub mod head;
mod heads;
mod instance;
mod orders;
mod passage;
mod plan;
mod replay;
mod service;
mod shadow;
mod store;
mod tape;
mod telling;
mod words;

pub use chain::{Chain, ChainCounters, Notice};
pub use change::{Change, Ready};
pub use context::NOBODY;
pub use counters::FunctionCounters;
pub use exchange::{Exchange, ExchangePart};
pub use orders::{Orders, Remote, ThreadGone, orders};
pub use plan::{
    ChainPlan, FunctionPlan, MessageError, Proxy, Site, SiteConfig, StagedChain, StagedFunction,
};
pub use service::{pass_by, streamed};
pub use shadow::Findings;
pub use store::{Store, StoreRequest, Values, sum};
pub use weir_sandbox::{State, States};
