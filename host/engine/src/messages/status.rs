//! What the message plane says about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use weir_control::engine::{
    Bucket, CarrierStatus, CertificateStatus, ChainId, ChainStatus, FileStatus, FunctionLog,
    FunctionStatus, Health, InstanceStatus, ListenerStatus, MemberStatus, PoolStatus, Sample,
    TrialStatus, UpstreamStatus,
};
use weir_exchange::Times;
use weir_gateway::{Expiry, FAILURES, ListenerStatistics, Target};
use weir_hop::Carrier;
use weir_spec::{Listener, Name, Plane, ResolvedFunction};

use super::Messages;
use super::parts::{Deployed, Trial, refresh};
use crate::telemetries::function_log;

impl Messages {
    /// Its listeners, in the order of the configuration.
    pub(crate) fn listener_statuses(&self) -> Vec<ListenerStatus> {
        let Some(gateway) = self.gateway.get() else { return Vec::new() };
        let statistics = gateway.statistics();
        let of = |listener: &Listener| {
            let name = listener.name.as_str();
            let counted = statistics.listeners.iter().find(|counted| counted.name == name)?;
            Some(listener_status(listener, counted, gateway.addresses(name)))
        };
        self.listeners().iter().filter_map(of).collect()
    }

    /// Its chains.
    pub(crate) fn chain_statuses(&self) -> Vec<ChainStatus> {
        let chains: Vec<_> = self.chains().iter().map(|(id, d)| (id.clone(), d.clone())).collect();
        refresh(chains.iter().flat_map(|(_, deployed)| &deployed.parts));
        chains.iter().map(|(id, deployed)| chain_status(id, deployed)).collect()
    }

    /// What carries descriptors to the processes of its chains, if they have some.
    pub(crate) fn carrier(&self) -> Option<CarrierStatus> {
        let (kind, problem) = match self.hub.get()?.carrier() {
            Carrier::SkMsg => ("sk_msg", None),
            Carrier::Unix { why } => ("unix", Some(why.clone())),
        };
        Some(CarrierStatus { kind: kind.to_owned(), problem })
    }

    /// What a function logged.
    pub(crate) fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        let Ok(deployed) = self.deployed(chain) else { return FunctionLog::default() };
        refresh(&deployed.parts);
        function_log(chain, function, std::iter::once(&deployed.telemetries))
    }
}

fn listener_status(
    listener: &Listener,
    counted: &ListenerStatistics,
    addresses: Vec<std::net::SocketAddr>,
) -> ListenerStatus {
    ListenerStatus {
        name: listener.name.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        tenant: listener.tenant.clone(),
        chain: listener.chain.clone(),
        problem: None,
        accepted: counted.accepted,
        refused: counted.refused,
        open: counted.open,
        requests: counted.requests,
        active: counted.active,
        responses: by_class(&counted.responses),
        retries: counted.retries,
        retries_denied: counted.retries_denied,
        spliced: counted.spliced,
        log_lost: counted.log_lost,
        failures: failures(&counted.failures),
        received: counted.received,
        sent: counted.sent,
        latency: buckets(&counted.latency),
        latency_sum_ns: nanoseconds(counted.latency.sum),
        upstreams: counted
            .upstreams
            .iter()
            .map(|upstream| UpstreamStatus {
                address: upstream.address.to_string(),
                members: upstream
                    .members
                    .iter()
                    .map(|(address, healthy)| MemberStatus {
                        address: address.to_string(),
                        healthy: *healthy,
                    })
                    .collect(),
                lookup_failures: upstream.lookup_failures,
                problem: upstream.problem.clone(),
                healthy: upstream.healthy,
                open: upstream.open,
                active: upstream.active,
                connected: upstream.connected,
                requests: upstream.requests,
                responses: by_class(&upstream.responses),
                received: upstream.received,
                sent: upstream.sent,
                failures: failures(&upstream.failures),
                latency: buckets(&upstream.latency),
                latency_sum_ns: nanoseconds(upstream.latency.sum),
            })
            .collect(),
        certificates: counted.certificates.iter().map(certificate_status).collect(),
        files: counted.expiries.iter().map(file_status).collect(),
        not_taken: counted.not_taken.clone(),
    }
}

fn certificate_status(certificate: &weir_gateway::CertificateStatus) -> CertificateStatus {
    CertificateStatus { names: certificate.names.clone(), expires: seconds(certificate.expires) }
}

