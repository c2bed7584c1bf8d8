//! Chains of message functions, driven by the test in place of a gateway.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weir_exchange::{
    BodyStep, CallResult, Direction, Ended, Environment, Kind, Origin, Pieces, Step, Upstreams,
};
use weir_message::{
    Chain, ChainPlan, Exchange, Findings, FunctionCounters, FunctionPlan, MessageError, Notice,
    Remote, Site, SiteConfig, States, Store,
};
use weir_sandbox::{OnFault, Sandbox, SandboxConfig, Telemetry, admit};
use weir_tests::built::built;
use weir_tests::wat_guest::{changes_and_waits, for_connections, saving_messages};

struct Two;

impl Upstreams for Two {
    fn count(&self) -> usize {
        2
    }
    fn healthy(&self, _: usize) -> bool {
        true
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
}

/// Answers calls itself, and keeps what was asked.
#[derive(Default)]
struct World {
    calls: RefCell<Vec<String>>,
}

impl Environment for World {
    fn call(
        &self,
        upstream: usize,
        request: Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> futures_util::future::LocalBoxFuture<'static, CallResult> {
        let body = request.body().concat();
        self.calls.borrow_mut().push(format!(
            "{upstream} {} {} {:?} {} {timeout:?} {body_max}",
            request.method(),
            request.uri(),
            request.headers().get("host"),
            String::from_utf8_lossy(&body),
        ));
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(Response::builder().status(201).body(Bytes::from_static(b"created")).unwrap())
        })
    }

    fn sleep(&self, time: Duration) -> futures_util::future::LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: futures_util::future::LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }
}

struct Rig {
    chain: Chain,
    site: Site,
    world: Rc<World>,
    notices: Rc<RefCell<Vec<Notice>>>,
    /// Without it, nobody could give the chain an order: another would be in its place.
    _remote: Remote,
}

fn function(name: &str, mine: &str) -> FunctionPlan {
    FunctionPlan {
        proxy: None,
        name: name.into(),
        version: "1".into(),
        admitted: built("message-probe"),
        code: None,
        blank: None,
        writes: true,
        memory: 16 << 20,
        deadline: Duration::from_millis(50),
        on_fault: OnFault::FailClosed,
        state_bytes: 0,
        state_layout: String::new(),
        config: serde_json::json!({ "name": name, "mine": mine }).to_string(),
        telemetry: Arc::new(Telemetry::default()),
        counters: Arc::new(FunctionCounters::default()),
    }
}

fn site(sandbox: &Arc<Sandbox>) -> Site {
    site_of(sandbox, 64)
}

fn site_of(sandbox: &Arc<Sandbox>, rooms: u32) -> Site {
    let config = SiteConfig {
        rooms,
        room_bytes: 16 << 10,
        hold: 100_000,
        names: vec!["one".into(), "two".into()],
        seed: 1,
    };
    let store = Arc::new(Store::new(1 << 20));
    Site::new(Arc::clone(sandbox), "test", config, Arc::new(Two), store).unwrap()
}

impl Rig {
    /// A chain of probes with these names, each of which does what paths below `/NAME` say.
    fn new(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    fn with(names: &[&str], change: impl Fn(&mut FunctionPlan)) -> Self {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
        let site = site(&sandbox);
        let functions = names.iter().map(|name| {
            let mut plan = function(name, &format!("/{name}"));
            change(&mut plan);
            plan
        });
        let plan = ChainPlan { name: "test".into(), functions: functions.collect() };
        let staged = site.stage(plan, &States::default()).unwrap();
        let world = Rc::new(World::default());
        let notices = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&notices);
        let sink = Box::new(move |notice| sink.borrow_mut().push(notice));
        let environment: Rc<dyn Environment> = Rc::clone(&world) as _;
        let (remote, orders) = weir_message::orders();
        let chain = Chain::new(staged, environment, orders, Arc::default(), sink);
        Self { chain, site, world, notices, _remote: remote }
    }

    fn open(&self) -> Exchange {
        self.chain.open(&origin(1), Kind::Request)
    }

    /// All rooms are back.
    fn check(&self) {
        let accounting = self.site.accounting();
        assert_eq!((accounting.free, accounting.out), (64, 0));
    }
}

fn origin(client: u8) -> Origin {
    Origin {
        client: SocketAddr::from(([192, 0, 2, client], 1000)),
        local: SocketAddr::from(([192, 0, 2, 254], 80)),
        tls: false,
        server_name: None,
        upgrade: false,
    }
}

