//! The port: bursts between a device's queues and a lane's pool.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use rustix::time::{ClockId, clock_gettime};
use weir_layout::{Descriptor, Metadata};
use weir_pool::{Packet, Pool};
use weir_port::{Inspect, Port, PortCounts, PortError, PortStatistics, Received};

use crate::address::Address;
use crate::device::Device;
use crate::eal::{self, Eal, EalConfig};
use crate::fit::{bounce_bytes, check, fit_frames};
use crate::idle::{Advice, Idling, LOOK_AFTER};
use crate::mempool::SplitPool;
use crate::{DpdkConfig, Idle, log};

/// Shortest frame that is sent: Ethernet addresses and type.
const SHORTEST: u32 = 14;
/// Times that a device which takes nothing is tried again before frames are dropped.
const RETRIES: u32 = 64;
/// Empty looks between two at whether the device is still there.
const LOOKS: u32 = 1 << 14;
/// Descriptors of a queue where neither the operator nor the driver says.
const DESCRIPTORS: u16 = 512;
/// Drivers of which a port sleeps without being told to: the kernel wakes it. Interrupts of others are for whoever asks for them.
const WAKING_DRIVERS: [&str; 3] = ["net_af_packet", "net_af_xdp", "net_tap"];
/// Longer than the kernel takes to let go of an AF_XDP socket's queue.
const AF_XDP_RELEASE: Duration = Duration::from_millis(100);
/// Frames that `net_af_xdp` keeps for the kernel, for each queue.
const AF_XDP_FILL: u32 = 2048;

/// A port over all queues of a device, for one lane.
#[derive(Debug)]
pub struct DpdkPort {
    name: String,
    config: DpdkConfig,
    device: Arc<Device>,
    queues: u16,
    /// The queue to look at first, so that each gets its share.
    first: u16,
    /// Longest frame that the device sends.
    longest: u32,
    attached: Option<Attached>,
    frames: Box<[sys::Frame; sys::BURST]>,
    /// Empty looks since the last one at the device.
    looks: u32,
    idling: Idling,
    ended: bool,
    statistics: PortStatistics,
}

/// What a port has once it knows its pool. The mempool goes after the device was closed.
#[derive(Debug)]
struct Attached {
    pool: Arc<SplitPool>,
    /// For drivers that need memory of their own.
    bounce: Option<Bounce>,
    /// The memory that the device may write to, to take that back: address and bytes.
    mapped: Option<(usize, usize)>,
}

#[derive(Debug)]
struct Bounce(*mut sys::Bounce);

// SAFETY: the mempool belongs to this value; DPDK's mempools are made for many threads.
unsafe impl Send for Bounce {}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: the only owner; the device that had it is closed.
        unsafe { sys::weir_dpdk_bounce_free(self.0) };
    }
}

