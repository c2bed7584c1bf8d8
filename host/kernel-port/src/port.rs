//! A port with a TAP device beside it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use weir_layout::Metadata;
use weir_pool::{Packet, Pool};
use weir_port::{Port, PortCounts, PortError, Received, pass_on};

use crate::{FRAME_MAX, TapDevice};

/// Frames taken from the kernel in one go.
const BURST: usize = 32;
/// Under load the kernel is asked once in so many bursts.
const ASK_EVERY: u32 = 32;

/// Any port, with a way to the kernel's stack and back. See the crate.
pub struct KernelPort {
    port: Box<dyn Port>,
    tap: TapDevice,
    /// The device is gone: the port goes on without a way to the kernel.
    broken: bool,
    /// Bursts that came in, and that left, since the kernel was asked.
    bursts: u32,
    sends: u32,
    frame: Vec<u8>,
    waiting: Vec<Packet>,
}

impl KernelPort {
    /// Puts the device beside the port.
    #[must_use]
    pub fn new(port: Box<dyn Port>, tap: TapDevice) -> Self {
        let (frame, waiting) = (vec![0; FRAME_MAX], Vec::with_capacity(BURST));
        Self { port, tap, broken: false, bursts: 0, sends: 0, frame, waiting }
    }

    /// Sends what the kernel has to send; whether there was anything.
    fn send_for_kernel(&mut self, pool: &mut Pool) -> Result<bool, PortError> {
        (self.bursts, self.sends) = (0, 0);
        if self.broken {
            return Ok(false);
        }
        let (mut counts, mut result) = (PortCounts::default(), Ok(()));
        while self.waiting.len() < BURST {
            let length = match self.tap.take(&mut self.frame) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(error) => {
                    // What was taken before goes.
                    result = Err(self.lost(&error));
                    break;
                }
            };
            let Some(buffer) = pool.take() else {
                counts.kernel_dropped_no_buffer += 1;
                continue;
            };
            let Some(descriptor) = pool.place(buffer, &self.frame[..length]) else {
                pool.give(buffer);
                counts.kernel_dropped_too_large += 1;
                continue;
            };
            let metadata = Metadata::default();
            self.waiting.push(Packet { descriptor, metadata, time: 0, buffer, cut: 0 });
        }
        counts.kernel_sent = self.waiting.len() as u64;
        self.port.statistics().add(&counts);
        let any = !self.waiting.is_empty();
        if any {
            self.port.send(pool, &mut self.waiting)?;
        }
        result.map(|()| any)
    }

    fn lost(&mut self, error: &std::io::Error) -> PortError {
        self.broken = true;
        PortError::Device {
            port: self.port.name().to_owned(),
            problem: format!(
                "its way to the kernel, the TAP interface {}, is gone: {error}; packets for the kernel are dropped until the \
                 chain is applied anew",
                self.tap.name()
            ),
        }
    }
}

impl Port for KernelPort {
    pass_on!(port: name, kind, attach, statistics);
    pass_on!(port: steering, place_flow, spreading, placement, inspector);

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let received = self.port.receive(pool, into, max)?;
        self.sends = 0;
        self.bursts += 1;
        let asks = received != Received::Packets || self.bursts >= ASK_EVERY;
        if asks && received != Received::End && self.send_for_kernel(pool)? {
            // There may be more, and answers are to be expected.
            return Ok(Received::Packets);
        }
        Ok(received)
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.port.send(pool, packets)?;
        self.sends += 1;
        // By a chain's end that only sends nobody asks for packets.
        if self.sends >= ASK_EVERY {
            self.send_for_kernel(pool)?;
        }
        Ok(())
    }

    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        self.send_for_kernel(pool)?;
        self.port.settle(pool)
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.port.readiness(fds);
        if !self.broken {
            fds.push(self.tap.descriptor());
        }
    }

    fn reaches_kernel(&self) -> bool {
        !self.broken
    }

    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        let given = self.tap.give_all(self.broken, pool, packets, &mut counts);
        self.port.statistics().add(&counts);
        given.map_err(|error| self.lost(&error))
    }

    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.waiting.drain(..).for_each(|packet| pool.give(packet.buffer));
        self.port.finish(pool)
    }
}
