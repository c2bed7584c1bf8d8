//! A worker: a thread, pinned to a core, that drives lanes and stations.
//!
//! Under load it gives its lanes turns without a pause; when all of them sleep, so does it, until
//! its doorbell rings (there are commands) or the [`Roster`] has somebody woken.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity};
use weir_sandbox::Sandbox;

use crate::lane::Lane;
use crate::roster::{Driven, Looked, Roster};
use crate::station::Station;

/// For a sleep this short the clock of deadlines is kept going: stopping and starting it wakes
/// another thread.
const NAP: Duration = Duration::from_millis(2);

type Command = Box<dyn FnOnce(&mut Roster) + Send>;

/// The worker has ended: it panicked, which is a bug, or was stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerGone;

/// A running worker.
pub struct Worker {
    commands: Option<Sender<Command>>,
    doorbell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes a worker that sleeps, or is about to.
struct Doorbell(OwnedFd);

impl Doorbell {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings until it is answered. It cannot fail: only 2^64 rings without an answer are too many.
    fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Stops the ringing. Whoever rang before has left its command in the channel.
    fn answer(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Worker {
    /// Starts a worker, on this core if one is named.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor for it.
    pub fn start(name: &str, core: Option<usize>, sandbox: Arc<Sandbox>) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let doorbell = Arc::new(Doorbell::new()?);
        let its = Arc::clone(&doorbell);
        let lanes = Roster::new(doorbell.0.as_fd())?;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(core) = core {
                let mut set = CpuSet::new();
                set.set(core);
                if let Err(error) = sched_setaffinity(None, &set) {
                    tracing::warn!(core, "the worker cannot be pinned to its core: {error}");
                }
            }
            work(&sandbox, &receiver, &its, lanes);
        })?;
        Ok(Self { commands: Some(commands), doorbell, thread: Some(thread) })
    }

    /// Gives the worker a lane.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn add(&self, name: &str, lane: Lane) -> Result<(), WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| drop(lanes.insert(name, Driven::Lane(Box::new(lane)))))
    }

    /// Gives the worker a station.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn add_station(&self, name: &str, station: Station) -> Result<(), WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| drop(lanes.insert(name, Driven::Station(Box::new(station)))))
    }

    /// Takes a lane away.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn remove(&self, name: &str) -> Result<Option<Lane>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| match lanes.remove(&name) {
            Some(Driven::Lane(lane)) => Some(*lane),
            _ => None,
        })
    }

    /// Takes a station away.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn remove_station(&self, name: &str) -> Result<Option<Station>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| match lanes.remove(&name) {
            Some(Driven::Station(station)) => Some(*station),
            _ => None,
        })
    }

    /// Does something with a lane between two of its turns, and waits for it. None: there is no
    /// such lane.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn with<R: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Lane) -> R + Send + 'static,
    ) -> Result<Option<R>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| match lanes.get_mut(&name) {
            Some(Driven::Lane(lane)) => Some(act(lane)),
            _ => None,
        })
    }

    /// Does something with a station between two of its turns, and waits for it. None: there is no
    /// such station.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn with_station<R: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Station) -> R + Send + 'static,
    ) -> Result<Option<R>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| match lanes.get_mut(&name) {
            Some(Driven::Station(station)) => Some(act(station)),
            _ => None,
        })
    }

    fn command<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Roster) -> R + Send + 'static,
    ) -> Result<R, WorkerGone> {
        let (answer, answered) = mpsc::channel();
        let command: Command = Box::new(move |lanes| drop(answer.send(act(lanes))));
        self.commands.as_ref().ok_or(WorkerGone)?.send(command).map_err(|_| WorkerGone)?;
        self.doorbell.ring();
        answered.recv().map_err(|_| WorkerGone)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        self.doorbell.ring();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn work(sandbox: &Sandbox, commands: &Receiver<Command>, doorbell: &Doorbell, mut lanes: Roster) {
    let mut ticking = None;
    loop {
        loop {
            match commands.try_recv() {
                Ok(command) => command(&mut lanes),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        // Deadlines are in force whenever guests run.
        ticking.get_or_insert_with(|| sandbox.ticker().tick());
        lanes.round();
        lanes.glance();
        if lanes.anybody_awake() {
            std::hint::spin_loop();
            continue;
        }
        let mut looked = lanes.look(Some(NAP));
        if looked == Looked::Nothing {
            ticking = None;
            looked = lanes.look(None);
        }
        if looked == Looked::Doorbell {
            doorbell.answer();
        }
    }
}
