//! A device that has several ports, each with some of its queues for another lane: set up port by
//! port, started with the last of them, stopped with the first that goes.
//!
//! DPDK's queues may be used by different threads at the same time, but a device is configured,
//! started, stopped and closed as a whole, and no queue may be in use then. So each port goes
//! through a *gate* for every call to the driver. The gate of a port is closed once and for all
//! before the device is stopped: whoever closes it waits for the call that is under way, and the
//! port finds it closed and has ended. A port that has the device for itself needs no gate.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dpdk_sys as sys;
use weir_pool::Pool;

use crate::bounce::Bounce;
use crate::device::Device;
use crate::fit::{bounce_bytes, descriptors};
use crate::flow::FlowRules;
use crate::gate::Gate;
use crate::mempool::SplitPool;
use crate::{DpdkConfig, Idle, log};

/// Frames that the ring of a queue of `net_af_packet` holds if nothing is said.
const AF_PACKET_FRAMES: usize = 512;
/// Frames that `net_af_xdp` keeps for the kernel, for each queue.
const AF_XDP_FILL: u32 = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct SharedDevice {
    pub(crate) device: Arc<Device>,
    pub(crate) config: DpdkConfig,
    /// Queues of the device.
    pub(crate) queues: u16,
    /// Longest frame that it sends.
    pub(crate) longest: u32,
    /// One for each port; none if it has one port.
    pub(crate) gates: Vec<Arc<Gate>>,
    started: AtomicBool,
    setup: Mutex<Setup>,
    /// Rules that the device has: one table, however many ports have its queues.
    rules: OnceLock<Arc<FlowRules>>,
}

#[derive(Debug, Default)]
struct Setup {
    configured: bool,
    closed: bool,
    parts: Vec<Part>,
}

/// What a port has brought along. The mempool goes after the device was closed.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) pool: Arc<SplitPool>,
    /// For drivers that need memory of their own.
    pub(crate) bounce: Option<Arc<Bounce>>,
    /// The device writes to the pool by itself.
    mapped: bool,
    queues: Vec<u16>,
}

impl SharedDevice {
    pub(crate) fn new(
        device: Arc<Device>,
        config: DpdkConfig,
        queues: u16,
        longest: u32,
        ports: usize,
    ) -> Arc<Self> {
        let gates = if ports > 1 { ports } else { 0 };
        let gates = (0..gates).map(|_| Arc::default()).collect();
        let (started, setup) = (AtomicBool::new(false), Mutex::default());
        let rules = OnceLock::new();
        Arc::new(Self { device, config, queues, longest, gates, started, setup, rules })
    }

    /// Gives the device rules, whenever they come.
    pub(crate) fn rules(self: &Arc<Self>, port: &str) -> Arc<FlowRules> {
        Arc::clone(self.rules.get_or_init(|| Arc::new(FlowRules::new(port, self))))
    }

    /// It was started, and nobody receives from it yet.
    pub(crate) fn give_rules(&self) {
        if let Some(rules) = self.rules.get() {
            rules.started(self);
        }
    }

    fn setup(&self) -> MutexGuard<'_, Setup> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether packets can be had.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Does something to the device that it can be asked while its queues are used; none: it is not
    /// started, or closed.
    pub(crate) fn while_started<R>(&self, act: impl FnOnce() -> R) -> Option<R> {
        let setup = self.setup();
        (self.is_started() && !setup.closed && !self.device.is_gone()).then(act)
    }

    /// Sets a port's queues up over its pool, and starts the device with the last port's: whether
    /// it did.
    pub(crate) fn attach(&self, queues: &[u16], pool: &mut Pool) -> Result<(Part, bool), String> {
        let mut setup = self.setup();
        if setup.closed {
            return Err(format!("the device {} was closed", self.device.address));
        }
        if pool.room_bytes() != self.config.room_bytes {
            return Err(format!(
                "the port was opened for rooms of {} bytes, the pool's have {}",
                self.config.room_bytes,
                pool.room_bytes()
            ));
        }
        log::forget();
        if !setup.configured {
            self.configure(self.wants_interrupts())?;
            setup.configured = true;
        }
        let split = SplitPool::of(pool)?;
        let (count, others) = (queues.len(), split.promised());
        let descriptors = descriptors(&self.device, &self.config, count, pool, others)?;
        if !self.device.copies() {
            split.promise(count as u32 * (u32::from(descriptors.0) + u32::from(descriptors.1)));
        }
        let part = self.part(split, queues, descriptors, pool)?;
        // From now on the device may have its memory, also when something fails.
        setup.parts.push(part.clone());
        part.pool.lend(pool, |_| self.set_up_queues(&part, descriptors))?;
        let all = setup.parts.iter().map(|part| part.queues.len()).sum::<usize>();
        let last = all == usize::from(self.queues);
        if last {
            part.pool.lend(pool, |_| self.start(&setup.parts, descriptors))?;
            self.tell(descriptors);
            self.started.store(true, Ordering::Release);
        } else if part.bounce.is_none() {
            // DPDK takes them some at a time, through a cache.
            let rooms = queues.len() as u32 * u32::from(descriptors.0) + 2 * sys::BURST as u32;
            part.pool.set_apart(pool, rooms);
        }
        Ok((part, last))
    }

