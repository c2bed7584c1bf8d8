//! The smallest packet plane: a pool, a burst, the chain, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use weir_chain::{ChainSpec, FunctionSpec};
use weir_pool::{HugePages, Memory, Pool, PoolConfig};
use weir_sandbox::{Admitted, Refusal, Requests, Services, Telemetry};

/// Services over one pool, without ports.
pub struct Plane {
    /// The packets.
    pub pool: Pool,
    /// Packets that functions had cloned: offset, length, port.
    pub clones: Vec<(u32, u32, u32)>,
    /// Bursts that [`Services::next_burst`] still gives, as packed words.
    pub bursts: Vec<u64>,
}

impl Plane {
    /// A plane with this many rooms of 2 KiB.
    ///
    /// # Panics
    /// When the machine has no memory.
    #[must_use]
    pub fn new(rooms: u32) -> Self {
        let config = PoolConfig { rooms, room_bytes: 2048, huge: HugePages::Never };
        let pool = Pool::new("test", &config).expect("memory");
        Self { pool, clones: Vec::new(), bursts: Vec::new() }
    }
}

impl Requests for Plane {
    fn now(&mut self) -> u64 {
        1
    }

    fn allocate(&mut self, _function: usize, _length: u32) -> Option<u32> {
        None
    }

    fn send(&mut self, _: usize, _: u32, _: u32, _: u32) -> Result<(), Refusal> {
        Err(Refusal::NotOwned)
    }

    fn send_copy(&mut self, _: usize, _: &[u8], _: u32) -> Result<(), Refusal> {
        Err(Refusal::Exhausted)
    }
}

impl Services for Plane {
    fn window(&mut self) -> &mut Memory {
        self.pool.memory_mut()
    }

    fn clone_packet(&mut self, offset: u32, length: u32, port: u32) -> bool {
        let exists = port < 4;
        if exists {
            self.clones.push((offset, length, port));
        }
        exists
    }

    fn next_burst(&mut self, _board: &mut Memory) -> u64 {
        self.bursts.pop().unwrap_or(0)
    }
}

/// A function with ordinary limits.
#[must_use]
pub fn function(name: &str, admitted: Arc<Admitted>, writes: bool) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        admitted,
        writes,
        memory: 16 << 20,
        deadline: Duration::from_millis(5),
        config: "{}".into(),
        state: None,
        state_kept: false,
        seed: 1,
        telemetry: Arc::new(Telemetry::default()),
    }
}

/// A chain of these functions with four ports.
#[must_use]
pub fn chain(functions: Vec<FunctionSpec>) -> ChainSpec {
    ChainSpec { functions, ports: ["a", "b", "c", "d"].map(String::from).to_vec(), part_of: None }
}
