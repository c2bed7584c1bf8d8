//! The worker: a chain of message functions, shut in, with nothing but a lane and a control socket.
//!
//! The first thread is an event loop of its own: what comes by the hop, tasks, timers. A runtime would need files and sockets
//! that a worker may not make. A second thread carries out orders, which may take long.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::Response;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tokio::sync::{mpsc, oneshot};
use weir_exchange::{
    BodyStep, CallFault, CallResult, Direction, Environment, Interests, Origin, Pieces, Step,
};
use weir_hop::{End, Inherited, Limits};
use weir_message::{
    Chain, ChainCounters, ChainPlan, Exchange, Findings, FunctionCounters, FunctionPlan,
    MessageError, Notice, Orders, Remote, Site, SiteConfig, State, States, StoreRequest, Values,
    head, orders,
};
use weir_pool::Memory;
use weir_sandbox::{Admitted, OnFault, Sandbox, SandboxConfig, Telemetry, World};

use crate::control;
use crate::gateway::nowhere;
use crate::lane::{Breach, Lane, MESSAGE_MAX, Side, Table};
use crate::orders::{FromWorker, FunctionImage, News, Order, Reply, Report};
use crate::protocol as say;
use crate::protocol::{Message, PREFIX};

/// What a worker may have open: two files for each state region, and what the engine keeps of each component.
const LIMITS: Limits = Limits { files: 4096, threads: 64 };
/// Questions to the store that wait to be sent.
const QUESTIONS_MAX: usize = 4096;
/// How soon it is tried again when lane or hop are full.
const AGAIN: Duration = Duration::from_millis(1);
/// Longest piece of a message.
const PIECE_MAX: usize = 64 << 10;

/// Runs this process as a worker until the gateway is gone. First thing in `main`.
///
/// # Errors
/// When it was not started as one, cannot be shut in, or the gateway breaks off.
pub fn serve() -> Result<(), String> {
    let inherited = Inherited::take().map_err(|error| error.to_string())?;
    inherited.confine(&LIMITS, &[]).map_err(|error| error.to_string())?;
    let Inherited { end, memories, .. } = inherited;
    let Ok([lane, control]) = <[OwnedFd; 2]>::try_from(memories) else {
        return Err("a worker is given a lane and a control socket".into());
    };
    let table = lane.try_clone().map_err(|error| error.to_string())?;
    let open = |fd| Memory::open("lane", fd).map_err(|error| error.to_string());
    let (lane, table) = (open(lane)?, open(table)?);
    let lane = Lane::new(lane, Side::Worker).map_err(|error| error.to_string())?;
    let control = Arc::new(Control { socket: UnixStream::from(control), writing: Mutex::new(()) });
    let sandbox = Sandbox::new(SandboxConfig::default()).map_err(|error| error.to_string())?;
    let sandbox = Arc::new(sandbox);
    let alarm = Arc::new(Alarm::new().map_err(|error| error.to_string())?);
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let begun = begin(&control, &sandbox, table, questions)?;
    let line = Rc::new(Line {
        end: RefCell::new(end),
        lane: RefCell::new(lane),
        alarm,
        calls: RefCell::default(),
        next_call: Cell::new(0),
        timers: RefCell::default(),
        spawned: RefCell::default(),
        broken: Cell::new(None),
    });
    run(&line, &control, begun, asked)
}

/// The control socket as both threads write to it.
struct Control {
    socket: UnixStream,
    writing: Mutex<()>,
}

impl Control {
    fn say(&self, what: &FromWorker) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a keeper, the end of the hop comes, too.
        let _ = control::write(&self.socket, what);
    }
}

/// What orders need.
struct Ordered {
    site: Site,
    sandbox: Arc<Sandbox>,
    chain: String,
    names: Vec<String>,
    tallies: Tallies,
    counters: Arc<ChainCounters>,
    findings: Arc<Findings>,
}

/// Counters and logs by function, which outlive versions.
type Tallies = BTreeMap<String, (Arc<FunctionCounters>, Arc<Telemetry>)>;

struct Begun {
    ordered: Ordered,
    staged: weir_message::Staged,
    orders: Orders,
    remote: Remote,
    kept: Vec<String>,
    room_bytes: usize,
}

