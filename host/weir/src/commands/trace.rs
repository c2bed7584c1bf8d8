//! `weir trace`, and how a packet's way is shown.

use anyhow::Result;
use reqwest::Method;
use weir_author::trace;
use weir_spec::{ChainTrace, TraceRequest, TracedPacket, counted};

use crate::cli::{Format, TraceArgs};
use crate::client::Client;
use crate::render::Output;

pub(super) fn run(args: &TraceArgs, client: &Client, output: Output) -> Result<()> {
    let request = TraceRequest {
        packets: args.packets,
        seconds: args.seconds,
        port: args.only.port.clone(),
        src: args.only.src,
        dst: args.only.dst,
        proto: args.only.proto,
        sport: args.only.sport,
        dport: args.only.dport,
    };
    let waiting = output.wait(format!("waiting for packets of chain {}", args.chain));
    let path = ["chains", args.chain.as_str(), "trace"];
    let trace: ChainTrace = client.send_json(Method::POST, &path, &request)?;
    drop(waiting);
    // Dissecting takes its time: only for people.
    let packets = match output.format {
        Format::Table => trace::told(&trace.packets)?,
        Format::Json => Vec::new(),
    };
    output.result(&trace, |trace| {
        let ways: String = packets.iter().map(told).collect();
        let (shown, seen) = (counted(packets.len() as u64, "packet"), trace.seen);
        format!("{ways}{shown} followed, {seen} came to the chain meanwhile\n")
    })
}

/// A packet's way, for people.
pub(super) fn told(packet: &TracedPacket) -> String {
    let number =
        packet.number.map_or_else(|| "sent by a function".into(), |n| format!("packet {n}"));
    let width = packet.steps.iter().map(|step| step.function.len()).max().unwrap_or(0);
    let steps = packet.steps.iter().map(|step| {
        let changes = step.changes.iter().map(|line| format!("    {line}\n"));
        format!("  {:width$}  {}\n{}", step.function, step.verdict, changes.collect::<String>())
    });
    format!("{number}: {}\n{}\n", packet.packet, steps.collect::<String>())
}
