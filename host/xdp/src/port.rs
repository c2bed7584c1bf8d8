//! The port: rooms from the pool to the kernel and back.
//!
//! A room that the kernel has is in one of two places: `Fill`, to receive into (in the fill ring,
//! in the kernel, or in the rx ring), or `Transmit` (in the tx ring, under way, or in the
//! completion ring). A table has one byte for each room, so that whatever the kernel hands back is
//! checked, and `finish` can give back every room that is still out.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions, XdpStatistics};
use weir_layout::{BURST_AREA, Descriptor, Metadata};
use weir_pool::{BufferIndex, Packet, Pool};
use weir_port::{Inspect, Moved, Port, PortCounts, PortError, PortStatistics, Received, Steer};
use weir_steering::Key;
use weir_xdp_layout::Rules;

use crate::config::XdpConfig;
use crate::error;
use crate::inspector::Inspector;
use crate::interface::{Change, Interface, Watch};
use crate::program::{self, Claim, Program};
use crate::socket::{self, Socket};
use crate::steering::Steering;

/// Bytes that the kernel leaves free in front of a received packet (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;
/// Bytes of an Ethernet header with two VLAN tags.
const ETHERNET_MAX: u32 = 14 + 2 * 4;
/// Sizes of rooms that AF_XDP takes, in bytes.
const ROOMS: [u32; 2] = [2048, 4096];
/// Times that sending is tried in one call without the kernel taking a packet.
const TRIES: u32 = 3;
/// When to try again what waits for the kernel or for rooms.
const SOON: Duration = Duration::from_millis(1);
/// Times that a port which ends waits so long for what is under way.
const LAST_WAITS: u32 = 10;
/// Calls of `receive` between two looks at the device's own counters and news.
const LOOK: u32 = 1024;

/// Moved flows that may wait for another worker that places one.
const UNPLACED_MAX: usize = 1024;

/// Who has a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Not this port.
    Other,
    /// The kernel, to receive into.
    Fill,
    /// The kernel, to send.
    Transmit,
}

/// Packets of one queue of an interface, by AF_XDP.
#[derive(Debug)]
pub struct XdpPort {
    name: String,
    config: XdpConfig,
    rules: Rules,
    inspector: Arc<Inspector>,
    steering: Arc<Steering>,
    statistics: PortStatistics,
    /// There from `attach` to `finish`, unless the device goes away.
    live: Option<Box<Live>>,
}

/// A socket at work.
#[derive(Debug)]
struct Live {
    socket: Socket,
    claim: Claim,
    watch: Watch,
    holders: Vec<Holder>,
    /// Rooms to keep with the kernel to receive into, and how many it has.
    fill_target: u32,
    filled: u32,
    /// The pool had too few rooms to reach the target.
    short: bool,
    /// Rooms on their way to the fill ring; empty between calls.
    buffers: Vec<BufferIndex>,
    /// Bytes of a frame that may be sent: as the interface allows, and as a room could hold.
    frame_max: u32,
    frame_most: u32,
    /// Packets of the queue come to the socket.
    claiming: bool,
    /// The link is down, or has no carrier: nothing is sent.
    down: bool,
    /// Whether to ask the kernel to poll the device.
    busy_poll: bool,
    /// Packets in the tx ring that are not counted as sent: when they were last counted the kernel
    /// had not taken them.
    queued: u32,
    /// Packets that the device dropped, and that may be counted as sent.
    refused: u32,
    /// Calls of `receive` since the device was last looked at.
    calls: u32,
    /// The kernel's counters when they were last looked at.
    seen: XdpStatistics,
    /// Moved flows that the program does not know yet, in order.
    unplaced: Vec<(Key, Moved)>,
    /// Flows were placed, and not forgotten.
    placed: bool,
}