fn file_status((upstream, expiry): &(Option<Target>, Expiry)) -> FileStatus {
    let (key, upstream) = (expiry.of.key().to_owned(), upstream.as_ref().map(ToString::to_string));
    FileStatus { key, upstream, expires: seconds(expiry.at) }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Responses by the class of their status.
fn by_class(responses: &[u64; 5]) -> BTreeMap<String, u64> {
    responses.iter().zip(1..).map(|(n, class)| (format!("{class}xx"), *n)).collect()
}

/// By reason what went wrong.
fn failures(counted: &[u64; FAILURES.len()]) -> BTreeMap<String, u64> {
    let some = FAILURES.iter().zip(counted).filter(|(_, n)| **n > 0);
    some.map(|((_, name), n)| ((*name).to_owned(), *n)).collect()
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn buckets(times: &Times) -> Vec<Bucket> {
    let filled = times.buckets().filter(|(_, count)| *count > 0);
    filled
        .map(|(bound, count)| Bucket { below_ns: bound.map_or(u64::MAX, nanoseconds), count })
        .collect()
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn chain_status(id: &ChainId, deployed: &Deployed) -> ChainStatus {
    let mut pool = PoolStatus::default();
    let mut drops = BTreeMap::new();
    let (mut opened, mut ended) = (0, 0);
    let (mut worker_restarts, mut worker_timeouts) = (0, 0);
    for part in &deployed.parts {
        worker_restarts += part.restarts();
        worker_timeouts += part.timeouts();
        let rooms = part.rooms();
        pool.total += rooms.total;
        pool.free += rooms.free;
        pool.out += rooms.out;
        opened += part.counters().opened.get();
        ended += part.counters().ended.get();
        let exhausted = load(&part.counters().exhausted);
        if exhausted > 0 {
            *drops.entry("pool-exhausted".to_owned()).or_default() += exhausted;
        }
    }
    let running = deployed.running();
    ChainStatus {
        tenant: id.tenant.clone(),
        name: id.name.clone(),
        plane: Plane::Message,
        packets_in: opened,
        packets_out: ended,
        packets_to_kernel: 0,
        packets_moved: 0,
        packets_made: 0,
        exchanges: None,
        drops,
        functions: running.functions.iter().map(|f| function_status(deployed, f)).collect(),
        pool,
        trial: running.trial.as_ref().map(trial_status),
        workers: Vec::new(),
        worker_restarts,
        worker_timeouts,
    }
}

fn function_status(deployed: &Deployed, function: &ResolvedFunction) -> FunctionStatus {
    let label = function.label.as_str();
    let telemetry = deployed.telemetry(label);
    let mut verdicts = BTreeMap::new();
    let mut times = Times::default();
    let (mut events, mut faults) = (0, 0);
    let mut instances = InstanceStatus::default();
    let mut gauges = BTreeMap::new();
    let mut state = Health::Running;
    for part in &deployed.parts {
        let counters = part.function(label);
        for (action, n) in counters.actions().filter(|(_, n)| *n > 0) {
            *verdicts.entry(action.to_owned()).or_default() += n;
        }
        for (name, counter) in [("skipped", &counters.skipped), ("refused", &counters.refused)] {
            let n = load(counter);
            if n > 0 {
                *verdicts.entry(name.to_owned()).or_default() += n;
            }
        }
        times.add(&counters.times);
        events += counters.events();
        instances.made += counters.instances_made.get();
        instances.reused += counters.instances_reused.get();
        faults += load(&counters.faults);
        for (gauge, value) in part.telemetry(label, &telemetry).gauges() {
            *gauges.entry(gauge).or_default() += value;
        }
        state = match (counters.health(), state) {
            ("quarantined", _) | (_, Health::Quarantined) => Health::Quarantined,
            ("back-off", _) | (_, Health::BackOff) => Health::BackOff,
            _ => Health::Running,
        };
    }
    FunctionStatus {
        name: function.label.clone(),
        plane: Plane::Message,
        version: function.version.clone(),
        state,
        packets: events,
        verdicts,
        faults,
        counters: telemetry.counters(),
        gauges,
        times: buckets(&times),
        times_sum_ns: nanoseconds(times.sum),
        instances: (instances != InstanceStatus::default()).then_some(instances),
        sample: Sample::default(),
    }
}

fn trial_status(trial: &Trial) -> TrialStatus {
    let sum = |counter: fn(&weir_message::Findings) -> &AtomicU64| {
        trial.findings.iter().map(|findings| load(counter(findings))).sum()
    };
    TrialStatus {
        function: trial.function.clone(),
        version: trial.version.clone(),
        canary: trial.kind.percent(),
        packets: sum(|findings| &findings.events),
        verdicts_differ: sum(|findings| &findings.actions_differ),
        bytes_differ: sum(|findings| &findings.bytes_differ),
        samples: trial.findings.iter().flat_map(|findings| findings.samples()).collect(),
        fault: None,
    }
}
