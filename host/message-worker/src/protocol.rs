//! What gateway and worker say to each other about exchanges: a descriptor of the hop names
//! exchange and kind; numbers and bytes lie in the rings. Heads are laid out as functions see them
//! (`wit/message.md`).

use bytes::Bytes;
use weir_exchange::{Broken, CallFault, Denied, Direction, Ended, Interests, Kind};

/// Bytes in front of a message's own: `a`, `b`, `c`.
pub(crate) const PREFIX: usize = 16;

/// Gateway: a request's head. `a`: what the exchange is ([`of_kind`]), as in all that one can begin
/// with; `b`: the event's number.
pub(crate) const REQUEST_HEAD: u8 = 1;
/// Gateway: a response's head, as above.
pub(crate) const RESPONSE_HEAD: u8 = 2;
/// Gateway: where an exchange comes from whose first event has no head. No answer.
pub(crate) const OPEN: u8 = 3;
/// Gateway: a connection. `b`: the event's number.
pub(crate) const OPENED: u8 = 4;
/// Gateway: a piece. `a`: direction, [`LAST`]; `b`: the event's number.
pub(crate) const BODY: u8 = 5;
/// Gateway: the exchange is over. `a`: how; `b`: upstream + 1; `c`: nanoseconds.
pub(crate) const END: u8 = 6;
/// Gateway: a call's answer; the exchange is the call. `a`: 0, or why there is none; `b`: bytes of
/// the head.
pub(crate) const CALLED: u8 = 7;
/// Gateway: the store's answer; the exchange is the question. `a`: whether there is a value.
pub(crate) const STORED: u8 = 8;

/// Gateway: whether it is there. Answered with [`HERE`].
pub(crate) const ALIVE: u8 = 9;
/// Gateway: which parts the exchange has, which comes from there. Answered by a step of [`PARTED`].
/// `b`: the event's number.
pub(crate) const PARTS: u8 = 10;
/// Gateway: the exchange is a part of another one, of functions that are told of events. `a`: that
/// one; `b`: the part's place.
pub(crate) const PART: u8 = 11;
/// Gateway: a request for a service; the exchange is the visit. `a`: the exchange it is of; `b`:
/// the part's place; `c`: bytes of its body + 1, 0 if that is not known.
pub(crate) const SERVE: u8 = 12;
/// Gateway: nobody waits for the visit's response any more.
pub(crate) const GONE: u8 = 13;
/// Gateway: the response to what a service sent on; the exchange is the call. `a`: 0, or why there
/// is none; `c`: as above.
pub(crate) const ARRIVED: u8 = 14;

/// Worker: what became of an event. `a`: step, direction << 8, done << 16, [`OVER`], [`denied`];
/// `b`: the event's number; `c`: upstream + 1.
pub(crate) const STEP: u8 = 101;
/// Worker: bytes that belong to the step that comes. `a`: direction << 8; `b`: the event's number.
pub(crate) const PIECE: u8 = 102;
/// Worker: a request of a function's own, its pieces before it. `a`: upstream; `b`: milliseconds;
/// `c`: bytes of the answer at most.
pub(crate) const CALL: u8 = 103;
/// Worker: bytes that belong to the call that comes.
pub(crate) const CALL_PIECE: u8 = 104;
/// Worker: something for the store. `a`: which; `b`: bytes of the key; `c`: milliseconds that it
/// lives, 0 for no end.
pub(crate) const STORE: u8 = 105;
/// Worker: the chain as it is now. `a`: events that it wants, in bits; `b`: how many versions of it
/// were replaced.
pub(crate) const CHAIN: u8 = 106;
/// Worker: it is there.
pub(crate) const HERE: u8 = 107;
/// Worker: a service's response; the exchange is the visit. `a`: [`denied`]; `c`: as above.
pub(crate) const SERVED: u8 = 108;
/// Worker: the service has no more to do with the visit.
pub(crate) const LEFT: u8 = 109;
/// Worker: a service sends a request on; the exchange is the call. `a`: the visit; `b`: upstream +
/// 1; `c`: as above.
pub(crate) const ONWARD: u8 = 110;
/// Worker: nobody waits for the call's response any more.
pub(crate) const CALLED_OFF: u8 = 111;

/// Both: a frame of a body. `a`: which body, kind << 8, [`LAST_FRAME`]; `b`: why it broke.
pub(crate) const FRAME: u8 = 120;
/// Both: the next frame may come. `a`: which body.
pub(crate) const MORE: u8 = 121;
/// Both: nobody wants any more of a body. `a`: which.
pub(crate) const UNWANTED: u8 = 122;

/// Of a frame: bytes, perhaps none.
pub(crate) const DATA_FRAME: u32 = 0;
/// Of a frame: trailers, laid out as a response's head.
pub(crate) const TRAILERS: u32 = 1;
/// Of a frame: there is none, because the body broke.
pub(crate) const BROKEN: u32 = 2;
/// No frame comes after this one.
pub(crate) const LAST_FRAME: u32 = 1 << 16;

/// Of an answer, and of a service's response: why no function made it, from this bit on; 0 if one
/// did.
const DENIED: u32 = 19;

/// Of a step: no function wants to hear of the exchange any more, and the worker has forgotten it.
/// There is no [`END`].
pub(crate) const OVER: u32 = 1 << 18;

