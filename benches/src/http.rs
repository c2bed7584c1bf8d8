//! HTTP gateways under load: programs on one core, `wrk` and their upstream on the other, and the CPU time that a request costs.
//!
//! Owns: starting and ending programs, asking `wrk`. Must not know: who is compared with whom.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Used, threads};

/// The core of who is measured.
pub const CORE: &str = "0";
/// The core of all others.
pub const OTHERS: &str = "1";
const PATIENCE: Duration = Duration::from_secs(30);

/// A program of the benchmark's, ended with it.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it on this core; what it says goes into the file `log` of its directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(core: &str, program: &Path, arguments: &[&str], directory: &Path) -> Self {
        let log = fs::File::options().create(true).append(true).open(directory.join("log"));
        let log = log.expect("a log");
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(program).args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }

    /// CPU time of all its threads, and that of its children's.
    #[must_use]
    pub fn cpu(&self) -> [Duration; 2] {
        let own = self.0.id();
        let of = |pid| threads(pid).into_values().map(|(_, Used { nanoseconds, .. })| nanoseconds);
        let children = fs::read_dir(format!("/proc/{own}/task")).into_iter().flatten().flatten();
        let children: Vec<u32> = children
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|ids| ids.split_whitespace().map(str::parse).collect::<Vec<_>>())
            .flatten()
            .collect();
        [of(own).sum(), children.into_iter().flat_map(of).sum()].map(Duration::from_nanos)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway under test.
#[derive(Debug)]
pub struct Gateway {
    /// How it is called in the report.
    pub name: String,
    /// Where it listens.
    pub port: u16,
    /// The path that is asked for.
    pub path: &'static str,
    /// Its program.
    pub running: Running,
    /// Its directory.
    pub directory: TempDir,
}

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Requests a second.
    pub requests: f64,
    /// Milliseconds that half of them took at most.
    pub p50: f64,
    /// Milliseconds that 99 of 100 took at most.
    pub p99: f64,
    /// Microseconds of CPU time for a request: of the program, and of its children.
    pub cpu: [f64; 2],
}

/// Programs that have to be there, with their Debian packages.
///
/// # Panics
/// When one is not there.
pub fn need(programs: &[(&str, &str)]) {
    for (program, package) in programs {
        let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        assert!(
            there.is_ok_and(|o| o.status.success()),
            "there is no {program}: apt-get install {package}"
        );
    }
}

/// A port of 127.0.0.1 that nobody listens at.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until somebody listens.
///
/// # Panics
/// When nobody does, with the log of whoever should.
pub fn wait_for(port: u16, what: &str, directory: &Path) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "{what} does not listen:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A configuration of nginx with this in its server, and this beside.
#[must_use]
pub fn nginx_config(port: u16, server: &str, more: &str) -> String {
    format!(
        "daemon off; worker_processes 1; error_log stderr warn; pid nginx.pid; user root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_body_temp_path body; \
         proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi; {more}\n\
         server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
    )
}

/// nginx, listening.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn nginx(core: &str, directory: &Path, config: &str, port: u16) -> Running {
    fs::write(directory.join("nginx.conf"), config).expect("a file");
    let prefix = directory.to_str().expect("text");
    let running =
        Running::start(core, Path::new("nginx"), &["-p", prefix, "-c", "nginx.conf"], directory);
    wait_for(port, "nginx", directory);
    running
}

/// A host, with these lines in its `[gateway]`, and a chain of this function if there is one: its name and the file's functions.
///
/// # Panics
/// When it does not start, or does not take them.
#[must_use]
pub fn weir(
    name: String,
    upstream: u16,
    gateway: &str,
    chain: Option<(&str, &str)>,
    path: &'static str,
) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let of_chain = if chain.is_some() { "chain = \"c\"\n" } else { "" };
    let config = format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\n{gateway}[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:{port}\"\nprotocol = \"http\"\n{of_chain}upstream = [\"127.0.0.1:{upstream}\"]\n"
    );
    fs::write(directory.path().join("weir.toml"), config).expect("a file");
    let program = fs::canonicalize("target/release/weir").expect("build the host: scripts/build");
    let running = Running::start(CORE, &program, &["run"], directory.path());
    wait_for(port, "weir", directory.path());
    // Its listeners come before its API.
    let (until, api) = (Instant::now() + PATIENCE, directory.path().join("api.sock"));
    while UnixStream::connect(&api).is_err() {
        assert!(Instant::now() < until, "weir has no API");
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some((function, functions)) = chain {
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(["--api", "./api.sock"]).args(arguments).current_dir(directory.path());
            let output = command.output().expect("weir starts");
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let wasm = fs::canonicalize(format!("target/functions/{function}.wasm"));
        let wasm = wasm.unwrap_or_else(|_| panic!("scripts/build-functions {function}"));
        command(&["function", "push", wasm.to_str().expect("text"), "--name", function]);
        let chain = format!("name = \"c\"\nplane = \"message\"\n{functions}");
        fs::write(directory.path().join("c.toml"), chain).expect("a file");
        command(&["chain", "apply", "c.toml"]);
    }
    Gateway { name, port, path, running, directory }
}

/// So many functions `rewrite`, each looking for a field and setting one in the request and one in the response.
#[must_use]
pub fn rewrites(functions: usize) -> String {
    let function = |n| {
        format!(
            "[[function]]\nuse = \"rewrite\"\nname = \"f{n}\"\n[function.config]\n\
             rules = [ {{ fields = {{ user-agent = \"!\" }}, request = {{ set = {{ x-filter{n} = \"1\" }} }}, \
             response = {{ set = {{ x-filter{n} = \"1\" }} }} }} ]\n"
        )
    };
    (0..functions).map(function).collect()
}

/// Has wrk ask for so many seconds.
///
/// # Panics
/// When it cannot, or something goes wrong with a request.
#[must_use]
pub fn wrk(gateway: &Gateway, connections: u32, seconds: u32) -> Seen {
    let before = gateway.running.cpu();
    let (connections, period) = (connections.to_string(), format!("{seconds}s"));
    let url = format!("http://127.0.0.1:{}{}", gateway.port, gateway.path);
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
        &period,
        "--latency",
        &url,
    ]);
    let output = command.output().expect("wrk starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let after = gateway.running.cpu();
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
    let total = requests * f64::from(seconds);
    let cpu = |n: usize| (after[n].saturating_sub(before[n])).as_secs_f64() * 1e6 / total;
    Seen {
        requests,
        p50: milliseconds(&value("50%")),
        p99: milliseconds(&value("99%")),
        cpu: [cpu(0), cpu(1)],
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
