//! `weir tap`: packets of a chain that runs, as text or into a capture.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use weir_port::pcap::BlockCounts;
use weir_spec::{PacketConditions, TapDirection, TapFormat, TapRequest, TappedPacket, counted};

use crate::cli::{Format, TapArgs, TapSide};
use crate::client::Client;
use crate::render::{self, Output};

pub(super) fn run(args: &TapArgs, client: &Client, output: Output) -> Result<()> {
    let request = TapRequest {
        function: args.place.function.clone(),
        direction: args.direction.map(|direction| match direction {
            TapSide::In => TapDirection::In,
            TapSide::Out => TapDirection::Out,
        }),
        packets: args.packets,
        seconds: args.seconds,
        snap_length: args.snap_length,
        format: if args.write.is_some() { TapFormat::Pcapng } else { TapFormat::Json },
        only: PacketConditions {
            port: args.only.port.clone(),
            src: args.only.src,
            dst: args.only.dst,
            proto: args.only.proto,
            sport: args.only.sport,
            dport: args.only.dport,
        },
    };
    let path = ["chains", args.place.chain.as_str(), "tap"];
    let started = Instant::now();
    let answer = client.begin_stream(&path, &request)?;
    // Only now is it known that there is anything to write: what a file had is not lost by a
    // mistake.
    let mut sink = match &args.write {
        Some(file) => Sink::capture(file)?,
        None => Sink::Lines { function: args.place.function.is_some(), format: output.format },
    };
    let mut seen = BlockCounts::default();
    let mut rest = Vec::new();
    let by_host = client.stream(answer, |bytes| {
        rest.extend_from_slice(bytes);
        let taken = sink.take(&rest, &mut seen)?;
        rest.drain(..taken);
        Ok(())
    })?;
    let BlockCounts { packets, lost } = seen;
    if !output.quiet && output.format != Format::Json {
        let mut told = counted(packets, "packet");
        if lost > 0 {
            told += &format!(", {lost} were not copied: they came faster than they were taken");
        }
        eprintln!("{told}");
    }
    let is_full = args.packets.is_some_and(|most| packets >= u64::from(most));
    let is_over = args.seconds.is_some_and(|most| started.elapsed().as_secs() >= u64::from(most));
    if !by_host || is_full || is_over {
        return Ok(());
    }
    let other = "the chain was taken down or has other functions now, or the host stops";
    bail!("the tap ended early: {}", client.why_ended(other))
}

/// Where packets go.
enum Sink {
    Lines { function: bool, format: Format },
    Capture(Box<dyn Write>),
}

impl Sink {
    fn capture(file: &Path) -> Result<Self> {
        if file == Path::new("-") {
            let out = io::stdout();
            ensure!(!out.is_terminal(), "a capture is not for a terminal: name a file, or pipe it");
            return Ok(Self::Capture(Box::new(out)));
        }
        let made = File::create(file).with_context(|| format!("making {}", file.display()))?;
        Ok(Self::Capture(Box::new(made)))
    }

    /// Takes what is whole of this; the answer is how much.
    fn take(&mut self, bytes: &[u8], seen: &mut BlockCounts) -> Result<usize> {
        match self {
            Self::Capture(to) => {
                let whole = seen.count(bytes);
                to.write_all(&bytes[..whole]).context("writing the capture")?;
                to.flush().context("writing the capture")?;
                Ok(whole)
            }
            Self::Lines { function, format } => {
                let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let mut text = String::new();
                for line in
                    bytes[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
                {
                    let packet: TappedPacket = serde_json::from_slice(line).context(
                        "a packet is not as expected: is the host's version of Weir another?",
                    )?;
                    seen.packets += 1;
                    seen.lost += packet.lost;
                    text += &told(&packet, *function);
                }
                match format {
                    Format::Table => render::print(text.as_bytes())?,
                    Format::Json => render::print(&bytes[..end])?,
                }
                Ok(end)
            }
        }
    }
}

/// A packet in a line.
fn told(packet: &TappedPacket, function: bool) -> String {
    let time = humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(packet.time));
    let port = packet.port.as_deref().unwrap_or("made");
    let (direction, turned) = match packet.direction {
        TapDirection::In => ("in ", if packet.reverse && function { " (reverse)" } else { "" }),
        TapDirection::Out => ("out", ""),
    };
    let verdict = packet.verdict.as_ref().map(|verdict| format!("  {verdict}")).unwrap_or_default();
    let lost = match packet.lost {
        0 => String::new(),
        lost => format!("{lost} packets were not copied\n"),
    };
    let short = weir_author::in_short(&packet.bytes.0, packet.length as usize);
    format!("{lost}{time}  {direction}  {port}{turned}  {short}{verdict}\n")
}
