//! Writes captures: pcapng with nanoseconds, or the classic format with nanoseconds or
//! microseconds. Little-endian always, as nearly everything writes today.
//!
//! `pcap-parser` can serialise these blocks too, but makes a vector for each packet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::PortError;

use super::ETHERNET;
use super::record::PACKET_MAX;

/// Bytes written at once.
const CHUNK: usize = 256 << 10;

/// Whoever looks at a capture that is being written sees packets of which no more come after this
/// time.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// The form of a capture to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureFormat {
    /// The classic format.
    Classic {
        /// Nanoseconds; otherwise microseconds.
        nanoseconds: bool,
        /// The header's link type field: 1 is Ethernet, and above 16 bits what is known of frame
        /// check sequences.
        link_type_field: u32,
    },
    /// pcapng: one section, one Ethernet interface, nanoseconds, enhanced packet blocks.
    Ng,
}

/// A capture being written.
#[derive(Debug)]
pub struct CaptureWriter {
    to: BufWriter<File>,
    path: PathBuf,
    format: CaptureFormat,
    packets: u64,
    /// When everything was last handed to the kernel between two packets.
    settled: Instant,
}

impl CaptureWriter {
    /// Makes the file, or empties the one that is there, and writes the header.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, format: CaptureFormat) -> Result<Self, PortError> {
        let failed = |source| PortError::Create { path: path.to_owned(), source };
        let mut to = BufWriter::with_capacity(CHUNK, File::create(path).map_err(failed)?);
        match format {
            CaptureFormat::Classic { nanoseconds, link_type_field } => {
                to.write_all(&classic_header(nanoseconds, link_type_field))
            }
            CaptureFormat::Ng => to.write_all(&ng_header()),
        }
        .map_err(failed)?;
        Ok(Self { to, path: path.to_owned(), format, packets: 0, settled: Instant::now() })
    }

    /// Writes a packet: `time` in nanoseconds since 1970, `cut` bytes of its end missing.
    ///
    /// # Errors
    /// When writing fails, for want of space for example.
    #[inline]
    pub fn write(&mut self, time: u64, data: &[u8], cut: u32) -> Result<(), PortError> {
        let written = match self.format {
            CaptureFormat::Classic { nanoseconds, .. } => {
                classic_record(&mut self.to, nanoseconds, time, data, cut)
            }
            CaptureFormat::Ng => ng_record(&mut self.to, time, data, cut),
        };
        written.map_err(|source| self.failed(source))?;
        self.packets += 1;
        Ok(())
    }

    /// Hands everything to the kernel once a second; the answer is when to ask again, if something
    /// is left.
    ///
    /// # Errors
    /// When writing fails.
    pub fn settle(&mut self) -> Result<Option<Duration>, PortError> {
        if self.to.buffer().is_empty() {
            return Ok(None);
        }
        let early = SHOWN_AFTER.saturating_sub(self.settled.elapsed());
        if !early.is_zero() {
            return Ok(Some(early));
        }
        self.settled = Instant::now();
        self.finish().map(|()| None)
    }

    /// Hands everything to the kernel.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(&mut self) -> Result<(), PortError> {
        self.to.flush().map_err(|source| self.failed(source))
    }

    #[cold]
    fn failed(&self, source: io::Error) -> PortError {
        PortError::Write { path: self.path.clone(), packets: self.packets, source }
    }
}

/// Puts 32-bit words together, little-endian.
pub(super) fn words<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    const { assert!(BYTES == WORDS * 4) };
    let mut bytes = [0; BYTES];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn classic_header(nanoseconds: bool, link_type_field: u32) -> [u8; 24] {
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let version = 2 | 4 << 16;
    words([magic, version, 0, 0, PACKET_MAX, link_type_field])
}

#[inline]
fn classic_record(
    to: &mut impl Write,
    nanoseconds: bool,
    time: u64,
    data: &[u8],
    cut: u32,
) -> io::Result<()> {
    // The format ends in 2106.
    let seconds = u32::try_from(time / 1_000_000_000).unwrap_or(u32::MAX);
    let fraction = (time % 1_000_000_000) as u32;
    let fraction = if nanoseconds { fraction } else { fraction / 1000 };
    let length = data.len() as u32;
    to.write_all(&words::<4, 16>([seconds, fraction, length, length.saturating_add(cut)]))?;
    to.write_all(data)
}

/// Section header, and the description of interface 0 with nanoseconds (`if_tsresol` = 9).
fn ng_header() -> [u8; 60] {
    words([
        0x0a0d_0d0a,
        28,
        0x1a2b_3c4d,
        1,
        u32::MAX,
        u32::MAX,
        28,
        1,
        32,
        ETHERNET as u32,
        PACKET_MAX,
        9 | 1 << 16,
        9,
        0,
        32,
    ])
}

#[inline]
fn ng_record(to: &mut impl Write, time: u64, data: &[u8], cut: u32) -> io::Result<()> {
    let length = data.len() as u32;
    let padding = length.next_multiple_of(4) - length;
    let total = 32 + length + padding;
    to.write_all(&words::<7, 28>([
        6,
        total,
        0,
        (time >> 32) as u32,
        (time & 0xffff_ffff) as u32,
        length,
        length.saturating_add(cut),
    ]))?;
    to.write_all(data)?;
    to.write_all(&[0; 3][..padding as usize])?;
    to.write_all(&total.to_le_bytes())
}
