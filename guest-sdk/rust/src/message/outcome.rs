//! What a function decides, and what it is told at the end.

use std::time::Duration;

/// What an event comes to. Whether a head or a piece was changed need not be said: the views know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The next function has it.
    Continue,
    /// As `Continue`, and the function wants no more events of this exchange but its end.
    Done,
    /// The function answered, by [`Exchange::answer`](super::Exchange::answer).
    Answer(Answered),
    /// The stream or connection is ended without an answer.
    Reset,
    /// Nothing moves in this direction until `resume`. A function whose state of an exchange is
    /// `()` must want [`Wants::ENDED`](super::Wants::ENDED) to wait.
    Wait,
    /// Of a body's piece: it stays where it is, and the function wants to see the next one.
    Hold,
}

/// That an answer was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered(pub(super) ());

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// All of the response was delivered.
    Delivered,
    /// The client went first.
    ClientGone,
    /// The upstream failed: no connection, a reset, a timeout.
    UpstreamFailed,
    /// A function answered, this one or another.
    Answered,
    /// It was reset.
    Reset,
}

/// The end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub how: How,
    /// The upstream that had it.
    pub upstream: Option<usize>,
    /// Time to the response's head, or of a connection in all.
    pub time: Duration,
}

impl End {
    pub(crate) fn read(how: u32, upstream: u32, nanoseconds: u64) -> Self {
        let how = match how {
            0 => How::Delivered,
            1 => How::ClientGone,
            2 => How::UpstreamFailed,
            3 => How::Answered,
            _ => How::Reset,
        };
        let known = upstream != weir_layout::message::UNKNOWN;
        let upstream = known.then_some(upstream as usize);
        Self { how, upstream, time: Duration::from_nanos(nanoseconds) }
    }
}
