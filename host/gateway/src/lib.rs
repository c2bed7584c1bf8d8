//! The gateway: one kernel TCP stack for all chains of the message plane.
//!
//! Owns: listeners and their threads, TLS and its certificates, the PROXY protocol, HTTP/1.1 and
//! HTTP/2 towards clients and upstreams, what a proxy must do to messages (RFC 9110 section 7.6,
//! RFC 9112), upstream connections, health, retries, timeouts, limits, draining, and what is
//! counted of all that. Parsing is hyper's. Must not know: Wasm, how a chain does its work,
//! configuration files.
//!
//! ```text
//!   accept -> [PROXY protocol] -> [TLS] -> HTTP/1.1 or HTTP/2 -> chain -> pool -> upstream        (thread 0)
//!   accept -> ...                                                                                (thread 1)
//! ```
//!
//! Folders are layers; a listener's `tcp` connections go from `listen` to `connection` at once:
//!
//! ```text
//!   gateway     the handle: listeners come, change and go          (config, error)
//!     listen      sockets and their threads, PROXY protocol        tls   certificates, both sides
//!       http        clients, rules, the way through a chain, bodies
//!         upstream    whose turn, health, connections
//!           connection  bytes: read, written, relayed
//!   observe     counters, request log, lines of the host's log; all layers use it
//! ```
//!
//! Each thread has sockets, chain, upstream connections of its own; nothing on a request's way is
//! shared between threads. See `docs/adr/0015-gateway.md`.

#![forbid(unsafe_code)]

mod config;
mod connection;
mod error;
mod gateway;
mod http;
mod listen;
mod observe;
mod tls;
mod upstream;

pub use weir_exchange as chain;

pub use config::{
    Certificate, ClientCertificates, ForwardedFields, GatewayConfig, HealthCheck, Identity, Limits,
    ListenerConfig, Prefix, Protocol, ProxyHeader, Retry, Target, Timeouts, UpstreamConfig,
    UpstreamTls,
};
pub use connection::splice::{
    Limits as RelayLimits, Method, RelayEnd, RelayedBytes, relay, relay_by,
};
pub use error::GatewayError;
pub use gateway::Gateway;
pub use observe::statistics::{
    CertificateStatus, Expiry, ExpiryOf, FAILURES, Failure, ListenerStatistics, Statistics,
    UpstreamStatistics,
};
pub use upstream::news::{News, UpstreamNews};