impl XdpPort {
    /// Looks at the interface and at what the machine allows. Nothing changes before
    /// [`Port::attach`].
    ///
    /// # Errors
    /// When there is no such interface or queue, it is down or another program's, its packets do
    /// not fit a room, or there is no privilege for or no AF_XDP in this kernel.
    pub fn open(name: &str, config: XdpConfig) -> Result<Self, PortError> {
        let refused = |problem: String| error::configuration(name, problem);
        drop(socket::open().map_err(|e| refused(error::of_socket(&e, &config, None)))?);
        let rules = config.rules().ok_or_else(|| {
            let most = XdpConfig::RULES_MAX;
            refused(format!(
                "more than {most} packets to `claim` and to `leave`: {most} are allowed"
            ))
        })?;
        let interface = find(&config).map_err(refused)?;
        if interface.program.is_some() && !Program::can_be_ours(&interface, &config) {
            let busy = program::Refused::Attach(config.mode, Errno::BUSY.into());
            return Err(refused(error::of_program(&busy, &config.interface, &interface)));
        }
        let statistics = PortStatistics::default();
        let steering = Steering::new(name, &interface, config.clone(), rules);
        let inspector = Inspector::new(&config, Some(Arc::clone(&steering)));
        Ok(Self {
            name: name.to_owned(),
            config,
            rules,
            inspector: Arc::new(inspector),
            steering,
            statistics,
            live: None,
        })
    }

    /// Tells how the interface is of a port that is yet to be opened.
    #[must_use]
    pub fn inspector_of(config: &XdpConfig) -> Arc<dyn Inspect> {
        Arc::new(Inspector::new(config, None))
    }

    /// Whether there is such an interface with such a queue, it is up, and its packets fit rooms of
    /// so many bytes: what needs no privilege to be known.
    ///
    /// # Errors
    /// What is not so, and what to do.
    pub fn look(config: &XdpConfig, room: u32) -> Result<(), String> {
        fits(&config.interface, &find(config)?, room)
    }

    /// What a call of the port's gives when it is broken: the socket is closed, the rooms go back.
    fn broken(&mut self, pool: &mut Pool, problem: impl Into<String>) -> PortError {
        let problem = problem.into();
        self.inspector.broken(&problem);
        self.close(pool);
        error::device(&self.name, problem)
    }

    fn close(&mut self, pool: &mut Pool) {
        let Some(mut live) = self.live.take() else { return };
        live.look(&self.statistics);
        let mut counts = PortCounts::default();
        live.socket.tx.waiting();
        live.count_sent(&mut counts);
        counts.tx_dropped_down += u64::from(live.queued);
        self.statistics.add(&counts);
        self.inspector.closing();
        self.steering.closing(live.watch.is_there());
        let holders = live.close();
        for (room, holder) in holders.into_iter().enumerate() {
            if holder != Holder::Other
                && let Some(buffer) = room_at(pool, room as u64 * u64::from(pool.room_bytes()))
            {
                pool.give(buffer);
            }
        }
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        // Others may keep the program: it is not to go on with this port's rules.
        if let Some(live) = &self.live {
            self.inspector.closing();
            self.steering.closing(live.watch.is_there());
        }
        self.inspector.dropped();
    }
}

/// The interface as it is now, if a port can be on it.
fn find(config: &XdpConfig) -> Result<Interface, String> {
    let name = &config.interface;
    let interface = Interface::find(name)
        .map_err(|error| format!("the kernel does not tell about interface {name}: {error}"))?
        .ok_or_else(|| {
            format!("there is no interface {name} in this network namespace: `ip link` lists them")
        })?;
    if !interface.up {
        return Err(error::down(name));
    }
    let queue = config.queue;
    if queue >= interface.queues {
        let last = interface.queues.saturating_sub(1);
        return Err(format!("{name} has no queue {queue}: its queues are 0 to {last}"));
    }
    if queue >= program::queues() {
        let last = program::queues() - 1;
        return Err(format!("this host does not reach queue {queue} of {name}: only 0 to {last}"));
    }
    Ok(interface)
}

/// Whether AF_XDP takes rooms of so many bytes, and they hold the interface's packets.
fn fits(name: &str, interface: &Interface, room: u32) -> Result<(), String> {
    if !ROOMS.contains(&room) {
        return Err(format!(
            "AF_XDP takes rooms of 2048 or 4096 bytes, the pool's have {room}: set [pool] room"
        ));
    }
    let most = room - KERNEL_HEADROOM - ETHERNET_MAX;
    if interface.mtu > most {
        let other = if room == ROOMS[0] { "raise [pool] room to 4096, or " } else { "" };
        return Err(format!(
            "{name} has an MTU of {}, and a room of {room} bytes holds {most} with the Ethernet header and the kernel's \
             headroom: {other}`ip link set dev {name} mtu {most}`",
            interface.mtu
        ));
    }
    Ok(())
}

