//! What the worker does when it is ordered to: making versions ready, and having the chain change.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmtime::component::Component;
use weir_message::{
    Chain, ChainCounters, ChainPlan, Change, Findings, FunctionCounters, FunctionPlan,
    MessageError, Proxy, Ready, Remote, Site, StagedChain, StagedFunction, State, States,
};
use weir_pool::Memory;
use weir_proxy_function::{LinkedProxy, ProxyConfig, ProxyError, ProxyFunction, Runners};
use weir_sandbox::{Admitted, Given, InstanceError, OnFault, Sandbox, Telemetry, World};

use super::Control;
use crate::control;
use crate::orders::{FromWorker, FunctionImage, Order, ProxyImage, Reply, Report};

/// Threads for components of wasi:http: a worker is a thread's part of a chain.
const RUNNERS: usize = 1;

/// What orders need.
pub(super) struct Ordered {
    pub(super) site: Site,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) chain: String,
    pub(super) tallies: Tallies,
    pub(super) counters: Arc<ChainCounters>,
    pub(super) findings: Arc<Findings>,
    /// Threads for components of wasi:http: none before the first one comes.
    pub(super) runners: Option<Arc<Runners>>,
}

/// Counters and logs by function, which outlive versions.
pub(super) type Tallies = BTreeMap<String, (Arc<FunctionCounters>, Arc<Telemetry>)>;

pub(super) fn refused(error: MessageError) -> Reply {
    match error {
        MessageError::Instance(InstanceError::Refused {
            name,
            what: Given::Configuration,
            message,
        }) => Reply::Configuration(name, message),
        MessageError::Trial(_) => Reply::Conflict(error.to_string()),
        _ => Reply::Refused(error.to_string()),
    }
}

impl Ordered {
    /// A function's plan, and whether it has a region to go on with.
    fn plan(
        &mut self,
        mut image: FunctionImage,
        tally: &str,
        states: &mut States,
    ) -> Result<FunctionPlan, MessageError> {
        let broken = |message: String| MessageError::Trial(message);
        let (counters, telemetry) = self.tallies.entry(tally.to_owned()).or_default().clone();
        let owned = |file: Arc<OwnedFd>| {
            Arc::try_unwrap(file).map_err(|_| broken("a file is somebody else's, too".into()))
        };
        let code = match image.code.take() {
            None => return Err(broken(format!("function {} comes without code", image.name))),
            // SAFETY: the gateway made it by `Sandbox::share`: it started this very program, and
            // nobody else has the socket that the file came by.
            Some(file) => unsafe { self.sandbox.load_shared(owned(file)?, image.proxy.is_some()) }
                .map_err(|source| InstanceError::Compile { name: image.name.clone(), source })?,
        };
        let region = |file: Arc<OwnedFd>| {
            let memory = Memory::open(&image.name, owned(file)?)?;
            let state = State::of(image.name.clone(), memory, image.state_layout.clone());
            Ok::<_, MessageError>(Arc::new(state?))
        };
        if let Some(state) = image.state.take() {
            states.add(region(state)?);
        }
        let blank = image.blank.take().map(region).transpose()?;
        let proxy = match &image.proxy {
            None => None,
            Some(proxy) => Some(self.proxy(&image, proxy, &code, &telemetry)?),
        };
        Ok(FunctionPlan {
            admitted: Arc::new(Admitted {
                component: Arc::from([]),
                hash: image.hash,
                world: match (&proxy, image.connection) {
                    (Some(_), _) => World::Proxy,
                    (None, true) => World::Connection,
                    (None, false) => World::Message,
                },
                saves: image.saves,
                imports: Vec::new(),
                memories_at_start: 0,
                memory_at_start: image.memory_at_start,
                manifest: None,
            }),
            name: image.name,
            version: image.version,
            proxy,
            code: Some(code),
            blank,
            writes: image.writes,
            memory: image.memory,
            deadline: Duration::from_nanos(image.deadline),
            on_fault: if image.fails_open { OnFault::FailOpen } else { OnFault::FailClosed },
            state_bytes: image.state_bytes,
            state_layout: image.state_layout,
            config: image.config,
            telemetry,
            counters,
        })
    }

