//! Chains: applying, removing, and bringing back at the start.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{
    Access, Chain, ChainTrace, Check as _, FunctionUse, Invalid, Listener, Name, Plane,
    ResolvedFunction, TapRequest, TraceRequest, VersionSchema, World,
};

use crate::condition::{Condition, tag};
use crate::control::Control;
use crate::engine::{Deployment, EngineError, Published, Tap};
use crate::error::{ControlError, some};
use crate::events::EventKind;
use crate::functions::{label, manifest_of};
use crate::quota;
use crate::steering::{self, advice, has};
use crate::store::{ChainId, ChainRecord, FunctionId, Running, State, StoreError};
use crate::time;

/// Tenants whose chains are deployed at the same time when the host starts: what is compiled takes
/// memory.
const RESTORED_AT_ONCE: usize = 16;
/// Why a chain does not run whose turn is still to come.
const NOT_YET: &str = "it is not deployed yet: the host is starting";

/// Pauses before chains are tried again for which the machine had no memory, processes or threads:
/// the first, and the longest, each twice as long as the one before.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_LEAST: Duration = Duration::from_secs(512);

/// Why a chain that is stored does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// The port that is down; when it is there again, the chain is deployed.
    waits_for: Option<Name>,
    /// Wasm of its functions is not what was stored; when that is pushed again, the chain is
    /// deployed.
    damaged: bool,
    /// It is the machine that lacks something, which may be there later.
    passes: bool,
}

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), waits_for: None, damaged: false, passes: false }
    }

    /// It is deployed once more when this port is there again, unless it waits for another one.
    fn again_at(mut self, port: &Name) -> Self {
        self.waits_for.get_or_insert_with(|| port.clone());
        self
    }

    /// It waits for this port, of which that is told.
    fn waiting(port: &Name, told: &str) -> Self {
        let why = format!("{told}, and the chain is deployed then");
        Self { waits_for: Some(port.clone()), ..Self::new(why) }
    }
}

impl From<&ControlError> for Failure {
    fn from(error: &ControlError) -> Self {
        fn of(error: &EngineError) -> Failure {
            match error {
                EngineError::NoPort { port, message } => Failure::waiting(port, message),
                EngineError::Exhausted(why) => Failure { passes: true, ..Failure::new(why) },
                EngineError::Lost(error) => of(error),
                error => Failure::new(error.to_string()),
            }
        }
        match error {
            ControlError::Engine(error) => of(error),
            ControlError::Store(StoreError::Blob(_)) => {
                Self { damaged: true, ..Self::new(error.to_string()) }
            }
            error => Self::new(error.public()),
        }
    }
}

/// A chain, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChainView {
    /// As it was applied.
    pub chain: Chain,
    /// What runs, in the order of its functions.
    pub running: Vec<RunningFunction>,
    /// When it was applied, RFC 3339.
    #[schema(format = DateTime)]
    pub applied: String,
    /// Why it does not run.
    pub failed: Option<String>,
}

/// A function that runs in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningFunction {
    /// Its name in the chain.
    pub function: Name,
    /// The version.
    #[schema(value_type = VersionSchema)]
    pub version: Version,
}

/// What became of a chain that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The chain.
    #[serde(flatten)]
    pub view: ChainView,
    /// Longest time for which a worker stood still, in microseconds.
    pub pause_us: f64,
    /// Time spent compiling, in milliseconds.
    pub compile_ms: f64,
    /// False when it replaced one of the same name.
    pub new: bool,
    /// What is hardly meant so. The event `note` says it, too.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Of what is kept of it now; see [`Condition`].
    #[serde(skip)]
    pub tag: String,
}

/// Says that a chain sends back what it only looks at: whoever meant a monitor at a mirror port has
/// made a loop.
fn echo(deployment: &Deployment) -> Option<String> {
    let chain = &deployment.chain;
    let from = chain.from.as_ref().filter(|_| chain.to.is_none())?;
    let reads = |f: &ResolvedFunction| f.access == Access::ReadOnly;
    let echoes = chain.plane() == Plane::Packet && deployment.functions.iter().all(reads);
    echoes.then(|| {
        format!(
            "chain {} has no `to`, and all its functions are read-only: what passes them goes back by port {from} as it came. \
             To swallow it, let a `memory` port be `to`",
            chain.name
        )
    })
}

