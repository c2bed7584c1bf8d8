//! A connection that has changed to another protocol, for instance WebSocket (RFC 9110 section 7.8): from then on its bytes are
//! passed through.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;

use crate::chain::Ended;
use crate::finish::Finish;
use crate::link::Open;
use crate::listener::{Admission, Listener};
use crate::relay::Relay;
use crate::stream::Stream;

/// The upstream's side, and the exchange that goes on.
pub(crate) struct Upgraded {
    upstream: Stream,
    open: Open,
    finish: Finish,
}

impl Upgraded {
    /// `early`: what the upstream sent behind its response.
    pub(crate) fn new(mut upstream: Stream, early: Bytes, open: Open, finish: Finish) -> Self {
        upstream.unread(early);
        Self { upstream, open, finish }
    }

    /// Passes bytes until both sides have ended, or the listener's connections are to be.
    pub(crate) async fn relay(self, client: Stream, listener: &Listener, admission: &Admission) {
        let Self { upstream, open, mut finish } = self;
        let idle = finish.site.plan.config.timeouts.idle;
        let mut relay = Relay::new(client, upstream, idle);
        let whole = poll_fn(|cx| {
            admission.task(cx);
            if listener.killed() {
                return Poll::Ready(false);
            }
            relay.poll(cx).map(|ended| ended.is_ok())
        })
        .await;
        if whole {
            finish.delivered();
        } else {
            finish.ends(Ended::Reset);
            relay.abort();
        }
        drop(open);
    }
}
