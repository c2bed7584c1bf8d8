//! What the control plane needs of the data plane, as a trait: the only thing it knows of it.
//!
//! All methods may be called from any thread and may block (compilation takes its time), but none
//! of them may hold up a worker for longer than it takes to publish at a burst boundary. Calls for
//! one chain come one after the other; calls for different tenants' chains come at the same time.

mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use semver::Version;
use weir_spec::{
    Chain, ChainTrace, CheckReport, HostConfig, Invalid, Name, ResolvedFunction, SteeringRule,
    TapRequest, TraceRequest,
};

pub use self::status::{
    Bucket, CarrierStatus, CertificateStatus, ChainStatus, EngineStatus, ExchangeCounts,
    FileStatus, FunctionLog, FunctionStatus, Health, InstanceStatus, ListenerStatus, LogLine,
    MemberStatus, PoolStatus, PortStatus, QueueStatus, RulePlace, RuleStatus, Sample, TrialStatus,
    UpstreamStatus, WorkerStatus,
};
pub use crate::store::ChainId;

/// A chain, ready to be deployed.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Whose, and its name.
    pub id: ChainId,
    /// Ports and direction; its functions are in `functions`.
    pub chain: Chain,
    /// Its functions, in order.
    pub functions: Vec<ResolvedFunction>,
}

/// What publishing something cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// Longest time for which a worker's data path stood still.
    pub pause: Duration,
    /// Time spent compiling; 0 if everything was compiled before.
    pub compiled_in: Duration,
    /// Functions (labels) that started with an empty state although their predecessor had one.
    pub fresh: Vec<Name>,
    /// Packets that were lost by it.
    pub packets_lost: u64,
    /// What is hardly meant so, and what to do.
    pub notes: Vec<String>,
}

/// To which version a function is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapDirection {
    /// To one of which a fault in its first seconds brings back what it replaces.
    Forward,
    /// To one that ran before: no fault brings back what it replaces.
    Back,
}

/// How a new version is tried beside the running one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialKind {
    /// It gets this share of the flows, in percent.
    Canary(u8),
    /// It sees copies of all packets and decides nothing.
    Shadow,
}

impl TrialKind {
    /// A canary's share of the flows.
    #[must_use]
    pub fn percent(self) -> Option<u8> {
        match self {
            Self::Canary(percent) => Some(percent),
            Self::Shadow => None,
        }
    }
}

/// Why the data plane did not do what it was asked to. Nothing has changed then, but for
/// [`EngineError::Lost`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// What was asked for is at fault: a function does not compile, or refuses its configuration.
    #[error("{0}")]
    Refused(String),
    /// The same about a value of the chain.
    #[error("{0}")]
    At(Invalid),
    /// A port of the chain is down, because what it needs is not there. The data plane tries it
    /// again, and tells of it by [`EngineEvent::PortBack`].
    #[error("{message}")]
    NoPort {
        /// Its name.
        port: Name,
        /// Why, for people.
        message: String,
    },
    /// A function does not take the configuration that the chain has for it.
    #[error("function {function} refused its configuration: {message}")]
    Configuration {
        /// Its name in the chain.
        function: String,
        /// What it said.
        message: String,
    },
    /// It does not fit with what runs: a port is taken, another trial is on.
    #[error("{0}")]
    Conflict(String),
    /// The machine has no memory or threads for it.
    #[error("{0}")]
    Exhausted(String),
    /// A bug of ours.
    #[error("internal error: {0}")]
    Internal(String),
    /// [`Engine::deploy`] did not come to its end, and what the chain was before does not run any
    /// more, or not all of it: whoever asked deploys that again.
    #[error(transparent)]
    Lost(Box<Self>),
}

/// Something that the data plane has to tell, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A function faulted. Back-off keeps the rate of these low.
    Fault {
        /// In which chain.
        chain: ChainId,
        /// Its name there.
        function: Name,
        /// Which version.
        version: Option<Version>,
        /// Short name of the kind of fault.
        kind: String,
        /// For people.
        message: String,
        /// It has faulted too often, and is not called any more until it is replaced.
        quarantined: bool,
    },
    /// The data plane itself took a version back that faulted soon after its swap.
    RolledBack {
        /// In which chain.
        chain: ChainId,
        /// The function's name there.
        function: Name,
        /// The version that faulted.
        version: Option<Version>,
        /// For people.
        message: String,
    },
    /// A trial ended by itself where it says, for a reason that tells nothing about its version: it
    /// is to be ended everywhere.
    TrialEnded {
        /// In which chain.
        chain: ChainId,
        /// The function's name there.
        function: Name,
        /// The version that was tried.
        version: Option<Version>,
        /// For people.
        message: String,
    },
    /// The link of a port is up, after it was down, or the port works again after its device was
    /// away.
    PortUp {
        /// Whose port it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// A port that was down can be had again: chains that wait for it can be deployed, and those
    /// that have had it since before deployed anew.
    PortBack {
        /// Whose port it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// A device went away that a port or a listener has, or its link went down; or a port cannot be
    /// opened, for this reason now.
    PortDown {
        /// Whose port or listener it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// An upstream of a listener gets no requests for now, or gets some again.
    Upstream {
        /// Whose listener it is.
        tenant: Name,
        /// Its name.
        listener: Name,
        /// Whether it gets requests.
        up: bool,
        /// For people.
        message: String,
    },
    /// What an operator is to know of a port that is down, and stays so.
    PortNote {
        /// Whose port it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// Anything else worth an operator's attention.
    Note {
        /// In which chain.
        chain: ChainId,
        /// For people.
        message: String,
    },
}

/// Takes events; must not block.
pub type EventSink = Box<dyn Fn(EngineEvent) + Send + Sync>;

/// Packets of a chain that are copied; see [`Engine::tap`].
pub trait Tap: Send {
    /// Takes those since the last time, in the form that was asked for; perhaps none. None when it
    /// has ended: there were as many packets as were asked for, the time is up, or the chain was
    /// taken down or got other functions.
    fn take(&mut self) -> Option<Vec<u8>>;
}

/// Reasons that there may be for drops and failures, which are counted from the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reasons {
    /// Why the host drops packets of a chain.
    pub drops: &'static [&'static str],
    /// What goes wrong with a listener's connections and requests.
    pub failures: &'static [&'static str],
}

