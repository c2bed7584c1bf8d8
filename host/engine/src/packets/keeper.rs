//! Passes what lanes have to tell on to the control plane, and keeps a chain's lanes alike: when
//! one of them goes back from a version by itself, the others follow. Has new instances made after
//! a fault where that takes too long for the worker, and drops what lanes have no use for any more.
//!
//! Lanes tell it on their workers, which must not wait; so this has a thread of its own, another
//! that drops, and one for each lane whose instances are made: functions may take seconds to be
//! configured, and a state region takes a tenth of one for each GiB to be unmapped.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::{io, thread};

use weir_control::engine::{ChainId, EngineEvent, EventSink};
use weir_packet_plane::{Disposer, Health, LaneEvent, Restorer};

use super::lanes::Lanes;

/// What a lane told.
enum Told {
    Event(LaneEvent),
    /// Its chain has no instances.
    Out,
}

/// The lane: its chain, and its number there.
type Teller = (ChainId, usize);

/// Where lanes tell what happens.
pub(super) struct Keeper {
    told: Sender<(Teller, Told)>,
    spent: Sender<Box<dyn Send>>,
}

impl Keeper {
    /// Starts the threads. They end when this and all lanes are gone.
    pub(super) fn start(lanes: Weak<Lanes>, sink: Arc<OnceLock<EventSink>>) -> io::Result<Self> {
        let (sender, told) = mpsc::channel();
        thread::Builder::new()
            .name("weir-keeper".to_owned())
            .spawn(move || keep(&told, &lanes, &sink))?;
        let (spent, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("weir-disposer".to_owned())
            .spawn(move || receiver.into_iter().for_each(drop))?;
        Ok(Self { told: sender, spent })
    }

    /// What a lane is given to tell of events.
    pub(super) fn ear(&self, id: &ChainId, lane: usize) -> weir_packet_plane::EventSink {
        let (sender, teller) = (self.told.clone(), (id.clone(), lane));
        Arc::new(move |event| {
            // Without a keeper the host is about to end.
            drop(sender.send((teller.clone(), Told::Event(event.clone()))));
        })
    }

    /// What a lane is given to tell that its chain has no instances.
    pub(super) fn restorer(&self, id: &ChainId, lane: usize) -> Restorer {
        let (sender, teller) = (self.told.clone(), (id.clone(), lane));
        Arc::new(move || drop(sender.send((teller.clone(), Told::Out))))
    }

    /// What a lane is given to have dropped elsewhere what it does not need any more.
    pub(super) fn disposer(&self) -> Disposer {
        let spent = self.spent.clone();
        // Without a thread the host is about to end.
        Arc::new(move |what| drop(spent.send(what)))
    }
}

fn keep(told: &Receiver<(Teller, Told)>, lanes: &Weak<Lanes>, sink: &Arc<OnceLock<EventSink>>) {
    for ((chain, lane), told) in told {
        let event = match told {
            Told::Event(event) => event,
            Told::Out => {
                restore(lanes, chain, lane);
                continue;
            }
        };
        let rolled_back = matches!(event, LaneEvent::RolledBack { .. });
        let (lanes, sink) = (lanes.clone(), Arc::clone(sink));
        let tell = move || {
            let mut notes = Vec::new();
            if let LaneEvent::RolledBack { function, version, .. } = &event
                && let Some(lanes) = lanes.upgrade()
            {
                notes = lanes.follow_back(&chain, lane, function, version);
            }
            if let Some(sink) = sink.get() {
                sink(translated(chain.clone(), event));
                for message in notes {
                    sink(EngineEvent::Note { chain: chain.clone(), message });
                }
            }
        };
        if !rolled_back {
            tell();
            continue;
        }
        // Others may be changing that chain, and other chains have something to tell meanwhile.
        aside(thread::Builder::new().name("weir-follow".to_owned()), tell);
    }
}

/// Makes instances for a lane: each lane asks for one at a time.
fn restore(lanes: &Weak<Lanes>, chain: ChainId, lane: usize) {
    let Some(lanes) = lanes.upgrade() else { return };
    aside(thread::Builder::new().name("weir-restorer".to_owned()), move || {
        if let Err(error) = lanes.restore(&chain, lane) {
            // It is being taken down, or its worker has ended.
            tracing::debug!(chain = %chain.name, lane, "no new instances: {error}");
        }
    });
}

/// Does this on a thread of its own if the system has one, and here if it has none.
fn aside(thread: thread::Builder, act: impl FnOnce() + Send + 'static) {
    let act = Arc::new(Mutex::new(Some(act)));
    let take = |act: &Mutex<Option<_>>| act.lock().unwrap_or_else(PoisonError::into_inner).take();
    let its = Arc::clone(&act);
    let spawned = thread.spawn(move || {
        if let Some(act) = take(&its) {
            act();
        }
    });
    if let Err(error) = spawned {
        tracing::warn!("others have to wait for a lane: no thread: {error}");
        if let Some(act) = take(&act) {
            act();
        }
    }
}

/// A lane's event in the control plane's words.
fn translated(chain: ChainId, event: LaneEvent) -> EngineEvent {
    match event {
        LaneEvent::Fault { function, version, kind, message, health } => match function.parse() {
            Ok(function) => EngineEvent::Fault {
                chain,
                function,
                version: version.parse().ok(),
                kind: kind.name().to_owned(),
                message,
                quarantined: health == Health::Quarantined,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_long_to_be_dropped_holds_up_no_news() {
        struct Large(Receiver<()>);
        impl Drop for Large {
            fn drop(&mut self) {
                assert_eq!(self.0.recv_timeout(Duration::from_secs(60)), Ok(()));
            }
        }
        let (heard, hears) = mpsc::channel();
        let sink: EventSink = Box::new(move |event| heard.send(event).unwrap());
        let keeper = Keeper::start(Weak::new(), Arc::new(OnceLock::from(sink))).unwrap();
        let (go_on, goes_on) = mpsc::channel();
        keeper.disposer()(Box::new(Large(goes_on)));
        let id = ChainId::new(&"default".parse().unwrap(), &"c".parse().unwrap());
        keeper.ear(&id, 0)(&LaneEvent::Note("it goes on".to_owned()));
        let event = hears.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(event, EngineEvent::Note { chain, .. } if chain == id));
        go_on.send(()).unwrap();
    }

    #[test]
    fn a_fault_says_whether_the_function_is_out_for_good() {
        let id = ChainId::new(&"default".parse().unwrap(), &"c".parse().unwrap());
        for health in [Health::BackOff { until: 1 }, Health::Quarantined] {
            let event = translated(
                id.clone(),
                LaneEvent::Fault {
                    function: "f".to_owned(),
                    version: "1.0.0".to_owned(),
                    kind: weir_sandbox::FaultKind::Trap,
                    health,
                    message: "it trapped".to_owned(),
                },
            );
            let EngineEvent::Fault { quarantined, .. } = event else { panic!("{event:?}") };
            assert_eq!(quarantined, health == Health::Quarantined);
        }
    }

    #[test]
    fn it_is_done_here_when_there_is_no_thread() {
        let (done, is_done) = mpsc::channel();
        let by = |done: Sender<_>| move || done.send(thread::current().id()).unwrap();
        // A stack that no machine has memory for.
        aside(thread::Builder::new().stack_size(1 << 60), by(done.clone()));
        assert_eq!(is_done.try_recv(), Ok(thread::current().id()));
        aside(thread::Builder::new(), by(done));
        assert!(is_done.recv().is_ok_and(|by| by != thread::current().id()));
    }
}
