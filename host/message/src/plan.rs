//! What a chain is to be, and making it ready off the gateway's threads.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Component;
use weir_exchange::Upstreams;
use weir_pool::{HugePages, Memory, Pool, PoolConfig, PoolError, Rooms};
use weir_proxy_function::{LinkedProxy, ProxyError, ProxyFunction};
use weir_sandbox::{
    Admitted, InstanceError, OnFault, Sandbox, Shared, State, States, Telemetry, World, seed_of,
};

use crate::clock::Clock;
use crate::counters::FunctionCounters;
use crate::instance::Instance;
use crate::orders::ThreadGone;
use crate::store::Values;

/// What serves the exchanges of a function of the world `wasi:http/proxy`.
#[derive(Clone)]
pub enum Proxy {
    /// It runs in this process.
    Here(Arc<ProxyFunction>),
    /// It is to run in another one; here it was only seen that it can.
    Elsewhere(Arc<LinkedProxy>),
}

impl Proxy {
    /// It, if it runs in this process.
    #[must_use]
    pub fn here(&self) -> Option<&Arc<ProxyFunction>> {
        match self {
            Self::Here(function) => Some(function),
            Self::Elsewhere(_) => None,
        }
    }

    /// It as it was linked.
    #[must_use]
    pub fn linked(&self) -> &LinkedProxy {
        match self {
            Self::Here(function) => function.linked(),
            Self::Elsewhere(linked) => linked,
        }
    }
}

/// A function of a chain, as an operator wants it.
#[derive(Clone)]
pub struct FunctionPlan {
    /// Its name in the chain.
    pub name: String,
    /// Its version, for reports.
    pub version: String,
    /// What serves its exchanges, if it is of the world `wasi:http/proxy`.
    pub proxy: Option<Proxy>,
    /// The component.
    pub admitted: Arc<Admitted>,
    /// Its machine code, if it is here already: then it is not compiled.
    pub code: Option<Component>,
    /// The state region that it begins with if it has none to go on with; without it, a new one.
    pub blank: Option<Arc<State>>,
    /// Whether it may write to messages.
    pub writes: bool,
    /// Bytes of linear memory beside window and state region.
    pub memory: usize,
    /// CPU time for an event.
    pub deadline: Duration,
    /// What happens when it faults.
    pub on_fault: OnFault,
    /// Bytes of its state region, a multiple of 65,536; 0 for none.
    pub state_bytes: usize,
    /// Layout of the state region: a successor takes it over only if it says the same.
    pub state_layout: String,
    /// Its configuration, a JSON object.
    pub config: String,
    /// Its log and its own counters.
    pub telemetry: Arc<Telemetry>,
    /// What is counted of it on this thread.
    pub counters: Arc<FunctionCounters>,
}

impl FunctionPlan {
    /// The state region among these that it could go on with.
    #[must_use]
    pub fn state_of(&self, states: &States) -> Option<Arc<State>> {
        states.of(&self.name, self.state_bytes, &self.state_layout).cloned()
    }
}

/// A chain, as an operator wants it.
#[derive(Clone)]
pub struct ChainPlan {
    /// Its name.
    pub name: String,
    /// Its functions; requests pass them in this order.
    pub functions: Vec<FunctionPlan>,
}

/// Why a chain could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A function for packets in a chain for messages.
    #[error("function {0} is for packets, and this chain is for messages")]
    World(String),
    /// A wasi:http component where nobody runs them.
    #[error("function {0} is a wasi:http component, and there are no threads for one here")]
    Service(String),
    /// A wasi:http component cannot be made ready.
    #[error("function {name}: {source}")]
    Proxy {
        /// The function.
        name: String,
        /// Why.
        source: ProxyError,
    },
    /// Its imports or exports do not have the types of `weir:net`, or its start code trapped.
    #[error("instantiating {name}: {message}")]
    Instantiate {
        /// The function.
        name: String,
        /// Why.
        message: String,
    },
    /// A function cannot have an instance, or its instance no successor.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// No memory for messages or state.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Memory cannot be shared with guests.
    #[error("sharing memory with the chain: {0}")]
    Share(#[from] std::io::Error),
    /// The chain has no function of that name.
    #[error("the chain has no function {0:?}")]
    NoFunction(String),
    /// A trial needs the chain to be otherwise than it is.
    #[error("{0}")]
    Trial(String),
    /// The chain's thread has ended.
    #[error(transparent)]
    Gone(#[from] ThreadGone),
}

/// Where a chain lives: on one thread of a gateway. Stays the same while versions come and go.
#[derive(Clone)]
pub struct Site {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) rooms: Rooms,
    pub(crate) window: Shared,
    pub(crate) upstreams: Arc<dyn Upstreams>,
    pub(crate) names: Vec<String>,
    pub(crate) store: Values,
    pub(crate) hold: usize,
    pub(crate) clock: Clock,
    seed: u64,
}

/// What a site consists of.
#[derive(Clone)]
pub struct SiteConfig {
    /// Rooms of its pool.
    pub rooms: u32,
    /// Bytes of each, a power of two from 4,096 to 65,536: the longest head, and the longest piece
    /// of a body.
    pub room_bytes: u32,
    /// Bytes of a body that functions may hold back.
    pub hold: usize,
    /// Names of the upstreams, in the order in which functions count them.
    pub names: Vec<String>,
    /// Seed for hashes, unknown to clients.
    pub seed: u64,
}

