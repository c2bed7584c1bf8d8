//! `weir run`: the host.
//!
//! Start: configuration, sandbox, store, data plane, control plane (which deploys what the store holds), API. Stop: chains
//! are drained, then requests that are under way are answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use weir_control::api::{Api, Limits, Server};
use weir_control::auth::Tokens;
use weir_control::store::Store;
use weir_control::{Control, ControlError};
use weir_sandbox::{CodeCache, Compiler, Sandbox, SandboxConfig};
use weir_spec::{Document, HostConfig, Invalid, Workers};

use crate::cli::{Global, RunArgs};
use crate::engine::{PlaneEngine, random_seed};
use crate::messages::Messages;
use crate::nics::{self, Nics};
use crate::planes::Planes;
use crate::render::Output;
use crate::{log, manager};

/// Time for chains to finish what is under way when the host stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the configuration is looked for.
const CONFIG_FILES: [&str; 2] = ["weir.toml", "/etc/weir/weir.toml"];

pub(super) fn run(args: &RunArgs, global: &Global) -> Result<()> {
    log::start(global);
    allow_files();
    let mut read = Configuration::read(args)?;
    // First of all the store, because it tells whether there is another host.
    let store = Store::open(&read.config.store.path).context(
        "the store cannot be opened; `[store] path` in the configuration says where it is",
    )?;
    // Undone when dropped, behind all that uses it.
    let mut nics = Nics::new(&read.config.store.path)?;
    let prepared = nics.prepare(&mut read.config);
    prepared.map_err(|error| read.locate(error))?;
    host(store, &read, args, &nics)
}

/// Puts the host together and runs it, until it is told to stop.
fn host(store: Store, read: &Configuration, args: &RunArgs, nics: &Nics) -> Result<()> {
    let config = &read.config;
    let sandbox = Sandbox::new(SandboxConfig {
        cache: Some(CodeCache {
            directory: config.store.path.join("cache"),
            most: config.store.compiled.get(),
        }),
        compiler: Compiler::Child {
            program: std::env::current_exe().context("finding the weir program itself")?,
            arguments: vec!["__compile".to_owned()],
            timeout: config.api.compile_timeout.get(),
        },
        ..SandboxConfig::default()
    })?;
    let sandbox = Arc::new(sandbox);
    let packets = PlaneEngine::start(config, Arc::clone(&sandbox), nics.macs());
    let packets = packets.map_err(|e| read.locate(e))?;
    let messages = Messages::start(config, Arc::clone(&sandbox), random_seed());
    let messages = Arc::new(messages.map_err(|e| read.locate(e))?);
    let functions = nics.in_use.clone();
    let engine = Planes { packets, messages: Arc::clone(&messages), sandbox, functions };
    let control =
        Control::start(store, Arc::new(engine), config).map_err(|e| read.locate(e.into()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weir-api")
        // On a busy machine a thread that is started for a request waits for a CPU longer than one that has slept.
        .thread_keep_alive(Duration::from_secs(3600))
        .enable_all()
        .build()
        .context("starting the API's threads")?;
    runtime.block_on(serve(&control, &messages, read, args))
}

/// Lets this process open as many files as the administrator allows. A chain has some open, and the usual soft limit of
/// 1,024 is there for programs that use select(2).
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

/// Says whether a host would start with this configuration, as far as that can be told without starting it.
pub(super) fn check(args: &RunArgs, output: Output) -> Result<()> {
    let read = Configuration::read(args)?;
    Tokens::new(&read.config.api.tokens).map_err(|error| read.locate(error.into()))?;
    let file = read.file.as_ref().map_or_else(
        || "no configuration file: the defaults".to_owned(),
        |file| file.display().to_string(),
    );
    let steps = nics::plan(&read.config).map_err(|error| read.locate(error))?;
    for step in steps {
        output.done(&format!("the host would {step}"))?;
    }
    output.done(&format!("{file}: all right"))
}

/// Where the store is of a host with this configuration.
pub(super) fn store_of(config: Option<PathBuf>) -> Result<PathBuf> {
    let read = Configuration::read(&RunArgs { config, check: true })?;
    Ok(read.config.store.path)
}

/// The configuration, and where it was read.
struct Configuration {
    /// Paths in it are relative to the file.
    config: HostConfig,
    file: Option<PathBuf>,
    document: Option<Document<HostConfig>>,
}

impl Configuration {
    fn read(args: &RunArgs) -> Result<Self> {
        let there = || CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists());
        let Some(file) = args.config.clone().or_else(there) else {
            tracing::info!("no configuration file: the defaults hold");
            return Ok(Self { config: HostConfig::default(), file: None, document: None });
        };
        let document = Document::<HostConfig>::read(&file)?;
        let mut config = document.value.clone();
        check_cores(&config.workers).map_err(|invalid| document.locate(invalid))?;
        config.resolve_paths(file.parent().unwrap_or(Path::new("")));
        Ok(Self { config, file: Some(file), document: Some(document) })
    }

    /// An error that is about a value of the file is shown where the file has it.
    fn locate(&self, error: anyhow::Error) -> anyhow::Error {
        let invalid = match error.downcast_ref::<ControlError>() {
            Some(ControlError::Invalid(invalid)) => Some(invalid),
            _ => error.downcast_ref::<Invalid>(),
        };
        match (&self.document, invalid.cloned()) {
            (Some(document), Some(invalid)) => document.locate(invalid).into(),
            _ => error,
        }
    }
}

/// Whether this machine has the cores that workers shall be pinned to.
fn check_cores(workers: &Workers) -> Result<(), Invalid> {
    let Ok(ours) = rustix::thread::sched_getaffinity(None) else { return Ok(()) };
    let allowed: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| ours.is_set(*core)).collect();
    for (index, core) in workers.cores.iter().enumerate() {
        if !allowed.contains(&usize::from(*core)) {
            let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
            return Err(Invalid::whole(format!("this process may not run on core {core}"))
                .help(format!("allowed here: {}", allowed.join(", ")))
                .within_array("cores", index)
                .within("workers"));
        }
    }
    Ok(())
}

