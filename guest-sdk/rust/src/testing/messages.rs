//! Driving a message function or a connection function.
//!
//! Owns: what a gateway would do with events and outcomes, for one function and any number of
//! exchanges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use weir_layout::message::{Action, Outcome as Word, UNKNOWN, Wants};
use weir_layout::{BURST_AREA, CLOCK, Descriptor, HEADROOM, WALL, WASM_PAGE};

use super::exchanges::{Asked, Wish};
use super::host::{self as test_host, TestHost};
use super::{Message, Options};
use crate::function::read_config;
use crate::host::{self, Level};
use crate::memory::Chunk;
use crate::message::dispatch::Dispatch;
use crate::message::handler::{Event, Handler, OfConnections, OfMessages};
use crate::message::{How, MessageFunction};
use crate::window::Window;

/// A host for a [`MessageFunction`].
pub type MessageHarness<F> = Exchanging<OfMessages<F>>;
/// A host for a [`ConnectionFunction`](crate::message::ConnectionFunction).
pub type ConnectionHarness<F> = Exchanging<OfConnections<F>>;

/// What became of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on, as it is now; the body is not in it.
    Continue(Message),
    /// The function answered.
    Answer(Message),
    /// The stream is ended.
    Reset,
}

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceStep {
    /// These bytes go on, with what was held before.
    Pass(Vec<u8>),
    /// It is held, with what was held before.
    Held,
    /// The function answered.
    Answer(Message),
    /// The stream is ended.
    Reset,
}

/// What an upstream does with a call: a response, or a status of `resume` below 100.
type OnCall = Box<dyn FnMut(usize, &Message) -> Result<Message, u32>>;

/// One function and its host.
pub struct Exchanging<H: Handler> {
    options: Options,
    dispatch: Option<Dispatch<H>>,
    host: TestHost,
    parked: host::Parked,
    on_call: OnCall,
    /// Exchanges under way.
    open: BTreeSet<u32>,
    /// Those of which the function wants no more.
    done: BTreeSet<u32>,
    /// Those that it was called for.
    called: BTreeSet<u32>,
    /// Pieces held, by exchange and direction.
    held: BTreeMap<(u32, bool), Vec<(u32, u32)>>,
    next: u32,
    piece_bytes: usize,
    /// What nobody waits for is brought only when the test says so.
    late: bool,
}

impl<H: Handler> Exchanging<H> {
    /// Configures the function with the default [`Options`], but rooms of 16 KiB; `config` is a
    /// JSON object.
    ///
    /// # Errors
    /// What the function, or the reader of its configuration, says.
    pub fn new(config: impl fmt::Display) -> Result<Self, String> {
        let options = Options { room_bytes: 16_384, rooms: 64, ..Options::default() };
        Self::with(options, config)
    }

    /// Configures the function.
    ///
    /// # Errors
    /// What the function, or the reader of its configuration, says.
    ///
    /// # Panics
    /// When the options make no sense.
    pub fn with(options: Options, config: impl fmt::Display) -> Result<Self, String> {
        let room = options.room_bytes as usize;
        assert!(
            room.is_power_of_two() && (1024..=BURST_AREA).contains(&room),
            "{room} bytes a room"
        );
        let bytes = (BURST_AREA + options.rooms * room).next_multiple_of(WASM_PAGE);
        let memory = Chunk::zeroed(bytes);
        // SAFETY: the memory is a window's; the harness touches it only between calls of the
        // function.
        let window = unsafe { Window::new(memory.clone(), options.room_bytes) };
        let free = (BURST_AREA..BURST_AREA + options.rooms * room).step_by(room).rev();
        let free = free.map(|at| u32::try_from(at).expect("a window below 4 GiB")).collect();
        let host = TestHost {
            window: Some((window.clone(), memory)),
            free,
            share: options.rooms,
            ports: options.ports.len(),
            functions: options.functions.len(),
            now: options.now,
            ..TestHost::default()
        };
        let state = (options.state_bytes > 0).then(|| Chunk::zeroed(options.state_bytes));
        let setup = options.setup(state, false);
        let mut harness = Self {
            dispatch: None,
            host,
            parked: host::Parked::default(),
            on_call: Box::new(|_, _| Err(3)),
            open: BTreeSet::new(),
            done: BTreeSet::new(),
            called: BTreeSet::new(),
            held: BTreeMap::new(),
            next: 0,
            piece_bytes: room - 1024,
            late: false,
            options,
        };
        harness.clock();
        let config = config.to_string();
        let handler = harness.inside(|| {
            let handler = read_config::<H::Config>(&config).and_then(|c| H::configure(setup, c));
            host::after_configure();
            handler
        })?;
        // SAFETY: the harness lays out what it names, each in a room of its own.
        harness.dispatch = Some(unsafe { Dispatch::new(handler, window) });
        Ok(harness)
    }

