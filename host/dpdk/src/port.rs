//! The port: bursts between a device's queues and a lane's pool.

mod opening;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use weir_layout::{BURST_AREA, Descriptor, Metadata};
use weir_pool::{Packet, Pool};
use weir_port::{
    BurstClock, Inspect, Port, PortCounts, PortError, PortStatistics, Received, Spreading, Steer,
};

use crate::device::Device;
use crate::eal;
use crate::flow::FlowRules;
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
    clock: BurstClock,
    /// What packets that come in get.
    metadata: Metadata,
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

    /// Gives a device back that somebody wants, who waits for it: the kernel takes a device of vfio away only then.
    fn let_go<T>(&mut self, pool: &mut Pool, told: Result<T, PortError>) -> Result<T, PortError> {
        if told.is_err() && self.device.is_removed() {
            self.finish(pool)?;
        }
        told
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
    fn poll(&mut self, pool: &mut Pool, max: u16, said: &mut sys::Said) -> u16 {
        let Some(attached) = &self.attached else { return 0 };
        let (number, frames) = (self.device.number, self.frames.as_mut_ptr());
        let (mut place, mut count) = (self.first, 0);
        for _ in 0..self.queues.len() {
            let queue = self.queues[place];
            // SAFETY: a started device, whose queues this thread alone uses; `frames` has room for `max`.
            count = attached.pool.lend(pool, |raw| unsafe {
                sys::weir_dpdk_receive(number, queue, raw, frames, max, &raw mut *said)
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
    fn send_some(&mut self, pool: &mut Pool, packets: &[Packet]) {
        let limits = Limits::new(pool, self.shared.longest);
        let mut odd = 0;
        for (frame, packet) in self.frames.iter_mut().zip(packets) {
            let Descriptor { offset, length } = packet.descriptor;
            odd |= limits.misplaced(packet);
            *frame = sys::Frame { offset, length };
        }
        let fit = odd == 0 && limits.fit(&self.frames[..packets.len()]);
        let count = if fit { packets.len() } else { self.sort_out(pool, packets) };
        let Some(attached) = &self.attached else { return };
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
        // The rooms of what left come back from the driver, unless it has copies.
        let left = if bounce.is_some() { 0 } else { sent };
        for frame in &self.frames[left..count] {
            if let Some(buffer) = pool.index_of(frame.offset) {
                pool.give(buffer);
            }
        }
        self.statistics.add_sent(sent as u64, bytes_of(&self.frames[..sent]));
        if sent < count {
            let tx_dropped_full = (count - sent) as u64;
            self.statistics.add(&PortCounts { tx_dropped_full, ..PortCounts::default() });
        }
    }

    /// Puts what can be sent of a burst into `frames`, and drops the rest; the answer is how many there are.
    #[cold]
    fn sort_out(&mut self, pool: &mut Pool, packets: &[Packet]) -> usize {
        let (mut counts, mut count) = (PortCounts::default(), 0);
        for packet in packets {
            let Descriptor { offset, length } = packet.descriptor;
            let ours = packet.buffer.get() < pool.rooms()
                && packet.descriptor.lies_in(pool.room_offset(packet.buffer), pool.room_bytes());
            if ours && (SHORTEST..=self.shared.longest).contains(&length) {
                self.frames[count] = sys::Frame { offset, length };
                count += 1;
                continue;
            }
            if ours {
                counts.tx_dropped_length += 1;
            } else {
                counts.tx_errors += 1;
            }
            pool.give(packet.buffer);
        }
        self.statistics.add(&counts);
        count
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
        let mut said = sys::Said::default();
        let max = max.min(sys::BURST) as u16;
        let mut count = self.poll(pool, max, &mut said);
        let advice = if count > 0 {
            self.idling.over();
            None
        } else {
            Some(self.idling.nothing())
        };
        if advice == Some(Advice::LookOnceMore) {
            // What came before the interrupt was on.
            count = self.poll(pool, max, &mut said);
        }
        let Some(attached) = &self.attached else { return Ok(Received::End) };
        let frames = &self.frames[..usize::from(count)];
        let rx_waits_for_buffer = attached.pool.found_empty();
        let dropped = said.too_large + said.no_room;
        if dropped + said.bad_checksum > 0 || rx_waits_for_buffer > 0 {
            self.statistics.add(&PortCounts {
                rx_dropped_too_large: said.too_large.into(),
                rx_dropped_no_buffer: said.no_room.into(),
                rx_bad_checksum: said.bad_checksum.into(),
                rx_waits_for_buffer,
                ..PortCounts::default()
            });
        }
        if frames.is_empty() {
            if dropped > 0 {
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
        let time = self.clock.read();
        let (layout, metadata) = (pool.layout(), self.metadata);
        into.extend(frames.iter().map(move |&sys::Frame { offset, length }| {
            let descriptor = Descriptor { offset, length };
            let buffer = layout.index_of(offset).expect("the mempool's rooms are the pool's");
            Packet { descriptor, metadata, time, buffer, cut: 0 }
        }));
        self.statistics.add_received(count.into(), said.bytes);
        Ok(Received::Packets)
    }

    /// As [`Port::send`], within the gate.
    #[inline]
    fn send_within(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        if self.attached.is_none() || self.device.is_removed() {
            let tx_errors = packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
            self.statistics.add(&PortCounts { tx_errors, ..PortCounts::default() });
            return self.look_at_device();
        }
        if !self.live && !self.goes_live(pool) {
            let tx_dropped_down = packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
            self.statistics.add(&PortCounts { tx_dropped_down, ..PortCounts::default() });
            return Ok(());
        }
        eal::register_thread();
        for some in packets.chunks(sys::BURST) {
            self.send_some(pool, some);
        }
        packets.clear();
        Ok(())
    }
}

/// What frames must be like that are sent from where they lie. Checked without branches, some frames by one instruction.
struct Limits {
    rooms: u32,
    room_bytes: u32,
    longest: u32,
}

impl Limits {
    #[inline]
    fn new(pool: &Pool, longest: u32) -> Self {
        Self { rooms: pool.rooms(), room_bytes: pool.room_bytes(), longest }
    }

    /// 0 if the packet begins in its buffer, which is one of the pool's.
    #[inline]
    fn misplaced(&self, packet: &Packet) -> u32 {
        let buffer = packet.buffer.get();
        let room = packet.descriptor.offset.wrapping_sub(BURST_AREA as u32)
            >> self.room_bytes.trailing_zeros();
        // Less than 0 if there is no such room.
        (room ^ buffer) | (self.rooms - 1).wrapping_sub(buffer) >> 31
    }

    /// Whether each of them ends in the room in which it begins, and has a length that can be sent.
    #[inline]
    fn fit(&self, frames: &[sys::Frame]) -> bool {
        let beyond = |frame: &sys::Frame| {
            let into = frame.offset & (self.room_bytes - 1);
            // All of these numbers are below 2^31, or less than 0.
            frame.length
                | frame.length.wrapping_sub(SHORTEST)
                | self.longest.wrapping_sub(frame.length)
                | (self.room_bytes - into).wrapping_sub(frame.length)
        };
        frames.iter().fold(0, |all, frame| all | beyond(frame)) >> 31 == 0
    }
}

fn bytes_of(frames: &[sys::Frame]) -> u64 {
    frames.iter().map(|frame| u64::from(frame.length)).sum()
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
        let received = self.within(|port| port.receive_within(pool, into, max));
        self.let_go(pool, received.unwrap_or(Ok(Received::End)))
    }

    #[inline]
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        if !self.ended
            && let Some(sent) = self.within(|port| port.send_within(pool, packets))
        {
            return self.let_go(pool, sent);
        }
        let tx_errors = packets.len() as u64;
        pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        self.statistics.add(&PortCounts { tx_errors, ..PortCounts::default() });
        Ok(())
    }

    fn stamp(&mut self, metadata: Metadata) -> bool {
        self.metadata = metadata;
        true
    }

    #[inline]
    fn received_at(&self) -> Option<u64> {
        Some(self.clock.last())
    }

    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
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
        self.let_go(pool, settled.unwrap_or(Ok(Some(Duration::ZERO))))
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

    fn steering(&self) -> Option<Arc<dyn Steer>> {
        // A device has one table, however many ports have its queues.
        let first = self.queues.contains(&0);
        first.then(|| Arc::new(FlowRules::new(&self.name, &self.shared)) as Arc<dyn Steer>)
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

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, PoolConfig};

    use super::*;

    #[test]
    fn what_may_be_sent_is_what_lies_in_its_room() {
        const LONGEST: u32 = 600;
        let pool = |rooms| {
            let config = PoolConfig { rooms, room_bytes: 512, huge: HugePages::Never };
            Pool::new("limits", &config).unwrap()
        };
        let (mut larger, pool) = (pool(6), pool(4));
        let limits = Limits::new(&pool, LONGEST);
        let edges = |at: u32| [at.wrapping_sub(1), at, at.wrapping_add(1)];
        let offsets = [0, BURST_AREA as u32, BURST_AREA as u32 + 512, BURST_AREA as u32 + 4 * 512];
        let lengths = [0, SHORTEST, 512, LONGEST, 1 << 31, u32::MAX - 512];
        let mut sent = 0;
        while let Some(buffer) = larger.take() {
            for offset in offsets.into_iter().flat_map(edges) {
                for length in lengths.into_iter().flat_map(edges) {
                    let descriptor = Descriptor { offset, length };
                    let metadata = Metadata::default();
                    let packet = Packet { descriptor, metadata, time: 0, buffer, cut: 0 };
                    let expected = buffer.get() < pool.rooms()
                        && descriptor.lies_in(pool.room_offset(buffer), pool.room_bytes())
                        && (SHORTEST..=LONGEST).contains(&length);
                    let frame = sys::Frame { offset, length };
                    let fit = limits.misplaced(&packet) == 0 && limits.fit(&[frame]);
                    assert_eq!(fit, expected, "{packet:?}");
                    sent += u32::from(fit);
                }
            }
        }
        assert!(sent > 0);
    }
}
