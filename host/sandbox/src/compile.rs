//! Compilation: once for each component, cached by hash in memory and on disk ([`CodeCache`]),
//! bounded in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, Instance, Linker};
use wasmtime::{Config, Engine, Store};

use crate::admissions::Admissions;
use crate::admit::{Admitted, Refused};
use crate::answers::Answers;
use crate::code_cache::CodeCache;
use crate::compiler::{Compiler, run_child};
use crate::function_cache::{self, FunctionCache, Hash, Known, PIECES_MAX, Pieces};
use crate::guest::{ARGUMENTS_MAX, Guest, Running};
use crate::host::Requests;
use crate::loaded::Loaded;
use crate::serving::{MEMORIES, Serving};
use crate::shared_code::{CODE_MAX, SharedCode};
use crate::ticker::Ticker;
use crate::trace::FRAMES_MAX;

/// Bytes of stack a guest may use.
const STACK_MAX: usize = 512 << 10;
/// Bytes of machine code of an upload: it is some three times as large as what it was compiled of,
/// but can be made to be twenty times as large. Of a chain there may be as much for each function,
/// and no more than workers take ([`CODE_MAX`]).
const COMPILED_MAX: usize = 256 << 20;
/// Bytes of loaded components that are kept in memory although nobody may use them any more.
const LOADED_MAX: usize = 64 << 20;