/// The room that this address of the umem lies in.
#[inline]
fn room_at(pool: &Pool, address: u64) -> Option<BufferIndex> {
    pool.index_of(u32::try_from(address).ok()?.checked_add(BURST_AREA as u32)?)
}

impl Live {
    fn new(
        config: &XdpConfig,
        steering: &Steering,
        interface: &Interface,
        pool: &mut Pool,
    ) -> Result<Self, String> {
        let name = &config.interface;
        let untold = |error| format!("the kernel does not tell what becomes of {name}: {error}");
        let watch = Watch::new(interface.index).map_err(untold)?;
        // From here on it is told what changes.
        let down = Interface::find(name).map_err(untold)?.is_none_or(|now| !now.is_live());
        let claim = steering.attach(interface)?;
        let socket = Socket::new(interface.index, config, pool).map_err(|failed| {
            steering.closing(true);
            error::of_socket(&failed, config, Some(pool))
        })?;
        let rooms = pool.rooms();
        let fill_target = config.rx_ring.min(rooms / 4).max(1);
        Ok(Self {
            socket,
            claim,
            watch,
            holders: vec![Holder::Other; rooms as usize],
            fill_target,
            filled: 0,
            short: false,
            buffers: Vec::with_capacity(fill_target as usize),
            frame_max: interface.mtu + ETHERNET_MAX,
            frame_most: pool.room_bytes() - KERNEL_HEADROOM,
            claiming: false,
            down,
            busy_poll: config.busy_poll.is_some(),
            queued: 0,
            refused: 0,
            calls: 0,
            seen: XdpStatistics {
                rx_dropped: 0,
                rx_invalid_descs: 0,
                tx_invalid_descs: 0,
                rx_ring_full: None,
                rx_fill_ring_empty_descs: None,
                tx_ring_empty_descs: None,
            },
            unplaced: Vec::with_capacity(UNPLACED_MAX),
            placed: false,
        })
    }

    /// Closes the socket, so that the kernel lets go of every room; the answer is which it had.
    fn close(self) -> Vec<Holder> {
        let Self { socket, claim, holders, .. } = self;
        drop(socket);
        drop(claim);
        holders
    }

    /// Gives the kernel rooms to receive into, as many as it should have and the pool has.
    #[inline]
    fn refill(&mut self, pool: &mut Pool) {
        let wanted = self.fill_target.saturating_sub(self.filled);
        if wanted == 0 {
            return;
        }
        pool.take_all(&mut self.buffers, wanted as usize);
        self.short = self.buffers.len() < wanted as usize;
        for buffer in self.buffers.drain(..) {
            let room = buffer.get();
            self.holders[room as usize] = Holder::Fill;
            self.filled += 1;
            // The ring has at least as many entries as the target, and the kernel never more rooms
            // than that.
            let pushed = self.socket.fill.push(u64::from(room) * u64::from(pool.room_bytes()));
            debug_assert!(pushed, "the fill ring holds the target");
        }
        self.socket.fill.publish();
    }

    /// Takes back the rooms of packets that were sent.
    #[inline]
    fn reap(&mut self, pool: &mut Pool) {
        let mut any = false;
        while let Some(address) = self.socket.completion.pop() {
            any = true;
            if let Some(buffer) = room_at(pool, address)
                && self.holders[buffer.get() as usize] == Holder::Transmit
            {
                self.holders[buffer.get() as usize] = Holder::Other;
                pool.give(buffer);
            } else {
                debug_assert!(false, "the kernel completed {address:#x}, which was not to be sent");
            }
        }
        if any {
            self.socket.completion.release();
        }
    }

