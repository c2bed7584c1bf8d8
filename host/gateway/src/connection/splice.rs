//! Two TCP connections that become one, when nobody wants to look at their bytes any more.
//!
//! Each direction ends for itself: the end of a stream is passed on when all its bytes have gone,
//! and the other direction goes on. At most one piece is under way in each, so a slow reader slows
//! the writer; a silent connection holds no buffer. Which method is the default was measured:
//! `scripts/bench relay`, docs/adr/0016-hops.md.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Bytes that a pipe is to hold.
const PIPE: usize = 256 << 10;
/// Empty pipes that a thread keeps.
const PIPES: usize = 32;

/// How bytes get from one connection to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read and written, through a buffer of this process's: what is done without files for a pipe.
    Copy,
    /// `splice(2)` through a pipe: pages move, the process sees no bytes.
    Splice,
}

/// Why it ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both streams came to their end.
    InOrder,
    /// Reading from or writing to the first connection failed.
    First(io::Error),
    /// The same of the second.
    Second(io::Error),
    /// Nothing moved for so long.
    Idle,
}

/// How long a relay waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// For so long nothing may move in either direction; without it, for ever.
    pub idle: Option<Duration>,
    /// For so long a connection may take nothing of what is sent to it; without it, as long as the
    /// other direction moves.
    pub patience: Option<Duration>,
}

/// Bytes that a relay has moved, up to now.
#[derive(Debug, Default)]
pub struct RelayedBytes {
    /// From the first connection to the second.
    pub forward: Cell<u64>,
    /// From the second to the first.
    pub backward: Cell<u64>,
}

impl RelayedBytes {
    fn all(&self) -> u64 {
        self.forward.get() + self.backward.get()
    }
}

/// Passes everything on between two connections, until both streams have ended, something fails, or
/// nothing moves for too long. The caller closes them then, in order or not.
pub async fn relay(a: &TcpStream, b: &TcpStream, limits: Limits, moved: &RelayedBytes) -> RelayEnd {
    relay_by(Method::Splice, a, b, limits, moved).await
}

/// [`relay`], by a method that the caller names: to measure and test each.
pub async fn relay_by(
    method: Method,
    a: &TcpStream,
    b: &TcpStream,
    limits: Limits,
    moved: &RelayedBytes,
) -> RelayEnd {
    let pumps = async {
        let pump = |from, to, moved| Pump { from, to, moved, patience: limits.patience };
        let forward = pump(a, b, &moved.forward).run(method);
        let backward = pump(b, a, &moved.backward).run(method);
        match both(forward, backward).await {
            Ok(()) => RelayEnd::InOrder,
            Err((0, Side::From, error) | (1, Side::To, error)) => RelayEnd::First(error),
            Err((_, _, error)) => RelayEnd::Second(error),
        }
    };
    until_idle(pumps, limits.idle, || moved.all()).await
}

/// Which connection of a direction failed.
enum Side {
    From,
    To,
}

type Failed = (Side, io::Error);

/// Both to their end, or the first that fails, with its number.
async fn both(
    forward: impl Future<Output = Result<(), Failed>>,
    backward: impl Future<Output = Result<(), Failed>>,
) -> Result<(), (u8, Side, io::Error)> {
    let number = |number| move |(side, error)| (number, side, error);
    let forward = async { forward.await.map_err(number(0)) };
    let backward = async { backward.await.map_err(number(1)) };
    tokio::try_join!(forward, backward).map(|((), ())| ())
}

/// What it comes to, or [`RelayEnd::Idle`] if `moved` stays the same for so long.
async fn until_idle(
    work: impl Future<Output = RelayEnd>,
    idle: Option<Duration>,
    moved: impl Fn() -> u64,
) -> RelayEnd {
    let Some(idle) = idle else { return work.await };
    let (mut work, mut timer) = (pin!(work), pin!(tokio::time::sleep(idle)));
    let (mut before, mut latest) = (moved(), Instant::now());
    poll_fn(|cx| {
        let ended = work.as_mut().poll(cx);
        if ended.is_ready() {
            return ended;
        }
        let now = moved();
        if now != before {
            (before, latest) = (now, Instant::now());
        }
        while timer.as_mut().poll(cx).is_ready() {
            if latest.elapsed() >= idle {
                return Poll::Ready(RelayEnd::Idle);
            }
            timer.as_mut().reset(latest + idle);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
struct Pump<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    moved: &'a Cell<u64>,
    patience: Option<Duration>,
}

impl Pump<'_> {
    /// Until its stream ends and the other connection has been told.
    async fn run(self, method: Method) -> Result<(), Failed> {
        loop {
            // Nothing is held for a connection that is silent.
            self.from.readable().await.map_err(|error| (Side::From, error))?;
            let more = match method {
                Method::Copy => self.copy().await?,
                Method::Splice => self.splice().await?,
            };
            if !more {
                return match shutdown(self.to, Shutdown::Write) {
                    // The other side is gone; the other direction says so.
                    Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
                    Err(error) => Err((Side::To, error.into())),
                };
            }
        }
    }

    /// Moves what is there. `false`: the stream has ended.
    async fn splice(&self) -> Result<bool, Failed> {
        // Too many files: it goes without.
        let Ok(pipe) = Pipe::take() else { return self.copy().await };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            let fill = || Ok(splice(self.from, None, &pipe.write, None, PIECE, flags)?);
            // The pipe is empty, so it is the connection that would block.
            let mut inside = match self.from.try_io(Interest::READABLE, fill) {
                Ok(0) => {
                    pipe.put();
                    return Ok(false);
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pipe.put();
                    return Ok(true);
                }
                Err(error) => return Err((Side::From, error)),
            };
            while inside > 0 {
                let drain = || Ok(splice(&pipe.read, None, self.to, None, inside, flags)?);
                inside -= self.sent(drain).await?;
            }
            // Others have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// The same through a buffer.
    async fn copy(&self) -> Result<bool, Failed> {
        let mut buffer = Vec::with_capacity(PIECE);
        loop {
            buffer.clear();
            let read = match self.from.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err((Side::From, error)),
            };
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let sent = self.sent(|| self.to.try_write(rest)).await?;
                rest = &rest[sent..];
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Sends when the other connection takes something, and counts it.
    async fn sent(&self, send: impl FnMut() -> io::Result<usize>) -> Result<usize, Failed> {
        let sending = self.to.async_io(Interest::WRITABLE, send);
        let sent = match self.patience {
            Some(patience) => tokio::time::timeout(patience, sending)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            None => sending.await,
        };
        let sent = sent.map_err(|error| (Side::To, error))?;
        self.moved.set(self.moved.get() + sent as u64);
        Ok(sent)
    }
}

/// A pipe with nothing in it, whenever somebody else can have it.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where it cannot be larger, pieces are smaller.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Ok(Self { read, write })
    }

    /// Gives it back, empty. One that is dropped is closed, with what is in it.
    fn put(self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < PIPES {
                free.push(self);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_what_moved_last() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (idle, moved) = (Duration::from_millis(400), Cell::new(0));
        let work = async {
            tokio::time::sleep(idle / 10).await;
            moved.set(1);
            std::future::pending().await
        };
        runtime.block_on(async {
            tokio::select! {
                biased;
                ended = until_idle(work, Some(idle), || moved.get()) => {
                    assert!(matches!(ended, RelayEnd::Idle), "{ended:?}");
                }
                () = tokio::time::sleep(idle * 19 / 10) => panic!("nothing has moved for so long"),
            }
        });
    }
}
