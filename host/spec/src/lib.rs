//! What operators write and what they read: chain files, function manifests, the host's
//! configuration, and the reports of commands.
//!
//! Owns: these models, their TOML and JSON forms, and saying exactly what is wrong with a file
//! (which line, which key, what is allowed). Must not know: how anything of it is done; it depends
//! on neither Wasm nor ports nor the store.
//!
//! A file is read by [`Document::parse`]: serde reports keys and types, [`Check::check`] what serde
//! cannot see (keys that exclude each other, duplicates), and both end as a [`DocumentError`] with
//! the place in the file. The same models are the API's JSON bodies.

mod api;
mod chain;
mod document;
mod host;
mod invalid;
mod list;
pub mod listener;
mod manifest;
mod name;
mod nic;
mod packet;
mod parts;
mod port;
mod quantity;
mod quota;
mod refusal;
mod reload;
mod report;
mod resolve;
#[cfg(feature = "openapi")]
mod schema;
mod steering;
mod table;
mod tap;
mod target;
mod text;
mod trace;
mod workers;
mod xdp;

pub use api::{Api, Role, Token, TokenSource};
pub use chain::{Access, Chain, FunctionUse, OnFault, Plane};
pub use document::{Document, DocumentError, Problem};
pub use host::{HostConfig, Pool, Rollout, Store, Workers};
pub use invalid::{Check, Invalid, Segment, did_you_mean, explain};
pub use list::Keyed;
pub use listener::{Gateway, Listener};
pub use manifest::{Manifest, State};
pub use name::{InvalidName, Name};
pub use nic::{InvalidVfName, Nic, NicVf, VfLink, VfName};
pub use packet::{InvalidHeader, IpPrefix, IpProtocol, PortRange};
pub use port::{Generate, Idle, Pace, Port, PortKind};
pub use quantity::{InvalidQuantity, Period, Size};
pub use quota::Quota;
pub use report::{
    BenchReport, CheckReport, ReplayReport, ReplayedFunction, SwapReport, TracedPacket, TracedStep,
    World,
};
pub use resolve::{ResolvedFunction, defaults};
#[cfg(feature = "openapi")]
pub use schema::{
    EtherTypeSchema, MacAddressSchema, PortsSchema, PrefixSchema, ProtocolSchema, VersionSchema,
    WorkerCountSchema,
};
pub use semver::Version;
pub use steering::{SteerTo, Steering, SteeringRule};
pub use table::Table;
pub use tap::{PacketConditions, TapDirection, TapFormat, TapRequest, TappedPacket};
pub use target::{NoTarget, Target};
pub use text::counted;
pub use trace::{Base64, ChainTrace, FollowedPacket, FollowedStep, TraceRequest};
pub use workers::WorkerCount;
pub use xdp::{EtherType, InvalidField, MacAddress, PacketMatch, XdpMode, XdpPin};
