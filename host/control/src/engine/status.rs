//! How the data plane is: what `/v1/status` answers, and what metrics are made of.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{Name, Plane, VersionSchema};

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
    /// How the gateway and the processes of chains of messages reach each other, if there are such
    /// processes. For the administrator.
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
    /// Those that were not made, because too many were under way.
    #[serde(default)]
    pub retries_denied: u64,
    /// Connections whose bytes the kernel passes on by itself.
    pub spliced: u64,
    /// Requests and connections that were not written to its log: the disk did not keep up, or had
    /// no room.
    #[serde(default)]
    pub log_lost: u64,
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
    /// When what its other files say runs out, and what those of its upstreams say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileStatus>,
    /// What the configuration gives it and it does not have, and why: a file of certificates, for
    /// instance, that was read again and is no good, so that what it said before is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_taken: Vec<String>,
}

/// A certificate that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// The server names that it is shown for, unless one before it has them.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// When what a file says that a listener or an upstream of it has runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileStatus {
    /// The key that names it: `authorities`, `revoked` or `certificate`.
    pub key: String,
    /// The upstream that has it; none: the listener itself, for its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// When the first of what it says does, in seconds since 1970. Of `revoked`: when a newer list
    /// should be there.
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
    /// Connections that were made to it.
    #[serde(default)]
    pub connected: u64,
    /// Requests that it was sent.
    pub requests: u64,
    /// Its responses by the class of their status: `2xx`, ...
    #[serde(default)]
    pub responses: BTreeMap<String, u64>,
    /// Bytes from it.
    #[serde(default)]
    pub received: u64,
    /// Bytes to it.
    #[serde(default)]
    pub sent: u64,
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
    /// `software`: on the worker; `xdp`: in the interface's XDP program; `rte_flow`: in the device
    /// that DPDK drives; `vf-mac`: by the NIC's switch, which brings packets with the rule's
    /// address to the port.
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
    /// Packets that the port's way to the kernel's stack was given: by functions, and by steering
    /// rules that no chain counts.
    #[serde(default)]
    pub to_kernel_packets: u64,
    /// Packets that came from there.
    #[serde(default)]
    pub from_kernel_packets: u64,
    /// What is worth knowing of what came in, and is no drop: `truncated`, `bad-checksum`,
    /// `waits-for-buffer`, `error`.
    #[serde(default)]
    pub rx_notes: BTreeMap<String, u64>,
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
    /// Buffers of the chain's pool that wait in the device's rings for packets to come: they are
    /// not free, and hold none.
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
    /// Packets among those received that were handed over to another worker, whose flows they
    /// belong to.
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

/// Calls of a function that were timed: one burst of some hundreds, and ten a second where there
/// are few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// Calls, each with a burst.
    pub calls: u64,
    /// Packets that it was given in them.
    pub packets: u64,
    /// How long they took, in nanoseconds of time. The way from the host to the function and back
    /// is in it.
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
    /// Those that hold a packet, or wait in the rings of ports for one
    /// ([`PortStatus::ring_buffers`]).
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
