//! Packets as people read them, and how captures differ. By tshark if it is there, else in short by etherparse.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices};

use crate::captures::{self, Frame};

/// Differences that are shown.
const SHOWN: usize = 8;

/// How what left differs from what was to leave; nothing if it does not.
pub(crate) fn differences(expected: &[Frame], got: &[Frame], file: &str) -> Result<Vec<String>> {
    let bytes =
        |frames: &[Frame]| frames.iter().map(|frame| frame.bytes.clone()).collect::<Vec<_>>();
    let ops = capture_diff_slices(Algorithm::Myers, &bytes(expected), &bytes(got));
    let mut all = Vec::new();
    for op in ops.iter().filter(|op| op.tag() != DiffTag::Equal) {
        let (old, new) = (op.old_range(), op.new_range());
        let pairs = old.len().min(new.len());
        for n in 0..pairs {
            all.push((Some(old.start + n), Some(new.start + n)));
        }
        all.extend(old.skip(pairs).map(|n| (Some(n), None)));
        all.extend(new.skip(pairs).map(|n| (None, Some(n))));
    }
    let more = all.len().saturating_sub(SHOWN);
    let mut texts = Vec::new();
    for (old, new) in all.into_iter().take(SHOWN) {
        texts.push(match (old, new) {
            (Some(old), Some(new)) => {
                let title = format!(
                    "packet {} of {file} leaves otherwise, as number {}:",
                    old + 1,
                    new + 1
                );
                title + "\n" + &changed(&expected[old], &got[new])?
            }
            (Some(old), None) => {
                format!(
                    "packet {} of {file} does not leave:\n  - {}",
                    old + 1,
                    summary(&expected[old])?
                )
            }
            (None, Some(new)) => {
                format!(
                    "a packet leaves, as number {}, that is not in {file}:\n  + {}",
                    new + 1,
                    summary(&got[new])?
                )
            }
            (None, None) => continue,
        });
    }
    if more > 0 {
        texts.push(format!("and {more} more differences"));
    }
    Ok(texts)
}

/// The lines of two packets' dissections that differ, below the headers that they belong to.
pub(crate) fn changed(old: &Frame, new: &Frame) -> Result<String> {
    let dissected = match (details(old)?, details(new)?) {
        (Some(old), Some(new)) => lines(&old, &new),
        _ => String::new(),
    };
    if !dissected.is_empty() {
        return Ok(dissected);
    }
    let at = old.bytes.iter().zip(&new.bytes).position(|(old, new)| old != new);
    let at = at.unwrap_or(old.bytes.len().min(new.bytes.len()));
    let hex = |frame: &Frame| {
        let bytes = frame.bytes.iter().skip(at).take(16).map(|byte| format!("{byte:02x}"));
        bytes.collect::<Vec<_>>().join(" ")
    };
    Ok(format!(
        "  - {}\n  + {}\n  from byte {at} on:\n  - {}\n  + {}",
        short(old),
        short(new),
        hex(old),
        hex(new)
    ))
}

fn lines(old: &[String], new: &[String]) -> String {
    let mut text = String::new();
    let mut header = "";
    let mut told = "";
    let top = |line: &str| !line.starts_with(' ');
    for op in capture_diff_slices(Algorithm::Myers, old, new) {
        if let DiffOp::Equal { old_index, len, .. } = op {
            header = old[old_index..old_index + len]
                .iter()
                .rfind(|line| top(line))
                .map_or(header, |line| line);
            continue;
        }
        if !header.is_empty() && header != told {
            text.push_str(&format!("    {header}\n"));
            told = header;
        }
        old[op.old_range()].iter().for_each(|line| text.push_str(&format!("  - {line}\n")));
        new[op.new_range()].iter().for_each(|line| text.push_str(&format!("  + {line}\n")));
        header = old[op.old_range()].iter().rfind(|line| top(line)).map_or(header, |line| line);
    }
    text.trim_end().to_owned()
}

/// A packet in one line, as tshark shows it.
pub(crate) fn summary(frame: &Frame) -> Result<String> {
    let line = tshark(
        frame,
        &["-o", "gui.column.format:\"S\",\"%s\",\"D\",\"%d\",\"P\",\"%p\",\"I\",\"%i\""],
    )?;
    Ok(line
        .map_or_else(|| short(frame), |text| text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// A packet in full, as tshark shows it, without what it says of the capture.
fn details(frame: &Frame) -> Result<Option<Vec<String>>> {
    let text = tshark(frame, &["-V"])?;
    Ok(text.map(|text| {
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        // The first part is about the frame as it was captured.
        lines.skip(1).skip_while(|line| line.starts_with(' ')).map(str::to_owned).collect()
    }))
}

/// What tshark says of a packet; nothing if it is not there.
fn tshark(frame: &Frame, options: &[&str]) -> Result<Option<String>> {
    let directory = tempfile::tempdir().context("making a temporary directory")?;
    let file = directory.path().join("packet.pcap");
    captures::write(&file, [frame])?;
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(&file)
        .args(options)
        .stdin(Stdio::null())
        .output();
    Ok(output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// A packet in one line.
fn short(frame: &Frame) -> String {
    let length = frame.bytes.len();
    let Ok(packet) = SlicedPacket::from_ethernet(&frame.bytes) else {
        return format!("{length} bytes that are no packet");
    };
    let ports = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Some(("TCP", tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some(("UDP", udp.source_port(), udp.destination_port())),
        _ => None,
    };
    let addresses = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (
                header.source_addr().to_string(),
                header.destination_addr().to_string(),
                header.protocol().0,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                header.source_addr().to_string(),
                header.destination_addr().to_string(),
                header.next_header().0,
            )
        }
        Some(NetSlice::Arp(_)) => return format!("ARP, {length} bytes"),
        None => return format!("not IP, {length} bytes"),
    };
    let (source, destination, protocol) = addresses;
    match ports {
        Some((name, from, to)) => {
            format!("{source} → {destination} {name} {from} → {to}, {length} bytes")
        }
        None => format!("{source} → {destination} protocol {protocol}, {length} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame(ttl: u8, port: u16) -> Frame {
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl);
        let mut bytes = Vec::new();
        builder.udp(1000, port).write(&mut bytes, b"weir").unwrap();
        Frame { time: 1, bytes, cut: 0 }
    }

    #[test]
    fn a_packet_in_short() {
        assert_eq!(short(&frame(64, 53)), "10.0.0.1 → 10.0.0.2 UDP 1000 → 53, 46 bytes");
        let arp = Frame { time: 0, bytes: vec![0; 9], cut: 0 };
        assert_eq!(short(&arp), "9 bytes that are no packet");
    }

    #[test]
    fn what_is_equal_does_not_differ() {
        let frames = [frame(64, 1), frame(64, 2)];
        assert_eq!(differences(&frames, &frames, "x").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_difference_is_shown() {
        let expected = [frame(64, 1), frame(64, 2), frame(64, 3), frame(64, 4)];
        let got = [frame(64, 1), frame(63, 2), frame(64, 4), frame(64, 5)];
        let texts = differences(&expected, &got, "out.pcap").unwrap();
        let all = texts.join("\n");
        assert!(all.contains("packet 2 of out.pcap leaves otherwise, as number 2:"), "{all}");
        assert!(all.contains("packet 3 of out.pcap does not leave"), "{all}");
        assert!(all.contains("as number 4, that is not in out.pcap"), "{all}");
        // tshark is installed where tests are run.
        assert!(all.contains("-     Time to Live: 64\n  +     Time to Live: 63"), "{all}");
        assert!(all.contains("Internet Protocol Version 4"), "{all}");
    }
}
