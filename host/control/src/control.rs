//! The control plane itself: what it consists of, how it starts and stops.
//!
//! Changes of one tenant's things come one after the other, those of different tenants at the same
//! time: a tenant whose uploads take long to link holds up nobody else. Each change is first made
//! on the data plane, then written to the store; if that fails, the data plane is put back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;
use weir_spec::{HostConfig, Listener, Name, Port, Quota};

use crate::auth::{Caller, Tokens};
use crate::chains::Failure;
use crate::engine::{Drained, Engine, EngineEvent, EngineStatus, ListenerStatus};
use crate::error::ControlError;
use crate::events::{EventKind, Events};
use crate::refusals::Refusals;
use crate::rollout::{Faulted, Watch};
use crate::steering::SteeringStatus;
use crate::store::{ChainId, FunctionId, Store, StoreError};
use crate::tenants::no_tenant;

/// See the module. What changes something blocks, and must not be called from an
/// asynchronous task; what only looks at the store does not.
pub struct Control {
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) events: Events,
    pub(crate) tokens: Tokens,
    /// Tells streams that tokens have gone or changed.
    pub(crate) tokens_changed: watch::Sender<()>,
    /// What may be changed while running.
    pub(crate) watch_for: RwLock<Duration>,
    quota: RwLock<Quota>,
    /// Workers that the host has, and threads of its gateway.
    pub(crate) workers: usize,
    pub(crate) threads: usize,
    pub(crate) ports: Vec<Port>,
    pub(crate) listeners: RwLock<Vec<Listener>>,
    /// Swaps whose new version is watched.
    pub(crate) watches: Mutex<BTreeMap<FunctionId, Watch>>,
    /// Chains that are stored and do not run, and why: they could not be deployed at the start, or
    /// are not yet, or not again after a change that failed.
    pub(crate) failed: Mutex<BTreeMap<ChainId, Failure>>,
    /// How often a tenant's steering rules were replaced since the start.
    pub(crate) steered: Mutex<BTreeMap<Name, u64>>,
    /// What faulted and is yet to be looked at, by tenant, with when that was told.
    pub(crate) faults: Mutex<BTreeMap<Name, VecDeque<(Instant, Faulted)>>>,
    /// What was looked at, and could not be written. Taken before `faults` where both are.
    pub(crate) unwritten: Mutex<Vec<(Instant, Faulted)>>,
    turns: Mutex<BTreeMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    state: Mutex<HostState>,
    pub(crate) refusals: Refusals,
    /// Why the configuration was not taken when it was read last.
    config_problem: Mutex<Option<String>>,
    started: Instant,
}

/// How far the host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// The chains that it had are not all deployed again.
    Starting,
    /// They are, or are not waited for any longer.
    #[default]
    Ready,
    /// It stops.
    Draining,
}

/// How the host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Weir's version.
    pub version: String,
    /// How far it is.
    #[serde(default)]
    pub state: HostState,
    /// Seconds since the host started.
    pub uptime_seconds: u64,
    /// Functions that were pushed.
    pub functions: usize,
    /// The data plane.
    #[serde(flatten)]
    pub engine: EngineStatus,
    /// Chains that are stored, but do not run, and why: by `TENANT/NAME`.
    pub failed: BTreeMap<String, String>,
    /// Steering rules, by tenant.
    #[serde(default)]
    pub steering: BTreeMap<Name, SteeringStatus>,
    /// Why the host's configuration was not taken when it was read again last, or what of it is not
    /// in force now: files of certificates that were read again and are no good. None: all is
    /// taken, or there was no reason to read it. The whole of it is for the administrator: the line
    /// that is wrong can be a token's.
    #[serde(default)]
    pub config_problem: Option<String>,
    /// Why the store takes no changes now; none: it does. For a tenant without where it is and how
    /// full its disk.
    #[serde(default)]
    pub store_problem: Option<String>,
    /// Requests to the API that were refused, by status: 401 without a token that the host knows,
    /// 403 with one that is not for this. For whoever may know of all tenants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub api_refused: BTreeMap<String, u64>,
}

/// What others than the administrator are told of what is wrong with the configuration.
const A_MISTAKE: &str = "it has a mistake";

