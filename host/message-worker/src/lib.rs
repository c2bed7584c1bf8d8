//! Process mode of the message plane: a chain of message functions in a confined process of its
//! own.
//!
//! Owns: what gateway and worker say to each other, the memory they say it in, starting and looking
//! after workers, and the worker itself. Must not know: sockets of clients and upstreams, how
//! functions are run ([`weir_message`] does that on both sides of the choice).
//!
//! ```text
//!   gateway thread                            worker process
//!   RemoteChain ── event ──> rings, hop ─────> serve: weir_message::Chain
//!               <─ step, call, store ── rings, hop
//!   keeper thread ── order, files ── control socket ──> control thread: stage, swap, trial, report
//! ```
//!
//! Services of the chain (components of `wasi:http/proxy`) are in the worker, too. Their bodies
//! cross the rings frame by frame.
//!
//! A worker is hostile as soon as a function has broken out of its sandbox: what it says is copied
//! out of shared memory, then checked; whatever it could not have meant ends it.

mod control;
mod gateway;
mod keeper;
mod orders;
mod protocol;
mod rings;
mod streams;
mod worker;

pub use gateway::{Link, RemoteChain, RemoteConfig};
pub use keeper::{Keeper, KeeperConfig};
pub use orders::{FunctionImage, News, Order, ProxyImage, Reply, Report, SiteImage, TRIAL, WORKER};
pub use worker::serve;
