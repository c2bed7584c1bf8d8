//! Steering: replacing a tenant's rules, listing what holds, and bringing it back at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{
    Chain, Check as _, Invalid, Name, Plane, Steering, SteeringRule, counted, did_you_mean,
};

use crate::condition::{Condition, tag};
use crate::control::Control;
use crate::engine::RulePlace;
use crate::error::{ControlError, some};
use crate::events::EventKind;
use crate::store::{ChainId, State, SteeringRecord};
use crate::time;

/// Which packets go where: a rule, or what follows from a chain's `from` and `to` for packets that
/// no rule means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SteeringEntry {
    /// Packets that come in by this port; none: by any of the tenant's ...
    pub port: Option<Name>,
    /// ... go to this plane ...
    pub plane: Plane,
    /// ... and this chain; none: where the rule says ...
    pub chain: Option<Name>,
    /// ... of this tenant ...
    pub tenant: Name,
    /// ... and pass its functions from the last to the first; rules say nothing of that.
    pub reverse: bool,
    /// The rule, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<SteeringRule>,
    /// Its place among the tenant's rules, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// Flows that software and XDP programs decided by it, if they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u64>,
    /// Where it is compared, for each port that a chain has and whose packets may meet it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<RulePlace>,
    /// The number of an earlier rule that means all of its packets, so that it decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_by: Option<usize>,
}

/// A rule that decides nothing, because an earlier one means all of its packets. Numbers are from
/// 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoveredRule {
    /// The rule.
    pub number: usize,
    /// The earlier one.
    pub by: usize,
    /// Whether that one sends the packets elsewhere.
    pub contradicts: bool,
}

/// A rule whose packets are dropped where they come in by a port, although it sends them to a chain
/// or to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppingRule {
    /// The rule, from 1.
    pub number: usize,
    /// The port.
    pub port: Name,
    /// Why.
    pub why: String,
}

/// What became of rules that were applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Steered {
    /// Whose they are.
    pub tenant: Name,
    /// How many are in force now.
    pub rules: usize,
    /// Longest time for which a worker stood still, in microseconds.
    pub pause_us: f64,
    /// Rules that decide nothing, as far as that is seen from two rules at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covered: Vec<CoveredRule>,
    /// Rules whose packets are dropped, although they send them to a chain or to the kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropping: Vec<DroppingRule>,
    /// Ports of the tenant at which nothing is compared, because no chain has them, although rules
    /// mean packets of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle_ports: Vec<Name>,
    /// Of what is kept of them now, if anything is; see [`Condition`].
    #[serde(skip)]
    pub tag: Option<String>,
}

/// A tenant's rules in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SteeringStatus {
    /// Rules that are in force.
    pub rules: usize,
    /// Times that they were replaced since the host started.
    pub applied: u64,
}

impl Control {
    /// What holds for all tenants, or for one: its rules in their order, then what follows from its
    /// chains.
    #[must_use]
    pub fn steering(&self, tenant: Option<&Name>) -> Vec<SteeringEntry> {
        let state = self.store.state();
        let mine = |of: &Name| tenant.is_none_or(|tenant| tenant == of);
        let mut entries = Vec::new();
        for (tenant, record) in state.steering.iter().filter(|(tenant, _)| mine(tenant)) {
            let mut statuses = self.engine.steering(tenant).into_iter();
            let covered = self.engine.covered_rules(tenant);
            for (index, rule) in record.steering.rules.iter().enumerate() {
                let status = statuses.next();
                entries.push(SteeringEntry {
                    port: rule.port.clone(),
                    plane: Plane::Packet,
                    chain: rule.chain.clone(),
                    tenant: tenant.clone(),
                    reverse: false,
                    rule: Some(rule.clone()),
                    number: Some(index + 1),
                    flows: status.as_ref().map(|status| status.flows),
                    places: status.map(|status| status.places).unwrap_or_default(),
                    covered_by: covered.get(&index).map(|by| by + 1),
                });
            }
        }
        for (id, record) in state.chains.iter().filter(|(id, _)| mine(&id.tenant)) {
            let chain = &record.chain;
            if chain.steered {
                continue;
            }
            let reverse = chain.to.as_ref().filter(|_| chain.symmetric);
            let both = chain.from.iter().map(|port| (port, false));
            for (port, reverse) in both.chain(reverse.map(|port| (port, true))) {
                entries.push(SteeringEntry {
                    port: Some(port.clone()),
                    plane: chain.plane(),
                    chain: Some(chain.name.clone()),
                    tenant: id.tenant.clone(),
                    reverse,
                    rule: None,
                    number: None,
                    flows: None,
                    places: Vec::new(),
                    covered_by: None,
                });
            }
        }
        entries
    }

    /// The tag of a tenant's rules, if it has some; see [`Condition`].
    #[must_use]
    pub(crate) fn steering_tag(&self, tenant: &Name) -> Option<String> {
        self.store.state().steering.get(tenant).map(|record| tag(&**record))
    }

