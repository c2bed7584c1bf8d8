//! The `xdp` port: packets of a network interface, straight into a chain's pool and out of it.
//!
//! Owns: AF_XDP sockets and their rings ([`XdpPort`]), the XDP program that gives them packets, the
//! steering rules that it decides by, and what the kernel says about an interface. Must not know:
//! chains, verdicts, workers. The model is `Documentation/networking/af_xdp.rst`; the reference for
//! the rings is libxdp's `xsk.h`.
//!
//! ```text
//!              interface, receive queue n
//!                         │
//!               XDP program (ebpf/xdp-redirect) ──unclaimed, steered──> kernel's network stack
//!                         │ claimed
//!      fill ring ──> AF_XDP socket ──> rx ring          umem = the rooms of the lane's pool:
//!   rooms to fill         │         filled rooms        every port of the lane knows every room,
//!                         │                             so a packet leaves from where it came in
//!  completion ring <── AF_XDP socket <── tx ring
//!     rooms sent          │          rooms to send
//!                         v
//!                     interface
//! ```
//!
//! `unsafe` lies in `ring.rs`, and in one function each of `socket.rs` and `interface.rs` for what
//! rustix does not know.

mod config;
mod error;
mod inspector;
mod interface;
mod links;
mod maps;
mod pin;
mod port;
mod program;
mod ring;
mod socket;
mod steering;

pub use config::{Match, Mode, Pinning, XdpConfig};
pub use links::{Link, watch};
pub use pin::{own_pins, remove_left};
pub use port::XdpPort;
