//! What the data plane says about itself.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use weir_control::engine::{
    ChainId, ChainStatus, EngineStatus, FunctionLog, FunctionStatus, Health, LogLine, PoolStatus,
    PortStatus, TrialStatus,
};
use weir_packet_plane::TrialKind;
use weir_port::{Details, PortCounts};
use weir_spec::Name;

use super::PlaneEngine;
use super::chains::{Deployed, shadow_of};

impl PlaneEngine {
    pub(super) fn engine_status(&self) -> EngineStatus {
        let ports = self
            .ports()
            .iter()
            .map(|slot| {
                let counts = slot.statistics.counts();
                let device = slot.inspector.as_ref().map(|inspector| inspector.inspect());
                let device = device.unwrap_or_default();
                let drops = port_drops(&counts, &device);
                let sum = |direction: &str| {
                    drops
                        .iter()
                        .filter(|(reason, _)| reason.starts_with(direction))
                        .map(|d| d.1)
                        .sum()
                };
                PortStatus {
                    name: slot.config.name.clone(),
                    kind: slot.config.kind.name().to_owned(),
                    tenant: slot.config.tenant.clone(),
                    chain: slot.chain.clone(),
                    rx_packets: counts.rx_packets,
                    rx_bytes: counts.rx_bytes,
                    rx_dropped: sum("rx-"),
                    tx_packets: counts.tx_packets,
                    tx_bytes: counts.tx_bytes,
                    tx_dropped: sum("tx-"),
                    drops,
                    device: device
                        .facts
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                    device_counters: device.counters.into_iter().collect(),
                }
            })
            .collect();
        let chains: Vec<_> = self.chains().iter().map(|(id, d)| (id.clone(), d.clone())).collect();
        EngineStatus {
            workers: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
            ports,
            chains: chains.iter().map(|(id, deployed)| chain_status(id, deployed)).collect(),
        }
    }

    pub(super) fn function_log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        let Ok(deployed) = self.deployed(chain) else { return FunctionLog::default() };
        let mut log = FunctionLog::default();
        for name in [function.to_string(), shadow_of(function.as_str())] {
            let (lines, lost) = deployed.telemetry(&name).lines();
            let source = format!("{}:{name}", chain.name);
            log.lines.extend(lines.into_iter().map(|line| LogLine {
                time: weir_control::time::rfc3339(line.time),
                level: format!("{:?}", line.level).to_lowercase(),
                source: source.clone(),
                message: line.message,
            }));
            log.lost += lost;
        }
        log
    }
}

/// Packets dropped at a port, by direction and reason; those that there are.
fn port_drops(counts: &PortCounts, device: &Details) -> BTreeMap<String, u64> {
    let rx = [
        ("too-large", counts.rx_dropped_too_large),
        ("no-buffer", counts.rx_dropped_no_buffer),
        ("overrun", counts.rx_dropped_overrun),
    ];
    let tx = [
        ("no-output", counts.tx_dropped_no_output),
        ("full", counts.tx_dropped_full),
        ("length", counts.tx_dropped_length),
        ("down", counts.tx_dropped_down),
        ("error", counts.tx_errors),
    ];
    let rx = rx.iter().chain(&device.rx_dropped).map(|drop| ("rx", drop));
    let tx = tx.iter().chain(&device.tx_dropped).map(|drop| ("tx", drop));
    let drops = rx.chain(tx).filter(|(_, drop)| drop.1 > 0);
    drops.map(|(direction, (reason, n))| (format!("{direction}-{reason}"), *n)).collect()
}

fn chain_status(id: &ChainId, deployed: &Deployed) -> ChainStatus {
    let (counters, pool) = deployed.counters.read();
    let lane = deployed.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let named: Vec<(String, String)> =
        lane.functions.iter().map(|(name, version, _)| (name.clone(), version.clone())).collect();
    let report = weir_assembly::report_of(&counters, &named);
    let mut drops = report.drops;
    for (_, statistics) in &deployed.ports {
        for (reason, n) in port_drops(&statistics.counts(), &Details::default()) {
            // What was dropped on its way in never came to the chain: the reason's name is enough.
            let reason = reason.strip_prefix("rx-").unwrap_or(&reason);
            *drops.entry(reason.to_owned()).or_default() += n;
        }
    }
    let functions = report.functions.into_iter().zip(&lane.functions);
    let functions = functions.filter_map(|(counts, (name, version, health))| {
        let telemetry = deployed.telemetry(name);
        Some(FunctionStatus {
            name: name.parse().ok()?,
            version: version.parse().ok(),
            state: match health {
                weir_packet_plane::Health::Running => Health::Running,
                weir_packet_plane::Health::BackOff { .. } => Health::BackOff,
                weir_packet_plane::Health::Quarantined => Health::Quarantined,
            },
            packets: counts.packets,
            verdicts: counts.verdicts,
            faults: counts.faults,
            counters: telemetry.counters(),
            gauges: telemetry.gauges(),
        })
    });
    ChainStatus {
        tenant: id.tenant.clone(),
        name: id.name.clone(),
        packets_in: counters.packets_in,
        packets_out: counters.packets_out,
        drops,
        functions: functions.collect(),
        pool: PoolStatus { total: pool.total, free: pool.free, out: pool.out },
        trial: lane.trial.as_ref().and_then(trial_status),
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
        fault: shadow.fault,
    })
}