    fn inside<R>(&mut self, work: impl FnOnce() -> R) -> R {
        test_host::exchange(&mut self.host);
        host::exchange(&self.parked);
        let result = work();
        host::exchange(&self.parked);
        test_host::exchange(&mut self.host);
        result
    }

    fn serve<R>(&mut self, work: impl FnOnce(&mut Dispatch<H>) -> R) -> R {
        self.clock();
        let mut dispatch = self.dispatch.take().expect("an instance");
        let result = self.inside(|| work(&mut dispatch));
        self.dispatch = Some(dispatch);
        result
    }

    fn clock(&mut self) {
        let (_, memory) = self.host.window.as_ref().expect("a window");
        let wall = self.options.wall_offset.map_or(0, |offset| self.host.now.wrapping_add(offset));
        memory.write(CLOCK, &self.host.now.to_ne_bytes());
        memory.write(WALL, &wall.to_ne_bytes());
    }

    /// Sets what upstreams answer to calls: a response, or a status of `resume` below 100. Without
    /// it they cannot be reached.
    pub fn on_call(
        &mut self,
        answer: impl FnMut(usize, &Message) -> Result<Message, u32> + 'static,
    ) {
        self.on_call = Box::new(answer);
    }

    /// Maximum size of a piece that the harness gives, in bytes.
    pub fn set_piece_bytes(&mut self, bytes: usize) {
        self.piece_bytes = bytes;
    }

    /// From now on, what is asked for and not waited for is brought by [`Exchanging::bring_late`],
    /// or while an event waits, and not dropped when its exchange ends: as a host does whose
    /// upstreams are slow.
    pub fn set_late(&mut self, late: bool) {
        self.late = late;
    }

