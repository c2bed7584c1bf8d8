//! The packet plane: ports, chains and the workers that run them.
//!
//! Owns: a burst's way from port through chain to port ([`Lane`]), which chain of those between the
//! same ports a packet passes ([`Station`]), what both stand on ([`Ground`]), a flow's staying on
//! its lane ([`spread`]), what verdicts do, who holds which buffer, fault policies, publishing a
//! new version at a burst boundary, canary and shadow, looking at what functions do ([`Observer`],
//! [`Trace`], [`Tap`]), what at a chain's end goes up to the kernel's stack ([`Upward`]), and the
//! worker threads. Must not know: configuration files, the API, the store, where components come
//! from.
//!
//! ```text
//!            control thread                           worker thread (one per core)
//!   LaneSite::stage: compile, instantiate,   --->   Lane::publish at a burst boundary
//!            configure, off the data path           Lane::turn: receive -> chain -> transmit, repeated
//! ```

mod context;
mod counters;
mod ground;
mod handoff;
mod lane;
mod observer;
mod owned;
mod owners;
mod plan;
mod roster;
mod sampler;
mod shadow;
mod spread;
mod station;
mod steering;
mod tap;
mod trace;
mod trial;
mod upward;
mod violation;
mod worker;

pub use context::Clock;
pub use counters::{Counters, DROP_REASONS, DropReason, FunctionCounts, Sample, Shared};
pub use ground::Ground;
pub use lane::{
    Disposer, EventSink, Lane, LaneConfig, LaneEvent, LaneStatus, Missing, Probation, Published,
    Replacement, Restorer, Retired, Turn,
};
pub use observer::{Observer, Watch};
pub use plan::{ChainPlan, FunctionPlan, LaneSite, PlaneError, Staged, Standing};
pub use shadow::{ShadowReport, Side, verdict_in_words};
pub use spread::spread;
pub use station::Station;
pub use steering::Rules;
pub use tap::{Heading, Tap, TapConfig, TapPick, TapPlace, Tapped};
pub use trace::{Followed, Outcome, Pick, Sighted, Step, Trace};
pub use trial::{TrialKind, TrialStatus};
pub use upward::Upward;
pub use weir_sandbox::{Health, OnFault, States};
pub use worker::{Worker, WorkerGone};