/// No more bytes after these.
pub(crate) const LAST: u32 = 2;

/// Go on; for a piece, with these bytes in its place.
pub(crate) const CONTINUE: u8 = 0;
/// Go on with this head.
pub(crate) const CHANGED: u8 = 1;
/// An answer.
pub(crate) const ANSWER: u8 = 2;
/// Reset.
pub(crate) const RESET: u8 = 3;
/// Go on with the piece as it was.
pub(crate) const SAME: u8 = 4;
/// These are the parts: a byte for each, 1 for a service.
pub(crate) const PARTED: u8 = 5;

/// What is asked of the store.
pub(crate) const STORE_GET: u32 = 0;
/// The value lies behind the key.
pub(crate) const STORE_SET: u32 = 1;
/// What is added, 8 bytes, lies behind the key.
pub(crate) const STORE_ADD: u32 = 2;

/// A message, copied out of the rings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) exchange: u32,
    pub(crate) kind: u8,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u64,
    pub(crate) bytes: Bytes,
}

pub(crate) fn directions(done: [bool; 2]) -> u32 {
    u32::from(done[0]) << 16 | u32::from(done[1]) << 17
}

pub(crate) fn other(number: u32) -> Direction {
    if number & 1 == 0 { Direction::Request } else { Direction::Response }
}

pub(crate) fn interests(bits: u32) -> Interests {
    let bit = |n: u32| bits & 1 << n != 0;
    Interests {
        request_head: bit(0),
        request_body: bit(1),
        response_head: bit(2),
        response_body: bit(3),
        opened: bit(4),
        data: bit(5),
    }
}

pub(crate) fn bits(of: Interests) -> u32 {
    let all =
        [of.request_head, of.request_body, of.response_head, of.response_body, of.opened, of.data];
    all.into_iter().enumerate().map(|(n, on)| u32::from(on) << n).sum()
}

const KINDS: [Kind; 3] = [Kind::Request, Kind::Connection, Kind::HttpConnection];

pub(crate) fn of_kind(kind: Kind) -> u32 {
    KINDS.iter().position(|other| *other == kind).unwrap_or(0) as u32
}

pub(crate) fn kind(number: u32) -> Kind {
    KINDS.get(number as usize).copied().unwrap_or(Kind::Request)
}

const ENDS: [Ended; 5] =
    [Ended::Delivered, Ended::ClientGone, Ended::UpstreamFailed, Ended::Answered, Ended::Reset];

pub(crate) fn how(ended: Ended) -> u32 {
    ENDS.iter().position(|end| *end == ended).unwrap_or(1) as u32
}

pub(crate) fn ended(how: u32) -> Ended {
    ENDS.get(how as usize).copied().unwrap_or(Ended::ClientGone)
}

const FAULTS: [CallFault; 4] =
    [CallFault::Timeout, CallFault::Unreachable, CallFault::NotHttp, CallFault::TooLong];

pub(crate) fn why(fault: CallFault) -> u32 {
    1 + FAULTS.iter().position(|other| *other == fault).unwrap_or(1) as u32
}

pub(crate) fn fault(why: u32) -> CallFault {
    FAULTS.get((why as usize).wrapping_sub(1)).copied().unwrap_or(CallFault::Unreachable)
}

const BREAKS: [Broken; 6] = [
    Broken::Client,
    Broken::ClientSlow,
    Broken::TooLarge,
    Broken::Upstream,
    Broken::UpstreamSlow,
    Broken::Function,
];

pub(crate) fn why_broken(broken: Broken) -> u32 {
    BREAKS.iter().position(|other| *other == broken).unwrap_or(BREAKS.len() - 1) as u32
}

pub(crate) fn broken(why: u32) -> Option<Broken> {
    BREAKS.get(why as usize).copied()
}

const DENIALS: [Denied; 4] =
    [Denied::NoChain, Denied::OutOfOrder, Denied::Busy, Denied::NoResponse];

/// In `a`.
pub(crate) fn denied(why: Option<&Denied>) -> u32 {
    let place = why.and_then(|why| DENIALS.iter().position(|other| other == why));
    place.map_or(0, |place| (place as u32 + 1) << DENIED)
}

/// From `a`.
pub(crate) fn why_denied(a: u32) -> Option<Denied> {
    DENIALS.get((a >> DENIED & 7).checked_sub(1)? as usize).copied()
}

/// A body's length, as a message says it.
pub(crate) fn said_length(length: Option<u64>) -> u64 {
    length.map_or(0, |length| length.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_the_same_on_both_sides() {
        for bits_of in 0..64 {
            assert_eq!(bits(interests(bits_of)), bits_of);
        }
        assert!(KINDS.iter().all(|of| kind(of_kind(*of)) == *of));
        assert!(ENDS.iter().all(|end| ended(how(*end)) == *end));
        assert!(FAULTS.iter().all(|f| fault(why(*f)) == *f));
        assert!(DENIALS.iter().all(|d| why_denied(denied(Some(d)) | OVER) == Some(*d)));
        assert_eq!(why_denied(u32::from(ANSWER) | OVER | denied(None)), None);
        assert!(BREAKS.iter().all(|b| broken(why_broken(*b)) == Some(*b)));
    }
}
