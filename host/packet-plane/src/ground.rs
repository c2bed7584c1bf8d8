//! What a station or a lane stands on: pool and window, there before the ports are.

use std::sync::Arc;

use weir_pool::Pool;
use weir_port::Port;
use weir_sandbox::{Sandbox, Shared};

use crate::context::Context;
use crate::lane::LaneConfig;
use crate::plan::{LaneSite, PlaneError};

/// See the module. Chains can be made ready for a station that still waits for its ports, because others have them.
pub struct Ground {
    pool: Pool,
    site: LaneSite,
    config: LaneConfig,
}

impl Ground {
    /// Makes the pool. `config` has no ports yet: `ports` are the names of those to come, by number.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(
        sandbox: Arc<Sandbox>,
        name: &str,
        config: LaneConfig,
        ports: Vec<String>,
    ) -> Result<Self, PlaneError> {
        let pool = Pool::new(name, &config.pool)?;
        let site = LaneSite {
            sandbox,
            window: Shared::new(pool.memory())?,
            room_bytes: pool.room_bytes(),
            huge: config.pool.huge,
            ports,
            seed: config.seed,
            rooms: pool.rooms() as usize,
        };
        Ok(Self { pool, site, config })
    }

    /// What is needed to make a lane for it.
    #[must_use]
    pub fn site(&self) -> LaneSite {
        self.site.clone()
    }

    /// The same with the ports attached.
    pub(crate) fn with_ports(
        self,
        mut ports: Vec<Box<dyn Port>>,
    ) -> Result<(Context, LaneSite), PlaneError> {
        let Self { mut pool, site, config } = self;
        for port in &mut ports {
            port.attach(&mut pool)?;
        }
        let context = Context::new(pool, ports, config.symmetric, config.clock, config.burst);
        Ok((context, site))
    }
}
