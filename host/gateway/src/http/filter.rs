//! A body on its way through a chain, piece by piece.
//!
//! Owns: cutting frames into pieces, one event at a time, what the chain has let go and what is not
//! yet taken. At most a frame of the source and what one event let go are kept; the next frame is
//! asked for when the last piece has been taken. Must not know: where bodies come from.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};

use crate::chain::{BodyStep, Direction, Exchange, Pieces, Reply};
use crate::http::fault::Fault;

/// Where what a function answered to a piece is left for somebody who does not have the body any
/// more.
pub(crate) type Answer = Rc<RefCell<Option<Response<Pieces>>>>;

/// See the module.
pub(crate) struct Filtered<S> {
    source: S,
    exchange: Exchange,
    direction: Direction,
    piece_max: usize,
    /// What is left of the source's last frame, in pieces still to be told.
    rest: Bytes,
    /// The source has ended.
    dry: bool,
    /// The chain was told of the end.
    told: bool,
    asking: Option<LocalBoxFuture<'static, BodyStep>>,
    /// Let go, in reverse order.
    released: Pieces,
    trailers: Option<HeaderMap>,
    /// What a function answered.
    answer: Option<Response<Pieces>>,
    left_for: Option<Answer>,
}

impl<S: Body<Data = Bytes, Error = Fault> + Unpin> Filtered<S> {
    pub(crate) fn new(
        source: S,
        exchange: Exchange,
        direction: Direction,
        piece_max: usize,
    ) -> Self {
        Self {
            source,
            exchange,
            direction,
            piece_max,
            rest: Bytes::new(),
            dry: false,
            told: false,
            asking: None,
            released: Pieces::new(),
            trailers: None,
            answer: None,
            left_for: None,
        }
    }

    /// What a function answers is left there.
    pub(crate) fn with_answer(self, answer: Answer) -> Self {
        Self { left_for: Some(answer), ..self }
    }

    /// Where its bytes come from.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Bytes of the source's last frame, and of what was let go, that are still here.
    pub(crate) fn keeps(&self) -> usize {
        self.rest.len() + self.released.iter().map(Bytes::len).sum::<usize>()
    }

    /// The same, to be changed.
    pub(crate) fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Waits until the chain has let a piece go, or the body has ended.
    ///
    /// # Errors
    /// What ended the body before.
    pub(crate) async fn prime(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_released(cx)).await
    }

    /// What a function answered, after [`Fault::Answered`].
    pub(crate) fn take_answer(&mut self) -> Option<Response<Pieces>> {
        self.answer.take()
    }

    /// Ready when there is a piece to be taken, or nothing more to come.
    fn poll_released(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if let Some(asking) = &mut self.asking {
                let step = ready!(asking.as_mut().poll(cx));
                self.asking = None;
                self.stepped(step)?;
            }
            if !self.released.is_empty() || self.told {
                return Poll::Ready(Ok(()));
            }
            if self.rest.is_empty() && !self.dry {
                match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            self.rest = data;
                            self.dry = self.source.is_end_stream();
                        }
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok();
                            self.dry = true;
                        }
                    },
                    Some(Err(fault)) => return Poll::Ready(Err(fault)),
                    None => self.dry = true,
                }
                if self.rest.is_empty() && !self.dry {
                    continue;
                }
            }
            self.ask()?;
        }
    }

    /// What the chain said to a piece.
    fn stepped(&mut self, step: BodyStep) -> Result<(), Fault> {
        match step {
            BodyStep::Pass(mut pieces) => {
                pieces.retain(|piece| !piece.is_empty());
                pieces.reverse();
                self.released = pieces;
                Ok(())
            }
            BodyStep::Answer(answer) => {
                match &self.left_for {
                    Some(left_for) => *left_for.borrow_mut() = Some(answer),
                    None => self.answer = Some(answer),
                }
                Err(Fault::Answered)
            }
            BodyStep::Reset => Err(Fault::Reset),
        }
    }

    /// Tells the chain of the next piece.
    fn ask(&mut self) -> Result<(), Fault> {
        let piece = self.rest.split_to(self.rest.len().min(self.piece_max));
        let last = self.dry && self.rest.is_empty();
        self.told = last;
        if self.exchange.done(self.direction) {
            if !piece.is_empty() {
                self.released.push(piece);
            }
            return Ok(());
        }
        let reply = match self.direction {
            Direction::Request => self.exchange.request_body(piece, last),
            Direction::Response => self.exchange.response_body(piece, last),
        };
        match reply {
            Reply::Now(step) => self.stepped(step),
            Reply::Later(asking) => {
                self.asking = Some(asking);
                Ok(())
            }
        }
    }
}

impl<S: Body<Data = Bytes, Error = Fault> + Unpin> Body for Filtered<S> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        match ready!(this.poll_released(cx)) {
            Ok(()) => match this.released.pop() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => Poll::Ready(this.trailers.take().map(|t| Ok(Frame::trailers(t)))),
            },
            Err(fault) => Poll::Ready(Some(Err(fault))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.told && self.asking.is_none() && self.released.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Nobody holds or changes any of it from here on.
        let passes = self.told || self.exchange.done(self.direction);
        if !passes || self.asking.is_some() || self.trailers.is_some() {
            return SizeHint::default();
        }
        let to_come = if self.dry { Some(0) } else { self.source.size_hint().exact() };
        let released: usize = self.released.iter().map(Bytes::len).sum();
        let known = (released + self.rest.len()) as u64;
        to_come.map(|to_come| SizeHint::with_exact(known + to_come)).unwrap_or_default()
    }
}
