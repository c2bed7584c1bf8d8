//! The `memory` port: packets from a generator, or from another thread, that leave into nothing,
//! into a record, or to that thread. For benchmarks and tests.
//!
//! Owns: the template frames ([`Templates`]), the generator and its bounds, and what becomes of
//! packets sent ([`Keep`]); the [`channel`] to another thread. Must not know what is being
//! measured.

mod channel;
mod generator;
mod sink;
mod templates;

use weir_pool::{Packet, Pool};

use crate::statistics::{PortCounts, PortStatistics};
use crate::{Port, PortError, Received, Spreading};

use generator::Generator;
use sink::Sink;

pub use channel::{ChannelPort, Wire, channel};
pub use generator::GeneratorConfig;
pub use sink::{Keep, Kept};
pub use templates::{Protocol, Shape, Templates};

/// A port that generates what comes in and swallows what leaves.
#[derive(Debug)]
pub struct MemoryPort {
    name: String,
    generator: Option<Generator>,
    sink: Sink,
    statistics: PortStatistics,
}

impl MemoryPort {
    /// A port that generates packets as configured (none without a configuration), and keeps what
    /// is sent as told.
    #[must_use]
    pub fn new(name: &str, generator: Option<GeneratorConfig>, keep: Keep) -> Self {
        Self {
            name: name.to_owned(),
            generator: generator.map(Generator::new),
            sink: Sink::new(keep),
            statistics: PortStatistics::default(),
        }
    }

    /// What is kept of the packets sent, to be read from any thread.
    #[must_use]
    pub fn kept(&self) -> Kept {
        self.sink.kept()
    }
}

impl Port for MemoryPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let Some(generator) = &mut self.generator else { return Ok(Received::End) };
        let mut counts = PortCounts::default();
        let received = generator.receive(pool, into, max, &mut counts);
        counts.rx_errors = u64::from(received.is_err());
        self.statistics.add(&counts);
        received.map_err(|problem| PortError::Configuration { port: self.name.clone(), problem })
    }

    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let mut counts = PortCounts::default();
        self.sink.send(pool, packets, &mut counts);
        self.statistics.add(&counts);
        Ok(())
    }

    fn finish(&mut self, _pool: &mut Pool) -> Result<(), PortError> {
        Ok(())
    }

    fn spreading(&self) -> Spreading {
        match self.generator {
            // Whoever divided the flows gave each to one port.
            Some(_) => Spreading::Symmetric { rule: "generator", queues: 0, table: 0, fields: 0 },
            None => Spreading::Nothing,
        }
    }

    fn statistics(&self) -> &PortStatistics {
        &self.statistics
    }
}
