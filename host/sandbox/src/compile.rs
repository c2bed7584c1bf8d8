//! Compilation: once for each component, cached by hash in memory and on disk ([`CodeCache`]), bounded in time.

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, Instance, Linker};
use wasmtime::{Config, Engine, Store};

use crate::admissions::Admissions;
use crate::admit::{Admitted, Refused};
use crate::code_cache::CodeCache;
use crate::function_cache::FunctionCache;
use crate::guest::{Guest, Running};
use crate::host::Requests;
use crate::serving::{MEMORIES, Serving};
use crate::ticker::Ticker;

/// Bytes of stack a guest may use.
const STACK_MAX: usize = 512 << 10;
/// Loaded components kept in memory.
const LOADED_MAX: usize = 256;

/// Who compiles.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// This process, without a time limit: for tools that run what their user gives them.
    #[default]
    InProcess,
    /// A child process that reads a component from standard input and writes what
    /// [`Sandbox::precompile`] makes of it to standard output. It is killed when its time is up, so an
    /// upload that takes forever to compile costs nothing but itself.
    Child {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// Time it has.
        timeout: Duration,
    },
}

/// How to set up a [`Sandbox`].
#[derive(Clone, Debug, Default)]
pub struct SandboxConfig {
    /// Where compiled code is kept. None: in memory only.
    pub cache: Option<CodeCache>,
    /// Who compiles components that tenants uploaded.
    pub compiler: Compiler,
    /// The process is shut in: it can open no files, and ask the kernel for little.
    pub shut_in: bool,
    /// Memories that are used again, for components that get an instance for each request; 1,024 if it is not said.
    pub service_memories: Option<u32>,
}

/// Why compiled code could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// wasmtime cannot be set up on this machine.
    #[error("the Wasm engine cannot be started: {0}")]
    Engine(String),
    /// The component does not compile.
    #[error("it does not compile: {0}")]
    Component(String),
    /// The child took too long.
    #[error(
        "compiling it took longer than {0:?}: make it smaller, or its largest function simpler"
    )]
    TooLong(Duration),
    /// The cache's directory, or the child, failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Compiled code, ready to be linked.
#[derive(Clone)]
pub struct Compiled {
    /// The code.
    pub component: Component,
    /// Time it took to get it.
    pub took: Duration,
    /// It did not have to be compiled.
    pub cached: bool,
}

/// The engine and its caches. One for a process.
pub struct Sandbox {
    engine: Engine,
    ticker: Ticker,
    config: SandboxConfig,
    /// Goes into the names of cached files: code of another wasmtime or processor is never loaded.
    compatibility: String,
    functions: Arc<FunctionCache>,
    loaded: Mutex<Loaded>,
    /// For services, from the first one on; none if the machine has no room for it.
    serving: OnceLock<Option<Serving>>,
    admissions: Admissions,
}

impl Sandbox {
    /// Starts the engine.
    ///
    /// # Errors
    /// When wasmtime does not support this machine, or the cache directory cannot be made.
    pub fn new(config: SandboxConfig) -> Result<Self, CompileError> {
        // Before the engine, whose own handler then passes on what is no fault of Wasm code.
        crate::guard::install();
        let functions = Arc::new(FunctionCache::default());
        let engine = engine(&functions).map_err(|e| CompileError::Engine(format!("{e:#}")))?;
        let ticker = Ticker::start(engine.weak()).map_err(|source| CompileError::Io {
            what: "starting the epoch thread".into(),
            source,
        })?;
        if let Some(cache) = &config.cache {
            cache.make().map_err(|source| CompileError::Io {
                what: format!("making the cache {}", cache.directory.display()),
                source,
            })?;
        }
        let compatibility = compatibility(&engine);
        Ok(Self {
            engine,
            ticker,
            config,
            compatibility,
            functions,
            loaded: Mutex::default(),
            serving: OnceLock::new(),
            admissions: Admissions::default(),
        })
    }

    /// The engine's clock for deadlines.
    #[must_use]
    pub fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    /// The same for a component of this engine.
    #[must_use]
    pub fn ticker_of(&self, engine: &Engine) -> &Ticker {
        match self.serving() {
            Some(serving) if Engine::same(&serving.engine, engine) => &serving.ticker,
            _ => &self.ticker,
        }
    }

    fn serving(&self) -> Option<&Serving> {
        let start = || {
            let config = config(&self.functions);
            let memories = self.config.service_memories.unwrap_or(MEMORIES);
            let scans = !self.config.shut_in;
            let started = config.and_then(|config| Serving::start(config, memories, scans));
            started
                .inspect_err(|error| {
                    tracing::warn!(
                        "no memories that are used again, requests cost more: {error:#}"
                    );
                })
                .ok()
        };
        self.serving.get_or_init(start).as_ref()
    }

