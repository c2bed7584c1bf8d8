//! A control plane on a store in a temporary directory, over a data plane that does nothing but
//! note what it is asked to do, and fails when told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;
use weir_control::Control;
use weir_control::api::{Api, Limits, Peer};
use weir_control::engine::{
    Bucket, CarrierStatus, CertificateStatus, ChainId, ChainStatus, Deployment, Drained, Engine,
    EngineError, EngineEvent, EngineStatus, EventSink, FileStatus, FunctionLog, FunctionStatus,
    Health, ListenerStatus, LogLine, MemberStatus, PoolStatus, PortStatus, Published, Reasons,
    RulePlace, RuleStatus, Sample, SwapDirection, Tap, TrialKind, TrialStatus, UpstreamStatus,
};
use weir_control::store::Store;
use weir_spec::{
    Chain, ChainTrace, CheckReport, Document, FollowedPacket, FollowedStep, HostConfig, Name,
    Plane, ResolvedFunction, SteeringRule, TapRequest, TraceRequest, World,
};

/// The beginning of a core module.
pub(crate) const MAGIC: &[u8] = b"\0asm\x01\0\0\0";

/// Notes what it is asked.
#[derive(Default)]
pub(crate) struct FakeEngine {
    calls: Mutex<Vec<String>>,
    /// Calls that begin so do not come back until they are let go.
    held: Mutex<Vec<String>>,
    let_go: Condvar,
    /// What the next call that begins so ends with.
    failures: Mutex<Vec<(String, EngineError)>>,
    deployed: Mutex<BTreeMap<ChainId, Deployment>>,
    /// What swaps replaced.
    before: Mutex<BTreeMap<(ChainId, Name), ResolvedFunction>>,
    steered: Mutex<BTreeMap<Name, Vec<SteeringRule>>>,
    /// Ports that are down.
    pub(crate) down: Mutex<Vec<&'static str>>,
    sink: Mutex<Option<EventSink>>,
    /// How often taps were asked for packets; as many have it as there are taps, and one.
    taps: Arc<AtomicUsize>,
    /// Chains that it is to expect, and what it was asked before.
    expected: Mutex<Option<(Vec<String>, usize)>>,
}

impl FakeEngine {
    fn call(&self, call: String) -> Result<(), EngineError> {
        let mut failures = self.failures.lock().unwrap();
        let failure = failures.iter().position(|(begins, _)| call.starts_with(begins));
        self.calls.lock().unwrap().push(call.clone());
        let failure = failure.map(|index| failures.remove(index).1);
        drop(failures);
        let is_held = |held: &mut Vec<String>| held.iter().any(|begins| call.starts_with(begins));
        drop(self.let_go.wait_while(self.held.lock().unwrap(), is_held).unwrap());
        failure.map_or(Ok(()), Err)
    }

