//! The message plane behind the control plane's engine: a gateway, its listeners, and the chains
//! that their messages pass.
//!
//! A chain has a part on each thread of each listener that names it. Everything slow (compiling,
//! instantiating, configuring) is done by the calling thread for every part before the first one
//! changes; the gateway's threads only publish.

mod chains;
mod listeners;
mod parts;
mod process;
mod protocols;
mod proxies;
mod reload;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_control::engine::{ChainId, EngineError, EngineEvent, EventSink};
use weir_gateway::{Gateway, GatewayConfig, News, UpstreamNews};
use weir_hop::Hub;
use weir_message::{MessageError, Store};
use weir_sandbox::{CompileError, Given, InstanceError, Sandbox};
use weir_spec::listener::GatewayMode;
use weir_spec::{HostConfig, Invalid, Listener, Name};

use self::parts::Deployed;
use self::proxies::Proxies;
use crate::located;

/// See the module.
pub(crate) struct Messages {
    sandbox: Arc<Sandbox>,
    /// Not there before the first listener is: an idle gateway has threads for nothing.
    gateway: OnceLock<Gateway>,
    /// In the order of the configuration.
    listeners: Arc<RwLock<Arc<[Listener]>>>,
    config: weir_spec::Gateway,
    chains: Mutex<BTreeMap<ChainId, Arc<Deployed>>>,
    /// By tenant.
    stores: Mutex<BTreeMap<Name, Arc<Store>>>,
    seed: u64,
    sink: Arc<OnceLock<EventSink>>,
    /// Where chains have processes of their own.
    hub: OnceLock<Hub>,
    proxies: Proxies,
    /// The gateway's listeners are taken away; whoever tells it of one looks here, and keeps it
    /// from changing meanwhile.
    drained: RwLock<bool>,
}

/// Whether the configuration's listeners could be had: what can be known without listening.
///
/// # Errors
/// What is wrong with one.
pub(crate) fn check_listeners(config: &HostConfig) -> Result<(), Invalid> {
    for (place, listener) in config.listeners.iter().enumerate() {
        let checked = Gateway::check(&listeners::config(listener, None));
        checked.map_err(|error| located::listener(&error, listener, place))?;
    }
    Ok(())
}

impl Messages {
    /// Starts the gateway's threads, if there is a listener, and listens.
    ///
    /// # Errors
    /// When an address cannot be listened at, or a certificate is no good.
    pub(crate) fn start(config: &HostConfig, sandbox: Arc<Sandbox>, seed: u64) -> Result<Self> {
        let messages = Self {
            hub: OnceLock::new(),
            proxies: Proxies::new(usize::from(config.gateway.threads)),
            sandbox,
            gateway: OnceLock::new(),
            listeners: Arc::new(RwLock::new(config.listeners.as_slice().into())),
            config: config.gateway.clone(),
            chains: Mutex::default(),
            stores: Mutex::default(),
            seed,
            sink: Arc::default(),
            drained: RwLock::default(),
        };
        if !config.listeners.is_empty() {
            messages.start_gateway()?;
        }
        for (place, listener) in config.listeners.iter().enumerate() {
            let listened = messages.listen(listener);
            listened.map_err(|error| located::listener(&error, listener, place))?;
        }
        Ok(messages)
    }

    /// Starts the gateway's threads, unless they run.
    fn start_gateway(&self) -> Result<()> {
        if self.gateway.get().is_some() {
            return Ok(());
        }
        let threads = usize::from(self.config.threads);
        let config = GatewayConfig {
            threads,
            response_buffers: usize::try_from(self.config.response_buffers.get())
                .unwrap_or(usize::MAX),
            news: self.upstream_news(),
            ..GatewayConfig::default()
        };
        let gateway = Gateway::start(config).context("starting the gateway")?;
        if self.config.mode == GatewayMode::Process {
            let _ = self.hub.set(Hub::new());
        }
        // Only who starts or changes the host comes here, one after the other.
        let _ = self.gateway.set(gateway);
        Ok(())
    }

    /// Who tells the control plane of upstreams.
    fn upstream_news(&self) -> News {
        let (listeners, sink) = (Arc::clone(&self.listeners), Arc::clone(&self.sink));
        News::to(move |UpstreamNews { listener, up, message }| {
            let listeners = listeners.read().unwrap_or_else(PoisonError::into_inner);
            let named = listeners.iter().find(|named| named.name.as_str() == listener);
            let (Some(Listener { tenant, name, .. }), Some(sink)) = (named, sink.get()) else {
                return;
            };
            let (tenant, listener) = (tenant.clone(), name.clone());
            sink(EngineEvent::Upstream { tenant, listener, up, message });
        })
    }

    /// The listeners that there are.
    fn listeners(&self) -> Arc<[Listener]> {
        Arc::clone(&self.listeners.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says where events go.
    pub(crate) fn subscribe(&self, sink: EventSink) {
        // A second call is a bug of the caller's; the first sink stays.
        let _ = self.sink.set(sink);
    }

    /// Lets connections end, for at most this long. Nobody listens from then on, whatever is still
    /// being changed.
    pub(crate) fn drain(&self, time: Duration) -> usize {
        *self.drained.write().unwrap_or_else(PoisonError::into_inner) = true;
        if let Some(gateway) = self.gateway.get() {
            gateway.drain(time);
        }
        let chains = self.chains().len();
        self.chains().clear();
        chains
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainId, Arc<Deployed>>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a version is being tried in its part of a chain.
    pub(crate) fn has_trial(&self, id: &ChainId) -> bool {
        self.deployed(id).is_ok_and(|deployed| deployed.running().trial.is_some())
    }

    fn deployed(&self, id: &ChainId) -> Result<Arc<Deployed>, EngineError> {
        let deployed = self.chains().get(id).cloned();
        deployed.ok_or_else(|| EngineError::Conflict(format!("chain {} is not deployed", id.name)))
    }

    /// Keeps nothing that functions of this tenant have stored.
    pub(crate) fn forget(&self, tenant: &Name) {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
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
        MessageError::Instance(InstanceError::Refused {
            name,
            what: Given::Configuration,
            message,
        }) => EngineError::Configuration { function: name, message },
        MessageError::Pool(_)
        | MessageError::Share(_)
        | MessageError::Instance(
            InstanceError::Share(_)
            | InstanceError::Compile { source: CompileError::Io { .. }, .. },
        ) => EngineError::Exhausted(error.to_string()),
        MessageError::Trial(_) => EngineError::Conflict(error.to_string()),
        MessageError::Gone(_) => EngineError::Internal(error.to_string()),
        _ => EngineError::Refused(error.to_string()),
    }
}
