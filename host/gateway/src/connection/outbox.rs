//! What connections of a thread send, in one go after all tasks that were ready have run.
//!
//! Owns: short writes, kept until the thread has looked at everything that came with one look at
//! the kernel. Sent one behind the other they find the other side still awake with the last one;
//! sent as each is ready, each wakes it (measured with `examples/proxy`: a tenth of the gateway's
//! time). At low load there is one write in the box, and it leaves at once. Must not know: what is
//! sent.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

/// Writes up to so many bytes are kept.
const SHORT: usize = 2048;
/// A box with so many bytes is sent at once.
const FULL: usize = 65_536;

thread_local! {
    static OUTBOX: RefCell<Outbox> = RefCell::default();
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Whose bytes, and where they end.
    letters: Vec<(Rc<Socket>, usize)>,
}

/// A TCP connection whose short writes go by the box.
pub(crate) struct Socket {
    pub(crate) tcp: RefCell<TcpStream>,
    /// Letters in the box.
    posted: Cell<u32>,
    /// What the kernel did not take; a task sees to it.
    rest: RefCell<BytesMut>,
    /// Who waits for that.
    waiting: RefCell<Option<Waker>>,
    failed: Cell<Option<io::ErrorKind>>,
    /// For so long the other side may take nothing of what is sent.
    pub(crate) patience: Cell<Duration>,
}

impl Socket {
    /// `patience`: for so long the other side may take nothing of what is sent.
    pub(crate) fn new(tcp: TcpStream, patience: Duration) -> Rc<Self> {
        Rc::new(Self {
            tcp: RefCell::new(tcp),
            posted: Cell::new(0),
            rest: RefCell::default(),
            waiting: RefCell::default(),
            failed: Cell::new(None),
            patience: Cell::new(patience),
        })
    }

    /// Puts a short write into the box, or says no.
    ///
    /// # Errors
    /// What became of an earlier one.
    pub(crate) fn post(self: &Rc<Self>, slices: &[io::IoSlice<'_>]) -> io::Result<Option<usize>> {
        self.check()?;
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length > SHORT || length == 0 || !self.rest.borrow().is_empty() {
            return Ok(None);
        }
        let (first, full) = OUTBOX.with_borrow_mut(|outbox| {
            let first = outbox.letters.is_empty();
            slices.iter().for_each(|slice| outbox.bytes.extend_from_slice(slice));
            outbox.letters.push((Rc::clone(self), outbox.bytes.len()));
            (first, outbox.bytes.len() >= FULL)
        });
        self.posted.set(self.posted.get() + 1);
        if full {
            send_all();
        } else if first {
            // Behind all tasks that are ready now.
            tokio::task::spawn_local(async { send_all() });
        }
        Ok(Some(length))
    }

    /// Ready when nothing is left that was written before.
    ///
    /// # Errors
    /// What became of it.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.posted.get() > 0 {
            send_all();
        }
        self.poll_taken(cx)
    }

    /// Ready when the kernel has taken all that was sent; what is in the box is on its way.
    ///
    /// # Errors
    /// What became of it.
    pub(crate) fn poll_taken(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.rest.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The connection, if nothing is on its way.
    ///
    /// # Errors
    /// Itself, if something is.
    pub(crate) fn into_tcp(self: Rc<Self>) -> Result<TcpStream, Rc<Self>> {
        if self.failed.get().is_some() || !self.rest.borrow().is_empty() {
            return Err(self);
        }
        Rc::try_unwrap(self).map(|socket| socket.tcp.into_inner())
    }

    fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn send(self: &Rc<Self>, bytes: &[u8]) {
        self.posted.set(self.posted.get() - 1);
        if self.failed.get().is_some() {
            return;
        }
        let mut rest = self.rest.borrow_mut();
        if !rest.is_empty() {
            rest.extend_from_slice(bytes);
            return;
        }
        let taken = match self.tcp.borrow().try_write(bytes) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return self.failed.set(Some(error.kind())),
        };
        if taken < bytes.len() {
            rest.extend_from_slice(&bytes[taken..]);
            drop(rest);
            tokio::task::spawn_local(send_rest(Rc::clone(self)));
        }
    }
}

/// Sends all that is in the box.
fn send_all() {
    let Outbox { bytes, letters } = OUTBOX.take();
    let mut from = 0;
    for (socket, to) in &letters {
        socket.send(&bytes[from..*to]);
        from = *to;
    }
    OUTBOX.with_borrow_mut(|outbox| {
        // The room is used again.
        if outbox.letters.is_empty() {
            *outbox = Outbox { bytes, letters };
            outbox.bytes.clear();
            outbox.letters.clear();
        }
    });
}

/// Sends what the kernel did not take, as it takes it.
async fn send_rest(socket: Rc<Socket>) {
    let sending = poll_fn(|cx| {
        let (mut tcp, mut rest) = (socket.tcp.borrow_mut(), socket.rest.borrow_mut());
        while !rest.is_empty() {
            match Pin::new(&mut *tcp).poll_write(cx, &rest) {
                Poll::Ready(Ok(taken)) => rest.advance(taken),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.kind())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    });
    let sent = tokio::time::timeout(socket.patience.get(), sending).await;
    if let Err(kind) = sent.unwrap_or(Err(io::ErrorKind::TimedOut)) {
        socket.failed.set(Some(kind));
        socket.rest.borrow_mut().clear();
    }
    if let Some(waiting) = socket.waiting.borrow_mut().take() {
        waiting.wake();
    }
}
