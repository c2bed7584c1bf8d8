//! A copy of a request's body that can be sent again, because its upstream says that it did not
//! look at it (RFC 9113 section 8.7).
//!
//! Owns: keeping what has been sent, as long as that is little and no response is there. Must not
//! know: why it is sent again, and where.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::fault::Fault;
use crate::http::request_body::RequestBody;

/// Bytes that are kept of a body at most.
const KEPT: usize = 64 * 1024;
/// And of all bodies of a thread.
const ALL_KEPT: usize = 16 << 20;
/// A piece counts for so many at least, or one of many short ones would take many times what it
/// holds.
const PIECE: usize = 1024;

type Frames = VecDeque<Frame<Bytes>>;

thread_local! {
    /// Bytes that are kept now.
    static NOW_KEPT: Cell<usize> = const { Cell::new(0) };
}

/// See the module. One side has it to send it, the other to take it back.
pub(crate) struct Repeatable {
    /// None when it was taken back.
    body: RefCell<Option<RequestBody>>,
    sent: RefCell<Frames>,
    bytes: Cell<usize>,
    /// All that was sent is kept.
    keeps: Cell<bool>,
}

impl Repeatable {
    /// Puts one in the place of a body, unless that is none.
    pub(crate) fn lend(body: &mut RequestBody) -> Option<Rc<Self>> {
        if matches!(body, RequestBody::Empty) {
            return None;
        }
        let lent = Rc::new(Self {
            body: RefCell::new(Some(std::mem::replace(body, RequestBody::Empty))),
            sent: RefCell::default(),
            bytes: Cell::new(0),
            keeps: Cell::new(true),
        });
        *body = RequestBody::Lent(Rc::clone(&lent));
        Some(lent)
    }

    /// The whole body, if it is still there.
    pub(crate) fn take_back(&self) -> Option<RequestBody> {
        if !self.keeps.get() {
            return None;
        }
        let (rest, sent) = (self.body.take()?, self.sent.take());
        self.give_back();
        Some(if sent.is_empty() {
            rest
        } else {
            RequestBody::Again(Box::new(Again { sent, rest }))
        })
    }

    /// It is not sent again.
    pub(crate) fn let_go(&self) {
        self.keeps.set(false);
        self.sent.take();
        self.give_back();
    }

    fn give_back(&self) {
        let bytes = self.bytes.take();
        NOW_KEPT.set(NOW_KEPT.get() - bytes);
    }

    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = match &mut *self.body.borrow_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => return Poll::Ready(Some(Err(Fault::Upstream))),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) if self.keeps.get() => self.keep(frame),
            Poll::Ready(Some(Err(_))) => self.let_go(),
            _ => (),
        }
        frame
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let more = frame.data_ref().map_or(0, Bytes::len).max(PIECE);
        let (bytes, all) = (self.bytes.get() + more, NOW_KEPT.get() + more);
        let fits = bytes <= KEPT && all <= ALL_KEPT;
        if fits {
            self.bytes.set(bytes);
            NOW_KEPT.set(all);
        }
        // A copy: what is lent may be a short part of what was read.
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if fits => Frame::data(Bytes::copy_from_slice(data)),
            (_, Some(trailers)) => Frame::trailers(trailers.clone()),
            _ => return self.let_go(),
        };
        self.sent.borrow_mut().push_back(copy);
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.borrow().as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Repeatable {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A body of which some was sent before.
pub(crate) struct Again {
    sent: Frames,
    rest: RequestBody,
}

impl Again {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.sent.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.sent.is_empty() && self.rest.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let sent: usize = self.sent.iter().filter_map(|f| f.data_ref()).map(Bytes::len).sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + sent as u64),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(body: &mut RequestBody) -> Option<Result<Bytes, Fault>> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|f| f.into_data().unwrap())),
            Poll::Pending => panic!("all of it is there"),
        }
    }

    fn pieces(pieces: &[&'static [u8]]) -> RequestBody {
        RequestBody::pieces(pieces.iter().map(|piece| Bytes::from_static(piece)).collect())
    }

    #[test]
    fn a_body_that_was_begun_to_be_sent_is_sent_again_whole() {
        let mut body = pieces(&[b"one", b"two", b"three"]);
        for sent in 0..=3 {
            let lent = Repeatable::lend(&mut body).unwrap();
            assert_eq!(body.size_hint().exact(), Some(11));
            (0..sent).for_each(|_| drop(next(&mut body).unwrap().unwrap()));
            let mut there = std::mem::replace(&mut body, lent.take_back().unwrap());
            // Whoever has the first one still sees that it does not end there.
            assert!(next(&mut there).unwrap().is_err());
        }
        let all: Vec<_> = std::iter::from_fn(|| next(&mut body)).map(Result::unwrap).collect();
        assert_eq!(all, ["one", "two", "three"]);
    }

    #[test]
    fn what_is_too_much_to_be_kept_or_was_answered_is_not_sent_again() {
        static LONG: [u8; KEPT] = [0; KEPT];
        let mut body = pieces(&[&LONG, b"x", b"y"]);
        let lent = Repeatable::lend(&mut body).unwrap();
        (0..2).for_each(|_| drop(next(&mut body).unwrap().unwrap()));
        assert!(lent.take_back().is_none() && lent.sent.borrow().is_empty());
        assert_eq!(next(&mut body).unwrap().unwrap(), "y");
        assert!(next(&mut body).is_none());
        let mut body = pieces(&[b"x" as &[u8]; KEPT / PIECE + 1]);
        let lent = Repeatable::lend(&mut body).unwrap();
        (0..=KEPT / PIECE).for_each(|_| drop(next(&mut body).unwrap().unwrap()));
        assert!(lent.take_back().is_none());
        let mut body = pieces(&[b"x"]);
        let lent = Repeatable::lend(&mut body).unwrap();
        lent.let_go();
        assert!(lent.take_back().is_none());
        assert!(Repeatable::lend(&mut RequestBody::Empty).is_none());
    }

    #[test]
    fn a_thread_keeps_only_so_much_of_all_bodies() {
        static PART: [u8; KEPT] = [0; KEPT];
        let lend = || {
            let mut body = pieces(&[&PART]);
            let lent = Repeatable::lend(&mut body).unwrap();
            drop(next(&mut body).unwrap().unwrap());
            lent
        };
        let mut kept: Vec<_> = (0..ALL_KEPT / KEPT).map(|_| lend()).collect();
        assert!(lend().take_back().is_none());
        // What is taken back, let go or given up makes room.
        assert!(kept.pop().unwrap().take_back().is_some());
        kept.pop().unwrap().let_go();
        drop(kept.pop());
        kept.extend((0..3).map(|_| lend()));
        assert!(lend().take_back().is_none());
        assert!(kept.iter().all(|lent| lent.take_back().is_some()));
        drop(kept);
        assert_eq!(NOW_KEPT.get(), 0);
    }
}
