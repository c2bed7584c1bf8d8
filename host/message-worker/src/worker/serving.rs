//! The event loop, and exchanges on their way through the chain.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{Response, response};
use rustc_hash::FxBuildHasher;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;
use weir_exchange::{BodyStep, Direction, Kind, Origin, Pieces, Step};
use weir_message::{Chain, Exchange, ExchangePart, Notice, StoreRequest, head};

use super::line::{Away, Line, PIECE_MAX};
use super::obey::obey;
use super::services::Services;
use super::{Begun, Control};
use crate::gateway::nowhere;
use crate::orders::{FromWorker, News, Reply};
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::Breach;

/// How soon it is tried again when rings or hop are full.
const AGAIN: Duration = Duration::from_millis(1);

/// Exchanges under way, and where what becomes of them goes.
struct Serving {
    line: Rc<Line>,
    chain: Chain,
    exchanges: RefCell<HashMap<u32, Exchange, FxBuildHasher>>,
    /// Those whose parts the gateway has asked for, until their end.
    parted: RefCell<HashMap<u32, Exchange, FxBuildHasher>>,
    services: Rc<Services>,
    /// Heads of answers are laid out here.
    room: RefCell<Box<[u8]>>,
}

/// Serves exchanges until the gateway is gone.
pub(super) fn run(
    line: &Rc<Line>,
    control: &Arc<Control>,
    begun: Begun,
    mut asked: mpsc::Receiver<StoreRequest>,
) -> Result<(), String> {
    let Begun { ordered, staged, orders, remote, kept, room_bytes } = begun;
    let teller = Arc::clone(control);
    let notices = Box::new(move |notice: Notice| teller.say(&FromWorker::News(News::from(notice))));
    let counters = Arc::clone(&ordered.counters);
    let chain = Chain::new(staged, Rc::new(Away(Rc::clone(line))), orders, counters, notices);
    let serving = Rc::new(Serving {
        line: Rc::clone(line),
        chain: chain.clone(),
        exchanges: RefCell::default(),
        parted: RefCell::default(),
        services: Services::new(line),
        room: RefCell::new(vec![0; room_bytes].into()),
    });
    line.spawn(Box::pin(chain.clone().drive()));
    let questions = Rc::clone(line);
    line.spawn(Box::pin(async move {
        while let Some(request) = asked.recv().await {
            questions.store(request);
        }
    }));
    // What the chain wants is said before anybody is told that it is ready.
    let mut told = None;
    tell_chain(line, &chain, &mut told);
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
        // What does not fit at once is there the next time.
        let received = line.end.borrow_mut().receive(&mut descriptors);
        match received {
            Ok(_) => {
                for descriptor in descriptors.drain(..) {
                    let message = line.rings.borrow_mut().receive(descriptor);
                    let message = message.map_err(|breach| breach.to_string())?;
                    serving.told(message).map_err(|breach| breach.to_string())?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The gateway is gone, or has had enough of this worker.
            Err(_) => return Ok(()),
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
        tell_chain(line, &serving.chain, &mut told);
        if let Some(breach) = line.broken.get() {
            return Err(breach.to_string());
        }
        sleep(line)?;
    }
}

/// Sends what waits, and waits until there is something to do.
fn sleep(line: &Line) -> Result<(), String> {
    let retried = line.rings.borrow_mut().retry(&mut line.end.borrow_mut());
    retried.map_err(|breach| breach.to_string())?;
    let flushed = line.end.borrow_mut().flush();
    match flushed {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.to_string()),
        _ => {}
    }
    let mut timeout =
        line.timers.borrow().peek().map(|timer| timer.at.saturating_duration_since(Instant::now()));
    if line.rings.borrow().waiting() > 0 {
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

/// Says how the chain is, if that is not what was said `before`.
fn tell_chain(line: &Line, chain: &Chain, before: &mut Option<(u32, u32)>) {
    let (a, b) = (say::bits(chain.interests()), chain.replaced_versions());
    if before.replace((a, b)) != Some((a, b)) {
        line.send(Message { kind: say::CHAIN, a, b, ..Message::default() });
    }
}

impl Serving {
    /// The exchange that a message speaks of; a new one if there is none.
    fn exchange(&self, message: &Message, origin: &Origin) -> Exchange {
        let mut exchanges = self.exchanges.borrow_mut();
        let open = || self.chain.open(origin, say::kind(message.a));
        exchanges.entry(message.exchange).or_insert_with(open).clone()
    }

    fn told(self: &Rc<Self>, message: Message) -> Result<(), Breach> {
        let serving = Rc::clone(self);
        match message.kind {
            say::REQUEST_HEAD => self.head(message, Direction::Request),
            say::RESPONSE_HEAD => self.head(message, Direction::Response),
            say::OPEN | say::OPENED => {
                let Ok(origin) = head::read_origin(&message.bytes) else { return Ok(()) };
                let exchange = self.exchange(&message, &origin);
                if message.kind == say::OPENED {
                    self.line.run(async move {
                        let step = exchange.opened().await;
                        serving.stepped(&message, Direction::Request, &exchange, step, None);
                    });
                }
            }
            say::BODY => {
                let direction = say::other(message.a);
                let exchange = self.exchanges.borrow().get(&message.exchange).cloned();
                // It crossed the word that no function wants to hear of the exchange any more.
                let Some(exchange) = exchange else {
                    self.forgotten(&message, direction);
                    return Ok(());
                };
                self.line.run(async move {
                    serving.piece(&message, direction, &exchange).await;
                });
            }
            say::END => {
                let exchange = self.exchanges.borrow_mut().remove(&message.exchange);
                let parted = self.parted.borrow_mut().remove(&message.exchange);
                if let Some(exchange) = exchange.or(parted) {
                    let upstream = (message.b as usize).checked_sub(1);
                    exchange.end(say::ended(message.a), upstream, Duration::from_nanos(message.c));
                }
            }
            say::ALIVE => self.line.send(Message { kind: say::HERE, ..Message::default() }),
            say::CALLED | say::STORED => {
                let answer = self.line.calls.borrow_mut().remove(&message.exchange);
                if let Some(answer) = answer {
                    // Whoever asked may be gone.
                    let _ = answer.send(message);
                }
            }
            say::PARTS => self.divide(&message),
            say::PART => {
                if let Some(ExchangePart::Events(part)) = self.part(&message) {
                    self.exchanges.borrow_mut().insert(message.exchange, part);
                }
            }
            say::SERVE => {
                let service = match self.part(&message) {
                    Some(ExchangePart::Service(service)) => Some(service),
                    _ => None,
                };
                self.services.serve(&message, service);
            }
            _ => self.services.told(message)?,
        }
        Ok(())
    }

    /// The head of a request or response.
    fn head(self: &Rc<Self>, message: Message, direction: Direction) {
        let serving = Rc::clone(self);
        let Ok(origin) = head::read_origin(&message.bytes) else {
            self.reset(&message, direction);
            return;
        };
        let exchange = self.exchange(&message, &origin);
        self.line.run(async move {
            let mut head = message.bytes.clone();
            let step = match direction {
                Direction::Request => exchange.laid_request_head(&mut head).await,
                Direction::Response => exchange.laid_response_head(&mut head).await,
            };
            let changed = exchange.take_changed(direction).then_some(head);
            serving.stepped(&message, direction, &exchange, step, changed);
        });
    }

    /// Says which parts an exchange has, and keeps it for them.
    fn divide(&self, message: &Message) {
        let Ok(origin) = head::read_origin(&message.bytes) else {
            self.reset(message, Direction::Request);
            return;
        };
        let exchange = self.exchange(message, &origin);
        self.parted.borrow_mut().insert(message.exchange, exchange.clone());
        let parts: Vec<u8> = exchange.parts().into_iter().map(u8::from).collect();
        self.say(message, Direction::Request, &exchange, say::PARTED, parts.into());
    }

    /// The part of an exchange that a message speaks of.
    fn part(&self, message: &Message) -> Option<ExchangePart> {
        self.parted.borrow().get(&message.a)?.part(message.b as usize)
    }

    async fn piece(&self, message: &Message, direction: Direction, exchange: &Exchange) {
        let (piece, last) = (message.bytes.clone(), message.a & say::LAST != 0);
        let step = match (exchange.kind(), direction) {
            (Kind::Request, Direction::Request) => exchange.request_body(piece, last).await,
            (Kind::Request, Direction::Response) => exchange.response_body(piece, last).await,
            (Kind::Connection | Kind::HttpConnection, _) => {
                exchange.data(direction == Direction::Response, piece, last).await
            }
        };
        match step {
            BodyStep::Pass(pieces) => {
                // Functions saw it in as many rooms as it fills.
                let mut rest = &message.bytes[..];
                let same = pieces.iter().all(|piece| {
                    rest.strip_prefix(&piece[..]).inspect(|after| rest = after).is_some()
                });
                if same && rest.is_empty() {
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

    /// What became of a head. `changed`: what functions made of it.
    fn stepped(
        &self,
        message: &Message,
        direction: Direction,
        exchange: &Exchange,
        step: Step,
        changed: Option<Bytes>,
    ) {
        match (step, changed) {
            (Step::Continue, None) => {
                self.say(message, direction, exchange, say::CONTINUE, Bytes::new());
            }
            (Step::Continue, Some(head)) => {
                self.say(message, direction, exchange, say::CHANGED, head);
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
        match self.lay_out(&parts) {
            Some(head) => {
                self.pieces(message, direction, pieces);
                let step = u32::from(say::ANSWER) | say::denied(parts.extensions.get());
                self.say_step(message, direction, exchange, step, head);
            }
            None => self.say(message, direction, exchange, say::RESET, Bytes::new()),
        }
    }

    /// The head of an answer; none if it does not fit.
    fn lay_out(&self, parts: &response::Parts) -> Option<Bytes> {
        let mut room = self.room.borrow_mut();
        head::lay_out_response(&mut room, parts, &nowhere(), None, true).ok()?;
        let used = head::length(&mut room);
        Some(Bytes::copy_from_slice(&room[..used]))
    }

    fn pieces(&self, of: &Message, direction: Direction, pieces: impl IntoIterator<Item = Bytes>) {
        let a = (direction as u32) << 8;
        let (exchange, kind, b) = (of.exchange, say::PIECE, of.b);
        self.line.pieces(&Message { exchange, kind, a, b, ..Message::default() }, pieces);
    }

    fn say(&self, of: &Message, direction: Direction, exchange: &Exchange, step: u8, bytes: Bytes) {
        self.say_step(of, direction, exchange, step.into(), bytes);
    }

    /// `step`: with what else is said of an answer.
    fn say_step(
        &self,
        of: &Message,
        direction: Direction,
        exchange: &Exchange,
        step: u32,
        bytes: Bytes,
    ) {
        let done = [Direction::Request, Direction::Response].map(|way| exchange.done(way));
        let upstream = exchange.upstream().map_or(0, |upstream| upstream as u64 + 1);
        // After these, no head comes.
        let last =
            matches!(step as u8, say::ANSWER | say::RESET) || direction == Direction::Response;
        let over = if last && exchange.is_over() { say::OVER } else { 0 };
        if over != 0 {
            self.exchanges.borrow_mut().remove(&of.exchange);
        }
        self.line.send(Message {
            exchange: of.exchange,
            kind: say::STEP,
            a: step | (direction as u32) << 8 | say::directions(done) | over,
            b: of.b,
            c: upstream,
            bytes,
        });
    }

    /// An event that means nothing here.
    fn reset(&self, of: &Message, direction: Direction) {
        self.unknown(of, direction, say::RESET);
    }

    /// An event of an exchange that is over: nobody wants it.
    fn forgotten(&self, of: &Message, direction: Direction) {
        self.unknown(of, direction, say::SAME);
    }

    fn unknown(&self, of: &Message, direction: Direction, step: u8) {
        let a = u32::from(step) | (direction as u32) << 8 | say::directions([true; 2]);
        let (exchange, kind, b) = (of.exchange, say::STEP, of.b);
        self.line.send(Message { exchange, kind, a, b, ..Message::default() });
    }
}
