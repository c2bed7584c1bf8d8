//! What a guest has in its store, and where its own requests may go.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};
use weir_exchange::{CallFault, Stream};
use weir_sandbox::{INSTANCES_MAX, Level, MEMORIES_MAX, Memories, MemoryLedger, TABLES_MAX};

use crate::body::{Open, Progress, Read, Written, error_of_call, length};
use crate::function::{LinkedProxy, ProxyFunction};
use crate::output::Output;

/// The authority that means: the rest of the chain, whatever the client asked for.
const UPSTREAM: &str = "upstream";
/// Requests that an exchange may send on.
const CALLS_MAX: u64 = 64;
/// Bytes that a guest writes to a body in one go.
const CHUNK: usize = 64 << 10;
/// Handles that a guest may have.
pub(crate) const RESOURCES_MAX: usize = 4096;
/// Random bytes that it gets in one call.
const RANDOM_MAX: u64 = 1 << 20;

/// A request that a guest sends on.
pub(crate) struct Call {
    pub(crate) request: Request<Stream>,
    pub(crate) upstream: Option<usize>,
    pub(crate) answer: oneshot::Sender<Result<Response<Stream>, CallFault>>,
}

/// The data of a guest's store.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    outputs: [Output; 2],
    pub(crate) memory: Memory,
}

/// What a guest has for one exchange.
pub(crate) struct Exchange {
    /// What the client asked for.
    pub(crate) authority: HeaderValue,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) progress: Arc<Progress>,
}

impl Guest {
    pub(crate) fn new(function: &ProxyFunction) -> Self {
        let telemetry = &function.config().telemetry;
        let outputs =
            [Level::Info, Level::Warn].map(|level| Output::new(level, Arc::clone(telemetry)));
        let mut wasi = WasiCtx::builder();
        wasi.stdout(outputs[0].clone())
            .stderr(outputs[1].clone())
            .envs(&function.linked.environment)
            .max_random_size(RANDOM_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            table,
            hooks: Hooks {
                linked: Arc::clone(&function.linked),
                runners: function.runners.handle().clone(),
                exchange: None,
            },
            outputs,
            memory: Memory {
                taken: MemoryLedger::default(),
                limit: function.config().memory,
                all: Memories::default(),
            },
        }
    }

    pub(crate) fn begins(&mut self, exchange: Exchange) {
        self.hooks.exchange = Some(exchange);
    }

    /// The exchange is over: what it said of it is told, and it can make no calls.
    pub(crate) fn ends(&mut self) {
        self.hooks.exchange = None;
        self.outputs.iter().for_each(Output::finish_line);
    }