    /// Where a component can run. One that is larger than the places of the engine for services has only the other.
    fn engines(&self, serves: bool) -> impl Iterator<Item = &Engine> {
        let serving = if serves { self.serving() } else { None };
        serving.map(|serving| &serving.engine).into_iter().chain([&self.engine])
    }

    /// Loads machine code.
    ///
    /// # Safety
    /// It must have been made by this wasmtime with these settings: it is executed.
    pub(crate) unsafe fn load(&self, code: &[u8], serves: bool) -> Result<Component, CompileError> {
        let mut failed = CompileError::Component(String::new());
        for engine in self.engines(serves) {
            // SAFETY: the caller's contract; both engines have the same settings for code.
            match unsafe { Component::deserialize(engine, code) } {
                Ok(component) => return Ok(component),
                Err(error) => failed = CompileError::Component(format!("{error:#}")),
            }
        }
        Err(failed)
    }

    /// A linker in which nothing is defined.
    #[must_use]
    pub fn linker<S: Requests>(&self) -> Linker<Guest<S>> {
        Linker::new(&self.engine)
    }

    /// A store in which limits and deadlines are in force.
    #[must_use]
    pub fn store<S: Requests>(&self, guest: Guest<S>) -> Store<Guest<S>> {
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| guest);
        store.epoch_deadline_callback(Guest::look);
        store.set_epoch_deadline(1);
        store
    }

    /// Makes an instance in a store of [`Self::store`]. Start code of the component's modules runs here, as long as
    /// [`SETUP_DEADLINE`](crate::SETUP_DEADLINE) and with the memory of the store's functions; a [`Ticker`] must be ticking.
    ///
    /// # Errors
    /// When types do not fit, or start code traps or does not end.
    pub fn instantiate<S: Requests>(
        &self,
        linker: &Linker<Guest<S>>,
        store: &mut Store<Guest<S>>,
        component: &Component,
    ) -> wasmtime::Result<Instance> {
        store.data_mut().set_running(Running::Start);
        let instance = linker.instantiate(&mut *store, component);
        store.data_mut().set_running(Running::Nobody);
        instance
    }

    /// As [`crate::admit`], once for all chains that use the upload: they share its bytes.
    ///
    /// # Errors
    /// As [`crate::admit`].
    pub fn admit(&self, upload: &[u8]) -> Result<Arc<Admitted>, Refused> {
        self.admissions.admit(upload)
    }

    /// Machine code for a component that a tenant uploaded; `hash` is its SHA-256. Compiled by
    /// the configured [`Compiler`] if neither memory nor disk has it.
    ///
    /// # Errors
    /// When it does not compile, or takes too long.
    pub fn compile(&self, component: &[u8], hash: [u8; 32]) -> Result<Compiled, CompileError> {
        self.obtain(component, hash, &self.config.compiler, false)
    }

    /// The same for a component that gets an instance for each request: memories of those are used again.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_service(
        &self,
        component: &[u8],
        hash: [u8; 32],
    ) -> Result<Compiled, CompileError> {
        self.obtain(component, hash, &self.config.compiler, true)
    }

    /// Where instances of such a component can be made: in memories that are used again and, when all of those are taken, in others.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn service_places(
        &self,
        component: &[u8],
        hash: [u8; 32],
    ) -> Result<Vec<Component>, CompileError> {
        let best = self.compile_service(component, hash)?.component;
        let other = self.compile(component, hash)?.component;
        let same = Engine::same(best.engine(), other.engine());
        Ok(if same { vec![best] } else { vec![best, other] })
    }

    /// The same for a component that we composed around an upload that may never have been compiled before.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_untried(&self, component: &[u8]) -> Result<Compiled, CompileError> {
        self.compile(component, Sha256::digest(component).into())
    }

    /// The same for a component that we composed of components that were compiled before: in this
    /// process, function by function from the cache.
    ///
    /// # Errors
    /// When it does not compile, which is a bug of ours.
    pub fn compile_composed(&self, component: &[u8]) -> Result<Compiled, CompileError> {
        self.obtain(component, Sha256::digest(component).into(), &Compiler::InProcess, false)
    }

    fn obtain(
        &self,
        component: &[u8],
        hash: [u8; 32],
        compiler: &Compiler,
        serves: bool,
    ) -> Result<Compiled, CompileError> {
        let started = Instant::now();
        if let Some(component) = self.loaded().get((hash, serves)) {
            return Ok(Compiled { component, took: started.elapsed(), cached: true });
        }
        let name = format!("{}-{}.cwasm", hex(&hash), self.compatibility);
        let cache = self.config.cache.as_ref();
        let from_disk =
            cache.and_then(|cache| self.engines(serves).find_map(|e| cache.load(e, &name)));
        let cached = from_disk.is_some();
        let compiled = match from_disk {
            Some(compiled) => compiled,
            None => {
                let code = self.run_compiler(component, compiler)?;
                if let Some(cache) = cache {
                    cache.keep(&name, &code);
                }
                // SAFETY: these bytes were made just now by this very wasmtime, in this process or in the
                // child that we started for it.
                unsafe { self.load(&code, serves) }?
            }
        };
        self.loaded().insert((hash, serves), compiled.clone());
        Ok(Compiled { component: compiled, took: started.elapsed(), cached })
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_compiler(&self, component: &[u8], compiler: &Compiler) -> Result<Vec<u8>, CompileError> {
        match compiler {
            Compiler::InProcess => self
                .engine
                .precompile_component(component)
                .map_err(|e| CompileError::Component(format!("{e:#}"))),
            Compiler::Child { program, arguments, timeout } => {
                let answer = run_child(program, arguments, *timeout, component)?;
                let code = self.functions.take_over(&answer).ok_or_else(|| {
                    let program = program.display();
                    CompileError::Component(format!("{program} did not answer with compiled code"))
                })?;
                Ok(code.to_vec())
            }
        }
    }

    /// What the child of [`Compiler::Child`] does: component in, machine code out, for the component as a whole and
    /// for each of its functions.
    ///
    /// # Errors
    /// When the component does not compile.
    pub fn precompile(component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let functions = Arc::new(FunctionCache::default());
        engine(&functions)
            .and_then(|engine| engine.precompile_component(component))
            .map(|code| functions.answer(&code))
            .map_err(|e| CompileError::Component(format!("{e:#}")))
    }
}

