//! What the control plane needs of the data plane, as a trait: the only thing it knows of it.
//!
//! All methods may be called from any thread and may block (compilation takes its time), but none of them may
//! hold up a worker for longer than it takes to publish at a burst boundary. Calls for one chain come one
//! after the other; calls for different tenants' chains come at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{
    Chain, ChainTrace, CheckReport, HostConfig, Invalid, Name, Plane, ResolvedFunction,
    SteeringRule, TapRequest, TraceRequest, VersionSchema,
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
}

/// To which version a function is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
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

/// Why the data plane did not do what it was asked to. Nothing has changed then, but for [`EngineError::Lost`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// What was asked for is at fault: a function does not compile, or refuses its configuration.
    #[error("{0}")]
    Refused(String),
    /// The same about a value of the chain.
    #[error("{0}")]
    At(Invalid),
    /// A port of the chain is down, because what it needs is not there. The data plane tries it again, and tells of it by
    /// [`EngineEvent::PortBack`].
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
    /// [`Engine::deploy`] did not come to its end, and what the chain was before does not run any more, or not all of it: whoever asked
    /// deploys that again.
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
    /// A trial ended by itself where it says, for a reason that tells nothing about its version: it is to be ended everywhere.
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
    /// The link of a port is up, after it was down, or the port works again after its device was away.
    PortUp {
        /// Whose port it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// A port that was down can be had again: chains that wait for it can be deployed, and those that have had it since before deployed anew.
    PortBack {
        /// Whose port it is.
        tenant: Name,
        /// Its name.
        port: Name,
        /// For people.
        message: String,
    },
    /// A device went away that a port or a listener has, or its link went down; or a port cannot be opened, for this reason now.
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
    /// Takes those since the last time, in the form that was asked for; perhaps none. None when it has ended: there were as many packets as were
    /// asked for, the time is up, or the chain was taken down or got other functions.
    fn take(&mut self) -> Option<Vec<u8>>;
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
    /// When it cannot be made ready; what ran before still runs, unless it is [`EngineError::Lost`].
    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError>;

    /// Takes a chain down; its packets are sent or counted as dropped. Does nothing when there is none.
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
        way: Way,
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

    /// Gives a canary another share of the flows, in percent; flows that it has stay with it when that grows.
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
    /// When there is none, or it refuses the state; the old one still runs then, and the trial is over.
    fn promote(&self, chain: &ChainId, function: &Name) -> Result<Published, EngineError>;

    /// Ends a trial; its packets go to the running version. Does nothing when there is none.
    ///
    /// # Errors
    /// When the data plane is gone.
    fn end_trial(&self, chain: &ChainId, function: &Name) -> Result<(), EngineError>;

    /// These chains are to be deployed: what rules send to them is nobody else's until then. Called before the rules come, and when a chain
    /// was taken down that is to come back; [`Self::deploy`] and [`Self::undeploy`] say where chains are else.
    fn expect(&self, chains: &[(&ChainId, &Chain)]) {
        let _ = chains;
    }

    /// Replaces a tenant's steering rules, on all workers, each at a burst boundary. The answer is the longest time for
    /// which a worker's data path stood still. Chains that rules name need not be deployed yet: at the start of the
    /// host the rules come first, so that no packet passes where they do not want it.
    ///
    /// # Errors
    /// When the data plane has no room for them; those before are still in force.
    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError>;

    /// What became of each of a tenant's steering rules, in the order of the rules; empty while nothing counts.
    fn steering(&self, tenant: &Name) -> Vec<RuleStatus>;

    /// Those of a tenant's steering rules that decide nothing, because an earlier one means all of their packets: places from 0, of
    /// the rule and of the earlier one.
    fn covered_rules(&self, tenant: &Name) -> BTreeMap<usize, usize>;

    /// Follows packets through a running chain, for as long as the request says, or until there are as many.
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

    /// What a function logged, oldest first.
    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog;

    /// Has the listeners of a configuration that was read again, and reads certificates again. Answers with what is still to be done for
    /// it to hold as a whole, for people.
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

    /// Stops receiving, finishes what is under way, flushes ports and ends all chains, for at most this long.
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

/// How the data plane is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EngineStatus {
    /// Worker threads.
    pub workers: u32,
    /// Ports, in the order of the configuration.
    pub ports: Vec<PortStatus>,
    /// Listeners, in the order of the configuration.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// Chains that are deployed.
    pub chains: Vec<ChainStatus>,
    /// How the gateway and the processes of chains of messages reach each other, if there are such processes. For the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierStatus>,
}

/// What carries descriptors between the gateway and the processes of chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CarrierStatus {
    /// `sk_msg`: the program in the kernel. `unix`: sockets, which take longer.
    pub kind: String,
    /// Why it is not `sk_msg`.
    pub problem: Option<String>,
}

