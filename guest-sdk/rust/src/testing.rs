//! A host for unit tests and native benchmarks: runs a function over real window memory, without
//! Wasm.
//!
//! Owns: the window, the state region, time and what the function tells the host, for one function
//! on the current thread. It behaves as `wit/net.wit` says, but enforces neither access nor
//! deadlines.
//!
//! ```
//! use weir_sdk::prelude::*;
//! use weir_sdk::testing::Harness;
//!
//! struct DropShort;
//! impl Function for DropShort {
//!     type Config = NoConfig;
//!     fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!     fn process(&mut self, burst: &mut Burst) {
//!         for i in 0..burst.len() {
//!             let mut packet = burst.packet(i);
//!             if packet.len() < 14 {
//!                 packet.set_verdict(Verdict::Drop(1));
//!             }
//!         }
//!     }
//! }
//!
//! let mut harness = Harness::<DropShort>::new("{}")?;
//! assert_eq!(harness.run(&[0; 13]).verdict, Verdict::Drop(1));
//! assert_eq!(harness.run(&[0; 60]).verdict, Verdict::Next);
//! # Ok::<(), String>(())
//! ```

mod copied;
pub(crate) mod exchanges;
pub mod frames;
mod harness;
pub(crate) mod host;
mod message;
mod messages;
mod native;

pub use copied::Copied;
pub use harness::{Frame, Harness, Options, Outcome};
pub use host::Sent;
pub use message::Message;
pub use messages::{ConnectionHarness, Exchanging, MessageHarness, PieceStep, Step};
pub use native::Native;

#[cfg(test)]
mod tests;
