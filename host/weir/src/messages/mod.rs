//! The message plane behind the control plane's engine: a gateway, its listeners, and the chains that their messages pass.
//!
//! A chain has a part on each thread of each listener that names it. Everything slow (compiling, instantiating, configuring) is done by
//! the calling thread for every part before the first one changes; the gateway's threads only publish.

mod chains;
mod listeners;
mod parts;
mod process;
mod proxies;
mod status;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_control::engine::{ChainId, EngineError, EventSink};
use weir_gateway::{Gateway, GatewayConfig};
use weir_hop::Hub;
use weir_message::{MessageError, Store};
use weir_sandbox::Sandbox;
use weir_spec::listener::GatewayMode;
use weir_spec::{HostConfig, Listener, Name};

use self::parts::Deployed;
use self::proxies::Proxies;

/// See the module.
pub(crate) struct Messages {
    sandbox: Arc<Sandbox>,
    /// None if no listener is configured: an idle gateway has threads for nothing.
    gateway: Option<Gateway>,
    listeners: Vec<Listener>,
    config: weir_spec::Gateway,
    chains: Mutex<BTreeMap<ChainId, Arc<Deployed>>>,
    /// By tenant.
    stores: Mutex<BTreeMap<Name, Arc<Store>>>,
    seed: u64,
    sink: Arc<OnceLock<EventSink>>,
    /// Where chains have processes of their own.
    hub: Option<Hub>,
    hops: AtomicU16,
    proxies: Proxies,
}

impl Messages {
    /// Starts the gateway's threads and listens.
    ///
    /// # Errors
    /// When an address cannot be listened at, or a certificate is no good.
    pub(crate) fn start(config: &HostConfig, sandbox: Arc<Sandbox>, seed: u64) -> Result<Self> {
        let gateway = if config.listeners.is_empty() {
            None
        } else {
            let threads = usize::from(config.gateway.threads);
            let config = GatewayConfig { threads, ..GatewayConfig::default() };
            Some(Gateway::start(config).context("starting the gateway")?)
        };
        let process = config.gateway.mode == GatewayMode::Process && gateway.is_some();
        let messages = Self {
            hub: process.then(Hub::new),
            hops: AtomicU16::new(1),
            proxies: Proxies::new(usize::from(config.gateway.threads)),
            sandbox,
            gateway,
            listeners: config.listeners.clone(),
            config: config.gateway.clone(),
            chains: Mutex::default(),
            stores: Mutex::default(),
            seed,
            sink: Arc::default(),
        };
        for listener in &messages.listeners {
            messages.listen(listener, None)?;
        }
        Ok(messages)
    }

    /// Says where events go.
    pub(crate) fn subscribe(&self, sink: EventSink) {
        // A second call is a bug of the caller's; the first sink stays.
        let _ = self.sink.set(sink);
    }

    /// Reads certificates again.
    pub(crate) fn reload(&self) {
        if let Some(Err(errors)) = self.gateway.as_ref().map(Gateway::reload) {
            for error in errors {
                tracing::error!("a certificate was not taken: {error}");
            }
        }
    }

    /// Lets connections end, for at most this long.
    pub(crate) fn drain(&self, time: Duration) -> usize {
        if let Some(gateway) = &self.gateway {
            gateway.drain(time);
        }
        let chains = self.chains().len();
        self.chains().clear();
        chains
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainId, Arc<Deployed>>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a part of this chain.
    pub(crate) fn has(&self, id: &ChainId) -> bool {
        self.chains().contains_key(id)
    }

    /// Whether a version is being tried in its part of a chain.
    pub(crate) fn has_trial(&self, id: &ChainId) -> bool {
        self.deployed(id).is_ok_and(|deployed| deployed.running().trial.is_some())
    }

    fn deployed(&self, id: &ChainId) -> Result<Arc<Deployed>, EngineError> {
        let deployed = self.chains().get(id).cloned();
        deployed.ok_or_else(|| EngineError::Conflict(format!("chain {} is not deployed", id.name)))
    }

    /// The store that a tenant's functions share.
    fn store(&self, tenant: &Name) -> Arc<Store> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.config.store.get();
        Arc::clone(stores.entry(tenant.clone()).or_insert_with(|| Arc::new(Store::new(bytes))))
    }
}

fn refused(error: MessageError) -> EngineError {
    match error {
        MessageError::Refused { name, what: "configuration", message } => {
            EngineError::Configuration { function: name, message }
        }
        MessageError::Pool(_) | MessageError::Share(_) => EngineError::Exhausted(error.to_string()),
        MessageError::Trial(_) => EngineError::Conflict(error.to_string()),
        _ => EngineError::Refused(error.to_string()),
    }
}
