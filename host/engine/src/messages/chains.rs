//! Deploying chains, and changing what runs in them.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use weir_control::engine::{
    ChainId, EngineError, EngineEvent, EventSink, Published, SwapDirection, TrialKind,
};
use weir_exchange::Upstreams;
use weir_gateway::ListenerConfig;
use weir_message::{
    Chain, ChainPlan, Change, Findings, FunctionCounters, FunctionPlan, Notice, Site, SiteConfig,
    States, orders,
};
use weir_message_worker::{News, RemoteChain, TRIAL, WORKER};
use weir_sandbox::{Telemetry, World};
use weir_spec::{Listener, Name, ResolvedFunction};

use super::listeners::{Make, Parts, Seen, config};
use super::parts::{At, Deployed, Made, MadeReady, Part, Place, Tallies, Trial};
use super::process::Itself;
use super::{Messages, refused};
use crate::packets::admit;
use crate::telemetries::shadow_of;

/// Rooms of the pool over which a chain without a listener is tried out.
const TRIAL_ROOMS: u32 = 16;
/// How long a gateway's thread may take to hear of a worker that is ready.
const READY: Duration = Duration::from_secs(10);

/// No upstreams: those of a chain without a listener.
struct Nowhere;

impl Upstreams for Nowhere {
    fn count(&self) -> usize {
        0
    }
    fn healthy(&self, _: usize) -> bool {
        false
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
}

/// A chain that is ready to be put in force, or dropped.
pub(crate) struct Prepared {
    published: Published,
    what: What,
}

/// What a listener's threads make, each with the upstreams that it will see.
pub(super) type Ready = Vec<(Arc<Seen>, Made)>;

/// A chain with new parts: for each of its listeners, what their threads make, and the upstreams
/// that they will see.
pub(super) struct New {
    pub(super) deployed: Arc<Deployed>,
    pub(super) made: Vec<(Listener, Ready)>,
}

enum What {
    /// Another version of a chain that is deployed; its parts have what is ready, made for a chain
    /// in which these functions ran.
    Again {
        existing: Arc<Deployed>,
        ready: MadeReady,
        ran: Vec<ResolvedFunction>,
        functions: Vec<ResolvedFunction>,
    },
    /// A new one: for each of its listeners, what their threads make.
    New(New),
}

impl Messages {
    /// Makes a chain ready, to replace the one of the same id if there is one. What can fail for
    /// want of anything is done here.
    ///
    /// # Errors
    /// When it cannot be made ready; what ran before still runs.
    pub(crate) fn prepare(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
    ) -> Result<Prepared, EngineError> {
        let existing = self.chains().get(id).cloned();
        match existing {
            Some(existing) => self.prepare_again(id, existing, functions),
            None => {
                let (published, new) = self.prepare_new(id, functions, None)?;
                Ok(Prepared { published, what: What::New(new) })
            }
        }
    }

    fn prepare_again(
        &self,
        id: &ChainId,
        existing: Arc<Deployed>,
        functions: &[ResolvedFunction],
    ) -> Result<Prepared, EngineError> {
        let mut published = Published::default();
        let turn = existing.turn();
        let ready = MadeReady::on(&existing);
        let ran = existing.running().functions.clone();
        if existing.parts.is_empty() {
            self.try_out(id, functions)?;
        }
        for part in &existing.parts {
            let counters = |label: &str| part.function(label);
            let telemetry = |label: &str| part.telemetry(label, &existing.telemetry(label));
            let plan = self.plan(id, functions, part.upstreams(), telemetry, counters)?;
            let readied = part.stage_chain(&self.sandbox, plan)?;
            published.compiled_in = published.compiled_in.max(readied.compiled_in);
            published.fresh = readied.fresh;
        }
        drop(turn);
        let functions = functions.to_vec();
        Ok(Prepared { published, what: What::Again { existing, ready, ran, functions } })
    }

