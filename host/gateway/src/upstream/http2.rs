//! HTTP/2 connections to an upstream: each has as many requests at a time as the upstream allows.
//!
//! Owns: which connection a request goes by, counting what is under way at each, and when one gets
//! no more. hyper's client takes no request while one before it waits for a stream, and does not
//! give that back: so none is sent by a connection that has no stream left, nor before the upstream
//! has said how many there are. Must not know: requests, how a connection is made.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::stream::Stream;
use crate::http::request_body::RequestBody;
use crate::listen::thread::LocalExecutor;
use crate::tls;
use crate::upstream::link::Open;

pub(crate) type Sender = http2::SendRequest<RequestBody>;
type Connection = http2::Connection<TokioIo<Stream>, RequestBody, LocalExecutor>;

/// One of them.
struct Shared {
    sender: Sender,
    connection: Rc<Driven>,
    /// Counts as open as long as anybody has it.
    open: Weak<Open>,
    /// Requests under way.
    streams: Cell<usize>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
}

/// A connection that is driven by a task of its own.
struct Driven {
    /// None when it has ended.
    connection: RefCell<Option<Connection>>,
    /// Streams that the upstream allowed when it was last looked at: while it is driven, which is
    /// where functions see bodies and may ask for another stream, nobody else can look.
    allowed: Cell<usize>,
    /// The upstream has said something, or the connection has ended.
    heard: Rc<Notify>,
    /// The alert of TLS by which it has.
    alert: Cell<Option<io::Error>>,
}

impl Driven {
    /// Streams that the upstream allows at a time; none before it has said so, and after the end.
    fn allowed(&self) -> usize {
        if let Ok(connection) = self.connection.try_borrow() {
            let allowed = connection.as_ref().map_or(0, Connection::current_max_send_streams);
            self.allowed.set(allowed);
        }
        self.allowed.get()
    }

    fn ended(&self) -> bool {
        self.connection.try_borrow().is_ok_and(|connection| connection.is_none())
    }
}

/// Drives it, and ends it whatever ends the driving.
struct Driver {
    driven: Rc<Driven>,
    _open: Rc<Open>,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.driven.allowed();
        let driven = match &mut *self.driven.connection.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        };
        driven.map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                self.driven.alert.set(tls::alert(&error));
            }
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let connection = self.driven.connection.take();
        self.driven.allowed.set(0);
        self.driven.heard.notify_one();
        // Bodies go with it, and functions hear of that.
        drop(connection);
    }
}

impl Shared {
    /// Whether the upstream allows another stream.
    fn has_room(&self) -> bool {
        self.streams.get() < self.connection.allowed()
    }

    fn open(self: &Rc<Self>) -> OpenStream {
        self.streams.set(self.streams.get() + 1);
        OpenStream { shared: Rc::clone(self), _open: self.open.upgrade() }
    }
}

/// A request that is under way, until both of its bodies have ended: whoever has one of them has
/// this.
pub(crate) struct OpenStream {
    shared: Rc<Shared>,
    /// After a GOAWAY nobody drives the connection from here, but it is there until its last stream
    /// has ended.
    _open: Option<Rc<Open>>,
}

impl OpenStream {
    pub(crate) fn sender(&self) -> Sender {
        self.shared.sender.clone()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        self.shared.idle_since.set(Instant::now());
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

    /// A stream of a new connection, which is driven from now on, when the upstream has said how
    /// many it allows. `heard`: told when it says something.
    ///
    /// # Errors
    /// The connection has ended before, by this alert of TLS if there is one.
    pub(crate) async fn add(
        &self,
        sender: Sender,
        connection: Connection,
        heard: Rc<Notify>,
        open: Open,
    ) -> Result<OpenStream, Option<io::Error>> {
        let connection = RefCell::new(Some(connection));
        let driven =
            Rc::new(Driven { connection, allowed: Cell::new(0), heard, alert: Cell::default() });
        let (streams, idle_since) = (Cell::new(0), Cell::new(Instant::now()));
        let (connection, open) = (Rc::clone(&driven), Rc::new(open));
        let shared = Shared { sender, connection, open: Rc::downgrade(&open), streams, idle_since };
        let shared = Rc::new(shared);
        tokio::task::spawn_local(Driver { driven: Rc::clone(&driven), _open: open });
        while driven.allowed() == 0 {
            if driven.ended() {
                return Err(driven.alert.take());
            }
            driven.heard.notified().await;
        }
        let stream = shared.open();
        self.0.borrow_mut().push(shared);
        Ok(stream)
    }

    /// This stream's connection gets no more requests.
    pub(crate) fn retire(&self, stream: &OpenStream) {
        self.0.borrow_mut().retain(|shared| !Rc::ptr_eq(shared, &stream.shared));
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
