//! Passes what lanes have to tell on to the control plane, and keeps a chain's lanes alike: when one of them goes back from a
//! version by itself, the others follow. Has new instances made after a fault where that takes too long for the worker.
//!
//! Lanes tell it on their workers, which must not wait; so this has a thread of its own, and another for each lane whose instances are
//! made: functions may take seconds to be configured.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock, Weak};

use weir_control::engine::{ChainId, EngineEvent, EventSink};
use weir_packet_plane::{LaneEvent, Restorer};

use super::lanes::Plane;

/// What a lane told.
enum Told {
    Event(LaneEvent),
    /// Its chain has no instances.
    Out,
}

/// The lane: its chain, and its number there.
type Teller = (ChainId, usize);

/// Where lanes tell what happens.
pub(super) struct Keeper(Sender<(Teller, Told)>);

impl Keeper {
    /// Starts the thread. It ends when this and all lanes are gone.
    pub(super) fn start(plane: &Arc<Plane>, sink: Arc<OnceLock<EventSink>>) -> io::Result<Self> {
        let (sender, told) = mpsc::channel();
        let plane = Arc::downgrade(plane);
        std::thread::Builder::new()
            .name("weir-keeper".to_owned())
            .spawn(move || keep(&told, &plane, &sink))?;
        Ok(Self(sender))
    }

    /// What a lane is given to tell of events.
    pub(super) fn ear(&self, id: &ChainId, lane: usize) -> weir_packet_plane::EventSink {
        let (sender, teller) = (self.0.clone(), (id.clone(), lane));
        Arc::new(move |event| {
            // Without a keeper the host is about to end.
            drop(sender.send((teller.clone(), Told::Event(event.clone()))));
        })
    }

    /// What a lane is given to tell that its chain has no instances.
    pub(super) fn restorer(&self, id: &ChainId, lane: usize) -> Restorer {
        let (sender, teller) = (self.0.clone(), (id.clone(), lane));
        Arc::new(move || drop(sender.send((teller.clone(), Told::Out))))
    }
}

fn keep(told: &Receiver<(Teller, Told)>, plane: &Weak<Plane>, sink: &Arc<OnceLock<EventSink>>) {
    for ((chain, lane), told) in told {
        let event = match told {
            Told::Event(event) => event,
            Told::Out => {
                restore(plane, &chain, lane);
                continue;
            }
        };
        let rolled_back = matches!(event, LaneEvent::RolledBack { .. });
        let (plane, sink) = (plane.clone(), Arc::clone(sink));
        let tell = move || {
            if let LaneEvent::RolledBack { function, version, .. } = &event
                && let Some(plane) = plane.upgrade()
            {
                plane.follow_back(&chain, lane, function, version);
            }
            if let Some(sink) = sink.get() {
                sink(translated(chain, event));
            }
        };
        if !rolled_back {
            tell();
            continue;
        }
        // Others may be changing that chain, and other chains have something to tell meanwhile.
        let thread = std::thread::Builder::new().name("weir-follow".to_owned());
        if let Err(error) = thread.spawn(tell) {
            tracing::error!("lanes cannot be kept alike: no thread: {error}");
        }
    }
}

/// Makes instances for a lane, on a thread of its own if the system has one: each lane asks for one at a time.
fn restore(plane: &Weak<Plane>, chain: &ChainId, lane: usize) {
    let Some(plane) = plane.upgrade() else { return };
    let (its, of) = (Arc::clone(&plane), chain.clone());
    let make = move |plane: &Plane, chain: &ChainId| {
        if let Err(error) = plane.restore(chain, lane) {
            // It is being taken down, or its worker has ended.
            tracing::debug!(chain = %chain.name, lane, "no new instances: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("weir-restorer".to_owned());
    if thread.spawn(move || make(&its, &of)).is_err() {
        make(&plane, chain);
    }
}

/// A lane's event in the control plane's words.
fn translated(chain: ChainId, event: LaneEvent) -> EngineEvent {
    match event {
        LaneEvent::Fault { function, version, health, message } => match function.parse() {
            Ok(function) => EngineEvent::Fault {
                chain,
                function,
                version: version.parse().ok(),
                kind: health.to_owned(),
                message,
            },
            Err(_) => EngineEvent::Note { chain, message },
        },
        LaneEvent::RolledBack { function, version, message } => match function.parse() {
            Ok(function) => {
                EngineEvent::RolledBack { chain, function, version: version.parse().ok(), message }
            }
            Err(_) => EngineEvent::Note { chain, message },
        },
        LaneEvent::CanaryEnded { function, version, message } => match function.parse() {
            Ok(function) => {
                EngineEvent::TrialEnded { chain, function, version: version.parse().ok(), message }
            }
            Err(_) => EngineEvent::Note { chain, message },
        },
        LaneEvent::Note(message) => EngineEvent::Note { chain, message },
    }
}
