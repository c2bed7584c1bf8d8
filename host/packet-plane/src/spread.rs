//! Keeps a flow on its lane when a chain has several: packets that a queue received for another
//! lane's flow are handed over.
//!
//! A device with several queues spreads flows by its own rule. Where that puts both directions of a
//! flow into queues of one number ([`Spreading::Symmetric`], the same for both ports) a packet is
//! right where it came in; else the lane that a flow belongs to is chosen by [`affinity_hash`],
//! modulo the number of lanes. In both cases a flow whose addresses a function changed belongs to
//! the lane where that happened ([`Owners`]).
//!
//! Where devices choose, two kinds of packets come in by a queue that says nothing of their flow.
//! An ICMP error is put by the ends of who sent it, and not of the flow that it quotes: that flow's
//! queue is computed as the device does ([`Placement`]), if that can be told. What the kernel's
//! stack answers comes by the queue by which it was asked, but only for three seconds
//! (`TUN_FLOW_EXPIRE`) and for so many flows at a time: so lanes note themselves as owners of the
//! flows that they send there.
//!
//! [`spread`] puts a port of this kind around each of the first two ports of every lane, and around
//! the kernel's stack. A packet that is handed over enters the chain by the port of the same
//! number, and so in the same direction.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use weir_layout::{BURST_MAX, FLAG_MADE};
use weir_pool::{Packet, Pool};
use weir_port::{Placement, Port, PortCounts, PortError, Received, Spreading, pass_on};
use weir_steering::{Key, affinity, quoted};

use crate::context::{FROM, TO};
use crate::handoff::{Bell, Inlet, Outlet, handoff};
use crate::owners::Owners;

/// Packets that may be on their way from one lane to another, by one port.
const ON_THE_WAY: usize = 256;
/// Bursts for other lanes that are taken in one call before the lane looks at something else.
const FOREIGN: u32 = 4;

/// What all lanes of a chain agree on.
struct Agreed {
    owners: Owners,
    lanes: usize,
    seed: u64,
    /// The devices put a flow where it belongs.
    by_device: bool,
    /// Where that is, if it can be told.
    placement: Option<Placement>,
}

impl Agreed {
    /// The lane that a flow belongs to; none: the one that its device puts it to.
    #[inline]
    fn lane_of(&self, hash: u32, time: u64) -> Option<usize> {
        match self.owners.find(hash, time) {
            None if self.by_device => None,
            None => Some(hash as usize % self.lanes),
            lane => lane,
        }
    }

    /// The lane to which the devices put the flow that a frame is of, or is an ICMP error about, if
    /// that can be told.
    #[cold]
    fn placed(&self, frame: &[u8]) -> Option<usize> {
        let placement = self.placement.as_ref().filter(|_| self.by_device)?;
        let flow = quoted(frame, 0).unwrap_or_else(|| Key::read(frame, 0));
        // Each lane has the queues whose number, modulo that of the lanes, is its own.
        Some(usize::from(placement(&flow)?) % self.lanes)
    }
}

