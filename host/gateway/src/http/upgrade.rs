//! A connection that has changed to another protocol, for instance WebSocket (RFC 9110 section
//! 7.8): from then on its bytes are passed through.

use std::rc::Rc;

use bytes::Bytes;

use crate::chain::Ended;
use crate::connection::relay;
use crate::connection::stream::Stream;
use crate::http::finish::Finish;
use crate::listen::listener::{Admission, Listener};
use crate::upstream::link::Open;

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

    /// Passes bytes until both sides have ended, or the listener's connections are to be; how it
    /// ended.
    pub(crate) async fn relay(
        self,
        client: Stream,
        listener: &Listener,
        admission: &Admission,
    ) -> Ended {
        let Self { mut upstream, open, finish } = self;
        let (site, mut finish, mut client) = (Rc::clone(&finish.site), finish, client);
        let tunnel = site.plan.config.timeouts.tunnel;
        client.tunnels(tunnel);
        upstream.tunnels(tunnel);
        let ended = relay::pass((client, upstream), &site, listener, admission).await;
        finish.passed(ended.as_ref());
        drop(open);
        finish.how()
    }
}
