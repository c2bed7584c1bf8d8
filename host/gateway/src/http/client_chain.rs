//! A connection that carries requests, as functions for connections see it: it is opened, and it
//! ends. Its bytes are requests', and are not shown.
//!
//! It has the version of the chain by which it was opened, which has memory of its own when it runs
//! no more; so it ends with its next response then.

use std::rc::Rc;

use tokio::time::Instant;

use crate::chain::{Denied, Direction, Ended, Exchange, Kind, Origin, Step};
use crate::config::Target;
use crate::listen::listener::{Listener, Site};
use crate::observe::statistics::Failure;

/// A connection that the chain knows of. Its end is told when this is dropped; until something else
/// is said, that means that the client went.
pub(crate) struct Watched {
    site: Rc<Site>,
    exchange: Exchange,
    began: Instant,
    how: Ended,
}

impl Watched {
    /// Tells the chain of a connection; none: it does not want to know.
    ///
    /// # Errors
    /// A function refuses it, and so it ends like this.
    pub(crate) async fn open(site: &Rc<Site>, origin: &Origin) -> Result<Option<Self>, Ended> {
        let Some(chain) = &site.chain else { return Ok(None) };
        let interests = chain.interests();
        if !interests.opened && !interests.data {
            return Ok(None);
        }
        let (exchange, began) = (chain.open(origin, Kind::HttpConnection), Instant::now());
        let watched = Self { site: Rc::clone(site), exchange, began, how: Ended::ClientGone };
        let mut refused = refusal(&watched.exchange.opened().get().await);
        // Who decides by bytes, or changes them, would never be asked.
        let waits = |way| !watched.exchange.done(way);
        if [Direction::Request, Direction::Response].into_iter().any(waits) {
            refused = refused.or(Some((Failure::Function, Ended::Reset)));
        }
        let Some((failure, how)) = refused else { return Ok(Some(watched)) };
        site.counters.failures.count(failure);
        watched.ends(how);
        Err(how)
    }

    /// Where its requests go that no function sends elsewhere, if a function said so.
    pub(crate) fn upstream(&self) -> Option<Target> {
        let chosen = self.site.plan.config.upstreams.get(self.exchange.upstream()?)?;
        Some(chosen.address.clone())
    }

    /// Whether connections that come now are shown to another version of the chain, or by another
    /// configuration of the listener.
    pub(crate) fn is_outdated(&self, listener: &Listener) -> bool {
        !Rc::ptr_eq(&self.site, &listener.site()) || self.exchange.is_outdated()
    }

    /// It has ended like this.
    pub(crate) fn ends(mut self, how: Ended) {
        self.how = how;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.exchange.end(self.how, None, self.began.elapsed());
    }
}

/// Why a connection is refused of which the chain says this when it is opened, and how it ends;
/// none: it goes on.
pub(crate) fn refusal(step: &Step) -> Option<(Failure, Ended)> {
    match step {
        Step::Continue => None,
        Step::Answer(answer) => Some(match answer.extensions().get::<Denied>() {
            Some(why) => (Failure::from(*why), Ended::Reset),
            None => (Failure::Function, Ended::Answered),
        }),
        Step::Reset => Some((Failure::Function, Ended::Reset)),
    }
}
