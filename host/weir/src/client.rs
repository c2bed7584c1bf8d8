//! Talking to a host: HTTP over its Unix socket, or over TCP with a token. Its problem documents
//! become errors that say the same ([`Refused`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use weir_control::api::{List, Problem};
use weir_control::engine::PortStatus;
use weir_spec::{Invalid, Name};

use crate::cli::Global;

/// Longest time for an answer: a swap compiles, in a large chain for many seconds.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Time for a stream that is followed.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Longest time until a host takes the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What was said on the command line cannot be: exit status 2.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl std::error::Error for WrongUsage {}

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    Network(Url),
}

impl Place {
    fn parse(text: &str) -> Result<Self, WrongUsage> {
        let wrong = |what: &str| WrongUsage(format!("--api {text:?}{what}"));
        if let Some(path) = text.strip_prefix("unix:") {
            // unix:PATH and unix://PATH are both common.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(wrong(" names no socket"));
            }
            return Ok(Self::Socket(path.into()));
        }
        if text.starts_with("https://") {
            return Err(wrong(": the host speaks no TLS; use a tunnel (ssh -L) and http://"));
        }
        if text.starts_with("http://") {
            let url =
                Url::parse(text).map_err(|error| wrong(&format!(" is not a URL: {error}")))?;
            return Ok(Self::Network(url));
        }
        // A name alone is a socket's if there is such a file.
        if !text.contains("://") && (text.contains('/') || Path::new(text).exists()) {
            return Ok(Self::Socket(text.into()));
        }
        Err(wrong(": allowed are unix:PATH, a path, and http://ADDRESS:PORT"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Network(url) => f.write_str(url.as_str()),
        }
    }
}

/// A host that can be asked.
pub(crate) struct Client {
    http: reqwest::Client,
    /// On the thread that asks: a command that started another one would wait for it to be given a
    /// CPU, several times.
    runtime: Runtime,
    place: Place,
    /// Scheme and authority for requests.
    base: Url,
    token: Option<String>,
    tenant: Option<String>,
    /// Whether each request is told.
    verbose: bool,
}

impl Client {
    /// Looks at where the host is; nothing is sent.
    ///
    /// # Errors
    /// When `--api` cannot be understood, or `--token` is none.
    pub(crate) fn new(global: &Global) -> Result<Self> {
        let place = Place::parse(&global.api)?;
        if global.token.as_ref().is_some_and(|token| HeaderValue::from_str(token).is_err()) {
            let what = "--token: a token is one line; `--token \"$(cat FILE)\"` reads it without the line's end";
            return Err(WrongUsage(what.to_owned()).into());
        }
        // No connection is kept: between two requests nobody would see that the host has closed it.
        let builder = reqwest::Client::builder()
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .no_proxy();
        let (builder, base) = match &place {
            Place::Socket(path) => {
                (builder.unix_socket(path.as_path()), Url::parse("http://weir.local/")?)
            }
            Place::Network(url) => (builder, url.clone()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            http: builder.build().context("setting up the HTTP client")?,
            runtime: runtime.context("setting up the HTTP client")?,
            place,
            base,
            token: global.token.clone(),
            tenant: global.tenant.as_ref().map(ToString::to_string),
            verbose: global.verbose > 0,
        })
    }

