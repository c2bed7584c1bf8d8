//! `weir run`: the host.
//!
//! Start: configuration, signals, store, sandbox, data plane, control plane, API; then chains are
//! deployed that the store holds, and the host is ready. Stop: chains are drained, then requests
//! that are under way are answered.

mod check;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::{Fuse, FusedFuture as _};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use weir_control::api::{Api, Limits, Server, SocketLock};
use weir_control::store::Store;
use weir_control::{Control, ControlError};
use weir_engine::nics::Nics;
use weir_engine::{PROGRAM, Planes, located};
use weir_sandbox::{CodeCache, Compiler, Sandbox, SandboxConfig};
use weir_spec::{Document, HostConfig, Invalid, Workers};

use crate::cli::{Global, RunArgs};
use crate::{files, log, manager, numa};

pub(super) use self::check::check;

/// The host is ready when all chains are deployed, or after this time: below the 90 s that systemd
/// gives a service to start.
const READY_AFTER: Duration = Duration::from_secs(60);
/// Time for chains to finish what is under way when the host stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time after that for what is just being done with a chain.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Threads for requests that block. One tenant has a few at most; unused ones are not there.
const API_THREADS: usize = 4096;
/// Bytes of the disk that compiled code leaves free: the store, which needs 2 MiB to take changes,
/// comes first.
const CACHE_SPARE: u64 = 4 << 20;
/// Where the configuration is looked for.
const CONFIG_FILES: [&str; 2] = ["weir.toml", "/etc/weir/weir.toml"];

