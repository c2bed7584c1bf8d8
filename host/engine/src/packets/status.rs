//! What the data plane says about itself.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use weir_control::engine::{
    ChainId, ChainStatus, EngineStatus, FunctionLog, FunctionStatus, Health, PoolStatus,
    PortStatus, QueueStatus, Sample, TrialStatus, WorkerStatus,
};
use weir_packet_plane::TrialKind;
use weir_port::{Details, PortCounts, PortStatistics};
use weir_spec::{Name, Plane, PortKind};

use super::Packets;
use super::lanes::Deployed;
use super::ports::Slot;
use crate::telemetries::function_log;

impl Packets {
    pub(crate) fn status(&self) -> EngineStatus {
        let mut ports: Vec<PortStatus> = self.ports().iter().map(port_status).collect();
        let crossings: Vec<_> = self.lanes.crossings().values().cloned().collect();
        for crossing in &crossings {
            for (name, reason, n) in crossing.drops() {
                let Some(port) = ports.iter_mut().find(|port| port.name == *name) else { continue };
                *port.drops.entry(format!("rx-{reason}")).or_default() += n;
                port.rx_dropped += n;
            }
        }
        let chains: Vec<_> =
            self.lanes.chains().iter().map(|(id, d)| (id.clone(), d.clone())).collect();
        EngineStatus {
            workers: u32::try_from(self.lanes.workers.len()).unwrap_or(u32::MAX),
            ports,
            listeners: Vec::new(),
            chains: chains.iter().map(|(id, deployed)| chain_status(id, deployed)).collect(),
            carrier: None,
        }
    }

    pub(crate) fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        let Ok(deployed) = self.lanes.deployed(chain) else { return FunctionLog::default() };
        function_log(chain, function, deployed.lanes.iter().map(|lane| &lane.telemetry))
    }
}

fn port_status(slot: &Slot) -> PortStatus {
    let each: Vec<PortCounts> = slot.statistics.iter().map(PortStatistics::counts).collect();
    let devices = slot.inspectors.iter().map(|inspector| inspector.inspect());
    let mut device = devices.reduce(both).unwrap_or_default();
    if let Some(problem) = slot.away() {
        device.problem = Some(problem.to_owned());
        if slot.config.kind != PortKind::Xdp {
            // How an interface is the kernel tells; others had another device the last time, if
            // any.
            device.facts = vec![("link", "down".to_owned())];
        }
    }
    let mut drops = device_drops(&device);
    each.iter().flat_map(port_drops).for_each(|(reason, n)| *drops.entry(reason).or_default() += n);
    let sum = |count: fn(&PortCounts) -> u64| each.iter().map(count).sum();
    let dropped = |direction: &str| {
        drops.iter().filter(|(reason, _)| reason.starts_with(direction)).map(|d| d.1).sum()
    };
    PortStatus {
        name: slot.config.name.clone(),
        kind: slot.config.kind.name().to_owned(),
        tenant: slot.config.tenant.clone(),
        chain: slot.chain.clone(),
        rx_packets: sum(|counts| counts.rx_packets),
        rx_bytes: sum(|counts| counts.rx_bytes),
        rx_dropped: dropped("rx-"),
        tx_packets: sum(|counts| counts.tx_packets),
        tx_bytes: sum(|counts| counts.tx_bytes),
        tx_dropped: dropped("tx-"),
        to_kernel_packets: sum(|counts| counts.kernel_received),
        from_kernel_packets: sum(|counts| counts.kernel_sent),
        rx_notes: rx_notes(&each),
        drops,
        device: device.facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        device_counters: device.counters.into_iter().collect(),
        problem: device.problem,
        ring_buffers: device.waiting_rooms,
        queues: if each.len() > 1 { each.iter().map(queue_status).collect() } else { Vec::new() },
    }
}

fn queue_status(counts: &PortCounts) -> QueueStatus {
    QueueStatus {
        rx_packets: counts.rx_packets,
        tx_packets: counts.tx_packets,
        handed_over: counts.rx_handed_over,
        taken_over: counts.rx_taken_over,
        drops: port_drops(counts).collect(),
    }
}

/// Two queues of an interface as one device: counters add up, facts that differ stand side by side.
fn both(mut one: Details, other: Details) -> Details {
    one.problem = one.problem.or(other.problem);
    one.waiting_rooms += other.waiting_rooms;
    for (name, value) in other.facts {
        match one.facts.iter_mut().find(|fact| fact.0 == name) {
            Some((_, known)) if *known == value || known.split(", ").any(|k| k == value) => {}
            Some((_, known)) => *known = format!("{known}, {value}"),
            None => one.facts.push((name, value)),
        }
    }
    for (name, n) in other.counters {
        match one.counters.iter_mut().find(|counter| counter.0 == name) {
            Some((_, known)) => *known += n,
            None => one.counters.push((name, n)),
        }
    }
    for (ours, theirs) in
        [(&mut one.rx_dropped, other.rx_dropped), (&mut one.tx_dropped, other.tx_dropped)]
    {
        for (reason, n) in theirs {
            match ours.iter_mut().find(|drop| drop.0 == reason) {
                Some((_, known)) => *known += n,
                None => ours.push((reason, n)),
            }
        }
    }
    one
}

