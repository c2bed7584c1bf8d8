//! Ports that could not be opened, because something outside the configuration is not as they need it: an interface that is not there yet or
//! is down, a PCI device that nobody has bound, a capture that is missing.
//!
//! Such a port is down, and nothing else is. It is tried again until it can be opened; then whoever deploys chains is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Error;
use weir_control::engine::{EngineError, EngineEvent};

use super::{Ports, Slot, links, look, problem};

/// How often it is looked whether a port's device is there.
const PAUSE: Duration = Duration::from_secs(1);
/// To open what is there is more than a look: where that fails, the pause doubles up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// Why a port is down that could not be opened, and when it is tried again.
pub(super) struct Away {
    problem: String,
    next: Instant,
    pause: Duration,
}

impl Slot {
    /// Why it could not be opened; none: it could.
    pub(in super::super) fn away(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.problem.as_str())
    }

    /// Whether it is tried again by itself.
    fn waits(&self) -> bool {
        self.away.is_some() && !self.is_set_up
    }

    /// What is told of it while it is down.
    fn told_down(&self, problem: &str) -> String {
        let name = &self.config.name;
        if self.is_set_up {
            return format!("port {name} is down: {problem}");
        }
        format!("port {name} is down: {problem}; it is opened as soon as it can be")
    }

    fn down_event(&self, problem: &str) -> EngineEvent {
        EngineEvent::PortDown {
            tenant: self.config.tenant.clone(),
            port: self.config.name.clone(),
            message: self.told_down(problem),
        }
    }
}

impl Ports {
    /// Opens a port that no chain has, for so many lanes.
    ///
    /// # Errors
    /// Why it cannot be opened: it is down then.
    pub(super) fn reopen(&mut self, place: usize, lanes: usize) -> Result<(), EngineError> {
        let slot = &mut self.slots[place];
        if let Err(error) = slot.reopen(self.room_bytes, lanes) {
            return Err(self.note_away(place, &error));
        }
        if slot.away.take().is_some() {
            slot.told = links::Told::default();
            let (tenant, port) = (slot.config.tenant.clone(), slot.config.name.clone());
            let message = format!("port {port} is no longer down: it could be opened");
            self.tell(EngineEvent::PortBack { tenant, port, message });
        }
        Ok(())
    }

    /// A port could not be opened, or still cannot be, for this reason; the answer is for the chain that is to have it.
    pub(super) fn note_away(&mut self, place: usize, error: &Error) -> EngineError {
        let problem = problem(error);
        let slot = &mut self.slots[place];
        // Half of it may be open.
        slot.ports.clear();
        slot.taps.clear();
        let (port, message) = (slot.config.name.clone(), slot.told_down(&problem));
        let (is_new, is_other) = (slot.away.is_none(), slot.away() != Some(&problem));
        if is_other {
            let event = slot.down_event(&problem);
            slot.away = Some(Away { problem, next: Instant::now() + PAUSE, pause: PAUSE });
            self.tell(event);
        }
        if !self.slots[place].waits() {
            return EngineError::Refused(message);
        }
        if is_new {
            // Nobody hears it before there is whom to tell.
            let _ = self.wake.send(());
        }
        EngineError::NoPort { port, message }
    }

    /// Opens those that are away and can be opened by now; whether some still cannot.
    fn try_again(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let now = Instant::now();
        for place in 0..self.slots.len() {
            let slot = &self.slots[place];
            let Some(away) = slot.away.as_ref().filter(|away| slot.waits() && away.next <= now)
            else {
                continue;
            };
            let (lanes, pause) = (slot.first_lanes(), away.pause);
            let pause = match look(&slot.config, self.room_bytes) {
                Err(error) => {
                    drop(self.note_away(place, &error));
                    PAUSE
                }
                Ok(()) if self.reopen(place, lanes).is_ok() => {
                    self.slots[place].let_go_of_vf();
                    continue;
                }
                Ok(()) => (2 * pause).min(LONGEST_PAUSE),
            };
            if let Some(away) = &mut self.slots[place].away {
                (away.pause, away.next) = (pause, now + pause);
            }
        }
        self.slots.iter().any(Slot::waits)
    }

    fn tell(&self, event: EngineEvent) {
        if let Some(sink) = self.sink.get() {
            sink(event);
        }
    }
}

/// Tells of ports that are away, and tries them again, as long as there are these ports: from a thread that sleeps while there are none.
pub(in super::super) fn watch(ports: &Arc<Mutex<Ports>>) {
    let mut all = ports.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in &all.slots {
        if let Some(problem) = slot.away() {
            all.tell(slot.down_event(problem));
        }
    }
    let Some(woken) = all.woken.take() else { return };
    drop(all);
    let ports = Arc::downgrade(ports);
    let try_again = move || {
        while woken.recv().is_ok() {
            loop {
                std::thread::sleep(PAUSE);
                let Some(ports) = ports.upgrade() else { return };
                let mut ports = ports.lock().unwrap_or_else(PoisonError::into_inner);
                if !ports.try_again() {
                    break;
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("weir-ports".to_owned()).spawn(try_again);
    if let Err(error) = started {
        tracing::warn!(
            "ports that are down stay so until a chain that has them is applied: {error}"
        );
    }
}
