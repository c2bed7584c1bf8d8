//! For packet functions and message functions in Rust.
#![doc = include_str!("../README.md")]

pub mod bucket;
mod buffer;
pub mod burst;
pub mod checksum;
pub mod config;
pub mod copy;
#[doc(hidden)]
pub mod export;
pub mod flow;
mod function;
pub mod hash;
pub mod host;
pub mod lpm;
mod memory;
pub mod message;
pub mod parse;
pub mod region;
mod sys;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod window;
pub mod wire;

pub use burst::{Buffer, Burst, NoRoom, Packet};
pub use function::{Function, NoConfig, Setup, Snapshot};
pub use weir_layout::{BURST_MAX, Verdict};

/// Everything that most functions need: `use weir_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::host::{self, Counter, Gauge};
    pub use crate::region::{Probe, StateArray, StateMap, StateRegion};
    pub use crate::{
        Buffer, Burst, Function, NoConfig, Packet, Setup, Snapshot, Verdict, debug, error, export,
        export_copy, info, trace, warn,
    };
}