/// Takes the first order.
fn begin(
    control: &Arc<Control>,
    sandbox: &Arc<Sandbox>,
    table: Memory,
    questions: mpsc::Sender<StoreRequest>,
) -> Result<Begun, String> {
    let (mut order, files) =
        control::read_with::<Order>(&control.socket).map_err(|error| error.to_string())?;
    order.take_files(files);
    let Order::Begin { chain, site, functions } = order else {
        return Err("the first order is to begin".into());
    };
    let room_bytes = site.room_bytes as usize;
    let table = Arc::new(Table::new(table, site.names.len()));
    let config = SiteConfig {
        rooms: site.rooms,
        room_bytes: site.room_bytes,
        hold: site.hold,
        names: site.names,
        seed: site.seed,
    };
    let values = Values::Elsewhere(questions);
    let begun = Site::new(Arc::clone(sandbox), &chain, config, table, values).and_then(|site| {
        let mut ordered = Ordered {
            site,
            sandbox: Arc::clone(sandbox),
            chain,
            names: Vec::new(),
            tallies: BTreeMap::new(),
            counters: Arc::default(),
            findings: Arc::default(),
        };
        let (staged, kept) = ordered.stage_chain(functions)?;
        let (remote, orders) = orders();
        Ok(Begun { ordered, staged, orders, remote, kept, room_bytes })
    });
    begun.map_err(|error| {
        let text = error.to_string();
        control.say(&FromWorker::Reply(refused(error)));
        text
    })
}

fn refused(error: MessageError) -> Reply {
    match error {
        MessageError::Refused { name, what: "configuration", message } => {
            Reply::Configuration(name, message)
        }
        MessageError::Trial(_) => Reply::Conflict(error.to_string()),
        _ => Reply::Refused(error.to_string()),
    }
}

impl Ordered {
    /// A function's plan, and whether it has a region to go on with.
    fn plan(
        &mut self,
        image: FunctionImage,
        tally: &str,
        states: &mut States,
    ) -> Result<FunctionPlan, MessageError> {
        let broken = |message: String| MessageError::Trial(message);
        let (counters, telemetry) = self.tallies.entry(tally.to_owned()).or_default().clone();
        let owned = |file: Arc<OwnedFd>| {
            Arc::try_unwrap(file).map_err(|_| broken("a file is somebody else's, too".into()))
        };
        let code = match image.code {
            None => return Err(broken(format!("function {} comes without code", image.name))),
            // SAFETY: the gateway made it by `Sandbox::share`: it started this very program, and nobody else has the socket
            // that the file came by.
            Some(file) => unsafe { self.sandbox.load_shared(owned(file)?) }
                .map_err(|source| MessageError::Compile { name: image.name.clone(), source })?,
        };
        let region = |file: Arc<OwnedFd>| {
            let memory = Memory::open(&image.name, owned(file)?)?;
            State::of(memory, image.state_layout.clone()).map(Arc::new)
        };
        if let Some(state) = image.state {
            states.add(image.name.clone(), region(state)?);
        }
        let blank = image.blank.map(region).transpose()?;
        Ok(FunctionPlan {
            admitted: Arc::new(Admitted {
                component: Arc::from([]),
                hash: [0; 32],
                world: if image.connection { World::Connection } else { World::Message },
                saves: image.saves,
                imports: Vec::new(),
                memory_at_start: image.memory_at_start,
                manifest: None,
            }),
            name: image.name,
            version: image.version,
            code: Some(code),
            blank,
            writes: image.writes,
            memory: image.memory,
            deadline: Duration::from_nanos(image.deadline),
            on_fault: if image.fails_open { OnFault::FailOpen } else { OnFault::FailClosed },
            state_bytes: image.state_bytes,
            state_layout: image.state_layout,
            config: image.config,
            telemetry,
            counters,
        })
    }

    fn stage_chain(
        &mut self,
        images: Vec<FunctionImage>,
    ) -> Result<(weir_message::Staged, Vec<String>), MessageError> {
        let mut states = States::default();
        let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
        let plans = images.into_iter().map(|image| {
            let tally = image.name.clone();
            self.plan(image, &tally, &mut states)
        });
        let functions = plans.collect::<Result<_, _>>()?;
        let plan = ChainPlan { name: self.chain.clone(), functions };
        let staged = self.site.stage(plan, &states)?;
        let kept = staged.functions().iter().filter(|f| f.is_kept());
        let kept = kept.map(|f| f.name().to_owned()).collect();
        self.names = names;
        Ok((staged, kept))
    }

