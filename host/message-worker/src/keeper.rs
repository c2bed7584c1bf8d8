//! Looking after a chain's worker: a thread starts it, gives it its orders, hears its news, and starts it again when it dies.
//!
//! What runs is remembered here, as files and text, so that a new worker begins where the last one was, with the same state
//! regions. Each worker has a lane of its own: nothing of a dead one's reaches the next.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tokio::sync::mpsc::UnboundedSender;
use weir_hop::{End, Hub, Plan, Restart, Supervisor, Turn};
use weir_pool::{HugePages, Memory};

use crate::control::{self, Filled, Frames};
use crate::gateway::Link;
use crate::lane;
use crate::orders::{FromWorker, FunctionImage, News, Order, Reply, Report, SiteImage};

/// How long a worker may take for an order: functions may take 10 s to be configured.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a worker may take to listen.
const DEAF: Duration = Duration::from_secs(10);
/// [`News::kind`] of a worker's death.
const KIND: &str = "worker";

/// How a chain's worker is to be looked after.
pub struct KeeperConfig {
    /// The hub of all workers.
    pub hub: Hub,
    /// The worker's number.
    pub hop: u16,
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
    /// How long the worker may be silent while something waits for its word.
    pub silence: Duration,
    /// The same in milliseconds, as the chain's thread is told; longer, if functions may take longer.
    pub patience: Arc<AtomicU64>,
    /// Where news go.
    pub news: Box<dyn Fn(News) + Send>,
    /// Where reports go.
    pub reports: Box<dyn Fn(Report) + Send>,
}

