//! A gateway on the loopback interface with the function under test as the chain of its only
//! listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weir_assembly::message_function_plan;
use weir_exchange::{ChainFactory, Stage, Upstreams};
use weir_gateway::{Gateway, GatewayConfig, ListenerConfig, Protocol, UpstreamConfig};
use weir_message::{
    Chain, ChainPlan, FunctionPlan, MessageError, Notice, Proxy, Site, SiteConfig, States, Store,
    orders,
};
use weir_proxy_function::{LinkedProxy, ProxyConfig, ProxyError, ProxyFunction, Runners};
use weir_sandbox::{Given, InstanceError, Sandbox, World};
use weir_spec::ResolvedFunction;

use crate::function::Function;
use crate::packets::lines;
use crate::suite::Expect;
use crate::tester::is;

/// As the defaults of `[gateway]`.
const ROOMS: u32 = 1024;
const ROOM: u32 = 16 << 10;
/// Bytes of a body that the function may hold back.
const HOLD: usize = 1 << 20;
/// Bytes of the store.
const STORE: u64 = 64 << 20;
/// The name by which functions know the upstream.
const UPSTREAM: &str = "upstream";
/// Nobody waits longer for an answer.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// How often it is looked for counters that are expected, and when those that are not there yet
/// will not come.
const LOOK: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_secs(2);

/// What came of a test.
pub(crate) enum Run {
    /// The function refused its configuration: why, and what it logged.
    Refused(String, Vec<String>),
    /// It faulted while it was configured: how, and what it logged.
    Failed(String, Vec<String>),
    /// It ran.
    Done(Ran),
}

/// What a function did.
pub(crate) struct Ran {
    /// What was not as expected.
    pub(crate) problems: Vec<String>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) log: Vec<String>,
    pub(crate) faults: Vec<String>,
    pub(crate) fault_count: u64,
    /// What it answered to events, by name.
    pub(crate) actions: BTreeMap<String, u64>,
}

/// What came of starting it.
pub(crate) enum Started {
    /// The function refused its configuration: why, and what it logged.
    Refused(String, Vec<String>),
    /// It faulted while it was configured: how, and what it logged.
    Failed(String, Vec<String>),
    /// It is there.
    Listens(Box<Listener>),
}

/// See the module.
pub(crate) struct Listener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    gateway: Gateway,
    tested: Arc<Tested>,
}

impl Listener {
    /// Starts it in front of this upstream.
    ///
    /// # Errors
    /// When the function cannot run at all.
    pub(crate) fn start(
        sandbox: &Arc<Sandbox>,
        function: &Function,
        resolved: &ResolvedFunction,
        protocol: Protocol,
        upstream: SocketAddr,
    ) -> Result<Started> {
        let admitted = Arc::clone(&function.admitted);
        let mut plan = message_function_plan(resolved, admitted, Arc::default(), Arc::default());
        if function.admitted.world == World::Proxy {
            plan.proxy = match proxy(sandbox, resolved, &plan)? {
                Ok(ready) => Some(Proxy::Here(ready)),
                Err(message) => return Ok(Started::Refused(message, Vec::new())),
            };
        }
        let tested = Arc::new(Tested {
            sandbox: Arc::clone(sandbox),
            plan: ChainPlan { name: "test".into(), functions: vec![plan] },
            faults: Arc::default(),
            failed: Mutex::default(),
        });
        let gateway = Gateway::start(GatewayConfig::default())?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config =
            ListenerConfig::new("test", any, protocol, vec![UpstreamConfig::new(upstream)]);
        config.chain = Some(Arc::clone(&tested) as _);
        if let Err(error) = gateway.set(config) {
            let log = || lines(&tested.plan.functions[0].telemetry);
            return match tested.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(MessageError::Instance(InstanceError::Refused {
                    what: Given::Configuration,
                    message,
                    ..
                })) => Ok(Started::Refused(message, log())),
                Some(failed) => {
                    let told = weir_sandbox::explain(&failed.to_string());
                    match failed {
                        MessageError::Instance(InstanceError::Fault { .. }) => {
                            Ok(Started::Failed(told, log()))
                        }
                        _ => bail!(told),
                    }
                }
                None => bail!(error),
            };
        }
        let address = gateway.addresses("test").first().copied();
        let address = address.context("the gateway listens")?;
        Ok(Started::Listens(Box::new(Self { address, gateway, tested })))
    }

    /// Waits for these counters and gauges, ends it, and tells what the function did.
    pub(crate) fn finish(self, problems: Vec<String>, expect: &Expect) -> Ran {
        let function = &self.tested.plan.functions[0];
        // What it does beside its exchanges, it may still be at.
        let until = Instant::now() + LATE;
        let counted = |(name, n): (&String, &u64)| {
            function.telemetry.counters().get(name).copied().unwrap_or(0) >= *n
        };
        let set = || {
            let gauges = function.telemetry.gauges();
            expect.gauges.iter().flatten().all(|(name, value)| is(*value, gauges.get(name)))
        };
        while !(expect.counters.iter().flatten().all(counted) && set()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        // At its end it hands over what it has counted beside those.
        self.gateway.drain(Duration::from_secs(1));
        drop(self.gateway);
        let faults = self.tested.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let actions = function.counters.actions().map(|(name, n)| (name.to_owned(), n)).collect();
        Ran {
            problems,
            counters: function.telemetry.counters(),
            gauges: function.telemetry.gauges(),
            log: lines(&function.telemetry),
            faults,
            fault_count: function.counters.faults.load(Ordering::Relaxed),
            actions,
        }
    }
}

