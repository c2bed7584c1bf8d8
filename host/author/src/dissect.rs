//! Packets as people read them, and how captures differ. By tshark if it is there, else in short by
//! etherparse.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices};

use crate::captures::{self, Frame};
use crate::in_short::in_short;

/// Differences that are shown.
const SHOWN: usize = 8;

/// Packets that one run of tshark dissects: each is some kilobytes of text.
const RUN_MAX: usize = 1000;
/// What tshark writes behind each packet.
const SEPARATOR: &str = "\u{1e}weir, the packet ends here\u{1e}";
/// A packet in one line.
const COLUMNS: &str = r#"gui.column.format:"S","%s","D","%d","P","%p","I","%i""#;
/// What keeps tshark from looking at packets together. (`-M 1`, with which it forgets each one,
/// takes 40 ms a packet.)
const ALONE: [&str; 5] = [
    "tcp.analyze_sequence_numbers:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
];
/// What it says of another packet nevertheless, before that packet's number.
const REFERENCES: [&str; 2] = [" (request in ", " (reply in "];

/// How a packet shows: in one line, and in full if tshark is there.
pub(crate) struct Dissected<'a> {
    frame: &'a Frame,
    summary: Option<String>,
    /// Without what is said of the capture; nothing if tshark is not there.
    details: Vec<String>,
}

/// Dissects packets, each by itself, with one run of tshark for many of them.
///
/// # Errors
/// When a temporary file for tshark cannot be written.
pub(crate) fn dissect<'a>(frames: &[&'a Frame]) -> Result<Vec<Dissected<'a>>> {
    let mut all = Vec::with_capacity(frames.len());
    for frames in frames.chunks(RUN_MAX) {
        let told = tshark(frames)?;
        let mut told = told.as_deref().map(|text| text.split(SEPARATOR));
        all.extend(frames.iter().map(|frame| {
            let text = told.as_mut().and_then(Iterator::next).unwrap_or_default();
            Dissected::of(frame, text)
        }));
    }
    Ok(all)
}

impl<'a> Dissected<'a> {
    fn of(frame: &'a Frame, told: &str) -> Self {
        let mut lines = told.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let summary = lines.next().map(|line| {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let end = REFERENCES.iter().find_map(|reference| line.rfind(reference));
            line[..end.unwrap_or(line.len())].to_owned()
        });
        // The first part is about the frame as it was captured.
        let lines = lines.skip(1).skip_while(|line| line.starts_with(' '));
        Self { frame, summary, details: without_conclusions(lines) }
    }

    /// In one line.
    pub(crate) fn summary(&self) -> String {
        self.summary.clone().unwrap_or_else(|| short(self.frame))
    }

    /// The lines in which what it became differs, below the headers that they belong to.
    pub(crate) fn changed(&self, new: &Self) -> String {
        let dissected = lines(&self.details, &new.details);
        if !dissected.is_empty() {
            return dissected;
        }
        let (old, new) = (self.frame, new.frame);
        let at = old.bytes.iter().zip(&new.bytes).position(|(old, new)| old != new);
        let at = at.unwrap_or(old.bytes.len().min(new.bytes.len()));
        let hex = |frame: &Frame| {
            let bytes = frame.bytes.iter().skip(at).take(16).map(|byte| format!("{byte:02x}"));
            bytes.collect::<Vec<_>>().join(" ")
        };
        format!(
            "  - {}\n  + {}\n  from byte {at} on:\n  - {}\n  + {}",
            short(old),
            short(new),
            hex(old),
            hex(new)
        )
    }
}

/// Without lines in brackets, and what is below them: what tshark concludes, often from packets
/// before, and not what is in the packet.
fn without_conclusions<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut within = None;
    let mut kept = Vec::new();
    for line in lines {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if within.is_some_and(|within| depth > within) {
            continue;
        }
        within = (text.starts_with('[') && text.ends_with(']')).then_some(depth);
        if within.is_none() {
            kept.push(line.to_owned());
        }
    }
    kept
}

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
    all.truncate(SHOWN);
    let frames =
        all.iter().flat_map(|(old, new)| [old.map(|n| &expected[n]), new.map(|n| &got[n])]);
    let dissected = dissect(&frames.flatten().collect::<Vec<_>>())?;
    let mut dissected = dissected.iter();
    let mut next = |at: Option<usize>| at.and_then(|at| Some((at + 1, dissected.next()?)));
    let mut texts = Vec::new();
    for (old, new) in all {
        texts.push(match (next(old), next(new)) {
            (Some((old, packet)), Some((new, other))) => format!(
                "packet {old} of {file} leaves otherwise, as number {new}:\n{}",
                packet.changed(other)
            ),
            (Some((old, packet)), None) => {
                format!("packet {old} of {file} does not leave:\n  - {}", packet.summary())
            }
            (None, Some((new, packet))) => format!(
                "a packet leaves, as number {new}, that is not in {file}:\n  + {}",
                packet.summary()
            ),
            (None, None) => continue,
        });
    }
    if more > 0 {
        texts.push(format!("and {more} more differences"));
    }
    Ok(texts)
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

/// What tshark says of packets, with [`SEPARATOR`] behind each; nothing if it is not there.
fn tshark(frames: &[&Frame]) -> Result<Option<String>> {
    let directory = tempfile::tempdir().context("making a temporary directory")?;
    let file = directory.path().join("packets.pcap");
    captures::write(&file, frames.iter().copied())?;
    let mut command = Command::new("tshark");
    command.args(["-n", "-P", "-V", "-S", SEPARATOR, "-o", COLUMNS, "-r"]).arg(&file);
    command.args(ALONE.iter().flat_map(|preference| ["-o", preference]));
    let output = command.stdin(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // Text that is in a packet is shown indented; should it look like the separator nevertheless,
    // nobody is told of another packet.
    Ok(text.filter(|text| text.matches(SEPARATOR).count() == frames.len()))
}

/// A packet in one line, without tshark.
fn short(frame: &Frame) -> String {
    in_short(&frame.bytes, frame.bytes.len())
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
    fn packets_are_dissected_as_if_there_were_no_others() {
        let echo = |reply: bool| {
            let builder =
                PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 1], 64);
            let builder = if reply {
                builder.icmpv4_echo_reply(1, 1)
            } else {
                builder.icmpv4_echo_request(1, 1)
            };
            let mut bytes = Vec::new();
            builder.write(&mut bytes, b"weir").unwrap();
            Frame { time: 1, bytes, cut: 0 }
        };
        let segment = |port| {
            let builder =
                PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            let mut bytes = Vec::new();
            builder.tcp(1000, port, 7, 1024).write(&mut bytes, b"GET / HTTP/1.1\r\n").unwrap();
            Frame { time: 1, bytes, cut: 0 }
        };
        let frames = [echo(false), echo(true), segment(80), segment(80), segment(81), frame(1, 2)];
        let together = dissect(&frames.iter().collect::<Vec<_>>()).unwrap();
        for (frame, together) in frames.iter().zip(&together) {
            let alone = &dissect(&[frame]).unwrap()[0];
            assert_eq!(together.summary(), alone.summary());
            assert_eq!(together.details, alone.details);
            assert!(alone.summary.is_some() && !alone.details.is_empty());
        }
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