impl Control {
    fn view(&self, state: &State, id: &ChainId, record: &ChainRecord) -> ChainView {
        let running = record.running.iter().enumerate();
        ChainView {
            chain: record.chain.clone(),
            running: running
                .map(|(index, running)| RunningFunction {
                    function: label(state, id, index),
                    version: running.version.clone(),
                })
                .collect(),
            applied: time::text(record.applied),
            failed: self.failed().get(id).map(|failure| failure.why.clone()),
        }
    }

    /// All chains, or those of one tenant.
    #[must_use]
    pub fn chains(&self, tenant: Option<&Name>) -> Vec<ChainView> {
        let state = self.store.state();
        let mine = state.chains.iter().filter(|(id, _)| tenant.is_none_or(|t| *t == id.tenant));
        mine.map(|(id, record)| self.view(&state, id, record)).collect()
    }

    /// One chain, and the tag of what is kept of it; see [`Condition`].
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn chain(&self, id: &ChainId) -> Result<(ChainView, String), ControlError> {
        let state = self.store.state();
        let record = state.chains.get(id).ok_or_else(|| no_chain(&state, id))?;
        Ok((self.view(&state, id, record), tag(&**record)))
    }

    /// Follows packets through a chain. Whoever changes it meanwhile does not wait.
    ///
    /// # Errors
    /// When there is none of that name, the request is wrong, or the data plane refuses it.
    pub fn trace(&self, id: &ChainId, request: &TraceRequest) -> Result<ChainTrace, ControlError> {
        request.check()?;
        self.chain_exists(id)?;
        Ok(self.engine.trace(id, request)?)
    }

    /// Begins to copy packets of a chain. Whoever changes it meanwhile does not wait.
    ///
    /// # Errors
    /// As [`Self::trace`].
    pub fn tap(&self, id: &ChainId, request: &TapRequest) -> Result<Box<dyn Tap>, ControlError> {
        request.check()?;
        self.chain_exists(id)?;
        Ok(self.engine.tap(id, request)?)
    }

    fn chain_exists(&self, id: &ChainId) -> Result<(), ControlError> {
        let state = self.store.state();
        state.chains.get(id).map(drop).ok_or_else(|| no_chain(&state, id))
    }

    /// Deploys a chain, or changes the one of the same name to this, if that is what the condition
    /// says.
    ///
    /// # Errors
    /// When it is wrong, names functions or ports that are not there, or the data plane refuses it.
    pub fn apply(
        &self,
        tenant: &Name,
        mut chain: Chain,
        condition: &Condition,
    ) -> Result<Applied, ControlError> {
        if let Some(of) = chain.tenant.as_ref().filter(|of| *of != tenant) {
            return Err(ControlError::Conflict(format!(
                "the chain says that it is tenant {of}'s, and is applied for tenant {tenant}: leave `tenant` out, or apply it for that tenant"
            )));
        }
        for (index, function) in chain.functions.iter().enumerate() {
            if function.path.is_some() {
                return Err(Invalid::at("path", "the host reads no files for its clients")
                    .help("push the function, and name it with `use`")
                    .within_array("function", index)
                    .into());
            }
        }
        chain.tenant = Some(tenant.clone());
        let id = ChainId::new(tenant, &chain.name);
        let turn = self.turn(tenant);
        let _turn = turn.take();
        self.takes_changes()?;
        self.tenant_exists(tenant).map_err(|error| {
            let invalid = Invalid::at("tenant", error.to_string());
            ControlError::At { error: Box::new(error), invalid }
        })?;
        let state = self.store.state();
        condition.check(&format!("chain {}", id.name), state.chains.get(&id).map(|r| &**r))?;
        let versions = choose_versions(&state, tenant, &chain)?;
        chain.settle(&worlds(&state, tenant, &chain, &versions))?;
        self.check_ports(&state, &id, &chain)?;
        chain.check()?;
        self.check_way_up(&id, &chain)?;
        steering::check_still_possible(&state, &id, Some(&chain))?;
        let before = state.chains.get(&id);
        for chain in before.map(|record| &record.chain).into_iter().chain([&chain]) {
            self.check_no_trial(&state, tenant, chain)?;
        }
        quota::check_chain(&self.quota(), &state, &id, &chain)?;
        let late = self.late_functions(&state, &id, &chain, &versions).next();
        late.map_or(Ok(()), |(index, invalid)| Err(invalid.within_array("function", index)))?;
        let memories = self.memories(&state, &id, &chain, versions.iter());
        self.check_memories(&state, tenant, &BTreeMap::from([(id.clone(), memories)]))?;
        let deployment = self.deployment(&state, &id, &chain, &versions)?;
        let mut notes: Vec<String> = echo(&deployment).into_iter().collect();
        notes.extend(self.unheard(&id, &deployment.chain));
        self.store.has_room()?;
        let deployed = self.engine.deploy(deployment).map_err(|error| match error {
            EngineError::Lost(error) => {
                self.put_back(&state, &id);
                *error
            }
            error => error,
        });
        let published = deployed.map_err(|error| match error {
            EngineError::Configuration { function, message } => {
                chain.refused_configuration(&function, &message).into()
            }
            error => ControlError::from(error),
        })?;
        let record = ChainRecord {
            running: running(before, &chain, versions),
            chain,
            applied: time::milliseconds(),
        };
        let stored = self.store.change(|state| {
            state.chains.insert(id.clone(), Arc::new(record));
            Ok::<_, ControlError>(())
        });
        if let Err(error) = stored {
            self.put_back(&state, &id);
            return Err(error);
        }
        self.failed().remove(&id);
        let new = before.is_none();
        let message = format!("chain {} was {}", id.name, if new { "deployed" } else { "changed" });
        self.events.emit(EventKind::ChainApplied, Some(tenant), id.name.as_str(), message);
        let Published { pause, compiled_in, notes: told, .. } = published;
        notes.extend(told);
        notes.iter().for_each(|note| self.note(&id, note.clone()));
        let (view, tag) = self.chain(&id)?;
        Ok(Applied {
            view,
            pause_us: pause.as_secs_f64() * 1e6,
            compile_ms: compiled_in.as_secs_f64() * 1e3,
            new,
            notes,
            tag,
        })
    }

