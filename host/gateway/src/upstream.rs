//! Upstreams: their addresses and how they stand, whose turn it is, connections to them.

pub(crate) mod balance;
pub(crate) mod dial;
pub(crate) mod environment;
pub(crate) mod health;
pub(crate) mod http2;
pub(crate) mod keeper;
pub(crate) mod link;
pub(crate) mod members;
pub(crate) mod news;
pub(crate) mod pool;
pub(crate) mod room;
pub(crate) mod rotation;
pub(crate) mod waker;
