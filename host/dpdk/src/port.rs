//! The port: bursts between a device's queues and a lane's pool.

mod opening;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use rustix::time::{ClockId, clock_gettime};
use weir_layout::{Descriptor, Metadata};
use weir_pool::{Packet, Pool};
use weir_port::{Inspect, Port, PortCounts, PortError, PortStatistics, Received, Spreading};

use crate::device::Device;
use crate::eal;
use crate::gate::{Gate, Inside};
use crate::idle::{Advice, Idling, LOOK_AFTER};
use crate::shared::{Part, SharedDevice};

/// Shortest frame that is sent: Ethernet addresses and type.
const SHORTEST: u32 = 14;
/// Times that a device which takes nothing is tried again before frames are dropped.
const RETRIES: u32 = 64;
/// Empty looks between two at whether the device is still there.
const LOOKS: u32 = 1 << 14;
/// When to look again whether a device is started that other ports share.
const SOON: Duration = Duration::from_millis(1);

/// A port over the queues of a device, or some of them, for one lane.
#[derive(Debug)]
pub struct DpdkPort {
    name: String,
    shared: Arc<SharedDevice>,
    /// This port's way to the driver, if it does not have the device for itself.
    gate: Option<Arc<Gate>>,
    device: Arc<Device>,
    /// Its own queues; it sends by the first.
    queues: Vec<u16>,
    /// Place of the queue to look at first, so that each gets its share.
    first: usize,
    attached: Option<Part>,
    /// The device was seen to be started.
    live: bool,
    frames: Box<[sys::Frame; sys::BURST]>,
    /// Empty looks since the last one at the device.
    looks: u32,
    idling: Idling,
    ended: bool,
    statistics: PortStatistics,
}

impl DpdkPort {
    /// The device is started: what was set apart for that is the pool's again. False: it is not yet.
    #[cold]
    fn goes_live(&mut self, pool: &mut Pool) -> bool {
        self.live = self.shared.is_started();
        if let Some(attached) = self.attached.as_ref().filter(|_| self.live) {
            attached.pool.put_back(pool);
            let (idling, number, queues) = (&mut self.idling, self.device.number, &self.queues);
            self.device.with_sockets(queues, self.shared.queues, |sockets| {
                idling.take_waker(number, queues, sockets);
            });
        }
        self.live
    }

