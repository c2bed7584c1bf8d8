//! Functions of the world `wasi:http/proxy`: what a chain may not want of them, and making them
//! ready: here, or to be run by a worker.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weir_control::engine::EngineError;
use weir_message::{FunctionPlan, MessageError, Proxy};
use weir_proxy_function::{LinkedProxy, ProxyConfig, ProxyFunction, Runners};
use weir_sandbox::{Admitted, CompileError, Compiled, InstanceError, World};
use weir_spec::{Access, ResolvedFunction};

use super::{Messages, refused};

/// The threads that guests run on: none before the first function wants them.
pub(super) struct Proxies {
    threads: usize,
    runners: Mutex<Option<Arc<Runners>>>,
}

impl Proxies {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads, runners: Mutex::default() }
    }

    fn runners(&self) -> Result<Arc<Runners>, EngineError> {
        let mut runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runners) = &*runners {
            return Ok(Arc::clone(runners));
        }
        let started = Runners::start(self.threads)
            .map_err(|e| EngineError::Exhausted(format!("threads for wasi:http functions: {e}")))?;
        Ok(Arc::clone(runners.insert(Arc::new(started))))
    }
}

impl Messages {
    /// Machine code for a function, where it will run.
    ///
    /// # Errors
    /// When it does not compile.
    pub(crate) fn compile(&self, admitted: &Admitted) -> Result<Compiled, CompileError> {
        let Admitted { component, hash, .. } = admitted;
        if admitted.world == World::Proxy && self.hub.get().is_none() {
            return self.sandbox.compile_service(component, *hash);
        }
        self.sandbox.compile(component, *hash)
    }

    /// Makes a function ready for a part of a chain with these upstreams.
    pub(super) fn proxy(
        &self,
        function: &ResolvedFunction,
        plan: &FunctionPlan,
        upstreams: &[String],
    ) -> Result<Proxy, EngineError> {
        let name = plan.name.clone();
        let wrong = |what: &str| {
            Err(EngineError::Refused(format!("function {name} is a wasi:http component: {what}")))
        };
        if function.access == Access::ReadOnly {
            return wrong("it makes responses, so it cannot be read-only: leave `access` out");
        }
        if function.state_bytes > 0 {
            return wrong("it has no state region: leave `state` out");
        }
        let failed = |source| refused(InstanceError::Compile { name: name.clone(), source }.into());
        let compiled = self.compile(&plan.admitted).map_err(failed)?;
        let components = if self.hub.get().is_some() {
            vec![compiled.component]
        } else {
            let Admitted { component, hash, .. } = &*plan.admitted;
            self.sandbox.service_places(component, *hash).map_err(failed)?
        };
        let config = ProxyConfig {
            name: name.clone(),
            hash: plan.admitted.hash,
            memory_at_start: plan.admitted.memory_at_start,
            memory: plan.memory,
            deadline: plan.deadline,
            timeout: function.timeout.get(),
            instances: function.instances,
            requests_per_instance: function.requests_per_instance,
            instance_idle: function.instance_idle.get(),
            config: plan.config.clone(),
            upstreams: upstreams.to_vec(),
            telemetry: Arc::clone(&plan.telemetry),
        };
        let compiled_in = if compiled.cached { Duration::ZERO } else { compiled.took };
        let wrong = |source| refused(MessageError::Proxy { name: name.clone(), source });
        let linked = LinkedProxy::new(config, &components, compiled_in).map_err(wrong)?;
        if self.hub.get().is_some() {
            return Ok(Proxy::Elsewhere(Arc::new(linked)));
        }
        let runners = self.proxies.runners()?;
        Ok(Proxy::Here(ProxyFunction::new(linked, &self.sandbox, runners).map_err(wrong)?))
    }
}
