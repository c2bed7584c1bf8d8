//! Bodies of HTTP/2 responses, of each of which the client has to take what comes.
//!
//! Owns: giving up on a body that the client leaves where it is. hyper does not ask for more of it then, so nobody would end it as long as
//! other streams of the connection go on, and what it holds at its upstream, a stream or a connection, would be held for good. Must
//! not know: where bodies come from.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use slab::Slab;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::response_body::ResponseBody;

/// The bodies of a connection's responses.
#[derive(Default)]
pub(crate) struct StreamBodies(RefCell<Slab<Rc<Shared>>>);

/// A body that hyper asks for frames, and that is dropped when it has not done so for too long.
struct Shared {
    body: RefCell<Option<ResponseBody>>,
    /// Since when the client has to take a frame. None: there is none to be taken yet.
    since: Cell<Option<Instant>>,
}

impl StreamBodies {
    /// One of these, until it is dropped.
    pub(crate) fn add(self: &Rc<Self>, body: ResponseBody) -> StreamBody {
        let (body, since) = (RefCell::new(Some(body)), Cell::new(None));
        let shared = Rc::new(Shared { body, since });
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