    /// Calls what goes to the driver. None: the device is closed, and the port has ended.
    #[inline]
    fn within<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let Some(gate) = self.gate.take() else { return Some(call(self)) };
        if gate.enter() {
            let inside = Inside::of(gate);
            let result = call(self);
            self.gate = inside.leave();
            return Some(result);
        }
        self.gate = Some(gate);
        self.ended = true;
        self.idling.close(true);
        None
    }

    /// Closes the device, behind what wakes this port's worker.
    fn close(&mut self) {
        self.within(|port| port.idling.close(port.device.is_removed()));
        self.shared.close();
    }

    /// The device is gone or broken; the port has ended.
    #[cold]
    fn broken(&mut self, problem: String) -> PortError {
        self.ended = true;
        PortError::Device { port: self.name.clone(), problem }
    }

    #[cold]
    fn look_at_device(&mut self) -> Result<(), PortError> {
        self.looks = 0;
        self.idling.looked = Instant::now();
        match self.device.look_for_removal() {
            Some(problem) => {
                self.statistics.add(&PortCounts { rx_errors: 1, ..PortCounts::default() });
                Err(self.broken(problem))
            }
            None => Ok(()),
        }
    }

    /// Looks into the queues in turn until one has frames; how many are in `self.frames` now.
    #[inline]
    fn poll(&mut self, pool: &mut Pool, max: u16, odd: &mut sys::Odd) -> u16 {
        let Some(attached) = &self.attached else { return 0 };
        let (number, frames) = (self.device.number, self.frames.as_mut_ptr());
        let (mut place, mut count) = (self.first, 0);
        for _ in 0..self.queues.len() {
            let queue = self.queues[place];
            // SAFETY: a started device, whose queues this thread alone uses; `frames` has room for `max`.
            count = attached.pool.lend(pool, |raw| unsafe {
                sys::weir_dpdk_receive(number, queue, raw, frames, max, &raw mut *odd)
            });
            place = if place + 1 == self.queues.len() { 0 } else { place + 1 };
            if count > 0 {
                break;
            }
        }
        self.first = place;
        count
    }

    /// Sends at most a burst; gives back the rooms of what did not leave.
    fn send_some(&mut self, pool: &mut Pool, packets: &[Packet], counts: &mut PortCounts) {
        let Some(attached) = &self.attached else { return };
        let (mut count, mut bytes) = (0, 0);
        for packet in packets {
            let Descriptor { offset, length } = packet.descriptor;
            let ours = packet.buffer.get() < pool.rooms()
                && packet.descriptor.lies_in(pool.room_offset(packet.buffer), pool.room_bytes());
            if !ours || !(SHORTEST..=self.shared.longest).contains(&length) {
                if ours {
                    counts.tx_dropped_length += 1;
                } else {
                    counts.tx_errors += 1;
                }
                pool.give(packet.buffer);
                continue;
            }
            self.frames[count] = sys::Frame { offset, length };
            count += 1;
            bytes += u64::from(length);
        }
        let (number, queue) = (self.device.number, self.queues[0]);
        let (frames, checksums) = (self.frames.as_ptr(), self.shared.config.checksum_offload);
        let amount = count as u16;
        let bounce = attached.bounce.as_ref().map(|bounce| bounce.raw());
        // SAFETY: the frames lie in rooms of the pool that are out, and each in one room (checked above); the device
        // is started, and this thread the only one that uses its queues.
        let sent = attached.pool.lend(pool, |raw| unsafe {
            match bounce {
                None => sys::weir_dpdk_send(number, queue, raw, frames, amount, RETRIES, checksums),
                Some(bounce) => sys::weir_dpdk_send_copies(
                    number, queue, raw, bounce, frames, amount, RETRIES, checksums,
                ),
            }
        });
        let sent = usize::from(sent);
        for frame in &self.frames[sent..count] {
            counts.tx_dropped_full += 1;
            bytes -= u64::from(frame.length);
        }
        // The rooms of what left come back from the driver, unless it has copies.
        let left = if bounce.is_some() { 0 } else { sent };
        for frame in &self.frames[left..count] {
            if let Some(buffer) = pool.index_of(frame.offset) {
                pool.give(buffer);
            }
        }
        counts.tx_packets += sent as u64;
        counts.tx_bytes += bytes;
    }

    /// As [`Port::receive`], within the gate.
    #[inline]
    fn receive_within(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        if self.device.is_removed() {
            self.look_at_device()?;
        }
        if self.attached.is_none() {
            return Ok(Received::End);
        }
        if !self.live && !self.goes_live(pool) {
            return Ok(Received::Idle { next: Some(SOON) });
        }
        eal::register_thread();
        let mut odd = sys::Odd::default();
        let max = max.min(sys::BURST) as u16;
        let mut count = self.poll(pool, max, &mut odd);
        let advice = if count > 0 {
            self.idling.over();
            None
        } else {
            Some(self.idling.nothing())
        };
        if advice == Some(Advice::LookOnceMore) {
            // What came before the interrupt was on.
            count = self.poll(pool, max, &mut odd);
        }
        let Some(attached) = &self.attached else { return Ok(Received::End) };
        let frames = &self.frames[..usize::from(count)];
        let mut counts = PortCounts {
            rx_dropped_too_large: odd.too_large.into(),
            rx_dropped_no_buffer: odd.no_room.into(),
            rx_bad_checksum: odd.bad_checksum.into(),
            rx_waits_for_buffer: attached.pool.found_empty(),
            ..PortCounts::default()
        };
        if frames.is_empty() {
            self.statistics.add(&counts);
            if odd.too_large + odd.no_room > 0 {
                return Ok(Received::Packets);
            }
            self.looks += 1;
            if self.looks == LOOKS {
                self.look_at_device()?;
            }
            return Ok(match advice {
                Some(Advice::Again(next)) => Received::Idle { next: Some(next) },
                _ => Received::Waiting,
            });
        }
        let now = clock_gettime(ClockId::Realtime);
        // Nanoseconds since 1970; until 2554 they fit.
        let time = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let shared = &*pool;
        into.extend(frames.iter().map(|&sys::Frame { offset, length }| {
            let descriptor = Descriptor { offset, length };
            debug_assert!(shared.bytes(descriptor).is_some(), "{descriptor:?} is not in a room");
            let buffer = shared.index_of(offset).expect("the mempool's rooms are the pool's");
            counts.rx_bytes += u64::from(length);
            Packet { descriptor, metadata: Metadata::default(), time, buffer, cut: 0 }
        }));
        counts.rx_packets = count.into();
        self.statistics.add(&counts);
        Ok(Received::Packets)
    }

    /// As [`Port::send`], within the gate.
    #[inline]
    fn send_within(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        if self.attached.is_none() || self.device.is_removed() {
            counts.tx_errors = packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
            self.statistics.add(&counts);
            return self.look_at_device();
        }
        if !self.live && !self.goes_live(pool) {
            counts.tx_dropped_down = packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
            self.statistics.add(&counts);
            return Ok(());
        }
        eal::register_thread();
        for some in packets.chunks(sys::BURST) {
            self.send_some(pool, some, &mut counts);
        }
        packets.clear();
        self.statistics.add(&counts);
        Ok(())
    }
}

