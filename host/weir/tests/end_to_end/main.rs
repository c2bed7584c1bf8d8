//! The `weir` program from outside, as operators and scripts use it.

mod commands;
#[cfg(feature = "dpdk")]
mod dpdk;
mod functions;
mod host;
mod lifecycle;
