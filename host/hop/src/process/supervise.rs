//! Starting a worker again when it has died, not too often.
//!
//! A state machine without threads or timers: its owner waits for [`Supervisor::process`] or until
//! [`Supervisor::due`], then calls [`Supervisor::turn`].

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::{Plan, ProcessError, WorkerProcess};
use crate::end::End;
use crate::hub::{Hub, HubError};

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The lower eight bits of its generation.
    pub generation: u8,
    /// What it said at its end, if it ended itself.
    pub exit: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// How soon a worker is started again: after `first`, then twice as long each time, up to `most`;
/// after `first` again if it lived for `lived`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The first wait.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
    /// How long a worker has to live to count as one that works.
    pub lived: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(10),
            most: Duration::from_secs(10),
            lived: Duration::from_secs(30),
        }
    }
}

/// What has happened.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Nothing: it runs, or it is not yet time.
    Nothing,
    /// It is dead, and will touch nothing any more. Read its end until it says `UnexpectedEof` or
    /// `WouldBlock`, then drop the end, give buffers back and answer what it left.
    Died(Death),
    /// It runs again, with a new end and the next generation. The owner's.
    Started(Box<End>),
    /// It could not be started; it is tried again.
    Failed(ProcessError),
    /// No sockets for it; it is tried again.
    NoHop(HubError),
}

enum State {
    Runs(WorkerProcess, Instant),
    Waits(Instant),
}

/// See the module. Dropped, it ends its worker.
pub struct Supervisor {
    hub: Hub,
    hop: u16,
    plan: Plan,
    restart: Restart,
    generation: u64,
    restarts: u64,
    wait: Duration,
    state: State,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("hop", &self.hop)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// A worker that is to be started: by the first [`Supervisor::turn`].
    #[must_use]
    pub fn new(hub: Hub, hop: u16, plan: Plan, restart: Restart, now: Instant) -> Self {
        let (wait, state) = (restart.first, State::Waits(now));
        Self { hub, hop, plan, restart, generation: 0, restarts: 0, wait, state }
    }

    /// Readable when the worker dies. `None`: it does not run.
    #[must_use]
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.worker().map(WorkerProcess::as_fd)
    }

    /// The worker, if it runs.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerProcess> {
        match &self.state {
            State::Runs(worker, _) => Some(worker),
            State::Waits(_) => None,
        }
    }

    /// When it is to be started. `None`: it runs.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Runs(..) => None,
            State::Waits(until) => Some(until),
        }
    }

    /// Of the worker that runs, or ran last; 0: none did.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Replaces what is started the next time.
    pub fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
    }

    /// Looks after the worker. Does not wait for it, but for the start of its program.
    pub fn turn(&mut self, now: Instant) -> WorkerEvent {
        match &mut self.state {
            State::Runs(worker, since) => {
                let generation = self.generation as u8;
                let death = match worker.died() {
                    Ok(None) => return WorkerEvent::Nothing,
                    Ok(Some(death)) => death,
                    // Somebody else was told; dead it is.
                    Err(_) => Death { generation, exit: None, signal: None },
                };
                if now.saturating_duration_since(*since) >= self.restart.lived {
                    self.wait = self.restart.first;
                }
                self.put_off(now);
                WorkerEvent::Died(death)
            }
            State::Waits(until) if *until > now => WorkerEvent::Nothing,
            State::Waits(_) => self.start(now),
        }
    }

    fn start(&mut self, now: Instant) -> WorkerEvent {
        let generation = self.generation + 1;
        let (end, socket) = match self.hub.connect_worker(self.hop, generation) {
            Ok(pair) => pair,
            Err(error) => {
                self.put_off(now);
                return WorkerEvent::NoHop(error);
            }
        };
        match WorkerProcess::spawn(&self.plan, &socket) {
            Ok(worker) => {
                self.restarts += u64::from(self.generation > 0);
                self.generation = generation;
                self.state = State::Runs(worker, now);
                WorkerEvent::Started(Box::new(end))
            }
            Err(error) => {
                self.put_off(now);
                WorkerEvent::Failed(error)
            }
        }
    }

    fn put_off(&mut self, now: Instant) {
        self.state = State::Waits(now + self.wait);
        self.wait = (self.wait * 2).min(self.restart.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_run_is_tried_again_less_and_less_often() {
        let now = Instant::now();
        let restart = Restart {
            first: Duration::from_secs(1),
            most: Duration::from_secs(3),
            lived: Duration::from_secs(60),
        };
        let plan = Plan::new("/no/such/program");
        let mut supervisor = Supervisor::new(Hub::unix(), 1, plan, restart, now);
        let mut at = now;
        for wait in [1, 2, 3, 3] {
            assert!(matches!(supervisor.turn(at), WorkerEvent::Failed(_)));
            let due = supervisor.due().unwrap();
            assert_eq!(due - at, Duration::from_secs(wait));
            assert!(matches!(supervisor.turn(at), WorkerEvent::Nothing));
            at = due;
        }
        assert_eq!(supervisor.generation(), 0);
    }
}
