//! A port whose other end is another thread: frames pushed there come in, frames sent come out
//! there. For tests of whatever changes while traffic flows. Allocates for each packet.

use std::sync::mpsc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_layout::Metadata;
use weir_pool::{Packet, Pool};

use crate::statistics::{PortCounts, PortStatistics};
use crate::{Port, PortError, Received};

/// The other end of a [`ChannelPort`]. When it is dropped, or its sending side closed, the port
/// ends once it has delivered what was pushed.
#[derive(Debug)]
pub struct Wire {
    to_port: Option<Sender<Arriving>>,
    from_port: Receiver<Vec<u8>>,
}

#[derive(Debug)]
struct Arriving {
    frame: Vec<u8>,
    time: u64,
}

impl Wire {
    /// Pushes a frame that arrives now. False when the port is gone or this side was closed.
    pub fn push(&self, frame: impl Into<Vec<u8>>) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.push_at(frame, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Pushes a frame that arrives at this time, in nanoseconds since 1970.
    pub fn push_at(&self, frame: impl Into<Vec<u8>>, time: u64) -> bool {
        let arriving = Arriving { frame: frame.into(), time };
        self.to_port.as_ref().is_some_and(|to_port| to_port.send(arriving).is_ok())
    }

    /// Takes the next frame that was sent, waiting for it at most this long.
    #[must_use]
    pub fn take(&self, wait: Duration) -> Option<Vec<u8>> {
        self.from_port.recv_timeout(wait).ok()
    }

    /// Nothing more will be pushed: the port ends after what it has.
    pub fn close(&mut self) {
        self.to_port = None;
    }
}

/// A port that another thread feeds and empties through a [`Wire`]. It loses nothing: when the pool
/// is empty, frames wait.
#[derive(Debug)]
pub struct ChannelPort {
    name: String,
    from_wire: Receiver<Arriving>,
    to_wire: Sender<Vec<u8>>,
    statistics: PortStatistics,
}

/// Makes a port and its other end.
#[must_use]
pub fn channel(name: &str) -> (ChannelPort, Wire) {
    let (to_port, from_wire) = mpsc::channel();
    let (to_wire, from_port) = mpsc::channel();
    let statistics = PortStatistics::default();
    let port = ChannelPort { name: name.to_owned(), from_wire, to_wire, statistics };
    (port, Wire { to_port: Some(to_port), from_port })
}

impl Port for ChannelPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let mut counts = PortCounts::default();
        let mut received = Received::Packets;
        for passed in 0..max {
            // The buffer first: a frame taken from the channel cannot be put back.
            let Some(buffer) = pool.take() else {
                if passed == 0 {
                    received = Received::Idle { next: None };
                }
                break;
            };
            let arriving = match self.from_wire.try_recv() {
                Ok(arriving) => arriving,
                Err(error) => {
                    pool.give(buffer);
                    if passed == 0 {
                        received = match error {
                            TryRecvError::Empty => Received::Idle { next: None },
                            TryRecvError::Disconnected => Received::End,
                        };
                    }
                    break;
                }
            };
            let Some(descriptor) = pool.place(buffer, &arriving.frame) else {
                pool.give(buffer);
                counts.rx_dropped_too_large += 1;
                continue;
            };
            counts.rx_packets += 1;
            counts.rx_bytes += u64::from(descriptor.length);
            let metadata = Metadata::default();
            into.push(Packet { descriptor, metadata, time: arriving.time, buffer, cut: 0 });
        }
        self.statistics.add(&counts);
        Ok(received)
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        for packet in packets.drain(..) {
            let frame = pool.bytes(packet.descriptor).map(<[u8]>::to_vec);
            pool.give(packet.buffer);
            let length = packet.descriptor.length;
            if frame.is_some_and(|frame| self.to_wire.send(frame).is_ok()) {
                counts.tx_packets += 1;
                counts.tx_bytes += u64::from(length);
            } else {
                counts.tx_dropped_no_output += 1;
            }
        }
        self.statistics.add(&counts);
        Ok(())
    }

    fn finish(&mut self, _pool: &mut Pool) -> Result<(), PortError> {
        Ok(())
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }
}