    fn stage_function(
        &mut self,
        image: FunctionImage,
        shadow: bool,
    ) -> Result<(weir_message::StagedFunction, Vec<String>), MessageError> {
        let mut states = States::default();
        let name = image.name.clone();
        let place = self.names.iter().position(|other| *other == name);
        let place = place.ok_or_else(|| MessageError::NoFunction(name.clone()))?;
        let tally = if shadow { format!("{name} (shadow)") } else { name };
        let plan = self.plan(image, &tally, &mut states)?;
        let state = if shadow { None } else { states.of(&plan) };
        let staged = self.site.stage_function(&self.chain, &self.names, place, plan, state)?;
        let kept = if staged.is_kept() { vec![staged.name().to_owned()] } else { Vec::new() };
        Ok((staged, kept))
    }

    fn report(&self) -> Report {
        let rooms = self.site.accounting();
        let (found, samples) = self.findings.take();
        let functions = self.tallies.iter().map(|(name, (counters, telemetry))| {
            (name.clone(), (counters.take(), telemetry.take()))
        });
        Report {
            functions: functions.collect(),
            exhausted: self.counters.exhausted.swap(0, Ordering::Relaxed),
            rooms: [rooms.total, rooms.free, rooms.out],
            found,
            samples,
        }
    }
}

/// What is ready, and not published.
#[derive(Default)]
struct Ready {
    chain: Option<weir_message::Staged>,
    function: Option<weir_message::StagedFunction>,
}

/// Carries out orders until the keeper is gone.
fn obey(control: &Control, mut ordered: Ordered, remote: &Remote) {
    let mut ready = Ready::default();
    while let Ok((mut order, files)) = control::read_with::<Order>(&control.socket) {
        order.take_files(files);
        let reply = obeyed(order, &mut ordered, &mut ready, remote);
        control.say(&FromWorker::Reply(reply));
    }
}

fn obeyed(order: Order, ordered: &mut Ordered, ready: &mut Ready, remote: &Remote) -> Reply {
    let findings = Arc::clone(&ordered.findings);
    let nothing = || Reply::Refused("nothing is ready".into());
    let done = match order {
        Order::Begin { .. } => return Reply::Refused("it has begun".into()),
        Order::Report => return Reply::Report(Box::new(ordered.report())),
        Order::StageChain(functions) => match ordered.stage_chain(functions) {
            Ok((staged, kept)) => {
                ready.chain = Some(staged);
                return Reply::Staged(kept);
            }
            Err(error) => return refused(error),
        },
        Order::StageFunction { function, shadow } => {
            match ordered.stage_function(function, shadow) {
                Ok((staged, kept)) => {
                    ready.function = Some(staged);
                    return Reply::Staged(kept);
                }
                Err(error) => return refused(error),
            }
        }
        Order::Publish => match ready.chain.take() {
            Some(staged) => remote.run(move |chain| chain.publish(staged)),
            None => return nothing(),
        },
        Order::Swap | Order::Canary(_) | Order::Shadow => match (ready.function.take(), order) {
            (Some(staged), Order::Swap) => remote.run(move |chain| chain.swap(staged)),
            (Some(staged), Order::Canary(percent)) => {
                remote.run(move |chain| chain.begin_canary(staged, percent, findings))
            }
            (Some(staged), _) => remote.run(move |chain| chain.begin_shadow(staged, findings)),
            (None, _) => return nothing(),
        },
        Order::ChangeCanary(percent) => remote.run(move |chain| chain.change_canary(percent)),
        Order::Promote => remote.run(Chain::promote),
        Order::EndTrial => remote.run(|chain| {
            chain.end_trial();
            Ok(())
        }),
        Order::GoBack(name, version) => remote.run(move |chain| {
            chain.go_back(&name, &version);
            Ok(())
        }),
    };
    match done {
        Ok(Ok(())) => Reply::Done,
        Ok(Err(error)) => refused(error),
        Err(gone) => Reply::Refused(gone.to_string()),
    }
}

