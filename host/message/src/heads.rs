//! Heads on their way from function to function.
//!
//! A head is laid out once, in a room that all see, and taken over once, when all have seen it. It
//! stays within the call that brings it unless a function waits, or there is no room.

use std::marker::PhantomData;

use bytes::Bytes;
use http::{StatusCode, request, response};
use weir_exchange::{Denied, Direction, HeadTooLarge, Origin, Reply, Step};
use weir_layout::message::{Action, Wants};
use weir_pool::Room;

use crate::exchange::{Inner, Order, denied, out_of_order};
use crate::head::{self, Broken, Known, TooLarge};
use crate::instance::Event;
use crate::telling::{Told, Waits};

/// What a head is of.
pub(crate) trait Kind {
    /// Which way it goes.
    const DIRECTION: Direction;
    /// The event that it is.
    const WANTS: Wants;
    /// Whether functions may change it.
    const CHANGES: bool = true;
}

impl Kind for request::Parts {
    const DIRECTION: Direction = Direction::Request;
    const WANTS: Wants = Wants::REQUEST_HEAD;
}

impl Kind for response::Parts {
    const DIRECTION: Direction = Direction::Response;
    const WANTS: Wants = Wants::RESPONSE_HEAD;
}

/// What can be laid out as a head.
pub(crate) trait Head {
    /// What it is of.
    type Of: Kind;

    /// Lays it out; `made` if a function made it.
    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        made: bool,
    ) -> Result<(), TooLarge>;

    /// Takes over what functions made of it.
    fn take(&mut self, known: &Known) -> Result<(), Broken>;
}

impl Head for &mut request::Parts {
    type Of = request::Parts;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_request(room, self, origin, body)
    }

    fn take(&mut self, known: &Known) -> Result<(), Broken> {
        head::take_known_request(known, self)
    }
}

impl Head for &mut response::Parts {
    type Of = response::Parts;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        made: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_response(room, self, origin, body, made)
    }

    fn take(&mut self, known: &Known) -> Result<(), Broken> {
        head::take_known_response(known, self)
    }
}

/// A head that is laid out already, by whoever has the exchange, for a room of the same size. What
/// functions make of it lies in its place afterwards.
pub(crate) struct Laid<'a, K> {
    head: &'a mut Bytes,
    /// Whether functions may have left this, where this was laid out.
    check: fn(&[u8], &[u8]) -> Result<(), Broken>,
    kind: PhantomData<K>,
}

impl<'a> Laid<'a, request::Parts> {
    pub(crate) fn request(head: &'a mut Bytes) -> Self {
        Self { head, check: head::check_request_line, kind: PhantomData }
    }
}

impl<'a> Laid<'a, response::Parts> {
    pub(crate) fn response(head: &'a mut Bytes) -> Self {
        Self { head, check: head::check_status_line, kind: PhantomData }
    }
}

impl<K: Kind> Head for Laid<'_, K> {
    type Of = K;

    fn lay_out(
        &self,
        room: &mut [u8],
        _: &Origin,
        _: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        room.get_mut(..self.head.len()).ok_or(TooLarge)?.copy_from_slice(self.head);
        Ok(())
    }

    fn take(&mut self, known: &Known) -> Result<(), Broken> {
        (self.check)(known.bytes(), self.head)?;
        *self.head = Bytes::copy_from_slice(known.bytes());
        Ok(())
    }
}

/// A connection, which has addresses only.
pub(crate) struct Connection;

impl Kind for Connection {
    const DIRECTION: Direction = Direction::Request;
    const WANTS: Wants = Wants::OPENED;
    const CHANGES: bool = false;
}

impl Head for Connection {
    type Of = Self;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        _: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_connection(room, origin)
    }

    fn take(&mut self, _: &Known) -> Result<(), Broken> {
        Ok(())
    }
}

/// A head that is being shown.
struct Showing<H> {
    head: H,
    order: Order,
    /// Whose turn it is: a place in the order.
    turn: usize,
    room: Room,
    /// Who changed it last.
    changed: Option<usize>,
    /// The head as it was before the function whose turn it is.
    known: Known,
}

/// How far a head came.
enum Shown {
    /// All have seen it.
    All,
    /// The function at this place decided otherwise.
    Stopped(usize, Step),
    /// The one whose turn it is waits.
    Waits(Waits),
}