fn request(path: &str) -> http::request::Parts {
    let request = Request::builder().uri(path).header("host", "example.org").header("a", "b");
    request.body(()).unwrap().into_parts().0
}

fn response() -> http::response::Parts {
    Response::builder().header("server", "test").body(()).unwrap().into_parts().0
}

fn seen(headers: &http::HeaderMap) -> Vec<&str> {
    headers.get_all("x-seen-by").iter().map(|value| value.to_str().unwrap()).collect()
}

/// Runs a test on the runtime a gateway's thread has.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let test = async { tokio::time::timeout(Duration::from_secs(20), test()).await.unwrap() };
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn answer(step: Step) -> Response<Pieces> {
    match step {
        Step::Answer(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_pass_the_functions_in_order_and_responses_in_reverse() {
    run(|| async {
        let rig = Rig::new(&["one", "two", "three"]);
        let exchange = rig.open();
        let mut parts = request("/path?query=1");
        assert!(matches!(exchange.request_head(&mut parts, None).await, Step::Continue));
        assert_eq!(seen(&parts.headers), ["one", "two", "three"]);
        assert_eq!(
            (parts.uri.to_string().as_str(), &parts.headers["a"]),
            ("/path?query=1", &"b".parse().unwrap())
        );
        assert_eq!(parts.headers["host"], "example.org");
        let mut parts = response();
        assert!(matches!(exchange.response_head(&mut parts, None).await, Step::Continue));
        assert_eq!(seen(&parts.headers), ["three", "two", "one"]);
        exchange.end(Ended::Delivered, Some(0), Duration::from_millis(1));
        drop(exchange);
        rig.check();
    });
}

#[test]
fn an_answer_passes_only_the_functions_before() {
    run(|| async {
        let rig = Rig::new(&["one", "two", "three"]);
        let exchange = rig.open();
        let answer = answer(exchange.request_head(&mut request("/two/answer"), None).await);
        assert_eq!(answer.status(), 418);
        assert_eq!(answer.headers()["x-made-by"], "two");
        assert_eq!(seen(answer.headers()), ["one"]);
        assert_eq!(answer.body().concat(), vec![b'x'; 40_000]);
        drop((answer, exchange));
        rig.check();
    });
}

#[test]
fn why_an_answer_is_refused_is_in_the_functions_log() {
    run(|| async {
        let telemetry = Arc::new(Telemetry::default());
        let rig = Rig::with(&["one"], |plan| plan.telemetry = Arc::clone(&telemetry));
        let exchange = rig.open();
        let step = exchange.request_head(&mut request("/one/refused"), None).await;
        assert!(matches!(step, Step::Reset), "{step:?}");
        let lines = telemetry.lines().0;
        let lines: Vec<_> = lines.iter().map(|line| line.message.as_str()).collect();
        let [line] = lines[..] else { panic!("{lines:?}") };
        assert!(line.starts_with("an answer of it is refused: ") && line.contains("42"), "{line}");
        drop(exchange);
        rig.check();
    });
}

#[test]
fn a_response_can_be_answered_with_another() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let exchange = rig.open();
        let mut parts = request("/two/hide");
        assert!(matches!(exchange.request_head(&mut parts, None).await, Step::Continue));
        let answer = answer(exchange.response_head(&mut response(), None).await);
        assert_eq!((answer.status(), seen(answer.headers())), (StatusCode::NOT_FOUND, vec!["one"]));
    });
}

#[test]
fn functions_choose_upstreams_reset_and_say_that_they_are_done() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let exchange = rig.open();
        exchange.request_head(&mut request("/two/route"), None).await;
        assert_eq!(exchange.upstream(), Some(1));
        let exchange = rig.open();
        assert!(matches!(
            exchange.request_head(&mut request("/one/reset"), None).await,
            Step::Reset
        ));
        let exchange = rig.open();
        let mut parts = request("/one/done");
        assert!(matches!(exchange.request_head(&mut parts, None).await, Step::Continue));
        assert_eq!(seen(&parts.headers), ["two"]);
        let mut parts = response();
        exchange.response_head(&mut parts, None).await;
        assert_eq!(seen(&parts.headers), ["two"]);
    });
}