    /// Replaces all of a tenant's rules, if those before are what the condition says.
    ///
    /// # Errors
    /// When a rule is wrong, or names a chain or port that the tenant does not have, with the
    /// rule's place; or when the data plane refuses. Then those before are still in force.
    pub fn steer(
        &self,
        tenant: &Name,
        steering: Steering,
        condition: &Condition,
    ) -> Result<Steered, ControlError> {
        steering.check()?;
        let turn = self.turn(tenant);
        let _turn = turn.take();
        self.tenant_exists(tenant)?;
        let state = self.store.state();
        let there = state.steering.get(tenant).map(|record| &**record);
        condition.check(&format!("what tenant {tenant} has of steering rules"), there)?;
        self.check_names(&state, tenant, &steering.rules)?;
        let rules = steering.rules.len();
        if rules == 0 {
            self.store.can_shrink()?;
        } else {
            self.store.has_room()?;
        }
        let pause = self.engine.steer(tenant, &steering.rules)?;
        let record = Arc::new(SteeringRecord { steering, applied: time::milliseconds() });
        let stored = self.store.change(|state| {
            if rules == 0 {
                state.steering.remove(tenant);
            } else {
                state.steering.insert(tenant.clone(), Arc::clone(&record));
            }
            Ok::<_, ControlError>(())
        });
        if let Err(error) = stored {
            self.put_back_steering(&state, tenant);
            return Err(error);
        }
        *self
            .steered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(tenant.clone())
            .or_default() += 1;
        let message = in_force(rules, tenant);
        self.events.emit(EventKind::SteeringApplied, Some(tenant), tenant.as_str(), message);
        let applied = &record.steering.rules;
        Ok(Steered {
            tenant: tenant.clone(),
            rules,
            pause_us: pause.as_secs_f64() * 1e6,
            covered: self.covered(tenant, applied),
            dropping: self.dropping(tenant),
            idle_ports: self.idle_ports(tenant, applied),
            tag: self.steering_tag(tenant),
        })
    }

    /// Those of a tenant's rules that decide nothing.
    fn covered(&self, tenant: &Name, rules: &[SteeringRule]) -> Vec<CoveredRule> {
        let to = |place: usize| rules.get(place).map(|rule| (&rule.chain, rule.to));
        let covered = self.engine.covered_rules(tenant).into_iter();
        let covered = covered.map(|(rule, by)| CoveredRule {
            number: rule + 1,
            by: by + 1,
            contradicts: to(rule) != to(by),
        });
        covered.collect()
    }

    /// Those of a tenant's rules whose packets are dropped although they say otherwise.
    fn dropping(&self, tenant: &Name) -> Vec<DroppingRule> {
        let statuses = self.engine.steering(tenant).into_iter().zip(1..);
        let dropping = statuses.flat_map(|(status, number)| {
            let places = status.places.into_iter();
            places.filter_map(move |place| {
                Some(DroppingRule { number, port: place.port, why: place.dropped? })
            })
        });
        dropping.collect()
    }

    /// The tenant's ports that no chain has, as far as rules mean packets of theirs and none of
    /// those holds there.
    fn idle_ports(&self, tenant: &Name, rules: &[SteeringRule]) -> Vec<Name> {
        let means = |port: &Name| {
            rules.iter().any(|rule| match &rule.port {
                Some(of) => of == port,
                None => rule.chain.is_none(),
            })
        };
        let own = self.ports.iter().filter(|port| port.tenant == *tenant && port.peer.is_none());
        let own: BTreeSet<&Name> = own.map(|port| &port.name).collect();
        let statuses = self.engine.steering(tenant);
        let places = statuses.iter().flat_map(|status| &status.places);
        let places = places.filter(|place| place.dropped.is_none());
        let held: BTreeSet<&Name> = places.map(|place| &place.port).collect();
        let ports = self.engine.status().ports.into_iter();
        let free = ports.filter(|port| own.contains(&port.name) && port.chain.is_none());
        free.map(|port| port.name).filter(|port| means(port) && !held.contains(port)).collect()
    }

    /// The rules of those who have some, or had.
    pub(crate) fn steering_status(&self, tenant: Option<&Name>) -> BTreeMap<Name, SteeringStatus> {
        let mut status = BTreeMap::<Name, SteeringStatus>::new();
        for (tenant, record) in &self.store.state().steering {
            status.entry(tenant.clone()).or_default().rules = record.steering.rules.len();
        }
        for (tenant, applied) in &*self.steered.lock().unwrap_or_else(PoisonError::into_inner) {
            status.entry(tenant.clone()).or_default().applied = *applied;
        }
        status.retain(|of, _| tenant.is_none_or(|tenant| tenant == of));
        status
    }

