//! Bytes both ways between two connections, read and written by this process.
//!
//! All relays of a thread read into one buffer, and write out of it at once: only what the other
//! side does not take is copied, and an idle connection holds no memory. Each side is read from
//! only when the other has taken everything.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;

use crate::connection::relay::Halt;
use crate::connection::stream::Stream;
use crate::connection::timer::Deadline;

/// Bytes of the buffer.
const BUFFER: usize = 65_536;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Reads at most so many bytes, with the thread's buffer. None: there are no more.
pub(crate) fn poll_piece(
    cx: &mut Context<'_>,
    from: &mut Stream,
    max: usize,
) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[..max.min(BUFFER)]);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}

/// What a connection of a direction said: the one that is read from (`true`), or the one that is
/// written to.
type Said = (bool, io::Error);

fn of_reader(error: io::Error) -> Said {
    (true, error)
}

fn of_writer(error: io::Error) -> Said {
    (false, error)
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Read, and not taken by the other side.
    left: Bytes,
    flushed: bool,
    ended: bool,
    shut: bool,
}

impl Way {
    /// Moves what can be moved; whether anything was, and ready when this direction is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        moved: &mut bool,
    ) -> Poll<Result<(), Said>> {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if !self.left.is_empty() {
                let bytes =
                    ready!(Pin::new(&mut *to).poll_write(cx, &self.left)).map_err(of_writer)?;
                self.left.advance(bytes);
                self.flushed = false;
                *moved = true;
                continue;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(of_writer)?;
                self.shut = true;
                continue;
            }
            match self.read(cx, from, to)? {
                Poll::Ready(()) => *moved = true,
                Poll::Pending => {
                    if !self.flushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(of_writer)?;
                        self.flushed = true;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<(), Said>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(of_reader)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            self.flushed = false;
            let taken = match Pin::new(to).poll_write(cx, read).map_err(of_writer)? {
                Poll::Ready(taken) => taken,
                Poll::Pending => 0,
            };
            self.left = Bytes::copy_from_slice(&read[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}

/// Two connections and what is between them.
pub(crate) struct Copying {
    client: Stream,
    upstream: Stream,
    up: Way,
    down: Way,
    idle: Duration,
    latest: Instant,
    deadline: Deadline,
}

impl Copying {
    /// `idle`: for so long nothing may move.
    pub(crate) fn new(client: Stream, upstream: Stream, idle: Duration) -> Self {
        let (up, down) = (Way::default(), Way::default());
        let (latest, deadline) = (Instant::now(), Deadline::default());
        Self { client, upstream, up, down, idle, latest, deadline }
    }

    /// Moves what can be moved; ready when both sides have ended.
    ///
    /// # Errors
    /// What the kernel said, or that nothing moved for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Halt>> {
        let mut moved = false;
        let up = self.up.poll(cx, &mut self.client, &mut self.upstream, &mut moved);
        let up = up.map_err(|(reader, error)| Halt::of(reader, error))?;
        let down = self.down.poll(cx, &mut self.upstream, &mut self.client, &mut moved);
        let down = down.map_err(|(reader, error)| Halt::of(!reader, error))?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if moved {
            self.latest = Instant::now();
        }
        if self.deadline.expired(cx, self.latest + self.idle) {
            return Poll::Ready(Err(Halt::Idle));
        }
        Poll::Pending
    }

    /// Ends both connections so that neither side takes it for a proper end.
    pub(crate) fn abort(self) {
        self.client.abort();
        self.upstream.abort();
    }
}
