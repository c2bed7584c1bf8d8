//! What a gateway has counted, as plain numbers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::chain::{Denied, Times};
use crate::config::Target;
use crate::observe::counters::{ListenerCounters, UpstreamCounters};
use crate::upstream::members::Members;

/// What can go wrong with a connection or an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// TLS was not agreed on with the client, or, of an upstream, with it.
    Tls,
    /// The client's connection did not begin with a PROXY protocol header.
    ProxyHeader,
    /// The client was too slow with a head, a handshake, a body, or with taking the response.
    ClientSlow,
    /// The client went before it had all of the response.
    ClientGone,
    /// The request was refused: not HTTP, too large, or against a proxy's rules.
    Refused,
    /// No connection to the upstream.
    Connect,
    /// The upstream's connection was lost before the response began.
    Reset,
    /// The upstream was too slow.
    UpstreamSlow,
    /// What the upstream answered is not HTTP.
    NotHttp,
    /// The upstream's connection was lost in the middle of the response.
    Broken,
    /// A function reset the exchange.
    Function,
    /// Nothing moved on an L4 connection, or one that has changed to another protocol.
    Idle,
    /// The listener's chain is not deployed.
    NoChain,
    /// A function of the chain is out of order that nothing may go past.
    OutOfOrder,
    /// The chain had no room, or a service of it was busy.
    Busy,
    /// A response that its HTTP/2 client did not take was given up, because the room was wanted.
    BuffersFull,
    /// The upstream had as many connections as the limit allows.
    UpstreamFull,
}

impl Failure {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        FAILURES[self as usize].1
    }
}

impl From<Denied> for Failure {
    fn from(why: Denied) -> Self {
        match why {
            Denied::NoChain => Self::NoChain,
            Denied::OutOfOrder => Self::OutOfOrder,
            Denied::Busy => Self::Busy,
            Denied::NoResponse => Self::Function,
        }
    }
}

/// All of them with the names they have in metrics.
pub const FAILURES: [(Failure, &str); 17] = [
    (Failure::Tls, "tls"),
    (Failure::ProxyHeader, "proxy-header"),
    (Failure::ClientSlow, "client-slow"),
    (Failure::ClientGone, "client-gone"),
    (Failure::Refused, "refused"),
    (Failure::Connect, "connect"),
    (Failure::Reset, "reset"),
    (Failure::UpstreamSlow, "upstream-slow"),
    (Failure::NotHttp, "not-http"),
    (Failure::Broken, "broken"),
    (Failure::Function, "function"),
    (Failure::Idle, "idle"),
    (Failure::NoChain, "no-chain"),
    (Failure::OutOfOrder, "out-of-order"),
    (Failure::Busy, "busy"),
    (Failure::BuffersFull, "buffers-full"),
    (Failure::UpstreamFull, "upstream-full"),
];

/// A gateway's numbers, since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Of each listener, in the order of their names.
    pub listeners: Vec<ListenerStatistics>,
}

/// A listener's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerStatistics {
    /// Its name.
    pub name: String,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once, because there were as many as the limit allows.
    pub refused: u64,
    /// Connections open.
    pub open: u64,
    /// Requests, or L4 connections that were let through.
    pub requests: u64,
    /// Of these, now under way.
    pub active: u64,
    /// Responses by the first digit of their status, 1 to 5.
    pub responses: [u64; 5],
    /// Attempts beyond the first.
    pub retries: u64,
    /// Those that were not made, because too many were under way.
    pub retries_denied: u64,
    /// Connections whose bytes the kernel passes on by itself.
    pub spliced: u64,
    /// Requests and connections that were not written down, because the disk did not keep up or had
    /// no room.
    pub log_lost: u64,
    /// In the order of [`FAILURES`].
    pub failures: [u64; FAILURES.len()],
    /// From the request's head to the response's.
    pub latency: Times,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Its upstreams, in order.
    pub upstreams: Vec<UpstreamStatistics>,
    /// Its certificates, in order.
    pub certificates: Vec<CertificateStatus>,
    /// When what its other files say runs out, and what those of its upstreams say.
    pub expiries: Vec<(Option<Target>, Expiry)>,
    /// What it should have and has not, and why: files that were read again and are no good, whose
    /// earlier content is in force, and the file of its log.
    pub not_taken: Vec<String>,
}

