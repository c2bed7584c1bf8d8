//! What functions asked for, on its way back to them.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use weir_exchange::{CallFault, CallResult, Origin};
use weir_pool::{Part, Rooms};

use crate::context::into_room;
use crate::head;
use crate::instance::Event;
use crate::words;

/// What a function asked for, when it is there.
#[derive(Debug)]
pub(crate) enum Answer {
    Called(CallResult),
    Value(Option<Bytes>),
    Slept,
}

/// The same with the token that it was asked under.
pub(crate) struct Ready {
    pub(crate) token: u32,
    pub(crate) answer: Answer,
}

impl Ready {
    /// Lays it out for `resume`; none if there is no room.
    pub(crate) fn lay_out(self, rooms: &Rooms, origin: &Origin) -> Option<Laid> {
        Laid::new(rooms, origin, self.token, self.answer)
    }
}

/// What a function waits for.
pub(crate) type Asks = FuturesUnordered<LocalBoxFuture<'static, Ready>>;

/// Something that a function asked for and that is there, laid out in rooms that last until it has
/// been told.
pub(crate) struct Laid {
    event: Event,
    _rooms: [Option<Part>; 2],
}

impl Laid {
    pub(crate) fn event(&self) -> Event {
        self.event
    }

    /// Lays out what `resume` tells; none if there is no room.
    fn new(rooms: &Rooms, origin: &Origin, token: u32, ready: Answer) -> Option<Self> {
        let plain = |status| {
            let event = Event::Resume { token, status, head: 0, body: 0, length: 0 };
            Some(Self { event, _rooms: [None, None] })
        };
        match ready {
            Answer::Slept => plain(0),
            Answer::Value(None) => plain(1),
            Answer::Value(Some(value)) => {
                let part = into_room(rooms, &value)?;
                let (body, length) = (part.offset(), u32::try_from(part.len()).ok()?);
                let event = Event::Resume { token, status: 0, head: 0, body, length };
                Some(Self { event, _rooms: [Some(part), None] })
            }
            Answer::Called(Err(error)) => plain(words::call_fault(error)),
            Answer::Called(Ok(response)) => {
                let (parts, body) = response.into_parts();
                let Some(part) = into_room(rooms, &body) else {
                    return plain(words::call_fault(CallFault::TooLong));
                };
                let mut room = rooms.take()?;
                let known = Some(body.len() as u64);
                let laid = head::lay_out_response(room.bytes_mut(), &parts, origin, known, false);
                if laid.is_err() {
                    return plain(words::call_fault(CallFault::NotHttp));
                }
                let status = u32::from(parts.status.as_u16());
                let (head, body) = (room.offset(), part.offset());
                let length = u32::try_from(part.len()).ok()?;
                let event = Event::Resume { token, status, head, body, length };
                let whole = room.bytes().len();
                Some(Self { event, _rooms: [Some(part), Some(room.part(0..whole))] })
            }
        }
    }
}
