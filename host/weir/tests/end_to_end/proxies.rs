//! Components of the world `wasi:http/proxy` in chains: built by toolchains that know nothing of
//! Weir, between functions of Weir's own, with curl on one side and a server that streams on the
//! other.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use weir_tests::built::{built_file, workspace};

use crate::host::{Host, weir};
use crate::messages::{Server, address, curl, workers};

/// Gives back what it is sent while it comes (`/echo`), sends much (`/big`), or says what it was
/// sent, perhaps later (`/lazy`).
pub(crate) const SERVER: &str = r#"
import http.server, itertools, time
count = itertools.count()
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while (size := int(self.rfile.readline(), 16)) > 0:
                while size > 0:
                    piece = self.rfile.read1(min(size, 65536))
                    size -= len(piece)
                    yield piece
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("content-length", 0))
            while left > 0:
                piece = self.rfile.read1(min(left, 65536))
                left -= len(piece)
                yield piece
    def do(self):
        if self.path.startswith("/echo"):
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in self.body():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path.startswith("/big"):
            self.send_response(200)
            self.send_header("content-length", str(192 << 20))
            self.end_headers()
            for _ in range(192 << 4):
                self.wfile.write(bytes(65536))
            return
        if self.path.startswith("/lazy"):
            time.sleep(2)
        body = sum(map(len, self.body()))
        text = "".join(f"sent-{name.lower()}: {value}\n" for name, value in self.headers.items())
        text = f"{self.command} {self.path} number {next(count)}\n{text}body: {body}\n"
        self.send_response(503 if self.path == "/fail" else 200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())
    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

pub(crate) fn config(mode: &str, protocol: &str, upstreams: &[u16]) -> String {
    let upstreams: Vec<String> =
        upstreams.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nchain = \"web\"\n\
         upstream = [{}]\n",
        upstreams.join(", ")
    )
}

/// A chain of the component, between functions before and after it.
pub(crate) fn chain(before: &str, keys: &str, after: &str) -> String {
    format!(
        "name = \"web\"\nplane = \"message\"\n{before}\n[[function]]\nuse = \"probe\"\n{keys}\n{after}\n"
    )
}

pub(crate) const REWRITE: &str = "[[function]]\nuse = \"rewrite\"\n[function.config]\nrules = [ { request = { set = { x-before = \"yes\" } }, \
                       response = { set = { x-after = \"yes\" } } } ]\n";
const WAF: &str = "[[function]]\nuse = \"waf\"\n";