    /// Brings back the rules that the store holds.
    pub(crate) fn restore_steering(&self, state: &State) {
        for (tenant, record) in &state.steering {
            if let Err(error) = self.engine.steer(tenant, &record.steering.rules) {
                let message = format!("the steering rules of tenant {tenant} do not hold: {error}");
                self.events.emit(EventKind::Note, Some(tenant), tenant.as_str(), message);
            }
        }
    }

    /// Puts the data plane back to what the store says, because it could not be written.
    fn put_back_steering(&self, state: &State, tenant: &Name) {
        let before = state.steering.get(tenant);
        let rules = before.map_or(&[][..], |record| &record.steering.rules);
        if let Err(error) = self.engine.steer(tenant, rules) {
            let message = format!("the steering rules are not as the store says: {error}");
            self.events.emit(EventKind::Note, Some(tenant), tenant.as_str(), message);
        }
    }

    /// Whether the tenant has what its rules name.
    fn check_names(
        &self,
        state: &State,
        tenant: &Name,
        rules: &[SteeringRule],
    ) -> Result<(), ControlError> {
        let own = self.ports.iter().filter(|port| port.tenant == *tenant).map(|port| &port.name);
        let ports: BTreeSet<&Name> = own.collect();
        let own = state.chains.iter().filter(|(id, _)| id.tenant == *tenant);
        let chains: BTreeMap<&Name, &Chain> = own.map(|(id, r)| (&id.name, &r.chain)).collect();
        for (index, rule) in rules.iter().enumerate() {
            let at = |invalid: Invalid| ControlError::Invalid(invalid.within_array("rule", index));
            if let Some(port) = rule.port.as_ref().filter(|port| !ports.contains(port)) {
                let message = format!("there is no port {port}: tenant {tenant} {}", has(&ports));
                let help = advice(port, &ports, "ports are in the host's configuration file");
                return Err(at(Invalid::at("port", message).help(help)));
            }
            let Some(name) = &rule.chain else { continue };
            let Some(chain) = chains.get(name) else {
                let names = chains.keys().copied().collect();
                let message = format!("there is no chain {name}: tenant {tenant} {}", has(&names));
                let help = advice(name, &names, "apply the chain first");
                return Err(at(Invalid::at("chain", message).help(help)));
            };
            possible(rule, chain).map_err(at)?;
        }
        Ok(())
    }
}

/// How many rules are in force, for people.
#[must_use]
pub fn in_force(rules: usize, tenant: &Name) -> String {
    let are = if rules == 1 { "is" } else { "are" };
    format!("{} of tenant {tenant} {are} in force", counted(rules, "steering rule"))
}

/// What a tenant has of a kind.
pub(crate) fn has(names: &BTreeSet<&Name>) -> String {
    if names.is_empty() { "has none".to_owned() } else { format!("has {}", some(names)) }
}

/// The same with a guess at what was meant, and what to do if it was not that.
pub(crate) fn advice(name: &Name, names: &BTreeSet<&Name>, todo: &str) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    match did_you_mean(name.as_str(), &names) {
        Some(meant) => format!("{meant} {todo}"),
        None => todo.to_owned(),
    }
}

/// Whether packets that a rule means can come to its chain.
fn possible(rule: &SteeringRule, chain: &Chain) -> Result<(), Invalid> {
    let Some(from) = &chain.from else {
        let message = format!("chain {} has no `from`: no packets come to it", chain.name);
        return Err(Invalid::at("chain", message).help("give the chain a port first"));
    };
    let Some(port) = &rule.port else { return Ok(()) };
    let back = chain.to.as_ref().filter(|_| chain.symmetric);
    if port != from && Some(port) != back {
        let ports: Vec<_> = [Some(from), back].into_iter().flatten().map(Name::as_str).collect();
        let message = format!(
            "packets of port {port} do not come to chain {}: its packets come from {}",
            chain.name,
            ports.join(" and ")
        );
        return Err(Invalid::at("port", message).help("name one of these, or none"));
    }
    Ok(())
}

/// Whether the rules that name a chain can go on to do so when it becomes this one, or is removed.
///
/// # Errors
/// Which rule is in the way.
pub(crate) fn check_still_possible(
    state: &State,
    id: &ChainId,
    chain: Option<&Chain>,
) -> Result<(), ControlError> {
    let Some(record) = state.steering.get(&id.tenant) else { return Ok(()) };
    let rules = record.steering.rules.iter().enumerate();
    let mut users = rules.filter(|(_, rule)| rule.chain.as_ref() == Some(&id.name));
    let refused = match chain {
        None => users.next().map(|(index, rule)| (index, rule, "sends packets to it".to_owned())),
        Some(chain) => users.find_map(|(index, rule)| {
            let invalid = possible(rule, chain).err()?;
            Some((index, rule, format!("does not fit with that: {}", invalid.message)))
        }),
    };
    let Some((index, rule, why)) = refused else { return Ok(()) };
    Err(ControlError::Conflict(format!(
        "chain {} is named by steering rules: {} {why}; apply rules without it first (`weir steer apply`)",
        id.name,
        rule.label(index)
    )))
}
