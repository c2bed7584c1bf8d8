//! Steering: which flow a packet belongs to, and where it goes.
//!
//! Owns: what rules look at ([`Key`]), the rules ([`Rule`]) and the table that finds the first one which means a packet
//! ([`Table`]); and the symmetric flow hash ([`flow_hash`]) by which flows are spread over workers and over versions of a
//! function. Must not know: ports and chains (they are numbers here), files, or what is done with the answer. Nothing
//! of it changes once it is made: new rules are a new table.

#![forbid(unsafe_code)]

mod frame;
mod hash;
mod key;
mod lengths;
mod pattern;
mod ranges;
mod rule;
mod table;

pub use hash::flow_hash;
pub use key::{Key, UNTAGGED};
pub use pattern::Masked;
pub use rule::{Ports, Prefix, Rule, Target};
pub use table::Table;
