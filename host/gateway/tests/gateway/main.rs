//! The gateway against real clients and servers, on loopback: curl, h2load, Python, raw sockets.

mod authority;
mod chain;
mod client_certificates;
mod conformance;
mod http1;
mod http2;
mod lifecycle;
mod log;
mod response_buffers;
mod smuggling;
mod support;
mod tcp;
mod tls;
mod upstream_limits;
mod upstreams;
mod websocket;