impl Port for DpdkPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "dpdk"
    }

    fn attach(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        let attached = self.shared.attach(&self.queues, pool);
        let impossible = |problem| PortError::Configuration { port: self.name.clone(), problem };
        let (part, last) = attached.map_err(impossible)?;
        self.attached = Some(part);
        if last {
            self.within(|port| port.goes_live(pool));
            self.device.note("idle", self.idling.name().to_owned());
        }
        Ok(())
    }

    #[inline]
    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        if self.ended {
            return Ok(Received::End);
        }
        self.within(|port| port.receive_within(pool, into, max)).unwrap_or(Ok(Received::End))
    }

    #[inline]
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        if !self.ended
            && let Some(sent) = self.within(|port| port.send_within(pool, packets))
        {
            return sent;
        }
        let tx_errors = packets.len() as u64;
        pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        self.statistics.add(&PortCounts { tx_errors, ..PortCounts::default() });
        Ok(())
    }

    fn settle(&mut self, _: &mut Pool) -> Result<Option<Duration>, PortError> {
        if self.ended || !self.live {
            return Ok(None);
        }
        let settled = self.within(|port| {
            let again = port.idling.settle();
            if again.is_some() && port.idling.looked.elapsed() >= LOOK_AFTER {
                port.look_at_device()?;
            }
            Ok(again)
        });
        // The worker has to hear that the port has ended.
        settled.unwrap_or(Ok(Some(Duration::ZERO)))
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.idling.readiness(fds);
    }

    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.ended = true;
        let Some(attached) = self.attached.take() else { return Ok(()) };
        attached.pool.lend(pool, |_| self.close());
        attached.pool.flush(pool);
        Ok(())
    }

    fn spreading(&self) -> Spreading {
        let shared = &self.shared;
        if !shared.is_symmetric() {
            return Spreading::Anyhow;
        }
        // The table is as long as a power of two, so with as many queues its length does not matter.
        let queues = shared.queues;
        let table = if queues.is_power_of_two() { 0 } else { shared.device.info.rss_table };
        Spreading::Symmetric { rule: "toeplitz", queues, table }
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }

    fn inspector(&self) -> Option<Arc<dyn Inspect>> {
        Some(Arc::<Device>::clone(&self.device))
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // Before the mempool, which the device may still have.
        self.close();
    }
}
