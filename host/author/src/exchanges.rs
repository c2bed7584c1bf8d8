//! HTTP exchanges through a function: a client, the gateway with the message plane's own engine, and an upstream, all on the
//! loopback interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weir_assembly::message_function_plan;
use weir_exchange::{ChainFactory, Stage, Upstreams};
use weir_gateway::{Gateway, GatewayConfig, ListenerConfig, Protocol, UpstreamConfig};
use weir_message::{
    Chain, ChainPlan, MessageError, Notice, Site, SiteConfig, States, Store, orders,
};
use weir_sandbox::Sandbox;
use weir_spec::ResolvedFunction;

use crate::function::Function;
use crate::suite::{Exchange, ExpectExchange, ExpectRequest, ExpectUpstream, Field, Request};
use crate::upstream::{Got, Upstream};

/// As the defaults of `[gateway]`.
const ROOMS: u32 = 1024;
const ROOM: u32 = 16 << 10;
/// Bytes of a body that the function may hold back.
const HOLD: usize = 1 << 20;
/// Bytes of the store.
const STORE: u64 = 64 << 20;
/// Nobody waits longer for an answer.
const LONG: Duration = Duration::from_secs(20);

/// When counters are handed over, and when those that are not there yet will not come.
const HANDED_OVER: Duration = Duration::from_millis(120);
const LATE: Duration = Duration::from_secs(2);

/// What came of it.
pub(crate) enum Run {
    /// The function refused its configuration.
    Refused(String),
    /// It ran.
    Done(Ran),
}

/// What a function did.
pub(crate) struct Ran {
    /// What was not as expected.
    pub(crate) problems: Vec<String>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) log: Vec<String>,
    pub(crate) faults: Vec<String>,
    pub(crate) fault_count: u64,
    /// What it answered to events, by name.
    pub(crate) actions: BTreeMap<String, u64>,
}

/// Runs the exchanges, and waits for these counters.
pub(crate) fn run(
    sandbox: &Arc<Sandbox>,
    function: &Function,
    resolved: &ResolvedFunction,
    exchanges: &[Exchange],
    counters: &BTreeMap<String, u64>,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream = runtime.block_on(Upstream::start())?;
    let test = Arc::new(Tested {
        sandbox: Arc::clone(sandbox),
        plan: plan(function, resolved),
        faults: Arc::default(),
        failed: Mutex::default(),
    });
    let gateway = Gateway::start(GatewayConfig::default())?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = ListenerConfig::new(
        "test",
        any,
        Protocol::Http,
        vec![UpstreamConfig::new(upstream.address)],
    );
    config.chain = Some(Arc::clone(&test) as _);
    if let Err(error) = gateway.set(config) {
        return match test.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(MessageError::Refused { what: "configuration", message, .. }) => {
                Ok(Run::Refused(message))
            }
            Some(failed) => bail!(failed),
            None => bail!(error),
        };
    }
    let address = gateway.addresses("test").first().copied().context("the gateway listens")?;
    let mut problems = Vec::new();
    for (n, exchange) in exchanges.iter().enumerate() {
        let mut script = upstream.script();
        script.response = exchange.response.clone();
        script.got.clear();
        drop(script);
        let answered = runtime.block_on(async {
            let sent = tokio::time::timeout(LONG, send(address, &exchange.request));
            sent.await.unwrap_or_else(|_| Err(anyhow!("there was no answer for {LONG:?}")))
        });
        let got = std::mem::take(&mut upstream.script().got);
        let found = match answered {
            Ok(answer) => compare(&exchange.expect, &answer, &got),
            Err(error) => vec![format!("{error:#}")],
        };
        let Request { method, path, .. } = &exchange.request;
        problems.extend(
            found.into_iter().map(|what| format!("exchange {} ({method} {path}): {what}", n + 1)),
        );
    }
    let function = &test.plan.functions[0];
    // Functions may hand over what they counted ten times a second.
    let until = Instant::now() + LATE;
    std::thread::sleep(HANDED_OVER);
    let counted = |(name, n): (&String, &u64)| {
        function.telemetry.counters().get(name).copied().unwrap_or(0) >= *n
    };
    while !counters.iter().all(counted) && Instant::now() < until {
        std::thread::sleep(HANDED_OVER);
    }
    gateway.drain(Duration::from_secs(1));
    drop(gateway);
    let faults = test.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Run::Done(Ran {
        problems,
        counters: function.telemetry.counters(),
        log: function.telemetry.lines().0.into_iter().map(|line| line.message).collect(),
        faults,
        fault_count: function.counters.faults.load(Ordering::Relaxed),
        actions: function.counters.actions().map(|(name, n)| (name.to_owned(), n)).collect(),
    }))
}

