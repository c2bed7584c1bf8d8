//! Bodies that cross the rings as they come, frame by frame: those of requests and responses of
//! services.
//!
//! Owns: one frame at a time in each stream. Who sends one waits until it is asked for the next,
//! and the other side asks when somebody has taken the last; the first goes with the head. So no
//! more than two frames of a stream are under way, however slow its reader is. Both sides do the
//! same; what the worker says is checked here. Must not know: what a body belongs to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustc_hash::FxBuildHasher;
use tokio::sync::mpsc;
use weir_exchange::{Broken, Stream};
use weir_message::head;

use crate::gateway::nowhere;
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::{Breach, Side};

/// Bytes of a frame that one message carries.
const FRAME_MAX: usize = 64 << 10;
/// Bytes of a head, trailers included: what can be laid out.
const HEAD_MAX: usize = 64 << 10;

/// Which body of what a number names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// A request's, to a service in the worker.
    Request,
    /// That service's response's.
    Response,
    /// That of a request which a service sends on.
    CallRequest,
    /// That of its response.
    CallResponse,
}

/// A body.
pub(crate) type Id = (u32, Way);

/// Sends a message to the other side, and says how many were to be sent so far; whoever is gone
/// hears nothing.
pub(crate) type Say = Rc<dyn Fn(Message) -> u64>;

impl Way {
    const ALL: [Self; 4] = [Self::Request, Self::Response, Self::CallRequest, Self::CallResponse];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    fn sender(self) -> Side {
        match self {
            Self::Request | Self::CallResponse => Side::Gateway,
            Self::Response | Self::CallRequest => Side::Worker,
        }
    }
}

/// A body that is to be sent, for those who may have to take it back.
pub(crate) struct Source {
    body: RefCell<Stream>,
    begun: Cell<bool>,
}

impl Source {
    pub(crate) fn new(body: Stream) -> Rc<Self> {
        Rc::new(Self { body: RefCell::new(body), begun: Cell::new(false) })
    }

    /// All of it, if nothing was taken from it.
    pub(crate) fn whole(&self) -> Option<Stream> {
        (!self.begun.get()).then(|| self.body.replace(nothing()))
    }
}

/// A body that goes to the other side.
#[derive(Default)]
struct Going {
    asked: Cell<bool>,
    /// How many messages were to be sent when its last frame was.
    last: Cell<u64>,
    /// Nobody wants it any more.
    unwanted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A body that comes.
#[derive(Default)]
struct Coming {
    asked: Cell<bool>,
    got: RefCell<Option<Got>>,
    waker: RefCell<Option<Waker>>,
}

type Got = Result<Piece, Broken>;

struct Piece {
    frame: Option<Frame<Bytes>>,
    last: bool,
}

fn wake(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    waker.inspect(Waker::wake_by_ref);
}

fn watch(waker: &RefCell<Option<Waker>>, context: &Context<'_>) {
    *waker.borrow_mut() = Some(context.waker().clone());
}

type Table<T> = RefCell<HashMap<Id, Rc<T>, FxBuildHasher>>;

fn forget<T>(table: &Table<T>, id: Id, of: &Rc<T>) {
    let mut table = table.borrow_mut();
    // Another worker may have begun one of the same number.
    if table.get(&id).is_some_and(|other| Rc::ptr_eq(other, of)) {
        table.remove(&id);
    }
}

/// All bodies between the two sides. See the module.
pub(crate) struct Streams {
    side: Side,
    going: Table<Going>,
    coming: Table<Coming>,
    /// Heads are laid out here.
    room: RefCell<Box<[u8]>>,
}

impl Streams {
    pub(crate) fn new(side: Side) -> Rc<Self> {
        let room = RefCell::new(vec![0; HEAD_MAX].into());
        Rc::new(Self { side, going: RefCell::default(), coming: RefCell::default(), room })
    }

    /// A head, laid out; none if it does not fit.
    pub(crate) fn lay_out(
        &self,
        lay: impl FnOnce(&mut [u8]) -> Result<(), head::TooLarge>,
    ) -> Option<Bytes> {
        let mut room = self.room.borrow_mut();
        lay(&mut room).ok()?;
        let used = head::length(&mut room);
        Some(Bytes::copy_from_slice(&room[..used]))
    }

    /// Bodies that go to the other side.
    pub(crate) fn going(&self) -> usize {
        self.going.borrow().len()
    }

