//! A chain's part in a process of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use weir_control::engine::{ChainId, EngineError};
use weir_exchange::{Counter, Upstreams};
use weir_hop::Hub;
use weir_message::{ChainPlan, Change, Findings, FunctionPlan, MessageError};
use weir_message_worker::{
    FunctionImage, Keeper, KeeperConfig, News, Order, ProxyImage, RemoteConfig, Reply, Report,
    SiteImage, WORKER,
};
use weir_pool::Accounting;
use weir_sandbox::{InstanceError, OnFault, Sandbox, World};
use weir_spec::{Listener, Name};

use super::chains::tell;
use super::listeners::Seen;
use super::parts::{At, Deployed, Made, Part, Place, Readied, Tallies};
use super::{Messages, refused};
use crate::PROGRAM;
use crate::telemetries::Telemetries;

/// Bytes that an event may let go beside what is held back and what lies in rooms: an answer by
/// copy.
const MADE_MAX: usize = 64 << 20;

/// A deployed chain, once it is one.
pub(super) type Itself = Arc<OnceLock<Weak<Deployed>>>;

/// What is known of a worker from its reports.
#[derive(Default)]
struct Known {
    rooms: Accounting,
    findings: Arc<Findings>,
}

/// See the module.
pub(super) struct Worker {
    keeper: Keeper,
    known: Arc<Mutex<Known>>,
    /// Exchanges that it has now. Those that have been are counted with others'.
    under_way: Arc<Counter>,
}

impl Worker {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rooms(&self) -> Accounting {
        self.known().rooms
    }

    pub(super) fn restarts(&self) -> u64 {
        self.keeper.restarts()
    }

    pub(super) fn timeouts(&self) -> u64 {
        self.keeper.silent()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.get() > 0
    }

    /// Has it report. Behind an answer, or the channel's end, what is known is what it said last.
    pub(super) fn report(&self) -> Receiver<Reply> {
        self.keeper.report()
    }

    fn readied(
        &self,
        functions: &[FunctionImage],
        reply: Reply,
        compiled_in: Duration,
        shadow: bool,
    ) -> Result<Readied, EngineError> {
        let Reply::Staged(kept) = reply else { return Err(wrong(reply)) };
        let is_fresh = |function: &&FunctionImage| {
            !shadow && self.keeper.has_region(&function.name) && !kept.contains(&function.name)
        };
        let fresh = functions.iter().filter(is_fresh);
        let fresh = fresh.filter_map(|function| function.name.parse::<Name>().ok()).collect();
        Ok(Readied { compiled_in, fresh })
    }

    pub(super) fn stage_chain(
        &self,
        sandbox: &Sandbox,
        plan: ChainPlan,
    ) -> Result<Readied, EngineError> {
        let (functions, compiled_in) = images(sandbox, plan.functions)?;
        let functions = self.keeper.with_regions(functions).map_err(exhausted)?;
        let reply = self.keeper.order(Order::StageChain(functions.clone()));
        self.readied(&functions, reply, compiled_in, false)
    }

    pub(super) fn stage_function(
        &self,
        sandbox: &Sandbox,
        plan: FunctionPlan,
        shadow: bool,
    ) -> Result<Readied, EngineError> {
        let (functions, compiled_in) = images(sandbox, vec![plan])?;
        let mut functions = self.keeper.with_regions(functions).map_err(exhausted)?;
        if shadow {
            functions.iter_mut().for_each(|function| function.state = None);
        }
        let Some(function) = functions.first().cloned() else { return Ok(Readied::default()) };
        let reply = self.keeper.order(Order::StageFunction { function, shadow });
        self.readied(&functions, reply, compiled_in, shadow)
    }

    /// Has it let go what is ready. One that dies lets it go, too.
    pub(super) fn forget(&self) {
        self.keeper.tell(Order::Forget);
    }

    pub(super) fn change(&self, change: Change) -> Result<Duration, EngineError> {
        let started = Instant::now();
        let reply = self.keeper.order(Order::Change(change.clone()));
        let Reply::Done = reply else { return Err(wrong(reply)) };
        if let Change::Canary { findings, .. } | Change::Shadow { findings } = change {
            self.known().findings = findings;
        }
        Ok(started.elapsed())
    }
}

