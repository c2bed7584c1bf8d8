//! Listeners and the threads that serve them, from the socket to the first byte of a protocol.

pub(crate) mod accept;
pub(crate) mod listener;
pub(crate) mod proxy_protocol;
pub(crate) mod thread;
