//! An exchange: what a function may ask the host for while it handles one.
//!
//! Owns: laying out what the function sends itself, in rooms that it takes for that and gives back
//! if the host refuses. Must not know: which event is under way.

use std::fmt::Display;
use std::time::Duration;

use weir_layout::{CLOCK, WALL};

use super::outcome::Answered;
use super::{Outcome, Request, Response};
use crate::host::{Level, Refusal};
use crate::sys;
use crate::window::Window;

/// Names what was asked for, until it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) u32);

/// Whether health checks and recent failures allow requests to this upstream.
#[must_use]
pub fn healthy(upstream: usize) -> bool {
    u32::try_from(upstream).is_ok_and(sys::healthy)
}

/// Requests or connections that this upstream has now, from this chain.
#[must_use]
pub fn active(upstream: usize) -> u32 {
    u32::try_from(upstream).map_or(0, sys::active)
}

/// A request with its response, or a connection.
#[derive(Debug)]
pub struct Exchange<'a, S> {
    /// What the function remembers of it.
    pub state: &'a mut S,
    number: u32,
    window: &'a Window,
    /// What was asked for in this event.
    asked: &'a mut Vec<u32>,
}

impl<'a, S> Exchange<'a, S> {
    pub(super) fn new(
        number: u32,
        state: &'a mut S,
        window: &'a Window,
        asked: &'a mut Vec<u32>,
    ) -> Self {
        Self { state, number, window, asked }
    }

    /// Its number, which is given out again after its end.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The event's time, in nanoseconds of [`host::now`](crate::host::now); costs no call.
    #[must_use]
    #[inline]
    pub fn now(&self) -> u64 {
        now(self.window)
    }

    /// The same moment in nanoseconds since 1970, or 0 if the host does not know.
    #[must_use]
    #[inline]
    pub fn wall(&self) -> u64 {
        // SAFETY: as in `now`.
        unsafe { self.window.base().add(WALL).cast::<u64>().read() }
    }

    /// Sends the exchange to this upstream, its place in [`Setup::ports`](crate::Setup::ports):
    /// before the request's head has left the chain, or while a connection is opened. The last call
    /// counts.
    ///
    /// # Errors
    /// When there is no such upstream, or it is too late.
    pub fn route(&mut self, upstream: usize) -> Result<(), Refusal> {
        sys::route(self.number, u32::try_from(upstream).map_err(|_| Refusal::BadVerdict)?)
    }

    /// Answers the exchange. What this gives has to be the event's outcome: it is
    /// [`Outcome::Answer`], or [`Outcome::Reset`] if the host refuses because the response's head
    /// has left already.
    ///
    /// When no rooms are free for the answer, it becomes an empty one: with its own status if it is
    /// short, else with 503.
    pub fn answer(&mut self, response: &Response<'_>) -> Outcome {
        if let Some(outcome) = self.try_answer(response) {
            return outcome;
        }
        let short = response.size() < 1024 && response.content().is_empty();
        let status = if short { response.status() } else { 503 };
        outcome(sys::answer_copy(self.number, status))
    }

    /// As [`Exchange::answer`], but `None`, and nothing has happened, when no rooms are free.
    pub fn try_answer(&mut self, response: &Response<'_>) -> Option<Outcome> {
        let (head, body) =
            self.lay_out(response.size(), response.content(), |room| response.lay_out(room))?;
        let answered = sys::answer(self.number, head, &body);
        if answered.is_err() {
            give_back(head, &body);
        }
        Some(outcome(answered))
    }

    /// Answers with status 500 and logs why: for what cannot be done to a message and must not be
    /// left undone.
    pub fn fail(&mut self, why: &dyn Display) -> Outcome {
        sys::log(Level::Warn, &why.to_string());
        self.answer(&Response::new(500))
    }

    /// Sends a request of the function's own to an upstream. Its response comes by `resume`; the
    /// event's outcome may be [`Outcome::Wait`].
    ///
    /// # Errors
    /// When no room is free, the request does not fit, or there is no such upstream.
    pub fn call(
        &mut self,
        upstream: usize,
        request: &Request<'_>,
        timeout: Duration,
    ) -> Result<Token, Refusal> {
        let upstream = u32::try_from(upstream).map_err(|_| Refusal::BadVerdict)?;
        let made = self.lay_out(request.size(), request.content(), |room| request.lay_out(room));
        let (head, body) = made.ok_or(Refusal::Exhausted)?;
        let timeout = u32::try_from(milliseconds(timeout)).unwrap_or(u32::MAX);
        let token = sys::call(self.number, upstream, head, &body, timeout);
        if token.is_err() {
            give_back(head, &body);
        }
        self.token(token)
    }

