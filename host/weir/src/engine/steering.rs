//! Tenants' steering rules, and bringing them to the stations that they concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_assembly::{Compiled, compile_steering};
use weir_control::engine::{EngineError, RulePlace, RuleStatus};
use weir_packet_plane::Rules;
use weir_port::Place;
use weir_spec::{Name, SteeringRule};
use weir_steering::{Rule, Table, Target, covered};

use super::PlaneEngine;
use super::chains::lane_key;
use super::crossing::{Crossing, Device, Steered};

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
        if rules.is_empty() {
            self.steering.tenants().remove(tenant);
        } else {
            self.steering.tenants().insert(tenant.clone(), Tenant { rules: rules.into(), hits });
        }
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
        let compiled = crossing.compile(&rules);
        let chains = compiled.chains.iter().map(|chain| lane_key(&crossing.tenant, chain));
        let hits = compiled.written.iter().map(|place| Arc::clone(&hits[*place as usize]));
        // What no rule claims and no chain takes the kernel gets, from ports that have it from the kernel.
        let rest = (!crossing.has_rest()).then_some(Rule::all(Target::Kernel));
        let before: Vec<_> = compiled.rules.iter().copied().chain(rest).collect();
        let may = |rule: &Rule| [0, 1].map(|port| rule.port.is_none_or(|of| of == port));
        let ports = compiled.rules.iter().map(may).collect();
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
        // Behind the stations, because a device takes its time. Whichever of the two is the first to have other rules: each packet
        // is decided by those before or by these.
        let mut steered = crossing.steered();
        replace(crossing.stations.iter().flat_map(|station| &station.before), &before);
        let brought = self.bring(crossing, &compiled.rules);
        *steered = Steered { written: compiled.written, ports, brought };
        Ok(pause)
    }

    /// Has the NIC bring the packets to a crossing that rules send there by their hardware address alone. A function has one.
    fn bring(&self, crossing: &Crossing, rules: &[Rule]) -> BTreeMap<usize, Result<(), String>> {
        let Some(port) = crossing.from() else { return BTreeMap::new() };
        let mac = |rule: &Rule| {
            let mac = rule.destination_mac?;
            let to_chain = matches!(rule.target, Target::Chain(_)) && rule.port != Some(1);
            let alone =
                Rule { destination_mac: Some(mac), port: rule.port, ..Rule::all(rule.target) };
            (to_chain && *rule == alone).then_some(mac)
        };
        let mut brought = BTreeMap::new();
        let all: Vec<_> =
            rules.iter().enumerate().filter_map(|(n, rule)| Some((n, mac(rule)?))).collect();
        let first = all.first().map(|(_, mac)| *mac);
        let Some(result) = self.macs.bring(port, first) else { return brought };
        for (n, mac) in all {
            let result = if Some(mac) == first {
                result.clone()
            } else {
                Err("a virtual function has one address, that of the first such rule".to_owned())
            };
            brought.insert(n, result);
        }
        brought
    }

    /// A crossing is there no more.
    pub(super) fn bring_nothing(&self, crossing: &Crossing) {
        if let Some(port) = crossing.from() {
            self.macs.bring(port, None);
        }
    }

    /// What became of each of a tenant's rules.
    pub(super) fn steering_status(&self, tenant: &Name) -> Vec<RuleStatus> {
        let Some(Tenant { hits, .. }) = self.steering.tenants().get(tenant).cloned() else {
            return Vec::new();
        };
        let flows = hits.iter().map(|hits| hits.load(Ordering::Relaxed));
        let mut statuses: Vec<_> =
            flows.map(|flows| RuleStatus { flows, places: Vec::new() }).collect();
        let crossings: Vec<_> = self.plane.crossings().values().cloned().collect();
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            crossing.tell_places(&mut statuses);
        }
        statuses
    }

    /// Those of a tenant's rules that decide nothing, and the earlier ones that mean all of their packets. A rule that concerns
    /// several crossings is one if it is so in each.
    pub(super) fn rules_covered(&self, tenant: &Name) -> BTreeMap<usize, usize> {
        let Some(Tenant { rules, .. }) = self.steering.tenants().get(tenant).cloned() else {
            return BTreeMap::new();
        };
        let crossings: Vec<_> = self.plane.crossings().values().cloned().collect();
        let mut deciding = BTreeSet::new();
        let mut all = BTreeMap::new();
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            let Compiled { rules, written, .. } = crossing.compile(&rules);
            let written = |place: usize| written[place] as usize;
            let here = covered(&rules).into_iter();
            let here: BTreeMap<_, _> =
                here.map(|found| (written(found.rule), written(found.by))).collect();
            let decide = (0..rules.len()).map(written).filter(|rule| !here.contains_key(rule));
            deciding.extend(decide);
            all.extend(here);
        }
        all.retain(|rule, _| !deciding.contains(rule));
        all
    }
}

impl Crossing {
    /// What concerns this crossing's packets out of a tenant's rules.
    fn compile(&self, rules: &[SteeringRule]) -> Compiled {
        let number = |name: &Name| {
            let ports = [&self.shape.from, &self.shape.to];
            let number = ports.iter().position(|port| port.as_ref() == Some(name))?;
            u16::try_from(number).ok()
        };
        compile_steering(rules, number, |chain| self.has(chain))
    }

    /// Adds to each of the tenant's rules where it is compared here.
    fn tell_places(&self, statuses: &mut [RuleStatus]) {
        let steered = self.steered();
        let ports = [&self.shape.from, &self.shape.to];
        for (number, port) in (0..).zip(ports).filter_map(|(n, port)| Some((n, port.as_ref()?))) {
            // By `to` packets come in if it is another port, and they pass the chain in both directions.
            if number == 1 && (!self.shape.symmetric || self.shape.from == self.shape.to) {
                continue;
            }
            let devices = self.stations.iter().flat_map(|station| &station.before);
            let devices = devices.filter(|(of, _)| *of == number);
            let devices: Vec<_> =
                devices.map(|(_, device)| (device.kind(), device.places())).collect();
            for (n, (written, ports)) in steered.written.iter().zip(&steered.ports).enumerate() {
                let Some(status) = statuses.get_mut(*written as usize) else { continue };
                if !ports[usize::from(number)] {
                    continue;
                }
                let mut place = RulePlace {
                    port: port.clone(),
                    at: "software".to_owned(),
                    reason: None,
                    packets: None,
                };
                for (kind, places) in &devices {
                    match places.get(n) {
                        Some(Place::Before { flows, packets }) => {
                            place.at = (*kind).to_owned();
                            status.flows += flows.unwrap_or(0);
                            place.packets = sum(place.packets, *packets);
                        }
                        Some(Place::Behind(Some(why))) => place.reason = Some(why.to_string()),
                        Some(Place::Behind(None) | Place::Nowhere) | None => {}
                    }
                }
                match steered.brought.get(&n).filter(|_| number == 0) {
                    Some(Ok(())) => place.at = "vf-mac".to_owned(),
                    Some(Err(why)) => place.reason = Some(why.clone()),
                    None => {}
                }
                if place.reason.is_some() {
                    // One of several queues' programs has it not.
                    place.at = "software".to_owned();
                }
                status.places.push(place);
            }
        }
    }
}

/// Of what is counted.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        _ => a.or(b),
    }
}
