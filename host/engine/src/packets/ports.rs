//! The host's ports: which there are, and who has them.

mod away;
mod kept;
mod open;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Result;
use weir_control::engine::{EngineError, EventSink};
use weir_kernel_port::{KernelPort, StackPort, TapDevice};
use weir_peer::{Addresses, Neighbours, PeerPort};
use weir_port::memory::{Keep, MemoryPort};
use weir_port::{Inspect, Port, PortStatistics};
use weir_spec::{Chain, Invalid, Name, PortKind, counted};
use weir_xdp::XdpPort;

use self::away::{Away, PAUSE};
pub(super) use self::away::{settled, watch};
pub(super) use self::kept::Kept;
pub(crate) use self::open::check;
use self::open::{
    Opened, check_captures, check_devices, dpdk_devices, hardware_address, is_on_vf, located, open,
    problem, start_dpdk, xdp,
};
pub(super) use self::open::{interface, queue_of, room_bytes};
use super::crossing::Shape;
use super::links;
use crate::{queues, warnings};

/// The port of a chain that has none.
const NONE: &str = "none";

/// All ports.
pub(super) struct Ports {
    /// In the configuration's order.
    slots: Vec<Slot>,
    /// Bytes of a room of all pools.
    room_bytes: u32,
    /// The host stops: no chain gets ports any more.
    closed: bool,
    /// Where it is told what becomes of ports.
    sink: Arc<OnceLock<EventSink>>,
    /// Whoever tries ports again is told that there is one, by the other end until there is
    /// somebody.
    wake: Sender<()>,
    woken: Option<Receiver<()>>,
    /// Told when one is not being tried any more.
    tried: Arc<Condvar>,
}

pub(super) struct Slot {
    pub(super) config: weir_spec::Port,
    /// No other port is on its interface.
    alone: bool,
    pub(super) chain: Option<Name>,
    /// There as long as no chain has it: one for each lane that it was opened for.
    ports: Vec<Box<dyn Port>>,
    /// Ways to the kernel beside them, one for each if there are any.
    taps: Vec<TapDevice>,
    /// The hardware address by which the wire knows the kernel: that of the kernel's interface, or,
    /// if that is another port's peer, the port's own.
    kernel: Option<[u8; 6]>,
    /// The port's own hardware address.
    own: Option<[u8; 6]>,
    /// What the ports count, one for each lane.
    pub(super) statistics: Vec<PortStatistics>,
    /// Tell how the devices are, if there are any.
    pub(super) inspectors: Vec<Arc<dyn Inspect>>,
    /// What was told of the port's interface.
    pub(super) told: links::Told,
    /// There while it could not be opened.
    away: Option<Away>,
    /// When it is tried again after it could not be opened, or given to a chain.
    pause: Duration,
    /// What goes on to drop packets since a chain's ports were closed, until the port is opened
    /// anew.
    kept: Vec<Kept>,
    /// Its device is a virtual function that the host has set up: one that comes back is not set
    /// up, and nothing is done by itself.
    pub(super) is_set_up: bool,
}

impl Slot {
    /// One that is yet to be opened.
    fn new(config: &weir_spec::Port, alone: bool, is_set_up: bool) -> Self {
        let inspector = (config.kind == PortKind::Xdp).then(|| XdpPort::inspector_of(&xdp(config)));
        Self {
            config: config.clone(),
            alone,
            chain: None,
            ports: Vec::new(),
            taps: Vec::new(),
            kernel: None,
            own: None,
            statistics: Vec::new(),
            inspectors: inspector.into_iter().collect(),
            told: links::Told::default(),
            away: None,
            pause: PAUSE,
            kept: Vec::new(),
            is_set_up,
        }
    }

    /// Lanes for which it is opened while no chain has it: each queue of an interface is looked at;
    /// another device knows how many it has.
    fn first_lanes(&self) -> usize {
        match self.config.kind {
            PortKind::Xdp => self.config.queues.unwrap_or(1).into(),
            _ => 1,
        }
    }

    /// Opens the port anew for so many lanes.
    fn reopen(&mut self, room_bytes: u32, lanes: usize) -> Result<()> {
        // A device can be had once.
        self.ports.clear();
        self.taps.clear();
        self.put(Opened::new(&self.config, room_bytes, lanes, self.alone)?);
        Ok(())
    }

