//! Connections as bytes, of clients and upstreams alike: read, written, sent together, passed on.

pub(crate) mod copying;
pub(crate) mod outbox;
pub(crate) mod relay;
pub(crate) mod splice;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod timer;
