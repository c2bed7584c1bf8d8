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
mod messages;
mod middleboxes;
mod ports;
mod proxies;
mod schema;
mod sriov;
mod steering;
mod tcp_policy;
mod uploads;
mod workers;
