//! What a gateway is told: listeners, their upstreams, periods and limits. Plain data; who reads
//! files fills it in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::ChainFactory;
use crate::upstream::news::News;

/// A gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Threads, each with sockets and connections of its own; at least 1.
    pub threads: usize,
    /// What the field `via` calls this gateway: a token (RFC 9110 section 7.6.3).
    pub via: String,
    /// Bytes of responses that HTTP/2 clients leave untaken, on each thread; above it those are
    /// given up that have waited longest.
    pub response_buffers: usize,
    /// Who is told which upstreams are down.
    pub news: News,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            via: "weir".to_owned(),
            response_buffers: 128 << 20,
            news: News::default(),
        }
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2, by ALPN or by how the client begins.
    Http,
    /// Bytes.
    Tcp,
}

/// A listener.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Its name; listeners of one gateway have different ones.
    pub name: String,
    /// Where it listens. Port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// The interface that connections have to come from; none: any.
    pub device: Option<String>,
    /// It takes connections to foreign addresses, too, that the kernel is told to deliver here.
    /// Needs CAP_NET_ADMIN.
    pub transparent: bool,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Makes the chain of each thread; without one all goes straight to the upstreams.
    pub chain: Option<Arc<dyn ChainFactory>>,
    /// Where requests and connections go.
    pub upstreams: Vec<UpstreamConfig>,
    /// How often names of upstreams are looked up.
    pub resolve: Duration,
    /// TLS is spoken if there are any. The first one is for clients that name no server or an
    /// unknown one.
    pub certificates: Vec<Certificate>,
    /// Clients are asked for certificates.
    pub client_certificates: Option<ClientCertificates>,
    /// Every connection begins with a PROXY protocol header, version 1 or 2; others are closed.
    pub proxy_protocol: bool,
    /// Only connections from these addresses do, and others have no header and speak for
    /// themselves; none: all connections do.
    pub proxy_protocol_from: Option<Vec<Prefix>>,
    /// Begin upstream connections with such a header. HTTP connections are then not used for a
    /// second request.
    pub upstream_proxy_protocol: Option<ProxyHeader>,
    /// What becomes of a client's word of where a request comes from.
    pub forwarded: ForwardedFields,
    /// Periods.
    pub timeouts: Timeouts,
    /// Limits.
    pub limits: Limits,
    /// When a request is tried again.
    pub retry: Retry,
    /// How upstreams are looked at.
    pub health: Option<HealthCheck>,
    /// The file that requests, and connections that carry none, are written to when they are over:
    /// a JSON object a line.
    pub log: Option<PathBuf>,
}

impl ListenerConfig {
    /// A listener with defaults for all the rest.
    #[must_use]
    pub fn new(
        name: &str,
        address: SocketAddr,
        protocol: Protocol,
        upstreams: Vec<UpstreamConfig>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            addresses: vec![address],
            device: None,
            transparent: false,
            protocol,
            chain: None,
            upstreams,
            resolve: Duration::from_secs(30),
            certificates: Vec::new(),
            client_certificates: None,
            log: None,
            proxy_protocol: false,
            proxy_protocol_from: None,
            upstream_proxy_protocol: None,
            forwarded: ForwardedFields::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            retry: Retry::default(),
            health: None,
        }
    }
}

impl ListenerConfig {
    /// Whether a connection from this address begins with a PROXY protocol header.
    pub(crate) fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        let from = self.proxy_protocol_from.as_deref();
        self.proxy_protocol && from.is_none_or(|from| from.iter().any(|p| p.contains(peer)))
    }
}

impl fmt::Debug for ListenerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name, whose addresses are looked up again and again; each is a member of the upstream.
    Name {
        /// The name.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// An upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Where it is.
    pub address: Target,
    /// Its share of what is balanced, against the others' weights. 0: only what a function sends
    /// there, which no other gets in its place.
    pub weight: u32,
    /// TLS towards it.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2, by ALPN with TLS, by prior knowledge without.
    pub http2: bool,
}

impl UpstreamConfig {
    /// An upstream of weight 1 that speaks HTTP/1.1 without TLS.
    #[must_use]
    pub fn new(address: impl Into<Target>) -> Self {
        let address = address.into();
        Self { address, weight: 1, tls: None, http2: false }
    }
}

/// TLS towards an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name in its certificate, which SNI says, too.
    pub server_name: String,
    /// PEM file of the authorities that may have signed it; without one, those of the system.
    pub authorities: Option<PathBuf>,
    /// What the gateway shows an upstream that asks for a certificate.
    pub identity: Option<Identity>,
}

/// A certificate of the gateway's own, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM file: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
}

/// Which certificates clients are asked for. A listener that asks says in `x-forwarded-client-cert`
/// what it was shown, and takes away what clients say there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file of the authorities that may have signed them.
    pub authorities: PathBuf,
    /// PEM file of lists of revoked certificates (RFC 5280): one of each authority on the way from
    /// a certificate to one of `authorities`.
    pub revoked: Option<PathBuf>,
    /// Whether clients are refused of whose authorities a list is out of date (`nextUpdate`).
    pub enforce_next_update: bool,
    /// Whether a client without one is refused.
    pub required: bool,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PEM file: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// Server names it is used for (`*.example.org` for one label in front); those in the
    /// certificate if empty.
    pub names: Vec<String>,
}

