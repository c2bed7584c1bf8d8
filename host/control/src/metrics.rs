//! `/metrics`: the status in OpenMetrics text, or in the text of before. Everything is counted by
//! the data plane; this only writes it down, so that nothing is spent on it when nobody scrapes.

use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use weir_spec::Plane;

use crate::control::{HostState, Status};
use crate::engine::{Bucket, Health, InstanceStatus, Reasons};

type Labels = Vec<(String, String)>;

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A counter with all its label sets.
struct Counters(Family<Labels, Counter>);

impl Counters {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    fn add(&self, labels: &[(&str, &str)], value: u64) {
        self.0.get_or_create(&owned(labels)).inc_by(value);
    }
}

/// A counter of seconds with all its label sets.
struct Seconds(Family<Labels, Counter<f64, AtomicU64>>);

impl Seconds {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    fn add_nanoseconds(&self, labels: &[(&str, &str)], value: u64) {
        self.0.get_or_create(&owned(labels)).inc_by(value as f64 / 1e9);
    }
}

/// A gauge with all its label sets.
struct Gauges(Family<Labels, Gauge<f64, AtomicU64>>);

impl Gauges {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    fn set(&self, labels: &[(&str, &str)], value: f64) {
        self.0.get_or_create(&owned(labels)).set(value);
    }
}

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics, which Prometheus asks for.
    OpenMetrics,
    /// Prometheus's own text of before, for those that know nothing else.
    PrometheusText,
}

impl Format {
    /// What somebody takes who says this (`Accept`).
    pub(crate) fn of(accept: &str) -> Self {
        if accept.contains("text/plain") && !accept.contains("openmetrics") {
            Self::PrometheusText
        } else {
            Self::OpenMetrics
        }
    }

    /// Its `Content-Type`.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => prometheus_text::CONTENT_TYPE,
        }
    }

    fn write(self, registries: &[Registry]) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        for registry in registries {
            match self {
                Self::OpenMetrics => text::encode_registry(&mut text, registry)?,
                Self::PrometheusText => prometheus_text::encode(&mut text, registry)?,
            }
        }
        if self == Self::OpenMetrics {
            text::encode_eof(&mut text)?;
        }
        Ok(text)
    }
}

/// The status in this format, with what there is to say of the process. What has not happened yet
/// for one of these reasons is 0, so that its first time is seen to be one.
#[must_use]
pub(crate) fn encode(
    status: &Status,
    reasons: Reasons,
    process: Option<&Process>,
    format: Format,
) -> String {
    let mut registry = Registry::with_prefix("weir");
    host(&mut registry, status);
    ports(&mut registry, status);
    chains(&mut registry, status, reasons);
    functions(&mut registry, status);
    listeners(&mut registry, status, reasons);
    times(&mut registry, status);
    trials(&mut registry, status);
    steering(&mut registry, status);
    // Of a process these are the names that everybody has.
    let mut of_process = Registry::default();
    if let Some(process) = process {
        process.register(&mut of_process);
    }
    format.write(&[registry, of_process]).expect("writing to a string cannot fail")
}

/// What the kernel says of the host's process; those of chains' processes are their own.
#[derive(Debug, Default)]
pub(crate) struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: f64,
    /// None: any number.
    most_files: Option<f64>,
}

impl Process {
    /// As it is now. What cannot be read is 0.
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name, which may have anything in it.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<u64> =
            fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        // From the fourth of proc_pid_stat(5) on: `utime` is the 14th, `stime` the 15th, `rss` the
        // 24th.
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0) as f64;
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            cpu_seconds: (field(14) + field(15)) / rustix::param::clock_ticks_per_second() as f64,
            resident_bytes: field(24) * rustix::param::page_size() as f64,
            open_files: files as f64,
            most_files: most.map(|most| most as f64),
        }
    }

    fn register(&self, registry: &mut Registry) {
        let cpu = "CPU time of the host's process";
        let cpu = Seconds::new(registry, "process_cpu_seconds", cpu);
        cpu.0.get_or_create(&Vec::new()).inc_by(self.cpu_seconds);
        let of = "Memory of the host's process that is in RAM";
        Gauges::new(registry, "process_resident_memory_bytes", of).set(&[], self.resident_bytes);
        let of = "Files that the host's process has open";
        Gauges::new(registry, "process_open_fds", of).set(&[], self.open_files);
        if let Some(most) = self.most_files {
            let of = "Files that it may have open";
            Gauges::new(registry, "process_max_fds", of).set(&[], most);
        }
    }
}

