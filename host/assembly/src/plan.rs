//! From specs to what the planes run.

use std::sync::Arc;

use weir_chain::Mode;
use weir_message::FunctionCounters;
use weir_packet_plane::{ChainPlan, FunctionPlan, OnFault};
use weir_sandbox::{Admitted, Refused, Telemetry};
use weir_spec::{Access, Chain, ResolvedFunction};

/// A function that may not run.
#[derive(Debug, thiserror::Error)]
#[error("function {label}: {refused}")]
pub struct AdmitError {
    /// Its name in the chain.
    pub label: String,
    /// Why.
    pub refused: Refused,
}

/// A function of a chain as the packet plane wants it, on this worker.
#[must_use]
pub fn function_plan(
    function: &ResolvedFunction,
    admitted: Arc<Admitted>,
    telemetry: Arc<Telemetry>,
    worker: usize,
) -> FunctionPlan {
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    FunctionPlan {
        name: function.label.to_string(),
        version: function.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        admitted,
        writes: function.access == Access::ReadWrite,
        memory: bytes(function.memory.get()),
        deadline: function.deadline.get(),
        on_fault: on_fault(function.on_fault),
        state_bytes: bytes(function.state_bytes),
        state_shared: function.state_shared,
        state_layout: function.layout.clone(),
        config: function.per_worker.get(worker).unwrap_or(&function.config).clone(),
        flow_verdicts: function.flow_verdicts,
        targets: function.targets.iter().map(ToString::to_string).collect(),
        telemetry,
    }
}

/// A function of a chain as the message plane wants it.
#[must_use]
pub fn message_function_plan(
    function: &ResolvedFunction,
    admitted: Arc<Admitted>,
    telemetry: Arc<Telemetry>,
    counters: Arc<FunctionCounters>,
) -> weir_message::FunctionPlan {
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    weir_message::FunctionPlan {
        name: function.label.to_string(),
        version: function.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        proxy: None,
        admitted,
        code: None,
        blank: None,
        writes: function.access == Access::ReadWrite,
        memory: bytes(function.memory.get()),
        deadline: function.deadline.get(),
        on_fault: on_fault(function.on_fault),
        state_bytes: bytes(function.state_bytes),
        state_layout: function.layout.clone(),
        config: function.config.clone(),
        telemetry,
        counters,
    }
}

/// A fault policy as both planes have it.
fn on_fault(policy: weir_spec::OnFault) -> OnFault {
    match policy {
        weir_spec::OnFault::FailClosed => OnFault::FailClosed,
        weir_spec::OnFault::FailOpen => OnFault::FailOpen,
    }
}

/// A chain of functions that were loaded from files, with new telemetry: as this worker has it.
#[must_use]
pub fn plan_of(
    chain: &Chain,
    functions: &[(ResolvedFunction, Arc<Admitted>)],
    mode: Mode,
    worker: usize,
) -> ChainPlan {
    let functions = functions.iter().map(|(function, admitted)| {
        function_plan(function, Arc::clone(admitted), Arc::default(), worker)
    });
    plan(chain.name.as_str(), functions.collect(), mode)
}

/// A chain of these functions.
#[must_use]
pub fn plan(name: &str, functions: Vec<FunctionPlan>, mode: Mode) -> ChainPlan {
    ChainPlan { name: name.to_owned(), functions, mode, upward: None }
}
