//! Components of the world `wasi:http/proxy` as functions of a message chain.
//!
//! Owns: running them as `wasmtime serve` does, an instance for each exchange, or for several one
//! after the other, on threads of its own; what they get of WASI (clocks, random bytes, a log for
//! standard output, an environment out of their configuration; no files, no network); where their
//! own requests may go; their limits in memory, CPU time, time and number. Must not know: chains,
//! sockets, the gateway, fault policies.
//!
//! ```text
//!   a thread of the gateway                               runners: threads for guests
//!   serve(request) ── body, frame by frame ─────────────> incoming-handler.handle
//!      onward.send(request) <── a call, and its body ──── outgoing-handler.handle
//!                           ─── the response, its body ─>
//!   response <────────────────── head, frame by frame ─── response-outparam.set
//! ```
//!
//! Guests run on fibers and are looked at with every epoch: one that goes on running yields to
//! others on its thread, until its CPU time is up. A gateway's thread never runs one.

#![forbid(unsafe_code)]

mod body;
mod function;
mod guest;
mod meter;
mod output;
mod reuse;
mod run;
mod runners;
mod serve;

pub use function::{LinkedProxy, ProxyConfig, ProxyError, ProxyFunction};
pub use runners::Runners;
pub use serve::{GuestEnd, How, Serving, Unserved};
