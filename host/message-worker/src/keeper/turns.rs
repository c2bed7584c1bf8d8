//! The keeper's thread: it starts the worker, gives it one order after the other, hears what it
//! says, and starts it again when it dies.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use weir_hop::{Counts, End, Plan, Supervisor, WorkerEvent};
use weir_message::Change;
use weir_pool::Memory;

use super::output::Output;
use super::versions::Versions;
use super::{BUSY, Bell, Command, DEAF, KeeperConfig, LEAVING, PATIENCE, Regions, Shown, Waiting};
use crate::control::{self, Filled, Frames};
use crate::gateway::Link;
use crate::orders::{FromWorker, FunctionImage, News, Order, Reply, WORKER};
use crate::rings;

/// Pieces of what a worker says that are heard in one turn.
const HEARD_MAX: u32 = 16;

/// A worker that runs.
pub(super) struct Running {
    pub(super) generation: u64,
    pub(super) control: UnixStream,
    pub(super) output: Output,
    pub(super) frames: Frames,
    /// Until it is ready.
    pub(super) link: Option<(Box<End>, Memory)>,
    /// What it was ordered and has not answered, and who waits for that.
    pub(super) ordered: Option<(Order, Vec<SyncSender<Reply>>, Instant)>,
    /// What it is to be ordered to be where the last one was.
    pub(super) next: VecDeque<Order>,
    /// Why it is being ended.
    pub(super) condemned: Option<String>,
    /// It is not heard any more: it broke the rules, or has closed its socket.
    pub(super) unheard: bool,
    /// It has closed a socket, and ends itself until then.
    pub(super) leaves: Option<Instant>,
}

/// What a worker and its keeper have in common: rings, a control socket, and what the worker
/// writes.
struct Sides {
    memory: Memory,
    control: UnixStream,
    output: Output,
    /// The worker's: rings and control socket.
    theirs: Vec<Arc<OwnedFd>>,
    writes: Arc<OwnedFd>,
}

pub(super) struct State {
    pub(super) config: KeeperConfig,
    pub(super) supervisor: Supervisor,
    pub(super) versions: Versions,
    pub(super) regions: Regions,
    /// What is ready in the worker.
    pub(super) staged: Option<Vec<FunctionImage>>,
    /// What is tried, and how.
    pub(super) trial: Option<(FunctionImage, Option<u8>)>,
    pub(super) live: Option<Running>,
    pub(super) queue: VecDeque<Waiting>,
    /// Who wants a report: all of them the next one.
    pub(super) asked: Vec<SyncSender<Reply>>,
    /// Who waits for the first worker.
    pub(super) ready: Option<SyncSender<Reply>>,
    pub(super) shown: Arc<Shown>,
    /// What became of what workers sent, when the last one died.
    pub(super) counted: Counts,
}

