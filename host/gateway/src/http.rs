//! HTTP towards clients: their connections, the rules for heads, the way of a request through the
//! chain to an upstream and back, bodies.

pub(crate) mod client;
pub(crate) mod client_chain;
pub(crate) mod exchange;
pub(crate) mod fault;
pub(crate) mod filter;
pub(crate) mod finish;
pub(crate) mod flow;
pub(crate) mod forward;
pub(crate) mod journey;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub(crate) mod response_buffers;
pub(crate) mod retry_body;
pub(crate) mod retry_budget;
pub(crate) mod retry_head;
pub(crate) mod rules;
pub(crate) mod stream_body;
pub(crate) mod unread_body;
pub(crate) mod unreadable;
pub(crate) mod upgrade;
