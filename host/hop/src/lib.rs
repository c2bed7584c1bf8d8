//! Hops of the message plane: what moves between the gateway and the processes of its workers.
//!
//! Owns: descriptors on their way ([`Hub`], [`End`]), the processes at the other side
//! ([`WorkerProcess`], [`Inherited`], [`Supervisor`]). Must not know: HTTP, chains, Wasm, what lies
//! in the shared memory, what is under way.
//!
//! ```text
//!      gateway                        kernel                          worker (confined)
//!   End::send, flush ──> sendmsg ──> sk_msg program ───────────────> End::receive
//!                                      who sends? (KEYS, ENDS)
//!                                      where to?  (ROUTES)
//!                                      into its socket (SOCKETS), past the TCP stack
//!   End::receive  <───────────────── sk_msg program <── sendmsg <─── End::send, flush
//!        shared memory (memfd): the bytes that descriptors speak of; they never move
//! ```
//!
//! Where eBPF cannot be had, the same ends are a pair of Unix sockets; [`Hub::carrier`] says which.
//! Reasons and numbers: docs/adr/0016-hops.md. `unsafe` lies in `process/`, for what has no safe
//! wrapper: starting a process in namespaces of its own, and taking over what it inherits; and in a
//! call of `event_loop.rs`.

mod end;
mod event_loop;
mod hub;
mod kernel;
mod numbers;
mod process;

pub use end::{Discarded, End};
pub use event_loop::AsyncEnd;
pub use hub::{Carrier, HopCounts, Hub, HubError, WorkerSocket};
pub use numbers::Number;
pub use process::{
    Confined, Death, Inherited, Limits, Namespaces, Plan, ProcessError, Restart, Supervisor,
    WorkerEvent, WorkerProcess,
};
pub use weir_hop_layout::{BATCH, Counts, Descriptor, WINDOW};
