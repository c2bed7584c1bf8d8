//! A guest that runs: commands in it, and how it ended.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::error::{Error, cause, tail};
use crate::machine::console;
use crate::wire::{Frame, Kind, Start};

/// Time for a guest that ended to be gone.
const GOING: Duration = Duration::from_secs(10);

/// QEMU, which is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Child(pub(crate) std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a process in the guest did.
#[derive(Debug)]
pub enum Event {
    /// It wrote this to its standard output.
    Stdout(Vec<u8>),
    /// It wrote this to its standard error.
    Stderr(Vec<u8>),
    /// It ended with this exit status; 128 and the number of the signal that ended it.
    Ended(i32),
}

/// What a process in the guest came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the number of the signal that ended it.
    pub status: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Who waits for what a process does; number 0 is the agent itself.
type Waiting = Arc<Mutex<HashMap<u32, Sender<Result<Event, Error>>>>>;

/// A guest that runs. It is switched off, the hard way, when this is dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Mutex<Child>,
    agent: Mutex<UnixStream>,
    waiting: Waiting,
    ready: Mutex<Receiver<Result<Event, Error>>>,
    next: Mutex<u32>,
    directory: TempDir,
    limit: Duration,
    until: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// Waits until QEMU has come to the agent's socket.
    pub(crate) fn attach(
        mut qemu: Child,
        listener: UnixListener,
        directory: TempDir,
        limit: Duration,
        until: Instant,
    ) -> Result<Self, Error> {
        listener.set_nonblocking(true).map_err(Error::setup("a socket"))?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::Setup(error.to_string())),
            }
            if let Some(status) = qemu.0.try_wait().map_err(Error::setup("QEMU"))? {
                let said = fs::read_to_string(directory.path().join("qemu")).unwrap_or_default();
                return Err(Error::Setup(format!("QEMU: {status}: {}", said.trim())));
            }
            if Instant::now() > until {
                return Err(Error::TooLong { limit, console: String::new() });
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).map_err(Error::setup("a socket"))?;
        let from = stream.try_clone().map_err(Error::setup("a socket"))?;
        let waiting = Waiting::default();
        let (sender, ready) = channel();
        locked(&waiting).insert(0, sender);
        let listeners = Arc::clone(&waiting);
        thread::spawn(move || listen(from, &listeners));
        Ok(Self {
            qemu: Mutex::new(qemu),
            agent: Mutex::new(stream),
            waiting,
            ready: Mutex::new(ready),
            next: Mutex::new(1),
            directory,
            limit,
            until,
        })
    }

    pub(crate) fn wait_until_ready(&self, by: Instant) -> Result<(), Error> {
        let left = by.saturating_duration_since(Instant::now());
        let ready = locked(&self.ready).recv_timeout(left);
        ready.map_err(|error| self.gone(error))?.map(drop)
    }

    /// Starts a command in this directory.
    ///
    /// # Errors
    /// When the guest is gone. That there is no such command is told by the process.
    pub fn start(&self, directory: &str, words: &[&str]) -> Result<Process<'_>, Error> {
        let number = {
            let mut next = locked(&self.next);
            *next += 1;
            *next
        };
        let (sender, events) = channel();
        locked(&self.waiting).insert(number, sender);
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let start = Start { words, directory: directory.to_owned() };
        let start = serde_json::to_vec(&start).map_err(|e| Error::Setup(e.to_string()))?;
        self.tell(Kind::Start, number, start)?;
        Ok(Process { guest: self, number, events })
    }

    /// Runs a command in the root directory until it ends.
    ///
    /// # Errors
    /// When it could not be run, or the guest is gone. A status that is not 0 is none.
    pub fn run(&self, words: &[&str]) -> Result<Output, Error> {
        self.start("/", words)?.output()
    }

    /// Switches the guest off in order.
    ///
    /// # Errors
    /// When it crashed, or does not go.
    pub fn power_off(self) -> Result<(), Error> {
        self.tell(Kind::Off, 0, [])?;
        let until = Instant::now() + GOING;
        let mut qemu = locked(&self.qemu);
        while qemu.0.try_wait().map_err(Error::setup("QEMU"))?.is_none() {
            if Instant::now() > until {
                return Err(Error::TooLong { limit: GOING, console: tail(&self.console()) });
            }
            thread::sleep(Duration::from_millis(5));
        }
        match cause(&self.console()) {
            Some(_) => Err(self.crashed()),
            None => Ok(()),
        }
    }

    /// What the guest's kernel has written.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(console(&self.directory)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn tell(&self, kind: Kind, number: u32, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        Frame::new(kind, number, bytes).write(&mut *locked(&self.agent)).map_err(|_| self.crashed())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn gone(&self, error: RecvTimeoutError) -> Error {
        match error {
            RecvTimeoutError::Timeout => {
                // Nothing that it still does shall be seen.
                drop(locked(&self.qemu).0.kill());
                Error::TooLong { limit: self.limit, console: tail(&self.console()) }
            }
            RecvTimeoutError::Disconnected => self.crashed(),
        }
    }

    fn crashed(&self) -> Error {
        let console = self.console();
        let said = fs::read_to_string(self.directory.path().join("qemu")).unwrap_or_default();
        let what = cause(&console).unwrap_or(match said.trim() {
            "" => "it went away without a word",
            said => said,
        });
        Error::Crashed { what: what.to_owned(), console: tail(&console) }
    }
}

