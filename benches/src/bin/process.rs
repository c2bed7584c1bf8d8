//! What a worker process costs a request: the same chains in the gateway's threads (`mode =
//! "thread"`) and in confined workers (`mode = "process"`), HTTP/1.1 with keep-alive, a response of
//! 13 bytes. Gateway and worker share a core; client and server have the other one.
//!
//! `rewrite` wants both heads, and says with the second one that it wants to hear nothing more: two
//! events a request. `message-probe` (`tests/guests/message-probe`) wants heads, bodies and the
//! end: three events, and word of the end.
//!
//! Rounds are interleaved; printed are the least and the median of all rounds. Needs the Debian
//! packages nginx and wrk.

use weir_benches::driver::median;
use weir_benches::gateways::{self, Gateway, need, rewrites};
use weir_benches::wrk::{Seen, wrk};

const ROUNDS: usize = 7;
const SECONDS: u32 = 2;
/// The core of gateway and worker, and that of all others.
const CORE: &str = "0";
const OTHERS: &str = "1";

fn main() {
    need(&[("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux")]);
    let server = gateways::upstream(OTHERS);
    let upstream = server.port;

    let probe = |n| {
        format!(
            "[[function]]\nuse = \"message-probe\"\nname = \"f{n}\"\n[function.config]\nname = \"{n}\"\n"
        )
    };
    let probes: String = (0..4).map(probe).collect();
    let mut gateways = vec![Gateway::weir(CORE, "no chain", upstream, "", false)];
    for (function, count, chain) in [
        ("rewrite", 1, rewrites(1)),
        ("rewrite", 4, rewrites(4)),
        ("message-probe", 1, probe(0)),
        ("message-probe", 4, probes),
    ] {
        for mode in ["thread", "process"] {
            let name = format!("{count} {function}, {mode}");
            let mode = format!("mode = \"{mode}\"\n");
            let gateway = Gateway::weir(CORE, &name, upstream, &mode, true);
            gateway.deploy(function, &chain);
            gateways.push(gateway);
        }
    }
    for connections in [64, 1] {
        println!(
            "{connections} connections, {ROUNDS} rounds of {SECONDS} s: µs of CPU a request (least, median; of them in the worker), then medians"
        );
        println!(
            "{:26} {:>7} {:>7} {:>7} {:>11} {:>9} {:>9}",
            "chain", "least", "median", "worker", "requests/s", "p50 ms", "p99 ms"
        );
        for (gateway, seen) in gateways.iter().zip(rounds(&gateways, connections)) {
            let of = |value: fn(&Seen) -> f64| median(seen.iter().map(value).collect());
            let least = seen.iter().map(|s| s.cpu).fold(f64::INFINITY, f64::min);
            println!(
                "{:26} {least:7.1} {:7.1} {:7.1} {:11.0} {:9.2} {:9.2}",
                gateway.name,
                of(|s| s.cpu),
                of(|s| s.children),
                of(|s| s.requests),
                of(|s| s.p50),
                of(|s| s.p99)
            );
        }
    }
}

/// What each gateway did in each round; the first round warms up.
fn rounds(gateways: &[Gateway], connections: u32) -> Vec<Vec<Seen>> {
    let mut all: Vec<Vec<Seen>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (gateway, seen) in gateways.iter().zip(&mut all) {
            let one = wrk(OTHERS, gateway, "/", connections, SECONDS);
            if round > 0 {
                seen.push(one);
            }
        }
    }
    all
}