/// A function that is instantiated and configured.
pub struct StagedFunction {
    pub(crate) plan: FunctionPlan,
    /// None if it is a service: it has one for each exchange.
    pub(crate) instance: Option<Instance>,
    pub(crate) state: Option<Arc<State>>,
    /// Whether it goes on with its predecessor's state region.
    pub(crate) kept: bool,
    /// Time spent compiling; 0 if everything came from caches.
    pub compiled_in: Duration,
}

/// A chain that is instantiated and configured, to be given to the thread that it is for.
pub struct StagedChain {
    pub(crate) site: Site,
    pub(crate) name: String,
    pub(crate) functions: Vec<StagedFunction>,
}

impl StagedFunction {
    /// Its name in the chain.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Whether it goes on with its predecessor's state region.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether it starts with an empty state region although its predecessor had one of the same
    /// name.
    #[must_use]
    pub fn is_fresh(&self, before: &States) -> bool {
        !self.kept && before.has(&self.plan.name)
    }
}

impl StagedChain {
    /// Its functions, in order.
    #[must_use]
    pub fn functions(&self) -> &[StagedFunction] {
        &self.functions
    }

    /// Time spent compiling; 0 if everything came from caches.
    #[must_use]
    pub fn compiled_in(&self) -> Duration {
        self.functions.iter().map(|function| function.compiled_in).sum()
    }
}

impl Site {
    /// A site with a pool of its own.
    ///
    /// # Errors
    /// When there is no memory for it, or not of that shape.
    pub fn new(
        sandbox: Arc<Sandbox>,
        chain: &str,
        config: SiteConfig,
        upstreams: Arc<dyn Upstreams>,
        store: impl Into<Values>,
    ) -> Result<Self, MessageError> {
        let store = store.into();
        let SiteConfig { rooms, room_bytes, hold, names, seed } = config;
        let pool = Pool::new(chain, &PoolConfig { rooms, room_bytes, huge: HugePages::Never })?;
        let window = Shared::new(pool.memory())?;
        let rooms = Rooms::new(pool);
        let clock = Clock::default();
        Ok(Self { sandbox, rooms, window, upstreams, names, store, hold, clock, seed })
    }

    /// Names of its upstreams.
    #[must_use]
    pub fn upstreams(&self) -> &[String] {
        &self.names
    }

    /// Where the pool's rooms are.
    #[must_use]
    pub fn accounting(&self) -> weir_pool::Accounting {
        self.rooms.accounting()
    }

    /// Compiles, instantiates and configures a chain.
    ///
    /// # Errors
    /// When something does not compile, or a function does not take its configuration.
    pub fn stage(&self, plan: ChainPlan, before: &States) -> Result<StagedChain, MessageError> {
        let names: Vec<String> = plan.functions.iter().map(|f| f.name.clone()).collect();
        let mut functions = Vec::with_capacity(names.len());
        for (place, function) in plan.functions.into_iter().enumerate() {
            let state = function.state_of(before);
            functions.push(self.stage_function(&plan.name, &names, place, function, state)?);
        }
        Ok(StagedChain { site: self.clone(), name: plan.name, functions })
    }

    /// The same for one function, at this place among those of these names.
    ///
    /// # Errors
    /// As for [`Self::stage`].
    pub fn stage_function(
        &self,
        chain: &str,
        names: &[String],
        place: usize,
        plan: FunctionPlan,
        state: Option<Arc<State>>,
    ) -> Result<StagedFunction, MessageError> {
        let admitted = &plan.admitted;
        if !admitted.world.of_messages() {
            return Err(MessageError::World(plan.name));
        }
        if let Some(compiled_in) = plan.proxy.as_ref().map(|proxy| proxy.linked().compiled_in()) {
            let (instance, state, kept) = (None, None, false);
            return Ok(StagedFunction { plan, instance, state, kept, compiled_in });
        }
        if admitted.world == World::Proxy {
            return Err(MessageError::Service(plan.name));
        }
        InstanceError::check_memory(&plan.name, admitted, plan.memory)?;
        let (component, compiled_in) = match &plan.code {
            Some(code) => (code.clone(), Duration::ZERO),
            None => {
                let compiled = self
                    .sandbox
                    .compile(&admitted.component, admitted.hash)
                    .map_err(|source| InstanceError::Compile { name: plan.name.clone(), source })?;
                (compiled.component, if compiled.cached { Duration::ZERO } else { compiled.took })
            }
        };
        let new = |state: Option<&Arc<State>>, kept| {
            let state = state.map(|state| (state.shared().clone(), kept));
            let seed = seed_of(self.seed, chain, &plan.name);
            Instance::new(self, &plan, &component, (names, place), state, seed)
        };
        let (instance, state, kept) = match state {
            Some(state) => match new(Some(&state), true) {
                Err(MessageError::Instance(InstanceError::State { .. })) => {
                    let fresh = self.new_state(&plan)?;
                    (new(fresh.as_ref(), false)?, fresh, false)
                }
                instance => (instance?, Some(state), true),
            },
            None => {
                let fresh = self.new_state(&plan)?;
                (new(fresh.as_ref(), false)?, fresh, false)
            }
        };
        // Whoever is made after this one goes on with its region, or begins with a new one.
        let plan = FunctionPlan { blank: None, ..plan };
        Ok(StagedFunction { plan, instance: Some(instance), state, kept, compiled_in })
    }

    fn new_state(&self, plan: &FunctionPlan) -> Result<Option<Arc<State>>, MessageError> {
        if plan.state_bytes == 0 || plan.blank.is_some() {
            return Ok(plan.blank.clone());
        }
        let memory = Memory::new(&plan.name, plan.state_bytes, HugePages::Never)?;
        Ok(Some(Arc::new(State::of(plan.name.clone(), memory, plan.state_layout.clone())?)))
    }
}