    /// What the other side says of a body, when so many messages had been sent to it.
    ///
    /// # Errors
    /// When it cannot mean it.
    pub(crate) fn told(&self, message: Message, sent: u64) -> Result<(), Breach> {
        let way = Way::of(message.a & 0xff).ok_or(Breach("a body goes no way that there is"))?;
        let id = (message.exchange, way);
        let sends = way.sender() == self.side;
        if sends == (message.kind == say::FRAME) {
            return Err(Breach("a body goes the other way"));
        }
        if sends {
            let going = self.going.borrow().get(&id).cloned();
            // It may have ended meanwhile.
            let Some(going) = going else { return Ok(()) };
            if message.kind == say::MORE {
                // Else frames that it does not read would pile up here.
                if going.last.get() > sent {
                    return Err(Breach("it asks for a frame before it has had the last"));
                }
                going.asked.set(true);
            } else {
                going.unwanted.set(true);
            }
            wake(&going.waker);
            return Ok(());
        }
        let coming = self.coming.borrow().get(&id).cloned();
        // It may have been given up meanwhile.
        let Some(coming) = coming else { return Ok(()) };
        if !coming.asked.replace(false) {
            return Err(Breach("a frame comes that nobody asked for"));
        }
        *coming.got.borrow_mut() = Some(got(message)?);
        wake(&coming.waker);
        Ok(())
    }

    /// The other side is gone: whoever reads what comes is told.
    pub(crate) fn lost(&self) {
        let going = std::mem::take(&mut *self.going.borrow_mut());
        for going in going.into_values() {
            going.unwanted.set(true);
            wake(&going.waker);
        }
        let coming = std::mem::take(&mut *self.coming.borrow_mut());
        for coming in coming.into_values() {
            coming.asked.set(false);
            let mut got = coming.got.borrow_mut();
            if !got.as_ref().is_some_and(|got| got.as_ref().is_ok_and(|piece| piece.last)) {
                *got = Some(Err(Broken::Function));
            }
            drop(got);
            wake(&coming.waker);
        }
    }

    /// Sends a body, whose head goes before; to be driven.
    pub(crate) fn send(
        self: &Rc<Self>,
        id: Id,
        source: Rc<Source>,
        say: Say,
    ) -> impl Future<Output = ()> + 'static {
        let going = Rc::new(Going { asked: Cell::new(true), ..Going::default() });
        self.going.borrow_mut().insert(id, Rc::clone(&going));
        let streams = Rc::clone(self);
        async move {
            let mut rest = Bytes::new();
            let mut ends = false;
            loop {
                let next = poll_fn(|context| next(&going, &source, rest.is_empty(), context)).await;
                let frame = match next {
                    Next::Unwanted => break,
                    Next::Rest => Ok((what(say::DATA_FRAME), Bytes::new())),
                    Next::End => {
                        ends = true;
                        Ok((what(say::DATA_FRAME), Bytes::new()))
                    }
                    Next::Frame(frame, last) => {
                        ends = last;
                        match frame.into_data() {
                            Ok(data) if data.is_empty() && !last => continue,
                            Ok(data) => {
                                rest = data;
                                Ok((what(say::DATA_FRAME), Bytes::new()))
                            }
                            Err(frame) => streams.trailers(frame),
                        }
                    }
                    Next::Broken(broken) => Err(broken),
                };
                let (exchange, kind) = (id.0, say::FRAME);
                let message = Message { exchange, kind, a: id.1 as u32, ..Message::default() };
                going.asked.set(false);
                match frame {
                    Ok((what, trailers)) => {
                        let piece = rest.split_to(rest.len().min(FRAME_MAX));
                        let is_last = ends && rest.is_empty();
                        let last = if is_last { say::LAST_FRAME } else { 0 };
                        let bytes = if trailers.is_empty() { piece } else { trailers };
                        let a = message.a | what | last;
                        going.last.set(say(Message { a, bytes, ..message }));
                        if is_last {
                            break;
                        }
                    }
                    Err(broken) => {
                        let (a, b) = (message.a | what(say::BROKEN), say::why_broken(broken));
                        say(Message { a, b, ..message });
                        break;
                    }
                }
            }
            forget(&streams.going, id, &going);
        }
    }

    fn trailers(&self, frame: Frame<Bytes>) -> Result<(u32, Bytes), Broken> {
        let Ok(trailers) = frame.into_trailers() else {
            return Ok((what(say::DATA_FRAME), Bytes::new()));
        };
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.headers = trailers;
        let laid =
            self.lay_out(|room| head::lay_out_response(room, &parts, &nowhere(), None, true));
        laid.map(|laid| (what(say::TRAILERS), laid)).ok_or(Broken::TooLarge)
    }

