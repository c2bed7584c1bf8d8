//! Replacing a function's version while traffic flows: swap, canary, shadow, rollback.
//!
//! ```text
//!            swap                 a fault within the watch
//!  [old] ------------> [new, watched] -----------------> [old; new is withdrawn]
//!    |                       | the watch is over
//!    | swap --canary/--shadow'-----> [new]
//!    v                                 ^
//!  [old + trial] -- swap again --------'
//!    | '-- swap --canary/--shadow again: the trial goes on otherwise
//!    '-- rollback, or the canary faults --> [old; new is withdrawn]
//! ```
//!
//! A function is swapped in all chains that use it. When one of them refuses, those that were
//! swapped before are swapped back, and nothing has changed. When a version faults, the data plane
//! goes back wherever it can. A chain that is stored and does not run holds up neither: it comes
//! back with the new version. A version that was rolled back is *withdrawn*: chains that ask for
//! the newest do not get it, until it is asked for by name.

mod trial;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use semver::Version;
use weir_spec::{Name, SwapReport};

use crate::control::Control;
use crate::engine::{ChainId, EngineError, Published, SwapDirection, TrialKind};
use crate::error::ControlError;
use crate::events::EventKind;
use crate::functions::{function_mut, no_function, no_version};
use crate::quota;
use crate::store::{FunctionId, Running, State, Trial};

use trial::forget_trial;
pub(crate) use watch::{Faulted, Watch};

/// Bytes of a reason that the store keeps with a withdrawn version; the event has all of it. Twice
/// as many, for what JSON escapes, are less than a record may grow on a full disk.
const REASON_KEPT: usize = 480;

/// How a new version comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapMode {
    /// At once. Makes a canary of that version the running one.
    Full,
    /// It is tried beside the running one.
    Try(TrialKind),
}

/// Why a function goes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause<'a> {
    /// Somebody asked for it.
    Asked,
    /// The version faulted.
    Fault {
        /// The place that went back by itself, by chain and number.
        already: Option<(&'a ChainId, usize)>,
    },
}

/// A place where a function runs.
struct Place {
    chain: ChainId,
    index: usize,
    running: Version,
    previous: Option<Version>,
    /// Its chain is stored, but does not run.
    down: bool,
}

/// What was published, by place.
type Done = Vec<(usize, Published)>;

/// Functions in the chains of these places of which a version is a canary, with that. It was made
/// for the chain as it runs, and would bring that back.
fn canaries_beside<'p>(
    state: &State,
    id: &FunctionId,
    places: impl Iterator<Item = &'p Place>,
) -> BTreeMap<FunctionId, Trial> {
    let chains = places.filter_map(|place| state.chains.get(&place.chain));
    let used = chains.flat_map(|chain| &chain.chain.functions);
    used.filter_map(|used| Some(FunctionId::new(&id.tenant, used.function.as_ref()?)))
        .filter(|other| other != id)
        .filter_map(|other| {
            let trial = state.functions.get(&other)?.trial.as_ref()?;
            trial.is_canary().then(|| (other, trial.clone()))
        })
        .collect()
}

/// What was published in all places together.
struct Tally {
    report: SwapReport,
}

impl Tally {
    fn new(from: Version, to: Version) -> Self {
        Self {
            report: SwapReport {
                from,
                to,
                pause_us: 0.0,
                compile_ms: 0.0,
                packets_lost: 0,
                chains: Vec::new(),
                trial_ended: false,
                fresh: Vec::new(),
            },
        }
    }