/// How to set up a [`Sandbox`].
#[derive(Clone, Debug, Default)]
pub struct SandboxConfig {
    /// Where compiled code is kept, and what children found of uploads. None: in memory only.
    pub cache: Option<CodeCache>,
    /// Who compiles components that tenants uploaded.
    pub compiler: Compiler,
    /// The process is shut in: it can open no files, and ask the kernel for little.
    pub shut_in: bool,
    /// Memories that are used again, for components that get an instance for each request; 1,024 if
    /// it is not said.
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
    /// Its code is too large.
    #[error(
        "its machine code is larger than the {0} bytes that are taken, in which that of each single function comes once more: make it \
         smaller, or split it"
    )]
    TooLarge(usize),
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
    known: Known,
    /// By hash, and whether they serve: so that instances of one function share its code.
    loaded: Mutex<Loaded<([u8; 32], bool), Component>>,
    /// For services, from the first one on; none if the machine has no room for it.
    serving: OnceLock<Option<Serving>>,
    admissions: Admissions,
    pub(crate) shared: SharedCode,
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
        let admissions = Admissions::new(Answers::new(&config));
        Ok(Self {
            engine,
            ticker,
            config,
            compatibility,
            functions,
            known: Known::default(),
            loaded: Mutex::default(),
            serving: OnceLock::new(),
            admissions,
            shared: SharedCode::default(),
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

    /// Where a component can run. One that is larger than the places of the engine for services has
    /// only the other.
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
    pub fn store<S: Requests>(&self, mut guest: Guest<S>) -> Store<Guest<S>> {
        guest.epochs = Some(self.ticker.epochs());
        let mut store = Store::new(&self.engine, guest);
        store.set_hostcall_fuel(ARGUMENTS_MAX);
        store.limiter(|guest| guest);
        store.epoch_deadline_callback(Guest::look);
        store.set_epoch_deadline(1);
        store
    }

    /// Makes an instance in a store of [`Self::store`], of the function at `place`, or of all of
    /// the store's linked together. Start code of the component's modules runs here, as long as
    /// [`Guest::setup`](crate::Guest::setup) says and with the memory of whom it is of; a
    /// [`Ticker`] must be ticking.
    ///
    /// # Errors
    /// When types do not fit, or start code traps or does not end.
    pub fn instantiate<S: Requests>(
        &self,
        linker: &Linker<Guest<S>>,
        store: &mut Store<Guest<S>>,
        component: &Component,
        place: Option<usize>,
    ) -> wasmtime::Result<Instance> {
        store.data_mut().set_running(Running::Start { place });
        let instance = linker.instantiate(&mut *store, component);
        store.data_mut().set_running(Running::Nobody);
        instance
    }

    /// As [`crate::admit`], once for all chains that use the upload: they share its bytes. The
    /// configured [`Compiler`] looks at it: what a component takes to validate is its author's to
    /// say. What a child finds is kept on disk, as compiled code is.
    ///
    /// # Errors
    /// As [`crate::admit`], and when that takes too long or too much memory.
    pub fn admit(&self, upload: &[u8]) -> Result<Arc<Admitted>, Refused> {
        self.admissions.admit(&self.config.compiler, upload)
    }

    /// The same for an upload of which nobody has said yet that there is room for it: nothing is
    /// kept on disk.
    ///
    /// # Errors
    /// As for [`Self::admit`].
    pub fn look_at(&self, upload: &[u8]) -> Result<Arc<Admitted>, Refused> {
        self.admissions.look_at(&self.config.compiler, upload)
    }

    /// Machine code for a component that a tenant uploaded; `hash` is its SHA-256. Compiled by
    /// the configured [`Compiler`] if neither memory nor disk has it.
    ///
    /// # Errors
    /// When it does not compile, or takes too long.
    pub fn compile(&self, component: &[u8], hash: [u8; 32]) -> Result<Compiled, CompileError> {
        self.obtain(hash, false, || Ok(self.run_compiler(component, &[], 1)?.0))
    }

    /// The same for a component that gets an instance for each request: memories of those are used
    /// again.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_service(
        &self,
        component: &[u8],
        hash: [u8; 32],
    ) -> Result<Compiled, CompileError> {
        self.obtain(hash, true, || Ok(self.run_compiler(component, &[], 1)?.0))
    }

    /// Where instances of such a component can be made: in memories that are used again and, when
    /// all of those are taken, in others.
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

    /// The same for a component that we composed around one upload. The code of its functions is
    /// remembered for when it is composed with others.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_untried(&self, component: &[u8]) -> Result<Compiled, CompileError> {
        let hash = Sha256::digest(component).into();
        self.obtain(hash, false, || Ok(self.compile_part(component, hash)?.0))
    }

    /// The same for a component that we composed of several uploads. `parts` gives what
    /// [`Self::compile_untried`] has of each: its functions are not compiled again if they are
    /// known, and each of those that are not, after a start or because there were too many since,
    /// is compiled with the time that an upload has.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_composed(
        &self,
        component: &[u8],
        parts: impl FnOnce() -> Vec<Vec<u8>>,
    ) -> Result<Compiled, CompileError> {
        let hash = Sha256::digest(component).into();
        self.obtain(hash, false, || {
            if matches!(self.config.compiler, Compiler::InProcess) {
                return Ok(self.run_compiler(component, &[], 1)?.0);
            }
            let mut known = BTreeMap::new();
            let parts = parts();
            for part in &parts {
                let hash: Hash = Sha256::digest(part).into();
                if known.contains_key(&hash) {
                    continue;
                }
                let pieces = match self.known.get(&hash) {
                    Some(pieces) => pieces,
                    None => self.compile_part(part, hash)?.1,
                };
                known.insert(hash, pieces);
            }
            let hashes = known.keys().copied().collect();
            let known: Vec<_> = known.into_values().chain(self.known.like(&hashes)).collect();
            let (code, pieces) = self.run_compiler(component, &known, parts.len())?;
            self.known.keep(hash, hashes, Arc::new(pieces));
            Ok(code)
        })
    }

    fn compile_part(
        &self,
        component: &[u8],
        hash: Hash,
    ) -> Result<(Vec<u8>, Arc<Pieces>), CompileError> {
        let (code, pieces) = self.run_compiler(component, &[], 1)?;
        let pieces = Arc::new(pieces);
        self.known.keep(hash, BTreeSet::new(), Arc::clone(&pieces));
        Ok((code, pieces))
    }

    /// What memory or disk has, or else this makes.
    fn obtain(
        &self,
        hash: [u8; 32],
        serves: bool,
        compile: impl FnOnce() -> Result<Vec<u8>, CompileError>,
    ) -> Result<Compiled, CompileError> {
        let started = Instant::now();
        if let Some(component) = self.loaded().get((hash, serves)) {
            return Ok(Compiled { component, took: started.elapsed(), cached: true });
        }
        let name = format!("{}-{}.cwasm", hex(&hash), self.compatibility);
        let cache = self.config.cache.as_ref();
        let from_disk = cache.and_then(|cache| cache.load(self.engines(serves), &name));
        let cached = from_disk.is_some();
        let compiled = match from_disk {
            Some(compiled) => compiled,
            None => {
                let code = compile()?;
                // The pages of a file are the kernel's to drop and to read again; those of a copy
                // are this process's.
                let kept = cache.filter(|cache| cache.keep(&name, &code));
                match kept.and_then(|cache| cache.load(self.engines(serves), &name)) {
                    Some(component) => component,
                    // SAFETY: these bytes were made just now by this very wasmtime, in this process
                    // or in the child that we started for it.
                    None => unsafe { self.load(&code, serves) }?,
                }
            }
        };
        let bytes = compiled.image_range();
        let bytes = bytes.end.addr() - bytes.start.addr();
        self.loaded().insert((hash, serves), compiled.clone(), bytes, LOADED_MAX);
        Ok(Compiled { component: compiled, took: started.elapsed(), cached })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded<([u8; 32], bool), Component>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code of a component of so many uploads, and that of its functions, of which some are
    /// `known`, if a child compiles.
    fn run_compiler(
        &self,
        component: &[u8],
        known: &[Arc<Pieces>],
        uploads: usize,
    ) -> Result<(Vec<u8>, Pieces), CompileError> {
        match &self.config.compiler {
            Compiler::InProcess => self
                .engine
                .precompile_component(component)
                .map(|code| (code, Pieces::new()))
                .map_err(|e| CompileError::Component(format!("{e:#}"))),
            Compiler::Child { program, arguments, timeout, .. } => {
                let order = function_cache::order(component, known);
                let most = uploads.max(1).saturating_mul(COMPILED_MAX + PIECES_MAX).min(CODE_MAX);
                let answer = run_child(program, arguments, *timeout, &order, most)?;
                function_cache::read_answer(answer).ok_or_else(|| {
                    let program = program.display();
                    CompileError::Component(format!("{program} did not answer with compiled code"))
                })
            }
        }
    }

    /// What the child of [`Compiler::Child`] does with what it is given: a component, with what is
    /// known of its functions, in, machine code out, for the component as a whole and for each of
    /// its functions.
    ///
    /// # Errors
    /// When the component does not compile.
    pub fn precompile(order: &[u8]) -> Result<Vec<u8>, CompileError> {
        let functions = Arc::new(FunctionCache::default());
        let component = functions.take_order(order).ok_or_else(|| {
            CompileError::Component("what it was given to compile is cut off".to_owned())
        })?;
        engine(&functions)
            .and_then(|engine| engine.precompile_component(component))
            .map(|code| functions.answer(&code))
            .map_err(|e| CompileError::Component(format!("{e:#}")))
    }
}

