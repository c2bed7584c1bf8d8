//! Reports of commands. Their JSON keys are a promise to scripts.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::Name;

/// What `weir replay` reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Packets read from the capture.
    pub packets_in: u64,
    /// Packets written.
    pub packets_out: u64,
    /// Packets dropped, by reason: the host's names, or `function:NUMBER` for a function's own.
    pub drops: BTreeMap<String, u64>,
    /// The functions, in the chain's order.
    pub functions: Vec<ReplayedFunction>,
    /// What each function did to the packets that were to be followed, with `--trace`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<TracedPacket>,
}

/// A packet's way through a chain, in a [`ReplayReport`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// Its number in the capture, from 1; none if a function made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The packet as it came to the first function, in one line.
    pub packet: String,
    /// The functions that saw it, in order.
    pub steps: Vec<TracedStep>,
}

/// What a function did to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedStep {
    /// Its name in the chain.
    pub function: String,
    /// Its verdict, with its number if it has one; `fault` if it gave none.
    pub verdict: String,
    /// What it changed: lines of the packet's dissection, `-` before and `+` after, below the
    /// headers that they belong to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// A function in a [`ReplayReport`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedFunction {
    /// Its name in the chain.
    pub name: String,
    /// Its version; empty when neither chain nor manifest says.
    pub version: String,
    /// Packets it was given.
    pub packets: u64,
    /// Its verdicts by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Times it faulted.
    pub faults: u64,
}

/// What `weir bench` reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Packets a second, all cores together.
    pub packets_per_second: f64,
    /// Mean time for a packet on a core, in nanoseconds.
    pub ns_per_packet: f64,
    /// The 99th percentile over bursts of a packet's share of its burst, in nanoseconds.
    pub ns_per_packet_p99: f64,
    /// Packets in a burst.
    pub burst: u32,
    /// Bytes of a packet.
    pub size: u32,
    /// Flows.
    pub flows: u32,
    /// Cores.
    pub cores: u32,
    /// Functions in the chain.
    pub functions: u32,
}

/// Which world a component implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum World {
    /// It sees packets through a window.
    PacketFunction,
    /// It gets packets by value.
    PacketFunctionCopy,
    /// It gets the first bytes of a burst's packets by value.
    PacketFunctionBurst,
    /// It sees requests and responses through a window.
    MessageFunction,
    /// It sees connections and their bytes through a window.
    ConnectionFunction,
    /// `wasi:http/proxy`: it is handed requests and gives responses.
    #[serde(rename = "wasi:http/proxy")]
    WasiHttpProxy,
}

impl World {
    /// Whether it sees messages, not packets.
    #[must_use]
    pub const fn of_messages(self) -> bool {
        matches!(self, Self::MessageFunction | Self::ConnectionFunction | Self::WasiHttpProxy)
    }

    /// Its name in WIT.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PacketFunction => "packet-function",
            Self::PacketFunctionCopy => "packet-function-copy",
            Self::PacketFunctionBurst => "packet-function-burst",
            Self::MessageFunction => "message-function",
            Self::ConnectionFunction => "connection-function",
            Self::WasiHttpProxy => "wasi:http/proxy",
        }
    }
}

/// What `weir check` reports, and what the host says of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CheckReport {
    /// Whether the host would take it.
    pub accepted: bool,
    /// The world it implements, if that can be told.
    pub world: Option<World>,
    /// What it imports.
    pub imports: Vec<String>,
    /// Why it is refused; empty when accepted.
    pub reasons: Vec<String>,
    /// Bytes of linear memory it is instantiated with.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Linear memories it is instantiated with; 0: it was uploaded before that was counted, or is
    /// refused.
    #[serde(default)]
    pub memories: u32,
    /// Whether it carries private state over swaps (exports `snapshot`).
    #[serde(default)]
    pub saves: bool,
    /// Text of the `function.toml` that it carries.
    #[serde(default)]
    pub manifest: Option<String>,
}

/// What `weir function swap` and `rollback` report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SwapReport {
    /// The version that ran before.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::VersionSchema))]
    pub from: Version,
    /// The version asked for.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::VersionSchema))]
    pub to: Version,
    /// Longest time for which a chain's data path stood still, in microseconds.
    pub pause_us: f64,
    /// Time spent compiling, in milliseconds; 0 when it was compiled before.
    pub compile_ms: f64,
    /// Packets lost by the swap.
    pub packets_lost: u64,
    /// Chains in which it was swapped, or tried.
    #[serde(default)]
    pub chains: Vec<Name>,
    /// Whether a rollback ended a trial: `from` was being tried, `to` runs as before, and nothing
    /// was swapped.
    #[serde(default)]
    pub trial_ended: bool,
    /// Functions (`CHAIN:FUNCTION`) that could not take over their predecessor's state and started
    /// fresh.
    #[serde(default)]
    pub fresh: Vec<String>,
}