    /// Packets that came in, at most `max`; their places in the fill ring are filled again.
    #[inline]
    fn take(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
        counts: &mut PortCounts,
    ) {
        let time = now();
        for _ in 0..max {
            let Some(XdpDesc { addr, len, .. }) = self.socket.rx.pop() else { break };
            let room = room_at(pool, addr)
                .filter(|buffer| self.holders[buffer.get() as usize] == Holder::Fill);
            let Some(buffer) = room else {
                debug_assert!(false, "the kernel received into {addr:#x}, which it was not given");
                continue;
            };
            self.holders[buffer.get() as usize] = Holder::Other;
            self.filled -= 1;
            let descriptor = Descriptor { offset: addr as u32 + BURST_AREA as u32, length: len };
            counts.rx_packets += 1;
            counts.rx_bytes += u64::from(len);
            into.push(Packet { descriptor, metadata: Metadata::default(), time, buffer, cut: 0 });
        }
        self.socket.rx.release();
        self.refill(pool);
    }

    /// Has the kernel send what is in the tx ring. In copy mode it does so within the call, some
    /// packets at a time.
    fn transmit(&mut self, pool: &mut Pool) -> Result<(), Errno> {
        let mut stuck = 0;
        let mut waiting = self.socket.tx.waiting();
        while waiting > 0 && stuck < TRIES {
            match self.socket.wake_tx() {
                Ok(()) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {}
                // The device dropped one packet; it is completed like one that was sent.
                Err(Errno::BUSY) => self.refused += 1,
                Err(Errno::NETDOWN) => {
                    self.down = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if self.socket.zero_copy {
                return Ok(());
            }
            self.reap(pool);
            let left = self.socket.tx.waiting();
            stuck = if left < waiting { 0 } else { stuck + 1 };
            waiting = left;
        }
        Ok(())
    }

    /// Counts what the kernel has taken out of the tx ring, as far as that was seen.
    #[inline]
    fn count_sent(&mut self, counts: &mut PortCounts) {
        let left = self.socket.tx.left();
        // Of a port that ends the rest was counted already.
        let taken = self.queued.saturating_sub(left);
        let refused = self.refused.min(taken);
        self.queued -= taken;
        self.refused -= refused;
        counts.tx_packets += u64::from(taken - refused);
        counts.tx_errors += u64::from(refused);
    }

    /// Waits a moment until the device has sent what the kernel has taken: it may copy from the
    /// rooms only then.
    fn wait_until_sent(&mut self, pool: &mut Pool) {
        for _ in 0..LAST_WAITS {
            self.reap(pool);
            let out = self.holders.iter().filter(|holder| **holder == Holder::Transmit).count();
            if self.socket.zero_copy || out <= self.socket.tx.waiting() as usize {
                return;
            }
            std::thread::sleep(SOON);
        }
    }

    /// Adds what the kernel counted since the last look.
    fn look(&mut self, statistics: &PortStatistics) {
        self.calls = 0;
        let Some(now) = self.socket.statistics() else { return };
        let seen = std::mem::replace(&mut self.seen, now);
        let since = |now: Option<u64>, seen: Option<u64>| now.unwrap_or(0) - seen.unwrap_or(0);
        let ring_full = since(now.rx_ring_full, seen.rx_ring_full);
        let fill_empty = since(now.rx_fill_ring_empty_descs, seen.rx_fill_ring_empty_descs);
        let dropped = now.rx_dropped - seen.rx_dropped;
        // Without a room to copy to, a packet is counted as dropped and the empty fill ring as
        // well; else it is dropped because it is longer than a room. A device that reads the fill
        // ring itself drops by its own counters.
        let no_room = dropped.min(fill_empty);
        let mut counts = PortCounts {
            rx_dropped_overrun: ring_full,
            rx_dropped_too_large: dropped - no_room,
            rx_errors: now.rx_invalid_descs - seen.rx_invalid_descs,
            tx_errors: now.tx_invalid_descs - seen.tx_invalid_descs,
            ..PortCounts::default()
        };
        if self.short {
            counts.rx_dropped_no_buffer = no_room;
        } else {
            counts.rx_dropped_overrun += no_room;
        }
        statistics.add(&counts);
    }

    /// Has the program send a flow on as a function did, behind those that wait for that. False: it
    /// does not.
    fn place(&mut self, queue: u32, flow: &Key, to: Moved) -> bool {
        self.placed = true;
        let waits = self.place_waiting(queue);
        match (!waits).then(|| self.claim.program().maps().place(queue, flow, to)).flatten() {
            Some(placed) => placed.is_ok(),
            None => self.wait_to_place(flow, to),
        }
    }

    fn wait_to_place(&mut self, flow: &Key, to: Moved) -> bool {
        let room = self.unplaced.len() < UNPLACED_MAX;
        if room {
            self.unplaced.push((*flow, to));
        }
        room
    }

    /// Places moved flows that had to wait; whether some have to still.
    #[cold]
    fn place_waiting(&mut self, queue: u32) -> bool {
        let maps = self.claim.program().maps();
        let place = |(flow, to): &(Key, Moved)| maps.place(queue, flow, *to).is_some();
        let done = self.unplaced.iter().take_while(|waiting| place(waiting)).count();
        self.unplaced.drain(..done);
        !self.unplaced.is_empty()
    }

    /// Looks at the interface's news. False: it is gone.
    fn follow(&mut self, pool: &mut Pool, name: &str) -> bool {
        match self.watch.change() {
            Ok(Some(Change::Gone)) => return false,
            Ok(Some(Change::Down)) => self.down = true,
            Ok(Some(Change::Up { mtu })) => {
                self.down = false;
                if let Some(mtu) = mtu {
                    let frame_max = (mtu + ETHERNET_MAX).min(self.frame_most);
                    let most = self.frame_most - ETHERNET_MAX;
                    if mtu > most && frame_max != self.frame_max {
                        tracing::warn!(
                            "{name} has an MTU of {mtu} now, and a room holds {most}: longer packets are dropped, and the next start of the port is refused"
                        );
                    }
                    self.frame_max = frame_max;
                }
                // What waited for the link.
                return self.transmit(pool).is_ok();
            }
            // Without news, the calls that move packets still tell.
            Ok(None) | Err(_) => {}
        }
        true
    }
}

impl Port for XdpPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "xdp"
    }

