//! The `weir` program from outside, as operators and scripts use it.

mod author;
mod bodies;
mod commands;
mod crash;
mod disk;
#[cfg(feature = "dpdk")]
mod dpdk;
mod functions;
mod guests;
mod host;
mod lifecycle;
mod lines;
mod logs;
mod messages;
mod middleboxes;
mod names;
mod ports;
mod proxies;
mod readmes;
mod reload;
mod reuse;
mod schema;
mod services;
mod shadows;
mod sriov;
mod steering;
mod taps;
mod tcp_policy;
mod traces;
mod uploads;
mod workers;
