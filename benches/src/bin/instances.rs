//! What an instance costs in memory, and a thousand idle ones in CPU time.
//!
//! Chains of one function are deployed, and the memory of this process is read before and after. An
//! instance's own data is not counted: the pool of its chain, and its state region. All else is:
//! what of its linear memory is touched, its control area, the runner's memory, the host's records,
//! and the kernel's page tables.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weir_benches::host::Host;
use weir_benches::lanes::{chain, function, lane, wasm};
use weir_benches::process::{Memory, allow_files, threads};
use weir_packet_plane::{Lane, Turn};
use weir_pool::{HugePages, PoolConfig};
use weir_port::memory::{Keep, MemoryPort};
use weir_sandbox::{Sandbox, SandboxConfig};

/// Functions with their configuration and bytes of state.
const CASES: [(&str, &str, usize); 2] = [
    ("null", "{}", 0),
    (
        "firewall",
        r#"{"rules": [{"action": "allow", "proto": "tcp", "dst": "10.0.0.0/8", "dport": "443"}]}"#,
        8 << 20,
    ),
];
const NUMBERS: [usize; 3] = [10, 100, 1000];
/// The aim, in bytes an instance.
const AIM: u64 = 200 << 10;
/// Time for which idle chains are watched.
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    if let [name, number] = std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        let number = number.parse().expect("a number of chains");
        let (name, config, state) = CASES.into_iter().find(|case| case.0 == name).expect("a case");
        return measure(name, config, state, number);
    }
    println!("KiB an instance, beyond its own data; the aim: at most {}", AIM >> 10);
    println!(
        "{:20} {:>5}  {:>6}  {:>6} {:>7} {:>5} {:>6}   {:>8}  {:>8} {:>5}",
        "function",
        "n",
        "all",
        "linear",
        "control",
        "host",
        "tables",
        "own data",
        "mappings",
        "files"
    );
    for (name, ..) in CASES {
        for number in NUMBERS {
            // A process of its own for each, so that nothing lies in memory that another has used.
            let program = std::env::current_exe().expect("this program has a name");
            let status = Command::new(program).args([name, &number.to_string()]).status();
            assert!(status.expect("it starts").success(), "{name} {number} failed");
        }
    }
    idle();
}

fn measure(name: &str, config: &str, state: usize, number: usize) {
    allow_files();
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let wasm = wasm(name);
    // As the host has it, if its configuration does not say otherwise.
    let pool = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Never };
    let deploy = || -> Lane {
        let plan = chain("own-pool", vec![function(&sandbox, "own-state", &wasm, config, state)]);
        let port = MemoryPort::new("none", None, Keep::Nothing);
        let mut lane = lane(&sandbox, plan, vec![Box::new(port)], pool);
        // A worker has looked at it.
        assert_eq!(lane.turn(), Turn::Ended, "it is idle");
        lane
    };
    // The code, and what the first one of all needs.
    let first = deploy();
    let before = Memory::read();
    let lanes: Vec<Lane> = (0..number).map(|_| deploy()).collect();
    let after = Memory::read();
    let own = |name: &str| name.contains("own-");
    let board = |name: &str| name.contains("weir-board");
    // Linear memories begin as copies of an image.
    let heap = |name: &str| name == "[heap]";
    let grown = |of: &dyn Fn(&Memory) -> u64| {
        of(&after).saturating_sub(of(&before)) as f64 / number as f64 / 1024.0
    };
    let tables = grown(&|memory| memory.page_tables);
    let all = grown(&|memory| memory.of(|name| !own(name))) + tables;
    println!(
        "{name:20} {number:5}  {all:6.1}  {:6.1} {:7.1} {:5.1} {tables:6.1}   {:8.1}  {:8.1} {:5.1}",
        grown(&|memory| memory.of(|name| !own(name) && !board(name) && !heap(name))),
        grown(&|memory| memory.of(board)),
        grown(&|memory| memory.of(heap)),
        grown(&|memory| memory.of(own)),
        (after.mappings - before.mappings) as f64 / number as f64,
        (after.files - before.files) as f64 / number as f64,
    );
    drop((lanes, first));
}

/// A real host with a thousand chains that nothing comes into.
fn idle() {
    let number = 1000;
    let host = Host::start("");
    let wasm = wasm("null");
    host.push("default", "null", 1, &wasm);
    for n in 0..number {
        let name = format!("chain-{n}");
        host.apply(
            "default",
            &json!({"name": name, "plane": "packet", "function": [{"use": "null"}]}),
        );
    }
    // What was begun comes to an end: connections, the watch over new versions.
    std::thread::sleep(Duration::from_secs(15));
    let before = threads(host.process());
    std::thread::sleep(IDLE);
    let after = threads(host.process());
    println!();
    println!("a host with {number} idle chains, {IDLE:?}; the aim: no CPU time");
    println!("{:20}  {:>5}  {:>8}  {:>8}", "thread", "ticks", "us", "wake-ups");
    for (number, (name, now)) in &after {
        let (_, was) = before.get(number).cloned().unwrap_or_default();
        println!(
            "{name:20}  {:5}  {:8.1}  {:8}",
            now.ticks - was.ticks,
            (now.nanoseconds - was.nanoseconds) as f64 / 1e3,
            now.turns - was.turns
        );
    }
}
