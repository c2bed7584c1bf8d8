//! Both planes as the control plane's one engine: what is asked goes to the plane that has the
//! function. A chain whose functions are for both has a part on each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_control::engine::{
    ChainId, ChainStatus, Deployment, Drained, Engine, EngineError, EngineStatus, EventSink,
    ExchangeCounts, FunctionLog, Published, Reasons, RuleStatus, SwapDirection, Tap, TrialKind,
};
use weir_gateway::FAILURES;
use weir_packet_plane::DROP_REASONS;
use weir_sandbox::Sandbox;
use weir_spec::{
    Chain, ChainTrace, CheckReport, HostConfig, Name, Plane, ResolvedFunction, SteeringRule,
    TapRequest, TraceRequest,
};

use crate::messages::Messages;
use crate::nics::{InUse, Nics};
use crate::packets::{Packets, admit};
use crate::told::Told;

/// Names of these, whatever stands before them.
const fn names<T, const N: usize>(all: &[(T, &'static str); N]) -> [&'static str; N] {
    let (mut names, mut place) = ([""; N], 0);
    while place < N {
        names[place] = all[place].1;
        place += 1;
    }
    names
}

/// With lines of source in it, if it was refused because code failed while it was made ready.
fn explained<T>(result: Result<T, EngineError>) -> Result<T, EngineError> {
    result.map_err(explained_error)
}

fn explained_error(error: EngineError) -> EngineError {
    match error {
        EngineError::Refused(message) => EngineError::Refused(weir_sandbox::explain(&message)),
        EngineError::Lost(error) => EngineError::Lost(Box::new(explained_error(*error))),
        other => other,
    }
}

/// Of what ran before not all does any more.
fn lost(error: EngineError) -> EngineError {
    match error {
        EngineError::Lost(_) => error,
        error => EngineError::Lost(Box::new(error)),
    }
}

/// Linear memories of functions in this process from which on nothing is deployed: of 31,000 that
/// there are addresses for, the rest is for what is being made ready then, and for instances that
/// take the place of ones that faulted.
const MEMORIES: usize = 24 << 10;

/// Whether there are addresses for another chain, or version.
fn has_room(memories: usize) -> Result<(), EngineError> {
    if memories < MEMORIES {
        return Ok(());
    }
    // How many there are is not for every tenant.
    tracing::warn!(memories, "too many linear memories for another chain");
    Err(EngineError::Exhausted(format!(
        "the functions of all chains have {MEMORIES} linear memories or more, from which on no more are made, so that there are some for functions that start anew: remove chains (`memories` in [quota] bounds what a tenant has)"
    )))
}

/// See the module.
pub struct Planes {
    packets: Packets,
    messages: Messages,
    sandbox: Arc<Sandbox>,
    functions: InUse,
}

impl Planes {
    /// Starts workers and the gateway's threads, opens ports and listens. Ports that cannot be
    /// opened are down.
    ///
    /// # Errors
    /// When threads cannot be had, an address cannot be listened at, a certificate is no good, or
    /// something is wrong with ports on whatever machine.
    pub fn start(config: &HostConfig, sandbox: Arc<Sandbox>, nics: &Nics) -> anyhow::Result<Self> {
        let packets = Packets::start(config, Arc::clone(&sandbox), nics.macs())?;
        let messages = Messages::start(config, Arc::clone(&sandbox), crate::random_seed())?;
        Ok(Self { packets, messages, sandbox, functions: nics.in_use.clone() })
    }
}

impl Engine for Planes {
    fn check(&self, wasm: &[u8]) -> CheckReport {
        self.packets.check(wasm)
    }

    fn compile(&self, wasm: &[u8]) -> Result<Duration, EngineError> {
        let refused = |error: &dyn std::fmt::Display| EngineError::Refused(error.to_string());
        let admitted = self.sandbox.admit(wasm).map_err(|error| refused(&error))?;
        if !admitted.world.of_messages() {
            return self.packets.compile(&admitted);
        }
        let started = Instant::now();
        let compiled = self.messages.compile(&admitted);
        compiled.map(|_| started.elapsed()).map_err(|error| refused(&error))
    }

    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError> {
        has_room(weir_sandbox::memories())?;
        let Deployment { id, chain, mut functions } = deployment;
        let messages = functions.split_off(self.first_of_messages(&functions)?);
        self.messages.check_protocols(&id, &messages, functions.len())?;
        // First of all what can fail: what ran before runs on if it does.
        let ready = match &messages[..] {
            [] => None,
            functions => Some(explained(self.messages.prepare(&id, functions))?),
        };
        let listeners = ready.as_ref().map(|_| self.messages.addresses_of(&id));
        let packets = Deployment { id: id.clone(), chain, functions };
        let is_new = !self.packets.has(&id);
        let mut published = Published::default();
        if !packets.functions.is_empty() {
            if let Some(ready) = &ready {
                Messages::check_unchanged(ready)?;
            }
            published = explained(self.packets.deploy(&packets, listeners.as_deref()))?;
        }
        match ready {
            Some(ready) => match self.messages.publish(&id, ready) {
                Ok(other) => published = both(published, other),
                // Its packets pass what they passed before.
                Err(error) if packets.functions.is_empty() => return Err(error),
                Err(error) if is_new => {
                    // Nobody could go on where its packets go; the first error is what is told.
                    // Rules still send their packets to nobody else.
                    drop(self.packets.undeploy_chain(&id));
                    return Err(error);
                }
                Err(error) => return Err(lost(error)),
            },
            None => self.messages.undeploy(&id),
        }
        if packets.functions.is_empty() {
            self.packets.undeploy(&id).map_err(lost)?;
        }
        Ok(published)
    }

    fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError> {
        // Packets first: none comes to listeners that let nobody through.
        let packets = self.packets.undeploy(chain);
        self.messages.undeploy(chain);
        packets
    }

    fn swap(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        way: SwapDirection,
    ) -> Result<Published, EngineError> {
        if way == SwapDirection::Forward {
            has_room(weir_sandbox::memories())?;
        }
        if self.messages.has_function(chain, &function.label) {
            return explained(self.messages.swap(chain, function, way));
        }
        explained(self.packets.swap(chain, function, way))
    }

    fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        has_room(weir_sandbox::memories())?;
        let of_messages = self.messages.has_function(chain, &function.label);
        let other = if of_messages {
            self.packets.has_trial(chain)
        } else {
            self.messages.has_trial(chain)
        };
        if other {
            return Err(EngineError::Conflict(format!(
                "another version is being tried in chain {}: end that first",
                chain.name
            )));
        }
        if of_messages {
            return explained(self.messages.begin_trial(chain, function, kind));
        }
        explained(self.packets.begin_trial(chain, function, kind))
    }

    fn change_canary(
        &self,
        chain: &ChainId,
        function: &Name,
        percent: u8,
    ) -> Result<(), EngineError> {
        if self.messages.has_function(chain, function) {
            return self.messages.change_canary(chain, percent);
        }
        self.packets.change_canary(chain, percent)
    }

    fn promote(&self, chain: &ChainId, function: &Name) -> Result<Published, EngineError> {
        if self.messages.has_function(chain, function) {
            return explained(self.messages.promote(chain));
        }
        explained(self.packets.promote(chain))
    }

    fn end_trial(&self, chain: &ChainId, function: &Name) -> Result<(), EngineError> {
        if self.messages.has_function(chain, function) {
            return self.messages.end_trial(chain);
        }
        self.packets.end_trial(chain)
    }

    fn expect(&self, chains: &[(&ChainId, &Chain)]) {
        self.packets.expect(chains);
    }

    fn guard_ports(&self) {
        self.packets.guard_ports();
    }

    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError> {
        self.packets.steer(tenant, rules)
    }

    fn steering(&self, tenant: &Name) -> Vec<RuleStatus> {
        self.packets.steering(tenant)
    }

    fn covered_rules(&self, tenant: &Name) -> BTreeMap<usize, usize> {
        self.packets.covered_rules(tenant)
    }

    fn trace(&self, chain: &ChainId, request: &TraceRequest) -> Result<ChainTrace, EngineError> {
        self.packets.trace(chain, request)
    }

    fn tap(&self, chain: &ChainId, request: &TapRequest) -> Result<Box<dyn Tap>, EngineError> {
        self.packets.tap(chain, request)
    }

    fn reasons(&self) -> Reasons {
        const DROPS: [&str; DROP_REASONS.len()] = names(&DROP_REASONS);
        const FAILED: [&str; FAILURES.len()] = names(&FAILURES);
        Reasons { drops: &DROPS, failures: &FAILED }
    }

    fn status(&self) -> EngineStatus {
        let mut status = self.packets.status();
        status.listeners = self.messages.listener_statuses();
        status.carrier = self.messages.carrier();
        for messages in self.messages.chain_statuses() {
            let same = |chain: &&mut ChainStatus| {
                (&chain.tenant, &chain.name) == (&messages.tenant, &messages.name)
            };
            match status.chains.iter_mut().find(same) {
                Some(packets) => join(packets, messages),
                None => status.chains.push(messages),
            }
        }
        self.functions.amend(&mut status);
        status
    }

    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        if self.messages.has_function(chain, function) {
            return self.messages.log(chain, function);
        }
        self.packets.log(chain, function)
    }

    fn reload(&self, config: &HostConfig) -> Result<Vec<String>, EngineError> {
        let mut reloaded = self.messages.reload(&config.listeners)?;
        reloaded.moved.retain(|id| self.packets.has(id));
        let told = reloaded.moved.into_iter().map(|ChainId { tenant, name }| {
            format!("chain {tenant}/{name} is to be applied again: its packets go to where its listeners were")
        });
        let kept = reloaded.certificates.into_iter();
        Ok(told
            .chain(kept.map(|why| format!("a certificate, which stays as it was: {why}")))
            .collect())
    }

    fn forget(&self, tenant: &Name) {
        self.messages.forget(tenant);
    }

    fn subscribe(&self, sink: EventSink) {
        let sink = Arc::new(sink);
        self.functions.watch(Arc::clone(&sink));
        let told = Told::new(sink, weir_sandbox::explain);
        let other = Arc::clone(&told);
        self.messages.subscribe(Box::new(move |event| other.tell(event)));
        self.packets.subscribe(Box::new(move |event| told.tell(event)));
    }

    fn drain(&self, deadline: Duration) -> Drained {
        let until = Instant::now() + deadline;
        // Messages first, because packet chains may bring what they are made of. But a client that
        // stays must not take all of the time.
        let messages = self.messages.drain(deadline * 3 / 4);
        let mut drained = self.packets.drain(until.saturating_duration_since(Instant::now()));
        drained.chains += messages;
        drained
    }
}

