//! A gateway with workers that say whatever they like.

use std::sync::mpsc::{Receiver, channel};

use tokio::task::LocalSet;
use weir_hop::Hub;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use weir_exchange::{BodyStep, CallFault, CallResult, Denied, Direction, Step};

use super::*;
use crate::keeper::killed;
use crate::rings;

struct Nobody;

impl Environment for Nobody {
    fn call(
        &self,
        _: usize,
        _: http::Request<Pieces>,
        timeout: Duration,
        _: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        Box::pin(async move {
            tokio::time::sleep(timeout).await;
            Err(CallFault::Timeout)
        })
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }
}

impl Upstreams for Nobody {
    fn count(&self) -> usize {
        1
    }
    fn healthy(&self, _: usize) -> bool {
        true
    }
    fn active(&self, _: usize) -> u32 {
        7
    }
}

#[test]
fn what_a_chain_wants_before_its_first_worker_says_it_is_what_its_functions_are_for() {
    for connections in [false, true] {
        let (_links, heard) = mpsc::unbounded_channel();
        let chain =
            RemoteChain::new(remote(heard, killed().0, false, connections), Rc::new(Nobody));
        let interests = chain.interests();
        // No request passes, and no connection that functions are to be asked about; others are
        // answered by their requests.
        assert_eq!((interests.request_head, interests.opened), (true, connections));
        let opened = chain.passages().open(&nowhere(), Kind::Connection);
        let said = opened.opened().get().now_or_never();
        let Some(Step::Answer(answer)) = said else { panic!("{said:?}") };
        // It is reset for that.
        assert!(matches!(answer.extensions().get(), Some(Denied::OutOfOrder)));
    }
}

#[test]
fn connections_go_on_without_a_worker_only_if_all_functions_fail_open() {
    let done = |exchange: &weir_exchange::Exchange| {
        [Direction::Request, Direction::Response].map(|way| exchange.done(way))
    };
    for (kind, open) in [
        (Kind::Connection, true),
        (Kind::HttpConnection, true),
        (Kind::Connection, false),
        (Kind::HttpConnection, false),
    ] {
        let (_links, heard) = mpsc::unbounded_channel();
        let config = remote(heard, killed().0, false, true);
        config.fails_open.store(open, Ordering::Relaxed);
        let exchange = RemoteChain::new(config, Rc::new(Nobody)).passages().open(&nowhere(), kind);
        let said = exchange.opened().get().now_or_never();
        assert_eq!(matches!(said, Some(Step::Continue)), open, "{kind:?}: {said:?}");
        assert_eq!(done(&exchange), [open; 2], "{kind:?}");
    }
    // It dies before it has answered.
    let (_says, said) = channel();
    let ((step, done), _) = kept(false, deaf(said), async |chain: RemoteChain, links| {
        chain.0.fails_open.store(true, Ordering::Relaxed);
        let exchange = chain.passages().open(&nowhere(), Kind::HttpConnection);
        let mut opened = std::pin::pin!(exchange.opened().get());
        assert!(opened.as_mut().now_or_never().is_none());
        links.send(Link::Down { generation: 1 }).ok().unwrap();
        (opened.await, done(&exchange))
    });
    assert!(matches!(step, Step::Continue) && done == [true; 2], "{step:?} {done:?}");
}

#[test]
fn what_an_exchange_was_opened_with_is_outdated_when_its_worker_has_another_version_or_is_gone() {
    let worker = |message: &Message| match message.kind {
        say::OPENED => vec![step(message, say::CONTINUE)],
        // A swap before it.
        say::REQUEST_HEAD => {
            let chain = Message { kind: say::CHAIN, a: 1, b: 1, ..Message::default() };
            vec![chain, step(message, say::CONTINUE)]
        }
        _ => Vec::new(),
    };
    let ((), kill) = exercised(false, worker, async |chain: RemoteChain| {
        let open = async || {
            let exchange = chain.passages().open(&nowhere(), Kind::HttpConnection);
            assert!(!exchange.is_outdated(), "nobody knows it yet");
            assert!(matches!(exchange.opened().get().await, Step::Continue));
            assert!(!exchange.is_outdated());
            exchange
        };
        let old = open().await;
        let request = chain.passages().open(&nowhere(), Kind::Request);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        request.request_head(&mut parts, Some(0)).get().await;
        assert!(old.is_outdated());
        let new = open().await;
        chain.0.lost(Some(1));
        assert!(new.is_outdated());
    });
    assert_eq!(kill, None);
}