#[test]
fn waiting_for_time_the_store_and_other_servers_holds_up_nobody_else() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let ask = async |path: &str| {
            let mut parts = request(path);
            let step = rig.open().request_head(&mut parts, None).await;
            assert!(matches!(step, Step::Continue), "{path}: {step:?}");
            parts.headers["x-resumed"].to_str().unwrap().to_owned()
        };
        let (slept, one, two, called) =
            tokio::join!(ask("/one/sleep"), ask("/one/store"), ask("/one/store"), ask("/one/call"));
        assert_eq!(slept, "[]");
        assert_eq!([one, two], ["[1, 0, 0, 0, 0, 0, 0, 0]", "[2, 0, 0, 0, 0, 0, 0, 0]"]);
        assert_eq!(called, "201 created");
        let calls = rig.world.calls.borrow();
        assert_eq!(*calls, ["0 GET /called?1 Some(\"auth.example\") a body 1s 16384"]);
        rig.check();
    });
}

#[test]
fn who_waits_for_nothing_is_at_fault() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let answer = answer(rig.open().request_head(&mut request("/one/wait"), None).await);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let notices = rig.notices.borrow();
        assert!(matches!(&notices[..], [Notice::Fault { function, .. }] if function == "one"));
    });
}

/// Sends a body through, in pieces: what comes out.
async fn send(exchange: &Exchange, pieces: &[&[u8]]) -> Result<Vec<u8>, Response<Pieces>> {
    let mut passed = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let last = n + 1 == pieces.len();
        match exchange.request_body(Bytes::copy_from_slice(piece), last).await {
            BodyStep::Pass(pieces) => {
                pieces.iter().for_each(|piece| passed.extend_from_slice(piece));
            }
            BodyStep::Answer(response) => return Err(response),
            BodyStep::Reset => panic!("reset"),
        }
    }
    Ok(passed)
}

#[test]
fn what_was_changed_before_waiting_goes_on_changed() {
    run(|| async {
        let guest = Arc::new(admit(&changes_and_waits()).unwrap());
        let rig = Rig::with(&["one"], |plan| plan.admitted = Arc::clone(&guest));
        let exchange = rig.open();
        let mut parts = request("/path");
        let step = exchange.request_head(&mut parts, None).await;
        assert!(matches!(step, Step::Continue), "{step:?}");
        assert_eq!(parts.uri.path(), "/wath");
        let sent = send(&exchange, &[b"half of it", b"x is left out", b"12"]).await.unwrap();
        assert_eq!(sent, b"half 1");
        drop(exchange);
        rig.check();
    });
}

#[test]
fn a_window_of_hundreds_of_mebibytes_is_attached() {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
    let admitted = Arc::new(admit(&changes_and_waits()).unwrap());
    let large = FunctionPlan { admitted, ..function("large", "") };
    let plan = ChainPlan { name: "test".into(), functions: vec![large] };
    // 256 MiB.
    site_of(&sandbox, 16_384).stage(plan, &States::default()).unwrap();
}

async fn begin(rig: &Rig, path: &str) -> Exchange {
    let exchange = rig.open();
    let step = exchange.request_head(&mut request(path), None).await;
    assert!(matches!(step, Step::Continue), "{step:?}");
    exchange
}

#[test]
fn bodies_are_changed_grown_and_left_out_piece_by_piece() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let long = vec![b'a'; 50_000];
        let exchange = begin(&rig, "/two/upper").await;
        let passed = send(&exchange, &[b"abc", &long, b""]).await.unwrap();
        assert_eq!(passed, [&b"ABC"[..], &vec![b'A'; 50_000]].concat());
        let exchange = begin(&rig, "/one/twice").await;
        assert_eq!(send(&exchange, &[b"ab", b"c"]).await.unwrap(), b"ababcc");
        let exchange = begin(&rig, "/one/swallow").await;
        assert_eq!(send(&exchange, &[b"ab", b"c"]).await.unwrap(), b"");
        drop(exchange);
        rig.check();
    });
}

