//! What comes back under a token, and the event that waited for it.

use super::{Head, Piece, Token};

/// What was asked for.
#[derive(Debug)]
pub struct Resumed<'a> {
    pub(crate) token: Token,
    pub(crate) status: u32,
    pub(crate) head: Option<Head<'a>>,
    pub(crate) body: &'a mut [u8],
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store has no such key.
    NoSuchKey,
    /// Nobody answered in time.
    Timeout,
    /// The upstream could not be reached.
    Unreachable,
    /// It answered something that is not HTTP.
    NotHttp,
    /// Its body is longer than a room.
    TooLong,
}

impl Resumed<'_> {
    /// The token that the asking gave.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Why there is nothing, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match self.status {
            1 => Some(Failure::NoSuchKey),
            2 => Some(Failure::Timeout),
            3 => Some(Failure::Unreachable),
            5 => Some(Failure::TooLong),
            0 | 100.. => None,
            _ => Some(Failure::NotHttp),
        }
    }

    /// The status of a call's response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        u16::try_from(self.status).ok().filter(|status| *status >= 100)
    }

    /// The head of a call's response.
    #[must_use]
    pub fn head(&self) -> Option<&Head<'_>> {
        self.head.as_ref()
    }

    /// The value, or the body of a call's response.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body
    }

    /// The number that [`Exchange::store_add`](super::Exchange::store_add) brought.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        (self.status == 0).then(|| self.body.first_chunk().copied().map(i64::from_le_bytes))?
    }
}

/// The event in which the function waits.
#[derive(Debug)]
pub enum Pending<'a> {
    /// It does not wait: what was asked for came beside.
    None,
    /// `request_head`, or `opened` of a connection.
    RequestHead(Head<'a>),
    /// `request_body`, or `data` from a connection's client.
    RequestBody(Piece<'a>),
    /// `response_head`.
    ResponseHead(Head<'a>),
    /// `response_body`, or `data` from a connection's upstream.
    ResponseBody(Piece<'a>),
}