    /// Whether the device is to wake workers by interrupts, if its driver can.
    fn wants_interrupts(&self) -> bool {
        self.config.idle != Some(Idle::Poll) && !self.device.has_sockets()
    }

    fn configure(&self, interrupts: bool) -> Result<(), String> {
        let (device, config) = (&self.device, &self.config);
        let number = device.number;
        let setup = sys::Setup {
            mtu: config.mtu.map_or(0, u32::from),
            queues: self.queues,
            checksums: config.checksum_offload,
            interrupts,
        };
        // SAFETY: [S]: the device is open until its last port has gone, and not started; `setup` is
        // locked while it is set up.
        let configured = unsafe { sys::weir_dpdk_configure(number, &raw const setup) };
        device.did("be configured", configured)?;
        if let Some(mtu) = config.mtu {
            // SAFETY: as for `weir_dpdk_configure`.
            let result = unsafe { sys::weir_dpdk_set_mtu(number, mtu) };
            // Drivers without this function take the MTU from the configuration.
            if result != -libc::ENOTSUP {
                device.did(&format!("have an MTU of {mtu}"), result)?;
            }
        }
        Ok(())
    }

    fn part(
        &self,
        split: Arc<SplitPool>,
        queues: &[u16],
        (rx, tx): (u16, u16),
        pool: &Pool,
    ) -> Result<Part, String> {
        let device = &self.device;
        let number = device.number;
        let bounce = if device.copies() {
            let rings = u32::from(rx).max(AF_XDP_FILL) + u32::from(tx);
            let buffers = queues.len() as u32 * rings + 2 * sys::BURST as u32;
            let bytes = bounce_bytes(device, pool.room_bytes(), self.longest)?;
            Some(Arc::new(Bounce::new(buffers, bytes)?))
        } else {
            None
        };
        let mut part = Part { pool: split, bounce, mapped: false, queues: queues.to_vec() };
        if device.address.is_pci() && !device.copies() {
            device.did(
                "be given the pool's memory (may this user lock so much, `ulimit -l`?)",
                part.pool.map(number),
            )?;
            part.mapped = true;
        }
        Ok(part)
    }

    fn set_up_queues(&self, part: &Part, (rx, tx): (u16, u16)) -> Result<(), String> {
        let (device, number, raw) = (&self.device, self.device.number, part.pool.raw());
        let bounce = part.bounce.as_ref().map_or(ptr::null_mut(), |bounce| bounce.raw());
        for queue in &part.queues {
            // SAFETY: [S]: configured, not started. Both mempools live as long as the device is
            // open: they go with the parts, behind `close`.
            let done = device.opening(*queue, || unsafe {
                sys::weir_dpdk_rx_queue(number, *queue, rx, raw, bounce)
            });
            device.did("receive into this pool", done)?;
            // SAFETY: [S]: configured, not started.
            let done = unsafe { sys::weir_dpdk_tx_queue(number, *queue, tx) };
            device.did("send", done)?;
        }
        Ok(())
    }

    /// All queues are set up.
    fn start(&self, parts: &[Part], descriptors: (u16, u16)) -> Result<(), String> {
        let (device, number) = (&self.device, self.device.number);
        // SAFETY: [S]: configured, with all its queues, and its mempools live until it is closed.
        let start = || device.did("be started", unsafe { sys::weir_dpdk_start(number) });
        match start() {
            Err(_) if self.wants_interrupts() => {
                // Some drivers start without receive interrupts only.
                self.configure(false)?;
                parts.iter().try_for_each(|part| self.set_up_queues(part, descriptors))?;
                start()?;
            }
            started => started?,
        }
        if self.is_symmetric() {
            // SAFETY: [S]: started just now, and nobody uses its queues yet.
            let spread = unsafe { sys::weir_dpdk_spread(number, self.queues) };
            device.did("spread flows over queues by a symmetric hash", spread)?;
        }
        self.set_filters()?;
        if device.driver() == "net_af_packet" {
            // The kernel has filled its rings since the device was added: nobody had the port then.
            let said = device.address.argument("framecnt").and_then(|said| said.parse().ok());
            let most = said.unwrap_or(AF_PACKET_FRAMES);
            parts.iter().for_each(|part| self.drain(part, most));
            device.forget_kernel_drops();
        }
        device.mark_started();
        Ok(())
    }