/// Everything holds where functions run in the gateway's threads, and where in processes of their
/// own.
macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {
        mod in_threads {
            $(#[test] fn $name() { super::$name("thread"); })*
        }
        mod in_processes {
            $(#[test] fn $name() { super::$name("process"); })*
        }
    };
}

pub(crate) use in_both_modes;

in_both_modes! {
    it_stands_among_functions_and_sees_what_they_leave,
    the_upstream_that_it_names_is_the_only_one_that_is_asked,
    bodies_stream_both_ways_to_the_byte,
    a_slow_reader_holds_a_body_back_instead_of_filling_memory,
    what_it_does_wrong_is_one_answer_and_does_not_hold_others_up,
    who_goes_away_or_fails_behind_it_is_not_its_fault,
    five_faults_are_a_quarantine_and_fail_open_passes_it_by,
    it_is_swapped_tried_and_taken_back_like_any_other,
    where_it_cannot_run_it_is_refused_with_what_to_do,
    more_exchanges_than_instances_wait_and_then_are_told,
    a_component_in_python_does_the_same,
    start_code_that_faults_is_refused_before_a_request,
}

/// A host with the component, which is pushed as what it is, in this chain.
pub(crate) fn host(mode: &str, server: &Server, chain: &str) -> (Host, String) {
    let host = Host::start(&config(mode, "http", &[server.port]));
    let web = begin(&host, chain);
    (host, web)
}

pub(crate) fn begin(host: &Host, chain: &str) -> String {
    push(host, "1.0.0");
    for name in ["rewrite", "waf"] {
        if chain.contains(&format!("use = \"{name}\"")) {
            push_built(host, name);
        }
    }
    host.write("c.toml", chain);
    host.ok(&["chain", "apply", "c.toml"]);
    format!("http://{}", address(host, 0))
}

pub(crate) fn push(host: &Host, version: &str) {
    let file = built_file("proxy-probe");
    let file = file.to_str().expect("text");
    host.ok(&["function", "push", file, "--name", "probe", "--version", version]);
}

pub(crate) fn push_built(host: &Host, name: &str) {
    host.ok(&["function", "push", built_file(name).to_str().expect("text"), "--name", name]);
}

/// What `weir status` says of the component.
pub(crate) fn probe(host: &Host) -> serde_json::Value {
    let status = host.json(&["status"]);
    let functions = status["chains"][0]["functions"].as_array().expect("a list").clone();
    functions.into_iter().find(|function| function["name"] == "probe").expect("it is there")
}

#[test]
fn it_is_admitted_as_what_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = built_file("proxy-probe");
    let arguments = ["--output", "json", "check", file.to_str().expect("text")];
    let answer = weir(directory.path(), &arguments);
    let report: serde_json::Value = serde_json::from_str(&answer.out).expect("JSON");
    assert_eq!(report["world"], "wasi:http/proxy", "{report}");
    assert_eq!(report["accepted"], true, "{report}");
    let imports = report["imports"].as_array().expect("a list");
    assert!(imports.iter().any(|import| import == "wasi:http/outgoing-handler@0.2.12"), "{report}");
    // Nothing of ours in it.
    assert!(!report.to_string().contains("weir:net"), "{report}");
}

fn it_stands_among_functions_and_sees_what_they_leave(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "[function.config]\nGREETING = \"hello\"\n";
    let (host, web) = host(mode, &server, &chain(REWRITE, keys, WAF));
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        // It answers: the function before it sees the request first, and the response last; no
        // upstream is asked.
        let (status, text) = curl(&[protocol, &format!("{web}/answer")]);
        let host_said = web.strip_prefix("http://").expect("a URL");
        assert!(status == 200 && text.contains("x-after: yes"), "{text}");
        assert!(text.contains(&format!("hello http://{host_said}\n")), "{text}");
        assert!(text.contains("x-before: yes"), "{text}");
        assert!(!text.to_ascii_lowercase().contains("set-cookie"), "{text}");

        // It sends on what it was sent, changed.
        let (status, text) = curl(&[protocol, "--data", "some text", &format!("{web}/there?a=b")]);
        assert_eq!(status, 200, "{text}");
        for part in [
            "POST /there?a=b",
            "sent-x-before: yes",
            "sent-x-probe: passed",
            &format!("sent-host: {host_said}"),
            "sent-x-forwarded-for: 127.0.0.1",
            "body: 9",
            "x-probe-response: passed",
            "x-after: yes",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // By the reserved name, the upstream sees the client's authority all the same.
        let (status, text) = curl(&[protocol, &format!("{web}/to/upstream/path")]);
        assert!(status == 200 && text.contains("GET /path "), "{text}");
        assert!(text.contains(&format!("sent-host: {host_said}")), "{text}");
        // An upstream of the listener, by its address.
        let named = format!("127.0.0.1:{}", server.port);
        let (status, text) = curl(&[protocol, &format!("{web}/to/{named}/path")]);
        assert!(status == 200 && text.contains(&format!("sent-host: {named}")), "{text}");
        // Nobody else.
        for other in ["example.org", "127.0.0.1:1", "localhost"] {
            let (status, text) = curl(&[protocol, &format!("{web}/to/{other}/path")]);
            assert!(status == 200 && text.contains("HttpRequestDenied"), "{other}: {text}");
        }
        // The function behind it sees what it sends on, and what that one answers is its response.
        let attack = "/to/upstream/?q=%3Cscript%3Ealert(1)%3C/script%3E";
        let (status, text) = curl(&[protocol, &format!("{web}{attack}")]);
        assert!(status == 403 && text.contains("x-probe-response: passed"), "{text}");
        assert!(text.contains("x-after: yes"), "{text}");
        // A response without a body, and one to HEAD.
        let (status, text) = curl(&[protocol, "--head", &format!("{web}/head")]);
        assert!(status == 200 && text.contains("x-probe-response: passed"), "{text}");
        let (status, text) = curl(&[protocol, &format!("{web}/twice")]);
        assert!(status == 200 && text.ends_with("200 200"), "{text}");
    }
    let (_, text) = curl(&[&format!("{web}/files")]);
    assert!(text.ends_with("directories: 0, network: false"), "{text}");
    let log = host.ok(&["function", "log", "probe"]);
    assert!(log.contains("/there?a=b") && log.contains("\"example.org\""), "{log}");
    let function = probe(&host);
    assert_eq!(function["faults"], 0, "{function}");
    assert!(function["verdicts"]["answer"].as_u64() >= Some(2), "{function}");
    assert!(function["verdicts"]["continue"].as_u64() >= Some(6), "{function}");
    let socket = host.path("api.sock");
    let (_, metrics) = curl(&["--unix-socket", socket.to_str().expect("text"), "http://x/metrics"]);
    let counted = metrics
        .lines()
        .any(|line| line.starts_with("weir_function_seconds_count") && line.contains("\"probe\""));
    assert!(counted, "{metrics}");
}

