//! The host's ports: which there are, who has them, and opening them.

use anyhow::Result;
use weir_control::engine::EngineError;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_port::pcap::{Pace, PcapConfig, PcapPort};
use weir_port::{Port, PortStatistics};
use weir_spec::{Chain, Invalid, Name, PortKind};

/// All ports, in the configuration's order.
pub(super) struct Ports(Vec<Slot>);

pub(super) struct Slot {
    pub(super) config: weir_spec::Port,
    pub(super) chain: Option<Name>,
    /// There as long as no chain has it.
    port: Option<Box<dyn Port>>,
    pub(super) statistics: PortStatistics,
}

impl Ports {
    /// Opens them all, so that what is wrong with one is known at the start.
    ///
    /// # Errors
    /// Which one cannot be opened, and why.
    pub(super) fn new(configs: &[weir_spec::Port]) -> Result<Self, Invalid> {
        let open_slot = |(index, config): (usize, &weir_spec::Port)| {
            let port = open(config).map_err(|error| {
                Invalid::whole(format!("port {}: {error}", config.name)).within_array("port", index)
            })?;
            let statistics = port.statistics().clone();
            Ok(Slot { config: config.clone(), chain: None, port: Some(port), statistics })
        };
        Ok(Self(configs.iter().enumerate().map(open_slot).collect::<Result<_, _>>()?))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter()
    }

    /// Whether a chain could have its ports; those that `holder` has now count as free.
    pub(super) fn check(&self, chain: &Chain, holder: Option<&Name>) -> Result<(), EngineError> {
        for name in names(chain) {
            let Some(slot) = self.0.iter().find(|slot| slot.config.name == *name) else {
                let all: Vec<&str> = self.0.iter().map(|s| s.config.name.as_str()).collect();
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
            if let Some(slot) = self.0.iter().find(|slot| slot.config.name == *name)
                && slot.config.tenant != *tenant
            {
                return Err(EngineError::Refused(format!("port {name} is not tenant {tenant}'s")));
            }
        }
        let mut ports = Vec::new();
        for name in &wanted {
            for slot in self.0.iter_mut().filter(|slot| slot.config.name == *name) {
                let port = match slot.port.take() {
                    Some(port) => port,
                    None => {
                        open(&slot.config).map_err(|e| EngineError::Refused(format!("{e:#}")))?
                    }
                };
                slot.statistics = port.statistics().clone();
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
            for slot in self.0.iter_mut().filter(|slot| slot.config.name.as_str() == port.name()) {
                slot.chain = None;
            }
            // A finished port is not used again: the next chain opens it anew.
        }
    }

    /// A chain could not be made: its ports are free, and are opened anew for the next one.
    pub(super) fn reopen(&mut self, chain: &Chain) {
        for name in names(chain) {
            for slot in self.0.iter_mut().filter(|slot| slot.config.name == *name) {
                slot.chain = None;
            }
        }
    }
}

fn names(chain: &Chain) -> impl Iterator<Item = &Name> {
    let to = chain.to.as_ref().filter(|to| Some(*to) != chain.from.as_ref());
    chain.from.iter().chain(to)
}

fn open(config: &weir_spec::Port) -> Result<Box<dyn Port>> {
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
        PortKind::Xdp | PortKind::Dpdk => anyhow::bail!(
            "ports of kind {:?} are not built into this version: use pcap or memory",
            config.kind.name()
        ),
    })
}