/// Puts what is needed around the ports of a chain's lanes, so that a flow stays on its lane:
/// nothing if there is one lane, or if packets come in by one port only. `seed` should be unknown
/// to who sends packets.
///
/// # Errors
/// When the system has no descriptors.
pub fn spread(lanes: Vec<Vec<Box<dyn Port>>>, seed: u64) -> io::Result<Vec<Vec<Box<dyn Port>>>> {
    let count = lanes.len();
    let ports = lanes.first().map_or(&[][..], Vec::as_slice);
    let [Some(from), Some(to)] = [FROM, TO].map(|n| ports.get(n).map(|port| port.spreading()))
    else {
        return Ok(lanes);
    };
    if count < 2 || from == Spreading::Nothing || to == Spreading::Nothing {
        return Ok(lanes);
    }
    // A way to the kernel's stack behind them that is a device does as devices do. What a stack
    // that follows answers goes to who has asked it, whatever they do.
    let kernel = ports.iter().skip(TO + 1).find(|port| port.is_kernel());
    let mut others = [Some(to), kernel.map(|port| port.spreading())].into_iter().flatten();
    let by_device = others.all(|other| other == from || other == Spreading::Follows)
        && matches!(from, Spreading::Symmetric { .. });
    let placement = ports[FROM].placement();
    let agreed = Agreed { owners: Owners::new(), lanes: count, seed, by_device, placement };
    let agreed = Arc::new(agreed);
    let receive = ports.iter().enumerate().filter(|(n, port)| *n <= TO || port.is_kernel());
    let receive = receive.map(|(n, _)| n).max().map_or(0, |last| last + 1);
    let mut ways =
        (0..receive).map(|_| Ok(ways(count)?.into_iter())).collect::<io::Result<Vec<_>>>()?;
    let mut around = |here, number: usize, port| -> Box<dyn Port> {
        match ways.get_mut(number).and_then(Iterator::next) {
            Some(ways) => Box::new(SpreadPort::new(port, here, Arc::clone(&agreed), ways)),
            None => port,
        }
    };
    let lanes = lanes.into_iter().enumerate().map(|(here, ports)| {
        let ports = ports.into_iter().enumerate();
        ports.map(|(number, port)| around(here, number, port)).collect()
    });
    Ok(lanes.collect())
}

/// Rooms that are the lane's, as long as none of its ways is nearly dry: a sixteenth of its pool.
#[inline]
fn leave(pool: &Pool) -> usize {
    (pool.rooms() / 16) as usize
}

/// Rooms that a lane lends to all others together by one port, if it has them: an eighth of its
/// pool. Two devices fill their rings with a quarter each, so both have what they need; with a
/// third, the way to the kernel, who comes first has more.
fn lends(pool: &Pool) -> usize {
    (pool.rooms() / 8) as usize
}

/// A lane's ways to and from the others, by one port.
struct Ways {
    bell: Arc<Bell>,
    /// By lane; none to itself.
    outlets: Vec<Option<Outlet>>,
    inlets: Vec<Inlet>,
}

fn ways(lanes: usize) -> io::Result<Vec<Ways>> {
    let mut all = Vec::with_capacity(lanes);
    for _ in 0..lanes {
        let bell = Arc::new(Bell::new()?);
        let outlets = (0..lanes).map(|_| None).collect();
        all.push(Ways { bell, outlets, inlets: Vec::with_capacity(lanes - 1) });
    }
    for from in 0..lanes {
        for to in (0..lanes).filter(|to| *to != from) {
            let most = (ON_THE_WAY / (lanes - 1)).max(16);
            let (outlet, inlet) = handoff(&all[to].bell, most);
            all[from].outlets[to] = Some(outlet);
            all[to].inlets.push(inlet);
        }
    }
    Ok(all)
}

/// See the module.
struct SpreadPort {
    inner: Box<dyn Port>,
    /// This lane's number.
    here: usize,
    agreed: Arc<Agreed>,
    /// The kernel's stack, beside devices that put flows where they belong: it does not know where
    /// that is.
    follows: bool,
    ways: Ways,
    /// Whose packets of a burst are, and how many each lane gets.
    lane_of: Vec<usize>,
    for_lane: Vec<usize>,
    /// Whether to look first at what others handed over.
    others_first: bool,
    /// The bell was told that this lane sleeps.
    slept: bool,
    /// Lanes of which it was seen before a sleep that they hand over nothing more.
    ended: usize,
}

impl SpreadPort {
    fn new(inner: Box<dyn Port>, here: usize, agreed: Arc<Agreed>, ways: Ways) -> Self {
        let for_lane = vec![0; agreed.lanes];
        let follows = agreed.by_device && inner.spreading() == Spreading::Follows;
        Self {
            inner,
            here,
            agreed,
            follows,
            ways,
            lane_of: Vec::with_capacity(BURST_MAX),
            for_lane,
            others_first: false,
            slept: false,
            ended: 0,
        }
    }

