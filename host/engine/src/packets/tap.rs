//! Copying packets of a chain that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_control::engine::{ChainId, EngineError};
use weir_packet_plane::{Heading, Tap, TapConfig, TapPick, TapPlace, Tapped, verdict_in_words};
use weir_port::pcap::{Blocks, Direction, PacketBlock};
use weir_spec::{Base64, TapDirection, TapFormat, TapRequest, TappedPacket};
use weir_steering::Key;

use super::Packets;
use super::lanes::Deployed;
use super::watching::{Watching, conditions, function_names};

/// Taps of a chain at the same time: each copies what it shows.
const TAPS_MAX: usize = 4;
/// What is said to have written a capture.
const PROGRAM: &str = concat!("weir ", env!("CARGO_PKG_VERSION"));
/// Bits of a packet's number that say which lane copied it.
const LANE_SHIFT: u32 = 48;

/// A tap that somebody reads.
struct OpenTap {
    tap: Tap,
    writer: Writer,
    /// Packets that may still be written.
    left: u64,
    until: Option<Instant>,
    has_ended: bool,
    _watching: Watching,
    _place: Place,
}

/// A tap's place among the taps of its chain.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taps: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |taps| (taps < TAPS_MAX).then_some(taps + 1);
        taps.try_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(taps)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Packets {
    pub(crate) fn tap(
        &self,
        id: &ChainId,
        request: &TapRequest,
    ) -> Result<Box<dyn weir_control::engine::Tap>, EngineError> {
        let Ok(chain) = self.lanes.deployed(id) else {
            let text = format!(
                "chain {} has no functions on the packet plane, where packets could be copied",
                id.name
            );
            return Err(EngineError::Conflict(text));
        };
        let Some(place) = Place::take(&chain.taps) else {
            let text = format!("chain {} has {TAPS_MAX} taps: end one of them first", id.name);
            return Err(EngineError::Conflict(text));
        };
        let config = TapConfig {
            place: self.tap_place(&chain, request)?,
            incoming: request.direction != Some(TapDirection::Out),
            outgoing: request.direction != Some(TapDirection::In),
            snap_length: request.snap_length as usize,
        };
        let mut tap = Tap::new(config, chain.lanes.len());
        let observers = (0..chain.lanes.len()).map(|_| Ok(tap.observer(pick(&chain, request)?)));
        let observers: Vec<_> = observers.collect::<Result<_, EngineError>>()?;
        let ports = chain.lanes[0].site.ports().to_vec();
        let watching = Watching::begin(&self.lanes, &chain, observers)?;
        let time = request.seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Box::new(OpenTap {
            tap,
            writer: Writer::new(request, ports),
            left: request.packets.map_or(u64::MAX, u64::from),
            until: time.map(|time| Instant::now() + time),
            has_ended: false,
            _watching: watching,
            _place: place,
        }))
    }

    fn tap_place(&self, chain: &Deployed, request: &TapRequest) -> Result<TapPlace, EngineError> {
        let Some(function) = &request.function else { return Ok(TapPlace::Chain) };
        let names = function_names(&self.lanes, chain)?;
        let place = names.iter().position(|name| name == function.as_str());
        place.map(TapPlace::Function).ok_or_else(|| {
            let names = names.join(", ");
            EngineError::Refused(format!(
                "the chain has no function {function} for packets; it has {names}"
            ))
        })
    }
}

/// Says which packets are asked for, if not all.
fn pick(chain: &Deployed, request: &TapRequest) -> Result<Option<TapPick>, EngineError> {
    if request.only.is_empty() {
        return Ok(None);
    }
    let rule = conditions(chain, &request.only.rule())?;
    Ok(Some(Box::new(move |bytes: &[u8], port: u16| rule.matches(&Key::read(bytes, port)))))
}

