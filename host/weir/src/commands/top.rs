//! `weir top`: two looks at the status, and what went by between them.

use std::io::IsTerminal as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use weir_control::Status;
use weir_control::engine::{
    Bucket, ChainStatus, FunctionStatus, ListenerStatus, PortStatus, Sample,
};
use weir_spec::Name;

use super::host::health;
use super::listener::{quantile_ns, time};
use super::or_dash;
use crate::cli::{Format, TopArgs};
use crate::client::Client;
use crate::render::{self, Output};

/// Moves to the terminal's upper left corner and clears what is there.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What went by, a second.
#[derive(Debug, Serialize)]
struct Rates {
    /// Seconds between the two looks.
    seconds: f64,
    ports: Vec<PortRate>,
    listeners: Vec<ListenerRate>,
    chains: Vec<ChainRate>,
}

#[derive(Debug, Serialize)]
struct PortRate {
    name: Name,
    rx_packets: f64,
    rx_bits: f64,
    tx_packets: f64,
    tx_bits: f64,
    /// In either direction.
    dropped: f64,
}

#[derive(Debug, Serialize)]
struct ListenerRate {
    name: Name,
    /// Requests, or TCP connections.
    requests: f64,
    responses_4xx: f64,
    responses_5xx: f64,
    /// Whatever went wrong.
    failures: f64,
    /// Requests that are under way now.
    active: u64,
    /// The times that half of those since the last look, and 99 of 100, lie below, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ChainRate {
    tenant: Name,
    name: Name,
    packets_in: f64,
    packets_out: f64,
    packets_to_kernel: f64,
    drops: f64,
    /// Buffers that hold a packet now.
    buffers: u32,
    functions: Vec<FunctionRate>,
}

#[derive(Debug, Serialize)]
struct FunctionRate {
    name: Name,
    version: String,
    state: &'static str,
    packets: f64,
    drops: f64,
    /// Packets in a call, of the calls that were timed since the last look; only on the packet
    /// plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_per_call: Option<f64>,
    /// What a packet took of those, or an event for a function for messages, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_per_packet: Option<f64>,
    /// Since the chain was deployed.
    faults: u64,
}

/// Shows rates until it is interrupted, or so often.
pub(super) fn run(args: &TopArgs, client: &Client, output: Output) -> Result<()> {
    let look = || -> Result<(Instant, Status)> { Ok((Instant::now(), client.get(&["status"])?)) };
    let interval = Duration::from_secs(args.interval.into());
    let redraw = output.format == Format::Table && std::io::stdout().is_terminal();
    let mut before = look()?;
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        sleep(interval);
        let now = look()?;
        let rates = rates(&before.1, &now.1, now.0.duration_since(before.0).as_secs_f64());
        if redraw {
            render::print(CLEAR.as_bytes())?;
        } else if shown > 0 && output.format == Format::Table {
            render::print(b"\n")?;
        }
        output.result(&rates, |rates| text(rates, &now.1))?;
        before = now;
        shown += 1;
    }
    Ok(())
}

