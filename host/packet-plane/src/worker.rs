//! A worker: a thread, pinned to a core, that drives lanes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use weir_sandbox::Sandbox;

use crate::lane::{Lane, Turn};

/// Empty turns before a worker goes to sleep.
const SPINS: u32 = 200;
/// Longest sleep while a port has to be asked again and does not say when.
const POLL: Duration = Duration::from_millis(1);

type Command = Box<dyn FnOnce(&mut BTreeMap<String, Lane>) + Send>;

/// The worker has ended: it panicked, which is a bug, or was stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerGone;

/// A running worker.
pub struct Worker {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker, on this core if one is named.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start(name: &str, core: Option<usize>, sandbox: Arc<Sandbox>) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(core) = core {
                let mut set = CpuSet::new();
                set.set(core);
                if let Err(error) = sched_setaffinity(None, &set) {
                    tracing::warn!(core, "the worker cannot be pinned to its core: {error}");
                }
            }
            work(&sandbox, &receiver);
        })?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
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
        answered.recv().map_err(|_| WorkerGone)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn work(sandbox: &Sandbox, commands: &Receiver<Command>) {
    let mut lanes = BTreeMap::new();
    let mut ticking = None;
    let mut spins = 0;
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
        let mut busy = false;
        let mut wait = None;
        for lane in lanes.values_mut() {
            match lane.turn() {
                Turn::Busy => busy = true,
                Turn::Idle(until) => {
                    let until = until.unwrap_or(POLL);
                    wait = Some(wait.map_or(until, |wait: Duration| wait.min(until)));
                }
                Turn::Ended => {}
            }
        }
        if busy {
            spins = 0;
            continue;
        }
        if spins < SPINS && wait.is_some() {
            spins += 1;
            std::hint::spin_loop();
            continue;
        }
        ticking = None;
        let command = match wait {
            Some(wait) => commands.recv_timeout(wait),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match command {
            Ok(command) => command(&mut lanes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
