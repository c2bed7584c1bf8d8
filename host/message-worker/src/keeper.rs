//! Looking after a chain's worker: a thread starts it, gives it its orders, hears its news, and
//! starts it again when it dies.
//!
//! What runs is remembered here, as files and text, so that a new worker begins where the last one
//! was, with the same state regions. Each worker has rings of its own: nothing of a dead one's
//! reaches the next.

mod output;
mod running;
mod turns;
mod versions;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;
use weir_hop::{Counts, Hub, Number, Plan, Restart, Supervisor};
use weir_pool::{HugePages, Memory};

use self::turns::State;
use self::versions::Versions;
use crate::gateway::Link;
use crate::orders::{FunctionImage, News, Order, Reply, Report, SiteImage};

/// How long a worker may take for an order: functions may take 10 s to be configured.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a worker may take to listen.
const DEAF: Duration = Duration::from_secs(10);
/// Whoever wants a report waits for no order that has taken longer than this.
const BUSY: Duration = Duration::from_millis(500);
/// How long a worker that has closed a socket may take to end itself.
const LEAVING: Duration = Duration::from_secs(1);

/// How a chain's worker is to be looked after.
pub struct KeeperConfig {
    /// The hub of all workers.
    pub hub: Hub,
    /// The worker's number.
    pub hop: Number,
    /// The program, which is to call [`crate::serve`].
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The chain's name.
    pub chain: String,
    /// Its site.
    pub site: SiteImage,
    /// Where the chain's thread hears of workers.
    pub links: UnboundedSender<Link>,
    /// Whether all functions fail open.
    pub fails_open: Arc<AtomicBool>,
    /// Whether the worker may have services in its chain.
    pub services: Arc<AtomicBool>,
    /// How long the worker may be silent while something waits for its word.
    pub silence: Duration,
    /// The same in milliseconds, as the chain's thread is told; longer, if functions may take
    /// longer.
    pub patience: Arc<AtomicU64>,
    /// Where news go.
    pub news: Box<dyn Fn(News) + Send>,
    /// Where reports go.
    pub reports: Box<dyn Fn(Report) + Send>,
}

enum Command {
    Order(Box<Waiting>),
    Report(SyncSender<Reply>),
    Kill(u64, &'static str),
    Left(u64),
    Silent(u64, u64),
    Stop,
}

/// An order that waits for the worker.
struct Waiting {
    order: Order,
    answer: SyncSender<Reply>,
    /// It has been given to a worker, or taken back by whoever gave it.
    taken: Arc<AtomicBool>,
}

/// Wakes the keeper's thread.
#[derive(Clone, Debug)]
struct Bell(Arc<OwnedFd>);

impl Bell {
    fn ring(&self) {
        // It cannot be full, and an interrupted write is made up for by the next.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Ends a worker that breaks the rules.
#[derive(Clone, Debug)]
pub struct Killer {
    commands: Sender<Command>,
    bell: Bell,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").finish_non_exhaustive()
    }
}

impl Killer {
    pub(crate) fn kill(&self, generation: u64, why: &'static str) {
        // Without its keeper, it is dead.
        let _ = self.commands.send(Command::Kill(generation, why));
        self.bell.ring();
    }

    /// It has closed the hop.
    pub(crate) fn left(&self, generation: u64) {
        // As above.
        let _ = self.commands.send(Command::Left(generation));
        self.bell.ring();
    }

    /// It has given no sign of life for so many milliseconds.
    pub(crate) fn silent(&self, generation: u64, milliseconds: u64) {
        // As above.
        let _ = self.commands.send(Command::Silent(generation, milliseconds));
        self.bell.ring();
    }
}

/// What others see of a worker.
#[derive(Debug, Default)]
struct Shown {
    restarts: AtomicU64,
    silent: AtomicU64,
    process: AtomicU64,
}

/// A state region that outlives workers.
#[derive(Clone, Debug)]
struct Region {
    layout: String,
    bytes: usize,
    file: Arc<OwnedFd>,
}

/// Those of what runs, by function; the keeper's thread knows them.
type Regions = Arc<Mutex<BTreeMap<String, Region>>>;

/// A worker's keeper, as whoever changes the chain has it. Dropped, it ends the worker.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    bell: Bell,
    shown: Arc<Shown>,
    regions: Regions,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    /// Starts a worker with this chain, and waits until it is ready.
    ///
    /// # Errors
    /// What the worker has against the chain, or why there is none.
    pub fn start(
        config: KeeperConfig,
        functions: Vec<FunctionImage>,
    ) -> io::Result<(Self, Result<Vec<String>, Reply>)> {
        let bell = Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let (commands, receiver) = channel();
        let shown: Arc<Shown> = Arc::default();
        let mut keeper = Self {
            commands,
            bell: bell.clone(),
            shown: Arc::clone(&shown),
            regions: Regions::default(),
            thread: None,
        };
        let functions = keeper.with_regions(functions)?;
        let regions = Arc::clone(&keeper.regions);
        let (ready, began) = sync_channel(1);
        let thread = std::thread::Builder::new().name("weir-keeper".into()).spawn(move || {
            let supervisor = Supervisor::new(
                config.hub.clone(),
                config.hop.get(),
                Plan::new(&config.program),
                Restart::default(),
                Instant::now(),
            );
            let state = State {
                supervisor,
                versions: Versions::new(functions),
                regions,
                staged: None,
                trial: None,
                live: None,
                queue: VecDeque::new(),
                asked: Vec::new(),
                ready: Some(ready),
                shown,
                counted: Counts::default(),
                config,
            };
            state.policy();
            state.run(&receiver, &bell);
        })?;
        keeper.thread = Some(thread);
        let began = match began.recv_timeout(PATIENCE) {
            Ok(Reply::Staged(kept)) => Ok(kept),
            Ok(other) => Err(other),
            Err(_) => Err(Reply::Refused("its worker does not begin".into())),
        };
        Ok((keeper, began))
    }

