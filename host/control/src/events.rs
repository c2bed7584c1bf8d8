//! Events: what happened, numbered, the last of it kept, and sent to whoever listens.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;
use weir_spec::Name;

/// Events kept for those who come later.
const KEPT: usize = 1024;
/// Events that a slow listener may be behind before it loses some.
const BEHIND: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one from event to event, from 1 at each start of the host.
    pub id: u64,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub time: String,
    /// What kind.
    pub kind: EventKind,
    /// Whose things it is about; none: the host's.
    pub tenant: Option<Name>,
    /// The function, chain or tenant that it is about.
    pub subject: String,
    /// For people.
    pub message: String,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The host started.
    Started,
    /// A version was uploaded.
    Pushed,
    /// A function or version was removed.
    Removed,
    /// A chain was deployed or changed.
    ChainApplied,
    /// A chain was removed.
    ChainRemoved,
    /// A tenant's steering rules were replaced.
    SteeringApplied,
    /// A function's version was replaced.
    Swapped,
    /// A version is being tried.
    TrialStarted,
    /// A trial is over.
    TrialEnded,
    /// The version before was brought back.
    RolledBack,
    /// A function faulted.
    Fault,
    /// A device went away that a port or a listener has.
    PortDown,
    /// The configuration file was read again.
    Reloaded,
    /// The host stops.
    Draining,
    /// Anything else.
    Note,
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Pushed => "pushed",
            Self::Removed => "removed",
            Self::ChainApplied => "chain-applied",
            Self::ChainRemoved => "chain-removed",
            Self::SteeringApplied => "steering-applied",
            Self::Swapped => "swapped",
            Self::TrialStarted => "trial-started",
            Self::TrialEnded => "trial-ended",
            Self::RolledBack => "rolled-back",
            Self::Fault => "fault",
            Self::PortDown => "port-down",
            Self::Reloaded => "reloaded",
            Self::Draining => "draining",
            Self::Note => "note",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<(u64, VecDeque<Event>)>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::channel(BEHIND).0 }
    }
}

impl Events {
    /// Notes an event.
    pub fn emit(
        &self,
        kind: EventKind,
        tenant: Option<&Name>,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (subject, message) = (subject.into(), message.into());
        match kind {
            EventKind::Fault | EventKind::RolledBack | EventKind::PortDown | EventKind::Note => {
                tracing::warn!(kind = kind.name(), subject, "{message}");
            }
            _ => tracing::info!(kind = kind.name(), subject, "{message}"),
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let event = Event {
            id: kept.0,
            time: crate::time::now(),
            kind,
            tenant: tenant.cloned(),
            subject,
            message,
        };
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(event.clone());
        // Nobody need listen.
        drop(self.sender.send(event));
    }

    /// The events kept after this number, and those to come.
    #[must_use]
    pub fn after(&self, id: u64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let past = kept.1.iter().filter(|event| event.id > id).cloned().collect();
        (past, self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latecomers_get_what_was_kept_and_then_what_comes() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.emit(EventKind::Note, None, "test", n.to_string());
        }
        let (past, mut coming) = events.after(0);
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, 11);
        events.emit(EventKind::Note, None, "test", "new");
        assert_eq!(coming.try_recv().unwrap().message, "new");
        assert_eq!(events.after(KEPT as u64 + 10).0.len(), 1);
    }
}
