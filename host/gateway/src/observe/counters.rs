//! What is counted of listeners and upstreams.

use std::sync::Arc;

pub(crate) use weir_exchange::{Counter, Histogram};

use crate::observe::statistics::{FAILURES, Failure};

/// Bytes of connections, TLS's own not counted.
#[derive(Default)]
pub(crate) struct Traffic {
    received: Counter,
    sent: Counter,
    /// What they count in, too.
    all: Option<Arc<Self>>,
}

impl Traffic {
    /// That of one connection among others.
    pub(crate) fn within(all: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { all: Some(Arc::clone(all)), ..Self::default() })
    }

    pub(crate) fn add(&self, received: u64, sent: u64) {
        self.received.add(received);
        self.sent.add(sent);
        if let Some(all) = &self.all {
            all.add(received, sent);
        }
    }

    /// Bytes that were received, and sent.
    pub(crate) fn get(&self) -> [u64; 2] {
        [&self.received, &self.sent].map(Counter::get)
    }
}

/// What is counted of responses by the first digit of their status.
#[derive(Default)]
pub(crate) struct Classes([Counter; 5]);

impl Classes {
    pub(crate) fn count(&self, status: http::StatusCode) {
        if let Some(class) = self.0.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.add(1);
        }
    }

    pub(crate) fn get(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.0[class].get())
    }
}

/// What is counted of failures.
#[derive(Default)]
pub(crate) struct Failures([Counter; FAILURES.len()]);

impl Failures {
    pub(crate) fn count(&self, failure: Failure) {
        self.0[failure as usize].add(1);
    }

    pub(crate) fn get(&self) -> [u64; FAILURES.len()] {
        std::array::from_fn(|failure| self.0[failure].get())
    }
}

/// A listener's counters on one thread.
#[derive(Default)]
pub(crate) struct ListenerCounters {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) open: Counter,
    pub(crate) requests: Counter,
    pub(crate) active: Counter,
    pub(crate) responses: Classes,
    pub(crate) retries: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) spliced: Counter,
    pub(crate) failures: Failures,
    pub(crate) latency: Histogram,
    pub(crate) traffic: Arc<Traffic>,
}

/// An upstream's counters on one thread.
#[derive(Default)]
pub(crate) struct UpstreamCounters {
    pub(crate) connected: Counter,
    pub(crate) open: Counter,
    pub(crate) requests: Counter,
    pub(crate) active: Counter,
    pub(crate) responses: Classes,
    pub(crate) failures: Failures,
    pub(crate) latency: Histogram,
    pub(crate) traffic: Arc<Traffic>,
}