    /// Lets calls that begin so not come back, until the answer is dropped.
    pub(crate) fn hold(&self, begins: &str) -> Held<'_> {
        self.held.lock().unwrap().push(begins.to_owned());
        Held(self)
    }

    /// Waits until it was asked so many things that begin so since the last time of
    /// [`Self::calls`].
    pub(crate) fn wait_for(&self, begins: &str, times: usize) {
        for _ in 0..3000 {
            if self.asked(begins) == times {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{begins}: asked {} times, not {times}", self.asked(begins));
    }

    /// How often it was asked what begins so.
    pub(crate) fn asked(&self, begins: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.starts_with(begins)).count()
    }

    /// Taps that have not ended.
    pub(crate) fn taps(&self) -> usize {
        Arc::strong_count(&self.taps) - 1
    }

    /// Waits until nobody asks taps for packets.
    pub(crate) async fn taps_stand_still(&self) {
        for _ in 0..60 {
            let before = self.taps.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.taps.load(Relaxed) == before {
                return;
            }
        }
        panic!("taps are read");
    }

    /// The chains that it was told to expect, and how much it was asked before.
    pub(crate) fn expected(&self) -> Option<(Vec<String>, usize)> {
        self.expected.lock().unwrap().clone()
    }

    /// The deadlines of all functions that it has deployed.
    pub(crate) fn deadlines(&self) -> Vec<String> {
        let deployed = self.deployed.lock().unwrap();
        let functions = deployed.values().flat_map(|deployment| &deployment.functions);
        functions.map(|function| function.deadline.to_string()).collect()
    }

    /// What it was asked since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// Lets the next call that begins so fail.
    pub(crate) fn fail(&self, begins: &str, error: EngineError) {
        self.failures.lock().unwrap().push((begins.to_owned(), error));
    }

    /// Tells something. Where a version is said to have gone back, the one before runs.
    pub(crate) fn emit(&self, event: EngineEvent) {
        if let EngineEvent::RolledBack { chain, function, .. } = &event {
            let before = self.before.lock().unwrap().remove(&(chain.clone(), function.clone()));
            self.swap_in(chain, before.unwrap());
        }
        (self.sink.lock().unwrap().as_ref().unwrap())(event);
    }

    fn swap_in(&self, chain: &ChainId, function: ResolvedFunction) {
        let mut deployed = self.deployed.lock().unwrap();
        let functions = &mut deployed.get_mut(chain).unwrap().functions;
        let place = functions.iter().position(|f| f.label == function.label).unwrap();
        let key = (chain.clone(), function.label.clone());
        let before = std::mem::replace(&mut functions[place], function);
        self.before.lock().unwrap().insert(key, before);
    }
}

/// Calls that do not come back as long as this is there.
#[must_use]
pub(crate) struct Held<'a>(&'a FakeEngine);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.lock().unwrap().clear();
        self.0.let_go.notify_all();
    }
}

fn shown(function: &ResolvedFunction) -> String {
    format!("{}@{}", function.label, function.version.as_ref().unwrap())
}

fn published(microseconds: u64) -> Published {
    Published { pause: Duration::from_micros(microseconds), ..Published::default() }
}

