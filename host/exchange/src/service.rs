//! Services in a chain: functions that are handed a request and give a response, both with bodies
//! that stream.
//!
//! Functions that live by events are told of a message as it passes. A service stands in the way of
//! it: what comes after the service in the chain sees the requests that the service sends on, and
//! what comes before sees the service's response.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response, request};

use crate::{CallFault, Exchange, Reply};

/// A body on its way between threads: data, then perhaps trailers. The next frame is made when it
/// is asked for.
pub type Stream = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Broken> + Send>>;

/// A request's head once more; extensions are nobody's but the gateway's.
#[must_use]
pub fn copied(parts: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method.clone_from(&parts.method);
    copy.uri.clone_from(&parts.uri);
    copy.version = parts.version;
    copy.headers.clone_from(&parts.headers);
    copy
}

/// Why a body ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The client went, or what it sent is no body.
    Client,
    /// The client sent nothing for too long.
    ClientSlow,
    /// It is longer than it may be.
    TooLarge,
    /// The upstream went, or what it sent is no body.
    Upstream,
    /// The upstream sent nothing for too long.
    UpstreamSlow,
    /// A function ended it.
    Function,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client's body broke off",
            Self::ClientSlow => "the client sent nothing for too long",
            Self::TooLarge => "the body is longer than the limit",
            Self::Upstream => "the upstream's body broke off",
            Self::UpstreamSlow => "the upstream sent nothing for too long",
            Self::Function => "a function ended the body",
        })
    }
}

impl std::error::Error for Broken {}

/// The rest of the chain, and the upstream behind it.
pub trait Onward {
    /// Sends a request on; to this upstream, unless a function of the rest chooses another. The
    /// rest of the chain sees each request as an exchange of its own.
    fn send(
        &self,
        request: Request<Stream>,
        upstream: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>>;
}

/// A function that takes exchanges whole, for one exchange.
pub trait Service {
    /// Serves the exchange. Whoever drops the future, or the response's body before its end, has no
    /// interest in it any more.
    fn serve(
        &self,
        request: Request<Stream>,
        onward: Rc<dyn Onward>,
    ) -> LocalBoxFuture<'static, Response<Stream>>;
}

/// A part of a chain.
pub enum Leg {
    /// Functions that are told of events, for this part of the exchange.
    Events(Exchange),
    /// A service.
    Service(Rc<dyn Service>),
}

/// The parts of a chain with services, for one exchange.
pub trait Legs {
    /// The part at this place, newly begun; none behind the last one. The first begins once; later
    /// ones each time that a service sends something on.
    fn leg(&self, place: usize) -> Reply<'_, Option<Leg>>;
}
