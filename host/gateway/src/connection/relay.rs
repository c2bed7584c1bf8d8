//! Two connections whose bytes nobody looks at any more.
//!
//! Without TLS on either they are spliced: their bytes never come into this process
//! (docs/adr/0016-hops.md has what that saves). Otherwise they are copied.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::Buf as _;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use crate::connection::copying::Copying;
use crate::connection::splice::{self, Limits, RelayEnd, RelayedBytes};
use crate::connection::stream::{self, Stream};
use crate::listen::listener::{Admission, Listener, Site, unless_killed};
use crate::observe::counters::{Counter, Traffic};

/// Why bytes are passed no further.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The client's connection broke.
    Client(io::Error),
    /// The upstream's connection broke.
    Upstream(io::Error),
    /// Nothing moved for too long, or one side took nothing.
    Idle,
    /// A function ended it.
    Function,
}

impl Halt {
    /// Why, if this was said of the client's connection, or of the upstream's.
    pub(crate) fn of(of_client: bool, error: io::Error) -> Self {
        match error {
            error if is_idle(&error) => Self::Idle,
            error if of_client => Self::Client(error),
            error => Self::Upstream(error),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "the client's connection: {error}"),
            Self::Upstream(error) => write!(f, "the upstream's connection: {error}"),
            Self::Idle => f.write_str("nothing moved for too long"),
            Self::Function => f.write_str("a function ended it"),
        }
    }
}

/// Passes bytes between a client and an upstream until both sides have ended, nothing has moved for
/// the listener's `tunnel`, or its connections are cut off (none). Unless both have ended both are
/// reset.
pub(crate) async fn pass(
    (client, upstream): (Stream, Stream),
    site: &Site,
    listener: &Listener,
    admission: &Admission,
) -> Option<Result<(), Halt>> {
    let relay =
        Relay::new(client, upstream, site.plan.config.timeouts.tunnel, &site.counters.spliced);
    let mut relay = match unless_killed(listener, admission, relay).await? {
        Ok(relay) => relay,
        Err(error) => return Some(Err(error)),
    };
    let ended = unless_killed(listener, admission, relay.run()).await;
    if !matches!(ended, Some(Ok(()))) {
        relay.abort();
    }
    ended
}

/// See the module.
enum Relay {
    Copying(Box<Copying>),
    Splicing(Splicing),
}

impl Relay {
    /// Makes one, after what either connection had read and not yet passed on has gone. `idle`: for
    /// so long nothing may move. `spliced` counts those that are.
    ///
    /// # Errors
    /// Bytes that were there before did not get to the other side.
    async fn new(
        mut client: Stream,
        mut upstream: Stream,
        idle: Duration,
        spliced: &Counter,
    ) -> Result<Self, Halt> {
        if !(client.is_plain() && upstream.is_plain()) {
            return Ok(Self::copying(client, upstream, idle));
        }
        let settled = async {
            let up = pass_early(&mut client, &mut upstream).await;
            up.map_err(|error| Halt::of(false, error))?;
            let down = pass_early(&mut upstream, &mut client).await;
            down.map_err(|error| Halt::of(true, error))
        };
        if let Err(halt) = settled.await {
            client.abort();
            upstream.abort();
            return Err(halt);
        }
        let patience = client.patience().min(upstream.patience());
        let (client, upstream) = match (client.into_tcp(), upstream.into_tcp()) {
            (Ok(client), Ok(upstream)) => (client, upstream),
            // Somebody still has to do with one of them.
            (client, upstream) => {
                let [client, upstream] = [client, upstream].map(|side| match side {
                    Ok((tcp, traffic)) => Stream::plain(tcp, traffic, patience),
                    Err(stream) => *stream,
                });
                return Ok(Self::copying(client, upstream, idle));
            }
        };
        spliced.add(1);
        let limits = Limits { idle: Some(idle), patience: Some(patience) };
        Ok(Self::Splicing(Splicing { client, upstream, limits }))
    }

    fn copying(client: Stream, upstream: Stream, idle: Duration) -> Self {
        Self::Copying(Box::new(Copying::new(client, upstream, idle)))
    }

    /// Moves bytes until both sides have ended.
    ///
    /// # Errors
    /// What the kernel said, or that nothing moved for too long.
    async fn run(&mut self) -> Result<(), Halt> {
        match self {
            Self::Copying(copying) => poll_fn(|cx| copying.poll(cx)).await,
            Self::Splicing(splicing) => splicing.run().await,
        }
    }

    /// Ends both connections so that neither side takes it for a proper end.
    pub(crate) fn abort(self) {
        match self {
            Self::Copying(copying) => copying.abort(),
            Self::Splicing(Splicing { client, upstream, .. }) => {
                [client, upstream].iter().for_each(|(tcp, _)| stream::reset(tcp));
            }
        }
    }
}

/// Whether it is that nothing moved for too long, or was taken; the kernel's own times have a
/// number.
fn is_idle(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

/// Sends on what was read too early, and all that was to be sent before.
async fn pass_early(from: &mut Stream, to: &mut Stream) -> io::Result<()> {
    let mut early = from.take_early();
    while !early.is_empty() {
        let taken = poll_fn(|cx| Pin::new(&mut *to).poll_write(cx, &early)).await?;
        early.advance(taken);
    }
    poll_fn(|cx| to.poll_sent(cx)).await
}

/// Two TCP connections with what is counted of them.
pub(crate) struct Splicing {
    client: (TcpStream, Arc<Traffic>),
    upstream: (TcpStream, Arc<Traffic>),
    limits: Limits,
}

impl Splicing {
    async fn run(&self) -> Result<(), Halt> {
        let moved = RelayedBytes::default();
        let mut counted = [0; 2];
        let relay = splice::relay(&self.client.0, &self.upstream.0, self.limits, &moved);
        let mut relay = pin!(relay);
        let ended = poll_fn(|cx: &mut Context<'_>| {
            let ended = relay.as_mut().poll(cx);
            self.count(&moved, &mut counted);
            ended
        });
        match ended.await {
            RelayEnd::InOrder => Ok(()),
            RelayEnd::First(error) => Err(Halt::of(true, error)),
            RelayEnd::Second(error) => Err(Halt::of(false, error)),
            RelayEnd::Idle => Err(Halt::Idle),
        }
    }

    /// Adds what has moved since it was last called.
    fn count(&self, moved: &RelayedBytes, counted: &mut [u64; 2]) {
        let now = [moved.forward.get(), moved.backward.get()];
        let [up, down] = [now[0] - counted[0], now[1] - counted[1]];
        *counted = now;
        self.client.1.add(up, down);
        self.upstream.1.add(down, up);
    }
}
