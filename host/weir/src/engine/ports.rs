//! The host's ports: which there are, who has them, and opening them.

use std::sync::Arc;

use anyhow::Result;
use weir_control::engine::EngineError;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_port::pcap::{Pace, PcapConfig, PcapPort};
use weir_port::{Inspect, Port, PortError, PortStatistics};
use weir_spec::{Chain, Invalid, Name, PacketMatch, PortKind, XdpMode};
use weir_xdp::{Match, Mode, XdpConfig, XdpPort};

/// All ports.
pub(super) struct Ports {
    /// In the configuration's order.
    slots: Vec<Slot>,
    /// Bytes of a room of all pools.
    room_bytes: u32,
}

pub(super) struct Slot {
    pub(super) config: weir_spec::Port,
    pub(super) chain: Option<Name>,
    /// There as long as no chain has it.
    port: Option<Box<dyn Port>>,
    pub(super) statistics: PortStatistics,
    /// Tells how the device is, if there is one.
    pub(super) inspector: Option<Arc<dyn Inspect>>,
}

impl Ports {
    /// Opens them all, so that what is wrong with one is known at the start.
    ///
    /// # Errors
    /// Which one cannot be opened, and why.
    pub(super) fn new(configs: &[weir_spec::Port], room_bytes: u32) -> Result<Self, Invalid> {
        #[cfg(feature = "dpdk")]
        start_dpdk(configs)?;
        let open_slot = |(index, config): (usize, &weir_spec::Port)| {
            let port = open(config, room_bytes).map_err(|error| {
                let message = format!("port {}: {error}", config.name);
                let invalid = match config.kind {
                    PortKind::Xdp => Invalid::at("interface", message),
                    _ => Invalid::whole(message),
                };
                invalid.within_array("port", index)
            })?;
            let (statistics, inspector) = (port.statistics().clone(), port.inspector());
            let config = config.clone();
            Ok(Slot { config, chain: None, port: Some(port), statistics, inspector })
        };
        let slots = configs.iter().enumerate().map(open_slot).collect::<Result<_, _>>()?;
        Ok(Self { slots, room_bytes })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Whether a chain could have its ports; those that `holder` has now count as free.
    pub(super) fn check(&self, chain: &Chain, holder: Option<&Name>) -> Result<(), EngineError> {
        for name in names(chain) {
            let Some(slot) = self.slots.iter().find(|slot| slot.config.name == *name) else {
                let all: Vec<&str> = self.slots.iter().map(|s| s.config.name.as_str()).collect();
                let all = if all.is_empty() { "none".into() } else { all.join(", ") };
                return Err(EngineError::Refused(format!(
                    "there is no port {name}: the host's ports are {all}"
                )));
            };
            if let Some(other) = &slot.chain
                && Some(other) != holder
            {
                return Err(EngineError::Conflict(format!(
                    "port {name} belongs to chain {other}: a port has one chain"
                )));
            }
        }
        Ok(())
    }

    /// Gives a chain its ports: `from`, then `to`.
    pub(super) fn take(
        &mut self,
        chain: &Chain,
        tenant: &Name,
        id: &Name,
    ) -> Result<Vec<Box<dyn Port>>, EngineError> {
        self.check(chain, None)?;
        let wanted: Vec<Name> = names(chain).cloned().collect();
        for name in &wanted {
            if let Some(slot) = self.slots.iter().find(|slot| slot.config.name == *name)
                && slot.config.tenant != *tenant
            {
                return Err(EngineError::Refused(format!("port {name} is not tenant {tenant}'s")));
            }
        }
        let mut ports = Vec::new();
        for name in &wanted {
            for slot in self.slots.iter_mut().filter(|slot| slot.config.name == *name) {
                let port = match slot.port.take() {
                    Some(port) => port,
                    None => open(&slot.config, self.room_bytes)
                        .map_err(|e| EngineError::Refused(format!("{e:#}")))?,
                };
                slot.statistics = port.statistics().clone();
                slot.inspector = port.inspector();
                slot.chain = Some(id.clone());
                ports.push(port);
            }
        }
        if ports.is_empty() {
            // Deployed and idle: nothing comes in.
            ports.push(Box::new(MemoryPort::new("none", None, Keep::Nothing)));
        }
        Ok(ports)
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

    /// A chain could not be made: its ports are free, and are opened anew for the next one.
    pub(super) fn reopen(&mut self, chain: &Chain) {
        for name in names(chain) {
            for slot in self.slots.iter_mut().filter(|slot| slot.config.name == *name) {
                slot.chain = None;
            }
        }
    }
}

fn names(chain: &Chain) -> impl Iterator<Item = &Name> {
    let to = chain.to.as_ref().filter(|to| Some(*to) != chain.from.as_ref());
    chain.from.iter().chain(to)
}

/// DPDK must know all PCI devices when it starts.
#[cfg(feature = "dpdk")]
fn start_dpdk(configs: &[weir_spec::Port]) -> Result<(), Invalid> {
    let ports = configs.iter().filter(|config| config.kind == PortKind::Dpdk);
    let mut devices = ports.filter_map(|config| config.device.as_deref()).peekable();
    if weir_dpdk::BUILT_IN && devices.peek().is_some() {
        weir_dpdk::start(devices).map_err(Invalid::whole)?;
    }
    Ok(())
}

#[cfg(feature = "dpdk")]
fn open_dpdk(config: &weir_spec::Port, room_bytes: u32) -> Result<Box<dyn Port>> {
    let dpdk = weir_dpdk::DpdkConfig {
        device: config.device.clone().unwrap_or_default(),
        queues: config.queues,
        rx_descriptors: config.rx_descriptors,
        tx_descriptors: config.tx_descriptors,
        mtu: config.mtu,
        promiscuous: config.promiscuous,
        multicast: config.multicast,
        checksum_offload: config.checksum_offload.unwrap_or(false),
        idle: config.idle.map(|idle| match idle {
            weir_spec::Idle::Poll => weir_dpdk::Idle::Poll,
            weir_spec::Idle::Sleep => weir_dpdk::Idle::Sleep,
        }),
        room_bytes,
    };
    Ok(Box::new(weir_dpdk::DpdkPort::open(config.name.as_str(), &dpdk)?))
}

#[cfg(not(feature = "dpdk"))]
fn open_dpdk(_: &weir_spec::Port, _: u32) -> Result<Box<dyn Port>> {
    anyhow::bail!(
        "this host was built without the feature `dpdk`: build it with its default features"
    )
}

fn open(config: &weir_spec::Port, room_bytes: u32) -> Result<Box<dyn Port>> {
    let name = config.name.as_str();
    Ok(match config.kind {
        PortKind::Pcap => {
            let pace = match config.pace.unwrap_or_default() {
                weir_spec::Pace::Full => Pace::Full,
                weir_spec::Pace::Recorded => Pace::Recorded,
            };
            let pcap = PcapConfig {
                input: config.file.clone(),
                output: config.output.clone(),
                pace,
                rounds: config.rounds.unwrap_or(1),
            };
            Box::new(PcapPort::open(name, &pcap)?)
        }
        PortKind::Memory => {
            let generator = config.generate.as_ref().map(|generate| -> Result<_> {
                let templates = Templates::flows(Shape {
                    flows: generate.flows,
                    frame_bytes: generate.size as usize,
                    protocol: Protocol::Udp,
                })?;
                let mut generator = GeneratorConfig::new(templates);
                generator.count = generate.count;
                generator.rate = generate.rate;
                Ok(generator)
            });
            Box::new(MemoryPort::new(name, generator.transpose()?, Keep::Nothing))
        }
        PortKind::Dpdk => open_dpdk(config, room_bytes)?,
        PortKind::Xdp => {
            Box::new(XdpPort::open(name, xdp(config)).map_err(|error| match error {
                // The port is named by whoever asks.
                PortError::Configuration { problem, .. } => anyhow::anyhow!(problem),
                other => other.into(),
            })?)
        }
    })
}

fn xdp(config: &weir_spec::Port) -> XdpConfig {
    let matches = |matches: &[PacketMatch]| {
        let of = |of: &PacketMatch| Match {
            ethertype: of.ethertype.map(weir_spec::EtherType::get),
            vlan: of.vlan,
            destination: of.destination.map(weir_spec::MacAddress::get),
        };
        matches.iter().map(of).collect()
    };
    let mut xdp = XdpConfig::new(config.interface.as_deref().unwrap_or_default());
    xdp.queue = config.queue.unwrap_or(0);
    xdp.mode = match config.mode.unwrap_or_default() {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    };
    xdp.busy_poll =
        config.busy_poll.map(|period| u32::try_from(period.get().as_micros()).unwrap_or(u32::MAX));
    xdp.rx_ring = config.rx_ring.unwrap_or(xdp.rx_ring);
    xdp.tx_ring = config.tx_ring.unwrap_or(xdp.tx_ring);
    xdp.leave = matches(&config.leave);
    xdp.claim = matches(&config.claim);
    xdp
}