    /// Takes a chain down and forgets it.
    ///
    /// # Errors
    /// When there is none of that name, it is not as the condition says, a version is being tried
    /// in it, or steering rules name it.
    pub(crate) fn remove_chain(
        &self,
        id: &ChainId,
        condition: &Condition,
    ) -> Result<(), ControlError> {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        let state = self.store.state();
        let record = state.chains.get(id).ok_or_else(|| no_chain(&state, id))?;
        condition.check(&format!("chain {}", id.name), Some(&**record))?;
        self.check_no_trial(&state, &id.tenant, &record.chain)?;
        steering::check_still_possible(&state, id, None)?;
        self.store.can_shrink()?;
        self.engine.undeploy(id).inspect_err(|error| {
            let why = format!("it was taken down: {error}");
            self.failed().insert(id.clone(), Failure::new(why));
        })?;
        let removed = self.store.change(|state| {
            state.chains.remove(id);
            Ok::<_, ControlError>(())
        });
        if let Err(error) = removed {
            self.put_back(&state, id);
            return Err(error);
        }
        self.failed().remove(id);
        let message = format!("chain {} was removed", id.name);
        self.events.emit(EventKind::ChainRemoved, Some(&id.tenant), id.name.as_str(), message);
        Ok(())
    }

    /// At the start: what the store holds is not deployed yet. Rules are in force from now on, so
    /// that no packet passes where they do not want it.
    pub(crate) fn expect_chains(&self) {
        let state = self.store.state();
        let chains: Vec<_> = state.chains.iter().map(|(id, record)| (id, &record.chain)).collect();
        self.engine.expect(&chains);
        self.restore_steering(&state);
        self.engine.guard_ports();
        let not_yet = |id: &ChainId| (id.clone(), Failure::new(NOT_YET));
        self.failed().extend(state.chains.keys().map(not_yet));
    }