pub(super) fn run(args: &RunArgs, global: &Global) -> Result<()> {
    let _logging = log::start(global);
    files::allow();
    let mut read = Configuration::read(args.config.as_deref())?;
    files::warn_of_too_few(&read.config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(API_THREADS)
        .thread_name("weir-api")
        // On a busy machine a thread that is started for a request waits for a CPU longer than one
        // that has slept.
        .thread_keep_alive(Duration::from_secs(3600))
        .enable_all()
        .build()
        .context("starting the API's threads")?;
    // Before anything is changed that has to be undone.
    let signals = runtime.block_on(async { Signals::new() })?;
    // First of all the store and the socket, because they tell whether there is another host.
    let store = Store::open(&read.config.store.path).context(
        "the store cannot be opened; `[store] path` in the configuration says where it is",
    )?;
    let socket = SocketLock::take(&read.config.api.socket);
    let _socket = socket.map_err(|error| read.locate(located::api(&error).into()))?;
    // Undone when dropped, behind all that uses it.
    let mut nics = Nics::new(&read.config.store.path)?;
    let prepared = nics.prepare(&mut read.config);
    prepared.map_err(|error| read.locate(error))?;
    for warning in numa::warnings(&read.config, Path::new("/sys")) {
        tracing::warn!("{warning}");
    }
    let ended = host(&runtime, signals, store, &read, &nics);
    // A compilation, say, that nobody waits for any more does not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Puts the host together and runs it, until it is told to stop.
fn host(
    runtime: &Runtime,
    signals: Signals,
    store: Store,
    read: &Configuration,
    nics: &Nics,
) -> Result<()> {
    let config = &read.config;
    let child = |command: &str| child(command, &config.workers);
    weir_sandbox::read_lines_in_children(PROGRAM.into(), child("__lines"));
    let sandbox = Sandbox::new(SandboxConfig {
        cache: Some(CodeCache::new(
            config.store.path.join("cache"),
            config.store.compiled.get(),
            CACHE_SPARE,
        )),
        compiler: Compiler::Child {
            program: PROGRAM.into(),
            arguments: child("__compile"),
            admission: child("__admit"),
            timeout: config.api.compile_timeout.get(),
        },
        ..SandboxConfig::default()
    })?;
    let planes = Planes::start(config, Arc::new(sandbox), nics).map_err(|e| read.locate(e))?;
    let control =
        Control::start(store, Arc::new(planes), config).map_err(|e| read.locate(e.into()))?;
    runtime.block_on(serve(&control, read, signals))
}

/// Arguments for a child that does this, on other cores than those of the workers.
fn child(command: &str, workers: &Workers) -> Vec<String> {
    let beside = workers.cores.iter().map(|core| format!("--beside={core}"));
    [command.to_owned()].into_iter().chain(beside).collect()
}

/// Where the store is of a host with this configuration.
pub(super) fn store_of(config: Option<PathBuf>) -> Result<PathBuf> {
    let read = Configuration::read(config.as_deref())?;
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
    /// Reads this file, or else one that is where it is looked for.
    fn read(file: Option<&Path>) -> Result<Self> {
        let there = || CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists());
        let Some(file) = file.map(Path::to_owned).or_else(there) else {
            tracing::info!("no configuration file: the defaults hold");
            return Ok(Self { config: HostConfig::default(), file: None, document: None });
        };
        let document = Document::<HostConfig>::read(&file)?;
        let mut config = document.value.clone();
        check_cores(&config.workers).map_err(|invalid| document.locate(invalid))?;
        config.resolve_paths(file.parent().unwrap_or(Path::new("")));
        Ok(Self { config, file: Some(file), document: Some(document) })
    }

    /// The configuration as the file has it.
    fn as_written(&self) -> HostConfig {
        self.document.as_ref().map(|document| document.value.clone()).unwrap_or_default()
    }

    /// An error that is about a value of the file is shown where the file has it.
    fn locate(&self, error: anyhow::Error) -> anyhow::Error {
        let invalid = match error.downcast_ref::<ControlError>() {
            Some(error) => error.invalid(),
            None => error.downcast_ref::<Invalid>(),
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

async fn serve(control: &Arc<Control>, read: &Configuration, mut signals: Signals) -> Result<()> {
    let config = &read.config;
    let (stop, stopping) = watch::channel(false);
    let api = Api::new(Arc::clone(control), limits(config), stopping.clone());
    let server = Server::bind(&api, &config.api.socket, config.api.listen).await;
    let server = server.map_err(|error| read.locate(located::api(&error).into()))?;
    if let Some(address) = server.address() {
        tracing::info!(%address, "the API is reachable by TCP, with a token");
        if !address.ip().is_loopback() {
            tracing::warn!(
                "tokens and uploads pass by TCP in the clear: put a proxy with TLS before it, or a tunnel"
            );
        }
    }
    let mut serving = tokio::spawn(server.serve(stopping));
    let mut restored = std::pin::pin!(timeout(READY_AFTER, restore(control)));
    let mut is_ready = false;
    // It may have to wait for a change that takes long, and signals are heard all the same.
    let mut reloading = std::pin::pin!(Fuse::terminated());
    // What was read meanwhile, last.
    let mut next = None;
    loop {
        tokio::select! {
            restored = &mut restored, if !is_ready => {
                is_ready = true;
                match restored {
                    Ok(restored) => restored?,
                    Err(_) => tracing::warn!(
                        "chains are not all deployed yet, and the host does not wait for them any longer: `weir status` says which"
                    ),
                }
                tracing::info!(socket = %config.api.socket.display(), "ready");
                control.ready();
                manager::tell(&readiness(control));
            }
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => {
                    let again = read_again(control, &api, read);
                    if reloading.is_terminated() {
                        reloading.set(take_over(control, again).fuse());
                    } else {
                        next = Some(again);
                    }
                }
            },
            () = &mut reloading => if let Some(again) = next.take() {
                reloading.set(take_over(control, again).fuse());
            },
        }
    }
    manager::tell("STOPPING=1");
    // A second signal ends the host at once.
    tokio::select! {
        () = drain(control) => {}
        () = signals.stop() => anyhow::bail!("stopped before all chains were drained"),
    }
    stop.send_replace(true);
    tokio::select! {
        served = &mut serving => served.context("the API ended in a bug"),
        () = signals.stop() => anyhow::bail!("stopped before requests under way were answered"),
    }
}

/// What the service manager is told when the host is ready. Ports that are down are named there and
/// in the log: nobody else waits for them.
fn readiness(control: &Control) -> String {
    let ports = control.status(None).engine.ports.into_iter();
    let down = ports.filter(|port| port.problem.is_some()).map(|port| port.name.to_string());
    let down: Vec<String> = down.collect();
    if down.is_empty() {
        return "READY=1".to_owned();
    }
    let down = down.join(", ");
    tracing::warn!("ready without ports that are down: {down}; `weir port list` says why");
    format!("READY=1\nSTATUS=started without ports that were down: {down}")
}

/// Deploys the chains that the store holds. What the machine lacks something for is tried again
/// behind that, and not waited for.
async fn restore(control: &Arc<Control>) -> Result<()> {
    let (first, again) = (Arc::clone(control), Arc::clone(control));
    aside_and_then("weir-restore", move || first.restore(), move || again.restore_again()).await
}

async fn drain(control: &Arc<Control>) {
    let control = Arc::clone(control);
    let draining = aside("weir-drain", move || control.drain(DRAIN_TIMEOUT));
    match timeout(DRAIN_TIMEOUT + DRAIN_GRACE, draining).await {
        Ok(Ok(drained)) => {
            for problem in &drained.problems {
                tracing::warn!("{problem}");
            }
            tracing::info!(chains = drained.chains, "drained");
        }
        Ok(Err(error)) => tracing::error!("draining: {error:#}"),
        Err(_) => tracing::warn!("chains are not drained in time"),
    }
}

/// A configuration that was read again, of which that is in force which needs nobody's consent.
struct ReadAgain {
    read: Configuration,
    /// What waits for the next start.
    waiting: Vec<String>,
}

/// Reads the configuration again: the file that there was at the start. What is wrong with it
/// changes nothing. A token that is taken away is so when this is back: nothing is waited for.
fn read_again(control: &Control, api: &Api, started: &Configuration) -> Result<ReadAgain> {
    let read = Configuration::read(started.file.as_deref())?;
    control.reload(&read.config).map_err(|error| read.locate(error.into()))?;
    api.set_limits(limits(&read.config));
    files::warn_of_too_few(&read.config);
    let later = started.as_written().waits_for_start(&read.as_written());
    let waiting = match &later[..] {
        [] => Vec::new(),
        later => vec![format!("{} (from the next start on)", later.join(", "))],
    };
    Ok(ReadAgain { read, waiting })
}

/// Takes over the rest, and tells what came of it. Listeners may be refused because of what runs,
/// which keeps nobody's token.
async fn take_over(control: &Arc<Control>, again: Result<ReadAgain>) {
    let outcome = async {
        let ReadAgain { read, mut waiting } = again?;
        let (acting, config) = (Arc::clone(control), read.config.clone());
        let acted = aside("weir-reload", move || {
            (acting.know_tenants(&config), acting.reload_listeners(&config))
        });
        let (tenants, listeners) = acted.await?;
        let mut problems = Vec::new();
        problems.extend(tenants.err());
        match listeners {
            Ok(more) => waiting.extend(more),
            Err(error) => {
                let why = read.locate(error.into());
                problems.push(format!("listeners are as they were, the rest holds: {why:#}"));
            }
        }
        anyhow::ensure!(problems.is_empty(), problems.join("\n"));
        anyhow::Ok(waiting)
    };
    match outcome.await {
        Ok(waiting) => control.reloaded(Ok(&waiting)),
        Err(error) => control.reloaded(Err(&format!("{error:#}"))),
    }
}

/// Does something that blocks on a thread of its own: the API's may all be busy.
async fn aside<T: Send + 'static>(
    name: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    aside_and_then(name, act, || ()).await
}

/// The same, and something else behind it on the same thread, which is not waited for.
async fn aside_and_then<T: Send + 'static>(
    name: &str,
    act: impl FnOnce() -> T + Send + 'static,
    then: impl FnOnce() + Send + 'static,
) -> Result<T> {
    let (done, is_done) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // When nobody waits for it any more, it is done all the same.
            drop(done.send(act()));
            then();
        })
        .context("starting a thread")?;
    is_done.await.with_context(|| format!("the thread {name} ended in a bug"))
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
