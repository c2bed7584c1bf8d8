//! A connection's bytes: TCP with or without TLS, counted, with bytes that were read too early in
//! front.
//!
//! Owns: what is counted of bytes, and the end of a connection whose peer does not take what is
//! sent. Must not know: HTTP.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use crate::connection::outbox::Socket;
use crate::connection::timer::Deadline;
use crate::http::unread_body::UnreadBodies;
use crate::observe::counters::Traffic;

/// Who gives an exchange up that is younger may not have wanted a response.
pub(crate) const MATURE: Duration = Duration::from_secs(1);

/// A silent peer that is to be kept is asked after so long, and if it does not answer every so
/// often, four times.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// What a connection does, as its bytes and its exchanges tell it; for the timeouts of a client's
/// task.
pub(crate) struct Pulse {
    /// When bytes came first since the last exchange ended.
    pub(crate) heard: Cell<Option<Instant>>,
    /// Exchanges under way.
    pub(crate) active: Cell<u32>,
    /// When the last one ended or the connection began, or what followed that had its end: a piece
    /// of a request's body, or of a response on its way into the kernel.
    pub(crate) quiet_since: Cell<Instant>,
    /// Requests' bodies on their way, also of exchanges that have ended: an upstream may answer and
    /// take the rest all the same.
    pub(crate) uploads: Cell<u32>,
    /// Something was written that the kernel has not taken.
    unsent: Cell<bool>,
    /// Raised with every piece of a body, and when exchanges begin and end.
    pub(crate) moves: Cell<u64>,
    /// An exchange was cut off: the connection must not end as if it were whole.
    pub(crate) cut: Cell<bool>,
    /// The connection ends because the client takes nothing.
    pub(crate) stalled: Cell<bool>,
    /// Exchanges that the client gave up before they were [`MATURE`].
    pub(crate) given_up: Cell<u64>,
    /// The client has sent all it will.
    pub(crate) ended: Cell<bool>,
    /// Who waits for something to be read.
    told: Option<Rc<Notify>>,
    /// How often the kernel had taken what was written until then. HTTP/2 writes a queue in pieces.
    flushes: Cell<u64>,
    /// Who waits for the next time.
    flushing: RefCell<Vec<Waker>>,
    /// What is left of its requests' bodies.
    pub(crate) unread_bodies: UnreadBodies,
}

impl Pulse {
    pub(crate) fn new() -> Rc<Self> {
        Self::telling(None)
    }

    /// One that tells whoever waits for it when something is read.
    pub(crate) fn telling(told: Option<Rc<Notify>>) -> Rc<Self> {
        Rc::new(Self {
            heard: Cell::new(None),
            active: Cell::new(0),
            quiet_since: Cell::new(Instant::now()),
            uploads: Cell::new(0),
            unsent: Cell::new(false),
            moves: Cell::new(0),
            cut: Cell::new(false),
            stalled: Cell::new(false),
            given_up: Cell::new(0),
            ended: Cell::new(false),
            told,
            flushes: Cell::new(0),
            flushing: RefCell::default(),
            unread_bodies: UnreadBodies::default(),
        })
    }

    /// How often the kernel had taken what was written until then.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// Ready when it was so once more than then, and the kernel has taken what was written since.
    pub(crate) fn poll_flushed(&self, cx: &Context<'_>, then: u64) -> Poll<()> {
        if self.flushes.get() != then && !self.unsent.get() {
            return Poll::Ready(());
        }
        let mut flushing = self.flushing.borrow_mut();
        if !flushing.iter().any(|waiting| waiting.will_wake(cx.waker())) {
            flushing.push(cx.waker().clone());
            // With HTTP/2 the connection's task is another one: it may have nothing to send by now,
            // and says so. Once, because with HTTP/1 it is the one that asks here.
            self.unread_bodies.wake();
        }
        Poll::Pending
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get().wrapping_add(1));
        self.flushing.take().into_iter().for_each(Waker::wake);
    }

    /// Something moves.
    pub(crate) fn moved(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }

    /// A piece of a request's body comes.
    pub(crate) fn uploaded(&self) {
        self.moved();
        if self.active.get() == 0 {
            self.quiet_since.set(Instant::now());
        }
    }

    /// One of the requests' bodies is on its way no more.
    pub(crate) fn upload_ended(&self) {
        self.uploads.set(self.uploads.get() - 1);
        if self.active.get() == 0 {
            // What was heard was that.
            self.heard.set(None);
            self.quiet_since.set(Instant::now());
        }
    }

    /// Whether something was written that the kernel has not taken.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.get()
    }

    fn unsent(&self, is: bool) {
        if self.unsent.replace(is) && !is {
            self.quiet_since.set(Instant::now());
        }
    }
}