    fn attach(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        let refused = |problem: String| error::configuration(&self.name, problem);
        let interface = find(&self.config).map_err(refused)?;
        let name = &self.config.interface;
        fits(name, &interface, pool.room_bytes()).map_err(refused)?;
        let live = Live::new(&self.config, &self.steering, &interface, pool).map_err(refused)?;
        if interface.strips_tags(name) {
            tracing::warn!(
                port = self.name,
                "{name} takes VLAN tags out of what it receives, and frames come without: `ethtool -K {name} rxvlan off`"
            );
        }
        let program = live.claim.program();
        self.inspector.opened(program, interface.index, live.socket.zero_copy);
        self.live = Some(Box::new(live));
        Ok(())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let Some(live) = &mut self.live else { return Ok(Received::End) };
        if !live.claiming {
            // A port that nobody reads claims nothing: the kernel keeps those packets.
            live.refill(pool);
            let claimed = live.claim.program().maps().claim(
                self.config.queue,
                &self.rules,
                live.socket.as_fd(),
            );
            if let Err(error) = claimed {
                return Err(
                    self.broken(pool, format!("the XDP program does not take the socket: {error}"))
                );
            }
            live.claiming = true;
        }
        if !live.unplaced.is_empty() {
            live.place_waiting(self.config.queue);
        }
        live.calls += 1;
        let mut counts = PortCounts::default();
        if live.calls >= LOOK {
            live.look(&self.statistics);
            let there = live.follow(pool, &self.config.interface);
            live.socket.tx.waiting();
            live.count_sent(&mut counts);
            self.statistics.add(&counts);
            counts = PortCounts::default();
            if !there {
                let gone = error::gone(&self.config.interface);
                return Err(self.broken(pool, gone));
            }
        }
        if live.socket.rx.available(1) == 0 {
            live.reap(pool);
            live.refill(pool);
            self.inspector.filled(live.filled);
            if live.busy_poll || live.socket.fill.needs_wakeup() {
                // What is wrong with the device comes by its news.
                let _ = live.socket.wake_rx();
            }
            return Ok(Received::Waiting);
        }
        live.take(pool, into, max, &mut counts);
        self.inspector.filled(live.filled);
        self.statistics.add(&counts);
        Ok(Received::Packets)
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        let mut result = Ok(());
        if let Some(live) = &mut self.live {
            live.reap(pool);
            for packet in packets.drain(..) {
                let Descriptor { offset, length } = packet.descriptor;
                if live.down {
                    counts.tx_dropped_down += 1;
                } else if length == 0 || length > live.frame_max {
                    counts.tx_dropped_length += 1;
                } else {
                    if live.socket.tx.free(1) == 0 && result.is_ok() {
                        live.socket.tx.publish();
                        result = live.transmit(pool);
                    }
                    let addr = u64::from(offset - BURST_AREA as u32);
                    let desc = XdpDesc { addr, len: length, options: XdpDescOptions::empty() };
                    if live.socket.tx.push(desc) {
                        live.holders[packet.buffer.get() as usize] = Holder::Transmit;
                        live.queued += 1;
                        counts.tx_bytes += u64::from(length);
                        continue;
                    }
                    counts.tx_dropped_full += 1;
                }
                pool.give(packet.buffer);
            }
            live.socket.tx.publish();
            if result.is_ok() && !live.down && live.socket.tx.needs_wakeup() {
                result = live.transmit(pool);
            }
            live.count_sent(&mut counts);
        } else {
            counts.tx_dropped_down += packets.len() as u64;
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        }
        self.statistics.add(&counts);
        result.map_err(|errno| match errno {
            Errno::NXIO | Errno::NODEV => {
                let gone = error::gone(&self.config.interface);
                self.broken(pool, gone)
            }
            other => {
                let name = &self.config.interface;
                let problem = format!("sending on {name} failed: {}", std::io::Error::from(other));
                self.broken(pool, problem)
            }
        })
    }

    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        let Some(live) = &mut self.live else { return Ok(None) };
        let mut counts = PortCounts::default();
        let there = live.follow(pool, &self.config.interface);
        live.reap(pool);
        // Whatever the flag says: a kernel that went to sleep while packets were put in its ring is
        // woken here.
        let sent = if live.down { Ok(()) } else { live.transmit(pool) };
        live.count_sent(&mut counts);
        if live.claiming {
            live.refill(pool);
        }
        live.look(&self.statistics);
        let unplaced = !live.unplaced.is_empty() && live.place_waiting(self.config.queue);
        let waiting = unplaced || !live.down && live.socket.tx.waiting() > 0;
        let starving = live.claiming && live.filled < live.fill_target / 2;
        self.statistics.add(&counts);
        if !there || sent.is_err() {
            let gone = error::gone(&self.config.interface);
            return Err(self.broken(pool, gone));
        }
        Ok((waiting || starving).then_some(SOON))
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        if let Some(live) = &self.live {
            if live.claiming {
                fds.push(live.socket.as_fd());
            }
            fds.push(live.watch.as_fd());
        }
    }

    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        if let Some(live) = &mut self.live {
            // What was handed over to be sent is sent; a device that takes it later loses it.
            let mut counts = PortCounts::default();
            let _ = live.transmit(pool);
            live.wait_until_sent(pool);
            live.count_sent(&mut counts);
            counts.tx_dropped_full += u64::from(std::mem::take(&mut live.queued));
            self.statistics.add(&counts);
        }
        self.close(pool);
        Ok(())
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }

    fn steering(&self) -> Option<Arc<dyn Steer>> {
        Some(Arc::clone(&self.steering) as Arc<dyn Steer>)
    }

    fn place_flow(&mut self, flow: &Key, to: Moved) -> bool {
        let queue = self.config.queue;
        self.live.as_mut().is_some_and(|live| live.place(queue, flow, to))
    }

    fn forget_flows(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.unplaced.clear();
        if std::mem::take(&mut live.placed)
            && let Err(error) = live.claim.program().maps().forget_flows(self.config.queue)
        {
            tracing::warn!(
                port = self.name,
                "the XDP program does not forget where functions have moved flows: {error}"
            );
        }
    }

    fn inspector(&self) -> Option<Arc<dyn Inspect>> {
        Some(Arc::clone(&self.inspector) as Arc<dyn Inspect>)
    }
}

/// The time, ns since 1970; no system call.
#[inline]
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