    /// Makes a chain ready with a part on each thread of each of its listeners. Parts that take the
    /// place of some go on with their state and count on.
    pub(super) fn prepare_new(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
        before: Option<&Deployed>,
    ) -> Result<(Published, New), EngineError> {
        let mut published = Published::default();
        let listeners = self.listeners_of(id);
        if listeners.is_empty() {
            published.compiled_in = self.try_out(id, functions)?;
        }
        let threads = self.gateway.get().map_or(0, weir_gateway::Gateway::threads);
        let mut parts = Vec::new();
        let mut made = Vec::new();
        let telemetry = Deployed::after(before);
        let itself: Itself = Arc::default();
        for listener in listeners {
            let mut made_of = Vec::new();
            let upstreams = upstreams_of(&listener);
            for thread in 0..threads {
                let at: At = (listener.name.clone(), thread);
                let before = before.and_then(|before| before.part(&at));
                let tallies = before.map(Part::tallies).unwrap_or_default();
                let counters = |label: &str| tallies.function(label);
                let of = |label: &str| tallies.telemetry(label, &telemetry.telemetry(label));
                let plan = self.plan(id, functions, &upstreams, of, counters)?;
                let seen = Seen::of(&listener);
                let place = (at, &listener, &seen);
                let (part, made) = match self.hub.get() {
                    None => self.on_thread(id, place, plan, tallies.clone(), before)?,
                    Some(hub) => {
                        let known = (&telemetry.telemetries, &itself);
                        self.in_process(id, hub, place, plan, tallies.clone(), known)?
                    }
                };
                published.compiled_in = published.compiled_in.max(made.compiled_in());
                made_of.push((seen, made));
                parts.push(part);
            }
            made.push((listener, made_of));
        }
        let deployed = Arc::new(telemetry.with_parts(parts));
        deployed.running().functions = functions.to_vec();
        // There is only this one.
        let _ = itself.set(Arc::downgrade(&deployed));
        Ok((published, New { deployed, made }))
    }

    /// Whether what runs is still what a chain was made ready to replace.
    ///
    /// # Errors
    /// When a function has gone back to its version before since then.
    pub(crate) fn check_unchanged(prepared: &Prepared) -> Result<(), EngineError> {
        match &prepared.what {
            What::Again { existing, ran, .. } if existing.running().functions != *ran => {
                let message = "the chain has changed meanwhile: do it again";
                Err(EngineError::Conflict(message.into()))
            }
            What::Again { .. } | What::New(_) => Ok(()),
        }
    }