enum Inner {
    Plain(Rc<Socket>),
    Tls(Box<TlsStream<TcpStream>>),
}

/// See the module.
pub(crate) struct Stream {
    inner: Inner,
    /// Read before, to be read first.
    early: Bytes,
    traffic: Arc<Traffic>,
    pulse: Option<Rc<Pulse>>,
    /// For how long the peer may take nothing of what is sent.
    patience: Duration,
    /// Its bytes are passed on, whatever they are.
    tunnels: bool,
    stalled: Option<Instant>,
    deadline: Deadline,
}

impl Stream {
    pub(crate) fn plain(tcp: TcpStream, traffic: Arc<Traffic>, patience: Duration) -> Self {
        Self::of(Inner::Plain(Socket::new(tcp, patience)), traffic, patience)
    }

    pub(crate) fn tls(
        tls: TlsStream<TcpStream>,
        traffic: Arc<Traffic>,
        patience: Duration,
    ) -> Self {
        Self::of(Inner::Tls(Box::new(tls)), traffic, patience)
    }

    fn of(inner: Inner, traffic: Arc<Traffic>, patience: Duration) -> Self {
        let (early, deadline) = (Bytes::new(), Deadline::default());
        Self {
            inner,
            early,
            traffic,
            pulse: None,
            patience,
            tunnels: false,
            stalled: None,
            deadline,
        }
    }

    /// Tells the pulse of what is read.
    pub(crate) fn with_pulse(mut self, pulse: Rc<Pulse>) -> Self {
        self.pulse = Some(pulse);
        self
    }

    /// Puts back what was read.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.early = if self.early.is_empty() {
            bytes
        } else {
            Bytes::from([bytes.as_ref(), self.early.as_ref()].concat())
        };
    }

    /// Takes what was put back.
    pub(crate) fn take_early(&mut self) -> Bytes {
        std::mem::take(&mut self.early)
    }

    /// What counts its bytes.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Whether it is TCP without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.inner, Inner::Plain(_))
    }

    /// For how long the peer may take nothing of what is sent.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// From now on nobody is answered by it: for so long its peer may take nothing, and one that is
    /// lost is found by the kernel. A peer that ends TCP without a word of TLS's has ended its
    /// bytes: whether some are missing, who speaks with it has to know.
    pub(crate) fn tunnels(&mut self, patience: Duration) {
        self.tunnels = true;
        self.patience = patience;
        if let Inner::Plain(socket) = &self.inner {
            socket.patience.set(patience);
        }
        self.keep_alive();
    }

    /// The bare TCP connection and what counts its bytes; itself if it has TLS, or anything is
    /// still on its way.
    pub(crate) fn into_tcp(mut self) -> Result<(TcpStream, Arc<Traffic>), Box<Self>> {
        self.inner = match self.inner {
            Inner::Plain(socket) if self.early.is_empty() => match Socket::into_tcp(socket) {
                Ok(tcp) => return Ok((tcp, self.traffic)),
                Err(socket) => Inner::Plain(socket),
            },
            inner => inner,
        };
        Err(Box::new(self))
    }

    /// Ready when the kernel has taken all that was written.
    ///
    /// # Errors
    /// What became of it, or that the peer took nothing for too long.
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = match &mut self.inner {
            Inner::Plain(socket) => socket.poll_sent(cx),
            Inner::Tls(tls) => Pin::new(tls).poll_flush(cx),
        };
        self.flushed(cx, sent)
    }

    /// From now on the kernel asks a peer that is silent whether it is there, and ends the
    /// connection if it is not.
    pub(crate) fn keep_alive(&self) {
        let asked = TcpKeepalive::new()
            .with_time(KEEP_ALIVE_AFTER)
            .with_interval(KEEP_ALIVE_EVERY)
            .with_retries(4);
        let set = |tcp: &TcpStream| SockRef::from(tcp).set_tcp_keepalive(&asked);
        // Without it, a peer that is lost is found later.
        let _ = match &self.inner {
            Inner::Plain(socket) => set(&socket.tcp.borrow()),
            Inner::Tls(tls) => set(tls.get_ref().0),
        };
    }

    /// What was agreed on by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match &self.inner {
            Inner::Plain(_) => None,
            Inner::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Ends the connection so that the peer cannot take it for a proper end.
    pub(crate) fn abort(self) {
        match &self.inner {
            Inner::Plain(socket) => reset(&socket.tcp.borrow()),
            Inner::Tls(tls) => reset(tls.get_ref().0),
        }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, wrote: &Poll<io::Result<usize>>) -> bool {
        if let Some(pulse) = &self.pulse {
            pulse.unsent(wrote.is_pending());
        }
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.traffic.add(0, *bytes as u64);
                self.stalled = None;
                false
            }
            Poll::Ready(Err(_)) => false,
            Poll::Pending => {
                let since = *self.stalled.get_or_insert_with(Instant::now);
                self.deadline.expired(cx, since + self.patience)
            }
        }
    }

    /// What becomes of flushing, unless the peer took nothing for too long.
    fn flushed(
        &mut self,
        cx: &mut Context<'_>,
        flushed: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_pending() {
            return if self.wrote(cx, &Poll::Pending) {
                Poll::Ready(Err(stalled()))
            } else {
                flushed
            };
        }
        self.stalled = None;
        if let Some(pulse) = &self.pulse {
            pulse.unsent(false);
        }
        flushed
    }
}

