//! An L4 connection: opened, decided, relayed.
//!
//! Without interest in bytes they are relayed as they are. With it, each piece passes the chain before the next one of
//! its direction is read.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::balance::Tried;
use crate::chain::{BodyStep, Direction, Ended, Exchange, Origin, Step};
use crate::finish::Finish;
use crate::link::{Open, Unanswered};
use crate::listener::{Admission, Listener, Site};
use crate::relay::Relay;
use crate::statistics::Failure;
use crate::stream::{Pulse, Stream};

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
    let mut connection =
        pin!(connection(&listener, &site, &mut finish, client, &origin, &admission));
    poll_fn(|cx| {
        admission.task(cx);
        if listener.killed() {
            return Poll::Ready(());
        }
        std::future::Future::poll(connection.as_mut(), cx)
    })
    .await;
}

async fn connection(
    listener: &Listener,
    site: &Site,
    finish: &mut Finish,
    client: Stream,
    origin: &Origin,
    admission: &Admission,
) {
    if let Some(chain) = &site.chain {
        let exchange = chain.open(origin);
        finish.exchange = Some(exchange.clone());
        if chain.interests().opened {
            let ended = match exchange.opened().await {
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
                return;
            }
        }
    }
    let Some((upstream, open)) = connect(site, finish, origin).await else {
        finish.failed(Failure::Connect);
        finish.ends(Ended::UpstreamFailed);
        client.abort();
        return;
    };
    let data = site.chain.as_ref().is_some_and(|chain| chain.interests().data);
    let ended = match finish.exchange.clone().filter(|_| data) {
        Some(exchange) => through(site, &exchange, client, upstream).await,
        None => straight(site, listener, client, upstream, admission).await,
    };
    match ended {
        Ok(()) => finish.delivered(),
        Err(error) => {
            tracing::debug!(client = %origin.client, %error, "an L4 connection ended");
            finish.ends(Ended::Reset);
        }
    }
    drop(open);
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

async fn straight(
    site: &Site,
    listener: &Listener,
    client: Stream,
    upstream: Stream,
    admission: &Admission,
) -> io::Result<()> {
    let mut relay = Relay::new(client, upstream, site.plan.config.timeouts.idle);
    let ended = poll_fn(|cx| {
        admission.task(cx);
        if listener.killed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        relay.poll(cx)
    })
    .await;
    if ended.is_err() {
        relay.abort();
    }
    ended
}

async fn through(
    site: &Site,
    exchange: &Exchange,
    client: Stream,
    upstream: Stream,
) -> io::Result<()> {
    let idle = site.plan.config.timeouts.idle;
    let piece_max = site.chain.as_ref().map_or(1, crate::chain::Chain::piece_max);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let up = way(exchange, Direction::Request, from_client, to_upstream, piece_max, idle);
    let down = way(exchange, Direction::Response, from_upstream, to_client, piece_max, idle);
    futures_util::future::try_join(up, down).await.map(|_| ())
}

async fn way(
    exchange: &Exchange,
    direction: Direction,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    piece_max: usize,
    idle: Duration,
) -> io::Result<()> {
    loop {
        let mut buffer = BytesMut::with_capacity(piece_max);
        let read = tokio::time::timeout(idle, from.read_buf(&mut buffer)).await;
        let last = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0;
        let piece = buffer.freeze();
        let pieces = if exchange.done(direction) {
            smallvec::SmallVec::from_iter([piece])
        } else {
            match exchange.data(direction == Direction::Response, piece, last).await {
                BodyStep::Pass(pieces) => pieces,
                BodyStep::Answer(_) | BodyStep::Reset => {
                    return Err(io::Error::other("a function ended the connection"));
                }
            }
        };
        for piece in pieces {
            to.write_all(&piece).await?;
        }
        to.flush().await?;
        if last {
            return to.shutdown().await;
        }
    }
}
