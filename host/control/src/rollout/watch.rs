//! Watching a new version, and going back when it faults.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use semver::Version;
use weir_spec::Name;

use super::Cause;
use crate::control::Control;
use crate::engine::{ChainId, EngineEvent};
use crate::error::ControlError;
use crate::events::EventKind;
use crate::functions::label;
use crate::store::{FunctionId, StoreError};

/// How often it is asked whether the store takes what it could not.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Longest wait where it does, and yet does not take that.
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(64);

/// A swap whose new version is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(super) version: Version,
    pub(super) until: Instant,
}

/// What the data plane has to tell of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It faulted.
    Fault,
    /// The data plane has gone back from it in this chain by itself.
    WentBack,
    /// Its trial has ended in this chain, not by its fault.
    TrialEnded,
}

/// A version that faulted, which may call for the one before, or whose trial is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faulted {
    chain: ChainId,
    function: Name,
    version: Option<Version>,
    why: String,
    told: Told,
}

impl Control {
    pub(super) fn stop_watching(&self, id: &FunctionId) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The version that is watched now.
    pub(crate) fn watched(&self, id: &FunctionId) -> Option<Version> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watches.get(id).filter(|watch| watch.until > Instant::now())?;
        Some(watch.version.clone())
    }

    /// Whether this version was watched then.
    fn is_watched(&self, id: &FunctionId, version: Option<&Version>, then: Instant) -> bool {
        let (unwritten, waiting) = (self.unwritten(), self.faults());
        let waits = |tenant: &Name| {
            let mut unwritten = unwritten.iter();
            waiting.contains_key(tenant) || unwritten.any(|(_, f)| f.chain.tenant == *tenant)
        };
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        // What waits for its tenant's turn may have happened before the watch was over.
        let now = Instant::now();
        watches.retain(|of, watch| watch.until > now || waits(&of.tenant));
        watches.get(id).is_some_and(|watch| version == Some(&watch.version) && then < watch.until)
    }

    /// Looks at what the data plane has to tell, and acts on it.
    pub(crate) fn engine_event(self: &Arc<Self>, event: EngineEvent) {
        match event {
            EngineEvent::Note { chain, message } => self.note(&chain, message),
            EngineEvent::PortDown { tenant, port, message } => {
                self.wait_on(&tenant, &port, &message);
                self.events.emit(EventKind::PortDown, Some(&tenant), port.as_str(), message);
            }
            EngineEvent::Upstream { tenant, listener, up, message } => {
                let kind = if up { EventKind::UpstreamUp } else { EventKind::UpstreamDown };
                self.events.emit(kind, Some(&tenant), listener.as_str(), message);
            }
            EngineEvent::PortUp { tenant, port, message } => {
                self.events.emit(EventKind::PortUp, Some(&tenant), port.as_str(), message);
            }
            EngineEvent::PortBack { tenant, port, message } => {
                self.events.emit(EventKind::PortUp, Some(&tenant), port.as_str(), message);
                self.deploy_at(tenant, port);
            }
            EngineEvent::PortNote { tenant, port, message } => {
                self.events.emit(EventKind::Note, Some(&tenant), port.as_str(), message);
            }
            EngineEvent::Fault { chain, function, version, kind, message, quarantined } => {
                let shown = version.as_ref().map_or_else(String::new, |v| format!(" {v}"));
                let out = if quarantined {
                    " and is in quarantine, where it stays until it is swapped or its chain applied again"
                } else {
                    ""
                };
                let text = format!(
                    "function {function}{shown} in chain {} faulted{out}: {kind}: {message}",
                    chain.name
                );
                let subject = format!("{}:{function}", chain.name);
                self.events.emit(EventKind::Fault, Some(&chain.tenant), subject, text);
                let why = format!("it faulted ({kind})");
                self.look_at(Faulted { chain, function, version, why, told: Told::Fault });
            }
            EngineEvent::RolledBack { chain, function, version, message } => {
                let why = format!("it faulted: {message}");
                self.look_at(Faulted { chain, function, version, why, told: Told::WentBack });
            }
            EngineEvent::TrialEnded { chain, function, version, message: why } => {
                self.look_at(Faulted { chain, function, version, why, told: Told::TrialEnded });
            }
        }
    }

    /// Has a fault looked at when its tenant's turn comes, by a thread that the tenant has as long
    /// as there are some: others' faults do not wait for that.
    fn look_at(self: &Arc<Self>, faulted: Faulted) {
        let known = self.unwritten().iter().any(|(_, other)| *other == faulted);
        if !known && let Some(tenant) = self.line_up(Instant::now(), faulted) {
            self.have_looked(tenant);
        }
    }

    /// Has that looked at again which the store did not take.
    fn look_again(self: &Arc<Self>) {
        let mut unwritten = self.unwritten();
        // In one of both lists at any time: neither is a watch forgotten meanwhile.
        let lined_up =
            unwritten.drain(..).filter_map(|(then, faulted)| self.line_up(then, faulted));
        let tenants: Vec<Name> = lined_up.collect();
        drop(unwritten);
        tenants.into_iter().for_each(|tenant| self.have_looked(tenant));
    }

    /// Puts a fault behind what waits of its tenant's; the answer is the tenant if nobody looks at
    /// that yet.
    fn line_up(&self, then: Instant, faulted: Faulted) -> Option<Name> {
        let tenant = faulted.chain.tenant.clone();
        let mut faults = self.faults();
        if let Some(waiting) = faults.get_mut(&tenant) {
            if !waiting.iter().any(|(_, other)| *other == faulted) {
                waiting.push_back((then, faulted));
            }
            return None;
        }
        faults.insert(tenant.clone(), VecDeque::from([(then, faulted)]));
        Some(tenant)
    }

    fn have_looked(self: &Arc<Self>, tenant: Name) {
        let control = Arc::clone(self);
        let thread = std::thread::Builder::new().name("weir-rollback".to_owned());
        let of = tenant.clone();
        if let Err(error) = thread.spawn(move || control.look_at_faults(&of)) {
            tracing::warn!("no thread for the faults of tenant {tenant}: {error}");
            self.look_at_faults(&tenant);
        }
    }

    fn look_at_faults(self: &Arc<Self>, tenant: &Name) {
        let turn = self.turn(tenant);
        loop {
            let _turn = turn.take();
            let mut faults = self.faults();
            let Some((then, faulted)) = faults.get_mut(tenant).and_then(VecDeque::pop_front) else {
                faults.remove(tenant);
                return;
            };
            drop(faults);
            self.faulted(&faulted, then);
        }
    }

    /// The version of a function that the data plane runs in a chain.
    fn runs(&self, id: &ChainId, function: &Name) -> Option<Version> {
        let chains = self.engine.status().chains.into_iter();
        let mut its = chains.filter(|chain| (&chain.tenant, &chain.name) == (&id.tenant, &id.name));
        its.next()?.functions.into_iter().find(|f| f.name == *function)?.version
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<Name, VecDeque<(Instant, Faulted)>>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten(&self) -> MutexGuard<'_, Vec<(Instant, Faulted)>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what could not be done. What the store did not take is looked at again.
    fn could_not(
        self: &Arc<Self>,
        what: &str,
        error: &ControlError,
        faulted: &Faulted,
        then: Instant,
    ) {
        let unwritten = matches!(
            error,
            ControlError::Store(
                StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Database(_)
            )
        );
        let again = unwritten && self.put_off(faulted, then);
        let again = if again { "; it is done as soon as the store takes changes" } else { "" };
        self.note(&faulted.chain, format!("{what}: {}{again}", error.public()));
    }

    /// Keeps a fault until the store takes changes; false: there is no thread for that.
    fn put_off(self: &Arc<Self>, faulted: &Faulted, then: Instant) -> bool {
        let mut unwritten = self.unwritten();
        if unwritten.is_empty() {
            let control = Arc::downgrade(self);
            let wait = then.elapsed().clamp(LOOK_AGAIN, LOOK_AGAIN_AT_MOST);
            let thread = std::thread::Builder::new().name("weir-rollback".to_owned());
            if let Err(error) = thread.spawn(move || wait_for_store(&control, wait)) {
                tracing::warn!("no thread to wait for the store: {error}");
                return false;
            }
        }
        unwritten.push((then, faulted.clone()));
        true
    }

    /// Brings the version before back where a fault that was told then calls for it, or ends the
    /// trial. The tenant's turn is taken.
    fn faulted(self: &Arc<Self>, faulted: &Faulted, then: Instant) {
        let Faulted { chain, function, version, why, told } = faulted;
        let version = version.as_ref();
        let state = self.store.state();
        let Some(record) = state.chains.get(chain) else { return };
        let index =
            (0..record.running.len()).find(|index| label(&state, chain, *index) == *function);
        let Some(index) = index else { return };
        let Some(used) = &record.chain.functions[index].function else { return };
        let id = FunctionId::new(&chain.tenant, used);
        let trial = state.functions.get(&id).and_then(|f| f.trial.as_ref());
        let of_it = trial.filter(|t| Some(&t.version) == version);
        let canary = of_it.filter(|t| t.is_canary());
        if *told == Told::TrialEnded {
            if let Some(trial) = of_it
                && let Err(error) = self.trial_is_over(&state, &id, &trial.version, why)
            {
                let what = format!("the store says that the trial of function {} goes on", id.name);
                self.could_not(&what, &error, faulted, then);
            }
            return;
        }
        // What the data plane has already done has to be noted even when the watch is over.
        let told_so = *told == Told::WentBack;
        let went_back = told_so && Some(&record.running[index].version) == version;
        let on_watch = trial.is_none() && self.is_watched(&id, version, then);
        if !(canary.is_some() || went_back || on_watch) {
            return;
        }
        // Where the chain was deployed since, what it went back from runs again.
        let already = told_so && self.runs(chain, function).as_ref() != version;
        let already = already.then_some((chain, index));
        if let Err(error) = self.roll_back(&id, version, why, Cause::Fault { already }) {
            let what = format!("function {} could not be rolled back", id.name);
            self.could_not(&what, &error, faulted, then);
        }
    }
}

/// Waits so long, and until the store takes changes, and has that looked at again which it did not
/// take.
fn wait_for_store(control: &Weak<Control>, mut wait: Duration) {
    loop {
        std::thread::sleep(wait);
        wait = LOOK_AGAIN;
        let Some(control) = control.upgrade() else { return };
        if control.store.can_write().is_ok() {
            return control.look_again();
        }
    }
}