/// What a tap takes, one after the other; without an end that again and again.
struct FakeTap(VecDeque<&'static str>, bool, Arc<AtomicUsize>);

impl Tap for FakeTap {
    fn take(&mut self) -> Option<Vec<u8>> {
        self.2.fetch_add(1, Relaxed);
        let text = self.0.pop_front()?;
        if self.1 {
            self.0.push_back(text);
        }
        Some(text.as_bytes().to_vec())
    }
}

/// Content of a function that is for messages.
pub(crate) const FOR_MESSAGES: &str = "for messages";

impl Engine for FakeEngine {
    fn check(&self, wasm: &[u8]) -> CheckReport {
        if !wasm.starts_with(MAGIC) {
            let reasons = vec!["it is not WebAssembly".to_owned()];
            return CheckReport { reasons, ..CheckReport::default() };
        }
        let of_messages = wasm.ends_with(FOR_MESSAGES.as_bytes());
        let world = if of_messages { World::MessageFunction } else { World::PacketFunction };
        CheckReport { accepted: true, world: Some(world), ..CheckReport::default() }
    }

    fn compile(&self, wasm: &[u8]) -> Result<Duration, EngineError> {
        self.call(format!("compile {} bytes", wasm.len()))?;
        Ok(Duration::from_millis(7))
    }

    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError> {
        let functions: Vec<_> = deployment.functions.iter().map(shown).collect();
        self.call(format!("deploy {} {}", deployment.id, functions.join(" ")))?;
        self.deployed.lock().unwrap().insert(deployment.id.clone(), deployment);
        Ok(published(3))
    }

    fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError> {
        self.call(format!("undeploy {chain}"))?;
        self.deployed.lock().unwrap().remove(chain);
        Ok(())
    }

    fn swap(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        way: SwapDirection,
    ) -> Result<Published, EngineError> {
        let swap = if way == SwapDirection::Back { "swap_back" } else { "swap" };
        self.call(format!("{swap} {chain} {}", shown(&function)))?;
        self.swap_in(chain, function);
        Ok(published(10 + chain.name.as_str().len() as u64))
    }

    fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        self.call(format!("begin_trial {chain} {} {kind:?}", shown(&function)))?;
        Ok(published(1))
    }

    fn change_canary(
        &self,
        chain: &ChainId,
        function: &Name,
        percent: u8,
    ) -> Result<(), EngineError> {
        self.call(format!("change_canary {chain} {function} {percent}"))
    }

    fn promote(&self, chain: &ChainId, function: &Name) -> Result<Published, EngineError> {
        self.call(format!("promote {chain} {function}"))?;
        Ok(published(2))
    }

    fn end_trial(&self, chain: &ChainId, function: &Name) -> Result<(), EngineError> {
        self.call(format!("end_trial {chain} {function}"))
    }

    fn expect(&self, chains: &[(&ChainId, &Chain)]) {
        let asked = self.calls.lock().unwrap().len();
        let chains = chains.iter().map(|(id, _)| id.to_string()).collect();
        *self.expected.lock().unwrap() = Some((chains, asked));
    }

    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError> {
        self.steered.lock().unwrap().insert(tenant.clone(), rules.to_vec());
        let rules: Vec<_> = rules.iter().map(SteeringRule::conditions).collect();
        self.call(format!("steer {tenant} {}", rules.join(", ")))?;
        Ok(Duration::from_micros(4))
    }

    fn steering(&self, _: &Name) -> Vec<RuleStatus> {
        let place = RulePlace {
            port: "in".parse().unwrap(),
            at: "software".to_owned(),
            reason: Some("the device is full".to_owned()),
            packets: None,
            dropped: Some("nobody takes it".to_owned()),
        };
        vec![RuleStatus { flows: 7, places: vec![place] }]
    }

    /// Says so of each rule whose name is `late`: the first is before it.
    fn covered_rules(&self, tenant: &Name) -> BTreeMap<usize, usize> {
        let steered = self.steered.lock().unwrap();
        let rules = steered.get(tenant).into_iter().flatten().enumerate();
        let late =
            |rule: &SteeringRule| rule.name.as_ref().is_some_and(|name| name.as_str() == "late");
        rules.filter(|(_, rule)| late(rule)).map(|(place, _)| (place, 0)).collect()
    }

    fn trace(&self, chain: &ChainId, request: &TraceRequest) -> Result<ChainTrace, EngineError> {
        self.call(format!("trace {chain} {} {}", request.packets, request.rule().conditions()))?;
        let step = FollowedStep { function: "filter".into(), ..FollowedStep::default() };
        let packet = FollowedPacket { steps: vec![step], ..FollowedPacket::default() };
        Ok(ChainTrace { packets: vec![packet], seen: 2 })
    }

    fn tap(&self, chain: &ChainId, request: &TapRequest) -> Result<Box<dyn Tap>, EngineError> {
        let function = request.function.as_ref().map_or("", Name::as_str);
        let conditions = request.only.rule().conditions();
        self.call(format!("tap {chain}:{function} {:?} {conditions}", request.format))?;
        // Of the longest there can be, so much that nobody's buffers take it.
        let much = request.seconds == Some(86_400);
        let endless = much || request.seconds == Some(3600);
        let texts = if much { vec![&*" ".repeat(1 << 16).leak()] } else { vec!["one", "", "two"] };
        let texts = VecDeque::from(texts);
        Ok(Box::new(FakeTap(texts, endless, Arc::clone(&self.taps))))
    }

    fn reasons(&self) -> Reasons {
        Reasons { drops: &["fault", "no-buffer"], failures: &["connect", "idle"] }
    }

    fn status(&self) -> EngineStatus {
        let deployed = self.deployed.lock().unwrap();
        let chains = deployed.values().map(|deployment| ChainStatus {
            tenant: deployment.id.tenant.clone(),
            name: deployment.id.name.clone(),
            plane: deployment.chain.plane(),
            packets_in: 5,
            packets_out: 4,
            packets_to_kernel: 2,
            packets_moved: 0,
            packets_made: 3,
            exchanges: None,
            drops: BTreeMap::from([("fault".to_owned(), 1)]),
            functions: deployment.functions.iter().map(function_status).collect(),
            pool: PoolStatus { total: 8, free: 7, out: 1 },
            trial: Some(TrialStatus {
                function: "f".parse().unwrap(),
                version: Some("2.0.0".parse().unwrap()),
                canary: None,
                packets: 3,
                verdicts_differ: 2,
                bytes_differ: 0,
                samples: Vec::new(),
                fault: None,
            }),
            workers: Vec::new(),
            worker_restarts: 0,
            worker_timeouts: 0,
        });
        let down = self.down.lock().unwrap();
        let port = |name: &str, tenant: &str| PortStatus {
            problem: down.contains(&name).then(|| "it is away".to_owned()),
            name: name.parse().unwrap(),
            kind: "memory".into(),
            tenant: tenant.parse().unwrap(),
            chain: None,
            rx_packets: 1,
            rx_bytes: 64,
            rx_dropped: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_dropped: 0,
            to_kernel_packets: 7,
            from_kernel_packets: 3,
            rx_notes: BTreeMap::from([("truncated".to_owned(), 2)]),
            drops: BTreeMap::from([("rx-too-large".to_owned(), 0)]),
            device: BTreeMap::from([("link".to_owned(), "up".to_owned())]),
            device_counters: BTreeMap::from([("rx_good_packets".to_owned(), 1)]),
            ring_buffers: 64,
            queues: Vec::new(),
        };
        let ports = vec![port("in", "default"), port("acme-in", "acme")];
        let idle =
            ListenerStatus { latency: Vec::new(), latency_sum_ns: 0, ..listener("web", "default") };
        let listeners = vec![listener("acme-web", "acme"), idle];
        let carrier = CarrierStatus { kind: "unix".into(), problem: Some("no eBPF".into()) };
        let carrier = Some(carrier);
        EngineStatus { listeners, workers: 1, ports, chains: chains.collect(), carrier }
    }

    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        self.call(format!("log {chain} {function}")).unwrap();
        let line = LogLine {
            time: "2026-01-01T00:00:00.000Z".into(),
            level: "info".into(),
            source: format!("{}:{function}", chain.name),
            message: "hello".into(),
        };
        FunctionLog { lines: vec![line], lost: 1 }
    }

    fn reload(&self, _: &HostConfig) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    fn subscribe(&self, sink: EventSink) {
        *self.sink.lock().unwrap() = Some(sink);
    }

    fn drain(&self, _: Duration) -> Drained {
        Drained::default()
    }
}