/// Sends a request's head, and has `worker` answer its event as it likes: the step, and why the
/// worker was ended.
fn asked(worker: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> (Step, Option<String>) {
    exercised(false, worker, async |chain: RemoteChain| {
        let exchange = chain.passages().open(&nowhere(), Kind::Request);
        let request = http::Request::get("/path?query").header("host", "a.example").body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let step = exchange.request_head(&mut parts, Some(0)).get().await;
        drop(exchange);
        assert!(chain.0.exchanges.borrow().is_empty());
        step
    })
}

/// Waits until something comes.
fn wait(end: &End) {
    let mut fds = [rustix::event::PollFd::new(end, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}

/// Does this with a chain whose worker is this one: what that came to, and why the worker was
/// ended.
pub(super) fn exercised<T>(
    services: bool,
    worker: impl Fn(&Message) -> Vec<Message> + Send + 'static,
    exercise: impl AsyncFnOnce(RemoteChain) -> T,
) -> (T, Option<String>) {
    let worker = move |mut rings: Rings, mut end: End| {
        let mut descriptors = Vec::new();
        loop {
            let _ = end.flush();
            wait(&end);
            if end.receive(&mut descriptors).is_err() {
                return;
            }
            for descriptor in descriptors.drain(..) {
                let message = rings.receive(descriptor).unwrap();
                for answer in worker(&message) {
                    rings.send(&mut end, answer).unwrap();
                }
            }
        }
    };
    exercised_by(services, worker, exercise)
}

/// A chain without a worker yet.
fn remote(
    links: mpsc::UnboundedReceiver<Link>,
    killer: Killer,
    services: bool,
    connections: bool,
) -> RemoteConfig {
    RemoteConfig {
        links,
        killer,
        upstreams: Arc::new(Nobody),
        store: Arc::new(Store::new(1 << 20)),
        counters: Arc::default(),
        under_way: Arc::default(),
        ready: std::sync::mpsc::sync_channel(1).0,
        fails_open: Arc::default(),
        services: Arc::new(AtomicBool::new(services)),
        connections,
        patience: Arc::new(AtomicU64::new(10_000)),
        room_bytes: 16 << 10,
        most: 256 << 10,
    }
}

/// The same with a worker that does with its line what it likes, when it has said what it wants.
fn exercised_by<T>(
    services: bool,
    worker: impl FnOnce(Rings, End) + Send + 'static,
    exercise: impl AsyncFnOnce(RemoteChain) -> T,
) -> (T, Option<String>) {
    kept(services, worker, async |chain, _| exercise(chain).await)
}

/// The same with what its keeper has.
fn kept<T>(
    services: bool,
    worker: impl FnOnce(Rings, End) + Send + 'static,
    exercise: impl AsyncFnOnce(RemoteChain, mpsc::UnboundedSender<Link>) -> T,
) -> (T, Option<String>) {
    let (links, heard) = mpsc::unbounded_channel();
    let (killer, kills) = killed();
    let config = remote(heard, killer, services, false);
    let memory = rings::memory("test").unwrap();
    let other = memory.fd().try_clone_to_owned().unwrap();
    let (end, socket) = Hub::unix().connect_worker(1, 1).unwrap();
    std::thread::spawn(move || {
        let mut end = socket.open();
        let mut rings = Rings::new(Memory::open("test", other).unwrap(), Side::Worker).unwrap();
        let interests = Message { kind: say::CHAIN, a: 1, ..Message::default() };
        rings.send(&mut end, interests).unwrap();
        worker(rings, end);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = LocalSet::new().block_on(&runtime, async {
        let chain = RemoteChain::new(config, Rc::new(Nobody));
        let driven = tokio::task::spawn_local(chain.clone().drive());
        links.send(Link::Up { end: Box::new(end), memory, generation: 1 }).ok().unwrap();
        while chain.0.ready().is_none() {
            tokio::task::yield_now().await;
        }
        let done = exercise(chain.clone(), links.clone()).await;
        // What comes after the answer is looked at, too.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(links);
        driven.await.unwrap();
        done
    });
    (done, kills())
}

fn step(to: &Message, code: u8) -> Message {
    let (exchange, kind, b) = (to.exchange, say::STEP, to.b);
    Message { exchange, kind, a: code.into(), b, ..Message::default() }
}

/// Writes into the store, under a key of so many bytes.
fn stores(to: &Message, key: u32) -> Message {
    Message { kind: say::STORE, a: say::STORE_SET, b: key, ..step(to, 0) }
}

/// A piece of a call.
fn piece_of(to: &Message, call: u32) -> Message {
    let bytes = Bytes::from(vec![0; 60_000]);
    Message { exchange: call, kind: say::CALL_PIECE, bytes, ..step(to, 0) }
}

#[test]
fn a_worker_that_keeps_to_the_rules_is_heard() {
    let (said, kill) = asked(|message| match message.kind {
        say::REQUEST_HEAD => vec![step(message, say::CONTINUE)],
        _ => Vec::new(),
    });
    assert!(matches!(said, Step::Continue) && kill.is_none(), "{said:?} {kill:?}");
}

#[test]
fn what_a_worker_cannot_mean_ends_it_and_the_request_is_answered() {
    type Bad = fn(&Message) -> Vec<Message>;
    let bad: [Bad; 12] = [
        |m| vec![step(m, 99)],
        |m| vec![Message { kind: 77, ..step(m, 0) }],
        |m| vec![Message { c: 3, ..step(m, 0) }],
        |m| vec![Message { bytes: Bytes::from_static(b"no head"), ..step(m, say::CHANGED) }],
        |m| vec![Message { bytes: Bytes::from(vec![255; 300]), ..step(m, say::ANSWER) }],
        |m| vec![Message { kind: say::CALL, ..step(m, 0) }],
        |m| vec![Message { kind: say::STORE, a: 9, ..step(m, 0) }],
        |m| vec![Message { kind: say::STORE, b: 100, ..step(m, 0) }],
        |m| vec![Message { bytes: Bytes::from(vec![0; 257]), ..stores(m, 257) }],
        |m| vec![Message { bytes: Bytes::from(vec![0; (16 << 10) + 2]), ..stores(m, 1) }],
        |m| vec![piece_of(m, 1), piece_of(m, 2)],
        |m| {
            (0..64)
                .map(|_| {
                    let bytes = Bytes::from(vec![0; 65_000]);
                    Message { kind: say::PIECE, bytes, ..step(m, 0) }
                })
                .collect()
        },
    ];
    for (n, bad) in bad.into_iter().enumerate() {
        let (said, kill) = asked(move |message| match message.kind {
            say::REQUEST_HEAD => bad(message),
            _ => Vec::new(),
        });
        let refused = matches!(&said, Step::Answer(answer) if answer.status() == 503);
        assert!(refused && kill.is_some(), "{n}: {said:?} {kill:?}");
    }
}

#[test]
fn what_is_said_of_exchanges_that_are_not_there_is_nobodys() {
    let (said, kill) = asked(|message| match message.kind {
        say::REQUEST_HEAD => vec![
            Message { exchange: 9, ..step(message, say::RESET) },
            Message { b: message.b + 1, ..step(message, say::RESET) },
            step(message, say::CONTINUE),
        ],
        _ => Vec::new(),
    });
    assert!(matches!(said, Step::Continue) && kill.is_none(), "{said:?} {kill:?}");
}

/// A worker that reads nothing of its ring, and says what it is given to say.
fn deaf(says: Receiver<Message>) -> impl FnOnce(Rings, End) + Send + 'static {
    move |mut rings, mut end| {
        let _ = end.flush();
        for message in says {
            rings.send(&mut end, message).unwrap();
            let _ = end.flush();
            // As if it had.
            while end.receive(&mut Vec::new()).is_ok() {}
        }
    }
}

#[test]
fn what_a_worker_has_not_read_it_does_not_answer() {
    let (says, said) = channel();
    let (passed, kill) = exercised_by(false, deaf(said), async |chain: RemoteChain| {
        let exchange = chain.passages().open(&nowhere(), Kind::Request);
        let mut passed = 0;
        while passed < 100 {
            let step_of = exchange.request_body(vec![0; BODY_MAX].into(), false).get();
            let mut step_of = std::pin::pin!(step_of);
            assert!(step_of.as_mut().now_or_never().is_none());
            let event = Message { b: passed + 1, ..Message::default() };
            says.send(step(&event, say::SAME)).unwrap();
            let BodyStep::Pass(_) = step_of.await else { break };
            passed += 1;
        }
        passed
    });
    assert_eq!(kill.as_deref(), Some("it answers what it has not been told"));
    // As many as the ring has room for.
    assert!(passed < 10, "{passed}");
}

#[test]
fn what_nobody_waits_for_any_more_does_not_pile_up_for_a_worker_that_does_not_read() {
    let (_says, said) = channel();
    let (told, kill) = exercised_by(false, deaf(said), async |chain: RemoteChain| {
        let most = 2 * BACKLOG_MAX / BODY_MAX;
        let mut told = 0;
        while told < most && chain.0.ready().is_some() {
            let exchange = chain.passages().open(&nowhere(), Kind::Request);
            let given_up = exchange.request_body(vec![0; BODY_MAX].into(), false).get();
            assert!(given_up.now_or_never().is_none() || chain.0.ready().is_none());
            told += 1;
        }
        told
    });
    assert_eq!(kill.as_deref(), Some("it does not read what it is told"));
    assert!(told <= BACKLOG_MAX / BODY_MAX + 10, "{told}");
}

#[test]
fn what_all_exchanges_let_go_together_is_bounded() {
    let worker = |message: &Message| {
        let bytes = Bytes::from(vec![0; 50_000]);
        let piece = Message { kind: say::PIECE, bytes, ..step(message, 0) };
        if message.kind == say::REQUEST_HEAD { vec![piece; 5] } else { Vec::new() }
    };
    let ((), kill) = exercised(false, worker, async |chain: RemoteChain| {
        let head = async || {
            let exchange = chain.passages().open(&nowhere(), Kind::Request);
            let (mut parts, ()) = http::Request::new(()).into_parts();
            exchange.request_head(&mut parts, Some(0)).get().await
        };
        // Each of them alone may.
        let steps = tokio::join!(head(), head());
        assert!(matches!(steps, (Step::Answer(_), Step::Answer(_))), "{steps:?}");
        assert_eq!(chain.0.let_go.get(), 0);
    });
    assert_eq!(kill.as_deref(), Some("it lets go more than it can hold"));
}

#[test]
fn a_call_that_there_is_no_memory_for_is_answered_so() {
    let worker = |message: &Message| {
        let call = |number: u32| {
            let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
            let mut room = vec![0; 4096];
            head::lay_out_request(&mut room, &parts, &nowhere(), None).unwrap();
            let used = head::length(&mut room);
            room.truncate(used);
            let (kind, b, bytes) = (say::CALL, 3_600_000, room.into());
            let call = Message { exchange: number, kind, b, bytes, ..Message::default() };
            [piece_of(message, number), piece_of(message, number), piece_of(message, number), call]
        };
        match (message.kind, message.exchange) {
            (say::REQUEST_HEAD, _) => [call(1), call(2)].concat(),
            (say::CALLED, 2) if message.a == say::why(CallFault::Unreachable) => {
                vec![step(&Message { b: 1, ..Message::default() }, say::CONTINUE)]
            }
            _ => Vec::new(),
        }
    };
    let (said, kill) = asked(worker);
    assert!(matches!(said, Step::Continue) && kill.is_none(), "{said:?} {kill:?}");
}

#[test]
fn a_worker_that_speaks_for_another_one_is_ended() {
    let ((), kill) = exercised_by(
        false,
        |_, mut end| {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            end.flush().unwrap();
            wait(&end);
            end.receive(&mut Vec::new()).unwrap();
            let foreign = Descriptor { hop: 2, generation: 1, ..Descriptor::default() };
            rustix::net::send(&end, &foreign.to_bytes(), flags).unwrap();
            // Until the gateway has ended it.
            wait(&end);
        },
        async |chain: RemoteChain| {
            let alive = Message { kind: say::ALIVE, ..Message::default() };
            chain.0.send(1, alive).unwrap();
            while chain.0.ready().is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        },
    );
    assert_eq!(kill.as_deref(), Some("it speaks for another worker, or another generation"));
}

#[test]
fn a_worker_that_is_silent_with_an_order_is_ended_though_no_exchange_waits_for_it() {
    let (_says, said) = channel();
    let ((), kill) = kept(false, deaf(said), async |chain: RemoteChain, links| {
        // It had time to say that it is ready.
        chain.0.patience.store(40, Ordering::Relaxed);
        let order = |generation, given| links.send(Link::Order { generation, given }).ok().unwrap();
        let waited_for = async || {
            tokio::time::sleep(Duration::from_millis(1)).await;
            chain.0.is_waited_for()
        };
        assert!(!waited_for().await);
        // What the one before it was ordered is nothing to it.
        order(0, true);
        assert!(!waited_for().await);
        order(1, true);
        order(1, false);
        assert!(!waited_for().await);
        order(1, true);
        for _ in 0..20_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if chain.0.ready().is_none() {
                break;
            }
        }
    });
    assert_eq!(kill.as_deref(), Some("silent for 40 ms"));
}

#[test]
fn what_is_under_way_is_counted_for_each_worker_though_all_count_exchanges_together() {
    let answers = |message: &Message| match message.kind {
        say::REQUEST_HEAD => vec![step(message, say::CONTINUE)],
        _ => Vec::new(),
    };
    let ((), kill) = exercised(false, answers, async |chain: RemoteChain| {
        let (counters, under_way) = (&chain.0.counters, &chain.0.under_way);
        // Of the one before it, which has not ended.
        counters.opened.add(3);
        let exchange = chain.passages().open(&nowhere(), Kind::Request);
        assert_eq!((counters.opened.get(), under_way.get()), (4, 1));
        // Its requests are counted.
        let carries = chain.passages().open(&nowhere(), Kind::HttpConnection);
        assert_eq!((counters.opened.get(), under_way.get()), (4, 1));
        drop((exchange, carries));
        assert_eq!((counters.ended.get(), under_way.get()), (1, 0));
    });
    assert_eq!(kill, None);
}
