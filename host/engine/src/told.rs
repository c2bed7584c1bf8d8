//! What the data plane has to tell, told to the control plane with lines of source in it.
//!
//! To read those takes as long as whoever made a component has it take. So each tenant's events
//! wait for each other and for nobody else's, and not on the threads that tell them: those carry
//! messages, or bring versions back. What the control plane acts on, a version that went back, say,
//! is never left out, and where much waits it is told without lines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_control::engine::{EngineEvent, EventSink};
use weir_spec::Name;

/// Faults and notes of a tenant that may wait.
const WAITING_MAX: usize = 1024;
/// Events that may wait behind one that has its lines read.
const WAITING_FOR_LINES: usize = 16;
/// Tenants whose line tables are read at the same time: each takes a process. What comes on top is
/// told without lines.
const READERS_MAX: usize = 4;

/// A tenant's events that wait, and how many there was no room for.
type Waiting = (VecDeque<EngineEvent>, usize);

/// See the module.
pub(crate) struct Told {
    sink: Arc<EventSink>,
    /// Puts lines into a fault's text.
    explain: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// Of tenants that have a thread now.
    waiting: Mutex<BTreeMap<Name, Waiting>>,
    readers: AtomicUsize,
}

impl Told {
    pub(crate) fn new(
        sink: Arc<EventSink>,
        explain: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (waiting, readers) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { sink, explain: Box::new(explain), waiting, readers })
    }

    /// Has an event told, behind those of the same tenant.
    pub(crate) fn tell(self: &Arc<Self>, event: EngineEvent) {
        let tenant = tenant(&event).clone();
        let mut waiting = self.waiting();
        if let Some((events, lost)) = waiting.get_mut(&tenant) {
            let says = matches!(event, EngineEvent::Fault { .. } | EngineEvent::Note { .. });
            if !says || events.len() < WAITING_MAX {
                events.push_back(event);
            } else {
                *lost += 1;
            }
            return;
        }
        waiting.insert(tenant.clone(), (VecDeque::from([event]), 0));
        drop(waiting);
        let (told, of) = (Arc::clone(self), tenant.clone());
        let thread = std::thread::Builder::new().name("weir-faults".to_owned());
        let told = thread.spawn(move || told.tell_all(&of, |event| told.explained(event)));
        if let Err(error) = told {
            tracing::warn!(
                "what happens to tenant {tenant} is told without lines of source: no thread: {error}"
            );
            self.tell_all(&tenant, |event| event);
        }
    }

    fn tell_all(&self, tenant: &Name, explain: impl Fn(EngineEvent) -> EngineEvent) {
        loop {
            let mut all = self.waiting();
            let Some((events, lost)) = all.get_mut(tenant) else { return };
            let (event, lost) = (events.pop_front(), std::mem::take(lost));
            let many = events.len() > WAITING_FOR_LINES;
            if event.is_none() {
                all.remove(tenant);
            }
            drop(all);
            if lost > 0 {
                tracing::warn!(
                    "tenant {tenant}: {lost} events are not told: {WAITING_MAX} others waited"
                );
            }
            let Some(event) = event else { return };
            (self.sink)(if many { event } else { explain(event) });
        }
    }

    /// An event with lines of source in it, if not too many others have theirs read now.
    fn explained(&self, event: EngineEvent) -> EngineEvent {
        let others = self.readers.fetch_add(1, Ordering::Relaxed);
        let event = if others < READERS_MAX { explain(event, &self.explain) } else { event };
        self.readers.fetch_sub(1, Ordering::Relaxed);
        event
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Name, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose event it is.
fn tenant(event: &EngineEvent) -> &Name {
    match event {
        EngineEvent::Fault { chain, .. }
        | EngineEvent::RolledBack { chain, .. }
        | EngineEvent::TrialEnded { chain, .. }
        | EngineEvent::Note { chain, .. } => &chain.tenant,
        EngineEvent::PortUp { tenant, .. }
        | EngineEvent::PortBack { tenant, .. }
        | EngineEvent::PortDown { tenant, .. }
        | EngineEvent::PortNote { tenant, .. }
        | EngineEvent::Upstream { tenant, .. } => tenant,
    }
}

fn explain(mut event: EngineEvent, explain: impl Fn(&str) -> String) -> EngineEvent {
    match &mut event {
        EngineEvent::Fault { message, .. }
        | EngineEvent::RolledBack { message, .. }
        | EngineEvent::Note { message, .. } => *message = explain(message),
        _ => {}
    }
    event
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use weir_control::engine::ChainId;

    use super::*;

    fn note(tenant: &str, message: &str) -> EngineEvent {
        let chain = ChainId { tenant: tenant.parse().unwrap(), name: "c".parse().unwrap() };
        EngineEvent::Note { chain, message: message.into() }
    }

    fn next(events: &Receiver<EngineEvent>) -> String {
        match events.recv().unwrap() {
            EngineEvent::Note { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tenants_wait_for_their_own_events_only() {
        let (sink, events) = channel();
        let (begins, begun) = channel();
        let chain = ChainId { tenant: "slow0".parse().unwrap(), name: "c".parse().unwrap() };
        let went_back = EngineEvent::RolledBack {
            chain,
            function: "f".parse().unwrap(),
            version: None,
            message: "it trapped".into(),
        };
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let told = Told::new(Arc::new(Box::new(move |event| sink.send(event).unwrap())), {
            move |text| {
                if text == "slow" {
                    begins.send(()).unwrap();
                    let _ = released.lock().unwrap().recv();
                }
                format!("{text}!")
            }
        });
        // As many as have their lines read at the same time are held up, one with more events than
        // may wait.
        for n in 0..READERS_MAX {
            told.tell(note(&format!("slow{n}"), "slow"));
            begun.recv().unwrap();
        }
        for n in 0..=WAITING_MAX {
            told.tell(note("slow0", &n.to_string()));
        }
        told.tell(went_back.clone());
        told.tell(note("other", "a"));
        assert_eq!(next(&events), "a", "without lines, but at once");
        drop(release);
        // What the store needs comes all the same, and no later than the others are told.
        let all: Vec<EngineEvent> =
            (0..READERS_MAX + WAITING_MAX + 1).map(|_| events.recv().unwrap()).collect();
        let texts = |event: &EngineEvent| match event {
            EngineEvent::Note { message, .. } if message != "slow!" => Some(message.clone()),
            _ => None,
        };
        let numbers: Vec<String> = all.iter().filter_map(texts).collect();
        let expected = (0..WAITING_MAX).map(|n| {
            // That one, too, waits behind them.
            let with_lines = n + WAITING_FOR_LINES >= WAITING_MAX;
            format!("{n}{}", if with_lines { "!" } else { "" })
        });
        assert_eq!(numbers, expected.collect::<Vec<_>>());
        let went_back_with_lines = |event: &&EngineEvent| matches!(event, EngineEvent::RolledBack { message, .. } if message == "it trapped!");
        assert_eq!(all.iter().filter(went_back_with_lines).count(), 1);
        told.tell(note("other", "b"));
        assert_eq!(next(&events), "b!");
        assert!(events.try_recv().is_err(), "the one too many is lost");
    }
}
