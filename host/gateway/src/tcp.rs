//! An L4 connection: opened, decided, relayed.
//!
//! Without interest in bytes they are relayed as they are. With it, each piece passes the chain before the next one of
//! its direction is read.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use crate::balance::Tried;
use crate::chain::{BodyStep, Chain, Direction, Ended, Exchange, Origin, Pieces, Step};
use crate::finish::Finish;
use crate::link::{Open, Unanswered};
use crate::listener::{Admission, Listener, Site};
use crate::relay::{Relay, poll_piece};
use crate::statistics::Failure;
use crate::stream::{Pulse, Stream};
use crate::timer::Deadline;

/// Serves an L4 connection.
pub(crate) async fn serve(
    listener: Rc<Listener>,
    client: Stream,
    pulse: Rc<Pulse>,
    origin: Origin,
    admission: Admission,
) {
    let site = listener.site();
    let mut finish = Finish::new(Rc::clone(&site), pulse);
    let begun = begin(&site, &mut finish, client, &origin);
    let Some(Some(begun)) = unless_killed(&listener, &admission, begun).await else { return };
    let (client, upstream, open) = begun;
    let data = site.chain.as_ref().is_some_and(|chain| chain.interests().data);
    let ended = if let Some(exchange) = finish.exchange.clone().filter(|_| data) {
        let (client, upstream) = (RefCell::new(client), RefCell::new(upstream));
        let through = through(&site, &exchange, &client, &upstream);
        let ended = unless_killed(&listener, &admission, through).await;
        if !matches!(ended, Some(Ok(()))) {
            client.into_inner().abort();
            upstream.into_inner().abort();
        }
        ended
    } else {
        let mut relay = Relay::new(client, upstream, site.plan.config.timeouts.idle);
        let relayed = poll_fn(|cx| relay.poll(cx));
        let ended = unless_killed(&listener, &admission, relayed).await;
        if !matches!(ended, Some(Ok(()))) {
            relay.abort();
        }
        ended
    };
    match ended {
        Some(Ok(())) => finish.delivered(),
        Some(Err(error)) => {
            tracing::debug!(client = %origin.client, %error, "an L4 connection ended");
            finish.ends(Ended::Reset);
        }
        None => finish.ends(Ended::Reset),
    }
    drop(open);
}

/// Does this, unless the listener's connections are to be cut off.
async fn unless_killed<T>(
    listener: &Listener,
    admission: &Admission,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        admission.task(cx);
        if listener.killed() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// The chain's decision, and a connection to an upstream.
async fn begin(
    site: &Site,
    finish: &mut Finish,
    client: Stream,
    origin: &Origin,
) -> Option<(Stream, Stream, Open)> {
    if let Some(chain) = &site.chain {
        let exchange = chain.open(origin);
        finish.exchange = Some(exchange.clone());
        if chain.interests().opened {
            let ended = match exchange.opened().get().await {
                Step::Continue => None,
                Step::Answer(_) => Some(Ended::Answered),
                Step::Reset => Some(Ended::Reset),
            };
            if let Some(ended) = ended {
                finish.failed(Failure::Function);
                finish.ends(ended);
                if ended == Ended::Reset {
                    client.abort();
                }
                return None;
            }
        }
    }
    let Some((upstream, open)) = connect(site, finish, origin).await else {
        finish.failed(Failure::Connect);
        finish.ends(Ended::UpstreamFailed);
        client.abort();
        return None;
    };
    Some((client, upstream, open))
}

/// A connection to the upstream that the chain chose, or whose turn it is.
async fn connect(site: &Site, finish: &mut Finish, origin: &Origin) -> Option<(Stream, Open)> {
    let mut chosen = finish.exchange.as_ref().and_then(Exchange::upstream);
    let retry = &site.plan.config.retry;
    let (mut tried, mut left) = (Tried::new(), if retry.connect { retry.attempts } else { 0 });
    loop {
        let next = match chosen.take().filter(|chosen| *chosen < site.upstreams.len()) {
            Some(chosen) => chosen,
            None => site.balance.next(&tried, |i| site.upstreams[i].standing.healthy())?,
        };
        let upstream = &site.upstreams[next];
        finish.at(upstream);
        upstream.counters.requests.add(1);
        match upstream.connect(site.told(origin)).await {
            Ok(connected) => {
                upstream.standing.answered();
                return Some(connected);
            }
            Err(why) => {
                upstream.standing.failed();
                upstream.counters.failures.count(Failure::Connect);
                tried.push(next);
                if left == 0 || !matches!(why, Unanswered::Connect { .. }) {
                    return None;
                }
            }
        }
        left -= 1;
        site.counters.retries.add(1);
    }
}

/// Passes bytes through the chain until both sides have ended.
async fn through(
    site: &Site,
    exchange: &Exchange,
    client: &RefCell<Stream>,
    upstream: &RefCell<Stream>,
) -> io::Result<()> {
    let latest = Cell::new(Instant::now());
    let way = |direction, from, to| Way { site, exchange, direction, from, to, latest: &latest };
    let up = way(Direction::Request, client, upstream);
    let down = way(Direction::Response, upstream, client);
    futures_util::future::try_join(up.run(), down.run()).await.map(|_| ())
}

/// One direction of a connection whose bytes pass the chain.
struct Way<'a> {
    site: &'a Site,
    exchange: &'a Exchange,
    direction: Direction,
    from: &'a RefCell<Stream>,
    to: &'a RefCell<Stream>,
    /// When a piece came, from either side.
    latest: &'a Cell<Instant>,
}

impl Way<'_> {
    async fn run(self) -> io::Result<()> {
        loop {
            let piece = self.read().await?;
            let last = piece.is_empty();
            let pieces = if self.exchange.done(self.direction) {
                Pieces::from_iter([piece])
            } else {
                let from_upstream = self.direction == Direction::Response;
                match self.exchange.data(from_upstream, piece, last).get().await {
                    BodyStep::Pass(pieces) => pieces,
                    BodyStep::Answer(_) | BodyStep::Reset => {
                        return Err(io::Error::other("a function ended the connection"));
                    }
                }
            };
            for piece in pieces {
                self.write(piece).await?;
            }
            poll_fn(|cx| Pin::new(&mut *self.to.borrow_mut()).poll_flush(cx)).await?;
            if last {
                return poll_fn(|cx| Pin::new(&mut *self.to.borrow_mut()).poll_shutdown(cx)).await;
            }
        }
    }

    /// The next piece, empty at the end.
    async fn read(&self) -> io::Result<Bytes> {
        let max = self.site.chain.as_ref().map_or(1, Chain::piece_max);
        let idle = self.site.plan.config.timeouts.idle;
        let mut deadline = Deadline::default();
        poll_fn(|cx| {
            if let Poll::Ready(piece) = poll_piece(cx, &mut self.from.borrow_mut(), max) {
                self.latest.set(Instant::now());
                return Poll::Ready(piece);
            }
            if deadline.expired(cx, self.latest.get() + idle) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending
        })
        .await
    }

    async fn write(&self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            let wrote =
                |cx: &mut Context<'_>| Pin::new(&mut *self.to.borrow_mut()).poll_write(cx, &piece);
            let taken = poll_fn(wrote).await?;
            piece.advance(taken);
        }
        Ok(())
    }
}
