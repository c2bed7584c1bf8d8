//! An L4 connection: opened, decided, relayed.
//!
//! Without interest in bytes they are relayed as they are. With it, each piece passes the chain
//! before the next one of its direction is read, until no function wants any more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use crate::chain::{BodyStep, Chain, Direction, Ended, Exchange, Kind, Origin, Pieces};
use crate::connection::copying::poll_piece;
use crate::connection::relay::{self, Halt};
use crate::connection::stream::{Pulse, Stream};
use crate::connection::timer::Deadline;
use crate::http::client_chain::refusal;
use crate::http::finish::Finish;
use crate::listen::listener::{Admission, Listener, Site, unless_killed};
use crate::observe::statistics::Failure;
use crate::upstream::link::Open;
use crate::upstream::rotation::{Choice, Tried};

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
    finish.asks(origin.client, None);
    finish.carries(client.traffic());
    let begun = begin(&site, &mut finish, client, &origin);
    let Some(Some(begun)) = unless_killed(&listener, &admission, begun).await else { return };
    let (mut client, mut upstream, open) = begun;
    let tunnel = site.plan.config.timeouts.tunnel;
    client.tunnels(tunnel);
    upstream.tunnels(tunnel);
    let data = site.chain.as_ref().is_some_and(|chain| chain.interests().data);
    let mut sides = (client, upstream);
    if let Some(exchange) = finish.exchange.clone().filter(|_| data) {
        let (client, upstream) = (RefCell::new(sides.0), RefCell::new(sides.1));
        let through = through(&site, &exchange, &client, &upstream);
        let seen = unless_killed(&listener, &admission, through).await;
        sides = (client.into_inner(), upstream.into_inner());
        if !matches!(seen, Some(Ok(Seen::Enough))) {
            if !matches!(seen, Some(Ok(Seen::All))) {
                sides.0.abort();
                sides.1.abort();
            }
            return over(&mut finish, &origin, seen.map(|seen| seen.map(|_| ())));
        }
    }
    let ended = relay::pass(sides, &site, &listener, &admission).await;
    over(&mut finish, &origin, ended);
    drop(open);
}

/// Notes how it ended. None: it was cut off.
fn over(finish: &mut Finish, origin: &Origin, ended: Option<Result<(), Halt>>) {
    if let Some(Err(why)) = &ended {
        tracing::debug!(client = %origin.client, %why, "an L4 connection ended");
    }
    finish.passed(ended.as_ref());
}

/// The chain's decision, and a connection to an upstream.
async fn begin(
    site: &Site,
    finish: &mut Finish,
    client: Stream,
    origin: &Origin,
) -> Option<(Stream, Stream, Open)> {
    if let Some(chain) = &site.chain {
        let exchange = chain.open(origin, Kind::Connection);
        finish.exchange = Some(exchange.clone());
        if chain.interests().opened
            && let Some((failure, ended)) = refusal(&exchange.opened().get().await)
        {
            finish.failed(failure);
            finish.ends(ended);
            if ended == Ended::Reset {
                client.abort();
            }
            return None;
        }
    }
    match connect(site, finish, origin).await {
        Ok((upstream, open)) => Some((client, upstream, open)),
        Err(failure) => {
            finish.failed(failure);
            finish.ends(Ended::UpstreamFailed);
            client.abort();
            None
        }
    }
}

/// A connection to the upstream that the chain chose, or whose turn it is.
///
/// # Errors
/// Why there is none.
async fn connect(
    site: &Site,
    finish: &mut Finish,
    origin: &Origin,
) -> Result<(Stream, Open), Failure> {
    let chosen = finish.exchange.as_ref().and_then(Exchange::upstream).map(Choice::preferred);
    let retry = &site.plan.config.retry;
    let (mut tried, mut left) = (Tried::new(), if retry.connect { retry.attempts } else { 0 });
    let mut failure = Failure::Connect;
    loop {
        let Some(upstream) = site.next(chosen, &tried) else { return Err(failure) };
        finish.at(&upstream);
        upstream.standing.asked();
        upstream.counters.requests.add(1);
        match upstream.connect(site.told(origin)).await {
            Ok(connected) => {
                upstream.standing.answered();
                return Ok(connected);
            }
            Err(why) => {
                upstream.not_connected(&why);
                failure = match why.failure {
                    Failure::UpstreamFull => Failure::UpstreamFull,
                    _ => Failure::Connect,
                };
                tried.push((upstream.index, upstream.address));
                if left == 0 {
                    return Err(failure);
                }
            }
        }
        left -= 1;
        site.counters.retries.add(1);
    }
}

/// What the chain has seen of a connection.
enum Seen {
    /// Both sides have ended.
    All,
    /// No function wants any more.
    Enough,
}

/// Passes bytes through the chain until both sides have ended, or no function wants to see any
/// more.
async fn through(
    site: &Site,
    exchange: &Exchange,
    client: &RefCell<Stream>,
    upstream: &RefCell<Stream>,
) -> Result<Seen, Halt> {
    let latest = Cell::new(Instant::now());
    let way = |direction, from, to| Way { site, exchange, direction, from, to, latest: &latest };
    let up = way(Direction::Request, client, upstream);
    let down = way(Direction::Response, upstream, client);
    match futures_util::future::try_join(up.run(), down.run()).await? {
        (Seen::All, Seen::All) => Ok(Seen::All),
        _ => Ok(Seen::Enough),
    }
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
    async fn run(self) -> Result<Seen, Halt> {
        let of_client = self.direction == Direction::Request;
        let of_reader = |error| Halt::of(of_client, error);
        let of_writer = |error| Halt::of(!of_client, error);
        loop {
            let Some(piece) = self.read().await.map_err(of_reader)? else {
                return Ok(Seen::Enough);
            };
            let last = piece.is_empty();
            let pieces = if self.exchange.done(self.direction) {
                Pieces::from_iter([piece])
            } else {
                let from_upstream = self.direction == Direction::Response;
                match self.exchange.data(from_upstream, piece, last).get().await {
                    BodyStep::Pass(pieces) => pieces,
                    BodyStep::Answer(_) | BodyStep::Reset => {
                        return Err(Halt::Function);
                    }
                }
            };
            for piece in pieces {
                self.write(piece).await.map_err(of_writer)?;
            }
            let flushed = poll_fn(|cx| Pin::new(&mut *self.to.borrow_mut()).poll_flush(cx)).await;
            flushed.map_err(of_writer)?;
            if last {
                let shut =
                    |cx: &mut Context<'_>| Pin::new(&mut *self.to.borrow_mut()).poll_shutdown(cx);
                poll_fn(shut).await.map_err(of_writer)?;
                return Ok(Seen::All);
            }
        }
    }

    /// The next piece, empty at the end. None: no function wants to see it, nor any of the other
    /// direction.
    async fn read(&self) -> io::Result<Option<Bytes>> {
        let max = self.site.chain.as_ref().map_or(1, Chain::piece_max);
        let idle = self.site.plan.config.timeouts.tunnel;
        let mut deadline = Deadline::default();
        poll_fn(|cx| {
            if [Direction::Request, Direction::Response].iter().all(|way| self.exchange.done(*way))
            {
                // The other direction is in the same task, and may wait for bytes.
                cx.waker().wake_by_ref();
                return Poll::Ready(Ok(None));
            }
            if let Poll::Ready(piece) = poll_piece(cx, &mut self.from.borrow_mut(), max) {
                self.latest.set(Instant::now());
                return Poll::Ready(piece.map(Some));
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
