//! A port as the way to the kernel's stack.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weir_pool::{Packet, Pool};
use weir_port::{Port, PortCounts, PortError, Received, pass_on};

use crate::Addresses;
use crate::addresses::Stray;
use crate::neighbours::Neighbours;

/// What is sent here comes in at the kernel's stack; what is received the kernel sends. See the
/// crate.
pub struct PeerPort {
    port: Box<dyn Port>,
    addresses: Addresses,
    /// Answers may come to another queue than what they answer: all queues of a port have these in
    /// common.
    neighbours: Arc<Mutex<Neighbours>>,
    /// Counts of a burst, until it is told.
    counts: PortCounts,
}

impl PeerPort {
    /// Over this port, whose only neighbour is the kernel's interface. Queues of one device share
    /// their neighbours.
    #[must_use]
    pub fn new(
        port: Box<dyn Port>,
        addresses: Addresses,
        neighbours: Arc<Mutex<Neighbours>>,
    ) -> Self {
        Self { port, addresses, neighbours, counts: PortCounts::default() }
    }

    /// Takes out what is not for the wire, and addresses the rest.
    fn come_down(&mut self, pool: &mut Pool, into: &mut Vec<Packet>, before: usize) {
        let neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = before;
        for place in before..into.len() {
            let packet = into[place];
            let frame = pool.bytes_mut(packet.descriptor).unwrap_or_default();
            match self.addresses.down(frame, &neighbours) {
                Ok(()) => {
                    into[kept] = packet;
                    kept += 1;
                    continue;
                }
                Err(Stray::Stranger) => self.counts.rx_dropped_not_peer += 1,
                Err(Stray::Unheard) => self.counts.rx_dropped_no_neighbour += 1,
            }
            pool.give(packet.buffer);
        }
        into.truncate(kept);
        self.counts.kernel_sent = (kept - before) as u64;
    }

    fn tell(&mut self) {
        self.port.statistics().add(&std::mem::take(&mut self.counts));
    }
}

impl Port for PeerPort {
    pass_on!(port: name, kind, attach, finish, statistics, spreading, inspector);

    fn is_kernel(&self) -> bool {
        true
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let before = into.len();
        let received = self.port.receive(pool, into, max)?;
        if into.len() > before {
            self.come_down(pool, into, before);
            self.tell();
        }
        Ok(received)
    }

    fn received_at(&self) -> Option<u64> {
        self.port.received_at()
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        if packets.is_empty() {
            return Ok(());
        }
        let mut neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in packets.iter() {
            let frame = pool.bytes_mut(packet.descriptor).unwrap_or_default();
            self.addresses.up(frame, &mut neighbours);
        }
        drop(neighbours);
        self.counts.kernel_received = packets.len() as u64;
        self.tell();
        self.port.send(pool, packets)
    }

    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        self.port.settle(pool)
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.port.readiness(fds);
    }

    fn reaches_kernel(&self) -> bool {
        true
    }

    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.send(pool, packets)
    }
}