    /// Deploys what the store holds, and comes back when that is done. Tenants are served side by
    /// side, and what of theirs is changed meanwhile waits for one chain at most. A chain that
    /// cannot be deployed is reported, and holds up nothing.
    pub fn restore(&self) {
        let state = self.store.state();
        let mut tenants = BTreeMap::<&Name, VecDeque<&ChainId>>::new();
        for id in state.chains.keys() {
            tenants.entry(&id.tenant).or_default().push_back(id);
        }
        let threads = tenants.len().min(RESTORED_AT_ONCE);
        let waiting: Mutex<VecDeque<_>> = Mutex::new(tenants.into_values().collect());
        // A tenant has one thread at most, for one chain after the other; then others have theirs.
        let work = || {
            let waiting = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let Some(mut chains) = waiting().pop_front() else { return };
                let Some(id) = chains.pop_front() else { continue };
                self.restore_chain(id, None);
                waiting().push_back(chains);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let thread = std::thread::Builder::new().name("weir-restore".to_owned());
                // Without it the others take longer.
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    tracing::warn!("chains are deployed by fewer threads: {error}");
                }
            }
            work();
        });
        self.warn_of_listeners_without_chains();
    }

    /// Behind [`Self::restore`]: tries again what the machine had no memory, processes or threads
    /// for, more and more seldom, and comes back when all of it runs, or the host stops.
    pub fn restore_again(&self) {
        let mut pause = AGAIN_AFTER;
        loop {
            let passes = |(id, failure): (&ChainId, &Failure)| failure.passes.then(|| id.clone());
            let again: Vec<_> = self.failed().iter().filter_map(passes).collect();
            if again.is_empty() || self.takes_changes().is_err() {
                return;
            }
            std::thread::sleep(pause);
            for id in again {
                self.bring_back(&id, None, "what it lacked is there");
            }
            pause = (pause * 2).min(AGAIN_AT_LEAST);
        }
    }

    /// A name that is mistyped in the configuration is that of a chain that does not come.
    fn warn_of_listeners_without_chains(&self) {
        let state = self.store.state();
        for listener in &*self.listeners.read().unwrap_or_else(PoisonError::into_inner) {
            let Some(chain) = &listener.chain else { continue };
            let (name, tenant) = (&listener.name, &listener.tenant);
            if !state.chains.contains_key(&ChainId::new(tenant, chain)) {
                tracing::warn!(
                    "listener {name} lets nobody through: tenant {tenant} has no chain {chain} yet"
                );
            }
        }
    }

    /// As [`Self::restore_chain`], which is told if it runs by that, and `why`.
    fn bring_back(&self, id: &ChainId, at: Option<&Name>, why: &str) {
        if self.restore_chain(id, at) {
            let message = format!("chain {} was deployed: {why}", id.name);
            self.events.emit(EventKind::ChainApplied, Some(&id.tenant), id.name.as_str(), message);
        }
    }

    /// Deploys a chain that does not run; whether it does by that. `at`: the port that is there
    /// again, which may have gone once more before the chain has it.
    fn restore_chain(&self, id: &ChainId, at: Option<&Name>) -> bool {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        let state = self.store.state();
        // It may have been applied or removed meanwhile.
        let Some(record) = state.chains.get(id).filter(|_| self.is_down(id)) else {
            return false;
        };
        if self.takes_changes().is_err() {
            return false;
        }
        let versions: Vec<_> = record.running.iter().map(|r| r.version.clone()).collect();
        let deployed = self
            .check_ports(&state, id, &record.chain)
            .and_then(|()| self.deployment(&state, id, &record.chain, &versions))
            .and_then(|deployment| Ok(self.engine.deploy(deployment)?));
        match deployed {
            Ok(published) => {
                self.failed().remove(id);
                published.notes.into_iter().for_each(|note| self.note(id, note));
                self.note_late(&state, id, &record.chain, &versions);
                for index in 0..record.chain.functions.len() {
                    self.restore_trial(id, index);
                }
            }
            Err(error) => {
                let mut failure = Failure::from(&error);
                if let Some(port) = at {
                    failure = failure.again_at(port);
                }
                self.note(id, format!("chain {} cannot be deployed: {}", id.name, failure.why));
                self.failed().insert(id.clone(), failure);
                return false;
            }
        }
        true
    }

    /// Wasm of this digest is there again, if it was not: deploys the tenant's chains that do not
    /// run because some of theirs was damaged. Waits for the tenant's turn.
    pub(crate) fn deploy_mended(&self, tenant: &Name, digest: &str) {
        let state = self.store.state();
        let has = |record: &ChainRecord| {
            record.chain.functions.iter().zip(&record.running).any(|(used, running)| {
                let name = used.function.as_ref().map(|name| FunctionId::new(tenant, name));
                let function = name.and_then(|name| state.functions.get(&name));
                let version = function.and_then(|f| f.versions.get(&running.version));
                version.is_some_and(|version| version.digest == digest)
            })
        };
        let damaged = |id: &ChainId| self.failed().get(id).is_some_and(|failure| failure.damaged);
        for (id, record) in state.chains.iter().filter(|(id, _)| id.tenant == *tenant) {
            if damaged(id) && has(record) {
                self.bring_back(id, None, "its Wasm is whole again");
            }
        }
    }

    /// A port of a tenant's is down for this reason now: so are chains that wait for it.
    pub(crate) fn wait_on(&self, tenant: &Name, port: &Name, told: &str) {
        for (id, failure) in &mut *self.failed() {
            if id.tenant == *tenant && failure.waits_for.as_ref() == Some(port) {
                *failure = Failure::waiting(port, told);
            }
        }
    }

    /// A port of a tenant's can be had again: deploys its chains, from a thread that waits for the
    /// tenant's turn.
    pub(crate) fn deploy_at(self: &Arc<Self>, tenant: Name, port: Name) {
        let control = Arc::clone(self);
        let thread = std::thread::Builder::new().name("weir-restore".to_owned());
        let deploy = move || {
            for id in control.to_deploy_at(&tenant, &port) {
                control.bring_back(&id, Some(&port), &format!("port {port} is there"));
            }
        };
        if let Err(error) = thread.spawn(deploy) {
            tracing::error!(
                "no thread to deploy the chains of a port that is there again: {error}"
            );
        }
    }

    /// The chains that wait for this port, or have had it since before it was down: those are taken
    /// down.
    fn to_deploy_at(&self, tenant: &Name, port: &Name) -> Vec<ChainId> {
        let turn = self.turn(tenant);
        let _turn = turn.take();
        if self.takes_changes().is_err() {
            return Vec::new();
        }
        let state = self.store.state();
        let status = self.engine.status();
        let is_down = status.ports.iter().any(|p| p.name == *port && p.problem.is_some());
        let mut waiting = Vec::new();
        for (id, record) in state.chains.iter().filter(|(id, _)| id.tenant == *tenant) {
            let failure = self.failed().get(id).cloned();
            let waits = match failure {
                Some(failure) => failure.waits_for.as_ref() == Some(port),
                None => is_down && self.has_port(&record.chain, port),
            };
            if !waits {
                continue;
            }
            if !self.is_down(id) {
                let again = format!("port {port} is there again: the chain is deployed anew");
                self.failed().insert(id.clone(), Failure::new(again).again_at(port));
                // What it could not send went with the port.
                drop(self.engine.undeploy(id));
                // What rules send to it is nobody else's meanwhile.
                self.engine.expect(&[(id, &record.chain)]);
            }
            waiting.push(id.clone());
        }
        // Of rules some hold at the port, whether it has a chain or not.
        self.engine.guard_ports();
        waiting
    }

    /// Whether packets of a chain pass a port.
    fn has_port(&self, chain: &Chain, port: &Name) -> bool {
        let from = self.ports.iter().find(|other| Some(&other.name) == chain.from.as_ref());
        let beside = from.and_then(|from| from.kernel_port.as_ref());
        [chain.from.as_ref(), chain.to.as_ref(), beside].contains(&Some(port))
    }

    /// Puts the data plane back to what the store says: that could not be written, or the data
    /// plane came only halfway to something else.
    fn put_back(&self, state: &State, id: &ChainId) {
        let redeploy = |record: &ChainRecord| {
            let versions: Vec<_> = record.running.iter().map(|r| r.version.clone()).collect();
            let deployment = self.deployment(state, id, &record.chain, &versions)?;
            self.engine.deploy(deployment)?;
            Ok(())
        };
        let back = match state.chains.get(id) {
            None => self.engine.undeploy(id).map_err(ControlError::from),
            Some(record) => redeploy(record),
        };
        match back {
            Ok(()) => drop(self.failed().remove(id)),
            Err(error) => {
                self.note(
                    id,
                    format!("chain {} is not as the store says: {}", id.name, error.public()),
                );
                if state.chains.contains_key(id) {
                    self.failed().insert(id.clone(), Failure::from(&error));
                }
            }
        }
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<ChainId, Failure>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chain that is stored does not run.
    pub(crate) fn is_down(&self, id: &ChainId) -> bool {
        self.failed().contains_key(id)
    }

    pub(crate) fn note(&self, chain: &ChainId, message: String) {
        self.events.emit(EventKind::Note, Some(&chain.tenant), chain.name.as_str(), message);
    }

    fn check_ports(&self, state: &State, id: &ChainId, chain: &Chain) -> Result<(), ControlError> {
        let own = self.ports.iter().filter(|port| port.tenant == id.tenant);
        let own: BTreeSet<&Name> = own.map(|port| &port.name).collect();
        for (key, port) in [("from", &chain.from), ("to", &chain.to)] {
            let Some(port) = port else { continue };
            if !own.contains(port) {
                let message =
                    format!("there is no port {port}: tenant {} {}", id.tenant, has(&own));
                let help = advice(port, &own, "ports are in the host's configuration file");
                return Err(ControlError::conflict_at(Invalid::at(key, message).help(help)));
            }
            // One of another tenant's that is there cannot have it, and is nothing that this one
            // may know of.
            let there = state.chains.iter().filter(|(other, record)| {
                *other != id
                    && other.tenant == id.tenant
                    && [&record.chain.from, &record.chain.to].contains(&&Some(port.clone()))
            });
            for (other, record) in there {
                let beside = (&record.chain.from, &record.chain.to) == (&chain.from, &chain.to);
                let help = match beside {
                    true if record.chain.steered || chain.steered => continue,
                    true => "set `steered = true` in one of the two, or remove that first",
                    false => "remove or change that first",
                };
                let message = format!("port {port} belongs to chain {}", other.name);
                return Err(ControlError::conflict_at(Invalid::at(key, message).help(help)));
            }
        }
        Ok(())
    }

    /// Says that no listener makes messages for a chain: its name may be mistyped, or the listener
    /// another tenant's.
    fn unheard(&self, id: &ChainId, chain: &Chain) -> Option<String> {
        if chain.plane() != Plane::Message {
            return None;
        }
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        let own = listeners.iter().filter(|listener| listener.tenant == id.tenant);
        let had: BTreeSet<&Name> = own.filter_map(|listener| listener.chain.as_ref()).collect();
        (!had.contains(&id.name)).then(|| {
            let tenant = &id.tenant;
            let why = match had.is_empty() {
                true => format!("no listener with `chain` is tenant {tenant}'s"),
                false => format!("those of tenant {tenant} have {}", some(&had)),
            };
            format!("no listener has chain {}, so nothing comes to it: {why}", id.name)
        })
    }

    /// Whether packets of a chain of both planes can become messages.
    fn check_way_up(&self, id: &ChainId, chain: &Chain) -> Result<(), ControlError> {
        if chain.plane() != Plane::Both {
            return Ok(());
        }
        let listens = |listener: &&Listener| {
            listener.tenant == id.tenant && listener.chain.as_ref() == Some(&id.name)
        };
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        if !listeners.iter().any(|listener| listens(&listener)) {
            let message =
                format!("no listener has chain {}: nothing makes messages for it", id.name);
            return Err(Invalid::at("name", message)
                .help(format!(
                    "add a [[listener]] with `chain = \"{}\"` to the host's configuration",
                    id.name
                ))
                .into());
        }
        let port = self.ports.iter().find(|port| Some(&port.name) == chain.from.as_ref());
        if let Some(port) = port.filter(|p| p.kernel.is_none() && p.kernel_port.is_none()) {
            let message = format!(
                "port {} has no way to the kernel's stack, where the chain goes on with messages",
                port.name
            );
            return Err(Invalid::at("from", message)
                .help(
                    "set `kernel = \"INTERFACE\"` or `kernel-port` for the port in the host's configuration",
                )
                .into());
        }
        Ok(())
    }

    /// Whether no version is being tried of a function that a chain has, or is to have: a trial is
    /// one of all chains that have the function, from its begin to its end.
    fn check_no_trial(
        &self,
        state: &State,
        tenant: &Name,
        chain: &Chain,
    ) -> Result<(), ControlError> {
        for function in chain.functions.iter().filter_map(|f| f.function.as_ref()) {
            let function = FunctionId::new(tenant, function);
            if let Some(trial) = state.functions.get(&function).and_then(|f| f.trial.as_ref()) {
                return Err(ControlError::Conflict(format!(
                    "version {} of function {} is being tried, which chain {} has: end that first (`weir function swap {} --to {}` or `rollback {}`)",
                    trial.version,
                    function.name,
                    chain.name,
                    function.name,
                    trial.version,
                    function.name
                )));
            }
        }
        Ok(())
    }

    /// Linear memories of a chain with these versions, all its instances together. Components of
    /// `wasi:http` have theirs for a request.
    pub(crate) fn memories<'v>(
        &self,
        state: &State,
        id: &ChainId,
        chain: &Chain,
        versions: impl Iterator<Item = &'v Version>,
    ) -> u64 {
        let lanes = chain.workers.of(self.workers);
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        let own = |listener: &&Listener| {
            listener.tenant == id.tenant && listener.chain.as_ref() == Some(&id.name)
        };
        let parts = self.threads * listeners.iter().filter(own).count().max(1);
        // That of what calls the functions of packets one after the other.
        let (mut sum, mut runner) = (0, 0);
        for (function, version) in chain.functions.iter().zip(versions) {
            let name = function.function.as_ref().map(|name| FunctionId::new(&id.tenant, name));
            let record = name.and_then(|name| state.functions.get(&name)?.versions.get(version));
            let Some(report) = record.map(|record| &record.report) else { continue };
            let memories = u64::from(report.memories.max(1));
            match report.world {
                Some(World::WasiHttpProxy) => {}
                Some(world) if world.of_messages() => sum += memories * parts as u64,
                _ => {
                    sum += memories * lanes as u64;
                    runner = lanes as u64;
                }
            }
        }
        sum + runner
    }

    /// Whether a tenant's chains may have so many linear memories: these instead of what they have.
    pub(crate) fn check_memories(
        &self,
        state: &State,
        tenant: &Name,
        wanted: &BTreeMap<ChainId, u64>,
    ) -> Result<(), ControlError> {
        let (mut had, mut then) = (0, 0);
        for (id, record) in state.chains.iter().filter(|(id, _)| id.tenant == *tenant) {
            let versions = record.running.iter().map(|running| &running.version);
            let functions = record.chain.functions.iter().filter_map(|f| f.function.as_ref());
            // What is tried has instances of all of the chain.
            let is_tried = functions.clone().any(|name| {
                let record = state.functions.get(&FunctionId::new(tenant, name));
                record.is_some_and(|record| record.trial.is_some())
            });
            let has = self.memories(state, id, &record.chain, versions) * (1 + u64::from(is_tried));
            had += has;
            then += if wanted.contains_key(id) { 0 } else { has };
        }
        let wanted: u64 = wanted.values().sum();
        quota::check_memories(&self.quota(), tenant, had, then + wanted)
    }

    /// Functions of a chain, by place, that want more time than this host gives them, and what is
    /// to be said of that.
    fn late_functions<'a>(
        &self,
        state: &'a State,
        id: &'a ChainId,
        chain: &'a Chain,
        versions: &'a [Version],
    ) -> impl Iterator<Item = (usize, Invalid)> + 'a {
        let most = self.quota().deadline_of(&id.tenant);
        let functions = chain.functions.iter().zip(versions).enumerate();
        functions.filter_map(move |(index, (function, version))| {
            let name = FunctionId::new(&id.tenant, function.function.as_ref()?);
            let report = &state.functions.get(&name)?.versions.get(version)?.report;
            Some((index, quota::check_deadline(most, function, report).err()?))
        })
    }

    /// A chain that was applied when the host gave more runs all the same.
    fn note_late(&self, state: &State, id: &ChainId, chain: &Chain, versions: &[Version]) {
        let most = self.quota().deadline_of(&id.tenant);
        for (index, invalid) in self.late_functions(state, id, chain, versions) {
            let name = label(state, id, index);
            self.note(id, format!("function {name} of chain {} has {most}: {invalid}", id.name));
        }
    }

    fn deployment(
        &self,
        state: &State,
        id: &ChainId,
        chain: &Chain,
        versions: &[Version],
    ) -> Result<Deployment, ControlError> {
        chain.check_workers(self.workers).map_err(EngineError::At)?;
        // A function that the chain has several times is read once.
        let mut read = BTreeMap::new();
        let functions = chain.functions.iter().zip(versions).enumerate();
        let functions = functions.map(|(index, (function, version))| {
            let used = self.resolve_use(state, id, function, version, &mut read);
            used.map_err(|error| match error {
                ControlError::Invalid(invalid) => invalid.within_array("function", index).into(),
                error => error,
            })
        });
        Ok(Deployment {
            id: id.clone(),
            chain: chain.clone(),
            functions: functions.collect::<Result<_, _>>()?,
        })
    }

    /// A version of the function at a place of a stored chain, ready for the data plane.
    pub(crate) fn resolve(
        &self,
        state: &State,
        chain: &ChainId,
        index: usize,
        version: &Version,
    ) -> Result<ResolvedFunction, ControlError> {
        let function = &state.chains[chain].chain.functions[index];
        self.resolve_use(state, chain, function, version, &mut BTreeMap::new())
    }

    /// `read`: Wasm that was read already, by its digest.
    fn resolve_use<'s>(
        &self,
        state: &'s State,
        chain: &ChainId,
        function: &FunctionUse,
        version: &Version,
        read: &mut BTreeMap<&'s str, Arc<[u8]>>,
    ) -> Result<ResolvedFunction, ControlError> {
        let name = function
            .function
            .as_ref()
            .ok_or_else(|| Invalid::at("use", "the entry names no function"))?;
        let record = state.functions.get(&FunctionId::new(&chain.tenant, name));
        let record = record.and_then(|f| f.versions.get(version)).ok_or_else(|| {
            ControlError::Conflict(format!(
                "there is no version {version} of function {name}: push it first"
            ))
        })?;
        let manifest = manifest_of(&record.report)?;
        let wasm = match read.entry(&record.digest) {
            Entry::Occupied(there) => Arc::clone(there.get()),
            Entry::Vacant(place) => Arc::clone(place.insert(self.store.wasm(&record.digest)?)),
        };
        let mut resolved = function.resolve(&manifest, Some(version.clone()), wasm)?;
        if record.report.world != Some(World::WasiHttpProxy) {
            // What is applied says no more than that; a chain that is stored may.
            resolved.deadline = resolved.deadline.min(self.quota().deadline_of(&chain.tenant));
        }
        Ok(resolved)
    }
}