    /// Asks the tenant's key-value store, which all threads and functions share. Keys have at most
    /// 256 bytes.
    ///
    /// # Errors
    /// When the key is too long, or too much was asked for.
    pub fn store_get(&mut self, key: &[u8]) -> Result<Token, Refusal> {
        let token = sys::store_get(self.number, key);
        self.token(token)
    }

    /// Writes a value that lives for so long; zero: until memory is short.
    ///
    /// # Errors
    /// When key or value are too long.
    pub fn store_set(&mut self, key: &[u8], value: &[u8], life: Duration) -> Result<(), Refusal> {
        sys::store_set(self.number, key, value, milliseconds(life))
    }

    /// Adds to a number in the store, and gives it that long to live if it is new. `resume` brings
    /// the sum.
    ///
    /// # Errors
    /// When the key is too long, or too much was asked for.
    pub fn store_add(&mut self, key: &[u8], delta: i64, life: Duration) -> Result<Token, Refusal> {
        let token = sys::store_add(self.number, key, delta, milliseconds(life));
        self.token(token)
    }

    /// Asks to be resumed after so long.
    ///
    /// # Errors
    /// When too much was asked for.
    pub fn sleep(&mut self, time: Duration) -> Result<Token, Refusal> {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let token = sys::sleep(self.number, nanoseconds);
        self.token(token)
    }

    fn token(&mut self, token: Result<u32, Refusal>) -> Result<Token, Refusal> {
        let token = token?;
        self.asked.push(token);
        Ok(Token(token))
    }

    /// Lays a head and a body out in rooms of their own: the head's place, and the body's.
    fn lay_out(
        &self,
        head_size: usize,
        content: &[u8],
        head: impl FnOnce(&mut [u8]) -> Result<(), weir_layout::message::HeadFull>,
    ) -> Option<(u32, Vec<(u32, u32)>)> {
        let (at, room) = take_room(self.window, head_size)?;
        let mut body = Vec::new();
        let mut rest = content;
        let complete = head(room).is_ok()
            && loop {
                if rest.is_empty() {
                    break true;
                }
                let most = self.window.room_bytes() as usize - weir_layout::HEADROOM;
                let (piece, after) = rest.split_at(rest.len().min(most));
                let Some((at, room)) = take_room(self.window, piece.len()) else { break false };
                room[..piece.len()].copy_from_slice(piece);
                // At most a room.
                body.push((at, piece.len() as u32));
                rest = after;
            };
        if !complete {
            give_back(at, &body);
            return None;
        }
        Some((at, body))
    }
}

/// A fresh room that has at least so many bytes.
fn take_room<'a>(window: &Window, bytes: usize) -> Option<(u32, &'a mut [u8])> {
    let at = sys::allocate(u32::try_from(bytes).ok()?)?;
    // SAFETY: the host has just given this room, once, and its bytes are initialised.
    Some((at, unsafe { window.rest_of_room(at) }))
}

/// What becomes of an event whose exchange was answered.
fn outcome(answered: Result<(), Refusal>) -> Outcome {
    match answered {
        Ok(()) => Outcome::Answer(Answered(())),
        // The host says why in the function's log.
        Err(_) => Outcome::Reset,
    }
}

/// The event's time.
#[inline]
pub(super) fn now(window: &Window) -> u64 {
    // SAFETY: the clock lies within the burst area, aligned to 8.
    unsafe { window.base().add(CLOCK).cast::<u64>().read() }
}

/// Gives rooms back that the host did not take. It knows them, so it has no reason to refuse.
fn give_back(head: u32, body: &[(u32, u32)]) {
    let free = crate::Verdict::Drop(0).encode();
    for (at, length) in body.iter().copied().chain([(head, 0)]) {
        if sys::send(at, length, free).is_err() {
            sys::log(Level::Error, "the host refused to take a room back");
        }
    }
}

/// Rounded up: 0 means something else than a short time.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