    /// Brings what was asked for and not waited for.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn bring_late(&mut self) {
        let late = std::mem::replace(&mut self.late, false);
        self.settle_rest();
        self.late = late;
    }

    /// Says whether an upstream is healthy.
    ///
    /// # Panics
    /// When there is no such upstream.
    pub fn set_healthy(&mut self, upstream: usize, healthy: bool) {
        let upstream = u32::try_from(upstream).expect("an upstream");
        self.host.exchanges.unhealthy.retain(|other| *other != upstream);
        if !healthy {
            self.host.exchanges.unhealthy.push(upstream);
        }
    }

    /// Says how many requests an upstream has.
    ///
    /// # Panics
    /// When there is no such upstream.
    pub fn set_active(&mut self, upstream: usize, active: u32) {
        let upstream = u32::try_from(upstream).expect("an upstream");
        self.host.exchanges.active.insert(upstream, active);
    }

    /// Begins an exchange.
    pub fn open(&mut self) -> u32 {
        self.next += 1;
        self.open.insert(self.next);
        self.next
    }

    /// Where an exchange was routed to.
    #[must_use]
    pub fn upstream(&self, exchange: u32) -> Option<usize> {
        self.host.exchanges.routes.get(&exchange).map(|upstream| *upstream as usize)
    }

    /// A request's head comes.
    ///
    /// # Panics
    /// When the host would see a fault. So for all events.
    pub fn request_head(&mut self, exchange: u32, request: &Message) -> Step {
        self.head(Event::RequestHead, Wants::REQUEST_HEAD, exchange, request)
    }

    /// A response's head comes.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn response_head(&mut self, exchange: u32, response: &Message) -> Step {
        self.head(Event::ResponseHead, Wants::RESPONSE_HEAD, exchange, response)
    }

    /// A connection is accepted.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn opened(&mut self, exchange: u32, connection: &Message) -> Step {
        self.head(Event::Opened, Wants::OPENED, exchange, connection)
    }

    /// A piece of a request's body comes.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn request_body(&mut self, exchange: u32, bytes: &[u8], last: bool) -> PieceStep {
        self.piece(Event::RequestBody, Wants::REQUEST_BODY, exchange, bytes, last)
    }

    /// A piece of a response's body comes.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn response_body(&mut self, exchange: u32, bytes: &[u8], last: bool) -> PieceStep {
        self.piece(Event::ResponseBody, Wants::RESPONSE_BODY, exchange, bytes, last)
    }

    /// A connection's bytes come.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn data(
        &mut self,
        exchange: u32,
        from_upstream: bool,
        bytes: &[u8],
        last: bool,
    ) -> PieceStep {
        let event = if from_upstream { Event::FromUpstream } else { Event::FromClient };
        self.piece(event, Wants::DATA, exchange, bytes, last)
    }

    fn wanted(&mut self, exchange: u32, event: Wants) -> bool {
        assert!(self.open.contains(&exchange), "exchange {exchange} is not under way");
        let wants = self.dispatch.as_ref().expect("an instance").wants();
        let wanted = wants.has(event) && !self.done.contains(&exchange);
        if wanted {
            self.called.insert(exchange);
        }
        wanted
    }

    fn take_room(&mut self) -> u32 {
        self.host.free.pop().expect("a free room: see Options::rooms")
    }

    fn head(&mut self, event: Event, want: Wants, exchange: u32, message: &Message) -> Step {
        let unchanged = Message { body: Vec::new(), ..message.clone() };
        if !self.wanted(exchange, want) {
            return Step::Continue(unchanged);
        }
        let room = self.take_room();
        let mut bytes = vec![0; self.options.room_bytes as usize];
        message.lay_out(&mut bytes);
        let (_, memory) = self.host.window.clone().expect("a window");
        memory.write(room as usize, &bytes);
        let (word, own) = self.asking(|dispatch| dispatch.event(event, exchange, room, 0, false));
        let word = self.settle(exchange, word, own);
        assert!(!word.replaced, "a head cannot be left out");
        let length = self.options.room_bytes;
        let now = self.host.read(Descriptor { offset: room, length });
        self.host.free.push(room);
        let step = match word.action {
            Action::Continue | Action::Done if word.changed => Step::Continue(Message::read(&now)),
            Action::Continue | Action::Done => {
                let same = bytes == now;
                assert!(same, "a head was changed, but the outcome does not say so");
                Step::Continue(unchanged)
            }
            Action::Answer => Step::Answer(self.answer(exchange)),
            Action::Reset => Step::Reset,
            Action::Wait | Action::Hold => panic!("{:?} is no outcome of a head", word.action),
        };
        self.settle_rest();
        step
    }

    fn piece(
        &mut self,
        event: Event,
        want: Wants,
        exchange: u32,
        bytes: &[u8],
        last: bool,
    ) -> PieceStep {
        if !self.wanted(exchange, want) {
            return PieceStep::Pass(bytes.to_vec());
        }
        let room = self.take_room();
        let offset = room + HEADROOM as u32;
        let length = u32::try_from(bytes.len()).expect("less than a room");
        assert!(length <= self.options.room_bytes - HEADROOM as u32, "{length} bytes are no piece");
        let (_, memory) = self.host.window.clone().expect("a window");
        memory.write(offset as usize, bytes);
        let (word, own) =
            self.asking(|dispatch| dispatch.event(event, exchange, offset, length, last));
        let word = self.settle(exchange, word, own);
        let length = if word.changed { word.length } else { length };
        let descriptor = Descriptor { offset, length };
        assert!(descriptor.lies_in(room, self.options.room_bytes), "a piece left its room");
        let downstream = matches!(event, Event::ResponseBody | Event::FromUpstream);
        let held = self.held.entry((exchange, downstream)).or_default();
        held.push((offset, if word.replaced { 0 } else { length }));
        let step = match word.action {
            Action::Continue | Action::Done => {
                let mut all = Vec::new();
                for (offset, length) in std::mem::take(held) {
                    all.extend(self.host.read(Descriptor { offset, length }));
                    self.host.free.push(offset - HEADROOM as u32);
                }
                PieceStep::Pass(all)
            }
            Action::Hold => {
                assert!(!last, "the last piece cannot be held");
                PieceStep::Held
            }
            Action::Answer => PieceStep::Answer(self.answer(exchange)),
            Action::Reset => PieceStep::Reset,
            Action::Wait => unreachable!("settled"),
        };
        self.settle_rest();
        step
    }

    fn answer(&mut self, exchange: u32) -> Message {
        let answer = self.host.exchanges.answers.remove(&exchange);
        answer.expect("an outcome `answer` needs an answer")
    }

    /// Serves, and gives the tokens of what was asked for meanwhile, too.
    fn asking(&mut self, work: impl FnOnce(&mut Dispatch<H>) -> u64) -> (u64, Vec<u32>) {
        let before = self.host.exchanges.tokens;
        let word = self.serve(work);
        (word, (before + 1..=self.host.exchanges.tokens).collect())
    }

    /// Brings what was asked for, until this exchange's event, which asked for `own`, has an
    /// outcome.
    fn settle(&mut self, exchange: u32, word: u64, mut own: Vec<u32>) -> Word {
        let read =
            |word: u64| Word::decode(word).unwrap_or_else(|| panic!("{word:#x} is no outcome"));
        let mut word = read(word);
        while word.action == Action::Wait {
            assert!(!own.is_empty(), "a function that waits has asked for something");
            let asked = self.next_asked().expect("what is waited for is to come");
            let token = asked.token;
            let (resumed, more) = self.bring(asked);
            if let Some(at) = own.iter().position(|other| *other == token) {
                own.swap_remove(at);
                own.extend(more);
                word = read(resumed);
            }
        }
        if word.action == Action::Done {
            self.done.insert(exchange);
        }
        word
    }

    /// Brings what was asked for beside.
    fn settle_rest(&mut self) {
        if self.late {
            return;
        }
        while let Some(at) =
            self.host.exchanges.asked.iter().position(|a| !matches!(a.wish, Wish::Sleep { .. }))
        {
            let asked = self.host.exchanges.asked.remove(at).expect("it is there");
            self.bring(asked);
        }
    }

    /// What comes first: calls and the store at once, then the earliest timer.
    fn next_asked(&mut self) -> Option<Asked> {
        let asked = &mut self.host.exchanges.asked;
        let at = asked.iter().enumerate().min_by_key(|(_, asked)| match asked.wish {
            Wish::Sleep { until } => until,
            _ => 0,
        });
        let at = at.map(|(at, _)| at)?;
        asked.remove(at)
    }

    /// Resumes the function with something: what it answers, and the tokens of what it asked for.
    fn bring(&mut self, asked: Asked) -> (u64, Vec<u32>) {
        let Asked { token, exchange, wish } = asked;
        let mut rooms = Vec::new();
        let (mut head, mut body, mut length) = (0, 0, 0);
        let mut put = |host: &mut TestHost, bytes: &[u8]| {
            let room = host.free.pop().expect("a free room: see Options::rooms");
            let (window, memory) = host.window.clone().expect("a window");
            assert!(bytes.len() <= window.room_bytes() as usize, "more than a room");
            memory.write(room as usize, bytes);
            rooms.push(room);
            room
        };
        let status = match wish {
            Wish::Sleep { until } => {
                self.host.now = self.host.now.max(until);
                0
            }
            Wish::Value(None) => 1,
            Wish::Value(Some(value)) => {
                length = u32::try_from(value.len()).expect("less than a room");
                body = put(&mut self.host, &value);
                0
            }
            Wish::Call { upstream, request, .. } => {
                match (self.on_call)(upstream as usize, &request) {
                    Err(failure) => failure,
                    Ok(response) => {
                        let mut bytes = vec![0; self.options.room_bytes as usize];
                        response.lay_out(&mut bytes);
                        head = put(&mut self.host, &bytes);
                        length = u32::try_from(response.body.len()).expect("less than a room");
                        body = put(&mut self.host, &response.body);
                        response.status.into()
                    }
                }
            }
        };
        let answered = self.asking(|d| d.resume(exchange, token, status, head, body, length));
        self.host.free.append(&mut rooms);
        answered
    }

    /// An exchange ends.
    ///
    /// # Panics
    /// When it is not under way, or there is no such upstream.
    pub fn end(&mut self, exchange: u32, how: How, upstream: Option<usize>) {
        assert!(self.open.remove(&exchange), "exchange {exchange} is not under way");
        for ((of, _), pieces) in &mut self.held {
            if *of == exchange {
                self.host.free.extend(pieces.drain(..).map(|(at, _)| at - HEADROOM as u32));
            }
        }
        self.held.retain(|(of, _), _| *of != exchange);
        self.done.remove(&exchange);
        if !self.late {
            self.host.exchanges.asked.retain(|asked| asked.exchange != exchange);
        }
        self.host.exchanges.answers.remove(&exchange);
        self.host.exchanges.routes.remove(&exchange);
        let wants = self.dispatch.as_ref().expect("an instance").wants();
        if self.called.remove(&exchange) && wants.has(Wants::ENDED) {
            let upstream = upstream.map_or(UNKNOWN, |n| u32::try_from(n).expect("an upstream"));
            self.serve(|dispatch| dispatch.ended(exchange, how as u32, upstream, 1_000_000));
        }
    }

    /// Lets so many nanoseconds pass; timers fire in them.
    pub fn advance(&mut self, nanos: u64) {
        let end = self.host.now + nanos;
        loop {
            let timer = Some(self.host.timer).filter(|at| *at != 0);
            let sleeps = self.host.exchanges.asked.iter().filter_map(|asked| match asked.wish {
                Wish::Sleep { until } => Some(until),
                _ => None,
            });
            let sleep = sleeps.min();
            match (timer, sleep) {
                (Some(at), other) if at <= end && other.is_none_or(|other| at <= other) => {
                    self.host.now = self.host.now.max(at);
                    self.host.timer = 0;
                    let now = self.host.now;
                    self.serve(|dispatch| dispatch.tick(now));
                }
                (_, Some(at)) if at <= end => {
                    let asked = self.next_asked().expect("a timer");
                    self.bring(asked);
                    self.settle_rest();
                }
                _ => break,
            }
        }
        self.host.now = end;
    }

    /// The clock, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.host.now
    }

    /// The same moment in nanoseconds since 1970, 0 if the host does not know.
    #[must_use]
    pub fn wall(&self) -> u64 {
        self.options.wall_offset.map_or(0, |offset| self.host.now.wrapping_add(offset))
    }

    /// A counter's value, 0 when it was never added to.
    pub fn counter(&mut self, name: &str) -> u64 {
        self.inside(host::flush);
        self.host.counters.get(name).copied().unwrap_or(0)
    }

    /// A gauge's value, `None` when it was never set.
    pub fn gauge(&mut self, name: &str) -> Option<f64> {
        self.inside(host::flush);
        self.host.gauges.get(name).copied()
    }

    /// Takes the lines that the function logged.
    pub fn log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.host.log)
    }

    /// Rooms that nobody uses.
    #[must_use]
    pub fn free_rooms(&self) -> usize {
        self.host.free.len()
    }

    /// Exchanges of which the SDK remembers something.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.dispatch.as_ref().expect("an instance").remembered()
    }
}