/// There is no chain of this name; those that the tenant has are told.
fn no_chain(state: &State, id: &ChainId) -> ControlError {
    let there = state.chains.keys().filter(|other| other.tenant == id.tenant);
    ControlError::not_found("chain", &id.name, there.map(|other| &other.name))
}

/// The versions that a chain asks for, or the newest.
fn choose_versions(
    state: &State,
    tenant: &Name,
    chain: &Chain,
) -> Result<Vec<Version>, ControlError> {
    let own = state.functions.keys().filter(|id| id.tenant == *tenant).map(|id| &id.name);
    let own: BTreeSet<&Name> = own.collect();
    let choose = |(index, function): (usize, &FunctionUse)| {
        let at = |invalid: Invalid| invalid.within_array("function", index);
        let name = function
            .function
            .as_ref()
            .ok_or_else(|| at(Invalid::at("use", "the entry names no function")))?;
        let record = state.functions.get(&FunctionId::new(tenant, name)).ok_or_else(|| {
            let message = format!("there is no function {name}: tenant {tenant} {}", has(&own));
            let help = advice(name, &own, "push a function first (`weir function push`)");
            ControlError::conflict_at(at(Invalid::at("use", message).help(help)))
        })?;
        let known =
            || record.versions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &function.version {
            Some(version) if record.versions.contains_key(version) => Ok(version.clone()),
            Some(version) => {
                let message =
                    format!("there is no version {version} of function {name}: it has {}", known());
                let invalid = Invalid::at("version", message).help("push it first");
                Err(ControlError::conflict_at(at(invalid)))
            }
            None => record.newest().cloned().ok_or_else(|| {
                let message =
                    format!("all versions of function {name} ({}) were rolled back", known());
                let invalid = Invalid::at("use", message).help("ask for one with `version`");
                ControlError::conflict_at(at(invalid))
            }),
        }
    };
    chain.functions.iter().enumerate().map(choose).collect()
}

/// The worlds of a chain's functions.
fn worlds(state: &State, tenant: &Name, chain: &Chain, versions: &[Version]) -> Vec<Option<World>> {
    let world = |(function, version): (&FunctionUse, &Version)| {
        let record = state.functions.get(&FunctionId::new(tenant, function.function.as_ref()?))?;
        record.versions.get(version)?.report.world
    };
    chain.functions.iter().zip(versions).map(world).collect()
}

/// What runs now, and what can be rolled back to.
fn running(
    before: Option<&Arc<ChainRecord>>,
    chain: &Chain,
    versions: Vec<Version>,
) -> Vec<Running> {
    let was = |function: &FunctionUse| {
        let before = before?;
        let index = before
            .chain
            .functions
            .iter()
            .position(|f| f.label() == function.label() && f.function == function.function)?;
        before.running.get(index)
    };
    let each = chain.functions.iter().zip(versions);
    each.map(|(function, version)| {
        let previous = match was(function) {
            Some(was) if was.version == version => was.previous.clone(),
            Some(was) => Some(was.version.clone()),
            None => None,
        };
        Running { version, previous }
    })
    .collect()
}