    fn count(&self, counts: &PortCounts) {
        self.inner.statistics().add(counts);
    }

    /// Takes what others handed over.
    #[inline]
    fn take_over(&mut self, pool: &mut Pool, into: &mut Vec<Packet>, most: usize) {
        let before = into.len();
        for inlet in &mut self.ways.inlets {
            inlet.take(pool, into, most.saturating_sub(into.len()));
        }
        if into.len() > before {
            let rx_taken_over = (into.len() - before) as u64;
            self.count(&PortCounts { rx_taken_over, ..PortCounts::default() });
        }
    }

    /// Receives from the port itself, and hands over what belongs elsewhere.
    #[inline]
    fn receive_own(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        most: usize,
    ) -> Result<Received, PortError> {
        let mut received = Received::Waiting;
        for _ in 0..FOREIGN {
            let (start, room) = (into.len(), most.saturating_sub(into.len()));
            if room == 0 {
                return Ok(Received::Packets);
            }
            let now = self.inner.receive(pool, into, room)?;
            if now != Received::Packets {
                return Ok(if received == Received::Packets { received } else { now });
            }
            received = now;
            self.sort(pool, into, start);
            if into.len() > start {
                break;
            }
        }
        Ok(received)
    }

    /// Keeps this lane's packets among those from `start` on.
    #[inline]
    fn sort(&mut self, pool: &mut Pool, into: &mut Vec<Packet>, start: usize) {
        self.lane_of.clear();
        self.for_lane.fill(0);
        for packet in &mut into[start..] {
            let bytes = pool.bytes(packet.descriptor).unwrap_or_default();
            let (hash, error) = affinity(bytes, self.agreed.seed);
            packet.metadata.hash = hash;
            let mut lane = self.agreed.lane_of(hash, packet.time);
            if (error || self.follows) && lane.is_none() {
                lane = self.agreed.placed(bytes);
            }
            let lane = lane.unwrap_or(self.here);
            self.lane_of.push(lane);
            self.for_lane[lane] += 1;
        }
        if self.for_lane[self.here] == self.lane_of.len() {
            return;
        }
        let packets = &into[start..];
        let mut counts = PortCounts::default();
        for (lane, wanted) in self.for_lane.iter().enumerate() {
            if let Some(outlet) = self.ways.outlets[lane].as_ref().filter(|_| *wanted > 0) {
                let its = packets.iter().zip(&self.lane_of).filter(|(_, of)| **of == lane);
                let handed = outlet.hand_over(pool, its.map(|(packet, _)| packet));
                counts.rx_handed_over += handed as u64;
                counts.rx_dropped_handoff_full += (wanted - handed) as u64;
            }
        }
        self.count(&counts);
        // They were copied or dropped.
        let mut kept = start;
        for place in start..into.len() {
            let packet = into[place];
            if self.lane_of[place - start] == self.here {
                into[kept] = packet;
                kept += 1;
            } else {
                pool.give(packet.buffer);
            }
        }
        into.truncate(kept);
    }

    /// What this lane has made another flow of is its own also when it comes back, and so is what
    /// it sends to a stack that follows.
    #[inline]
    fn claim(&self, pool: &Pool, packets: &[Packet]) {
        for packet in packets {
            let bytes = pool.bytes(packet.descriptor).unwrap_or_default();
            let (hash, error) = affinity(bytes, self.agreed.seed);
            // Nobody answers an error.
            if error || hash == packet.metadata.hash && !self.follows {
                continue;
            }
            match self.agreed.lane_of(hash, packet.time) {
                Some(lane) if lane == self.here => {}
                // What a function makes is mostly about a flow that is here anyhow.
                None if !self.follows
                    && packet.metadata.flags & FLAG_MADE != 0
                    && self.agreed.placed(bytes) == Some(self.here) => {}
                _ => self.agreed.owners.note(hash, self.here, packet.time),
            }
        }
    }