/// What is worth knowing of what came in, and is no drop; what there is of it.
fn rx_notes(each: &[PortCounts]) -> BTreeMap<String, u64> {
    let notes = |counts: &PortCounts| {
        [
            ("truncated", counts.rx_truncated),
            ("bad-checksum", counts.rx_bad_checksum),
            ("waits-for-buffer", counts.rx_waits_for_buffer),
            ("error", counts.rx_errors),
        ]
    };
    let mut sums = BTreeMap::new();
    for (name, n) in each.iter().flat_map(notes).filter(|(_, n)| *n > 0) {
        *sums.entry(name.to_owned()).or_default() += n;
    }
    sums
}

/// Packets dropped at a port, by direction and reason; those that there are.
fn port_drops(counts: &PortCounts) -> impl Iterator<Item = (String, u64)> + use<> {
    let drops = all_port_drops(counts).into_iter().filter(|(_, n)| *n > 0);
    drops.map(|(reason, n)| (reason.to_owned(), n))
}

fn all_port_drops(counts: &PortCounts) -> [(&'static str, u64); 15] {
    [
        ("rx-too-large", counts.rx_dropped_too_large),
        ("rx-no-buffer", counts.rx_dropped_no_buffer),
        ("rx-bad-checksum", counts.rx_dropped_bad_checksum),
        ("rx-overrun", counts.rx_dropped_overrun),
        ("rx-handoff-full", counts.rx_dropped_handoff_full),
        ("rx-not-peer", counts.rx_dropped_not_peer),
        ("rx-no-neighbour", counts.rx_dropped_no_neighbour),
        ("rx-kernel-full", counts.kernel_dropped_full),
        ("tx-kernel-no-buffer", counts.kernel_dropped_no_buffer),
        ("tx-kernel-too-large", counts.kernel_dropped_too_large),
        ("tx-no-output", counts.tx_dropped_no_output),
        ("tx-full", counts.tx_dropped_full),
        ("tx-length", counts.tx_dropped_length),
        ("tx-down", counts.tx_dropped_down),
        ("tx-error", counts.tx_errors),
    ]
}

/// The same of what its device dropped by itself.
fn device_drops(device: &Details) -> BTreeMap<String, u64> {
    let rx = device.rx_dropped.iter().map(|drop| ("rx", drop));
    let tx = device.tx_dropped.iter().map(|drop| ("tx", drop));
    let drops = rx.chain(tx).filter(|(_, drop)| drop.1 > 0);
    drops.map(|(direction, (reason, n))| (format!("{direction}-{reason}"), *n)).collect()
}

/// The worse of two.
fn worse(one: Health, other: Health) -> Health {
    let badness = |health: Health| match health {
        Health::Running => 0,
        Health::BackOff => 1,
        Health::Quarantined => 2,
    };
    if badness(other) > badness(one) { other } else { one }
}

fn health(health: weir_packet_plane::Health) -> Health {
    match health {
        weir_packet_plane::Health::Running => Health::Running,
        weir_packet_plane::Health::BackOff { .. } => Health::BackOff,
        weir_packet_plane::Health::Quarantined => Health::Quarantined,
    }
}

fn sample(counts: Option<&weir_packet_plane::FunctionCounts>) -> Sample {
    let sample = counts.map(|counts| counts.sample).unwrap_or_default();
    Sample { calls: sample.calls, packets: sample.packets, nanoseconds: sample.nanoseconds }
}

/// A chain is as the sum of its lanes; its functions are as the worst of them.
fn chain_status(id: &ChainId, deployed: &Deployed) -> ChainStatus {
    let mut counters = weir_packet_plane::Counters::default();
    let mut pool = PoolStatus::default();
    let mut workers = Vec::with_capacity(deployed.lanes.len());
    let mut lanes = Vec::with_capacity(deployed.lanes.len());
    for lane in &deployed.lanes {
        let (own, accounting) = lane.counters.read();
        let accounting =
            PoolStatus { total: accounting.total, free: accounting.free, out: accounting.out };
        pool.total += accounting.total;
        pool.free += accounting.free;
        pool.out += accounting.out;
        workers.push(WorkerStatus {
            worker: u32::try_from(lane.worker).unwrap_or(u32::MAX),
            packets_in: own.packets_in,
            packets_out: own.packets_out,
            faults: own.by_function().map(|(_, function)| function.faults).sum(),
            pool: accounting,
        });
        counters.add(&own);
        lanes.push(lane.status.lock().unwrap_or_else(PoisonError::into_inner).clone());
    }
    let known = lanes.first().cloned().unwrap_or_default();
    let named: Vec<(String, String)> =
        known.functions.iter().map(|(name, version, _)| (name.clone(), version.clone())).collect();
    let report = weir_assembly::report_of(&counters, &named);
    let mut drops = report.drops;
    for (_, statistics) in deployed.lanes.iter().flat_map(|lane| &lane.ports) {
        for (reason, n) in port_drops(&statistics.counts()) {
            // What was dropped on its way in never came to the chain: the reason's name is enough.
            let reason = reason.strip_prefix("rx-").unwrap_or(&reason);
            *drops.entry(reason.to_owned()).or_default() += n;
        }
    }
    let functions = report.functions.into_iter().filter_map(|counts| {
        let (name, version) = (&counts.name, &counts.version);
        // A lane may have other functions for a moment.
        let of_lanes = lanes.iter().flat_map(|lane| lane.functions.iter().find(|f| f.0 == *name));
        let state = of_lanes.map(|(_, _, lanes)| health(*lanes)).reduce(worse).unwrap_or_default();
        let (mut own, mut gauges) = (BTreeMap::new(), BTreeMap::new());
        for lane in &deployed.lanes {
            let telemetry = lane.telemetry.of(name);
            for (counter, n) in telemetry.counters() {
                *own.entry(counter).or_default() += n;
            }
            for (gauge, value) in telemetry.gauges() {
                *gauges.entry(gauge).or_default() += value;
            }
        }
        Some(FunctionStatus {
            name: name.parse().ok()?,
            plane: Plane::Packet,
            version: version.parse().ok(),
            state,
            packets: counts.packets,
            verdicts: counts.verdicts,
            faults: counts.faults,
            counters: own,
            gauges,
            times: Vec::new(),
            times_sum_ns: 0,
            instances: None,
            sample: sample(counters.of(name)),
        })
    });
    ChainStatus {
        tenant: id.tenant.clone(),
        name: id.name.clone(),
        plane: Plane::Packet,
        packets_in: counters.packets_in,
        packets_out: counters.packets_out,
        packets_to_kernel: counters.packets_to_kernel,
        packets_moved: counters.packets_moved,
        packets_made: counters.packets_made,
        exchanges: None,
        drops,
        functions: functions.collect(),
        pool,
        trial: lanes.iter().filter_map(|lane| lane.trial.as_ref()).filter_map(trial_status).reduce(
            |mut one, other| {
                one.packets += other.packets;
                one.verdicts_differ += other.verdicts_differ;
                one.bytes_differ += other.bytes_differ;
                one.samples.extend(other.samples);
                one.fault = one.fault.or(other.fault);
                one
            },
        ),
        workers,
        worker_restarts: 0,
        worker_timeouts: 0,
    }
}

fn trial_status(trial: &weir_packet_plane::TrialStatus) -> Option<TrialStatus> {
    let (canary, shadow) = match &trial.kind {
        TrialKind::Canary(percent) => (Some(*percent), None),
        TrialKind::Shadow(report) => (None, Some(report.clone())),
    };
    let shadow = shadow.unwrap_or_default();
    Some(TrialStatus {
        function: trial.function.parse().ok()?,
        version: trial.version.parse().ok(),
        canary,
        packets: trial.packets,
        verdicts_differ: shadow.verdicts_differ,
        bytes_differ: shadow.bytes_differ,
        samples: shadow.samples,
        fault: shadow.fault.map(|fault| weir_sandbox::explain_soon(&fault)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_says_what_each_reason_means() {
        let drops = include_str!("../../../../docs/reference/drops.md");
        let messages = include_str!("../../../../docs/guide/messages.md");
        for (_, reason) in weir_packet_plane::DROP_REASONS {
            assert!(drops.contains(&format!("`{reason}`")), "{reason}");
        }
        for (reason, _) in all_port_drops(&PortCounts::default()) {
            // As they are in a chain's status.
            let reason = reason.strip_prefix("rx-").unwrap_or(reason);
            assert!(drops.contains(&format!("`{reason}`")), "{reason}");
        }
        let (_, failures) = messages.split_once("### What is counted").expect("the section");
        for (_, reason) in weir_gateway::FAILURES {
            assert!(failures.contains(&format!("| `{reason}` |")), "{reason}");
        }
    }
}
