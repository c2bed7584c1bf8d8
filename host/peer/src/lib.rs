//! The kernel's network stack at the other end of a port's link: a virtual function of the same
//! NIC, which its internal switch joins to the port's, or the other end of a veth pair.
//!
//! Owns: [`PeerPort`], which makes any port whose only neighbour is an interface of this machine's
//! kernel the way to the kernel's stack and back; and the hardware addresses on that link
//! ([`Addresses`], [`Neighbours`]). Must not know: rules, chains, kinds of ports.
//!
//! ```text
//!   wire ── port ── chain ── PeerPort ═══ link ═══ the kernel's interface ── TCP ── listener
//!         W                   P              K
//! ```
//!
//! A virtual function gets what is sent to its own address, and nothing else. So on the link
//! everybody has one address: the kernel sees all hosts of the wire at `P`, and the wire sees the
//! kernel at `W`, the address of the port before the chain. What is known as MAC address
//! translation of bridges (`macnat`) is that, with the kernel as the only host behind it: ARP and
//! neighbour discovery are passed on with the addresses in them changed, and what is sent to `P`
//! goes to who was last heard with the packet's destination.

#![forbid(unsafe_code)]

mod addresses;
mod discovery;
mod neighbours;
mod port;

pub use addresses::Addresses;
pub use neighbours::Neighbours;
pub use port::PeerPort;
