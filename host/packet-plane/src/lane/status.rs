//! What a lane tells of itself beside its counters.

use std::fmt;
use std::sync::{Arc, PoisonError};

use weir_sandbox::{FaultKind, Health};

use super::Lane;
use crate::trial::{Trial, TrialStatus};

/// Something notable that happened in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A function faulted.
    Fault {
        /// Its name in the chain.
        function: String,
        /// Its version.
        version: String,
        /// What kind of fault.
        kind: FaultKind,
        /// What became of it.
        health: Health,
        /// What happened.
        message: String,
    },
    /// A version faulted on trial or probation, and the one before runs again.
    RolledBack {
        /// Its name in the chain.
        function: String,
        /// The version that faulted.
        version: String,
        /// What happened.
        message: String,
    },
    /// A canary ended for a reason that says nothing about its version.
    CanaryEnded {
        /// Its name in the chain.
        function: String,
        /// The version on trial.
        version: String,
        /// Why.
        message: String,
    },
    /// Anything else.
    Note(String),
}

impl fmt::Display for LaneEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { function, version, kind, health, message } => {
                let (kind, health) = (kind.name(), health.name());
                write!(f, "function {function} {version} faulted ({health}): {kind}: {message}")
            }
            Self::RolledBack { function, version, message } => {
                write!(f, "function {function} {version} was rolled back: {message}")
            }
            Self::CanaryEnded { function, version, message } => {
                write!(f, "the canary of {function} {version} ends: {message}")
            }
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// Told of events as they happen, by the worker: must not block.
pub type EventSink = Arc<dyn Fn(&LaneEvent) + Send + Sync>;

/// What is known about a lane beside its counters; changes rarely.
#[derive(Clone, Debug, Default)]
pub struct LaneStatus {
    /// Name and version and health of each function.
    pub functions: Vec<(String, String, Health)>,
    /// Notable things that happened, oldest first, with a number that grows.
    pub events: Vec<(u64, String)>,
    /// The running trial.
    pub trial: Option<TrialStatus>,
}

impl Lane {
    pub(super) fn note(&mut self, text: String) {
        self.event(LaneEvent::Note(text));
    }

    pub(crate) fn event(&mut self, event: LaneEvent) {
        /// Events kept.
        const EVENTS: usize = 256;
        if let Some(sink) = &self.on_event {
            sink(&event);
        }
        self.events += 1;
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.events.len() == EVENTS {
            status.events.remove(0);
        }
        status.events.push((self.events, event.to_string()));
    }

    pub(crate) fn report(&mut self) {
        let functions = self.version.staged.plan.functions.iter().zip(&self.records);
        let out = self.outage.as_ref().map(|outage| Health::BackOff { until: outage.next() });
        let health =
            |health| if health == Health::Running { out.unwrap_or(health) } else { health };
        let functions =
            functions.map(|(f, r)| (f.name.clone(), f.version.clone(), health(r.health)));
        let functions = functions.collect();
        let trial = self.trial.as_ref().map(Trial::status);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.functions = functions;
        status.trial = trial;
    }
}