    /// Asks for something: `path` are the segments behind `/v1`.
    ///
    /// # Errors
    /// When the host does not answer, or refuses.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        self.get_with(path, &[])
    }

    /// The same with a query.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T> {
        let request = self.request_at(Method::GET, path, query)?;
        self.read(self.send(request)?)
    }

    /// Follows a stream of server-sent events, and gives the data of each to `each`, until the host
    /// ends it.
    ///
    /// # Errors
    /// As [`Self::get`], and what `each` says.
    pub(crate) fn follow(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        mut each: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let request = self.request_at(Method::GET, path, query)?.timeout(FOREVER);
        let mut response = self.send(request)?;
        let mut text = Vec::new();
        while let Some(bytes) = self.wait(response.chunk())? {
            text.extend_from_slice(&bytes);
            let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = text.split_off(end + 1);
            let lines = std::mem::replace(&mut text, rest);
            for line in String::from_utf8_lossy(&lines).lines() {
                if let Some(data) = line.strip_prefix("data:") {
                    each(data.trim_start())?;
                }
            }
        }
        Ok(())
    }

    /// Sends JSON, to which the answer comes piece by piece. When this is back, the host has begun
    /// to answer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn begin_stream(&self, path: &[&str], body: &impl Serialize) -> Result<Response> {
        self.send(self.request(Method::POST, path)?.timeout(FOREVER).json(body))
    }

    /// Gives what comes to `each`. The answer is whether the host ended it; otherwise the user did,
    /// by interrupting it.
    ///
    /// # Errors
    /// When the connection breaks, and what `each` says.
    pub(crate) fn stream(
        &self,
        mut response: Response,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        loop {
            let more = self.runtime.block_on(async {
                tokio::select! {
                    more = response.chunk() => Some(more),
                    _ = &mut interrupted => None,
                }
            });
            let Some(more) = more else { return Ok(false) };
            match self.wait(std::future::ready(more))? {
                Some(bytes) => each(&bytes)?,
                None => return Ok(true),
            }
        }
    }

    /// Why the host may have ended a stream, as far as whoever asks again hears of it: `other`
    /// where it answers as before.
    pub(crate) fn why_ended(&self, other: &str) -> String {
        let asked = self.request_at(Method::GET, &["ports"], &[]);
        let asked = asked.and_then(|request| self.send(request.timeout(CONNECT_TIMEOUT)));
        match asked {
            Ok(_) => other.to_owned(),
            Err(error) if is_unauthorized(&error) => "it does not know the token any more".into(),
            Err(error) => match error.downcast::<Refused>() {
                Ok(refused) => refused.to_string(),
                Err(_) => "it stops".to_owned(),
            },
        }
    }

    /// Waits for more of an answer.
    fn wait<T>(&self, more: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        let more = self.runtime.block_on(more);
        more.map_err(|error| {
            anyhow::anyhow!("the connection to {} broke: {}", self.place, root(&error))
        })
    }

    /// Removes something.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn delete(&self, path: &[&str]) -> Result<()> {
        let request = self.request(Method::DELETE, path)?;
        self.send(request).map(drop)
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(method, path)?.json(body);
        self.read(self.send(request)?)
    }

    /// Sends TOML, as a file has it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn send_toml<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        text: String,
    ) -> Result<T> {
        let kind = HeaderValue::from_static("application/toml");
        let request = self.request(method, path)?.header(CONTENT_TYPE, kind).body(text);
        self.read(self.send(request)?)
    }

    /// Asks for something to be done of which the query says all.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T> {
        let request = self.request_at(Method::POST, path, query)?;
        self.read(self.send(request)?)
    }

    /// Uploads Wasm, for this tenant where no other is asked for.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn upload<T: DeserializeOwned>(
        &self,
        path: &[&str],
        version: Option<&semver::Version>,
        tenant: Option<&Name>,
        wasm: Vec<u8>,
    ) -> Result<T> {
        let version = version.map(|version| ("version", version.to_string()));
        let tenant = tenant.filter(|_| self.tenant.is_none());
        let tenant = tenant.map(|tenant| ("tenant", tenant.to_string()));
        let query: Vec<_> = version.into_iter().chain(tenant).collect();
        let request = self.request_at(Method::POST, path, &query)?;
        let kind = HeaderValue::from_static("application/wasm");
        self.read(self.send(request.header(CONTENT_TYPE, kind).body(Body::from(wasm)))?)
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        self.request_at(method, path, &[])
    }

    fn request_at(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("--api {} cannot have a path", self.place))?
            .pop_if_empty()
            .push("v1")
            .extend(path);
        let tenant = self.tenant.as_ref().map(|tenant| ("tenant", tenant.clone()));
        if !query.is_empty() || tenant.is_some() {
            url.query_pairs_mut().extend_pairs(query).extend_pairs(tenant);
        }
        let mut request = self.http.request(method, url);
        request = request.header(ACCEPT, "application/json, application/problem+json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Ok(request)
    }

    fn send(&self, request: RequestBuilder) -> Result<Response> {
        let request = request.build().context("making the request")?;
        let url = request.url().clone();
        let query = request.url().query().map(|query| format!("?{query}")).unwrap_or_default();
        let asked = format!("{} {}{query}", request.method(), request.url().path());
        let begun = Instant::now();
        // The request wants its timer as soon as it is made.
        let answered = self.runtime.block_on(async { self.http.execute(request).await });
        if self.verbose {
            let status =
                answered.as_ref().map_or_else(|_| "no answer".into(), |r| r.status().to_string());
            let took = begun.elapsed().as_secs_f64() * 1e3;
            eprintln!("{}: {asked}: {status}, {took:.1} ms", self.place);
        }
        let response = answered.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = self.wait(response.text()).unwrap_or_default();
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => {
                let problem = self.with_owner(self.with_owner_of_port(problem), &url);
                Err(Refused(problem).into())
            }
            Err(_) => bail!("{} answered {status}: is that a Weir host?", self.place),
        }
    }

    /// Who has a chain or a function that `default` has not: lists are of all tenants for an
    /// administrator, everything else is not.
    fn with_owner(&self, problem: Problem, url: &Url) -> Problem {
        let path: Vec<&str> = url.path_segments().into_iter().flatten().collect();
        let Some(&["v1", kind @ ("chains" | "functions"), name, ..]) = path.get(..) else {
            return problem;
        };
        // Something else may be missing: a version of it, or the tenant.
        let missing = format!("there is no {} {name}", kind.trim_end_matches('s'));
        let is_it = problem.detail.strip_prefix(&missing);
        let is_it = is_it.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        if problem.code != "not-found" || self.tenant.is_some() || !is_it {
            return problem;
        }
        let all = self.get::<List<serde_json::Value>>(&[kind]);
        let owners = all.map(|all| owners(&all.items, name)).unwrap_or_default();
        match owners.first() {
            Some(tenant) => {
                let has = format!("; tenant {tenant} has one: `--tenant {tenant}`");
                let mut problem = problem;
                problem.detail.push_str(&has);
                problem
            }
            None => problem,
        }
    }

    /// Whose the port is that `default` has not. A tenant sees only its own.
    fn with_owner_of_port(&self, mut problem: Problem) -> Problem {
        let owner = || {
            let invalid = Refused(problem.clone()).invalid()?;
            let (name, _) = invalid.message.strip_prefix("there is no port ")?.split_once(':')?;
            let name = name.to_owned();
            let ports: List<PortStatus> = self.get(&["ports"]).ok()?;
            let port = ports.items.into_iter().find(|port| *port.name.as_str() == name)?;
            let tenant = port.tenant;
            Some(invalid.help(format!("port {name} is tenant {tenant}'s: `--tenant {tenant}`")))
        };
        if self.tenant.is_none()
            && let Some(invalid) = owner()
        {
            problem.detail = invalid.to_string();
            problem.help = invalid.help;
        }
        problem
    }

    fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        anyhow::ensure!(
            response.status() != StatusCode::NO_CONTENT,
            "{} answered nothing: is its version of Weir another?",
            self.place
        );
        let answer = self.wait(response.bytes())?;
        serde_json::from_slice(&answer).with_context(|| {
            format!(
                "the answer of {} is not as expected: is its version of Weir another?",
                self.place
            )
        })
    }

    /// Why no answer came, and what to do.
    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let cause = root(error);
        if error.is_timeout() {
            return anyhow::anyhow!("{} did not answer in time: {cause}", self.place);
        }
        if !error.is_connect() {
            return anyhow::anyhow!("the connection to {} broke: {cause}", self.place);
        }
        let todo = match (&self.place, kind(error)) {
            (Place::Socket(_), Some(std::io::ErrorKind::PermissionDenied)) => {
                "the socket is for the user that runs the host"
            }
            _ => "start it with `weir run`, or say with --api where it is",
        };
        anyhow::anyhow!("no host answers at {}: {cause}; {todo}", self.place)
    }
}

