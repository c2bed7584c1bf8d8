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
use weir_control::Control;
use weir_control::api::{Api, Limits, Server};
use weir_control::store::Store;
use weir_sandbox::{Compiler, Sandbox, SandboxConfig};
use weir_spec::{Document, HostConfig};

use crate::cli::{Global, RunArgs};
use crate::engine::PlaneEngine;
use crate::log;

/// Time for one upload to compile; its author can make it smaller.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for chains to finish what is under way when the host stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the configuration is looked for.
const CONFIG_FILES: [&str; 2] = ["weir.toml", "/etc/weir/weir.toml"];

pub(super) fn run(args: &RunArgs, global: &Global) -> Result<()> {
    log::start(global);
    let file = args.config.clone().or_else(found);
    let config = read(file.as_deref())?;
    let sandbox = Sandbox::new(SandboxConfig {
        cache: Some(config.store.path.join("cache")),
        compiler: Compiler::Child {
            program: std::env::current_exe().context("finding the weir program itself")?,
            arguments: vec!["__compile".to_owned()],
            timeout: COMPILE_TIMEOUT,
        },
    })?;
    // First of all the store, because it tells whether there is another host.
    let store = Store::open(&config.store.path)?;
    let engine = PlaneEngine::start(&config, Arc::new(sandbox))?;
    let control = Control::start(store, Arc::new(engine), &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weir-api")
        .enable_all()
        .build()
        .context("starting the API's threads")?;
    runtime.block_on(serve(&control, &config, file.as_deref()))
}

fn found() -> Option<PathBuf> {
    CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists())
}

/// Reads the configuration; paths in it are relative to it.
fn read(file: Option<&Path>) -> Result<HostConfig> {
    let Some(file) = file else {
        tracing::info!("no configuration file: the defaults hold");
        return Ok(HostConfig::default());
    };
    let document = Document::<HostConfig>::read(file)?;
    document.value.check_built_in().map_err(|invalid| document.locate(invalid))?;
    let mut config = document.value;
    config.resolve_paths(file.parent().unwrap_or(Path::new("")));
    Ok(config)
}

fn limits(config: &HostConfig) -> Limits {
    Limits {
        upload: usize::try_from(config.api.max_upload.get()).unwrap_or(usize::MAX),
        timeout: config.api.timeout.get(),
    }
}

async fn serve(control: &Arc<Control>, config: &HostConfig, file: Option<&Path>) -> Result<()> {
    let (stop, stopping) = watch::channel(false);
    let api = Api::new(Arc::clone(control), limits(config), stopping.clone());
    let server = Server::bind(&api, &config.api.socket, config.api.listen).await?;
    let mut signals = Signals::new()?;
    tracing::info!(socket = %config.api.socket.display(), "ready");
    if let Some(address) = server.address() {
        tracing::info!(%address, "the API is reachable by TCP, with a token");
    }
    let serving = tokio::spawn(server.serve(stopping));
    while let Asked::Reload = signals.next().await {
        reload(control, &api, file).await;
    }
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
async fn reload(control: &Arc<Control>, api: &Api, file: Option<&Path>) {
    let again = async {
        let config = read(file)?;
        let limits = limits(&config);
        let control = Arc::clone(control);
        tokio::task::spawn_blocking(move || control.reload(&config)).await??;
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