impl Status {
    /// Leaves out what is for the administrator alone.
    pub(crate) fn without_secrets(self) -> Self {
        Self { config_problem: self.config_problem.map(|_| A_MISTAKE.to_owned()), ..self }
    }
}

impl Control {
    /// Starts with what the store holds. Its chains are there, but none is deployed before
    /// [`Self::restore`] is called.
    ///
    /// # Errors
    /// When there is no thread for it, or a token's file cannot be read.
    pub fn start(
        store: Store,
        engine: Arc<dyn Engine>,
        config: &HostConfig,
    ) -> Result<Arc<Self>, ControlError> {
        let control = Arc::new(Self {
            store,
            engine,
            events: Events::default(),
            tokens: Tokens::new(&config.api.tokens)?,
            tokens_changed: watch::Sender::default(),
            watch_for: RwLock::new(config.rollout.watch.get()),
            quota: RwLock::new(config.quota.clone()),
            workers: config.workers.number(),
            threads: usize::from(config.gateway.threads),
            ports: config.ports.clone(),
            listeners: RwLock::new(config.listeners.clone()),
            watches: Mutex::default(),
            failed: Mutex::default(),
            steered: Mutex::default(),
            faults: Mutex::default(),
            unwritten: Mutex::default(),
            turns: Mutex::default(),
            state: Mutex::new(HostState::Starting),
            refusals: Refusals::default(),
            config_problem: Mutex::default(),
            started: Instant::now(),
        });
        let (sender, receiver) = mpsc::channel();
        // The control plane may be gone; then nobody needs the event.
        control.engine.subscribe(Box::new(move |event| drop(sender.send(event))));
        let weak = Arc::downgrade(&control);
        std::thread::Builder::new()
            .name("weir-rollout".into())
            .spawn(move || watch_engine(&weak, &receiver))
            .map_err(|e| {
                crate::engine::EngineError::Exhausted(format!("starting a thread: {e}"))
            })?;
        control.events.emit(
            EventKind::Started,
            None,
            "host",
            format!("weir {}", env!("CARGO_PKG_VERSION")),
        );
        if let Err(problem) = control.know_tenants(config) {
            tracing::warn!("{problem}");
            control.has_config_problem(Some(problem));
        }
        control.expect_chains();
        Ok(control)
    }

    /// Takes over what may be changed while running and needs nobody's consent: tokens, quotas, how
    /// long a version is watched. A token that is taken away is worthless from now on, whatever
    /// becomes of the rest.
    ///
    /// # Errors
    /// When a token's file cannot be read, or tokens are none; then nothing has changed.
    pub fn reload(&self, config: &HostConfig) -> Result<(), ControlError> {
        self.tokens.replace(Tokens::new(&config.api.tokens)?);
        self.tokens_changed.send_replace(());
        *self.watch_for.write().unwrap_or_else(PoisonError::into_inner) =
            config.rollout.watch.get();
        *self.quota.write().unwrap_or_else(PoisonError::into_inner) = config.quota.clone();
        Ok(())
    }

    /// Tells what came of reading the configuration again: what does not hold yet, or why it was
    /// not taken.
    pub fn reloaded(&self, outcome: Result<&[String], &str>) {
        self.has_config_problem(outcome.err().map(str::to_owned));
        let (kind, message) = match outcome {
            Ok([]) => (EventKind::Reloaded, "the configuration was read again".to_owned()),
            Ok(waiting) => {
                let waiting = waiting.join("; ");
                let message = format!("the configuration was read again; not taken: {waiting}");
                (EventKind::Reloaded, message)
            }
            Err(why) => {
                (EventKind::ReloadRefused, format!("the configuration was not taken: {why}"))
            }
        };
        self.events.emit(kind, None, "host", message);
    }