    /// Whether the device puts both directions of a flow into the same queue.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.queues > 1 && self.device.info.rss_table > 0
    }

    /// Which frames are received.
    fn set_filters(&self) -> Result<(), String> {
        let number = self.device.number;
        let set = |what, given: Option<bool>, call: unsafe fn(u16, bool) -> i32| {
            // SAFETY: [C]: `call` is one of those, and the device is open as long as this is there.
            let result = unsafe { call(number, given.unwrap_or(true)) };
            match given {
                Some(on) => self.device.did(&format!("set {what} to {on}"), result),
                None => Ok(()),
            }
        };
        set("promiscuous", self.config.promiscuous, sys::weir_dpdk_set_promiscuous)?;
        set("multicast", self.config.multicast, sys::weir_dpdk_set_multicast)
    }

    fn tell(&self, (rx, tx): (u16, u16)) {
        let device = &self.device;
        // SAFETY: [C]: started above, and not closed before its ports go.
        let scatters = !device.copies() && unsafe { sys::weir_dpdk_scatters(device.number, 0) };
        let memory = match (device.copies(), scatters) {
            (true, _) => "copied",
            (false, true) => "the pool, long frames copied",
            (false, false) => "the pool",
        };
        device.note("memory", memory.to_owned());
        if scatters {
            tracing::warn!(
                "the device {} puts its longest frames into several buffers, from which they are copied: raise [pool] room, which is {} \
                 bytes",
                device.address,
                self.config.room_bytes
            );
        }
        device.note("queues", self.queues.to_string());
        if self.queues > 1 {
            let rss = match (self.is_symmetric(), device.info.rss_fields != 0) {
                (true, _) => "symmetric",
                (false, true) => "not symmetric",
                (false, false) => "none",
            };
            device.note("rss", rss.to_owned());
        }
        device.note("rx-descriptors", rx.to_string());
        device.note("tx-descriptors", tx.to_string());
    }

    /// Stops the device for all its ports and takes it away. Rooms that it had are strays of their
    /// pools, or are given back to the one that is lent to this call.
    pub(crate) fn close(&self) {
        let mut setup = self.setup();
        if setup.closed {
            return;
        }
        setup.closed = true;
        self.gates.iter().for_each(|gate| gate.close());
        if self.device.driver() == "net_ring" && !self.device.is_gone() && self.is_started() {
            // This driver forgets what lies in its rings.
            setup.parts.iter().for_each(|part| self.drain(part, usize::MAX));
        }
        for part in setup.parts.iter().filter(|part| part.mapped) {
            // SAFETY: [S]: started; the gates of all ports are closed, or the one port is the
            // caller, so nobody uses a queue.
            unsafe { sys::weir_dpdk_stop(self.device.number) };
            part.pool.unmap(self.device.number);
        }
        self.device.close();
        setup.parts.clear();
    }

    /// Frees what the part's queues have received, at most so many frames and a burst of each.
    fn drain(&self, part: &Part, most: usize) {
        let mut frames = [ptr::null_mut(); sys::BURST];
        let mut packets = [sys::Packet::default(); sys::BURST];
        for queue in &part.queues {
            let mut freed = 0;
            while freed < most {
                let (mut said, frames) = (sys::Said::default(), frames.as_mut_ptr());
                // SAFETY: [Q] and [P]: started, and nobody uses its queues: it was not said yet
                // that it is started, the gates are closed, or the one port is the caller. There is
                // room for a burst of frames and of packets.
                let (came, count) = unsafe {
                    let (number, packets) = (self.device.number, packets.as_mut_ptr());
                    let count = sys::weir_dpdk_receive(number, *queue, frames, sys::BURST as u16);
                    let (pool, said) = (part.pool.raw(), &raw mut said);
                    (count, sys::weir_dpdk_take(pool, frames, count, 0, 0, false, packets, said))
                };
                if came == 0 {
                    break;
                }
                freed += usize::from(came);
                part.pool.stray(packets[..usize::from(count)].iter().map(|packet| packet.offset));
            }
        }
    }
}
