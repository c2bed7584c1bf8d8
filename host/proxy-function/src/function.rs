//! A function that is compiled and linked, ready to be instantiated for exchanges.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use weir_sandbox::{Sandbox, Telemetry, Ticker, size};

use crate::guest::Guest;
use crate::reuse::Idle;
use crate::run::rehearse;
use crate::runners::Runners;

/// A function, as an operator wants it.
#[derive(Clone)]
pub struct ProxyConfig {
    /// Its name in the chain.
    pub name: String,
    /// Hash of its component: lines of source are found by it.
    pub hash: [u8; 32],
    /// Bytes of linear memory that an instance starts with.
    pub memory_at_start: u64,
    /// Bytes of linear memory that an instance may have.
    pub memory: usize,
    /// CPU time from when a guest is woken until it waits.
    pub deadline: Duration,
    /// Time for an exchange.
    pub timeout: Duration,
    /// Maximum number of instances at a time.
    pub instances: u32,
    /// Maximum number of exchanges that one serves, one after the other.
    pub requests_per_instance: u32,
    /// How long one that serves nobody is kept.
    pub instance_idle: Duration,
    /// Its configuration, a JSON object: its environment variables.
    pub config: String,
    /// Names of the listener's upstreams, in their order: addresses that it may call.
    pub upstreams: Vec<String>,
    /// Its log.
    pub telemetry: Arc<Telemetry>,
}

/// Why a function cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// What it is configured with is no environment.
    #[error("{0}")]
    Environment(String),
    /// It starts with more memory than it may have.
    #[error(
        "it starts with {} of memory, its limit is {}: raise `memory` of the function in the chain",
        size(*needs),
        size(*limit as u64)
    )]
    Memory {
        /// Bytes it starts with.
        needs: u64,
        /// Bytes it may have.
        limit: usize,
    },
    /// There are no threads left for guests.
    #[error("threads for wasi:http functions: {0}")]
    Threads(std::io::Error),
    /// What it imports or exports does not have the types of WASI 0.2.
    #[error("linking it: {0}")]
    Link(String),
    /// There can be no instance of it.
    #[error("its start code, which runs before any request: {0}")]
    Start(String),
}

/// A function that could run, if it had threads to run on.
pub struct LinkedProxy {
    pub(crate) config: ProxyConfig,
    pub(crate) environment: Vec<(String, String)>,
    /// In each engine in which there can be instances of it: in the first one if there is room,
    /// else in the next.
    pub(crate) places: Vec<ProxyPre<Guest>>,
    compiled_in: Duration,
}

impl LinkedProxy {
    /// Links a component, given for each engine in which it may run, the best one first.
    /// `compiled_in`: time spent compiling it; 0 if its code came from a cache.
    ///
    /// # Errors
    /// When its configuration, its memory or its types are no good.
    pub fn new(
        config: ProxyConfig,
        components: &[Component],
        compiled_in: Duration,
    ) -> Result<Self, ProxyError> {
        let environment = environment(&config.config).map_err(ProxyError::Environment)?;
        if config.memory_at_start > config.memory as u64 {
            let (needs, limit) = (config.memory_at_start, config.memory);
            return Err(ProxyError::Memory { needs, limit });
        }
        let wrong = |error: wasmtime::Error| ProxyError::Link(format!("{error:#}"));
        let link = |component: &Component| {
            let mut linker = Linker::new(component.engine());
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            linker.instantiate_pre(component).and_then(ProxyPre::new)
        };
        let places = components.iter().map(link).collect::<Result<_, _>>().map_err(wrong)?;
        Ok(Self { config, environment, places, compiled_in })
    }

    /// Time spent compiling; 0 if its code came from a cache.
    #[must_use]
    pub fn compiled_in(&self) -> Duration {
        self.compiled_in
    }

    /// What it was to be.
    #[must_use]
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }
}

