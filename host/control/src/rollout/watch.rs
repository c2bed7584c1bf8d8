//! Watching a new version, and going back when it faults.

use std::sync::PoisonError;
use std::time::Instant;

use semver::Version;
use weir_spec::Name;

use crate::control::Control;
use crate::engine::{ChainId, EngineEvent};
use crate::events::EventKind;
use crate::functions::label;
use crate::store::FunctionId;

/// A swap whose new version is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(super) version: Version,
    pub(super) until: Instant,
}

impl Control {
    pub(super) fn stop_watching(&self, id: &FunctionId) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn is_watched(&self, id: &FunctionId, version: Option<&Version>) -> bool {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.until > Instant::now());
        watches.get(id).is_some_and(|watch| version == Some(&watch.version))
    }

    /// Looks at what the data plane has to tell, and acts on it.
    pub(crate) fn engine_event(&self, event: EngineEvent) {
        match event {
            EngineEvent::Note { chain, message } => self.note(&chain, message),
            EngineEvent::PortDown { tenant, port, message } => {
                self.events.emit(EventKind::PortDown, Some(&tenant), port.as_str(), message);
            }
            EngineEvent::Fault { chain, function, version, kind, message } => {
                let shown = version.as_ref().map_or_else(String::new, |v| format!(" {v}"));
                let text = format!(
                    "function {function}{shown} in chain {} faulted: {kind}: {message}",
                    chain.name
                );
                let subject = format!("{}:{function}", chain.name);
                self.events.emit(EventKind::Fault, Some(&chain.tenant), subject, text);
                self.faulted(
                    &chain,
                    &function,
                    version.as_ref(),
                    &format!("it faulted ({kind})"),
                    None,
                );
            }
            EngineEvent::RolledBack { chain, function, version, message } => {
                self.faulted(&chain, &function, version.as_ref(), &message, Some(&chain));
            }
        }
    }

    /// Brings the version before back where the fault calls for it.
    fn faulted(
        &self,
        chain: &ChainId,
        function: &Name,
        version: Option<&Version>,
        why: &str,
        already: Option<&ChainId>,
    ) {
        let turn = self.turn(&chain.tenant);
        let _turn = turn.take();
        let state = self.store.state();
        let Some(record) = state.chains.get(chain) else { return };
        let index =
            (0..record.running.len()).find(|index| label(&state, chain, *index) == *function);
        let Some(index) = index else { return };
        let Some(used) = &record.chain.functions[index].function else { return };
        let id = FunctionId::new(&chain.tenant, used);
        let trial = state.functions.get(&id).and_then(|f| f.trial.as_ref());
        let canary = trial.is_some_and(|t| t.canary.is_some() && Some(&t.version) == version);
        // What the data plane has already done has to be noted even when the watch is over.
        let went_back = already.is_some() && Some(&record.running[index].version) == version;
        let on_watch = trial.is_none() && self.is_watched(&id, version);
        if !(canary || went_back || on_watch) {
            return;
        }
        let already = already.map(|chain| (chain, index));
        if let Err(error) = self.roll_back(&id, version, why, already) {
            self.note(chain, format!("function {} could not be rolled back: {error}", id.name));
        }
    }
}