/// Makes a component of `wasi:http/proxy` ready; or says why its configuration is none.
fn proxy(
    sandbox: &Arc<Sandbox>,
    resolved: &ResolvedFunction,
    plan: &FunctionPlan,
) -> Result<Result<Arc<ProxyFunction>, String>> {
    let compiled = sandbox.compile_service(&plan.admitted.component, plan.admitted.hash)?;
    let config = ProxyConfig {
        name: plan.name.clone(),
        hash: plan.admitted.hash,
        memory_at_start: plan.admitted.memory_at_start,
        memory: plan.memory,
        deadline: plan.deadline,
        timeout: resolved.timeout.get(),
        instances: resolved.instances,
        requests_per_instance: resolved.requests_per_instance,
        instance_idle: resolved.instance_idle.get(),
        config: plan.config.clone(),
        upstreams: vec![UPSTREAM.to_owned()],
        telemetry: Arc::clone(&plan.telemetry),
    };
    let linked = match LinkedProxy::new(config, &[compiled.component], Duration::ZERO) {
        Err(ProxyError::Environment(message)) => return Ok(Err(message)),
        linked => linked?,
    };
    let runners = Arc::new(Runners::start(1)?);
    Ok(Ok(ProxyFunction::new(linked, sandbox, runners)?))
}

/// Makes the chain on the gateway's thread.
struct Tested {
    sandbox: Arc<Sandbox>,
    plan: ChainPlan,
    faults: Arc<Mutex<Vec<String>>>,
    /// Why it could not be made.
    failed: Mutex<Option<MessageError>>,
}

impl ChainFactory for Tested {
    fn stage(&self, _: usize, upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let names = vec![UPSTREAM.to_owned()];
        let config = SiteConfig { rooms: ROOMS, room_bytes: ROOM, hold: HOLD, names, seed: 0 };
        let site = Site::new(
            Arc::clone(&self.sandbox),
            "test",
            config,
            upstreams,
            Arc::new(Store::new(STORE)),
        );
        let staged = site.and_then(|site| site.stage(self.plan.clone(), &States::default()));
        let staged = staged.map_err(|error| {
            let text = error.to_string();
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            text
        })?;
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(move |lent| {
            let sink = Box::new(move |notice| {
                let (Notice::Fault { fault, .. } | Notice::RolledBack { fault, .. }) = notice;
                faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault.to_string());
            });
            let (giver, orders) = orders();
            let chain = Chain::new(staged, lent.environment, orders, Arc::default(), sink);
            let driven = chain.clone().drive();
            tokio::task::spawn_local(async move {
                // It is driven, and its function ticks, as long as somebody could give it orders.
                let _giver = giver;
                driven.await;
            });
            Ok(chain.passages())
        }))
    }
}
