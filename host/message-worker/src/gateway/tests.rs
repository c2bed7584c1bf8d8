//! A gateway with workers that say whatever they like.

use tokio::task::LocalSet;
use weir_hop::Hub;

use futures_util::future::LocalBoxFuture;
use weir_exchange::{CallFault, CallResult, Step};

use super::*;
use crate::keeper::killed;
use crate::lane;

struct Nobody;

impl Environment for Nobody {
    fn call(
        &self,
        _: usize,
        _: http::Request<Pieces>,
        _: Duration,
        _: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        Box::pin(std::future::ready(Err(CallFault::Unreachable)))
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

/// Sends a request's head, and has `worker` answer its event as it likes: the step, and why the worker was ended.
fn asked(worker: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> (Step, Option<String>) {
    exercised(false, worker, async |chain: RemoteChain| {
        let exchange = chain.passages().open(&nowhere());
        let request = http::Request::get("/path?query").header("host", "a.example").body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let step = exchange.request_head(&mut parts, Some(0)).get().await;
        drop(exchange);
        assert!(chain.0.exchanges.borrow().is_empty());
        step
    })
}

/// Does this with a chain whose worker is this one: what that came to, and why the worker was ended.
pub(super) fn exercised<T>(
    services: bool,
    worker: impl Fn(&Message) -> Vec<Message> + Send + 'static,
    exercise: impl AsyncFnOnce(RemoteChain) -> T,
) -> (T, Option<String>) {
    let (links, heard) = mpsc::unbounded_channel();
    let (killer, kills) = killed();
    let (ready, _wait) = std::sync::mpsc::sync_channel(1);
    let config = RemoteConfig {
        links: heard,
        killer,
        upstreams: Arc::new(Nobody),
        store: Arc::new(Store::new(1 << 20)),
        counters: Arc::default(),
        ready,
        fails_open: Arc::default(),
        services: Arc::new(AtomicBool::new(services)),
        patience: Arc::new(AtomicU64::new(10_000)),
        room_bytes: 16 << 10,
        most: 256 << 10,
    };
    let memory = lane::memory("test").unwrap();
    let other = memory.fd().try_clone_to_owned().unwrap();
    let (end, socket) = Hub::unix().connect_worker(1, 1).unwrap();
    std::thread::spawn(move || {
        let mut end = socket.open();
        let mut lane = Lane::new(Memory::open("test", other).unwrap(), Side::Worker).unwrap();
        let interests = Message { kind: say::INTERESTS, a: 1, ..Message::default() };
        lane.send(&mut end, interests).unwrap();
        let mut descriptors = Vec::new();
        loop {
            let _ = end.flush();
            let mut fds = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
            if end.receive(&mut descriptors).is_err() {
                return;
            }
            for descriptor in descriptors.drain(..) {
                let message = lane.receive(descriptor).unwrap();
                for answer in worker(&message) {
                    lane.send(&mut end, answer).unwrap();
                }
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = LocalSet::new().block_on(&runtime, async {
        let chain = RemoteChain::new(config, Rc::new(Nobody));
        let driven = tokio::task::spawn_local(chain.clone().drive());
        links.send(Link::Up { end: Box::new(end), memory, generation: 1 }).ok().unwrap();
        while chain.0.ready().is_none() {
            tokio::task::yield_now().await;
        }
        let done = exercise(chain.clone()).await;
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
    let bad: [Bad; 9] = [
        |m| vec![step(m, 99)],
        |m| vec![Message { kind: 77, ..step(m, 0) }],
        |m| vec![Message { c: 3, ..step(m, 0) }],
        |m| vec![Message { bytes: Bytes::from_static(b"no head"), ..step(m, say::CHANGED) }],
        |m| vec![Message { bytes: Bytes::from(vec![255; 300]), ..step(m, say::ANSWER) }],
        |m| vec![Message { kind: say::CALL, ..step(m, 0) }],
        |m| vec![Message { kind: say::STORE, a: 9, ..step(m, 0) }],
        |m| vec![Message { kind: say::STORE, b: 100, ..step(m, 0) }],
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
