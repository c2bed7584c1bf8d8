//! Plain types that describe an exchange to a chain, and a chain to its gateway.

use std::net::SocketAddr;
use std::ops::BitOr;

use weir_layout::message::Wants;

/// Where an exchange comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address; behind a proxy that says so, the one that it told.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// What TLS's SNI said.
    pub server_name: Option<Box<str>>,
    /// Whether another protocol is asked for.
    pub upgrade: bool,
}

/// Which way a body's pieces go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream.
    Request = 0,
    /// From the upstream to the client.
    Response = 1,
}

/// How an exchange ended (`wit/message.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All of the response was delivered.
    Delivered = 0,
    /// The client went first.
    ClientGone = 1,
    /// No connection to the upstream, a reset by it, or a timeout.
    UpstreamFailed = 2,
    /// A function answered.
    Answered = 3,
    /// It was reset.
    Reset = 4,
}

/// Which events some function of a chain wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub struct Interests {
    /// Heads of requests.
    pub request_head: bool,
    /// Pieces of requests' bodies.
    pub request_body: bool,
    /// Heads of responses.
    pub response_head: bool,
    /// Pieces of responses' bodies.
    pub response_body: bool,
    /// Connections as they are opened.
    pub opened: bool,
    /// Connections' bytes.
    pub data: bool,
}

impl From<Wants> for Interests {
    fn from(wants: Wants) -> Self {
        Self {
            request_head: wants.has(Wants::REQUEST_HEAD),
            request_body: wants.has(Wants::REQUEST_BODY),
            response_head: wants.has(Wants::RESPONSE_HEAD),
            response_body: wants.has(Wants::RESPONSE_BODY),
            opened: wants.has(Wants::OPENED),
            data: wants.has(Wants::DATA),
        }
    }
}

impl BitOr for Interests {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            request_head: self.request_head | other.request_head,
            request_body: self.request_body | other.request_body,
            response_head: self.response_head | other.response_head,
            response_body: self.response_body | other.response_body,
            opened: self.opened | other.opened,
            data: self.data | other.data,
        }
    }
}
