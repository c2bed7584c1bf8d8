//! Steering: telling which flow a packet belongs to.
//!
//! Owns: the symmetric flow hash ([`flow_hash`]) by which flows are spread over workers and over
//! versions of a function. Must not know: ports, chains, or what is done with the answer. It has no
//! tables and no state, and reads nothing but the frame.

#![forbid(unsafe_code)]

mod frame;
mod hash;
mod key;

pub use hash::flow_hash;
pub use key::{Key, UNTAGGED};
