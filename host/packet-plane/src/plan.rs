//! What a chain is to be, and making it ready off the data path.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use weir_chain::{ChainError, ChainSpec, Executor, FunctionSpec, Mode, Part, Prepared};
use weir_pool::{HugePages, Memory, PoolError};
use weir_sandbox::{
    Admitted, InstanceError, OnFault, SETUP_DEADLINE, Sandbox, Shared, State, States, Telemetry,
    seed_of, thread_time,
};

use crate::context::Context;
use crate::shadow::Aside;
use crate::upward::Upward;

/// A function of a chain, as an operator wants it.
#[derive(Clone, Debug)]
pub struct FunctionPlan {
    /// Its name in the chain.
    pub name: String,
    /// Its version, for reports.
    pub version: String,
    /// The component.
    pub admitted: Arc<Admitted>,
    /// Whether it may write to packets.
    pub writes: bool,
    /// Bytes of linear memory beside window and state region.
    pub memory: usize,
    /// CPU time for a burst.
    pub deadline: Duration,
    /// What happens when it faults.
    pub on_fault: OnFault,
    /// Bytes of its state region, a multiple of 65,536; 0 for none.
    pub state_bytes: usize,
    /// Whether its instances on all lanes of the chain have one state region together.
    pub state_shared: bool,
    /// Layout of the state region: a successor takes it over only if it says the same.
    pub state_layout: String,
    /// Its configuration, a JSON object.
    pub config: String,
    /// Whether the host remembers what it decides about whole flows.
    pub flow_verdicts: bool,
    /// Where it may move flows to, beside the kernel: names of chains.
    pub targets: Vec<String>,
    /// Its log and counters.
    pub telemetry: Arc<Telemetry>,
}

impl FunctionPlan {
    /// Whether it is another of the same name: another version, or otherwise configured.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        (&self.name, &self.version, self.admitted.hash, &self.config)
            != (&other.name, &other.version, other.admitted.hash, &other.config)
    }

    /// The state region among these that it could go on with.
    fn state_of<'a>(&self, states: &'a States) -> Option<&'a Arc<State>> {
        states.of(&self.name, self.state_bytes, &self.state_layout)
    }
}

/// A chain, as an operator wants it.
#[derive(Clone, Debug)]
pub struct ChainPlan {
    /// Its name.
    pub name: String,
    /// Its functions, in forward order.
    pub functions: Vec<FunctionPlan>,
    /// How it is run.
    pub mode: Mode,
    /// What at its end goes up to the kernel's stack instead of out; none: nothing does. With it,
    /// what the kernel sends passes the chain in reverse. Only for chains one of whose ports is the
    /// kernel's stack.
    pub upward: Option<Arc<Upward>>,
}

impl ChainPlan {
    /// Whether it has the functions of another chain but for the one at this place.
    pub(crate) fn differs_only_in(&self, place: usize, other: &Self) -> bool {
        let mut both = self.functions.iter().zip(&other.functions).enumerate();
        self.functions.len() == other.functions.len()
            && both.all(|(n, (one, other))| n == place || !one.differs(other))
    }
}

/// Why a lane could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The chain could not be made ready.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No memory for packets or state.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A port cannot work with the lane's pool.
    #[error(transparent)]
    Port(#[from] weir_port::PortError),
    /// Memory cannot be shared with guests.
    #[error("sharing memory with the chain: {0}")]
    Share(#[from] std::io::Error),
    /// The chain has no function of that name.
    #[error("the chain has no function {0:?}")]
    NoFunction(String),
    /// A trial needs the chain to be otherwise as it is.
    #[error("{0}")]
    Trial(String),
}

impl PlaneError {
    /// What was made ready is for a chain that does not run any more.
    pub(crate) fn changed() -> Self {
        Self::Trial("the chain has changed meanwhile: do it again".into())
    }
}

/// What a lane runs, for whoever makes its next version ready: state regions that this may go on
/// with.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub(crate) states: States,
    /// The lane's count of the chains that it has run.
    pub(crate) chain: u64,
}

impl Deref for Standing {
    type Target = States;

    fn deref(&self) -> &States {
        &self.states
    }
}

/// What stays the same of a lane while versions come and go; enough to make the next one ready.
#[derive(Clone)]
pub struct LaneSite {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) window: Shared,
    pub(crate) room_bytes: u32,
    pub(crate) huge: HugePages,
    pub(crate) ports: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) rooms: usize,
}

/// A chain with its compiled code: nothing is composed, read or compiled to make instances of it.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) plan: ChainPlan,
    pub(crate) prepared: Prepared,
}

impl Ready {
    /// Without state regions: those are their instances', and would stay as long as somebody could
    /// go back to the chain.
    pub(crate) fn new(plan: ChainPlan, mut prepared: Prepared) -> Self {
        prepared.set_states(std::iter::repeat((None, false)));
        Self { plan, prepared }
    }
}

/// A version of a chain that is instantiated and configured, ready to be published.
pub struct Staged {
    pub(crate) plan: ChainPlan,
    pub(crate) prepared: Prepared,
    pub(crate) executor: Executor<Box<Context>>,
    pub(crate) states: Vec<Option<Arc<State>>>,
    /// Which functions go on with their predecessor's state region.
    pub(crate) kept: Vec<bool>,
    /// CPU time that making the instances took.
    pub(crate) set_up_in: Duration,
    /// [`Standing::chain`] of what it was made ready to replace.
    pub(crate) replaces: u64,
}

impl Staged {
    /// Time spent compiling, not counting what came from caches.
    #[must_use]
    pub fn compiled_in(&self) -> Duration {
        self.prepared.compiled_in
    }

