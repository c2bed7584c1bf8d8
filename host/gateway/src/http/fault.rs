//! Why an exchange, or a body on its way, comes to an end before its time.

use std::fmt;

/// What ended a body or an exchange. The gateway turns it into a status if the response has not
/// begun, and else cuts the exchange off so that the client sees that something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client sent nothing, or took nothing, for too long.
    ClientSlow,
    /// The client's body is longer than the limit.
    TooLarge,
    /// The client's body broke off, or is not HTTP.
    Client,
    /// The upstream's body broke off, or is not HTTP.
    Upstream,
    /// The upstream sent nothing for too long.
    UpstreamSlow,
    /// A function answered; the answer is kept with the exchange.
    Answered,
    /// A function reset the exchange.
    Reset,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientSlow => "the client sent or took nothing for too long",
            Self::TooLarge => "the request's body is longer than the limit",
            Self::Client => "the request's body broke off",
            Self::Upstream => "the response's body broke off",
            Self::UpstreamSlow => "the upstream sent nothing for too long",
            Self::Answered => "a function answered",
            Self::Reset => "a function reset the exchange",
        })
    }
}

impl std::error::Error for Fault {}