    fn has_config_problem(&self, problem: Option<String>) {
        *self.config_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Has other listeners, while nobody changes chains that they have. Who has the same as before
    /// changes what he likes. Answers with what does not hold yet.
    ///
    /// # Errors
    /// When a listener cannot be had, or the host stops; then listeners are as they were.
    pub fn reload_listeners(&self, config: &HostConfig) -> Result<Vec<String>, ControlError> {
        let before = self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |one: &[Listener], other: &[Listener]| {
            let differ = one.iter().filter(|listener| !other.contains(listener));
            differ.map(|listener| listener.tenant.clone()).collect::<BTreeSet<Name>>()
        };
        let tenants = &of(&before, &config.listeners) | &of(&config.listeners, &before);
        let turns: Vec<Turn> = tenants.iter().map(|tenant| self.turn(tenant)).collect();
        let _taken = Turn::take_all(&turns);
        self.takes_changes()?;
        let waiting = self.engine.reload(config)?;
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.clone_from(&config.listeners);
        Ok(waiting)
    }

    /// Makes the tenants that the configuration names.
    ///
    /// # Errors
    /// What is to be told when the store cannot take them; then those are missing that are new.
    pub fn know_tenants(&self, config: &HostConfig) -> Result<(), String> {
        let tokens = config.api.tokens.iter().filter_map(|token| token.tenant.as_ref());
        let ports = config.ports.iter().map(|port| &port.tenant);
        let listeners = config.listeners.iter().map(|listener| &listener.tenant);
        let named: Vec<&Name> = tokens.chain(ports).chain(listeners).collect();
        if named.iter().all(|tenant| self.store.state().tenants.contains_key(*tenant)) {
            return Ok(());
        }
        let made = self.store.change(|state| {
            for tenant in named {
                state.tenants.entry(tenant.clone()).or_default();
            }
            Ok::<_, StoreError>(())
        });
        made.map_err(|error| {
            format!("new tenants are not there before the file is read again (SIGHUP), the rest holds: {error}")
        })
    }

    /// Ends all chains in order, and takes no changes any more.
    #[must_use]
    pub fn drain(&self, deadline: Duration) -> Drained {
        self.enters(HostState::Draining);
        self.events.emit(EventKind::Draining, None, "host", "the host stops");
        self.engine.drain(deadline)
    }

    /// What is to be deployed at the start is, or is not waited for any longer.
    pub fn ready(&self) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).len();
        let running = self.store.state().chains.len().saturating_sub(failed);
        if self.state() == HostState::Starting {
            self.enters(HostState::Ready);
            let message = match failed {
                0 => format!("the host is ready; chains that run: {running}"),
                failed => format!(
                    "the host is ready; chains that run: {running}, chains that do not: {failed}"
                ),
            };
            self.events.emit(EventKind::Ready, None, "host", message);
        }
    }

    /// How far the host is.
    #[must_use]
    pub fn state(&self) -> HostState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enters(&self, state: HostState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether anything may still be changed.
    ///
    /// # Errors
    /// When the host stops.
    pub(crate) fn takes_changes(&self) -> Result<(), ControlError> {
        if self.state() == HostState::Draining {
            return Err(ControlError::Stopping);
        }
        Ok(())
    }

    /// Who holds this token.
    #[must_use]
    pub fn caller(&self, token: &str) -> Option<Caller> {
        self.tokens.caller(token, &self.store.state())
    }

    /// Whether this caller may still do what it might when it came: its token is there, and is what
    /// it was.
    pub(crate) fn knows(&self, caller: &Caller) -> bool {
        self.tokens.know(caller, &self.store.state())
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// How everything is, or what is of one tenant.
    #[must_use]
    pub fn status(&self, tenant: Option<&Name>) -> Status {
        let mine = |of: &Name| tenant.is_none_or(|tenant| tenant == of);
        let mut engine = self.engine.status();
        engine.ports.retain(|port| mine(&port.tenant));
        engine.listeners.retain(|listener| mine(&listener.tenant));
        engine.chains.retain(|chain| mine(&chain.tenant));
        let config_problem = self.config_problem(&engine.listeners, tenant.is_none());
        if tenant.is_some() {
            engine.listeners.iter_mut().for_each(|listener| listener.not_taken.clear());
        }
        engine.carrier = engine.carrier.filter(|_| tenant.is_none());
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.iter().filter(|(id, _)| mine(&id.tenant));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state(),
            uptime_seconds: self.started.elapsed().as_secs(),
            functions: self.store.state().functions.keys().filter(|id| mine(&id.tenant)).count(),
            engine,
            failed: failed.map(|(id, failure)| (id.to_string(), failure.why.clone())).collect(),
            steering: self.steering_status(tenant),
            config_problem,
            store_problem: self.store_problem(tenant.is_none()),
            api_refused: match tenant {
                None => self.refusals.counts(),
                Some(_) => BTreeMap::new(),
            },
        }
    }

    /// Why the configuration was not taken when it was read last, or what of it listeners do not
    /// have; what it says is for the administrator.
    fn config_problem(&self, listeners: &[ListenerStatus], whole: bool) -> Option<String> {
        let problem = self.config_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of_listeners = listeners.iter().flat_map(|listener| {
            listener.not_taken.iter().map(|why| format!("listener {}: {why}", listener.name))
        });
        let problems: Vec<String> = problem.into_iter().chain(of_listeners).collect();
        let told = || if whole { problems.join("\n") } else { A_MISTAKE.to_owned() };
        (!problems.is_empty()).then(told)
    }

    fn store_problem(&self, whole: bool) -> Option<String> {
        let problem = self.store.takes_changes().err()?;
        let public = problem.public().filter(|_| !whole);
        Some(public.map_or_else(|| problem.to_string(), str::to_owned))
    }

    /// Waits for one's turn to change a tenant's things.
    pub(crate) fn turn(&self, tenant: &Name) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Turn(by_tenant(&mut turns, tenant, Default::default))
    }

    /// What each tenant may keep.
    pub(crate) fn quota(&self) -> Quota {
        self.quota.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether who may know of all tenants may ask for things of this one.
    ///
    /// # Errors
    /// When there is none of that name; those that there are are told.
    pub(crate) fn known_tenant(&self, tenant: &Name) -> Result<(), ControlError> {
        let state = self.store.state();
        if state.tenants.contains_key(tenant) {
            return Ok(());
        }
        Err(ControlError::not_found("tenant", tenant, state.tenants.keys()))
    }

    pub(crate) fn tenant_exists(&self, tenant: &Name) -> Result<(), ControlError> {
        let state = self.store.state();
        state.tenants.get(tenant).map(drop).ok_or_else(|| no_tenant(tenant))
    }
}

