//! Between the heads that the gateway has and those laid out flat in the window (`wit/message.md`).
//!
//! Owns: what is laid out, and checking all of what a function left there. Must not know: which
//! function that was.

mod check;
mod known;
mod lay;
mod take;

use http::HeaderName;
use http::header::HOST;
use weir_layout::message::is_hop_field;

pub(crate) use check::{check_request_line, check_status_line, used};
pub(crate) use known::Known;
pub use lay::{lay_out_connection, lay_out_request, lay_out_response, length};
pub use take::{
    new_request, new_response, read_origin, read_request, read_response, said_length, take_request,
    take_response,
};
pub(crate) use take::{take_known_request, take_known_response};

/// The head does not fit a room, with what has to be spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head does not fit a room of the message pool")]
pub struct TooLarge;

/// What is wrong with a head that a function left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head is broken: {0}")]
pub struct Broken(String);

fn broken<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(what.into()))
}

/// Fields that are the gateway's own, and are neither shown to functions nor taken from them.
fn is_the_gateways(name: &HeaderName) -> bool {
    *name == HOST || is_hop_field(name.as_str())
}

#[cfg(test)]
mod tests;
