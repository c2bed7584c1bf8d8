//! A lane between two wires, driven by the test itself: push frames in, turn, look at what comes
//! out.

use std::sync::Arc;
use std::time::Duration;

use weir_chain::Mode;
use weir_packet_plane::{
    ChainPlan, Clock, Counters, DROP_REASONS, FunctionPlan, Lane, LaneConfig, OnFault, PlaneError,
    Turn,
};
use weir_pool::{Accounting, HugePages, PoolConfig};
use weir_port::memory::{Wire, channel};
use weir_sandbox::{Admitted, Sandbox, SandboxConfig, Telemetry};

/// A function with ordinary limits that fails closed.
#[must_use]
pub fn function(name: &str, admitted: Arc<Admitted>) -> FunctionPlan {
    FunctionPlan {
        name: name.into(),
        version: "1".into(),
        admitted,
        writes: true,
        memory: 16 << 20,
        deadline: Duration::from_millis(20),
        on_fault: OnFault::FailClosed,
        state_bytes: 0,
        state_shared: false,
        state_layout: String::new(),
        config: "{}".into(),
        flow_verdicts: false,
        targets: Vec::new(),
        telemetry: Arc::new(Telemetry::default()),
    }
}

/// A linked chain of these functions.
#[must_use]
pub fn plan(functions: Vec<FunctionPlan>) -> ChainPlan {
    ChainPlan { name: "test".into(), functions, mode: Mode::Linked, upward: None }
}

/// A lane with two ports whose other ends are here.
pub struct Rig {
    /// The lane.
    pub lane: Lane,
    /// Where forward packets are pushed in and reverse ones come out.
    pub inside: Wire,
    /// Where forward packets come out and reverse ones are pushed in.
    pub outside: Wire,
    /// The sandbox.
    pub sandbox: Arc<Sandbox>,
    rooms: u32,
}

impl Rig {
    /// A lane on the capture's clock, with 512 rooms of 2 KiB.
    ///
    /// # Panics
    /// When the chain is refused.
    #[must_use]
    pub fn new(plan: ChainPlan) -> Self {
        Self::try_new(plan).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Self::new`].
    ///
    /// # Errors
    /// When the chain is refused.
    ///
    /// # Panics
    /// When there is no sandbox on this machine.
    pub fn try_new(plan: ChainPlan) -> Result<Self, PlaneError> {
        Self::with_rooms(plan, 512)
    }

    /// The same with so many rooms.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    ///
    /// # Panics
    /// As [`Self::try_new`].
    pub fn with_rooms(plan: ChainPlan, rooms: u32) -> Result<Self, PlaneError> {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
        let (in_port, inside) = channel("in");
        let (out_port, outside) = channel("out");
        let config = LaneConfig {
            pool: PoolConfig { rooms, room_bytes: 2048, huge: HugePages::Never },
            ports: vec![Box::new(in_port), Box::new(out_port)],
            symmetric: true,
            clock: Clock::Capture,
            burst: 32,
            seed: 1,
            on_event: None,
        };
        let lane = Lane::new(Arc::clone(&sandbox), plan, config)?;
        Ok(Self { lane, inside, outside, sandbox, rooms })
    }

    /// Turns until nothing is left to do.
    pub fn settle(&mut self) {
        let _ticking = self.sandbox.ticker().tick();
        while self.lane.turn() == Turn::Busy {}
    }

    /// Everything that has come out on this side.
    #[must_use]
    pub fn drain(wire: &Wire) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| wire.take(Duration::ZERO)).collect()
    }

    /// Counts up to now, after checking that every packet and buffer is accounted for.
    ///
    /// # Panics
    /// When one is not.
    #[must_use]
    pub fn counts(&mut self) -> Counters {
        let (counters, pool) = self.lane.counts();
        assert_balanced(&counters, pool, self.rooms);
        counters
    }

    /// Ends the lane and checks that no buffer was lost.
    ///
    /// # Panics
    /// When one was.
    pub fn finish(mut self) -> Counters {
        let _ticking = self.sandbox.ticker().tick();
        let pool = self.lane.finish().expect("wires do not fail");
        assert_eq!((pool.out, pool.free), (0, self.rooms), "buffers were lost");
        self.counts()
    }
}

/// In plus made is out plus dropped plus still in the pool.
fn assert_balanced(counters: &Counters, pool: Accounting, rooms: u32) {
    assert_eq!(pool.total, rooms);
    assert_eq!(pool.free + pool.out, rooms);
    let dropped = dropped(counters);
    assert_eq!(
        counters.packets_in + counters.packets_made,
        counters.packets_out + dropped + u64::from(pool.out),
        "packets are not accounted for: {:?} {pool:?}",
        dropped_by_reason(counters)
    );
}

/// All that was dropped: by the host, and by functions.
#[must_use]
pub fn dropped(counters: &Counters) -> u64 {
    let own: u64 = counters.by_function().flat_map(|(_, f)| f.drops).sum();
    counters.drops.iter().sum::<u64>() + own
}

/// The host's drops that are not zero, by name.
#[must_use]
pub fn dropped_by_reason(counters: &Counters) -> Vec<(&'static str, u64)> {
    let all = DROP_REASONS.iter().map(|(reason, name)| (*name, counters.drops[*reason as usize]));
    all.filter(|(_, n)| *n != 0).collect()
}

/// A frame of 64 bytes with a number in its first four.
#[must_use]
pub fn frame(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of a [`frame`].
///
/// # Panics
/// When it is too short.
#[must_use]
pub fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[..4].try_into().expect("four bytes"))
}