/// Calls a guest that may hand the host so many bytes in one of its calls, or answer, if they are
/// more than [`ARGUMENTS_MAX`]. wasmtime counts all bytes of a list, those of a region that is only
/// looked for as well.
pub fn giving<S: 'static, T>(
    store: &mut Store<S>,
    bytes: usize,
    call: impl FnOnce(&mut Store<S>) -> T,
) -> T {
    store.set_hostcall_fuel(bytes.max(ARGUMENTS_MAX));
    let called = call(store);
    store.set_hostcall_fuel(ARGUMENTS_MAX);
    called
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
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(FRAMES_MAX));
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

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module whose types are not those of the others, with a call by table.
    fn module(name: &str, parameters: usize) -> String {
        let parameters = "(param i32) ".repeat(parameters);
        format!(
            r#"(core module ${name}
              (type $first (func {parameters}(result i32)))
              (type $second (func (param i64) {parameters}(result i64)))
              (table 1 funcref)
              (memory 1)
              (global $calls (mut i32) (i32.const 0))
              (func $a (type $first)
                (global.set $calls (i32.add (global.get $calls) (i32.const {})))
                (i32.load (i32.mul (local.get 0) (local.get 0))))
              (func (type $second) (call_indirect (type $second) {} (i32.const 0)))
              (elem (i32.const 0) $a))
            (core instance (instantiate ${name}))"#,
            parameters.len(),
            (0..=parameters.matches("i32").count())
                .map(|n| format!("(local.get {n}) "))
                .collect::<String>()
        )
    }

    fn component(modules: &[String]) -> Vec<u8> {
        wat::parse_str(format!("(component {})", modules.concat())).unwrap()
    }

    /// What a child answers, and how many functions it had to compile.
    fn child(component: &[u8], known: &[Arc<Pieces>]) -> (Arc<Pieces>, usize) {
        let functions = Arc::new(FunctionCache::default());
        let order = function_cache::order(component, known);
        let mut config = config(&functions).unwrap();
        // On one thread: with several, what a thread compiled before is in some functions' keys,
        // and they may be made again.
        config.parallel_compilation(false);
        let engine = Engine::new(&config).unwrap();
        let code = engine.precompile_component(functions.take_order(&order).unwrap());
        let answer = functions.answer(&code.unwrap());
        (Arc::new(function_cache::read_answer(answer).unwrap().1), functions.made())
    }

    #[test]
    fn what_is_known_of_its_parts_or_of_one_like_it_is_not_compiled_again() {
        let [a, b, c] = [("a", 1), ("b", 3), ("c", 2)].map(|(name, n)| module(name, n));
        let [of_a, of_b, of_c] =
            [&a, &b, &c].map(|module| child(&component(std::slice::from_ref(module)), &[]).0);
        let whole = component(&[a, b.clone()]);
        let (_, all) = child(&whole, &[]);
        let (before, made) = child(&whole, &[of_a, Arc::clone(&of_b)]);
        assert!(made < all, "{made} of {all}");
        assert_eq!(child(&whole, std::slice::from_ref(&before)).1, 0);
        // Another one in place of the first: the second has the same number as before.
        let other = component(&[c, b]);
        let (_, made) = child(&other, &[Arc::clone(&of_b), Arc::clone(&of_c)]);
        let (_, made_beside) = child(&other, &[of_b, of_c, before]);
        assert!(made_beside < made, "{made_beside} of {made}");
    }

    #[test]
    fn where_a_child_compiles_this_process_does_not() {
        let compiler = Compiler::Child {
            program: "/bin/false".into(),
            arguments: Vec::new(),
            admission: Vec::new(),
            timeout: Duration::from_secs(60),
        };
        let sandbox = Sandbox::new(SandboxConfig { compiler, ..SandboxConfig::default() }).unwrap();
        let (a, b) = (module("a", 1), module("b", 3));
        let parts = [component(std::slice::from_ref(&a)), component(std::slice::from_ref(&b))];
        let whole = component(&[a, b]);
        // As if they had just been pushed.
        for part in &parts {
            let pieces = child(part, &[]).0;
            sandbox.known.keep(Sha256::digest(part).into(), BTreeSet::new(), pieces);
        }
        assert!(sandbox.compile_composed(&whole, || parts.to_vec()).is_err());
        assert!(sandbox.compile_composed(&whole, Vec::new).is_err());
        assert!(sandbox.compile_untried(&parts[0]).is_err());
        assert!(sandbox.compile(&parts[1], [1; 32]).is_err());
    }
}
