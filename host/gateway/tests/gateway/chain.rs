//! A chain around requests and responses: heads, pieces of bodies, answers, waiting, calls; with a
//! middleware written in Rust.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::http2::{grpc, http2_server_allowing};
use crate::support::{self, Server, connect, gateway_with, read_all, talk};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use weir_exchange::{
    BodyStep, Chain, ChainFactory, Direction, Ended, Environment, HeadTooLarge, Interests, Kind,
    Lent, MadeByGateway, Middleware, Origin, Passage, Pieces, Reply, SentBy, Stage, Step,
    Upstreams,
};
use weir_gateway::{Failure, ListenerConfig, UpstreamConfig};

/// What the tests' middleware does, by the request's path.
struct Busy {
    environment: Rc<dyn Environment>,
    upstreams: Arc<dyn Upstreams>,
    ended: mpsc::Sender<(Ended, Option<usize>)>,
    opened: Arc<AtomicUsize>,
}

struct Ways {
    ended: Mutex<mpsc::Sender<(Ended, Option<usize>)>>,
    opened: Arc<AtomicUsize>,
}

impl ChainFactory for Ways {
    fn stage(&self, _thread: usize, upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let (ended, opened) = (self.ended.lock().unwrap().clone(), Arc::clone(&self.opened));
        Ok(Box::new(move |lent: Lent| {
            let environment = lent.environment;
            Ok(Chain::native(Rc::new(Busy { environment, upstreams, ended, opened })))
        }))
    }
}

impl Middleware for Busy {
    fn interests(&self) -> Interests {
        Interests {
            request_head: true,
            request_body: true,
            response_head: true,
            response_body: true,
            ..Interests::default()
        }
    }

    fn piece_max(&self) -> usize {
        1000
    }

    fn open(&self, origin: &Origin, _kind: Kind) -> Rc<dyn Passage> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        assert!(origin.client.ip().is_loopback() && !origin.tls);
        Rc::new(One {
            environment: Rc::clone(&self.environment),
            upstreams: Arc::clone(&self.upstreams),
            ended: self.ended.clone(),
            path: std::cell::RefCell::default(),
            held: std::cell::RefCell::default(),
            seen: Default::default(),
        })
    }
}

struct One {
    environment: Rc<dyn Environment>,
    upstreams: Arc<dyn Upstreams>,
    ended: mpsc::Sender<(Ended, Option<usize>)>,
    path: std::cell::RefCell<String>,
    held: std::cell::RefCell<Vec<Bytes>>,
    /// Pieces of either direction.
    seen: [std::cell::Cell<u32>; 2],
}

fn answer(status: u16, body: &'static str) -> Response<Pieces> {
    let body = Pieces::from_iter([Bytes::from_static(body.as_bytes())]);
    Response::builder().status(status).header("x-from", "function").body(body).unwrap()
}

impl One {
    fn on(&self, path: &str) -> bool {
        *self.path.borrow() == path
    }
}