impl weir_control::engine::Tap for OpenTap {
    fn take(&mut self) -> Option<Vec<u8>> {
        if self.has_ended {
            return None;
        }
        let (writer, left) = (&mut self.writer, &mut self.left);
        let goes_on = self.tap.drain(|packet| {
            if *left > 0 {
                *left -= 1;
                writer.write(packet);
            }
        });
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        if self.left == 0 || is_late || !goes_on {
            self.has_ended = true;
            self.writer.end(self.tap.lost());
        }
        Some(self.writer.take())
    }
}

/// What was copied, as it was asked for.
enum Writer {
    Pcapng { blocks: Blocks, counts: Counts, ports: Vec<String>, whole_chain: bool },
    Json { text: Vec<u8>, ports: Vec<String> },
}

/// For the statistics at a capture's end.
#[derive(Default)]
struct Counts {
    written: Vec<u64>,
    lost: u64,
    last: u64,
}

impl Writer {
    fn new(request: &TapRequest, mut ports: Vec<String>) -> Self {
        match request.format {
            TapFormat::Json => Self::Json { text: Vec::new(), ports },
            TapFormat::Pcapng => {
                // What functions made came in by none.
                ports.push("made".to_owned());
                let mut blocks = Blocks::default();
                blocks.section(PROGRAM, &ports, request.snap_length);
                let counts = Counts { written: vec![0; ports.len()], ..Counts::default() };
                Self::Pcapng { blocks, counts, ports, whole_chain: request.function.is_none() }
            }
        }
    }

    fn write(&mut self, packet: Tapped<'_>) {
        let verdict = match packet.heading {
            Heading::ToKernel => Some("to-kernel".to_owned()),
            Heading::In | Heading::Out => packet.verdict.map(verdict_in_words),
        };
        let comes = packet.heading == Heading::In;
        let id = if packet.id == 0 { 0 } else { packet.id | (packet.lane as u64) << LANE_SHIFT };
        match self {
            Self::Pcapng { blocks, counts, ports, whole_chain } => {
                let interface = usize::from(packet.port).min(ports.len() - 1);
                counts.written[interface] += 1;
                counts.lost += packet.lost;
                counts.last = counts.last.max(packet.time);
                let reverse = packet.reverse && !*whole_chain;
                let comment = [verdict.as_deref(), reverse.then_some("reverse")];
                let comment: Vec<_> = comment.into_iter().flatten().collect();
                blocks.packet(&PacketBlock {
                    interface: interface as u32,
                    time: packet.time,
                    direction: if comes { Direction::Inbound } else { Direction::Outbound },
                    bytes: packet.bytes,
                    length: packet.length,
                    id,
                    lost: packet.lost,
                    comment: &comment.join(", "),
                });
            }
            Self::Json { text, ports } => {
                let packet = TappedPacket {
                    time: packet.time,
                    port: ports.get(usize::from(packet.port)).cloned(),
                    direction: if comes { TapDirection::In } else { TapDirection::Out },
                    reverse: packet.reverse,
                    verdict,
                    id: (id != 0).then_some(id),
                    lost: packet.lost,
                    length: packet.length,
                    bytes: Base64(packet.bytes.to_vec()),
                };
                // Numbers and text always become JSON, and memory takes all of it.
                let _ = serde_json::to_writer(&mut *text, &packet);
                text.push(b'\n');
            }
        }
    }

    /// Writes what there is to say at the end: the packets that no packet has told of were lost
    /// too.
    fn end(&mut self, lost: u64) {
        let Self::Pcapng { blocks, counts, .. } = self else { return };
        let lost = counts.lost + lost;
        for (interface, written) in counts.written.iter().enumerate() {
            // It is not known by which port those came that were lost.
            let lost = if interface == 0 { lost } else { 0 };
            blocks.statistics(interface as u32, counts.last, written + lost, lost);
        }
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Pcapng { blocks, .. } => blocks.take(),
            Self::Json { text, .. } => std::mem::take(text),
        }
    }
}
