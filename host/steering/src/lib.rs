//! Steering: telling which flow a packet belongs to.
//!
//! Owns: the symmetric flow hash ([`flow_hash`]) by which flows are spread over
//! versions of a function, and [`affinity_hash`] by which they are spread over workers. Must not know: ports, chains, or what is done with the answer. It has no
//! tables and no state, and reads nothing but the frame.

#![forbid(unsafe_code)]

mod affinity;
mod frame;
mod hash;
mod key;

pub use affinity::affinity_hash;
pub use hash::flow_hash;
pub use key::{Key, UNTAGGED};
