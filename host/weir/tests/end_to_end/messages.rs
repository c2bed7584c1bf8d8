//! The message plane: real clients and servers with a chain between them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use weir_tests::built::{built_file, changed_template, from_template};
use weir_tests::wat_guest::counts_requests;

use crate::host::Host;

/// Says what it was sent.
const ECHO: &str = r#"
import http.server, itertools, json, sys, urllib.parse
count = itertools.count()
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while (size := int(self.rfile.readline(), 16)) > 0:
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        said = {"method": self.command, "path": self.path, "fields": self.headers.items(), "body": body.decode(),
                "number": next(count), "server": self.server.server_address[1]}
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        for name, value in urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query):
            if name in ("cache-control", "etag"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)
    do_GET = do_POST = do_PUT = do
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A server of the test's own, ended with it.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::of(ECHO)
    }

    /// A Python script that says its port first.
    pub(crate) fn of(script: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where functions run: everything holds in both.
#[derive(Clone, Copy)]
enum Mode {
    Thread,
    Process,
}

fn config(mode: Mode, upstream: u16) -> String {
    let mode = match mode {
        Mode::Thread => "thread",
        Mode::Process => "process",
    };
    format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nthreads = 2\nmode = \"{mode}\"\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"web\"\n\
         upstream = [\"127.0.0.1:{upstream}\"]\n\
         [[listener]]\nname = \"raw\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = [\"127.0.0.1:{upstream}\"]\n"
    )
}

const CHAIN: &str = "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"probe\"\non-fault = \"fail-closed\"\n\
                     [function.config]\nname = \"first\"\nmine = \"/do\"\n";

pub(crate) fn address(host: &Host, listener: usize) -> String {
    let status = host.json(&["status"]);
    status["listeners"][listener]["addresses"][0].as_str().expect("it listens").to_owned()
}