/// Makes the end of a connection one that the peer cannot take for a proper end.
pub(crate) fn reset(tcp: &TcpStream) {
    // An error leaves an ordinary end, the best that can be done then.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Writes by the box if it is short, else behind what is in it.
fn write(
    socket: &Rc<Socket>,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let Some(posted) = socket.post(slices)? {
        return Poll::Ready(Ok(posted));
    }
    ready!(socket.poll_sent(cx))?;
    Pin::new(&mut *socket.tcp.borrow_mut()).poll_write_vectored(cx, slices)
}

/// Why nothing can be written to an upstream any more: its alert, if one came. With TLS 1.3 an
/// upstream refuses a certificate when requests are under way, and the kernel tells of its reset
/// before what came before that.
#[cold]
fn last_word(tls: &mut TlsStream<TcpStream>, error: io::Error) -> io::Error {
    let TlsStream::Client(client) = tls else { return error };
    let (tcp, session) = client.get_mut();
    let tcp = SockRef::from(&*tcp);
    // What comes beside it stays there to be read, and is no more than rustls takes.
    while let Ok(1..) = session.read_tls(&mut &*tcp) {
        if let Err(alert @ rustls::Error::AlertReceived(_)) = session.process_new_packets() {
            return io::Error::new(io::ErrorKind::InvalidData, alert);
        }
    }
    error
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer took nothing for too long")
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let fresh = this.early.is_empty();
        if fresh {
            let read = match &mut this.inner {
                Inner::Plain(socket) => {
                    Pin::new(&mut *socket.tcp.borrow_mut()).poll_read(cx, buffer)
                }
                Inner::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            };
            match read {
                Poll::Ready(Err(error))
                    if this.tunnels && error.kind() == io::ErrorKind::UnexpectedEof => {}
                Poll::Ready(Ok(())) => (),
                other => return other,
            }
        } else {
            let bytes = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early[..bytes]);
            this.early.advance(bytes);
        }
        let bytes = buffer.filled().len() - before;
        if fresh {
            this.traffic.add(bytes as u64, 0);
        }
        if let Some(pulse) = &this.pulse {
            if let Some(told) = &pulse.told {
                told.notify_one();
            }
            if bytes > 0 {
                if pulse.heard.get().is_none() {
                    pulse.heard.set(Some(Instant::now()));
                }
            } else if buffer.remaining() > 0 {
                pulse.ended.set(true);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = match &mut this.inner {
            Inner::Plain(socket) => write(socket, cx, &[io::IoSlice::new(bytes)]),
            Inner::Tls(tls) => {
                let wrote = Pin::new(&mut **tls).poll_write(cx, bytes);
                wrote.map_err(|error| last_word(tls, error))
            }
        };
        if this.wrote(cx, &wrote) { Poll::Ready(Err(stalled())) } else { wrote }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = match &mut this.inner {
            Inner::Plain(socket) => write(socket, cx, slices),
            Inner::Tls(tls) => {
                let wrote = Pin::new(&mut **tls).poll_write_vectored(cx, slices);
                wrote.map_err(|error| last_word(tls, error))
            }
        };
        if this.wrote(cx, &wrote) { Poll::Ready(Err(stalled())) } else { wrote }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(_) => true,
            Inner::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.inner {
            Inner::Plain(socket) => socket.poll_taken(cx),
            Inner::Tls(tls) => {
                let flushed = Pin::new(&mut **tls).poll_flush(cx);
                flushed.map_err(|error| last_word(tls, error))
            }
        };
        let flushed = this.flushed(cx, flushed);
        if let (Poll::Ready(Ok(())), Some(pulse)) = (&flushed, &this.pulse) {
            pulse.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = match &mut this.inner {
            Inner::Plain(socket) => match socket.poll_sent(cx) {
                Poll::Ready(Ok(())) => Pin::new(&mut *socket.tcp.borrow_mut()).poll_shutdown(cx),
                other => other,
            },
            Inner::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        };
        this.flushed(cx, shut)
    }
}