    /// Of something that cost nothing.
    fn untouched<'p>(
        from: Version,
        to: &Version,
        places: impl IntoIterator<Item = &'p Place>,
    ) -> SwapReport {
        let mut chains: Vec<_> = places.into_iter().map(|p| p.chain.name.clone()).collect();
        chains.dedup();
        SwapReport { chains, ..Self::new(from, to.clone()).report }
    }

    fn add(&mut self, chain: &ChainId, published: &Published) {
        let report = &mut self.report;
        report.pause_us = report.pause_us.max(micros(published.pause));
        report.compile_ms += published.compiled_in.as_secs_f64() * 1e3;
        report.packets_lost += published.packets_lost;
        if report.chains.last() != Some(&chain.name) {
            report.chains.push(chain.name.clone());
        }
        report
            .fresh
            .extend(published.fresh.iter().map(|function| format!("{}:{function}", chain.name)));
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

impl Control {
    fn places(&self, state: &State, id: &FunctionId) -> Vec<Place> {
        let each = state.users(id).map(|(chain, index, running)| Place {
            chain: chain.clone(),
            index,
            running: running.version.clone(),
            previous: running.previous.clone(),
            down: self.is_down(chain),
        });
        each.collect()
    }

    /// Replaces the running version of a function in all chains that use it, or starts to try one.
    ///
    /// # Errors
    /// When there is no such version, no chain uses the function, another version is being tried,
    /// or the data plane refuses. Nothing has changed then.
    pub fn swap(
        &self,
        id: &FunctionId,
        to: &Version,
        mode: SwapMode,
    ) -> Result<SwapReport, ControlError> {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        let state = self.store.state();
        let record = state.functions.get(id).ok_or_else(|| no_function(&state, id))?;
        if !record.versions.contains_key(to) {
            return Err(no_version(id, record, to));
        }
        let places = self.places(&state, id);
        let other = places.iter().find(|place| place.running != *to);
        let Some(from) = other.or(places.first()).map(|place| place.running.clone()) else {
            return Err(ControlError::Conflict(format!(
                "no chain uses function {}: there is nothing to swap",
                id.name
            )));
        };
        if mode == SwapMode::Full
            && let Some((other, Trial { version, .. })) =
                canaries_beside(&state, id, places.iter()).first_key_value()
        {
            return Err(ControlError::Conflict(format!(
                "version {version} of function {} is a canary in a chain that has function {}, too: make it the running one (`weir function swap {} --to {version}`) or end that (`weir function rollback {}`) first",
                other.name, id.name, other.name, other.name
            )));
        }
        let most = self.quota().deadline_of(&id.tenant);
        for place in &places {
            let function = &state.chains[&place.chain].chain.functions[place.index];
            // A chain that says more itself was told so when it was deployed.
            if function.deadline.is_none() {
                quota::check_deadline(most, function, &record.versions[to].report)?;
            }
        }
        self.check_swapped_memories(&state, id, &places, to, mode)?;
        self.store.has_room()?;
        match (&record.trial, mode) {
            (Some(trial), SwapMode::Full) if trial.version == *to => {
                return self.end_with(&state, id, &places, from, to, trial.kind());
            }
            (Some(trial), SwapMode::Try(kind)) if trial.version == *to => {
                return self.change_trial(&state, id, &places, trial, kind);
            }
            (Some(trial), _) => {
                return Err(ControlError::Conflict(format!(
                    "version {} of function {} is being tried: make it the running one (`weir function swap {} --to {}`) or end that (`weir function rollback {}`) first",
                    trial.version, id.name, id.name, trial.version, id.name
                )));
            }
            (None, _) => {}
        }
        match mode {
            SwapMode::Full if other.is_none() => Ok(Tally::new(from, to.clone()).report),
            SwapMode::Full => {
                let published =
                    self.swap_places(&state, &places, SwapDirection::Forward, |_| Some(to))?;
                self.swapped(id, from, to, &places, &published)
            }
            SwapMode::Try(kind) => self.begin_trial(&state, id, &places, from, to, kind),
        }
    }

    /// Whether the chains may have the memories of a version, or those of a trial of it beside what
    /// they have.
    fn check_swapped_memories(
        &self,
        state: &State,
        id: &FunctionId,
        places: &[Place],
        to: &Version,
        mode: SwapMode,
    ) -> Result<(), ControlError> {
        let memories = places.iter().map(|place| {
            let record = &state.chains[&place.chain];
            let functions = record.chain.functions.iter().zip(&record.running);
            let versions = functions.map(|(function, running)| match &function.function {
                Some(name) if *name == id.name => to,
                _ => &running.version,
            });
            let memories = self.memories(state, &place.chain, &record.chain, versions);
            let beside = if mode == SwapMode::Full { 1 } else { 2 };
            (place.chain.clone(), memories * beside)
        });
        self.check_memories(state, &id.tenant, &memories.collect())
    }

    /// Ends a trial, or brings back the version before the running one: if that is this version,
    /// where one is said.
    ///
    /// # Errors
    /// When there is neither a trial nor a version before, or not of that version, or the data
    /// plane refuses.
    pub fn rollback(
        &self,
        id: &FunctionId,
        from: Option<&Version>,
    ) -> Result<SwapReport, ControlError> {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        if let Some(from) = from {
            self.check_from(id, from)?;
        }
        self.roll_back(id, from, "it was rolled back", Cause::Asked)
    }

    /// Whether this is the version that is being tried, or one that runs when none is.
    fn check_from(&self, id: &FunctionId, from: &Version) -> Result<(), ControlError> {
        let state = self.store.state();
        let record = state.functions.get(id).ok_or_else(|| no_function(&state, id))?;
        let what = match &record.trial {
            Some(trial) if trial.version == *from => return Ok(()),
            Some(trial) => format!("version {} is being tried, not {from}", trial.version),
            None if state.users(id).any(|(_, _, r)| r.version == *from) => return Ok(()),
            None => format!("version {from} neither runs nor is being tried"),
        };
        Err(ControlError::Conflict(format!("function {} did not go back: {what}", id.name)))
    }

    /// Goes back from this version, or else from the one on trial, or from the newest that can be
    /// gone back from. The tenant's turn is taken.
    fn roll_back(
        &self,
        id: &FunctionId,
        version: Option<&Version>,
        why: &str,
        cause: Cause<'_>,
    ) -> Result<SwapReport, ControlError> {
        let state = self.store.state();
        let record = state.functions.get(id).ok_or_else(|| no_function(&state, id))?;
        let places = self.places(&state, id);
        let Some(first) = places.first() else {
            return Err(ControlError::Conflict(format!("no chain uses function {}", id.name)));
        };
        if cause == Cause::Asked {
            self.store.can_shrink()?;
        }
        let trial = record.trial.as_ref();
        if let Some(trial) = trial.filter(|trial| version.is_none_or(|v| trial.version == *v)) {
            let had = places.iter().filter(|p| !p.down && p.running != trial.version);
            let report = Tally::untouched(trial.version.clone(), &first.running, had);
            self.end_trials(&state, &places);
            let stored = self.store.change(|state| {
                withdraw(state, id, &trial.version, why);
                Ok::<_, ControlError>(())
            });
            if let Err(error) = stored {
                // What faulted does not go on, whatever the store says.
                if cause == Cause::Asked {
                    self.begin_again(&places);
                }
                return Err(error);
            }
            self.trial_ended(id, &trial.version, why);
            return Ok(SwapReport { trial_ended: true, ..report });
        }
        let can = |place: &&Place| {
            place.previous.is_some() && version.is_none_or(|version| place.running == *version)
        };
        let newest = places.iter().filter(can).max_by_key(|place| &place.running);
        let Some((from, to)) = newest.and_then(|p| Some((&p.running, p.previous.as_ref()?))) else {
            return Err(ControlError::Conflict(format!(
                "function {} has no version before {} to go back to",
                id.name,
                version.unwrap_or(&first.running)
            )));
        };
        // Only places where that version runs.
        let back = |place: &Place| {
            let previous = place.previous.as_ref().filter(|_| place.running == *from)?;
            record.versions.get_key_value(previous).map(|(version, _)| version)
        };
        let beside = canaries_beside(&state, id, places.iter().filter(|p| back(p).is_some()));
        self.end_canaries(&state, &beside);
        let mut refused = Vec::new();
        let published = match cause {
            Cause::Asked => self
                .swap_places(&state, &places, SwapDirection::Back, back)
                .inspect_err(|_| self.begin_canaries(&state, &beside))?,
            // One place that refuses does not have the others keep what faults.
            Cause::Fault { already } => {
                let back = |place: &Place| {
                    back(place).filter(|_| already != Some((&place.chain, place.index)))
                };
                let (published, errors) = self.swap_what_can(&state, &places, back);
                refused = errors.iter().map(|(number, _)| *number).collect();
                for (number, error) in errors {
                    let error = in_chain(error, &places[number].chain.name);
                    if published.is_empty() && already.is_none() {
                        self.begin_canaries(&state, &beside);
                        return Err(error);
                    }
                    let message = format!(
                        "function {} could not be rolled back: {}",
                        id.name,
                        error.public()
                    );
                    self.note(&places[number].chain, message);
                }
                published
            }
        };
        let mut tally = Tally::new(from.clone(), to.clone());
        published.iter().for_each(|(index, published)| tally.add(&places[*index].chain, published));
        let stored = self.store.change(|state| {
            for (number, place) in places.iter().enumerate() {
                let (Some(chain), Some(to)) = (state.chains.get_mut(&place.chain), back(place))
                else {
                    continue;
                };
                if refused.contains(&number) {
                    continue;
                }
                let running = &mut Arc::make_mut(chain).running[place.index];
                *running = Running { version: to.clone(), previous: None };
                pin(state, place);
            }
            withdraw(state, id, from, why);
            for other in beside.keys() {
                forget_trial(state, other)?;
            }
            Ok::<_, ControlError>(())
        });
        if let Err(error) = stored {
            self.undo(&state, &places, &published);
            self.begin_canaries(&state, &beside);
            return Err(error);
        }
        self.stop_watching(id);
        self.canaries_ended(id, &beside);
        let message = format!("function {} went back from version {from} to {to}: {why}", id.name);
        self.events.emit(EventKind::RolledBack, Some(&id.tenant), id.name.as_str(), message);
        Ok(tally.report)
    }

    /// Swaps every place that runs to the version that `to` says, if it says one and another runs;
    /// or none of them. The answer has what was published, by place.
    fn swap_places<'v>(
        &self,
        state: &State,
        places: &[Place],
        way: SwapDirection,
        to: impl Fn(&Place) -> Option<&'v Version>,
    ) -> Result<Vec<(usize, Published)>, ControlError> {
        let mut done = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let Some(swapped) = self.swap_place(state, place, way, to(place)) else { continue };
            match swapped {
                Ok(published) => done.push((number, published)),
                Err(error) => {
                    self.undo(state, places, &done);
                    return Err(in_chain(error, &place.chain.name));
                }
            }
        }
        Ok(done)
    }

    /// Goes back in as many of them as take it; the second list has those that do not.
    fn swap_what_can<'v>(
        &self,
        state: &State,
        places: &[Place],
        to: impl Fn(&Place) -> Option<&'v Version>,
    ) -> (Done, Vec<(usize, ControlError)>) {
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for (number, place) in places.iter().enumerate() {
            match self.swap_place(state, place, SwapDirection::Back, to(place)) {
                Some(Ok(published)) => done.push((number, published)),
                Some(Err(error)) => refused.push((number, error)),
                None => {}
            }
        }
        (done, refused)
    }

    /// None: there is nothing to swap.
    fn swap_place(
        &self,
        state: &State,
        place: &Place,
        way: SwapDirection,
        to: Option<&Version>,
    ) -> Option<Result<Published, ControlError>> {
        let to = to.filter(|to| **to != place.running && !place.down)?;
        let function = self.resolve(state, &place.chain, place.index, to);
        Some(function.and_then(|function| Ok(self.engine.swap(&place.chain, function, way)?)))
    }

    /// Swaps back to what ran before.
    fn undo(&self, state: &State, places: &[Place], done: &[(usize, Published)]) {
        for (number, _) in done {
            let place = &places[*number];
            let back = self.resolve(state, &place.chain, place.index, &place.running).and_then(
                |function| Ok(self.engine.swap(&place.chain, function, SwapDirection::Back)?),
            );
            if let Err(error) = back {
                self.note(
                    &place.chain,
                    format!(
                        "a swap in chain {} could not be undone: {}",
                        place.chain.name,
                        error.public()
                    ),
                );
            }
        }
    }

    /// Makes a swap durable, and watches its version.
    fn swapped(
        &self,
        id: &FunctionId,
        from: Version,
        to: &Version,
        places: &[Place],
        published: &[(usize, Published)],
    ) -> Result<SwapReport, ControlError> {
        let mut tally = Tally::new(from, to.clone());
        published.iter().for_each(|(index, published)| tally.add(&places[*index].chain, published));
        let before = self.store.state();
        let stored = self.store.change(|state| {
            for place in places {
                let Some(chain) = state.chains.get_mut(&place.chain) else { continue };
                let running = &mut Arc::make_mut(chain).running[place.index];
                if running.version != *to {
                    running.previous = Some(std::mem::replace(&mut running.version, to.clone()));
                }
                pin(state, place);
            }
            let function = function_mut(state, id)?;
            let function = Arc::make_mut(function);
            function.trial = None;
            if let Some(version) = function.versions.get_mut(to) {
                version.withdrawn = None;
            }
            Ok::<_, ControlError>(())
        });
        if let Err(error) = stored {
            self.undo(&before, places, published);
            return Err(error);
        }
        if before.functions.get(id).is_some_and(|function| function.trial.is_some()) {
            self.trial_ended(id, to, "it becomes the running version");
        }
        let watch_for = *self.watch_for.read().unwrap_or_else(PoisonError::into_inner);
        let watch = Watch { version: to.clone(), until: Instant::now() + watch_for };
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), watch);
        let report = tally.report;
        let message = format!(
            "function {} was swapped from version {} to {to}, pause {:.1} us",
            id.name, report.from, report.pause_us
        );
        self.events.emit(EventKind::Swapped, Some(&id.tenant), id.name.as_str(), message);
        Ok(report)
    }
}