impl Messages {
    /// A chain's part in a process.
    pub(super) fn in_process(
        &self,
        id: &ChainId,
        hub: &Hub,
        (at, listener, seen): (At, &Listener, &Arc<Seen>),
        plan: ChainPlan,
        tallies: Tallies,
        (telemetries, itself): (&Telemetries, &Itself),
    ) -> Result<(Part, Made), EngineError> {
        let upstreams: Arc<dyn Upstreams> = Arc::clone(seen) as _;
        let names = listener.upstream.iter().map(|upstream| upstream.address.to_string());
        let hold = usize::try_from(listener.limits.hold.get()).unwrap_or(usize::MAX);
        let config = self.site_config(self.config.rooms, hold, names.collect());
        let site = SiteImage {
            rooms: config.rooms,
            room_bytes: config.room_bytes,
            hold: config.hold,
            names: config.names,
            seed: config.seed,
        };
        let (functions, compiled_in) = images(&self.sandbox, plan.functions)?;
        let connections = functions.iter().any(|function| function.connection);
        let (links, heard) = unbounded_channel();
        let fails_open = Arc::new(AtomicBool::new(false));
        let services = Arc::new(AtomicBool::new(false));
        let patience = Arc::new(AtomicU64::new(0));
        let under_way: Arc<Counter> = Arc::default();
        let known: Arc<Mutex<Known>> = Arc::default();
        let keeper = KeeperConfig {
            hub: hub.clone(),
            hop: hub.number().map_err(exhausted)?,
            program: PROGRAM.into(),
            arguments: vec!["__message-worker".into()],
            chain: id.name.to_string(),
            site: site.clone(),
            links,
            fails_open: Arc::clone(&fails_open),
            services: Arc::clone(&services),
            silence: self.config.worker_timeout.get(),
            patience: Arc::clone(&patience),
            news: self.news(id, itself, tallies.clone()),
            reports: reports(telemetries.clone(), &tallies, &known),
        };
        let (keeper, begun) = Keeper::start(keeper, functions.clone()).map_err(exhausted)?;
        begun.map_err(wrong)?;
        let (ready, wait) = sync_channel(1);
        let remote = Box::new(RemoteConfig {
            links: heard,
            killer: keeper.killer(),
            upstreams,
            store: self.store(&id.tenant),
            counters: Arc::clone(&tallies.chain),
            under_way: Arc::clone(&under_way),
            ready,
            fails_open,
            services,
            connections,
            patience,
            room_bytes: site.room_bytes as usize,
            most: hold + MADE_MAX + site.rooms as usize * site.room_bytes as usize,
        });
        let worker = Box::new(Worker { keeper, known, under_way });
        let part = Part::new(at, Place::Process(worker), tallies);
        Ok((part, Made::Process { remote, ready: wait, compiled_in }))
    }

    /// Tells of a worker's faults, and of its death.
    fn news(&self, id: &ChainId, itself: &Itself, tallies: Tallies) -> Box<dyn Fn(News) + Send> {
        let (sink, chain, itself) = (Arc::clone(&self.sink), id.clone(), Arc::clone(itself));
        Box::new(move |news| {
            if news.kind == WORKER {
                tallies.forget_gauges();
            }
            // Before it is part of a chain, none is behind it.
            let deployed = itself.get().cloned().unwrap_or_default();
            tell(&sink, &chain, &deployed, news);
        })
    }
}

/// Takes in what a worker reports.
fn reports(
    telemetries: Telemetries,
    tallies: &Tallies,
    known: &Arc<Mutex<Known>>,
) -> Box<dyn Fn(Report) + Send> {
    let (tallies, known) = (tallies.clone(), Arc::clone(known));
    Box::new(move |report| {
        for (name, (words, said)) in report.functions {
            // A worker may say anything, but only of functions that the chain has.
            let Some(telemetry) = telemetries.known(&name) else { continue };
            tallies.telemetry(&name, &telemetry).absorb(said);
            tallies.function(&name).absorb(&words);
        }
        tallies.chain.exhausted.fetch_add(report.exhausted, Ordering::Relaxed);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let [total, free, out] = report.rooms;
        known.rooms = Accounting { total, free, out };
        known.findings.absorb(report.found, report.samples);
    })
}

/// Functions as a worker is given them, and the longest time that one took to be compiled.
fn images(
    sandbox: &Sandbox,
    plans: Vec<FunctionPlan>,
) -> Result<(Vec<FunctionImage>, Duration), EngineError> {
    let mut longest = Duration::ZERO;
    let images = plans.into_iter().map(|plan| {
        let admitted = &plan.admitted;
        if !admitted.world.of_messages() {
            return Err(refused(MessageError::World(plan.name)));
        }
        let failed =
            |source| refused(InstanceError::Compile { name: plan.name.clone(), source }.into());
        let compiled = sandbox.compile(&admitted.component, admitted.hash).map_err(failed)?;
        if !compiled.cached {
            longest = longest.max(compiled.took);
        }
        let code = sandbox.share(&compiled, admitted.hash).map_err(failed)?;
        let proxy = plan.proxy.as_ref().map(|proxy| {
            let linked = proxy.linked();
            longest = longest.max(linked.compiled_in());
            let config = linked.config();
            ProxyImage {
                timeout: nanoseconds(config.timeout),
                instances: config.instances,
                requests_per_instance: config.requests_per_instance,
                instance_idle: nanoseconds(config.instance_idle),
            }
        });
        Ok(FunctionImage {
            hash: admitted.hash,
            admitted: Some(Arc::clone(admitted)),
            proxy,
            connection: admitted.world == World::Connection,
            saves: admitted.saves,
            memory_at_start: admitted.memory_at_start,
            writes: plan.writes,
            memory: plan.memory,
            deadline: nanoseconds(plan.deadline),
            fails_open: matches!(plan.on_fault, OnFault::FailOpen),
            state_bytes: plan.state_bytes,
            state_layout: plan.state_layout,
            config: plan.config,
            code: Some(code),
            state: None,
            blank: None,
            files: [false; 3],
            name: plan.name,
            version: plan.version,
        })
    });
    let images = images.collect::<Result<_, EngineError>>()?;
    Ok((images, longest))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn exhausted(error: impl std::fmt::Display) -> EngineError {
    EngineError::Exhausted(error.to_string())
}

/// What a worker says, which may be anything.
fn wrong(reply: Reply) -> EngineError {
    let said = |message: String| weir_sandbox::one_line(&message).into_owned();
    match reply {
        Reply::Configuration(function, message) => {
            EngineError::Configuration { function: said(function), message: said(message) }
        }
        Reply::Conflict(message) => EngineError::Conflict(said(message)),
        Reply::Refused(message) => EngineError::Refused(said(message)),
        _ => EngineError::Internal("a worker answers what it was not asked".into()),
    }
}
