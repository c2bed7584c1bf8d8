//! A small function for messages in every language that has a template for one: what a request
//! costs through it, beside no chain at all.
//!
//! It is what `weir new --plane message` makes: requests for private paths are refused, the others
//! get one more field and go on. In JavaScript, TypeScript and Python it is a component of
//! wasi:http, an instance for each request, and for Python also one for 1000 of them; in the others
//! a function of events, called once a request. HTTP/1.1 with keep-alive, a response of 13 bytes;
//! the gateway has one core, client and server the other.
//!
//! Arguments name the languages, all without. One whose tools are missing is told, and left out.
//! Needs the Debian packages nginx and wrk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_benches::driver::median;
use weir_benches::gateways::{self, Gateway, need};
use weir_benches::host::program;
use weir_benches::wrk::{Seen, wrk};

const ROUNDS: usize = 5;
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 16;
/// The core of who is measured, and that of all others.
const CORE: &str = "0";
const OTHERS: &str = "1";
/// What makes the templates refuse `/admin`, and nothing else.
const PATHS: &str = "private = [\"/admin\"]";
const TEXT: &str = "private = \"/admin\"";
const LANGUAGES: [(&str, &str); 10] = [
    ("rust", PATHS),
    ("c", PATHS),
    ("cpp", PATHS),
    ("zig", PATHS),
    ("wat", PATHS),
    ("assemblyscript", PATHS),
    ("go", PATHS),
    ("js", TEXT),
    ("ts", TEXT),
    ("python", TEXT),
];

fn main() {
    need(&[("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux")]);
    let server = gateways::upstream(OTHERS);
    let projects = tempfile::tempdir().expect("a directory");
    let only: Vec<String> = std::env::args().skip(1).collect();
    let mut gateways = vec![(Gateway::weir(CORE, "no chain", server.port, "", false), 0)];
    for (language, config) in LANGUAGES {
        if !only.is_empty() && !only.iter().any(|name| name == language) {
            continue;
        }
        let Some(wasm) = build(projects.path(), language) else {
            println!("without {language}: its project could not be built");
            continue;
        };
        let gateway = Gateway::weir(CORE, language, server.port, "", true);
        let chain = format!("[[function]]\nuse = \"guard\"\n[function.config]\n{config}\n");
        gateway.deploy_file("guard", &wasm, &chain);
        let refused = reqwest::blocking::get(format!("http://127.0.0.1:{}/admin", gateway.port));
        assert_eq!(refused.expect("an answer").status(), 403, "{language}");
        let bytes = fs::metadata(&wasm).expect("it was built").len();
        gateways.push((gateway, bytes));
        if language == "python" {
            let gateway = Gateway::weir(CORE, "python, 1000", server.port, "", true);
            let again = chain
                .replace("[function.config]", "requests-per-instance = 1000\n[function.config]");
            gateway.deploy_file("guard", &wasm, &again);
            gateways.push((gateway, bytes));
        }
    }

    let mut all: Vec<Vec<Seen>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for ((gateway, _), seen) in gateways.iter().zip(&mut all) {
            let one = wrk(OTHERS, gateway, "/", CONNECTIONS, SECONDS);
            // The first round warms up.
            if round > 0 {
                seen.push(one);
            }
        }
    }
    println!(
        "HTTP/1.1, {CONNECTIONS} connections, {ROUNDS} interleaved rounds of {SECONDS} s: µs of CPU a request (least, median, median less that \
         of no chain), then medians"
    );
    println!(
        "{:14} {:>8} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9}",
        "chain", "size KB", "least", "median", "function", "requests/s", "p50 ms", "p99 ms"
    );
    let cpu = |seen: &[Seen]| median(seen.iter().map(|s| s.cpu).collect());
    let none = cpu(&all[0]);
    for ((gateway, bytes), seen) in gateways.iter().zip(&all) {
        let of = |value: fn(&Seen) -> f64| median(seen.iter().map(value).collect());
        println!(
            "{:14} {:8.0} {:9.1} {:9.1} {:9.1} {:11.0} {:9.2} {:9.2}",
            gateway.name,
            *bytes as f64 / 1000.0,
            seen.iter().map(|s| s.cpu).fold(f64::INFINITY, f64::min),
            cpu(seen),
            cpu(seen) - none,
            of(|s| s.requests),
            of(|s| s.p50),
            of(|s| s.p99)
        );
    }
}

/// A language's project, new and built; none if its tools are missing.
fn build(directory: &Path, language: &str) -> Option<PathBuf> {
    let name = format!("guard-{language}");
    let arguments = ["--quiet", "new", &name, "--lang", language, "--plane", "message"];
    let made = Command::new(program()).args(arguments).current_dir(directory).status();
    assert!(made.is_ok_and(|status| status.success()), "weir new --lang {language}");
    let project = directory.join(&name);
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/languages/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let built = Command::new(project.join("build"))
        .env("WEIR", program())
        .env("PATH", format!("{tools}:{path}"))
        .status();
    built.is_ok_and(|status| status.success()).then(|| project.join(format!("{name}.wasm")))
}
