//! The chain of six real functions, in Wasm and natively in the same loop; with a function's name, that one alone.

use std::net::Ipv4Addr;

use weir_benches::driver::{Driver, flows, median};
use weir_benches::suite::{Entry, entry, natives, wasm};
use weir_chain::Mode;
use weir_pool::{HugePages, Memory};
use weir_sandbox::{Sandbox, SandboxConfig};

const ROUNDS: usize = 11;
const BURSTS: u64 = 50_000;
const BURST: usize = 32;
const VIP: [u8; 4] = [198, 51, 100, 1];

fn entries() -> Vec<Entry> {
    let state = 16 << 20;
    let rules: Vec<String> = (0..999)
        .map(|n| {
            format!(
                r#"{{"action": "deny", "proto": "udp", "src": "10.{}.0.0/16", "dst": "192.0.{}.0/24", "dport": {}}}"#,
                n % 250,
                n / 250,
                1 + n % 7
            )
        })
        .chain([r#"{"action": "allow", "proto": "udp", "src": "10.0.0.0/8"}"#.to_owned()])
        .collect();
    let mut random = 1u64;
    let prefixes: Vec<String> = (0..100_000)
        .map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let length = 12 + (random >> 60).min(12);
            let address = (random >> 20) as u32 & (u32::MAX << (32 - length));
            format!(r#"["{}/{length}", "up"]"#, Ipv4Addr::from(address))
        })
        .chain([r#"["0.0.0.0/0", "up"]"#.to_owned()])
        .collect();
    let router = format!(
        r#"{{"addresses": [], "table": [{}],
            "hops": {{"up": {{"mac": "02:00:00:00:00:99", "source-mac": "02:00:00:00:00:02"}}}}}}"#,
        prefixes.join(",")
    );
    let firewall = format!(r#"{{"rules": [{}]}}"#, rules.join(","));
    let l4lb = r#"{"services": [{"vip": "198.51.100.1", "proto": "udp", "port": 80, "backends": [
        {"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}, {"ip": "10.1.0.3"}, {"ip": "10.1.0.4"}]}]}"#;
    vec![
        entry::<monitor::Monitor>("monitor", r#"{"report-every": 0}"#, state, false),
        entry::<firewall::Firewall>("firewall", firewall, state, false),
        entry::<nat::Nat>("nat", r#"{"external": ["203.0.113.1"]}"#, state, true),
        entry::<router::Router>("router", router, 0, true),
        entry::<ratelimit::RateLimit>(
            "ratelimit",
            r#"{"rules": [{"prefix": "0.0.0.0/0", "rate": "400Gbit", "burst": "1GiB"}]}"#,
            state,
            false,
        ),
        entry::<l4lb::LoadBalancer>("l4lb", l4lb, state, true),
    ]
}

fn main() {
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let _ticking = sandbox.ticker().tick();
    println!(
        "ns a packet at burst {BURST}, 64-byte packets, 10,000 flows: medians of {ROUNDS} interleaved rounds"
    );
    println!("{:48}  native   wasm  share", "chain");
    let only = std::env::args().nth(1);
    let all = entries();
    let names = ["monitor", "firewall", "nat", "router", "ratelimit", "l4lb"];
    for (title, entries) in names
        .iter()
        .zip(entries())
        .map(|(name, entry)| ((*name).to_owned(), vec![entry]))
        .chain([(names.join(" "), all)])
    {
        if only.as_ref().is_some_and(|only| *only != title) {
            continue;
        }
        let make = || Box::new(Driver::new(flows(10_000, VIP, 80), BURST));
        let (mut native, lent) = (make(), make());
        let mut functions = natives(&native, &entries);
        let mut board = Memory::new("board", 1 << 16, HugePages::Never).expect("memory");
        let mut chain = wasm(&sandbox, &lent, &entries, Mode::Linked);
        let mut lent = Some(lent);
        let mut measured = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            measured[0].push(native.native(&mut functions, &mut board, BURSTS));
            measured[1].push(Driver::wasm(&mut lent, &mut chain, BURSTS));
        }
        let [native, wasm] = measured.map(median);
        println!("{title:48}  {native:6.1}  {wasm:5.1}  {:5.1}", wasm - native);
    }
}