/// How a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Name,
    /// Where it listens, with the ports it got.
    pub addresses: Vec<String>,
    /// Whose chain its messages pass.
    pub tenant: Name,
    /// The chain.
    pub chain: Option<Name>,
    /// Why its interface is down; none: it is not, as far as the host knows, or none was named.
    #[serde(default)]
    pub problem: Option<String>,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once, because there were as many as the limit allows.
    pub refused: u64,
    /// Connections that are open.
    pub open: u64,
    /// Requests, or TCP connections that were let through.
    pub requests: u64,
    /// Those that are under way.
    pub active: u64,
    /// Responses by the class of their status: `2xx`, ...
    pub responses: BTreeMap<String, u64>,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Connections whose bytes the kernel passes on by itself.
    pub spliced: u64,
    /// What went wrong, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Times from a request's head to its response's.
    pub latency: Vec<Bucket>,
    /// Their sum in nanoseconds.
    pub latency_sum_ns: u64,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamStatus>,
    /// Its certificates, in order.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// The server names that it is shown for, unless one before it has them.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// How an upstream of a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpstreamStatus {
    /// Its address, or its name.
    pub address: String,
    /// The addresses that a name has.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// Times that the name could not be looked up; what was found last is kept.
    #[serde(default)]
    pub lookup_failures: u64,
    /// Why it could not, the last time, or else why the upstream, or an address of it, is down.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether it gets requests.
    pub healthy: bool,
    /// Connections to it that are open.
    pub open: u64,
    /// Requests that it has now.
    pub active: u64,
    /// Requests that it was sent.
    pub requests: u64,
    /// What went wrong with it, by reason; also what another attempt made good.
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// Times until its responses' heads.
    pub latency: Vec<Bucket>,
    /// Their sum in nanoseconds.
    pub latency_sum_ns: u64,
}

/// An address of an upstream that is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    /// The address.
    pub address: String,
    /// Whether it gets requests.
    pub healthy: bool,
}

/// Times in a histogram that lie below a bound, and not below that of the bucket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// The bound in nanoseconds.
    pub below_ns: u64,
    /// How many there are.
    pub count: u64,
}

/// What became of a steering rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleStatus {
    /// Flows that software and XDP programs decided by it.
    pub flows: u64,
    /// Where it is compared.
    pub places: Vec<RulePlace>,
}

/// Where packets that come in by a port are compared with a steering rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RulePlace {
    /// The port.
    pub port: Name,
    /// `software`: on the worker; `xdp`: in the interface's XDP program; `rte_flow`: in the device that DPDK drives;
    /// `vf-mac`: by the NIC's switch, which brings packets with the rule's address to the port.
    pub at: String,
    /// Why it is in software, if the device before the port could do such things.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Packets that the device dropped by it, if it counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Why its packets are dropped here, although the rule sends them to a chain or to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// How a port is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStatus {
    /// Its name.
    pub name: Name,
    /// `pcap`, `memory`, ...
    pub kind: String,
    /// Whose chains may use it.
    pub tenant: Name,
    /// The chain that it belongs to now.
    pub chain: Option<Name>,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets that came in and could not be taken.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_dropped: u64,
    /// Both kinds of drops, by direction and reason: `rx-too-large`, `tx-full`, ...
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// How the device behind the port is: driver, link, MTU, ...; empty if there is none.
    #[serde(default)]
    pub device: BTreeMap<String, String>,
    /// The driver's own counters, under its names.
    #[serde(default)]
    pub device_counters: BTreeMap<String, u64>,
    /// Why it is down; none: it is not, as far as the host knows.
    #[serde(default)]
    pub problem: Option<String>,
    /// Buffers of the chain's pool that wait in the device's rings for packets to come: they are not free, and hold none.
    #[serde(default)]
    pub ring_buffers: u32,
    /// Its queues if a chain has it on several workers: the counts above are their sums.
    #[serde(default)]
    pub queues: Vec<QueueStatus>,
}

/// How a worker's share of a port is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueStatus {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets among those received that were handed over to another worker, whose flows they belong to.
    pub handed_over: u64,
    /// Packets taken over from other workers.
    pub taken_over: u64,
    /// Drops by direction and reason.
    pub drops: BTreeMap<String, u64>,
}