fn the_upstream_that_it_names_is_the_only_one_that_is_asked(mode: &str) {
    let server = Server::of(SERVER);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = nobody.local_addr().expect("an address").port();
    drop(nobody);
    let host = Host::start(&config(mode, "http", &[server.port, gone]));
    let web = begin(&host, &chain("", "", ""));
    for _ in 0..3 {
        let (status, text) = curl(&[&format!("{web}/to/127.0.0.1:{gone}/")]);
        assert!(status == 200 && text.contains("DestinationUnavailable"), "{text}");
    }
    // Where the listener chooses, another one is as good.
    for _ in 0..2 {
        assert!(curl(&[&format!("{web}/to/upstream/path")]).1.contains("GET /path "));
    }
}

/// Bytes that tell where they are.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn bodies_stream_both_ways_to_the_byte(mode: &str) {
    let server = Server::of(SERVER);
    let (host, web) = host(mode, &server, &chain(REWRITE, "", WAF));
    let bytes = pattern(1 << 20);
    host.write("sent", &bytes);
    let (sent, got) = (host.path("sent"), host.path("got"));
    let data = format!("@{}", sent.display());
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        for chunked in [false, true] {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--fail", "--max-time", "60", protocol]);
            command.args(["--data-binary", &data, "-H", "content-type: application/octet-stream"]);
            if chunked && protocol == "--http1.1" {
                command.args(["-H", "transfer-encoding: chunked"]);
            }
            command.arg("--output").arg(&got).arg(format!("{web}/echo"));
            let output = command.output().expect("curl starts");
            assert!(output.status.success(), "{output:?}");
            assert!(fs::read(&got).expect("it is there") == bytes, "{protocol} {chunked}");
        }
    }
    assert_eq!(probe(&host)["faults"], 0);
}

/// Bytes of memory that a host had at most, and its workers.
pub(crate) fn peak(host: &Host) -> u64 {
    let of = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        // A child that ends meanwhile has none.
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    host.children().iter().map(|child| of(child)).sum::<u64>() + of(&host.pid().to_string())
}

/// What curl says of a transfer whose body goes nowhere: its exit status, and the bytes that came.
pub(crate) fn transferred(url: &str, arguments: &[&str]) -> (Option<i32>, u64) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--output", "/dev/null"]);
    command.args(["--write-out", "%{size_download}"]).args(arguments);
    let output = command.arg(url).output().expect("curl starts");
    let bytes = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
    (output.status.code(), bytes.expect("a number"))
}

