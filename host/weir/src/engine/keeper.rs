//! Passes what lanes have to tell on to the control plane, and keeps a chain's lanes alike: when one of them goes back from a
//! version by itself, the others follow.
//!
//! Lanes tell it on their workers, which must not wait; so this has a thread of its own.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock, Weak};

use weir_control::engine::{ChainId, EngineEvent, EventSink};
use weir_packet_plane::LaneEvent;

use super::lanes::Plane;

/// What a lane told: chain, number of the lane, event.
type Told = (ChainId, usize, LaneEvent);

/// Where lanes tell what happens.
pub(super) struct Keeper(Sender<Told>);

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
        let (sender, id) = (self.0.clone(), id.clone());
        Arc::new(move |event| {
            // Without a keeper the host is about to end.
            drop(sender.send((id.clone(), lane, event.clone())));
        })
    }
}

fn keep(told: &Receiver<Told>, plane: &Weak<Plane>, sink: &Arc<OnceLock<EventSink>>) {
    for (chain, lane, event) in told {
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
        LaneEvent::Note(message) => EngineEvent::Note { chain, message },
    }
}
