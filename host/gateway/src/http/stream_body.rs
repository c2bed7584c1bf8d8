//! Bodies of HTTP/2 responses, of each of which the client has to take what comes.
//!
//! Owns: giving up on a body that the client leaves where it is. hyper does not ask for more of it then, so nobody would end it as long as
//! other streams of the connection go on, and what it holds at its upstream, a stream or a connection, would be held for good. The task
//! that hyper has for the stream waits for the client, too, so it is ended: with it go the stream, which is reset, and what was
//! to be sent. Must not know: where bodies come from.

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::fault::Fault;
use crate::http::response_body::ResponseBody;

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

/// The bodies of a connection's responses.
#[derive(Default)]
pub(crate) struct StreamBodies(RefCell<Slab<Rc<Shared>>>);

/// A body that hyper asks for frames, and that is dropped when it has not done so for too long.
struct Shared {
    body: RefCell<Option<ResponseBody>>,
    /// Since when the client has to take a frame. None: there is none to be taken yet.
    since: Cell<Option<Instant>>,
    /// Ends the task that asks for it.
    task: OnceCell<Rc<Notify>>,
}

impl StreamBodies {
    /// One of these, until it is dropped.
    pub(crate) fn add(self: &Rc<Self>, body: ResponseBody) -> StreamBody {
        let (body, since) = (RefCell::new(Some(body)), Cell::new(None));
        let shared = Rc::new(Shared { body, since, task: OnceCell::new() });
        let place = self.0.borrow_mut().insert(Rc::clone(&shared));
        StreamBody { shared, bodies: Rc::clone(self), place }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Drops those of which the client has not taken a frame for so long.
    pub(crate) fn give_up(&self, patience: Duration) {
        let now = Instant::now();
        for (_, shared) in &*self.0.borrow() {
            if shared.since.get().is_some_and(|since| since + patience <= now)
                && let Some(body) = shared.body.take()
            {
                body.not_taken();
                if let Some(task) = shared.task.get() {
                    task.notify_one();
                }
            }
        }
    }
}

/// See the module.
pub(crate) struct StreamBody {
    shared: Rc<Shared>,
    bodies: Rc<StreamBodies>,
    place: usize,
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.bodies.0.borrow_mut().remove(self.place);
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.shared.task.get().is_none()
            && let Ok(task) = GIVEN_UP.try_with(Rc::clone)
        {
            // There is none yet.
            let _ = self.shared.task.set(task);
        }
        let frame = match self.shared.body.borrow_mut().as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err(Fault::ClientSlow))),
        };
        self.shared.since.set(frame.is_ready().then(Instant::now));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.shared.body.borrow().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.body.borrow().as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
