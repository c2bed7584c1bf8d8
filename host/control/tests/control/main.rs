//! The control plane over a data plane that only notes what it is asked to do, one part of it to a
//! module.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod alerts;
mod api;
mod authorization;
mod common;
mod events;
mod ports;
mod rollout;
mod server;
mod steering;
mod store_full;
mod tenants_apart;
mod tokens_gone;
