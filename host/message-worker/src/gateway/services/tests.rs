//! Services of workers that say whatever they like.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full};
use weir_exchange::{Broken, Kind};

use super::*;
use crate::gateway::RemoteChain;
use crate::gateway::tests::exercised;
use crate::streams::Streams;

/// The rest of the chain: gives the request's body back, with its method and target.
struct Echo;

impl Onward for Echo {
    fn send(
        &self,
        request: Request<Stream>,
        _: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>> {
        let (parts, body) = request.into_parts();
        let response =
            Response::builder().header("asked", format!("{} {}", parts.method, parts.uri));
        Box::pin(std::future::ready(Ok(response.body(body).expect("plain fields"))))
    }
}

fn full(bytes: &'static [u8]) -> Stream {
    Box::pin(Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}))
}

/// What came of a visit: status, and all of the body.
type Came = (StatusCode, Result<Bytes, Broken>);

/// A request visits the only part of a chain, a service, which `worker` is.
fn visited(worker: fn(&Message) -> Vec<Message>) -> (Came, Option<String>) {
    exercised(true, worker, async |chain: RemoteChain| {
        let exchange = chain.passages().open(&nowhere(), Kind::Request);
        let legs = exchange.legs().expect("there may be services");
        let Some(Leg::Service(service)) = legs.leg(0).get().await else { panic!("no service") };
        let request = Request::put("/path").header("host", "a.example").body(full(b"some text"));
        let response = service.serve(request.unwrap(), Rc::new(Echo)).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(5), body.collect()).await;
        let body = body.expect("it ends").map(Collected::to_bytes);
        drop((service, legs, exchange));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(chain.0.exchanges.borrow().is_empty());
        (parts.status, body)
    })
}

fn parts(of: &Message) -> Vec<Message> {
    let (exchange, kind, b) = (of.exchange, say::STEP, of.b);
    let bytes = Bytes::from_static(&[1]);
    vec![Message { exchange, kind, a: say::PARTED.into(), b, bytes, c: 0 }]
}

fn laid(response: http::response::Builder) -> Bytes {
    let (parts, ()) = response.body(()).expect("plain fields").into_parts();
    let streams = Streams::new(crate::rings::Side::Worker);
    let laid = streams.lay_out(|room| head::lay_out_response(room, &parts, &nowhere(), None, true));
    laid.expect("it fits")
}

fn served(to: &Message, length: Option<u64>) -> Message {
    let c = say::said_length(length);
    let bytes = laid(Response::builder());
    Message { exchange: to.exchange, kind: say::SERVED, c, bytes, ..Message::default() }
}

fn frame(of: u32, way: Way, text: &'static str, last: bool) -> Message {
    let a = way as u32 | if last { say::LAST_FRAME } else { 0 };
    let bytes = Bytes::from_static(text.as_bytes());
    Message { exchange: of, kind: say::FRAME, a, bytes, ..Message::default() }
}

fn left(visit: u32) -> Message {
    Message { exchange: visit, kind: say::LEFT, ..Message::default() }
}

fn onward(visit: u32, call: u32) -> Message {
    let (request, ()) =
        Request::get("/on").header("host", "b.example").body(()).unwrap().into_parts();
    let streams = Streams::new(crate::rings::Side::Worker);
    let laid = streams.lay_out(|room| head::lay_out_request(room, &request, &nowhere(), Some(0)));
    let (kind, c) = (say::ONWARD, say::said_length(Some(0)));
    Message { exchange: call, kind, a: visit, c, bytes: laid.unwrap(), ..Message::default() }
}

#[test]
fn a_response_comes_with_its_body_and_what_follows_is_nobodys() {
    let (came, kill) = visited(|message| match message.kind {
        say::PARTS => parts(message),
        say::SERVE => {
            let number = message.exchange;
            vec![served(message, None), frame(number, Way::Response, "one ", false)]
        }
        say::MORE => {
            let number = message.exchange;
            vec![frame(number, Way::Response, "two", true), left(number)]
        }
        _ => Vec::new(),
    });
    assert_eq!((came, kill), ((StatusCode::OK, Ok(Bytes::from_static(b"one two"))), None));
}