fn limits(config: &HostConfig) -> Limits {
    Limits {
        upload: usize::try_from(config.api.max_upload.get()).unwrap_or(usize::MAX),
        timeout: config.api.timeout.get(),
    }
}

async fn serve(
    control: &Arc<Control>,
    messages: &Arc<Messages>,
    read: &Configuration,
    args: &RunArgs,
) -> Result<()> {
    let config = &read.config;
    let (stop, stopping) = watch::channel(false);
    let api = Api::new(Arc::clone(control), limits(config), stopping.clone());
    let server = Server::bind(&api, &config.api.socket, config.api.listen).await?;
    let mut signals = Signals::new()?;
    tracing::info!(socket = %config.api.socket.display(), "ready");
    if let Some(address) = server.address() {
        tracing::info!(%address, "the API is reachable by TCP, with a token");
        if !address.ip().is_loopback() {
            tracing::warn!(
                "tokens and uploads pass by TCP in the clear: put a proxy with TLS before it, or a tunnel"
            );
        }
    }
    let serving = tokio::spawn(server.serve(stopping));
    manager::tell("READY=1");
    while let Asked::Reload = signals.next().await {
        reload(control, &api, args).await;
        messages.reload();
    }
    manager::tell("STOPPING=1");
    // A second signal ends the host at once.
    tokio::select! {
        () = drain(control) => {}
        () = signals.stop() => anyhow::bail!("stopped before all chains were drained"),
    }
    stop.send_replace(true);
    serving.await.context("the API ended in a bug")?;
    Ok(())
}

async fn drain(control: &Arc<Control>) {
    let control = Arc::clone(control);
    let drained = tokio::task::spawn_blocking(move || control.drain(DRAIN_TIMEOUT)).await;
    match drained {
        Ok(drained) => {
            for problem in &drained.problems {
                tracing::warn!("{problem}");
            }
            tracing::info!(chains = drained.chains, "drained");
        }
        Err(error) => tracing::error!("draining ended in a bug: {error}"),
    }
}

/// Reads the configuration again. What is wrong with it changes nothing.
async fn reload(control: &Arc<Control>, api: &Api, args: &RunArgs) {
    let again = async {
        let read = Configuration::read(args)?;
        let (limits, config) = (limits(&read.config), read.config.clone());
        let control = Arc::clone(control);
        tokio::task::spawn_blocking(move || control.reload(&config))
            .await?
            .map_err(|error| read.locate(error.into()))?;
        api.set_limits(limits);
        anyhow::Ok(())
    };
    match again.await {
        Ok(()) => tracing::info!(
            "the configuration was read again: tokens, limits and rollout hold now, the rest from the next start on"
        ),
        Err(error) => tracing::error!("the configuration was not taken: {error:#}"),
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while let Asked::Reload = self.next().await {}
    }
}
