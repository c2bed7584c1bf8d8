//! Both sides in one process, with everything that they say passed on at once.

use std::collections::VecDeque;

use http::HeaderMap;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::task::LocalSet;

use super::*;

type Said = Rc<RefCell<VecDeque<Message>>>;

fn say_to(said: &Said) -> Say {
    let said = Rc::clone(said);
    Rc::new(move |message| {
        said.borrow_mut().push_back(message);
        1
    })
}

fn body(frames: Vec<Result<Frame<Bytes>, Broken>>) -> Stream {
    Box::pin(StreamBody::new(futures_util::stream::iter(frames)))
}

/// A response's body goes from a worker to a gateway.
struct Pair {
    gateway: Rc<Streams>,
    worker: Rc<Streams>,
    to_gateway: Said,
    to_worker: Said,
}

impl Pair {
    fn new() -> Self {
        let (gateway, worker) = (Streams::new(Side::Gateway), Streams::new(Side::Worker));
        Self { gateway, worker, to_gateway: Said::default(), to_worker: Said::default() }
    }

    fn begin(&self, body: Stream, length: Option<u64>) -> Stream {
        let id = (7, Way::Response);
        let sent = self.worker.send(id, Source::new(body), say_to(&self.to_gateway));
        let (stream, comes) = self.gateway.receive(id, length, say_to(&self.to_worker));
        tokio::task::spawn_local(sent);
        tokio::task::spawn_local(comes);
        stream
    }

    /// Passes on what was said until nobody says anything: how many frames there were.
    async fn pass_on(&self) -> usize {
        let (mut frames, mut quiet) = (0, 0);
        while quiet < 10 {
            let to_gateway = self.to_gateway.borrow_mut().pop_front();
            let to_worker = self.to_worker.borrow_mut().pop_front();
            quiet = if to_gateway.is_none() && to_worker.is_none() { quiet + 1 } else { 0 };
            frames += usize::from(to_gateway.is_some());
            to_gateway.map_or(Ok(()), |message| self.gateway.told(message, 1)).unwrap();
            to_worker.map_or(Ok(()), |message| self.worker.told(message, 1)).unwrap();
            tokio::task::yield_now().await;
        }
        frames
    }

    fn is_over(&self) -> bool {
        self.worker.going.borrow().is_empty() && self.gateway.coming.borrow().is_empty()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn frames_come_one_at_a_time_however_long_with_trailers_at_the_end() {
    run(async {
        let pair = Pair::new();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let long = Bytes::from((0..200_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"begin"))),
            Ok(Frame::data(Bytes::new())),
            Ok(Frame::data(long.clone())),
            Ok(Frame::trailers(trailers.clone())),
        ];
        let mut stream = pair.begin(body(frames), None);
        // One that is taken by nobody, and one behind it.
        assert_eq!(pair.pass_on().await, 1);
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "begin");
        assert_eq!(pair.pass_on().await, 1);
        let rest = tokio::task::spawn_local(stream.collect());
        pair.pass_on().await;
        let rest = rest.await.unwrap().unwrap();
        assert_eq!(rest.trailers(), Some(&trailers));
        assert_eq!(rest.to_bytes(), long);
        assert!(pair.is_over());
    });
}

#[test]
fn what_breaks_is_seen_to_break_and_what_nobody_wants_is_let_go() {
    run(async {
        let pair = Pair::new();
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"half"))), Err(Broken::Client)];
        let stream = pair.begin(body(frames), None);
        let got = tokio::task::spawn_local(stream.collect());
        pair.pass_on().await;
        assert_eq!(got.await.unwrap().unwrap_err(), Broken::Client);
        assert!(pair.is_over());

        let pair = Pair::new();
        let endless =
            futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(b"x"))));
        let stream = pair.begin(Box::pin(StreamBody::new(endless)), None);
        drop(stream);
        pair.pass_on().await;
        assert!(pair.is_over());

        // The other side is gone in the middle.
        let pair = Pair::new();
        let waits = futures_util::stream::pending();
        let stream = pair.begin(Box::pin(StreamBody::new(waits)), None);
        let got = tokio::task::spawn_local(stream.collect());
        pair.pass_on().await;
        pair.gateway.lost();
        assert_eq!(got.await.unwrap().unwrap_err(), Broken::Function);
    });
}

#[test]
fn a_body_is_held_to_its_length() {
    run(async {
        for (length, whole) in [(4, true), (3, false), (5, false)] {
            let pair = Pair::new();
            let text = Ok(Frame::data(Bytes::from_static(b"four")));
            let stream = pair.begin(body(vec![text]), Some(length));
            let got = tokio::task::spawn_local(stream.collect());
            pair.pass_on().await;
            assert_eq!(got.await.unwrap().is_ok(), whole, "{length}");
        }
    });
}

#[test]
fn a_body_can_be_had_back_as_long_as_nothing_was_taken_from_it() {
    run(async {
        let pair = Pair::new();
        let source = Source::new(body(vec![Ok(Frame::data(Bytes::from_static(b"all")))]));
        let sent =
            pair.gateway.send((1, Way::Request), Rc::clone(&source), say_to(&pair.to_worker));
        assert_eq!(source.whole().unwrap().collect().await.unwrap().to_bytes(), "all");
        sent.await;
        assert!(source.whole().is_none(), "its end was taken");
    });
}

#[test]
fn who_asks_for_more_before_it_has_had_the_last_frame_breaks_the_rules() {
    run(async {
        let pair = Pair::new();
        let id = (1, Way::Request);
        let endless =
            futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(b"x"))));
        let source = Source::new(Box::pin(StreamBody::new(endless)));
        let sent = pair.gateway.send(id, source, say_to(&pair.to_worker));
        tokio::task::spawn_local(sent);
        tokio::task::yield_now().await;
        assert_eq!(pair.to_worker.borrow().len(), 1);
        let more = Message { exchange: 1, kind: say::MORE, ..Message::default() };
        assert!(pair.gateway.told(more.clone(), 0).is_err());
        assert!(pair.gateway.told(more, 1).is_ok());
        tokio::task::yield_now().await;
        assert_eq!(pair.to_worker.borrow().len(), 2);
    });
}
