//! A second engine, for components that get an instance for each request (`wasi:http/proxy`): the
//! same machine code, in memories, tables and stacks that are used again.
//!
//! A fresh memory costs a reservation, its mappings, a page fault for every page that is touched,
//! and the unmapping of all that. Here a memory that an instance leaves is put back as its image
//! has it, page by page where the kernel tells which were written (`PAGEMAP_SCAN`, Linux 6.7), and
//! stays mapped for the next instance of the component. wasmtime sees to it that nothing of the
//! last one is in it.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::guest::{MEMORIES_MAX, TABLES_MAX};
use crate::ticker::Ticker;

/// Instances of all components at a time, unless it is said otherwise. Address space is reserved
/// for as many memories: 4 GiB and a guard for each. Further ones are for the first engine.
pub(crate) const MEMORIES: u32 = 1024;
/// Core instances of a component, as most have them: Python has some dozens.
const CORE_INSTANCES: u32 = 40;
/// Tables of a component, as most have them.
const TABLES: u32 = 4;
/// Elements of a table: a component with a larger one runs in the first engine.
const TABLE_ELEMENTS: usize = 100_000;
/// Bytes of a memory that stay when its instance goes, if they were written: those that the next
/// instance is likely to write.
const KEPT: usize = 2 << 20;
/// The same of a table.
const TABLE_KEPT: usize = 256 << 10;
/// Memories that nobody uses, each with the image of the component that had it last, before another
/// component is given one of them.
const UNUSED: u32 = 100;

/// See the module.
pub(crate) struct Serving {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
}

impl Serving {
    /// Starts it with so many memories, and these settings for everything else. `scans`: the
    /// process may ask the kernel which pages were written.
    pub(crate) fn start(mut config: Config, memories: u32, scans: bool) -> wasmtime::Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(memories)
            .total_core_instances(memories * CORE_INSTANCES)
            .total_memories(memories)
            .total_tables(memories * TABLES)
            .total_stacks(memories)
            .max_memories_per_module(MEMORIES_MAX as u32)
            .max_tables_per_module(TABLES_MAX as u32)
            .table_elements(TABLE_ELEMENTS)
            .table_keep_resident(TABLE_KEPT)
            .max_unused_warm_slots(UNUSED);
        // Without that, all of them would be copied back each time.
        if scans {
            pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(KEPT);
        }
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let ticker = Ticker::start(engine.weak())?;
        Ok(Self { engine, ticker })
    }
}