impl DpdkPort {
    /// Adds the device, and checks that it can do what is asked. It is started when the port is attached.
    ///
    /// # Errors
    /// What is not possible, and what to do.
    pub fn open(name: &str, config: &DpdkConfig) -> Result<Self, PortError> {
        let impossible = |problem| PortError::Configuration { port: name.to_owned(), problem };
        let mut address: Address = config.device.parse().map_err(impossible)?;
        let mut eal = EalConfig::default();
        if address.is_pci() {
            eal.pci.push(address.to_string());
        }
        Eal::start(&eal).map_err(impossible)?;
        fit_frames(&mut address, config).map_err(impossible)?;
        let device = Device::add(address).map_err(impossible)?;
        let queues = config.queues.unwrap_or(1);
        let longest = check(&device, config, queues).map_err(impossible)?;
        let wakes = WAKING_DRIVERS.contains(&device.driver());
        let idle = config.idle.or((!wakes).then_some(Idle::Poll));
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            device: Arc::new(device),
            queues,
            first: 0,
            longest,
            attached: None,
            frames: Box::new([sys::Frame::default(); sys::BURST]),
            looks: 0,
            idling: Idling::new(idle),
            ended: false,
            statistics: PortStatistics::default(),
        })
    }

    fn set_up(&mut self, pool: &mut Pool) -> Result<(), String> {
        let (device, config) = (Arc::clone(&self.device), self.config.clone());
        let number = device.number;
        if pool.room_bytes() != config.room_bytes {
            return Err(format!(
                "the port was opened for rooms of {} bytes, the pool's have {}",
                config.room_bytes,
                pool.room_bytes()
            ));
        }
        log::forget();
        let mut setup = sys::Setup {
            mtu: config.mtu.map_or(0, u32::from),
            queues: self.queues,
            checksums: config.checksum_offload,
            interrupts: self.idling.may_sleep(),
        };
        // SAFETY: reads one `Setup`.
        let configured = unsafe { sys::weir_dpdk_configure(number, &raw const setup) };
        device.did("be configured", configured)?;
        if let Some(mtu) = config.mtu {
            // SAFETY: a number for a device that is ours.
            let result = unsafe { sys::weir_dpdk_set_mtu(number, mtu) };
            // Drivers without this function take the MTU from the configuration.
            if result != -libc::ENOTSUP {
                device.did(&format!("have an MTU of {mtu}"), result)?;
            }
        }
        let (rx, tx) = self.descriptors(pool)?;
        let bounce = if device.copies() {
            let rings = u32::from(rx).max(AF_XDP_FILL) + u32::from(tx);
            let buffers = u32::from(self.queues) * rings + 2 * sys::BURST as u32;
            let bytes = bounce_bytes(&device, pool.room_bytes(), self.longest)?;
            Some(new_bounce(buffers, bytes)?)
        } else {
            None
        };
        let split = SplitPool::of(pool)?;
        let bounce_raw = bounce.as_ref().map_or(std::ptr::null_mut(), |bounce| bounce.0);
        let attached = self.attached.insert(Attached { pool: split, bounce, mapped: None });
        if device.address.is_pci() && !device.copies() {
            let (start, bytes) = (pool.memory().as_ptr(), pool.memory().len());
            // SAFETY: the device may write to the rooms that it is given; the memory is taken from it again
            // before the pool goes (`close`).
            let mapped = unsafe { sys::weir_dpdk_dma_map(number, start, bytes) };
            device.did(
                "be given the pool's memory (may this user lock so much, `ulimit -l`?)",
                mapped,
            )?;
            attached.mapped = Some((start.addr(), bytes));
        }
        let others = device.sockets_of_others();
        let mut start = |device: &Device| {
            attached.pool.lend(pool, |raw| -> Result<(), String> {
                // SAFETY: both mempools live as long as the device is open: they go with `attached`, behind `close`.
                unsafe {
                    for queue in 0..self.queues {
                        let done = sys::weir_dpdk_rx_queue(number, queue, rx, raw, bounce_raw);
                        device.did("receive into this pool", done)?;
                        device.did("send", sys::weir_dpdk_tx_queue(number, queue, tx))?;
                    }
                    device.did("be started", sys::weir_dpdk_start(number))
                }
            })
        };
        if let Err(problem) = start(&device) {
            let af_xdp = device.driver() == "net_af_xdp";
            if !setup.interrupts && !af_xdp {
                return Err(problem);
            }
            // Some drivers start without receive interrupts only; and the kernel lets go of a queue a while after its
            // AF_XDP socket was closed.
            setup.interrupts = false;
            if af_xdp {
                std::thread::sleep(AF_XDP_RELEASE);
            }
            // SAFETY: as above.
            let configured = unsafe { sys::weir_dpdk_configure(number, &raw const setup) };
            device.did("be configured", configured)?;
            start(&device)?;
        }
        device.mark_started();
        device.with_sockets(self.queues, &others, |sockets| {
            self.idling.take_waker(number, self.queues, sockets);
        });
        self.set_filters()?;
        device.note("memory", if device.copies() { "copied" } else { "the pool" }.to_owned());
        device.note("queues", self.queues.to_string());
        device.note("idle", self.idling.name().to_owned());
        device.note("rx-descriptors", rx.to_string());
        device.note("tx-descriptors", tx.to_string());
        Ok(())
    }

    /// Descriptors of each receive and transmit queue.
    fn descriptors(&self, pool: &Pool) -> Result<(u16, u16), String> {
        let info = &self.device.info;
        let default = |own: u16| if own == 0 { DESCRIPTORS } else { own };
        let mut rx = self.config.rx_descriptors.unwrap_or(default(info.rx_descriptors_default));
        let mut tx = self.config.tx_descriptors.unwrap_or(default(info.tx_descriptors_default));
        let asked = (rx, tx);
        // SAFETY: reads and writes two numbers.
        let adjusted = unsafe {
            sys::weir_dpdk_adjust_descriptors(self.device.number, &raw mut rx, &raw mut tx)
        };
        self.device.did("have so many descriptors", adjusted)?;
        for (key, given, asked, got, least, most) in [
            (
                "rx",
                self.config.rx_descriptors,
                asked.0,
                rx,
                info.rx_descriptors_min,
                info.rx_descriptors_max,
            ),
            (
                "tx",
                self.config.tx_descriptors,
                asked.1,
                tx,
                info.tx_descriptors_min,
                info.tx_descriptors_max,
            ),
        ] {
            if given.is_some() && asked != got {
                return Err(format!(
                    "{key}-descriptors is {asked}, but the device {} has {least} to {most} for a queue; {got} would do",
                    self.device.address
                ));
            }
        }
        let needed =
            u32::from(self.queues) * (u32::from(rx) + u32::from(tx)) + 2 * sys::BURST as u32;
        if !self.device.copies() && needed > pool.rooms() {
            return Err(format!(
                "the pool has {} buffers, but {} queues with {rx} and {tx} descriptors need {needed}: \
                 raise [pool] rooms, or lower rx-descriptors and tx-descriptors",
                pool.rooms(),
                self.queues
            ));
        }
        Ok((rx, tx))
    }

    /// Which frames are received.
    fn set_filters(&self) -> Result<(), String> {
        let number = self.device.number;
        let set = |what, given: Option<bool>, call: unsafe extern "C" fn(u16, bool) -> i32| {
            // SAFETY: a call for a started device by its owner.
            let result = unsafe { call(number, given.unwrap_or(true)) };
            match given {
                Some(on) => self.device.did(&format!("set {what} to {on}"), result),
                None => Ok(()),
            }
        };
        set("promiscuous", self.config.promiscuous, sys::weir_dpdk_set_promiscuous)?;
        set("multicast", self.config.multicast, sys::weir_dpdk_set_multicast)
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
        let (mut queue, mut count) = (self.first, 0);
        for _ in 0..self.queues {
            // SAFETY: a started device, whose queues this thread alone uses; `frames` has room for `max`.
            count = attached.pool.lend(pool, |raw| unsafe {
                sys::weir_dpdk_receive(number, queue, raw, frames, max, &raw mut *odd)
            });
            queue = if queue + 1 == self.queues { 0 } else { queue + 1 };
            if count > 0 {
                break;
            }
        }
        self.first = queue;
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
            if !ours || !(SHORTEST..=self.longest).contains(&length) {
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
        let (number, queue) = (self.device.number, 0);
        let (frames, checksums) = (self.frames.as_ptr(), self.config.checksum_offload);
        let amount = count as u16;
        let bounce = attached.bounce.as_ref().map(|bounce| bounce.0);
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

    fn close(&mut self) {
        self.idling.close(self.device.is_removed());
        if let Some((start, bytes)) = self.attached.as_ref().and_then(|attached| attached.mapped) {
            let start = std::ptr::without_provenance_mut(start);
            // SAFETY: what was mapped; the device is stopped first, so that it writes nothing any more.
            unsafe {
                sys::weir_dpdk_stop(self.device.number);
                sys::weir_dpdk_dma_unmap(self.device.number, start, bytes);
            }
        }
        self.device.close();
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
        self.set_up(pool)
            .map_err(|problem| PortError::Configuration { port: self.name.clone(), problem })
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
        if self.device.is_removed() {
            self.look_at_device()?;
        }
        if self.attached.is_none() {
            return Ok(Received::End);
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

    #[inline]
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        if self.ended || self.attached.is_none() || self.device.is_removed() {
            counts.tx_errors = packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
            self.statistics.add(&counts);
            return if self.ended { Ok(()) } else { self.look_at_device() };
        }
        eal::register_thread();
        for some in packets.chunks(sys::BURST) {
            self.send_some(pool, some, &mut counts);
        }
        packets.clear();
        self.statistics.add(&counts);
        Ok(())
    }

    fn settle(&mut self, _: &mut Pool) -> Result<Option<Duration>, PortError> {
        let again = if self.ended { None } else { self.idling.settle() };
        if again.is_some() && self.idling.looked.elapsed() >= LOOK_AFTER {
            self.look_at_device()?;
        }
        Ok(again)
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.idling.readiness(fds);
    }

    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.ended = true;
        let Some(attached) = &self.attached else { return Ok(()) };
        let split = Arc::clone(&attached.pool);
        if self.device.driver() == "net_ring" && !self.device.is_removed() {
            // This driver forgets what lies in its ring.
            let (number, frames) = (self.device.number, self.frames.as_mut_ptr());
            for queue in 0..self.queues {
                loop {
                    // SAFETY: as in `receive`.
                    let count = split.lend(pool, |raw| unsafe {
                        let mut odd = sys::Odd::default();
                        let max = sys::BURST as u16;
                        sys::weir_dpdk_receive(number, queue, raw, frames, max, &raw mut odd)
                    });
                    if count == 0 {
                        break;
                    }
                    for frame in &self.frames[..usize::from(count)] {
                        if let Some(buffer) = pool.index_of(frame.offset) {
                            pool.give(buffer);
                        }
                    }
                }
            }
        }
        split.lend(pool, |_| self.close());
        split.flush(pool);
        self.attached = None;
        Ok(())
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

fn new_bounce(buffers: u32, bytes: u32) -> Result<Bounce, String> {
    let mut raw = std::ptr::null_mut();
    // SAFETY: writes one address.
    match unsafe { sys::weir_dpdk_bounce_new(buffers, bytes, &raw mut raw) } {
        0.. => Ok(Bounce(raw)),
        error => Err(format!(
            "DPDK has no memory for {buffers} buffers of {bytes} bytes: {}",
            log::explain(error)
        )),
    }
}
