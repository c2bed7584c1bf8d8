//! Events: what happened, numbered, and the last of it kept for whoever listens or comes later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;
use weir_spec::Name;

/// Events kept of each tenant, and of the host's own: whoever makes many loses none but their own.
const KEPT: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one from event to event, from the milliseconds since 1970 at the host's start:
    /// larger than those before it.
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

impl Event {
    /// Leaves out what is for the administrator alone: a line of the configuration that is wrong
    /// can be a token's.
    pub(crate) fn without_secrets(self) -> Self {
        match self.kind {
            EventKind::ReloadRefused => {
                Self { message: "the configuration was not taken".to_owned(), ..self }
            }
            _ => self,
        }
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The host started.
    Started,
    /// It is ready: the chains that it had are deployed again, or not waited for any longer.
    Ready,
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
    /// A device went away that a port or a listener has, or its link went down; or a port cannot be
    /// opened.
    PortDown,
    /// A link is up that was down, or a port can be had that was away.
    PortUp,
    /// An upstream of a listener gets no requests for now, because it failed.
    UpstreamDown,
    /// It gets some again.
    UpstreamUp,
    /// The configuration file was read again.
    Reloaded,
    /// It was read again and not taken: all is as it was.
    ReloadRefused,
    /// The host stops.
    Draining,
    /// A tenant was added.
    TenantAdded,
    /// A tenant was removed.
    TenantRemoved,
    /// A token was made for a tenant.
    TokenMade,
    /// A tenant's token was removed.
    TokenRemoved,
    /// Events before this one are not kept any more, of which whoever asks has not seen the last
    /// ones.
    Lost,
    /// Anything else.
    Note,
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ready => "ready",
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
            Self::PortUp => "port-up",
            Self::UpstreamDown => "upstream-down",
            Self::UpstreamUp => "upstream-up",
            Self::Reloaded => "reloaded",
            Self::ReloadRefused => "reload-refused",
            Self::Draining => "draining",
            Self::TenantAdded => "tenant-added",
            Self::TenantRemoved => "tenant-removed",
            Self::TokenMade => "token-made",
            Self::TokenRemoved => "token-removed",
            Self::Lost => "lost",
            Self::Note => "note",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    /// The number of the last one.
    last: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// The number before the first one.
    begin: u64,
    last: u64,
    /// By whose things they are about.
    events: BTreeMap<Option<Name>, Ring>,
    /// Those of tenants that are gone, the last to go behind the others. No more than of one that
    /// is there.
    gone: Ring,
}

/// Events that are kept, oldest first.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    /// The number of the last one that is not kept any more.
    dropped: u64,
}

impl Ring {
    fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.push_back(event);
            if self.events.len() > KEPT
                && let Some(oldest) = self.events.pop_front()
            {
                self.dropped = self.dropped.max(oldest.id);
            }
        }
    }
}

/// Whoever saw some before a restart knows a smaller number than any since.
impl Default for Events {
    fn default() -> Self {
        Self::since(crate::time::milliseconds())
    }
}

impl Events {
    /// With numbers behind this one.
    #[must_use]
    pub fn since(begin: u64) -> Self {
        let (events, gone) = (BTreeMap::new(), Ring::default());
        let kept = Mutex::new(Kept { begin, last: begin, events, gone });
        Self { kept, last: watch::Sender::new(begin) }
    }

    /// Notes an event.
    pub fn emit(
        &self,
        kind: EventKind,
        tenant: Option<&Name>,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (subject, message) = (subject.into(), message.into());
        let (name, of) = (kind.name(), tenant.map_or("", Name::as_str));
        match kind {
            EventKind::Fault
            | EventKind::RolledBack
            | EventKind::PortDown
            | EventKind::UpstreamDown
            | EventKind::Note => tracing::warn!(kind = name, tenant = of, subject, "{message}"),
            EventKind::ReloadRefused => {
                tracing::error!(kind = name, tenant = of, subject, "{message}");
            }
            _ => tracing::info!(kind = name, tenant = of, subject, "{message}"),
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let event = Event {
            id: kept.last,
            time: crate::time::now(),
            kind,
            tenant: tenant.cloned(),
            subject,
            message,
        };
        let last = kept.last;
        kept.events.entry(event.tenant.clone()).or_default().extend([event]);
        self.last.send_replace(last);
    }

    /// A tenant is gone: who sees all events still sees its last ones, and whoever has its name
    /// next sees none of them.
    pub(crate) fn forget(&self, tenant: &Name) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Ring { events, dropped } =
            kept.events.remove(&Some(tenant.clone())).unwrap_or_default();
        kept.gone.dropped = kept.gone.dropped.max(dropped);
        kept.gone.extend(events);
    }

    /// The events kept after this number: all, or those of one tenant. Whoever has seen some, of
    /// this start or of one before, and has missed others since this start is told so by an event
    /// of its own. A number that none has yet is of a start when the clock was ahead: then all that
    /// are kept come after it.
    #[must_use]
    pub fn after(&self, tenant: Option<&Name>, id: u64) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let id = if id > kept.last { 0 } else { id };
        let mine = kept.events.iter().filter(|(of, _)| tenant.is_none() || of.as_ref() == tenant);
        let (mut new, mut dropped) = (Vec::new(), 0);
        for (_, Ring { events, dropped: of }) in mine {
            dropped = dropped.max(*of);
            let first = events.partition_point(|event| event.id <= id);
            new.extend(events.range(first..).cloned());
        }
        if tenant.is_none() {
            dropped = dropped.max(kept.gone.dropped);
            new.extend(kept.gone.events.iter().filter(|event| event.id > id).cloned());
        }
        if id > 0 && dropped > id {
            let first = id.max(kept.begin) + 1;
            new.push(Event {
                id: dropped,
                time: crate::time::now(),
                kind: EventKind::Lost,
                tenant: tenant.cloned(),
                subject: "events".to_owned(),
                message: format!(
                    "not all events from number {first} to {dropped} are kept any more: it is the last {KEPT} of each tenant and of the host"
                ),
            });
        }
        new.sort_by_key(|event| event.id);
        new
    }

    /// Tells whoever waits for events that there is a further one, of whomever.
    pub(crate) fn coming(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_tenants_that_are_gone_are_for_administrators_and_not_for_the_next_of_that_name() {
        let events = Events::since(0);
        let tenant = |number: usize| -> Name { format!("t{number}").parse().unwrap() };
        for number in 0..4 {
            for _ in 0..KEPT / 2 {
                events.emit(EventKind::Pushed, Some(&tenant(number)), "f", "a version");
            }
            events.forget(&tenant(number));
        }
        assert!(events.kept.lock().unwrap().events.is_empty());
        assert!(events.after(Some(&tenant(3)), 0).is_empty());
        let ids: Vec<u64> = events.after(None, 0).iter().map(|event| event.id).collect();
        let last = 2 * KEPT as u64;
        assert_eq!(ids, (last - KEPT as u64 + 1..=last).collect::<Vec<_>>());
        assert_eq!(events.after(None, last - 1).len(), 1);
    }
}