impl State {
    pub(super) fn run(mut self, commands: &Receiver<Command>, bell: &Bell) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Order(waiting)) => self.queue.push_back(*waiting),
                    Ok(Command::Report(answer)) => self.wanted(answer),
                    Ok(Command::Left(generation)) => self.leaves(generation),
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
        if self.versions.forget(now) {
            self.policy();
        }
        let mut sides = None;
        if self.supervisor.due().is_some_and(|due| due <= now) {
            match self.sides() {
                Ok(Sides { memory, control, output, theirs, writes }) => {
                    let mut plan = Plan::new(&self.config.program);
                    plan.arguments = self.config.arguments.iter().map(Into::into).collect();
                    plan.memories = theirs;
                    plan.output = Some(writes);
                    self.supervisor.set_plan(plan);
                    sides = Some((memory, control, output));
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
            (WorkerEvent::Started(end), Some((memory, control, output))) => {
                let generation = self.supervisor.generation();
                // Its files are its own now: when it closes them, they are closed.
                self.supervisor.set_plan(Plan::new(&self.config.program));
                let process = self.supervisor.worker().map_or(0, |worker| worker.id() as u64);
                self.shown.process.store(process, Ordering::Relaxed);
                self.shown.restarts.store(self.supervisor.restarts(), Ordering::Relaxed);
                let begin = Order::Begin {
                    chain: self.config.chain.clone(),
                    site: self.config.site.clone(),
                    functions: self.versions.running().to_vec(),
                };
                let mut next = VecDeque::from([begin]);
                if let Some((function, canary)) = self.trial.clone() {
                    next.push_back(Order::StageFunction { function, shadow: canary.is_none() });
                    let findings = Arc::default();
                    next.push_back(Order::Change(match canary {
                        Some(percent) => Change::Canary { percent, findings },
                        None => Change::Shadow { findings },
                    }));
                }
                self.live = Some(Running {
                    generation,
                    control,
                    output,
                    frames: Frames::default(),
                    link: Some((end, memory)),
                    ordered: None,
                    next,
                    condemned: None,
                    unheard: false,
                    leaves: None,
                });
            }
            (WorkerEvent::Died(death), _) => {
                let how = match (death.exit, death.signal) {
                    (Some(status), _) => format!("it ended itself with status {status}"),
                    (None, Some(signal)) => format!("signal {signal} ended it"),
                    (None, None) => "it is gone".into(),
                };
                self.died(how);
            }
            (WorkerEvent::Failed(error), _) => {
                tracing::error!("chain {}: {error}", self.config.chain);
                self.not_begun(&error.to_string());
            }
            (WorkerEvent::NoHop(error), _) => {
                tracing::error!("chain {}: {error}", self.config.chain);
                self.not_begun(&error.to_string());
            }
            _ => self.stays(now),
        }
    }

    fn sides(&self) -> io::Result<Sides> {
        let memory = rings::memory(&self.config.chain).map_err(io::Error::other)?;
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        control.set_write_timeout(Some(DEAF))?;
        let rings = memory.fd().try_clone_to_owned()?;
        let theirs = vec![Arc::new(rings), Arc::new(theirs.into())];
        let (output, writes) = Output::new()?;
        Ok(Sides { memory, control, output, theirs, writes })
    }

    fn not_begun(&mut self, why: &str) {
        if let Some(ready) = self.ready.take() {
            // Whoever waited may have given up.
            let _ = ready.send(Reply::Refused(why.to_owned()));
        }
    }

    fn died(&mut self, how: String) {
        self.shown.process.store(0, Ordering::Relaxed);
        // Its last words may say why. There are no more than the socket holds.
        while self.hear() {}
        let Some(mut dead) = self.live.take() else { return };
        let generation = dead.generation;
        let how = match dead.condemned.take() {
            Some(why) => format!("{how}: {why}"),
            None => how,
        };
        let how = match self.silenced() {
            Some(why) => format!("{how}: the kernel did not hear it any more, because {why}"),
            None => how,
        };
        let how = match dead.output.last_words() {
            Some(words) => format!("{how}; it wrote: {words}"),
            None => how,
        };
        let died = format!("the worker of chain {} died: {how}", self.config.chain);
        // The chain's thread may have ended.
        let _ = self.config.links.send(Link::Down { generation });
        if let Some((order, answers, _)) = dead.ordered.take() {
            let reply = if matches!(&order, Order::Change(change) if self.go_back(change)) {
                Reply::Done
            } else {
                Reply::Refused(died.clone())
            };
            for answer in answers {
                let _ = answer.send(reply.clone());
            }
        }
        self.asked.clear();
        self.staged = None;
        self.not_begun(&how);
        let function = self.versions.running().first().map(|f| (f.name.clone(), f.version.clone()));
        let (function, version) = function.unwrap_or_default();
        (self.config.news)(News {
            function,
            version,
            kind: WORKER.into(),
            message: died,
            rolled_back: false,
            quarantined: false,
        });
    }

    /// Why the hop's program dropped what the last worker sent, if it did: the kernel then drops
    /// all else of it, too.
    fn silenced(&mut self) -> Option<&'static str> {
        let now = self.config.hub.counts(self.config.hop.get())?.to_gateway;
        let before = std::mem::replace(&mut self.counted, now);
        let reasons = [
            (now.flooded > before.flooded, "it sent more than its gateway had read"),
            (now.malformed > before.malformed, "it sent what is no message"),
            (now.refused > before.refused, "it sent under another worker's number"),
            (now.stale > before.stale, "it sent under another generation"),
        ];
        reasons.into_iter().find_map(|(is, why)| is.then_some(why))
    }

    fn live(&mut self, generation: u64) -> Option<&mut Running> {
        self.live.as_mut().filter(|live| live.generation == generation)
    }

    /// Ends the worker of this generation, which breaks the rules. `why` is told with its death,
    /// too.
    pub(super) fn kill(&mut self, generation: u64, why: &str) {
        let Some(live) = self.live(generation) else { return };
        live.unheard = true;
        let chain = &self.config.chain;
        tracing::error!("chain {chain}: its worker breaks the rules: {why}; it is ended");
        self.end(generation, format!("it broke the rules: {why}"));
    }

    /// The worker of this generation has closed a socket: it is about to end itself, and has a
    /// while to say why.
    fn leaves(&mut self, generation: u64) {
        if let Some(live) = self.live(generation) {
            live.leaves.get_or_insert_with(|| Instant::now() + LEAVING);
        }
    }

    /// Ends a worker that lives, and was to end itself by now.
    fn stays(&mut self, now: Instant) {
        let Some(live) = &self.live else { return };
        if live.condemned.is_none() && live.leaves.is_some_and(|until| until <= now) {
            self.end(live.generation, "it broke off, and did not end itself".into());
        }
    }

    /// Ends the worker of this generation, which gives no sign of life: whatever it does or does
    /// not do, SIGKILL ends it.
    fn silent(&mut self, generation: u64, milliseconds: u64) {
        let silence = Duration::from_millis(milliseconds);
        if self.end(generation, format!("it gave no sign of life for {silence:?}")) {
            self.shown.silent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the worker of this generation, if it lives: for no rule that it breaks. `why` is told
    /// with its death, unless there was another reason before.
    pub(super) fn end(&mut self, generation: u64, why: String) -> bool {
        let Some(live) = self.live(generation) else { return false };
        live.condemned.get_or_insert(why);
        if let Some(worker) = self.supervisor.worker() {
            worker.kill();
        }
        true
    }

    /// Somebody wants a report. Nobody waits for a worker that is not there, or has long been busy:
    /// what it said last is known.
    fn wanted(&mut self, answer: SyncSender<Reply>) {
        let Some(live) = &self.live else { return };
        let since = live.ordered.as_ref().map(|(_, _, since)| since.elapsed());
        if since.is_none_or(|since| since < BUSY) {
            self.asked.push(answer);
        }
    }

    /// What the worker is to do next, and who waits for that.
    fn next_order(&mut self) -> Option<(Order, Vec<SyncSender<Reply>>)> {
        if let Some(order) = self.live.as_mut()?.next.pop_front() {
            return Some((order, Vec::new()));
        }
        while let Some(Waiting { order, answer, taken }) = self.queue.pop_front() {
            // Else whoever gave it has been told that it is not carried out.
            if !taken.swap(true, Ordering::Relaxed) {
                return Some((order, vec![answer]));
            }
        }
        let asked = std::mem::take(&mut self.asked);
        (!asked.is_empty()).then_some((Order::Report, asked))
    }

    /// Gives the next order, if the worker has answered the last one.
    fn give(&mut self) {
        if self.live.as_ref().is_none_or(|live| live.ordered.is_some()) {
            return;
        }
        let Some((order, answers)) = self.next_order() else { return };
        let Some(live) = self.live.as_mut() else { return };
        let order = order.with_files();
        let files = order.fds();
        // Blocking, with its time limit: a worker that does not listen is no good.
        let written = live
            .control
            .set_nonblocking(false)
            .and_then(|()| control::write_with(&live.control, &order, &files));
        let written = live.control.set_nonblocking(true).and(written);
        live.ordered = Some((order, answers, Instant::now()));
        let generation = live.generation;
        // The chain's thread may have ended.
        let _ = self.config.links.send(Link::Order { generation, given: true });
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.leaves(generation),
            Err(error) => {
                self.end(generation, format!("it takes no orders: {error}"));
            }
        }
    }

    fn wait(&self, bell: &Bell) {
        let now = Instant::now();
        let mut until = self.supervisor.due();
        // One that is to end is waited for as a process alone.
        let live = self.live.as_ref().filter(|live| !live.unheard);
        if let Some((_, _, since)) = live.and_then(|live| live.ordered.as_ref()) {
            until = Some(*since + PATIENCE);
        }
        let leaves = self.live.as_ref().filter(|live| live.condemned.is_none());
        let leaves = leaves.and_then(|live| live.leaves);
        let until = [until, leaves, self.versions.known_until()].into_iter().flatten().min();
        let timeout = until.map(|until| until.saturating_duration_since(now));
        let timeout = timeout.and_then(|time| rustix::time::Timespec::try_from(time).ok());
        let mut fds = vec![PollFd::new(&*bell.0, PollFlags::IN)];
        let process = self.supervisor.process();
        if let Some(process) = &process {
            fds.push(PollFd::new(process, PollFlags::IN));
        }
        if let Some(live) = self.live.as_ref().filter(|live| !live.unheard) {
            fds.push(PollFd::new(&live.control, PollFlags::IN));
        }
        // Interrupted: it is looked at everything, and waited again.
        let _ = poll(&mut fds, timeout.as_ref());
        let _ = rustix::io::read(&*bell.0, &mut [0_u8; 8]);
    }

    /// Hears some of what the worker says: the keeper has more to do than that. Whether there may
    /// be more.
    fn hear(&mut self) -> bool {
        let Some(live) = self.live.as_mut() else { return false };
        let generation = live.generation;
        live.output.hear();
        let late = live.ordered.as_ref().is_some_and(|(_, _, since)| since.elapsed() > PATIENCE);
        if late && !live.unheard {
            self.kill(generation, "it does not answer orders");
        }
        for _ in 0..HEARD_MAX {
            let Some(live) = self.live.as_mut().filter(|live| !live.unheard) else { return false };
            match live.frames.fill(&live.control) {
                Ok(Filled::More) => self.take_in(generation),
                Ok(Filled::Nothing) => return false,
                Ok(Filled::Gone) => {
                    live.unheard = true;
                    self.leaves(generation);
                    return false;
                }
                Err(error) => {
                    self.kill(generation, &format!("it cannot be heard: {error}"));
                    return false;
                }
            }
        }
        true
    }

    /// Takes in what has come in full.
    fn take_in(&mut self, generation: u64) {
        while let Some(live) = self.live.as_mut().filter(|live| !live.unheard) {
            match live.frames.next::<FromWorker>() {
                Ok(Some(FromWorker::Reply(reply))) => self.replied(reply),
                Ok(Some(FromWorker::News(news))) => self.news(news),
                Ok(Some(FromWorker::Without(layers))) => not_shut_in_by(&layers),
                Ok(None) => return,
                Err(_) => return self.kill(generation, "what it says is nothing that there is"),
            }
        }
    }
}

