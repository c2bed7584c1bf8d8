//! Ports that give the packets of a test, and note which of them leave: by the buffers that they
//! lie in, so also when a function has changed them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_layout::FLAG_MADE;
use weir_port::pcap::BURST_SPAN;
use weir_port::{Packet, Pool, Port, PortCounts, PortError, PortStatistics, Received};

use crate::captures::Frame;

/// A packet that left.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Its number in the capture, from 1; none if a function made it.
    pub(crate) number: Option<u64>,
    /// The packet.
    pub(crate) frame: Frame,
}

/// What the ports of a test share.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// By buffer: the number of the packet that came in by it last.
    numbers: Vec<u64>,
    /// What left, in order.
    pub(crate) sent: Vec<Sent>,
    /// Packets that came in.
    pub(crate) given: u64,
}

/// The record, to be read when the test is over.
pub(crate) type Shared = Arc<Mutex<Record>>;

/// The record.
pub(crate) fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of a test's ports.
pub(crate) struct Recorder {
    name: String,
    frames: Arc<[Frame]>,
    next: usize,
    record: Shared,
    statistics: PortStatistics,
}

impl Recorder {
    /// A port that these packets come in by.
    pub(crate) fn new(name: &str, frames: Arc<[Frame]>, record: &Shared) -> Self {
        let statistics = PortStatistics::default();
        Self { name: name.to_owned(), frames, next: 0, record: Arc::clone(record), statistics }
    }
}

impl Port for Recorder {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    /// As a `pcap` port does: no burst spans more of the capture's time than that.
    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let mut record = lock(&self.record);
        let mut counts = PortCounts::default();
        record.numbers.resize(pool.rooms() as usize, 0);
        let Some(first) = self.frames.get(self.next).map(|frame| frame.time) else {
            return Ok(Received::End);
        };
        for _ in 0..max {
            let Some(frame) = self.frames.get(self.next) else { break };
            if first.abs_diff(frame.time) > BURST_SPAN {
                break;
            }
            match pool.take() {
                Some(buffer) => {
                    if let Some(descriptor) = pool.place(buffer, &frame.bytes) {
                        let (time, cut) = (frame.time, frame.cut);
                        into.push(Packet {
                            descriptor,
                            metadata: Default::default(),
                            time,
                            buffer,
                            cut,
                        });
                        record.numbers[buffer.get() as usize] = self.next as u64 + 1;
                        counts.rx_packets += 1;
                    } else {
                        pool.give(buffer);
                        counts.rx_dropped_too_large += 1;
                    }
                }
                None if into.is_empty() => counts.rx_dropped_no_buffer += 1,
                None => break,
            }
            self.next += 1;
            record.given += 1;
        }
        self.statistics.add(&counts);
        Ok(Received::Packets)
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut record = lock(&self.record);
        for packet in packets.drain(..) {
            let made = packet.metadata.flags & FLAG_MADE != 0;
            let number = record.numbers.get(packet.buffer.get() as usize).copied();
            let bytes = pool.bytes(packet.descriptor).unwrap_or_default().to_vec();
            let frame = Frame { time: packet.time, bytes, cut: packet.cut };
            record.sent.push(Sent { number: number.filter(|_| !made), frame });
            pool.give(packet.buffer);
        }
        Ok(())
    }

    fn finish(&mut self, _pool: &mut Pool) -> Result<(), PortError> {
        Ok(())
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }
}
