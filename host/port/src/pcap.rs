//! The `pcap` port: packets come from one capture file and leave into another.
//!
//! Owns: reading ([`CaptureReader`]), writing ([`CaptureWriter`], [`Blocks`]) and looking through
//! ([`scan`]) captures of both formats, and the pace of a replay. Must not know what packets mean.
//!
//! A burst never spans more than [`BURST_SPAN`] of the capture's time, so that functions that
//! measure time see a clock that is right for every packet of it.

mod blocks;
mod classic;
mod ng;
mod reader;
mod record;
mod scan;
mod source;
mod writer;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weir_pool::{Packet, Pool};

use crate::statistics::{PortCounts, PortStatistics};
use crate::{Port, PortError, Received};

pub use blocks::{BlockCounts, Blocks, Direction, PacketBlock};
pub use reader::{CaptureReader, Captured};
pub use scan::{CaptureInfo, scan};
pub use writer::{CaptureFormat, CaptureWriter};

/// The link type of Ethernet.
const ETHERNET: u16 = 1;

/// Longest distance, in nanoseconds, between the first packet of a burst and any other.
pub const BURST_SPAN: u64 = 100_000;

/// Nanoseconds between a capture's last packet and its first when it is read again.
const REPEAT_GAP: u64 = 1000;

/// The name of a link type, for messages (<https://www.tcpdump.org/linktypes.html>).
pub(crate) fn link_type_name(link_type: u16) -> &'static str {
    match link_type {
        0 => "BSD loopback",
        1 => "Ethernet",
        6 => "Token Ring",
        9 => "PPP",
        12 | 14 | 101 => "raw IP",
        50 | 51 => "PPP over HDLC or Ethernet",
        105 => "IEEE 802.11",
        108 => "OpenBSD loopback",
        113 => "Linux cooked capture",
        119 | 127 | 163 => "IEEE 802.11 with radio headers",
        189 | 220 => "USB",
        195 | 230 => "IEEE 802.15.4",
        227 => "CAN",
        228 => "raw IPv4",
        229 => "raw IPv6",
        239 => "netfilter log",
        253 => "netlink",
        276 => "Linux cooked capture v2",
        _ => "not named here",
    }
}

/// How fast packets come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they are taken.
    #[default]
    Full,
    /// As they were captured.
    Recorded,
}

/// What a `pcap` port reads and writes.
#[derive(Clone, Debug)]
pub struct PcapConfig {
    /// The capture to read; without one nothing comes in.
    pub input: Option<PathBuf>,
    /// The capture to write; without one packets sent are dropped and counted. With the extension
    /// `.pcapng` it becomes pcapng, otherwise the classic format with the input's resolution.
    pub output: Option<PathBuf>,
    /// How fast packets come.
    pub pace: Pace,
    /// How often the input is read, 0 for ever. Time goes on from one round to the next.
    pub rounds: u64,
}

impl Default for PcapConfig {
    fn default() -> Self {
        Self { input: None, output: None, pace: Pace::Full, rounds: 1 }
    }
}

/// A port that reads one capture and writes another.
#[derive(Debug)]
pub struct PcapPort {
    name: String,
    input: Option<Input>,
    output: Option<CaptureWriter>,
    statistics: PortStatistics,
}

impl PcapPort {
    /// Opens the files.
    ///
    /// # Errors
    /// When a file cannot be opened or made, the input is no Ethernet capture, or both are the same
    /// file.
    pub fn open(name: &str, config: &PcapConfig) -> Result<Self, PortError> {
        let input = Self::look(name, config)?;
        let output = match &config.output {
            Some(path) => Some(CaptureWriter::create(path, format_for(path, input.as_ref()))?),
            None => None,
        };
        Ok(Self { name: name.to_owned(), input, output, statistics: PortStatistics::default() })
    }

    /// Whether the files can be those of a port; nothing is written.
    ///
    /// # Errors
    /// As [`Self::open`], but for an output that cannot be made.
    pub fn check(name: &str, config: &PcapConfig) -> Result<(), PortError> {
        Self::look(name, config).map(drop)
    }

    /// Opens what is to be read.
    fn look(name: &str, config: &PcapConfig) -> Result<Option<Input>, PortError> {
        let impossible =
            |problem: String| PortError::Configuration { port: name.to_owned(), problem };
        if config.input.is_none() && config.output.is_none() {
            return Err(impossible(
                "a pcap port needs a capture to read (`file`) or to write (`out`)".to_owned(),
            ));
        }
        if let (Some(input), Some(output)) = (&config.input, &config.output)
            && same_file(input, output)
        {
            return Err(impossible(format!(
                "`file` and `out` are the same file, {}: writing would destroy what is to be read; choose another `out`",
                input.display()
            )));
        }
        config.input.as_ref().map(|path| Input::open(path, config)).transpose()
    }
}

/// True when both paths lead to one existing file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The form of the output: by its name's extension, and like the input.
fn format_for(output: &Path, input: Option<&Input>) -> CaptureFormat {
    if output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("pcapng")) {
        return CaptureFormat::Ng;
    }
    match input {
        // What resolution a pcapng capture needs is not known before its end.
        Some(input) => CaptureFormat::Classic {
            nanoseconds: input.reader.is_ng() || input.reader.nanoseconds(),
            link_type_field: input.reader.link_type_field(),
        },
        None => CaptureFormat::Classic { nanoseconds: true, link_type_field: ETHERNET.into() },
    }
}