impl Passage for One {
    fn request_head<'a>(
        &'a self,
        parts: &'a mut http::request::Parts,
        body: Option<u64>,
    ) -> Reply<'a, Step> {
        self.path.replace(parts.uri.path().to_owned());
        parts.headers.insert("x-length", format!("{body:?}").parse().unwrap());
        assert!(parts.headers.contains_key("host") && !parts.headers.contains_key("connection"));
        Reply::later(async move {
            let path = self.path.borrow().clone();
            match path.as_str() {
                "/forbidden" => return Step::Answer(answer(403, "no")),
                "/reset" => return Step::Reset,
                "/large" => return Step::Answer(HeadTooLarge::answer(Direction::Request)),
                "/wait" => self.environment.sleep(Duration::from_millis(30)).await,
                "/call" => {
                    let request = Request::get("/asked").body(Pieces::new()).unwrap();
                    let answered =
                        self.environment.call(1, request, Duration::from_secs(9), 9).await;
                    let answered = answered.unwrap();
                    assert_eq!(answered.status(), StatusCode::ACCEPTED);
                    parts.headers.insert("x-called", answered.body().as_ref().try_into().unwrap());
                }
                _ => (),
            }
            assert!(self.upstreams.healthy(0) && self.upstreams.count() == 2);
            Step::Continue
        })
    }

    fn request_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        assert!(piece.len() <= 1000);
        let seen = &self.seen[Direction::Request as usize];
        seen.set(seen.get() + 1);
        Reply::later(async move {
            if self.on("/hold") {
                self.held.borrow_mut().push(piece);
                return match last {
                    true => BodyStep::Pass(self.held.take().into()),
                    false => BodyStep::Pass(Pieces::new()),
                };
            }
            if self.on("/inspect") && piece.windows(4).any(|w| w == b"evil") {
                return BodyStep::Answer(answer(403, "evil"));
            }
            if self.on("/ask-each") {
                let request = Request::get("/asked").body(Pieces::new()).unwrap();
                let answered = self.environment.call(0, request, Duration::from_secs(9), 9).await;
                assert_eq!(answered.unwrap().status(), StatusCode::OK);
            }
            if self.on("/upper") {
                self.environment.sleep(Duration::from_millis(1)).await;
                return BodyStep::Pass(Pieces::from_iter([piece.to_ascii_uppercase().into()]));
            }
            BodyStep::Pass(Pieces::from_iter([piece]))
        })
    }

    fn response_head<'a>(
        &'a self,
        parts: &'a mut http::response::Parts,
        _body: Option<u64>,
    ) -> Reply<'a, Step> {
        parts.headers.insert("x-seen", "yes".parse().unwrap());
        if let Some(SentBy(upstream)) = parts.extensions.get() {
            parts.headers.insert("x-sent-by", upstream.to_string().parse().unwrap());
        }
        if parts.extensions.get::<MadeByGateway>().is_some() {
            parts.headers.insert("x-made", "yes".parse().unwrap());
        }
        if self.on("/no-upgrade") {
            parts.status = StatusCode::FORBIDDEN;
        }
        if self.on("/large-answer") {
            return Reply::Now(Step::Answer(HeadTooLarge::answer(Direction::Response)));
        }
        if self.on("/late") {
            return Reply::later(async {
                self.environment.sleep(Duration::from_millis(100)).await;
                Step::Continue
            });
        }
        let stale = self.on("/stale") && parts.status.is_server_error();
        let replaced = self.on("/replace") || stale;
        Reply::Now(match replaced {
            true => Step::Answer(answer(200, "something else")),
            false => Step::Continue,
        })
    }

    fn response_body(self: Rc<Self>, piece: Bytes, last: bool) -> Reply<'static, BodyStep> {
        let seen = &self.seen[Direction::Response as usize];
        seen.set(seen.get() + 1);
        Reply::later(async move {
            if self.on("/leak") {
                return BodyStep::Answer(answer(502, "kept back"));
            }
            if self.on("/double") {
                let mut pieces = Pieces::from_iter([piece.clone(), piece]);
                if last {
                    pieces.push(Bytes::from_static(b"end"));
                }
                return BodyStep::Pass(pieces);
            }
            BodyStep::Pass(Pieces::from_iter([piece]))
        })
    }

    fn upstream(&self) -> Option<usize> {
        self.on("/second").then_some(1)
    }

    fn done(&self, from: Direction) -> bool {
        (self.on("/done") && from == Direction::Response)
            || (self.on("/peek") && self.seen[from as usize].get() == 1)
    }

    fn end(&self, how: Ended, upstream: Option<usize>, _time: Duration) {
        let _ = self.ended.send((how, upstream));
    }
}

struct Laboratory {
    gateway: weir_gateway::Gateway,
    address: std::net::SocketAddr,
    first: Server,
    ended: mpsc::Receiver<(Ended, Option<usize>)>,
    opened: Arc<AtomicUsize>,
}