/// Its hash, and whether it serves.
type LoadedBy = ([u8; 32], bool);

/// Components that were loaded lately, so that instances of one function share its code.
#[derive(Default)]
struct Loaded {
    components: HashMap<LoadedBy, Component>,
    order: VecDeque<LoadedBy>,
}

impl Loaded {
    fn get(&self, by: LoadedBy) -> Option<Component> {
        self.components.get(&by).cloned()
    }

    fn insert(&mut self, by: LoadedBy, component: Component) {
        if self.components.insert(by, component).is_none() {
            self.order.push_back(by);
        }
        if self.order.len() > LOADED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.components.remove(&oldest);
        }
    }
}

fn engine(functions: &Arc<FunctionCache>) -> wasmtime::Result<Engine> {
    config(functions).and_then(|config| Engine::new(&config))
}

/// The one configuration of wasmtime for code, in the host and in its compiling child.
fn config(functions: &Arc<FunctionCache>) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_MAX)
        .wasm_memory64(false)
        .memory_reservation(4 << 30)
        .memory_may_move(false)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    config.enable_incremental_compilation(Arc::<FunctionCache>::clone(functions))?;
    Ok(config)
}

/// A name for "this wasmtime with these settings on this processor".
fn compatibility(engine: &Engine) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Feeds the child and waits for it, for as long as it has.
fn run_child(
    program: &Path,
    arguments: &[String],
    timeout: Duration,
    component: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let failed = |source| CompileError::Io {
        what: format!("running the compiler {}", program.display()),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut input = child.stdin.take().expect("piped");
    let mut output = child.stdout.take().expect("piped");
    let mut errors = child.stderr.take().expect("piped");
    let ended = std::thread::scope(|scope| {
        // A child that dies early closes its end: that error is told by its exit status.
        scope.spawn(move || drop(input.write_all(component)));
        let code = scope.spawn(move || {
            let mut code = Vec::new();
            output.read_to_end(&mut code).map(|_| code)
        });
        let said = scope.spawn(move || {
            let mut said = String::new();
            drop(errors.read_to_string(&mut said));
            said
        });
        let deadline = Instant::now() + timeout;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(Some(status)),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(None) => {
                    drop(child.kill());
                    drop(child.wait());
                    break Ok(None);
                }
                Err(error) => break Err(error),
            }
        };
        let code = code.join().expect("reading does not panic");
        let said = said.join().expect("reading does not panic");
        status.and_then(|status| Ok((status, code?, said)))
    });
    match ended.map_err(failed)? {
        (Some(status), code, _) if status.success() => Ok(code),
        (Some(_), _, said) => Err(CompileError::Component(said.trim().to_owned())),
        (None, ..) => Err(CompileError::TooLong(timeout)),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