/// The client is slow with a response, for so many seconds, and then the server with a request: the
/// host's memory stays below `most`. `options`: more for curl.
pub(crate) fn holds_back(host: &Host, web: &str, options: &[&str], seconds: &str, most: u64) {
    // It was cut off by its own time, in the middle.
    let slow = [options, &["--max-time", seconds, "--limit-rate", "2M"]].concat();
    let (status, bytes) = transferred(&format!("{web}/big"), &slow);
    assert!(status == Some(28) && bytes > 1 << 20, "{status:?} {bytes}");
    let had = peak(host);
    assert!(had < most, "{options:?}: {had} bytes, not {most}, for a response of 192 MiB");
    // The server takes nothing for two seconds.
    let sent = host.path("sent");
    let file = fs::File::create(&sent).expect("a file");
    file.set_len(96 << 20).expect("a length");
    let upload = ["--max-time", "40", "--upload-file", sent.to_str().expect("text")];
    let upload = [options, &upload].concat();
    assert_eq!(transferred(&format!("{web}/lazy"), &upload).0, Some(0));
    let had = peak(host);
    assert!(had < most, "{options:?}: {had} bytes, not {most}, for a request of 96 MiB");
}

fn a_slow_reader_holds_a_body_back_instead_of_filling_memory(mode: &str) {
    const BOUND: u64 = 32 << 20;
    let server = Server::of(SERVER);
    let (host, web) = host(mode, &server, &chain("", "", ""));
    let warm = transferred(&format!("{web}/warm"), &["--max-time", "20"]);
    assert_eq!(warm.0, Some(0));
    holds_back(&host, &web, &[], "4", peak(&host) + BOUND);
}

fn what_it_does_wrong_is_one_answer_and_does_not_hold_others_up(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "deadline = \"100ms\"\ntimeout = \"1500ms\"\nmemory = \"32MiB\"\n";
    let text = chain("", keys, "");
    let (mut host, web) = host(mode, &server, &text);
    let faults = |host: &Host| probe(host)["faults"].as_u64().expect("a number");

    for (path, kind) in
        [("/trap", "trap"), ("/spin", "deadline"), ("/memory", "memory"), ("/silent", "contract")]
    {
        let before = faults(&host);
        let (status, answer) = curl(&[&format!("{web}{path}")]);
        assert!(status == 503 && answer.contains("out of order"), "{path}: {answer}");
        host.wait_for("it is counted", |host| faults(host) == before + 1);
        host.wait_for("it is back", |_| curl(&[&format!("{web}/answer")]).0 == 200);
        let log = host.ok(&["function", "log", "probe"]);
        assert!(log.contains(&format!("fault: {kind}: ")), "{path}: {log}");
        // A new deployment forgets faults; five within ten seconds would be a quarantine.
        host.ok(&["chain", "apply", "c.toml"]);
    }

    let failures = host.json(&["status"])["listeners"][0]["failures"].clone();
    assert!(failures["out-of-order"].as_u64() >= Some(4), "{failures}");

    // Its response breaks off, and that is seen.
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--output", "/dev/null"])
        .arg(format!("{web}/half"))
        .output()
        .expect("curl starts");
    assert!(!output.status.success(), "{output:?}");
    host.wait_for("it is counted", |host| faults(host) == 5);
    host.wait_for("it is back", |_| curl(&[&format!("{web}/answer")]).0 == 200);
    host.ok(&["chain", "apply", "c.toml"]);

    // An error is an answer, and to be late is no fault: it may be somebody else's.
    assert_eq!(curl(&[&format!("{web}/error")]).0, 502);
    let began = Instant::now();
    assert_eq!(curl(&[&format!("{web}/sleep")]).0, 504);
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    assert_eq!(faults(&host), 5);

    // While one spins, others are served.
    host.write("long.toml", text.replace("\"100ms\"", "\"5s\"").replace("\"1500ms\"", "\"60s\""));
    host.ok(&["chain", "apply", "long.toml"]);
    let spun = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(curl(&[&format!("{web}/spin")]).0, 503);
            spun.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(300));
        for n in 0..20 {
            assert_eq!(curl(&[&format!("{web}/answer")]).0, 200, "{n}");
        }
        assert!(!spun.load(Ordering::SeqCst), "it spun for 5 s of CPU time meanwhile");
    });
}

