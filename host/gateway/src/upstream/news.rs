//! What is told of upstreams as it happens: one is down, or healthy again.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Target;

/// An upstream of a listener, or an address of one, is down or healthy again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamNews {
    /// The listener's name.
    pub listener: String,
    /// Whether it may have requests now.
    pub up: bool,
    /// For people.
    pub message: String,
}

type Sink = Arc<dyn Fn(UpstreamNews) + Send + Sync>;

/// Where news go; nowhere by default.
#[derive(Clone, Default)]
pub struct News(Option<Sink>);

impl News {
    /// To this, on whichever thread something happens; it must not block.
    #[must_use]
    pub fn to(sink: impl Fn(UpstreamNews) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    /// Tells of the addresses of one upstream.
    pub(crate) fn of(&self, listener: &str, upstream: &Target) -> Teller {
        let (sink, listener, upstream) = (self.0.clone(), listener.to_owned(), upstream.clone());
        Arc::new(move |address: SocketAddr, up: bool, what: &str| {
            let Some(sink) = &sink else { return };
            let which = match &upstream {
                Target::Address(_) => upstream.to_string(),
                Target::Name { .. } => format!("{upstream} ({address})"),
            };
            let message = format!("upstream {which} of listener {listener} is {what}");
            sink(UpstreamNews { listener: listener.clone(), up, message });
        })
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("News").field(&self.0.is_some()).finish()
    }
}

/// Tells that an address of an upstream is up or not, and in words how it is.
pub(crate) type Teller = Arc<dyn Fn(SocketAddr, bool, &str) + Send + Sync>;
