//! Pieces of bodies on their way from function to function: what is held back, let go, cut short.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use smallvec::SmallVec;
use weir_exchange::{BodyStep, Direction, Pieces, Reply};
use weir_layout::message::{Action, Outcome, Wants};
use weir_pool::{Part, Room, Rooms};

use crate::exchange::{Inner, Order, out_of_order, plain};
use crate::instance::Event;
use crate::telling::{Told, Waits};

/// A piece in a room, and whose turn it is with it: a place in the order.
struct Turn {
    turn: usize,
    part: Part,
    /// There is nothing of the body after it.
    last: bool,
}

/// What came of a body with one event of the gateway's.
struct Passing {
    direction: Direction,
    order: Order,
    /// What is not in a room yet; none when all of it is.
    rest: Option<Bytes>,
    last: bool,
    /// What is to be shown, the next one at the end.
    turns: SmallVec<[Turn; 2]>,
    passed: Pieces,
}

/// How far it came.
enum Passed {
    /// All of it was let go, or is held back.
    All,
    /// The function at this place ended the body before its time.
    Stopped(usize, BodyStep),
    /// There is no room for the next piece.
    NoRoom,
    /// A function waits with this.
    Waits(Waits, Turn),
}

/// Bytes that leave the chain. They are sent as they lie in their room; but if few rooms are free
/// they are copied, lest clients that take nothing keep rooms from everybody else.
pub(crate) fn let_go(rooms: &Rooms, part: Part) -> Bytes {
    let scarce = {
        let pool = rooms.lock();
        pool.available() < pool.rooms() / 2
    };
    if scarce { Bytes::copy_from_slice(part.as_ref()) } else { Bytes::from_owner(part) }
}

impl Inner {
    /// Shows a piece to all functions that want it: what goes on.
    pub(crate) fn piece(
        self: Rc<Self>,
        direction: Direction,
        wants: Wants,
        piece: Bytes,
        last: bool,
    ) -> Reply<'static, BodyStep> {
        let mut passing = match self.passing(direction, wants, piece, last) {
            Ok(passing) => passing,
            Err(piece) => return Reply::Now(BodyStep::Pass(Pieces::from_iter([piece]))),
        };
        match passing.go_on(&self) {
            Passed::All => Reply::Now(BodyStep::Pass(passing.passed)),
            Passed::Stopped(_, BodyStep::Reset) => Reply::Now(BodyStep::Reset),
            passed => Reply::later(async move {
                let (place, step) = passing.finish(&self, passed).await;
                let BodyStep::Answer(response) = step else { return step };
                if wants == Wants::DATA {
                    // A connection has nobody to answer to.
                    return BodyStep::Reset;
                }
                match self.answered(place, response).await {
                    weir_exchange::Step::Answer(response) => BodyStep::Answer(response),
                    _ => BodyStep::Reset,
                }
            }),
        }
    }

    /// The same for a piece of an answer, with who decided otherwise.
    pub(crate) async fn body(
        &self,
        direction: Direction,
        wants: Wants,
        piece: Bytes,
        last: bool,
    ) -> (usize, BodyStep) {
        match self.passing(direction, wants, piece, last) {
            Ok(mut passing) => {
                let passed = passing.go_on(self);
                passing.finish(self, passed).await
            }
            Err(piece) => (0, BodyStep::Pass(Pieces::from_iter([piece]))),
        }
    }

    /// Gives the piece back if nobody wants it.
    fn passing(
        &self,
        direction: Direction,
        wants: Wants,
        piece: Bytes,
        last: bool,
    ) -> Result<Passing, Bytes> {
        let order = self.order(direction, wants);
        if order.is_empty() {
            return Err(piece);
        }
        let (rest, turns, passed) = (Some(piece), SmallVec::new(), Pieces::new());
        Ok(Passing { direction, order, rest, last, turns, passed })
    }

    /// What becomes of a body that cannot go past this function.
    fn cut_off(&self, place: usize, direction: Direction) -> BodyStep {
        match direction {
            Direction::Request => BodyStep::Answer(out_of_order(&self.function(place).plan.name)),
            Direction::Response => BodyStep::Reset,
        }
    }
}