fn who_goes_away_or_fails_behind_it_is_not_its_fault(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain("", "", ""));
    host.write("sent", pattern(1 << 20));
    let sent = host.path("sent");
    // The client goes in the middle of its body, of which the component expects all.
    for path in ["/read-and-trap", "/echo"] {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "1", "--limit-rate", "100k", "--output", "/dev/null"])
            .args(["--upload-file", sent.to_str().expect("text")])
            .arg(format!("{web}{path}"))
            .output()
            .expect("curl starts");
        assert_eq!(output.status.code(), Some(28), "{output:?}");
    }
    host.wait_for("both have ended", |host| {
        let status = host.json(&["status"]);
        status["chains"][0]["packets_in"] == status["chains"][0]["packets_out"]
            && probe(host)["verdicts"]["reset"] == 2
    });
    assert_eq!(probe(&host)["faults"], 0);
    // The upstream is gone.
    drop(server);
    let (status, text) = curl(&[&format!("{web}/there")]);
    assert!(status == 502 && text.contains("DestinationUnavailable"), "{text}");
    assert_eq!(probe(&host)["faults"], 0);
    host.wait_for("it is said", |host| host.log().contains("connect: GET /there of 127.0.0.1:"));
}

fn five_faults_are_a_quarantine_and_fail_open_passes_it_by(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain(REWRITE, "on-fault = \"fail-open\"\n", ""));
    // It had not begun with the request: that goes on as if it were not there, with its body.
    let (status, text) = curl(&["--data", "some text", &format!("{web}/trap")]);
    assert!(status == 200 && text.contains("POST /trap") && text.contains("body: 9"), "{text}");
    assert!(!text.contains("x-probe") && text.contains("x-after: yes"), "{text}");
    // It had read the body: nobody else can.
    host.wait_for("it is back", |_| curl(&[&format!("{web}/x")]).1.contains("x-probe"));
    let (status, text) = curl(&["--data", "some text", &format!("{web}/read-and-trap")]);
    assert!(status == 503 && text.contains("out of order"), "{text}");
    for _ in 0..3 {
        host.wait_for("it is back", |_| curl(&[&format!("{web}/x")]).1.contains("x-probe"));
        assert_eq!(curl(&[&format!("{web}/trap")]).0, 200);
    }
    host.wait_for("it is in quarantine", |host| probe(host)["state"] == "quarantined");
    host.wait_for("that is told", |host| host.ok(&["events"]).contains(" and is in quarantine"));
    assert_eq!(host.ok(&["events"]).matches(" and is in quarantine").count(), 1);
    let (status, text) = curl(&[&format!("{web}/x")]);
    assert!(status == 200 && !text.contains("x-probe") && text.contains("x-before"), "{text}");
}

fn it_is_swapped_tried_and_taken_back_like_any_other(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain("", "", ""));
    push(&host, "1.1.0");
    let (over, failed) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if curl(&[&format!("{web}/x")]).0 != 200 {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        });
        for version in ["1.1.0", "1.0.0", "1.1.0"] {
            host.ok(&["function", "swap", "probe", "--to", version]);
            std::thread::sleep(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!failed.load(Ordering::Relaxed), "{}", host.log());
    // A version that faults soon after its swap is taken back.
    assert_eq!(curl(&[&format!("{web}/trap")]).0, 503);
    host.wait_for("the version before runs", |host| host.running() == "1.0.0");
    host.wait_for("and serves", |_| curl(&[&format!("{web}/x")]).0 == 200);

    host.ok(&["function", "swap", "probe", "--to", "1.1.0", "--canary", "99"]);
    assert_eq!(curl(&[&format!("{web}/answer")]).0, 200);
    assert_eq!(host.json(&["status"])["chains"][0]["trial"]["packets"], 1);
    host.ok(&["function", "rollback", "probe"]);
    // What lives by events has nothing in common with it that could be compared.
    let waf = built_file("waf");
    let waf = waf.to_str().expect("text");
    host.ok(&["function", "push", waf, "--name", "probe", "--version", "2.0.0"]);
    let error = host.fails(&["function", "swap", "probe", "--to", "2.0.0", "--shadow"]);
    assert!(error.contains("shadow") && error.contains("canary"), "{error}");
    assert_eq!(curl(&[&format!("{web}/x")]).0, 200);
}