fn host(registry: &mut Registry, status: &Status) {
    let build = Gauges::new(registry, "build_info", "Weir's version");
    build.set(&[("version", &status.version)], 1.0);
    let uptime = Gauges::new(registry, "uptime_seconds", "Time since the host started");
    uptime.set(&[], status.uptime_seconds as f64);
    let ready = "Whether the host has deployed the chains that it had, and does not stop";
    let ready = Gauges::new(registry, "ready", ready);
    ready.set(&[], f64::from(u8::from(status.state == HostState::Ready)));
    let refused = "Requests to the API that were refused, by status";
    let refused = Counters::new(registry, "api_refused", refused);
    for (code, n) in &status.api_refused {
        refused.add(&[("status", code)], *n);
    }
    let deployed = Gauges::new(registry, "chains", "Chains that are deployed");
    deployed.set(&[], status.engine.chains.len() as f64);
    let failed = Gauges::new(registry, "chains_failed", "Chains that are stored and do not run");
    failed.set(&[], status.failed.len() as f64);
    let functions = Gauges::new(registry, "functions", "Functions that were pushed");
    functions.set(&[], status.functions as f64);
    let taken = "Whether the configuration was taken when it was read last";
    let taken = Gauges::new(registry, "config_last_reload_successful", taken);
    taken.set(&[], f64::from(u8::from(status.config_problem.is_none())));
    let writable = "Whether the store takes changes";
    let writable = Gauges::new(registry, "store_writable", writable);
    writable.set(&[], f64::from(u8::from(status.store_problem.is_none())));
    let carrier =
        "How the gateway and the processes of chains reach each other: 1 for the one in use";
    let carriers = Gauges::new(registry, "gateway_carrier", carrier);
    for kind in ["sk_msg", "unix"].iter().filter(|_| status.engine.carrier.is_some()) {
        let used = status.engine.carrier.as_ref().is_some_and(|carrier| carrier.kind == *kind);
        carriers.set(&[("carrier", kind)], f64::from(u8::from(used)));
    }
}

fn steering(registry: &mut Registry, status: &Status) {
    let rules = Gauges::new(registry, "steering_rules", "Steering rules that are in force");
    let applied = "Times that a tenant's steering rules were replaced";
    let applied = Counters::new(registry, "steering_applied", applied);
    for (tenant, steering) in &status.steering {
        rules.set(&[("tenant", tenant.as_str())], steering.rules as f64);
        applied.add(&[("tenant", tenant.as_str())], steering.applied);
    }
}

