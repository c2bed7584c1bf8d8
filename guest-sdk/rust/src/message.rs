//! Functions of the message plane: requests and responses (L7), and connections (L4).
//!
//! Owns: the traits, views of what lies in the window (`wit/message.md`), and each exchange's
//! state. Must not know: where messages come from, or HTTP beyond heads and bodies.
//!
//! ```
//! use weir_sdk::message::prelude::*;
//! use weir_sdk::testing::{Message, MessageHarness};
//!
//! /// Refuses what is no GET, and marks what passes.
//! struct Reading;
//!
//! impl MessageFunction for Reading {
//!     type Config = NoConfig;
//!     type State = ();
//!
//!     fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!     fn wants(&self) -> Wants {
//!         Wants::REQUEST_HEAD
//!     }
//!     fn request_head(&mut self, exchange: &mut Exchange<'_, ()>, head: &mut Head<'_>) -> Outcome {
//!         if head.method() != b"GET" {
//!             return exchange.answer(&Response::new(405).field("allow", "GET"));
//!         }
//!         match head.set("x-seen", b"yes") {
//!             Ok(()) => Outcome::Continue,
//!             Err(full) => exchange.fail(&full),
//!         }
//!     }
//! }
//!
//! weir_sdk::export_message!(Reading);
//!
//! let mut harness = MessageHarness::<Reading>::new("{}")?; let seen = |request: &Message|
//! Message::response(200).body(request.get_field("x-seen").unwrap());
//! assert_eq!(harness.exchange(&Message::request("POST", "/"), seen).status, 405);
//! assert_eq!(harness.exchange(&Message::get("/"), seen).body, b"yes");
//! # Ok::<(), String>(())
//! ```

#[doc(hidden)]
pub mod dispatch;
mod exchange;
mod function;
#[doc(hidden)]
pub mod handler;
mod head;
mod made;
mod outcome;
mod piece;
mod prefix;
mod resumed;
mod slots;

pub use exchange::{Exchange, Token, active, healthy};
pub use function::{ConnectionFunction, MessageFunction};
pub use head::Head;
pub use made::{Request, Response};
pub use outcome::{Answered, End, How, Outcome};
pub use piece::{Piece, PieceFull};
pub use prefix::Prefix;
pub use resumed::{Failure, Pending, Resumed};
pub use weir_layout::message::{HeadFull, Wants};

/// Everything that most message functions need: `use weir_sdk::message::prelude::*;`.
pub mod prelude {
    pub use super::{
        ConnectionFunction, End, Exchange, Failure, Head, HeadFull, How, MessageFunction, Outcome,
        Pending, Piece, Prefix, Request, Response, Resumed, Token, Wants,
    };
    pub use crate::host::{self, Counter, Gauge};
    pub use crate::region::{Probe, StateArray, StateMap, StateRegion};
    pub use crate::{
        NoConfig, Setup, Snapshot, debug, error, export_connection, export_message, info, trace,
        warn,
    };
}

#[cfg(test)]
mod tests;