fn where_it_cannot_run_it_is_refused_with_what_to_do(mode: &str) {
    let server = Server::of(SERVER);
    for (protocol, keys, part) in [
        ("tcp", "", "protocol = \"tcp\""),
        ("http", "access = \"read-only\"", "leave `access` out"),
        ("http", "state = \"1MiB\"", "leave `state` out"),
        ("http", "memory = \"64KiB\"", "raise `memory`"),
        ("http", "timeout = \"1ms\"", "timeout"),
        ("http", "instances = 0", "instances"),
        ("http", "[function.config]\nlist = [ 1 ]", "config.list"),
    ] {
        let host = Host::start(&config(mode, protocol, &[server.port]));
        push(&host, "1.0.0");
        host.write("c.toml", chain("", keys, ""));
        let error = host.fails(&["chain", "apply", "c.toml"]);
        assert!(error.contains(part), "{protocol} {keys}: {error}");
    }
    let host = Host::start(&config(mode, "http", &[server.port]));
    push(&host, "1.0.0");
    host.write("p.toml", "name = \"p\"\nplane = \"packet\"\n[[function]]\nuse = \"probe\"\n");
    let error = host.fails(&["chain", "apply", "p.toml"]);
    assert!(error.contains("is for messages"), "{error}");
}

fn more_exchanges_than_instances_wait_and_then_are_told(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "instances = 1\ntimeout = \"4s\"\n";
    let (_host, web) = host(mode, &server, &chain("", keys, ""));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| curl(&[&format!("{web}/sleep")]).0);
        std::thread::sleep(Duration::from_millis(500));
        let (status, text) = curl(&[&format!("{web}/answer")]);
        assert!(status == 503 && text.contains("busy"), "{text}");
        // This one waits until the first has had its time.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(curl(&[&format!("{web}/answer")]).0, 200);
        assert_eq!(first.join().expect("it ends"), 504);
    });
}

fn a_component_in_python_does_the_same(mode: &str) {
    let built = Command::new(workspace().join("scripts/build-proxy-python")).status();
    assert!(built.expect("a shell").success(), "scripts/build-proxy-python failed");
    let file = workspace().join("target/functions/proxy-python.wasm");
    let server = Server::of(SERVER);
    let host = Host::start(&config(mode, "http", &[server.port]));
    push_built(&host, "rewrite");
    host.ok(&["function", "push", file.to_str().expect("text"), "--name", "probe"]);
    host.write("c.toml", chain(REWRITE, "", ""));
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    let (status, text) = curl(&[&format!("{web}/answer")]);
    assert!(status == 200 && text.ends_with("hello from Python\n"), "{text}");
    assert!(text.contains("x-after: yes"), "{text}");
    let (status, text) = curl(&["--data", "some text", &format!("{web}/there?a=b")]);
    assert!(status == 200 && text.contains("sent-x-probe: python"), "{text}");
    assert!(text.contains("sent-x-before: yes") && text.contains("body: 9"), "{text}");
    assert!(text.contains("x-probe-response: python"), "{text}");
    let bytes = pattern(1 << 20);
    host.write("sent", &bytes);
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "60", "--data-binary"])
        .arg(format!("@{}", host.path("sent").display()))
        .arg(format!("{web}/echo"))
        .output()
        .expect("curl starts");
    assert!(output.status.success() && output.stdout == bytes, "{:?}", output.status);
    assert!(host.ok(&["function", "log", "probe"]).contains("/there?a=b"));
    assert_eq!(probe(&host)["faults"], 0);
}

