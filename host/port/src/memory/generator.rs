//! Makes packets from templates, as fast as they are taken or at a set rate, for a number of
//! packets or a time. Costs a copy of 64 bytes for a short packet, and one look at the clock for
//! a burst.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_layout::{Descriptor, HEADROOM, Metadata};
use weir_pool::{BufferIndex, Packet, Pool};

use crate::Received;
use crate::statistics::PortCounts;

use super::templates::{LINE, Templates};

/// How long to wait when the pool is empty.
const RETRY: Duration = Duration::from_micros(10);

/// What is generated.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// The frames, in turn.
    pub templates: Templates,
    /// Packets after which the port ends.
    pub count: Option<u64>,
    /// Time after which the port ends, from the first packet.
    pub duration: Option<Duration>,
    /// Packets a second at most.
    pub rate: Option<u64>,
    /// False: a buffer that held a generated packet before is sent again as it is, with whatever
    /// functions did to it; nothing is copied (as DPDK's `net_null` without copying).
    pub copy: bool,
}

impl GeneratorConfig {
    /// Without bounds, copying.
    #[must_use]
    pub fn new(templates: Templates) -> Self {
        Self { templates, count: None, duration: None, rate: None, copy: true }
    }

    /// Divided among so many ports: each generates the flows whose number, modulo that of the
    /// ports, is its own, and its share of count and rate.
    ///
    /// # Panics
    /// When there are fewer frames than ports.
    #[must_use]
    pub fn divided(&self, ports: usize) -> Vec<Self> {
        let part = |place: usize| Self {
            templates: self.templates.every(ports, place),
            count: self.count.map(|count| share(count, ports, place)),
            rate: self.rate.map(|rate| share(rate, ports, place).max(1)),
            ..self.clone()
        };
        (0..ports).map(part).collect()
    }
}

#[derive(Debug)]
pub(super) struct Generator {
    config: GeneratorConfig,
    /// Place of the next template.
    next: usize,
    made: u64,
    /// When the first packet was made, and the time then, in nanoseconds since 1970.
    start: Option<(Instant, u64)>,
    /// Without copying: the length of the frame that was put into each room.
    lying: Vec<Option<u32>>,
    /// Buffers taken for the burst at hand.
    buffers: Vec<BufferIndex>,
}

impl Generator {
    pub(super) fn new(config: GeneratorConfig) -> Self {
        Self { config, next: 0, made: 0, start: None, lying: Vec::new(), buffers: Vec::new() }
    }

    /// # Errors
    /// What is wrong with the templates for this pool.
    pub(super) fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
        counts: &mut PortCounts,
    ) -> Result<Received, String> {
        let (start, wall) = *self.start.get_or_insert_with(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (Instant::now(), saturated(wall))
        });
        let elapsed = start.elapsed();
        if self.config.duration.is_some_and(|duration| elapsed >= duration) {
            return Ok(Received::End);
        }
        // What is copied is whole lines.
        let longest = self.config.templates.longest().next_multiple_of(LINE as u32);
        if longest > pool.packet_max() {
            return Err(format!(
                "frames of up to {longest} bytes are to be generated, but a room of {} bytes takes {} of them: use shorter frames or larger rooms",
                pool.room_bytes(),
                pool.packet_max()
            ));
        }
        let mut due = max as u64;
        if let Some(count) = self.config.count {
            due = due.min(count - self.made);
            if due == 0 {
                return Ok(Received::End);
            }
        }
        if let Some(rate) = self.config.rate {
            let allowed = u128::from(saturated(elapsed)) * u128::from(rate) / 1_000_000_000 + 1;
            let behind = allowed.saturating_sub(u128::from(self.made));
            due = due.min(u64::try_from(behind).unwrap_or(u64::MAX));
            if due == 0 {
                return Ok(Received::Idle { next: self.until_next(elapsed, rate) });
            }
        }
        if pool.available() == 0 {
            return Ok(Received::Idle { next: Some(RETRY) });
        }
        let time = wall.saturating_add(saturated(elapsed));
        // No truncation: `due` is at most `max`.
        let due = due as usize;
        if self.config.copy {
            self.make::<true>(pool, into, due, time, counts);
        } else {
            self.make::<false>(pool, into, due, time, counts);
        }
        Ok(Received::Packets)
    }

    /// Makes packets until `due` are made or the pool is empty. Every template fits into a room.
    #[inline]
    fn make<const COPY: bool>(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        due: usize,
        time: u64,
        counts: &mut PortCounts,
    ) {
        if !COPY && self.lying.len() != pool.rooms() as usize {
            self.lying = vec![None; pool.rooms() as usize];
        }
        pool.take_all(&mut self.buffers, due);
        // Locals, which the loop keeps in registers.
        let templates = &self.config.templates;
        let (mut next, mut bytes) = (self.next, 0);
        into.extend(self.buffers.iter().map(|&buffer| {
            let offset = pool.room_offset(buffer) + HEADROOM as u32;
            let lies = if COPY { None } else { self.lying[buffer.get() as usize] };
            let length = match lies {
                Some(length) => length,
                None => {
                    let template = templates.get(next);
                    next += 1;
                    if next == templates.len() {
                        next = 0;
                    }
                    copy_lines(templates.lines(template), pool.room_mut(buffer));
                    if !COPY {
                        self.lying[buffer.get() as usize] = Some(template.length);
                    }
                    template.length
                }
            };
            bytes += u64::from(length);
            let descriptor = Descriptor { offset, length };
            Packet { descriptor, metadata: Metadata::default(), time, buffer, cut: 0 }
        }));
        let made = self.buffers.len() as u64;
        self.buffers.clear();
        self.next = next;
        self.made += made;
        counts.rx_packets = made;
        counts.rx_bytes = bytes;
    }

    /// Time until the rate allows another packet.
    fn until_next(&self, elapsed: Duration, rate: u64) -> Option<Duration> {
        let at = (u128::from(self.made) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
        let at = Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        Some(at.saturating_sub(elapsed))
    }
}

/// Copies whole lines into a room: what lies behind the packet there is free to be overwritten.
/// The caller knows that they fit.
#[inline]
fn copy_lines(lines: &[[u8; LINE]], room: &mut [u8]) {
    let room = &mut room[HEADROOM..];
    // Most benchmarks send short packets; one line needs no loop.
    if let ([from], Some(to)) = (lines, room.first_chunk_mut::<LINE>()) {
        *to = *from;
    } else {
        copy_many(lines, room);
    }
}

/// What the one at this place gets when a number is divided evenly.
fn share(number: u64, among: usize, place: usize) -> u64 {
    let (among, place) = (among as u64, place as u64);
    number / among + u64::from(place < number % among)
}

/// Not inlined: else the compiler makes one call of both copies.
#[inline(never)]
fn copy_many(lines: &[[u8; LINE]], room: &mut [u8]) {
    room[..lines.len() * LINE].copy_from_slice(lines.as_flattened());
}

fn saturated(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
