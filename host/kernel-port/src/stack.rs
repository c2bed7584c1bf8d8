//! The kernel's network stack as a port.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use weir_layout::Metadata;
use weir_pool::{Packet, Pool};
use weir_port::{BurstClock, Port, PortCounts, PortError, PortStatistics, Received, Spreading};

use crate::{FRAME_MAX, TapDevice};

/// After the kernel had nothing, so many questions are not put to it: each is a system call.
const QUIET: u32 = 31;

/// What is sent here comes in at the kernel's stack; what is received the kernel sends. See the
/// crate.
pub struct StackPort {
    tap: TapDevice,
    /// Those of the port beside which it is.
    statistics: PortStatistics,
    clock: BurstClock,
    /// The device is gone.
    broken: bool,
    /// Calls that are answered without asking the kernel.
    quiet: u32,
    frame: Vec<u8>,
}

impl StackPort {
    /// Over this device. `statistics` count what goes to the kernel and comes from there: those of
    /// the port whose way it is.
    #[must_use]
    pub fn new(tap: TapDevice, statistics: PortStatistics) -> Self {
        let frame = vec![0; FRAME_MAX];
        let clock = BurstClock::default();
        Self { tap, statistics, clock, broken: false, quiet: 0, frame }
    }

    fn lost(&mut self, error: &std::io::Error) -> PortError {
        self.broken = true;
        PortError::Device {
            port: self.tap.name().to_owned(),
            problem: format!(
                "the way to the kernel is gone: {error}; packets for the kernel are dropped until the chain is applied anew"
            ),
        }
    }
}

impl Port for StackPort {
    fn name(&self) -> &str {
        self.tap.name()
    }

    fn kind(&self) -> &'static str {
        "kernel"
    }

    fn is_kernel(&self) -> bool {
        true
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        if self.broken {
            return Ok(Received::End);
        }
        if self.quiet > 0 {
            self.quiet -= 1;
            return Ok(Received::Waiting);
        }
        let mut counts = PortCounts::default();
        let (before, mut asked, mut result) = (into.len(), 0, Ok(()));
        while asked < max {
            let length = match self.tap.take(&mut self.frame) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(error) => {
                    result = Err(self.lost(&error));
                    break;
                }
            };
            asked += 1;
            let Some(buffer) = pool.take() else {
                counts.kernel_dropped_no_buffer += 1;
                continue;
            };
            let Some(descriptor) = pool.place(buffer, &self.frame[..length]) else {
                pool.give(buffer);
                counts.kernel_dropped_too_large += 1;
                continue;
            };
            let time = if into.len() == before { self.clock.read() } else { into[before].time };
            let metadata = Metadata::default();
            into.push(Packet { descriptor, metadata, time, buffer, cut: 0 });
        }
        counts.kernel_sent = (into.len() - before) as u64;
        self.statistics.add(&counts);
        result?;
        if asked == 0 {
            self.quiet = QUIET;
            return Ok(Received::Waiting);
        }
        Ok(Received::Packets)
    }

    fn received_at(&self) -> Option<u64> {
        Some(self.clock.last())
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        let given = self.tap.give_all(self.broken, pool, packets, &mut counts);
        self.statistics.add(&counts);
        // It may answer at once.
        self.quiet = 0;
        given.map_err(|error| self.lost(&error))
    }

    fn settle(&mut self, _: &mut Pool) -> Result<Option<Duration>, PortError> {
        self.quiet = 0;
        Ok(None)
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        if !self.broken {
            fds.push(self.tap.descriptor());
        }
    }

    fn reaches_kernel(&self) -> bool {
        !self.broken
    }

    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.send(pool, packets)
    }

    fn finish(&mut self, _: &mut Pool) -> Result<(), PortError> {
        Ok(())
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }

    /// The kernel notes by which queue a flow came (`tun_flow_update`), and sends its answers
    /// there.
    fn spreading(&self) -> Spreading {
        Spreading::Follows
    }
}
