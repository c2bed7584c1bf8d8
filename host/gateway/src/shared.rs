//! HTTP/2 connections to an upstream: each has as many requests at a time as the upstream allows.
//!
//! Owns: which connection a request goes by, counting what is under way at each, and when one gets no more. hyper's client takes no request
//! while one before it waits for a stream, and does not give that back: so none is sent by a connection that has no stream left. Must
//! not know: requests, how a connection is made.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::link::Open;
use crate::request_body::RequestBody;
use crate::stream::Stream;
use crate::thread::LocalExecutor;

pub(crate) type Sender = http2::SendRequest<RequestBody>;
type Connection = http2::Connection<TokioIo<Stream>, RequestBody, LocalExecutor>;

/// One of them.
struct Shared {
    sender: Sender,
    /// Driven by a task of its own; none when it has ended.
    connection: Rc<RefCell<Option<Connection>>>,
    /// Requests under way.
    streams: Cell<usize>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
}

impl Shared {
    /// Whether the upstream allows another stream, as far as is known.
    fn has_room(&self) -> bool {
        let connection = self.connection.borrow();
        let allowed = connection.as_ref().map_or(0, Connection::current_max_send_streams);
        self.streams.get() < allowed
    }

    fn open(self: &Rc<Self>) -> OpenStream {
        self.streams.set(self.streams.get() + 1);
        OpenStream(Rc::clone(self))
    }
}

/// A request that is under way, until both of its bodies have ended: whoever has one of them has this.
pub(crate) struct OpenStream(Rc<Shared>);

impl OpenStream {
    pub(crate) fn sender(&self) -> Sender {
        self.0.sender.clone()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// All that get requests. What is under way at others ends there.
#[derive(Default)]
pub(crate) struct Connections(RefCell<Vec<Rc<Shared>>>);

impl Connections {
    /// A stream of the first one that has room: those behind it become idle, and are closed.
    pub(crate) fn stream(&self) -> Option<OpenStream> {
        let mut all = self.0.borrow_mut();
        all.retain(|shared| !shared.sender.is_closed());
        all.iter().find(|shared| shared.has_room()).map(Shared::open)
    }

    /// A stream of a new connection, which is driven from now on.
    pub(crate) fn add(&self, sender: Sender, connection: Connection, open: Open) -> OpenStream {
        let connection = Rc::new(RefCell::new(Some(connection)));
        let driven = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            let ended = poll_fn(|cx| match &mut *driven.borrow_mut() {
                Some(connection) => Pin::new(connection).poll(cx),
                None => Poll::Ready(Ok(())),
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
            *driven.borrow_mut() = None;
            drop(open);
        });
        let (streams, idle_since) = (Cell::new(0), Cell::new(Instant::now()));
        let shared = Rc::new(Shared { sender, connection, streams, idle_since });
        let stream = shared.open();
        self.0.borrow_mut().push(shared);
        stream
    }

    /// This stream's connection gets no more requests.
    pub(crate) fn retire(&self, stream: &OpenStream) {
        self.0.borrow_mut().retain(|shared| !Rc::ptr_eq(shared, &stream.0));
    }

    /// Closes those that had no request for so long. Whether any are left.
    pub(crate) fn sweep(&self, period: Duration) -> bool {
        let mut all = self.0.borrow_mut();
        all.retain(|shared| {
            let idle = shared.streams.get() == 0 && shared.idle_since.get().elapsed() >= period;
            !idle && !shared.sender.is_closed()
        });
        !all.is_empty()
    }
}