fn listener(name: &str, tenant: &str) -> ListenerStatus {
    let bucket = |(below_ns, count)| Bucket { below_ns, count };
    let latency = [(1280, 1), (1_000_000, 3), (u64::MAX, 2)].map(bucket).to_vec();
    ListenerStatus {
        problem: None,
        name: name.parse().unwrap(),
        addresses: vec!["127.0.0.1:8080".to_owned()],
        tenant: tenant.parse().unwrap(),
        chain: Some("edge".parse().unwrap()),
        accepted: 2,
        refused: 0,
        open: 1,
        requests: 3,
        active: 0,
        responses: BTreeMap::from([("2xx".to_owned(), 3)]),
        retries: 0,
        retries_denied: 0,
        spliced: 0,
        log_lost: 0,
        failures: BTreeMap::from([("connect".to_owned(), 1)]),
        received: 100,
        sent: 200,
        latency: latency.clone(),
        latency_sum_ns: 2_000_000,
        upstreams: vec![UpstreamStatus {
            address: "api.example:9000".to_owned(),
            members: vec![MemberStatus { address: "127.0.0.1:9000".to_owned(), healthy: true }],
            lookup_failures: 1,
            problem: None,
            healthy: true,
            open: 1,
            active: 0,
            connected: 2,
            requests: 3,
            responses: BTreeMap::from([("2xx".to_owned(), 2), ("5xx".to_owned(), 1)]),
            received: 300,
            sent: 200,
            failures: BTreeMap::from([("connect".to_owned(), 2)]),
            latency,
            latency_sum_ns: 1_000_000,
        }],
        certificates: [
            (2_000_000_000, &["a.example"][..]),
            (1_900_000_000, &["a.example", "b.example"]),
        ]
        .map(|(expires, names)| {
            let names = names.iter().map(ToString::to_string).collect();
            CertificateStatus { names, expires }
        })
        .into(),
        files: vec![FileStatus {
            key: "revoked".to_owned(),
            upstream: None,
            expires: 1_950_000_000,
        }],
        not_taken: Vec::new(),
    }
}