#[test]
fn a_request_that_it_sends_on_comes_back_as_the_response() {
    let (came, kill) = visited(|message| match message.kind {
        say::PARTS => parts(message),
        say::SERVE => vec![onward(message.exchange, 700)],
        say::ARRIVED => {
            let response = head::read_response(&message.bytes).expect("a response");
            assert_eq!((message.exchange, message.a, message.c), (700, 0, 1));
            assert_eq!(response.headers["asked"], "GET /on");
            // The visit's number is the only one that there is: the second that was given.
            let visit = Message { exchange: 1, ..Message::default() };
            vec![served(&visit, Some(0)), left(1)]
        }
        _ => Vec::new(),
    });
    assert_eq!((came, kill), ((StatusCode::OK, Ok(Bytes::new())), None));
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_said_is_seen_to_be_broken() {
    for (length, text) in [(5, "too long"), (50, "too short")] {
        let (came, kill) = visited(if length == 5 {
            |message| match message.kind {
                say::PARTS => parts(message),
                say::SERVE => {
                    let number = message.exchange;
                    vec![served(message, Some(5)), frame(number, Way::Response, "too long", true)]
                }
                _ => Vec::new(),
            }
        } else {
            |message| match message.kind {
                say::PARTS => parts(message),
                say::SERVE => {
                    let number = message.exchange;
                    vec![served(message, Some(50)), frame(number, Way::Response, "too short", true)]
                }
                _ => Vec::new(),
            }
        });
        assert_eq!((came, kill), ((StatusCode::OK, Err(Broken::Function)), None), "{text}");
    }
}

#[test]
fn what_a_worker_cannot_mean_of_services_ends_it_and_the_request_is_answered() {
    type Bad = fn(&Message) -> Vec<Message>;
    let bad: [Bad; 14] = [
        |m| vec![Message { bytes: Bytes::from_static(b"no head"), ..served(m, None) }],
        |m| vec![Message { exchange: 99, ..served(m, None) }],
        |m| vec![left(m.exchange)],
        |_| vec![left(99)],
        |m| vec![onward(99, m.exchange)],
        |m| vec![Message { b: 3, ..onward(m.exchange, 1) }],
        |m| vec![Message { bytes: Bytes::from(vec![255; 300]), ..onward(m.exchange, 1) }],
        |m| {
            vec![
                Message { c: 9, ..onward(m.exchange, 1) },
                Message { c: 9, ..onward(m.exchange, 1) },
            ]
        },
        |m| (0..66).map(|call| onward(m.exchange, call)).collect(),
        |m| vec![frame(m.exchange, Way::Request, "", true)],
        |m| {
            let (kind, a) = (say::MORE, Way::Response as u32);
            vec![Message { kind, a, exchange: m.exchange, ..Message::default() }]
        },
        |m| vec![Message { kind: say::FRAME, a: 9, exchange: m.exchange, ..Message::default() }],
        |m| {
            let bytes = laid(Response::builder().header("content-length", "7"));
            vec![Message { bytes, ..served(m, Some(9)) }]
        },
        |m| vec![Message { kind: 99, ..served(m, None) }],
    ];
    for (n, bad) in bad.into_iter().enumerate() {
        let (came, kill) = exercised(
            true,
            move |message: &Message| match message.kind {
                say::PARTS => parts(message),
                say::SERVE => bad(message),
                _ => Vec::new(),
            },
            async |chain: RemoteChain| {
                let exchange = chain.passages().open(&nowhere(), Kind::Request);
                let legs = exchange.legs().expect("there may be services");
                let Some(Leg::Service(service)) = legs.leg(0).get().await else { panic!("none") };
                let request = Request::get("/path").body(nothing()).unwrap();
                service.serve(request, Rc::new(Echo)).await.status()
            },
        );
        assert!(came == 503 && kill.is_some(), "{n}: {came} {kill:?}");
    }
}

#[test]
fn frames_that_nobody_asked_for_and_second_responses_end_it_too() {
    type Bad = fn(&Message) -> Vec<Message>;
    let bad: [Bad; 5] = [
        |m| {
            let one = frame(m.exchange, Way::Response, "one", false);
            vec![served(m, None), one.clone(), one]
        },
        |m| vec![served(m, None), served(m, None)],
        |m| {
            let broken = frame(m.exchange, Way::Response, "", true);
            vec![served(m, None), Message { a: broken.a | say::BROKEN << 8, b: 77, ..broken }]
        },
        |m| {
            let trailers = frame(m.exchange, Way::Response, "no trailers", true);
            vec![served(m, None), Message { a: trailers.a | say::TRAILERS << 8, ..trailers }]
        },
        |m| {
            let long = frame(m.exchange, Way::Response, "", true);
            vec![served(m, None), Message { bytes: vec![0; 70_000].into(), ..long }]
        },
    ];
    for (n, bad) in bad.into_iter().enumerate() {
        let (came, kill) = exercised(
            true,
            move |message: &Message| match message.kind {
                say::PARTS => parts(message),
                say::SERVE => bad(message),
                _ => Vec::new(),
            },
            async |chain: RemoteChain| {
                let exchange = chain.passages().open(&nowhere(), Kind::Request);
                let legs = exchange.legs().expect("there may be services");
                let Some(Leg::Service(service)) = legs.leg(0).get().await else { panic!("none") };
                let request = Request::get("/path").body(nothing()).unwrap();
                let response = service.serve(request, Rc::new(Echo)).await;
                response.into_body().collect().await.map(Collected::to_bytes)
            },
        );
        assert!(came.is_err() && kill.is_some(), "{n}: {came:?} {kill:?}");
    }
}

#[test]
fn who_gives_up_a_visit_has_the_worker_told() {
    let (_, kill) = exercised(
        true,
        |message: &Message| match message.kind {
            say::PARTS => parts(message),
            // Else it breaks the rules: it leaves without a response.
            say::GONE => vec![left(message.exchange)],
            _ => Vec::new(),
        },
        async |chain: RemoteChain| {
            let exchange = chain.passages().open(&nowhere(), Kind::Request);
            let legs = exchange.legs().expect("there may be services");
            let Some(Leg::Service(service)) = legs.leg(0).get().await else { panic!("none") };
            let request = Request::get("/path").body(nothing()).unwrap();
            let served = service.serve(request, Rc::new(Echo));
            assert!(tokio::time::timeout(Duration::from_millis(50), served).await.is_err());
            while !chain.0.visits.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        },
    );
    assert_eq!(kill, None);
}