impl Port for PcapPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "pcap"
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let Some(input) = &mut self.input else { return Ok(Received::End) };
        let mut counts = PortCounts::default();
        let received = input.receive(pool, into, max, &mut counts);
        counts.rx_errors = u64::from(received.is_err());
        self.statistics.add(&counts);
        received
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        let mut result = Ok(());
        for packet in packets.drain(..) {
            match (&mut self.output, pool.bytes(packet.descriptor)) {
                (None, _) => counts.tx_dropped_no_output += 1,
                (Some(output), Some(data)) if result.is_ok() => {
                    match output.write(packet.time, data, packet.cut) {
                        Ok(()) => {
                            counts.tx_packets += 1;
                            counts.tx_bytes += data.len() as u64;
                        }
                        Err(error) => {
                            counts.tx_errors += 1;
                            result = Err(error);
                        }
                    }
                }
                _ => counts.tx_errors += 1,
            }
            pool.give(packet.buffer);
        }
        self.statistics.add(&counts);
        result
    }

    fn settle(&mut self, _pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        self.output.as_mut().map_or(Ok(None), CaptureWriter::settle)
    }

    fn finish(&mut self, _pool: &mut Pool) -> Result<(), PortError> {
        self.output.as_mut().map_or(Ok(()), CaptureWriter::finish)
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }
}

/// The capture being read, and where in time it is.
#[derive(Debug)]
struct Input {
    path: PathBuf,
    reader: CaptureReader<File>,
    pace: Pace,
    /// Rounds still to come after this one; `None` for ever.
    rounds_left: Option<u64>,
    /// Nanoseconds added to this round's times.
    shift: u64,
    /// First and latest shifted time of this round.
    round: Option<(u64, u64)>,
    /// When the first packet was due, and its time.
    start: Option<(Instant, u64)>,
    /// An error met behind packets that had to be delivered first.
    pending: Option<PortError>,
    ended: bool,
}

impl Input {
    fn open(path: &Path, config: &PcapConfig) -> Result<Self, PortError> {
        Ok(Self {
            path: path.to_owned(),
            reader: CaptureReader::open(path)?,
            pace: config.pace,
            rounds_left: config.rounds.checked_sub(1),
            shift: 0,
            round: None,
            start: None,
            pending: None,
            ended: false,
        })
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
        counts: &mut PortCounts,
    ) -> Result<Received, PortError> {
        if let Some(error) = self.pending.take() {
            self.ended = true;
            return Err(error);
        }
        // A pool that is empty from the start stays so during this call: drop, as a NIC would, so
        // that time goes on and functions that hold buffers can let go of them.
        let starved = pool.available() == 0;
        let mut passed = 0;
        let mut first = None;
        let elapsed = match (self.pace, self.start) {
            (Pace::Recorded, Some((start, _))) => nanoseconds(start.elapsed()),
            _ => 0,
        };
        while passed < max {
            let captured = match self.next() {
                Ok(Some(captured)) => captured,
                Ok(None) if passed == 0 => return Ok(Received::End),
                Ok(None) => break,
                Err(error) if passed == 0 => {
                    self.ended = true;
                    return Err(error);
                }
                Err(error) => {
                    self.pending = Some(error);
                    break;
                }
            };
            let time = captured.time.saturating_add(self.shift);
            if first.is_some_and(|first: u64| first.abs_diff(time) > BURST_SPAN) {
                break;
            }
            if self.pace == Pace::Recorded {
                let (_, start) = *self.start.get_or_insert_with(|| (Instant::now(), time));
                let wait = time.saturating_sub(start).saturating_sub(elapsed);
                if wait > 0 && passed == 0 {
                    return Ok(Received::Idle { next: Some(Duration::from_nanos(wait)) });
                }
                if wait > 0 {
                    break;
                }
            }
            if captured.length > pool.packet_max() {
                counts.rx_dropped_too_large += 1;
            } else if let Some(buffer) = pool.take() {
                if let Some(descriptor) = pool.place(buffer, self.reader.data()) {
                    into.push(Packet {
                        descriptor,
                        metadata: Default::default(),
                        time,
                        buffer,
                        cut: captured.cut,
                    });
                    counts.rx_packets += 1;
                    counts.rx_bytes += u64::from(captured.length);
                    counts.rx_truncated += u64::from(captured.cut > 0);
                } else {
                    pool.give(buffer);
                    counts.rx_dropped_too_large += 1;
                }
            } else if starved {
                counts.rx_dropped_no_buffer += 1;
            } else {
                break;
            }
            first.get_or_insert(time);
            let (begin, latest) = self.round.unwrap_or((time, time));
            self.round = Some((begin, latest.max(time)));
            self.reader.pass();
            passed += 1;
        }
        Ok(Received::Packets)
    }

    /// Looks at the next packet, of the next round if need be.
    #[inline]
    fn next(&mut self) -> Result<Option<Captured>, PortError> {
        if self.ended {
            return Ok(None);
        }
        let captured = self.reader.next()?;
        if captured.is_some() || !self.next_round()? {
            return Ok(captured);
        }
        self.reader.next()
    }

    /// Starts the capture again; false when that was the last round, or there is nothing in it.
    #[cold]
    fn next_round(&mut self) -> Result<bool, PortError> {
        let Some((begin, latest)) = self.round.filter(|_| self.rounds_left != Some(0)) else {
            self.ended = true;
            return Ok(false);
        };
        self.rounds_left = self.rounds_left.map(|left| left - 1);
        self.reader = CaptureReader::open(&self.path)?;
        self.shift = self.shift.saturating_add(latest - begin).saturating_add(REPEAT_GAP);
        self.round = None;
        Ok(true)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
