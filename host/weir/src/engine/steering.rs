//! Tenants' steering rules, and bringing them to the stations that they concern.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_assembly::compile_steering;
use weir_control::engine::EngineError;
use weir_packet_plane::Rules;
use weir_spec::{Name, SteeringRule};
use weir_steering::{Rule, Table, Target};

use super::PlaneEngine;
use super::chains::lane_key;
use super::crossing::{Crossing, Device};

/// All tenants' rules.
#[derive(Default)]
pub(super) struct Steering(Mutex<BTreeMap<Name, Tenant>>);

/// A tenant's.
#[derive(Clone, Default)]
struct Tenant {
    rules: Arc<[SteeringRule]>,
    /// For each rule, how many flows it has decided about.
    hits: Arc<[Arc<AtomicU64>]>,
}

impl Steering {
    fn tenants(&self) -> MutexGuard<'_, BTreeMap<Name, Tenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For each of a tenant's rules, how many flows it has decided about.
    pub(super) fn hits(&self, tenant: &Name) -> Vec<u64> {
        let tenant = self.tenants().get(tenant).cloned();
        let hits = tenant.iter().flat_map(|tenant| tenant.hits.iter());
        hits.map(|hits| hits.load(Ordering::Relaxed)).collect()
    }
}

/// Before there is anybody to take packets in: the kernel has them all.
pub(super) fn leave_all<'a>(devices: impl Iterator<Item = &'a Device>) {
    replace(devices, &[Rule::all(Target::Kernel)]);
}

/// Gives devices these rules. What a device cannot decide comes in, and is decided there.
fn replace<'a>(devices: impl Iterator<Item = &'a Device>, rules: &[Rule]) {
    for (port, device) in devices {
        if let Err(error) = device.replace(rules, *port) {
            tracing::warn!("steering rules are in force behind the port only: {error}");
        }
    }
}

impl PlaneEngine {
    /// These rules are the tenant's from now on. The answer is the longest time for which a worker stood still.
    pub(super) fn replace_steering(
        &self,
        tenant: &Name,
        rules: &[SteeringRule],
    ) -> Result<Duration, EngineError> {
        let hits = rules.iter().map(|_| Arc::default()).collect();
        self.steering.tenants().insert(tenant.clone(), Tenant { rules: rules.into(), hits });
        let crossings: Vec<_> = self.plane.crossings().values().cloned().collect();
        let mut pause = Duration::ZERO;
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            pause = pause.max(self.steer_crossing(crossing)?);
        }
        Ok(pause)
    }

    /// Brings a crossing's stations the rules that concern them.
    pub(super) fn steer_crossing(&self, crossing: &Crossing) -> Result<Duration, EngineError> {
        let tenant = self.steering.tenants().get(&crossing.tenant).cloned();
        let Tenant { rules, hits } = tenant.unwrap_or_default();
        let number = |name: &Name| {
            let ports = [&crossing.shape.from, &crossing.shape.to];
            let number = ports.iter().position(|port| port.as_ref() == Some(name))?;
            u16::try_from(number).ok()
        };
        let compiled = compile_steering(&rules, number, |chain| crossing.has(chain));
        let chains = compiled.chains.iter().map(|chain| lane_key(&crossing.tenant, chain));
        let hits = compiled.written.iter().map(|place| Arc::clone(&hits[*place as usize]));
        // What no rule claims and no chain takes the kernel gets, from ports that have it from the kernel.
        let rest = (!crossing.has_rest()).then_some(Rule::all(Target::Kernel));
        let before: Vec<_> = compiled.rules.iter().copied().chain(rest).collect();
        replace(crossing.stations.iter().flat_map(|station| &station.before), &before);
        let rules = Arc::new(Rules {
            table: Table::new(&compiled.rules),
            chains: chains.collect(),
            hits: hits.collect(),
        });
        let mut pause = Duration::ZERO;
        for n in 0..crossing.stations.len() {
            let rules = Arc::clone(&rules);
            let (stood_still, before) = self.plane.with_station(crossing, n, move |station| {
                let started = Instant::now();
                let before = station.steer(rules);
                (started.elapsed(), before)
            })?;
            // A large table takes its time to free, which is not for the data path.
            drop(before);
            pause = pause.max(stood_still);
        }
        Ok(pause)
    }
}
