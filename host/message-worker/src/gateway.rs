//! A chain as a gateway's thread has it: each event goes to the worker, and waits for what the
//! worker says about it.

mod asks;
mod exchange;
mod services;
#[cfg(test)]
mod tests;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;
use tokio::sync::{mpsc, oneshot};
use weir_exchange::{
    Counter, Environment, Interests, Kind, Middleware, Origin, Passage, Pieces, Upstreams,
};
use weir_hop::{AsyncEnd, Descriptor, Discarded, End};
use weir_message::{ChainCounters, Store, head};
use weir_pool::Memory;

use self::exchange::RemoteExchange;
use self::services::Visit;
use self::watch::{Looked, Watch};
use crate::keeper::Killer;
use crate::protocol as say;
use crate::protocol::Message;
use crate::rings::{Breach, Rings, Side};
use crate::streams::Streams;

/// How soon it is tried again when the rings or the hop are full.
const AGAIN: Duration = Duration::from_millis(1);
/// Bytes that may wait for room in the ring, beside what somebody waits for an answer to: replies,
/// and what was given up meanwhile.
const BACKLOG_MAX: usize = 64 << 20;
/// Descriptors that are read before others on this thread, who take out what they bring, have their
/// turn.
const TURN_MAX: usize = 256;
/// Bytes of a body that one message carries: as much as is read of a connection at a time, so that
/// it crosses in one go. The worker cuts it into rooms.
const BODY_MAX: usize = 64 << 10;
/// Calls of a worker that may be under way.
const CALLS_MAX: usize = 8192;
/// Bytes of a call's request.
const CALL_MAX: usize = 16 << 20;

/// It cannot know of what still waits for room in the ring.
const NOT_TOLD: Breach = Breach("it answers what it has not been told");

/// What the keeper tells the chain's thread of.
pub enum Link {
    /// A worker is ready.
    Up {
        /// The gateway's end.
        end: Box<End>,
        /// The rings.
        memory: Memory,
        /// The worker's generation.
        generation: u64,
    },
    /// It was given an order, or has answered it: as long as it has one, something waits for its
    /// word.
    Order {
        /// The worker's generation.
        generation: u64,
        /// It has one.
        given: bool,
    },
    /// It is dead.
    Down {
        /// Which one.
        generation: u64,
    },
}

/// What a chain in another process is made of on the gateway's thread.
pub struct RemoteConfig {
    /// From the keeper.
    pub links: mpsc::UnboundedReceiver<Link>,
    /// Ends a worker that breaks the rules.
    pub killer: Killer,
    /// The upstreams of the listener on this thread.
    pub upstreams: Arc<dyn Upstreams>,
    /// The tenant's store.
    pub store: Arc<Store>,
    /// What is counted.
    pub counters: Arc<ChainCounters>,
    /// Exchanges that are under way here, of those that count ([`Kind::counts`]).
    pub under_way: Arc<Counter>,
    /// Is told when the first worker takes exchanges.
    pub ready: SyncSender<()>,
    /// Whether exchanges pass while there is no worker.
    pub fails_open: Arc<AtomicBool>,
    /// Whether the worker may have services in its chain.
    pub services: Arc<AtomicBool>,
    /// Whether the chain has functions for connections: what the first worker will want.
    pub connections: bool,
    /// Milliseconds for which a worker may be silent while something waits for its word.
    pub patience: Arc<AtomicU64>,
    /// Bytes of a room of the worker's pool: the longest head.
    pub room_bytes: usize,
    /// Bytes that events may let go at a time, and that calls under way may have: all that there
    /// can be in the worker.
    pub most: usize,
}

/// See the module. Clones are the same chain.
#[derive(Clone)]
pub struct RemoteChain(Rc<Inner>);

struct Inner {
    live: RefCell<Option<Live>>,
    exchanges: RefCell<HashMap<u32, Rc<Slot>, FxBuildHasher>>,
    /// Events that the worker has not answered.
    waiting: Cell<usize>,
    next: Cell<u32>,
    interests: Cell<Interests>,
    links: RefCell<mpsc::UnboundedReceiver<Link>>,
    waker: RefCell<Option<Waker>>,
    environment: Rc<dyn Environment>,
    upstreams: Arc<dyn Upstreams>,
    store: Arc<Store>,
    counters: Arc<ChainCounters>,
    under_way: Arc<Counter>,
    killer: Killer,
    ready: SyncSender<()>,
    fails_open: Arc<AtomicBool>,
    services: Arc<AtomicBool>,
    /// Requests that visit services.
    visits: RefCell<HashMap<u32, Rc<Visit>, FxBuildHasher>>,
    /// What services have sent on, by the worker's generation and numbers; dropped, it is called
    /// off.
    onward: RefCell<HashMap<(u64, u32), oneshot::Sender<()>, FxBuildHasher>>,
    streams: Rc<Streams>,
    patience: Arc<AtomicU64>,
    /// Heads are laid out here.
    head: RefCell<Box<[u8]>>,
    most: usize,
    /// Bytes of pieces that events let go beyond what they were told, and that were not taken out
    /// ([`Wait::let_go`]).
    let_go: Cell<usize>,
    /// Calls under way, and bytes of their requests.
    calls: Cell<(usize, usize)>,
}

