//! What a station or a lane stands on: pool and window, there before the ports are.

use std::sync::Arc;

use weir_pool::Pool;
use weir_port::Port;
use weir_sandbox::{Sandbox, Shared};

use crate::context::Context;
use crate::lane::LaneConfig;
use crate::plan::{LaneSite, PlaneError};

/// See the module. Chains can be made ready for a station that still waits for its ports, because
/// others have them.
pub struct Ground {
    pool: Pool,
    site: LaneSite,
    config: LaneConfig,
}

impl Ground {
    /// Makes the pool. `config` has no ports yet: `ports` are the names of those to come, by
    /// number.
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
        for place in 0..ports.len() {
            if let Err(error) = ports[place].attach(&mut pool) {
                // Devices may have rooms of the pool already: they give them back before it goes.
                for attached in &mut ports[..place] {
                    if let Err(error) = attached.finish(&mut pool) {
                        tracing::warn!(port = attached.name(), "it is closed, but: {error}");
                    }
                }
                return Err(error.into());
            }
        }
        let context = Context::new(pool, ports, config.symmetric, config.clock, config.burst);
        Ok((context, site))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use weir_pool::{BufferIndex, HugePages, Packet, PoolConfig};
    use weir_port::{PortError, PortStatistics, Received};
    use weir_sandbox::SandboxConfig;

    use super::*;
    use crate::Clock;

    /// A device that has a room of the pool from when it is attached, and tells what is out when it
    /// has given it back.
    struct Device {
        works: bool,
        room: Option<BufferIndex>,
        out: Arc<AtomicU32>,
        statistics: PortStatistics,
    }

    impl Port for Device {
        fn name(&self) -> &str {
            "device"
        }

        fn kind(&self) -> &'static str {
            "test"
        }

        fn attach(&mut self, pool: &mut Pool) -> Result<(), PortError> {
            if !self.works {
                let (port, problem) = ("device".to_owned(), "it is gone".to_owned());
                return Err(PortError::Device { port, problem });
            }
            self.room = pool.take();
            Ok(())
        }

        fn receive(
            &mut self,
            _: &mut Pool,
            _: &mut Vec<Packet>,
            _: usize,
        ) -> Result<Received, PortError> {
            Ok(Received::End)
        }

        fn send(&mut self, _: &mut Pool, _: &mut Vec<Packet>) -> Result<(), PortError> {
            Ok(())
        }

        fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
            pool.give_all(self.room.take().into_iter());
            self.out.store(pool.accounting().out, Ordering::Relaxed);
            Ok(())
        }

        fn statistics(&self) -> &PortStatistics {
            &self.statistics
        }
    }

    #[test]
    fn ports_are_closed_before_their_pool_goes_when_one_behind_them_cannot_be_had() {
        let config = LaneConfig {
            pool: PoolConfig { rooms: 64, room_bytes: 2048, huge: HugePages::Never },
            ports: Vec::new(),
            symmetric: true,
            clock: Clock::Monotonic,
            burst: 32,
            seed: 1,
            on_event: None,
        };
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
        let ground = Ground::new(sandbox, "station", config, vec!["device".to_owned(); 2]).unwrap();
        let out = Arc::new(AtomicU32::new(u32::MAX));
        let device = |works| -> Box<dyn Port> {
            let (out, statistics) = (Arc::clone(&out), PortStatistics::default());
            Box::new(Device { works, room: None, out, statistics })
        };
        assert!(ground.with_ports(vec![device(true), device(false)]).is_err());
        assert_eq!(out.load(Ordering::Relaxed), 0);
    }
}