    /// A body that comes, and what has it come, to be driven. `length`: bytes of it, if that is
    /// known: it breaks if there are others.
    pub(crate) fn receive(
        self: &Rc<Self>,
        id: Id,
        length: Option<u64>,
        say: Say,
    ) -> (Stream, impl Future<Output = ()> + 'static) {
        let (pieces, taken) = mpsc::channel(1);
        let coming = Rc::new(Coming { asked: Cell::new(true), ..Coming::default() });
        self.coming.borrow_mut().insert(id, Rc::clone(&coming));
        let streams = Rc::clone(self);
        let comes = async move {
            let word =
                |kind| Message { exchange: id.0, kind, a: id.1 as u32, ..Message::default() };
            let mut first = true;
            loop {
                let Ok(room) = pieces.reserve().await else {
                    say(word(say::UNWANTED));
                    break;
                };
                if !std::mem::take(&mut first) {
                    coming.asked.set(true);
                    say(word(say::MORE));
                }
                let mut closed = pin!(pieces.closed());
                let got = poll_fn(|context| {
                    if let Some(got) = coming.got.borrow_mut().take() {
                        return Poll::Ready(Some(got));
                    }
                    watch(&coming.waker, context);
                    closed.as_mut().poll(context).map(|()| None)
                });
                let Some(got) = got.await else {
                    say(word(say::UNWANTED));
                    break;
                };
                let goes_on = got.as_ref().is_ok_and(|piece| !piece.last);
                room.send(got);
                if !goes_on {
                    break;
                }
            }
            forget(&streams.coming, id, &coming);
        };
        (Box::pin(Arriving { pieces: taken, left: length, end: None }), comes)
    }
}

fn what(kind: u32) -> u32 {
    kind << 8
}

enum Next {
    Unwanted,
    Rest,
    Frame(Frame<Bytes>, bool),
    End,
    Broken(Broken),
}

fn next(going: &Going, source: &Source, fresh: bool, context: &mut Context<'_>) -> Poll<Next> {
    if going.unwanted.get() {
        return Poll::Ready(Next::Unwanted);
    }
    watch(&going.waker, context);
    if !going.asked.get() {
        return Poll::Pending;
    }
    if !fresh {
        return Poll::Ready(Next::Rest);
    }
    let mut body = source.body.borrow_mut();
    let frame = ready!(body.as_mut().poll_frame(context));
    source.begun.set(true);
    Poll::Ready(match frame {
        None => Next::End,
        Some(Ok(frame)) => Next::Frame(frame, body.is_end_stream()),
        Some(Err(broken)) => Next::Broken(broken),
    })
}

fn got(message: Message) -> Result<Got, Breach> {
    let last = message.a & say::LAST_FRAME != 0;
    let frame = match message.a >> 8 & 0xff {
        say::DATA_FRAME if message.bytes.len() > FRAME_MAX => {
            return Err(Breach("a frame is too long"));
        }
        say::DATA_FRAME if message.bytes.is_empty() => None,
        say::DATA_FRAME => Some(Frame::data(message.bytes)),
        say::TRAILERS => {
            let trailers = head::new_response(&message.bytes);
            let trailers = trailers.map_err(|_| Breach("trailers are broken"))?;
            Some(Frame::trailers(trailers.headers))
        }
        say::BROKEN => {
            let broken = say::broken(message.b);
            return Ok(Err(broken.ok_or(Breach("a body breaks in no way that there is"))?));
        }
        _ => return Err(Breach("a frame is of no kind that there is")),
    };
    Ok(Ok(Piece { frame, last }))
}

/// No body.
pub(crate) fn nothing() -> Stream {
    let (_, pieces) = mpsc::channel(1);
    Box::pin(Arriving { pieces, left: Some(0), end: Some(None) })
}

/// Bytes of a body, if that is known.
pub(crate) fn length(body: &Stream) -> Option<u64> {
    if body.is_end_stream() { Some(0) } else { body.size_hint().exact() }
}

/// A body that comes, for whoever reads it.
struct Arriving {
    pieces: mpsc::Receiver<Got>,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
    /// There is nothing more but perhaps this.
    end: Option<Option<Broken>>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        loop {
            if let Some(end) = &mut this.end {
                return Poll::Ready(end.take().map(Err));
            }
            // Without its end, it is not whole.
            let got = ready!(this.pieces.poll_recv(context)).unwrap_or(Err(Broken::Function));
            let Piece { frame, last } = match got {
                Ok(piece) => piece,
                Err(broken) => {
                    this.end = Some(Some(broken));
                    continue;
                }
            };
            let data = frame.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
            if let Some(left) = &mut this.left {
                let Some(less) = left.checked_sub(data) else {
                    this.end = Some(Some(Broken::Function));
                    continue;
                };
                *left = less;
            }
            if last {
                let short = this.left.is_some_and(|left| left > 0);
                this.end = Some(short.then_some(Broken::Function));
            }
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_some_and(|end| end.is_none()) || self.end.is_none() && self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
