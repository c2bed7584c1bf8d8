use std::time::Duration;

use proptest::prelude::*;

use super::prelude::*;
use crate::testing::{ConnectionHarness, Message, MessageHarness, PieceStep, Step};

/// Does what the path says.
struct Puppet;

#[derive(Default)]
struct Memory {
    seen: usize,
    token: Option<Token>,
    other: Option<Token>,
}

impl MessageFunction for Puppet {
    type Config = NoConfig;
    type State = Memory;

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_HEAD.and(Wants::REQUEST_BODY).and(Wants::RESPONSE_HEAD)
    }

    fn request_head(
        &mut self,
        exchange: &mut Exchange<'_, Memory>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let second = Duration::from_secs(1);
        match head.path() {
            b"/big" => {
                let body: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
                return exchange.answer(&Response::new(200).field("x-big", "yes").body(body));
            }
            b"/huge" => return exchange.answer(&Response::new(200).body(vec![1; 4 << 20])),
            b"/call" => {
                let request = Request::new("POST", "keys", "/keys").field("a", "b").body(&b"?"[..]);
                exchange.state.token = exchange.call(1, &request, second).ok();
                head.set("x-before", b"yes").unwrap();
                return Outcome::Wait;
            }
            b"/count" => {
                exchange.state.token = exchange.store_add(b"count", 2, second).ok();
                return Outcome::Wait;
            }
            b"/brief" => {
                let life = Duration::from_micros(400);
                exchange.state.token = exchange.store_add(b"brief", 2, life).ok();
                return Outcome::Wait;
            }
            b"/both" => {
                exchange.state.token = exchange.store_add(b"both", 1, second).ok();
                exchange.state.other = exchange.store_get(b"nothing").ok();
                return Outcome::Wait;
            }
            b"/sleep" => {
                exchange.state.token = exchange.sleep(second).ok();
                return Outcome::Wait;
            }
            b"/beside" => exchange.state.token = exchange.store_get(b"nothing").ok(),
            b"/done" => return Outcome::Done,
            b"/reset" => return Outcome::Reset,
            _ => {}
        }
        Outcome::Continue
    }

    fn request_body(
        &mut self,
        exchange: &mut Exchange<'_, Memory>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        exchange.state.seen += piece.len();
        if piece.bytes().starts_with(b"gone") {
            piece.leave_out();
        } else if piece.bytes().starts_with(b"grow") {
            piece.replace(&[b'x'; 1000]).unwrap();
        } else if piece.bytes().starts_with(b"hold") && !piece.is_last() {
            return Outcome::Hold;
        }
        piece.bytes_mut().make_ascii_uppercase();
        Outcome::Continue
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, Memory>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let seen = exchange.state.seen.to_string();
        head.set("x-seen", seen.as_bytes()).map_or(Outcome::Reset, |()| Outcome::Continue)
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Memory>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        if exchange.state.other == Some(resumed.token()) {
            host::counter("other").add(1);
            return Outcome::Continue;
        }
        if exchange.state.token != Some(resumed.token()) {
            host::counter("late").add(1);
            return Outcome::Continue;
        }
        let text = match (resumed.failure(), resumed.status(), resumed.number()) {
            (Some(failure), ..) => format!("{failure:?}"),
            (_, Some(status), _) => {
                let field = resumed.head().and_then(|head| head.field("f")).unwrap_or_default();
                format!("{status} {field:?} {:?}", resumed.body())
            }
            (.., Some(number)) => number.to_string(),
            _ => "there".into(),
        };
        match pending {
            Pending::RequestHead(head) => head.set("x-resumed", text.as_bytes()).unwrap(),
            Pending::None => host::counter("beside").add(1),
            _ => panic!("only heads wait"),
        }
        Outcome::Continue
    }
}

fn harness() -> MessageHarness<Puppet> {
    MessageHarness::new("{}").unwrap()
}

/// What the upstream got under this name.
fn resumed(harness: &mut MessageHarness<Puppet>, path: &str) -> String {
    let mut got = String::new();
    harness.exchange(&Message::get(path), |request| {
        got = request.get_field("x-resumed").unwrap_or_default().to_owned();
        Message::response(200)
    });
    got
}