fn function_status(function: &ResolvedFunction) -> FunctionStatus {
    FunctionStatus {
        name: function.label.clone(),
        plane: Plane::Packet,
        version: function.version.clone(),
        state: Health::Running,
        packets: 5,
        verdicts: BTreeMap::from([("next".to_owned(), 5)]),
        faults: 0,
        counters: BTreeMap::from([("flows".to_owned(), 2)]),
        gauges: BTreeMap::from([("load".to_owned(), 0.5)]),
        times: Vec::new(),
        times_sum_ns: 0,
        instances: None,
        sample: Sample { calls: 2, packets: 64, nanoseconds: 6400 },
    }
}

/// Tokens: `acme-operator-token`, `acme-viewer-token`, `everybodys-admin-token`.
pub(crate) const CONFIG: &str = r#"
[[api.token]]
name = "acme"
token = "acme-operator-token"
role = "operator"
tenant = "acme"
[[api.token]]
name = "acme-viewer"
token = "acme-viewer-token"
role = "viewer"
tenant = "acme"
[[api.token]]
name = "admin"
token = "everybodys-admin-token"
role = "admin"
[rollout]
watch = "10s"
[[port]]
name = "in"
kind = "memory"
[[port]]
name = "out"
kind = "memory"
[[port]]
name = "acme-in"
kind = "memory"
tenant = "acme"
"#;

pub(crate) fn config(text: &str) -> HostConfig {
    Document::<HostConfig>::parse("weir.toml", text).unwrap().value
}

