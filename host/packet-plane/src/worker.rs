//! A worker: a thread, pinned to a core, that drives lanes.
//!
//! Under load it asks its lanes without a pause; with nothing to do it sleeps in poll(2), on its doorbell (commands) and on what
//! the lanes' ports have to be woken by. No packet is lost or late on the way from one to the other: what wakes is
//! level-triggered, so what came between the last look and the sleep ends the sleep at once.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::{CpuSet, sched_setaffinity};
use weir_sandbox::Sandbox;

use crate::lane::{Lane, Turn};

/// How long a worker goes on asking when there is nothing: about as long as falling asleep and being woken takes, so that
/// waiting never costs more than twice what it has to.
const SPIN: Duration = Duration::from_micros(20);
/// For a sleep this short the clock of deadlines is kept going: stopping and starting it wakes another thread.
const NAP: Duration = Duration::from_millis(2);

type Command = Box<dyn FnOnce(&mut BTreeMap<String, Lane>) + Send>;

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
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(core) = core {
                let mut set = CpuSet::new();
                set.set(core);
                if let Err(error) = sched_setaffinity(None, &set) {
                    tracing::warn!(core, "the worker cannot be pinned to its core: {error}");
                }
            }
            work(&sandbox, &receiver, &its);
        })?;
        Ok(Self { commands: Some(commands), doorbell, thread: Some(thread) })
    }

    /// Gives the worker a lane.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn add(&self, name: &str, lane: Lane) -> Result<(), WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| drop(lanes.insert(name, lane)))
    }

    /// Takes a lane away.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn remove(&self, name: &str) -> Result<Option<Lane>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| lanes.remove(&name))
    }

    /// Does something with a lane between two of its turns, and waits for it. None: there is no such lane.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn with<R: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Lane) -> R + Send + 'static,
    ) -> Result<Option<R>, WorkerGone> {
        let name = name.to_owned();
        self.command(move |lanes| lanes.get_mut(&name).map(act))
    }

    fn command<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut BTreeMap<String, Lane>) -> R + Send + 'static,
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

fn work(sandbox: &Sandbox, commands: &Receiver<Command>, doorbell: &Doorbell) {
    let mut lanes = BTreeMap::new();
    let mut ticking = None;
    let mut idle_since = None;
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
        let (mut busy, mut waits, mut wait) = (false, false, None);
        for lane in lanes.values_mut() {
            match lane.turn() {
                Turn::Busy => busy = true,
                Turn::Idle(until) => {
                    waits = true;
                    wait = earlier(wait, until);
                }
                Turn::Ended => {}
            }
        }
        if busy {
            idle_since = None;
            continue;
        }
        if waits && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
            std::hint::spin_loop();
            continue;
        }
        for lane in lanes.values_mut() {
            wait = earlier(wait, lane.settle());
        }
        if waits && sleep(&lanes, doorbell, earlier(wait, Some(NAP))) {
            continue;
        }
        let wait = wait.map(|wait| wait.saturating_sub(NAP));
        if wait != Some(Duration::ZERO) {
            ticking = None;
            sleep(&lanes, doorbell, wait);
        }
    }
}

/// Sleeps until there is a command or a port has something (true), or this time has passed (false).
fn sleep(lanes: &BTreeMap<String, Lane>, doorbell: &Doorbell, wait: Option<Duration>) -> bool {
    let mut fds: Vec<BorrowedFd<'_>> = vec![doorbell.0.as_fd()];
    for lane in lanes.values() {
        lane.readiness(&mut fds);
    }
    let mut fds: Vec<_> =
        fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    // A time too long for the kernel is for ever.
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    match poll(&mut fds, wait.as_ref()) {
        Ok(0) => false,
        // Interrupted or not, everybody is asked again.
        Ok(_) | Err(_) => {
            if !fds[0].revents().is_empty() {
                doorbell.answer();
            }
            true
        }
    }
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
