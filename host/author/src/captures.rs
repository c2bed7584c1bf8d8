//! Captures in memory: small ones, for tests.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weir_port::pcap::{CaptureFormat, CaptureReader, CaptureWriter};

/// Bytes of a test's capture at most; more is for `weir replay`.
const BYTES_MAX: usize = 1 << 30;

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of its end that were not captured.
    pub(crate) cut: u32,
}

/// Reads a capture.
pub(crate) fn read(path: &Path) -> Result<Vec<Frame>> {
    let mut reader = CaptureReader::open(path)?;
    let mut frames = Vec::new();
    let mut bytes = 0;
    while let Some(captured) = reader.next()? {
        bytes += reader.data().len();
        ensure!(
            bytes <= BYTES_MAX,
            "{}: it has more than 1 GiB of packets; `weir replay` takes captures of any size",
            path.display()
        );
        frames.push(Frame {
            time: captured.time,
            bytes: reader.data().to_vec(),
            cut: captured.cut,
        });
        reader.pass();
    }
    Ok(frames)
}

/// Writes a capture.
pub(crate) fn write<'a>(path: &Path, frames: impl IntoIterator<Item = &'a Frame>) -> Result<()> {
    let format = CaptureFormat::Classic { nanoseconds: true, link_type_field: 1 };
    let mut writer = CaptureWriter::create(path, format)?;
    for frame in frames {
        writer.write(frame.time, &frame.bytes, frame.cut)?;
    }
    writer.finish().context("writing a capture")
}