/// A host as it is between start and stop.
pub(crate) struct Host {
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) control: Arc<Control>,
    pub(crate) api: Api,
    router: Router,
    stop: watch::Sender<bool>,
    directory: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap(), CONFIG)
    }

    pub(crate) fn on(directory: tempfile::TempDir, config: &str) -> Self {
        Self::with(directory, &self::config(config))
    }

    pub(crate) fn with(directory: tempfile::TempDir, config: &HostConfig) -> Self {
        Self::starting(directory, config).restored()
    }

    pub(crate) fn restored(self) -> Self {
        // It blocks, which is not for a test's own thread.
        std::thread::scope(|scope| scope.spawn(|| self.control.restore()).join()).unwrap();
        self
    }

    /// One that has deployed nothing yet.
    pub(crate) fn starting(directory: tempfile::TempDir, config: &HostConfig) -> Self {
        let store = Store::open(&directory.path().join("store")).unwrap();
        let engine = Arc::new(FakeEngine::default());
        let control = Control::start(store, Arc::clone(&engine) as _, config).unwrap();
        let limits = Limits { upload: 100_000, timeout: Duration::from_secs(10) };
        let (stop, stopping) = watch::channel(false);
        let api = Api::new(Arc::clone(&control), limits, stopping);
        let router = api.router();
        Self { engine, control, api, router, stop, directory }
    }

    /// As after SIGKILL: nothing is said to the control plane.
    pub(crate) fn restart(self) -> Self {
        self.restart_only().restored()
    }

    /// The same; it has deployed nothing yet.
    pub(crate) fn restart_only(self) -> Self {
        self.restart_on(CONFIG)
    }

    /// The same with another configuration.
    pub(crate) fn restart_on(self, config: &str) -> Self {
        let Self { engine, control, api, router, stop, directory } = self;
        drop((engine, api, router, stop));
        // The rollout thread ends with the engine's sink.
        while Arc::strong_count(&control) > 1 {
            std::thread::yield_now();
        }
        drop(control);
        Self::starting(directory, &self::config(config))
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Sends a request as the administrator.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(Peer::Local, None, method, path, body).await
    }

    /// Sends a request over TCP.
    pub(crate) async fn ask_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.send(Peer::Remote, Some(token), method, path, body).await
    }

    async fn send(
        &self,
        peer: Peer,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).extension(peer);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = match body {
            Some(json) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(json.to_string())),
            None => request.body(Body::empty()),
        };
        self.raw(request.unwrap()).await
    }

    /// Asks for a stream, and does not read it.
    pub(crate) async fn open(&self, token: &str, path: &str) -> Response {
        self.open_with(token, "GET", path, Body::empty()).await
    }

    /// Sends JSON, and does not read the answer.
    pub(crate) async fn open_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Body,
    ) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(Peer::Remote)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        self.router.clone().oneshot(request.unwrap()).await.unwrap()
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// Pushes Wasm that says what it is.
    pub(crate) async fn push(&self, path: &str, content: &str) -> Answer {
        self.push_bytes(path, [MAGIC, content.as_bytes()].concat()).await
    }

    pub(crate) async fn push_bytes(&self, path: &str, wasm: Vec<u8>) -> Answer {
        let request = Request::post(path)
            .extension(Peer::Local)
            .header(header::CONTENT_TYPE, "application/wasm")
            .body(Body::from(wasm));
        self.raw(request.unwrap()).await
    }

    /// Pushes versions 1.0.0 and 2.0.0 of `f`, and deploys chains of it; forgets the calls for it.
    pub(crate) async fn with_chains(&self, names: &[&str]) {
        for version in ["1.0.0", "2.0.0"] {
            let path = format!("/v1/functions/f/versions?version={version}");
            assert_eq!(self.push(&path, version).await.status, StatusCode::CREATED);
        }
        for name in names {
            let chain =
                serde_json::json!({"name": name, "function": [{"use": "f", "version": "1.0.0"}]});
            let answer = self.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        }
        self.engine.calls();
    }

    /// The versions that run, by chain.
    pub(crate) async fn running(&self) -> Vec<String> {
        let chains = self.ask("GET", "/v1/chains", None).await.json();
        let items = chains["items"].as_array().unwrap().iter();
        items
            .map(|view| {
                let version = view["running"][0]["version"].as_str().unwrap();
                format!("{}={version}", view["chain"]["name"].as_str().unwrap())
            })
            .collect()
    }

    /// Waits until an event of this kind comes, and gives its message.
    pub(crate) fn wait_for(&self, kind: &str, after: u64) -> String {
        for _ in 0..500 {
            let past = self.control.events().after(None, after);
            if let Some(event) = past.iter().find(|event| event.kind.name() == kind) {
                return event.message.clone();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no event {kind}");
    }

    /// The number of the last event.
    pub(crate) fn last_event(&self) -> u64 {
        self.control.events().after(None, 0).last().map_or(0, |event| event.id)
    }
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// Checks that this is a problem document, and gives its code and detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> (String, String) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], self.status.canonical_reason().unwrap());
        let text = |key: &str| problem[key].as_str().unwrap().to_owned();
        (text("code"), text("detail"))
    }
}
