//! A chain ready to run, whichever way it is run.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Component;
use weir_layout::{FUNCTIONS_MAX, PAGE};
use weir_pool::{HugePages, Memory, PoolError};
use weir_sandbox::{
    Admitted, CompileError, Compiled, Fault, GuestFunction, InstanceError, Limits, SETUP_DEADLINE,
    Sandbox, Services, Setup, Shared, Telemetry, Treatment, Window, World, start_failure,
};

use crate::board;
use crate::linked::LinkedChain;
use crate::separate::Separate;
use crate::{compose, control};

/// How a chain is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All functions and the runner in one component: one entry into Wasm for many bursts.
    #[default]
    Linked,
    /// The host calls one function after the other.
    Separate,
}

/// Whose `tick` is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Those whose timer is due.
    Due,
    /// Everyone's.
    All,
}

/// A function of a chain, with all it needs to be instantiated.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// Its name in the chain.
    pub name: String,
    /// The component.
    pub admitted: Arc<Admitted>,
    /// Whether it may write to packets and descriptors.
    pub writes: bool,
    /// Bytes of linear memory it may have beside window and state region.
    pub memory: usize,
    /// CPU time it may use for a burst.
    pub deadline: Duration,
    /// Its configuration, a JSON object.
    pub config: String,
    /// Its state region.
    pub state: Option<Shared>,
    /// The state region holds what an earlier instance left there.
    pub state_kept: bool,
    /// Seed for its hashes.
    pub seed: u64,
    /// Its log and counters.
    pub telemetry: Arc<Telemetry>,
}

/// A chain, with all it needs to be instantiated.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    /// The functions, in forward order.
    pub functions: Vec<FunctionSpec>,
    /// Names of the ports, by number.
    pub ports: Vec<String>,
    /// The rest of the chain, when these functions are only a part of it.
    pub part_of: Option<Part>,
}

/// Where functions stand that are instantiated apart from their chain, to shadow one of it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Names of all functions of the chain.
    pub names: Vec<String>,
    /// Place of the part's first function among them.
    pub first: usize,
}

/// Why a chain could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Too many functions.
    #[error("the chain has {0} functions; allowed are 1 to {FUNCTIONS_MAX}")]
    Length(usize),
    /// A function for messages in a chain for packets.
    #[error("function {0} is for messages, and this chain is for packets")]
    World(String),
    /// The composed chain does not compile.
    #[error("linking the chain: {0}")]
    Link(CompileError),
    /// A function's imports or exports do not have the types of `weir:net`, or its start code
    /// trapped.
    #[error("instantiating: {0}")]
    Instantiate(String),
    /// A function cannot have an instance, or its instance no successor.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The control area cannot be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl ChainError {
    /// What kept these functions from being instantiated. Of a chain that is linked it is not known
    /// which one it was; the trap's backtrace names the functions of its module.
    pub(crate) fn start(error: wasmtime::Error, functions: &[FunctionSpec]) -> Self {
        let Some(failed) = start_failure(&error) else {
            return Self::Instantiate(weir_sandbox::one_line(&format!("{error:#}")).into_owned());
        };
        let told = weir_sandbox::told(&error, functions.iter().map(|function| &*function.admitted));
        let names: Vec<_> = functions.iter().map(|function| function.name.as_str()).collect();
        Self::Instantiate(format!(
            "the start code of {} {failed}, before `configure`: constructors, initialisers and `main` must not fail, and cannot call the \
             host; do in `configure` what they do: {told}",
            names.join(" or ")
        ))
    }
}

/// Compiled code of a chain: everything slow is done. Instantiated once for each worker.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) spec: ChainSpec,
    pub(crate) code: Code,
    /// Time spent compiling; 0 if everything came from caches.
    pub compiled_in: Duration,
}

#[derive(Clone)]
pub(crate) enum Code {
    Linked(Component),
    Separate(Vec<Component>),
}