fn ports(registry: &mut Registry, status: &Status) {
    let packets = Counters::new(registry, "port_packets", "Packets that passed a port");
    let bytes = Counters::new(registry, "port_bytes", "Bytes that passed a port");
    let dropped = "Packets that a port could not take or send";
    let dropped = Counters::new(registry, "port_dropped_packets", dropped);
    let reasons = "Packets that a port could not take or send, by direction and reason";
    let reasons = Counters::new(registry, "port_drops", reasons);
    let kernel = "Packets that a port's way to the kernel was given, and that came from there";
    let kernel = Counters::new(registry, "port_kernel_packets", kernel);
    let notes = "What is worth knowing of what a port received, and is no drop";
    let notes = Counters::new(registry, "port_rx_notes", notes);
    let device = "The counters of a port's driver, under its names";
    let device = Counters::new(registry, "port_device", device);
    let queues = "Packets that passed a worker's queue of a port that several workers have";
    let queues = Counters::new(registry, "port_queue_packets", queues);
    let handed = "Packets that a queue received and handed over to the worker whose flow it was";
    let handed = Counters::new(registry, "port_queue_handed_over_packets", handed);
    let link = Gauges::new(registry, "port_link_up", "Whether a port's device has a link");
    let rings = "Buffers of a chain's pool that wait in a port's rings for packets to come";
    let rings = Gauges::new(registry, "port_ring_buffers", rings);
    let down = Gauges::new(
        registry,
        "ports_down",
        "Ports that could not be opened, or do not work any more",
    );
    let broken = status.engine.ports.iter().filter(|port| port.problem.is_some());
    down.set(&[], broken.count() as f64);
    for port in &status.engine.ports {
        let name = ("port", port.name.as_str());
        for (reason, n) in &port.drops {
            reasons.add(&[name, ("reason", reason)], *n);
        }
        kernel.add(&[name, ("direction", "to")], port.to_kernel_packets);
        kernel.add(&[name, ("direction", "from")], port.from_kernel_packets);
        for (what, n) in &port.rx_notes {
            notes.add(&[name, ("note", what)], *n);
        }
        for (counter, n) in &port.device_counters {
            device.add(&[name, ("counter", counter)], *n);
        }
        for (number, queue) in port.queues.iter().enumerate() {
            let number = number.to_string();
            let number = ("queue", number.as_str());
            queues.add(&[name, number, ("direction", "rx")], queue.rx_packets);
            queues.add(&[name, number, ("direction", "tx")], queue.tx_packets);
            handed.add(&[name, number], queue.handed_over);
        }
        rings.set(&[name], f64::from(port.ring_buffers));
        if let Some(state) = port.device.get("link") {
            let is_up = state.starts_with("up") && port.problem.is_none();
            link.set(&[name], f64::from(u8::from(is_up)));
        }
        let both = [
            ("rx", port.rx_packets, port.rx_bytes, port.rx_dropped),
            ("tx", port.tx_packets, port.tx_bytes, port.tx_dropped),
        ];
        for (direction, n_packets, n_bytes, n_dropped) in both {
            let labels = [("port", port.name.as_str()), ("direction", direction)];
            packets.add(&labels, n_packets);
            bytes.add(&labels, n_bytes);
            dropped.add(&labels, n_dropped);
        }
    }
}

fn chains(registry: &mut Registry, status: &Status, reasons: Reasons) {
    let packets = Counters::new(
        registry,
        "chain_packets",
        "Packets that entered, left, and were made in a chain",
    );
    let dropped = "Packets dropped in a chain, by reason";
    let dropped = Counters::new(registry, "chain_dropped_packets", dropped);
    let buffers = Gauges::new(registry, "pool_buffers", "Buffers of a chain's pool");
    let parts = "Packets that entered and left a chain's part on a worker";
    let parts = Counters::new(registry, "chain_worker_packets", parts);
    let restarts = "Times that a process of a chain was started again, because it had died";
    let restarts = Counters::new(registry, "chain_worker_restarts", restarts);
    let timeouts = "Times that a process of a chain was ended, because it gave no sign of life";
    let timeouts = Counters::new(registry, "chain_worker_timeouts", timeouts);
    let exchanges = "Requests, or TCP connections, that began and ended in the message part of a chain of both planes";
    let exchanges = Counters::new(registry, "chain_exchanges", exchanges);
    for chain in &status.engine.chains {
        let (tenant, name) = (("tenant", chain.tenant.as_str()), ("chain", chain.name.as_str()));
        packets.add(&[tenant, name, ("direction", "in")], chain.packets_in);
        packets.add(&[tenant, name, ("direction", "out")], chain.packets_out);
        if chain.plane != Plane::Message {
            packets.add(&[tenant, name, ("direction", "kernel")], chain.packets_to_kernel);
            packets.add(&[tenant, name, ("direction", "moved")], chain.packets_moved);
            packets.add(&[tenant, name, ("direction", "made")], chain.packets_made);
        }
        restarts.add(&[tenant, name], chain.worker_restarts);
        timeouts.add(&[tenant, name], chain.worker_timeouts);
        if let Some(counts) = chain.exchanges {
            exchanges.add(&[tenant, name, ("state", "opened")], counts.opened);
            exchanges.add(&[tenant, name, ("state", "ended")], counts.ended);
        }
        for part in &chain.workers {
            let worker = part.worker.to_string();
            let worker = ("worker", worker.as_str());
            parts.add(&[tenant, name, worker, ("direction", "in")], part.packets_in);
            parts.add(&[tenant, name, worker, ("direction", "out")], part.packets_out);
        }
        for reason in reasons.drops.iter().filter(|_| chain.plane != Plane::Message) {
            dropped.add(&[tenant, name, ("reason", reason)], 0);
        }
        for (reason, count) in &chain.drops {
            dropped.add(&[tenant, name, ("reason", reason)], *count);
        }
        buffers.set(&[tenant, name, ("state", "free")], f64::from(chain.pool.free));
        buffers.set(&[tenant, name, ("state", "out")], f64::from(chain.pool.out));
    }
}