/// A worker that is ready.
struct Live {
    end: AsyncEnd,
    rings: Rings,
    generation: u64,
    /// It has said how its chain is: before that, nobody gets through.
    ready: bool,
    /// How many versions of its chain were replaced.
    replaced: u32,
    /// It has an order.
    ordered: bool,
    /// Messages of it so far.
    heard: u64,
    watch: Watch,
    upstreams: Vec<u64>,
    /// The call whose pieces come, and bytes of these.
    call: Option<(u32, Pieces, usize)>,
}

/// An exchange.
struct Slot {
    number: u32,
    /// The worker that knows it.
    generation: Cell<Option<u64>>,
    /// How many versions of the chain were replaced when it got to know it.
    replaced: Cell<u32>,
    waits: [RefCell<Option<Wait>>; 2],
    events: Cell<u32>,
    upstream: Cell<Option<usize>>,
    done: [Cell<bool>; 2],
    /// The worker has forgotten it.
    over: Cell<bool>,
    /// The worker keeps it until its end, because it has asked which parts it has.
    parted: Cell<bool>,
    /// By direction: whether the worker has had bytes of it.
    told: [Cell<bool>; 2],
}

/// An event that the worker was told.
struct Wait {
    event: u32,
    /// How many messages were to be sent when this one was.
    sent: u64,
    pieces: Pieces,
    bytes: usize,
    said: Option<Result<Message, Lost>>,
    waker: Option<Waker>,
}

impl Wait {
    /// Bytes that it has let go beyond what an event is told: whoever takes them may be held up by
    /// a client, without the worker's doing.
    fn let_go(&self) -> usize {
        self.bytes.saturating_sub(BODY_MAX)
    }
}

/// There is no worker that knows the exchange.
#[derive(Clone, Copy, Debug)]
struct Lost;

impl RemoteChain {
    /// A chain whose worker the keeper will tell of. [`Self::drive`] has to be driven along with
    /// it.
    #[must_use]
    pub fn new(config: RemoteConfig, environment: Rc<dyn Environment>) -> Self {
        let RemoteConfig {
            links,
            killer,
            upstreams,
            store,
            counters,
            under_way,
            ready,
            fails_open,
            services,
            connections,
            patience,
            room_bytes,
            most,
        } = config;
        Self(Rc::new(Inner {
            live: RefCell::default(),
            exchanges: RefCell::default(),
            waiting: Cell::new(0),
            next: Cell::new(0),
            interests: Cell::new(Interests { opened: connections, ..Interests::default() }),
            links: RefCell::new(links),
            waker: RefCell::default(),
            environment,
            upstreams,
            store,
            counters,
            under_way,
            killer,
            ready,
            fails_open,
            services,
            visits: RefCell::default(),
            onward: RefCell::default(),
            streams: Streams::new(Side::Gateway),
            patience,
            head: RefCell::new(vec![0; room_bytes].into()),
            most,
            let_go: Cell::new(0),
            calls: Cell::default(),
        }))
    }

    /// The same as the gateway has it.
    #[must_use]
    pub fn passages(&self) -> weir_exchange::Chain {
        weir_exchange::Chain::native(Rc::new(self.clone()))
    }

    /// Passes on what the worker says, and what it is told. Ends with the keeper.
    pub async fn drive(self) {
        let mut again: Option<Pin<Box<tokio::time::Sleep>>> = None;
        let mut look: Option<Pin<Box<tokio::time::Sleep>>> = None;
        std::future::poll_fn(|context| {
            self.0
                .waker
                .borrow_mut()
                .get_or_insert_with(|| context.waker().clone())
                .clone_from(context.waker());
            let turned = self.0.turn(context);
            if self.0.live.borrow().as_ref().is_some_and(|live| live.rings.waiting() > 0) {
                let timer = again.get_or_insert_with(|| Box::pin(tokio::time::sleep(AGAIN)));
                if timer.as_mut().poll(context).is_ready() {
                    again = None;
                    context.waker().wake_by_ref();
                }
            } else {
                again = None;
            }
            if look.is_none() && self.0.is_waited_for() {
                look = Some(Box::pin(tokio::time::sleep(self.0.between_looks())));
            }
            if look.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready()) {
                look = None;
                self.0.look();
                // What that sends is sent, and the next look is waited for.
                context.waker().wake_by_ref();
            }
            turned
        })
        .await;
    }
}