impl Planes {
    /// The place of the first function that is for messages; behind the last if none is.
    fn first_of_messages(&self, functions: &[ResolvedFunction]) -> Result<usize, EngineError> {
        for (place, function) in functions.iter().enumerate() {
            if admit(&self.sandbox, function)?.world.of_messages() {
                return Ok(place);
            }
        }
        Ok(functions.len())
    }
}

/// What publishing both parts of a chain cost.
fn both(mut packets: Published, messages: Published) -> Published {
    packets.pause = packets.pause.max(messages.pause);
    packets.compiled_in += messages.compiled_in;
    packets.fresh.extend(messages.fresh);
    packets.packets_lost += messages.packets_lost;
    packets.notes.extend(messages.notes);
    packets
}

/// Both parts of a chain as one.
fn join(chain: &mut ChainStatus, messages: ChainStatus) {
    chain.plane = Plane::Both;
    chain.exchanges =
        Some(ExchangeCounts { opened: messages.packets_in, ended: messages.packets_out });
    for (reason, n) in messages.drops {
        *chain.drops.entry(reason).or_default() += n;
    }
    chain.functions.extend(messages.functions);
    chain.pool.total += messages.pool.total;
    chain.pool.free += messages.pool.free;
    chain.pool.out += messages.pool.out;
    chain.trial = chain.trial.take().or(messages.trial);
    chain.worker_restarts += messages.worker_restarts;
    chain.worker_timeouts += messages.worker_timeouts;
}