/// Wakes the first thread.
struct Alarm {
    bell: OwnedFd,
    rung: AtomicBool,
    asleep: AtomicBool,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, rung: AtomicBool::new(true), asleep: AtomicBool::new(false) })
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // It cannot be full.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// A time that somebody waits for; the earliest is the greatest.
struct Timer {
    at: Instant,
    up: oneshot::Sender<()>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

/// The line to the gateway, as everything on the first thread has it.
struct Line {
    end: RefCell<End>,
    lane: RefCell<Lane>,
    alarm: Arc<Alarm>,
    calls: RefCell<HashMap<u32, oneshot::Sender<Message>>>,
    next_call: Cell<u32>,
    timers: RefCell<BinaryHeap<Timer>>,
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    broken: Cell<Option<Breach>>,
}

impl Line {
    fn send(&self, message: Message) {
        let sent = self.lane.borrow_mut().send(&mut self.end.borrow_mut(), message);
        if let Err(breach) = sent {
            self.broken.set(Some(breach));
        }
    }

    fn pieces(&self, message: &Message, pieces: impl IntoIterator<Item = Bytes>) {
        for mut piece in pieces {
            while !piece.is_empty() {
                let bytes = piece.split_to(piece.len().min(PIECE_MAX));
                self.send(Message { bytes, ..message.clone() });
            }
        }
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.spawned.borrow_mut().push(task);
        self.alarm.wake_by_ref();
    }

    /// A question that the gateway answers under a number.
    fn ask(&self) -> (u32, oneshot::Receiver<Message>) {
        let (answer, answered) = oneshot::channel();
        let mut calls = self.calls.borrow_mut();
        loop {
            let number = self.next_call.get();
            self.next_call.set(number.wrapping_add(1));
            if let std::collections::hash_map::Entry::Vacant(entry) = calls.entry(number) {
                entry.insert(answer);
                return (number, answered);
            }
        }
    }

    /// Asks the store.
    fn store(&self, request: StoreRequest) {
        let milliseconds = |lives: Option<Duration>| {
            lives.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1))
        };
        let (a, key, value, lives, answer) = match request {
            StoreRequest::Get { key, answer } => {
                (say::STORE_GET, key, Bytes::new(), None, Some(answer))
            }
            StoreRequest::Set { key, value, lives } => (say::STORE_SET, key, value, lives, None),
            StoreRequest::Add { key, delta, lives, answer } => {
                let delta = Bytes::copy_from_slice(&delta.to_le_bytes());
                (say::STORE_ADD, key, delta, lives, Some(answer))
            }
        };
        let b = key.len() as u32;
        if PREFIX + key.len() + value.len() > MESSAGE_MAX {
            // Too long a key has no value.
            return answer.into_iter().for_each(|answer| drop(answer.send(None)));
        }
        let bytes = [key, value].concat().into();
        let mut message =
            Message { kind: say::STORE, a, b, c: milliseconds(lives), bytes, ..Message::default() };
        if let Some(answer) = answer {
            let (number, answered) = self.ask();
            message.exchange = number;
            self.spawn(Box::pin(async move {
                let value = answered.await.ok().filter(|said| said.a != 0);
                // Whoever asked may be gone.
                let _ = answer.send(value.map(|said| said.bytes));
            }));
        }
        self.send(message);
    }
}

/// The gateway as the chain asks it.
struct Away(Rc<Line>);

impl Environment for Away {
    fn call(
        &self,
        upstream: usize,
        request: http::Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        let (parts, pieces) = request.into_parts();
        let mut room = vec![0; PIECE_MAX];
        if head::lay_out_request(&mut room, &parts, &nowhere(), None).is_err() {
            return Box::pin(std::future::ready(Err(CallFault::NotHttp)));
        }
        let (number, answered) = self.0.ask();
        let used = head::used(&mut room);
        room.truncate(used);
        let piece = Message { exchange: number, kind: say::CALL_PIECE, ..Message::default() };
        self.0.pieces(&piece, pieces);
        self.0.send(Message {
            exchange: number,
            kind: say::CALL,
            a: upstream as u32,
            b: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            c: body_max as u64,
            bytes: room.into(),
        });
        Box::pin(async move {
            let Ok(mut said) = answered.await else { return Err(CallFault::Unreachable) };
            if said.a != 0 {
                return Err(say::fault(said.a));
            }
            let laid = said.bytes.split_to((said.b as usize).min(said.bytes.len()));
            let Ok((parts, _)) = head::read_response(&laid) else { return Err(CallFault::NotHttp) };
            Ok(Response::from_parts(parts, said.bytes))
        })
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        let (up, over) = oneshot::channel();
        self.0.timers.borrow_mut().push(Timer { at: Instant::now() + time, up });
        Box::pin(async move {
            // The loop ends with everything that waits.
            let _ = over.await;
        })
    }
}

