//! `weir status`, `weir port`

use anyhow::Result;
use weir_control::api::List;
use weir_control::engine::{CarrierStatus, ChainStatus, FunctionStatus, Health, PortStatus};
use weir_control::{HostState, Status};
use weir_spec::Plane;

use super::{counts, listener, or_dash};
use crate::client::Client;
use crate::render::{self, Output};

pub(super) fn ports(client: &Client, output: Output) -> Result<()> {
    let ports: List<PortStatus> = client.get(&["ports"])?;
    output.result(&ports.items, |ports| port_text(ports))
}

fn port_table(ports: &[PortStatus]) -> String {
    let rows = ports.iter().flat_map(|port| {
        let queues = port.queues.iter().enumerate().map(|(number, queue)| {
            let dropped = |direction: &str| {
                let drops = queue.drops.iter().filter(|drop| drop.0.starts_with(direction));
                drops.map(|drop| drop.1).sum::<u64>().to_string()
            };
            let nothing = || String::from("-");
            [
                format!("{} queue {number}", port.name),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                queue.rx_packets.to_string(),
                dropped("rx-"),
                queue.tx_packets.to_string(),
                dropped("tx-"),
            ]
        });
        let whole = [
            port.name.to_string(),
            port.kind.clone(),
            port.tenant.to_string(),
            or_dash(port.chain.as_ref()),
            or_dash(port.device.get("link")),
            or_dash(port.device.get("driver")),
            port.rx_packets.to_string(),
            port.rx_dropped.to_string(),
            port.tx_packets.to_string(),
            port.tx_dropped.to_string(),
        ];
        std::iter::once(whole).chain(queues)
    });
    let header = [
        "port",
        "kind",
        "tenant",
        "chain",
        "link",
        "driver",
        "#rx",
        "#rx-dropped",
        "#tx",
        "#tx-dropped",
    ];
    render::table(header, rows)
}

fn port_text(ports: &[PortStatus]) -> String {
    port_table(ports) + &port_kernel(ports) + &port_problems(ports)
}

/// What went to the kernel by ports and came from there, if there is any.
fn port_kernel(ports: &[PortStatus]) -> String {
    let some = ports.iter().filter(|port| port.to_kernel_packets + port.from_kernel_packets > 0);
    let line = |port: &PortStatus| {
        let PortStatus { name, to_kernel_packets: to, from_kernel_packets: from, .. } = port;
        format!("port {name}: to kernel {to}, from kernel {from}\n")
    };
    some.map(line).collect()
}

fn port_problems(ports: &[PortStatus]) -> String {
    let down = ports.iter().filter_map(|port| Some((&port.name, port.problem.as_ref()?)));
    down.map(|(name, problem)| format!("port {name} is down: {problem}\n")).collect()
}

pub(super) fn status(client: &Client, output: Output) -> Result<()> {
    let status: Status = client.get(&["status"])?;
    output.result(&status, status_text)
}

fn state(state: HostState) -> &'static str {
    match state {
        HostState::Starting => "starting",
        HostState::Ready => "ready",
        HostState::Draining => "draining",
    }
}

fn status_text(status: &Status) -> String {
    let mut text = render::facts(&[
        ("version", status.version.clone()),
        ("state", state(status.state).to_owned()),
        ("up", render::age(status.uptime_seconds)),
        ("workers", status.engine.workers.to_string()),
        ("functions", status.functions.to_string()),
    ]);
    if let Some(CarrierStatus { kind, problem }) = &status.engine.carrier {
        text.push_str(&format!("\nchains' processes are reached by {kind}"));
        if let Some(problem) = problem {
            text.push_str(&format!(", which takes longer than sk_msg: {problem}"));
        }
        text.push('\n');
    }
    if let Some(problem) = &status.config_problem {
        text.push_str(&format!(
            "\nthe configuration is not in force as it is written: {problem}\n"
        ));
    }
    if let Some(problem) = &status.store_problem {
        text.push_str(&format!("\nthe store takes no changes: {problem}\n"));
    }
    if !status.engine.ports.is_empty() {
        text.push('\n');
        text.push_str(&port_text(&status.engine.ports));
    }
    if !status.engine.listeners.is_empty() {
        text.push('\n');
        text.push_str(&listener::table(&status.engine));
        for listener in &status.engine.listeners {
            if let Some(problem) = &listener.problem {
                text.push_str(&format!("listener {} is down: {problem}\n", listener.name));
            }
        }
    }
    for chain in &status.engine.chains {
        text.push('\n');
        text.push_str(&chain_text(chain));
    }
    for (chain, why) in &status.failed {
        text.push_str(&format!("\nchain {chain} does not run: {why}\n"));
    }
    text
}