fn rates(before: &Status, now: &Status, seconds: f64) -> Rates {
    // A counter that is smaller than before was begun anew.
    let rate = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now) as f64 / seconds;
    let port = |now: &PortStatus| {
        let before = before.engine.ports.iter().find(|port| port.name == now.name);
        let of = |count: fn(&PortStatus) -> u64| rate(before.map_or(0, count), count(now));
        PortRate {
            name: now.name.clone(),
            rx_packets: of(|port| port.rx_packets),
            rx_bits: of(|port| port.rx_bytes) * 8.0,
            tx_packets: of(|port| port.tx_packets),
            tx_bits: of(|port| port.tx_bytes) * 8.0,
            dropped: of(|port| port.rx_dropped + port.tx_dropped),
        }
    };
    let listener = |now: &ListenerStatus| {
        let before = before.engine.listeners.iter().find(|listener| listener.name == now.name);
        let of = |count: fn(&ListenerStatus) -> u64| rate(before.map_or(0, count), count(now));
        let since = since(before.map_or(&[][..], |before| &before.latency), &now.latency);
        ListenerRate {
            name: now.name.clone(),
            requests: of(|listener| listener.requests),
            responses_4xx: of(|listener| listener.responses.get("4xx").copied().unwrap_or(0)),
            responses_5xx: of(|listener| listener.responses.get("5xx").copied().unwrap_or(0)),
            failures: of(|listener| listener.failures.values().sum()),
            active: now.active,
            p50_ns: quantile_ns(&since, 0.5),
            p99_ns: quantile_ns(&since, 0.99),
        }
    };
    let chain = |now: &ChainStatus| {
        let same = |chain: &&ChainStatus| chain.name == now.name && chain.tenant == now.tenant;
        let before = before.engine.chains.iter().find(same);
        let of = |count: fn(&ChainStatus) -> u64| rate(before.map_or(0, count), count(now));
        let function = |now: &FunctionStatus| {
            let before = before.and_then(|b| b.functions.iter().find(|f| f.name == now.name));
            let of = |count: fn(&FunctionStatus) -> u64| rate(before.map_or(0, count), count(now));
            let timed = |count: fn(&Sample) -> u64| {
                let then = before.map_or(0, |before| count(&before.sample));
                let more = count(&now.sample).checked_sub(then).unwrap_or(count(&now.sample));
                (more > 0).then_some(more as f64)
            };
            let packets = timed(|sample| sample.packets);
            // Each event of a function for messages is timed.
            let then = before.map_or(&[][..], |before| &before.times);
            let events = since(then, &now.times).iter().map(|bucket| bucket.count).sum::<u64>();
            let took = of(|function| function.times_sum_ns) * seconds;
            let each = (events > 0).then(|| took / events as f64);
            let over = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
            FunctionRate {
                name: now.name.clone(),
                version: or_dash(now.version.as_ref()),
                state: health(now.state),
                packets: of(|function| function.packets),
                drops: of(|function| function.verdicts.get("drop").copied().unwrap_or(0)),
                packets_per_call: over(packets, timed(|sample| sample.calls)),
                ns_per_packet: over(timed(|sample| sample.nanoseconds), packets).or(each),
                faults: now.faults,
            }
        };
        ChainRate {
            tenant: now.tenant.clone(),
            name: now.name.clone(),
            packets_in: of(|chain| chain.packets_in),
            packets_out: of(|chain| chain.packets_out),
            packets_to_kernel: of(|chain| chain.packets_to_kernel),
            drops: of(|chain| chain.drops.values().sum()),
            buffers: now.pool.out,
            functions: now.functions.iter().map(function).collect(),
        }
    };
    Rates {
        seconds,
        ports: now.engine.ports.iter().map(port).collect(),
        listeners: now.engine.listeners.iter().map(listener).collect(),
        chains: now.engine.chains.iter().map(chain).collect(),
    }
}

/// The times that came to a histogram since it was as before.
fn since(before: &[Bucket], now: &[Bucket]) -> Vec<Bucket> {
    let more = |bucket: &Bucket| {
        let same = before.iter().find(|before| before.below_ns == bucket.below_ns);
        let before = same.map_or(0, |before| before.count);
        // One that is smaller than before was begun anew.
        Bucket { count: bucket.count.checked_sub(before).unwrap_or(bucket.count), ..*bucket }
    };
    now.iter().map(more).filter(|bucket| bucket.count > 0).collect()
}

