//! Tenants' steering rules, and bringing them to the stations that they concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_assembly::{CompiledSteering, compile_steering};
use weir_control::engine::{ChainId, EngineError, RulePlace, RuleStatus};
use weir_packet_plane::Rules;
use weir_port::Place;
use weir_spec::{Chain, Name, SteerTo, SteeringRule};
use weir_steering::{Rule, Table, Target, covered};

use super::Packets;
use super::chains::lane_key;
use super::crossing::{Crossing, Device, Shape, Steered};
use super::ports::Kept;

/// All tenants' rules, and where the chains are that they may name.
#[derive(Default)]
pub(super) struct Steering {
    tenants: Mutex<BTreeMap<Name, Tenant>>,
    /// Chains that have lanes, or are to have some.
    chains: Mutex<BTreeMap<ChainId, Ends>>,
}

/// The ports of a chain: `from` and `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends(Option<Name>, Option<Name>);

impl Ends {
    pub(super) fn of(chain: &Chain) -> Self {
        Self(chain.from.clone(), chain.to.clone())
    }

    fn are_of(&self, shape: &Shape) -> bool {
        (&self.0, &self.1) == (&shape.from, &shape.to)
    }
}

/// A tenant's rules as a crossing is to have them.
pub(super) struct Prepared {
    /// For its stations.
    pub(super) rules: Arc<Rules>,
    /// For the devices before its ports.
    before: Vec<Rule>,
    compiled: CompiledSteering,
    /// Of the tenant's rules.
    hits: Hits,
}

/// For each of a tenant's rules, how many flows it has decided about.
pub(super) type Hits = Arc<[Arc<AtomicU64>]>;

/// A tenant's.
#[derive(Clone, Default)]
struct Tenant {
    rules: Arc<[SteeringRule]>,
    hits: Hits,
}

impl Steering {
    fn tenants(&self) -> MutexGuard<'_, BTreeMap<Name, Tenant>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainId, Ends>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain is between these ports, or is to be: what rules send to it there is nobody else's,
    /// whether it has lanes or not. None: it is nowhere. The answer is what was known of it before.
    pub(super) fn place(&self, chain: &ChainId, ends: Option<Ends>) -> Option<Ends> {
        match ends {
            Some(ends) => self.chains().insert(chain.clone(), ends),
            None => self.chains().remove(chain),
        }
    }

    /// The ports of a tenant's chain that is at this port, or is to be.
    pub(super) fn ends_at(
        &self,
        tenant: &Name,
        port: &Name,
    ) -> Option<(Option<Name>, Option<Name>)> {
        let chains = self.chains();
        let mut here = chains.iter().filter(|(id, _)| id.tenant == *tenant).map(|(_, ends)| ends);
        let at = here.find(|Ends(from, to)| [from, to].contains(&&Some(port.clone())))?;
        Some((at.0.clone(), at.1.clone()))
    }

    /// What concerns packets between these ports out of a tenant's rules.
    fn compile(&self, tenant: &Name, shape: &Shape, rules: &[SteeringRule]) -> CompiledSteering {
        let number = |name: &Name| {
            let ports = [&shape.from, &shape.to];
            let number = ports.iter().position(|port| port.as_ref() == Some(name))?;
            u16::try_from(number).ok()
        };
        let chains = self.chains();
        let here = chains.iter().filter(|(id, ends)| id.tenant == *tenant && ends.are_of(shape));
        let here: BTreeSet<&Name> = here.map(|(id, _)| &id.name).collect();
        let mut compiled = compile_steering(rules, number, |chain| here.contains(chain));
        if !shape.symmetric {
            // By the other port no packets come to them.
            let to_chains = |rule: &&mut Rule| matches!(rule.target, Target::Chain(_));
            for rule in compiled.rules.iter_mut().filter(to_chains) {
                rule.port = rule.port.or(Some(0));
            }
        }
        compiled
    }
}

impl Prepared {
    /// Gives devices the rules. What a device cannot decide comes in, and is decided there.
    pub(super) fn give<'a>(&self, devices: impl Iterator<Item = &'a Device>) {
        for (port, device) in devices {
            if let Err(error) = device.replace(&self.before, *port) {
                tracing::warn!("steering rules are in force behind the port only: {error}");
            }
        }
    }

    /// Whether packets of the port with this number are dropped.
    pub(super) fn drops_at(&self, number: u16) -> bool {
        let drops = |rule: &Rule| {
            rule.target == Target::Drop && rule.port.is_none_or(|port| port == number)
        };
        self.before.iter().any(drops)
    }

    /// Whether no rule concerns the crossing.
    pub(super) fn is_empty(&self) -> bool {
        self.compiled.rules.is_empty()
    }
}

