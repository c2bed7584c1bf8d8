//! Bodies of requests that are not read to the end when their responses are there: the client still
//! sends, and nobody wants it.
//!
//! Owns: reading it and throwing it away, as long as it ends soon. A client of HTTP/1 cannot send
//! its next request before it has sent all of this one, and loses that if the connection ends
//! instead; one of HTTP/2 may take the end of its stream for a failure, and not look at the
//! response. Must not know: responses.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::connection::timer::Deadline;
use crate::http::request_body::Progress;

/// Bytes that are read from a client for nothing, at most.
pub(crate) const LINGER_BYTES: usize = 1 << 20;

/// What is left of a body.
struct Unread {
    incoming: Incoming,
    progress: Rc<Progress>,
    /// Bytes of it that may still come.
    left: usize,
    until: Instant,
}

impl Unread {
    /// Throws away what there is; ready when no more is to come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    match self.left.checked_sub(bytes) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(()),
                    }
                    if self.incoming.is_end_stream() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Those of a connection: one of HTTP/1, as many as its streams of HTTP/2. Its task polls them. See
/// the module.
#[derive(Default)]
pub(crate) struct UnreadBodies {
    all: RefCell<Vec<Unread>>,
    task: RefCell<Option<Waker>>,
    deadline: RefCell<Deadline>,
    refused: Cell<bool>,
}

impl UnreadBodies {
    /// What is left of this body, which is to come within this time.
    pub(crate) fn add(&self, incoming: Incoming, progress: &Rc<Progress>, patience: Duration) {
        if self.refused.get() || progress.is_cut() {
            return;
        }
        let until = Instant::now() + patience;
        let progress = Rc::clone(progress);
        self.all.borrow_mut().push(Unread { incoming, progress, left: LINGER_BYTES, until });
        self.wake();
    }

    /// The connection's task looks at what there is to do.
    pub(crate) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Nothing of this one is read: its exchange was cut off.
    pub(crate) fn forget(&self, progress: &Rc<Progress>) {
        self.all.borrow_mut().retain(|body| !Rc::ptr_eq(&body.progress, progress));
    }

    /// Nothing is read any more: the connection ends.
    pub(crate) fn refuse(&self) {
        self.refused.set(true);
        self.all.borrow_mut().clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    /// Throws away what there is. Answers how many have ended, and how many of these because their
    /// clients were too slow.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> (usize, usize) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        let mut all = self.all.borrow_mut();
        let before = all.len();
        all.retain_mut(|body| body.poll(cx).is_pending());
        let (mut deadline, still) = (self.deadline.borrow_mut(), all.len());
        while let Some(until) = all.iter().map(|body| body.until).min()
            && deadline.expired(cx, until)
        {
            all.retain(|body| body.until > until);
        }
        (before - all.len(), still - all.len())
    }
}