impl ListenerStatistics {
    pub(crate) fn add(&mut self, counters: &ListenerCounters) {
        self.accepted += counters.accepted.get();
        self.refused += counters.refused.get();
        self.open += counters.open.get();
        self.requests += counters.requests.get();
        self.active += counters.active.get();
        add(&mut self.responses, &counters.responses.get());
        self.retries += counters.retries.get();
        self.retries_denied += counters.retries_denied.get();
        self.spliced += counters.spliced.get();
        add(&mut self.failures, &counters.failures.get());
        self.latency.add(&counters.latency);
        let [received, sent] = counters.traffic.get();
        self.received += received;
        self.sent += sent;
    }

    /// How often this went wrong.
    #[must_use]
    pub fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
    }
}

/// An upstream's numbers, for one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatistics {
    /// Where it is.
    pub address: Target,
    /// Of a name: the addresses that it has, and whether they may have requests.
    pub members: Vec<(SocketAddr, bool)>,
    /// Times that the name could not be looked up.
    pub lookup_failures: u64,
    /// Why it could not the last time, or else why the upstream, or an address of it, is down.
    pub problem: Option<String>,
    /// Whether it may have requests.
    pub healthy: bool,
    /// Connections made.
    pub connected: u64,
    /// Connections open.
    pub open: u64,
    /// Requests sent, or L4 connections.
    pub requests: u64,
    /// Of these, now under way.
    pub active: u64,
    /// Responses by the first digit of their status, 1 to 5.
    pub responses: [u64; 5],
    /// In the order of [`FAILURES`].
    pub failures: [u64; FAILURES.len()],
    /// From sending the request to the response's head.
    pub latency: Times,
    /// Bytes from it.
    pub received: u64,
    /// Bytes to it.
    pub sent: u64,
}

impl UpstreamStatistics {
    pub(crate) fn new(members: &Members) -> Self {
        Self {
            address: members.target.clone(),
            members: members.named(),
            lookup_failures: members.failures(),
            problem: members.what_is_wrong(),
            healthy: members.healthy(),
            connected: 0,
            open: 0,
            requests: 0,
            active: 0,
            responses: [0; 5],
            failures: [0; FAILURES.len()],
            latency: Times::default(),
            received: 0,
            sent: 0,
        }
    }

    pub(crate) fn add(&mut self, counters: &UpstreamCounters) {
        self.connected += counters.connected.get();
        self.open += counters.open.get();
        self.requests += counters.requests.get();
        self.active += counters.active.get();
        add(&mut self.responses, &counters.responses.get());
        add(&mut self.failures, &counters.failures.get());
        self.latency.add(&counters.latency);
        let [received, sent] = counters.traffic.get();
        self.received += received;
        self.sent += sent;
    }

    /// How often this went wrong.
    #[must_use]
    pub fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
    }
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Its file.
    pub file: PathBuf,
    /// The server names it is used for.
    pub names: Vec<String>,
    /// When it expires.
    pub expires: SystemTime,
}

/// When what a file says runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// What it says.
    pub of: ExpiryOf,
    /// When the first of it does.
    pub at: SystemTime,
}

/// What a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryOf {
    /// Who may have signed certificates.
    Authorities,
    /// Which certificates are revoked: when newer lists should be there (`nextUpdate`, RFC 5280
    /// section 5.1.2.5).
    Revoked,
    /// What the gateway shows an upstream.
    Certificate,
}

impl ExpiryOf {
    /// The key of the configuration that names the file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Authorities => "authorities",
            Self::Revoked => "revoked",
            Self::Certificate => "certificate",
        }
    }
}

fn add<const N: usize>(to: &mut [u64; N], more: &[u64; N]) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += more;
    }
}