fn functions(registry: &mut Registry, status: &Status) {
    let packets = "Packets that a function was given";
    let packets = Counters::new(registry, "function_packets", packets);
    let verdicts = Counters::new(registry, "function_verdicts", "Verdicts of a function");
    let faults = Counters::new(registry, "function_faults", "Times that a function faulted");
    let running = "Whether a function is called: 0 in back-off or quarantine";
    let running = Gauges::new(registry, "function_running", running);
    let quarantined = "Whether a function is not called any more until it is replaced";
    let quarantined = Gauges::new(registry, "function_quarantined", quarantined);
    let instances =
        "Requests of a wasi:http component, by whether their instance was made for them";
    let instances = Counters::new(registry, "function_instances", instances);
    let calls = Counters::new(registry, "function_sampled_calls", "Calls that were timed");
    let sampled = Counters::new(registry, "function_sampled_packets", "Packets of those calls");
    let seconds = Seconds::new(registry, "function_sampled_seconds", "How long those calls took");
    let counters = Counters::new(registry, "function_counter", "A function's own counters");
    let gauges = Gauges::new(registry, "function_gauge", "A function's own gauges");
    for chain in &status.engine.chains {
        for function in &chain.functions {
            let version = function.version.as_ref().map(ToString::to_string).unwrap_or_default();
            let tenant = ("tenant", chain.tenant.as_str());
            let name = ("chain", chain.name.as_str());
            let label = ("function", function.name.as_str());
            let called = f64::from(u8::from(function.state == Health::Running));
            packets.add(&[tenant, name, label], function.packets);
            faults.add(&[tenant, name, label], function.faults);
            running.set(&[tenant, name, label, ("version", &version)], called);
            let out = f64::from(u8::from(function.state == Health::Quarantined));
            quarantined.set(&[tenant, name, label, ("version", &version)], out);
            if function.plane == Plane::Packet {
                calls.add(&[tenant, name, label], function.sample.calls);
                sampled.add(&[tenant, name, label], function.sample.packets);
                seconds.add_nanoseconds(&[tenant, name, label], function.sample.nanoseconds);
            }
            for (verdict, count) in &function.verdicts {
                verdicts.add(&[tenant, name, label, ("verdict", verdict)], *count);
            }
            if let Some(InstanceStatus { made, reused }) = &function.instances {
                instances.add(&[tenant, name, label, ("instance", "made")], *made);
                instances.add(&[tenant, name, label, ("instance", "reused")], *reused);
            }
            for (own, value) in &function.counters {
                counters.add(&[tenant, name, label, ("name", own)], *value);
            }
            for (own, value) in &function.gauges {
                gauges.set(&[tenant, name, label, ("name", own)], *value);
            }
        }
    }
}