impl Inner {
    /// Shows a head to all functions that want it: what follows, and who decided so if it is not to
    /// go on.
    pub(crate) fn head<'a, H: Head + 'a>(
        &'a self,
        head: H,
        body: Option<u64>,
        made: bool,
    ) -> Reply<'a, (usize, Step)> {
        let order = self.order(H::Of::DIRECTION, H::Of::WANTS);
        if order.is_empty() {
            return Reply::Now((0, Step::Continue));
        }
        let lay_out = move |mut room: Room| {
            head.lay_out(room.bytes_mut(), &self.origin, body, made).map(|()| {
                let known = Known::of(room.bytes(), self.chain.scratch());
                Showing { head, order, turn: 0, room, changed: None, known }
            })
        };
        let too_large = || (0, Step::Answer(HeadTooLarge::answer(H::Of::DIRECTION)));
        match self.chain.rooms().take() {
            Some(room) => match lay_out(room) {
                Ok(showing) => showing.begin(self),
                Err(TooLarge) => Reply::Now(too_large()),
            },
            None => Reply::later(async move {
                match self.room().await.map(lay_out) {
                    Some(Ok(showing)) => showing.begin(self).get().await,
                    Some(Err(TooLarge)) => too_large(),
                    None => {
                        (0, Step::Answer(denied(StatusCode::SERVICE_UNAVAILABLE, Denied::Busy)))
                    }
                }
            }),
        }
    }

    /// The answer in place of this function.
    fn refused(&self, place: usize) -> Step {
        Step::Answer(out_of_order(&self.function(place).plan.name))
    }
}

impl<H: Head> Showing<H> {
    fn begin<'a>(mut self, of: &'a Inner) -> Reply<'a, (usize, Step)>
    where
        H: 'a,
    {
        match self.go_on(of) {
            Shown::All => Reply::Now(self.take(of)),
            Shown::Stopped(place, step) => Reply::Now((place, step)),
            Shown::Waits(waits) => Reply::later(self.wait(of, waits)),
        }
    }

    /// Waits with whoever does, to the end.
    async fn wait(mut self, of: &Inner, mut waits: Waits) -> (usize, Step) {
        loop {
            let told = of.wait(waits).await;
            if let Some((place, step)) = self.told(of, told) {
                return (place, step);
            }
            match self.go_on(of) {
                Shown::All => return self.take(of),
                Shown::Stopped(place, step) => return (place, step),
                Shown::Waits(again) => waits = again,
            }
        }
    }

    /// Shows it to one function after the other.
    fn go_on(&mut self, of: &Inner) -> Shown {
        let mut at = of.chain.moment();
        while let Some(&place) = self.order.get(self.turn) {
            let head = self.room.offset();
            let event = match H::Of::DIRECTION {
                Direction::Request => Event::RequestHead { head },
                Direction::Response => Event::ResponseHead { head },
            };
            match of.tell(place, H::Of::DIRECTION, event, || self.room.bytes(), &mut at) {
                Ok(told) => {
                    if let Some((place, step)) = self.told(of, told) {
                        return Shown::Stopped(place, step);
                    }
                }
                Err(waits) => return Shown::Waits(waits),
            }
        }
        Shown::All
    }

    /// What the function whose turn it is said; the next one's turn is come if nothing follows from
    /// it.
    fn told(&mut self, of: &Inner, mut told: Told) -> Option<(usize, Step)> {
        let place = self.order[self.turn];
        if let Told::Outcome(outcome) = &told
            && outcome.changed
            && H::Of::CHANGES
        {
            match self.known.follow(self.room.bytes()) {
                Ok(()) => self.changed = Some(place),
                Err(broken) if of.broke(place, broken.to_string()) => told = Told::Failed,
                Err(_) => told = Told::Skip,
            }
        }
        if let Told::Skip = told {
            self.known.undo(self.room.bytes_mut());
            if H::Of::WANTS == Wants::OPENED {
                // A connection's bytes are nothing to who has not seen it being opened.
                of.seats[place].done.set(true);
            }
        }
        self.turn += 1;
        let outcome = match told {
            Told::Skip => return None,
            Told::Failed => return Some((place, of.refused(place))),
            Told::Answer(response) => return Some((place, Step::Answer(*response))),
            Told::Outcome(outcome) => outcome,
        };
        match outcome.action {
            Action::Continue => None,
            Action::Done => {
                of.seats[place].done.set(true);
                None
            }
            Action::Reset => Some((place, Step::Reset)),
            Action::Answer | Action::Wait | Action::Hold => {
                let what = format!("{:?} means nothing for a head", outcome.action);
                of.broke(place, what).then(|| (place, of.refused(place)))
            }
        }
    }

    /// What was changed is taken over once, when all have seen it.
    fn take(mut self, of: &Inner) -> (usize, Step) {
        of.changed[H::Of::DIRECTION as usize].set(self.changed.is_some());
        let step = match self.changed.map(|place| (place, self.head.take(&self.known))) {
            None => (0, Step::Continue),
            Some((place, Err(broken))) if of.broke(place, broken.to_string()) => {
                (place, of.refused(place))
            }
            Some((place, _)) => (place, Step::Continue),
        };
        of.chain.keep_scratch(self.known.into_bytes());
        step
    }
}