impl Passing {
    /// Waits for what stands in its way, to the end.
    async fn finish(mut self, of: &Inner, mut passed: Passed) -> (usize, BodyStep) {
        loop {
            match passed {
                Passed::All => return (0, BodyStep::Pass(self.passed)),
                Passed::Stopped(place, step) => return (place, step),
                Passed::NoRoom => match of.room().await {
                    Some(room) => self.fill(of, room),
                    None => return (0, BodyStep::Reset),
                },
                Passed::Waits(waits, turn) => {
                    let told = of.wait(waits).await;
                    if let Some((place, step)) = self.told(of, turn, told) {
                        return (place, step);
                    }
                }
            }
            passed = self.go_on(of);
        }
    }

    /// Shows all pieces to one function after the other.
    fn go_on(&mut self, of: &Inner) -> Passed {
        let mut at = of.chain.moment();
        loop {
            let Some(Turn { turn, part, last }) = self.turns.pop() else {
                if self.rest.is_none() {
                    return Passed::All;
                }
                match of.chain.rooms().take() {
                    Some(room) => self.fill(of, room),
                    None => return Passed::NoRoom,
                }
                continue;
            };
            let Some(&place) = self.order.get(turn) else {
                if !part.is_empty() {
                    self.passed.push(let_go(of.chain.rooms(), part));
                }
                continue;
            };
            if of.seats[place].done.get() {
                self.turns.push(Turn { turn: turn + 1, part, last });
                continue;
            }
            // A room has at most 65,536 bytes.
            let (offset, length) = (part.offset(), part.len() as u32);
            let event = match self.direction {
                Direction::Request => Event::RequestBody { offset, length, last },
                Direction::Response => Event::ResponseBody { offset, length, last },
            };
            let told = of.tell(place, self.direction, event, || part.as_ref(), &mut at);
            let turn = Turn { turn, part, last };
            match told {
                Ok(told) => {
                    if let Some((place, step)) = self.told(of, turn, told) {
                        return Passed::Stopped(place, step);
                    }
                }
                Err(waits) => return Passed::Waits(waits, turn),
            }
        }
    }

    /// Puts the next piece of the rest into a room.
    fn fill(&mut self, of: &Inner, mut room: Room) {
        let Some(mut rest) = self.rest.take() else { return };
        let chunk = rest.split_to(rest.len().min(of.chain.piece_max()));
        room.bytes_mut()[..chunk.len()].copy_from_slice(&chunk);
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
        let last = self.last && self.rest.is_none();
        self.turns.push(Turn { turn: 0, part: room.part(0..chunk.len()), last });
    }

    /// What the function whose turn it was said; how the body ends, if it does.
    fn told(&mut self, of: &Inner, turn: Turn, told: Told) -> Option<(usize, BodyStep)> {
        let Turn { turn, mut part, last } = turn;
        let (place, direction) = (self.order[turn], self.direction);
        let outcome = match told {
            Told::Outcome(outcome) => outcome,
            Told::Skip => Outcome::default(),
            Told::Answer(response) => return Some((place, BodyStep::Answer(*response))),
            Told::Failed => return Some((place, of.cut_off(place, direction))),
        };
        let wrong = if outcome.changed && !part.set_len(outcome.length as usize) {
            Some(format!("it makes a piece {} bytes long, which its room is not", outcome.length))
        } else if matches!(outcome.action, Action::Answer | Action::Wait) {
            Some(format!("{:?} without an answer", outcome.action))
        } else {
            None
        };
        if let Some(wrong) = wrong
            && of.broke(place, wrong)
        {
            return Some((place, of.cut_off(place, direction)));
        }
        if outcome.action == Action::Reset {
            return Some((place, BodyStep::Reset));
        }
        if outcome.replaced && !part.set_len(0) {
            return Some((place, BodyStep::Reset));
        }
        let flow = &of.flows[direction as usize];
        if outcome.action == Action::Hold && !last {
            let ((bytes, pieces), (most_bytes, most_pieces)) = (flow.holds(), of.chain.hold());
            if bytes + part.len() > most_bytes || pieces >= most_pieces {
                let status = match direction {
                    Direction::Request => StatusCode::PAYLOAD_TOO_LARGE,
                    Direction::Response => StatusCode::BAD_GATEWAY,
                };
                return Some((place, BodyStep::Answer(plain(status))));
            }
            flow.hold(place, part);
            return None;
        }
        if outcome.action == Action::Done {
            of.seats[place].done.set(true);
        }
        let held = flow.release(place);
        self.turns.push(Turn { turn: turn + 1, part, last });
        let held = held.into_iter().rev();
        self.turns.extend(held.map(|part| Turn { turn: turn + 1, part, last: false }));
        None
    }
}