fn listeners(registry: &mut Registry, status: &Status, reasons: Reasons) {
    let accepted = Counters::new(registry, "listener_connections", "Connections accepted");
    let refused = "Connections closed at once, because there were as many as allowed";
    let refused = Counters::new(registry, "listener_refused_connections", refused);
    let open = Gauges::new(registry, "listener_open_connections", "Connections that are open");
    let requests = "Requests, or TCP connections that were let through";
    let requests = Counters::new(registry, "listener_requests", requests);
    let active = Gauges::new(registry, "listener_active_requests", "Requests under way");
    let responses = "Responses by the class of their status";
    let responses = Counters::new(registry, "listener_responses", responses);
    let failures = "What went wrong with connections and requests, by reason";
    let failures = Counters::new(registry, "listener_failures", failures);
    let retries = Counters::new(registry, "listener_retries", "Attempts beyond the first");
    let denied = "Attempts beyond the first that were not made, because too many were under way";
    let denied = Counters::new(registry, "listener_retries_denied", denied);
    let spliced = "TCP and upgraded connections whose bytes the kernel passes on by itself";
    let spliced = Counters::new(registry, "listener_spliced_connections", spliced);
    let lost = "Requests and connections that were not written to the listener's log";
    let log_lost = Counters::new(registry, "listener_log_lost", lost);
    let bytes = Counters::new(registry, "listener_bytes", "Bytes from and to clients");
    let expiry = "When the certificate for a server name expires, in seconds since 1970";
    let expiry = Gauges::new(registry, "listener_certificate_expiry_timestamp_seconds", expiry);
    let runs_out = "When what a file says runs out, in seconds since 1970: authorities, lists of revoked certificates, \
                    certificates that upstreams are shown";
    let runs_out = Gauges::new(registry, "listener_file_expiry_timestamp_seconds", runs_out);
    let healthy = Gauges::new(registry, "upstream_healthy", "Whether an upstream gets requests");
    let connections = "Connections to an upstream that are open";
    let connections = Gauges::new(registry, "upstream_open_connections", connections);
    let sent = Counters::new(registry, "upstream_requests", "Requests that an upstream was sent");
    let made = Counters::new(registry, "upstream_connections", "Connections made to an upstream");
    let answered = "An upstream's responses by the class of their status";
    let answered = Counters::new(registry, "upstream_responses", answered);
    let carried = Counters::new(registry, "upstream_bytes", "Bytes from and to an upstream");
    let lost = "What went wrong with an upstream, by reason; also what a further attempt made good";
    let lost = Counters::new(registry, "upstream_failures", lost);
    let busy = Gauges::new(registry, "upstream_active_requests", "Requests that an upstream has");
    let members = "Addresses of an upstream that is named, by state";
    let members = Gauges::new(registry, "upstream_members", members);
    let lookups = "Times that an upstream's name could not be looked up";
    let lookups = Counters::new(registry, "upstream_lookup_failures", lookups);
    for listener in &status.engine.listeners {
        let name = ("listener", listener.name.as_str());
        accepted.add(&[name], listener.accepted);
        refused.add(&[name], listener.refused);
        open.set(&[name], listener.open as f64);
        requests.add(&[name], listener.requests);
        active.set(&[name], listener.active as f64);
        retries.add(&[name], listener.retries);
        denied.add(&[name], listener.retries_denied);
        spliced.add(&[name], listener.spliced);
        log_lost.add(&[name], listener.log_lost);
        bytes.add(&[name, ("direction", "in")], listener.received);
        bytes.add(&[name, ("direction", "out")], listener.sent);
        for (class, count) in &listener.responses {
            responses.add(&[name, ("class", class)], *count);
        }
        for reason in reasons.failures {
            failures.add(&[name, ("reason", reason)], 0);
        }
        for (reason, count) in &listener.failures {
            failures.add(&[name, ("reason", reason)], *count);
        }
        // Of several for a name it is the first one that is shown.
        for certificate in listener.certificates.iter().rev() {
            let nameless = certificate.names.is_empty().then_some("");
            let names = certificate.names.iter().map(String::as_str).chain(nameless);
            for server in names {
                expiry.set(&[name, ("server_name", server)], certificate.expires as f64);
            }
        }
        for file in &listener.files {
            let upstream = file.upstream.as_deref().unwrap_or_default();
            let labels = [name, ("upstream", upstream), ("key", file.key.as_str())];
            runs_out.set(&labels, file.expires as f64);
        }
        for upstream in &listener.upstreams {
            let labels = [name, ("upstream", upstream.address.as_str())];
            healthy.set(&labels, f64::from(u8::from(upstream.healthy)));
            connections.set(&labels, upstream.open as f64);
            sent.add(&labels, upstream.requests);
            made.add(&labels, upstream.connected);
            for (class, count) in &upstream.responses {
                answered.add(&[labels[0], labels[1], ("class", class)], *count);
            }
            carried.add(&[labels[0], labels[1], ("direction", "in")], upstream.received);
            carried.add(&[labels[0], labels[1], ("direction", "out")], upstream.sent);
            busy.set(&labels, upstream.active as f64);
            for (reason, count) in &upstream.failures {
                lost.add(&[labels[0], labels[1], ("reason", reason)], *count);
            }
            if upstream.members.is_empty() && upstream.lookup_failures == 0 {
                continue;
            }
            let all = upstream.members.len();
            let well = upstream.members.iter().filter(|member| member.healthy).count();
            members.set(&[labels[0], labels[1], ("state", "healthy")], well as f64);
            members.set(&[labels[0], labels[1], ("state", "down")], (all - well) as f64);
            lookups.add(&labels, upstream.lookup_failures);
        }
    }
}

