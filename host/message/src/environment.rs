//! What a chain needs of the gateway that runs it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::Pieces;

/// Upstreams as functions see them: by their numbers, in the listener's order.
pub trait Upstreams: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;
    /// Whether it may have requests.
    fn healthy(&self, upstream: usize) -> bool;
    /// Requests or connections that it has now.
    fn active(&self, upstream: usize) -> u32;
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody answered in time.
    Timeout = 2,
    /// The upstream could not be reached, or went away.
    Unreachable = 3,
    /// What it answered is not HTTP.
    NotHttp = 4,
    /// Its body is longer than was allowed.
    TooLong = 5,
}

/// What becomes of a call: the answer with all of its body.
pub type CallResult = Result<http::Response<Bytes>, CallError>;

/// The gateway's thread, to a chain on it.
pub trait Environment {
    /// Sends a request to an upstream, and gives its answer; of the body at most so many bytes.
    fn call(
        &self,
        upstream: usize,
        request: http::Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> LocalBoxFuture<'static, CallResult>;

    /// Is ready after this time.
    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()>;
}