impl Prepared {
    /// Compiles what is not compiled yet.
    ///
    /// # Errors
    /// When there are too many functions, one needs too much memory, or one does not compile.
    pub fn new(sandbox: &Sandbox, spec: ChainSpec, mode: Mode) -> Result<Self, ChainError> {
        if !(1..=FUNCTIONS_MAX).contains(&spec.functions.len()) {
            return Err(ChainError::Length(spec.functions.len()));
        }
        for function in &spec.functions {
            if function.admitted.world.of_messages() {
                return Err(ChainError::World(function.name.clone()));
            }
            InstanceError::check_memory(&function.name, &function.admitted, function.memory)?;
        }
        let mut compiled_in = Duration::ZERO;
        let mut count = |compiled: Compiled| {
            if !compiled.cached {
                compiled_in += compiled.took;
            }
            compiled.component
        };
        let code = match mode {
            Mode::Linked => {
                let functions: Vec<_> =
                    spec.functions.iter().map(|f| (&*f.admitted, f.writes)).collect();
                let composed = compose::compose(&functions);
                let alone = || functions.iter().map(|f| compose::compose(&[*f])).collect();
                let compiled = match functions.len() {
                    1 => sandbox.compile_untried(&composed),
                    _ => sandbox.compile_composed(&composed, alone),
                };
                Code::Linked(count(compiled.map_err(ChainError::Link)?))
            }
            Mode::Separate => {
                let compile = |f: &FunctionSpec| {
                    sandbox
                        .compile(&f.admitted.component, f.admitted.hash)
                        .map_err(|source| InstanceError::Compile { name: f.name.clone(), source })
                };
                let mut components = Vec::new();
                for function in &spec.functions {
                    components.push(count(compile(function)?));
                }
                Code::Separate(components)
            }
        };
        Ok(Self { spec, code, compiled_in })
    }

    /// Which way it is run.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.code {
            Code::Linked(_) => Mode::Linked,
            Code::Separate(_) => Mode::Separate,
        }
    }

    /// The chain.
    #[must_use]
    pub fn spec(&self) -> &ChainSpec {
        &self.spec
    }

    /// The same code for these state regions: each worker has its own.
    pub fn set_states(&mut self, states: impl IntoIterator<Item = (Option<Shared>, bool)>) {
        for (function, (state, kept)) in self.spec.functions.iter_mut().zip(states) {
            function.state = state;
            function.state_kept = kept;
        }
    }

    /// Instantiates and configures the chain over this window.
    ///
    /// # Errors
    /// When a function does not fit `weir:net`, traps, or refuses its configuration.
    pub fn instantiate<S: Services>(
        &self,
        sandbox: &Sandbox,
        window: &Shared,
        room_bytes: u32,
    ) -> Result<Executor<S>, ChainError> {
        self.instantiate_within(sandbox, window, room_bytes, SETUP_DEADLINE)
    }

    /// The same with this much CPU time for the start code and for each `configure`.
    ///
    /// # Errors
    /// As [`Self::instantiate`].
    pub fn instantiate_within<S: Services>(
        &self,
        sandbox: &Sandbox,
        window: &Shared,
        room_bytes: u32,
        deadline: Duration,
    ) -> Result<Executor<S>, ChainError> {
        let _ticking = sandbox.ticker().tick();
        match &self.code {
            Code::Linked(component) => {
                LinkedChain::new(sandbox, &self.spec, component, window, room_bytes, deadline)
                    .map(|linked| Executor::Linked(Box::new(linked)))
            }
            Code::Separate(components) => {
                Separate::new(sandbox, &self.spec, components, window, room_bytes, deadline)
                    .map(|separate| Executor::Separate(Box::new(separate)))
            }
        }
    }
}

/// Compiles an upload for the first time: as the chain that has nothing but it. Such a chain has
/// nothing left to compile then, and for longer ones the upload's functions are known to the
/// sandbox.
///
/// # Errors
/// When it does not compile, or takes too long.
pub fn compile_upload(
    sandbox: &Sandbox,
    upload: &Admitted,
    writes: bool,
) -> Result<Compiled, CompileError> {
    sandbox.compile_untried(&compose::compose(&[(upload, writes)]))
}

/// A configured chain of one worker.
pub enum Executor<S: 'static> {
    /// One component.
    Linked(Box<LinkedChain<S>>),
    /// One by one.
    Separate(Box<Separate<S>>),
}

impl<S: Services> Executor<S> {
    /// The control area with the results of the last run.
    #[must_use]
    pub fn board(&self) -> &Memory {
        match self {
            Self::Linked(linked) => linked.board(),
            Self::Separate(separate) => separate.board(),
        }
    }

    /// As [`Self::board`], to fill in a burst.
    pub fn board_mut(&mut self) -> &mut Memory {
        match self {
            Self::Linked(linked) => linked.board_mut(),
            Self::Separate(separate) => separate.board_mut(),
        }
    }

