//! Trials: a canary or a shadow beside the running version.

use std::collections::BTreeMap;
use std::sync::Arc;

use semver::Version;
use weir_spec::SwapReport;

use super::{Place, Tally, in_chain};
use crate::control::Control;
use crate::engine::{ChainId, SwapDirection, TrialKind};
use crate::error::ControlError;
use crate::events::EventKind;
use crate::functions::{function_mut, label};
use crate::store::{FunctionId, State, Trial};
use crate::time;

impl Control {
    pub(super) fn begin_trial(
        &self,
        state: &State,
        id: &FunctionId,
        places: &[Place],
        from: Version,
        to: &Version,
        kind: TrialKind,
    ) -> Result<SwapReport, ControlError> {
        if places.iter().any(|place| place.running == *to) {
            return Err(ControlError::Conflict(format!(
                "version {to} of function {} runs already: there is nothing to try",
                id.name
            )));
        }
        if places.iter().all(|place| place.down) {
            return Err(ControlError::Conflict(format!(
                "no chain that uses function {} runs: there is nothing to try it with (`weir chain list` says why)",
                id.name
            )));
        }
        let mut tally = Tally::new(from, to.clone());
        for (number, place) in running(places) {
            let begun = self
                .resolve(state, &place.chain, place.index, to)
                .and_then(|function| Ok(self.engine.begin_trial(&place.chain, function, kind)?));
            match begun {
                Ok(published) => tally.add(&place.chain, &published),
                Err(error) => {
                    self.end_trials(state, &places[..number]);
                    return Err(in_chain(error, &place.chain.name));
                }
            }
        }
        let stored = self.store.change(|state| {
            let function = function_mut(state, id)?;
            Arc::make_mut(function).trial =
                Some(Trial::new(to.clone(), kind, time::milliseconds()));
            Ok::<_, ControlError>(())
        });
        if let Err(error) = stored {
            self.end_trials(state, places);
            return Err(error);
        }
        self.trial_started(id, to, kind);
        Ok(tally.report)
    }

    /// Tries the same version otherwise: another share of the flows, which keeps what the canary
    /// had; or copies instead of flows and the other way round, which starts anew.
    pub(super) fn change_trial(
        &self,
        state: &State,
        id: &FunctionId,
        places: &[Place],
        trial: &Trial,
        kind: TrialKind,
    ) -> Result<SwapReport, ControlError> {
        let (to, from) = (&trial.version, places[0].running.clone());
        match (trial.kind(), kind) {
            (TrialKind::Canary(was), TrialKind::Canary(percent)) => {
                let changed = self.set_shares(state, places, percent).and_then(|()| {
                    self.store.change(|state| {
                        let function = function_mut(state, id)?;
                        if let Some(trial) = &mut Arc::make_mut(function).trial {
                            trial.set_kind(kind);
                        }
                        Ok::<_, ControlError>(())
                    })
                });
                if let Err(error) = changed {
                    // Where the canary is gone there is nothing to put back.
                    drop(self.set_shares(state, places, was));
                    return Err(error);
                }
                self.trial_started(id, to, kind);
                Ok(Tally::untouched(from, to, places))
            }
            (TrialKind::Shadow, TrialKind::Shadow) => Ok(Tally::untouched(from, to, places)),
            (TrialKind::Canary(_), TrialKind::Shadow)
            | (TrialKind::Shadow, TrialKind::Canary(_)) => {
                self.end_trials(state, places);
                let begun = self.begin_trial(state, id, places, from, to, kind);
                begun.inspect_err(|error| self.give_up(id, places, to, error))
            }
        }
    }

    /// Gives a canary this share of the flows everywhere.
    fn set_shares(&self, state: &State, places: &[Place], percent: u8) -> Result<(), ControlError> {
        for (_, place) in running(places) {
            let function = label(state, &place.chain, place.index);
            self.engine
                .change_canary(&place.chain, &function, percent)
                .map_err(|error| in_chain(error.into(), &place.chain.name))?;
        }
        Ok(())
    }

    /// Ends the canaries of other functions on the data plane: a function that they are beside goes
    /// back.
    pub(super) fn end_canaries(&self, state: &State, beside: &BTreeMap<FunctionId, Trial>) {
        for other in beside.keys() {
            self.end_trials(state, &self.places(state, other));
        }
    }

    /// It did not go back, and they are on again.
    pub(super) fn begin_canaries(&self, state: &State, beside: &BTreeMap<FunctionId, Trial>) {
        for other in beside.keys() {
            self.begin_again(&self.places(state, other));
        }
    }

    /// Says that they are over.
    pub(super) fn canaries_ended(&self, id: &FunctionId, beside: &BTreeMap<FunctionId, Trial>) {
        for (other, Trial { version, .. }) in beside {
            self.trial_ended(other, version, &format!("function {} goes back", id.name));
        }
    }