#[test]
fn what_is_held_goes_on_in_order_or_is_answered() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let exchange = begin(&rig, "/one/hold").await;
        let held = exchange.request_body(Bytes::from_static(b"first "), false).await;
        assert!(matches!(held, BodyStep::Pass(pieces) if pieces.is_empty()));
        assert!(!exchange.done(Direction::Request));
        assert_eq!(send(&exchange, &[b"second ", b"third"]).await.unwrap(), b"first second third");
        let exchange = begin(&rig, "/two/hold").await;
        let refused = send(&exchange, &[b"this is b", b"ad"]).await.unwrap_err();
        assert_eq!(
            (refused.status(), seen(refused.headers())),
            (StatusCode::FORBIDDEN, vec!["one"])
        );
        drop(refused);
        let exchange = begin(&rig, "/two/hold").await;
        let refused = send(&exchange, &[&[b'x'; 100_001], b""]).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        drop((exchange, refused));
        rig.check();
    });
}

/// Asks until the chain lets a request pass: how it left.
async fn until_it_answers(rig: &Rig) -> http::request::Parts {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut parts = request("/");
        if let Step::Continue = rig.open().request_head(&mut parts, None).await {
            return parts;
        }
        assert!(std::time::Instant::now() < until, "it never came back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_fault_costs_its_exchange_and_those_the_instance_knew() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let bystander = begin(&rig, "/").await;
        let failed = answer(rig.open().request_head(&mut request("/one/trap"), None).await);
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = failed.body().concat();
        assert_eq!(body, b"function one is out of order\n");
        // Its back-off is short, and a new instance comes meanwhile.
        assert_eq!(seen(&until_it_answers(&rig).await.headers), ["one", "two"]);
        // The new instance does not know this one.
        let lost = answer(bystander.response_head(&mut response(), None).await);
        assert_eq!(lost.status(), StatusCode::SERVICE_UNAVAILABLE);
        rig.check_after(bystander, lost, failed);
    });
}

#[test]
fn a_function_comes_back_when_there_are_threads_again() {
    run(|| async {
        let telemetry = Arc::new(Telemetry::default());
        let rig = Rig::with(&["one"], |plan| plan.telemetry = Arc::clone(&telemetry));
        let before = getrlimit(Resource::As);
        // The process has more already: it can map no more, and so no stack of a thread, whatever
        // is unmapped meanwhile.
        setrlimit(Resource::As, Rlimit { current: Some(1 << 20), ..before }).unwrap();
        // Stacks of threads that have ended are used again.
        let other = || std::thread::Builder::new().spawn(std::thread::park).ok();
        let others: Vec<_> = std::iter::from_fn(other).collect();
        let failed = answer(rig.open().request_head(&mut request("/one/trap"), None).await);
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        setrlimit(Resource::As, before).unwrap();
        others.iter().for_each(|other| other.thread().unpark());
        let said = telemetry.lines().0;
        assert!(
            said.iter().any(|line| line.message.contains("the host has no thread")),
            "{said:?}"
        );
        until_it_answers(&rig).await;
        rig.check_after((), (), failed);
    });
}

#[test]
fn what_a_version_has_counted_is_told_when_its_last_exchange_has_ended() {
    run(|| async {
        let telemetry = Arc::new(Telemetry::default());
        let rig = Rig::with(&["one"], |plan| plan.telemetry = Arc::clone(&telemetry));
        let ended = || telemetry.counters().get("ended").copied().unwrap_or(0);
        let serve = async || begin(&rig, "/").await.end(Ended::Delivered, None, Duration::ZERO);
        let other = || {
            let telemetry = Arc::clone(&telemetry);
            let plan = FunctionPlan { telemetry, ..function("one", "/") };
            rig.site.stage_function("test", &rig.chain.names(), 0, plan, None).unwrap()
        };
        // The SDK keeps what is counted for a tenth of a second.
        serve().await;
        rig.chain.swap(other()).unwrap();
        assert_eq!(ended(), 1);
        let late = begin(&rig, "/").await;
        rig.chain.swap(other()).unwrap();
        late.end(Ended::Delivered, None, Duration::ZERO);
        drop(late);
        assert_eq!(ended(), 2);
        // A trial that ends, and the version that is brought back behind it.
        rig.chain.begin_canary(other(), 100, Arc::default()).unwrap();
        serve().await;
        rig.chain.end_trial();
        assert_eq!(ended(), 3);
        rig.chain.swap(other()).unwrap();
        rig.chain.undo("one", "1").unwrap();
        serve().await;
        drop(rig);
        assert_eq!(ended(), 4);
    });
}

