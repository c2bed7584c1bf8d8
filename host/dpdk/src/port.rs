//! The port: bursts between a device's queues and a lane's pool.

#[cfg(test)]
mod checksums;
mod opening;
#[cfg(test)]
mod reset;

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use weir_layout::Metadata;
use weir_pool::{Packet, Pool};
use weir_port::{
    BurstClock, Inspect, Key, Placement, Port, PortCounts, PortError, PortStatistics, Received,
    Spreading, Steer,
};

use crate::device::Device;
use crate::eal;
use crate::gate::{Gate, Inside};
use crate::idle::{Advice, Idling, LOOK_AFTER};
use crate::rss;
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
    /// What can be sent of a burst of which some cannot.
    fit: Vec<Packet>,
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
    /// The device is started: what was set apart for that is the pool's again. False: it is not
    /// yet.
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

    /// Gives a device back that somebody wants, who waits for it: the kernel takes a device of vfio
    /// away only then.
    fn let_go<T>(&mut self, pool: &mut Pool, told: Result<T, PortError>) -> Result<T, PortError> {
        if told.is_err() && self.device.is_gone() {
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
        match self.device.problem() {
            Some(problem) => {
                self.statistics.add(&PortCounts { rx_errors: 1, ..PortCounts::default() });
                Err(self.broken(problem))
            }
            None => Ok(()),
        }
    }

    /// Looks into the queues in turn until one has frames, and appends these; how many there are.
    #[inline]
    fn poll(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
        said: &mut sys::Said,
    ) -> usize {
        let Some(attached) = &self.attached else { return 0 };
        let (number, metadata, clock) = (self.device.number, self.metadata.word(), &mut self.clock);
        let verify = self.shared.config.checksum_offload;
        let max = max.min(sys::BURST);
        into.reserve(max);
        let packets = into.spare_capacity_mut().as_mut_ptr().cast::<sys::Packet>();
        let mut frames = [const { MaybeUninit::<*mut sys::Frame>::uninit() }; sys::BURST];
        let frames = frames.as_mut_ptr().cast();
        let (mut place, mut count) = (self.first, 0);
        for _ in 0..self.queues.len() {
            let queue = self.queues[place];
            // SAFETY: [Q] and [P]: started, and this thread alone uses the queue; there is room for
            // `max` frames and as many packets, which are laid out as the shim's.
            count = attached.pool.lend(pool, |raw| unsafe {
                match sys::weir_dpdk_receive(number, queue, frames, max as u16) {
                    0 => 0,
                    n => {
                        let time = clock.read();
                        let said = &raw mut *said;
                        sys::weir_dpdk_take(raw, frames, n, metadata, time, verify, packets, said)
                    }
                }
            });
            place = if place + 1 == self.queues.len() { 0 } else { place + 1 };
            if count > 0 {
                break;
            }
        }
        self.first = place;
        let count = usize::from(count);
        // SAFETY: the shim has written so many, at most `max`, and any bytes are a packet; their
        // rooms are those of the mempool, which are the pool's.
        unsafe { into.set_len(into.len() + count) };
        count
    }

    /// Sends at most a burst; gives back the rooms of what did not leave.
    #[inline]
    fn send_some(&mut self, pool: &mut Pool, packets: &[Packet]) {
        if let Err(Misfit) = self.transmit(pool, packets) {
            self.send_what_fits(pool, packets);
        }
    }

    /// The same, without a thing done if one of them cannot be sent.
    #[inline]
    fn transmit(&mut self, pool: &mut Pool, packets: &[Packet]) -> Result<(), Misfit> {
        let Some(attached) = &self.attached else { return Ok(()) };
        let (number, queue) = (self.device.number, self.queues[0]);
        let how = sys::Sending {
            shortest: SHORTEST,
            longest: self.shared.longest,
            retries: RETRIES,
            checksums: self.shared.config.checksum_offload,
        };
        let (first, amount, mut bytes) = (packets.as_ptr().cast(), packets.len() as u16, 0);
        let bounce = attached.bounce.as_ref().map(|bounce| bounce.raw());
        // SAFETY: [Q] and [P]: packets are laid out as the shim's, at most a burst of them; their
        // rooms are out, and the shim checks that they are the pool's and that each packet lies in
        // its own; the device is started, and this thread the only one that uses its queues.
        let sent = attached.pool.lend(pool, |raw| unsafe {
            let (how, bytes) = (&raw const how, &raw mut bytes);
            match bounce {
                None => sys::weir_dpdk_send(number, queue, raw, first, amount, how, bytes),
                Some(bounce) => sys::weir_dpdk_send_copies(
                    number, queue, raw, bounce, first, amount, how, bytes,
                ),
            }
        });
        let sent = usize::try_from(sent).map_err(|_| Misfit)?;
        // The rooms of what left come back from the driver, unless it has copies.
        let left = if bounce.is_some() { 0 } else { sent };
        if left < packets.len() {
            pool.give_all(packets[left..].iter().map(|packet| packet.buffer));
        }
        if sent < packets.len() {
            let unsent = &packets[sent..];
            bytes -= unsent.iter().map(|packet| u64::from(packet.descriptor.length)).sum::<u64>();
            let tx_dropped_full = unsent.len() as u64;
            self.statistics.add(&PortCounts { tx_dropped_full, ..PortCounts::default() });
        }
        self.statistics.add_sent(sent as u64, bytes);
        Ok(())
    }

    /// Sends of a burst what can be sent, and drops the rest.
    #[cold]
    fn send_what_fits(&mut self, pool: &mut Pool, packets: &[Packet]) {
        let (mut counts, mut fit) = (PortCounts::default(), std::mem::take(&mut self.fit));
        for packet in packets {
            let ours = packet.buffer.get() < pool.rooms()
                && packet.descriptor.lies_in(pool.room_offset(packet.buffer), pool.room_bytes());
            if ours && (SHORTEST..=self.shared.longest).contains(&packet.descriptor.length) {
                fit.push(*packet);
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
        let sent = self.transmit(pool, &fit);
        assert!(sent.is_ok(), "host bug: the shim takes other packets for fit than the port");
        fit.clear();
        self.fit = fit;
    }

    /// Takes back the rooms of what was sent: drivers do that by themselves only when they are to
    /// send more.
    #[cold]
    fn take_back(&self, pool: &mut Pool) {
        let Some(attached) = &self.attached else { return };
        let (number, queue) = (self.device.number, self.queues[0]);
        // SAFETY: [Q]: started, and this thread alone uses the queue.
        attached.pool.lend(pool, |_| unsafe { sys::weir_dpdk_take_back(number, queue) });
    }

    /// As [`Port::receive`], within the gate.
    #[inline]
    fn receive_within(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        if self.device.is_gone() {
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
        let mut count = self.poll(pool, into, max, &mut said);
        let advice = if count > 0 {
            self.idling.over();
            None
        } else {
            Some(self.idling.nothing())
        };
        if advice == Some(Advice::LookOnceMore) {
            // What came before the interrupt was on.
            count = self.poll(pool, into, max, &mut said);
        }
        let Some(attached) = &self.attached else { return Ok(Received::End) };
        let rx_waits_for_buffer = attached.pool.found_empty();
        if rx_waits_for_buffer > 0 && count == 0 {
            self.take_back(pool);
        }
        let bad = if self.shared.config.checksum_offload { said.bad_checksum } else { 0 };
        let dropped = said.too_large + said.no_room + bad;
        if dropped + said.bad_checksum > 0 || rx_waits_for_buffer > 0 {
            self.statistics.add(&PortCounts {
                rx_dropped_too_large: said.too_large.into(),
                rx_dropped_no_buffer: said.no_room.into(),
                rx_bad_checksum: said.bad_checksum.into(),
                rx_dropped_bad_checksum: bad.into(),
                rx_waits_for_buffer,
                ..PortCounts::default()
            });
        }
        if count == 0 {
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
        self.statistics.add_received(count as u64, said.bytes);
        Ok(Received::Packets)
    }

    /// As [`Port::send`], within the gate.
    #[inline]
    fn send_within(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        if self.attached.is_none() || self.device.is_gone() {
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

/// Some packets of a burst cannot be sent from where they lie.
#[derive(Debug)]
struct Misfit;

/// The shim's packet is the pool's.
const _: () = {
    assert!(size_of::<sys::Packet>() == size_of::<Packet>());
    assert!(align_of::<sys::Packet>() == align_of::<Packet>());
    assert!(offset_of!(sys::Packet, offset) == offset_of!(Packet, descriptor));
    assert!(offset_of!(sys::Packet, metadata) == offset_of!(Packet, metadata));
    assert!(offset_of!(sys::Packet, time) == offset_of!(Packet, time));
    assert!(offset_of!(sys::Packet, room) == offset_of!(Packet, buffer));
    assert!(offset_of!(sys::Packet, cut) == offset_of!(Packet, cut));
};

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
            self.shared.give_rules();
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
        // The table is as long as a power of two, so with as many queues its length does not
        // matter.
        let queues = shared.queues;
        let table = if queues.is_power_of_two() { 0 } else { shared.device.info.rss_table };
        let fields = shared.device.info.rss_fields;
        Spreading::Symmetric { rule: "toeplitz", queues, table, fields }
    }

    fn placement(&self) -> Option<Placement> {
        let (queues, info) = (self.shared.queues, &self.shared.device.info);
        let (fields, table) = (info.rss_fields, info.rss_table);
        let symmetric = self.shared.is_symmetric();
        symmetric.then(|| {
            Arc::new(move |flow: &Key| rss::queue_of(flow, fields, table, queues)) as Placement
        })
    }

    fn hardware_address(&self) -> Option<[u8; 6]> {
        Some(self.device.info.mac).filter(|mac| *mac != [0; 6])
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }

    fn steering(&self) -> Option<Arc<dyn Steer>> {
        let first = self.queues.contains(&0);
        first.then(|| self.shared.rules(&self.name) as Arc<dyn Steer>)
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
