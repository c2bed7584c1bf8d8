//! From the host's events to a function's methods, the same in Wasm and in tests.
//!
//! Owns: which events wait, and when an exchange is forgotten. Must not know: how the host calls.

use std::fmt;

use weir_layout::message::{Action, Outcome as Word};

use super::exchange::now;
use super::handler::{Event, Handler};
use super::outcome::End;
use super::slots::{Slot, Slots, Waiting};
use super::{Exchange, Head, Outcome, Pending, Piece, Resumed, Token, Wants};
use crate::host;
use crate::window::Window;

/// A configured function, and what it remembers of the exchanges under way.
pub struct Dispatch<H: Handler> {
    handler: H,
    window: Window,
    slots: Slots<H::State>,
    asked: Vec<u32>,
    wants: Wants,
    /// The function has something to do at the end of an exchange; else the SDK wants to hear of it
    /// only to forget.
    ends: bool,
}

impl<H: Handler> Dispatch<H> {
    /// # Safety
    /// From now on every event must name a head or a piece that lies within the window and is the
    /// function's until the event is answered, or as long as it waits or holds.
    pub(crate) unsafe fn new(handler: H, window: Window) -> Self {
        let mut wants = handler.wants();
        let ends = wants.has(Wants::ENDED);
        if size_of::<H::State>() > 0 {
            wants = wants.and(Wants::ENDED);
        }
        Self { handler, window, slots: Slots::default(), asked: Vec::new(), wants, ends }
    }

    /// What the host is to call for.
    pub fn wants(&self) -> Wants {
        self.wants
    }

    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Something happened: its outcome, as a word.
    #[inline]
    pub fn event(
        &mut self,
        event: Event,
        exchange: u32,
        offset: u32,
        length: u32,
        last: bool,
    ) -> u64 {
        let mut stateless;
        let slot = if size_of::<H::State>() > 0 {
            self.slots.of(exchange)
        } else {
            stateless = Slot::default();
            &mut stateless
        };
        self.asked.clear();
        let mut handle = Exchange::new(exchange, &mut slot.state, &self.window, &mut self.asked);
        let (outcome, mut word, waiting) = match event {
            Event::RequestHead | Event::ResponseHead | Event::Opened => {
                // SAFETY: as promised to `new`.
                let mut head = unsafe { Head::at(&self.window, offset) };
                let outcome = self.handler.head(event, &mut handle, &mut head);
                let changed = head.was_changed();
                (outcome, of_head(outcome, &head), (changed, 0, false))
            }
            Event::RequestBody | Event::ResponseBody | Event::FromClient | Event::FromUpstream => {
                // SAFETY: as promised to `new`.
                let mut piece = unsafe { Piece::at(&self.window, offset, length, last) };
                let outcome = self.handler.piece(event, &mut handle, &mut piece);
                let left_out = piece.was_left_out();
                (outcome, of_piece(outcome, &piece), (false, piece.len(), left_out))
            }
        };
        if outcome == Outcome::Wait {
            assert!(
                self.wants.has(Wants::ENDED),
                "a function that waits has to want the end of exchanges"
            );
            let (changed, len, left_out) = waiting;
            let asked = std::mem::take(&mut self.asked);
            let waiting = Waiting { event, offset, length, last, changed, len, left_out, asked };
            self.slots.of(exchange).wait(waiting);
        } else if !self.asked.is_empty() {
            slot.asked_beside(&mut self.asked);
        } else if outcome == Outcome::Done && !self.ends && slot.is_at_rest() {
            // It is through with the exchange: there is no need to hear of its end.
            word.forgotten = true;
            if size_of::<H::State>() > 0 {
                self.slots.remove(exchange);
            }
        }
        host::after_burst(now(&self.window));
        word.encode()
    }