    fn put(&mut self, opened: Opened) {
        let Opened { ports, taps, kernel, own, inspectors } = opened;
        self.statistics = ports.iter().map(|port| port.statistics().clone()).collect();
        (self.ports, self.taps, self.inspectors) = (ports, taps, inspectors);
        (self.kernel, self.own) = (kernel, own);
    }

    /// The hardware addresses on the link to the kernel's interface, which the wire knows by
    /// `wire`.
    fn addresses(&self, peer: &str, wire: Option<[u8; 6]>) -> Result<Addresses, EngineError> {
        let name = &self.config.name;
        let refused = |what: String| EngineError::Refused(format!("port {name}: {what}"));
        let kernel = hardware_address(peer).ok_or_else(|| {
            refused(format!(
                "the interface {peer} (`peer`) is not there, or has no hardware address"
            ))
        })?;
        let own = self.own.ok_or_else(|| {
            refused("its device does not tell its hardware address, which `peer` needs".to_owned())
        })?;
        Ok(Addresses { wire: wire.unwrap_or(kernel), own, kernel })
    }

    /// A virtual function that no chain has is not kept open: whoever removes it would wait for
    /// ever.
    fn let_go_of_vf(&mut self) {
        if is_on_vf(&self.config) {
            self.ports.clear();
        }
    }

    /// Whether the port worked and works no more, and its device can be opened anew: an interface
    /// that went away can come back.
    pub(super) fn has_ended(&self) -> bool {
        self.away.is_none()
            && interface(&self.config).is_some()
            && self.inspectors.iter().any(|inspector| inspector.inspect().problem.is_some())
    }

    /// Whether its device says that packets can leave and come.
    pub(super) fn has_link(&self) -> bool {
        let inspector = self.inspectors.first();
        inspector.is_some_and(|inspector| inspector.inspect().fact("link") == Some("up"))
    }

    /// Queues of which each lane needs one; none: as many as there are lanes.
    fn queues(&self) -> Option<usize> {
        match self.config.kind {
            PortKind::Memory => None,
            PortKind::Pcap => Some(1),
            PortKind::Xdp | PortKind::Dpdk => Some(self.config.queues.unwrap_or(1).into()),
        }
    }

    /// Whether so many lanes can have it.
    fn check_lanes(&self, lanes: usize) -> Result<(), EngineError> {
        let (name, queues) = (&self.config.name, self.queues().unwrap_or(lanes));
        let (problem, help) = match self.config.kind {
            PortKind::Pcap if lanes > 1 => (
                format!(
                    "port {name} is of kind \"pcap\", which has one queue, but the chain wants {lanes} workers"
                ),
                "leave `workers` out, or use a port of another kind".to_owned(),
            ),
            _ if lanes > queues => (
                format!(
                    "port {name} has {} (`queues`), but the chain wants {lanes} workers",
                    counted(queues, "queue")
                ),
                format!(
                    "set `queues = {lanes}` for the port if its device has so many, or lower `workers`"
                ),
            ),
            PortKind::Xdp if lanes < queues => (
                format!(
                    "port {name} has {queues} queues, but the chain has {lanes} of `workers`, and each takes one queue"
                ),
                format!("set `workers = {queues}`, or lower the port's `queues`"),
            ),
            PortKind::Memory
                if self.config.generate.as_ref().is_some_and(|g| (g.flows as usize) < lanes) =>
            {
                (
                    format!(
                        "port {name} generates fewer flows than the chain wants workers ({lanes})"
                    ),
                    "raise `flows`, or lower `workers`".to_owned(),
                )
            }
            _ => return Ok(()),
        };
        Err(EngineError::At(Invalid::at("workers", problem).help(help)))
    }
}