fn text(rates: &Rates, status: &Status) -> String {
    let mut text = format!(
        "weir {}, up {}; a second, over {:.1} s\n",
        status.version,
        render::age(status.uptime_seconds),
        rates.seconds
    );
    if !rates.ports.is_empty() {
        let rows = rates.ports.iter().map(|port| {
            [
                port.name.to_string(),
                short(port.rx_packets),
                short(port.rx_bits),
                short(port.tx_packets),
                short(port.tx_bits),
                short(port.dropped),
            ]
        });
        let header = ["port", "#rx", "#rx bit", "#tx", "#tx bit", "#dropped"];
        text.push_str(&format!("\n{}", render::table(header, rows)));
    }
    if !rates.listeners.is_empty() {
        let rows = rates.listeners.iter().map(|listener| {
            [
                listener.name.to_string(),
                short(listener.requests),
                short(listener.responses_4xx),
                short(listener.responses_5xx),
                short(listener.failures),
                listener.active.to_string(),
                or_dash(listener.p50_ns.map(time)),
                or_dash(listener.p99_ns.map(time)),
            ]
        });
        let header =
            ["listener", "#requests", "#4xx", "#5xx", "#failures", "#active", "#p50", "#p99"];
        text.push_str(&format!("\n{}", render::table(header, rows)));
    }
    for chain in &rates.chains {
        let kernel = match chain.packets_to_kernel {
            0.0 => String::new(),
            packets => format!("to kernel {}, ", short(packets)),
        };
        text.push_str(&format!(
            "\nchain {} (tenant {}): in {}, out {}, {kernel}drops {}; {} buffers in use\n",
            chain.name,
            chain.tenant,
            short(chain.packets_in),
            short(chain.packets_out),
            short(chain.drops),
            chain.buffers
        ));
        let rows = chain.functions.iter().map(|function| {
            [
                function.name.to_string(),
                function.version.clone(),
                function.state.to_owned(),
                short(function.packets),
                short(function.drops),
                or_dash(function.packets_per_call.map(|packets| format!("{packets:.1}"))),
                or_dash(function.ns_per_packet.map(|ns| format!("{ns:.1}"))),
                function.faults.to_string(),
            ]
        });
        let header = [
            "function", "version", "state", "#packets", "#drops", "#a call", "#ns each", "#faults",
        ];
        text.push_str(&render::table(header, rows));
    }
    text
}

/// Three digits that matter.
fn short(value: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", value / unit),
        None => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rx: u64, packets_in: u64, drop: u64) -> Status {
        let json = serde_json::json!({
            "version": "1.0.0", "uptime_seconds": 90061, "functions": 1, "workers": 1, "failed": {},
            "ports": [{
                "name": "in", "kind": "memory", "tenant": "default", "chain": "edge",
                "rx_packets": rx, "rx_bytes": rx * 64, "rx_dropped": 0, "tx_packets": 0,
                "tx_bytes": 0, "tx_dropped": 0
            }],
            "listeners": [{
                "name": "web", "addresses": ["127.0.0.1:80"], "tenant": "default", "chain": null, "accepted": 1,
                "refused": 0, "open": 1, "requests": rx / 1000, "active": 2, "retries": 0, "spliced": 0, "log_lost": 0,
                "responses": {"2xx": 9, "4xx": drop, "5xx": drop / 2}, "failures": {"connect": drop},
                "received": 0, "sent": 0, "latency_sum_ns": 0, "upstreams": [],
                "latency": [{"below_ns": 1000, "count": 500}, {"below_ns": 2000000, "count": rx / 1000}]
            }],
            "chains": [{
                "tenant": "default", "name": "edge", "packets_in": packets_in, "packets_out": 0,
                "packets_to_kernel": drop * 2, "drops": {"fw:1": drop}, "pool": {"total": 8, "free": 6, "out": 2}, "trial": null,
                "functions": [{
                    "name": "fw", "version": "1.2.0", "state": "running", "packets": packets_in,
                    "verdicts": {"drop": drop}, "faults": 3, "counters": {}, "gauges": {},
                    "sample": {"calls": drop / 10, "packets": drop * 3, "nanoseconds": drop * 40}
                }]
            }]
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_went_by_is_shown_by_the_second() {
        let now = status(3_000_000, 50, 20);
        // The chain was deployed anew: it counts from 0 again.
        let rates = rates(&status(1_000_000, 1000, 0), &now, 2.0);
        let expected = "\
weir 1.0.0, up 1d 1h; a second, over 2.0 s

PORT     RX   RX BIT  TX  TX BIT  DROPPED
in    1.00M  512.00M   0       0        0

LISTENER  REQUESTS  4XX  5XX  FAILURES  ACTIVE        P50        P99
web          1.00k   10    5        10       2  2000.0 us  2000.0 us

chain edge (tenant default): in 25, out 0, to kernel 20, drops 10; 2 buffers in use
FUNCTION  VERSION  STATE    PACKETS  DROPS  A CALL  NS EACH  FAULTS
fw        1.2.0    running       25     10    30.0     13.3       3
";
        assert_eq!(text(&rates, &now), expected);
    }
}