/// The data plane.
pub trait Engine: Send + Sync + 'static {
    /// Looks at an upload without running anything of it.
    fn check(&self, wasm: &[u8]) -> CheckReport;

    /// Compiles an upload, or finds that it was compiled before. The answer is the time it took.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when it does not compile, or not in time.
    fn compile(&self, wasm: &[u8]) -> Result<Duration, EngineError>;

    /// Deploys a chain, or replaces the one of the same id.
    ///
    /// # Errors
    /// When it cannot be made ready; what ran before still runs, unless it is
    /// [`EngineError::Lost`].
    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError>;

    /// Takes a chain down; its packets are sent or counted as dropped. Does nothing when there is
    /// none.
    ///
    /// # Errors
    /// When its ports cannot write what they have; it is down nevertheless.
    fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError>;

    /// Replaces one function of a running chain.
    ///
    /// # Errors
    /// When the new one cannot be made ready or refuses the state; the old one still runs.
    fn swap(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        way: SwapDirection,
    ) -> Result<Published, EngineError>;

    /// Starts to try a version beside the running one.
    ///
    /// # Errors
    /// When it cannot be made ready, or another trial is on in this chain.
    fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError>;

    /// Gives a canary another share of the flows, in percent; flows that it has stay with it when
    /// that grows.
    ///
    /// # Errors
    /// When there is none.
    fn change_canary(
        &self,
        chain: &ChainId,
        function: &Name,
        percent: u8,
    ) -> Result<(), EngineError>;

    /// Makes a canary the running version.
    ///
    /// # Errors
    /// When there is none, or it refuses the state; the old one still runs then, and the trial is
    /// over.
    fn promote(&self, chain: &ChainId, function: &Name) -> Result<Published, EngineError>;

    /// Ends a trial; its packets go to the running version. Does nothing when there is none.
    ///
    /// # Errors
    /// When the data plane is gone.
    fn end_trial(&self, chain: &ChainId, function: &Name) -> Result<(), EngineError>;

    /// These chains are to be deployed: what rules send to them is nobody else's until then. Called
    /// before the rules come, and when a chain was taken down that is to come back; [`Self::deploy`]
    /// and [`Self::undeploy`] say where chains are else.
    fn expect(&self, chains: &[(&ChainId, &Chain)]) {
        let _ = chains;
    }

    /// What rules drop at ports that no chain has is dropped from now on, and what a process that
    /// crashed has left is taken over for that, or goes. Called behind chains and rules at the
    /// start, and when a port came back.
    fn guard_ports(&self) {}

    /// Replaces a tenant's steering rules, on all workers, each at a burst boundary. The answer is
    /// the longest time for which a worker's data path stood still. Chains that rules name need not
    /// be deployed yet: at the start of the host the rules come first, so that no packet passes
    /// where they do not want it.
    ///
    /// # Errors
    /// When the data plane has no room for them; those before are still in force.
    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError>;

    /// What became of each of a tenant's steering rules, in the order of the rules; empty while
    /// nothing counts.
    fn steering(&self, tenant: &Name) -> Vec<RuleStatus>;

    /// Those of a tenant's steering rules that decide nothing, because an earlier one means all of
    /// their packets: places from 0, of the rule and of the earlier one.
    fn covered_rules(&self, tenant: &Name) -> BTreeMap<usize, usize>;

    /// Follows packets through a running chain, for as long as the request says, or until there are
    /// as many.
    ///
    /// # Errors
    /// When the chain has no functions for packets, or is being traced.
    fn trace(&self, chain: &ChainId, request: &TraceRequest) -> Result<ChainTrace, EngineError>;

    /// Begins to copy packets of a running chain. It ends when the answer is dropped.
    ///
    /// # Errors
    /// When the chain has no functions for packets, not this one, or enough taps.
    fn tap(&self, chain: &ChainId, request: &TapRequest) -> Result<Box<dyn Tap>, EngineError>;

    /// How everything is now.
    fn status(&self) -> EngineStatus;

    /// The reasons that its status may have.
    fn reasons(&self) -> Reasons {
        Reasons::default()
    }

    /// What a function logged, oldest first.
    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog;

    /// Has the listeners of a configuration that was read again, and reads certificates again.
    /// Answers with what is still to be done for it to hold as a whole, for people.
    ///
    /// # Errors
    /// When a listener cannot be as it says; then all are as they were.
    fn reload(&self, config: &HostConfig) -> Result<Vec<String>, EngineError>;

    /// A tenant is gone, which has no chains and no steering rules: nothing of it is kept.
    fn forget(&self, tenant: &Name) {
        let _ = tenant;
    }

    /// Says where events go, once, before anything is deployed.
    fn subscribe(&self, sink: EventSink);

    /// Stops receiving, finishes what is under way, flushes ports and ends all chains, for at most
    /// this long.
    fn drain(&self, deadline: Duration) -> Drained;
}

/// How draining ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Chains that were ended in order.
    pub chains: usize,
    /// What could not be done, for people.
    pub problems: Vec<String>,
}
