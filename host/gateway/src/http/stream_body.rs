//! Bodies of HTTP/2 responses, of each of which the client has to take what comes.
//!
//! Owns: giving up on a body that the client leaves where it is. hyper does not ask for more of it
//! then, so nobody would end it as long as other streams of the connection go on, and what it holds
//! at its upstream, a stream or a connection, would be held for good. The task that hyper has for
//! the stream waits for the client, too, so it is ended: with it go the stream, which is reset, and
//! what was to be sent. Must not know: where bodies come from.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::select;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::stream::Pulse;
use crate::http::fault::Fault;
use crate::http::response_body::ResponseBody;
use crate::http::response_buffers::ResponseBuffers;
use crate::observe::statistics::Failure;

/// A body that is not taken counts for so many bytes at least: its stream, its tasks, its exchange.
const LEAST: usize = 4096;

tokio::task_local! {
    /// Ends the task of a stream.
    static GIVEN_UP: Rc<Notify>;
}

/// Runs hyper's tasks for streams on the thread that has their connection.
#[derive(Clone, Copy)]
pub(crate) struct StreamExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let given_up = Rc::new(Notify::new());
        let told = Rc::clone(&given_up);
        tokio::task::spawn_local(GIVEN_UP.scope(given_up, async move {
            drop(select(pin!(future), pin!(told.notified())).await);
        }));
    }
}

/// The bodies of a connection's responses, until their last byte has been written or thrown away.
pub(crate) struct StreamBodies {
    all: RefCell<Slab<Weak<Shared>>>,
    buffers: Rc<ResponseBuffers>,
    /// Its place there.
    place: usize,
    pulse: Rc<Pulse>,
    /// The connection is to end: it alone can be given up.
    full: Cell<bool>,
}

impl StreamBodies {
    /// Those of a connection with this pulse, which count in these buffers.
    pub(crate) fn new(buffers: &Rc<ResponseBuffers>, pulse: &Rc<Pulse>) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            all: RefCell::default(),
            buffers: Rc::clone(buffers),
            place: buffers.add(this.clone()),
            pulse: Rc::clone(pulse),
            full: Cell::new(false),
        })
    }

    /// One of these.
    pub(crate) fn add(self: &Rc<Self>, body: ResponseBody) -> StreamBody {
        StreamBody(Rc::new_cyclic(|this| Shared {
            place: self.all.borrow_mut().insert(this.clone()),
            bodies: Rc::clone(self),
            body: RefCell::new(Some(body)),
            since: Cell::new(None),
            task: OnceCell::new(),
            sending: Cell::new(0),
            behind: Cell::new(0),
            given_up: Cell::new(false),
        }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    /// Whether the connection is to end, because what it holds is wanted and cannot be had
    /// otherwise.
    pub(crate) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// Drops those of which the client has not taken a frame for so long.
    pub(crate) fn give_up(&self, patience: Duration) {
        let now = Instant::now();
        for (_, shared) in &*self.all.borrow() {
            if let Some(shared) = shared.upgrade()
                && shared.since.get().is_some_and(|since| since + patience <= now)
            {
                shared.give_up(Failure::ClientSlow);
            }
        }
    }

    /// Those that are not taken, and since when.
    pub(crate) fn waiting(&self, to: &mut Vec<(Instant, Rc<Shared>)>) {
        let all = self.all.borrow();
        let all = all.iter().filter_map(|(_, shared)| shared.upgrade());
        to.extend(all.filter_map(|shared| Some((shared.since.get()?, shared))));
    }
}

impl Drop for StreamBodies {
    fn drop(&mut self) {
        self.buffers.remove(self.place);
    }
}

/// A body that hyper asks for frames, and that is dropped when it has not done so for too long.
pub(crate) struct Shared {
    bodies: Rc<StreamBodies>,
    place: usize,
    body: RefCell<Option<ResponseBody>>,
    /// Since when the client has to take a frame. None: there is none to be taken yet.
    since: Cell<Option<Instant>>,
    /// Ends the task that asks for it.
    task: OnceCell<Rc<Notify>>,
    /// Bytes that hyper has, and that are not written.
    sending: Cell<usize>,
    /// Bytes that may lie behind them.
    behind: Cell<usize>,
    given_up: Cell<bool>,
}

impl Shared {
    /// Bytes that it may hold.
    pub(crate) fn holds(&self) -> usize {
        self.sending.get() + self.behind.get()
    }

    fn behind(&self, bytes: usize) {
        let before = self.behind.replace(bytes);
        self.bodies.buffers.change(before, bytes);
    }

    /// Gives it up for this reason.
    fn give_up(&self, why: Failure) -> bool {
        let Some(body) = self.body.take() else { return false };
        self.since.set(None);
        self.behind(0);
        body.not_taken(why);
        if let Some(task) = self.task.get() {
            task.notify_one();
        }
        true
    }

    /// Gives it up because what it holds is wanted. What hyper has of it goes soon, but not if
    /// nobody has its stream any more, or if the connection takes nothing: then that ends.
    pub(crate) fn make_room(&self) {
        if self.given_up.replace(true) {
            return;
        }
        self.bodies.buffers.goes(self.sending.get());
        if !self.give_up(Failure::BuffersFull) || self.bodies.pulse.has_unsent() {
            self.since.set(None);
            self.bodies.full.set(true);
            self.bodies.pulse.unread_bodies.wake();
        }
    }

    fn written(&self, bytes: usize) {
        self.sending.set(self.sending.get() - bytes);
        self.bodies.buffers.change(bytes, 0);
        if self.given_up.get() {
            self.bodies.buffers.gone(bytes);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bodies.all.borrow_mut().remove(self.place);
    }
}

/// See the module.
pub(crate) struct StreamBody(Rc<Shared>);

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.0.behind(0);
        drop(self.0.body.take());
    }
}

impl Body for StreamBody {
    type Data = Sending;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Sending>, Fault>>> {
        let shared = &self.0;
        if shared.task.get().is_none()
            && let Ok(task) = GIVEN_UP.try_with(Rc::clone)
        {
            // There is none yet.
            let _ = shared.task.set(task);
        }
        let (frame, behind) = match shared.body.borrow_mut().as_mut() {
            Some(body) => {
                let frame = Pin::new(&mut *body).poll_frame(cx);
                let behind = if frame.is_ready() { body.holds().max(LEAST) } else { 0 };
                (frame, behind)
            }
            None => return Poll::Ready(Some(Err(Fault::ClientSlow))),
        };
        shared.since.set(frame.is_ready().then(Instant::now));
        shared.behind(behind);
        let sending = |bytes| Sending::new(bytes, shared);
        let frame = frame.map(|frame| frame.map(|frame| frame.map(|f| f.map_data(sending))));
        if shared.bodies.buffers.are_full() {
            shared.bodies.buffers.make_room();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.borrow().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.borrow().as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// A piece of one that hyper has to write: it counts until then.
pub(crate) struct Sending {
    bytes: Bytes,
    counted: usize,
    of: Rc<Shared>,
}

impl Sending {
    fn new(bytes: Bytes, of: &Rc<Shared>) -> Self {
        let counted = bytes.len();
        of.sending.set(of.sending.get() + counted);
        of.bodies.buffers.change(0, counted);
        Self { bytes, counted, of: Rc::clone(of) }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.of.written(self.counted);
    }
}

impl Buf for Sending {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(to)
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
    }
}