#[test]
fn what_was_asked_for_comes_back_into_the_event_that_waits() {
    let mut harness = harness();
    assert_eq!(resumed(&mut harness, "/call"), "Unreachable");
    harness.on_call(|upstream, request| {
        assert_eq!(
            (upstream, request.method.as_str(), &request.path[..]),
            (1, "POST", &b"/keys"[..])
        );
        assert_eq!((request.get_field("a"), &request.body[..]), (Some("b"), &b"?"[..]));
        Ok(Message::response(201).field("f", "F").body("!"))
    });
    assert_eq!(resumed(&mut harness, "/call"), "201 [70] [33]");
    assert_eq!(resumed(&mut harness, "/count"), "2");
    assert_eq!(resumed(&mut harness, "/count"), "4");
    harness.advance(1_000_000_000);
    assert_eq!(resumed(&mut harness, "/count"), "2", "it has expired");
    assert_eq!(resumed(&mut harness, "/brief"), "2");
    harness.advance(1_000_000);
    assert_eq!(resumed(&mut harness, "/brief"), "2", "a short life is not an endless one");
    assert_eq!((resumed(&mut harness, "/both").as_str(), harness.counter("other")), ("1", 1));
    let before = harness.now();
    assert_eq!(resumed(&mut harness, "/sleep"), "there");
    assert_eq!(harness.now() - before, 1_000_000_000);
    assert_eq!(resumed(&mut harness, "/beside"), "");
    assert_eq!(harness.counter("beside"), 1);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn what_comes_after_the_end_is_never_anothers() {
    let mut harness = harness();
    harness.set_late(true);
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/beside"));
    harness.end(exchange, How::Delivered, None);
    harness.bring_late();
    assert_eq!((harness.counter("late"), harness.counter("beside")), (1, 0));
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/beside"));
    harness.bring_late();
    assert_eq!((harness.counter("late"), harness.counter("beside")), (1, 1));
    harness.end(exchange, How::Delivered, None);
    assert_eq!(harness.remembered(), 0);
}

/// Remembers nothing: asks for something beside with a head, and waits with each piece to refuse
/// it.
struct Scanner;

impl MessageFunction for Scanner {
    type Config = NoConfig;
    type State = ();

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_HEAD.and(Wants::REQUEST_BODY).and(Wants::ENDED)
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, ()>, _: &mut Head<'_>) -> Outcome {
        exchange.store_get(b"beside").expect("a token");
        Outcome::Continue
    }

    fn request_body(&mut self, exchange: &mut Exchange<'_, ()>, _: &mut Piece<'_>) -> Outcome {
        exchange.store_add(b"pieces", 1, Duration::ZERO).expect("a token");
        Outcome::Wait
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, ()>,
        _: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        match pending {
            Pending::RequestBody(_) => exchange.answer(&Response::new(403)),
            _ => Outcome::Continue,
        }
    }
}

#[test]
fn what_comes_beside_does_not_end_what_waits() {
    let mut harness = MessageHarness::<Scanner>::new("{}").unwrap();
    harness.set_late(true);
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/"));
    // What was asked for with the head comes first.
    let step = harness.request_body(exchange, b"a virus", true);
    let PieceStep::Answer(answer) = step else { panic!("{step:?}") };
    assert_eq!((answer.status, harness.remembered()), (403, 0));
}

#[test]
fn a_change_made_before_waiting_is_told_afterwards() {
    let mut harness = harness();
    let exchange = harness.open();
    let step = harness.request_head(exchange, &Message::get("/call"));
    let Step::Continue(head) = step else { panic!("{step:?}") };
    assert_eq!(head.get_field("x-before"), Some("yes"));
}

#[test]
fn answers_of_any_size_are_laid_out_in_rooms() {
    let mut harness = harness();
    let none = |_: &Message| panic!("the upstream is not asked");
    let big = harness.exchange(&Message::get("/big"), none);
    assert_eq!((big.status, big.get_field("x-big"), big.made()), (200, Some("yes"), true));
    assert!(
        big.body.iter().enumerate().all(|(n, byte)| *byte == n as u8) && big.body.len() == 50_000
    );
    let huge = harness.exchange(&Message::get("/huge"), none);
    assert_eq!((huge.status, huge.body.len()), (503, 0), "there are not so many rooms");
    assert_eq!(harness.exchange(&Message::get("/reset"), none).status, 0);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn pieces_are_changed_in_place_replaced_left_out_and_held() {
    let mut harness = harness();
    let exchange = harness.open();
    let mut give = |bytes: &[u8], last| harness.request_body(exchange, bytes, last);
    assert_eq!(give(b"abc", false), PieceStep::Pass(b"ABC".to_vec()));
    assert_eq!(give(b"gone", false), PieceStep::Pass(Vec::new()));
    assert_eq!(give(b"hold 1 ", false), PieceStep::Held);
    assert_eq!(give(b"hold 2 ", false), PieceStep::Held);
    assert_eq!(give(b"go", false), PieceStep::Pass(b"hold 1 hold 2 GO".to_vec()));
    assert_eq!(give(b"grow", true), PieceStep::Pass(vec![b'X'; 1000]));
    let step = harness.response_head(exchange, &Message::response(200));
    let Step::Continue(head) = step else { panic!("{step:?}") };
    assert_eq!(head.get_field("x-seen"), Some("27"));
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 1));
}