/// Exchanges under way, and where what becomes of them goes.
struct Serving {
    line: Rc<Line>,
    chain: Chain,
    exchanges: RefCell<HashMap<u32, Exchange>>,
    room_bytes: usize,
}

fn run(
    line: &Rc<Line>,
    control: &Arc<Control>,
    begun: Begun,
    mut asked: mpsc::Receiver<StoreRequest>,
) -> Result<(), String> {
    let Begun { ordered, staged, orders, remote, kept, room_bytes } = begun;
    let teller = Arc::clone(control);
    let notices = Box::new(move |notice| teller.say(&FromWorker::News(news(notice))));
    let counters = Arc::clone(&ordered.counters);
    let chain = Chain::new(staged, Rc::new(Away(Rc::clone(line))), orders, counters, notices);
    let serving = Rc::new(Serving {
        line: Rc::clone(line),
        chain: chain.clone(),
        exchanges: RefCell::default(),
        room_bytes,
    });
    line.spawn(Box::pin(chain.clone().drive()));
    let questions = Rc::clone(line);
    line.spawn(Box::pin(async move {
        while let Some(request) = asked.recv().await {
            questions.store(request);
        }
    }));
    // What the chain wants is said before anybody is told that it is ready.
    let mut wanted = None;
    tell_interests(line, chain.interests(), &mut wanted);
    let of_thread = Arc::clone(control);
    let started = std::thread::Builder::new().name("weir-orders".into()).spawn(move || {
        of_thread.say(&FromWorker::Reply(Reply::Staged(kept)));
        obey(&of_thread, ordered, &remote);
    });
    started.map_err(|error| error.to_string())?;

    let waker = Waker::from(Arc::clone(&line.alarm));
    let mut context = Context::from_waker(&waker);
    let mut tasks: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut descriptors = Vec::new();
    loop {
        loop {
            let received = line.end.borrow_mut().receive(&mut descriptors);
            match received {
                Ok(_) => {
                    for descriptor in descriptors.drain(..) {
                        let message = line.lane.borrow_mut().receive(descriptor);
                        let message = message.map_err(|breach| breach.to_string())?;
                        serving.told(message);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The gateway is gone, or has had enough of this worker.
                Err(_) => return Ok(()),
            }
        }
        let now = Instant::now();
        let mut timers = line.timers.borrow_mut();
        while timers.peek().is_some_and(|timer| timer.at <= now) {
            if let Some(timer) = timers.pop() {
                // Nobody may wait for it any more.
                let _ = timer.up.send(());
            }
        }
        drop(timers);
        line.alarm.rung.store(false, Ordering::SeqCst);
        loop {
            tasks.extend(line.spawned.borrow_mut().drain(..));
            match tasks.poll_next_unpin(&mut context) {
                Poll::Ready(Some(())) => {}
                _ if line.spawned.borrow().is_empty() => break,
                _ => {}
            }
        }
        tell_interests(line, serving.chain.interests(), &mut wanted);
        if let Some(breach) = line.broken.get() {
            return Err(breach.to_string());
        }
        sleep(line)?;
    }
}

/// Sends what waits, and waits until there is something to do.
fn sleep(line: &Line) -> Result<(), String> {
    let retried = line.lane.borrow_mut().retry(&mut line.end.borrow_mut());
    retried.map_err(|breach| breach.to_string())?;
    let flushed = line.end.borrow_mut().flush();
    match flushed {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Ok(()),
        _ => {}
    }
    let mut timeout =
        line.timers.borrow().peek().map(|timer| timer.at.saturating_duration_since(Instant::now()));
    if line.lane.borrow().waiting() > 0 {
        timeout = Some(timeout.map_or(AGAIN, |time| time.min(AGAIN)));
    }
    line.alarm.asleep.store(true, Ordering::SeqCst);
    if !line.alarm.rung.load(Ordering::SeqCst) {
        let end = line.end.borrow();
        let more = if end.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(&*end, PollFlags::IN | more),
            PollFd::new(&line.alarm.bell, PollFlags::IN),
        ];
        let timeout = timeout.and_then(|time| rustix::time::Timespec::try_from(time).ok());
        // Interrupted: it is looked at everything, and waited again.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[1].revents().is_empty() {
            let _ = rustix::io::read(&line.alarm.bell, &mut [0_u8; 8]);
        }
    }
    line.alarm.asleep.store(false, Ordering::SeqCst);
    Ok(())
}