fn times(registry: &mut Registry, status: &Status) {
    let mut latency = Times::new("listener_seconds", "From a request's head to its response's");
    let mut upstreams = Times::new("upstream_seconds", "Until the head of an upstream's response");
    for listener in &status.engine.listeners {
        let name = ("listener", listener.name.as_str());
        latency.add(&[name], &listener.latency, listener.latency_sum_ns);
        for upstream in &listener.upstreams {
            let labels = [name, ("upstream", upstream.address.as_str())];
            upstreams.add(&labels, &upstream.latency, upstream.latency_sum_ns);
        }
    }
    let mut functions = Times::new("function_seconds", "Time that a function took for an event");
    for chain in &status.engine.chains {
        for function in chain.functions.iter().filter(|f| f.plane == Plane::Message) {
            let labels = [
                ("tenant", chain.tenant.as_str()),
                ("chain", chain.name.as_str()),
                ("function", function.name.as_str()),
            ];
            functions.add(&labels, &function.times, function.times_sum_ns);
        }
    }
    for times in [latency, upstreams, functions] {
        registry.register_collector(Box::new(times));
    }
}

/// Bounds of buckets in nanoseconds: powers of two from 1 µs to 137 s. Status has finer ones; each
/// of these is one of them.
fn bounds() -> impl Iterator<Item = u64> {
    (10..=37).map(|power| 1 << power)
}

/// Labels, the sum of all times in seconds, and how many there are below each bound.
type Series = (Labels, f64, Vec<(f64, u64)>);

/// A histogram with all its label sets. Each of them has all bounds, also those below which there
/// is nothing: whoever adds up series, or looks at how they grow, needs the same ones in all,
/// always.
#[derive(Debug)]
struct Times {
    name: &'static str,
    help: &'static str,
    all: Vec<Series>,
}

impl Times {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, all: Vec::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], times: &[Bucket], sum_ns: u64) {
        let mut buckets: Vec<(f64, u64)> =
            bounds().map(|bound| (bound as f64 / 1e9, 0)).chain([(f64::INFINITY, 0)]).collect();
        for bucket in times {
            let place = bounds().take_while(|bound| bucket.below_ns > *bound).count();
            buckets[place].1 += bucket.count;
        }
        self.all.push((owned(labels), sum_ns as f64 / 1e9, buckets));
    }
}

impl Collector for Times {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let kind = MetricType::Histogram;
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, sum, buckets) in &self.all {
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
        }
        Ok(())
    }
}

fn trials(registry: &mut Registry, status: &Status) {
    let packets = "Packets that a version on trial got";
    let packets = Counters::new(registry, "trial_packets", packets);
    let differ = "Packets for which a shadow decided otherwise, or left other bytes";
    let differ = Counters::new(registry, "trial_different_packets", differ);
    for chain in &status.engine.chains {
        let Some(trial) = &chain.trial else { continue };
        let version = trial.version.as_ref().map(ToString::to_string).unwrap_or_default();
        let labels = [
            ("tenant", chain.tenant.as_str()),
            ("chain", chain.name.as_str()),
            ("function", trial.function.as_str()),
            ("version", &version),
        ];
        let kind = if trial.canary.is_some() { "canary" } else { "shadow" };
        packets.add(&[&labels[..], &[("kind", kind)]].concat(), trial.packets);
        if trial.canary.is_none() {
            for (what, count) in [("verdict", trial.verdicts_differ), ("bytes", trial.bytes_differ)]
            {
                differ.add(&[&labels[..], &[("what", what)]].concat(), count);
            }
        }
    }
}