    fn end(&self) {
        self.ways.outlets.iter().flatten().for_each(Outlet::end);
    }
}

impl Port for SpreadPort {
    pass_on!(inner: name, kind, statistics, is_kernel, reaches_kernel);
    pass_on!(inner: steering, place_flow, spreading, placement, inspector);

    fn attach(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.inner.attach(pool)?;
        let share = lends(pool) / self.ways.inlets.len().max(1);
        for inlet in &mut self.ways.inlets {
            inlet.attach(pool, share);
            inlet.lend(pool, leave(pool));
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
        if self.slept {
            self.slept = false;
            self.ways.bell.wake();
        }
        for inlet in &mut self.ways.inlets {
            inlet.lend(pool, leave(pool));
        }
        let (before, most) = (into.len(), into.len() + max);
        self.others_first = !self.others_first;
        if self.others_first {
            self.take_over(pool, into, most);
        }
        let received = self.receive_own(pool, into, most);
        if !self.others_first {
            self.take_over(pool, into, most);
        }
        let received = received?;
        if received == Received::End {
            self.end();
        }
        Ok(match received {
            _ if into.len() > before => Received::Packets,
            Received::End if !self.ways.inlets.iter().all(Inlet::has_ended) => Received::Waiting,
            received => received,
        })
    }

    #[inline]
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.claim(pool, packets);
        self.inner.send(pool, packets)
    }

    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        // By another port's way there the answers do not come to a lane.
        if self.inner.is_kernel() {
            self.claim(pool, packets);
        }
        self.inner.to_kernel(pool, packets)
    }

    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        let again = self.inner.settle(pool)?;
        self.slept = true;
        self.ways.bell.sleep();
        let something = self.ways.inlets.iter().any(Inlet::has_packets);
        // Who ended before that has rung for nobody, and may be the last that this lane waits for.
        let ended = self.ways.inlets.iter().filter(|inlet| inlet.has_ended()).count();
        let something = something || ended > mem::replace(&mut self.ended, ended);
        Ok(if something { Some(Duration::ZERO) } else { again })
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.inner.readiness(fds);
        fds.push(self.ways.bell.fd());
    }

    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.end();
        let lost = self.ways.inlets.iter_mut().map(|inlet| inlet.close(pool)).sum();
        self.count(&PortCounts { rx_dropped_handoff_full: lost, ..PortCounts::default() });
        self.inner.finish(pool)
    }
}

impl Drop for SpreadPort {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, PoolConfig};
    use weir_port::memory::{Wire, channel};

    use super::*;

    fn lane() -> (Vec<Box<dyn Port>>, Vec<Wire>) {
        let ends = ["in", "out"].map(channel);
        let ends = ends.into_iter().map(|(port, wire)| (Box::new(port) as Box<dyn Port>, wire));
        ends.unzip()
    }

    /// The other lane may end between this one's last look and its sleep.
    #[test]
    fn who_is_about_to_sleep_hears_that_the_last_other_lane_has_ended() {
        let [(one, wires), (two, _others)] = [lane(), lane()];
        drop(wires);
        let mut lanes = spread(vec![one, two], 1).unwrap();
        let config = PoolConfig { rooms: 256, room_bytes: 2048, huge: HugePages::Never };
        let mut pool = Pool::new("test", &config).unwrap();
        let (mut here, other) = (lanes[0].remove(0), lanes[1].remove(0));
        here.attach(&mut pool).unwrap();
        let mut packets = Vec::new();
        assert_eq!(here.receive(&mut pool, &mut packets, 32).unwrap(), Received::Waiting);
        drop(other);
        assert_eq!(here.settle(&mut pool).unwrap(), Some(Duration::ZERO));
        assert_eq!(here.receive(&mut pool, &mut packets, 32).unwrap(), Received::End);
        // It is told once.
        assert_eq!(here.settle(&mut pool).unwrap(), None);
    }
}