impl Inner {
    fn turn(self: &Rc<Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let link = self.links.borrow_mut().poll_recv(context);
            match link {
                Poll::Ready(Some(link)) => self.link(link),
                Poll::Ready(None) => {
                    self.lost(None);
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
        }
        let mut descriptors = Vec::new();
        let mut turn = 0;
        loop {
            if turn >= TURN_MAX {
                context.waker().wake_by_ref();
                break;
            }
            let received = {
                let mut live = self.live.borrow_mut();
                let Some(live) = live.as_mut() else { return Poll::Pending };
                live.end.poll_receive(context, &mut descriptors)
            };
            match received {
                Poll::Ready(Ok(_)) if self.speaks_for_others() => {
                    self.broke(&Breach("it speaks for another worker, or another generation"));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(read)) => {
                    turn += read;
                    for descriptor in descriptors.drain(..) {
                        if let Err(breach) = self.receive(descriptor) {
                            self.broke(&breach);
                            return Poll::Pending;
                        }
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.broken_off();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        let mut live = self.live.borrow_mut();
        let Some(of) = live.as_mut() else { return Poll::Pending };
        let retried = of.rings.retry(&mut of.end);
        let flushed = of.end.poll_flushed(context);
        drop(live);
        match (retried, flushed) {
            (Err(breach), _) => self.broke(&breach),
            (_, Poll::Ready(Err(_))) => self.broken_off(),
            _ => {}
        }
        Poll::Pending
    }

    fn link(&self, link: Link) {
        match link {
            Link::Up { end, memory, generation } => {
                self.lost(None);
                let (Ok(end), Ok(rings)) = (AsyncEnd::new(*end), Rings::new(memory, Side::Gateway))
                else {
                    return self.killer.kill(generation, "the event loop does not take its hop");
                };
                let (upstreams, call) = (Vec::new(), None);
                let (ready, ordered, heard, watch) = (false, false, 0, Watch::default());
                let replaced = 0;
                *self.live.borrow_mut() = Some(Live {
                    end,
                    rings,
                    generation,
                    ready,
                    replaced,
                    ordered,
                    heard,
                    watch,
                    upstreams,
                    call,
                });
            }
            Link::Order { generation, given } => {
                let mut live = self.live.borrow_mut();
                if let Some(live) = live.as_mut().filter(|live| live.generation == generation) {
                    live.ordered = given;
                }
            }
            Link::Down { generation } => self.lost(Some(generation)),
        }
    }

    fn speaks_for_others(&self) -> bool {
        let live = self.live.borrow();
        live.as_ref().is_some_and(|live| live.end.discarded() != Discarded::default())
    }

    /// The worker is gone: whoever waits for it is told.
    fn lost(&self, generation: Option<u64>) {
        let gone = {
            let mut live = self.live.borrow_mut();
            let is = |live: &mut Live| generation.is_none_or(|g| g == live.generation);
            live.take_if(is).map(|live| live.generation)
        };
        let Some(gone) = gone else { return };
        self.services_lost();
        let slots: Vec<_> = self.exchanges.borrow().values().cloned().collect();
        for slot in slots.iter().filter(|slot| slot.generation.get() == Some(gone)) {
            for wait in &slot.waits {
                if let Some(wait) = wait.borrow_mut().as_mut().filter(|wait| wait.said.is_none()) {
                    wait.said = Some(Err(Lost));
                    wait.waker.take().inspect(Waker::wake_by_ref);
                }
            }
        }
    }

    /// The hop has come to its end: the worker is dead, or to be.
    fn broken_off(&self) {
        self.gone(|generation| self.killer.left(generation));
    }

    /// The worker said what it cannot mean.
    fn broke(&self, breach: &Breach) {
        self.gone(|generation| self.killer.kill(generation, breach.0));
    }

    /// Nothing more is to come from the worker, of which its keeper is told.
    fn gone(&self, tell: impl FnOnce(u64)) {
        let generation = self.live.borrow().as_ref().map(|live| live.generation);
        if let Some(generation) = generation {
            tell(generation);
        }
        self.lost(generation);
    }

    /// Whether something waits for the worker's word: an event, its keeper, or everybody for its
    /// first.
    fn is_waited_for(&self) -> bool {
        let live = self.live.borrow();
        let waits = || self.waiting.get() > 0 || !self.visits.borrow().is_empty();
        live.as_ref().is_some_and(|live| !live.ready || live.ordered || waits())
    }

    fn between_looks(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed)) / watch::LOOKS
    }

    /// Sees whether the worker is alive, if something waits for it.
    fn look(&self) {
        let waiting = self.is_waited_for();
        let (looked, generation) = {
            let mut live = self.live.borrow_mut();
            let Some(live) = live.as_mut() else { return };
            (live.watch.look(waiting, (live.heard, live.rings.progress())), live.generation)
        };
        match looked {
            Looked::Alive => {}
            Looked::Ask => {
                // If it cannot be sent, that is seen with the next look.
                let _ = self.send(generation, Message { kind: say::ALIVE, ..Message::default() });
            }
            Looked::Silent => {
                self.killer.silent(generation, self.patience.load(Ordering::Relaxed));
                self.lost(Some(generation));
            }
        }
    }

    /// The worker that takes exchanges.
    fn ready(&self) -> Option<u64> {
        self.live.borrow().as_ref().filter(|live| live.ready).map(|live| live.generation)
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Sends a message to the worker of this generation.
    fn send(&self, generation: u64, message: Message) -> Result<(), Lost> {
        self.send_by(generation, |live| live.rings.send(&mut live.end, message))
    }

    fn send_by(
        &self,
        generation: u64,
        send: impl FnOnce(&mut Live) -> Result<(), Breach>,
    ) -> Result<(), Lost> {
        let sent = {
            let mut live = self.live.borrow_mut();
            let live = live.as_mut().filter(|live| live.generation == generation).ok_or(Lost)?;
            send(live).and_then(|()| self.listens(&live.rings))
        };
        match sent {
            Ok(()) => self.wake(),
            Err(breach) => {
                self.broke(&breach);
                return Err(Lost);
            }
        }
        Ok(())
    }

    /// Whether it reads what it is told. Each who waits for an answer has one message in the rings;
    /// what somebody gave up stays there.
    fn listens(&self, rings: &Rings) -> Result<(), Breach> {
        let Some(more) = rings.kept().checked_sub(BACKLOG_MAX) else { return Ok(()) };
        let wait = self.waiting.get() + self.visits.borrow().len() + self.streams.going();
        if more > wait * BODY_MAX {
            return Err(Breach("it does not read what it is told"));
        }
        Ok(())
    }

    /// So much waits for the worker that what its functions ask for now is answered without bytes:
    /// they may ask for more than exchanges that wait can have in the rings.
    fn is_behind(&self) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.rings.kept() > BACKLOG_MAX / 2)
    }

    /// Answers what the worker asked for.
    fn reply(&self, generation: u64, message: Message) {
        // A worker that is gone needs no answer.
        let _ = self.send(generation, message);
    }

    fn receive(self: &Rc<Self>, descriptor: Descriptor) -> Result<(), Breach> {
        let (message, generation, sent) = {
            let mut live = self.live.borrow_mut();
            let Some(live) = live.as_mut() else { return Ok(()) };
            live.heard += 1;
            (live.rings.receive(descriptor)?, live.generation, live.rings.counts().1)
        };
        match message.kind {
            say::STEP | say::PIECE => self.said(message, generation, sent),
            say::CALL => self.call(message, generation),
            say::CALL_PIECE => {
                let mut live = self.live.borrow_mut();
                let Some(live) = live.as_mut() else { return Ok(()) };
                let number = message.exchange;
                let (call, pieces, bytes) =
                    live.call.get_or_insert_with(|| (number, Pieces::new(), 0));
                *bytes += message.bytes.len() + 1;
                if *call != number {
                    return Err(Breach("it begins a call before it has made the last"));
                }
                if *bytes > CALL_MAX {
                    return Err(Breach("a call's body is too long"));
                }
                pieces.push(message.bytes);
                Ok(())
            }
            say::STORE => self.stored(&message, generation),
            say::SERVED => self.served(&message, generation, sent),
            say::LEFT => self.left(message.exchange, sent),
            say::ONWARD => self.onward(&message, generation, sent),
            say::CALLED_OFF => {
                self.called_off(message.exchange, generation);
                Ok(())
            }
            say::FRAME | say::MORE | say::UNWANTED => self.streams.told(message, sent),
            say::HERE => Ok(()),
            say::CHAIN => {
                self.interests.set(say::interests(message.a));
                if let Some(live) = self.live.borrow_mut().as_mut() {
                    (live.ready, live.replaced) = (true, message.b);
                }
                // Whoever waited has been told, or waits no more.
                let _ = self.ready.try_send(());
                Ok(())
            }
            _ => Err(Breach("a message is of no kind that there is")),
        }
    }

    /// A step, or bytes that belong to one; so many messages had been sent to it.
    fn said(&self, message: Message, generation: u64, sent: u64) -> Result<(), Breach> {
        let slot = self.exchanges.borrow().get(&message.exchange).cloned();
        // The exchange may have ended meanwhile.
        let Some(slot) = slot.filter(|slot| slot.generation.get() == Some(generation)) else {
            return Ok(());
        };
        let mut wait = slot.waits[(message.a >> 8 & 1) as usize].borrow_mut();
        // Nobody waits for an event that was given up.
        let Some(wait) = wait.as_mut().filter(|wait| wait.event == message.b) else {
            return Ok(());
        };
        // Else whoever has more would go on, and what it does not read pile up here.
        if wait.sent > sent {
            return Err(NOT_TOLD);
        }
        if wait.said.is_some() {
            return Err(Breach("it says twice what became of an event"));
        }
        if message.kind == say::PIECE {
            let before = wait.let_go();
            wait.bytes += message.bytes.len() + 1;
            self.let_go.set(self.let_go.get() + wait.let_go() - before);
            if self.let_go.get().max(wait.bytes) > self.most {
                return Err(Breach("it lets go more than it can hold"));
            }
            wait.pieces.push(message.bytes);
            return Ok(());
        }
        let upstream = message.c.checked_sub(1).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if upstream.is_some_and(|upstream| upstream >= self.upstreams.count()) {
            return Err(Breach("it routes to an upstream that there is not"));
        }
        slot.upstream.set(upstream);
        for (n, done) in slot.done.iter().enumerate() {
            done.set(message.a >> 16 & 1 << n != 0);
        }
        if message.a & say::OVER != 0 {
            slot.over.set(true);
        }
        wait.said = Some(Ok(message));
        wait.waker.take().inspect(Waker::wake_by_ref);
        Ok(())
    }

    /// A number that nothing has now: it comes again after four thousand million others.
    fn number(&self) -> u32 {
        loop {
            let number = self.next.get();
            self.next.set(number.wrapping_add(1));
            let taken = self.exchanges.borrow().contains_key(&number)
                || self.visits.borrow().contains_key(&number);
            if !taken {
                return number;
            }
        }
    }

    /// A new exchange, or part of one.
    fn slot(&self) -> Rc<Slot> {
        let number = self.number();
        let slot = Rc::new(Slot {
            number,
            generation: Cell::new(None),
            replaced: Cell::new(0),
            waits: Default::default(),
            events: Cell::new(0),
            upstream: Cell::new(None),
            done: Default::default(),
            over: Cell::new(false),
            parted: Cell::new(false),
            told: Default::default(),
        });
        self.exchanges.borrow_mut().insert(number, Rc::clone(&slot));
        slot
    }

    /// A head, laid out; none if it does not fit.
    fn lay_out(&self, lay: impl FnOnce(&mut [u8]) -> Result<(), head::TooLarge>) -> Option<Bytes> {
        let mut room = self.head.borrow_mut();
        lay(&mut room).ok()?;
        let used = head::length(&mut room);
        Some(Bytes::copy_from_slice(&room[..used]))
    }
}

impl Middleware for RemoteChain {
    fn interests(&self) -> Interests {
        let interests = self.0.interests.get();
        if self.0.ready().is_some() || self.0.fails_open.load(Ordering::Relaxed) {
            return interests;
        }
        // No request gets through while nobody can say whether it may; no connection does where
        // functions decide about these.
        Interests { request_head: true, ..interests }
    }

    fn piece_max(&self) -> usize {
        BODY_MAX
    }

    fn open(&self, origin: &Origin, kind: Kind) -> Rc<dyn Passage> {
        let inner = &self.0;
        let counts = kind.counts();
        inner.counters.opened.add(u64::from(counts));
        inner.under_way.add(u64::from(counts));
        Rc::new(RemoteExchange {
            inner: Rc::clone(inner),
            slot: inner.slot(),
            origin: origin.clone(),
            kind,
            end: Cell::new(None),
            counts,
        })
    }
}

/// Where a call comes from: nobody asks.
pub(crate) fn nowhere() -> Origin {
    Origin {
        client: ([0, 0, 0, 0], 0).into(),
        local: ([0, 0, 0, 0], 0).into(),
        tls: false,
        server_name: None,
        upgrade: false,
    }
}