/// How a chain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChainStatus {
    /// Whose it is.
    pub tenant: Name,
    /// Its name.
    pub name: Name,
    /// Its plane.
    #[serde(default)]
    pub plane: Plane,
    /// Packets that came in by its ports; of a chain of messages alone, exchanges that were opened.
    pub packets_in: u64,
    /// Packets that left; of a chain of messages alone, exchanges that have ended.
    pub packets_out: u64,
    /// Packets given to the kernel's stack: by a verdict, or because the flow was moved there.
    #[serde(default)]
    pub packets_to_kernel: u64,
    /// Packets that went on in another chain, to which a function moved their flow.
    #[serde(default)]
    pub packets_moved: u64,
    /// Packets that functions made or had cloned.
    #[serde(default)]
    pub packets_made: u64,
    /// What its part on the message plane had, if it has one on both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<ExchangeCounts>,
    /// Packets dropped, by reason: the host's names, or `FUNCTION:NUMBER` for a function's own.
    pub drops: BTreeMap<String, u64>,
    /// Its functions, in order.
    pub functions: Vec<FunctionStatus>,
    /// Its buffers.
    pub pool: PoolStatus,
    /// A version that is being tried.
    pub trial: Option<TrialStatus>,
    /// The chain's part on each of its workers; the counts above are their sums.
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
    /// How often processes of the chain's were started again, because they had died.
    #[serde(default)]
    pub worker_restarts: u64,
    /// How often one was ended because it gave no sign of life while something waited for it.
    #[serde(default)]
    pub worker_timeouts: u64,
}

/// Requests, or TCP connections, that came to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeCounts {
    /// Those that were opened.
    pub opened: u64,
    /// Those that have ended.
    pub ended: u64,
}

/// A chain's part on one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    /// The worker's number.
    pub worker: u32,
    /// Packets that came in.
    pub packets_in: u64,
    /// Packets that left.
    pub packets_out: u64,
    /// Faults of its functions.
    pub faults: u64,
    /// Its buffers.
    pub pool: PoolStatus,
}

/// How a function of a chain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionStatus {
    /// Its name in the chain.
    pub name: Name,
    /// Where it runs.
    #[serde(default)]
    pub plane: Plane,
    /// The version that runs.
    #[schema(value_type = Option<VersionSchema>)]
    pub version: Option<Version>,
    /// Whether it is called.
    pub state: Health,
    /// Packets it was given; on the message plane, events.
    pub packets: u64,
    /// Its verdicts by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Times it faulted.
    pub faults: u64,
    /// Its own counters.
    pub counters: BTreeMap<String, u64>,
    /// Its own gauges.
    pub gauges: BTreeMap<String, f64>,
    /// Times that its events took; only on the message plane.
    #[serde(default)]
    pub times: Vec<Bucket>,
    /// Their sum in nanoseconds.
    #[serde(default)]
    pub times_sum_ns: u64,
    /// Its requests by the instance that they had; only of the world `wasi:http/proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub instances: Option<InstanceStatus>,
    /// Those of its calls that were timed; only on the packet plane.
    #[serde(default)]
    pub sample: Sample,
}

/// What instances a function of the world `wasi:http/proxy` has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Those made for a request.
    pub made: u64,
    /// Times that one served a further request.
    pub reused: u64,
}

/// Calls of a function that were timed: one burst of some hundreds, and ten a second where there are few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// Calls, each with a burst.
    pub calls: u64,
    /// Packets that it was given in them.
    pub packets: u64,
    /// How long they took, in nanoseconds of time. The way from the host to the function and back is in it.
    pub nanoseconds: u64,
}

/// Whether a function is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It is.
    #[default]
    Running,
    /// Not now: it faulted a moment ago.
    BackOff,
    /// Not until it is replaced: it faulted too often.
    Quarantined,
}

/// Where a pool's buffers are: `total = free + out`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Buffers.
    pub total: u32,
    /// Those in no use.
    pub free: u32,
    /// Those that hold a packet, or wait in the rings of ports for one ([`PortStatus::ring_buffers`]).
    pub out: u32,
}

/// How a trial goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrialStatus {
    /// The function's name in the chain.
    pub function: Name,
    /// The version that is being tried.
    #[schema(value_type = Option<VersionSchema>)]
    pub version: Option<Version>,
    /// Share of the flows in percent; none: it shadows.
    pub canary: Option<u8>,
    /// Packets that it got.
    pub packets: u64,
    /// Packets for which a shadow's verdict was another.
    pub verdicts_differ: u64,
    /// Packets for which a shadow's verdict was the same, but the bytes others.
    pub bytes_differ: u64,
    /// The first differences, for people.
    pub samples: Vec<String>,
    /// Why the shadow sees nothing any more.
    pub fault: Option<String>,
}

/// What a function logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionLog {
    /// The lines that are kept, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines that were lost because it wrote too many.
    pub lost: u64,
}

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub time: String,
    /// How much it matters: `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// `CHAIN:FUNCTION` that wrote it.
    pub source: String,
    /// The text.
    pub message: String,
}
