//! Large bodies through a gateway on one core, HTTP/1.1, requests' and responses', with a length
//! and in chunks: nginx; Weir without a chain, and with four functions that look at every byte
//! (`tests/guests/body-probe`), in the gateway's threads and in a worker process. Clients and
//! server have the other core.
//!
//! Then the memory of each when those who take bodies are slow: what cannot be sent on must not be
//! read.
//!
//! Needs the Debian package nginx. Everything is on loopback; every program was started here, and
//! ends with the benchmark. An argument, if there is one, is what names of gateways have to hold to
//! be measured.

use std::fmt::Write as _;
use std::time::Duration;

use weir_benches::bodies::{Clients, Framing, Load, Server, Way};
use weir_benches::driver::median;
use weir_benches::gateways::{Gateway, need, nginx_proxy};
use weir_benches::process::on_core;

const ROUNDS: usize = 3;
const WARM: Duration = Duration::from_millis(300);
const SAMPLE: Duration = Duration::from_millis(1200);
/// The core of who is measured, and that of all others.
const CORE: &str = "0";
const OTHERS: usize = 1;
const FUNCTIONS: usize = 4;
const MIB: u64 = 1 << 20;
/// Slow readers, and what each takes in a second.
const SLOW: usize = 16;
const RATE: u64 = 2 * MIB;
const SLOW_SAMPLE: Duration = Duration::from_secs(3);

/// What one run showed.
struct Seen {
    gibibytes: f64,
    milliseconds: f64,
    peak: f64,
}

fn main() {
    need(&[("nginx", "nginx"), ("taskset", "util-linux")]);
    on_core(OTHERS);
    let server = Server::start();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let gateways = gateways(server.port, &wanted);
    let mut loads = Vec::new();
    for way in [Way::Down, Way::Up] {
        for (bytes, clients) in [(MIB, 8), (100 * MIB, 4)] {
            for framing in [Framing::Length, Framing::Chunked] {
                loads.push(Load { way, bytes, framing, clients, rate: None });
            }
        }
    }
    println!(
        "bodies, one core for the gateway: medians of {ROUNDS} interleaved rounds of {} s, GiB/s, ms of CPU for each GiB, MiB resident at most",
        SAMPLE.as_secs_f64()
    );
    println!("{:26} {:28} {:>7} {:>8} {:>7}", "bodies", "gateway", "GiB/s", "CPU ms", "peak");
    for load in loads {
        let mut all: Vec<Vec<Seen>> = gateways.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (gateway, seen) in gateways.iter().zip(&mut all) {
                seen.push(run(gateway, &server, load, SAMPLE));
            }
        }
        for (gateway, seen) in gateways.iter().zip(&all) {
            let of = |value: fn(&Seen) -> f64| median(seen.iter().map(value).collect());
            println!(
                "{:26} {:28} {:7.2} {:8.0} {:7.1}",
                name(&load),
                gateway.name,
                of(|s| s.gibibytes),
                of(|s| s.milliseconds),
                of(|s| s.peak)
            );
        }
    }
    println!(
        "{SLOW} readers that take {} MiB/s each of bodies of 100 MiB: MiB resident before, and at most within {} s",
        RATE / MIB,
        SLOW_SAMPLE.as_secs()
    );
    for way in [Way::Down, Way::Up] {
        let (bytes, framing) = (100 * MIB, Framing::Length);
        let load = Load { way, bytes, framing, clients: SLOW, rate: Some(RATE) };
        for gateway in &gateways {
            gateway.running.forget_peak();
            let before = gateway.running.peak() as f64 / MIB as f64;
            let peak = run(gateway, &server, load, SLOW_SAMPLE).peak;
            println!("{:26} {:28} {before:7.1} {peak:7.1}", name(&load), gateway.name);
        }
    }
}

fn name(load: &Load) -> String {
    let way = if load.way == Way::Down { "response" } else { "request" };
    let framing = if load.framing == Framing::Length { "length" } else { "chunks" };
    format!("{way}, {} MiB, {framing}", load.bytes / MIB)
}

fn gateways(upstream: u16, wanted: &str) -> Vec<Gateway> {
    // As Weir does: what comes goes on, and nothing goes to a file.
    let streams =
        "proxy_request_buffering off; client_max_body_size 0; proxy_max_temp_file_size 0;";
    let mut functions = String::new();
    for n in 0..FUNCTIONS {
        let _ = write!(
            functions,
            "[[function]]\nuse = \"body-probe\"\nname = \"f{n}\"\naccess = \"read-only\"\n"
        );
    }
    let mut gateways = Vec::new();
    if "nginx".contains(wanted) {
        gateways.push(nginx_proxy(CORE, upstream, streams));
    }
    for (name, gateway, chain) in [
        ("weir, no chain", "", false),
        ("weir, 4 functions", "", true),
        ("weir, 4, rooms of 64 KiB", "room = \"64KiB\"\nrooms = 256", true),
        ("weir, 4 in a process", "mode = \"process\"", true),
    ] {
        if !name.contains(wanted) {
            continue;
        }
        let weir = Gateway::weir(CORE, name, upstream, gateway, chain);
        if chain {
            weir.deploy("body-probe", &functions);
        }
        gateways.push(weir);
    }
    gateways
}

fn run(gateway: &Gateway, server: &Server, load: Load, sample: Duration) -> Seen {
    gateway.running.forget_peak();
    let clients = Clients::start(gateway.port, server, load);
    std::thread::sleep(WARM);
    let before = (clients.arrived(), gateway.running.cpu());
    std::thread::sleep(sample);
    let after = (clients.arrived(), gateway.running.cpu());
    clients.stop();
    // What was cut off is let go before the next run begins.
    std::thread::sleep(Duration::from_millis(100));
    let gibibytes = (after.0 - before.0) as f64 / f64::from(1 << 30);
    Seen {
        gibibytes: gibibytes / sample.as_secs_f64(),
        milliseconds: after.1.since(&before.1).as_secs_f64() * 1e3 / gibibytes,
        peak: gateway.running.peak() as f64 / MIB as f64,
    }
}
