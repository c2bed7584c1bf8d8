//! Steering: which flow a packet belongs to, and where it goes.
//!
//! Owns: what rules look at ([`Key`]), the rules ([`Rule`]) and the table that finds the first one
//! which means a packet ([`Table`]); a cache of what was found out about flows ([`FlowCache`]); the
//! symmetric flow hash ([`flow_hash`]), and [`affinity_hash`] by which flows are spread over
//! workers and over versions of a function; the flow that an ICMP error is about ([`quoted`]); and
//! what of the rules a device in front of a port may decide ([`fits`]), and which of them decide
//! nothing ([`covered`]). Must not know: ports and chains (they are numbers here), files, or what
//! is done with the answer. A table never changes once it is made: new rules are a new one.

#![forbid(unsafe_code)]

mod affinity;
mod cache;
mod covered;
mod frame;
mod hash;
mod key;
mod lengths;
mod pattern;
mod placement;
mod ranges;
mod rule;
mod table;

pub use affinity::{affinity, affinity_hash, quoted};
pub use cache::{FlowCache, FlowRoute};
pub use covered::{CoveredRule, covered};
pub use hash::flow_hash;
pub use key::{Key, UNTAGGED, octets};
pub use pattern::MaskedKey;
pub use placement::{Fit, PARTS_MAX, Why, fits};
pub use rule::{Ports, Prefix, Rule, Target};
pub use table::Table;