/// See the module.
pub struct ProxyFunction {
    pub(crate) linked: Arc<LinkedProxy>,
    /// Those of its engines, by place.
    pub(crate) tickers: Vec<Ticker>,
    pub(crate) runners: Arc<Runners>,
    pub(crate) instances: Arc<Semaphore>,
    /// Instances that wait for their next exchange, if they may serve several.
    pub(crate) idle: Option<Arc<Idle>>,
}

impl ProxyFunction {
    /// Has a function run on these threads, and makes its first instance there. The sandbox is the
    /// one that its component is of. Waits for that; to be called by no thread of these.
    ///
    /// # Errors
    /// When it faults in its start code.
    pub fn new(
        linked: LinkedProxy,
        sandbox: &Sandbox,
        runners: Arc<Runners>,
    ) -> Result<Arc<Self>, ProxyError> {
        let instances = Arc::new(Semaphore::new(linked.config.instances.max(1) as usize));
        let idle = (linked.config.requests_per_instance > 1)
            .then(|| Idle::new(linked.config.instance_idle, runners.handle().clone()));
        let places = linked.places.iter();
        let tickers = places.map(|pre| sandbox.ticker_of(pre.engine()).clone()).collect();
        let linked = Arc::new(linked);
        let function = Arc::new(Self { linked, tickers, runners, instances, idle });
        let (say, said) = mpsc::channel();
        let rehearsed = rehearse(Arc::clone(&function));
        function.runners.handle().spawn(async move {
            // Whoever asked waits for it.
            let _ = say.send(rehearsed.await);
        });
        let cut_off = |_| Err("its thread has gone".to_owned());
        said.recv().unwrap_or_else(cut_off).map_err(ProxyError::Start)?;
        Ok(function)
    }

    /// It as it was linked.
    #[must_use]
    pub fn linked(&self) -> &LinkedProxy {
        &self.linked
    }

    /// Whether instances that have served may serve again. If not, those that wait for it go.
    pub fn reuses_instances(&self, reuses: bool) {
        if let Some(idle) = &self.idle {
            idle.takes(reuses);
        }
    }

    /// None of the instances that there are serves another exchange: one of them was at fault.
    pub fn forget_instances(&self) {
        if let Some(idle) = &self.idle {
            idle.forget();
        }
    }

    pub(crate) fn config(&self) -> &ProxyConfig {
        &self.linked.config
    }
}

/// Environment variables out of a configuration.
fn environment(config: &str) -> Result<Vec<(String, String)>, String> {
    let table = match serde_json::from_str(config) {
        Ok(Value::Object(table)) => table,
        Ok(_) | Err(_) => return Err("its configuration is no table".into()),
    };
    let variable = |(name, value): (String, Value)| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!(
                "`config` has the key {name:?}, which is no name of an environment variable"
            ));
        }
        match value {
            Value::String(text) if !text.contains('\0') => Ok((name, text)),
            Value::Number(number) => Ok((name, number.to_string())),
            Value::Bool(truth) => Ok((name, truth.to_string())),
            _ => Err(format!(
                "`config.{name}` cannot be an environment variable, which is all the configuration that a wasi:http function \
                 has: write it as a string, a number or a truth value"
            )),
        }
    };
    table.into_iter().map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::environment;

    #[test]
    fn a_table_of_plain_values_is_an_environment() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(environment("{}"), Ok(vec![]));
        assert_eq!(
            environment(r#"{"GREETING": "hello = hi", "n": 3, "on": true}"#),
            Ok(vec![pair("GREETING", "hello = hi"), pair("n", "3"), pair("on", "true")])
        );
        for (config, part) in [
            ("[]", "no table"),
            (r#"{"a=b": "c"}"#, "a=b"),
            (r#"{"": "c"}"#, "no name"),
            (r#"{"list": [1]}"#, "config.list"),
            ("{\"nul\": \"a\\u0000b\"}", "config.nul"),
        ] {
            let refused = environment(config).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