impl Packets {
    /// These rules are the tenant's from now on. The answer is the longest time for which a worker
    /// stood still.
    pub(crate) fn steer(
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
        let crossings: Vec<_> = self.lanes.crossings().values().cloned().collect();
        let mut pause = Duration::ZERO;
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            pause = pause.max(self.steer_crossing(crossing)?);
        }
        let kept = self.ports().kept(tenant);
        for Kept { shape, number, device } in kept {
            // What comes for a chain goes to the kernel in any case.
            self.prepare_steering(tenant, &shape, true).give([(number, device)].iter());
        }
        self.guard();
        Ok(pause)
    }

    /// The rules for stations between these ports; `has_rest`: one of their chains takes what no
    /// rule claims.
    pub(super) fn prepare_steering(
        &self,
        tenant: &Name,
        shape: &Shape,
        has_rest: bool,
    ) -> Prepared {
        let Tenant { rules, hits } =
            self.steering.tenants().get(tenant).cloned().unwrap_or_default();
        let compiled = self.steering.compile(tenant, shape, &rules);
        let chains = compiled.chains.iter().map(|chain| lane_key(tenant, chain));
        // What no rule claims and no chain takes the kernel gets, from ports that have it from the
        // kernel.
        let rest = (!has_rest).then_some(Rule::all(Target::Kernel));
        let own = compiled.written.iter().map(|place| Arc::clone(&hits[*place as usize]));
        Prepared {
            rules: Arc::new(Rules {
                table: Table::new(&compiled.rules),
                chains: chains.collect(),
                hits: own.collect(),
            }),
            before: compiled.rules.iter().copied().chain(rest).collect(),
            compiled,
            hits,
        }
    }

    /// Brings a crossing's stations, and the devices before their ports, the rules that concern
    /// them.
    pub(super) fn steer_crossing(&self, crossing: &Crossing) -> Result<Duration, EngineError> {
        let prepared =
            self.prepare_steering(&crossing.tenant, &crossing.shape, crossing.has_rest());
        let mut pause = Duration::ZERO;
        for n in 0..crossing.stations.len() {
            let rules = Arc::clone(&prepared.rules);
            let (stood_still, before) = self.lanes.with_station(crossing, n, move |station| {
                let started = Instant::now();
                let before = station.steer(rules);
                (started.elapsed(), before)
            })?;
            // A large table takes its time to free, which is not for the data path.
            drop(before);
            pause = pause.max(stood_still);
        }
        // Behind the stations, because a device takes its time. Whichever of the two is the first
        // to have other rules: each packet is decided by those before or by these.
        let mut steered = crossing.steered();
        if Arc::ptr_eq(&steered.hits, &prepared.hits) {
            // The tenant's rules are the same: devices count anew, and the rules go on to count.
            crossing.keep_counts(&steered);
        }
        prepared.give(crossing.devices());
        *steered = self.steered(crossing, prepared);
        Ok(pause)
    }

    /// The same for the tenant's stations between these ports.
    pub(super) fn steer_between(&self, tenant: &Name, ends: &Ends) -> Result<(), EngineError> {
        let crossings: Vec<_> = self.lanes.crossings().values().cloned().collect();
        let between =
            |crossing: &&Arc<Crossing>| crossing.tenant == *tenant && ends.are_of(&crossing.shape);
        crossings
            .iter()
            .filter(between)
            .try_for_each(|crossing| self.steer_crossing(crossing).map(drop))
    }

    /// The crossing's stations and devices have these rules.
    pub(super) fn steered(&self, crossing: &Crossing, prepared: Prepared) -> Steered {
        let Prepared { compiled, hits, .. } = prepared;
        let may = |rule: &Rule| [0, 1].map(|port| rule.port.is_none_or(|of| of == port));
        let ports = compiled.rules.iter().map(may).collect();
        let brought = self.bring(crossing, &compiled.rules);
        Steered { written: compiled.written, ports, brought, hits }
    }

    /// Has the NIC bring the packets to a crossing that rules send there by their hardware address
    /// alone. A function has one.
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
    pub(crate) fn steering(&self, tenant: &Name) -> Vec<RuleStatus> {
        let Some(Tenant { rules, hits }) = self.steering.tenants().get(tenant).cloned() else {
            return Vec::new();
        };
        let flows = hits.iter().map(|hits| hits.load(Ordering::Relaxed));
        let mut statuses: Vec<_> =
            flows.map(|flows| RuleStatus { flows, places: Vec::new() }).collect();
        let crossings: Vec<_> = self.lanes.crossings().values().cloned().collect();
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            let to_kernel = crossing.ports().map(|(number, port)| {
                (number, port.clone(), self.ports().reaches_kernel(port, number == 0))
            });
            for (number, port, reaches_kernel) in to_kernel.collect::<Vec<_>>() {
                crossing.tell_places(number, &port, reaches_kernel, &rules, &mut statuses);
            }
        }
        let kept = self.ports().kept(tenant);
        for Kept { shape, number, device } in kept {
            let port = if number == 0 { &shape.from } else { &shape.to };
            let Some(port) = port else { continue };
            let written = self.steering.compile(tenant, &shape, &rules).written;
            for (place, written) in device.places().into_iter().zip(written) {
                let written = written as usize;
                let drops = rules.get(written).is_some_and(|rule| rule.to == Some(SteerTo::Drop));
                if let (Place::Before { flows, packets }, true) = (place, drops)
                    && let Some(status) = statuses.get_mut(written)
                {
                    status.flows += flows.unwrap_or(0);
                    let told = |place: &&mut RulePlace| place.port == *port;
                    if let Some(other) = status.places.iter_mut().find(told) {
                        // Of another queue.
                        other.packets = sum(other.packets, packets);
                        continue;
                    }
                    status.places.push(RulePlace {
                        port: port.clone(),
                        at: device.kind().to_owned(),
                        reason: None,
                        packets,
                        dropped: None,
                    });
                }
            }
        }
        statuses
    }

    /// Those of a tenant's rules that decide nothing, and the earlier ones that mean all of their
    /// packets. A rule that concerns several crossings is one if it is so in each.
    pub(crate) fn covered_rules(&self, tenant: &Name) -> BTreeMap<usize, usize> {
        let Some(Tenant { rules, .. }) = self.steering.tenants().get(tenant).cloned() else {
            return BTreeMap::new();
        };
        let crossings: Vec<_> = self.lanes.crossings().values().cloned().collect();
        let mut deciding = BTreeSet::new();
        let mut all = BTreeMap::new();
        for crossing in crossings.iter().filter(|crossing| crossing.tenant == *tenant) {
            let CompiledSteering { rules, written, .. } =
                self.steering.compile(tenant, &crossing.shape, &rules);
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
    /// What decides in front of its stations' ports.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.stations.iter().flat_map(|station| &station.before)
    }

    /// Its ports with their numbers.
    fn ports(&self) -> impl Iterator<Item = (u16, &Name)> {
        let to = self.shape.to.as_ref().filter(|to| Some(*to) != self.shape.from.as_ref());
        let from = self.shape.from.as_ref().map(|from| (0, from));
        from.into_iter().chain(to.map(|to| (1, to)))
    }

    /// What devices have counted of rules goes to the rules' own counts: the devices are about to
    /// begin anew.
    pub(super) fn keep_counts(&self, steered: &Steered) {
        for (_, device) in self.devices() {
            for (place, written) in device.places().iter().zip(&steered.written) {
                if let Place::Before { flows: Some(flows), .. } = place
                    && let Some(hits) = steered.hits.get(*written as usize)
                {
                    hits.fetch_add(*flows, Ordering::Relaxed);
                }
            }
        }
    }

    /// Adds to each of the tenant's rules where it is compared for packets that come in by this
    /// port.
    fn tell_places(
        &self,
        number: u16,
        port: &Name,
        reaches_kernel: bool,
        rules: &[SteeringRule],
        statuses: &mut [RuleStatus],
    ) {
        let steered = self.steered();
        // Nobody reads the second port of chains that have one direction: there is what is before
        // it.
        let is_read = number == 0 || self.shape.symmetric;
        let devices = self.devices().filter(|(of, _)| *of == number);
        let devices: Vec<_> = devices.map(|(_, device)| (device.kind(), device.places())).collect();
        for (n, (written, ports)) in steered.written.iter().zip(&steered.ports).enumerate() {
            let rule = rules.get(*written as usize);
            let status = statuses.get_mut(*written as usize);
            let (Some(rule), Some(status)) = (rule, status) else { continue };
            if !ports[usize::from(number)] {
                continue;
            }
            let mut place = RulePlace {
                port: port.clone(),
                at: SOFTWARE.to_owned(),
                reason: None,
                packets: None,
                dropped: None,
            };
            for (kind, places) in &devices {
                match places.get(n) {
                    Some(Place::Before { flows, packets }) => {
                        place.at = (*kind).to_owned();
                        status.flows += flows.unwrap_or(0);
                        place.packets = sum(place.packets, *packets);
                    }
                    Some(Place::Behind(Some(why))) => place.reason = Some(why.to_string()),
                    Some(Place::BehindRule(earlier)) => {
                        let earlier = steered.written.get(*earlier as usize).unwrap_or(earlier);
                        let number = earlier + 1;
                        let why = format!("rule {number} sends some of its packets elsewhere");
                        place.reason = Some(why);
                    }
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
                place.at = SOFTWARE.to_owned();
            }
            let in_software = place.at == SOFTWARE;
            if in_software && !is_read {
                continue;
            }
            place.dropped = match (&rule.chain, rule.to) {
                (Some(chain), _) if !self.has(chain) => {
                    Some(format!("chain {chain} is not deployed"))
                }
                (None, Some(SteerTo::Kernel)) if in_software && !reaches_kernel => Some(format!(
                    "port {port} has no way to the kernel: set `kernel` for it in the host's configuration"
                )),
                _ => None,
            };
            status.places.push(place);
        }
    }
}

/// Where rules are compared that nothing before the port has.
const SOFTWARE: &str = "software";

/// Of what is counted.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        _ => a.or(b),
    }
}