    /// Runs the burst that was filled in.
    ///
    /// # Errors
    /// When a function trapped: the executor must not be used for anything but reading its board.
    pub fn run(
        &mut self,
        services: &mut Option<S>,
        count: usize,
        start: usize,
        reverse: bool,
    ) -> Result<(), Fault> {
        match self {
            Self::Linked(linked) => linked.run(services, count, start, reverse),
            Self::Separate(separate) => separate.run(services, count, start, reverse),
        }
    }

    /// Runs bursts that `services.next_burst` gives, until it gives 0.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn serve(&mut self, services: &mut Option<S>) -> Result<(), Fault> {
        match self {
            Self::Linked(linked) => linked.serve(services),
            Self::Separate(separate) => separate.serve(services),
        }
    }

    /// The earliest time at which a function that is called wants its `tick`; 0 when none does.
    #[must_use]
    pub fn next_timer(&self) -> u64 {
        match self {
            Self::Linked(linked) => linked.next_timer(),
            Self::Separate(separate) => separate.next_timer(),
        }
    }

    /// Calls `tick` of the functions whose time has come, or of every one (so that they flush their
    /// counters before they end), except of those that are not called now.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn tick(&mut self, services: &mut Option<S>, now: u64, who: Tick) -> Result<(), Fault> {
        match self {
            Self::Linked(linked) => linked.tick(services, now, who),
            Self::Separate(separate) => separate.tick(services, now, who),
        }
    }

    /// What the function saved, if it exports `snapshot`.
    ///
    /// # Errors
    /// When `save` trapped.
    pub fn save(&mut self, function: usize) -> Result<Option<Vec<u8>>, ChainError> {
        match self {
            Self::Linked(linked) => linked.save(function),
            Self::Separate(separate) => separate.save(function),
        }
    }

    /// Gives the function what its predecessor saved.
    ///
    /// # Errors
    /// When `restore` trapped or refused.
    pub fn restore(&mut self, function: usize, saved: &[u8]) -> Result<(), ChainError> {
        match self {
            Self::Linked(linked) => linked.restore(function, saved),
            Self::Separate(separate) => separate.restore(function, saved),
        }
    }

    /// Sets whether the function at this place is called.
    pub fn set_treatment(&mut self, function: usize, treatment: Treatment) {
        board::set_treatment(self.board_mut(), function, treatment);
    }
}

/// A fresh control area for rooms of this size.
pub(crate) fn new_board(room_bytes: u32) -> Result<Memory, PoolError> {
    let mut board = Memory::new("weir-board", control::CONTROL_BYTES, HugePages::Never)?;
    board.set(control::ROOM_BYTES, room_bytes);
    board.set(control::POSITION, control::NOBODY);
    // Makes the pages that every burst, or most, will write, so that the first does not wait for
    // them.
    for page in [control::ORIGINS, control::KEPT, control::DONE_LIST, control::DONE_LIST + PAGE] {
        board.set(page, 0u32);
    }
    Ok(board)
}

/// The store's record of a function.
pub(crate) fn guest_function(spec: &FunctionSpec, window: &Shared) -> GuestFunction {
    let window = (spec.admitted.world == World::Window).then(|| Window {
        memory: window.clone(),
        writes: spec.writes,
        in_use: true,
    });
    GuestFunction::new(
        spec.name.clone(),
        window,
        spec.state.clone().map(|state| (state, spec.state_kept)),
        Limits {
            memory: spec.memory,
            memory_at_start: usize::try_from(spec.admitted.memory_at_start).unwrap_or(usize::MAX),
            deadline: spec.deadline,
        },
        Arc::clone(&spec.telemetry),
    )
    .with_seed(spec.seed)
    .with_code(spec.admitted.hash)
}

/// What `configure` is told.
pub(crate) fn setup(spec: &ChainSpec, place: usize, window: &Shared, room_bytes: u32) -> Setup {
    let function = &spec.functions[place];
    let small = |bytes: usize| u32::try_from(bytes).expect("regions are far below 4 GiB");
    let windowed = function.admitted.world == World::Window;
    let (functions, position) = match &spec.part_of {
        Some(part) => (part.names.clone(), part.first + place),
        None => (spec.functions.iter().map(|f| f.name.clone()).collect(), place),
    };
    Setup {
        window_bytes: if windowed { small(window.bytes()) } else { 0 },
        window_align: small(window.align()),
        room_bytes,
        state_bytes: function.state.as_ref().map_or(0, |s| small(s.bytes())),
        state_align: function.state.as_ref().map_or(0, |s| small(s.align())),
        state_kept: function.state_kept,
        seed: function.seed,
        ports: spec.ports.clone(),
        functions,
        position: small(position),
        config: function.config.clone(),
    }
}