    /// Ends a trial everywhere, for a reason that says nothing about its version.
    pub(super) fn trial_is_over(
        &self,
        state: &State,
        id: &FunctionId,
        version: &Version,
        why: &str,
    ) -> Result<(), ControlError> {
        self.end_trials(state, &self.places(state, id));
        self.store.change(|state| forget_trial(state, id))?;
        self.trial_ended(id, version, why);
        Ok(())
    }

    /// A trial is over that could not be had otherwise, for this reason. Where that cannot be
    /// written, it goes on as the store says.
    fn give_up(&self, id: &FunctionId, places: &[Place], version: &Version, why: &ControlError) {
        match self.store.change(|state| forget_trial(state, id)) {
            Ok(()) => self.trial_ended(id, version, &why.to_string()),
            Err(_) => self.begin_again(places),
        }
    }

    pub(super) fn trial_ended(&self, id: &FunctionId, version: &Version, why: &str) {
        let message =
            format!("the trial of version {version} of function {} is over: {why}", id.name);
        self.events.emit(EventKind::TrialEnded, Some(&id.tenant), id.name.as_str(), message);
    }

    fn trial_started(&self, id: &FunctionId, version: &Version, kind: TrialKind) {
        let how = match kind {
            TrialKind::Canary(percent) => format!("gets {percent} % of the flows"),
            TrialKind::Shadow => "sees copies of the packets".to_owned(),
        };
        let message = format!("version {version} of function {} {how}", id.name);
        self.events.emit(EventKind::TrialStarted, Some(&id.tenant), id.name.as_str(), message);
    }

    /// Makes the version on trial the running one: a canary's instances stay, a shadow's are made
    /// anew.
    pub(super) fn end_with(
        &self,
        state: &State,
        id: &FunctionId,
        places: &[Place],
        from: Version,
        to: &Version,
        kind: TrialKind,
    ) -> Result<SwapReport, ControlError> {
        // Where it is refused, or cannot be written, the trial goes on.
        let goes_on = |_: &ControlError| self.begin_again(places);
        if kind == TrialKind::Shadow {
            self.end_trials(state, places);
            let published = self.swap_places(state, places, SwapDirection::Forward, |_| Some(to));
            let swapped = published.and_then(|done| self.swapped(id, from, to, places, &done));
            return swapped.inspect_err(goes_on);
        }
        let mut done = Vec::new();
        for (number, place) in running(places) {
            match self.engine.promote(&place.chain, &label(state, &place.chain, place.index)) {
                Ok(published) => done.push((number, published)),
                Err(error) => {
                    self.undo(state, places, &done);
                    self.end_trials(state, &places[number..]);
                    let error = in_chain(error.into(), &place.chain.name);
                    self.give_up(id, places, to, &error);
                    return Err(error);
                }
            }
        }
        self.swapped(id, from, to, places, &done).inspect_err(goes_on)
    }

    /// Goes on with what is being tried in these places.
    pub(super) fn begin_again(&self, places: &[Place]) {
        for (_, place) in running(places) {
            self.restore_trial(&place.chain, place.index);
        }
    }

    /// Goes on with what the store says is being tried of one of a chain's functions. Where that
    /// cannot be, it is over everywhere: the store says of no version that it is being tried which
    /// is not.
    pub(crate) fn restore_trial(&self, chain: &ChainId, index: usize) {
        // What an earlier place refused is over.
        let state = self.store.state();
        let used = state.chains.get(chain).and_then(|record| record.chain.functions.get(index));
        let Some(name) = used.and_then(|used| used.function.as_ref()) else { return };
        let id = FunctionId::new(&chain.tenant, name);
        let Some(trial) = state.functions.get(&id).and_then(|f| f.trial.as_ref()) else { return };
        let begun = self
            .resolve(&state, chain, index, &trial.version)
            .and_then(|function| Ok(self.engine.begin_trial(chain, function, trial.kind())?));
        let Err(error) = begun else { return };
        let why = format!("it cannot go on: {}", in_chain(error, &chain.name).public());
        if let Err(error) = self.trial_is_over(&state, &id, &trial.version, &why) {
            self.note(
                chain,
                format!("version {} of function {name} is not tried any more, because {why}; that cannot be written: {}", trial.version, error.public()),
            );
        }
    }

    pub(super) fn end_trials(&self, state: &State, places: &[Place]) {
        for (_, place) in running(places) {
            let function = label(state, &place.chain, place.index);
            if let Err(error) = self.engine.end_trial(&place.chain, &function) {
                self.note(
                    &place.chain,
                    format!("a trial in chain {} could not be ended: {error}", place.chain.name),
                );
            }
        }
    }
}

/// The trial is over, and says nothing about its version.
pub(super) fn forget_trial(state: &mut State, id: &FunctionId) -> Result<(), ControlError> {
    let function = function_mut(state, id)?;
    Arc::make_mut(function).trial = None;
    Ok(())
}

/// Those whose chains run, with their numbers.
fn running(places: &[Place]) -> impl Iterator<Item = (usize, &Place)> {
    places.iter().enumerate().filter(|(_, place)| !place.down)
}