fn plan(function: &Function, resolved: &ResolvedFunction) -> ChainPlan {
    let admitted = Arc::clone(&function.admitted);
    let function = message_function_plan(resolved, admitted, Arc::default(), Arc::default());
    ChainPlan { name: "test".into(), functions: vec![function] }
}

/// Makes the chain on the gateway's thread.
struct Tested {
    sandbox: Arc<Sandbox>,
    plan: ChainPlan,
    faults: Arc<Mutex<Vec<String>>>,
    /// Why it could not be made.
    failed: Mutex<Option<MessageError>>,
}

impl ChainFactory for Tested {
    fn stage(&self, _: usize, upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let names = vec!["upstream".to_owned()];
        let config = SiteConfig { rooms: ROOMS, room_bytes: ROOM, hold: HOLD, names, seed: 0 };
        let site = Site::new(
            Arc::clone(&self.sandbox),
            "test",
            config,
            upstreams,
            Arc::new(Store::new(STORE)),
        );
        let staged = site.and_then(|site| site.stage(self.plan.clone(), &States::default()));
        let staged = staged.map_err(|error| {
            let text = error.to_string();
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            text
        })?;
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(move |lent| {
            let sink = Box::new(move |notice| {
                let (Notice::Fault { fault, .. } | Notice::RolledBack { fault, .. }) = notice;
                faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault.to_string());
            });
            let (giver, orders) = orders();
            let chain = Chain::new(staged, lent.environment, orders, Arc::default(), sink);
            let driven = chain.clone().drive();
            tokio::task::spawn_local(async move {
                // It is driven, and its function ticks, as long as somebody could give it orders.
                let _giver = giver;
                driven.await;
            });
            Ok(chain.passages())
        }))
    }
}

/// A response as it came.
struct Answer {
    status: u16,
    fields: hyper::HeaderMap,
    body: Vec<u8>,
}

/// Sends a request just as it is written: no client library makes the path another one.
async fn send(to: SocketAddr, request: &Request) -> Result<Answer> {
    let stream = TcpStream::connect(to).await.context("connecting to the gateway")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let mut built = hyper::Request::builder().method(request.method.as_str()).uri(&request.path);
    if !request.fields.keys().any(|name| name.eq_ignore_ascii_case("host")) {
        built = built.header("host", "test");
    }
    for (name, value) in &request.fields {
        built = built.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body.clone()));
    let built = built.body(body).context("the request is none")?;
    let response = sender.send_request(built).await.context("there was no answer")?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.context("the answer's body was cut off")?.to_bytes().to_vec();
    driving.abort();
    Ok(Answer { status: parts.status.as_u16(), fields: parts.headers, body })
}

fn compare(expect: &ExpectExchange, answer: &Answer, got: &[Got]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut said = |what: &str, expected: String, found: String| {
        if expected != found {
            problems.push(format!("{what}: expected {expected}, got {found}"));
        }
    };
    if let Some(status) = expect.status {
        said("status", status.to_string(), answer.status.to_string());
    }
    if let Some(body) = &expect.body {
        said("body", format!("{body:?}"), text(&answer.body));
    }
    fields("", &expect.fields, &answer.fields, &mut said);
    match (&expect.upstream, got.first()) {
        (Some(ExpectUpstream::Reached(reached)), _) => {
            let was = |reached| if reached { "a request" } else { "nothing" }.to_owned();
            said("upstream", was(*reached), was(!got.is_empty()));
        }
        (Some(ExpectUpstream::Request(_)), None) => {
            said("upstream", "a request".into(), "nothing".into());
        }
        (Some(ExpectUpstream::Request(expect)), Some(got)) => {
            let ExpectRequest { method, path, fields: wanted, body } = expect;
            if let Some(method) = method {
                said("upstream: method", method.clone(), got.method.clone());
            }
            if let Some(path) = path {
                said("upstream: path", path.clone(), got.path.clone());
            }
            if let Some(body) = body {
                said("upstream: body", format!("{body:?}"), text(&got.body));
            }
            fields("upstream: ", wanted, &got.fields, &mut said);
        }
        (None, _) => {}
    }
    problems
}

fn fields(
    whose: &str,
    expected: &BTreeMap<String, Field>,
    found: &hyper::HeaderMap,
    said: &mut impl FnMut(&str, String, String),
) {
    for (name, field) in expected {
        let values: Vec<_> =
            found.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
        let what = format!("{whose}field {name}");
        let there = |there| if there { "one" } else { "none" }.to_owned();
        match field {
            Field::There(expected) => said(&what, there(*expected), there(!values.is_empty())),
            Field::Value(value) => {
                let none = values.is_empty();
                said(
                    &what,
                    format!("{value:?}"),
                    if none { "none".into() } else { values.join(", ") },
                );
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
