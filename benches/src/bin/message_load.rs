//! CPU against offered load of the message plane alone, beside functions that have nothing to do:
//! 250 chains of four functions `rewrite`, each with a listener of its own, of which one has
//! requests. In the gateway's threads, then in worker processes.
//!
//! First what the host uses with no request at all. Clients keep to their rates: a request is sent
//! when it is due, and what is late counts from then. Clients and upstream (nginx) have one core,
//! the host the other. Writes a table, and with a file's name as argument the same as CSV, of which
//! `scripts/plot-load` makes a picture. Needs the Debian package nginx.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_benches::gateways::{self, Gateway, free_port, need};
use weir_benches::process::{allow_files, on_core};
use weir_benches::requests::ask;

const CHAINS: usize = 250;
const FUNCTIONS: usize = 4;
const REQUESTS: [u32; 8] = [0, 250, 500, 1_000, 2_000, 4_000, 6_000, 8_000];
const CONNECTIONS: u32 = 16;
const SAMPLE: Duration = Duration::from_secs(3);
const WARM: Duration = Duration::from_millis(700);
const CORE: &str = "0";
const OTHERS: usize = 1;

const HEAD: &str = "mode,functions,requests_offered,requests_answered,cores,p50_ms,p99_ms";

fn main() {
    need(&[("nginx", "nginx"), ("taskset", "util-linux")]);
    allow_files();
    on_core(OTHERS);
    let server = gateways::upstream(&OTHERS.to_string());
    let upstream = server.port;

    let mut csv = format!("{HEAD}\n");
    println!("{}", HEAD.replace(',', "  "));
    for mode in ["thread", "process"] {
        let gateway = gateway(mode, upstream);
        for rate in REQUESTS {
            let row = offer(&gateway, mode, rate);
            println!("{}", row.replace(',', "  "));
            let _ = writeln!(csv, "{row}");
        }
    }
    if let Some(file) = std::env::args().nth(1) {
        fs::write(&file, csv).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// A host with all chains, whose first listener is the one that is asked.
fn gateway(mode: &str, upstream: u16) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\nrooms = 64\n"
    );
    let port = free_port();
    for chain in 0..CHAINS {
        let port = if chain == 0 { port } else { 0 };
        let _ = write!(
            config,
            "[[listener]]\nname = \"l{chain}\"\naddress = \"127.0.0.1:{port}\"\nprotocol = \"http\"\nchain = \"c{chain}\"\n\
             upstream = [\"127.0.0.1:{upstream}\"]\n"
        );
    }
    let gateway = Gateway::weir_with(CORE, mode, directory, port, &config);
    let wasm = fs::canonicalize("target/functions/rewrite.wasm");
    let wasm = wasm.expect("scripts/build-functions rewrite");
    gateway.command(&["function", "push", wasm.to_str().expect("text"), "--name", "rewrite"]);
    for chain in 0..CHAINS {
        let mut text = format!("name = \"c{chain}\"\nplane = \"message\"\n");
        for n in 0..FUNCTIONS {
            let _ = write!(
                text,
                "[[function]]\nuse = \"rewrite\"\nname = \"f{n}\"\n[function.config]\n\
                 rules = [ {{ request = {{ set = {{ x-filter{n} = \"1\" }} }}, response = {{ set = {{ x-filter{n} = \"1\" }} }} }} ]\n"
            );
        }
        fs::write(gateway.directory.path().join("c.toml"), text).expect("a file");
        gateway.command(&["chain", "apply", "c.toml"]);
    }
    // What starting them left to do is done.
    std::thread::sleep(Duration::from_secs(3));
    gateway
}

/// Offers requests at this rate; a row of the table.
fn offer(gateway: &Gateway, mode: &str, rate: u32) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], gateway.port));
    let clients: Vec<_> = (0..CONNECTIONS.min(rate))
        .map(|_| {
            let rate = f64::from(rate) / f64::from(CONNECTIONS);
            std::thread::spawn(move || ask(address, rate, WARM + SAMPLE + WARM / 2))
        })
        .collect();
    std::thread::sleep(WARM);
    let (before, started) = (gateway.running.cpu(), Instant::now());
    std::thread::sleep(SAMPLE);
    let (used, took) = (gateway.running.cpu().since(&before), started.elapsed());
    let mut times: Vec<f64> = Vec::new();
    for client in clients {
        let asked = client.join().expect("it asked");
        let within = asked.iter().filter(|(due, _)| *due >= started && *due < started + took);
        times.extend(within.map(|(_, time)| *time));
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(0.0);
    let (took, functions) = (took.as_secs_f64(), CHAINS * FUNCTIONS);
    format!(
        "{mode},{functions},{rate},{:.0},{:.5},{:.3},{:.3}",
        times.len() as f64 / took,
        used.as_secs_f64() / took,
        at(0.5),
        at(0.99)
    )
}