#[test]
fn who_is_done_and_remembers_nothing_is_not_told_the_end() {
    run(|| async {
        let telemetry = Arc::new(Telemetry::default());
        let rig = Rig::with(&["one"], |plan| {
            let config = serde_json::json!({ "name": "one", "mine": "/one", "endless": true });
            plan.config = config.to_string();
            plan.telemetry = Arc::clone(&telemetry);
        });
        for path in ["/one/done", "/", "/one/done", "/"] {
            let exchange = begin(&rig, path).await;
            exchange.end(Ended::Delivered, None, Duration::ZERO);
        }
        // Counters are told with the next event.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(begin(&rig, "/one/done").await);
        assert_eq!(telemetry.counters().get("ended"), Some(&2));
        rig.check();
    });
}

#[test]
fn time_is_short_also_for_events_long_after_the_first() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let exchange = begin(&rig, "/one/late-spin").await;
        // By now nobody is looked at any more.
        let driven = tokio::task::spawn_local(rig.chain.clone().drive());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let failed = answer(exchange.response_head(&mut response(), None).await);
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        driven.abort();
    });
}

/// As when a listener is changed, and a client's exchange goes on for hours.
#[test]
fn a_chain_that_was_replaced_is_driven_until_its_last_exchange_has_ended() {
    run(|| async {
        let Rig { chain, _remote: remote, .. } = Rig::new(&["one"]);
        let open = [chain.open(&origin(1), Kind::Request), chain.open(&origin(2), Kind::Request)];
        let driven = tokio::task::spawn_local(chain.clone().drive());
        drop((chain, remote));
        for exchange in open {
            // Whoever drives has had its turns.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!driven.is_finished());
            drop(exchange);
        }
        tokio::time::timeout(Duration::from_secs(30), driven).await.unwrap().unwrap();
    });
}

impl Rig {
    fn check_after<A, B, C>(&self, a: A, b: B, c: C) {
        drop((a, b, c));
        self.check();
    }
}

#[test]
fn open_functions_are_passed_by_when_they_spin_trap_or_write_nonsense() {
    run(|| async {
        for path in ["/one/spin", "/one/trap", "/one/bad-name"] {
            let rig = Rig::with(&["one", "two"], |plan| plan.on_fault = OnFault::FailOpen);
            let mut parts = request(path);
            let step = rig.open().request_head(&mut parts, None).await;
            assert!(matches!(step, Step::Continue), "{path}: {step:?}");
            assert_eq!(seen(&parts.headers), ["two"], "{path}");
            assert_eq!(rig.notices.borrow().len(), 1, "{path}");
            rig.check();
        }
    });
}

/// Bits of what a function for connections wants.
const OPENED: u32 = 32;
const DATA: u32 = 64;

/// A chain of a function for connections, which answers that one is opened like this, and a probe.
fn door(wants: u32, opened: &str, on_fault: OnFault) -> Rig {
    let guest = Arc::new(admit(&for_connections(wants, opened)).unwrap());
    Rig::with(&["door", "one"], |plan| {
        if plan.name == "door" {
            (plan.admitted, plan.on_fault) = (Arc::clone(&guest), on_fault);
        }
    })
}

fn is_done(exchange: &Exchange) -> [bool; 2] {
    [Direction::Request, Direction::Response].map(|way| exchange.done(way))
}

#[test]
fn requests_and_connections_are_done_when_those_that_are_for_them_are() {
    run(|| async {
        for (opened, done) in [("(i64.const 5)", true), ("(i64.const 0)", false)] {
            let rig = door(OPENED | DATA, opened, OnFault::FailClosed);
            assert_eq!(is_done(&begin(&rig, "/one/done").await), [true; 2]);
            assert_eq!(is_done(&begin(&rig, "/").await), [false; 2]);
            for kind in [Kind::Connection, Kind::HttpConnection] {
                let exchange = rig.chain.open(&origin(1), kind);
                assert!(matches!(exchange.opened().await, Step::Continue));
                assert_eq!(is_done(&exchange), [done; 2], "{kind:?}");
            }
        }
    });
}

#[test]
fn a_connection_that_carries_requests_is_no_exchange_of_a_canary_beside_them() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let findings = Arc::new(Findings::default());
        let plan = function("one", "/one");
        let staged = rig.site.stage_function("test", &rig.chain.names(), 0, plan, None).unwrap();
        rig.chain.begin_canary(staged, 100, Arc::clone(&findings)).unwrap();
        for (kind, events) in [(Kind::HttpConnection, 0), (Kind::Request, 1), (Kind::Connection, 2)]
        {
            drop(rig.chain.open(&origin(1), kind));
            assert_eq!(findings.events.load(std::sync::atomic::Ordering::Relaxed), events);
        }
    });
}