#[test]
fn a_function_that_is_done_is_called_no_more() {
    let mut harness = harness();
    let response = harness.exchange(&Message::get("/done"), |_| Message::response(204));
    assert_eq!(response.get_field("x-seen"), None);
    assert_eq!(harness.remembered(), 0);
    // Nothing is remembered already before the end.
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/done"));
    assert_eq!(harness.remembered(), 0);
    harness.end(exchange, How::Delivered, None);
}

#[test]
fn an_exchange_that_ends_while_it_waits_leaves_nothing() {
    let mut harness = harness();
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/"));
    harness.end(exchange, How::ClientGone, None);
    assert_eq!(harness.remembered(), 0);
}

/// Lets only one kind of beginning through.
struct Banner;

impl ConnectionFunction for Banner {
    type Config = NoConfig;
    type State = ();

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn wants(&self) -> Wants {
        Wants::OPENED.and(Wants::DATA)
    }

    fn opened(&mut self, exchange: &mut Exchange<'_, ()>, head: &mut Head<'_>) -> Outcome {
        if head.server_name() == b"b.example" {
            exchange.route(1).unwrap();
        }
        Outcome::Continue
    }

    fn data(
        &mut self,
        _: &mut Exchange<'_, ()>,
        from_upstream: bool,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        if from_upstream || piece.bytes().starts_with(b"SSH-") {
            Outcome::Done
        } else {
            Outcome::Reset
        }
    }
}

#[test]
fn connections_are_routed_and_their_bytes_judged() {
    let mut harness = ConnectionHarness::<Banner>::new("{}").unwrap();
    let one = harness.open();
    assert!(matches!(
        harness.opened(one, &Message::connection().tls("b.example")),
        Step::Continue(_)
    ));
    assert_eq!(harness.upstream(one), Some(1));
    assert_eq!(harness.data(one, false, b"SSH-2.0", false), PieceStep::Pass(b"SSH-2.0".to_vec()));
    let two = harness.open();
    assert_eq!(harness.data(two, false, b"GET / HTTP/1.1", false), PieceStep::Reset);
}

proptest! {
    #[test]
    fn edits_of_a_head_are_what_a_list_of_fields_would_become(
        fields in prop::collection::vec(("[a-c]", "[x-z]{0,3}"), 0..8),
        edits in prop::collection::vec((0..3, "[a-d]", "[x-z]{0,40}"), 0..30),
    ) {
        let request = Message { fields: fields.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())).collect(), ..Message::get("/") };
        let mut room = vec![0u8; 2048];
        request.lay_out(&mut room);
        let mut model = request.fields.clone();
        let mut view = weir_layout::message::Head::new(&mut room[..]).unwrap();
        for (kind, name, value) in &edits {
            let value = value.as_bytes();
            match kind {
                0 => if view.add(name.as_bytes(), value).is_ok() {
                    model.push((name.clone(), value.to_vec()));
                },
                1 => { view.remove(name); model.retain(|(n, _)| n != name); }
                _ => if view.set(name, value).is_ok() {
                    match model.iter().position(|(n, _)| n == name) {
                        Some(at) => {
                            model[at].1 = value.to_vec();
                            let mut index = 0;
                            model.retain(|(n, _)| { index += 1; n != name || index - 1 == at });
                        }
                        None => model.push((name.clone(), value.to_vec())),
                    }
                },
            }
            let now: Vec<_> = view.fields().map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), v.to_vec())).collect();
            prop_assert_eq!(&now, &model);
        }
    }
}