    /// Puts a chain that is ready in force.
    ///
    /// # Errors
    /// As [`Self::check_unchanged`], and when the gateway's threads do not take it: that is
    /// [`EngineError::Lost`] of a chain that ran, because some may have taken it.
    pub(crate) fn publish(
        &self,
        id: &ChainId,
        prepared: Prepared,
    ) -> Result<Published, EngineError> {
        // Its turn, if it is there already.
        let existing = match &prepared.what {
            What::Again { existing, .. } => Some(Arc::clone(existing)),
            What::New(_) => None,
        };
        let _turn = existing.as_ref().map(|existing| existing.turn());
        Self::check_unchanged(&prepared)?;
        let Prepared { mut published, what } = prepared;
        match what {
            What::Again { existing, ready, functions, .. } => {
                let pause = existing.change(|_| Change::Publish, |_| ());
                published.pause = pause.map_err(|error| EngineError::Lost(Box::new(error)))?;
                ready.in_force();
                let mut running = existing.running();
                running.functions = functions;
                running.trial = None;
                running.before.clear();
            }
            What::New(new) => {
                if let Err(error) = self.publish_new(id, new) {
                    // Whoever has the chain already loses it again.
                    self.undeploy(id);
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    /// Gives the listeners of a chain its new parts.
    fn publish_new(&self, id: &ChainId, new: New) -> Result<(), EngineError> {
        let New { deployed, made } = new;
        self.take_place(id, &deployed);
        let mut waits = Vec::new();
        let configs = self.configs(id, &deployed, made, &mut waits);
        if let Some(gateway) = self.gateway.get() {
            let _open = self.not_drained()?;
            gateway
                .change(configs, &[], Duration::ZERO)
                .map_err(|error| EngineError::Conflict(error.to_string()))?;
        }
        wait_for_workers(waits)
    }

    /// From now on this is the chain.
    pub(super) fn take_place(&self, id: &ChainId, deployed: &Arc<Deployed>) {
        let before = self.chains().insert(id.clone(), Arc::clone(deployed));
        if let Some(before) = before {
            before.running().replaced = true;
        }
    }

    /// A chain's listeners with their new parts. `waits`: where workers say that they take
    /// exchanges.
    pub(super) fn configs(
        &self,
        id: &ChainId,
        deployed: &Arc<Deployed>,
        made: Vec<(Listener, Ready)>,
        waits: &mut Vec<Receiver<()>>,
    ) -> Vec<ListenerConfig> {
        let mut configs = Vec::new();
        for (listener, made) in made {
            let make = made.into_iter().map(|(seen, made)| -> (Arc<Seen>, Make) {
                let make: Make = match made {
                    Made::Thread { staged, orders, counters } => {
                        let notices = self.notices(id, deployed);
                        Box::new(move |environment| {
                            let (staged, orders) = (*staged, *orders);
                            let chain =
                                Chain::new(staged, environment, orders, counters, notices());
                            tokio::task::spawn_local(chain.clone().drive());
                            chain.passages()
                        })
                    }
                    Made::Process { remote, ready, .. } => {
                        waits.push(ready);
                        Box::new(move |environment| {
                            let chain = RemoteChain::new(*remote, environment);
                            tokio::task::spawn_local(chain.clone().drive());
                            chain.passages()
                        })
                    }
                };
                (seen, make)
            });
            configs.push(config(&listener, Some(Parts::new(make.collect()))));
        }
        configs
    }

    /// Where the listeners of a chain listen.
    pub(crate) fn addresses_of(&self, id: &ChainId) -> Vec<std::net::SocketAddr> {
        let listeners = self.listeners_of(id);
        let bound = |listener: &Listener| match self.gateway.get() {
            Some(gateway) => gateway.addresses(listener.name.as_str()),
            None => Vec::new(),
        };
        listeners.iter().flat_map(bound).collect()
    }

    /// Whether its part of a chain has this function.
    pub(crate) fn has_function(&self, id: &ChainId, function: &Name) -> bool {
        let chain = self.chains().get(id).cloned();
        chain.is_some_and(|chain| chain.running().functions.iter().any(|f| f.label == *function))
    }

    /// A chain's part on a gateway's thread.
    fn on_thread(
        &self,
        id: &ChainId,
        (at, listener, seen): (At, &Listener, &Arc<Seen>),
        plan: ChainPlan,
        tallies: Tallies,
        before: Option<&Part>,
    ) -> Result<(Part, Made), EngineError> {
        let site = self.site(id, listener, seen)?;
        let (remote, orders) = orders();
        let states = before.map(Part::states).transpose()?.unwrap_or_default();
        let staged = site.stage(plan, &states).map_err(refused)?;
        let part = Part::new(at, Place::on_thread(site, remote), tallies);
        let counters = Arc::clone(part.counters());
        let (staged, orders) = (Box::new(staged), Box::new(orders));
        Ok((part, Made::Thread { staged, orders, counters }))
    }

    /// Takes a chain down: its listeners let nobody through until it is deployed again.
    pub(crate) fn undeploy(&self, id: &ChainId) {
        let Some(deployed) = self.chains().remove(id) else { return };
        deployed.running().replaced = true;
        for listener in self.listeners_of(id) {
            if let Err(error) = self.listen(&listener) {
                tracing::error!("chain {} was not taken off: {error}", id.name);
            }
        }
        deployed.let_end();
    }

    /// Replaces one function of a running chain.
    ///
    /// # Errors
    /// When the new one cannot be made ready or refuses the state; the old one still runs.
    pub(crate) fn swap(
        &self,
        id: &ChainId,
        function: ResolvedFunction,
        way: SwapDirection,
    ) -> Result<Published, EngineError> {
        let deployed = self.deployed(id)?;
        let _turn = deployed.turn();
        let ready = MadeReady::on(&deployed);
        let mut published = self.stage(id, &deployed, &function, false)?;
        let (label, version) = shown(&function);
        let swap = match way {
            SwapDirection::Forward => Change::Swap,
            SwapDirection::Back => Change::SwapBack,
        };
        let undo = Change::Undo { name: label.clone(), version };
        published.pause =
            deployed.change(|_| swap.clone(), |part| part.change_or_tell(undo.clone()))?;
        ready.in_force();
        let mut running = deployed.running();
        running.trial = None;
        let name = function.label.clone();
        running.put(function);
        if way == SwapDirection::Back {
            running.before.remove(&name);
            drop(running);
            // All have it: nobody undoes it any more.
            deployed.change_all(|| Change::Unwatch(label.clone()));
        }
        Ok(published)
    }

    /// Starts to try a version beside the running one.
    ///
    /// # Errors
    /// When it cannot be made ready, or another trial is on in this chain.
    pub(crate) fn begin_trial(
        &self,
        id: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        let deployed = self.deployed(id)?;
        let _turn = deployed.turn();
        let shadow = kind == TrialKind::Shadow;
        let ready = MadeReady::on(&deployed);
        let mut published = self.stage(id, &deployed, &function, shadow)?;
        let findings: Vec<Arc<Findings>> = deployed.parts.iter().map(|_| Arc::default()).collect();
        let begin = |n: usize| match kind {
            TrialKind::Canary(percent) => {
                Change::Canary { percent, findings: Arc::clone(&findings[n]) }
            }
            TrialKind::Shadow => Change::Shadow { findings: Arc::clone(&findings[n]) },
        };
        published.pause = deployed.change(begin, |part| part.change_or_tell(Change::EndTrial))?;
        ready.in_force();
        let (label, version) = (function.label.clone(), function.version.clone());
        let trial = Trial { function: label, version, resolved: function, kind, findings };
        deployed.running().trial = Some(trial);
        Ok(published)
    }

    /// Gives a canary another share of the clients.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn change_canary(&self, id: &ChainId, percent: u8) -> Result<(), EngineError> {
        let deployed = self.deployed(id)?;
        let _turn = deployed.turn();
        let before = deployed.running().trial.as_ref().and_then(|trial| trial.kind.percent());
        let back = |part: &Part| {
            if let Some(percent) = before {
                part.change_or_tell(Change::CanaryShare(percent));
            }
        };
        deployed.change(|_| Change::CanaryShare(percent), back)?;
        if let Some(trial) = &mut deployed.running().trial {
            trial.kind = TrialKind::Canary(percent);
        }
        Ok(())
    }

    /// Makes a canary the running version.
    ///
    /// # Errors
    /// When there is none, or it refuses the state.
    pub(crate) fn promote(&self, id: &ChainId) -> Result<Published, EngineError> {
        let deployed = self.deployed(id)?;
        let _turn = deployed.turn();
        let trial = deployed.running().trial.take();
        let back = |part: &Part| {
            if let Some((name, version)) = trial.as_ref().map(|trial| shown(&trial.resolved)) {
                part.change_or_tell(Change::Undo { name, version });
            }
        };
        let promoted = deployed.change(|_| Change::Promote, back);
        if promoted.is_err() {
            // Where it was refused it is over.
            deployed.change_all(|| Change::EndTrial);
        }
        let pause = promoted?;
        if let Some(trial) = trial {
            deployed.running().put(trial.resolved);
        }
        Ok(Published { pause, ..Published::default() })
    }

    /// Ends a trial, if there is one.
    ///
    /// # Errors
    /// When the gateway's threads are gone.
    pub(crate) fn end_trial(&self, id: &ChainId) -> Result<(), EngineError> {
        let deployed = self.deployed(id)?;
        let _turn = deployed.turn();
        deployed.running().trial = None;
        deployed.change(|_| Change::EndTrial, |_| ())?;
        Ok(())
    }

    /// Makes another version of a function ready for each part.
    fn stage(
        &self,
        id: &ChainId,
        deployed: &Deployed,
        function: &ResolvedFunction,
        shadow: bool,
    ) -> Result<Published, EngineError> {
        let names: Vec<String> = {
            let running = deployed.running();
            running.functions.iter().map(|f| f.label.to_string()).collect()
        };
        let label = function.label.as_str();
        let place = names.iter().position(|name| name == label).ok_or_else(|| {
            EngineError::Conflict(format!("chain {} has no function {label}", id.name))
        })?;
        if let Some(misfit) = self.misfit(&self.listeners_of(id), std::slice::from_ref(function))? {
            return Err(misfit.into());
        }
        let mut published = Published::default();
        for part in &deployed.parts {
            // What a shadow says and counts is not to be mixed with what the function itself does.
            let (telemetry, counters): (Arc<Telemetry>, Arc<FunctionCounters>) = if shadow {
                (deployed.telemetry(&shadow_of(label)), Arc::default())
            } else {
                let telemetry = part.telemetry(label, &deployed.telemetry(label));
                (telemetry, part.function(label))
            };
            let plan = self.function(function, part.upstreams(), telemetry, counters)?;
            let position = (id.name.as_str(), &names[..], place);
            let readied = part.stage_function(&self.sandbox, position, plan, shadow)?;
            published.compiled_in = published.compiled_in.max(readied.compiled_in);
            published.fresh = readied.fresh;
        }
        if deployed.parts.is_empty() {
            self.try_out(id, std::slice::from_ref(function))?;
        }
        Ok(published)
    }

    pub(super) fn listeners_of(&self, id: &ChainId) -> Vec<Listener> {
        self.listeners()
            .iter()
            .filter(|listener| chain_of(listener).as_ref() == Some(id))
            .cloned()
            .collect()
    }

    /// Where a chain's part on a thread of a listener lives.
    fn site(
        &self,
        id: &ChainId,
        listener: &Listener,
        seen: &Arc<Seen>,
    ) -> Result<Site, EngineError> {
        let hold = usize::try_from(listener.limits.hold.get()).unwrap_or(usize::MAX);
        let config = self.site_config(self.config.rooms, hold, upstreams_of(listener));
        let (sandbox, upstreams) = (Arc::clone(&self.sandbox), Arc::clone(seen));
        Site::new(sandbox, id.name.as_str(), config, upstreams, self.store(&id.tenant))
            .map_err(refused)
    }

    pub(super) fn site_config(&self, rooms: u32, hold: usize, names: Vec<String>) -> SiteConfig {
        let room_bytes = u32::try_from(self.config.room.get()).unwrap_or(u32::MAX);
        SiteConfig { rooms, room_bytes, hold, names, seed: self.seed }
    }

    /// Whether functions take their configuration, for a chain that no listener has yet.
    fn try_out(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
    ) -> Result<Duration, EngineError> {
        let config = self.site_config(TRIAL_ROOMS, 0, Vec::new());
        let (name, store) = (id.name.as_str(), self.store(&id.tenant));
        let site = Site::new(Arc::clone(&self.sandbox), name, config, Arc::new(Nowhere), store);
        let plan = self.plan(id, functions, &[], |_| Arc::default(), |_| Arc::default())?;
        let staged = site.and_then(|site| site.stage(plan, &States::default()));
        Ok(staged.map_err(refused)?.compiled_in())
    }

    fn plan(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
        upstreams: &[String],
        telemetry: impl Fn(&str) -> Arc<Telemetry>,
        counters: impl Fn(&str) -> Arc<FunctionCounters>,
    ) -> Result<ChainPlan, EngineError> {
        let functions = functions.iter().map(|function| {
            let label = function.label.as_str();
            self.function(function, upstreams, telemetry(label), counters(label))
        });
        let functions = functions.collect::<Result<_, EngineError>>()?;
        Ok(ChainPlan { name: id.name.to_string(), functions })
    }

    fn function(
        &self,
        function: &ResolvedFunction,
        upstreams: &[String],
        telemetry: Arc<Telemetry>,
        counters: Arc<FunctionCounters>,
    ) -> Result<FunctionPlan, EngineError> {
        let admitted = admit(&self.sandbox, function)?;
        let mut plan =
            weir_assembly::message_function_plan(function, admitted, telemetry, counters);
        if plan.admitted.world == World::Proxy {
            plan.proxy = Some(self.proxy(function, &plan, upstreams)?);
        }
        Ok(plan)
    }

    /// Makes what a part is given to tell of faults.
    fn notices(
        &self,
        id: &ChainId,
        deployed: &Arc<Deployed>,
    ) -> impl FnOnce() -> Box<dyn Fn(Notice)> + Send + use<> {
        let (sink, id, deployed) = (Arc::clone(&self.sink), id.clone(), Arc::downgrade(deployed));
        move || {
            Box::new(move |notice: Notice| {
                tell(&sink, &id, &deployed, News::from(notice));
            })
        }
    }
}

/// The chain that a listener has.
pub(super) fn chain_of(listener: &Listener) -> Option<ChainId> {
    let name = listener.chain.clone()?;
    Some(ChainId { tenant: listener.tenant.clone(), name })
}

/// Names of a listener's upstreams, in the order in which functions count them.
fn upstreams_of(listener: &Listener) -> Vec<String> {
    listener.upstream.iter().map(|upstream| upstream.address.to_string()).collect()
}

/// Waits until workers take exchanges.
pub(super) fn wait_for_workers(waits: Vec<Receiver<()>>) -> Result<(), EngineError> {
    for ready in waits {
        if ready.recv_timeout(READY).is_err() {
            let message = "a worker is there, and does not take exchanges";
            return Err(EngineError::Internal(message.into()));
        }
    }
    Ok(())
}

/// Passes on what a part of a chain tells. When it has gone back to the version before by itself,
/// the others follow: on a thread of their own, because the part that tells it must not wait for
/// whoever is changing the chain, nor for them.
pub(super) fn tell(
    sink: &Arc<OnceLock<EventSink>>,
    chain: &ChainId,
    deployed: &Weak<Deployed>,
    news: News,
) {
    let say = |sink: &OnceLock<EventSink>, event: EngineEvent| {
        if let Some(sink) = sink.get() {
            sink(event);
        }
    };
    if !news.rolled_back {
        return say(sink, event(chain.clone(), news));
    }
    let thread = std::thread::Builder::new().name("weir-rollback".to_owned());
    let (its, of) = ((Arc::clone(sink), news.clone()), (chain.clone(), Weak::clone(deployed)));
    let followed = thread.spawn(move || {
        let ((sink, news), (chain, deployed)) = (its, of);
        let deployed = deployed.upgrade();
        let _turn = deployed.as_ref().map(|deployed| deployed.turn());
        match deployed.as_ref().filter(|deployed| deployed.can_go_back(&news)) {
            Some(deployed) => {
                say(&sink, event(chain.clone(), news.clone()));
                for message in deployed.went_back(&news.function, &news.version) {
                    say(&sink, EngineEvent::Note { chain: chain.clone(), message });
                }
            }
            // Parts that have taken the place of this one, or the version of the chain that was put
            // in force behind it, run what faulted.
            None => say(&sink, event(chain, News { rolled_back: false, ..news })),
        }
    });
    if let Err(error) = followed {
        tracing::error!("a chain's other parts could not be brought back: no thread: {error}");
        // So it is a fault like others, after which all parts are brought back.
        say(sink, event(chain.clone(), News { rolled_back: false, ..news }));
    }
}

fn event(chain: ChainId, news: News) -> EngineEvent {
    let News { function, version, kind, message, rolled_back, quarantined } = news;
    let version = version.parse().ok();
    match function.parse() {
        Ok(function) if rolled_back => {
            let message = format!("{kind}: {message}");
            EngineEvent::RolledBack { chain, function, version, message }
        }
        Ok(function) if kind == TRIAL => {
            EngineEvent::TrialEnded { chain, function, version, message }
        }
        Ok(function) if kind != WORKER => {
            EngineEvent::Fault { chain, function, version, kind, message, quarantined }
        }
        _ => EngineEvent::Note { chain, message },
    }
}

/// A function's name and version, as its chain's parts know them.
pub(super) fn shown(function: &ResolvedFunction) -> (String, String) {
    let version = function.version.as_ref().map(ToString::to_string).unwrap_or_default();
    (function.label.to_string(), version)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use weir_spec::{FunctionUse, Manifest};

    use super::*;

    fn version(number: &str) -> ResolvedFunction {
        let used = FunctionUse { function: "f".parse().ok(), ..FunctionUse::default() };
        used.resolve(&Manifest::default(), number.parse().ok(), [].into()).unwrap()
    }

    /// A chain whose function was swapped from 1.0.0 to 2.0.0.
    fn swapped() -> Arc<Deployed> {
        let deployed = Arc::new(Deployed::new(Vec::new()));
        deployed.running().functions = vec![version("1.0.0")];
        deployed.running().put(version("2.0.0"));
        deployed
    }

    #[test]
    fn a_part_that_goes_back_while_its_chain_is_changed_is_heard_behind_that() {
        let id = ChainId { tenant: "t".parse().unwrap(), name: "c".parse().unwrap() };
        for (replaced, anew) in [(false, false), (true, false), (false, true)] {
            let deployed = swapped();
            let (events, told) = channel();
            let sink: Arc<OnceLock<EventSink>> = Arc::default();
            assert!(sink.set(Box::new(move |event| events.send(event).unwrap())).is_ok());
            let turn = deployed.turn();
            let news = News {
                function: "f".into(),
                version: "2.0.0".into(),
                kind: "trap".into(),
                message: "it trapped".into(),
                rolled_back: true,
                quarantined: false,
            };
            tell(&sink, &id, &Arc::downgrade(&deployed), news);
            let early = told.recv_timeout(Duration::from_millis(50));
            assert_eq!(early.unwrap_err(), RecvTimeoutError::Timeout);
            assert_eq!(deployed.running().functions, [version("2.0.0")]);
            deployed.running().replaced = replaced;
            if anew {
                deployed.running().before.clear();
            }
            drop(turn);
            let event = told.recv().unwrap();
            drop(deployed.turn());
            // What took its place runs what faulted: whoever hears of it has to bring the other one
            // back.
            if replaced || anew {
                assert!(matches!(event, EngineEvent::Fault { kind, .. } if kind == "trap"));
                assert_eq!(deployed.running().functions, [version("2.0.0")]);
            } else {
                assert!(matches!(event, EngineEvent::RolledBack { .. }));
                assert_eq!(deployed.running().functions, [version("1.0.0")]);
            }
        }
    }

    #[test]
    fn a_trial_that_a_new_worker_does_not_go_on_with_ends_and_is_no_fault() {
        let id = ChainId { tenant: "t".parse().unwrap(), name: "c".parse().unwrap() };
        let (function, message) = ("f".to_owned(), "no memory".to_owned());
        let kind = TRIAL.to_owned();
        let news = News {
            function,
            version: "2.0.0".into(),
            kind,
            message,
            rolled_back: false,
            quarantined: false,
        };
        let EngineEvent::TrialEnded { function, version, .. } = event(id, news) else {
            panic!("it is another event");
        };
        assert_eq!((function.as_str(), version), ("f", "2.0.0".parse().ok()));
    }

    #[test]
    fn what_went_back_since_its_next_version_was_made_ready_is_as_it_was() {
        let existing = swapped();
        let ran = existing.running().functions.clone();
        let functions = vec![version("3.0.0")];
        let ready = MadeReady::on(&existing);
        let what = What::Again { existing: Arc::clone(&existing), ready, ran, functions };
        let prepared = Prepared { published: Published::default(), what };
        assert_eq!(Messages::check_unchanged(&prepared), Ok(()));
        existing.went_back("f", "2.0.0");
        // Not lost: nobody has to put anything back, which would be what it went back from.
        let refused = Messages::check_unchanged(&prepared);
        assert!(matches!(refused, Err(EngineError::Conflict(_))), "{refused:?}");
    }

    #[test]
    fn what_has_been_replaced_since_does_not_go_back() {
        let deployed = swapped();
        deployed.running().put(version("3.0.0"));
        deployed.went_back("f", "2.0.0");
        assert_eq!(deployed.running().functions, [version("3.0.0")]);
        deployed.went_back("f", "3.0.0");
        assert_eq!(deployed.running().functions, [version("2.0.0")]);
    }
}