/// Says in the host's log that workers are not shut in by all that there is for them. All of them
/// are the same in that, and only whoever runs the host can change it: it is said once, and not to
/// tenants.
fn not_shut_in_by(layers: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let layers = weir_sandbox::one_line(layers);
        tracing::warn!(
            "workers are shut in without {layers}: run the host as root, or let its user make user namespaces"
        );
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{TryRecvError, channel, sync_channel};

    use tokio::sync::mpsc::unbounded_channel;
    use weir_hop::{Hub, Restart};

    use super::super::versions::{Kept, tests::function};
    use super::*;
    use crate::orders::{ProxyImage, SiteImage, TRIAL};

    fn undo() -> Order {
        Order::Change(Change::Undo { name: "f".into(), version: "2".into() })
    }

    /// A keeper of a worker that has this order.
    fn keeper(order: Order, answer: SyncSender<Reply>) -> State {
        let hub = Hub::unix();
        let config = KeeperConfig {
            hop: hub.number().unwrap(),
            hub: hub.clone(),
            program: "weir".into(),
            arguments: Vec::new(),
            chain: "c".into(),
            site: SiteImage::default(),
            links: unbounded_channel().0,
            fails_open: Arc::default(),
            services: Arc::default(),
            silence: Duration::from_secs(1),
            patience: Arc::default(),
            news: Box::new(|_| ()),
            reports: Box::new(|_| ()),
        };
        let plan = Plan::new(&config.program);
        let now = Instant::now();
        State {
            supervisor: Supervisor::new(hub, config.hop.get(), plan, Restart::default(), now),
            versions: Versions::new(vec![function("f", "1")]),
            regions: Regions::default(),
            staged: None,
            trial: None,
            live: Some(Running {
                generation: 1,
                control: UnixStream::pair().unwrap().0,
                output: Output::new().unwrap().0,
                frames: Frames::default(),
                link: None,
                ordered: Some((order, vec![answer], now)),
                next: VecDeque::new(),
                condemned: None,
                unheard: false,
                leaves: None,
            }),
            queue: VecDeque::new(),
            asked: Vec::new(),
            ready: None,
            shown: Arc::default(),
            counted: Counts::default(),
            config,
        }
    }

    #[test]
    fn where_a_worker_does_not_know_what_it_goes_back_to_the_next_one_begins() {
        for dies in [false, true] {
            let (answer, answered) = sync_channel(1);
            let mut keeper = keeper(undo(), answer);
            keeper.versions.put(function("f", "2"), Kept::ForFaults, Instant::now());
            if dies {
                keeper.died("it is gone".into());
            } else {
                keeper.replied(Reply::Conflict("it was started since".into()));
                assert!(keeper.live.as_ref().unwrap().condemned.is_some());
            }
            assert!(matches!(answered.recv().unwrap(), Reply::Done));
            assert_eq!(keeper.versions.running()[0].version, "1");
            assert_eq!(keeper.regions.lock().unwrap()["f"].layout, "1");
        }
    }

    #[test]
    fn a_worker_goes_back_as_often_as_it_can_and_what_it_says_has_an_end() {
        let (told, heard) = channel();
        let mut keeper = keeper(Order::Report, sync_channel(1).0);
        keeper.config.news = Box::new(move |news| told.send(news).unwrap());
        keeper.versions.put(function("f", "2"), Kept::ForFaults, Instant::now());
        let (control, worker) = UnixStream::pair().unwrap();
        control.set_nonblocking(true).unwrap();
        let live = keeper.live.as_mut().unwrap();
        (live.control, live.ordered) = (control, None);
        let news = |function: &str, version: &str| News {
            function: function.into(),
            version: version.into(),
            kind: "trap".into(),
            message: "\t".repeat(20_000),
            rolled_back: true,
            quarantined: false,
        };
        let said = [("g", "2"), ("f", "1"), ("f", "2"), ("f", "2"), ("f", "1")];
        let mut back = Vec::new();
        for (function, version) in said {
            control::write(&worker, &FromWorker::News(news(function, version))).unwrap();
            assert!(!keeper.hear());
            let news: News = heard.try_recv().unwrap();
            assert_eq!(news.message, " ".repeat(16 << 10));
            back.push(news.rolled_back);
        }
        assert_eq!(back, [false, false, true, false, false]);
        assert_eq!(keeper.versions.running()[0].version, "1");
        // It answers what it was not asked, and is not heard any more.
        control::write(&worker, &FromWorker::Reply(Reply::Done)).unwrap();
        control::write(&worker, &FromWorker::News(news("f", "1"))).unwrap();
        assert!(!keeper.hear() && heard.try_recv().is_err());
    }

    #[test]
    fn a_worker_that_the_kernel_has_silenced_is_told_to_have_broken_the_rules() {
        let Ok(hub) = Hub::sk_msg().inspect_err(|error| eprintln!("skipped: {error}")) else {
            return;
        };
        let (told, heard) = channel();
        let mut keeper = keeper(Order::Report, sync_channel(1).0);
        keeper.config.news = Box::new(move |news| told.send(news).unwrap());
        keeper.config.hub = hub.clone();
        let (_end, socket) = hub.connect_worker(keeper.config.hop.get(), 1).unwrap();
        let flags = rustix::net::SendFlags::NOSIGNAL;
        assert!(rustix::net::send(&socket, &[0; 15], flags).is_err());
        keeper.died("signal 9 ended it".into());
        let message = heard.recv().unwrap().message;
        assert!(message.ends_with("because it sent what is no message"), "{message}");
        assert_eq!(keeper.silenced(), None);
    }

    /// Its worker's end of the control socket, and what it tells of.
    fn heard(keeper: &mut State) -> (UnixStream, Receiver<News>) {
        let (told, heard) = channel();
        keeper.config.news = Box::new(move |news| told.send(news).unwrap());
        let (control, worker) = UnixStream::pair().unwrap();
        control.set_nonblocking(true).unwrap();
        keeper.live.as_mut().unwrap().control = control;
        (worker, heard)
    }

    #[test]
    fn all_who_want_a_report_get_the_next_one_and_nobody_waits_for_a_worker_that_is_busy() {
        let (order, answered) = sync_channel(1);
        let mut keeper = keeper(Order::Forget, order);
        let (worker, _heard) = heard(&mut keeper);
        let asks: Vec<_> = (0..3)
            .map(|_| {
                let (answer, answered) = sync_channel(1);
                keeper.wanted(answer);
                answered
            })
            .collect();
        keeper.replied(Reply::Done);
        assert!(answered.try_recv().is_ok());
        keeper.give();
        assert!(matches!(control::read_with(&worker).unwrap().0, Order::Report));
        assert!(asks[0].try_recv().is_err());
        keeper.replied(Reply::Report(Box::default()));
        assert!(asks.iter().all(|answered| matches!(answered.try_recv(), Ok(Reply::Report(_)))));
        keeper.give();
        assert!(keeper.live.as_ref().unwrap().ordered.is_none(), "there was one");
        // It has an order that takes long, and dies of it.
        let long = Instant::now() - 2 * BUSY;
        keeper.live.as_mut().unwrap().ordered = Some((Order::Forget, Vec::new(), long));
        let ask = |keeper: &mut State| {
            let (answer, answered) = sync_channel(1);
            keeper.wanted(answer);
            answered.try_recv().unwrap_err()
        };
        assert_eq!(ask(&mut keeper), TryRecvError::Disconnected);
        keeper.live.as_mut().unwrap().ordered = None;
        let (answer, answered) = sync_channel(1);
        keeper.wanted(answer);
        assert_eq!(answered.try_recv().unwrap_err(), TryRecvError::Empty);
        keeper.died("it is gone".into());
        assert_eq!(answered.try_recv().unwrap_err(), TryRecvError::Disconnected);
        assert_eq!(ask(&mut keeper), TryRecvError::Disconnected);
    }

    #[test]
    fn an_order_whose_giver_has_been_told_that_it_is_not_carried_out_is_not() {
        let mut keeper = keeper(Order::Report, sync_channel(1).0);
        let (worker, _heard) = heard(&mut keeper);
        keeper.live.as_mut().unwrap().ordered = None;
        for (order, taken) in [(Order::Change(Change::Promote), true), (Order::Forget, false)] {
            let taken = Arc::new(AtomicBool::new(taken));
            keeper.queue.push_back(Waiting { order, answer: sync_channel(1).0, taken });
        }
        keeper.give();
        assert!(matches!(control::read_with(&worker).unwrap().0, Order::Forget));
    }

    #[test]
    fn the_chains_thread_knows_whether_its_worker_has_an_order() {
        let mut keeper = keeper(Order::Report, sync_channel(1).0);
        let (_worker, _heard) = heard(&mut keeper);
        let (links, mut linked) = unbounded_channel();
        keeper.config.links = links;
        let mut has_one = || match linked.try_recv() {
            Ok(Link::Order { generation: 1, given }) => given,
            _ => panic!("it hears of it"),
        };
        keeper.replied(Reply::Report(Box::default()));
        assert!(!has_one());
        keeper.wanted(sync_channel(1).0);
        keeper.give();
        assert!(has_one());
    }

    #[test]
    fn with_its_death_is_told_why_a_worker_was_ended() {
        let begin = || Order::Begin {
            chain: "c".into(),
            site: SiteImage::default(),
            functions: Vec::new(),
        };
        let refused = Reply::Refused("no\nmemory".into());
        let mut cannot = keeper(begin(), sync_channel(1).0);
        let (_worker, heard_of) = heard(&mut cannot);
        cannot.replied(refused);
        cannot.died("signal 9 ended it".into());
        let message = heard_of.recv().unwrap().message;
        assert!(message.ends_with("signal 9 ended it: it cannot begin: no memory"), "{message}");

        let mut bad = keeper(Order::Report, sync_channel(1).0);
        let (_worker, heard_of) = heard(&mut bad);
        bad.kill(1, "it says it twice");
        bad.end(1, "it is silent, too".into());
        bad.died("signal 9 ended it".into());
        let message = heard_of.recv().unwrap().message;
        assert!(message.ends_with("it broke the rules: it says it twice"), "{message}");
    }

    #[test]
    fn a_worker_that_has_closed_its_socket_has_a_while_to_end_itself() {
        for writes in [false, true] {
            let mut keeper = keeper(Order::Report, sync_channel(1).0);
            let (worker, heard) = heard(&mut keeper);
            drop(worker);
            if writes {
                keeper.live.as_mut().unwrap().ordered = None;
                keeper.wanted(sync_channel(1).0);
                keeper.give();
            } else {
                assert!(!keeper.hear());
            }
            let why = |keeper: &State| keeper.live.as_ref().unwrap().condemned.clone();
            let now = Instant::now();
            keeper.stays(now - LEAVING);
            assert_eq!(why(&keeper), None);
            keeper.stays(now + LEAVING);
            assert_eq!(why(&keeper).unwrap(), "it broke off, and did not end itself");
            drop(heard);
        }
    }

    #[test]
    fn a_trial_that_a_new_worker_does_not_go_on_with_is_over_and_one_that_has_ended_costs_nothing()
    {
        let tried = || FunctionImage { deadline: 3_000_000_000, ..function("f", "2") };
        let services = |keeper: &State| keeper.config.services.load(Ordering::Relaxed);
        let patience = |keeper: &State| keeper.config.patience.load(Ordering::Relaxed);

        let mut keeper = keeper(Order::Change(Change::EndTrial), sync_channel(1).0);
        let (_worker, heard) = heard(&mut keeper);
        let service =
            ProxyImage { timeout: 1, instances: 1, requests_per_instance: 1, instance_idle: 1 };
        let service = FunctionImage { proxy: Some(service), ..function("f", "2") };
        for (on_trial, waits) in [(tried(), 6000), (service, 1000)] {
            keeper.trial = Some((on_trial, Some(50)));
            keeper.policy();
            assert_eq!((services(&keeper), patience(&keeper)), (waits == 1000, waits));
            let order = Order::Change(Change::EndTrial);
            keeper.live.as_mut().unwrap().ordered =
                Some((order, vec![sync_channel(1).0], Instant::now()));
            keeper.replied(Reply::Done);
            assert_eq!((services(&keeper), patience(&keeper)), (false, 1000));
        }

        // The first that another worker is told beside the chain.
        keeper.trial = Some((tried(), Some(50)));
        let live = keeper.live.as_mut().unwrap();
        let order = Order::StageFunction { function: tried(), shadow: false };
        live.ordered = Some((order, Vec::new(), Instant::now()));
        live.next = VecDeque::from([Order::Change(Change::Promote)]);
        keeper.replied(Reply::Refused("no memory".into()));
        assert!(keeper.trial.is_none() && patience(&keeper) == 1000);
        let next = &keeper.live.as_ref().unwrap().next;
        assert!(matches!(next.front(), Some(Order::Forget)) && next.len() == 1);
        let News { function, version, kind, message, .. } = heard.try_recv().unwrap();
        assert_eq!((&*function, &*version, &*kind), ("f", "2", TRIAL));
        assert!(message.ends_with("cannot go on with it: no memory"), "{message}");
        // It does not even forget it: it is asked once.
        let live = keeper.live.as_mut().unwrap();
        let forget = live.next.pop_front().unwrap();
        live.ordered = Some((forget, Vec::new(), Instant::now()));
        keeper.replied(Reply::Refused("no".into()));
        assert!(keeper.live.as_ref().unwrap().next.is_empty() && heard.try_recv().is_err());
    }
}