    /// Ends workers of the gateway's that break the rules.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer { commands: self.commands.clone(), bell: self.bell.clone() }
    }

    /// How often the worker was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.shown.restarts.load(Ordering::Relaxed)
    }

    /// How often the worker was ended because it was silent.
    #[must_use]
    pub fn silent(&self) -> u64 {
        self.shown.silent.load(Ordering::Relaxed)
    }

    /// The worker's process; 0 while there is none.
    #[must_use]
    pub fn process(&self) -> u64 {
        self.shown.process.load(Ordering::Relaxed)
    }

    /// Gives an order, and waits for what becomes of it. One that no worker has taken in time is
    /// not carried out any more.
    #[must_use]
    pub fn order(&self, order: Order) -> Reply {
        let (taken, answered) = self.give(order);
        let mut answer = answered.recv_timeout(PATIENCE);
        if answer.as_ref().is_err_and(|error| *error == RecvTimeoutError::Timeout)
            && taken.swap(true, Ordering::Relaxed)
        {
            // Which worker has it answers, or is ended when it has had its time.
            answer = answered.recv_timeout(PATIENCE + DEAF);
        }
        answer.unwrap_or_else(|error| {
            Reply::Refused(match error {
                RecvTimeoutError::Timeout => "the chain's worker did not answer in time".into(),
                RecvTimeoutError::Disconnected => {
                    "the chain's worker has no keeper any more".into()
                }
            })
        })
    }

    /// Gives an order, and waits for nothing: it is carried out before those that come.
    pub fn tell(&self, order: Order) {
        drop(self.give(order));
    }

    fn give(&self, order: Order) -> (Arc<AtomicBool>, Receiver<Reply>) {
        let (answer, answered) = sync_channel(1);
        let taken: Arc<AtomicBool> = Arc::default();
        self.command(Command::Order(Box::new(Waiting {
            order,
            answer,
            taken: Arc::clone(&taken),
        })));
        (taken, answered)
    }

    /// Has the worker report, to [`KeeperConfig::reports`]. What is answered comes behind that; the
    /// end of the channel says that there will be none for now: there is no worker, or it has been
    /// busy for a while.
    #[must_use]
    pub fn report(&self) -> Receiver<Reply> {
        let (answer, answered) = sync_channel(1);
        self.command(Command::Report(answer));
        answered
    }

    fn command(&self, command: Command) {
        // Without its thread, whoever waits for an answer sees the end of the channel.
        let _ = self.commands.send(command);
        self.bell.ring();
    }

    /// Whether a function of this name has a state region.
    #[must_use]
    pub fn has_region(&self, function: &str) -> bool {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(function)
    }

    /// Functions with the state regions that they can go on with, and empty ones beside.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn with_regions(
        &self,
        mut functions: Vec<FunctionImage>,
    ) -> io::Result<Vec<FunctionImage>> {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        for function in functions.iter_mut().filter(|function| function.state_bytes > 0) {
            let fits = |region: &&Region| {
                region.bytes == function.state_bytes && region.layout == function.state_layout
            };
            let region = regions.get(&function.name).filter(fits);
            function.state = region.map(|region| Arc::clone(&region.file));
            let blank = Memory::new(&function.name, function.state_bytes, HugePages::Never);
            let blank = blank.map_err(io::Error::other)?;
            function.blank = Some(Arc::new(blank.fd().try_clone_to_owned()?));
        }
        Ok(functions)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.command(Command::Stop);
        // It may be the one that drops this.
        let other = |thread: &std::thread::JoinHandle<()>| {
            thread.thread().id() != std::thread::current().id()
        };
        if let Some(thread) = self.thread.take().filter(other) {
            let _ = thread.join();
        }
    }
}

/// A killer of nobody, and whom it was told to end: for tests.
#[cfg(test)]
pub(crate) fn killed() -> (Killer, impl Fn() -> Option<String>) {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("files are left");
    let (commands, told) = channel();
    let kills = move || match told.try_recv() {
        Ok(Command::Kill(_, why)) => Some(why.to_owned()),
        Ok(Command::Silent(_, milliseconds)) => Some(format!("silent for {milliseconds} ms")),
        _ => None,
    };
    (Killer { commands, bell: Bell(Arc::new(bell)) }, kills)
}