/// A component whose start code is this.
fn starting_with(code: &str) -> String {
    format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $outparam))
            (core module $code
                (func $start {code})
                (start $start)
                (func (export "handle") (param i32 i32)))
            (core instance $instance (instantiate $code))
            (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
                (canon lift (core func $instance "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}

fn start_code_that_faults_is_refused_before_a_request(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "deadline = \"100ms\"\n";
    let (host, web) = host(mode, &server, &chain("", keys, ""));
    assert_eq!(curl(&[&format!("{web}/answer")]).0, 200);
    for (version, code, part) in
        [("2.0.0", "unreachable", "unreachable"), ("3.0.0", "(loop (br 0))", "10s")]
    {
        host.write("start.wasm", wat::parse_str(starting_with(code)).expect("it is well-formed"));
        host.ok(&["function", "push", "start.wasm", "--name", "probe", "--version", version]);
        let error = host.fails(&["function", "swap", "probe", "--to", version]);
        assert!(error.contains("start code") && error.contains(part), "{error}");
        // What ran before does so still.
        assert_eq!(curl(&[&format!("{web}/answer")]).0, 200);
    }
    assert_eq!(probe(&host)["faults"], 0);
}

/// Those of a host with one thread in process mode: there is one.
fn worker(host: &Host) -> Option<Pid> {
    workers(host).first().copied()
}

/// A host with one thread, in process mode.
fn alone(server: &Server, chain: &str, more: &str) -> (Host, String) {
    let config = config("process", "http", &[server.port]);
    let host = Host::start(&config.replace("mode =", &format!("threads = 1\n{more}mode =")));
    let web = begin(&host, chain);
    (host, web)
}

#[test]
fn behind_the_second_wall_a_guest_runs_in_a_process_without_files_network_or_privileges() {
    let server = Server::of(SERVER);
    let (host, web) = alone(&server, &chain("", "", ""), "");
    assert_eq!(curl(&[&format!("{web}/x")]).0, 200);
    let worker = worker(&host).expect("it runs");
    let threads = |process: i32| -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        tasks.flatten().filter_map(name).map(|name| name.trim().to_owned()).collect()
    };
    // Guests run there, and the host has no threads for them.
    assert!(threads(worker.as_raw_pid()).contains(&"weir-proxy".to_owned()));
    let of_host = threads(host.pid());
    assert!(!of_host.contains(&"weir-proxy".to_owned()), "{of_host:?}");
    // The walls of all of its threads are those of a worker without such a component.
    let tasks = fs::read_dir(format!("/proc/{}/task", worker.as_raw_pid())).expect("it lives");
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("it lives");
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let interfaces = fs::read_to_string(task.path().join("net/dev")).expect("it lives");
        let interfaces = interfaces.lines().skip(2);
        assert!(interfaces.clone().all(|line| line.trim().starts_with("lo:")), "{interfaces:?}");
    }
    let root = fs::read_dir(format!("/proc/{}/root", worker.as_raw_pid())).expect("it lives");
    assert_eq!(root.count(), 0);
}

#[test]
fn a_worker_that_is_killed_under_load_leaves_every_request_answered_or_cut_off() {
    let server = Server::of(SERVER);
    let (mut host, web) = alone(&server, &chain(REWRITE, "", WAF), "");
    host.write("sent", pattern(300_000));
    let data = format!("@{}", host.path("sent").display());
    let over = AtomicBool::new(false);
    let counts = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        let load = |path: &'static str| {
            let (web, data, over, counts) = (&web, &data, &over, &counts);
            move || {
                while !over.load(Ordering::Relaxed) {
                    let mut command = Command::new("curl");
                    command.args(["--silent", "--max-time", "20", "--output", "/dev/null"]);
                    command.args(["--write-out", "%{http_code} %{size_download}"]);
                    if path == "/echo" {
                        // Of a form `waf` would read only so much.
                        command.args(["-H", "expect:", "--data-binary", data]);
                        command.args(["-H", "content-type: application/octet-stream"]);
                    }
                    let output = command.arg(format!("{web}{path}")).output().expect("curl");
                    let text = String::from_utf8_lossy(&output.stdout);
                    let whole = path != "/echo" || text.ends_with(" 300000");
                    let n = match (output.status.success(), text.split(' ').next()) {
                        (true, Some("200")) if whole => 0,
                        (true, Some("503")) => 1,
                        // Its head had gone.
                        (false, Some("200")) => 2,
                        other => panic!("{path}: {other:?} {text} {:?}", output.status),
                    };
                    counts[n].fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let loads: Vec<_> =
            ["/answer", "/x", "/echo", "/echo"].map(|path| scope.spawn(load(path))).into();
        for _ in 0..5 {
            let before = counts[0].load(Ordering::Relaxed);
            while counts[0].load(Ordering::Relaxed) < before + 8
                && loads.iter().all(|load| !load.is_finished())
            {
                std::thread::yield_now();
            }
            let Some(worker) = worker(&host) else { continue };
            let _ = rustix::process::kill_process(worker, Signal::KILL);
            host.wait_for("another one runs", |host| {
                self::worker(host).is_some_and(|other| other != worker)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(counts[1].load(Ordering::Relaxed) > 0, "{counts:?}");
    host.wait_for("it serves", |_| curl(&[&format!("{web}/x")]).0 == 200);
    host.wait_for("all have ended", |host| {
        let chain = host.json(&["status"])["chains"][0].clone();
        chain["packets_in"] == chain["packets_out"] && chain["pool"]["out"] == 0
    });
    // That is the worker's own death, and no fault of the component's.
    assert_eq!(probe(&host)["faults"], 0);
}

#[test]
fn a_worker_that_is_stopped_while_it_serves_is_ended_and_fail_open_passes_it_by() {
    let server = Server::of(SERVER);
    let keys = "on-fault = \"fail-open\"\n";
    let (mut host, web) = alone(&server, &chain("", keys, ""), "worker-timeout = \"500ms\"\n");
    // Who waits for longer than that is no silent worker.
    assert_eq!(curl(&[&format!("{web}/lazy")]).0, 200);
    let stopped = worker(&host).expect("it runs");
    rustix::process::kill_process(stopped, Signal::STOP).expect("it lives");
    // It had nothing of it but the head: the gateway has that, too.
    let (status, text) = curl(&[&format!("{web}/x")]);
    assert!(status == 200 && !text.contains("x-probe"), "{text}");
    host.wait_for("another one runs", |host| worker(host).is_some_and(|other| other != stopped));
    host.wait_for("it serves", |_| curl(&[&format!("{web}/x")]).1.contains("x-probe"));
    let chain = host.json(&["status"])["chains"][0].clone();
    assert_eq!((&chain["worker_timeouts"], &chain["worker_restarts"]), (&1.into(), &1.into()));
}

#[test]
fn functions_of_events_and_components_take_each_others_place_in_a_worker() {
    let server = Server::of(SERVER);
    let (host, web) = alone(&server, &chain("", "", ""), "");
    let file = built_file("message-probe");
    let arguments = ["function", "push", file.to_str().expect("text"), "--name", "probe"];
    host.ok(&[&arguments[..], &["--version", "2.0.0"]].concat());
    push_built(&host, "rewrite");
    let (over, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (status, text) = curl(&[&format!("{web}/x")]);
                if status != 200 {
                    eprintln!("{text}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let config = "[function.config]\nname = \"first\"\nmine = \"/do\"\n";
        for keys in ["version = \"2.0.0\"\n", "version = \"1.0.0\"\n", "version = \"2.0.0\"\n"] {
            let config = if keys.contains('2') { config } else { "" };
            host.write("c.toml", chain("", &format!("{keys}{config}"), REWRITE));
            host.ok(&["chain", "apply", "c.toml"]);
            std::thread::sleep(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "{}", host.log());
}