enum Command {
    Order(Order, SyncSender<Reply>),
    Kill(u64, &'static str),
    Silent(u64, u64),
    Stop,
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

/// A worker's keeper, as whoever changes the chain has it. Dropped, it ends the worker.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    bell: Bell,
    shown: Arc<Shown>,
    regions: Mutex<BTreeMap<String, Region>>,
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
            regions: Mutex::default(),
            thread: None,
        };
        let functions = keeper.with_regions(functions)?;
        let began_with = functions.clone();
        let (ready, began) = sync_channel(1);
        let thread = std::thread::Builder::new().name("weir-keeper".into()).spawn(move || {
            let supervisor = Supervisor::new(
                config.hub.clone(),
                config.hop,
                Plan::new(&config.program),
                Restart::default(),
                Instant::now(),
            );
            let state = State {
                supervisor,
                functions: functions.clone(),
                staged: None,
                trial: None,
                before: None,
                live: None,
                queue: VecDeque::new(),
                ready: Some(ready),
                shown,
                config,
            };
            state.policy();
            state.run(&receiver, &bell);
        })?;
        keeper.thread = Some(thread);
        let began = match began.recv_timeout(PATIENCE) {
            Ok(Reply::Staged(kept)) => {
                keeper.remember(&began_with, &kept);
                Ok(kept)
            }
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

    /// Gives an order, and waits for what becomes of it.
    #[must_use]
    pub fn order(&self, order: Order) -> Reply {
        self.order_within(order, PATIENCE)
    }

    /// The same for at most this long.
    #[must_use]
    pub fn order_within(&self, order: Order, time: Duration) -> Reply {
        let (answer, answered) = sync_channel(1);
        let gone = || Reply::Refused("the chain's worker has no keeper any more".into());
        if self.commands.send(Command::Order(order, answer)).is_err() {
            return gone();
        }
        self.bell.ring();
        match answered.recv_timeout(time) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => {
                Reply::Refused(format!("the chain's worker did not answer within {time:?}"))
            }
            Err(RecvTimeoutError::Disconnected) => gone(),
        }
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

    /// These functions run: what they keep their state in is remembered. `kept` went on with their regions.
    pub fn remember(&self, functions: &[FunctionImage], kept: &[String]) {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        for function in functions.iter().filter(|function| function.state_bytes > 0) {
            let went_on = kept.contains(&function.name);
            let file = if went_on { &function.state } else { &function.blank };
            if let Some(file) = file.clone() {
                let (layout, bytes) = (function.state_layout.clone(), function.state_bytes);
                regions.insert(function.name.clone(), Region { layout, bytes, file });
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its thread may have ended.
        let _ = self.commands.send(Command::Stop);
        self.bell.ring();
        // It may be the one that drops this.
        let other = |thread: &std::thread::JoinHandle<()>| {
            thread.thread().id() != std::thread::current().id()
        };
        if let Some(thread) = self.thread.take().filter(other) {
            let _ = thread.join();
        }
    }
}

/// A worker that runs.
struct Running {
    generation: u64,
    control: UnixStream,
    frames: Frames,
    /// Until it is ready.
    link: Option<(Box<End>, Memory)>,
    /// What it was ordered and has not answered.
    ordered: Option<(Order, Option<SyncSender<Reply>>, Instant)>,
    /// What it is to be ordered to be where the last one was.
    next: VecDeque<Order>,
    /// Why it is being ended.
    condemned: Option<String>,
}

struct State {
    config: KeeperConfig,
    supervisor: Supervisor,
    /// What runs.
    functions: Vec<FunctionImage>,
    /// What is ready in the worker.
    staged: Option<Vec<FunctionImage>>,
    /// What is tried, and how.
    trial: Option<(FunctionImage, Option<u8>)>,
    /// What the last swap replaced.
    before: Option<FunctionImage>,
    live: Option<Running>,
    queue: VecDeque<(Order, SyncSender<Reply>)>,
    /// Who waits for the first worker.
    ready: Option<SyncSender<Reply>>,
    shown: Arc<Shown>,
}

impl State {
    fn run(mut self, commands: &Receiver<Command>, bell: &Bell) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Order(order, answer)) => self.queue.push_back((order, answer)),
                    Ok(Command::Kill(generation, why)) => self.kill(generation, why),
                    Ok(Command::Silent(generation, milliseconds)) => {
                        self.silent(generation, milliseconds);
                    }
                    Ok(Command::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                }
            }
            self.turn();
            self.give();
            self.wait(bell);
            self.hear();
        }
    }

    /// Starts the worker, or notes that it has died.
    fn turn(&mut self) {
        let now = Instant::now();
        let mut sides = None;
        if self.supervisor.due().is_some_and(|due| due <= now) {
            match self.sides() {
                Ok((memory, ours, theirs)) => {
                    let mut plan = Plan::new(&self.config.program);
                    plan.arguments = self.config.arguments.iter().map(Into::into).collect();
                    plan.memories = theirs;
                    self.supervisor.set_plan(plan);
                    sides = Some((memory, ours));
                }
                Err(error) => {
                    tracing::error!(
                        "no memory for a worker of chain {}: {error}",
                        self.config.chain
                    );
                    self.not_begun(&error.to_string());
                    std::thread::sleep(Duration::from_millis(100));
                    return;
                }
            }
        }
        match (self.supervisor.turn(now), sides) {
            (Turn::Started(end), Some((memory, control))) => {
                let generation = self.supervisor.generation();
                // Its files are its own now: when it closes them, they are closed.
                self.supervisor.set_plan(Plan::new(&self.config.program));
                let process = self.supervisor.worker().map_or(0, |worker| worker.id() as u64);
                self.shown.process.store(process, Ordering::Relaxed);
                self.shown.restarts.store(self.supervisor.restarts(), Ordering::Relaxed);
                let begin = Order::Begin {
                    chain: self.config.chain.clone(),
                    site: self.config.site.clone(),
                    functions: self.functions.clone(),
                };
                let mut next = VecDeque::from([begin]);
                if let Some((function, canary)) = self.trial.clone() {
                    next.push_back(Order::StageFunction { function, shadow: canary.is_none() });
                    next.push_back(canary.map_or(Order::Shadow, Order::Canary));
                }
                self.live = Some(Running {
                    generation,
                    control,
                    frames: Frames::default(),
                    link: Some((end, memory)),
                    ordered: None,
                    next,
                    condemned: None,
                });
            }
            (Turn::Died(death), _) => {
                let how = match (death.exit, death.signal) {
                    (Some(status), _) => format!("it ended itself with status {status}"),
                    (None, Some(signal)) => format!("signal {signal} ended it"),
                    (None, None) => "it is gone".into(),
                };
                self.died(how);
            }
            (Turn::Failed(error), _) => {
                tracing::error!("chain {}: {error}", self.config.chain);
                self.not_begun(&error.to_string());
            }
            (Turn::NoHop(error), _) => {
                tracing::error!("chain {}: {error}", self.config.chain);
                self.not_begun(&error.to_string());
            }
            _ => {}
        }
    }

    /// A lane and a control socket: ours, and the files of the worker's.
    fn sides(&self) -> io::Result<(Memory, UnixStream, Vec<Arc<OwnedFd>>)> {
        let memory = lane::memory(&self.config.chain).map_err(io::Error::other)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        ours.set_write_timeout(Some(DEAF))?;
        let lane = memory.fd().try_clone_to_owned()?;
        Ok((memory, ours, vec![Arc::new(lane), Arc::new(theirs.into())]))
    }

    fn not_begun(&mut self, why: &str) {
        if let Some(ready) = self.ready.take() {
            // Whoever waited may have given up.
            let _ = ready.send(Reply::Refused(why.to_owned()));
        }
    }

    fn died(&mut self, how: String) {
        self.shown.process.store(0, Ordering::Relaxed);
        // Its last words may say why.
        self.hear();
        let Some(mut dead) = self.live.take() else { return };
        let generation = dead.generation;
        let how = match dead.condemned.take() {
            Some(why) => format!("{how}: {why}"),
            None => how,
        };
        // The chain's thread may have ended.
        let _ = self.config.links.send(Link::Down { generation });
        if let Some((_, Some(answer), _)) = dead.ordered.take() {
            let _ = answer.send(Reply::Refused(format!("the chain's worker died: {how}")));
        }
        self.staged = None;
        self.not_begun(&how);
        tracing::warn!("chain {}: its worker died: {how}; it is started again", self.config.chain);
        let function = self.functions.first().map(|f| (f.name.clone(), f.version.clone()));
        let (function, version) = function.unwrap_or_default();
        (self.config.news)(News {
            function,
            version,
            kind: KIND.into(),
            message: format!("the chain's worker died: {how}"),
            rolled_back: false,
        });
    }

    /// Ends the worker of this generation; `why` is said, if there is something to say.
    fn kill(&mut self, generation: u64, why: &str) {
        if self.live.as_ref().is_some_and(|live| live.generation == generation) {
            if !why.is_empty() {
                let chain = &self.config.chain;
                tracing::error!("chain {chain}: its worker breaks the rules: {why}; it is ended");
            }
            if let Some(worker) = self.supervisor.worker() {
                worker.kill();
            }
        }
    }

    /// Ends the worker of this generation, which gives no sign of life: whatever it does or does not do, SIGKILL ends it.
    fn silent(&mut self, generation: u64, milliseconds: u64) {
        let Some(live) = self.live.as_mut().filter(|live| live.generation == generation) else {
            return;
        };
        let silence = Duration::from_millis(milliseconds);
        live.condemned = Some(format!("it gave no sign of life for {silence:?}"));
        self.shown.silent.fetch_add(1, Ordering::Relaxed);
        self.kill(generation, "");
    }

    /// Gives the next order, if the worker has answered the last one.
    fn give(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.ordered.is_none()) else { return };
        let (order, answer) = match live.next.pop_front() {
            Some(order) => (order, None),
            None => match self.queue.pop_front() {
                Some((order, answer)) => (order, Some(answer)),
                None => return,
            },
        };
        let order = order.with_files();
        let files = order.fds();
        // Blocking, with its time limit: a worker that does not listen is no good.
        let written = live
            .control
            .set_nonblocking(false)
            .and_then(|()| control::write_with(&live.control, &order, &files))
            .and_then(|()| live.control.set_nonblocking(true));
        live.ordered = Some((order, answer, Instant::now()));
        if let Err(error) = written {
            let generation = live.generation;
            self.kill(generation, &format!("it takes no orders: {error}"));
        }
    }

    fn wait(&self, bell: &Bell) {
        let now = Instant::now();
        let mut until = self.supervisor.due();
        if let Some((_, _, since)) = self.live.as_ref().and_then(|live| live.ordered.as_ref()) {
            until = Some(*since + PATIENCE);
        }
        let timeout = until.map(|until| until.saturating_duration_since(now));
        let timeout = timeout.and_then(|time| rustix::time::Timespec::try_from(time).ok());
        let mut fds = vec![PollFd::new(&*bell.0, PollFlags::IN)];
        let process = self.supervisor.process();
        if let Some(process) = &process {
            fds.push(PollFd::new(process, PollFlags::IN));
        }
        if let Some(live) = &self.live {
            fds.push(PollFd::new(&live.control, PollFlags::IN));
        }
        // Interrupted: it is looked at everything, and waited again.
        let _ = poll(&mut fds, timeout.as_ref());
        let _ = rustix::io::read(&*bell.0, &mut [0_u8; 8]);
    }

    /// Hears what the worker says.
    fn hear(&mut self) {
        let Some(live) = self.live.as_mut() else { return };
        let generation = live.generation;
        let late = live.ordered.as_ref().is_some_and(|(_, _, since)| since.elapsed() > PATIENCE);
        let there = loop {
            match live.frames.fill(&live.control) {
                Ok(Filled::More) => {}
                Ok(Filled::Nothing) => break true,
                Ok(Filled::Gone) | Err(_) => break false,
            }
        };
        if late {
            self.kill(generation, "it does not answer orders");
        } else if !there {
            // Its death comes, if it has not come.
            self.kill(generation, "");
        }
        while let Some(live) = self.live.as_mut() {
            match live.frames.next::<FromWorker>() {
                Ok(Some(FromWorker::Reply(reply))) => self.replied(reply),
                Ok(Some(FromWorker::News(news))) => self.news(news),
                Ok(None) => return,
                Err(_) => return self.kill(generation, "what it says is nothing that there is"),
            }
        }
    }

    fn news(&mut self, news: News) {
        if news.rolled_back
            && let Some(before) = self.before.take()
            && let Some(place) = self.functions.iter_mut().find(|f| f.name == before.name)
        {
            *place = before;
            self.policy();
        }
        (self.config.news)(news);
    }

    fn policy(&self) {
        let open = !self.functions.is_empty() && self.functions.iter().all(|f| f.fails_open);
        self.config.fails_open.store(open, Ordering::Relaxed);
        // A function may keep the worker's thread for as long as its deadline says, and that of a trial, too.
        let tried = self.trial.iter().map(|(function, _)| function);
        let longest = self.functions.iter().chain(tried).map(|f| f.deadline).max().unwrap_or(0);
        let patience = self.config.silence.max(Duration::from_nanos(longest) * 2);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.config.patience.store(patience, Ordering::Relaxed);
    }

    fn replied(&mut self, reply: Reply) {
        let Some(live) = self.live.as_mut() else { return };
        let generation = live.generation;
        let Some((order, answer, _)) = live.ordered.take() else {
            return self.kill(generation, "it answers what it was not asked");
        };
        match (&order, &reply) {
            (Order::Begin { .. }, Reply::Staged(_)) => {
                if let Some((end, memory)) = live.link.take() {
                    // The chain's thread may have ended.
                    let _ = self.config.links.send(Link::Up { end, memory, generation });
                }
                // A worker that comes after this one goes on with the regions that this one began with.
                let kept: Vec<FunctionImage> =
                    self.functions.iter().cloned().map(running).collect();
                self.functions = kept;
                self.policy();
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
            }
            (Order::Begin { .. }, _) => {
                tracing::error!(
                    "chain {}: its worker does not begin: {reply:?}",
                    self.config.chain
                );
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
                self.kill(generation, "it cannot begin");
            }
            (Order::StageChain(functions), Reply::Staged(kept)) => {
                self.staged = Some(functions.iter().map(|f| chosen(f, kept)).collect());
            }
            (Order::StageFunction { function, .. }, Reply::Staged(kept)) => {
                self.staged = Some(vec![chosen(function, kept)]);
            }
            (Order::Publish, Reply::Done) => {
                self.functions = self.staged.take().unwrap_or_default();
                (self.trial, self.before) = (None, None);
                self.policy();
            }
            (Order::Swap, Reply::Done) => {
                let function = self.staged.take().unwrap_or_default().pop();
                self.put(function);
            }
            (Order::Canary(_) | Order::Shadow, Reply::Done) => {
                let canary = if let Order::Canary(percent) = order { Some(percent) } else { None };
                if let Some(function) = self.staged.take().unwrap_or_default().pop() {
                    self.trial = Some((function, canary));
                    self.policy();
                }
            }
            (Order::ChangeCanary(percent), Reply::Done) => {
                if let Some((_, canary)) = &mut self.trial {
                    *canary = Some(*percent);
                }
            }
            (Order::Promote, Reply::Done) => {
                let function = self.trial.take().map(|(function, _)| function);
                self.put(function);
            }
            (Order::Promote | Order::EndTrial, _) => self.trial = None,
            (Order::Report, Reply::Report(report)) => {
                (self.config.reports)((**report).clone());
            }
            (Order::GoBack(..), Reply::Done) => {
                if let Some(before) = self.before.take()
                    && let Some(place) = self.functions.iter_mut().find(|f| f.name == before.name)
                {
                    *place = before;
                    self.policy();
                }
            }
            _ => {}
        }
        if let Some(answer) = answer {
            // Whoever waited may have given up.
            let _ = answer.send(reply);
        }
    }

    /// A function takes the place of the one of its name.
    fn put(&mut self, function: Option<FunctionImage>) {
        self.trial = None;
        let Some(function) = function else { return };
        if let Some(place) = self.functions.iter_mut().find(|f| f.name == function.name) {
            self.before = Some(std::mem::replace(place, function));
        }
        self.policy();
    }
}

/// A function with the region that it went on with, or began with.
fn chosen(function: &FunctionImage, kept: &[String]) -> FunctionImage {
    let mut function = function.clone();
    if !kept.contains(&function.name) {
        function.state = None;
    }
    running(function)
}

/// The same for whoever comes after it.
fn running(mut function: FunctionImage) -> FunctionImage {
    function.state = function.state.take().or(function.blank.take());
    function.blank = None;
    function
}

/// A killer of nobody, and whom it was told to end: for tests.
#[cfg(test)]
pub(crate) fn killed() -> (Killer, impl Fn() -> Option<String>) {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("files are left");
    let (commands, told) = channel();
    let kills = move || match told.try_recv() {
        Ok(Command::Kill(_, why)) => Some(why.to_owned()),
        _ => None,
    };
    (Killer { commands, bell: Bell(Arc::new(bell)) }, kills)
}
