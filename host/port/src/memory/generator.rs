//! Makes packets from templates, as fast as they are taken or at a set rate, for a number of
//! packets or a time. Costs a copy of 64 bytes for a short packet, and one look at the clock for
//! a burst.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_layout::{Descriptor, HEADROOM, Metadata};
use weir_pool::{Packet, Pool};

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
}

impl Generator {
    pub(super) fn new(config: GeneratorConfig) -> Self {
        Self { config, next: 0, made: 0, start: None, lying: Vec::new() }
    }

    pub(super) fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
        counts: &mut PortCounts,
    ) -> Received {
        let (start, wall) = *self.start.get_or_insert_with(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (Instant::now(), saturated(wall))
        });
        let elapsed = start.elapsed();
        if self.config.duration.is_some_and(|duration| elapsed >= duration) {
            return Received::End;
        }
        let mut due = max as u64;
        if let Some(count) = self.config.count {
            due = due.min(count - self.made);
            if due == 0 {
                return Received::End;
            }
        }
        if let Some(rate) = self.config.rate {
            let allowed = u128::from(saturated(elapsed)) * u128::from(rate) / 1_000_000_000 + 1;
            let behind = allowed.saturating_sub(u128::from(self.made));
            due = due.min(u64::try_from(behind).unwrap_or(u64::MAX));
            if due == 0 {
                return Received::Idle { next: self.until_next(elapsed, rate) };
            }
        }
        if pool.available() == 0 {
            return Received::Idle { next: Some(RETRY) };
        }
        let time = wall.saturating_add(saturated(elapsed));
        self.make(pool, into, due, time, counts);
        Received::Packets
    }

    /// Makes packets until `due` are made or the pool is empty.
    #[inline]
    fn make(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        due: u64,
        time: u64,
        counts: &mut PortCounts,
    ) {
        let Self { config: GeneratorConfig { templates, copy, .. }, next, made, lying, .. } = self;
        if !*copy && lying.len() != pool.rooms() as usize {
            *lying = vec![None; pool.rooms() as usize];
        }
        for _ in 0..due {
            let Some(buffer) = pool.take() else { break };
            *made += 1;
            let offset = pool.room_offset(buffer) + HEADROOM as u32;
            let lies = if *copy { None } else { lying[buffer.get() as usize] };
            let length = if let Some(length) = lies {
                length
            } else {
                let template = templates.get(*next);
                *next = if *next + 1 == templates.len() { 0 } else { *next + 1 };
                let lines = templates.lines(template);
                // Whole lines: a packet's tail room is free to be overwritten.
                let whole = Descriptor { offset, length: (lines.len() * LINE) as u32 };
                let Some(room) = pool.bytes_mut(whole) else {
                    pool.give(buffer);
                    counts.rx_dropped_too_large += 1;
                    continue;
                };
                for (to, from) in room.as_chunks_mut::<LINE>().0.iter_mut().zip(lines) {
                    *to = *from;
                }
                if !*copy {
                    lying[buffer.get() as usize] = Some(template.length);
                }
                template.length
            };
            let descriptor = Descriptor { offset, length };
            into.push(Packet { descriptor, metadata: Metadata::default(), time, buffer, cut: 0 });
            counts.rx_packets += 1;
            counts.rx_bytes += u64::from(length);
        }
    }

    /// Time until the rate allows another packet.
    fn until_next(&self, elapsed: Duration, rate: u64) -> Option<Duration> {
        let at = (u128::from(self.made) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
        let at = Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        Some(at.saturating_sub(elapsed))
    }
}

fn saturated(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
