//! What the worker does when it is ordered to: making versions ready, and having the chain change.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmtime::component::Component;
use weir_message::{
    Chain, ChainCounters, ChainPlan, Findings, FunctionCounters, FunctionPlan, MessageError,
    Notice, Proxy, Remote, Site, State, States,
};
use weir_pool::Memory;
use weir_proxy_function::{Linked, ProxyConfig, ProxyError, ProxyFunction, Runners};
use weir_sandbox::{Admitted, Given, InstanceError, OnFault, Sandbox, Telemetry, World};

use super::Control;
use crate::control;
use crate::orders::{FromWorker, FunctionImage, News, Order, ProxyImage, Reply, Report};

/// Threads for components of wasi:http: a worker is a thread's part of a chain.
const RUNNERS: usize = 1;

/// What orders need.
pub(super) struct Ordered {
    pub(super) site: Site,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) chain: String,
    pub(super) names: Vec<String>,
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
            // SAFETY: the gateway made it by `Sandbox::share`: it started this very program, and nobody else has the socket
            // that the file came by.
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
            Linked::new(config, std::slice::from_ref(code), Duration::ZERO).map_err(wrong)?;
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
    ) -> Result<(weir_message::Staged, Vec<String>, Vec<String>), MessageError> {
        let mut states = States::default();
        let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
        let plans = images.into_iter().map(|image| {
            let tally = image.name.clone();
            self.plan(image, &tally, &mut states)
        });
        let functions = plans.collect::<Result<_, _>>()?;
        let plan = ChainPlan { name: self.chain.clone(), functions };
        let staged = self.site.stage(plan, &states)?;
        let kept = staged.functions().iter().filter(|f| f.is_kept());
        let kept = kept.map(|f| f.name().to_owned()).collect();
        Ok((staged, names, kept))
    }

    fn stage_function(
        &mut self,
        image: FunctionImage,
        shadow: bool,
    ) -> Result<(weir_message::StagedFunction, Vec<String>), MessageError> {
        let mut states = States::default();
        let name = image.name.clone();
        let place = self.names.iter().position(|other| *other == name);
        let place = place.ok_or_else(|| MessageError::NoFunction(name.clone()))?;
        let tally = if shadow { format!("{name} (shadow)") } else { name };
        let plan = self.plan(image, &tally, &mut states)?;
        let state = if shadow { None } else { plan.state_of(&states) };
        let staged = self.site.stage_function(&self.chain, &self.names, place, plan, state)?;
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

/// What is ready, and not published.
#[derive(Default)]
struct Ready {
    chain: Option<(weir_message::Staged, Vec<String>)>,
    function: Option<weir_message::StagedFunction>,
}

/// Carries out orders until the keeper is gone.
pub(super) fn obey(control: &Control, mut ordered: Ordered, remote: &Remote) {
    let mut ready = Ready::default();
    while let Ok((mut order, files)) = control::read_with::<Order>(&control.socket) {
        order.take_files(files);
        let reply = obeyed(order, &mut ordered, &mut ready, remote);
        control.say(&FromWorker::Reply(reply));
    }
}

fn obeyed(order: Order, ordered: &mut Ordered, ready: &mut Ready, remote: &Remote) -> Reply {
    let findings = Arc::clone(&ordered.findings);
    let nothing = || Reply::Refused("nothing is ready".into());
    let done = match order {
        Order::Begin { .. } => return Reply::Refused("it has begun".into()),
        Order::Report => return Reply::Report(Box::new(ordered.report())),
        Order::StageChain(functions) => match ordered.stage_chain(functions) {
            Ok((staged, names, kept)) => {
                ready.chain = Some((staged, names));
                return Reply::Staged(kept);
            }
            Err(error) => return refused(error),
        },
        Order::StageFunction { function, shadow } => {
            match ordered.stage_function(function, shadow) {
                Ok((staged, kept)) => {
                    ready.function = Some(staged);
                    return Reply::Staged(kept);
                }
                Err(error) => return refused(error),
            }
        }
        Order::Publish => match ready.chain.take() {
            Some((staged, names)) => {
                let done = remote.run(move |chain| chain.publish(staged));
                if matches!(done, Ok(Ok(()))) {
                    ordered.names = names;
                }
                done
            }
            None => return nothing(),
        },
        Order::Swap { .. } | Order::Canary(_) | Order::Shadow => {
            match (ready.function.take(), order) {
                (Some(staged), Order::Swap { back: false }) => {
                    remote.run(move |chain| chain.swap(staged))
                }
                (Some(staged), Order::Swap { back: true }) => {
                    remote.run(move |chain| chain.swap_back(staged))
                }
                (Some(staged), Order::Canary(percent)) => {
                    remote.run(move |chain| chain.begin_canary(staged, percent, findings))
                }
                (Some(staged), _) => remote.run(move |chain| chain.begin_shadow(staged, findings)),
                (None, _) => return nothing(),
            }
        }
        Order::ChangeCanary(percent) => remote.run(move |chain| chain.change_canary(percent)),
        Order::Promote => remote.run(Chain::promote),
        Order::EndTrial => remote.run(|chain| {
            chain.end_trial();
            Ok(())
        }),
        Order::GoBack(name, version) => remote.run(move |chain| chain.go_back(&name, &version)),
        Order::Undo(name, version) => remote.run(move |chain| chain.undo(&name, &version)),
        Order::Unwatch(name) => remote.run(move |chain| {
            chain.unwatch(&name);
            Ok(())
        }),
    };
    match done {
        Ok(Ok(())) => Reply::Done,
        Ok(Err(error)) => refused(error),
        Err(gone) => Reply::Refused(gone.to_string()),
    }
}

pub(super) fn news(notice: Notice) -> News {
    let (function, version, fault, rolled_back) = match notice {
        Notice::Fault { function, version, fault } => (function, version, fault, false),
        Notice::RolledBack { function, version, fault } => (function, version, fault, true),
    };
    let (kind, message) = (fault.kind.name().to_owned(), fault.message);
    News { function, version, kind, message, rolled_back }
}