/// A version that a chain file had asked for is changed with what runs, so that the stored chain
/// tells the truth.
fn pin(state: &mut State, place: &Place) {
    if let Some(chain) = state.chains.get_mut(&place.chain)
        && chain.chain.functions[place.index].version.is_some()
    {
        let chain = Arc::make_mut(chain);
        chain.chain.functions[place.index].version =
            Some(chain.running[place.index].version.clone());
    }
}

/// Takes a version out of the running for the newest, and out of trial.
fn withdraw(state: &mut State, id: &FunctionId, version: &Version, why: &str) {
    let Some(function) = state.functions.get_mut(id) else { return };
    let function = Arc::make_mut(function);
    function.trial = function.trial.take().filter(|trial| trial.version != *version);
    if let Some(version) = function.versions.get_mut(version) {
        version.withdrawn = Some(why[..why.floor_char_boundary(REASON_KEPT)].to_owned());
    }
}

/// Says in which chain something went wrong.
fn in_chain(error: ControlError, chain: &Name) -> ControlError {
    let say = |text: String| format!("chain {chain}: {text}");
    match error {
        ControlError::Engine(EngineError::Refused(text)) => EngineError::Refused(say(text)).into(),
        ControlError::Engine(error @ (EngineError::Configuration { .. } | EngineError::At(_))) => {
            EngineError::Refused(say(error.to_string())).into()
        }
        ControlError::Engine(EngineError::Conflict(text)) => {
            EngineError::Conflict(say(text)).into()
        }
        ControlError::Engine(EngineError::Exhausted(text)) => {
            EngineError::Exhausted(say(text)).into()
        }
        other => other,
    }
}
