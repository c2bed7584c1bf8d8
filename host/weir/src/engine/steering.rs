//! Tenants' steering rules.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use weir_assembly::compile_steering;
use weir_control::engine::EngineError;
use weir_spec::{Name, SteeringRule};

use super::PlaneEngine;

impl PlaneEngine {
    /// Compiles a tenant's rules and puts them in the place of those before.
    pub(super) fn replace_steering(
        &self,
        tenant: &Name,
        rules: &[SteeringRule],
    ) -> Result<Duration, EngineError> {
        let compiled = {
            let ports = self.ports();
            let numbered = || (0_u16..).zip(ports.iter());
            let port = |name: &Name| {
                numbered().find(|(_, slot)| slot.config.name == *name).map(|(number, _)| number)
            };
            let ports_of = |chain: &Name| {
                let own = numbered().filter(|(_, slot)| {
                    slot.config.tenant == *tenant && slot.chain.as_ref() == Some(chain)
                });
                own.map(|(number, _)| number).collect()
            };
            compile_steering(rules, port, ports_of)
        };
        let mut tables = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(tenant.clone(), Arc::new(compiled));
        Ok(Duration::ZERO)
    }
}