    /// What was asked for is there: the outcome of the event that waits for it, as a word.
    pub fn resume(
        &mut self,
        exchange: u32,
        token: u32,
        status: u32,
        head: u32,
        body: u32,
        length: u32,
    ) -> u64 {
        let mut over = Slot::default();
        // What this exchange did not ask for is no reason to forget what it waits for.
        let (slot, its_own) = match self.slots.get(exchange) {
            Some(slot) if slot.asked_for(token) => (slot, true),
            _ => (&mut over, false),
        };
        let mut waiting = slot.resumed(token);
        let mut resumed = Resumed {
            token: Token(token),
            status,
            // SAFETY: as promised to `new`, of the response's head.
            head: (head != 0).then(|| unsafe { Head::at(&self.window, head) }),
            body: if body == 0 {
                &mut []
            } else {
                // SAFETY: as promised to `new`, of the body.
                let room = unsafe { self.window.rest_of_room(body) };
                let length = (length as usize).min(room.len());
                &mut room[..length]
            },
        };
        // SAFETY: what waits is still the function's, and not in the rooms of what was brought.
        let mut pending = unsafe { pending(&self.window, waiting.as_ref()) };
        self.asked.clear();
        let mut handle = Exchange::new(exchange, &mut slot.state, &self.window, &mut self.asked);
        let outcome = self.handler.resume(&mut handle, &mut resumed, &mut pending);
        let word = match &pending {
            Pending::None => Word::default(),
            Pending::RequestHead(head) | Pending::ResponseHead(head) => {
                if let Some(waiting) = &mut waiting {
                    waiting.changed = head.was_changed();
                }
                of_head(outcome, head)
            }
            Pending::RequestBody(piece) | Pending::ResponseBody(piece) => {
                if let Some(waiting) = &mut waiting {
                    (waiting.len, waiting.left_out) = (piece.len(), piece.was_left_out());
                }
                of_piece(outcome, piece)
            }
        };
        match waiting {
            Some(mut waiting) if outcome == Outcome::Wait => {
                waiting.asked.append(&mut self.asked);
                slot.wait(waiting);
            }
            waiting => {
                slot.asked_beside(&mut self.asked);
                if let Some(mut waiting) = waiting {
                    // The rest of what the event asked for is still the exchange's.
                    waiting.asked.retain(|other| *other != token);
                    slot.asked_beside(&mut waiting.asked);
                }
                if its_own && size_of::<H::State>() == 0 && slot.waits_for_nothing() {
                    self.slots.remove(exchange);
                }
            }
        }
        host::after_burst(now(&self.window));
        word.encode()
    }

    /// An exchange is over.
    pub fn ended(&mut self, exchange: u32, how: u32, upstream: u32, nanoseconds: u64) {
        let mut slot = self.slots.remove(exchange).unwrap_or_default();
        self.asked.clear();
        let mut handle = Exchange::new(exchange, &mut slot.state, &self.window, &mut self.asked);
        self.handler.ended(&mut handle, End::read(how, upstream, nanoseconds));
        host::after_burst(now(&self.window));
    }

    /// A timer is due.
    pub fn tick(&mut self, now: u64) {
        if host::before_tick(now) {
            self.handler.tick(now);
        }
        host::after_tick(now);
    }

    /// Exchanges of which something is remembered.
    pub fn remembered(&self) -> usize {
        self.slots.count()
    }
}

impl<H: Handler> fmt::Debug for Dispatch<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").field("wants", &self.wants).finish_non_exhaustive()
    }
}

/// The view of what waits.
///
/// # Safety
/// It must still be this side's, and no other reference to it be used for `'a`.
unsafe fn pending<'a>(window: &Window, waiting: Option<&Waiting>) -> Pending<'a> {
    let Some(waiting) = waiting else { return Pending::None };
    let head = || {
        // SAFETY: as promised by the caller.
        let mut head = unsafe { Head::at(window, waiting.offset) };
        head.mark_changed(waiting.changed);
        head
    };
    let piece = || {
        let Waiting { offset, length, last, len, left_out, .. } = *waiting;
        // SAFETY: as promised by the caller.
        let mut piece = unsafe { Piece::at(window, offset, length, last) };
        piece.again(len, left_out);
        piece
    };
    match waiting.event {
        Event::RequestHead | Event::Opened => Pending::RequestHead(head()),
        Event::ResponseHead => Pending::ResponseHead(head()),
        Event::RequestBody | Event::FromClient => Pending::RequestBody(piece()),
        Event::ResponseBody | Event::FromUpstream => Pending::ResponseBody(piece()),
    }
}

fn action(outcome: Outcome) -> Action {
    match outcome {
        Outcome::Continue => Action::Continue,
        Outcome::Done => Action::Done,
        Outcome::Answer(_) => Action::Answer,
        Outcome::Reset => Action::Reset,
        Outcome::Wait => Action::Wait,
        Outcome::Hold => Action::Hold,
    }
}

fn of_head(outcome: Outcome, head: &Head<'_>) -> Word {
    let goes_on = matches!(outcome, Outcome::Continue | Outcome::Done);
    Word { changed: goes_on && head.was_changed(), ..Word::of(action(outcome)) }
}

fn of_piece(outcome: Outcome, piece: &Piece<'_>) -> Word {
    let mut word = Word::of(action(outcome));
    if matches!(outcome, Outcome::Continue | Outcome::Done | Outcome::Hold) {
        if piece.was_left_out() {
            word.replaced = true;
        } else if let Some(length) = piece.new_length() {
            (word.changed, word.length) = (true, length);
        }
    }
    word
}