/// Of one that carries requests no bytes are shown, so who wants some would be a reason to end it.
#[test]
fn connections_go_past_functions_that_are_out_of_order_only_if_these_fail_open() {
    run(|| async {
        for on_fault in [OnFault::FailOpen, OnFault::FailClosed] {
            let open = on_fault == OnFault::FailOpen;
            for kind in [Kind::Connection, Kind::HttpConnection] {
                // By the first it breaks, the second finds it out of order.
                let rig = door(OPENED | DATA, "(unreachable)", on_fault);
                for n in 0..2 {
                    let exchange = rig.chain.open(&origin(1), kind);
                    let step = exchange.opened().await;
                    assert_eq!(matches!(step, Step::Continue), open, "{kind:?} {n}: {step:?}");
                    assert_eq!(is_done(&exchange), [open; 2], "{kind:?} {n}");
                }
            }
            // It is not asked about their being opened.
            let rig = door(DATA, "(unreachable)", on_fault);
            let carries = || rig.chain.open(&origin(1), Kind::HttpConnection);
            assert_eq!(is_done(&carries()), [false; 2], "it is in order");
            let exchange = rig.chain.open(&origin(1), Kind::Connection);
            let step = exchange.data(false, Bytes::from_static(b"bytes"), false).await;
            assert_eq!(matches!(step, BodyStep::Pass(_)), open, "{step:?}");
            assert_eq!(is_done(&carries()), [open; 2]);
        }
    });
}

#[test]
fn an_exchange_knows_that_its_version_was_replaced() {
    run(|| async {
        let rig = door(OPENED, "(i64.const 0)", OnFault::FailClosed);
        let open = || rig.chain.passages().open(&origin(1), Kind::HttpConnection);
        let old = open();
        assert!(!old.is_outdated());
        let stage = || {
            let plan = function("one", "/one");
            rig.site.stage_function("test", &rig.chain.names(), 1, plan, None).unwrap()
        };
        rig.chain.swap(stage()).unwrap();
        let new = open();
        assert!(old.is_outdated() && !new.is_outdated());
        rig.chain.begin_canary(stage(), 1, Arc::default()).unwrap();
        assert!(new.is_outdated() && !open().is_outdated());
        assert_eq!(rig.chain.replaced_versions(), 2);
    });
}

#[test]
fn a_fault_in_a_body_is_answered_before_the_upstream_sees_an_end() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let exchange = begin(&rig, "/two/trap-in-body").await;
        let failed = send(&exchange, &[b"abc"]).await.unwrap_err();
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop((exchange, failed));
        rig.check();
    });
}

#[test]
fn a_full_pool_is_waited_for_and_then_said() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let exchange = begin(&rig, "/").await;
        // A head lies in its room for as long as a function waits.
        let waiting = (0..rig.site.accounting().free).map(|_| {
            Box::pin(async {
                rig.open().request_head(&mut request("/one/sleep"), None).await;
            })
        });
        let mut waiting: Vec<_> = waiting.collect();
        for head in &mut waiting {
            assert!(head.as_mut().now_or_never().is_none());
        }
        assert_eq!(rig.site.accounting().free, 0);
        let piece = exchange.request_body(Bytes::from_static(b"y"), true);
        let (step, _) = tokio::join!(piece, futures_util::future::join_all(waiting));
        assert!(matches!(step, BodyStep::Pass(pieces) if pieces.concat() == b"y"));
        drop(exchange);
        rig.check();
    });
}

#[test]
fn a_swap_leaves_what_is_under_way_alone_and_is_taken_back_when_it_faults() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let old = begin(&rig, "/").await;
        let mut plan = function("one", "/one");
        plan.config = r#"{"name": "new", "mine": "/one"}"#.into();
        plan.version = "2".into();
        let names = rig.chain.names();
        let staged = rig.site.stage_function("test", &names, 0, plan, None).unwrap();
        rig.chain.swap(staged).unwrap();
        let mut parts = request("/");
        rig.open().request_head(&mut parts, None).await;
        assert_eq!(seen(&parts.headers), ["new", "two"]);
        let mut parts = response();
        old.response_head(&mut parts, None).await;
        assert_eq!(seen(&parts.headers), ["two", "one"]);
        // A fault soon after brings the old version back, at once.
        let failed = answer(rig.open().request_head(&mut request("/one/trap"), None).await);
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut parts = request("/");
        assert!(matches!(rig.open().request_head(&mut parts, None).await, Step::Continue));
        assert_eq!(seen(&parts.headers), ["one", "two"]);
        let notices = rig.notices.borrow();
        assert!(
            matches!(&notices[..], [Notice::RolledBack { version, .. }] if version == "2"),
            "{notices:?}"
        );
    });
}