/// Hands out what comes from the agent. At the end all that wait hear that nothing more will come.
fn listen(mut from: UnixStream, waiting: &Waiting) {
    while let Ok(frame) = Frame::read(&mut from) {
        let event = match frame.kind {
            Kind::Stdout => Ok(Event::Stdout(frame.bytes)),
            Kind::Stderr => Ok(Event::Stderr(frame.bytes)),
            Kind::Ready => Ok(Event::Ended(0)),
            Kind::Ended => {
                let status: [u8; 4] = frame.bytes.try_into().unwrap_or([0xff; 4]);
                Ok(Event::Ended(i32::from_le_bytes(status)))
            }
            Kind::Refused => {
                Err(Error::Refused(String::from_utf8_lossy(&frame.bytes).into_owned()))
            }
            Kind::Start | Kind::Signal | Kind::Off => continue,
        };
        let ended = matches!(event, Ok(Event::Ended(_)) | Err(_));
        let mut waiting = locked(waiting);
        if let Some(sender) = waiting.get(&frame.process) {
            // Nobody may be interested any more.
            drop(sender.send(event));
        }
        if ended {
            waiting.remove(&frame.process);
        }
    }
    locked(waiting).clear();
}

/// A process in the guest. It goes on when this is dropped.
#[derive(Debug)]
pub struct Process<'a> {
    guest: &'a Guest,
    number: u32,
    events: Receiver<Result<Event, Error>>,
}

impl Process<'_> {
    /// Waits for what it does next.
    ///
    /// # Errors
    /// When it could not be started, or the guest is gone.
    pub fn next(&self) -> Result<Event, Error> {
        self.events.recv_timeout(self.guest.left()).map_err(|error| self.guest.gone(error))?
    }

    /// What it has done and nobody waited for, if there is something.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn try_next(&self) -> Result<Option<Event>, Error> {
        self.events.try_recv().ok().transpose()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let number = u8::try_from(signal.as_raw()).unwrap_or(0);
        self.guest.tell(Kind::Signal, self.number, [number])
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it could not be started, or the guest is gone.
    pub fn output(self) -> Result<Output, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = loop {
            match self.next()? {
                Event::Stdout(bytes) => stdout.extend(bytes),
                Event::Stderr(bytes) => stderr.extend(bytes),
                Event::Ended(status) => break status,
            }
        };
        let [stdout, stderr] =
            [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Output { status, stdout, stderr })
    }
}