    /// A component of wasi:http, which serves exchanges here.
    fn proxy(
        &mut self,
        image: &FunctionImage,
        proxy: &ProxyImage,
        code: &Component,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Proxy, MessageError> {
        let config = ProxyConfig {
            name: image.name.clone(),
            hash: image.hash,
            memory_at_start: image.memory_at_start,
            memory: image.memory,
            deadline: Duration::from_nanos(image.deadline),
            timeout: Duration::from_nanos(proxy.timeout),
            instances: proxy.instances,
            requests_per_instance: proxy.requests_per_instance,
            instance_idle: Duration::from_nanos(proxy.instance_idle),
            config: image.config.clone(),
            upstreams: self.site.upstreams().to_vec(),
            telemetry: Arc::clone(telemetry),
        };
        let wrong = |source| MessageError::Proxy { name: image.name.clone(), source };
        let linked =
            LinkedProxy::new(config, std::slice::from_ref(code), Duration::ZERO).map_err(wrong)?;
        let runners = match &self.runners {
            Some(runners) => Arc::clone(runners),
            None => {
                let started =
                    Runners::start(RUNNERS).map_err(ProxyError::Threads).map_err(wrong)?;
                Arc::clone(self.runners.insert(Arc::new(started)))
            }
        };
        let function = ProxyFunction::new(linked, &self.sandbox, runners);
        Ok(Proxy::Here(function.map_err(wrong)?))
    }

    pub(super) fn stage_chain(
        &mut self,
        images: Vec<FunctionImage>,
    ) -> Result<(StagedChain, Vec<String>), MessageError> {
        let mut states = States::default();
        let plans = images.into_iter().map(|image| {
            let tally = image.name.clone();
            self.plan(image, &tally, &mut states)
        });
        let functions = plans.collect::<Result<_, _>>()?;
        let plan = ChainPlan { name: self.chain.clone(), functions };
        let staged = self.site.stage(plan, &states)?;
        let kept = staged.functions().iter().filter(|f| f.is_kept());
        let kept = kept.map(|f| f.name().to_owned()).collect();
        Ok((staged, kept))
    }

    fn stage_function(
        &mut self,
        names: &[String],
        image: FunctionImage,
        shadow: bool,
    ) -> Result<(StagedFunction, Vec<String>), MessageError> {
        let mut states = States::default();
        let name = image.name.clone();
        let place = names.iter().position(|other| *other == name);
        let place = place.ok_or_else(|| MessageError::NoFunction(name.clone()))?;
        let tally = if shadow { format!("{name} (shadow)") } else { name };
        let plan = self.plan(image, &tally, &mut states)?;
        let state = if shadow { None } else { plan.state_of(&states) };
        let staged = self.site.stage_function(&self.chain, names, place, plan, state)?;
        let kept = if staged.is_kept() { vec![staged.name().to_owned()] } else { Vec::new() };
        Ok((staged, kept))
    }

    fn report(&self) -> Report {
        let rooms = self.site.accounting();
        let (found, samples) = self.findings.take();
        let functions = self.tallies.iter().map(|(name, (counters, telemetry))| {
            (name.clone(), (counters.take(), telemetry.take()))
        });
        Report {
            functions: functions.collect(),
            exhausted: self.counters.exhausted.swap(0, Ordering::Relaxed),
            rooms: [rooms.total, rooms.free, rooms.out],
            found,
            samples,
        }
    }
}

/// Carries out orders until the keeper is gone.
pub(super) fn obey(control: &Control, mut ordered: Ordered, remote: &Remote) {
    let mut ready = Ready::default();
    while let Ok((mut order, files)) = control::read_with::<Order>(&control.socket) {
        order.take_files(files);
        let reply = obeyed(order, &mut ordered, &mut ready, remote).unwrap_or_else(refused);
        control.say(&FromWorker::Reply(reply));
    }
}

fn obeyed(
    order: Order,
    ordered: &mut Ordered,
    ready: &mut Ready,
    remote: &Remote,
) -> Result<Reply, MessageError> {
    match order {
        Order::Begin { .. } => Ok(Reply::Refused("it has begun".into())),
        Order::Report => Ok(Reply::Report(Box::new(ordered.report()))),
        Order::StageChain(functions) => {
            let (staged, kept) = ordered.stage_chain(functions)?;
            ready.chain = Some(staged);
            Ok(Reply::Staged(kept))
        }
        Order::StageFunction { function, shadow } => {
            let names = remote.run(Chain::names)?;
            let (staged, kept) = ordered.stage_function(&names, function, shadow)?;
            ready.function = Some(staged);
            Ok(Reply::Staged(kept))
        }
        Order::Change(change) => {
            // Each trial comes with its own.
            let findings = match &change {
                Change::Canary { findings, .. } | Change::Shadow { findings } => {
                    Some(Arc::clone(findings))
                }
                _ => None,
            };
            remote.change(change, ready)?;
            if let Some(findings) = findings {
                ordered.findings = findings;
            }
            Ok(Reply::Done)
        }
        Order::Forget => {
            *ready = Ready::default();
            Ok(Reply::Done)
        }
    }
}
