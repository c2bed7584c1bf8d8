//! One function in every language that has an SDK: what it costs to have it, and to run it.
//!
//! The function is `guest-sdk/packet-filter`; each language's example is built with its own
//! `build`. A language whose tools are missing is told, and left out. With files in place of names,
//! builds of one language's example are compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use weir_benches::driver::{Driver, flows, median};
use weir_benches::host::program;
use weir_benches::lanes;
use weir_benches::process::{Memory, allow_files};
use weir_benches::suite::{VIP, prepared, specification};
use weir_chain::{Executor, Mode};
use weir_sandbox::{Sandbox, SandboxConfig, Shared};

const ROUNDS: usize = 11;
const BURST: usize = 32;
/// Instances whose memory is counted.
const INSTANCES: usize = 50;
const LANGUAGES: [&str; 10] =
    ["rust", "c", "cpp", "zig", "wat", "assemblyscript", "go", "js", "ts", "python"];

/// Rules of which none matches the generator's packets, so that all are looked at.
fn config(rules: usize) -> String {
    let rules: Vec<String> = (0..rules)
        .map(|n| {
            format!(
                r#"{{"action": "deny", "proto": "udp", "src": "10.0.0.0/8", "dst": "192.0.{n}.0/24", "dport": "1-1023"}}"#
            )
        })
        .collect();
    format!(r#"{{"default": "allow", "rules": [{}]}}"#, rules.join(", "))
}

/// The configuration of a language's function. That in WAT takes its rules compiled.
fn configured(what: &str, rules: usize) -> String {
    match what {
        "null" => "{}".into(),
        "wat" => {
            use std::io::Write as _;
            let mut compiler = Command::new(project("wat").join("table.py"));
            let compiler = compiler.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut compiler = compiler.spawn().expect("python3 is there");
            let mut rules_of_others = compiler.stdin.take().expect("piped");
            rules_of_others.write_all(config(rules).as_bytes()).expect("it reads");
            drop(rules_of_others);
            let table = compiler.wait_with_output().expect("it ends").stdout;
            format!(r#"{{"table":"{}"}}"#, String::from_utf8_lossy(&table).trim())
        }
        _ => config(rules),
    }
}

/// Prints what each of several builds costs, round by round.
fn compare(files: &[String]) {
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let _ticking = sandbox.ticker().tick();
    println!("packet-filter; ns of CPU a packet, generator and sink included; one round a line");
    for rules in [8, 64] {
        println!("{rules} rules: {}", files.join(" "));
        let mut chains: Vec<Chain> = files
            .iter()
            .map(|file| {
                let wasm = fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
                Chain::new(&sandbox, file, &wasm, &config(rules))
            })
            .collect();
        let mut measured = vec![Vec::new(); chains.len()];
        for _ in 0..ROUNDS {
            let round: Vec<f64> = chains.iter_mut().map(Chain::round).collect();
            let texts: Vec<String> = round.iter().map(|ns| format!("{ns:9.1}")).collect();
            println!("{}", texts.join(" "));
            measured.iter_mut().zip(round).for_each(|(all, ns)| all.push(ns));
        }
        let medians = measured.into_iter().map(|all| format!("{:9.1}", median(all)));
        println!("{}  (medians)", medians.collect::<Vec<_>>().join(" "));
    }
}

fn main() {
    if let [file] = std::env::args().skip(1).collect::<Vec<_>>().as_slice()
        && file.ends_with(".wasm")
    {
        return memory(Path::new(file));
    }
    let only: Vec<String> = std::env::args().skip(1).collect();
    if only.len() > 1 && only.iter().all(|name| name.ends_with(".wasm")) {
        return compare(&only);
    }
    let built: Vec<(&str, Vec<u8>)> = LANGUAGES
        .into_iter()
        .filter(|language| only.is_empty() || only.iter().any(|name| name == language))
        .filter_map(|language| Some((language, fs::read(build(language)?).ok()?)))
        .collect();
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let _ticking = sandbox.ticker().tick();
    println!(
        "packet-filter; ns of CPU a packet of 64 bytes at burst {BURST}, less those of `null` with the same generator and sink: medians of \
         {ROUNDS} interleaved rounds; the rest: medians"
    );
    println!(
        "{:15} {:>8} {:>11} {:>14} {:>13} {:>9} {:>9} {:>9}",
        "",
        "size KB",
        "compile ms",
        "instance us",
        "KiB instance",
        "8 rules",
        "64 rules",
        "of Rust's"
    );
    let mut chains: Vec<Chain> = Vec::new();
    for (what, wasm) in [("null", lanes::wasm("null"))].iter().chain(&built) {
        for rules in [8, 64] {
            let config = configured(what, rules);
            chains.push(Chain::new(&sandbox, what, wasm, &config));
        }
    }
    let mut measured = vec![Vec::new(); chains.len()];
    for _ in 0..ROUNDS {
        for (chain, measured) in chains.iter_mut().zip(&mut measured) {
            measured.push(chain.round());
        }
    }
    let ns: Vec<f64> = measured.into_iter().map(median).collect();
    let of = |place: usize, rules: usize| ns[2 * place + rules] - ns[rules];
    println!("{:15} {:>58.1} {:>9.1}   (in all)", "null", ns[0], ns[1]);
    for (place, (language, wasm)) in (1..).zip(&built) {
        let file = project(language).join("packet-filter.wasm");
        println!(
            "{language:15} {:>8.0} {:>11.1} {:>14.1} {:>13} {:>9.1} {:>9.1} {:>9.2}",
            wasm.len() as f64 / 1000.0,
            compile(wasm),
            instantiate(&sandbox, language, wasm),
            child(&file),
            of(place, 0),
            of(place, 1),
            of(place, 0) / of(1, 0)
        );
    }
}

fn project(language: &str) -> PathBuf {
    let sdk = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk"));
    sdk.join(language).join("examples/packet-filter")
}

/// Builds the example; none if there is none, or its tools are missing.
fn build(language: &str) -> Option<PathBuf> {
    let project = project(language);
    if !project.join("build").exists() {
        return None;
    }
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/languages/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(project.join("build"))
        .env("WEIR", program())
        .env("WEIR_SDK", project.join("../.."))
        .env("PATH", format!("{tools}:{path}"))
        .status();
    status.is_ok_and(|status| status.success()).then(|| project.join("packet-filter.wasm"))
}

/// A chain of one function between generator and sink.
struct Chain {
    driver: Option<Box<Driver>>,
    executor: Executor<Box<Driver>>,
    bursts: u64,
}

impl Chain {
    fn new(sandbox: &Sandbox, name: &str, wasm: &[u8], config: &str) -> Self {
        let driver = Box::new(Driver::new(flows(10_000, VIP, 80), BURST));
        let window = Shared::new(driver.pool.memory()).expect("a handle");
        let function = specification(name.into(), wasm, config, 0);
        let executor = prepared(sandbox, vec![function], Mode::Linked)
            .instantiate(sandbox, &window, driver.pool.room_bytes())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut chain = Self { driver: Some(driver), executor, bursts: 500 };
        // So many bursts that a round takes some 50 ms.
        let ns = chain.round();
        chain.bursts = ((50e6 / (ns * BURST as f64)) as u64).max(20);
        chain
    }

    /// ns a packet.
    fn round(&mut self) -> f64 {
        Driver::wasm(&mut self.driver, &mut self.executor, self.bursts)
    }
}

/// CPU time of compiling, in milliseconds.
fn compile(wasm: &[u8]) -> f64 {
    let component = weir_sandbox::admit(wasm).expect("admitted before").component.clone();
    // Of all threads.
    let cpu_time = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let one = || {
        let before = cpu_time();
        drop(Sandbox::precompile(&component).expect("it compiles"));
        cpu_time() - before
    };
    let first = one();
    // What takes seconds is measured once.
    if first > 1000.0 { first } else { median((0..5).map(|_| one()).collect()) }
}

/// Microseconds until there is a configured instance.
fn instantiate(sandbox: &Sandbox, language: &str, wasm: &[u8]) -> f64 {
    let driver = Driver::new(flows(1, VIP, 80), BURST);
    let window = Shared::new(driver.pool.memory()).expect("a handle");
    let config = configured(language, 8);
    let chain = prepared(sandbox, vec![specification("it".into(), wasm, &config, 0)], Mode::Linked);
    let one = || {
        let started = Instant::now();
        let instance: Executor<Box<Driver>> =
            chain.instantiate(sandbox, &window, driver.pool.room_bytes()).expect("an instance");
        let took = started.elapsed().as_secs_f64() * 1e6;
        drop(instance);
        took
    };
    median((0..21).map(|_| one()).collect())
}

/// KiB of memory an instance takes, as a process of its own says.
fn child(file: &Path) -> String {
    let program = std::env::current_exe().expect("this program has a name");
    let output = Command::new(program).arg(file).output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Prints KiB an instance, the pool not counted.
fn memory(file: &Path) {
    let wasm = fs::read(file).expect("a component");
    allow_files();
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let driver = Driver::new(flows(1, VIP, 80), BURST);
    let window = Shared::new(driver.pool.memory()).expect("a handle");
    // LANGUAGE/examples/packet-filter/packet-filter.wasm
    let language = file.ancestors().nth(3).and_then(Path::file_name).unwrap_or_default();
    let config = configured(&language.to_string_lossy(), 8);
    let chain =
        prepared(&sandbox, vec![specification("it".into(), &wasm, &config, 0)], Mode::Linked);
    let one = || -> Executor<Box<Driver>> {
        chain.instantiate(&sandbox, &window, driver.pool.room_bytes()).expect("an instance")
    };
    // What the first one of all needs.
    let first = one();
    let before = Memory::read();
    let instances: Vec<_> = (0..INSTANCES).map(|_| one()).collect();
    let after = Memory::read();
    let all = |memory: &Memory| memory.of(|name| !name.contains("bench")) + memory.page_tables;
    let grown = all(&after).saturating_sub(all(&before));
    println!("{:.0}", grown as f64 / INSTANCES as f64 / 1024.0);
    drop((instances, first));
}