    /// What it was made of.
    pub(crate) fn ready(&self) -> Ready {
        Ready::new(self.plan.clone(), self.prepared.clone())
    }

    /// Its state regions.
    #[must_use]
    pub fn states(&self) -> States {
        self.states.iter().flatten().cloned().collect()
    }

    /// Functions that start with an empty state region although their predecessor had one.
    pub fn fresh<'a>(&'a self, before: &'a States) -> impl Iterator<Item = &'a str> {
        self.plan.functions.iter().zip(&self.kept).filter_map(|(function, kept)| {
            (before.has(&function.name) && !kept).then_some(function.name.as_str())
        })
    }
}

/// A function that is instantiated apart from its chain.
pub(crate) struct Apart {
    pub(crate) executor: Executor<Aside>,
    pub(crate) state: Option<Arc<State>>,
    pub(crate) compiled_in: Duration,
}

impl LaneSite {
    /// Bytes of a room of its pool, a power of two.
    #[must_use]
    pub fn room_bytes(&self) -> u32 {
        self.room_bytes
    }

    /// Names of its ports, by number.
    #[must_use]
    pub fn ports(&self) -> &[String] {
        &self.ports
    }

    /// Compiles, instantiates and configures a chain, to replace what stands there before. Its
    /// state regions go on to functions of the same name, size and layout.
    ///
    /// # Errors
    /// When it does not compile, or a function does not take its configuration.
    pub fn stage(&self, plan: ChainPlan, before: &Standing) -> Result<Staged, PlaneError> {
        self.stage_beside(plan, before, &States::default())
    }

    /// The same beside another lane of the chain: functions whose plan says so share that one's
    /// state regions.
    ///
    /// # Errors
    /// As [`Self::stage`], and when a function that shares its region writes to it in `configure`.
    pub fn stage_beside(
        &self,
        plan: ChainPlan,
        before: &Standing,
        beside: &States,
    ) -> Result<Staged, PlaneError> {
        let prepared = Prepared::new(&self.sandbox, self.spec(&plan), plan.mode)?;
        self.instantiate(Ready { plan, prepared }, before, beside, SETUP_DEADLINE)
    }

    /// Instantiates and configures a chain whose code is there, as [`Self::stage_beside`], with
    /// this much CPU time for the start code and for each `configure`.
    pub(crate) fn instantiate(
        &self,
        ready: Ready,
        before: &Standing,
        beside: &States,
        deadline: Duration,
    ) -> Result<Staged, PlaneError> {
        let Ready { plan, mut prepared } = ready;
        let mut states = Vec::new();
        let mut kept = Vec::new();
        let mut shared = Vec::new();
        for function in &plan.functions {
            let other = function.state_of(beside).filter(|_| function.state_shared);
            let state = other.or_else(|| function.state_of(before));
            shared.push(other.is_some());
            kept.push(state.is_some());
            states.push(match state {
                Some(state) => Some(Arc::clone(state)),
                None => self.new_state(function)?,
            });
        }
        let started = thread_time();
        loop {
            let both = states.iter().zip(&kept);
            prepared.set_states(
                both.map(|(state, kept)| (state.as_ref().map(|s| s.shared().clone()), *kept)),
            );
            let room_bytes = self.room_bytes;
            match prepared.instantiate_within(&self.sandbox, &self.window, room_bytes, deadline) {
                Ok(executor) => {
                    let set_up_in = thread_time().saturating_sub(started);
                    let replaces = before.chain;
                    return Ok(Staged {
                        plan,
                        prepared,
                        executor,
                        states,
                        kept,
                        set_up_in,
                        replaces,
                    });
                }
                Err(ChainError::Instance(InstanceError::State { place, .. }))
                    if kept[place] && !shared[place] =>
                {
                    kept[place] = false;
                    states[place] = self.new_state(&plan.functions[place])?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Instantiates one function of a chain apart from it, over a window of its own.
    pub(crate) fn stage_apart(
        &self,
        plan: &ChainPlan,
        place: usize,
        window: &Shared,
    ) -> Result<Apart, PlaneError> {
        let state = self.new_state(&plan.functions[place])?;
        let mut spec = self.spec(plan);
        let names = spec.functions.iter().map(|f| f.name.clone()).collect();
        let mut function = spec.functions.swap_remove(place);
        function.state = state.as_ref().map(|s| s.shared().clone());
        spec.functions = vec![function];
        spec.part_of = Some(Part { names, first: place });
        let prepared = Prepared::new(&self.sandbox, spec, Mode::Separate)?;
        let executor = prepared.instantiate(&self.sandbox, window, self.room_bytes)?;
        Ok(Apart { executor, state, compiled_in: prepared.compiled_in })
    }

    /// The chain without state regions.
    fn spec(&self, plan: &ChainPlan) -> ChainSpec {
        let functions = plan.functions.iter().map(|function| FunctionSpec {
            name: function.name.clone(),
            admitted: Arc::clone(&function.admitted),
            writes: function.writes,
            memory: function.memory,
            deadline: function.deadline,
            config: function.config.clone(),
            state: None,
            state_kept: false,
            seed: seed_of(self.seed, &plan.name, &function.name),
            telemetry: Arc::clone(&function.telemetry),
        });
        ChainSpec { functions: functions.collect(), ports: self.ports.clone(), part_of: None }
    }

    fn new_state(&self, function: &FunctionPlan) -> Result<Option<Arc<State>>, PlaneError> {
        if function.state_bytes == 0 {
            return Ok(None);
        }
        let memory = Memory::new(&function.name, function.state_bytes, self.huge)?;
        let state = State::of(function.name.clone(), memory, function.state_layout.clone())?;
        Ok(Some(Arc::new(state)))
    }
}