fn tell_interests(line: &Line, interests: Interests, before: &mut Option<u32>) {
    let bits = say::bits(interests);
    if before.replace(bits) != Some(bits) {
        line.send(Message { kind: say::INTERESTS, a: bits, ..Message::default() });
    }
}

fn news(notice: Notice) -> News {
    let (function, version, fault, rolled_back) = match notice {
        Notice::Fault { function, version, fault } => (function, version, fault, false),
        Notice::RolledBack { function, version, fault } => (function, version, fault, true),
    };
    let (kind, message) = (fault.kind.name().to_owned(), fault.to_string());
    News { function, version, kind, message, rolled_back }
}

impl Serving {
    /// The exchange of this number; a new one if there is none.
    fn exchange(&self, number: u32, origin: &Origin) -> Exchange {
        let mut exchanges = self.exchanges.borrow_mut();
        exchanges.entry(number).or_insert_with(|| self.chain.open(origin)).clone()
    }

    fn told(self: &Rc<Self>, message: Message) {
        let length = (message.c != say::UNKNOWN).then_some(message.c);
        let serving = Rc::clone(self);
        match message.kind {
            say::REQUEST_HEAD => {
                let Ok((mut parts, origin)) = head::read_request(&message.bytes) else {
                    return self.reset(&message, Direction::Request);
                };
                let exchange = self.exchange(message.exchange, &origin);
                self.line.spawn(Box::pin(async move {
                    let step = exchange.request_head(&mut parts, length).await;
                    let changed = exchange.take_changed(Direction::Request);
                    let changed = changed.then(|| {
                        serving.lay_out(|room| head::lay_out_request(room, &parts, &origin, length))
                    });
                    serving.stepped(&message, Direction::Request, &exchange, step, changed);
                }));
            }
            say::RESPONSE_HEAD => {
                let Ok((mut parts, origin)) = head::read_response(&message.bytes) else {
                    return self.reset(&message, Direction::Response);
                };
                let exchange = self.exchange(message.exchange, &origin);
                self.line.spawn(Box::pin(async move {
                    let step = exchange.response_head(&mut parts, length).await;
                    let changed = exchange.take_changed(Direction::Response);
                    let changed = changed.then(|| {
                        serving.lay_out(|room| {
                            head::lay_out_response(room, &parts, &origin, length, false)
                        })
                    });
                    serving.stepped(&message, Direction::Response, &exchange, step, changed);
                }));
            }
            say::OPEN | say::OPENED => {
                let Ok(origin) = head::read_origin(&message.bytes) else { return };
                let exchange = self.exchange(message.exchange, &origin);
                if message.kind == say::OPENED {
                    self.line.spawn(Box::pin(async move {
                        let step = exchange.opened().await;
                        serving.stepped(&message, Direction::Request, &exchange, step, None);
                    }));
                }
            }
            say::BODY => {
                let direction = say::other(message.a);
                let exchange = self.exchanges.borrow().get(&message.exchange).cloned();
                let Some(exchange) = exchange else { return self.reset(&message, direction) };
                self.line.spawn(Box::pin(async move {
                    serving.piece(&message, direction, &exchange).await;
                }));
            }
            say::END => {
                let exchange = self.exchanges.borrow_mut().remove(&message.exchange);
                if let Some(exchange) = exchange {
                    let upstream = (message.b as usize).checked_sub(1);
                    exchange.end(say::ended(message.a), upstream, Duration::from_nanos(message.c));
                }
            }
            say::CALLED | say::STORED => {
                let answer = self.line.calls.borrow_mut().remove(&message.exchange);
                if let Some(answer) = answer {
                    // Whoever asked may be gone.
                    let _ = answer.send(message);
                }
            }
            _ => {}
        }
    }