/// Does nothing but `save` and `restore`, with these bodies.
fn saving(save: &str, restore: &str) -> FunctionPlan {
    let admitted = Arc::new(admit(&saving_messages(save, restore)).unwrap());
    FunctionPlan { admitted, config: "{}".into(), ..function("one", "/") }
}

const SPIN: &str = "(loop $more (br $more))";

/// All listeners of a gateway's thread wait meanwhile.
#[test]
fn who_saves_or_restores_has_no_longer_than_its_deadline() {
    run(|| async {
        for (save, restore, call) in [(SPIN, "", "save"), ("", SPIN, "restore")] {
            for (deadline, told) in [(1, 10), (30, 30)] {
                let plan = FunctionPlan {
                    deadline: Duration::from_millis(deadline),
                    ..saving(save, restore)
                };
                let rig = Rig::with(&["one"], |function| *function = plan.clone());
                let staged = rig.site.stage_function("test", &rig.chain.names(), 0, plan, None);
                let error = rig.chain.swap(staged.unwrap()).unwrap_err().to_string();
                let told = format!(
                    "function one failed in `{call}`: deadline: ran longer than its deadline of {told}ms of CPU time"
                );
                assert!(error.starts_with(&told), "{error}");
            }
        }
    });
}

const TRAP: &str = "(unreachable)";

#[test]
fn a_function_that_traps_in_save_is_told_and_made_anew() {
    run(|| async {
        let rig = Rig::with(&["one"], |function| *function = saving(TRAP, ""));
        let stage = |version: &str| {
            let plan = FunctionPlan { version: version.into(), ..saving("", "") };
            rig.site.stage_function("test", &rig.chain.names(), 0, plan, None).unwrap()
        };
        let error = rig.chain.swap(stage("2")).unwrap_err().to_string();
        assert!(error.starts_with("function one failed in `save`: trap: "), "{error}");
        let told: Vec<Notice> = rig.notices.borrow_mut().drain(..).collect();
        assert!(matches!(&told[..], [Notice::Fault { version, .. }] if version == "1"), "{told:?}");
        until_it_answers(&rig).await;
        // And again, by whom it is to be followed.
        let findings = Arc::new(Findings::default());
        rig.chain.begin_canary(stage("2"), 0, findings).unwrap();
        rig.chain.promote().unwrap_err();
        assert_eq!(rig.notices.borrow_mut().drain(..).count(), 1);
        until_it_answers(&rig).await;
        assert!(rig.notices.borrow().is_empty());
        rig.check();
    });
}

#[test]
fn a_canary_that_traps_in_restore_costs_those_that_have_it_and_is_no_fault_of_theirs() {
    run(|| async {
        let rig = Rig::with(&["one"], |function| *function = saving("", TRAP));
        let staged = rig.site.stage_function("test", &rig.chain.names(), 0, saving("", TRAP), None);
        rig.chain.begin_canary(staged.unwrap(), 100, Arc::default()).unwrap();
        let tried = rig.open();
        let error = rig.chain.promote().unwrap_err().to_string();
        assert!(error.starts_with("function one failed in `restore`: trap: "), "{error}");
        let failed = answer(tried.request_head(&mut request("/"), None).await);
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        let step = rig.open().request_head(&mut request("/"), None).await;
        assert!(matches!(step, Step::Continue), "{step:?}");
        assert!(rig.notices.borrow().is_empty());
        rig.check_after(tried, failed, step);
    });
}

