//! Heads on their way from function to function.
//!
//! A head is laid out once, in a room that all see, and taken over once, when all have seen it. It stays within the call that brings
//! it unless a function waits, or there is no room.

use bytes::Bytes;
use http::{StatusCode, request, response};
use weir_exchange::{Direction, Origin, Reply, Step};
use weir_layout::message::{Action, Wants};
use weir_pool::Room;

use crate::exchange::{Inner, Order, out_of_order, plain};
use crate::head::{self, Broken, TooLarge};
use crate::instance::Event;
use crate::telling::{Told, Waits};

/// What can be laid out as a head.
pub(crate) trait Head {
    /// Which way it goes.
    const DIRECTION: Direction;
    /// The event that it is.
    const WANTS: Wants;
    /// The status if it is larger than a room.
    const TOO_LARGE: StatusCode;
    /// Whether functions may change it.
    const CHANGES: bool = true;

    /// Lays it out; `made` if a function made it.
    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        made: bool,
    ) -> Result<(), TooLarge>;

    /// Takes over what functions made of it.
    fn take(&mut self, room: &[u8]) -> Result<(), Broken>;
}

impl Head for &mut request::Parts {
    const DIRECTION: Direction = Direction::Request;
    const WANTS: Wants = Wants::REQUEST_HEAD;
    const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_request(room, self, origin, body)
    }

    fn take(&mut self, room: &[u8]) -> Result<(), Broken> {
        head::take_request(room, self)
    }
}

impl Head for &mut response::Parts {
    const DIRECTION: Direction = Direction::Response;
    const WANTS: Wants = Wants::RESPONSE_HEAD;
    const TOO_LARGE: StatusCode = StatusCode::BAD_GATEWAY;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        body: Option<u64>,
        made: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_response(room, self, origin, body, made)
    }

    fn take(&mut self, room: &[u8]) -> Result<(), Broken> {
        head::take_response(room, self)
    }
}

/// A request's head that is laid out already, by whoever has the exchange, for a room of the same size. What functions make of it
/// lies in its place afterwards.
pub(crate) struct LaidRequest<'a>(pub(crate) &'a mut Bytes);

impl Head for LaidRequest<'_> {
    const DIRECTION: Direction = Direction::Request;
    const WANTS: Wants = Wants::REQUEST_HEAD;
    const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;

    fn lay_out(
        &self,
        room: &mut [u8],
        _: &Origin,
        _: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        copy(self.0, room)
    }

    fn take(&mut self, room: &[u8]) -> Result<(), Broken> {
        head::check_request_line(room, self.0)?;
        *self.0 = Bytes::copy_from_slice(head::used(room)?);
        Ok(())
    }
}

/// The same for a response's.
pub(crate) struct LaidResponse<'a>(pub(crate) &'a mut Bytes);

impl Head for LaidResponse<'_> {
    const DIRECTION: Direction = Direction::Response;
    const WANTS: Wants = Wants::RESPONSE_HEAD;
    const TOO_LARGE: StatusCode = StatusCode::BAD_GATEWAY;

    fn lay_out(
        &self,
        room: &mut [u8],
        _: &Origin,
        _: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        copy(self.0, room)
    }

    fn take(&mut self, room: &[u8]) -> Result<(), Broken> {
        head::check_status(room)?;
        *self.0 = Bytes::copy_from_slice(head::used(room)?);
        Ok(())
    }
}

fn copy(laid: &[u8], room: &mut [u8]) -> Result<(), TooLarge> {
    room.get_mut(..laid.len()).ok_or(TooLarge)?.copy_from_slice(laid);
    Ok(())
}

/// A connection, which has addresses only.
pub(crate) struct Connection;

impl Head for Connection {
    const DIRECTION: Direction = Direction::Request;
    const WANTS: Wants = Wants::OPENED;
    const TOO_LARGE: StatusCode = StatusCode::BAD_REQUEST;
    const CHANGES: bool = false;

    fn lay_out(
        &self,
        room: &mut [u8],
        origin: &Origin,
        _: Option<u64>,
        _: bool,
    ) -> Result<(), TooLarge> {
        head::lay_out_connection(room, origin)
    }

    fn take(&mut self, _: &[u8]) -> Result<(), Broken> {
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
    /// The head as it was before the function whose turn it is, if that may have to be passed by with what it broke undone.
    before: Option<Vec<u8>>,
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
    /// Shows a head to all functions that want it: what follows, and who decided so if it is not to go on.
    pub(crate) fn head<'a, H: Head + 'a>(
        &'a self,
        head: H,
        body: Option<u64>,
        made: bool,
    ) -> Reply<'a, (usize, Step)> {
        let order = self.order(H::DIRECTION, H::WANTS);
        if order.is_empty() {
            return Reply::Now((0, Step::Continue));
        }
        let lay_out = move |mut room: Room| {
            let laid = head.lay_out(room.bytes_mut(), &self.origin, body, made);
            laid.map(|()| Showing { head, order, turn: 0, room, changed: None, before: None })
        };
        let too_large = || (0, Step::Answer(plain(H::TOO_LARGE)));
        match self.chain.rooms().take() {
            Some(room) => match lay_out(room) {
                Ok(showing) => showing.begin(self),
                Err(TooLarge) => Reply::Now(too_large()),
            },
            None => Reply::later(async move {
                match self.room().await.map(lay_out) {
                    Some(Ok(showing)) => showing.begin(self).get().await,
                    Some(Err(TooLarge)) => too_large(),
                    None => (0, Step::Answer(plain(StatusCode::SERVICE_UNAVAILABLE))),
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
            self.before = of
                .function(place)
                .fails_open()
                .then(|| head::used(self.room.bytes()).unwrap_or_default().to_vec());
            let head = self.room.offset();
            let event = match H::DIRECTION {
                Direction::Request => Event::RequestHead { head },
                Direction::Response => Event::ResponseHead { head },
            };
            match of.tell(place, H::DIRECTION, event, self.room.bytes(), &mut at) {
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

    /// What the function whose turn it is said; the next one's turn is come if nothing follows from it.
    fn told(&mut self, of: &Inner, mut told: Told) -> Option<(usize, Step)> {
        let place = self.order[self.turn];
        if let Told::Outcome(outcome) = &told
            && outcome.changed
            && H::CHANGES
        {
            match head::check(self.room.bytes()) {
                Ok(()) => self.changed = Some(place),
                Err(broken) if of.broke(place, broken.to_string()) => told = Told::Failed,
                Err(_) => told = Told::Skip,
            }
        }
        if let (Told::Skip, Some(before)) = (&told, &self.before) {
            self.room.bytes_mut()[..before.len()].copy_from_slice(before);
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
        of.changed[H::DIRECTION as usize].set(self.changed.is_some());
        let Some(place) = self.changed else { return (0, Step::Continue) };
        match self.head.take(self.room.bytes()) {
            Err(broken) if of.broke(place, broken.to_string()) => (place, of.refused(place)),
            _ => (place, Step::Continue),
        }
    }
}
