//! A deployed chain: its parts, one on each thread of each of its listeners.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_control::engine::EngineError;
use weir_message::{
    Chain, ChainCounters, Findings, FunctionCounters, FunctionPlan, MessageError, Remote, Site,
};
use weir_sandbox::{Admitted, OnFault, Telemetry};
use weir_spec::{Access, Name, ResolvedFunction, Version};

use super::refused;

/// A part.
pub(super) struct Part {
    pub(super) site: Site,
    pub(super) remote: Remote,
    pub(super) counters: Arc<ChainCounters>,
    /// By the function's name in the chain; they outlive versions.
    functions: Mutex<BTreeMap<String, Arc<FunctionCounters>>>,
}

impl Part {
    pub(super) fn new(site: Site, remote: Remote) -> Self {
        let (counters, functions) = (Arc::default(), Mutex::default());
        Self { site, remote, counters, functions }
    }

    /// A function's counters.
    pub(super) fn function(&self, label: &str) -> Arc<FunctionCounters> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(functions.entry(label.to_owned()).or_default())
    }
}

/// A version that is being tried.
#[derive(Clone)]
pub(super) struct Trial {
    pub(super) function: Name,
    pub(super) version: Option<Version>,
    /// What replaces the running one if it is promoted.
    pub(super) resolved: ResolvedFunction,
    /// Share of the clients; none: it shadows.
    pub(super) canary: Option<u8>,
    /// By part.
    pub(super) findings: Vec<Arc<Findings>>,
}

/// What runs.
#[derive(Default)]
pub(super) struct Running {
    pub(super) functions: Vec<ResolvedFunction>,
    pub(super) trial: Option<Trial>,
    /// What the last swap replaced, which a fault brings back.
    pub(super) before: Option<ResolvedFunction>,
}

/// See the module.
pub(super) struct Deployed {
    pub(super) parts: Vec<Part>,
    running: Mutex<Running>,
    /// By the function's name in the chain.
    telemetry: Mutex<BTreeMap<String, Arc<Telemetry>>>,
    /// Whoever changes the chain has it.
    turn: Mutex<()>,
}

impl Deployed {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let (running, telemetry, turn) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { parts, running, telemetry, turn }
    }

    /// The same with these parts.
    pub(super) fn with_parts(self, parts: Vec<Part>) -> Self {
        Self { parts, ..self }
    }

    /// Keeps everybody else from changing the chain.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function's log and counters.
    pub(super) fn telemetry(&self, label: &str) -> Arc<Telemetry> {
        let mut all = self.telemetry.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(label.to_owned()).or_default())
    }

    /// A function of the chain has gone back to the version before, on one of its parts: now on all, and in what is said to run.
    pub(super) fn went_back(&self, label: &str, version: &str) {
        for part in &self.parts {
            let (label, version) = (label.to_owned(), version.to_owned());
            // A part whose thread has ended has nothing to go back to.
            let _ = part.remote.run(move |chain| chain.go_back(&label, &version));
        }
        let mut running = self.running();
        let Some(before) = running.before.take() else { return };
        let replaced = running.functions.iter_mut().find(|f| f.label == before.label);
        if let Some(function) = replaced.filter(|f| f.label.as_str() == label) {
            *function = before;
        }
    }

    /// Does something with each part, on its thread; the longest time that took there.
    pub(super) fn publish(
        &self,
        mut order: impl FnMut(usize) -> Box<dyn FnOnce(&Chain) -> Result<(), MessageError> + Send>,
    ) -> Result<Duration, EngineError> {
        let mut pause = Duration::ZERO;
        for (n, part) in self.parts.iter().enumerate() {
            let order = order(n);
            let done = part.remote.run(move |chain| {
                let started = Instant::now();
                order(chain).map(|()| started.elapsed())
            });
            let done = done.map_err(|gone| EngineError::Internal(gone.to_string()))?;
            pause = pause.max(done.map_err(refused)?);
        }
        Ok(pause)
    }
}

/// A function of a chain as a part's site wants it.
pub(super) fn function_plan(
    function: &ResolvedFunction,
    admitted: Arc<Admitted>,
    telemetry: Arc<Telemetry>,
    counters: Arc<FunctionCounters>,
) -> FunctionPlan {
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    FunctionPlan {
        name: function.label.to_string(),
        version: function.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        admitted,
        writes: function.access == Access::ReadWrite,
        memory: bytes(function.memory.get()),
        deadline: function.deadline.get(),
        on_fault: match function.on_fault {
            weir_spec::OnFault::FailClosed => OnFault::FailClosed,
            weir_spec::OnFault::FailOpen => OnFault::FailOpen,
        },
        state_bytes: bytes(function.state_bytes),
        state_layout: function.layout.clone(),
        config: function.config.clone(),
        telemetry,
        counters,
    }
}
