//! From an upload to packets passing through it: a real host, asked over its HTTP API.
//!
//! Each round starts a host with an empty store. First a function is pushed that it has never seen,
//! and applied as a chain; then a new version is pushed and swapped in; then the old one again,
//! which is compiled already; then the new one again, by a host that was started anew and has only
//! the disk. What a step is made of is measured in this process, with the host's own parts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weir_benches::driver::median;
use weir_benches::host::{Host, program};
use weir_benches::lanes::{chain, function, lane, pool, variant, wasm};
use weir_benches::process::process_time;
use weir_chain::compile_upload;
use weir_pool::HugePages;
use weir_port::memory::{Keep, MemoryPort};
use weir_sandbox::{Compiler, Sandbox, SandboxConfig, admit};

const ROUNDS: usize = 9;

fn main() {
    println!("from upload to live, milliseconds: median, longest of {ROUNDS}");
    println!("the aim, for a component of 100 KB: under 100 ms; compiled before: under 5 ms");
    for (name, config) in [("macswap", json!({})), ("nat", json!({"external": ["203.0.113.1"]}))] {
        let wasm = wasm(name);
        println!();
        println!("{name}, {} KB", wasm.len() / 1000);
        over_the_api(name, &config, &wasm);
        parts(name, &config.to_string(), &wasm);
    }
}

/// What a client sees.
fn over_the_api(name: &str, config: &serde_json::Value, wasm: &[u8]) {
    let newer = variant(wasm, 1);
    let chain =
        json!({"name": "edge", "plane": "packet", "function": [{"use": name, "config": config}]});
    let mut steps = [
        ("never seen: push and apply", Vec::new()),
        ("a new version: push and swap", Vec::new()),
        ("compiled before, in memory: push and swap", Vec::new()),
        ("compiled before, on disk: push and swap", Vec::new()),
    ];
    for _ in 0..ROUNDS {
        let mut host = Host::start("");
        // The first request of a connection, and of a host, is not what is measured.
        host.tenant("warm");
        let push = |host: &Host, version, wasm| host.push("default", name, version, wasm).1;
        let swap = |host: &Host, version| host.swap("default", name, version).1;
        steps[0].1.push((push(&host, 1, wasm), host.apply("default", &chain).1));
        steps[1].1.push((push(&host, 2, &newer), swap(&host, 2)));
        steps[2].1.push((push(&host, 1, wasm), swap(&host, 1)));
        host.restart();
        host.tenant("warm");
        steps[3].1.push((push(&host, 2, &newer), swap(&host, 2)));
    }
    println!("  {:42}  {:^15}   {:^15}   {:^15}", "", "together", "push", "apply or swap");
    for (what, times) in steps {
        let column = |of: fn(&(f64, f64)) -> f64| line(times.iter().map(of).collect());
        println!(
            "  {what:42}  {}   {}   {}",
            column(|(push, live)| push + live),
            column(|(push, _)| *push),
            column(|(_, live)| *live)
        );
    }
}

/// What it is made of: wall time and, for each, the mean of the CPU time on all cores, which other
/// programs on the machine do not change much.
fn parts(name: &str, config: &str, wasm: &[u8]) {
    let mut parts = [
        ("admission", Vec::new(), Duration::ZERO),
        ("compilation in a child process", Vec::new(), Duration::ZERO),
        ("a chain of it alone: instance, configuration", Vec::new(), Duration::ZERO),
        ("a chain of two: linking, instances, configuration", Vec::new(), Duration::ZERO),
        ("the same chain once more: instances, configuration", Vec::new(), Duration::ZERO),
    ];
    let mut part = |place: usize, (wall, cpu): (Instant, Duration)| {
        parts[place].1.push(wall.elapsed().as_secs_f64() * 1e3);
        parts[place].2 += process_time() - cpu;
    };
    let now = || (Instant::now(), process_time());
    let null = self::wasm("null");
    for _ in 0..ROUNDS {
        let compiler = Compiler::Child {
            program: program(),
            arguments: vec!["__compile".to_owned()],
            admission: vec!["__admit".to_owned()],
            timeout: Duration::from_secs(60),
        };
        let sandbox = Sandbox::new(SandboxConfig { compiler, ..SandboxConfig::default() })
            .expect("a sandbox");
        let sandbox = Arc::new(sandbox);
        let since = now();
        let admitted = admit(wasm).unwrap_or_else(|e| panic!("{e}"));
        part(0, since);
        let since = now();
        let compiled = compile_upload(&sandbox, &admitted, true);
        compiled.unwrap_or_else(|e| panic!("{e}"));
        part(1, since);
        let null = function(&sandbox, "null", &null, "{}", 0);
        let its = function(&sandbox, name, wasm, config, 8 << 20);
        compile_upload(&sandbox, &null.admitted, true).unwrap_or_else(|e| panic!("{e}"));
        let none = MemoryPort::new("none", None, Keep::Nothing);
        let alone = chain("alone", vec![its.clone()]);
        let two = chain("two", vec![null, its]);
        let since = now();
        let lane = lane(&sandbox, alone, vec![Box::new(none)], pool(HugePages::Never));
        part(2, since);
        for place in [3, 4] {
            let (site, states, two) = (lane.site(), lane.states(), two.clone());
            let since = now();
            let staged = site.stage(two, &states).unwrap_or_else(|e| panic!("{e}"));
            part(place, since);
            drop(staged);
        }
    }
    println!("  {:52}  {:^15}   {:>7}", "what that is made of", "wall time", "CPU");
    for (what, times, cpu) in parts {
        let cpu = cpu.as_secs_f64() * 1e3 / ROUNDS as f64;
        println!("    {what:50}  {}   {cpu:7.0}", line(times));
    }
}

fn line(times: Vec<f64>) -> String {
    let longest = times.iter().copied().fold(0.0, f64::max);
    format!("{:7.1} {longest:7.1}", median(times))
}