/// Tenants that have a chain or a function of this name.
fn owners(all: &[serde_json::Value], name: &str) -> Vec<String> {
    let things = all.iter().map(|thing| thing.get("chain").unwrap_or(thing));
    let named = things.filter(|thing| thing["name"] == name);
    named.filter_map(|thing| Some(thing["tenant"].as_str()?.to_owned())).collect()
}

/// The innermost cause, which says what the system said.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(found) = cause {
        if let Some(io) = found.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = found.source();
    }
    None
}

/// The host said no.
#[derive(Debug)]
pub(crate) struct Refused(Problem);

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.reasons.len() < 2 {
            return f.write_str(&self.0.detail);
        }
        // What stands before the first of them; the title is the status in words.
        let head = self.0.detail.split(&self.0.reasons[0]).next().unwrap_or_default().trim_end();
        f.write_str(if head.is_empty() { &self.0.title } else { head })?;
        self.0.reasons.iter().try_for_each(|reason| write!(f, "\n  - {reason}"))
    }
}

/// Whether the host does not know the token.
pub(crate) fn is_unauthorized(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.0.code == "unauthorized")
}

impl Refused {
    /// Whether the body is larger than the host takes.
    pub(crate) fn is_too_large(&self) -> bool {
        self.0.code == "too-large"
    }

    /// Which value of the body is wrong, if it is about one.
    pub(crate) fn invalid(&self) -> Option<Invalid> {
        let Problem { key: Some(key), detail, help, .. } = &self.0 else { return None };
        // The detail has all of it in one line.
        let message = detail.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix(": "));
        let mut message = message.unwrap_or(detail);
        if let Some(help) = help {
            message = message.strip_suffix(&format!(" ({help})")).unwrap_or(message);
        }
        let path = Invalid::path_of(key)?;
        Some(Invalid { path, message: message.to_owned(), help: help.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_body_is_taken_out_of_the_problem() {
        let invalid = Invalid::at("function[1].config", "no").help("allowed: yes");
        let refused = Refused(Problem::invalid(&Invalid {
            path: Invalid::path_of("function[1].config").unwrap(),
            ..invalid.clone()
        }));
        let found = refused.invalid().unwrap();
        assert_eq!((found.key(), found.message), (invalid.key(), invalid.message));
        assert_eq!(found.help, invalid.help);
        assert_eq!(Refused(Problem::default()).invalid(), None);
    }

    #[test]
    fn places_of_hosts() {
        let socket = |path: &str| Place::Socket(path.into());
        assert_eq!(Place::parse("unix:/run/x").unwrap(), socket("/run/x"));
        assert_eq!(Place::parse("unix:///run/x").unwrap(), socket("/run/x"));
        assert_eq!(Place::parse("./x.sock").unwrap(), socket("./x.sock"));
        assert_eq!(Place::parse("http://[::1]:7300").unwrap().to_string(), "http://[::1]:7300/");
        for wrong in ["", "unix:", "localhost", "https://localhost", "http://", "tcp://x"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
