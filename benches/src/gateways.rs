//! Programs that stand between clients and upstreams, each on a core of its own choice and ended
//! with the benchmark.
//!
//! Owns: starting nginx and Weir, waiting until they listen, what they use of CPU and memory. Must
//! not know: what is sent through them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::program;
use crate::process::{Used, threads};
use crate::requests::BODY;

const PATIENCE: Duration = Duration::from_secs(30);

/// CPU time of threads.
#[derive(Debug)]
pub struct Cpu(BTreeMap<u64, u64>);

impl Cpu {
    /// Of all threads of these processes, so far.
    fn of(processes: impl IntoIterator<Item = u32>) -> Self {
        let all = processes.into_iter().flat_map(threads);
        Self(all.map(|(thread, (_, Used { nanoseconds, .. }))| (thread, nanoseconds)).collect())
    }

    /// What was used since then. A thread that has ended meanwhile is not counted.
    #[must_use]
    pub fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        });
        Duration::from_nanos(used.sum())
    }
}

/// A program of the benchmark's, ended with it.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it on a core (or a list of cores); what it says goes to the file `log` of the
    /// directory.
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

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Itself and its children.
    fn processes(&self) -> Vec<u32> {
        let own = self.0.id();
        let mut all = vec![own];
        // A child belongs to the thread that started it.
        for task in threads(own).into_keys() {
            let children = fs::read_to_string(format!("/proc/{own}/task/{task}/children"));
            let children = children.unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        all
    }

    /// CPU time so far of all its threads, and those of its children.
    #[must_use]
    pub fn cpu(&self) -> Cpu {
        Cpu::of(self.processes())
    }

    /// CPU time so far of its own threads alone.
    #[must_use]
    pub fn own_cpu(&self) -> Cpu {
        Cpu::of([self.0.id()])
    }

    /// The most memory that was resident since [`Self::forget_peak`], in bytes: its own and its
    /// children's, each counted whole.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let of = |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        self.processes().into_iter().map(of).sum()
    }

    /// Counts the peak of memory from what is resident now.
    ///
    /// # Panics
    /// When it has ended.
    pub fn forget_peak(&self) {
        for pid in self.processes() {
            fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it runs");
        }
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

/// Says which package is missing.
///
/// # Panics
/// When one is.
pub fn need(programs: &[(&str, &str)]) {
    for (program, package) in programs {
        let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        assert!(
            there.is_ok_and(|o| o.status.success()),
            "there is no {program}: apt-get install {package}"
        );
    }
}

/// A port of loopback that nobody listens on.
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
/// When nobody does in time; with what the program said.
pub fn wait_for(port: u16, what: &str, directory: &Path) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "{what} does not listen:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A configuration of nginx with one worker: directives of its server, and others of `http`.
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
/// When it cannot be started.
#[must_use]
pub fn nginx(core: &str, directory: &Path, config: &str, port: u16) -> Running {
    fs::write(directory.join("nginx.conf"), config).expect("a file");
    let prefix = directory.to_str().expect("text");
    let running =
        Running::start(core, Path::new("nginx"), &["-p", prefix, "-c", "nginx.conf"], directory);
    wait_for(port, "nginx", directory);
    running
}

/// nginx as an upstream that answers everything with [`BODY`].
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn upstream(core: &str) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let server = format!("location / {{ return 200 '{}\\n'; }}", BODY.trim_end());
    let running = nginx(core, directory.path(), &nginx_config(port, &server, ""), port);
    Gateway { name: "nginx, the upstream".into(), port, running, directory }
}

/// nginx as a gateway before this upstream; `location`: directives beside those that every such
/// gateway needs.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn nginx_proxy(core: &str, upstream: u16, location: &str) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let server = format!(
        "location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; {location} }}"
    );
    let more = format!(
        "upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
    );
    let running = nginx(core, directory.path(), &nginx_config(port, &server, &more), port);
    Gateway { name: "nginx".into(), port, running, directory }
}

/// So many functions `rewrite`, each looking for a field and setting one in the request and one in
/// the response.
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

/// A gateway under test.
#[derive(Debug)]
pub struct Gateway {
    /// What it is in a table.
    pub name: String,
    /// Where it listens, on loopback.
    pub port: u16,
    /// Its program.
    pub running: Running,
    /// Where it runs; gone with it.
    pub directory: TempDir,
}

impl Gateway {
    /// Weir before this upstream. `gateway`: lines of its table `[gateway]`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn weir(core: &str, name: &str, upstream: u16, gateway: &str, chain: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let chain = if chain { "chain = \"c\"\n" } else { "" };
        let config = format!(
            "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\n{gateway}\n[[listener]]\nname = \"web\"\n\
             address = \"127.0.0.1:{port}\"\nprotocol = \"http\"\n{chain}upstream = [\"127.0.0.1:{upstream}\"]\n"
        );
        Self::weir_with(core, name, directory, port, &config)
    }

    /// Weir in this directory with this configuration, which has its API at `api.sock` and listens
    /// on this port.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn weir_with(core: &str, name: &str, directory: TempDir, port: u16, config: &str) -> Self {
        fs::write(directory.path().join("weir.toml"), config).expect("a file");
        let running = Running::start(core, &program(), &["run"], directory.path());
        wait_for(port, "weir", directory.path());
        // It listens before it can be spoken to.
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(directory.path().join("api.sock")).is_err() {
            assert!(Instant::now() < until, "weir has no API");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { name: name.into(), port, running, directory }
    }

    /// Runs a command of `weir` against it.
    ///
    /// # Panics
    /// When it fails.
    pub fn command(&self, arguments: &[&str]) {
        let mut command = Command::new(program());
        command.args(["--api", "./api.sock"]).args(arguments).current_dir(self.directory.path());
        let output = command.output().expect("weir starts");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Pushes a function that was built, and applies its chain `c`: the text of `[[function]]`
    /// tables.
    ///
    /// # Panics
    /// When it is not built, or refused.
    pub fn deploy(&self, function: &str, functions: &str) {
        let wasm = fs::canonicalize(format!("target/functions/{function}.wasm"));
        let wasm = wasm.unwrap_or_else(|_| panic!("scripts/build-functions {function}"));
        self.deploy_file(function, &wasm, functions);
    }

    /// The same with the function in this file, under a name.
    ///
    /// # Panics
    /// When it is refused.
    pub fn deploy_file(&self, name: &str, wasm: &Path, functions: &str) {
        self.command(&["function", "push", wasm.to_str().expect("text"), "--name", name]);
        let chain = format!("name = \"c\"\nplane = \"message\"\n{functions}");
        fs::write(self.directory.path().join("c.toml"), chain).expect("a file");
        self.command(&["chain", "apply", "c.toml"]);
    }
}
