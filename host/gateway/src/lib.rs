//! The gateway: one kernel TCP stack for all chains of the message plane.
//!
//! Owns: listeners and their threads, TLS and its certificates, the PROXY protocol, HTTP/1.1 and HTTP/2 towards clients and
//! upstreams, what a proxy must do to messages (RFC 9110 section 7.6, RFC 9112), upstream connections, health, retries, timeouts,
//! limits, draining, and what is counted of all that. Parsing is hyper's. Must not know: Wasm, how a chain does its work, configuration files.
//!
//! ```text
//!   accept -> [PROXY protocol] -> [TLS] -> HTTP/1.1 or HTTP/2 -> chain -> pool -> upstream        (thread 0)
//!   accept -> ...                                                                                (thread 1)
//! ```
//!
//! Each thread has sockets, chain, upstream connections of its own; nothing on a request's way is shared between threads.
//! See `docs/adr/0015-gateway.md`.

#![forbid(unsafe_code)]

mod accept;
mod balance;
mod bell;

mod client;
mod config;
mod copying;
mod counters;
mod dial;
mod environment;
mod error;
mod exchange;
mod fault;
mod filter;
mod finish;
mod flow;
mod forward;
mod gateway;
mod health;
mod journal;
mod journey;
mod keeper;
mod lines;
mod link;
mod listener;
mod members;
mod news;
mod outbox;
mod place;
mod pool;
mod proxy_protocol;
mod record;
mod relay;
mod repeat;
mod request_body;
mod response_body;
mod rests;
mod rules;
mod shared;
mod spare;
mod statistics;
mod stream;
mod stream_body;
mod tcp;
mod thread;
mod timer;
mod tls;
mod upgrade;
mod watched;

pub use weir_exchange as chain;

pub use config::{
    Certificate, ClientCertificates, ForwardedFields, GatewayConfig, HealthCheck, Identity, Limits,
    ListenerConfig, Prefix, Protocol, ProxyHeader, Retry, Target, Timeouts, UpstreamConfig,
    UpstreamTls,
};
pub use error::GatewayError;
pub use gateway::Gateway;
pub use news::{News, UpstreamNews};
pub use statistics::{
    CertificateStatus, FAILURES, Failure, ListenerStatistics, Statistics, UpstreamStatistics,
};