impl<F: MessageFunction> Exchanging<OfMessages<F>> {
    /// Has a client send a request, `upstream` answer what comes through, and the client get the
    /// response. What was reset is an empty message of status 0.
    ///
    /// # Panics
    /// When the host would see a fault.
    pub fn exchange(
        &mut self,
        request: &Message,
        upstream: impl FnOnce(&Message) -> Message,
    ) -> Message {
        let exchange = self.open();
        let (response, how) = self.run(exchange, request, upstream);
        let to = self.upstream(exchange).or((how == How::Delivered).then_some(0));
        self.end(exchange, how, to);
        response
    }

    fn run(
        &mut self,
        exchange: u32,
        request: &Message,
        upstream: impl FnOnce(&Message) -> Message,
    ) -> (Message, How) {
        let reset = (Message::response(0), How::Reset);
        let mut sent = match self.request_head(exchange, request) {
            Step::Continue(head) => head,
            Step::Answer(answer) => return (answer, How::Answered),
            Step::Reset => return reset,
        };
        let pieces = pieces(&request.body, self.piece_bytes);
        for (piece, last) in pieces {
            match self.request_body(exchange, piece, last) {
                PieceStep::Pass(bytes) => sent.body.extend(bytes),
                PieceStep::Held => {}
                PieceStep::Answer(answer) => return (answer, How::Answered),
                PieceStep::Reset => return reset,
            }
        }
        let response = upstream(&sent);
        let mut received = match self.response_head(exchange, &response) {
            Step::Continue(head) => head,
            Step::Answer(answer) => return (answer, How::Answered),
            Step::Reset => return reset,
        };
        for (piece, last) in self::pieces(&response.body, self.piece_bytes) {
            match self.response_body(exchange, piece, last) {
                PieceStep::Pass(bytes) => received.body.extend(bytes),
                PieceStep::Held => {}
                PieceStep::Answer(answer) => return (answer, How::Answered),
                PieceStep::Reset => return reset,
            }
        }
        (received, How::Delivered)
    }
}

/// A body's pieces; none of an empty one.
fn pieces(body: &[u8], most: usize) -> Vec<(&[u8], bool)> {
    let count = body.len().div_ceil(most);
    body.chunks(most).enumerate().map(|(n, piece)| (piece, n + 1 == count)).collect()
}

impl<H: Handler> fmt::Debug for Exchanging<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanging").field("options", &self.options).finish_non_exhaustive()
    }
}
