//! From the host's events to a function's methods, the same in Wasm and in tests.
//!
//! Owns: each exchange's state, and which events wait. Must not know: how the host calls.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use serde::de::DeserializeOwned;
use weir_layout::message::{Action, Outcome as Word};

use super::exchange::now;
use super::{
    ConnectionFunction, End, Exchange, Head, MessageFunction, Outcome, Pending, Piece, Resumed,
    Token, Wants,
};
use crate::window::Window;
use crate::{Setup, Snapshot, host};

/// What can happen in an exchange before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RequestHead,
    RequestBody,
    ResponseHead,
    ResponseBody,
    Opened,
    FromClient,
    FromUpstream,
}

impl Event {
    /// 0: from the client; 1: from the upstream.
    fn direction(self) -> usize {
        usize::from(matches!(self, Self::ResponseHead | Self::ResponseBody | Self::FromUpstream))
    }
}

/// A function of either kind.
pub trait Handler: Sized + 'static {
    type Config: DeserializeOwned;
    type State: Default + 'static;
    /// # Errors
    /// What the operator is to read.
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;
    fn wants(&self) -> Wants;
    fn head(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, Self::State>,
        head: &mut Head<'_>,
    ) -> Outcome;
    fn piece(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, Self::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome;
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome;
    fn ended(&mut self, exchange: &mut Exchange<'_, Self::State>, end: End);
    fn tick(&mut self, now: u64);
}

/// A message function as a handler.
#[derive(Debug)]
pub struct OfMessages<F>(pub F);

impl<F: MessageFunction> Handler for OfMessages<F> {
    type Config = F::Config;
    type State = F::State;

    fn configure(setup: Setup, config: F::Config) -> Result<Self, String> {
        F::configure(setup, config).map(Self)
    }
    fn wants(&self) -> Wants {
        self.0.wants()
    }
    #[inline]
    fn head(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, F::State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        match event {
            Event::ResponseHead => self.0.response_head(exchange, head),
            _ => self.0.request_head(exchange, head),
        }
    }
    #[inline]
    fn piece(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, F::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        match event {
            Event::ResponseBody => self.0.response_body(exchange, piece),
            _ => self.0.request_body(exchange, piece),
        }
    }
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, F::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        self.0.resume(exchange, resumed, pending)
    }
    fn ended(&mut self, exchange: &mut Exchange<'_, F::State>, end: End) {
        self.0.ended(exchange, end);
    }
    fn tick(&mut self, now: u64) {
        self.0.tick(now);
    }
}

impl<F: Snapshot> Snapshot for OfMessages<F> {
    fn save(&self) -> Vec<u8> {
        self.0.save()
    }
    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        self.0.restore(saved)
    }
}

/// A connection function as a handler.
#[derive(Debug)]
pub struct OfConnections<F>(pub F);

impl<F: ConnectionFunction> Handler for OfConnections<F> {
    type Config = F::Config;
    type State = F::State;

    fn configure(setup: Setup, config: F::Config) -> Result<Self, String> {
        F::configure(setup, config).map(Self)
    }
    fn wants(&self) -> Wants {
        self.0.wants()
    }
    fn head(
        &mut self,
        _: Event,
        exchange: &mut Exchange<'_, F::State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        self.0.opened(exchange, head)
    }
    fn piece(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, F::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        self.0.data(exchange, event == Event::FromUpstream, piece)
    }
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, F::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        self.0.resume(exchange, resumed, pending)
    }
    fn ended(&mut self, exchange: &mut Exchange<'_, F::State>, end: End) {
        self.0.ended(exchange, end);
    }
    fn tick(&mut self, now: u64) {
        self.0.tick(now);
    }
}

impl<F: Snapshot> Snapshot for OfConnections<F> {
    fn save(&self) -> Vec<u8> {
        self.0.save()
    }
    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        self.0.restore(saved)
    }
}

/// An event in which the function waits.
#[derive(Debug)]
struct Waiting {
    event: Event,
    offset: u32,
    /// Of a piece: the length it came with.
    length: u32,
    last: bool,
    /// Of a head: it was changed before.
    changed: bool,
    /// Of a piece: the length it has now.
    len: usize,
    left_out: bool,
    /// What was asked for in the event.
    asked: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot<S> {
    state: S,
    waiting: [Option<Waiting>; 2],
    /// What was asked for in events that are over. It may come when the exchange is over, too, and its number
    /// another's.
    beside: Vec<u32>,
}

impl<S> Slot<S> {
    /// Nothing was asked for that is still to come.
    fn is_at_rest(&self) -> bool {
        self.beside.is_empty() && self.waiting.iter().all(Option::is_none)
    }
}

/// Exchange numbers are the host's choice, nobody outside can make them collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A configured function, and what it remembers of the exchanges under way.
pub struct Dispatch<H: Handler> {
    handler: H,
    window: Window,
    slots: HashMap<u32, Slot<H::State>, BuildHasherDefault<Spread>>,
    asked: Vec<u32>,
    wants: Wants,
    /// The function has something to do at the end of an exchange; else the SDK wants to hear of it only to forget.
    ends: bool,
}

impl<H: Handler> Dispatch<H> {
    /// # Safety
    /// From now on every event must name a head or a piece that lies within the window and is the function's
    /// until the event is answered, or as long as it waits or holds.
    pub(crate) unsafe fn new(handler: H, window: Window) -> Self {
        let mut wants = handler.wants();
        let ends = wants.has(Wants::ENDED);
        if size_of::<H::State>() > 0 {
            wants = wants.and(Wants::ENDED);
        }
        Self { handler, window, slots: HashMap::default(), asked: Vec::new(), wants, ends }
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
            self.slots.entry(exchange).or_default()
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
            self.slots.entry(exchange).or_default().waiting[event.direction()] = Some(waiting);
        } else if !self.asked.is_empty() {
            slot.beside.append(&mut self.asked);
        } else if outcome == Outcome::Done && !self.ends && slot.is_at_rest() {
            // It is through with the exchange: there is no need to hear of its end.
            word.forgotten = true;
            if size_of::<H::State>() > 0 {
                self.slots.remove(&exchange);
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
        let is_waited_for = |waiting: &Option<Waiting>| {
            waiting.as_ref().is_some_and(|waiting| waiting.asked.contains(&token))
        };
        let mut over = Slot::default();
        let slot = match self.slots.get_mut(&exchange) {
            Some(slot)
                if slot.beside.contains(&token) || slot.waiting.iter().any(is_waited_for) =>
            {
                slot
            }
            _ => &mut over,
        };
        slot.beside.retain(|other| *other != token);
        let waiting = slot.waiting.iter_mut().find(|waiting| is_waited_for(waiting));
        let mut waiting = waiting.and_then(Option::take);
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
                let direction = waiting.event.direction();
                slot.waiting[direction] = Some(waiting);
            }
            _ => {
                slot.beside.append(&mut self.asked);
                if size_of::<H::State>() == 0 && slot.waiting.iter().all(Option::is_none) {
                    self.slots.remove(&exchange);
                }
            }
        }
        host::after_burst(now(&self.window));
        word.encode()
    }

    /// An exchange is over.
    pub fn ended(&mut self, exchange: u32, how: u32, upstream: u32, nanoseconds: u64) {
        let mut slot = self.slots.remove(&exchange).unwrap_or_default();
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
        self.slots.len()
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