/// Addresses that have their first bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// One of them.
    pub address: IpAddr,
    /// So many bits.
    pub length: u8,
}

impl Prefix {
    /// Whether this is one of them.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let same = |difference: u128, bits: u8| {
            // The bits that may differ.
            let behind = u32::from(bits.saturating_sub(self.length));
            difference.checked_shr(behind).unwrap_or(0) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same((a.to_bits() ^ b.to_bits()).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits() ^ b.to_bits(), 128),
            _ => false,
        }
    }
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What becomes of the fields in which a client says for whom it sends a request:
/// `x-forwarded-for`, `x-forwarded-proto`, `x-forwarded-host`, and `forwarded`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedFields {
    /// The client's address is added to the list in `x-forwarded-for`; the others are the gateway's
    /// own.
    #[default]
    Append,
    /// All are the gateway's own: it is the first one.
    Replace,
    /// The client is a proxy that is believed: its address is added to the list, and what else it
    /// said stays.
    Keep,
}

/// Periods of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request's head from its first byte, for a TLS handshake, for a PROXY protocol header.
    pub header: Duration,
    /// Between two pieces of a request's body until the response begins, and for the client to take
    /// a piece of a response.
    pub body: Duration,
    /// For a connection to an upstream, TLS included, and for its word that one of HTTP/2 is still
    /// there.
    pub connect: Duration,
    /// From the request to the response's head, and then without a piece of either body.
    pub response: Duration,
    /// Without a request on a client's connection.
    pub idle: Duration,
    /// Without a byte on an L4 connection, or one that has changed to another protocol; and for
    /// either side of it to take one.
    pub tunnel: Duration,
    /// Without a request on an upstream connection.
    pub upstream_idle: Duration,
}

impl Timeouts {
    /// No exchange may take as long as this without that anything moves.
    pub(crate) fn stall(&self) -> Duration {
        self.connect + self.response + self.body
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(75),
            tunnel: Duration::from_secs(3600),
            upstream_idle: Duration::from_secs(30),
        }
    }
}

/// Limits of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients at one time, on all threads.
    pub connections: usize,
    /// Requests on one connection.
    pub requests_per_connection: u64,
    /// Bytes of a request's or response's head.
    pub head: usize,
    /// Fields of a head.
    pub fields: usize,
    /// Bytes of a request's body; `None`: any.
    pub body: Option<u64>,
    /// Streams of one HTTP/2 connection at one time.
    pub streams: u32,
    /// Connections to one address of an upstream at one time, on all threads; `None`: any number.
    pub upstream_connections: Option<usize>,
    /// Idle HTTP/1.1 connections kept for each upstream and thread.
    pub upstream_idle: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            requests_per_connection: u64::MAX,
            head: 65_536,
            fields: 100,
            body: None,
            streams: 128,
            upstream_connections: None,
            upstream_idle: 256,
        }
    }
}

/// When a request is tried again, each time at another upstream if there is one. Never once a part
/// of the response has been sent. A request that an upstream may have seen is tried again only if
/// its method is idempotent (RFC 9110 section 9.2.2) and it has no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Further attempts.
    pub attempts: u32,
    /// Attempts beyond the first that may be under way at one time, in percent of the requests that
    /// are, on each thread; a few always may. Those do not count that follow an attempt of which no
    /// upstream has seen anything.
    pub budget: u32,
    /// After a connection could not be made.
    pub connect: bool,
    /// After the connection was lost before the response began.
    pub reset: bool,
    /// After a response with one of these statuses.
    pub statuses: Vec<u16>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, budget: 20, connect: true, reset: true, statuses: Vec::new() }
    }
}

/// How upstreams are looked at, once for the whole gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path of a GET request that must be answered with a status below 400; without one, a
    /// connection is enough.
    pub path: Option<String>,
    /// Its `host`; without one the upstream's address.
    pub host: Option<String>,
    /// Between two looks.
    pub interval: Duration,
    /// For one look.
    pub timeout: Duration,
    /// Good ones in a row that make an upstream healthy.
    pub healthy: u32,
    /// Bad ones in a row that make it unhealthy.
    pub unhealthy: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            host: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy: 2,
            unhealthy: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_the_addresses_that_begin_like_it() {
        let has = |prefix: (&str, u8), address: &str| {
            let prefix = Prefix { address: prefix.0.parse().unwrap(), length: prefix.1 };
            prefix.contains(address.parse().unwrap())
        };
        assert!(has(("10.1.0.0", 16), "10.1.255.1") && !has(("10.1.0.0", 16), "10.0.255.1"));
        assert!(has(("10.1.0.0", 16), "::ffff:10.1.2.3"));
        assert!(has(("10.1.2.3", 32), "10.1.2.3") && !has(("10.1.2.3", 32), "10.1.2.2"));
        assert!(has(("0.0.0.0", 0), "203.0.113.1") && !has(("0.0.0.0", 0), "2001:db8::1"));
        assert!(has(("::", 0), "2001:db8::1") && !has(("::", 0), "203.0.113.1"));
        assert!(has(("2001:db8::", 33), "2001:db8:7fff::1"));
        assert!(!has(("2001:db8::", 33), "2001:db8:8000::1"));
        assert!(has(("2001:db8::1", 128), "2001:db8::1") && !has(("2001:db8::1", 128), "::1"));
    }
}