    /// Handles that it has, and whether one of them is a body that it has not finished.
    pub(crate) fn handles(&mut self) -> (usize, bool) {
        let (mut all, mut writes) = (0, false);
        for handle in self.table.iter_mut() {
            all += 1;
            writes |= handle.is::<HostOutgoingBody>();
        }
        (all, writes)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// All linear memories and tables of an instance together.
pub(crate) struct Memory {
    pub(crate) taken: MemoryLedger,
    limit: usize,
    all: Memories,
}

impl Memory {
    /// What it may have, if it was refused more.
    pub(crate) fn refused(&self) -> Option<usize> {
        self.taken.is_refused().then_some(self.limit)
    }

    /// Whether it has taken more than half of what it may take beside what it had at its start.
    pub(crate) fn is_grown(&self, at_start: usize) -> bool {
        let grown = self.taken.bytes().saturating_sub(at_start);
        grown > self.limit.saturating_sub(at_start) / 2
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.taken.memory(current, desired, maximum, self.limit);
        if allowed {
            self.all.grows(current, desired, maximum);
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.taken.table(current, desired, maximum, self.limit))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// Where a guest's requests go.
struct Hooks {
    linked: Arc<LinkedProxy>,
    runners: Handle,
    /// None before the first one, and between two.
    exchange: Option<Exchange>,
}

/// Where an authority leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// On, by the name that the client used.
    Client,
    /// On to this upstream.
    Upstream(usize),
}

fn destination(wanted: &str, client: &[u8], upstreams: &[String]) -> Option<Destination> {
    let bare = |authority: &[u8]| {
        let authority = authority.strip_suffix(b":80").unwrap_or(authority);
        authority.strip_suffix(b":443").unwrap_or(authority).to_ascii_lowercase()
    };
    if bare(wanted.as_bytes()) == bare(client) || wanted.eq_ignore_ascii_case(UPSTREAM) {
        return Some(Destination::Client);
    }
    upstreams.iter().position(|upstream| upstream == wanted).map(Destination::Upstream)
}

type Sending =
    Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sending> + Send> {
        let Some(Exchange { authority, calls, progress }) = &self.exchange else {
            return Box::new(std::future::ready(Err(Error::ConnectionTerminated)));
        };
        let config = self.linked.config();
        let wanted = request.uri().authority().map_or("", http::uri::Authority::as_str);
        let found = destination(wanted, authority.as_bytes(), &config.upstreams);
        let Some(destination) = found else {
            let said = format!(
                "it calls {wanted:?}, which is neither what the client asked for, nor {UPSTREAM:?}, nor an upstream of the \
                 listener"
            );
            config.telemetry.log(Level::Warn, &said);
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        };
        let path = request.uri().path();
        let is_target = path.starts_with('/') || path == "*" && request.method() == Method::OPTIONS;
        if !is_target {
            return Box::new(std::future::ready(Err(Error::HttpRequestUriInvalid)));
        }
        if request.method() == Method::CONNECT {
            return Box::new(std::future::ready(Err(Error::HttpRequestMethodInvalid)));
        }
        if progress.calls.fetch_add(1, Relaxed) >= CALLS_MAX {
            return Box::new(std::future::ready(Err(Error::ConnectionLimitReached)));
        }
        let (mut parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().cloned();
        parts.uri = target.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
        let upstream = match destination {
            Destination::Client => {
                parts.headers.insert(header::HOST, authority.clone());
                None
            }
            Destination::Upstream(place) => Some(place),
        };
        let length = length(&parts.headers);
        let runners = self.runners.clone();
        let written = Written::new(body, length, Arc::clone(progress), None, runners);
        let (answer, answered) = oneshot::channel();
        let call =
            Call { request: Request::from_parts(parts, Box::pin(written)), upstream, answer };
        let (calls, progress) = (calls.clone(), Arc::clone(progress));
        let open = Open::new(&progress);
        let patience = options.and_then(|options| options.first_byte_timeout);
        Box::new(async move {
            let _open = open;
            if calls.send(call).await.is_err() {
                return Err(Error::ConnectionTerminated);
            }
            let patience = patience.unwrap_or(Duration::MAX);
            let Ok(answered) = tokio::time::timeout(patience, answered).await else {
                progress.fails();
                return Err(Error::ConnectionReadTimeout);
            };
            match answered {
                Ok(Ok(response)) => {
                    let read = |stream| Read::new(stream, progress).boxed_unsync();
                    let done: Box<dyn Future<Output = _> + Send> =
                        Box::new(std::future::ready(Ok(())));
                    Ok((response.map(read), done))
                }
                Ok(Err(fault)) => {
                    progress.fails();
                    Err(error_of_call(fault))
                }
                Err(_) => Err(Error::ConnectionTerminated),
            }
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_or_the_listener_named_is_reached() {
        let upstreams = ["127.0.0.1:9000".to_owned(), "127.0.0.1:9001".to_owned()];
        let to = |wanted| destination(wanted, b"Example.org:8080", &upstreams);
        assert_eq!(to("example.ORG:8080"), Some(Destination::Client));
        assert_eq!(to("upstream"), Some(Destination::Client));
        assert_eq!(to("127.0.0.1:9001"), Some(Destination::Upstream(1)));
        for other in
            ["example.org", "example.org:8081", "127.0.0.1:9002", "127.0.0.1", "", "upstream.org"]
        {
            assert_eq!(to(other), None, "{other}");
        }
        assert_eq!(destination("a", b"a:80", &[]), Some(Destination::Client));
    }

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut memory =
            Memory { taken: MemoryLedger::default(), limit: 100, all: Memories::default() };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        // What is more than the module says itself, wasmtime refuses.
        assert!(memory.memory_growing(60, 80, Some(70)).unwrap());
        assert!(memory.table_growing(0, 3, Some(2)).unwrap());
        assert!(!memory.taken.is_refused());
        assert!(!memory.memory_growing(60, 80, None).unwrap());
        assert!(memory.taken.is_refused());
    }

    #[test]
    fn memory_has_grown_when_half_of_what_there_was_to_take_is_taken() {
        let mut memory =
            Memory { taken: MemoryLedger::new(60), limit: 100, all: Memories::default() };
        assert!(!memory.is_grown(60));
        assert!(memory.memory_growing(60, 80, None).unwrap() && !memory.is_grown(60));
        assert!(memory.memory_growing(80, 81, None).unwrap() && memory.is_grown(60));
    }
}