/// What a tenant has of its own while somebody has it or waits for it; others are as new ones, and
/// perhaps of tenants that are gone: they go when another tenant comes.
pub(crate) fn by_tenant<K: Ord + Clone, T>(
    all: &mut BTreeMap<K, Arc<T>>,
    tenant: &K,
    new: impl FnOnce() -> T,
) -> Arc<T> {
    if !all.contains_key(tenant) {
        all.retain(|_, one| Arc::strong_count(one) > 1);
    }
    Arc::clone(all.entry(tenant.clone()).or_insert_with(|| Arc::new(new())))
}

/// A tenant's turn, had or waited for; [`Turn::take`] waits for it. Who came first gets it first,
/// also when one asks again and again.
pub(crate) struct Turn(Arc<tokio::sync::Mutex<()>>);

impl Turn {
    pub(crate) fn take(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.blocking_lock()
    }

    /// Takes all of them. While it waits for one it has no other, unless there is always somebody
    /// who has one.
    fn take_all(turns: &[Self]) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        /// Times that it begins anew.
        const TRIES: usize = 16;
        let mut busy = None;
        for _ in 0..TRIES {
            let waited = busy.map(|number: usize| (number, turns[number].take()));
            let has = |number| waited.as_ref().is_some_and(|(waited, _)| *waited == number);
            let mut taken = Vec::with_capacity(turns.len());
            busy = None;
            for (number, turn) in turns.iter().enumerate().filter(|(number, _)| !has(*number)) {
                let Ok(turn) = turn.0.try_lock() else {
                    busy = Some(number);
                    break;
                };
                taken.push(turn);
            }
            if busy.is_none() {
                taken.extend(waited.map(|(_, turn)| turn));
                return taken;
            }
        }
        // In the order of their names, as everybody who takes several.
        turns.iter().map(Self::take).collect()
    }

    /// Whether somebody else has it, or waits for it.
    pub(crate) fn is_shared(&self) -> bool {
        // One is the host's, one is this.
        Arc::strong_count(&self.0) > 2
    }
}

/// Follows the data plane's events until it, or the control plane, is gone.
fn watch_engine(control: &Weak<Control>, receiver: &mpsc::Receiver<EngineEvent>) {
    while let Ok(event) = receiver.recv() {
        let Some(control) = control.upgrade() else { return };
        control.engine_event(event);
    }
}
