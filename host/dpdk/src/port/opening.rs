//! How a port comes to be: opened, and divided for several lanes.

use std::sync::Arc;

use weir_layout::Metadata;
use weir_port::{BurstClock, PortError, PortStatistics};

use super::DpdkPort;
use crate::address::Address;
use crate::device::Device;
use crate::eal::{Eal, EalConfig};
use crate::fit::{check, fit_frames};
use crate::gate::Gate;
use crate::idle::Idling;
use crate::shared::SharedDevice;
use crate::{DpdkConfig, Idle};

/// Drivers of which a port sleeps without being told to: the kernel wakes it. Interrupts of others
/// are for whoever asks for them.
const WAKING_DRIVERS: [&str; 3] = ["net_af_packet", "net_af_xdp", "net_tap"];

impl DpdkPort {
    /// Adds the device, and checks that it can do what is asked. It is started when the port is
    /// attached.
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
        let device = Arc::new(Device::add(address).map_err(impossible)?);
        let queues = config.queues.unwrap_or(1);
        let longest = check(&device, config, queues).map_err(impossible)?;
        let mut config = config.clone();
        if !WAKING_DRIVERS.contains(&device.driver()) {
            config.idle.get_or_insert(Idle::Poll);
        }
        let shared = SharedDevice::new(device, config, queues, longest, 1);
        Ok(Self::of(name, shared, None, (0..queues).collect()))
    }

    fn of(
        name: &str,
        shared: Arc<SharedDevice>,
        gate: Option<Arc<Gate>>,
        queues: Vec<u16>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            gate,
            device: Arc::clone(&shared.device),
            idling: Idling::new(shared.config.idle),
            shared,
            queues,
            first: 0,
            attached: None,
            live: false,
            fit: Vec::new(),
            looks: 0,
            clock: BurstClock::default(),
            metadata: Metadata::default(),
            ended: false,
            statistics: PortStatistics::default(),
        }
    }

    /// Divided for so many lanes, before it is attached: each gets the queues whose number, modulo
    /// that of the lanes, is its own. The device is started when all of them are attached, and
    /// stopped when the first one is finished or dropped.
    ///
    /// # Panics
    /// When the device has fewer queues, or the port is attached.
    #[must_use]
    pub fn divided(mut self, lanes: usize) -> Vec<Self> {
        assert!(self.attached.is_none(), "an attached port is not divided");
        assert!(self.queues.len() >= lanes, "{} queues for {lanes} lanes", self.queues.len());
        if lanes < 2 {
            return vec![self];
        }
        let (device, config) = (Arc::clone(&self.device), self.shared.config.clone());
        let all = std::mem::take(&mut self.queues);
        let shared =
            SharedDevice::new(device, config, self.shared.queues, self.shared.longest, lanes);
        let share = |lane: usize| all.iter().skip(lane).step_by(lanes).copied().collect();
        let gate = |lane: usize| Some(Arc::clone(&shared.gates[lane]));
        let other = |lane| Self::of(&self.name, Arc::clone(&shared), gate(lane), share(lane));
        let mut ports: Vec<Self> = (1..lanes).map(other).collect();
        (self.queues, self.gate) = (share(0), gate(0));
        self.shared = shared;
        ports.insert(0, self);
        ports
    }
}