fn laboratory() -> Laboratory {
    laboratory_with(|_| ())
}

/// One whose listener was changed so.
fn laboratory_with(change: impl FnOnce(&mut ListenerConfig)) -> Laboratory {
    let (first, second) =
        (Server::echo(), Server::says("HTTP/1.1 202 Second\r\nContent-Length: 6\r\n\r\nsecond"));
    let (sender, ended) = mpsc::channel();
    let opened = Arc::new(AtomicUsize::new(0));
    let ways = Ways { ended: Mutex::new(sender), opened: Arc::clone(&opened) };
    let (gateway, address) = gateway_with(&[first.address, second.address], |config| {
        config.upstreams[1].weight = 0;
        config.chain = Some(Arc::new(ways));
        change(config);
    });
    Laboratory { gateway, address, first, ended, opened }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Laboratory {
    fn talk(&self, request: &str) -> String {
        talk(self.address, request)
    }

    fn curl(&self, path: &str, body: Option<&str>) -> String {
        let url = format!("http://{}{path}", self.address);
        let data = body.map(|body| ["--data-binary", body]);
        let arguments: Vec<&str> = data.into_iter().flatten().chain([url.as_str()]).collect();
        support::curl_text(&arguments)
    }

    fn ended(&self) -> (Ended, Option<usize>) {
        self.ended.recv_timeout(support::LONG).unwrap()
    }
}

#[test]
fn heads_are_changed_in_both_directions() {
    let laboratory = laboratory();
    let answer = laboratory.talk(&get("/"));
    assert!(
        answer.contains("x-seen: yes\r\n") && answer.contains("x-length: Some(0)\r\n"),
        "{answer}"
    );
    assert_eq!(laboratory.ended(), (Ended::Delivered, Some(0)));
    assert_eq!(laboratory.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn a_function_answers_and_no_upstream_is_asked() {
    let laboratory = laboratory();
    let answer = laboratory.talk(&get("/forbidden"));
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(
        answer.contains("x-from: function\r\n") && answer.contains("content-length: 2\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    assert_eq!(laboratory.ended(), (Ended::Answered, None));
    assert_eq!(laboratory.first.connections(), 0);
}

#[test]
fn a_request_follows_one_that_a_function_answered_before_its_body_was_there() {
    let laboratory = laboratory();
    let [first, second] = support::answered_early(laboratory.address, "/forbidden");
    assert!(first.starts_with("HTTP/1.1 403 ") && !first.contains("close"), "{first}");
    assert!(second.starts_with("HTTP/1.1 403 ") && second.ends_with("no"), "{second}");
    // curl 7.88 takes it for a failure that its stream is reset, and does not look at the response.
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in [("some", 200_000), ("more", 2_000_000)] {
        let file = directory.path().join(name);
        std::fs::write(&file, vec![b'x'; bytes]).unwrap();
        let url = format!("http://{}/forbidden", laboratory.address);
        for _ in 0..5 {
            let file = file.display().to_string();
            let arguments = ["--http2-prior-knowledge", "-i", "-T", &file, &url];
            assert!(support::curl_text(&arguments).starts_with("HTTP/2 403"), "{name}");
        }
    }
}

#[test]
fn a_head_that_is_too_large_for_functions_is_counted() {
    let laboratory = laboratory();
    assert!(laboratory.talk(&get("/large")).starts_with("HTTP/1.1 431"));
    assert!(laboratory.talk(&get("/large-answer")).starts_with("HTTP/1.1 502"));
    let statistics = &laboratory.gateway.statistics().listeners[0];
    let counted = [Failure::Refused, Failure::NotHttp].map(|failure| statistics.failed(failure));
    assert_eq!((counted, statistics.upstreams[0].failed(Failure::NotHttp)), ([1, 1], 1));
}

#[test]
fn a_function_resets_and_the_client_gets_nothing() {
    let laboratory = laboratory();
    assert!(laboratory.talk(&get("/reset")).starts_with("RESET"));
    assert_eq!(laboratory.ended(), (Ended::Reset, None));
}

#[test]
fn a_function_waits_calls_and_routes() {
    let laboratory = laboratory();
    assert!(laboratory.talk(&get("/wait")).starts_with("HTTP/1.1 200"));
    assert_eq!(laboratory.ended(), (Ended::Delivered, Some(0)));
    assert!(laboratory.talk(&get("/call")).contains("x-called: second\r\n"));
    assert_eq!(laboratory.ended(), (Ended::Delivered, Some(0)));
    let second = laboratory.talk(&get("/second"));
    assert!(second.contains("x-sent-by: 1\r\n") && second.ends_with("second"), "{second}");
    assert_eq!(laboratory.ended(), (Ended::Delivered, Some(1)));
}

/// Where a request takes the last stream, pieces behind its first one are seen while the connection
/// is driven.
#[test]
fn a_function_asks_the_upstream_that_the_body_is_on_its_way_to() {
    let upstream = http2_server_allowing(1, grpc);
    let laboratory = laboratory_with(|config| {
        config.upstreams[0] = UpstreamConfig::new(upstream);
        config.upstreams[0].http2 = true;
    });
    let body = "0123456789".repeat(350);
    for _ in 0..2 {
        let answer = laboratory.curl("/ask-each", Some(&body));
        assert!(answer.ends_with(&body), "{answer}");
    }
    assert_eq!(laboratory.gateway.statistics().listeners[0].upstreams[0].connected, 2);
}

#[test]
fn an_upstreams_connection_that_ends_while_a_function_has_its_response_is_not_used_again() {
    let (tell, closed) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = Server::start(move |mut stream, _| {
        support::read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        // The gateway has the response by then, but not the function's word.
        std::thread::sleep(Duration::from_millis(30));
        drop(stream);
        tell.lock().unwrap().send(()).unwrap();
    });
    let laboratory =
        laboratory_with(|config| config.upstreams[0] = UpstreamConfig::new(server.address));
    assert!(laboratory.talk(&get("/late")).ends_with("ok"));
    closed.recv_timeout(support::LONG).unwrap();
    let answer = laboratory.talk(&post("/", "hi"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_body_that_is_held_reaches_the_upstream_whole_and_with_its_length() {
    let laboratory = laboratory();
    let body = "0123456789".repeat(700);
    let answer = laboratory.curl("/hold", Some(&body));
    assert!(answer.ends_with(&body), "{answer}");
    assert!(
        answer.contains("x-length: Some(7000)\r\n") && answer.contains("content-length: 7000"),
        "{answer}"
    );
}

#[test]
fn a_body_that_is_refused_was_not_seen_by_the_upstream() {
    let laboratory = laboratory();
    assert!(laboratory.talk(&post("/inspect", "good")).ends_with("good"));
    let connections = laboratory.first.connections();
    let answer = laboratory.talk(&post("/inspect", "evil"));
    assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("evil"), "{answer}");
    assert_eq!(laboratory.first.connections(), connections);
    // Later in the body the upstream has begun to read, and is cut off: it never has the whole.
    let long = format!("{}evil", "x".repeat(100_000));
    let answer = laboratory.talk(&post("/inspect", &long));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[test]
fn pieces_are_rewritten_in_both_directions_and_lengths_follow() {
    let laboratory = laboratory();
    // The upstream answers with what it saw, chunks and all.
    let answer = laboratory.curl("/upper", Some(&"abc".repeat(10_000)));
    assert!(answer.contains(&"ABC".repeat(300)) && !answer.contains("abcabc"), "{answer}");
    let answer = laboratory.talk(&get("/double"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length: usize = head
        .split("content-length: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(length, body.len());
    assert_eq!(body.matches("GET /double").count(), 2);
    assert!(body.ends_with("end"), "{body}");
}

#[test]
fn a_response_is_replaced_by_its_head_or_by_its_first_piece() {
    let laboratory = laboratory();
    let answer = laboratory.talk(&get("/replace"));
    assert!(answer.ends_with("something else") && answer.contains("x-from"), "{answer}");
    let answer = laboratory.talk(&get("/leak"));
    assert!(answer.starts_with("HTTP/1.1 502") && answer.ends_with("kept back"), "{answer}");
}

#[test]
fn a_change_of_protocol_that_a_function_makes_another_response_of_is_none() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        let changes = "HTTP/1.1 101 Changes\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello";
        let _ = stream.write_all(changes.as_bytes());
        let _ = support::read_head(&mut stream);
    });
    let upstream = UpstreamConfig::new(server.address);
    let laboratory = laboratory_with(|config| config.upstreams[0] = upstream);
    let ask = "GET /no-upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let answer = laboratory.talk(&format!("{ask}{}", get("/forbidden")));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("hello") && !answer.contains("upgrade"), "{answer}");
    // It is HTTP that is spoken on.
    assert!(answer.ends_with("\r\n\r\nno") && answer.contains("x-from: function"), "{answer}");
}

#[test]
fn a_request_stays_with_the_upstream_that_was_chosen_for_it() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second = |weight, address| UpstreamConfig { weight, ..UpstreamConfig::new(address) };
    // One that is not balanced has no equals.
    let laboratory = laboratory_with(|config| config.upstreams[1] = second(0, nobody));
    assert!(laboratory.talk(&get("/second")).starts_with("HTTP/1.1 502"));
    assert_eq!(laboratory.first.connections(), 0);
    let laboratory = laboratory_with(|config| config.upstreams[1] = second(1, nobody));
    assert!(laboratory.talk(&get("/second")).starts_with("HTTP/1.1 200"));
    // That an idle connection has ended says nothing about the upstream.
    let ends = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nchosen";
        if stream.write_all(answer).is_ok() {
            let _ = support::read_request(&mut stream);
        }
    });
    let laboratory = laboratory_with(|config| config.upstreams[1] = second(1, ends.address));
    for _ in 0..5 {
        let answer = laboratory.talk(&get("/second"));
        assert!(answer.ends_with("chosen"), "{answer}");
    }
    assert!(laboratory.gateway.statistics().listeners[0].retries > 0);
}

#[test]
fn what_the_client_is_told_of_an_upstream_that_is_down_passes_the_chain() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let laboratory = laboratory_with(|config| config.upstreams[0] = UpstreamConfig::new(nobody));
    let answer = laboratory.talk(&get("/double"));
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("x-seen: yes\r\n") && answer.contains("x-made: yes\r\n"), "{answer}");
    // Once in the status line, and its body twice.
    assert!(answer.matches("Bad Gateway").count() == 3 && answer.contains("end"), "{answer}");
    assert_eq!(laboratory.ended(), (Ended::UpstreamFailed, Some(0)));
    // A function may have something better.
    let answer = laboratory.talk(&get("/stale"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("something else"), "{answer}");
    assert_eq!(laboratory.ended(), (Ended::UpstreamFailed, Some(0)));
    let answer = laboratory.talk(&get("/leak"));
    assert!(answer.starts_with("HTTP/1.1 502") && answer.ends_with("kept back"), "{answer}");
    assert_eq!(laboratory.ended(), (Ended::UpstreamFailed, Some(0)));
}

#[test]
fn what_a_client_does_to_its_body_after_the_response_began_is_not_the_upstreams_fault() {
    let begins = || {
        Server::start(|mut stream, _| {
            let _ = support::read_head(&mut stream);
            let _ = stream
                .write_all(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhy?\r\n");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
    };
    let http2 = crate::http2::http2_server(crate::http2::grpc);
    for (path, upstream, rest, failure) in [
        ("/done", UpstreamConfig::new(begins().address), "zz\r\n", Failure::ClientGone),
        ("/", UpstreamConfig::new(begins().address), "zz\r\n", Failure::ClientGone),
        ("/", UpstreamConfig::new(begins().address), "", Failure::ClientSlow),
        (
            "/",
            UpstreamConfig { http2: true, ..UpstreamConfig::new(http2) },
            "zz\r\n",
            Failure::ClientGone,
        ),
    ] {
        let laboratory = laboratory_with(|config| {
            config.upstreams[0] = upstream;
            if rest.is_empty() {
                config.timeouts.body = Duration::from_secs(1);
                config.timeouts.response = Duration::from_secs(1);
            }
        });
        let mut stream = connect(laboratory.address);
        let begin = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        );
        stream.write_all(begin.as_bytes()).unwrap();
        support::read_head(&mut stream).unwrap();
        stream.write_all(rest.as_bytes()).unwrap();
        assert_eq!(laboratory.ended(), (Ended::ClientGone, Some(0)), "{path} {failure:?}");
        let statistics = &laboratory.gateway.statistics().listeners[0];
        let counted = (statistics.failed(failure), statistics.failures.iter().sum::<u64>());
        assert_eq!(counted, (1, 1), "{path} {failure:?}");
        assert!(statistics.upstreams[0].failures.iter().all(|n| *n == 0));
    }
}

#[test]
fn a_function_answers_to_head_and_to_an_upstream_of_http2() {
    let upstream = crate::http2::http2_server(crate::http2::patient);
    let upstream = UpstreamConfig { http2: true, ..UpstreamConfig::new(upstream) };
    let laboratory = laboratory_with(|config| config.upstreams[0] = upstream);
    let url = format!("http://{}/forbidden", laboratory.address);
    let answer = support::curl_text(&["--http2-prior-knowledge", "-I", &url]);
    assert!(answer.starts_with("HTTP/2 403"), "{answer}");
    assert!(answer.contains("content-length: 2\r\n"), "{answer}");
    // The upstream has begun to read, and waits for the rest.
    let answer = laboratory.talk(&post("/inspect", &format!("{}evil", "x".repeat(100_000))));
    assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("evil"), "{answer}");
}

#[test]
fn a_direction_nobody_cares_for_keeps_its_length() {
    let laboratory = laboratory();
    let answer = laboratory.talk(&get("/done"));
    assert!(answer.contains("content-length: "), "{answer}");
}

#[test]
fn a_body_of_which_enough_was_seen_keeps_its_length() {
    let laboratory = laboratory();
    for path in ["/peek", "/upper"] {
        let answer = laboratory.talk(&post(path, &"x".repeat(5000)));
        // The upstream answers with the request as it came there.
        let (response, request) = answer.split_once("\r\n\r\n").unwrap();
        let kept = path == "/peek";
        assert_eq!(request.contains("content-length: 5000\r\n"), kept, "{answer}");
        assert_eq!(response.contains("content-length: "), kept, "{answer}");
        assert_eq!(response.contains("transfer-encoding: chunked"), !kept, "{answer}");
    }
}

#[test]
fn a_client_that_goes_is_told_to_the_chain() {
    let laboratory = laboratory();
    let mut stream = connect(laboratory.address);
    stream.write_all(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").unwrap();
    support::until("it is under way", || laboratory.opened.load(Ordering::SeqCst) == 1);
    drop(stream);
    let (how, upstream) = laboratory.ended();
    assert!(how == Ended::ClientGone && upstream.is_none(), "{how:?}");
}

#[test]
fn another_chain_takes_over_from_one_request_to_the_next() {
    let laboratory = laboratory();
    let mut stream = connect(laboratory.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = String::from_utf8(support::read_head(&mut stream).unwrap()).unwrap();
    assert!(head.contains("x-seen"));
    let config = support::listener(&[laboratory.first.address], |_| ());
    laboratory.gateway.set(config).unwrap();
    stream.write_all(get("/").as_bytes()).unwrap();
    let rest = read_all(&mut stream);
    assert!(rest.contains("HTTP/1.1 200") && !rest.contains("x-seen"), "{rest}");
}