#[test]
fn what_brings_back_a_version_says_whether_it_did() {
    run(|| async {
        let rig = Rig::new(&["one"]);
        let stage = |version: &str| {
            let plan = FunctionPlan { version: version.into(), ..function("one", "/one") };
            rig.site.stage_function("test", &rig.chain.names(), 0, plan, None).unwrap()
        };
        let swap = |version: &str| rig.chain.swap(stage(version)).unwrap();
        let fault = || async {
            answer(rig.open().request_head(&mut request("/one/trap"), None).await);
            rig.notices.borrow_mut().pop().unwrap()
        };
        // Another part of the chain refused it: what ran before has what it can go back to itself.
        swap("2");
        swap("3");
        rig.chain.undo("one", "3").unwrap();
        rig.chain.undo("one", "3").unwrap();
        let told = fault().await;
        assert!(matches!(&told, Notice::RolledBack { version, .. } if version == "2"), "{told:?}");
        assert!(rig.chain.undo("one", "1").unwrap_err().to_string().contains("it runs one 1"));
        // It faulted on another one: one step back is enough.
        swap("2");
        swap("3");
        rig.chain.go_back("one", "3").unwrap();
        let error = rig.chain.go_back("one", "2").unwrap_err().to_string();
        assert!(error.contains("what it ran before is not known any more"), "{error}");
        let told = fault().await;
        assert!(matches!(&told, Notice::Fault { version, .. } if version == "2"), "{told:?}");
        // What an operator wants back goes back to nothing, from its first moment on, but is undone
        // where another part refuses it.
        for undone in [false, true] {
            swap("3");
            rig.chain.swap_back(stage("2")).unwrap();
            if undone {
                rig.chain.undo("one", "2").unwrap();
            }
            let told = fault().await;
            let as_expected = match &told {
                Notice::Fault { version, .. } => !undone && version == "2",
                Notice::RolledBack { version, .. } => undone && version == "3",
            };
            assert!(as_expected, "{told:?}");
        }
    });
}

#[test]
fn a_canary_gets_its_share_of_the_clients_and_a_shadow_decides_nothing() {
    run(|| async {
        let rig = Rig::new(&["one", "two"]);
        let stage = || {
            let mut plan = function("two", "/two");
            plan.config = r#"{"name": "new", "mine": "/two"}"#.into();
            rig.site.stage_function("test", &rig.chain.names(), 1, plan, None).unwrap()
        };
        let findings = Arc::new(Findings::default());
        rig.chain.begin_canary(stage(), 30, Arc::clone(&findings)).unwrap();
        assert!(matches!(
            rig.chain.begin_shadow(stage(), Arc::clone(&findings)),
            Err(MessageError::Trial(_))
        ));
        let mut chosen = 0;
        for client in 0..200 {
            let mut all = Vec::new();
            for _ in 0..2 {
                let exchange = rig.chain.open(&origin(client), Kind::Request);
                let mut parts = request("/");
                exchange.request_head(&mut parts, None).await;
                all.push(seen(&parts.headers).join(" "));
            }
            assert_eq!(all[0], all[1], "a client stays where it is");
            chosen += usize::from(all[0] == "one new");
        }
        assert!((30..90).contains(&chosen), "{chosen} of 200 are no 30 percent");
        rig.chain.promote().unwrap();
        let mut parts = request("/");
        rig.open().request_head(&mut parts, None).await;
        assert_eq!(seen(&parts.headers), ["one", "new"]);

        let findings = Arc::new(Findings::default());
        let mut plan = function("two", "/");
        plan.config = r#"{"name": "new", "mine": "/other"}"#.into();
        let staged = rig.site.stage_function("test", &rig.chain.names(), 1, plan, None).unwrap();
        rig.chain.begin_shadow(staged, Arc::clone(&findings)).unwrap();
        for path in ["/", "/two/answer", "/two/upper"] {
            let exchange = rig.open();
            let step = exchange.request_head(&mut request(path), None).await;
            if let Step::Continue = step {
                send(&exchange, &[b"body"]).await.unwrap();
            }
        }
        let load = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(load(&findings.actions_differ), 1, "{:?}", findings.samples());
        assert_eq!(load(&findings.bytes_differ), 1, "{:?}", findings.samples());
        rig.check();
    });
}

#[test]
fn a_configuration_that_is_refused_says_by_whom_and_why() {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
    let plan = function("refuse", "");
    let plan = ChainPlan { name: "test".into(), functions: vec![plan] };
    let Err(error) = site(&sandbox).stage(plan, &States::default()) else { panic!("accepted") };
    let error = error.to_string();
    assert!(error.contains("refuse") && error.contains("not to be called"), "{error}");
}