    async fn piece(&self, message: &Message, direction: Direction, exchange: &Exchange) {
        let (piece, last) = (message.bytes.clone(), message.a & say::LAST != 0);
        let step = if message.a & say::DATA != 0 {
            exchange.data(direction == Direction::Response, piece, last).await
        } else if direction == Direction::Request {
            exchange.request_body(piece, last).await
        } else {
            exchange.response_body(piece, last).await
        };
        match step {
            BodyStep::Pass(pieces) => {
                let same = match &pieces[..] {
                    [] => message.bytes.is_empty(),
                    [one] => *one == message.bytes,
                    _ => false,
                };
                if same {
                    return self.say(message, direction, exchange, say::SAME, Bytes::new());
                }
                let mut pieces = pieces;
                let fits = pieces.last().is_some_and(|piece| piece.len() <= PIECE_MAX);
                let last = if fits { pieces.pop().unwrap_or_default() } else { Bytes::new() };
                self.pieces(message, direction, pieces);
                self.say(message, direction, exchange, say::CONTINUE, last);
            }
            BodyStep::Answer(response) => self.answer(message, direction, exchange, response),
            BodyStep::Reset => self.say(message, direction, exchange, say::RESET, Bytes::new()),
        }
    }

    /// What became of a head. `changed`: laid out anew, if it was changed; nothing, if it does not fit any more.
    fn stepped(
        &self,
        message: &Message,
        direction: Direction,
        exchange: &Exchange,
        step: Step,
        changed: Option<Option<Bytes>>,
    ) {
        match (step, changed) {
            (Step::Continue, None) => {
                self.say(message, direction, exchange, say::CONTINUE, Bytes::new());
            }
            (Step::Continue, Some(Some(head))) => {
                self.say(message, direction, exchange, say::CHANGED, head);
            }
            (Step::Continue, Some(None)) => {
                let mut response = Response::new(Pieces::new());
                *response.status_mut() = match direction {
                    Direction::Request => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    Direction::Response => http::StatusCode::BAD_GATEWAY,
                };
                self.answer(message, direction, exchange, response);
            }
            (Step::Answer(response), _) => self.answer(message, direction, exchange, response),
            (Step::Reset, _) => self.say(message, direction, exchange, say::RESET, Bytes::new()),
        }
    }

    fn answer(
        &self,
        message: &Message,
        direction: Direction,
        exchange: &Exchange,
        response: Response<Pieces>,
    ) {
        let (parts, pieces) = response.into_parts();
        let laid =
            self.lay_out(|room| head::lay_out_response(room, &parts, &nowhere(), None, true));
        match laid {
            Some(head) => {
                self.pieces(message, direction, pieces);
                self.say(message, direction, exchange, say::ANSWER, head);
            }
            None => self.say(message, direction, exchange, say::RESET, Bytes::new()),
        }
    }

    fn lay_out(&self, lay: impl FnOnce(&mut [u8]) -> Result<(), head::TooLarge>) -> Option<Bytes> {
        let mut room = vec![0; self.room_bytes];
        lay(&mut room).ok()?;
        let used = head::used(&mut room);
        room.truncate(used);
        Some(room.into())
    }

    fn pieces(&self, of: &Message, direction: Direction, pieces: impl IntoIterator<Item = Bytes>) {
        let a = (direction as u32) << 8;
        let (exchange, kind, b) = (of.exchange, say::PIECE, of.b);
        self.line.pieces(&Message { exchange, kind, a, b, ..Message::default() }, pieces);
    }

    fn say(&self, of: &Message, direction: Direction, exchange: &Exchange, step: u8, bytes: Bytes) {
        let done = [Direction::Request, Direction::Response].map(|way| exchange.done(way));
        let upstream = exchange.upstream().map_or(0, |upstream| upstream as u64 + 1);
        self.line.send(Message {
            exchange: of.exchange,
            kind: say::STEP,
            a: u32::from(step) | (direction as u32) << 8 | say::directions(done),
            b: of.b,
            c: upstream,
            bytes,
        });
    }

    /// An event that means nothing here.
    fn reset(&self, of: &Message, direction: Direction) {
        let a = u32::from(say::RESET) | (direction as u32) << 8;
        let (exchange, kind, b) = (of.exchange, say::STEP, of.b);
        self.line.send(Message { exchange, kind, a, b, ..Message::default() });
    }
}