/// What came or went otherwise than by the chain's ports, if there is any.
fn otherwise(chain: &ChainStatus) -> String {
    [
        ("to kernel", chain.packets_to_kernel),
        ("moved", chain.packets_moved),
        ("made", chain.packets_made),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(what, n)| format!("{what} {n}, "))
    .collect()
}

fn chain_text(chain: &ChainStatus) -> String {
    let mut text = format!(
        "chain {} (tenant {}): in {}, out {}, {}drops {}, buffers {} of {} in use\n",
        chain.name,
        chain.tenant,
        chain.packets_in,
        chain.packets_out,
        otherwise(chain),
        counts(&chain.drops),
        chain.pool.out,
        chain.pool.total
    );
    if chain.worker_restarts > 0 {
        text.push_str(&format!("  worker restarts: {}\n", chain.worker_restarts));
    }
    if chain.worker_timeouts > 0 {
        text.push_str(&format!("  workers ended for silence: {}\n", chain.worker_timeouts));
    }
    for worker in chain.workers.iter().filter(|_| chain.workers.len() > 1) {
        text.push_str(&format!(
            "  worker {}: in {}, out {}, faults {}, buffers {} of {} in use\n",
            worker.worker,
            worker.packets_in,
            worker.packets_out,
            worker.faults,
            worker.pool.out,
            worker.pool.total
        ));
    }
    if let Some(exchanges) = &chain.exchanges {
        text.push_str(&format!(
            "  on the message plane: {} exchanges opened, {} ended\n",
            exchanges.opened, exchanges.ended
        ));
    }
    let of = |plane| chain.functions.iter().filter(move |function| function.plane == plane);
    if chain.plane != Plane::Message {
        let header = ["function", "version", "state", "#packets", "verdicts", "#faults"];
        text.push_str(&render::table(header, of(Plane::Packet).map(function_row)));
    }
    if chain.plane != Plane::Packet {
        text.push_str(&listener::functions(of(Plane::Message).map(|function| {
            let [name, version, state, events, verdicts, faults] = function_row(function);
            let [p50, p99] = [0.5, 0.99].map(|part| listener::quantile(&function.times, part));
            [name, version, state, events, verdicts, faults, p50, p99]
        })));
    }
    if let Some(trial) = &chain.trial {
        let how = match trial.canary {
            Some(percent) => format!("canary, {percent} % of the flows"),
            None => format!(
                "shadow, {} other verdicts, {} other packets",
                trial.verdicts_differ, trial.bytes_differ
            ),
        };
        text.push_str(&format!(
            "trial of {} {}: {how}, {} packets\n",
            trial.function,
            or_dash(trial.version.as_ref()),
            trial.packets
        ));
        for sample in &trial.samples {
            text.push_str(&format!("  {sample}\n"));
        }
        if let Some(fault) = &trial.fault {
            text.push_str(&format!("  it faulted: {fault}\n"));
        }
    }
    text
}

fn function_row(function: &FunctionStatus) -> [String; 6] {
    [
        function.name.to_string(),
        or_dash(function.version.as_ref()),
        health(function.state).to_owned(),
        function.packets.to_string(),
        counts(&function.verdicts),
        function.faults.to_string(),
    ]
}

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Running => "running",
        Health::BackOff => "back-off",
        Health::Quarantined => "quarantined",
    }
}
