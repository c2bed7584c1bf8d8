//! For those who write functions.
//!
//! Owns: the projects that `weir new` writes ([`project`]), what is source in them ([`sources`]),
//! and the tests of a function that `weir test` runs ([`suite`], [`tester`]): captures through the
//! packet plane's own engine, HTTP exchanges and connections through the gateway's. Must not know:
//! the command line, a running host, languages beyond their templates.

#![forbid(unsafe_code)]

mod captures;
mod connections;
mod dissect;
mod exchanges;
mod function;
mod in_short;
mod listener;
mod packets;
pub mod project;
mod recorder;
pub mod sources;
pub mod suite;
pub mod tester;
pub mod trace;
mod upstream;

pub use in_short::in_short;
