//! Both planes as the control plane's one engine: what is asked goes to the plane that has the chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_control::engine::{
    ChainId, Deployment, Drained, Engine, EngineError, EngineStatus, EventSink, FunctionLog,
    Published, TrialKind,
};
use weir_sandbox::Sandbox;
use weir_spec::{CheckReport, Name, Plane, ResolvedFunction, SteeringRule};

use crate::engine::PlaneEngine;
use crate::messages::Messages;
use crate::nics::InUse;

/// See the module.
pub(crate) struct Planes {
    pub(crate) packets: PlaneEngine,
    pub(crate) messages: Arc<Messages>,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) functions: InUse,
}

impl Engine for Planes {
    fn check(&self, wasm: &[u8]) -> CheckReport {
        self.packets.check(wasm)
    }

    fn compile(&self, wasm: &[u8]) -> Result<Duration, EngineError> {
        let refused = |error: &dyn std::fmt::Display| EngineError::Refused(error.to_string());
        let admitted = self.sandbox.admit(wasm).map_err(|error| refused(&error))?;
        if !admitted.world.of_messages() {
            return self.packets.compile(wasm);
        }
        let started = Instant::now();
        let compiled = self.sandbox.compile(&admitted.component, admitted.hash);
        compiled.map(|_| started.elapsed()).map_err(|error| refused(&error))
    }

    fn deploy(&self, deployment: Deployment) -> Result<Published, EngineError> {
        let message = deployment.chain.plane == Plane::Message;
        if message && !self.messages.has(&deployment.id) {
            // Of a chain that changes planes, the old one goes when the new one is ready.
            let published = self.messages.deploy(&deployment)?;
            self.packets.undeploy(&deployment.id)?;
            return Ok(published);
        }
        if message {
            return self.messages.deploy(&deployment);
        }
        let id = deployment.id.clone();
        let published = self.packets.deploy(deployment)?;
        self.messages.undeploy(&id);
        Ok(published)
    }

    fn undeploy(&self, chain: &ChainId) -> Result<(), EngineError> {
        self.messages.undeploy(chain);
        self.packets.undeploy(chain)
    }

    fn swap(&self, chain: &ChainId, function: ResolvedFunction) -> Result<Published, EngineError> {
        if self.messages.has(chain) {
            return self.messages.swap(chain, function);
        }
        self.packets.swap(chain, function)
    }

    fn begin_trial(
        &self,
        chain: &ChainId,
        function: ResolvedFunction,
        kind: TrialKind,
    ) -> Result<Published, EngineError> {
        if self.messages.has(chain) {
            return self.messages.begin_trial(chain, function, kind);
        }
        self.packets.begin_trial(chain, function, kind)
    }

    fn change_canary(
        &self,
        chain: &ChainId,
        function: &Name,
        percent: u8,
    ) -> Result<(), EngineError> {
        if self.messages.has(chain) {
            return self.messages.change_canary(chain, percent);
        }
        self.packets.change_canary(chain, function, percent)
    }

    fn promote(&self, chain: &ChainId, function: &Name) -> Result<Published, EngineError> {
        if self.messages.has(chain) {
            return self.messages.promote(chain);
        }
        self.packets.promote(chain, function)
    }

    fn end_trial(&self, chain: &ChainId, function: &Name) -> Result<(), EngineError> {
        if self.messages.has(chain) {
            return self.messages.end_trial(chain);
        }
        self.packets.end_trial(chain, function)
    }

    fn steer(&self, tenant: &Name, rules: &[SteeringRule]) -> Result<Duration, EngineError> {
        self.packets.steer(tenant, rules)
    }

    fn steering(&self, tenant: &Name) -> Vec<u64> {
        self.packets.steering(tenant)
    }

    fn status(&self) -> EngineStatus {
        let mut status = self.packets.status();
        status.listeners = self.messages.listener_statuses();
        status.chains.extend(self.messages.chain_statuses());
        self.functions.amend(&mut status);
        status
    }

    fn log(&self, chain: &ChainId, function: &Name) -> FunctionLog {
        if self.messages.has(chain) {
            return self.messages.log(chain, function);
        }
        self.packets.log(chain, function)
    }

    fn subscribe(&self, sink: EventSink) {
        let sink = Arc::new(sink);
        let other = Arc::clone(&sink);
        self.functions.watch(Arc::clone(&sink));
        self.messages.subscribe(Box::new(move |event| other(event)));
        self.packets.subscribe(Box::new(move |event| sink(event)));
    }

    fn drain(&self, deadline: Duration) -> Drained {
        let started = Instant::now();
        let messages = self.messages.drain(deadline);
        let mut drained = self.packets.drain(deadline.saturating_sub(started.elapsed()));
        drained.chains += messages;
        drained
    }
}
