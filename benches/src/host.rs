//! A real host: `target/release/weir run` in a directory of its own, spoken to over its HTTP API.
//!
//! Owns: starting, asking and ending it, and reading what the kernel says about its process. Must
//! not know: what a single benchmark is about.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time until a host is ready, or answers.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program() -> PathBuf {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/weir"));
    assert!(path.exists(), "{} is not there: run scripts/build", path.display());
    path
}

/// A host; killed when dropped.
pub struct Host {
    directory: TempDir,
    child: Child,
    client: Client,
}

impl Host {
    /// Starts one, with this behind `[api]` and `[store]` in its configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(configuration: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let text =
            format!("[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n{configuration}");
        fs::write(directory.path().join("weir.toml"), text).expect("a file");
        let (child, client) = launch(&directory);
        Self { directory, child, client }
    }

    /// Ends it, and starts one over the same store.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.end();
        (self.child, self.client) = launch(&self.directory);
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Pushes a function; the answer, and the milliseconds it took.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, tenant: &str, name: &str, version: u32, wasm: &[u8]) -> (Value, f64) {
        let path = format!("functions/{name}/versions?version={version}.0.0");
        let request = self.request(Method::POST, tenant, &path);
        answer(request.header("content-type", "application/wasm").body(wasm.to_vec()))
    }

    /// Applies a chain of one function.
    ///
    /// # Panics
    /// When it is refused.
    pub fn apply(&self, tenant: &str, chain: &Value) -> (Value, f64) {
        let name = chain["name"].as_str().expect("a chain has a name");
        answer(self.request(Method::PUT, tenant, &format!("chains/{name}")).json(chain))
    }

    /// Swaps a function.
    ///
    /// # Panics
    /// When it is refused.
    pub fn swap(&self, tenant: &str, name: &str, version: u32) -> (Value, f64) {
        let to = serde_json::json!({"to": format!("{version}.0.0")});
        answer(self.request(Method::POST, tenant, &format!("functions/{name}/swap")).json(&to))
    }

    /// Makes a tenant.
    ///
    /// # Panics
    /// When it is refused.
    pub fn tenant(&self, name: &str) {
        let request = self.request(Method::PUT, name, &format!("tenants/{name}"));
        answer(request.json(&serde_json::json!({})));
    }

    fn request(&self, method: Method, tenant: &str, path: &str) -> RequestBuilder {
        let and = if path.contains('?') { '&' } else { '?' };
        self.client.request(method, format!("http://weir.local/v1/{path}{and}tenant={tenant}"))
    }

    fn end(&mut self) {
        // It may have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch(directory: &TempDir) -> (Child, Client) {
    let socket = directory.path().join("api.sock");
    drop(fs::remove_file(&socket));
    let log = fs::File::create(directory.path().join("log")).expect("a file");
    let child = Command::new(program())
        .arg("run")
        .current_dir(directory.path())
        .env_remove("WEIR_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("weir starts");
    let until = Instant::now() + PATIENCE;
    let log = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    while !log().contains("ready") {
        assert!(Instant::now() < until, "the host is not ready:\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let client = Client::builder().unix_socket(socket).timeout(PATIENCE).no_proxy().build();
    (child, client.expect("a client"))
}

/// The answer as JSON, and the milliseconds until it was there.
fn answer(request: RequestBuilder) -> (Value, f64) {
    let started = Instant::now();
    let response = request.send().expect("the host answers");
    let status = response.status();
    let text = response.text().expect("the answer is whole");
    let took = started.elapsed().as_secs_f64() * 1e3;
    assert!(status.is_success(), "{status}: {text}");
    (serde_json::from_str(&text).unwrap_or_default(), took)
}