impl Ports {
    /// Opens them all, so that what is wrong with one is known at the start: those that cannot be
    /// opened are down. `is_set_up`: whether a port's device is a virtual function that the host
    /// has set up.
    ///
    /// # Errors
    /// What is wrong with the configuration, on whatever machine.
    pub(super) fn new(
        configs: &[weir_spec::Port],
        room_bytes: u32,
        is_set_up: impl Fn(&Name) -> bool,
        sink: Arc<OnceLock<EventSink>>,
    ) -> Result<Self, Invalid> {
        check_devices(configs)?;
        check_captures(configs)?;
        start_dpdk(configs);
        let (wake, woken) = mpsc::channel();
        let slots = configs.iter().map(|config| {
            let alone = queues::is_alone(configs.iter(), config);
            Slot::new(config, alone, is_set_up(&config.name))
        });
        let slots = slots.collect();
        let (woken, tried) = (Some(woken), Arc::default());
        let mut ports = Self { slots, room_bytes, closed: false, sink, wake, woken, tried };
        for (place, config) in configs.iter().enumerate() {
            let slot = &mut ports.slots[place];
            let lanes = slot.first_lanes();
            match slot.reopen(room_bytes, lanes) {
                Ok(()) => slot.let_go_of_vf(),
                // There is nothing outside the configuration that it could lack, but its way to the
                // kernel.
                Err(error)
                    if config.kind == PortKind::Memory
                        && open(config, room_bytes, lanes, false).is_err() =>
                {
                    return Err(located(config, place, &error));
                }
                Err(error) => {
                    drop(ports.note_away(place, &error));
                    weir_dpdk::release(dpdk_devices(std::slice::from_ref(config)));
                }
            }
        }
        Ok(ports)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Whether a tenant's chain could have its ports for so many lanes; those that `holder` has now
    /// count as free.
    pub(super) fn check(
        &self,
        chain: &Chain,
        tenant: &Name,
        holder: Option<&Name>,
        lanes: usize,
    ) -> Result<(), EngineError> {
        for name in &self.names(chain.from.as_ref(), chain.to.as_ref()) {
            let key = if Some(name) == chain.to.as_ref() && Some(name) != chain.from.as_ref() {
                "to"
            } else {
                "from"
            };
            let Some(slot) = self.slots.iter().find(|slot| slot.config.name == *name) else {
                let all: Vec<&str> = self.slots.iter().map(|s| s.config.name.as_str()).collect();
                let all = if all.is_empty() { "none".into() } else { all.join(", ") };
                return Err(EngineError::Refused(format!(
                    "there is no port {name}: the host's ports are {all}"
                )));
            };
            if slot.config.tenant != *tenant {
                return Err(EngineError::Refused(format!("port {name} is not tenant {tenant}'s")));
            }
            if let Some(other) = &slot.chain
                && Some(other) != holder
            {
                return Err(EngineError::Conflict(format!(
                    "port {name} belongs to chain {other}: chains share a port only if `from` and `to` of both are the same, \
                     and one has `steered = true`"
                )));
            }
            if slot.config.peer.is_some() && [&chain.from, &chain.to].contains(&&Some(name.clone()))
            {
                let message = format!(
                    "port {name} is a way to the kernel (`peer`), and no place where packets enter and leave"
                );
                let help = "name the port that has it as `kernel-port`";
                return Err(EngineError::At(Invalid::at(key, message).help(help)));
            }
            slot.check_lanes(lanes)?;
        }
        Ok(())
    }

    /// Of a chain's ports the first that works no more, and is to be opened anew.
    pub(super) fn ended(&self, chain: &Chain) -> Option<Name> {
        let names = self.names(chain.from.as_ref(), chain.to.as_ref());
        names.into_iter().find(|name| self.slot(Some(name)).is_some_and(Slot::has_ended))
    }

    /// Opens those of a chain's ports for so many lanes that no chain has and that were down, and
    /// sees whether others that work no more could be opened anew.
    ///
    /// # Errors
    /// When one stays down, or the host stops.
    pub(super) fn open_down(&mut self, chain: &Chain, lanes: usize) -> Result<(), EngineError> {
        self.check_open()?;
        for name in self.names(chain.from.as_ref(), chain.to.as_ref()) {
            let Some(place) = self.slots.iter().position(|slot| slot.config.name == name) else {
                continue;
            };
            let slot = &self.slots[place];
            if slot.chain.is_none() && (slot.away.is_some() || slot.has_ended()) {
                self.reopen(place, lanes)?;
                // The chain may be refused yet.
                self.slots[place].let_go_of_vf();
            } else if slot.has_ended() {
                // Nothing is taken from the device before it is attached.
                drop(open(&slot.config, self.room_bytes, lanes, slot.alone).map_err(|error| {
                    let problem = problem(&error);
                    EngineError::Refused(format!("port {name} is down, and stays so: {problem}"))
                })?);
            }
        }
        Ok(())
    }

    /// The ports of a chain between these two: the way to the kernel that is a port of its own is
    /// the last.
    pub(super) fn names(&self, from: Option<&Name>, to: Option<&Name>) -> Vec<Name> {
        let slot = self.slots.iter().find(|slot| Some(&slot.config.name) == from);
        let kernel = slot.and_then(|slot| slot.config.kernel_port.as_ref());
        from.into_iter().chain(to.filter(|to| Some(*to) != from)).chain(kernel).cloned().collect()
    }

    /// What to say of a chain's ports, although it could have them.
    pub(super) fn warnings(&self, chain: &Chain) -> Vec<String> {
        let names = self.names(chain.from.as_ref(), chain.to.as_ref());
        let slots = names.iter().filter_map(|name| self.slot(Some(name)));
        let configs = || self.slots.iter().map(|slot| &slot.config);
        slots.flat_map(|slot| warnings(configs(), &slot.config)).collect()
    }

    /// The names of the ports that each lane of a chain is to have, by number.
    pub(super) fn lane_ports(&self, chain: &Chain) -> Vec<String> {
        let ends = self.names(chain.from.as_ref(), chain.to.as_ref());
        let mut ports: Vec<String> = ends.iter().map(Name::to_string).collect();
        // Behind the other ports: chains may go up to it.
        ports.extend(self.slot(chain.from.as_ref()).and_then(|slot| slot.config.kernel.clone()));
        if ports.is_empty() {
            ports.push(NONE.to_owned());
        }
        ports
    }

    fn slot(&self, name: Option<&Name>) -> Option<&Slot> {
        self.slots.iter().find(|slot| Some(&slot.config.name) == name)
    }

    pub(super) fn slot_mut(&mut self, name: &Name) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.config.name == *name)
    }

    /// The host stops: ports that no chain has are let go of, and no chain gets one from now on.
    /// Changes that are still under way then keep no device from being left as it was found.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for slot in &mut self.slots {
            slot.ports.clear();
            slot.taps.clear();
            slot.let_go_of_kept();
        }
    }

    /// Whether chains may come to ports.
    ///
    /// # Errors
    /// When the host stops.
    pub(super) fn check_open(&self) -> Result<(), EngineError> {
        if self.closed {
            return Err(EngineError::Conflict("the host stops, and deploys no chain".into()));
        }
        Ok(())
    }

    /// Opens those of a chain's ports that no chain has. The answer is the link to the kernel's
    /// interface, if a port leads there.
    ///
    /// # Errors
    /// When a device is not there; every port is then whose it was.
    pub(super) fn open(
        &mut self,
        chain: &Chain,
        lanes: usize,
    ) -> Result<Option<Addresses>, EngineError> {
        let opened = self.try_open(chain, lanes);
        if opened.is_err() {
            self.let_go_of_vfs(chain);
        }
        opened
    }

    fn try_open(&mut self, chain: &Chain, lanes: usize) -> Result<Option<Addresses>, EngineError> {
        self.check_open()?;
        let wanted = self.names(chain.from.as_ref(), chain.to.as_ref());
        for name in &wanted {
            let free = |slot: &Slot| slot.config.name == *name && slot.chain.is_none();
            if let Some(place) = self.slots.iter().position(free)
                && self.slots[place].ports.len() != lanes
            {
                self.reopen(place, lanes)?;
            }
        }
        let wire = self.slot(chain.from.as_ref()).and_then(|slot| slot.kernel);
        let mut slots = wanted.iter().filter_map(|name| self.slot(Some(name)));
        let link = slots.find_map(|slot| Some((slot, slot.config.peer.as_ref()?)));
        link.map(|(slot, peer)| slot.addresses(peer, wire)).transpose()
    }

    /// A chain did not get the ports that were opened for it.
    pub(super) fn let_go_of_vfs(&mut self, chain: &Chain) {
        for name in self.names(chain.from.as_ref(), chain.to.as_ref()) {
            let free = |slot: &&mut Slot| slot.config.name == name && slot.chain.is_none();
            self.slots.iter_mut().filter(free).for_each(Slot::let_go_of_vf);
        }
    }

    /// Gives a chain its ports: for each lane `from`, then `to`.
    ///
    /// # Errors
    /// When it cannot have one of them; it has none then.
    pub(super) fn take(
        &mut self,
        chain: &Chain,
        tenant: &Name,
        id: &Name,
        lanes: usize,
    ) -> Result<Vec<Vec<Box<dyn Port>>>, EngineError> {
        self.check(chain, tenant, None, lanes)?;
        let link = self.open(chain, lanes)?;
        let wanted = self.names(chain.from.as_ref(), chain.to.as_ref());
        let mut all: Vec<Vec<Box<dyn Port>>> = (0..lanes).map(|_| Vec::new()).collect();
        let mut stacks: Vec<Box<dyn Port>> = Vec::with_capacity(lanes);
        for name in &wanted {
            for slot in self.slots.iter_mut().filter(|slot| slot.config.name == *name) {
                slot.chain = Some(id.clone());
                if let Some(addresses) = link.filter(|_| slot.config.peer.is_some()) {
                    let neighbours = Arc::new(Mutex::new(Neighbours::default()));
                    for port in slot.ports.drain(..) {
                        let neighbours = Arc::clone(&neighbours);
                        stacks.push(Box::new(PeerPort::new(port, addresses, neighbours)));
                    }
                    continue;
                }
                let mut taps = slot.taps.drain(..);
                for (port, lane) in slot.ports.drain(..).zip(&mut all) {
                    match taps.next() {
                        None => lane.push(port),
                        Some(tap) if Some(name) == chain.from.as_ref() => {
                            let stack = StackPort::new(tap, port.statistics().clone());
                            stacks.push(Box::new(stack));
                            lane.push(port);
                        }
                        Some(tap) => lane.push(Box::new(KernelPort::new(port, tap))),
                    }
                }
            }
        }
        // Behind the other ports: chains may go up to it.
        for (stack, lane) in stacks.into_iter().zip(&mut all) {
            lane.push(stack);
        }
        for ports in all.iter_mut().filter(|ports| ports.is_empty()) {
            // Deployed and idle: nothing comes in.
            ports.push(Box::new(MemoryPort::new(NONE, None, Keep::Nothing)));
        }
        Ok(all)
    }

    /// The hardware address by which the kernel is known at a port that has a way there.
    pub(super) fn kernel_beside(&self, port: &Name) -> Option<[u8; 6]> {
        self.slots.iter().find(|slot| slot.config.name == *port)?.kernel
    }

    /// Whether the host can give packets that came in by this port to the kernel; `is_from`: it is
    /// the port by which chains begin.
    pub(super) fn reaches_kernel(&self, port: &Name, is_from: bool) -> bool {
        let slot = self.slot(Some(port));
        slot.is_some_and(|slot| {
            slot.config.kernel.is_some() || is_from && slot.config.kernel_port.is_some()
        })
    }

    /// Takes ports back that a chain had.
    pub(super) fn give_back(&mut self, ports: Vec<Box<dyn Port>>) {
        for port in ports {
            for slot in
                self.slots.iter_mut().filter(|slot| slot.config.name.as_str() == port.name())
            {
                slot.chain = None;
            }
            // A finished port is not used again: the next chain opens it anew.
        }
    }

    /// The ports of a crossing are known by this chain.
    pub(super) fn show_holder(&mut self, shape: &Shape, holder: Option<Name>) {
        for name in self.names(shape.from.as_ref(), shape.to.as_ref()) {
            for slot in self.slots.iter_mut().filter(|slot| slot.config.name == name) {
                slot.chain.clone_from(&holder);
            }
        }
    }

    /// A chain that has its ports could not be made: they are free, and are opened anew for the
    /// next one.
    pub(super) fn release(&mut self, chain: &Chain) {
        for name in self.names(chain.from.as_ref(), chain.to.as_ref()) {
            for slot in self.slots.iter_mut().filter(|slot| slot.config.name == name) {
                slot.chain = None;
            }
        }
    }
}
