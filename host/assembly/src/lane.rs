//! Lanes of the jobs that need no daemon.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use weir_chain::ChainError;
use weir_packet_plane::{ChainPlan, Lane, LaneConfig, PlaneError};
use weir_sandbox::{InstanceError, Sandbox};

/// A lane with this chain.
///
/// # Errors
/// When it cannot be made ready: a configuration that was refused, or a fault while the function
/// was configured, as the [`PlaneError`], anything else as text. Places in code are lines of source
/// in both.
pub fn lane(sandbox: &Arc<Sandbox>, plan: ChainPlan, config: LaneConfig) -> Result<Lane> {
    // Lines are found in components that are still there.
    let functions = plan.functions.clone();
    let made = Lane::new(Arc::clone(sandbox), plan, config).map_err(|error| match error {
        PlaneError::Chain(ChainError::Instance(InstanceError::Refused { .. })) => error.into(),
        PlaneError::Chain(ChainError::Instance(InstanceError::Fault { name, call, mut fault })) => {
            fault.message = weir_sandbox::explain(&fault.message);
            let fault = InstanceError::Fault { name, call, fault };
            PlaneError::Chain(ChainError::Instance(fault)).into()
        }
        failed => anyhow!(weir_sandbox::explain(&failed.to_string())),
    });
    drop(functions);
    made
}