/// What curl got: status, and all of it as text.
pub(crate) fn curl(arguments: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--include"]).args(arguments);
    let output = command.output().expect("curl starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let error = String::from_utf8_lossy(&output.stderr);
    (status.unwrap_or_else(|| panic!("{arguments:?}: {error}{text}")), text)
}

fn push(host: &Host, version: &str) {
    let file = built_file("message-probe");
    let file = file.to_str().expect("text");
    host.ok(&["function", "push", file, "--name", "probe", "--version", version]);
}

#[test]
fn requests_pass_a_chain_that_is_swapped_under_load_and_is_there_after_a_crash() {
    swapped_under_load(Mode::Thread);
}

#[test]
fn in_processes_requests_pass_a_chain_that_is_swapped_under_load_and_is_there_after_a_crash() {
    swapped_under_load(Mode::Process);
}

fn swapped_under_load(mode: Mode) {
    let server = Server::start();
    let mut host = Host::start(&config(mode, server.port));
    let web = format!("http://{}", address(&host, 0));
    let (status, text) = curl(&[&format!("{web}/before")]);
    assert!(status == 503 && text.contains("not deployed"), "{text}");
    let failures = |host: &Host| host.json(&["status"])["listeners"][0]["failures"].clone();
    assert_eq!(failures(&host), serde_json::json!({"no-chain": 1}));
    host.wait_for("it is said which", |host| {
        host.log().contains(": no-chain: GET /before of 127.0.0.1:")
    });

    push(&host, "1.0.0");
    push(&host, "1.1.0");
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, text) = curl(&[protocol, "--data", "some text", &format!("{web}/do/upper")]);
        assert_eq!(status, 200, "{text}");
        assert!(text.to_ascii_lowercase().contains("x-seen-by: first"), "{text}");
        // The function changed what the server was sent, and what it answered.
        assert!(text.contains("SOME TEXT") && text.contains("\"PATH\": \"/DO/UPPER\""), "{text}");
    }
    let (status, text) = curl(&[&format!("{web}/do/answer")]);
    assert_eq!((status, text.matches('x').count() > 40_000), (418, true));
    let (status, text) = curl(&["--data", "a bad thing", &format!("{web}/do/hold")]);
    assert!(status == 403 && text.ends_with("no"), "{text}");

    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = || {
            while !over.load(Ordering::Relaxed) {
                let (status, text) = curl(&[&format!("{web}/x"), &format!("{web}/y")]);
                assert!(status == 200 && text.matches("200 OK").count() == 2, "{text}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let loads: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
        for version in ["1.0.0", "1.1.0", "1.0.0"] {
            host.ok(&["function", "swap", "probe", "--to", version]);
            let before = done.load(Ordering::Relaxed);
            while done.load(Ordering::Relaxed) < before + 6
                && loads.iter().all(|l| !l.is_finished())
            {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(host.running(), "1.0.0");
    let metrics =
        curl(&["--unix-socket", host.path("api.sock").to_str().unwrap(), "http://x/metrics"]).1;
    assert!(metrics.contains("weir_listener_requests_total{listener=\"web\"}"), "{metrics}");
    assert!(metrics.contains("weir_function_seconds_bucket{"), "{metrics}");
    // The sum is of the times themselves: less than if each were as long as its bucket allows.
    let status = host.json(&["status"]);
    let function = &status["chains"][0]["functions"][0];
    let sum = function["times_sum_ns"].as_u64().expect("a sum");
    let buckets = function["times"].as_array().expect("times").iter();
    let most: u64 = buckets
        .map(|b| b["below_ns"].as_u64().expect("a bound") * b["count"].as_u64().expect("a count"))
        .sum();
    assert!(0 < sum && sum < most, "{status}");
    let told = format!(" {:?}", sum as f64 / 1e9);
    let sums = metrics.lines().filter(|line| line.starts_with("weir_function_seconds_sum{"));
    assert!(sums.clone().any(|line| line.ends_with(&told)), "{told}: {metrics}");

    let (_, directory, _) = host.end(Signal::KILL);
    let host = Host::start_in(directory, &config(mode, server.port));
    let (status, text) = curl(&[&format!("http://{}/after", address(&host, 0))]);
    assert!(status == 200 && text.contains("x-seen-by: first"), "{text}");
    host.ok(&["chain", "remove", "web"]);
    assert_eq!(curl(&[&format!("http://{}/after", address(&host, 0))]).0, 503);
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
}

#[test]
fn a_fault_is_one_answer_and_a_new_version_that_faults_is_taken_back() {
    faults(Mode::Thread);
}

#[test]
fn in_processes_a_fault_is_one_answer_and_a_new_version_that_faults_is_taken_back() {
    faults(Mode::Process);
}

fn faults(mode: Mode) {
    let server = Server::start();
    let mut host = Host::start(&config(mode, server.port));
    let web = format!("http://{}", address(&host, 0));
    push(&host, "1.0.0");
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    assert_eq!(curl(&[&format!("{web}/do/trap")]).0, 503);
    host.wait_for("it is back", |_| curl(&[&format!("{web}/x")]).0 == 200);
    let told = "function probe 1.0.0 in chain web faulted: trap: wasm `unreachable`";
    host.wait_for("its fault is told", |host| host.ok(&["events"]).contains(told));
    push(&host, "1.1.0");
    host.ok(&["function", "swap", "probe", "--to", "1.1.0"]);
    assert_eq!(curl(&[&format!("{web}/do/spin")]).0, 503);
    assert_eq!(curl(&[&format!("{web}/x")]).0, 200);
    host.wait_for("the old version runs", |host| host.running() == "1.0.0");
    assert!(host.ok(&["function", "log", "probe"]).contains("fault"));
}

/// Agrees to speak another protocol, and has a status of its own for everybody else.
const ODD: &str = r#"
import http.server
class Odd(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if "upgrade" not in self.headers:
            self.send_response(999, "Odd")
            self.send_header("content-length", "3")
            self.end_headers()
            self.wfile.write(b"odd")
            return
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "echo")
        self.end_headers()
        self.wfile.write(b"echo " + self.rfile.readline())
        self.close_connection = True
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

#[test]
fn what_a_server_says_is_no_fault_of_functions_that_change_its_response() {
    changes_of_odd_responses(Mode::Thread);
}

#[test]
fn in_processes_what_a_server_says_is_no_fault_of_functions_that_change_its_response() {
    changes_of_odd_responses(Mode::Process);
}

fn changes_of_odd_responses(mode: Mode) {
    let server = Server::of(ODD);
    let host = Host::start(&config(mode, server.port));
    host.ok(&["function", "push", built_file("rewrite").to_str().expect("text")]);
    let chain = format!("name = \"web\"\nplane = \"message\"\n{}", crate::proxies::REWRITE);
    host.write("c.toml", chain);
    host.ok(&["chain", "apply", "c.toml"]);
    let web = address(&host, 0);
    let (status, text) = curl(&[&format!("http://{web}/")]);
    assert!(status == 999 && text.contains("x-after: yes") && text.ends_with("odd"), "{text}");
    let mut stream = std::net::TcpStream::connect(&web).expect("it listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello\n";
    stream.write_all(ask.as_bytes()).expect("it is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end");
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("x-after: yes"), "{text}");
    assert!(text.ends_with("echo hello\n"), "{text}");
    let function = host.json(&["status"])["chains"][0]["functions"][0].clone();
    assert_eq!(function["faults"], 0, "{function}");
}

#[test]
fn what_belongs_to_the_other_plane_is_refused_with_what_to_do() {
    refusals(Mode::Thread);
}

#[test]
fn in_processes_what_belongs_to_the_other_plane_is_refused_with_what_to_do() {
    refusals(Mode::Process);
}

fn refusals(mode: Mode) {
    let server = Server::start();
    let host = Host::start(&config(mode, server.port));
    push(&host, "1.0.0");
    host.write(
        "p.toml",
        "name = \"p\"\nplane = \"packet\"\n[[function]]\nuse = \"probe\"\n[function.config]\nname = \"x\"\n",
    );
    let error = host.fails(&["chain", "apply", "p.toml"]);
    assert!(error.contains("is for messages") && error.contains("leave `plane` out"), "{error}");
    host.write("f.wasm", crate::guests::pass(1));
    host.ok(&["function", "push", "f.wasm", "--name", "gate", "--version", "1.0.0"]);
    host.write("m.toml", "name = \"m\"\nplane = \"message\"\n[[function]]\nuse = \"gate\"\n");
    let error = host.fails(&["chain", "apply", "m.toml"]);
    assert!(error.contains("is for packets"), "{error}");
    host.write("r.toml", CHAIN.replace("\"first\"", "\"refuse\""));
    let error = host.fails(&["chain", "apply", "r.toml"]);
    assert!(error.contains("not to be called"), "{error}");
}

/// What functions for connections decide holds for those that carry requests, and functions for
/// requests are not where none come.
#[test]
fn functions_are_where_they_are_asked() {
    asked_or_refused(Mode::Thread);
}

#[test]
fn in_processes_functions_are_where_they_are_asked() {
    asked_or_refused(Mode::Process);
}

fn asked_or_refused(mode: Mode) {
    let server = Server::start();
    let text = config(mode, server.port).replace("\"tcp\"", "\"tcp\"\nchain = \"raw\"");
    let mut host = Host::start(&text);
    push(&host, "1.0.0");
    host.ok(&["function", "push", built_file("tcp-policy").to_str().expect("text")]);
    // Nobody gets through where the chain is not there yet.
    let refused = |host: &Host, listener: usize, arguments: &[&str]| {
        let url = format!("http://{}/x", address(host, listener));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20"]).args(arguments).arg(url);
        let status = curl.stdout(Stdio::null()).status().expect("curl starts").code();
        // Not answered, and not too late.
        !matches!(status, Some(0 | 28))
    };
    assert!(refused(&host, 1, &[]));

    let chain = "name = \"web\"\n[[function]]\nuse = \"tcp-policy\"\n[function.config]\ndefault = \"deny\"\n\
                 rules = [ { action = \"allow\", client = [\"127.0.5.0/24\"] }, { action = \"allow\", client = [\"127.0.6.1\"], protocol = [\"ssh\"] } ]\n\
                 limits = { concurrent = 1 }\n";
    host.write("web.toml", chain);
    host.ok(&["chain", "apply", "web.toml"]);
    let web = format!("http://{}", address(&host, 0));
    // curl 7.88 does not send a second request by a connection of HTTP/2 that it began so.
    for (version, path) in [("--http1.1", "/[1-2]"), ("--http2-prior-knowledge", "/2")] {
        let url = format!("{web}{path}");
        // Of HTTP/1.1 two requests by one connection; there may be another one when its end was
        // told.
        host.wait_for("it has its place", |_| {
            let got = Command::new("curl")
                .args(["--silent", "--max-time", "20", "--interface", "127.0.5.1", version, &url])
                .output();
            let text = String::from_utf8(got.expect("curl starts").stdout).expect("text");
            text.contains("\"path\": \"/2\"")
        });
        assert!(refused(&host, 0, &[version]));
        // What first bytes would have to tell.
        assert!(refused(&host, 0, &[version, "--interface", "127.0.6.1"]));
    }
    host.wait_for("it was asked once for each connection", |host| {
        let status = host.json(&["status"]);
        let counters = &status["chains"][0]["functions"][0]["counters"];
        (&counters["allowed"], &counters["denied"]) == (&2.into(), &2.into())
    });

    // Others are for requests.
    let raw = CHAIN.replace("\"web\"", "\"raw\"");
    host.write("raw.toml", &raw);
    let error = host.fails(&["chain", "apply", "raw.toml"]);
    for part in [
        "function probe is for requests",
        "listener raw",
        "= key: function[0].use",
        "`protocol` to \"http\"",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(refused(&host, 1, &[]));
    // Where they are the listener stays as it is.
    host.write("web.toml", CHAIN);
    host.ok(&["chain", "apply", "web.toml"]);
    let odd = text.replace("\"http\"", "\"tcp\"");
    host.write("weir.toml", &odd);
    host.signal(Signal::HUP);
    host.wait_for("it is not taken", |host| host.log().contains("was not taken"));
    let problem = host.json(&["status"])["config_problem"].to_string();
    for part in [
        "chain web has function probe",
        "weir.toml:11:12",
        "key: listener[0].protocol",
        "set it to",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(curl(&[&format!("{web}/do/upper")]).0, 200);
    // A host that starts so keeps the chain, says why it does not run, and lets nobody through.
    let (_, directory, _) = host.end(Signal::TERM);
    let host = Host::start_in(directory, &odd);
    let failed = host.json(&["status"])["failed"]["default/web"].to_string();
    assert!(failed.contains("function probe is for requests"), "{failed}");
    assert!(refused(&host, 0, &[]));
}

#[test]
fn bytes_of_a_tcp_listener_go_straight_on() {
    let server = Server::start();
    let host = Host::start(&config(Mode::Thread, server.port));
    let (status, text) = curl(&["--data", "body", &format!("http://{}/raw", address(&host, 1))]);
    assert!(status == 200 && text.contains("\"path\": \"/raw\""), "{text}");
}

/// The workers of this host that run now.
pub(crate) fn workers(host: &Host) -> Vec<rustix::process::Pid> {
    let ours = |entry: std::fs::DirEntry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        // Behind the name in brackets: the state, and who started it.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, parent) = (words.next()?, words.next()?);
        let is = parent == host.pid().to_string() && command.contains("__message-worker");
        rustix::process::Pid::from_raw(id).filter(|_| is && state != "Z")
    };
    std::fs::read_dir("/proc").expect("it is there").flatten().filter_map(ours).collect()
}

#[test]
fn a_worker_that_is_killed_under_load_leaves_every_request_answered_and_no_buffer_lost() {
    let server = Server::start();
    let mut host = Host::start(&config(Mode::Process, server.port));
    push(&host, "1.0.0");
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    assert_eq!(workers(&host).len(), 2, "one for each thread");
    let (over, good, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let number = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let load = || {
            while !over.load(Ordering::Relaxed) {
                let path = format!("/do/{}/own", number.fetch_add(1, Ordering::Relaxed));
                let (status, text) = curl(&[&format!("{web}{path}")]);
                match status {
                    200 => {
                        assert!(text.contains(&format!("\"{path}\"")), "its own: {text}");
                        good.fetch_add(1, Ordering::Relaxed);
                    }
                    503 => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    other => panic!("{other}: {text}"),
                }
            }
        };
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for _ in 0..5 {
            let before = good.load(Ordering::Relaxed);
            while good.load(Ordering::Relaxed) < before + 8
                && loads.iter().all(|l| !l.is_finished())
            {
                std::thread::yield_now();
            }
            for worker in workers(&host) {
                // It may have died just now.
                let _ = rustix::process::kill_process(worker, Signal::KILL);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    host.wait_for("workers run again", |host| workers(host).len() == 2);
    host.wait_for("both take requests", |_| (0..8).all(|_| curl(&[&web]).0 == 200));
    let chain = host.json(&["status"])["chains"][0].clone();
    assert!(chain["worker_restarts"].as_u64() >= Some(8), "{chain}");
    assert_eq!(chain["packets_in"], chain["packets_out"], "{chain}");
    assert_eq!(chain["pool"]["out"], 0, "{chain}");
    assert_eq!(chain["pool"]["free"], chain["pool"]["total"], "{chain}");
    let metrics =
        curl(&["--unix-socket", host.path("api.sock").to_str().unwrap(), "http://x/metrics"]).1;
    assert!(metrics.contains("weir_chain_worker_restarts_total{"), "{metrics}");
    let carrier = host.json(&["status"])["carrier"].clone();
    let kind = carrier["kind"].as_str().unwrap();
    assert_eq!(carrier["problem"].is_null(), kind == "sk_msg", "{carrier}");
    assert!(
        metrics.contains(&format!("weir_gateway_carrier{{carrier=\"{kind}\"}} 1")),
        "{metrics}"
    );
    assert!(host.ok(&["status"]).contains(&format!("processes are reached by {kind}")));
    // A swap after deaths is there after the next one.
    push(&host, "1.1.0");
    host.ok(&["function", "swap", "probe", "--to", "1.1.0"]);
    for worker in workers(&host) {
        let _ = rustix::process::kill_process(worker, Signal::KILL);
    }
    host.wait_for("both take requests", |_| (0..8).all(|_| curl(&[&web]).0 == 200));
    assert_eq!(host.running(), "1.1.0");
}

/// Clients at addresses of their own ask without end, and every answer has to be good, while this
/// is done.
fn under_load(web: &str, path: &str, work: impl FnOnce(&AtomicUsize)) {
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = |client: usize| {
            let url = format!("{web}{path}");
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let from = format!("127.0.{client}.{}", 1 + n % 20);
                let (status, text) = curl(&["--interface", &from, &url, &url]);
                assert!(status == 200 && text.matches("200 OK").count() == 2, "{text}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let loads: Vec<_> = (1..4).map(|client| scope.spawn(move || load(client))).collect();
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&done)));
        over.store(true, Ordering::Relaxed);
        loads.into_iter().for_each(|load| load.join().expect("every answer is good"));
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn versions_are_tried_kept_and_taken_back_under_load() {
    trials(Mode::Thread);
}

#[test]
fn in_processes_versions_are_tried_kept_and_taken_back_under_load() {
    trials(Mode::Process);
}

fn trials(mode: Mode) {
    let server = Server::start();
    let mut host = Host::start(&config(mode, server.port));
    let web = format!("http://{}", address(&host, 0));
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        push(&host, version);
    }
    host.write("c.toml", CHAIN.replace("use = \"probe\"", "use = \"probe\"\nversion = \"1.0.0\""));
    host.ok(&["chain", "apply", "c.toml"]);
    let chain = |host: &Host| host.json(&["status"])["chains"][0].clone();
    let tried = |host: &Host| chain(host)["trial"]["packets"].as_u64().unwrap_or(0);
    under_load(&web, "/do/twice", |_| {
        let swap = |host: &Host, version: &str, how: &[&str]| {
            host.ok(&[&["function", "swap", "probe", "--to", version], how].concat());
        };
        // A shadow sees what the running version sees, and decides as it does: it is the same code.
        swap(&host, "1.1.0", &["--shadow"]);
        host.wait_for("the shadow sees events", |host| tried(host) > 40);
        let status = chain(&host);
        assert_eq!(status["trial"]["verdicts_differ"], 0, "{status}");
        assert_eq!(status["trial"]["bytes_differ"], 0, "{status}");
        assert_eq!(host.running(), "1.0.0");
        host.ok(&["function", "rollback", "probe"]);
        assert!(chain(&host)["trial"].is_null());

        // A share of the clients, a larger one, and all of them.
        swap(&host, "1.1.0", &["--canary", "30"]);
        host.wait_for("the canary gets some", |host| tried(host) > 10);
        swap(&host, "1.1.0", &["--canary", "80"]);
        let before = tried(&host);
        host.wait_for("it gets more", |host| tried(host) > before + 20);
        assert_eq!(chain(&host)["trial"]["canary"], 80);
        if let Mode::Process = mode {
            assert_eq!(workers(&host).len(), 2);
        }
        swap(&host, "1.1.0", &[]);
        assert_eq!(host.running(), "1.1.0");
        assert!(chain(&host)["trial"].is_null());

        // A canary that is taken back, a swap, and its roll-back.
        swap(&host, "1.2.0", &["--canary", "50"]);
        host.wait_for("the canary gets some", |host| tried(host) > 10);
        host.ok(&["function", "rollback", "probe"]);
        assert_eq!(host.running(), "1.1.0");
        swap(&host, "1.2.0", &[]);
        assert_eq!(host.running(), "1.2.0");
        host.ok(&["function", "rollback", "probe"]);
        assert_eq!(host.running(), "1.1.0");
    });
    host.wait_for("all have ended", |host| {
        let status = chain(host);
        status["packets_in"] == status["packets_out"] && status["pool"]["out"] == 0
    });
    let status = chain(&host);
    assert_eq!(status["pool"]["free"], status["pool"]["total"], "{status}");
    assert_eq!(status["functions"][0]["faults"], 0, "{status}");
    assert_eq!(status["worker_restarts"], 0, "{status}");
    // What one trial has found is not the next one's, though nobody has looked in between.
    for version in ["1.0.0", "1.2.0"] {
        host.ok(&["function", "swap", "probe", "--to", version, "--shadow"]);
        assert_eq!(tried(&host), 0, "{version}");
        (0..4).for_each(|_| assert_eq!(curl(&[&format!("{web}/do/twice")]).0, 200));
        host.ok(&["function", "rollback", "probe"]);
    }
    // What was decided is there after a crash.
    let (_, directory, _) = host.end(Signal::KILL);
    let host = Host::start_in(directory, &config(mode, server.port));
    assert_eq!(host.running(), "1.1.0");
    assert_eq!(curl(&[&format!("http://{}/x", address(&host, 0))]).0, 200);
}

#[test]
fn what_one_part_of_a_chain_refuses_leaves_all_as_they_were() {
    refused_by_one(Mode::Thread);
}

#[test]
fn in_processes_what_one_part_of_a_chain_refuses_leaves_all_as_they_were() {
    refused_by_one(Mode::Process);
}

/// A chain of two listeners has two parts, of which the second refuses.
fn refused_by_one(mode: Mode) {
    let server = Server::start();
    let both = config(mode, server.port).replace("threads = 2", "threads = 1");
    let host =
        Host::start(&both.replace("protocol = \"tcp\"", "protocol = \"http\"\nchain = \"web\""));
    // Three has another state layout, and four that of one and two again.
    for version in 1..=4 {
        host.write("f.wasm", counts_requests(version, version == 3));
        host.write(
            "f.toml",
            format!("state = \"region\"\nlayout = \"{}\"\naccess = \"read-write\"\n", version == 3),
        );
        let version = format!("{version}.0.0");
        let push = ["function", "push", "f.wasm", "--manifest", "f.toml"];
        host.ok(&[&push[..], &["--name", "probe", "--version", &version]].concat());
    }
    let chain =
        "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"probe\"\nversion = \"1.0.0\"\n";
    host.write("c.toml", chain);
    host.ok(&["chain", "apply", "c.toml"]);
    let said = |path: &str| {
        [0, 1].map(|listener| {
            let (_, text) = curl(&[&format!("http://{}{path}", address(&host, listener))]);
            let path = text.split("\"path\": \"/").nth(1).map(|path| path[..2].to_owned());
            path.unwrap_or_else(|| panic!("{text}"))
        })
    };
    let swap = |version: &str, how: &[&str]| {
        host.json(&[&["function", "swap", "probe", "--to", version], how].concat())
    };
    let refused = || {
        let error = host.fails(&["function", "swap", "probe", "--to", "3.0.0"]);
        assert!(error.contains("probe refused its saved state: it was asked to"), "{error}");
    };
    assert_eq!(said("/xx"), ["11", "11"]);
    swap("2.0.0", &[]);
    let second = format!("http://{}/rr", address(&host, 1));
    assert_eq!(curl(&[&second]).0, 200);
    assert_eq!(said("/xx"), ["22", "23"]);
    refused();
    assert_eq!(host.running(), "2.0.0");
    assert_eq!(said("/xx"), ["23", "24"]);
    // What is known of the state is that of what runs.
    assert_eq!(swap("4.0.0", &[])["fresh"], serde_json::json!([]));
    assert_eq!(said("/xx"), ["44", "45"]);
    // As a canary it runs with what it has of its own, and is refused when it is to go on with what
    // the other had.
    swap("3.0.0", &["--canary", "1"]);
    refused();
    assert_eq!(host.running(), "4.0.0");
    assert!(host.json(&["status"])["chains"][0]["trial"].is_null());
    assert_eq!(said("/xx"), ["45", "46"]);
    assert_eq!(swap("1.0.0", &[])["fresh"], serde_json::json!([]));
    assert_eq!(said("/xx"), ["16", "17"]);
    let (_, _, log) = host.end(Signal::TERM);
    assert!(!log.contains("it is not as before"), "{log}");
}

#[test]
fn a_trial_goes_on_in_the_worker_that_comes_after_a_dead_one() {
    let server = Server::start();
    let mut host = Host::start(&config(Mode::Process, server.port));
    let web = format!("http://{}", address(&host, 0));
    push(&host, "1.0.0");
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    push(&host, "1.1.0");
    let tried =
        |host: &Host| host.json(&["status"])["chains"][0]["trial"]["packets"].as_u64().unwrap_or(0);
    for how in [&["--canary", "99"][..], &["--shadow"]] {
        host.ok(&[&["function", "swap", "probe", "--to", "1.1.0"], how].concat());
        for worker in workers(&host) {
            let _ = rustix::process::kill_process(worker, Signal::KILL);
        }
        host.wait_for("workers run again", |host| workers(host).len() == 2);
        let before = tried(&host);
        host.wait_for("the trial goes on", |host| {
            (1..20).for_each(|n| {
                curl(&["--interface", &format!("127.0.1.{n}"), &web]);
            });
            tried(host) > before
        });
        host.ok(&["function", "rollback", "probe"]);
        assert_eq!(host.running(), "1.0.0");
    }
}

/// A worker that is stopped lives, and neither answers nor dies.
#[test]
fn a_worker_that_is_silent_is_ended_and_what_waited_for_it_is_answered() {
    let slow = "def do(self):\n        if \"/called\" in self.path: time.sleep(1.5)\n";
    let server = Server::of(&format!("import time{}", ECHO.replace("def do(self):\n", slow)));
    let short = config(Mode::Process, server.port)
        .replace("threads = 2\n", "threads = 1\nworker-timeout = \"400ms\"\n");
    let mut host = Host::start(&short);
    push(&host, "1.0.0");
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    // A function that waits for longer than that is no silent worker.
    let (status, text) = curl(&[&format!("{web}/do/call")]);
    assert!(status == 200 && text.contains("\"/do/call\""), "{text}");
    let timeouts = |host: &Host| {
        host.json(&["status"])["chains"][0]["worker_timeouts"].as_u64().expect("a number")
    };
    assert_eq!(timeouts(&host), 0);
    let (over, good, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = || {
            while !over.load(Ordering::Relaxed) {
                match curl(&["--data", "some text", &format!("{web}/do/upper")]) {
                    (200, text) => {
                        assert!(text.contains("SOME TEXT"), "{text}");
                        good.fetch_add(1, Ordering::Relaxed);
                    }
                    (503, _) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    (other, text) => panic!("{other}: {text}"),
                }
            }
        };
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for round in 1..=3 {
            let before = good.load(Ordering::Relaxed);
            while good.load(Ordering::Relaxed) < before + 8
                && loads.iter().all(|l| !l.is_finished())
            {
                std::thread::yield_now();
            }
            let worker = workers(&host)[0];
            rustix::process::kill_process(worker, Signal::STOP).expect("it lives");
            host.wait_for("another worker runs", |host| {
                workers(host).first().is_some_and(|other| *other != worker)
            });
            assert_eq!(timeouts(&host), round);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(refused.load(Ordering::Relaxed) >= 3, "those that waited were answered");
    host.wait_for("it takes requests", |_| curl(&[&web]).0 == 200);
    host.wait_for("all have ended", |host| {
        let chain = host.json(&["status"])["chains"][0].clone();
        chain["packets_in"] == chain["packets_out"] && chain["pool"]["out"] == 0
    });
    let chain = host.json(&["status"])["chains"][0].clone();
    assert_eq!(chain["pool"]["free"], chain["pool"]["total"], "{chain}");
    assert_eq!(chain["worker_restarts"], 3, "{chain}");
    assert!(host.log().contains("gave no sign of life for 400ms"), "{}", host.log());
    let metrics =
        curl(&["--unix-socket", host.path("api.sock").to_str().unwrap(), "http://x/metrics"]).1;
    assert!(metrics.contains("weir_chain_worker_timeouts_total{"), "{metrics}");
    assert!(host.ok(&["status"]).contains("workers ended for silence: 3"));
}

/// The function that a new project in a language is guards requests.
fn guards_requests(language: &str) {
    let directory = tempfile::tempdir().unwrap();
    let wasm = from_template(language, "message", "path-guard", directory.path());
    for mode in [Mode::Thread, Mode::Process] {
        let server = Server::start();
        let host = Host::start(&config(mode, server.port));
        let web = format!("http://{}", address(&host, 0));
        host.ok(&["function", "push", wasm.to_str().unwrap()]);
        let chain = |private: &str| {
            format!(
                "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"path-guard\"\n[function.config]\nprivate = [{private}]\n"
            )
        };
        host.write("c.toml", chain("\"/admin\", \"/internal/\""));
        host.ok(&["chain", "apply", "c.toml"]);
        for path in ["/admin/users", "/admin", "/internal/x?y"] {
            let (status, text) = curl(&[&format!("{web}{path}")]);
            assert!(status == 403 && text.ends_with("This is private.\n"), "{text}");
            assert!(text.contains("content-type: text/plain; charset=utf-8"), "{text}");
        }
        assert_eq!(curl(&[&format!("{web}/internal")]).0, 200);
        // What a client says of itself does not count.
        let (status, text) =
            curl(&["--data", "hello", "--header", "X-Guard: forged", &format!("{web}/open")]);
        assert_eq!(status, 200);
        assert!(text.contains("[\"x-guard\", \"passed\"]") && !text.contains("forged"), "{text}");
        assert!(text.contains("\"body\": \"hello\""), "{text}");
        host.write("c.toml", chain("\"admin\""));
        let refused = host.fails(&["chain", "apply", "c.toml"]);
        assert!(refused.contains("begin with /"), "{refused}");
        host.write("c.toml", chain("").replace("private", "privat"));
        let refused = host.fails(&["chain", "apply", "c.toml"]);
        assert!(refused.contains("privat"), "{refused}");
        host.write("c.toml", chain(""));
        host.ok(&["chain", "apply", "c.toml"]);
        assert_eq!(curl(&[&format!("{web}/admin")]).0, 200);
    }
}

#[test]
fn a_function_in_c_guards_requests() {
    guards_requests("c");
}

#[test]
fn a_function_in_go_guards_requests() {
    guards_requests("go");
}

#[test]
fn a_function_in_assemblyscript_guards_requests() {
    guards_requests("assemblyscript");
}

#[test]
fn a_function_in_wat_guards_requests() {
    guards_requests("wat");
}

/// The template's project of a language, with other texts so that it is of the world
/// `connection-function`, changes bytes of a connection in place: each `q` from the client becomes
/// a `z`.
fn changes_what_connections_carry(language: &str, changes: &[(&str, &str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let wasm = changed_template(language, "message", "substitute", directory.path(), changes);
    for mode in [Mode::Thread, Mode::Process] {
        let server = Server::start();
        let text = config(mode, server.port).replace("\"tcp\"", "\"tcp\"\nchain = \"raw\"");
        let host = Host::start(&text);
        host.ok(&["function", "push", wasm.to_str().unwrap()]);
        host.write(
            "c.toml",
            "name = \"raw\"\nplane = \"message\"\n[[function]]\nuse = \"substitute\"\n",
        );
        host.ok(&["chain", "apply", "c.toml"]);
        let (status, text) =
            curl(&["--data", "quiet", &format!("http://{}/a/q", address(&host, 1))]);
        assert_eq!(status, 200);
        assert!(
            text.contains("\"path\": \"/a/z\"") && text.contains("\"body\": \"zuiet\""),
            "{text}"
        );
    }
}

#[test]
fn a_function_in_c_changes_what_connections_carry() {
    const SOURCE: &str = r#"
#include <weir/message.h>
static weir_counter pieces;
bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
    (void)setup, (void)config, (void)error;
    pieces = weir_counter_named("pieces");
    return true;
}
uint32_t weir_wants(void) { return WEIR_DATA; }
weir_outcome weir_data(uint32_t exchange, bool from_upstream, weir_piece *piece) {
    (void)exchange;
    if (from_upstream) return WEIR_CONTINUE;
    for (uint32_t i = 0; i < piece->length; i++) {
        if (piece->data[i] == 'q') piece->data[i] = 'z';
    }
    weir_piece_changed(piece);
    weir_counter_add(pieces, 1);
    return WEIR_CONTINUE;
}
"#;
    changes_what_connections_carry(
        "c",
        &[("build", "world=message", "world=connection"), ("main.c", "", SOURCE)],
    );
}

#[test]
fn a_function_in_go_changes_what_connections_carry() {
    const SOURCE: &str = r#"package main

import "weir"

type substitute struct{ pieces *weir.Counter }

func (s *substitute) Configure(*weir.Setup, *struct{}) error {
	s.pieces = weir.NewCounter("pieces")
	return nil
}

func (s *substitute) Data(_ weir.Exchange, fromUpstream bool, piece *weir.Piece) weir.Outcome {
	if !fromUpstream {
		for i, b := range piece.Data() {
			if b == 'q' {
				piece.Data()[i] = 'z'
			}
		}
		piece.Changed()
		s.pieces.Add(1)
	}
	return weir.Continue
}

func init() { weir.ExportConnection[struct{}](&substitute{}) }

func main() {}
"#;
    let changes = [("build", "tag=message", "tag=connection"), ("main.go", "", SOURCE)];
    changes_what_connections_carry("go", &changes);
}

#[test]
fn a_function_in_assemblyscript_changes_what_connections_carry() {
    const SOURCE: &str = r#"
import { Counter, Exchange, Outcome, Piece, onData } from "message";
export * from "exports/connection";

const pieces = new Counter("pieces");

onData((exchange: Exchange, fromUpstream: bool, piece: Piece): Outcome => {
  if (fromUpstream) return Outcome.Continue;
  for (let i: u32 = 0; i < piece.length; i++) {
    if (load<u8>(piece.start + i) == 0x71) store<u8>(piece.start + i, 0x7a);
  }
  piece.changed = true;
  pieces.add(1);
  return Outcome.Continue;
});
"#;
    let changes = [("build", "world=message", "world=connection"), ("main.ts", "", SOURCE)];
    changes_what_connections_carry("assemblyscript", &changes);
}
